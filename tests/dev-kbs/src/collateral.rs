//! The collateral directory: what Intel says about the security of platforms, as files.
//!
//! One set is the answer of Intel's provisioning certification service (version 4) for one kind of platform (FMSPC), in
//! three files: `tcbInfo.json` and `qeIdentity.json` (the bodies, unchanged to the byte, because they are signed) and
//! `tcb-signing-chain.pem` (the issuer chain of their headers, as PEM). Revocation lists (DER) beside them end in
//! `.crl`. A directory holds one set, or sets in directories below it, or both: the vendor's and a test's may lie side
//! by side. Not here: whether a set is genuine and current; that is `cc_verify`'s matter.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cc_verify::tdx::Collateral;
use serde::Deserialize;

use crate::Error;

/// Largest file that is read, in bytes; Intel's have some ten thousand.
const FILE_LIMIT: u64 = 1 << 20;
/// Most sets in a directory.
const SETS: usize = 64;

/// Collateral by kind of platform.
#[derive(Debug, Default)]
pub struct CollateralStore {
    sets: Vec<(String, Collateral)>,
}

/// The one member of a TCB info that tells which platforms it is about.
#[derive(Deserialize)]
struct TcbInfoFile {
    #[serde(rename = "tcbInfo")]
    tcb_info: TcbInfo,
}

#[derive(Deserialize)]
struct TcbInfo {
    fmspc: String,
}

impl CollateralStore {
    /// All sets in `directory` and in the directories right below it.
    ///
    /// # Errors
    /// [`Error::Options`] when something cannot be read, a set is incomplete, two are about the same platforms, there
    /// is none, or there are too many.
    pub fn read(directory: &Path) -> Result<Self, Error> {
        let mut sets: Vec<(String, Collateral)> = Vec::new();
        for place in places(directory).map_err(|error| refused(directory, error))? {
            let Some((fmspc, collateral)) = read_set(&place)? else { continue };
            if sets.iter().any(|(known, _)| *known == fmspc) {
                return Err(refused(&place, format!("there is another set for FMSPC {fmspc}")));
            }
            sets.push((fmspc, collateral));
        }
        if sets.is_empty() || sets.len() > SETS {
            let why = format!("{} sets of files are there, 1 to {SETS} are taken", sets.len());
            return Err(refused(directory, why));
        }
        Ok(Self { sets })
    }

    /// The set about the platforms with this FMSPC.
    #[must_use]
    pub fn about(&self, fmspc: [u8; 6]) -> Option<&Collateral> {
        let fmspc = hex::encode_upper(fmspc);
        self.sets.iter().find(|(known, _)| *known == fmspc).map(|(_, collateral)| collateral)
    }
}

/// The set in one directory, with the FMSPC that it is about; nothing when there is none.
fn read_set(place: &Path) -> Result<Option<(String, Collateral)>, Error> {
    let file = |name| {
        let path = place.join(name);
        read_file(&path).map_err(|error| refused(&path, error))
    };
    let (tcb_info, qe_identity, signing_chain) =
        match (file("tcbInfo.json")?, file("qeIdentity.json")?, file("tcb-signing-chain.pem")?) {
            (Some(tcb_info), Some(qe_identity), Some(chain)) => (tcb_info, qe_identity, chain),
            (None, None, None) => return Ok(None),
            _ => {
                let why =
                    "tcbInfo.json, qeIdentity.json and tcb-signing-chain.pem must all be there, or none";
                return Err(refused(place, why));
            }
        };
    let lists = revocation_lists(place).map_err(|error| refused(place, error))?;
    let text = |bytes| String::from_utf8(bytes).map_err(|_| refused(place, "a file is not text"));
    let (tcb_info, qe_identity, signing_chain) = (text(tcb_info)?, text(qe_identity)?, text(signing_chain)?);
    let collateral = Collateral::parse(&tcb_info, &qe_identity, &signing_chain)
        .and_then(|collateral| collateral.with_revocation_lists(lists))
        .map_err(|rejection| refused(place, rejection))?;
    let about: TcbInfoFile = serde_json::from_str(&tcb_info).map_err(|error| refused(place, error))?;
    Ok(Some((about.tcb_info.fmspc.to_uppercase(), collateral)))
}

fn revocation_lists(place: &Path) -> io::Result<Vec<Vec<u8>>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(place)? {
        paths.push(entry?.path());
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "crl"));
    paths.sort();
    paths.iter().map(|path| read_file(path)?.ok_or_else(|| io::ErrorKind::NotFound.into())).collect()
}

/// `directory` and the directories right below it, in a fixed order.
fn places(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut places = vec![directory.to_owned()];
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            places.push(path);
        }
    }
    places.sort();
    Ok(places)
}

/// Why what is at `path` cannot be used.
fn refused(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::Options(format!("--collateral: {}: {why}", path.display()))
}

/// The content of a file, nothing when there is none.
fn read_file(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        Ok(found) if found.len() > FILE_LIMIT => Err(io::ErrorKind::FileTooLarge.into()),
        Ok(_) => fs::read(path).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use tee_emulator::{IntelChain, tdx};

    use super::*;

    fn put(directory: &Path) {
        tdx::Collateral::issue(&IntelChain::generate().unwrap()).unwrap().write(directory).unwrap();
    }

    #[test]
    fn sets_are_found_here_and_right_below() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("README"), "not one of the files").unwrap();
        fs::create_dir(place.path().join("empty")).unwrap();
        put(&place.path().join("vendor/deeper"));
        assert!(CollateralStore::read(place.path()).unwrap_err().to_string().contains("0 sets"));
        put(&place.path().join("test"));
        let store = CollateralStore::read(place.path()).unwrap();
        assert!(store.about([0x7E, 0x57, 0x6F, 0, 0, 0]).is_some());
        assert!(store.about([0; 6]).is_none());
        put(place.path());
        let twice = CollateralStore::read(place.path()).unwrap_err().to_string();
        assert!(twice.contains("another set for FMSPC 7E576F000000"), "{twice}");
    }

    #[test]
    fn missing_large_and_broken_files_are_told() {
        let place = tempfile::tempdir().unwrap();
        let error = || CollateralStore::read(place.path()).unwrap_err().to_string();
        assert!(CollateralStore::read(&place.path().join("none")).is_err());
        put(place.path());
        let identity = place.path().join("qeIdentity.json");
        fs::write(&identity, "{}").unwrap();
        assert!(error().contains("QE identity"), "{}", error());
        fs::write(&identity, vec![b' '; (1 << 20) + 1]).unwrap();
        assert!(error().contains("large"), "{}", error());
        fs::remove_file(&identity).unwrap();
        assert!(error().contains("must all be there"), "{}", error());
    }

    #[test]
    fn the_vendors_files_are_read_as_they_are_served() {
        let Some(folder) = cc_vectors::folder("tdx-quote-v4-padded") else { return };
        let store = CollateralStore::read(&folder).unwrap();
        assert!(store.about([0, 0xA0, 0x6D, 8, 0, 0]).is_some());
    }
}
