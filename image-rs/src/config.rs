//! Image configurations (OCI image specification, config.md; the same document in Docker's images).
//!
//! Only what a runtime needs is kept. `rootfs.diff_ids` are the digests of the uncompressed layers: they, and with them
//! the whole root file system, are covered by the digest of this document, which the manifest names.

use crate::{
    Algorithm, Digest, Error,
    json::{self, Object},
};

const WHAT: &str = "image configuration";
const MAX_LAYERS: usize = 500;
/// Most elements of `Env` and other lists.
const MAX_LIST: usize = 10_000;
const MEMBERS: [&str; 9] =
    ["architecture", "os", "os.version", "os.features", "variant", "author", "created", "config", "rootfs"];
const CONFIG_MEMBERS: [&str; 9] =
    ["User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels", "StopSignal"];

/// What an image says about running it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// Operating system; always `linux`.
    pub os: String,
    /// Architecture, in Go's words.
    pub architecture: String,
    /// Version of the architecture.
    pub variant: Option<String>,
    /// Version of the operating system.
    pub os_version: Option<String>,
    /// Features of the operating system that are needed.
    pub os_features: Vec<String>,
    /// Who made it.
    pub author: Option<String>,
    /// When it was made, RFC 3339 text, not checked.
    pub created: Option<String>,
    /// User and group to run as, not checked.
    pub user: Option<String>,
    /// Environment, `NAME=value`.
    pub env: Vec<String>,
    /// Start of the command line.
    pub entrypoint: Vec<String>,
    /// Its end, or the whole.
    pub cmd: Vec<String>,
    /// Working directory.
    pub working_dir: Option<String>,
    /// Paths of volumes.
    pub volumes: Vec<String>,
    /// Ports, `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// Labels.
    pub labels: Vec<(String, String)>,
    /// Signal that stops it.
    pub stop_signal: Option<String>,
    /// Digests of the uncompressed layers, the lowest first.
    pub diff_ids: Vec<Digest>,
}

impl ImageConfig {
    /// Reads a configuration.
    ///
    /// # Errors
    /// `IMAGE_DOCUMENT_INVALID`; also for an operating system other than `linux`.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let value = json::parse(WHAT, bytes)?;
        let document = Object::new(WHAT, &value, &MEMBERS)?;
        let os = document.required_text("os")?;
        if os != "linux" {
            return Err(document.malformed(format!("os is {os:?} instead of \"linux\"")));
        }
        let owned = |object: &Object<'_>, name| Ok::<_, Error>(object.text(name)?.map(str::to_owned));
        let mut parsed = Self {
            os: os.to_owned(),
            architecture: document.required_text("architecture")?.to_owned(),
            variant: owned(&document, "variant")?,
            os_version: owned(&document, "os.version")?,
            os_features: document.texts("os.features", MAX_LIST)?,
            author: owned(&document, "author")?,
            created: owned(&document, "created")?,
            diff_ids: read_diff_ids(&document)?,
            ..Self::default()
        };
        if let Some(config) = document.object("config", &CONFIG_MEMBERS)? {
            parsed.user = owned(&config, "User")?;
            parsed.env = config.texts("Env", MAX_LIST)?;
            parsed.entrypoint = config.texts("Entrypoint", MAX_LIST)?;
            parsed.cmd = config.texts("Cmd", MAX_LIST)?;
            parsed.working_dir = owned(&config, "WorkingDir")?;
            parsed.volumes = config.keys("Volumes")?;
            parsed.exposed_ports = config.keys("ExposedPorts")?;
            parsed.labels = config.pairs("Labels")?;
            parsed.stop_signal = owned(&config, "StopSignal")?;
        }
        Ok(parsed)
    }
}

fn read_diff_ids(document: &Object<'_>) -> Result<Vec<Digest>, Error> {
    let rootfs = document.object("rootfs", &["type", "diff_ids"])?;
    let rootfs = rootfs.ok_or_else(|| document.malformed("rootfs is missing"))?;
    match rootfs.required_text("type")? {
        "layers" => {}
        other => return Err(rootfs.malformed(format!("type is {other:?} instead of \"layers\""))),
    }
    let parse = |text: &String| {
        let digest: Digest = text.parse().map_err(|error: Error| rootfs.malformed(error.to_string()))?;
        match digest.algorithm() {
            Algorithm::Sha256 | Algorithm::Sha512 => Ok(digest),
            Algorithm::Sha384 => Err(rootfs.malformed("diff_ids are sha256 or sha512")),
        }
    };
    rootfs.texts("diff_ids", MAX_LAYERS)?.iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn config() -> Value {
        json!({
            "os": "linux", "architecture": "amd64", "created": "2026-01-01T00:00:00Z", "history": [{}],
            "config": {"Env": ["A=b"], "Cmd": ["sh"], "Entrypoint": null, "Volumes": {"/v": {}}, "Labels": {"l": "m"},
                       "ExposedPorts": {"80/tcp": {}}, "WorkingDir": "/w", "User": "1:2", "ArgsEscaped": true},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", "00".repeat(32))]},
        })
    }

    #[test]
    fn what_a_runtime_needs_is_read() {
        let parsed = ImageConfig::parse(config().to_string().as_bytes()).unwrap();
        assert_eq!(
            (parsed.env, parsed.cmd, parsed.entrypoint),
            (vec!["A=b".into()], vec!["sh".into()], vec![])
        );
        assert_eq!((parsed.volumes, parsed.exposed_ports), (vec!["/v".into()], vec!["80/tcp".into()]));
        assert_eq!((parsed.diff_ids.len(), parsed.user.as_deref()), (1, Some("1:2")));
        assert_eq!(parsed.labels, [("l".into(), "m".into())]);
    }

    #[test]
    fn other_forms_are_refused() {
        for edit in [
            (|c: &mut Value| c["os"] = json!("windows")) as fn(&mut Value),
            |c| c["os"] = Value::Null,
            |c| c["OS"] = json!("linux"),
            |c| c["rootfs"] = Value::Null,
            |c| c["rootfs"]["type"] = json!("other"),
            |c| c["rootfs"]["diff_ids"] = json!([1]),
            |c| c["rootfs"]["diff_ids"] = json!([format!("sha384:{}", "00".repeat(48))]),
            |c| c["config"]["Env"] = json!("A=b"),
            |c| c["config"]["env"] = json!(["A=b"]),
            |c| c["config"] = json!([]),
        ] {
            let mut value = config();
            edit(&mut value);
            let error = ImageConfig::parse(value.to_string().as_bytes()).unwrap_err();
            assert_eq!(error.code(), "IMAGE_DOCUMENT_INVALID", "{error}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = ImageConfig::parse(&bytes);
        }
    }
}
