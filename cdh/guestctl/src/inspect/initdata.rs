//! Init-data documents: the digest, and what each platform's hardware field must hold for it.
//!
//! Values are not shown, only their lengths and digests: a document may carry registry credentials. Whether some
//! machine really carries the digest is not told here; compare it with `host_data` of a report.

use cc_evidence::{
    HashAlgorithm,
    initdata::{Field, InitData},
};
use serde_json::{Map, Value, json};

use super::{Check, Inspection};
use crate::{
    initdata::{Form, add_fields, open_form},
    table::Table,
};

/// Explains a file that holds an init-data document in some form.
pub(super) fn inspect(bytes: &[u8]) -> Result<Inspection, String> {
    open_form(bytes).map(|(form, document)| explain(&document, form))
}

/// Explains a document that came in `form`.
pub(super) fn explain(document: &InitData, form: Form) -> Inspection {
    let digest = document.digest();
    let mut table = Table::new();
    let mut facts = Map::from_iter([
        ("form".to_owned(), form.as_str().into()),
        ("version".to_owned(), document.version().into()),
        ("algorithm".to_owned(), document.algorithm().as_str().into()),
        ("bytes".to_owned(), document.body().len().into()),
        ("digest".to_owned(), hex::encode(&digest).into()),
    ]);
    table
        .section("init-data")
        .row("form", form.as_str())
        .row("version", document.version())
        .row("algorithm", document.algorithm().as_str())
        .row("length", format!("{} bytes", document.body().len()))
        .bytes("digest", &digest);

    add_fields(&mut table, &digest);
    for field in Field::ALL {
        if let Ok(value) = field.expected(&digest) {
            facts.insert(field.key().to_owned(), hex::encode(value).into());
        }
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
        "the digest counts only where a machine's report carries it; compare with guestctl inspect of its evidence, or \
         ask this machine with guestctl initdata inspect --check",
    )];
    Inspection { kind: "init-data", facts, table, checks }
}
