//! Opens one encrypted resource with the guest's code, for programs that check it from outside.
//!
//! Standard input: one JSON object `{"private_key_pem": TEXT, "jwe": OBJECT}`, the key a made-up one. Standard
//! output: the plaintext. Exit code 1 with a sentence on standard error when it does not open.

use std::io::{Read, Write};
use std::process::ExitCode;

use anyhow::Context;
use cc_crypto::{Jwe, TeeKeyPair};

fn main() -> ExitCode {
    match open() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "jwe-open: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn open() -> anyhow::Result<()> {
    let mut text = String::new();
    std::io::stdin().take(1024 * 1024).read_to_string(&mut text)?;
    let input: serde_json::Value = serde_json::from_str(&text)?;
    let member = |name: &str| input.get(name).with_context(|| format!("no member {name:?}"));
    let key = TeeKeyPair::from_private_pem(member("private_key_pem")?.as_str().context("not a text")?)?;
    let jwe = Jwe::parse(member("jwe")?.to_string().as_bytes())?;
    std::io::stdout().write_all(key.open(&jwe)?.expose())?;
    Ok(())
}
