//! From the platform's certificate (PCK) to a trusted root.
//!
//! Intel SGX PCK certificate and CRL profile: the root signs itself and the two authorities for platforms,
//! which sign PCK certificates; all ECDSA P-256 with SHA-256. The chain comes with the quote, so that nothing in it
//! counts until its root has been found among the trusted ones.

use std::fmt;

use super::pck::PckInfo;
use crate::certificate::{Cert, read_pem};
use crate::roots::{INTEL_ROOT_NAME, Vouching};
use crate::{Rejection, TrustRoots};

/// Longest chain that is read, in bytes of PEM.
const MAX_PEM_LEN: usize = 64 * 1024;

const LEAF_NAME: &str = "Intel SGX PCK Certificate";
const AUTHORITY_NAMES: [&str; 2] = ["Intel SGX PCK Platform CA", "Intel SGX PCK Processor CA"];

/// A chain that was verified.
#[derive(Clone)]
pub struct ChainReport {
    pub(super) leaf: Cert,
    pub(super) authority: Cert,
    pub(super) root: Cert,
    pck: PckInfo,
    public_key: Vec<u8>,
    test_root: bool,
}

impl ChainReport {
    /// What the PCK certificate says about the platform.
    #[must_use]
    pub const fn pck(&self) -> &PckInfo {
        &self.pck
    }

    /// Whether the chain ends at a test root.
    #[must_use]
    pub const fn test_root(&self) -> bool {
        self.test_root
    }

    /// Common names, leaf first.
    #[must_use]
    pub fn names(&self) -> [&str; 3] {
        [&self.leaf, &self.authority, &self.root].map(Cert::common_name)
    }

    /// Uncompressed P-256 point of the PCK, 65 bytes.
    pub(super) fn public_key(&self) -> &[u8] {
        &self.public_key
    }
}

impl fmt::Debug for ChainReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChainReport")
            .field("names", &self.names())
            .field("pck", &self.pck)
            .field("test_root", &self.test_root)
            .finish()
    }
}

/// Verifies the chain of a quote: PCK certificate, authority, root, in PEM, possibly with a NUL at the end.
pub(super) fn check(pem: &[u8], roots: &TrustRoots, now: u64) -> Result<ChainReport, Rejection> {
    let broken = |why: String| Rejection::PckChain { why };
    let text = pem.strip_suffix(b"\0").unwrap_or(pem);
    let text = std::str::from_utf8(text).map_err(|_| broken("it is not PEM text".to_owned()))?;
    let certs: [Cert; 3] =
        read_pem(text, MAX_PEM_LEN).map_err(broken)?.try_into().map_err(|certs: Vec<Cert>| {
            broken(format!("it has {} certificates instead of leaf, authority and root", certs.len()))
        })?;
    let [leaf, authority, root] = certs;
    check_name(&leaf, &[LEAF_NAME]).map_err(broken)?;
    check_name(&authority, &AUTHORITY_NAMES).map_err(broken)?;
    check_name(&root, &[INTEL_ROOT_NAME]).map_err(broken)?;
    let kind = roots.check_intel(&root).map_err(broken)?;
    authority.check_issued_by(&root).map_err(broken)?;
    authority.check_authority().map_err(broken)?;
    leaf.check_issued_by(&authority).map_err(broken)?;
    if leaf.is_authority() {
        return Err(broken(format!("{LEAF_NAME} is marked as a certificate authority")));
    }
    let public_key = leaf
        .p256_point()
        .ok_or_else(|| broken(format!("the key of {LEAF_NAME} is not on the curve P-256")))?
        .to_vec();
    let pck = PckInfo::read(&leaf).map_err(broken)?;
    for cert in [&root, &authority, &leaf] {
        let (not_before, not_after) = cert.validity();
        if !(not_before..=not_after).contains(&now) {
            let name = cert.common_name().to_owned();
            return Err(Rejection::Validity { check: "tdx.pck_validity", name, not_before, not_after, now });
        }
    }
    Ok(ChainReport { leaf, authority, root, pck, public_key, test_root: kind == Vouching::Test })
}

/// Checks that the certificate has one of `names`. The error is a sentence.
pub(super) fn check_name(cert: &Cert, names: &[&str]) -> Result<(), String> {
    if names.contains(&cert.common_name()) {
        return Ok(());
    }
    Err(format!("{:?} stands where {} is expected", cert.common_name(), names.join(" or ")))
}
