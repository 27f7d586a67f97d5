//! `secret unseal`: what the confidential data hub does with a sealed secret, in one process.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
};

use cc_crypto::{Secret, es256::VerifyingKey};
use cc_daemon::confined::read_below;
use cc_evidence::blame::Blame;
use cc_kbs::ResourceUri;
use cc_sealed::{MAX_SEALED_LEN, Payload, SealedSecret, unverified};
use serde_json::json;

use super::store::{Source, Store};
use crate::{
    failure,
    failure::Failure,
    output::{Console, write_private_file},
    seal::read,
};

/// Where keys lie whose kid is a file name; the same folder as the confidential data hub's.
const KEY_DIR: &str = "/run/confidential-containers/cdh/sealed-secret";
/// Longest key read, in bytes; a JWK has 300.
const MAX_KEY_LEN: usize = 8 * 1024;

/// What the operator gives.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Writes FILE.unsealed (mode 0600), which must not exist yet. The key that signed is the kid's: a resource of the key
broker, or a file in /run/confidential-containers/cdh/sealed-secret.

Example:
  secret unseal --file-path sealed.txt --aa-kbc-params cc_kbc::https://kbs.example:8080 --cert-file kbs.pem")]
pub(super) struct Args {
    /// The sealed secret
    #[arg(long, value_name = "FILE")]
    file_path: PathBuf,
    #[command(flatten)]
    source: Source,
    /// Do not look at the signature: whoever wrote the file chooses what is opened
    #[arg(long)]
    skip_verification: bool,
}

pub(super) async fn run(args: &Args, json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    let mut output = OsString::from(&args.file_path);
    output.push(".unsealed");
    let output = PathBuf::from(output);
    if output.symlink_metadata().is_ok() {
        // Before anything is fetched.
        return Err(Failure::OutputFile { path: output, source: io::ErrorKind::AlreadyExists.into() });
    }
    let text = read(&args.file_path, MAX_SEALED_LEN + 64)?;
    let mut store = Store::new(&args.source);
    let payload = match args.skip_verification {
        true => unverified(text.trim_ascii())?,
        false => verified(text.trim_ascii(), &mut store).await?,
    };
    let secret = open(payload, &mut store).await?;
    write_private_file(&output, secret.expose())?;
    let path = output.display().to_string();
    match json {
        true => console.json(&json!({"length": secret.len(), "output": path})),
        false => console.text(&format!("{path}: {} bytes\n", secret.len())),
    }
}

async fn verified(text: &[u8], store: &mut Store<'_>) -> Result<Payload, Failure> {
    let sealed = SealedSecret::parse(text)?;
    let kid = sealed.kid();
    let key = match kid.parse::<ResourceUri>() {
        Ok(_) => store.fetch(kid).await?,
        Err(_) => Secret::new(
            read_below(Path::new(KEY_DIR), Path::new(kid), MAX_KEY_LEN)
                .map_err(|source| Failure::Unreadable { path: Path::new(KEY_DIR).join(kid), source })?,
        ),
    };
    let key = VerifyingKey::from_jwk(key.expose()).map_err(|e| {
        let message = format!("reading the key {kid:?} that is said to have signed: {e}");
        failure::of(
            Blame::Misused,
            "SIGNING_KEY_UNUSABLE",
            &message,
            "store the public key as a JWK under that name",
        )
    })?;
    Ok(sealed.verify(&key)?.into_payload())
}

async fn open(payload: Payload, store: &mut Store<'_>) -> Result<Secret, Failure> {
    match payload {
        Payload::Vault(vault) if vault.provider == "kbs" => store.fetch(&vault.name).await,
        other => {
            let message = format!("the provider is {:?}, known is \"kbs\"", other.provider());
            let hint = "unseal it by a confidential data hub, or make it again for a provider that is known";
            Err(failure::of(Blame::Misused, "PROVIDER_UNKNOWN", &message, hint))
        }
    }
}
