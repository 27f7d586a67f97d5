//! `guestctl initdata digest`: the values that a launcher and a relying party need.

use std::str::FromStr;

use base64::{Engine, engine::general_purpose::STANDARD};
use cc_evidence::initdata::{Field, InitData};
use serde_json::{Map, Value, json};

use super::DigestArgs;
use crate::{failure::Failure, output::Console, table::Table};

/// The digest itself, or the place in some hardware that holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Digest,
    Field(Field),
}

impl FromStr for Place {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "digest" => Self::Digest,
            "snp" => Self::Field(Field::SnpHostData),
            "tdx" => Self::Field(Field::TdxMrConfigId),
            "sgx" => Self::Field(Field::SgxConfigId),
            "cca" => Self::Field(Field::CcaPersonalization),
            "pcr8" => Self::Field(Field::Pcr8),
            _ => return Err("give digest, snp, tdx, sgx, cca or pcr8"),
        })
    }
}

/// Shows one value, or all.
pub(super) fn run(args: &DigestArgs, json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    let (_, document) = super::open(&args.file)?;
    let Some(place) = args.field else {
        return if json { console.json(&all(&document)) } else { console.table(&table(&document)) };
    };
    let digest = document.digest();
    let value = match place {
        Place::Digest => digest,
        Place::Field(field) => {
            if let Some(remark) = field.remark(digest.len()) {
                console.complain(&format!("note: {remark}\n"));
            }
            field.expected(&digest).map_err(|error| Failure::Argument {
                argument: "--field".into(),
                why: error.to_string(),
                hint: error.hint(),
            })?
        }
    };
    let text = if args.base64 { STANDARD.encode(value) } else { hex::encode(value) };
    console.text(&format!("{text}\n"))
}

fn all(document: &InitData) -> Value {
    let both = |bytes: &[u8]| json!({"hex": hex::encode(bytes), "base64": STANDARD.encode(bytes)});
    let digest = document.digest();
    let fields: Map<String, Value> = Field::ALL
        .into_iter()
        .filter_map(|field| Some((field.key().to_owned(), both(&field.expected(&digest).ok()?))))
        .collect();
    json!({"algorithm": document.algorithm().as_str(), "digest": both(&digest), "fields": fields})
}

fn table(document: &InitData) -> Table {
    let digest = document.digest();
    let mut table = Table::new();
    table.section("digest").row("algorithm", document.algorithm().as_str());
    table.bytes("hexadecimal", &digest).row("base64", STANDARD.encode(&digest));
    add_fields(&mut table, &digest);
    table
}

/// What the hardware of each platform must hold, and where a part of the digest is lost or none can be held.
pub(crate) fn add_fields(table: &mut Table, digest: &[u8]) {
    table.section("what the hardware must hold");
    for field in Field::ALL {
        match field.expected(digest) {
            Ok(value) => {
                table.bytes(field.as_str(), &value);
                if let Some(remark) = field.remark(digest.len()) {
                    table.row("", remark);
                }
            }
            Err(_) => {
                table.row(field.as_str(), format!("takes no digest but {}", field.algorithm()));
            }
        }
    }
}
