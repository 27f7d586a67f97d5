//! Init-data documents: the digest, and what each platform's hardware field must hold for it.
//!
//! Values are not shown, only their lengths and digests: a document may carry registry credentials. Whether some
//! machine really carries the digest is not told here; compare it with `host_data` of a report.

use cc_evidence::{
    HashAlgorithm,
    initdata::{InitData, fit},
};
use serde_json::{Map, Value, json};

use super::{Check, Inspection};
use crate::table::Table;

/// HOST_DATA of SNP, MRCONFIGID of TDX, CONFIGID of SGX: JSON name, words, length in bytes. The digest is cut or
/// padded with zero bytes to the length.
const FIELDS: [(&str, &str, usize); 3] = [
    ("snp_host_data", "SNP host data", 32),
    ("tdx_mrconfigid", "TDX MRCONFIGID", 48),
    ("sgx_configid", "SGX CONFIGID", 64),
];

/// Explains an init-data document.
pub(super) fn inspect(text: &str) -> Result<Inspection, String> {
    let document = InitData::parse(text).map_err(|error| error.to_string())?;
    let digest = document.digest();
    let mut table = Table::new();
    let mut facts = Map::from_iter([
        ("version".to_owned(), document.version().into()),
        ("algorithm".to_owned(), document.algorithm().as_str().into()),
        ("bytes".to_owned(), text.len().into()),
        ("digest".to_owned(), hex::encode(&digest).into()),
    ]);
    table
        .section("init-data")
        .row("version", document.version())
        .row("algorithm", document.algorithm().as_str())
        .row("length", format!("{} bytes", text.len()))
        .bytes("digest", &digest);

    table.section("what the hardware must hold");
    for (name, label, length) in FIELDS {
        let value = fit(&digest, length);
        facts.insert(name.to_owned(), hex::encode(&value).into());
        table.bytes(label, &value);
    }
    // Realms compare all 64 bytes, so a shorter digest never matches; the PCR rule is made for 32 bytes.
    if digest.len() == 64 {
        facts.insert("cca_realm_personalization_value".into(), hex::encode(&digest).into());
        table.bytes("CCA personalization", &digest);
    }
    if digest.len() == 32 {
        let extended = HashAlgorithm::Sha256.digest(&[[0; 32].as_slice(), &digest].concat());
        facts.insert("pcr8_after_extend_from_zero".into(), hex::encode(&extended).into());
        table.bytes("PCR 8 (SHA-256)", &extended);
    }

    table.section("files inside");
    let mut files = Map::new();
    for (name, content) in document.data() {
        let sha256 = hex::encode(HashAlgorithm::Sha256.digest(content.as_bytes()));
        table.row(name, format!("{} bytes, sha256 {sha256}", content.len()));
        files.insert(name.clone(), json!({"bytes": content.len(), "sha256": sha256}));
    }
    facts.insert("data".into(), Value::Object(files));

    let checks = vec![Check::not_verified(
        "binding",
        "the digest counts only where a machine's report carries it; compare with guestctl inspect of its evidence",
    )];
    Ok(Inspection { kind: "init-data", facts, table, checks })
}
