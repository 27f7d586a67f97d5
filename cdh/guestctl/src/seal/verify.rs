//! Who signed a sealed secret, and what it names; nothing is fetched or opened.

use std::path::PathBuf;

use cc_crypto::es256::VerifyingKey;
use cc_sealed::{MAX_SEALED_LEN, SealedSecret};
use serde_json::{Map, Value};

use super::{MAX_KEY_LEN, describe, read};
use crate::{failure::Failure, output::Console, table::Table};

/// What the operator gives.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Whether a guest would accept the secret is decided by its own configuration (sealed_secrets.signing_keys) and by what it
finds under the kid; this compares with the key that you have.

Example:
  guestctl seal verify sealed.txt --key team-a-public.json
  kubectl get secret db -o jsonpath='{.data.password}' | base64 -d | guestctl seal verify - --key team-a-public.json")]
pub(super) struct Args {
    /// The sealed secret; - for standard input
    file: PathBuf,
    /// JWK of the key that is to have signed (EC, P-256)
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

pub(super) fn run(args: &Args, json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    let sealed = SealedSecret::parse(read(&args.file, MAX_SEALED_LEN + 64)?.trim_ascii())?;
    let key = VerifyingKey::from_jwk(&read(&args.key, MAX_KEY_LEN)?).map_err(|e| Failure::Malformed {
        path: args.key.clone(),
        kind: "verification key",
        why: e.to_string(),
    })?;
    let kid = sealed.kid().to_owned();
    let payload = sealed.verify(&key)?.into_payload();
    let members = describe(&kid, &payload);
    if json {
        let mut object = Map::from_iter([("verified".to_owned(), Value::from(true))]);
        object.extend(members.into_iter().map(|(name, value)| (name.to_owned(), value)));
        return console.json(&Value::Object(object));
    }
    let mut table = Table::new();
    table.section("sealed secret").row("signature", "verifies");
    for (name, value) in members {
        table.row(name, value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    }
    console.table(&table)
}
