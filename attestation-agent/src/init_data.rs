//! The init-data document the machine was started with, and its way into the agent.
//!
//! Init-data reaches the guest through the host, so it is untrusted until its digest was compared with the
//! field that the hardware signs. Not here: the format and its digest ([`cc_evidence::initdata`]).

use std::io::Read;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cc_evidence::initdata::{self, InitData};
use cc_platform::InitDataBinding;
use tokio::sync::OwnedRwLockWriteGuard;

use crate::agent::Agent;
use crate::config::InitDataSource;
use crate::error::AgentError;

/// Init-data as the agent keeps it.
#[derive(Clone)]
pub struct BoundInitData {
    /// The document text, sent to the key broker with each attestation. Absent when only a digest was given.
    pub toml: Option<String>,
    /// Its digest, raw bytes.
    pub digest: Vec<u8>,
    /// Name of the digest algorithm; empty when only a digest was given.
    pub algorithm: String,
    /// Whether the hardware vouches for the digest.
    pub hardware_checked: bool,
}

impl std::fmt::Debug for BoundInitData {
    /// Without the document: its entries may hold credentials.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BoundInitData")
            .field("toml_bytes", &self.toml.as_ref().map(String::len))
            .field("hardware_checked", &self.hardware_checked)
            .finish_non_exhaustive()
    }
}

/// Reads the configured init-data; `None` when none is configured.
///
/// # Errors
/// An unreadable or malformed document, or a digest that is none.
pub fn load(source: &InitDataSource) -> Result<Option<BoundInitData>, AgentError> {
    match source {
        InitDataSource::None => Ok(None),
        InitDataSource::Document(path) => read_document(path).map(Some),
        InitDataSource::Digest(text) => read_digest(text).map(Some),
    }
}

/// Compares `init_data` with the hardware and keeps it in the slot that was reserved.
///
/// # Errors
/// A digest that the hardware does not hold. A platform that has no field for it is only logged: the document is
/// then passed on, marked as unchecked.
pub async fn bind(
    agent: &Agent,
    init_data: BoundInitData,
    slot: OwnedRwLockWriteGuard<Option<BoundInitData>>,
) -> Result<(), AgentError> {
    match agent.bind_init_data(init_data, slot).await? {
        InitDataBinding::Bound => tracing::info!("init-data is bound: the hardware holds its digest"),
        _ => tracing::warn!(
            tee = agent.tee(),
            "this platform has no field for init-data: it is passed on, but nothing vouches for it"
        ),
    }
    Ok(())
}

fn read_document(path: &Path) -> Result<BoundInitData, AgentError> {
    let bad = |why: String| AgentError::InitDataDocument { path: path.display().to_string(), why };
    let file = std::fs::File::open(path).map_err(|e| bad(e.to_string()))?;
    if !file.metadata().map_err(|e| bad(e.to_string()))?.is_file() {
        return Err(bad("it is no regular file".to_owned()));
    }
    let mut text = String::new();
    let limit = initdata::MAX_LEN as u64 + 1;
    file.take(limit).read_to_string(&mut text).map_err(|e| bad(e.to_string()))?;
    let document = InitData::parse(&text).map_err(|e| bad(e.to_string()))?;
    Ok(BoundInitData {
        digest: document.digest(),
        algorithm: document.algorithm().as_str().to_owned(),
        toml: Some(text),
        hardware_checked: false,
    })
}

fn read_digest(text: &str) -> Result<BoundInitData, AgentError> {
    let digest = STANDARD
        .decode(text)
        .map_err(|_| AgentError::InitData("--initdata-digest is not standard base64".to_owned()))?;
    if !matches!(digest.len(), 32 | 48 | 64) {
        let why = format!("--initdata-digest has {} bytes, a digest has 32, 48 or 64", digest.len());
        return Err(AgentError::InitData(why));
    }
    Ok(BoundInitData { toml: None, digest, algorithm: String::new(), hardware_checked: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_is_standard_base64_of_a_known_length() {
        assert_eq!(read_digest(&STANDARD.encode([7u8; 48])).unwrap().digest, vec![7u8; 48]);
        assert!(read_digest("not base64!").is_err());
        assert!(read_digest(&STANDARD.encode([7u8; 31])).is_err());
    }

    #[test]
    fn document_digest_covers_the_exact_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("initdata.toml");
        std::fs::write(&path, "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n\"a\" = \"b\"\n")
            .unwrap();
        let first = read_document(&path).unwrap();
        assert_eq!(first.digest.len(), 32);
        std::fs::write(&path, "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n\"a\" = \"b\"\n\n")
            .unwrap();
        assert_ne!(read_document(&path).unwrap().digest, first.digest);
        assert!(!format!("{first:?}").contains("\"b\""), "the text of the document is not shown");
    }

    #[test]
    fn what_is_no_document_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let large = dir.path().join("large");
        std::fs::write(&large, vec![b'#'; initdata::MAX_LEN + 1]).unwrap();
        for path in [dir.path().to_owned(), dir.path().join("absent"), large, "/dev/zero".into()] {
            let e = read_document(&path).unwrap_err();
            assert_eq!(e.code(), "INIT_DATA_UNREADABLE");
            assert!(e.to_string().contains(&path.display().to_string()), "{e}");
        }
    }
}
