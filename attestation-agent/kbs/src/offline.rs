//! The offline store: secrets from files inside the guest, without a KBS.
//!
//! Each file is one JSON object from `"<repository>/<type>/<tag>"` to a value in standard base64 with padding.
//! There is no attestation behind it, so it is only for guests whose whole root file system is confidential.
//! The key is the path of the URI; its plugin, host and query play no part.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cc_crypto::Secret;
use serde::de::{Deserialize, Deserializer, Error as _, Visitor};

use crate::error::KbsError;
use crate::foreign;
use crate::uri::ResourceUri;

/// The files that are always looked for, in this order.
pub const DEFAULT_FILES: [&str; 2] =
    ["/etc/aa-offline_fs_kbc-keys.json", "/etc/aa-offline_fs_kbc-resources.json"];
/// Longest file read, in bytes.
const MAX_FILE_LEN: usize = 16 * 1024 * 1024;

/// Secrets by path.
pub struct OfflineStore {
    secrets: BTreeMap<String, Secret>,
}

impl OfflineStore {
    /// Reads `files` in order. One that cannot be read is skipped with a warning; a key that appears again in
    /// a later file replaces the earlier one with a warning.
    ///
    /// # Errors
    /// [`KbsError::OfflineStore`] for a file that is malformed or longer than 16 MiB; its content is not
    /// quoted.
    pub fn load<P: AsRef<Path>>(files: &[P]) -> Result<Self, KbsError> {
        let mut secrets = BTreeMap::new();
        for path in files.iter().map(AsRef::as_ref) {
            let text = match read(path) {
                Ok(text) => text,
                Err(e) => {
                    tracing::warn!(path = %path.display(), error = %e, "offline store file skipped");
                    continue;
                }
            };
            for (key, Encoded(secret)) in parse(path, &text)? {
                if secrets.insert(key.clone(), secret).is_some() {
                    tracing::warn!(path = %path.display(), key, "offline resource given again, the later one counts");
                }
            }
        }
        Ok(Self { secrets })
    }

    /// The secret called `uri`, as a copy. The store holds resources alone: what another plugin would give is not there, whatever
    /// its path.
    ///
    /// # Errors
    /// [`KbsError::OfflineNotFound`].
    pub fn fetch(&self, uri: &ResourceUri) -> Result<Secret, KbsError> {
        Some(uri)
            .filter(|uri| uri.plugin() == "resource")
            .and_then(|uri| self.secrets.get(&uri.path()))
            .map(|secret| Secret::new(secret.expose().to_vec()))
            .ok_or_else(|| KbsError::OfflineNotFound { uri: uri.to_string() })
    }
}

impl fmt::Debug for OfflineStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OfflineStore({} resources)", self.secrets.len())
    }
}

/// [`DEFAULT_FILES`] and then the paths in `extra`, separated by commas.
#[must_use]
pub fn files(extra: Option<&str>) -> Vec<PathBuf> {
    let extra = extra.unwrap_or_default().split(',').map(str::trim).filter(|p| !p.is_empty());
    DEFAULT_FILES.into_iter().chain(extra).map(PathBuf::from).collect()
}

fn read(path: &Path) -> std::io::Result<Secret> {
    let file = File::open(path)?;
    let expected = usize::try_from(file.metadata()?.len()).unwrap_or(MAX_FILE_LEN).min(MAX_FILE_LEN);
    // Two bytes of room beyond the expected length: reading to the end does not move the secrets.
    let mut text = Vec::with_capacity(expected + 2);
    file.take(MAX_FILE_LEN as u64 + 1).read_to_end(&mut text)?;
    Ok(Secret::new(text))
}

fn parse(path: &Path, text: &Secret) -> Result<BTreeMap<String, Encoded>, KbsError> {
    let bad = |why: String| KbsError::OfflineStore { path: path.display().to_string(), why };
    if text.len() > MAX_FILE_LEN {
        return Err(bad(format!("longer than {MAX_FILE_LEN} bytes")));
    }
    serde_json::from_slice(text.expose()).map_err(|e| {
        let place = foreign::json_fault(&e);
        bad(if e.is_data() { format!("not an object of texts in standard base64: {place}") } else { place })
    })
}

/// A value, decoded while it is read so that no second text of it remains.
struct Encoded(Secret);

impl<'de> Deserialize<'de> for Encoded {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Base64;
        impl Visitor<'_> for Base64 {
            type Value = Encoded;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("standard base64 with padding")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Encoded, E> {
                STANDARD
                    .decode(text)
                    .map(|bytes| Encoded(Secret::new(bytes)))
                    .map_err(|_| E::custom("not standard base64"))
            }
        }
        d.deserialize_str(Base64).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::{DEFAULT_FILES, OfflineStore, files, parse};
    use crate::{Blame, Secret};

    #[test]
    fn later_files_win_and_missing_ones_are_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let first = path("first.json", r#"{"default/key/1":"b25l","default\/key\/2":"dHdv"}"#);
        let second = path("second.json", r#"{"default/key/1":"b25lIGFnYWlu"}"#);
        let store = OfflineStore::load(&[first, dir.path().join("missing.json"), second]).unwrap();
        assert_eq!(format!("{store:?}"), "OfflineStore(2 resources)");
        for (uri, expected) in [
            ("kbs:///default/key/1", &b"one again"[..]),
            ("kbs://any.host/default/key/2", b"two"),
            ("kbs:///default/key/2?query", b"two"),
        ] {
            assert_eq!(store.fetch(&uri.parse().unwrap()).unwrap().expose(), expected);
        }
        // A rule for kbs:///default/key/1 says nothing of the second.
        for absent in ["kbs:///default/key/3", "kbs+other:///default/key/1"] {
            let e = store.fetch(&absent.parse().unwrap()).unwrap_err();
            assert_eq!((e.code(), e.blame()), ("OFFLINE_NOT_FOUND", Blame::Absent));
        }
    }

    #[test]
    fn malformed_files_are_errors_that_do_not_quote() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.json");
        for text in [
            "",
            "hunter2",
            "[\"hunter2\"]",
            r#"{"a":"hunter2!"}"#,
            r#"{"a":{"b":"hunter2"}}"#,
            r#"{"a":"aHVudGVyMg"}"#,
            r#"{"a":"aHVu"} hunter2"#,
        ] {
            std::fs::write(&path, text).unwrap();
            let e = OfflineStore::load(&[&path]).unwrap_err();
            assert_eq!((e.code(), e.blame()), ("OFFLINE_STORE_INVALID", Blame::Misused), "{text}");
            assert!(!format!("{e} {e:?}").contains("hunter2"), "{e}");
        }
        std::fs::File::create(&path).unwrap().set_len(17 << 20).unwrap();
        assert!(OfflineStore::load(&[&path]).is_err());
    }

    #[test]
    fn extra_files_come_last() {
        assert_eq!(files(None), DEFAULT_FILES.map(PathBuf::from));
        assert_eq!(files(Some("/a, /b,,"))[2..], ["/a", "/b"].map(PathBuf::from));
    }

    proptest! {
        #[test]
        fn never_panics(text in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse(&PathBuf::new(), &Secret::new(text)).is_ok();
        }
    }
}
