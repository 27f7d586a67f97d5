//! X.509 certificates of AMD's chains (RFC 5280; extensions of AMD publication 57230).
//!
//! Parses for display; whether a certificate is to be trusted is asked of the verification library.

use std::path::Path;

use cc_evidence::HashAlgorithm;
use der::{
    Decode, Document, Sequence,
    asn1::{Ia5StringRef, ObjectIdentifier, OctetStringRef, UintRef},
};
use serde_json::{Map, Value, json};
use x509_cert::{Certificate as X509, spki::SubjectPublicKeyInfoOwned};

use super::{Inspection, Moment, Trust, snp};
use crate::{failure::Failure, table::Table};

/// Most certificates in one file.
const CHAIN_MAX: usize = 16;

/// The arc of AMD's extensions.
const AMD_ARC: &str = "1.3.6.1.4.1.3704.1.";

/// Names of AMD's extensions below [`AMD_ARC`], and how each value is encoded.
const AMD_EXTENSIONS: [(&str, &str, Encoding); 13] = [
    ("1", "structVersion", Encoding::Integer),
    ("2", "productName", Encoding::Text),
    ("3.1", "blSPL", Encoding::Integer),
    ("3.2", "teeSPL", Encoding::Integer),
    ("3.3", "snpSPL", Encoding::Integer),
    ("3.4", "spl4", Encoding::Integer),
    ("3.5", "spl5", Encoding::Integer),
    ("3.6", "spl6", Encoding::Integer),
    ("3.7", "spl7", Encoding::Integer),
    ("3.8", "ucodeSPL", Encoding::Integer),
    ("3.9", "fmcSPL", Encoding::Integer),
    ("4", HARDWARE_ID, Encoding::Bytes),
    ("5", "cspId", Encoding::Text),
];

const HARDWARE_ID: &str = "hwID";

#[derive(Debug, Clone, Copy)]
enum Encoding {
    Integer,
    Text,
    Bytes,
}

/// One certificate, read but not yet trusted.
#[derive(Debug)]
pub(super) struct Certificate {
    /// The bytes it was read from.
    pub(super) der: Vec<u8>,
    pub(super) not_before: Moment,
    pub(super) not_after: Moment,
    /// In hexadecimal.
    pub(super) sha256: String,
    /// AMD's extensions by name.
    pub(super) amd: Map<String, Value>,
    subject: String,
    issuer: String,
    serial: String,
    public_key: String,
    signature_algorithm: String,
}

impl Certificate {
    /// Reads one DER certificate; nothing may follow it.
    pub(super) fn read(der: Vec<u8>) -> Result<Self, String> {
        let parsed = X509::from_der(&der).map_err(|error| error.to_string())?;
        let tbs = parsed.tbs_certificate();
        let validity = tbs.validity();
        let mut amd = Map::new();
        for extension in tbs.extensions().into_iter().flatten() {
            if let Some(suffix) = extension.extn_id.to_string().strip_prefix(AMD_ARC) {
                read_amd_extension(suffix, extension.extn_value.as_bytes(), &mut amd)?;
            }
        }
        Ok(Self {
            not_before: Moment(validity.not_before.to_unix_duration().as_secs()),
            not_after: Moment(validity.not_after.to_unix_duration().as_secs()),
            sha256: sha256(&der),
            amd,
            subject: tbs.subject().to_string(),
            issuer: tbs.issuer().to_string(),
            serial: hex::encode(tbs.serial_number().as_bytes()),
            public_key: key_name(tbs.subject_public_key_info()),
            signature_algorithm: signature_name(parsed.signature_algorithm().oid),
            der,
        })
    }

    /// The common name of the subject, or the whole subject.
    pub(super) fn short_name(&self) -> &str {
        common_name(&self.subject)
    }

    /// Subject and issuer in a few words.
    pub(super) fn short_description(&self) -> String {
        format!("{}, issued by {}", self.short_name(), common_name(&self.issuer))
    }

    /// The fields for programs.
    pub(super) fn json(&self) -> Value {
        json!({
            "subject": self.subject,
            "issuer": self.issuer,
            "not_before": self.not_before.to_string(),
            "not_after": self.not_after.to_string(),
            "serial": self.serial,
            "sha256": self.sha256,
            "public_key": self.public_key,
            "signature_algorithm": self.signature_algorithm,
            "amd_ext": self.amd,
        })
    }

    /// The fields for people, under a heading of their own.
    pub(super) fn show(&self, title: &str, table: &mut Table) {
        table
            .section(title)
            .row("subject", &self.subject)
            .row("issuer", &self.issuer)
            .row("valid", format!("{} to {}", self.not_before, self.not_after))
            .row("serial", &self.serial)
            .row("public key", &self.public_key)
            .row("signed with", &self.signature_algorithm)
            .row("sha256", &self.sha256);
        let known = AMD_EXTENSIONS.iter().map(|(_, name, _)| *name);
        let order = |name: &str| known.clone().position(|known| known == name).unwrap_or(usize::MAX);
        let mut extensions: Vec<(&String, &Value)> = self.amd.iter().collect();
        extensions.sort_by_key(|(name, _)| order(name));
        for (name, value) in extensions {
            match value {
                Value::Number(number) if is_spare(name) && number.as_u64() == Some(0) => {}
                Value::String(digits) if name == HARDWARE_ID => {
                    table.row(name, fold(digits));
                }
                Value::String(text) => {
                    table.row(name, text);
                }
                other => {
                    table.row(name, other.to_string());
                }
            }
        }
    }
}

/// Explains certificates and verifies their chain.
pub(super) fn inspect(certificates: Vec<Vec<u8>>, trust: &Trust) -> Result<Inspection, String> {
    let mut table = Table::new();
    let mut all = Vec::new();
    let count = certificates.len();
    for (number, der) in (1..).zip(certificates) {
        let certificate =
            Certificate::read(der).map_err(|why| format!("certificate {number} of {count}: {why}"))?;
        certificate.show(&format!("certificate {number} of {count}"), &mut table);
        all.push(certificate);
    }
    let checks = snp::chain_checks(&all.iter().collect::<Vec<_>>(), trust);
    let json: Vec<Value> = all.iter().map(Certificate::json).collect();
    let facts = Map::from_iter([("certificates".to_owned(), json.into())]);
    Ok(Inspection { kind: "certificates", facts, table, checks })
}

/// The fingerprint of a certificate in DER, in hexadecimal.
pub(super) fn sha256(der: &[u8]) -> String {
    hex::encode(HashAlgorithm::Sha256.digest(der))
}

/// The only certificate in a file that holds it in DER or PEM.
pub(super) fn single(path: &Path, bytes: Vec<u8>) -> Result<Certificate, Failure> {
    let malformed = |why: String| Failure::Malformed { path: path.to_owned(), kind: "certificate", why };
    if bytes.starts_with(&[0x30]) {
        return Certificate::read(bytes).map_err(malformed);
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| malformed("neither DER nor PEM".into()))?;
    let mut all = split_pem(text).map_err(malformed)?;
    match (all.pop(), all.is_empty()) {
        (Some(only), true) => Certificate::read(only).map_err(malformed),
        _ => Err(malformed("exactly one certificate is wanted".into())),
    }
}

/// The certificates of a PEM text, in order, as DER. Text around them is skipped.
pub(super) fn split_pem(text: &str) -> Result<Vec<Vec<u8>>, String> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once(BEGIN) {
        let (body, after) = after.split_once(END).ok_or("a PEM block does not end")?;
        let block = format!("{BEGIN}{body}{END}\n");
        let (_, document) = Document::from_pem(&block).map_err(|error| format!("broken PEM: {error}"))?;
        found.push(document.as_bytes().to_vec());
        if found.len() > CHAIN_MAX {
            return Err(format!("more than {CHAIN_MAX} certificates"));
        }
        rest = after;
    }
    if found.is_empty() { Err("no certificate in the file".into()) } else { Ok(found) }
}

/// The value of one extension under its name; an extension without a known name is kept in hexadecimal.
fn read_amd_extension(suffix: &str, value: &[u8], amd: &mut Map<String, Value>) -> Result<(), String> {
    let known = AMD_EXTENSIONS.iter().find(|(known, _, _)| *known == suffix);
    let Some((_, name, encoding)) = known else {
        amd.insert(format!("{AMD_ARC}{suffix}"), hex::encode(value).into());
        return Ok(());
    };
    let broken = |error: der::Error| format!("extension {name}: {error}");
    match encoding {
        Encoding::Integer => {
            amd.insert((*name).to_owned(), u64::from_der(value).map_err(broken)?.into());
        }
        Encoding::Text => {
            let text = Ia5StringRef::from_der(value).map_err(broken)?;
            amd.insert((*name).to_owned(), text.as_str().into());
        }
        Encoding::Bytes => {
            // Both forms exist in the field. 8 or 64 bytes are an identifier; wrapped, it is two bytes longer.
            let (bytes, form) = match value.len() {
                8 | 64 => (value, "raw"),
                _ => (<&OctetStringRef>::from_der(value).map_err(broken)?.as_bytes(), "DER OCTET STRING"),
            };
            amd.insert((*name).to_owned(), hex::encode(bytes).into());
            amd.insert(format!("{name}_encoding"), form.into());
        }
    }
    Ok(())
}

/// RFC 8017, A.1.1.
#[derive(Sequence)]
struct RsaPublicKey<'a> {
    modulus: UintRef<'a>,
    #[allow(dead_code, reason = "part of the structure")]
    exponent: UintRef<'a>,
}

fn key_name(key: &SubjectPublicKeyInfoOwned) -> String {
    const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
    const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
    const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
    const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
    let algorithm = &key.algorithm;
    if algorithm.oid == RSA {
        let bytes = key.subject_public_key.raw_bytes();
        return match RsaPublicKey::from_der(bytes) {
            Ok(key) => format!("RSA {} bits", key.modulus.as_bytes().len() * 8),
            Err(_) => "RSA".into(),
        };
    }
    if algorithm.oid == EC {
        let curve = algorithm.parameters.as_ref().and_then(|any| any.decode_as::<ObjectIdentifier>().ok());
        return match curve {
            Some(P256) => "EC P-256".into(),
            Some(P384) => "EC P-384".into(),
            Some(other) => format!("EC, curve {other}"),
            None => "EC".into(),
        };
    }
    algorithm.oid.to_string()
}

fn signature_name(oid: ObjectIdentifier) -> String {
    match oid.to_string().as_str() {
        "1.2.840.113549.1.1.10" => "RSA-PSS".into(),
        "1.2.840.113549.1.1.11" => "RSA PKCS#1 v1.5 with SHA-256".into(),
        "1.2.840.113549.1.1.12" => "RSA PKCS#1 v1.5 with SHA-384".into(),
        "1.2.840.10045.4.3.2" => "ECDSA with SHA-256".into(),
        "1.2.840.10045.4.3.3" => "ECDSA with SHA-384".into(),
        other => other.to_owned(),
    }
}

/// The value of the common name in a distinguished name, or the whole name.
fn common_name(name: &str) -> &str {
    name.split(',').find_map(|part| part.strip_prefix("CN=")).unwrap_or(name)
}

/// Levels that have no meaning yet.
fn is_spare(name: &str) -> bool {
    matches!(name, "spl4" | "spl5" | "spl6" | "spl7")
}

/// Hexadecimal text in lines of 64 digits.
fn fold(digits: &str) -> String {
    digits.as_bytes().chunks(64).map(String::from_utf8_lossy).collect::<Vec<_>>().join("\n")
}
