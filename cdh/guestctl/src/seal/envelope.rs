//! A sealed secret of type `envelope`: the secret itself, encrypted under a data key that a key management service wraps.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use cc_crypto::{Secret, cipher};
use cc_kms::Members;
use cc_sealed::{Envelope, Payload};
use tokio::time::Instant;

use super::{Signer, parse_object, read, services};
use crate::{failure, failure::Failure, output::Console};

/// Longest secret that is sealed, in bytes. It is encoded twice, and Kubernetes keeps at most 1 MiB in one secret.
const MAX_SECRET_LEN: usize = 512 * 1024;
/// How long the service may take.
const TIME_LIMIT: Duration = Duration::from_secs(20);

/// What the operator gives.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The secret is encrypted here; the service sees only the key that encrypts it. Settings become part of the sealed secret,
credentials do not. The configuration is the table [kms] of the confidential data hub's, from a file of its own.

Example:
  guestctl seal envelope password.txt --provider aws --settings '{\"region\":\"eu-central-1\"}' \\
    --key-id alias/guests --credentials aws/ --key team-a-private.json > sealed.txt
  guestctl seal envelope - --provider vault --key-id guests --config kms.toml --credentials vault/ \\
    --key team-a-private.json < password.txt > sealed.txt")]
pub(super) struct Args {
    /// The secret; - for standard input
    file: PathBuf,
    /// The service: aliyun, aws or vault
    #[arg(long, value_name = "SERVICE")]
    provider: String,
    /// Name of the key that wraps, at the service
    #[arg(long, value_name = "ID")]
    key_id: String,
    /// Public settings of the service's client
    #[arg(long, value_name = "JSON", default_value = "{}", value_parser = parse_object)]
    settings: Members,
    /// What else the request to the service needs
    #[arg(long, value_name = "JSON", default_value = "{}", value_parser = parse_object)]
    annotations: Members,
    #[command(flatten)]
    services: services::Config,
    #[command(flatten)]
    signer: Signer,
    /// Write the sealed secret to this new file instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) async fn run(args: &Args, json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    let providers = args.services.providers()?;
    let wanted = Wanted {
        provider: args.provider.to_ascii_lowercase(),
        key_id: &args.key_id,
        settings: args.settings.clone(),
        annotations: &args.annotations,
    };
    let envelope = envelope(wanted, &args.file, &providers).await?;
    super::finish(&Payload::Envelope(envelope), &args.signer, args.output.as_deref(), json, console)
}

/// Which key of which service wraps.
pub(crate) struct Wanted<'a> {
    pub(crate) provider: String,
    pub(crate) key_id: &'a str,
    pub(crate) settings: Members,
    pub(crate) annotations: &'a Members,
}

/// Encrypts the content of `file` under a new data key, which the service wraps.
pub(crate) async fn envelope(
    wanted: Wanted<'_>,
    file: &Path,
    providers: &cc_kms::Providers,
) -> Result<Envelope, Failure> {
    let Wanted { provider, key_id, settings, annotations } = wanted;
    let kms = providers.open(&provider, &settings).map_err(|e| failure::kms(&e))?;
    let secret = Secret::new(read(file, MAX_SECRET_LEN)?);
    let data_key = cipher::random_key().map_err(|e| failure::crypto("making a data key", &e))?;
    let wrapped = kms
        .encrypt(key_id, &data_key, annotations, Instant::now() + TIME_LIMIT)
        .await
        .map_err(|e| failure::kms(&e))?;
    let mut envelope = Envelope::encrypt(&provider, key_id, &data_key, wrapped.ciphertext, &secret)?;
    envelope.provider_settings = settings;
    envelope.annotations = wrapped.annotations;
    Ok(envelope)
}
