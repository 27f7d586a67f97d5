//! `guestctl podman-secret`: the four programs of Podman's secret driver `shell` (podman-secret-create(1),
//! containers.conf(5)).
//!
//! `podman secret create` hands over a reference, a `kbs://` URI or the text of a sealed secret, and that is all that is
//! kept. Each `lookup` asks the confidential data hub, which decides for the caller that the kernel shows it: the systemd
//! unit in which Podman runs. It is NOT a proof of the container, which does not exist yet at that time.
//!
//! Podman names secrets to its driver by identifiers of its own, in the variable `SECRET_ID`.

mod folder;
mod reference;

use std::path::{Path, PathBuf};
use std::str::FromStr;

use base64::{Engine, engine::general_purpose::STANDARD};
use cc_daemon::address::Address;
use cc_protos::api::{GetResourceRequest, UnsealSecretInput};
use clap::Subcommand;
use serde_json::json;

use self::folder::Folder;
use self::reference::{MAX_LEN, Reference};
use crate::{
    connect::{HUB, Hub},
    failure::Failure,
    output::Console,
    seal::read,
};

/// Where references are kept unless told otherwise.
const STATE: &str = "/var/lib/confidential-containers/podman-secrets";
/// Longest identifier, in digits. Podman's have 25.
const MAX_ID_LEN: usize = 64;

/// What the operator gives.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Podman runs these; quadlet/containers.conf.d holds the lines of containers.conf for it. People use podman secret:
  printf kbs:///default/db/password | podman secret create db-password -

Exit status: 0 done; 1 the state folder cannot be used; 2 no reference or no identifier; 3 the hub or the key broker
refused; 4 no such secret; 5 the hub or the key broker does not answer; 6 it answered nonsense; 7 this machine.

Example:
  guestctl podman-secret list
  guestctl podman-secret lookup --secret-id 0123456789abcdef012345678")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Keep the reference that comes on standard input
    Store(OneArgs),
    /// Fetch what the reference names, and write it, byte for byte, to standard output
    Lookup(LookupArgs),
    /// Show the identifiers that have a reference, one on each line
    List(StateArgs),
    /// Forget the reference
    Delete(OneArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  guestctl podman-secret list --state /var/lib/confidential-containers/podman-secrets")]
struct StateArgs {
    /// Folder of the references (mode 0700)
    #[arg(long, value_name = "FOLDER", default_value = STATE)]
    state: PathBuf,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  printf kbs:///default/db/password | guestctl podman-secret store --secret-id 0123456789abcdef012345678
  guestctl podman-secret delete --secret-id 0123456789abcdef012345678")]
struct OneArgs {
    /// Podman's identifier of the secret
    #[arg(long, value_name = "ID", env = "SECRET_ID")]
    secret_id: SecretId,
    #[command(flatten)]
    folder: StateArgs,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  guestctl podman-secret lookup --secret-id 0123456789abcdef012345678 | sha256sum")]
struct LookupArgs {
    #[command(flatten)]
    one: OneArgs,
    /// Address of the confidential data hub
    #[arg(long, value_name = "ADDR", default_value = HUB)]
    cdh: Address,
}

/// An identifier as Podman makes them, which is a plain file name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SecretId(String);

impl FromStr for SecretId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !digits || !(1..=MAX_ID_LEN).contains(&text.len()) {
            return Err(format!(
                "an identifier of Podman is 1 to {MAX_ID_LEN} lower-case hexadecimal digits"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

/// Does what the driver is asked.
pub(crate) async fn run(args: &Args, json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    match &args.command {
        Command::Store(args) => store(args, json, console),
        Command::Lookup(args) => lookup(args, json, console).await,
        Command::List(args) => list(args, json, console),
        Command::Delete(args) => delete(args, json, console),
    }
}

fn store(args: &OneArgs, json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    let text = read(Path::new("-"), MAX_LEN)?;
    let reference =
        Reference::parse(&text).map_err(|why| Failure::ReferenceRefused { length: text.len(), why })?;
    Folder::open_or_make(&args.folder.state)?.write(&args.secret_id.0, &reference)?;
    if json {
        console.json(&json!({"id": args.secret_id.0, "reference": reference.to_string()}))
    } else {
        Ok(())
    }
}

async fn lookup(args: &LookupArgs, json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    let id = &args.one.secret_id.0;
    let state = &args.one.folder.state;
    let unknown = || Failure::SecretUnknown { id: id.clone(), state: state.clone() };
    let folder = Folder::open(state)?.ok_or_else(unknown)?;
    let reference = folder.read(id)?.ok_or_else(unknown)?;
    let hub = Hub::at(&args.cdh);
    let doing = format!("Podman secret {id}: fetching {reference}");
    let answer = match &reference {
        Reference::Resource(uri) => {
            let request = GetResourceRequest { resource_path: uri.clone() };
            hub.resources().get_resource(request).await.map(|answer| answer.into_inner().resource)
        }
        Reference::Sealed(text) => {
            let request = UnsealSecretInput { secret: text.clone().into_bytes() };
            hub.sealed_secrets().unseal_secret(request).await.map(|answer| answer.into_inner().plaintext)
        }
    };
    let secret = answer.map_err(|status| hub.failed(&doing, &status))?;
    if json {
        let text = STANDARD.encode(&secret);
        return console.json(
            &json!({"id": id, "reference": reference.to_string(), "length": secret.len(), "base64": text}),
        );
    }
    console.raw(&format!("Podman secret {id}"), &secret, false)
}

fn list(args: &StateArgs, json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    let ids = match Folder::open(&args.state)? {
        Some(folder) => folder.ids()?,
        None => Vec::new(),
    };
    if json {
        console.json(&json!(ids))
    } else {
        console.text(&ids.iter().map(|id| format!("{id}\n")).collect::<String>())
    }
}

fn delete(args: &OneArgs, json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    // What is not there is deleted: or else Podman would never let go of a secret whose reference was lost.
    let found = match Folder::open(&args.folder.state)? {
        Some(folder) => folder.remove(&args.secret_id.0)?,
        None => false,
    };
    if json { console.json(&json!({"id": args.secret_id.0, "found": found})) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_plain_file_names() {
        assert!("0123456789abcdef012345678".parse::<SecretId>().is_ok());
        let long = "a".repeat(65);
        for bad in ["", ".", "..", "a/b", "../a", "A0", "a b", "a\n", long.as_str()] {
            assert!(bad.parse::<SecretId>().is_err(), "{bad:?}");
        }
    }
}
