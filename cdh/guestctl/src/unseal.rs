//! `guestctl unseal`: opens a sealed secret through the confidential data hub.
//!
//! The hub verifies the signature, fetches what is named and decides whether this caller may have it; this side only
//! asks. Without a hub: `secret unseal`, see [`crate::secret`].

use std::path::PathBuf;

use base64::{Engine, engine::general_purpose::STANDARD};
use cc_daemon::address::Address;
use cc_protos::api::UnsealSecretInput;
use cc_sealed::MAX_SEALED_LEN;
use serde_json::json;

use crate::{
    connect::{HUB, Hub},
    failure::Failure,
    output::{Console, write_private_file},
    seal::read,
};

/// What the operator gives.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  guestctl unseal sealed.txt --output password
  guestctl unseal - < sealed.txt | sha256sum")]
pub(crate) struct Args {
    /// The sealed secret; - for standard input
    file: PathBuf,
    /// Write to this new file (mode 0600) instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write to a terminal even what is not plain text
    #[arg(long)]
    force: bool,
    /// Address of the confidential data hub
    #[arg(long, value_name = "ADDR", default_value = HUB)]
    cdh: Address,
}

/// Has the secret unsealed and writes it.
pub(crate) async fn run(args: &Args, json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    let secret = read(&args.file, MAX_SEALED_LEN + 64)?.trim_ascii().to_vec();
    let hub = Hub::at(&args.cdh);
    let doing = format!("unsealing {}", args.file.display());
    let answer = hub.sealed_secrets().unseal_secret(UnsealSecretInput { secret }).await;
    let plaintext = answer.map_err(|status| hub.failed(&doing, &status))?.into_inner().plaintext;
    match &args.output {
        Some(path) => {
            write_private_file(path, &plaintext)?;
            if json {
                console.json(&json!({"length": plaintext.len(), "output": path.display().to_string()}))?;
            }
            Ok(())
        }
        None if json => {
            console.json(&json!({"length": plaintext.len(), "base64": STANDARD.encode(&plaintext)}))
        }
        None => console.raw("the secret", &plaintext, args.force),
    }
}
