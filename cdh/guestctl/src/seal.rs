//! `guestctl seal`: makes sealed secrets and the keys that sign them, and verifies a signature without unsealing.
//!
//! All of it works on any machine: nothing is attested and no daemon is asked; only an envelope needs its key management
//! service. A sealed secret is a text for the host's
//! side (a Kubernetes secret, a configuration file): it names what is meant, and is signed. The format is
//! [`cc_sealed`]'s. Opening one is done by the confidential data hub; see [`crate::unseal`].

mod envelope;
mod keygen;
mod services;
mod vault;
mod verify;

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use cc_crypto::{Secret, es256::SigningKey};
use clap::Subcommand;
use serde_json::{Map, Value};

pub(crate) use self::{
    envelope::{Wanted, envelope},
    keygen::{KeyFiles, make_key},
    services::{parse as parse_services, providers},
    vault::{parse_object, vault},
};
use crate::{failure::Failure, output::Console};

/// Longest signing key file read, in bytes; a JWK has 300.
const MAX_KEY_LEN: usize = 8 * 1024;

/// What the operator gives.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit status: 0 done; 1 a file cannot be used; 2 wrong usage, or a malformed sealed secret; 3 the signature does not
verify, or the service refuses; 5 the service does not answer; 6 it misbehaves.

Example:
  guestctl seal keygen --kid kbs:///default/sealed-signing/team-a
  guestctl seal vault --uri kbs:///default/db/password --key team-a-private.json > sealed.txt
  guestctl seal verify sealed.txt --key team-a-public.json")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Seal a reference to a secret that a store keeps
    Vault(vault::Args),
    /// Seal a secret itself, encrypted under a key that a key management service wraps
    Envelope(envelope::Args),
    /// Make a key that signs sealed secrets
    Keygen(keygen::Args),
    /// Check who signed a sealed secret and show what it names; nothing is fetched
    Verify(verify::Args),
}

/// Does what the sub-command says.
pub(crate) async fn run(args: &Args, json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    match &args.command {
        Command::Vault(args) => vault::run(args, json, console),
        Command::Envelope(args) => envelope::run(args, json, console).await,
        Command::Keygen(args) => keygen::run(args, json, console),
        Command::Verify(args) => verify::run(args, json, console),
    }
}

/// A key that signs, with the name that its file gives it.
pub(crate) struct NamedKey {
    pub(crate) key: SigningKey,
    /// The member `kid` of the JWK.
    pub(crate) kid: Option<String>,
}

/// Reads the private JWK in `path`.
pub(crate) fn signing_key(path: &Path) -> Result<NamedKey, Failure> {
    let text = Secret::new(read(path, MAX_KEY_LEN)?);
    let malformed = |why: String| Failure::Malformed { path: path.to_owned(), kind: "signing key", why };
    let key = SigningKey::from_jwk(text.expose()).map_err(|e| malformed(e.to_string()))?;
    // A reader of its own: the key above has no use for its name.
    #[derive(serde::Deserialize)]
    struct Name {
        kid: Option<String>,
    }
    let Name { kid } =
        serde_json::from_slice(text.expose()).map_err(|_| malformed("its kid is no text".into()))?;
    Ok(NamedKey { key, kid })
}

/// Reads `path`, or standard input for `-`, as at most `limit` bytes.
pub(crate) fn read(path: &Path, limit: usize) -> Result<Vec<u8>, Failure> {
    let unreadable = |source| Failure::Unreadable { path: path.to_owned(), source };
    // Room from the start: a buffer that grows leaves copies of a key behind.
    let mut bytes = Vec::with_capacity(limit.min(64 * 1024) + 2);
    let most = limit as u64 + 1;
    let result = if path == Path::new("-") {
        io::stdin().lock().take(most).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes))
    };
    result.map_err(unreadable)?;
    if bytes.len() > limit {
        return Err(unreadable(io::Error::other(format!("longer than {limit} bytes"))));
    }
    Ok(bytes)
}

/// Name and public members of a sealed secret, for both forms of output.
pub(crate) fn describe(kid: &str, payload: &cc_sealed::Payload) -> Vec<(&'static str, Value)> {
    use cc_sealed::Payload;
    let object = |members: &Map<String, Value>| Value::Object(members.clone());
    let mut members = vec![("kid", Value::from(kid))];
    match payload {
        Payload::Vault(vault) => members.extend([
            ("type", Value::from("vault")),
            ("provider", Value::from(vault.provider.as_str())),
            ("name", Value::from(vault.name.as_str())),
            ("provider_settings", object(&vault.provider_settings)),
            ("annotations", object(&vault.annotations)),
        ]),
        Payload::Envelope(envelope) => members.extend([
            ("type", Value::from("envelope")),
            ("provider", Value::from(envelope.provider.as_str())),
            ("key_id", Value::from(envelope.key_id.as_str())),
            ("wrap_type", Value::from(envelope.wrap_type.as_str())),
            ("ciphertext_bytes", Value::from(envelope.encrypted_data.len())),
            ("provider_settings", object(&envelope.provider_settings)),
            ("annotations", object(&envelope.annotations)),
        ]),
    }
    members
}

/// Signs `payload` as `kid`, or as what the key file calls its key, and writes the sealed text.
fn finish(
    payload: &cc_sealed::Payload,
    signer: &Signer,
    output: Option<&Path>,
    json: bool,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let NamedKey { key, kid } = signing_key(&signer.key)?;
    let kid = signer.kid.clone().or(kid).ok_or_else(|| Failure::Argument {
        argument: "--kid".into(),
        why: format!("{} gives its key no name", signer.key.display()),
        hint: "name the key as the guest finds it: kbs:///repository/type/tag, or the name of its file there"
            .into(),
    })?;
    let sealed = cc_sealed::seal(payload, &kid, &key)?;
    let mut members: Map<String, Value> =
        describe(&kid, payload).into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    match output {
        Some(path) => {
            crate::output::write_private_file(path, format!("{sealed}\n").as_bytes())?;
            members.insert("output".into(), path.display().to_string().into());
        }
        None if !json => return console.text(&format!("{sealed}\n")),
        None => drop(members.insert("sealed".into(), sealed.into())),
    }
    if json { console.json(&Value::Object(members)) } else { Ok(()) }
}

/// Which key signs, and what it is called.
#[derive(Debug, clap::Args)]
struct Signer {
    /// Private JWK of the key that signs (EC, P-256)
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Name by which the guest finds the public key: a kbs:// URI, or a file name [default: the key file's own kid]
    #[arg(long)]
    kid: Option<String>,
}
