//! `guestctl disk format`: makes a configured volume on a blank disk, with the key that the key broker has for it, and a file system in it.
//!
//! The file system is made here, once, and before the disk is a volume. Whoever makes one later because there seems to be none
//! (x-systemd.makefs) wipes what the host has made unreadable: without integrity a few bytes of garbage are enough.

use std::path::PathBuf;

use cc_crypto::Secret;
use cc_daemon::address::Address;
use cc_evidence::blame::Blame;
use cc_protos::{api::GetResourceRequest, guest_services::GetVolumeKeyRequest};
use cc_storage::Request;
use cc_volume::luks2::{DetachedHeader, Policy};
use serde_json::json;

use super::{
    configured::Configured,
    device::{Content, Device, format_steps, mark},
    helper,
    tag::Told,
};
use crate::{
    Exit,
    connect::{HUB, Hub},
    failure::{self, Failure},
    output::Console,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
AES-XTS with 512 bits, sectors of 4096 bytes, the UUID of the configuration, signed with its key, an ext4 file system in it. A disk is
blank if its first 16 MiB and its last MiB are zero. Whatever else is on it stays, unless --overwrite names that this is meant. A format
that was interrupted begins anew. With --integrity the volume is larger on the disk and keeps its size. Where the configuration keeps the
tag elsewhere (tag = …), the tag is printed before the header is written: store it there.

Where the configuration names a tag for the volume and the key broker has it, the volume was made before: --first-boot refuses a blank
disk in its place.

Exit status: 0 done, or the disk is that volume already (with --first-boot); 2 the disk is not blank, too small, in use or no device; 3 the volume
was made before; 4 there is no such volume; 7 cdh-storage or mkfs.ext4 cannot be used; others as for `guestctl get`.

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
    /// Authenticate each sector (HMAC-SHA-256)
    #[arg(long)]
    integrity: bool,
    /// Make no file system: for swap, or for one of another kind that is made by hand
    #[arg(long, conflicts_with = "integrity")]
    no_file_system: bool,
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
    let volume = Configured::find(&hub, &args.name).await?.volume;
    let uuid = volume.uuid.clone();
    let program = helper::program(args.helper.as_deref());
    let mut device = match Device::open(&args.device) {
        // By what one that was killed has left open, perhaps.
        Err(failure) if failure.code() == "DEVICE_IN_USE" && !args.dry_run => {
            helper::tidy_up(&program).map_err(|_| failure)?;
            Device::open(&args.device)?
        }
        opened => opened?,
    };
    if !args.no_file_system {
        // A file system is made on devices alone: said before anything is asked or written.
        device.number()?;
    }
    let content = device.content(&uuid)?;
    if args.first_boot && content == Content::Blank && !volume.tag_uri.is_empty() {
        refuse_second_first_boot(&hub, args, &volume.tag_uri).await?;
    }
    let mut told = Told::default();
    let outcome = match content {
        Content::Volume if args.first_boot => "is the volume already",
        Content::Volume | Content::Foreign if !args.overwrite => return Err(not_blank(&device)),
        _ if args.dry_run => "would be formatted",
        _ => {
            let key = key(&hub, &args.name).await?;
            let secret = Secret::new(key.expose().to_vec());
            let made = |request, length| {
                helper::change(&program, request, secret, (None, length), (&uuid, &key, &Policy::default()))
            };
            let header;
            (device, header) = if args.no_file_system {
                let header = made(Request::FormatVolume { uuid: uuid.clone() }, device.length())?;
                (device, header)
            } else {
                with_file_system(device, &uuid, args.integrity, made)?
            };
            // Whoever keeps the tag has it before there is a volume that needs it.
            told = Told::of(&header, &volume);
            told.before(as_json, console)?;
            device.write(&format_steps(&uuid, &header.canonical().to_bytes()))?;
            "is formatted"
        }
    };
    let path = device.path().display().to_string();
    if as_json {
        return console.json(&json!({
            "volume": args.name, "uuid": uuid, "device": path, "length": device.length(), "outcome": outcome,
            "tag": told.tag(),
        }));
    }
    console.text(&format!("{path} {outcome}: {} ({uuid})\n{}", args.name, told.after()))
}

/// Has the file system laid down on the device, with tags of sectors if there is to be `integrity`, and the header made. The mark that a
/// format is under way comes first: whoever lays them down has the device to himself, and looks for the mark on the device of this number.
fn with_file_system(
    device: Device,
    uuid: &str,
    integrity: bool,
    made: impl FnOnce(Request, u64) -> Result<DetachedHeader, Failure>,
) -> Result<(Device, DetachedHeader), Failure> {
    let ((major, minor), length) = (device.number()?, device.length());
    device.write(&[mark(uuid)])?;
    let number = cc_storage::Device::Number(major, minor);
    let request = Request::FormatWithFileSystem { uuid: uuid.to_owned(), device: number, integrity };
    device.lend(|| made(request, length))
}

/// Refuses a blank disk if the key broker has the tag of the volume that should be on it: the host has put one in its place.
async fn refuse_second_first_boot(hub: &Hub<'_>, args: &Args, tag_uri: &str) -> Result<(), Failure> {
    let request = GetResourceRequest { resource_path: tag_uri.to_owned() };
    let answer = hub.resources().get_resource(request).await;
    match answer.map_err(|status| hub.failed(&format!("fetching {tag_uri}"), &status)) {
        Ok(_) => Err(failure::of(
            Blame::Denied,
            "VOLUME_MADE_BEFORE",
            &format!(
                "{} is blank, and the key broker has the tag of the volume {}",
                args.device.display(),
                args.name
            ),
            "attach the disk with the volume; if its data is lost, remove the tag from the key broker, or format by hand without --first-boot",
        )),
        Err(failure) if failure.exit() == Exit::Absent => Ok(()),
        Err(failure) => Err(failure),
    }
}

/// The key of the volume `name`, from the hub.
pub(super) async fn key(hub: &Hub<'_>, name: &str) -> Result<Secret, Failure> {
    let answer = hub.volumes().get_volume_key(GetVolumeKeyRequest { name: name.to_owned() }).await;
    let answer =
        answer.map_err(|status| hub.failed(&format!("fetching the key of the volume {name}"), &status))?;
    Ok(Secret::new(answer.into_inner().key))
}

fn not_blank(device: &Device) -> Failure {
    failure::of(
        Blame::Misused,
        "DEVICE_NOT_BLANK",
        &format!("{} is not blank, and stays as it is", device.path().display()),
        "look at what is on it with lsblk -f and `guestctl disk inspect`; if it is the wrong disk, name the right one; --overwrite formats \
         this one all the same, and what is on it is lost",
    )
}
