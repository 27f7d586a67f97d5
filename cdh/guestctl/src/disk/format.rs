//! `guestctl disk format`: makes a configured volume on a blank disk, with the key that the key broker has for it.

use std::path::PathBuf;

use cc_crypto::Secret;
use cc_daemon::address::Address;
use cc_evidence::blame::Blame;
use cc_protos::api::GetResourceRequest;
use cc_storage::Request;
use cc_volume::luks2::{DetachedHeader, Policy};
use serde_json::json;

use super::{
    configured::Configured,
    device::{Content, Device, Step, format_steps, mark},
    helper,
};
use crate::{
    connect::{HUB, Hub},
    failure::{self, Failure},
    output::Console,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
AES-XTS with 512 bits, sectors of 4096 bytes, the UUID of the configuration, signed with its key. A disk is blank if its first 16 MiB and
its last MiB are zero. Whatever else is on it stays, unless --overwrite names that this is meant. A format that was
interrupted begins anew. With --integrity the volume is larger on the disk, keeps its size, and has an ext4 file system.

Exit status: 0 done, or the disk is that volume already (with --first-boot); 2 the disk is not blank, too small, or in use; 4 there
is no such volume; 7 cdh-storage cannot be used; others as for `guestctl get`.

Example:
  guestctl disk format data --device /dev/disk/by-id/virtio-data --dry-run
  guestctl disk format data --device /dev/disk/by-id/virtio-data --first-boot")]
pub(super) struct Args {
    /// Name of the volume in [[volumes]] of the data hub's configuration
    name: String,
    /// The disk
    #[arg(long, value_name = "PATH")]
    device: PathBuf,
    /// Do nothing if the disk is that volume already
    #[arg(long, conflicts_with = "overwrite")]
    first_boot: bool,
    /// Format the disk whatever is on it
    #[arg(long)]
    overwrite: bool,
    /// Authenticate each sector (HMAC-SHA-256), and make an ext4 file system at once: before something is written nothing can be read
    #[arg(long)]
    integrity: bool,
    /// Say what would be done
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
    let uuid = Configured::find(&hub, &args.name).await?.volume;
    let (uuid, key_uri) = (uuid.uuid, uuid.key_uri);
    let program = helper::program(args.helper.as_deref());
    let mut device = match Device::open(&args.device) {
        // By what one that was killed has left open, perhaps.
        Err(failure) if failure.code() == "DEVICE_IN_USE" && !args.dry_run => {
            helper::tidy_up(&program).map_err(|_| failure)?;
            Device::open(&args.device)?
        }
        opened => opened?,
    };
    let content = device.content(&uuid)?;
    let outcome = match content {
        Content::Volume if args.first_boot => "is the volume already",
        Content::Volume | Content::Foreign if !args.overwrite => return Err(not_blank(&device)),
        _ if args.dry_run => "would be formatted",
        _ => {
            let key = key(&hub, &key_uri).await?;
            let secret = Secret::new(key.expose().to_vec());
            let steps = |header: DetachedHeader| {
                let area = header.canonical().map_err(|error| super::volume(&args.device, error))?;
                Ok::<_, Failure>(format_steps(&uuid, &area))
            };
            let made = |request, length| {
                helper::change(&program, request, secret, (&[], length), (&uuid, &key, &Policy::default()))
                    .and_then(steps)
            };
            if args.integrity {
                device = with_integrity(args, device, &uuid, made)?;
            } else {
                device.write(&made(Request::FormatVolume { uuid: uuid.clone() }, device.length())?)?;
            }
            "is formatted"
        }
    };
    let path = device.path().display().to_string();
    if as_json {
        return console.json(&json!({
            "volume": args.name, "uuid": uuid, "device": path, "length": device.length(), "outcome": outcome,
        }));
    }
    console.text(&format!("{path} {outcome}: {} ({uuid})\n", args.name))
}

/// Formats with integrity. The mark that a format is under way comes first: whoever makes the tags has the device to himself.
fn with_integrity(
    args: &Args,
    device: Device,
    uuid: &str,
    made: impl FnOnce(Request, u64) -> Result<Vec<Step>, Failure>,
) -> Result<Device, Failure> {
    let length = device.length();
    device.write(&[mark(uuid)])?;
    drop(device);
    let request =
        Request::FormatWithIntegrity { uuid: uuid.to_owned(), device: args.device.display().to_string() };
    let steps = made(request, length)?;
    let device = Device::open(&args.device)?;
    device.write(&steps)?;
    Ok(device)
}

/// The key at `uri`, from the hub.
pub(super) async fn key(hub: &Hub<'_>, uri: &str) -> Result<Secret, Failure> {
    let request = GetResourceRequest { resource_path: uri.to_owned() };
    let answer = hub.resources().get_resource(request).await;
    let answer = answer.map_err(|status| hub.failed(&format!("fetching {uri}"), &status))?;
    Ok(Secret::new(answer.into_inner().resource))
}

fn not_blank(device: &Device) -> Failure {
    failure::of(
        Blame::Misused,
        "DEVICE_NOT_BLANK",
        &format!("{} is not blank, and stays as it is", device.path().display()),
        "look at it with lsblk -f and `guestctl disk inspect`; --overwrite formats it all the same",
    )
}
