//! The certificate of the key that signs reports: VCEK or VLEK, with AMD's extensions.
//!
//! AMD publication 57230, "VCEK Certificate": extensions under 1.3.6.1.4.1.3704.1 say for which
//! product, firmware level and chip the key was derived. Reading one says nothing about who issued it.

use der::Decode;
use der::asn1::{Ia5StringRef, ObjectIdentifier, OctetStringRef};

use crate::Rejection;
use crate::certificate::Cert;

const PRODUCT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.2");
const BOOTLOADER: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.1");
const TEE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.2");
const SNP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.3");
const MICROCODE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.8");
const FMC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.9");
const HW_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.4");
const CSP_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.5");

/// Which kind of key a leaf certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeafKind {
    /// One chip at one firmware level.
    Vcek,
    /// One cloud provider at one firmware level.
    Vlek,
}

impl LeafKind {
    /// `VCEK` or `VLEK`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            LeafKind::Vcek => "VCEK",
            LeafKind::Vlek => "VLEK",
        }
    }

    const fn common_name(self) -> &'static str {
        match self {
            LeafKind::Vcek => "SEV-VCEK",
            LeafKind::Vlek => "SEV-VLEK",
        }
    }
}

/// A leaf certificate, read but not yet trusted.
#[derive(Clone, Debug)]
pub(super) struct Leaf {
    pub(super) cert: Cert,
    pub(super) kind: LeafKind,
    pub(super) product_name: String,
    pub(super) fmc: Option<u8>,
    pub(super) bootloader: u8,
    pub(super) tee: u8,
    pub(super) snp: u8,
    pub(super) microcode: u8,
    pub(super) hw_id: Option<Vec<u8>>,
    pub(super) csp_id: Option<String>,
}

impl Leaf {
    /// Reads DER or PEM; the common name tells the kind.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Rejection> {
        let unusable = |why: String| Rejection::Certificate { name: "leaf".to_owned(), why };
        let cert = Cert::read(bytes).map_err(unusable)?;
        let kind = [LeafKind::Vcek, LeafKind::Vlek]
            .into_iter()
            .find(|kind| kind.common_name() == cert.common_name())
            .ok_or_else(|| {
                unusable(format!("it is named {:?}, not SEV-VCEK or SEV-VLEK", cert.common_name()))
            })?;
        let unusable = |why: String| Rejection::Certificate { name: kind.common_name().to_owned(), why };
        if cert.is_authority() {
            return Err(unusable("it is marked as a certificate authority".to_owned()));
        }
        if cert.p384_point().is_none() {
            return Err(unusable("its key is not on the curve P-384".to_owned()));
        }
        let level = |id, name: &str| {
            let content = cert.extension(id)?;
            Some(
                u8::from_der(content)
                    .map_err(|e| unusable(format!("its {name} is no number up to 255: {e}"))),
            )
        };
        let required =
            |id, name: &str| level(id, name).unwrap_or_else(|| Err(unusable(format!("it has no {name}"))));
        let text = |id, name: &str| {
            let content = cert.extension(id)?;
            Some(
                Ia5StringRef::from_der(content)
                    .map(|text| text.as_str().to_owned())
                    .map_err(|e| unusable(format!("its {name} is no text: {e}"))),
            )
        };
        Ok(Leaf {
            kind,
            product_name: text(PRODUCT_NAME, "productName")
                .unwrap_or_else(|| Err(unusable("it has no productName".to_owned())))?,
            fmc: level(FMC, "fmcSPL").transpose()?,
            bootloader: required(BOOTLOADER, "blSPL")?,
            tee: required(TEE, "teeSPL")?,
            snp: required(SNP, "snpSPL")?,
            microcode: required(MICROCODE, "ucodeSPL")?,
            hw_id: cert.extension(HW_ID).map(hardware_id),
            csp_id: text(CSP_ID, "cspId").transpose()?,
            cert,
        })
    }

    /// Refuses a leaf of the other kind.
    pub(super) fn expect_kind(self, kind: LeafKind) -> Result<Self, Rejection> {
        if self.kind == kind {
            return Ok(self);
        }
        Err(Rejection::LeafName { expected: kind.common_name(), found: self.cert.common_name().to_owned() })
    }

    /// Uncompressed P-384 point, 97 bytes.
    pub(super) fn public_key(&self) -> &[u8] {
        self.cert.p384_point().unwrap_or_default()
    }
}

/// Older certificates hold the bytes themselves, newer ones a DER OCTET STRING around them. Raw
/// identifiers of 64 or 8 bytes cannot be mistaken: wrapping adds two bytes.
fn hardware_id(content: &[u8]) -> Vec<u8> {
    match <&OctetStringRef>::from_der(content) {
        Ok(wrapped) if matches!(wrapped.as_bytes().len(), 8 | 64) => wrapped.as_bytes().to_vec(),
        _ => content.to_vec(),
    }
}
