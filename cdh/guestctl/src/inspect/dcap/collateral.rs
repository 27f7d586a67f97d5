//! A directory with what Intel's provisioning certification service answered.

use std::path::{Path, PathBuf};

use cc_verify::tdx::Collateral;

use crate::{failure::Failure, inspect::read_bounded};

const TCB_INFO: &str = "tcbInfo.json";
const QE_IDENTITY: &str = "qeIdentity.json";
const SIGNING_CHAIN: &str = "tcb-signing-chain.pem";

/// Reads `tcbInfo.json`, `qeIdentity.json`, `tcb-signing-chain.pem` and, if there are any, revocation lists (`*.crl`,
/// DER). Signatures and dates are checked later, against the quote.
pub(in crate::inspect) fn load(folder: &Path) -> Result<Collateral, Failure> {
    let text = |name: &str| {
        let path = folder.join(name);
        String::from_utf8(read_bounded(&path)?).map_err(|_| malformed(&path, "not text".to_owned()))
    };
    let (info, identity, chain) = (text(TCB_INFO)?, text(QE_IDENTITY)?, text(SIGNING_CHAIN)?);
    let lists = lists(folder)?.iter().map(|path| read_bounded(path)).collect::<Result<_, _>>()?;
    Collateral::parse(&info, &identity, &chain)
        .and_then(|collateral| collateral.with_revocation_lists(lists))
        .map_err(|rejection| malformed(folder, rejection.to_string()))
}

fn lists(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let unreadable = |source| Failure::Unreadable { path: folder.to_owned(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "crl") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn malformed(path: &Path, why: String) -> Failure {
    Failure::Malformed { path: path.to_owned(), kind: "set of TDX collateral", why }
}
