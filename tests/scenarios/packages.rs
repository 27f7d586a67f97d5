//! The packages, as `make package` makes them, here of the programs that the tests are run with: two runs give the same bytes,
//! Debian's checker has nothing to say, they install under real service managers, serve, and leave nothing behind.

use std::path::Path;
use std::process::Command;

use cc_tests::container::{Container, Tree};
use cc_tests::process::{binary_folder, command, own_binary};
use cc_tests::stack::skip;

use crate::doors::{emulated_hardware, prepared};
use crate::{REST_PATH, SECRET};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// Where an administrator finds what to do.
const DOCUMENT: &str = include_str!("../../docs/packages.md");
const PROGRAMS: [&str; 8] = [
    "api-server-rest",
    "attestation-agent",
    "cdh-storage",
    "coco_keyprovider",
    "confidential-data-hub",
    "guestctl",
    "initrd-unlock",
    "trustee-attester",
];

/// Whether the tools are here; tells if not.
pub(crate) fn tools_are_here(tools: &[&str]) -> bool {
    let missing: Vec<_> =
        tools.iter().filter(|tool| command(tool).arg("--version").output().is_err()).collect();
    if !missing.is_empty() {
        skip(&format!("packages need {missing:?}"));
    }
    missing.is_empty()
}

fn must(mut command: Command) -> String {
    let out = command.output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{command:?}: {}{said}", String::from_utf8_lossy(&out.stdout));
    String::from_utf8(out.stdout).unwrap()
}

/// Makes packages of these formats in `folder`/`name`.
pub(crate) fn make(folder: &Path, name: &str, formats: &str) -> Vec<String> {
    let share = folder.join("share");
    let mut manual = own_binary("manual").unwrap();
    manual.arg(&share);
    must(manual);
    let mut package = command(format!("{ROOT}/systemd/packages/package"));
    package.arg(binary_folder().unwrap()).args([&share, &folder.join(name)]);
    package.env("QUICK", "1").env("FORMATS", formats).env("TMPDIR", folder);
    package.env("PACKAGER", "The builder <builder@packages.test>");
    must(package).lines().map(str::to_owned).collect()
}

#[test]
fn two_runs_give_the_same_packages_and_their_checker_is_silent() {
    if !tools_are_here(&["dh", "rpmbuild", "lintian", "cargo-cyclonedx"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let made = make(folder.path(), "first", "deb rpm sbom");
    for (ending, number) in [(".deb", 5), (".rpm", 5), (".cdx.json", PROGRAMS.len())] {
        assert_eq!(made.iter().filter(|name| name.ends_with(ending)).count(), number, "{ending}: {made:?}");
    }
    // Between releases the time of the commit is in the version, to the second.
    let times = made.iter().filter_map(|name| name.split_once("~git")?.1.split_once('.'));
    assert!(times.clone().all(|(time, _)| time.len() == 14 && time.parse::<u64>().is_ok()), "{made:?}");
    make(folder.path(), "second/somewhere/else", "deb rpm sbom");
    let [first, second] = ["first/SHA256SUMS", "second/somewhere/else/SHA256SUMS"]
        .map(|sums| std::fs::read_to_string(folder.path().join(sums)).unwrap());
    assert_eq!(first, second);
    assert_eq!(first.lines().count(), made.len() - 1);

    let mut lintian = command("lintian");
    lintian.args(["--allow-root", "--fail-on", "error,warning", "--tag-display-limit", "0"]);
    let debs = made.iter().filter(|name| name.ends_with(".deb"));
    lintian.args(debs.map(|name| folder.path().join("first").join(name)));
    must(lintian);
    let first = folder.path().join("first");
    for program in PROGRAMS {
        bill_of_material(&first, program);
    }
    documents(&first, made.iter().find(|name| name.starts_with("confidential-guest_")).unwrap());
    changes_no_initramfs(&first, made.iter().find(|name| name.contains("initramfs_")).unwrap());
    for name in made.iter().filter(|name| name.ends_with(".rpm")) {
        has_what_rhel_9_has(&first, name);
    }
}

/// Every link in the documents of a package leads to one of its files.
fn documents(folder: &Path, package: &str) {
    let root = folder.join("root");
    let mut unpack = command("dpkg-deb");
    unpack.arg("-x").arg(folder.join(package)).arg(&root);
    must(unpack);
    let documents = root.join("usr/share/doc/confidential-guest");
    let mut seen = 0;
    for entry in std::fs::read_dir(&documents).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { documents.join(file) };
            assert!(file.starts_with("https://") || target.is_file(), "{}: {link}", path.display());
            let headings = std::fs::read_to_string(&target).unwrap_or_default();
            let headings = headings.lines().filter(|line| line.starts_with('#'));
            assert!(
                anchor.is_empty() || headings.map(as_anchor).any(|a| a == anchor),
                "{}: {link}",
                path.display()
            );
            seen += 1;
        }
        let text = text.replace("https://", "");
        assert!(!text.contains("docs/"), "{} names a folder of the sources", path.display());
    }
    assert!(seen > 10, "{seen}");
}

/// Nothing that dpkg does when a .deb comes has a new initramfs made, which the key broker would not know.
fn changes_no_initramfs(folder: &Path, package: &str) {
    let control = folder.join("control");
    let mut unpack = command("dpkg-deb");
    unpack.arg("-e").arg(folder.join(package)).arg(&control);
    must(unpack);
    assert!(control.join("control").is_file());
    for name in ["triggers", "preinst", "postinst", "prerm", "postrm"] {
        let text = std::fs::read_to_string(control.join(name)).unwrap_or_default();
        assert!(!text.contains("update-initramfs"), "{name}: {text}");
    }
}

/// What a heading is called in links.
fn as_anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
    text.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
}

/// What an .rpm needs is in RHEL 9: packages by the names that they have there, and versions of libraries that are not newer.
/// The packages of one build need each other in the same version.
fn has_what_rhel_9_has(folder: &Path, package: &str) {
    // BaseOS and AppStream of RHEL 9: cryptsetup-libs 2.6, dracut 057, glibc 2.34, libgcc 11, systemd 252.
    const PACKAGES: [&str; 5] = ["/bin/bash", "/bin/sh", "cryptsetup", "dracut-network", "systemd"];
    const LIBRARIES: [&str; 5] =
        ["ld-linux-x86-64.so.2", "libc.so.6", "libcryptsetup.so.12", "libgcc_s.so.1", "libm.so.6"];
    let mut rpm = command("rpm");
    rpm.args(["-q", "--requires", "--package"]).arg(folder.join(package));
    let own = format!(" = {}", package.strip_suffix(".rpm").and_then(version_and_release).unwrap());
    for need in must(rpm).lines() {
        let library = need.split_once('(').map(|(name, _)| name);
        let known = PACKAGES.contains(&need)
            || need.starts_with("rpmlib(")
            || need == "rtld(GNU_HASH)"
            || need == format!("guestctl{own}")
            || need == format!("config(confidential-guest){own}")
            || library.is_some_and(|name| LIBRARIES.contains(&name) || cfg!(target_arch = "aarch64"));
        assert!(known, "{package} needs {need:?}, which RHEL 9 may not have");
        // On a machine with a newer one what is made here is for machines as new.
        let glibc = need.split_once("(GLIBC_2.").and_then(|(_, rest)| rest.split([')', '.']).next());
        let glibc = glibc.and_then(|number| number.parse::<u32>().ok());
        assert!(glibc.is_none_or(|number| number <= 34) || !is_debian_12(), "{package} needs {need}");
    }
}

/// `VERSION-RELEASE` of `NAME-VERSION-RELEASE.ARCHITECTURE`.
fn version_and_release(name: &str) -> Option<&str> {
    let (rest, _) = name.rsplit_once('.')?;
    let (before, _) = rest.rsplit_once('-')?;
    let (name, _) = before.rsplit_once('-')?;
    rest.get(name.len() + 1..)
}

fn is_debian_12() -> bool {
    std::fs::read_to_string("/etc/os-release").is_ok_and(|text| text.contains("VERSION_CODENAME=bookworm"))
}

/// Between releases a package is older than the release, and newer than those of earlier commits of the same day.
#[test]
fn packages_of_later_commits_are_newer() {
    if !tools_are_here(&["dpkg", "rpm"]) {
        return;
    }
    let versions = [
        "0.1.0~git20260101.fffffff",
        "0.1.0~git20260101093000.fffffff",
        "0.1.0~git20260101101500.0000000",
        "0.1.0",
    ];
    for pair in versions.windows(2) {
        let mut dpkg = command("dpkg");
        dpkg.args(["--compare-versions", pair[0], "lt", pair[1]]);
        must(dpkg);
        let mut rpm = command("rpm");
        rpm.arg("--eval").arg(format!("%{{lua:print(rpm.vercmp('{}', '{}'))}}", pair[0], pair[1]));
        assert_eq!(must(rpm).trim(), "-1", "{pair:?}");
    }
}

/// Says what a program is made of, and nothing of this machine.
fn bill_of_material(folder: &Path, program: &str) {
    let text = std::fs::read_to_string(folder.join(format!("{program}.cdx.json"))).unwrap();
    let bill: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(bill["bomFormat"], "CycloneDX");
    let crates = bill["components"].as_array().unwrap();
    let licensed = |name: &str| crates.iter().any(|c| c["name"] == name && c["licenses"][0].is_object());
    assert!(
        crates.len() > 50 && licensed("zeroizing-alloc") && licensed("clap"),
        "{program}: {}",
        crates.len()
    );
    let sources = Path::new(ROOT).canonicalize().unwrap();
    for path in [sources.to_str().unwrap(), "/tmp/", "/root/"] {
        assert!(!text.contains(path), "{program} names {path}");
    }
}

/// Every file of the machine but what changes by itself, and package managers' own.
fn files(machine: &Container) -> Vec<String> {
    let own = [
        "/proc",
        "/sys",
        "/dev",
        "/run",
        "/tmp",
        "/var/tmp",
        "/var/log",
        "/var/cache",
        "/var/lib/dpkg",
        "/var/lib/apt",
        "/var/lib/rpm",
        "/root",
    ];
    let prune: Vec<String> = own.iter().map(|path| format!("-path {path}")).collect();
    // Accounts are kept with copies of their files.
    let find = format!(
        "find / -xdev \\( {} \\) -prune -o ! -name '*-' ! -name .pwd.lock -print | sort",
        prune.join(" -o ")
    );
    machine.must(&["sh", "-ec", &find]).unwrap().lines().map(str::to_owned).collect()
}

/// The lines of the document that switch the services on.
fn switch_on() -> &'static str {
    DOCUMENT
        .lines()
        .find_map(|line| line.strip_prefix("# ").filter(|line| line.starts_with("systemctl enable")))
        .unwrap()
}

/// Folders that belong to the packages `filesystem` and `dracut` of RHEL, which rpm misses here.
const FILESYSTEM: [&str; 6] = [
    "/usr/lib/dracut",
    "/usr/lib/dracut/modules.d",
    "/usr/share/licenses",
    "/usr/share/man/man1",
    "/usr/share/man/man5",
    "/usr/share/man/man8",
];

const DRACUT: &str = "/usr/lib/dracut/modules.d/90confidential-unlock/module-setup.sh";

/// A machine to install on, with a key broker beside it. What an administrator would write lies in /root.
struct Bare {
    // Dropped first.
    machine: Container,
    _stack: cc_tests::stack::Stack,
    _packages: tempfile::TempDir,
    port: u16,
    before: Vec<String>,
}

impl Bare {
    fn boot(tree: Tree, formats: &str) -> Option<Self> {
        let (stack, mut setup) = prepared(tree, "")?;
        let packages = tempfile::tempdir().unwrap();
        make(packages.path(), "made", formats);
        let port = cc_tests::port::claim().unwrap();
        // The machine's network is that of this one, where other tests may have the usual port.
        let rest = format!(
            "[Service]\nExecStart=\nExecStart=/usr/bin/api-server-rest --features resource --bind 127.0.0.1:{port}\n"
        );
        for (path, content) in [
            ("etc/systemd/system/api-server-rest.service.d/port.conf", rest),
            ("etc/systemd/system/attestation-agent.service.d/emulated.conf", emulated_hardware(&stack)),
        ] {
            setup = setup.file(path, content, 0o644).unwrap();
        }
        let setup = setup.with_containers().bind_read_only(&packages.path().join("made"), "/root/packages");
        let machine = setup.boot().unwrap_or_else(|e| panic!("{e:#}"));
        machine.must(&["mv", "/etc/confidential-containers", "/root/configuration"]).unwrap();
        let before = files(&machine);
        assert!(before.len() > 1000);
        Some(Self { machine, _stack: stack, _packages: packages, port, before })
    }

    fn sh(&self, line: &str) -> String {
        self.machine.must(&["sh", "-ec", line]).unwrap_or_else(|e| panic!("{line}: {e:#}"))
    }

    /// Nothing runs after the installation; once it is configured and switched on, an application gets its secret.
    fn serves(&self) {
        let units = switch_on().split_whitespace().filter(|word| word.contains('.'));
        for unit in units.clone() {
            let state = |ask: &str| {
                let out = self.machine.run(&["systemctl", ask, unit]).unwrap();
                String::from_utf8(out.stdout).unwrap().trim().to_owned()
            };
            assert_eq!((&*state("is-active"), &*state("is-enabled")), ("inactive", "disabled"), "{unit}");
        }
        let preset = include_str!("../../systemd/system-preset/30-confidential-containers.preset");
        assert_eq!(units.count(), preset.lines().filter(|line| line.starts_with("enable ")).count());
        assert!(self.sh("cat /etc/group").contains("confidential-data-hub:"));
        self.sh("test -d /run/confidential-containers");
        self.sh("cp /root/configuration/*.toml /etc/confidential-containers/");
        self.sh(switch_on());
        let answer = self.machine.ask(self.port, REST_PATH).unwrap();
        let secret = std::str::from_utf8(SECRET).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(secret), "{answer}");
        let version = self.sh("guestctl --version; secret -V; trustee-attester -V");
        assert!(version.contains("commit: "), "{version}");
        assert_eq!(self.sh("systemctl list-units --failed --no-legend"), "");
    }

    /// The packages for other machines than these, whose dependencies are not here: they come, their programs start, and they go.
    /// `hooks` are what puts the first into an initramfs.
    fn has_others(&self, install: &str, remove: &str, hooks: &[&str]) {
        let before = files(&self.machine);
        self.sh(&format!("cd /root/packages; {install} 2>&1"));
        let version = self.sh("initrd-unlock --version; coco_keyprovider --version");
        assert_eq!(version.matches("commit: ").count(), 2, "{version}");
        hooks.iter().for_each(|hook| drop(self.sh(&format!("test -x {hook}"))));
        self.sh(&format!("{remove} 2>&1"));
        let after = files(&self.machine);
        let left: Vec<_> = after
            .iter()
            .filter(|file| !before.contains(file) && !FILESYSTEM.contains(&file.as_str()))
            .collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }

    fn said_that_there_is_another(&self) {
        let said = self.sh("cat /root/said; rm /root/said");
        for expected in [
            "confidential-guest: /usr/local/bin/attestation-agent is there too",
            "calls /usr/local/bin/guestctl: run /usr/bin/guestctl disk enable db-1\n",
        ] {
            assert!(said.contains(expected), "{said}");
        }
    }

    /// An upgrade restarts the services, and keeps their sockets and what was configured.
    fn is_upgraded_by(&self, line: &str) {
        let services =
            ["attestation-agent.service", "confidential-data-hub.service", "api-server-rest.service"];
        let processes = || services.map(|unit| self.sh(&format!("systemctl show -p MainPID --value {unit}")));
        let configured = "sha256sum /etc/confidential-containers/*.toml";
        let (before, configuration) = (processes(), self.sh(configured));
        self.sh(line);
        for ((unit, before), after) in services.iter().zip(before).zip(processes()) {
            assert!(before != after && after.trim() != "0", "{unit} was {before}, is {after}");
        }
        assert_eq!(self.sh(configured), configuration);
        let sockets = switch_on().split_whitespace().filter(|word| word.ends_with(".socket"));
        self.sh(&format!("systemctl is-active {}", sockets.collect::<Vec<_>>().join(" ")));
        // The hub has its sockets from systemd, now and after its next restart.
        for again in ["true", "systemctl restart confidential-data-hub.service"] {
            self.sh(again);
            let answer = self.machine.ask(self.port, REST_PATH).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200"), "{again}: {answer}");
        }
        assert_eq!(self.sh("systemctl list-units --failed --no-legend"), "");
    }

    /// No process, no file but these.
    fn is_as_before_but(&self, others: &[&str]) {
        let left = self.sh("ps -e -o comm= 2>/dev/null || cat /proc/[0-9]*/comm");
        for program in PROGRAMS {
            // Names of processes have 15 characters.
            let name: String = program.chars().take(15).collect();
            assert!(!left.lines().any(|line| line == name), "{program} still runs");
        }
        let after = files(&self.machine);
        let (more, less): (Vec<_>, Vec<_>) = (
            after
                .iter()
                .filter(|file| !self.before.contains(file) && !others.contains(&file.as_str()))
                .collect(),
            self.before.iter().filter(|file| !after.contains(file)).collect(),
        );
        assert!(more.is_empty() && less.is_empty(), "left behind: {more:?}; gone: {less:?}");
    }
}

/// The command of the document that installs, with the packages of a folder.
fn install(manager: &str) -> String {
    let line = DOCUMENT.lines().find_map(|line| line.strip_prefix("# ").filter(|l| l.starts_with(manager)));
    format!("cd /root/packages; {}", line.unwrap())
}

/// `install`, while a program is there that `make install` has left, and a volume that calls another.
fn beside_another(install: &str) -> String {
    const VOLUME: &str = r"/etc/systemd/system/systemd-cryptsetup@db\x2d1.service.d";
    const CALL: &str = "ExecStartPre=/usr/local/bin/guestctl disk prepare db-1 --wait 90";
    format!(
        "cd /root/packages; touch /usr/local/bin/attestation-agent; mkdir '{VOLUME}'; echo '[Service]\n{CALL}' >'{VOLUME}/50-confidential.conf'; \
         {install} >/root/said 2>&1; rm -r /usr/local/bin/attestation-agent '{VOLUME}'"
    )
}

fn deb(bare: &Bare) {
    bare.sh(&install("apt-get install").replace("install ", "install -y ./trustee-attester_*.deb "));
    bare.serves();
    bare.has_others(
        "dpkg --force-depends -i ./confidential-guest-initramfs_*.deb ./coco-keyprovider_*.deb",
        "dpkg --force-depends --purge confidential-guest-initramfs coco-keyprovider",
        &[DRACUT, "/usr/share/initramfs-tools/hooks/confidential-unlock"],
    );
    bare.is_upgraded_by(&beside_another(
        "dpkg --force-confdef -i ./guestctl_*.deb ./confidential-guest_*.deb",
    ));
    bare.said_that_there_is_another();
    bare.sh("apt-get purge -y confidential-guest guestctl trustee-attester");
    bare.is_as_before_but(&[]);
}

#[test]
fn deb_packages_install_serve_and_leave_nothing_on_debian_13() {
    if !tools_are_here(&["dh"]) {
        return;
    }
    let Some(bare) = Bare::boot(Tree::Trixie, "deb") else { return };
    deb(&bare);
}

#[test]
fn deb_and_rpm_packages_install_serve_and_leave_nothing_on_debian_12() {
    if !tools_are_here(&["dh", "rpmbuild"]) {
        return;
    }
    let Some(bare) = Bare::boot(Tree::Bookworm, "deb rpm") else { return };
    deb(&bare);
    // What the packages need is there, but not as rpm knows it.
    let install = install("dnf install").replace("dnf install ", "rpm -i --nodeps ./trustee-attester-*.rpm ");
    bare.sh(&install);
    bare.serves();
    bare.has_others(
        "rpm -i --nodeps ./confidential-guest-initramfs-*.rpm ./coco-keyprovider-*.rpm",
        "rpm -e confidential-guest-initramfs coco-keyprovider",
        &[DRACUT],
    );
    bare.is_upgraded_by(&beside_another(
        "rpm -U --nodeps --replacepkgs ./guestctl-*.rpm ./confidential-guest-[0-9]*.rpm",
    ));
    bare.said_that_there_is_another();
    bare.sh("rpm -e confidential-guest guestctl trustee-attester");
    let kept = bare.sh("cd /etc/confidential-containers && ls && rm -r /etc/confidential-containers");
    assert_eq!(kept, "attestation-agent.toml.rpmsave\nconfidential-data-hub.toml.rpmsave\n");
    bare.is_as_before_but(&FILESYSTEM);
}

/// Units of the sources do not take the place of a package's, which have the same paths and other programs.
#[test]
fn units_are_not_installed_over_a_package() {
    let folder = tempfile::tempdir().unwrap();
    let install = || {
        let mut make = command("make");
        make.args(["-s", "-C", ROOT, "install-units"]).arg(format!("ROOT={}", folder.path().display()));
        make.output().unwrap()
    };
    // Over its own it does.
    assert!(install().status.success() && install().status.success());
    let unit = folder.path().join("usr/lib/systemd/system/attestation-agent.service");
    let text = std::fs::read_to_string(&unit).unwrap().replace("/usr/local/bin/", "/usr/bin/");
    std::fs::write(&unit, &text).unwrap();
    let out = install();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && said.contains("is a package's"), "{said}");
    assert_eq!(std::fs::read_to_string(&unit).unwrap(), text);
}

/// `make install` puts the programs into the folder itself, also those that somebody else has built.
#[test]
fn programs_install_where_the_contract_has_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut make = command("make");
    make.args(["-s", "-C", ROOT, "install"]).arg(format!("DESTDIR={}", folder.path().display()));
    make.arg(format!("PREBUILT={}", binary_folder().unwrap().display()));
    must(make);
    let mut found: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort_unstable();
    let mut expected: Vec<_> = PROGRAMS.iter().copied().chain(["attestation-agent-nv", "secret"]).collect();
    expected.sort_unstable();
    assert_eq!(found, expected);
    for (link, program) in [("secret", "guestctl"), ("attestation-agent-nv", "attestation-agent")] {
        assert_eq!(std::fs::read_link(folder.path().join(link)).unwrap(), Path::new(program));
    }
}

/// The smallest program, without optimisation: what makes folders differ is the same for all.
#[test]
fn a_program_that_is_built_in_two_folders_has_the_same_bytes() {
    let mut reproduce = command(format!("{ROOT}/systemd/packages/reproduce"));
    reproduce.arg("api-server-rest").env("QUICK", "1").env_remove("CARGO_MANIFEST_DIR");
    let said = must(reproduce);
    assert!(said.ends_with("two builds, one result\n") && said.contains("api-server-rest"), "{said}");
}

/// Neither way makes packages that open no volumes unless somebody says so.
#[test]
fn packages_without_volumes_are_not_made_by_mistake() {
    let without = |mut command: Command| {
        command.current_dir(ROOT).env("PKG_CONFIG_LIBDIR", "/nonexistent").env_remove("CARGO_MANIFEST_DIR");
        for name in ["LUKS", "MAKEFLAGS", "MAKEOVERRIDES", "PKG_CONFIG_PATH"] {
            command.env_remove(name);
        }
        let out = command.output().unwrap();
        (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let mut package = command("make");
    package.args(["-s", "with-volumes"]);
    for way in [package, command(format!("{ROOT}/systemd/packages/reproduce"))] {
        let (made, said) = without(way);
        assert!(!made && said.contains("without volumes: install libcryptsetup-dev"), "{said}");
    }
    let mut meant = command("make");
    meant.args(["-s", "with-volumes", "LUKS="]);
    assert!(without(meant).0);
}
