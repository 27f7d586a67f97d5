//! The init-data document the machine was started with, and its way into the agent.
//!
//! Init-data reaches the guest through the host, so it is untrusted until its digest was compared with the
//! field that the hardware signs. What the command line names must be what the hardware holds, or the agent does not
//! start. What a peer-pod image left in its folder is only an offer: it is taken if the hardware holds its digest, and
//! else left alone, as the existing agent does with it. Not here: the format and its digest ([`cc_evidence::initdata`]),
//! the comparison ([`crate::agent`]), and the files of a peer pod ([`peer_pod`]).

use std::io::{self, ErrorKind, Read as _};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cc_evidence::initdata::{self, InitData};
use cc_platform::{InitDataBinding, SysRoot};
use tokio::sync::OwnedRwLockWriteGuard;

use crate::agent::Agent;
use crate::config::InitDataSource;
use crate::error::AgentError;

pub(crate) mod field;
pub mod peer_pod;

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

impl BoundInitData {
    /// A digest without its document, not yet compared with anything.
    #[must_use]
    pub fn of_digest(digest: Vec<u8>) -> Self {
        Self { toml: None, digest, algorithm: String::new(), hardware_checked: false }
    }

    /// A document, not yet compared with anything.
    #[must_use]
    pub fn of_document(document: &InitData) -> Self {
        Self {
            toml: Some(document.body().to_owned()),
            digest: document.digest(),
            algorithm: document.algorithm().as_str().to_owned(),
            hardware_checked: false,
        }
    }

    /// The document, if the hardware vouches for it.
    #[must_use]
    pub fn vouched_document(&self) -> Option<InitData> {
        let text = self.toml.as_deref().filter(|_| self.hardware_checked)?;
        InitData::parse(text).ok()
    }
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

/// Init-data that was found and not yet compared with the hardware.
#[derive(Debug)]
pub enum Found {
    /// The command line names it: the hardware must hold it.
    Named(BoundInitData),
    /// It lay in the folder of a peer pod: it is used if the hardware holds it.
    Offered(BoundInitData),
}

/// Reads the configured init-data; `None` when there is none.
///
/// # Errors
/// An unreadable or malformed document that was named, or a digest that is none.
pub fn load(source: &InitDataSource, root: &SysRoot) -> Result<Option<Found>, AgentError> {
    match source {
        InitDataSource::PeerPod => Ok(peer_pod::find(root).map(Found::Offered)),
        InitDataSource::Document(path) => read_document(path).map(Found::Named).map(Some),
        InitDataSource::Digest(text) => read_digest(text).map(Found::Named).map(Some),
    }
}

/// Compares `found` with the hardware and keeps it in the slot that was reserved.
///
/// # Errors
/// Named init-data that the hardware does not hold. A platform that has no field for it is only logged: the document
/// is then passed on, marked as unchecked.
pub async fn bind(
    agent: &Agent,
    found: Found,
    slot: OwnedRwLockWriteGuard<Option<BoundInitData>>,
) -> Result<(), AgentError> {
    let init_data = match found {
        Found::Named(init_data) => init_data,
        Found::Offered(init_data) => {
            peer_pod::take(agent, init_data, slot).await;
            return Ok(());
        }
    };
    match agent.bind_init_data(init_data, slot).await? {
        InitDataBinding::Bound => tracing::info!("init-data is bound: the hardware holds its digest"),
        InitDataBinding::Claimed => tracing::warn!(
            tee = agent.tee(),
            "the host says that the hardware holds the init-data's digest, or may do so: in a quote that nobody has verified, \
             by a TPM that no TEE vouches for. It is passed on, and the relying party's verdict counts, but no configuration \
             counts as measured by it"
        ),
        InitDataBinding::Unsupported => tracing::warn!(
            tee = agent.tee(),
            "this platform has no field for init-data: it is passed on, but nothing vouches for it"
        ),
    }
    Ok(())
}

fn read_document(path: &Path) -> Result<BoundInitData, AgentError> {
    let bad = |why: String| AgentError::InitDataDocument { path: path.display().to_string(), why };
    let text = read_text(path, initdata::MAX_LEN).map_err(|e| match e.kind() {
        ErrorKind::NotFound | ErrorKind::InvalidInput | ErrorKind::InvalidData => bad(e.to_string()),
        _ => AgentError::InitDataWithheld { path: path.display().to_string(), why: e.to_string() },
    })?;
    let document = InitData::parse(&text).map_err(|e| bad(e.to_string()))?;
    Ok(BoundInitData::of_document(&document))
}

/// The text of a regular file of at most `limit` bytes; one byte more is read, so that the parser sees the excess.
fn read_text(path: &Path, limit: usize) -> io::Result<String> {
    // Asked before opening: opening a pipe would wait for its writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is no regular file"));
    }
    let mut text = String::new();
    std::fs::File::open(path)?.take(limit as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}

fn read_digest(text: &str) -> Result<BoundInitData, AgentError> {
    let digest = STANDARD
        .decode(text)
        .map_err(|_| AgentError::InitData("--initdata-digest is not standard base64".to_owned()))?;
    if !matches!(digest.len(), 32 | 48 | 64) {
        let why = format!("--initdata-digest has {} bytes, a digest has 32, 48 or 64", digest.len());
        return Err(AgentError::InitData(why));
    }
    Ok(BoundInitData::of_digest(digest))
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
    fn only_what_the_hardware_holds_is_a_document_that_vouches() {
        let document = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n\"a\" = \"b\"\n";
        let mut init_data = BoundInitData::of_document(&InitData::parse(document).unwrap());
        assert!(init_data.vouched_document().is_none());
        init_data.hardware_checked = true;
        assert_eq!(init_data.vouched_document().unwrap().body(), document);
        let digest = BoundInitData { hardware_checked: true, ..BoundInitData::of_digest(vec![1; 32]) };
        assert!(digest.vouched_document().is_none(), "a digest is no document");
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
