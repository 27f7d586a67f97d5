//! `secret unseal`: what the confidential data hub does with a sealed secret, in one process.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use cc_crypto::{Secret, es256::VerifyingKey};
use cc_daemon::confined::read_below;
use cc_evidence::blame::Blame;
use cc_kbs::ResourceUri;
use cc_kms::{Broker, Providers};
use cc_sealed::{MAX_SEALED_LEN, Payload, SealedSecret, unverified};
use serde_json::json;
use tokio::time::Instant;

use super::store::{Source, Store, refused};
use crate::{
    failure,
    failure::Failure,
    output::{Console, write_private_file},
    seal::{parse_services, providers, read},
};

/// Where keys lie whose kid is a file name; the same folder as the confidential data hub's.
const KEY_DIR: &str = "/run/confidential-containers/cdh/sealed-secret";
/// Longest key read, in bytes; a JWK has 300.
const MAX_KEY_LEN: usize = 8 * 1024;
/// How long all requests of one run may take.
const TIME_LIMIT: Duration = Duration::from_secs(60);

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
    /// Folder with the credential files of the key management service [default: the confidential data hub's]
    #[arg(long, value_name = "DIR")]
    key_path: Option<PathBuf>,
    /// TOML file with the table [kms], as in the confidential data hub's configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
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
    let store = args.source.open()?;
    let deadline = Instant::now() + TIME_LIMIT;
    let payload = match args.skip_verification {
        true => unverified(text.trim_ascii())?,
        false => verified(text.trim_ascii(), store.as_deref(), deadline).await?,
    };
    let config = args.config.as_deref().map(parse_services).transpose()?.unwrap_or_default();
    let broker = store.map(|store| store as Arc<dyn Broker>);
    if broker.is_none() && payload.provider() == "kbs" {
        return Err(refused("needed to fetch what the secret names".to_owned()));
    }
    let providers = providers(&config, args.key_path.as_deref(), broker)?;
    let secret = open(payload, &providers, deadline).await?;
    write_private_file(&output, secret.expose())?;
    let path = output.display().to_string();
    match json {
        true => console.json(&json!({"length": secret.len(), "output": path})),
        false => console.text(&format!("{path}: {} bytes\n", secret.len())),
    }
}

async fn verified(text: &[u8], store: Option<&Store>, deadline: Instant) -> Result<Payload, Failure> {
    let sealed = SealedSecret::parse(text)?;
    let kid = sealed.kid();
    let key = match (kid.parse::<ResourceUri>(), store) {
        (Ok(_), Some(store)) => store.fetch(kid, deadline).await.map_err(|e| failure::kbs(&e))?,
        (Ok(_), None) => return Err(refused(format!("needed to fetch the key {kid}"))),
        (Err(_), _) => {
            let unreadable = |source| Failure::Unreadable { path: Path::new(KEY_DIR).join(kid), source };
            Secret::new(read_below(Path::new(KEY_DIR), Path::new(kid), MAX_KEY_LEN).map_err(unreadable)?)
        }
    };
    // Why it is none is not told: the secret chose the name, and what is there may be another secret.
    let key = VerifyingKey::from_jwk(key.expose()).map_err(|_| {
        let message = format!("the key {kid:?} that is said to have signed is no public key of ES256");
        failure::of(
            Blame::Misused,
            "SIGNING_KEY_UNUSABLE",
            &message,
            "store the public key as a JWK under that name",
        )
    })?;
    Ok(sealed.verify(&key)?.into_payload())
}

async fn open(payload: Payload, providers: &Providers, deadline: Instant) -> Result<Secret, Failure> {
    let failed = |e| failure::kms(&e);
    match payload {
        Payload::Vault(vault) => {
            let kms = providers.open(&vault.provider, &vault.provider_settings).map_err(failed)?;
            kms.secret(&vault.name, &vault.annotations, deadline).await.map_err(failed)
        }
        Payload::Envelope(envelope) => {
            let kms = providers.open(&envelope.provider, &envelope.provider_settings).map_err(failed)?;
            let (key, wrapped) = (&envelope.key_id, &envelope.encrypted_key);
            let key = kms.decrypt(key, wrapped, &envelope.annotations, deadline).await.map_err(failed)?;
            Ok(envelope.decrypt(&key)?)
        }
    }
}
