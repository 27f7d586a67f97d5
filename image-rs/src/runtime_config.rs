//! The `config.json` of a bundle (OCI runtime specification 1.0.2, config.md and config-linux.md), made of an image's
//! configuration.
//!
//! What the image does not say is what `runc spec` and its like write by default. Pure. It does NOT look into the image's
//! files: a user that is given by name stays for whoever starts the container to resolve.

use serde_json::{Map, Value, json};

use crate::ImageConfig;

/// Beginning of the names of annotations that repeat members of the image's configuration (OCI image specification,
/// conversion.md).
const ANNOTATION: &str = "org.opencontainers.image.";
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What a container may do at most, and does.
const CAPABILITIES: [&str; 3] = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
const MASKED: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The document for a container of `image` whose root file system is `rootfs` beside it.
#[must_use]
pub fn runtime_config(image: &ImageConfig) -> Value {
    let capabilities = json!(CAPABILITIES);
    let (uid, gid) = image.user.as_deref().and_then(numeric_user).unwrap_or((0, 0));
    let namespaces = ["pid", "network", "ipc", "uts", "mount", "cgroup"].map(|kind| json!({"type": kind}));
    let args: Vec<&String> = image.entrypoint.iter().chain(&image.cmd).collect();
    json!({
        "ociVersion": "1.0.2",
        "hostname": "image-rs",
        "root": {"path": "rootfs", "readonly": true},
        "process": {
            "terminal": false,
            "user": {"uid": uid, "gid": gid},
            "args": if args.is_empty() { json!(["sh"]) } else { json!(args) },
            "env": if image.env.is_empty() { json!([PATH, "TERM=xterm"]) } else { json!(image.env) },
            "cwd": image.working_dir.as_deref().filter(|path| !path.is_empty()).unwrap_or("/"),
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "inheritable": capabilities,
                "permitted": capabilities, "ambient": capabilities,
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "mounts": mounts(&image.volumes),
        "annotations": annotations(image),
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": namespaces,
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        },
    })
}

/// `uid` or `uid:gid`.
fn numeric_user(text: &str) -> Option<(u32, u32)> {
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    match text.split_once(':') {
        None => Some((number(text)?, 0)),
        Some((uid, gid)) => Some((number(uid)?, number(gid)?)),
    }
}

fn mounts(volumes: &[String]) -> Vec<Value> {
    let volume = |path: &String| json!({"destination": path, "type": "tmpfs", "options": ["nosuid", "noexec", "nodev", "relatime", "rw"]});
    let default = [
        json!({"destination": "/proc", "type": "proc", "source": "proc"}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
               "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
               "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}),
        json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
               "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]}),
        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
               "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs",
               "options": ["nosuid", "noexec", "nodev", "ro"]}),
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
               "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}),
    ];
    volumes.iter().map(volume).chain(default).collect()
}

fn annotations(image: &ImageConfig) -> Map<String, Value> {
    let list = |texts: &[String]| (!texts.is_empty()).then(|| texts.join(","));
    let of_members = [
        ("os", Some(image.os.clone())),
        ("os.version", image.os_version.clone()),
        ("os.features", list(&image.os_features)),
        ("architecture", Some(image.architecture.clone())),
        ("variant", image.variant.clone()),
        ("author", image.author.clone()),
        ("created", image.created.clone()),
        ("stopSignal", image.stop_signal.clone()),
        ("exposedPorts", list(&image.exposed_ports)),
    ];
    let of_members = of_members.into_iter().filter_map(|(name, value)| {
        value
            .filter(|value| !value.is_empty())
            .map(|value| (format!("{ANNOTATION}{name}"), Value::from(value)))
    });
    let labels = image.labels.iter().map(|(name, value)| (name.clone(), Value::from(value.clone())));
    of_members.chain(labels).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(values: &[&str]) -> Vec<String> {
        values.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_the_image_says_is_taken_over() {
        let image = ImageConfig {
            os: "linux".to_owned(),
            architecture: "amd64".to_owned(),
            os_features: texts(&["a", "b"]),
            author: Some("someone".to_owned()),
            user: Some("1000:50".to_owned()),
            env: texts(&["A=1", "B=2"]),
            entrypoint: texts(&["/bin/app", "-x"]),
            cmd: texts(&["serve"]),
            working_dir: Some("/srv".to_owned()),
            volumes: texts(&["/data"]),
            exposed_ports: texts(&["443/tcp", "80/tcp"]),
            labels: vec![
                ("own".to_owned(), "1".to_owned()),
                (format!("{ANNOTATION}author"), "the label".to_owned()),
            ],
            stop_signal: Some("SIGINT".to_owned()),
            ..ImageConfig::default()
        };
        let config = runtime_config(&image);
        let process = &config["process"];
        assert_eq!(process["args"], json!(["/bin/app", "-x", "serve"]));
        assert_eq!((&process["cwd"], &process["env"]), (&json!("/srv"), &json!(["A=1", "B=2"])));
        assert_eq!(process["user"], json!({"uid": 1000, "gid": 50}));
        assert_eq!(config["root"]["path"], "rootfs");
        assert_eq!(config["hostname"], "image-rs");
        let volume = &config["mounts"][0];
        assert_eq!((&volume["destination"], &volume["type"]), (&json!("/data"), &json!("tmpfs")));
        assert!(volume.get("source").is_none());
        assert_eq!(volume["options"].as_array().unwrap().len(), 5);
        assert_eq!(config["mounts"][1]["destination"], "/proc");
        assert_eq!(
            config["annotations"],
            json!({
                "own": "1",
                "org.opencontainers.image.os": "linux",
                "org.opencontainers.image.os.features": "a,b",
                "org.opencontainers.image.architecture": "amd64",
                "org.opencontainers.image.author": "the label",
                "org.opencontainers.image.stopSignal": "SIGINT",
                "org.opencontainers.image.exposedPorts": "443/tcp,80/tcp",
            })
        );
    }

    #[test]
    fn what_it_does_not_say_is_the_default() {
        let config = runtime_config(&ImageConfig::default());
        let process = &config["process"];
        assert_eq!((&process["args"], &process["cwd"]), (&json!(["sh"]), &json!("/")));
        assert_eq!(process["env"][0], PATH);
        assert_eq!(config["annotations"], json!({}));
        assert_eq!(config["mounts"].as_array().unwrap().len(), 7);
    }

    #[test]
    fn users_are_taken_over_if_they_are_numbers() {
        for (text, user) in [
            ("0", Some((0, 0))),
            ("7", Some((7, 0))),
            ("4294967295:1", Some((u32::MAX, 1))),
            ("4294967296", None),
            ("nobody", None),
            ("1:users", None),
            ("+1", None),
            ("", None),
            ("1:", None),
        ] {
            assert_eq!(numeric_user(text), user, "{text}");
        }
    }
}
