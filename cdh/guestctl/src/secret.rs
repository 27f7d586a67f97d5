//! `secret`: the tool of the existing stack by that name, with its command line.
//!
//! The same program as `guestctl`, told by the name it is called by, over the same functions as `guestctl seal`. It
//! differs where the existing one hurts: private keys are written for their owner alone, and options with one meaning
//! (`--cert-file`, `--json`) were added.

mod store;
mod unseal;

use std::path::{Path, PathBuf};

use cc_crypto::Secret;
use cc_kms::CredentialPlace;
use cc_sealed::{Envelope, Payload};
use clap::{Parser, Subcommand};
use serde_json::{Map, Value, json};

use crate::{
    exit,
    failure::Failure,
    output::Console,
    seal::{
        KeyFiles, Wanted, envelope, make_key, parse_object, parse_services, providers, read, signing_key,
        vault,
    },
};

/// Longest client key file read, in bytes.
const MAX_CLIENT_KEY_LEN: usize = 64 * 1024;

/// Seal and unseal secrets, and make the keys that sign them
#[derive(Debug, Parser)]
#[command(
    name = "secret",
    version,
    long_version = cc_build::LONG_VERSION,
    arg_required_else_help = true,
    after_help = format!("{}\n\nExample:\n  \
        secret keygen --kid sealed-signing\n  \
        secret seal --signing-kid kbs:///default/signing/key --signing-jwk-path sealed-signing-private.json \
        vault --resource-uri kbs:///default/db/password --provider kbs\n  \
        secret unseal --file-path sealed.txt --aa-kbc-params cc_kbc::https://kbs.example:8080", exit::HELP)
)]
pub(crate) struct Cli {
    /// Print JSON for programs instead of text for people
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a sealed secret
    Seal(SealArgs),
    /// Open a sealed secret on this machine, without a confidential data hub
    Unseal(unseal::Args),
    /// Make a key that signs sealed secrets
    Keygen(KeygenArgs),
}

#[derive(Debug, clap::Args)]
struct SealArgs {
    /// Name by which the guest finds the public key: a kbs:// URI, or a file name
    #[arg(long, value_name = "KID")]
    signing_kid: String,
    /// Private JWK of the key that signs (EC, P-256)
    #[arg(long, value_name = "FILE")]
    signing_jwk_path: PathBuf,
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Debug, Subcommand)]
enum Kind {
    /// Seal a secret itself, encrypted under a key that a key management service wraps
    Envelope(EnvelopeArgs),
    /// Seal a reference to a secret that a store keeps
    Vault(VaultArgs),
}

#[derive(Debug, clap::Args)]
struct EnvelopeArgs {
    /// Name of the key that wraps, at the service
    #[arg(long, value_name = "ID")]
    key_id: String,
    /// The secret
    #[arg(long, value_name = "FILE")]
    file_path: PathBuf,
    #[command(subcommand)]
    service: Service,
}

#[derive(Debug, Subcommand)]
enum Service {
    /// An instance of Alibaba Cloud KMS
    Ali {
        /// Password of the client key
        #[arg(long, value_name = "FILE")]
        password_file_path: PathBuf,
        /// Certificate of the instance's authority, PEM
        #[arg(long, value_name = "FILE")]
        cert_path: PathBuf,
        /// Name of the instance
        #[arg(long, value_name = "ID")]
        kms_instance_id: String,
        /// Client key: JSON with KeyId and PrivateKeyData
        #[arg(long, value_name = "FILE")]
        client_key_file_path: PathBuf,
        /// TOML file with the table [kms], as in the confidential data hub's configuration
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// AWS KMS
    Aws {
        /// Region of the key
        #[arg(long)]
        region: String,
        /// JSON with access_key_id, secret_access_key and maybe session_token
        #[arg(long, value_name = "FILE")]
        credential_file_path: PathBuf,
        /// TOML file with the table [kms], as in the confidential data hub's configuration
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

#[derive(Debug, clap::Args)]
struct VaultArgs {
    /// Name of the secret in its store; for kbs a kbs:// URI
    #[arg(long, value_name = "NAME")]
    resource_uri: String,
    /// The store: kbs, aliyun, aws, vault or pkcs11
    #[arg(long)]
    provider: String,
    /// Public settings of the store's client
    #[arg(long, value_name = "JSON", default_value = "{}", value_parser = parse_object)]
    provider_settings: Map<String, Value>,
    /// What else the request to the store needs
    #[arg(long, value_name = "JSON", default_value = "{}", value_parser = parse_object)]
    annotations: Map<String, Value>,
}

#[derive(Debug, clap::Args)]
struct KeygenArgs {
    /// Name of the key; its last part names the files
    #[arg(long, default_value = "sealed-signing")]
    kid: String,
    /// Folder for the two files; it must exist
    #[arg(long, value_name = "DIR", default_value = ".")]
    output_dir: PathBuf,
}

/// Does what the sub-command says.
pub(crate) async fn run(cli: &Cli, console: &mut Console<'_>) -> Result<(), Failure> {
    match &cli.command {
        Command::Seal(args) => seal(args, cli.json, console).await,
        Command::Unseal(args) => unseal::run(args, cli.json, console).await,
        Command::Keygen(args) => {
            let KeyFiles { private, public } = make_key(&args.kid, &args.output_dir)?;
            let (private, public) = (private.display().to_string(), public.display().to_string());
            match cli.json {
                true => console.json(&json!({"kid": args.kid, "private": private, "public": public})),
                false => {
                    console.text(&format!("{private}: signs; keep it to yourself\n{public}: verifies\n"))
                }
            }
        }
    }
}

async fn seal(args: &SealArgs, json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    let key = signing_key(&args.signing_jwk_path)?.key;
    let (payload, note) = match &args.kind {
        Kind::Vault(given) => {
            let settings = given.provider_settings.clone();
            let vault = vault(&given.provider, &given.resource_uri, settings, given.annotations.clone())?;
            let (store, name) = (&vault.provider, &vault.name);
            let note =
                format!("note: nothing was uploaded; the secret has to be in the store {store} as {name}\n");
            (Payload::Vault(vault), crate::table::printable(note.trim_end()) + "\n")
        }
        Kind::Envelope(given) => (Payload::Envelope(encrypt(given).await?), String::new()),
    };
    let sealed = cc_sealed::seal(&payload, &args.signing_kid, &key)?;
    if json {
        return console.json(&json!({"kid": args.signing_kid, "sealed": sealed}));
    }
    // Callers take the last line.
    console.text(&format!("{note}{sealed}\n"))
}

async fn encrypt(given: &EnvelopeArgs) -> Result<Envelope, Failure> {
    let parsed = |path: &Option<PathBuf>| path.as_deref().map(parse_services).transpose();
    let (provider, settings, config) = match &given.service {
        Service::Ali { password_file_path, cert_path, kms_instance_id, client_key_file_path, config } => {
            let mut config = parsed(config)?.unwrap_or_default();
            config.aliyun.client_key = Some(place(client_key_file_path)?);
            config.aliyun.client_key_password = Some(place(password_file_path)?);
            config.aliyun.instance_certificate = Some(place(cert_path)?);
            let settings = [
                ("client_type", "client_key".to_owned()),
                ("client_key_id", client_key_id(client_key_file_path)?),
                ("kms_instance_id", kms_instance_id.clone()),
            ];
            ("aliyun", settings.to_vec(), config)
        }
        Service::Aws { region, credential_file_path, config } => {
            let mut config = parsed(config)?.unwrap_or_default();
            config.aws.credential = Some(place(credential_file_path)?);
            ("aws", vec![("region", region.clone())], config)
        }
    };
    let wanted = Wanted {
        provider: provider.to_owned(),
        key_id: &given.key_id,
        settings: settings.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect(),
        annotations: &Map::new(),
    };
    envelope(wanted, &given.file_path, &providers(&config, None, None)?).await
}

fn place(path: &Path) -> Result<CredentialPlace, Failure> {
    let absolute = std::path::absolute(path);
    absolute
        .map(CredentialPlace::File)
        .map_err(|source| Failure::Unreadable { path: path.to_owned(), source })
}

/// The name that the client key in `path` gives itself.
fn client_key_id(path: &Path) -> Result<String, Failure> {
    #[derive(serde::Deserialize)]
    struct Name {
        #[serde(rename = "KeyId")]
        key_id: String,
    }
    let text = Secret::new(read(path, MAX_CLIENT_KEY_LEN)?);
    let name: Name = serde_json::from_slice(text.expose()).map_err(|e| Failure::Malformed {
        path: path.to_owned(),
        kind: "client key",
        why: cc_kbs::foreign::json_fault(&e),
    })?;
    Ok(name.key_id)
}
