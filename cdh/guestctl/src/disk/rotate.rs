//! `guestctl disk rotate`: another key for a configured volume. The volume key stays, so the data does too.

use std::path::PathBuf;

use cc_crypto::Secret;
use cc_daemon::address::Address;
use cc_protos::api::{GetResourceRequest, UnsealSecretInput};
use cc_storage::{Request, join_keys};
use cc_volume::luks2::{DetachedHeader, HeaderKey, Policy};
use serde_json::json;

use super::{
    configured::Configured,
    device::{Device, change_steps, rest_of_change},
    format::key,
    helper,
    prepare::check,
    tag::Told,
    volume,
};
use crate::{
    connect::{HUB, Hub},
    failure::{self, Failure},
    get::full_uri,
    output::Console,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The volume must be closed. The new key is added and tried on a copy of the header in memory, the present one is dropped there, and the copy is
signed with the new key. Then it comes onto the disk in four steps: before the second one the present key opens the volume, after
it the new one does. If it was interrupted, run it again: what is left of it is done. Afterwards write the new key into [[volumes]], or
store it under the present URI. Where the configuration keeps the tag elsewhere (tag = …), the new tag is printed before
anything is written, with --json as a document of its own; store it there when the rotation is done: before it is, the old one is the tag.
Whoever has a copy of the old header and the old key can still open the volume.

Exit status: 0 done; 1 the header is refused; 2 the disk is in use; 4 there is no such volume or key; 7 cdh-storage cannot be used;
others as for `guestctl get`.

Example:
  guestctl disk rotate data --new-key kbs:///disk-encryption/db-1/luks-key-1 --dry-run")]
pub(super) struct Args {
    /// Name of the volume in [[volumes]] of the data hub's configuration
    name: String,
    /// The new key: its kbs:// URI, or a sealed secret
    #[arg(long, value_name = "KEY")]
    new_key: String,
    /// The disk [default: /dev/disk/by-uuid/UUID]
    #[arg(long, value_name = "PATH")]
    device: Option<PathBuf>,
    /// Do everything but write
    #[arg(long)]
    dry_run: bool,
    /// Path of cdh-storage [default: beside this program]
    #[arg(long, value_name = "PATH")]
    helper: Option<PathBuf>,
    /// Address of the confidential data hub
    #[arg(long, value_name = "ADDR", default_value = HUB)]
    cdh: Address,
}

pub(super) async fn run(args: &Args, as_json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    let hub = Hub::at(&args.cdh);
    let configured = Configured::find(&hub, &args.name).await?;
    let new_key = NewKey::read(&args.new_key)?;
    let path = args.device.clone().unwrap_or_else(|| configured.device().into());
    let mut device = Device::open(&path)?;
    let policy = configured.policy();
    let before = device.header(configured.copies(), |header| policy.judge(header).into_result())?;
    let uuid = &configured.volume.uuid;
    if before.header().binary().uuid != *uuid {
        return Err(other_volume(&args.name, uuid, &path));
    }
    let new = new_key.fetch(&hub).await?;
    let done_before = is_signed(&before, &new);
    let (told, steps) = if done_before {
        // What is left of a change that was interrupted after its new key opened the volume.
        (Told::of(&before, &configured.volume), rest_of_change(&before))
    } else {
        // The hub compares the header with its tag, wherever that is kept.
        check(&hub, &args.name, &before).await?;
        let old = key(&hub, &args.name).await?;
        if let Some(tag) = before.header().tag().filter(|_| !configured.volume.signed) {
            HeaderKey::derive(&old)
                .and_then(|key| key.verify(before.header(), tag))
                .map_err(|error| volume(&path, error))?;
        }
        let keys = join_keys(&old, &new).map_err(|e| failure::of(e.blame(), e.code(), &e, e.hint()))?;
        let after = rotated(args, &before, &device, keys, (uuid, &new, &policy))?;
        (Told::of(&after, &configured.volume), change_steps(&before, &after)?)
    };
    // A header that is not written has no tag that anybody needs.
    let told = if args.dry_run { Told::default() } else { told };
    if !args.dry_run {
        told.before(as_json, console)?;
        device.write(&steps)?;
    }

    let (shown, name) = (path.display().to_string(), &args.name);
    if as_json {
        return console.json(&json!({
            "volume": name, "uuid": uuid, "device": shown, "new_key": new_key.shown(), "written": !args.dry_run,
            "tag": told.tag(), "compared": !done_before,
        }));
    }
    let new_key = new_key.shown();
    let text = match (done_before, args.dry_run) {
        (false, true) => format!("{shown}: the new key would open {name}; nothing was written\n"),
        (false, false) => format!("{shown}: {name} opens with {new_key}; write that into [[volumes]]\n"),
        (true, true) => {
            format!("{shown}: {name} opens with {new_key} already; write that into [[volumes]]\n")
        }
        (true, false) => format!(
            "{shown}: {name} opens with {new_key} already, and nothing is left of another key; write that into [[volumes]]\n"
        ),
    };
    let after = told.after();
    let caution = if done_before && !after.is_empty() {
        "do so only if you have just rotated to this key: the header was not compared with the tag that is stored, and may be an older one\n"
    } else {
        ""
    };
    console.text(&format!("{text}{after}{caution}"))
}

/// Where the new key is.
enum NewKey {
    /// A `kbs://` URI.
    Resource(String),
    /// The text of a sealed secret.
    Sealed(String),
}

impl NewKey {
    fn read(text: &str) -> Result<Self, Failure> {
        if text.starts_with(cc_sealed::PREFIX) {
            return Ok(Self::Sealed(text.to_owned()));
        }
        full_uri(text).map(Self::Resource)
    }

    fn shown(&self) -> &str {
        match self {
            Self::Resource(uri) => uri,
            Self::Sealed(_) => "the new sealed secret",
        }
    }

    async fn fetch(&self, hub: &Hub<'_>) -> Result<Secret, Failure> {
        match self {
            Self::Resource(uri) => {
                let request = GetResourceRequest { resource_path: uri.clone() };
                let answer = hub.resources().get_resource(request).await;
                let answer = answer.map_err(|status| hub.failed(&format!("fetching {uri}"), &status))?;
                Ok(Secret::new(answer.into_inner().resource))
            }
            Self::Sealed(text) => {
                let request = UnsealSecretInput { secret: text.clone().into_bytes() };
                let answer = hub.sealed_secrets().unseal_secret(request).await;
                let answer = answer.map_err(|status| hub.failed("opening the new sealed secret", &status))?;
                Ok(Secret::new(answer.into_inner().plaintext))
            }
        }
    }
}

/// Whether the header has been changed to this key before.
fn is_signed(header: &DetachedHeader, key: &Secret) -> bool {
    let fits = |tag| HeaderKey::derive(key).and_then(|key| key.verify(header.header(), tag));
    header.header().tag().is_some_and(|tag| fits(tag).is_ok())
}

fn rotated(
    args: &Args,
    before: &DetachedHeader,
    device: &Device,
    keys: Secret,
    result: (&str, &Secret, &Policy),
) -> Result<DetachedHeader, Failure> {
    let program = helper::program(args.helper.as_deref());
    let after = helper::change(
        &program,
        Request::RotateVolume,
        keys,
        (Some(&before.canonical()), device.length()),
        result,
    )?;
    let same = |header: &DetachedHeader| {
        let metadata = header.header().metadata();
        let digest = metadata.digests.values().next().and_then(|digest| digest.pbkdf2.clone());
        (metadata.segments.clone(), digest)
    };
    if same(before) != same(&after) {
        let why = "has another volume key or other data".to_owned();
        return Err(Failure::Garbled { doing: "changing the key".to_owned(), why });
    }
    Ok(after)
}

fn other_volume(name: &str, uuid: &str, path: &std::path::Path) -> Failure {
    failure::of(
        cc_evidence::blame::Blame::Denied,
        "VOLUME_UUID_DIFFERS",
        &format!("{} is not the volume {name} ({uuid})", path.display()),
        "name the volume's own disk with --device (lsblk -o NAME,UUID shows which it is), or correct the uuid in [[volumes]]",
    )
}
