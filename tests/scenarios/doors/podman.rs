//! Podman's secrets, with real Podman and Quadlet.

use std::path::Path;

use cc_tests::container::Tree;
use cc_tests::process::command;
use tempfile::TempDir;

use super::{Doors, example};
use crate::sealed::independent;
use crate::{RESOURCE, SECRET};

/// What nobody should ever give to `podman secret create`.
const PLAIN: &str = "c4n4ry-in-plain-text";
/// Where references are kept.
const STATE: &str = "/var/lib/confidential-containers/podman-secrets";
/// Podman's storage.
const STORAGE: &str = "/var/lib/containers";
/// The drop-in as it is shipped.
const DRIVER: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../quadlet/containers.conf.d/50-confidential-secrets.conf");
const SIGNER: &str = "default/sealed-signing/team-a";

/// Who may have the secret: the units that run Podman for the application, and nobody else.
const TABLES: &str = r#"
[[access.rules]]
unit = ["app.service", "app-*.service"]
resources = ["kbs:///default/key/*"]

[[unit_credentials]]
unit = "app-credential.service"
credential = "db-password"
secret = "kbs:///default/key/1"
"#;

/// Keeps what Podman copies for its containers in memory.
const FSTAB: &str = "tmpfs /var/lib/containers/storage/overlay-containers tmpfs mode=0700,nodev 0 0\n";
/// Gives a container its unit's credential in place of a Podman secret.
const CREDENTIAL: [&str; 2] = [
    "Volume=%d/db-password:/run/secrets/db-password:ro\n",
    "LoadCredential=db-password:/run/confidential-containers/credentials.sock\n",
];

struct Machine {
    doors: Doors,
    storage: TempDir,
}

/// Boots the machine; none where that cannot run.
fn boot() -> Option<Machine> {
    let storage = tempfile::Builder::new().prefix("podman-").tempdir().unwrap();
    let sealed = independent(&["vault", &format!("kbs:///{SIGNER}"), &format!("kbs:///{RESOURCE}")]);
    let doors = Doors::boot(Tree::Trixie, TABLES, |setup| {
        let mut setup = setup
            .with_containers()
            .bind(storage.path(), STORAGE)
            .bind_read_only(
                Path::new(DRIVER),
                "/etc/containers/containers.conf.d/50-confidential-secrets.conf",
            )
            .file("etc/fstab", FSTAB, 0o644)?
            .file("root/image.sh", include_str!("podman/image.sh"), 0o755)?
            .file("root/sealed", &sealed, 0o600)?;
        for (name, line) in [
            ("app", "Secret=db-password\n"),
            ("stranger", "Secret=db-password\n"),
            ("app-variable", "Secret=db-password,type=env,target=DB_PASSWORD\n"),
            ("app-sealed", "Secret=sealed,target=db-password\n"),
            ("app-missing", "Secret=missing,target=db-password\n"),
            ("app-credential", CREDENTIAL[0]),
        ] {
            setup = setup.file(&format!("etc/containers/systemd/{name}.container"), quadlet(line), 0o644)?;
        }
        Ok(setup)
    })?;
    doors.stack.put_resource(SIGNER, independent(&["jwk"]).as_bytes()).unwrap();
    doors.machine.must(&["/root/image.sh"]).unwrap();
    doors.machine.must(&["mkdir", "/run/got"]).unwrap();
    Some(Machine { doors, storage })
}

/// The example of docs/secrets.md with another line for its secret. The container notes what it got, and stays. There are no
/// controllers of control groups here, so it makes no group of its own.
fn quadlet(line: &str) -> String {
    let container = example("Podman secrets", "ini");
    assert!(container.contains("Secret=db-password\n"), "{container}");
    let container = container.replace("Secret=db-password\n", line);
    let credential = if line == CREDENTIAL[0] { CREDENTIAL[1] } else { "" };
    format!(
        "{container}Network=host\nPodmanArgs=--cgroups=disabled\nVolume=/run/got:/got\n\
         Exec=/bin/sh -c '{{ printf %%s \"$$DB_PASSWORD\"; cat /run/secrets/db-password; }} >/got/%N; exec sleep 1000'\n\
         [Service]\nTimeoutStartSec=60\n{credential}"
    )
}

impl Machine {
    /// Runs a shell command as root and in no unit: exit code, standard output, standard error.
    fn shell(&self, line: &str) -> (Option<i32>, String, String) {
        let out = self.doors.machine.run(&["sh", "-c", line]).unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (out.status.code(), text(&out.stdout), text(&out.stderr))
    }

    /// Starts a container by its unit; what it got.
    fn got(&self, unit: &str) -> String {
        self.doors.machine.must(&["systemctl", "start", unit]).unwrap_or_else(|e| {
            panic!("{e:#}\n{}\n{}", self.doors.machine.journal(unit).unwrap(), self.doors.hub_log())
        });
        let file = format!("/run/got/{unit}");
        let expected = SECRET.len().to_string();
        self.doors
            .machine
            .wait_for(unit, || Ok(self.shell(&format!("stat --format=%s {file}")).1.trim() == expected))
            .unwrap();
        self.doors.machine.must(&["cat", &file]).unwrap()
    }

    /// The hub's audit lines about `unit`.
    fn audit(&self, unit: &str) -> Vec<String> {
        self.doors.audit(&[&format!("unit={unit:?}")])
    }
}

#[test]
fn containers_get_what_their_unit_may_have_and_podman_keeps_references() {
    let document =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/secrets.md")).unwrap();
    for line in CREDENTIAL.iter().chain(&[FSTAB]) {
        assert!(
            document.contains(&format!("\n  {line}")),
            "docs/secrets.md tells something else than {line}"
        );
    }
    let Some(machine) = boot() else { return };
    references_alone_are_taken(&machine);
    containers_get_their_secrets(&machine);
    refusals_stop_containers_and_say_why(&machine);
    showing_a_secret_is_a_lookup(&machine);
    nothing_is_on_disk(&machine);
    deleting_leaves_nothing(&machine);
    assert!(!machine.doors.hub_log().contains(std::str::from_utf8(SECRET).unwrap()), "a secret in the log");
}

fn references_alone_are_taken(machine: &Machine) {
    for (name, reference) in [
        ("db-password", format!("printf kbs:///{RESOURCE}")),
        ("missing", "echo kbs:///default/key/missing".to_owned()),
        ("sealed", "cat /root/sealed".to_owned()),
    ] {
        let (exit, _, error) = machine.shell(&format!("{reference} | podman secret create {name} -"));
        assert_eq!(exit, Some(0), "{name}: {error}");
    }
    let (exit, _, error) = machine.shell(&format!("echo {PLAIN} | podman secret create plain -"));
    assert_ne!(exit, Some(0));
    assert!(error.contains("[PODMAN_REFERENCE_REFUSED]") && error.contains("hint: "), "{error}");
    assert!(!error.contains(PLAIN), "{error}");
    let (_, names, _) = machine.shell("podman secret ls --noheading --format '{{.Name}} {{.Driver}}' | sort");
    assert_eq!(names, "db-password shell\nmissing shell\nsealed shell\n");
    let (_, count, _) =
        machine.shell(&format!("guestctl podman-secret list | wc -l; stat --format=%a {STATE}"));
    assert_eq!(count, "3\n700\n");
    assert_eq!(machine.audit("-"), Vec::<String>::new(), "nobody was asked");
}

fn containers_get_their_secrets(machine: &Machine) {
    let secret = std::str::from_utf8(SECRET).unwrap();
    for unit in ["app", "app-variable", "app-sealed", "app-credential"] {
        assert_eq!(machine.got(unit), secret, "{unit}");
        let door = match unit {
            "app-sealed" => "unseal-secret",
            "app-credential" => "unit-credential",
            _ => "get-resource",
        };
        let lines = machine.audit(&format!("{unit}.service"));
        let [line] = lines.as_slice() else { panic!("{unit}: {lines:?}") };
        let expected = format!(
            "door={door} uid=0 unit=\"{unit}.service\" container=\"-\" resource=\"kbs:///{RESOURCE}\" decision=given code=OK"
        );
        assert!(line.ends_with(&expected), "{line}");
    }
    // A container that is started anew is made anew, and the hub is asked again.
    machine.doors.machine.must(&["systemctl", "restart", "app.service"]).unwrap();
    assert_eq!(machine.audit("app.service").len(), 2);
}

fn refusals_stop_containers_and_say_why(machine: &Machine) {
    for (unit, decision, code) in
        [("stranger", "refused", "ACCESS_DENIED"), ("app-missing", "failed", "KBS_NOT_FOUND")]
    {
        assert!(
            !machine.doors.machine.run(&["systemctl", "start", unit]).unwrap().status.success(),
            "{unit} runs"
        );
        assert_ne!(machine.shell(&format!("ls /run/got/{unit}")).0, Some(0), "{unit} ran");
        let journal = machine.doors.machine.journal(unit).unwrap();
        assert!(journal.contains(&format!("[{code}]")) && journal.contains("hint: "), "{unit}: {journal}");
        let lines = machine.audit(&format!("{unit}.service"));
        assert!(
            lines.iter().all(|line| line.ends_with(&format!("decision={decision} code={code}"))),
            "{lines:?}"
        );
        assert!(!lines.is_empty(), "{unit}");
    }
}

/// `podman secret inspect --showsecret` asks the hub for whoever types it, like a container's start.
fn showing_a_secret_is_a_lookup(machine: &Machine) {
    let show = "podman secret inspect --showsecret --format '{{.SecretData}}' db-password";
    let (exit, out, error) = machine.shell(show);
    assert_ne!(exit, Some(0), "{out}");
    assert!(out.trim().is_empty() && error.contains("[ACCESS_DENIED]"), "{out}{error}");
    let (exit, out, error) =
        machine.shell(&format!("systemd-run --quiet --wait --pipe --unit=app-shell {show}"));
    assert_eq!((exit, out.trim_end().as_bytes()), (Some(0), SECRET), "{error}");
    let (_, out, _) =
        machine.shell("podman secret inspect db-password; podman inspect systemd-app systemd-app-variable");
    assert!(out.contains("db-password") && !out.contains(std::str::from_utf8(SECRET).unwrap()), "{out}");
}

/// Podman copies secrets of its containers below `overlay-containers`, which is in memory here: the disk has none.
fn nothing_is_on_disk(machine: &Machine) {
    let secret = std::str::from_utf8(SECRET).unwrap();
    let (_, inside, _) = machine.shell(&format!("grep -rlaF {secret} {STORAGE} {STATE}"));
    let kind =
        |path: &str| path.split_once("userdata/").map(|(_, rest)| rest.split('/').next().map(str::to_owned));
    let mut kinds: Vec<_> = inside.lines().filter_map(kind).flatten().collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["config.json", "secrets", "secrets"], "as docs/secrets.md tells: {inside}");
    let below = format!("{STORAGE}/storage/overlay-containers/");
    assert!(inside.lines().all(|path| path.starts_with(&below)), "{inside}");
    // The same storage as the disk has it, without what is mounted over it.
    for text in [secret, PLAIN] {
        let out = command("grep").args(["-rlaF", text]).arg(machine.storage.path()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout), "");
    }
    let known = command("grep").args(["-rlaF", "db-password"]).arg(machine.storage.path()).output().unwrap();
    assert!(known.status.success(), "this is the storage");
}

fn deleting_leaves_nothing(machine: &Machine) {
    machine
        .doors
        .machine
        .must(&["systemctl", "stop", "app", "app-variable", "app-sealed", "app-credential"])
        .unwrap();
    let (exit, _, error) =
        machine.shell("printf kbs:///default/key/2 | podman secret create --replace missing -");
    assert_eq!(exit, Some(0), "{error}");
    let (exit, _, error) = machine.shell("podman secret rm db-password missing sealed");
    assert_eq!(exit, Some(0), "{error}");
    let (_, left, _) = machine.shell(&format!("ls -A {STATE}; podman secret ls --noheading"));
    assert_eq!(left, "");
    let (_, inside, _) =
        machine.shell(&format!("grep -rlaF {} {STORAGE} {STATE}", std::str::from_utf8(SECRET).unwrap()));
    assert_eq!(inside, "", "the copies went with the containers");
}
