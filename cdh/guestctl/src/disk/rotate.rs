//! `guestctl disk rotate`: another key for a configured volume. The volume key stays, so the data does too.

use std::path::PathBuf;

use cc_crypto::Secret;
use cc_daemon::address::Address;
use cc_storage::{Request, join_keys};
use cc_volume::luks2::{DetachedHeader, HeaderKey, Policy};
use serde_json::json;

use super::{
    configured::Configured,
    device::{Device, change_steps, rest_of_change},
    format::key,
    helper, volume,
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
it the new one does. If it was interrupted, run it again: what is left of it is done. Afterwards write the new key's URI into [[volumes]], or store the new key under the present URI.
Whoever has a copy of the old header and the old key can still open the volume.

Exit status: 0 done; 1 the header is refused; 2 the disk is in use; 4 there is no such volume or key; 7 cdh-storage cannot be used;
others as for `guestctl get`.

Example:
  guestctl disk rotate data --new-key kbs:///disk-encryption/db-1/luks-key-1 --dry-run")]
pub(super) struct Args {
    /// Name of the volume in [[volumes]] of the data hub's configuration
    name: String,
    /// URI of the new key
    #[arg(long, value_name = "URI")]
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
    let new_uri = full_uri(&args.new_key)?;
    let path = args.device.clone().unwrap_or_else(|| configured.device().into());
    let device = Device::open(&path)?;
    let refused = |error| volume(&path, error);
    let before = DetachedHeader::read(device.head()?).map_err(refused)?;
    let policy = configured.policy();
    policy.judge(before.header()).into_result().map_err(refused)?;
    let uuid = &configured.volume.uuid;
    if before.header().binary().uuid != *uuid {
        return Err(other_volume(&args.name, uuid, &path));
    }
    let new = key(&hub, &new_uri).await?;
    if is_signed(&before, &new) {
        return finish(args, &before, &device, &new_uri, as_json, console);
    }
    let old = key(&hub, &configured.volume.key_uri).await?;
    if let Some(tag) = before.header().tag() {
        HeaderKey::derive(&old).and_then(|key| key.verify(before.header(), tag)).map_err(refused)?;
    } else if configured.volume.signed {
        return Err(refused(cc_volume::Error::TagMissing));
    }
    let keys = join_keys(&old, &new).map_err(|e| failure::of(e.blame(), e.code(), &e, e.hint()))?;
    let after = rotated(args, &before, &device, keys, (uuid, &new, &policy))?;
    let steps = change_steps(&path, &before, &after)?;
    if !args.dry_run {
        device.write(&steps)?;
    }

    let shown = path.display().to_string();
    if as_json {
        return console.json(&json!({
            "volume": args.name, "uuid": uuid, "device": shown, "new_key": new_uri, "written": !args.dry_run,
        }));
    }
    console.text(&if args.dry_run {
        format!("{shown}: the new key would open {}; nothing was written\n", args.name)
    } else {
        format!("{shown}: {} opens with {new_uri}; write that into [[volumes]]\n", args.name)
    })
}

/// Whether the header has been changed to this key before.
fn is_signed(header: &DetachedHeader, key: &Secret) -> bool {
    let fits = |tag| HeaderKey::derive(key).and_then(|key| key.verify(header.header(), tag));
    header.header().tag().is_some_and(|tag| fits(tag).is_ok())
}

/// Does what is left of a change that was interrupted after its new key opened the volume.
fn finish(
    args: &Args,
    header: &DetachedHeader,
    device: &Device,
    new_uri: &str,
    as_json: bool,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let steps = rest_of_change(device.path(), header)?;
    if !args.dry_run {
        device.write(&steps)?;
    }
    let (shown, uuid) = (device.path().display(), &header.header().binary().uuid);
    if as_json {
        return console.json(&json!({
            "volume": args.name, "uuid": uuid, "device": shown.to_string(), "new_key": new_uri, "written": !args.dry_run,
        }));
    }
    console.text(&format!(
        "{shown}: {} opens with {new_uri} already{}; write that into [[volumes]]\n",
        args.name,
        if args.dry_run { "" } else { ", and nothing is left of another key" }
    ))
}

fn rotated(
    args: &Args,
    before: &DetachedHeader,
    device: &Device,
    keys: Secret,
    result: (&str, &Secret, &Policy),
) -> Result<DetachedHeader, Failure> {
    let area = before.canonical().map_err(|error| volume(device.path(), error))?;
    let program = helper::program(args.helper.as_deref());
    let after = helper::change(&program, Request::RotateVolume, keys, (&area, device.length()), result)?;
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
        "name the volume's own disk",
    )
}
