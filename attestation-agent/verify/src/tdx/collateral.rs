//! Collateral: what Intel says about platforms and the quoting enclave, and who signed it.
//!
//! The answers of Intel's provisioning certification service (PCS API version 4) for `tdx/certification/v4/tcb` and
//! `tdx/certification/v4/qe/identity`, kept unchanged: the signature covers the exact bytes of the member
//! `tcbInfo` or `enclaveIdentity`. Someone else obtains and renews them; nothing is fetched here.

use der::DateTime;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::chain::{self, ChainReport};
use super::check_p256;
use super::level::TcbStatus;
use crate::certificate::{Cert, read_pem};
use crate::{Rejection, crl};

/// Longest document that is read, in bytes.
const MAX_LEN: usize = 1024 * 1024;

/// Most revocation lists that are kept.
const MAX_LISTS: usize = 8;

const SIGNER_NAME: &str = "Intel SGX TCB Signing";
const TCB_INFO: &str = "TCB info";
const QE_IDENTITY: &str = "QE identity";
const CHAIN: &str = "collateral signing chain";
const LIST: &str = "revocation list";

/// Documents that were read but are not yet trusted; [`super::verify`] checks them against the quote and the time.
#[derive(Clone, Debug)]
pub struct Collateral {
    pub(super) tcb_info: Signed<TcbInfo>,
    pub(super) qe_identity: Signed<QeIdentity>,
    signer: Cert,
    root: Cert,
    lists: Vec<Vec<u8>>,
}

impl Collateral {
    /// Reads the two documents as the service answers them, and the issuer chain (PEM: signer, root).
    ///
    /// # Errors
    /// [`Rejection::Collateral`] for documents of another shape, for another TEE or of an unknown version.
    pub fn parse(tcb_info: &str, qe_identity: &str, signing_chain: &str) -> Result<Self, Rejection> {
        let certs = read_pem(signing_chain, MAX_LEN).map_err(|why| unusable(CHAIN, why))?;
        let [signer, root] = certs.try_into().map_err(|certs: Vec<Cert>| {
            unusable(CHAIN, format!("it has {} certificates instead of signer and root", certs.len()))
        })?;
        let tcb_info =
            Signed::parse(TCB_INFO, tcb_info, |file: TcbInfoFile<'_>| (file.body, file.signature))?;
        let qe_identity =
            Signed::parse(QE_IDENTITY, qe_identity, |file: QeIdentityFile<'_>| (file.body, file.signature))?;
        let (info, identity): (&TcbInfo, &QeIdentity) = (&tcb_info.content, &qe_identity.content);
        if (info.id.as_str(), info.version, info.tcb_type) != ("TDX", 3, 0) {
            let why = format!(
                "it is {:?}, version {}, type {}: \"TDX\", version 3, type 0 is needed",
                info.id, info.version, info.tcb_type
            );
            return Err(unusable(TCB_INFO, why));
        }
        if (identity.id.as_str(), identity.version) != ("TD_QE", 2) {
            let why = format!(
                "it is {:?}, version {}: \"TD_QE\", version 2 is needed",
                identity.id, identity.version
            );
            return Err(unusable(QE_IDENTITY, why));
        }
        Ok(Collateral { tcb_info, qe_identity, signer, root, lists: Vec::new() })
    }

    /// Adds revocation lists (DER) of the root and of the authorities for platforms, at most 8.
    ///
    /// # Errors
    /// [`Rejection::Collateral`] when there are more.
    pub fn with_revocation_lists(mut self, lists: Vec<Vec<u8>>) -> Result<Self, Rejection> {
        if lists.len() > MAX_LISTS {
            return Err(unusable(LIST, format!("{} lists are more than {MAX_LISTS}", lists.len())));
        }
        self.lists = lists;
        Ok(self)
    }

    /// Checks chain, signatures, revocation and that nothing is from the future; `chain` is the quote's.
    pub(super) fn check(&self, chain: &ChainReport, now: u64) -> Result<Terms, Rejection> {
        self.check_chain(chain).map_err(|why| unusable(CHAIN, why))?;
        let key = self
            .signer
            .p256_point()
            .ok_or_else(|| unusable(CHAIN, "the signer's key is not on the curve P-256".to_owned()))?;
        self.tcb_info.check(TCB_INFO, key)?;
        self.qe_identity.check(QE_IDENTITY, key)?;
        let mut terms = Terms::default();
        let (info, identity) = (&self.tcb_info.content, &self.qe_identity.content);
        terms.add(TCB_INFO, info.issue_date.0, info.next_update.0, now)?;
        terms.add(QE_IDENTITY, identity.issue_date.0, identity.next_update.0, now)?;
        for cert in [&self.signer, &self.root] {
            let (not_before, not_after) = cert.validity();
            terms.add(CHAIN, not_before, not_after, now)?;
        }
        self.check_lists(chain, now, &mut terms)?;
        Ok(terms)
    }

    /// The root must be the one that the platform's chain was verified with: a test root rates nothing but
    /// test platforms.
    fn check_chain(&self, chain: &ChainReport) -> Result<(), String> {
        chain::check_name(&self.signer, &[SIGNER_NAME])?;
        if self.root.sha256() != chain.root.sha256() {
            return Err("its root is not the root of the platform's certificate".to_owned());
        }
        self.signer.check_issued_by(&self.root)?;
        if self.signer.is_authority() {
            return Err(format!("{SIGNER_NAME} is marked as a certificate authority"));
        }
        Ok(())
    }

    /// Looks up every certificate that matters in every list of its issuer.
    fn check_lists(&self, chain: &ChainReport, now: u64, terms: &mut Terms) -> Result<(), Rejection> {
        for list in &self.lists {
            for (issuer, cert) in
                [(&chain.authority, &chain.leaf), (&chain.root, &chain.authority), (&self.root, &self.signer)]
            {
                let entry = crl::look_up(list, issuer, cert, now).map_err(|why| unusable(LIST, why))?;
                let Some(entry) = entry else { continue };
                if entry.revoked {
                    return Err(Rejection::PckRevoked { name: cert.common_name().to_owned() });
                }
                terms.add(LIST, entry.this_update, entry.next_update.unwrap_or(u64::MAX), now)?;
                if std::ptr::eq(cert, &chain.leaf) {
                    terms.pck_crl_number = entry.number;
                } else {
                    terms.root_crl_number = entry.number;
                }
            }
        }
        Ok(())
    }
}

/// The span of time in which all collateral is valid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Terms {
    /// First and last date of issue.
    pub(super) issued: Option<(u64, u64)>,
    /// When the first part of it expires.
    pub(super) expires: Option<u64>,
    /// Something has expired.
    pub(super) expired: bool,
    pub(super) pck_crl_number: Option<String>,
    pub(super) root_crl_number: Option<String>,
}

impl Terms {
    /// Takes a part into account. What was issued after the time of verification is refused: the clock is
    /// wrong or the document was made up.
    fn add(&mut self, what: &'static str, issue: u64, expiry: u64, now: u64) -> Result<(), Rejection> {
        if issue > now {
            return Err(unusable(what, "it was issued after the time of verification".to_owned()));
        }
        let (first, last) = self.issued.unwrap_or((issue, issue));
        self.issued = Some((first.min(issue), last.max(issue)));
        self.expires = Some(self.expires.map_or(expiry, |earlier| earlier.min(expiry)));
        self.expired |= expiry < now;
        Ok(())
    }
}

/// A document with the bytes that its signature covers.
#[derive(Clone, Debug)]
pub(super) struct Signed<T> {
    pub(super) content: T,
    bytes: Vec<u8>,
    signature: [u8; 64],
}

impl<T: for<'de> Deserialize<'de>> Signed<T> {
    fn parse<'a, F: Deserialize<'a>>(
        what: &'static str,
        text: &'a str,
        parts: impl FnOnce(F) -> (&'a RawValue, Hex<64>),
    ) -> Result<Self, Rejection> {
        if text.len() > MAX_LEN {
            return Err(unusable(what, format!("{} bytes are more than {MAX_LEN}", text.len())));
        }
        let invalid = |e: serde_json::Error| unusable(what, format!("it is not the expected JSON: {e}"));
        let (body, signature) = parts(serde_json::from_str(text).map_err(invalid)?);
        Ok(Signed {
            content: serde_json::from_str(body.get()).map_err(invalid)?,
            bytes: body.get().as_bytes().to_vec(),
            signature: signature.0,
        })
    }

    fn check(&self, what: &'static str, key: &[u8]) -> Result<(), Rejection> {
        check_p256(key, &self.bytes, &self.signature)
            .map_err(|()| unusable(what, format!("it is not signed by {SIGNER_NAME} over these bytes")))
    }
}

#[derive(Deserialize)]
struct TcbInfoFile<'a> {
    #[serde(borrow, rename = "tcbInfo")]
    body: &'a RawValue,
    signature: Hex<64>,
}

#[derive(Deserialize)]
struct QeIdentityFile<'a> {
    #[serde(borrow, rename = "enclaveIdentity")]
    body: &'a RawValue,
    signature: Hex<64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TcbInfo {
    id: String,
    version: u32,
    tcb_type: u32,
    issue_date: Date,
    next_update: Date,
    pub(super) fmspc: Hex<6>,
    pub(super) pce_id: Hex<2>,
    pub(super) tcb_evaluation_data_number: u32,
    pub(super) tdx_module: ModuleIdentity,
    #[serde(default)]
    pub(super) tdx_module_identities: Vec<VersionedModule>,
    pub(super) tcb_levels: Vec<Level<PlatformTcb>>,
}

/// Signer and attributes of a TDX module; bytes in the order of the quote.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ModuleIdentity {
    pub(super) mrsigner: Hex<48>,
    pub(super) attributes: Hex<8>,
    pub(super) attributes_mask: Hex<8>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct VersionedModule {
    /// `TDX_` and two hexadecimal digits.
    pub(super) id: String,
    #[serde(flatten)]
    pub(super) identity: ModuleIdentity,
    pub(super) tcb_levels: Vec<Level<EnclaveTcb>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct QeIdentity {
    id: String,
    version: u32,
    issue_date: Date,
    next_update: Date,
    pub(super) miscselect: Hex<4>,
    pub(super) miscselect_mask: Hex<4>,
    pub(super) attributes: Hex<16>,
    pub(super) attributes_mask: Hex<16>,
    pub(super) mrsigner: Hex<32>,
    pub(super) isvprodid: u16,
    pub(super) tcb_levels: Vec<Level<EnclaveTcb>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Level<T> {
    pub(super) tcb: T,
    pub(super) tcb_date: String,
    pub(super) tcb_status: TcbStatus,
    #[serde(default, rename = "advisoryIDs")]
    pub(super) advisory_ids: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct PlatformTcb {
    pub(super) sgxtcbcomponents: [Component; 16],
    pub(super) tdxtcbcomponents: [Component; 16],
    pub(super) pcesvn: u16,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct EnclaveTcb {
    pub(super) isvsvn: u16,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Component {
    pub(super) svn: u8,
}

/// Bytes of a fixed length in hexadecimal, upper or lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hex<const N: usize>(pub(super) [u8; N]);

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = [0; N];
        hex::decode_to_slice(&text, &mut bytes)
            .map_err(|e| serde::de::Error::custom(format!("{N} bytes in hexadecimal are expected: {e}")))?;
        Ok(Hex(bytes))
    }
}

/// Seconds since 1970, written as RFC 3339 in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Date(u64);

impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let date: DateTime = text
            .parse()
            .map_err(|_| serde::de::Error::custom("a date like 2025-06-01T00:00:00Z is expected"))?;
        Ok(Date(date.unix_duration().as_secs()))
    }
}

pub(super) const fn unusable(what: &'static str, why: String) -> Rejection {
    Rejection::Collateral { what, why }
}
