//! From the request for one layer to its annotation packet: which key, where it is registered, how it wraps.
//!
//! Image tools ask once for each layer, several at a time. A key that was registered under a given keyid is therefore
//! remembered for as long as the process runs, by its path at the key broker: another key there would make the layers
//! before unreadable, and is refused. What other processes registered is not known here: the key broker shows a key to attested
//! machines alone. So a new key takes a given name only where the caller says that it may replace what is there.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use cc_crypto::{Secret, cipher};
use cc_daemon::confined::read_below;
use cc_kbs::ResourceUri;
use cc_kbs::admin::Administrator;
use cc_sealed::{AnnotationPacket, WrapParameters, key_provider};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::config::Config;
use crate::error::KeyProviderError;
use crate::key_id;

/// Name of this provider in the requests of image tools and in the annotations of images.
const PROVIDER: &str = "attestation-agent";
/// Most keys that are remembered.
const MAX_KEYS: usize = 1024;
/// Name of the sample key in images of the existing stack.
const SAMPLE_ID: &str = "kbs:///default/test-key/1";
/// The sample key of the existing stack, published with it.
const SAMPLE_KEY: [u8; cipher::KEY_LEN] = [
    0xd9, 0x9b, 0x77, 0x05, 0xb0, 0xba, 0x7a, 0x16, 0x82, 0x95, 0xb3, 0xa3, 0x36, 0x72, 0x70, 0xb0, 0xdd,
    0x9b, 0x37, 0x1b, 0xf5, 0x14, 0xca, 0x8b, 0x9b, 0xa7, 0xf0, 0xa3, 0x37, 0x11, 0xda, 0xea,
];

/// What wraps.
#[derive(Debug)]
pub struct Wrapper {
    administrator: Option<Administrator>,
    key_dir: Option<PathBuf>,
    allow_sample: bool,
    /// Folders of the key broker, `repository/type`, in which keys are registered.
    register_below: Vec<String>,
    /// Keys registered under a name that the caller gave, by their path at the key broker. Locked until the key broker has
    /// a new one.
    registered: Mutex<HashMap<String, Secret>>,
}

/// A key and its name.
struct NamedKey {
    uri: ResourceUri,
    key: Secret,
}

impl Wrapper {
    /// One that does what `config` says.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let Config { administrator, key_dir, allow_sample, register_below, address: _ } = config;
        Self { administrator, key_dir, allow_sample, register_below, registered: Mutex::default() }
    }

    /// Answers a `keywrap` request of the key-provider protocol by `deadline`. If keys are registered, the answer comes
    /// when the key broker has the key. The answer, and the name of the key.
    ///
    /// # Errors
    /// A malformed request, parameters that are not understood or not allowed, a key file that cannot be used, and what
    /// the key broker says.
    pub async fn wrap(
        &self,
        request: &[u8],
        deadline: Instant,
    ) -> Result<(Vec<u8>, String), KeyProviderError> {
        let request = key_provider::parse_wrap(request, PROVIDER)?;
        let parameters = WrapParameters::parse(request.parameter.as_deref())?;
        let named = |uri: &ResourceUri, key: &Secret| {
            AnnotationPacket::wrap(&uri.to_string(), parameters.algorithm, key, &request.options)
        };
        let packet = if parameters.sample {
            let NamedKey { uri, key } = self.sample()?;
            named(&uri, &key)?
        } else {
            let uri = match &parameters.key_id {
                Some(text) => key_id::parse(text)?,
                None => key_id::random()?,
            };
            let given = parameters.key_path.as_deref().map(|path| self.read_key(path)).transpose()?;
            match &self.administrator {
                None => named(&uri, &given.ok_or(KeyProviderError::KeyLost)?)?,
                Some(administrator) => {
                    self.check_name(&uri)?;
                    let mut registered = self.registered.lock().await;
                    let known = registered.get(&uri.http_path());
                    if let Some(known) = known {
                        if given.is_some_and(|given| !known.matches(given.expose())) {
                            return Err(KeyProviderError::OtherKey(uri.to_string()));
                        }
                        named(&uri, known)?
                    } else {
                        if registered.len() >= MAX_KEYS {
                            return Err(KeyProviderError::TooManyKeys(registered.len()));
                        }
                        if given.is_none() && parameters.key_id.is_some() && !parameters.overwrite {
                            return Err(KeyProviderError::MaybeTaken(uri.to_string()));
                        }
                        let key = given.map_or_else(random_key, Ok)?;
                        administrator.store(&uri, &key, deadline).await.map_err(|source| {
                            KeyProviderError::Registration { kid: uri.to_string(), source }
                        })?;
                        let packet = named(&uri, &key)?;
                        // Nobody can ask for a name again that was made here.
                        if parameters.key_id.is_some() {
                            registered.insert(uri.http_path(), key);
                        }
                        packet
                    }
                }
            }
        };
        Ok((key_provider::wrapped(packet.to_json().as_bytes()), packet.kid))
    }

    fn sample(&self) -> Result<NamedKey, KeyProviderError> {
        if !self.allow_sample {
            return Err(KeyProviderError::Sample);
        }
        Ok(NamedKey { uri: key_id::parse(SAMPLE_ID)?, key: Secret::new(SAMPLE_KEY.to_vec()) })
    }

    /// That `uri` lies where keys of images belong: callers have no identity, and the administrator may write everywhere.
    fn check_name(&self, uri: &ResourceUri) -> Result<(), KeyProviderError> {
        let folder = uri.segments().iter().take(2).map(String::as_str).collect::<Vec<_>>().join("/");
        if self.register_below.contains(&folder) {
            return Ok(());
        }
        let why = format!("keys are registered below {} alone", self.register_below.join(" and "));
        Err(KeyProviderError::KeyId { kid: uri.to_string(), why })
    }

    /// The key in the file that a caller names: below the folder of keys, whatever links say.
    fn read_key(&self, path: &str) -> Result<Secret, KeyProviderError> {
        let unusable = |why: &str| KeyProviderError::KeyFile {
            path: path.chars().take(200).collect(),
            why: why.to_owned(),
        };
        let folder = self
            .key_dir
            .as_deref()
            .ok_or_else(|| unusable("the key provider was started in / and without --key-dir"))?;
        // One answer for all that lies outside, so that nobody learns what there is.
        let outside = || unusable("there is no such file below the folder of keys");
        let canonical = folder.join(path).canonicalize().map_err(|_| outside())?;
        let name = canonical.strip_prefix(folder).map_err(|_| outside())?;
        let key = read_key_file(folder, name).map_err(|e| unusable(&e.to_string()))?;
        if key.len() != cipher::KEY_LEN {
            return Err(unusable(&format!("it has {} bytes, a key has {}", key.len(), cipher::KEY_LEN)));
        }
        Ok(key)
    }
}

fn random_key() -> Result<Secret, KeyProviderError> {
    cipher::random_key().map_err(|e| KeyProviderError::Random(e.to_string()))
}

fn read_key_file(folder: &Path, name: &Path) -> std::io::Result<Secret> {
    // One more than a key has, to tell how long the file is that is none.
    read_below(folder, name, 4096).map(Secret::new)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;

    const KEY: [u8; 32] = [7; 32];

    fn wrapper(key_dir: &Path, allow_sample: bool) -> Wrapper {
        Wrapper::new(Config {
            address: "127.0.0.1:1".parse().unwrap(),
            administrator: None,
            key_dir: Some(key_dir.canonicalize().unwrap()),
            allow_sample,
            register_below: Vec::new(),
        })
    }

    /// What the annotation says of private options wrapped with `parameter`.
    async fn wrap(wrapper: &Wrapper, parameter: &str) -> Result<AnnotationPacket, KeyProviderError> {
        let request = json!({"op": "keywrap", "keywrapparams": {
            "ec": {"Parameters": {PROVIDER: [json!(parameter.as_bytes())]}}, "optsdata": b"options".to_vec()}});
        let deadline = Instant::now() + Duration::from_secs(5);
        let (answer, kid) = wrapper.wrap(request.to_string().as_bytes(), deadline).await?;
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        let annotation: Vec<u8> =
            serde_json::from_value(answer["keywrapresults"]["annotation"].clone()).unwrap();
        let packet = AnnotationPacket::parse(&annotation).unwrap();
        assert_eq!(packet.kid, kid);
        Ok(packet)
    }

    #[tokio::test]
    async fn the_key_of_the_file_wraps_by_the_algorithm_that_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("key"), KEY).unwrap();
        let wrapper = wrapper(folder.path(), false);
        let absolute = format!("{}/key", folder.path().display());
        for (parameter, kid, algorithm) in [
            ("keypath=key::keyid=/r/t/g", "kbs:///r/t/g", "A256GCM"),
            (
                &*format!("keypath={absolute}::keyid=kbs:///r/t/g::algorithm=A256CTR"),
                "kbs:///r/t/g",
                "A256CTR",
            ),
        ] {
            let packet = wrap(&wrapper, parameter).await.unwrap();
            assert_eq!(packet.kid, kid);
            assert!(packet.to_json().contains(algorithm), "{parameter}");
            assert_eq!(packet.unwrap(&Secret::new(KEY.to_vec())).unwrap().expose(), b"options");
        }
        let random = wrap(&wrapper, "keypath=key").await.unwrap().kid;
        assert!(random.starts_with("kbs:///default/image-kek/"), "{random}");
    }

    #[tokio::test]
    async fn key_files_stay_in_their_folder_and_have_32_bytes() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("keys");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(root.path().join("outside"), KEY).unwrap();
        std::fs::write(folder.join("short"), [7; 31]).unwrap();
        std::fs::write(folder.join("long"), [7; 33]).unwrap();
        std::fs::write(folder.join("key"), KEY).unwrap();
        symlink("../outside", folder.join("escape")).unwrap();
        symlink("key", folder.join("link")).unwrap();
        let wrapper = wrapper(&folder, false);
        assert!(wrap(&wrapper, "keypath=link").await.is_ok(), "a link that stays inside is followed");
        let outside = format!("{}/outside", root.path().display());
        for path in ["escape", "../outside", &outside, "/etc/machine-id", "short", "long", "absent", "."] {
            let e = wrap(&wrapper, &format!("keypath={path}")).await.unwrap_err();
            assert_eq!(e.code(), "KEY_FILE_UNUSABLE", "{path}: {e}");
        }
    }

    #[tokio::test]
    async fn a_key_that_nobody_would_have_and_the_sample_key_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let careful = wrapper(folder.path(), false);
        for parameter in ["", "Enabled", "keyid=/r/t/g"] {
            assert_eq!(
                wrap(&careful, parameter).await.unwrap_err().code(),
                "KEY_WOULD_BE_LOST",
                "{parameter}"
            );
        }
        assert_eq!(wrap(&careful, "sample=true").await.unwrap_err().code(), "SAMPLE_KEY_REFUSED");
        let packet = wrap(&wrapper(folder.path(), true), "sample=true").await.unwrap();
        assert_eq!(packet.kid, SAMPLE_ID);
        assert_eq!(packet.unwrap(&Secret::new(SAMPLE_KEY.to_vec())).unwrap().expose(), b"options");
    }
}
