//! Wraps standard input as a data key with a key management service, through the library that the sealing tools use.
//!
//! `kms-wrap CONFIG PROVIDER KEY_ID SETTINGS ANNOTATIONS`: the table `[kms]` as a file, and two JSON objects. Prints JSON:
//! `ciphertext` in base64, and `annotations`. A program of its own, because a PKCS#11 module takes its settings from the
//! environment.

use std::io::Read;

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cc_crypto::Secret;
use cc_kms::{Members, Providers, Surroundings, TIME_LIMIT};
use tokio::time::Instant;

#[tokio::main(flavor = "current_thread")]
#[allow(clippy::print_stdout, reason = "the result goes to standard output")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [config, provider, key_id, settings, annotations] = arguments.as_slice() else {
        bail!("usage: kms-wrap CONFIG PROVIDER KEY_ID SETTINGS ANNOTATIONS");
    };
    let config = toml::from_str(&std::fs::read_to_string(config).context("reading the configuration")?)?;
    let (settings, annotations): (Members, Members) =
        (serde_json::from_str(settings)?, serde_json::from_str(annotations)?);
    let mut plaintext = Vec::new();
    std::io::stdin().read_to_end(&mut plaintext)?;
    let kms = Providers::new(&config, Surroundings::default())?.open(provider, &settings)?;
    let deadline = Instant::now() + TIME_LIMIT;
    let wrapped = kms.encrypt(key_id, &Secret::new(plaintext), &annotations, deadline).await?;
    let ciphertext = STANDARD.encode(&wrapped.ciphertext);
    println!("{}", serde_json::json!({"ciphertext": ciphertext, "annotations": wrapped.annotations}));
    Ok(())
}
