//! The `config.json` of a bundle (OCI runtime specification 1.0.2, config.md and config-linux.md), made of an image's
//! configuration.
//!
//! What the image does not say is what `runc spec` and its like write by default. Pure. It does NOT look into the image's
//! files: the user is set by whoever has them ([`with_user`]), and until then is the superuser.

use serde_json::{Map, Value, json};

use crate::{ImageConfig, User};

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
    let namespaces = ["pid", "network", "ipc", "uts", "mount", "cgroup"].map(|kind| json!({"type": kind}));
    let args: Vec<&String> = image.entrypoint.iter().chain(&image.cmd).collect();
    json!({
        "ociVersion": "1.0.2",
        "hostname": "image-rs",
        "root": {"path": "rootfs", "readonly": true},
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
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

/// The text of a document with this user as the one that the process runs as; `None` if it is no such document.
#[must_use]
pub fn with_user(config: &[u8], user: &User) -> Option<Vec<u8>> {
    let mut config: Value = serde_json::from_slice(config).ok()?;
    let process = config.get_mut("process")?.as_object_mut()?;
    let mut value = json!({"uid": user.uid, "gid": user.gid});
    if !user.additional.is_empty() {
        value.as_object_mut()?.insert("additionalGids".to_owned(), json!(user.additional));
    }
    process.insert("user".to_owned(), value);
    serde_json::to_vec(&config).ok()
}

/// The volumes of an image on which nothing is mounted: they are no absolute path below the root directory, or could be read as another.
pub fn unusable_volumes(image: &ImageConfig) -> impl Iterator<Item = &str> {
    image.volumes.iter().map(String::as_str).filter(|path| !is_volume(path))
}

fn is_volume(path: &str) -> bool {
    let inside = path.strip_prefix('/').map(|path| path.strip_suffix('/').unwrap_or(path));
    inside.is_some_and(|inside| {
        inside.split('/').all(|part| !matches!(part, "" | "." | "..")) && !inside.contains(char::is_control)
    })
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
    volumes.iter().filter(|path| is_volume(path)).map(volume).chain(default).collect()
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
            volumes: texts(&["/data", "/", "../x", "/a/../../etc", "", "data", "/a//b", "/a\nb"]),
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
        assert_eq!(process["user"], json!({"uid": 0, "gid": 0}), "the image's files tell who it is");
        assert_eq!(config["root"]["path"], "rootfs");
        assert_eq!(config["hostname"], "image-rs");
        let volume = &config["mounts"][0];
        assert_eq!((&volume["destination"], &volume["type"]), (&json!("/data"), &json!("tmpfs")));
        assert!(volume.get("source").is_none());
        assert_eq!(volume["options"].as_array().unwrap().len(), 5);
        assert_eq!(config["mounts"][1]["destination"], "/proc");
        assert_eq!(unusable_volumes(&image).count(), 7);
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
    fn the_user_is_set_and_nothing_else() {
        let config = runtime_config(&ImageConfig::default());
        let user = User { uid: 1000, gid: 50, additional: vec![10, 34] };
        let text = with_user(config.to_string().as_bytes(), &user).unwrap();
        let mut changed: Value = serde_json::from_slice(&text).unwrap();
        let expected = json!({"uid": 1000, "gid": 50, "additionalGids": [10, 34]});
        assert_eq!(changed["process"]["user"], expected);
        changed["process"]["user"] = json!({"uid": 0, "gid": 0});
        assert_eq!(changed, config);
        assert_eq!(with_user(b"{}", &user), None);
    }
}
