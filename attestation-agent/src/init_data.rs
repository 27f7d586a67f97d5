//! The init-data document the machine was started with, and its way into the agent.
//!
//! Init-data reaches the guest through the host, so it is untrusted until its digest was compared with the
//! field that the hardware signs. Not here: the format and its digest ([`cc_evidence::initdata`]).

use std::path::Path;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cc_evidence::initdata::InitData;
use cc_platform::InitDataBinding;

use crate::agent::Agent;
use crate::config::InitDataSource;

/// Init-data documents above this size are refused, in bytes.
const MAX_DOCUMENT: u64 = 1024 * 1024;

/// Init-data as the agent keeps it.
#[derive(Debug, Clone)]
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

/// Reads the configured init-data and binds it; does nothing when none is configured.
///
/// # Errors
/// An unreadable or malformed document, and a digest that the hardware does not hold. A platform that has no
/// field for it is only logged: the document is then passed on, marked as unchecked.
pub async fn load_and_bind(agent: &Agent, source: &InitDataSource) -> anyhow::Result<()> {
    let init_data = match source {
        InitDataSource::None => return Ok(()),
        InitDataSource::Document(path) => read_document(path)?,
        InitDataSource::Digest(text) => read_digest(text)?,
    };
    match agent.bind_init_data(init_data).await {
        Ok(InitDataBinding::Bound) => tracing::info!("init-data is bound: the hardware holds its digest"),
        Ok(_) => tracing::warn!(
            tee = agent.tee(),
            "this platform has no field for init-data: it is passed on, but nothing vouches for it"
        ),
        Err(e) => return Err(anyhow::Error::new(e).context("checking init-data against the hardware")),
    }
    Ok(())
}

fn read_document(path: &Path) -> anyhow::Result<BoundInitData> {
    let what = || format!("reading the init-data document {}", path.display());
    let size = std::fs::metadata(path).with_context(what)?.len();
    anyhow::ensure!(size <= MAX_DOCUMENT, "{}: {size} bytes, at most {MAX_DOCUMENT} are read", what());
    let text = std::fs::read_to_string(path).with_context(what)?;
    let document = InitData::parse(&text).with_context(what)?;
    Ok(BoundInitData {
        digest: document.digest(),
        algorithm: document.algorithm().as_str().to_owned(),
        toml: Some(text),
        hardware_checked: false,
    })
}

fn read_digest(text: &str) -> anyhow::Result<BoundInitData> {
    let digest = STANDARD.decode(text).context("--initdata-digest is not standard base64")?;
    anyhow::ensure!(
        matches!(digest.len(), 32 | 48 | 64),
        "--initdata-digest has {} bytes, a digest has 32, 48 or 64",
        digest.len()
    );
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
    }
}
