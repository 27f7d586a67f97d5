//! Init-data of a peer pod: what the image of cloud-api-adaptor leaves below `/run/peerpod`.
//!
//! `initdata` holds the document as base64 of gzip, `initdata.digest` its digest in hexadecimal. The image starts the
//! agent without a word about them, and on machines with a vTPM it extends PCR 8 with the digest itself, a moment after
//! it wrote the files that start the agent. So nothing is extended here: PCR 8 is read, for a few seconds if it is
//! still zero, and the document is sent to the key broker only if the hardware of this machine holds its digest. In
//! every other case the agent works without init-data, as the existing one does, and says so in its log.

use std::path::Path;
use std::time::Duration;

use cc_evidence::initdata::{InitData, carrier};
use cc_platform::{InitDataBinding, SysRoot};
use tokio::sync::OwnedRwLockWriteGuard;

use super::{BoundInitData, read_text};
use crate::agent::Agent;

/// The document, base64 of gzip.
const DOCUMENT: &str = "run/peerpod/initdata";

/// Its digest, lower-case hexadecimal.
const DIGEST: &str = "run/peerpod/initdata.digest";

/// How often a PCR 8 that is still zero is read again, and how long to wait in between.
const READS: u32 = 20;
const BETWEEN_READS: Duration = Duration::from_millis(250);

/// The document that a peer-pod image left below `root`; none if there is none, or none that can be read.
pub(super) fn find(root: &SysRoot) -> Option<BoundInitData> {
    let path = root.path(DOCUMENT);
    if !path.exists() {
        return None;
    }
    match read(&path, &root.path(DIGEST)) {
        Ok(init_data) => Some(init_data),
        Err(why) => {
            tracing::warn!(path = %path.display(), why, "the init-data of the peer pod cannot be used and is not sent");
            None
        }
    }
}

fn read(document: &Path, digest: &Path) -> Result<BoundInitData, String> {
    let text = read_text(document, carrier::MAX_COMPRESSED_LEN * 3 / 2).map_err(|e| e.to_string())?;
    let body = carrier::from_annotation(&text).map_err(|e| e.to_string())?;
    let init_data = BoundInitData::of_document(&InitData::parse(&body).map_err(|e| e.to_string())?);
    if digest.exists() {
        let noted = read_text(digest, 128).map_err(|e| e.to_string())?;
        if noted.trim_ascii() != hex::encode(&init_data.digest) {
            return Err(format!("its digest is not the one in {}", digest.display()));
        }
    }
    Ok(init_data)
}

/// Keeps `init_data` if the hardware holds its digest; says what became of it.
pub(super) async fn take(
    agent: &Agent,
    mut init_data: BoundInitData,
    mut slot: OwnedRwLockWriteGuard<Option<BoundInitData>>,
) {
    let tee = agent.tee();
    let mut held = agent.holds_init_data(&init_data.digest).await;
    for _ in 1..READS {
        if !matches!(held, Ok(None)) {
            break;
        }
        tokio::time::sleep(BETWEEN_READS).await;
        held = agent.holds_init_data(&init_data.digest).await;
    }
    match held {
        Ok(Some(InitDataBinding::Bound)) => {
            tracing::info!(tee, "init-data of the peer pod is bound: the hardware holds its digest");
            init_data.hardware_checked = true;
            *slot = Some(init_data);
        }
        Ok(None) => tracing::warn!(
            tee,
            "the init-data of the peer pod is not sent: PCR 8 is still zero, so the image has not measured it"
        ),
        Ok(Some(_)) => tracing::warn!(
            tee,
            "the init-data of the peer pod is not sent: nothing that this machine can ask vouches for its digest"
        ),
        Err(e) => tracing::warn!(
            tee, code = e.code(), why = %e, hint = e.hint(),
            "the init-data of the peer pod is not sent"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = "version = \"0.1.0\"\nalgorithm = \"sha384\"\n[data]\n\"aa.toml\" = ''\n";

    fn pod(document: Option<&str>, digest: Option<&str>) -> Option<BoundInitData> {
        let folder = tempfile::tempdir().unwrap();
        let root = SysRoot::new(folder.path().to_owned());
        std::fs::create_dir_all(folder.path().join("run/peerpod")).unwrap();
        for (path, text) in [(DOCUMENT, document), (DIGEST, digest)] {
            if let Some(text) = text {
                std::fs::write(root.path(path), text).unwrap();
            }
        }
        find(&root)
    }

    #[test]
    fn the_document_is_found_with_and_without_its_digest() {
        let text = carrier::to_annotation(BODY).unwrap();
        let digest = hex::encode(InitData::parse(BODY).unwrap().digest());
        for noted in [None, Some(digest.as_str()), Some(&format!("{digest}\n"))] {
            let found = pod(Some(&text), noted).unwrap();
            assert_eq!(found.toml.as_deref(), Some(BODY));
            assert!(!found.hardware_checked);
        }
    }

    #[test]
    fn what_cannot_be_used_counts_as_none() {
        let text = carrier::to_annotation(BODY).unwrap();
        let no_document = carrier::to_annotation("x = 1").unwrap();
        let bomb = carrier::to_annotation(&" ".repeat(1 << 20)).unwrap();
        let zeros = "00".repeat(48);
        for (document, digest) in [
            (None, None),
            (None, Some(zeros.as_str())),
            (Some(text.as_str()), Some(zeros.as_str())),
            (Some(&text), Some("")),
            (Some(BODY), None),
            (Some(&no_document), None),
            (Some(&bomb), None),
            (Some(""), None),
        ] {
            assert!(pod(document, digest).is_none(), "{document:?} {digest:?}");
        }
    }
}
