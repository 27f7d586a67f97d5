//! The image of a peer pod's machine: the tree that `make install-image` makes, and its units among those of cloud-api-adaptor's
//! image, with stand-ins for what is not ours.

mod image;

use std::fs;
use std::path::{Path, PathBuf};

use cc_protos::api;
use cc_tests::container::{Setup, Tree};
use cc_tests::process::command;
use serde_json::{Value, json};

use crate::SECRET;
use crate::rpc::{ttrpc, ttrpc_client};
use image::{Given, Image, Pod};

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// Where the fragment is told of.
const DOCUMENT: &str = include_str!("../../docs/deploy-peer-pod.md");
/// Every path of the tree with type, mode, and where a link leads.
const LIST: &str = include_str!("peer_pod/tree.list");

/// The tree below a folder, as [`LIST`] has it.
pub(crate) fn listed(root: &Path) -> String {
    let out =
        command("find").arg(root).args(["-mindepth", "1", "-printf", "%y %#m %P %l\n"]).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let mut lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.sort_by_key(|line| line.split(' ').nth(2));
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[test]
fn the_tree_of_an_image_is_as_listed() {
    let image = Image::new();
    image.install();
    assert_eq!(listed(image.root()), LIST);
}

/// What stood there under the same names is gone, and nothing else.
#[test]
fn the_present_guest_components_make_way() {
    let image = Image::new();
    let units = image.root().join("etc/systemd/system");
    let wants = units.join("multi-user.target.wants");
    fs::create_dir_all(&wants).unwrap();
    let present = ["attestation-agent", "confidential-data-hub", "api-server-rest", "kata-agent"];
    for name in present {
        for kind in ["service", "path"] {
            fs::write(units.join(format!("{name}.{kind}")), "").unwrap();
        }
        std::os::unix::fs::symlink(format!("../{name}.path"), wants.join(format!("{name}.path"))).unwrap();
    }
    image.install();
    for name in present {
        let kept = name == "kata-agent";
        assert_eq!(units.join(format!("{name}.service")).exists(), kept, "{name}");
        assert_eq!(units.join(format!("{name}.path")).exists(), kept, "{name}");
        let link = fs::read_link(wants.join(format!("{name}.path"))).unwrap();
        let expected = if kept {
            "../kata-agent.path".to_owned()
        } else {
            format!("/usr/lib/systemd/system/{name}.path")
        };
        assert_eq!(link, PathBuf::from(expected));
    }
    // An empty name would be this machine.
    let out = command("make")
        .current_dir(SOURCES)
        .args(["install-image", "ROOT=", "PREBUILT=/nonexistent"])
        .output()
        .unwrap();
    assert!(!out.status.success() && String::from_utf8_lossy(&out.stderr).contains("ROOT="), "{out:?}");
}

/// The lines of the document that belong into a file of mkosi's: the block that begins with this section.
fn documented(section: &str, sources: &Path) -> String {
    let (_, below) = DOCUMENT.split_once(&format!("```ini\n{section}\n")).unwrap();
    let (block, _) = below.split_once("```").unwrap();
    format!("{section}\n{}", block.replace("/path/to/these/sources", sources.to_str().unwrap()))
}

/// mkosi reads the fragment, in an image of its own and in a subimage as cloud-api-adaptor has it, and its script makes the same tree.
#[test]
fn mkosi_takes_the_fragment() {
    let sources = Path::new(SOURCES).canonicalize().unwrap();
    let fragment = sources.join("systemd/peer-pod/mkosi");
    let module = Path::new(SOURCES).join("target/mkosi");
    if !module.is_dir() {
        return cc_tests::stack::skip(
            "reading mkosi's configuration needs mkosi, which .ci/setup test fetches",
        );
    }
    let (build, include) = (documented("[Build]", &sources), documented("[Include]", &sources));
    for (distribution, library, name) in [
        ("ubuntu", "libcryptsetup12", None),
        ("fedora", "cryptsetup-libs", None),
        ("fedora", "cryptsetup-libs", Some("system")),
    ] {
        let image = tempfile::tempdir().unwrap();
        let top = format!("[Distribution]\nDistribution={distribution}\n{build}");
        let files = match name {
            None => vec![("mkosi.conf", format!("{top}{include}"))],
            Some(_) => vec![
                ("mkosi.conf", top),
                ("mkosi.images/initrd/mkosi.conf", String::new()),
                ("mkosi.images/system/mkosi.conf", include.clone()),
            ],
        };
        for (path, content) in files {
            let path = image.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let mut mkosi = command("python3");
        mkosi.args(["-m", "mkosi", "--json", "--directory"]).arg(image.path()).arg("summary");
        let out = mkosi.env("PYTHONPATH", &module).env("PAGER", "cat").output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let said: Value = serde_json::from_slice(&out.stdout).unwrap();
        let mut images = said["Images"].as_array().unwrap().iter();
        let read = images.find(|read| read["Image"].as_str() == name).unwrap();
        assert_eq!(read["PostInstallationScripts"], json!([fragment.join("mkosi.postinst")]), "{read}");
        assert_eq!(read["BuildSources"], json!([{"Source": sources, "Target": "guest-services"}]), "{read}");
        assert!(read["Packages"].as_array().unwrap().contains(&json!(library)), "{read}");
    }
    // As mkosi runs it: the sources where BuildSources= puts them, the tree in the environment.
    let image = Image::new();
    let sources = image.sources_with_dist();
    let mut script = command(fragment.join("mkosi.postinst"));
    let out = script.env("SRCDIR", sources.path()).env("BUILDROOT", image.root()).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(listed(image.root()), LIST);
}

/// Drop-ins and all, as tight as the units that they change.
#[test]
fn the_units_of_the_image_are_in_order_and_locked_down() {
    for tree in [Tree::Bookworm, Tree::Trixie] {
        if !tree.boots_here() {
            return;
        }
        let image = Image::among_others(tree);
        let files = LIST.lines().filter(|line| line.starts_with("f "));
        let below = files.filter_map(|line| Some(line.split_once("usr/lib/systemd/system/")?.1));
        let units: Vec<&str> = below.filter(|name| !name.contains('/')).collect();
        assert_eq!(units.len(), 14, "{units:?}");
        let mut script =
            format!("cd /usr/lib/systemd/system\nsystemd-analyze verify --man=no {}\n", units.join(" "));
        for (unit, limit) in crate::units::EXPOSURE {
            script += &format!(
                "systemd-analyze security --offline=yes --threshold={limit} {unit} >/tmp/{unit} || tail -1 /tmp/{unit}\n"
            );
        }
        let out = Setup::new(tree).unwrap().tree(image.root()).unwrap().run(&["sh", "-ec", &script]).unwrap();
        let said = [out.stdout, out.stderr].concat();
        assert!(out.status.success() && said.is_empty(), "{tree:?}: {}", String::from_utf8_lossy(&said));
    }
}

/// An image whose build presets all of its units has the same ones switched on as the tree that the Makefile makes: those that the
/// shipped preset names, and of ours no other.
#[test]
fn presets_for_all_units_of_the_image_switch_on_what_it_wants() {
    for tree in [Tree::Bookworm, Tree::Trixie] {
        if !tree.boots_here() {
            return;
        }
        let image = Image::among_others(tree);
        let enabled = "cd /etc/systemd/system; find . -type l -name '*.*' -printf '%P %l\\n' | grep -E \"$OURS\" | sort";
        let ours = "OURS='attestation-agent|confidential-data-hub|api-server-rest|cdh-storage'";
        let script = format!(
            "{ours}\n{enabled} >/tmp/before\nsystemctl preset-all --preset-mode=full 2>/dev/null\n{enabled} >/tmp/after\n\
             diff /tmp/before /tmp/after && cat /tmp/after"
        );
        let out = Setup::new(tree).unwrap().tree(image.root()).unwrap().run(&["sh", "-ec", &script]).unwrap();
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "{tree:?}: {said}{}", String::from_utf8_lossy(&out.stderr));
        let links: Vec<&str> = said.lines().filter_map(|line| Some(line.split_once(' ')?.0)).collect();
        let wanted = [
            "multi-user.target.wants/api-server-rest.path",
            "multi-user.target.wants/attestation-agent.path",
            "multi-user.target.wants/confidential-data-hub.path",
            "sockets.target.wants/cdh-storage-mount.socket",
            "sockets.target.wants/cdh-storage-unpack.socket",
        ];
        assert_eq!(links, wanted, "{tree:?}");
    }
}

#[test]
fn the_units_of_the_image_start_each_other_in_order() {
    for tree in [Tree::Bookworm, Tree::Trixie] {
        let Some(pod) = Pod::boot(tree) else { return };
        let secret = std::str::from_utf8(SECRET).unwrap();
        pod.serves("after the start");
        // kata-agent was started by the hub's socket, and was answered.
        pod.wait_active("kata-agent.service");
        assert_eq!(pod.machine.must(&["cat", "/run/kata-agent.got"]).unwrap(), secret);
        let agent = pod.journal("attestation-agent");
        assert!(!agent.contains("not valid"), "it read the file that came first: {agent}");
        assert!(agent.contains("init-data of the peer pod is bound"), "{agent}");
        let (_, doctor) = pod.run(&["guestctl", "doctor", "--rest", "off"]);
        for file in ["/run/peerpod/aa.toml (measured)", "/run/peerpod/cdh.toml (measured)"] {
            assert!(doctor.contains(file), "{file} is missing in {doctor}");
        }
        // Evidence and tokens, as the image's own REST server gives them.
        assert!(
            pod.ask("/aa/token?token_type=kbs").starts_with("HTTP/1.1 200"),
            "{}",
            pod.ask("/aa/token?token_type=kbs")
        );

        // Whoever asks while a daemon is being started again is answered: the sockets stay.
        for daemon in ["attestation-agent", "confidential-data-hub"] {
            for round in 1..=3 {
                pod.kill(daemon);
                pod.serves(&format!("{daemon} killed, {round}"));
                // Of the agent, which the hub does not need while it has a token.
                let evidence = pod.ask("/aa/evidence?runtime_data=x");
                assert!(evidence.starts_with("HTTP/1.1 200"), "{daemon} killed, {round}: {evidence}");
                pod.wait_restarted(daemon, round);
            }
        }
        assert_eq!(pod.machine.must(&["systemctl", "list-units", "--failed", "--no-legend"]).unwrap(), "");
    }
}

/// As with the daemons that an image had before: no secret, no image and no container where the machine cannot attest.
#[test]
fn nothing_of_the_pod_starts_while_the_agent_cannot() {
    let Some(pod) = Pod::boot(Tree::Trixie) else { return };
    pod.serves("after the start");
    let chain = "attestation-agent.path confidential-data-hub.path api-server-rest.path kata-agent.path";
    let from_the_start = format!(
        "systemctl stop {chain} attestation-agent.socket attestation-agent api-server-rest confidential-data-hub.socket \
         confidential-data-hub kata-agent\n\
         rm -f /run/attestation-agent/serves /run/confidential-containers/cdh.sock\n\
         mkdir -p /run/systemd/system/attestation-agent.service.d\n\
         printf '[Service]\\nExecStart=\\nExecStart=/bin/false\\n' >/run/systemd/system/attestation-agent.service.d/99-fails.conf\n\
         systemctl daemon-reload; systemctl start {chain}"
    );
    pod.machine.must(&["sh", "-ec", &from_the_start]).unwrap();
    pod.machine.wait_for("an agent that fails", || Ok(pod.restarts("attestation-agent") >= 2)).unwrap();
    let units = ["confidential-data-hub.socket", "confidential-data-hub", "api-server-rest", "kata-agent"];
    let states = [&["systemctl", "is-active"], &units[..]].concat();
    let (_, states) = pod.run(&states);
    assert_eq!(states, "inactive\n".repeat(units.len()));

    let mend = "rm /run/systemd/system/attestation-agent.service.d/99-fails.conf; systemctl daemon-reload";
    pod.machine.must(&["sh", "-ec", mend]).unwrap();
    pod.serves("once the agent serves");
    pod.wait_active("kata-agent.service");
}

/// Most pods have no init-data: the daemons start and answer all the same, and say whose word their configuration is.
#[test]
fn a_pod_without_init_data_starts_with_user_data_or_with_nothing() {
    let Some(pod) = Pod::boot_with(Tree::Trixie, Given::UserData) else { return };
    pod.serves("with user data");
    let (_, doctor) = pod.run(&["guestctl", "doctor", "--rest", "off"]);
    for file in ["/run/peerpod/aa.toml", "/run/peerpod/cdh.toml"] {
        assert!(doctor.contains(file) && !doctor.contains(&format!("{file} (measured)")), "{doctor}");
    }
    for (daemon, setting) in
        [("attestation-agent", "token_configs.kbs.url"), ("confidential-data-hub", "kbc.url")]
    {
        let log = pod.journal(daemon);
        assert!(log.contains("the configuration is unmeasured") && log.contains(setting), "{log}");
    }
    drop(pod);

    let Some(pod) = Pod::boot_with(Tree::Trixie, Given::Nothing) else { return };
    pod.wait_active("api-server-rest.service");
    let evidence = pod.ask("/aa/evidence?runtime_data=x");
    assert!(evidence.starts_with("HTTP/1.1 200"), "{evidence}");
    let (found, said) = pod.run(&["guestctl", "get", "kbs:///default/key/1"]);
    assert!(!found && said.contains("[OFFLINE_NOT_FOUND]"), "{said}");
    assert!(!pod.ask(crate::REST_PATH).starts_with("HTTP/1.1 200"));
    for daemon in ["attestation-agent", "confidential-data-hub", "api-server-rest"] {
        assert_eq!(pod.restarts(daemon), 0, "{daemon}");
    }
}

/// PullImage, asked as kata-agent asks, with the credentials that process-user-data left; and once more while the kernel
/// runs out of memory.
#[test]
fn an_image_is_pulled_with_the_pods_credentials_also_after_the_hub_was_killed_on_the_way() {
    let Some(pod) = Pod::boot(Tree::Trixie) else { return };
    let socket = format!("/proc/{}/root/run/confidential-containers/cdh.sock", pod.machine.leader());
    let bundle_path = "/run/kata-containers/pod/one".to_owned();
    let request = api::ImagePullRequest { image_url: pod.push("1.0"), bundle_path };
    let answer: Result<api::ImagePullResponse, _> = crate::measurement::runtime().block_on(async {
        let client = ttrpc_client(Path::new(&socket)).await;
        ttrpc(&client, "api.ImagePullService", "PullImage", request).await
    });
    let digest =
        answer.unwrap_or_else(|e| panic!("{e:?}\n{}", pod.journal("confidential-data-hub"))).manifest_digest;
    assert!(digest.starts_with("sha256:"), "{digest}");
    let content = |bundle: &str| {
        pod.machine.must(&["cat", &format!("/run/kata-containers/pod/{bundle}/rootfs/etc/app")])
    };
    assert_eq!(content("one").unwrap(), "image 1.0\n");
    for unit in ["cdh-storage-mount.service", "cdh-storage-unpack.service"] {
        pod.wait_active(unit);
    }
    // The store is where the scratch disk was mounted before.
    let store = pod.machine.must(&["stat", "--format=%m", "/run/kata-containers/image/layers"]).unwrap();
    assert_eq!(store.trim(), "/run/kata-containers/image");

    // The half that unpacks is held up, so that the hub is in the middle of it when it is killed.
    let image = pod.push("2.0");
    let hold = |signal: &str| {
        pod.machine
            .must(&["systemctl", "kill", &format!("--signal={signal}"), "cdh-storage-unpack"])
            .unwrap();
    };
    let entries = || {
        let list = "cd /run/kata-containers/image; ls images layers overlay; grep -c overlay /proc/mounts";
        pod.machine.must(&["sh", "-ec", list])
    };
    let before = entries().unwrap();
    let pull = ["guestctl", "pull", &image, "--bundle", "/run/kata-containers/pod/two"];
    hold("SIGSTOP");
    std::thread::scope(|scope| {
        let interrupted = scope.spawn(|| pod.run(&pull));
        // The hub has the manifest.
        let hub = concat!("useragent=image-registry/", env!("CARGO_PKG_VERSION"));
        pod.registry.wait_for_log(&format!("{hub} vars.name=team/app vars.reference=2.0")).unwrap();
        pod.kill("confidential-data-hub");
        hold("SIGCONT");
        let (done, said) = interrupted.join().unwrap();
        assert!(!done && said.contains("[PEER_"), "{said}");
    });
    pod.wait_restarted("confidential-data-hub", 1);
    pod.serves("after it was killed");
    let nothing_is_left = || Ok(entries()? == before);
    pod.machine.wait_for("the end of what was half done", nothing_is_left).unwrap();
    assert!(pod.machine.must(&["ls", "/run/kata-containers/pod"]).unwrap().trim() == "one");
    let (done, said) = pod.run(&pull);
    assert!(done, "{said}");
    assert_eq!(
        (content("one").unwrap(), content("two").unwrap()),
        ("image 1.0\n".to_owned(), "image 2.0\n".to_owned())
    );
}
