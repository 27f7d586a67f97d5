//! `guestctl verify-bundle`: a Sigstore bundle over a file or a digest, by key or by identity.
//!
//! It speaks the client protocol of the Sigstore conformance suite, and is the policy's own verification: nothing is
//! asked of the network, the trust root is given or built in. An exit status of 0 means verified, nothing else does.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use cc_crypto::verify::PublicKey;
use image_rs::policy::sigstore::{Artifact, MAX_LEN, Names, Signer, TrustRoot};
use serde_json::json;

use crate::{failure::Failure, output::Console};

/// Longest artifact read into memory, in bytes; larger ones are named by their digest.
const ARTIFACT_MAX: usize = 1 << 30;

/// What the operator gives.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exits with 1 if the bundle is not verified. JSON (--json): {\"verified\": true, \"signer\": …, \"attestation\": …}.

Example:
  guestctl verify-bundle --bundle app.sigstore.json --key cosign.pub app.tar
  guestctl verify-bundle --bundle app.sigstore.json --certificate-identity NAME --certificate-oidc-issuer URL sha256:e3b0…")]
pub(crate) struct Args {
    /// The trust root of Sigstore's staging instance, which signs test data only
    #[arg(long, conflicts_with = "trusted_root")]
    staging: bool,
    /// The bundle
    #[arg(long, value_name = "FILE")]
    bundle: PathBuf,
    /// Who must have signed: the name in the certificate, in full
    #[arg(long, value_name = "IDENTITY", requires = "certificate_oidc_issuer")]
    certificate_identity: Option<String>,
    /// Who must have vouched for that name
    #[arg(long, value_name = "URL", requires = "certificate_identity")]
    certificate_oidc_issuer: Option<String>,
    /// The public key (PEM) that must have signed
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "certificate_identity",
        required_unless_present = "certificate_identity"
    )]
    key: Option<PathBuf>,
    /// Trust these authorities and logs instead of those of Sigstore's public good instance
    #[arg(long, value_name = "FILE")]
    trusted_root: Option<PathBuf>,
    /// What was signed: a file, or sha256: and 64 digits, if there is no file of that name
    #[arg(value_name = "FILE_OR_DIGEST")]
    artifact: String,
}

/// Verifies, and says who signed.
pub(crate) fn run(args: &Args, json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    let bundle = read(&args.bundle, MAX_LEN)?;
    let root = match &args.trusted_root {
        Some(path) => TrustRoot::from_json(&read(path, MAX_LEN)?)
            .map_err(|why| malformed(path, "trusted root", &why))?,
        None if args.staging => {
            TrustRoot::staging().map_err(|why| malformed(&args.bundle, "built-in trusted root", &why))?
        }
        None => {
            TrustRoot::public_good().map_err(|why| malformed(&args.bundle, "built-in trusted root", &why))?
        }
    };
    let key = match &args.key {
        Some(path) => Some(
            PublicKey::from_pem(&read(path, MAX_LEN)?).map_err(|why| malformed(path, "public key", &why))?,
        ),
        None => None,
    };
    let signer = match (&key, &args.certificate_identity, &args.certificate_oidc_issuer) {
        (Some(key), _, _) => Signer::Key(key),
        (None, Some(identity), Some(issuer)) => {
            Signer::Identity { subject: Names::Exactly(identity), issuer }
        }
        _ => {
            return Err(Failure::Argument {
                argument: "--key".to_owned(),
                why: "nobody is named who must have signed".to_owned(),
                hint: "give --key, or --certificate-identity and --certificate-oidc-issuer".to_owned(),
            });
        }
    };
    let path = Path::new(&args.artifact);
    let bytes;
    let artifact = match digest(&args.artifact) {
        Some(digest) if !path.exists() => Artifact::Sha256(digest),
        _ => {
            bytes = read(path, ARTIFACT_MAX)?;
            Artifact::Bytes(&bytes)
        }
    };
    let refused = |why| Failure::BundleRefused { bundle: args.bundle.clone(), why };
    let signed = root.verify(&bundle, artifact, signer).map_err(refused)?;
    if json {
        return console.json(
            &json!({"verified": true, "signer": signed.by, "attestation": signed.statement.is_some()}),
        );
    }
    let kind = if signed.statement.is_some() { "attestation" } else { "signature" };
    console.text(&format!("verified: {kind} by {}\n", crate::table::printable(&signed.by)))
}

fn digest(text: &str) -> Option<[u8; 32]> {
    hex::decode(text.strip_prefix("sha256:")?).ok()?.try_into().ok()
}

fn read(path: &Path, most: usize) -> Result<Vec<u8>, Failure> {
    let unreadable = |source| Failure::Unreadable { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let limit = most as u64 + 1;
    File::open(path).map_err(unreadable)?.take(limit).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > most {
        let why = format!("it has more than {most} bytes");
        return Err(Failure::Malformed { path: path.to_owned(), kind: "input", why });
    }
    Ok(bytes)
}

fn malformed(path: &Path, kind: &'static str, why: &dyn std::fmt::Display) -> Failure {
    Failure::Malformed { path: path.to_owned(), kind, why: why.to_string() }
}
