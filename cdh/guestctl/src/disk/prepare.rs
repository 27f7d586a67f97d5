//! `guestctl disk prepare`: the header of a configured volume, read once, checked, and laid down as the copy to open it with.
//!
//! The hub decides: it judges the header, gets the volume's key, which attests, and authenticates the header with it. From then on
//! its key socket gives the key, once. Whatever fails, no copy is left, and the volume cannot be opened.

use std::path::PathBuf;

use cc_daemon::address::Address;
use cc_protos::guest_services::PrepareVolumeRequest;
use cc_volume::luks2::DetachedHeader;
use serde_json::json;

use super::{attachment, configured::Configured, copy::FOLDER, copy::HeaderCopy, header_area, volume};
use crate::{
    connect::{HUB, Hub},
    failure::Failure,
    output::Console,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Meant for systemd: `guestctl disk enable` writes a drop-in that runs this before a volume of /etc/crypttab is opened. The copy is
what crypttab names as header=.

Refused as well, with exit status 3: a volume that would be opened in another way than with the copy, by the kernel's command line,
another line of /etc/crypttab, or a mapping of its name that is there already.

Exit status: 0 the header is good; 1 it is not, or the disk cannot be read; 3 the key broker denies the key; 4 there is no
such volume; others as for `guestctl get`.

Example:
  guestctl disk prepare data")]
pub(super) struct Args {
    /// Name of the volume in [[volumes]] of the data hub's configuration
    name: String,
    /// Read the header here [default: /dev/disk/by-uuid/UUID]
    #[arg(long, value_name = "PATH")]
    device: Option<PathBuf>,
    /// Folder for the copy
    #[arg(long, value_name = "DIR", default_value = FOLDER)]
    headers: PathBuf,
    /// Address of the confidential data hub
    #[arg(long, value_name = "ADDR", default_value = HUB)]
    cdh: Address,
}

pub(super) async fn run(args: &Args, as_json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    let hub = Hub::at(&args.cdh);
    let configured = Configured::find(&hub, &args.name).await?;
    let copy = HeaderCopy::of(&args.headers, &args.name)?;
    // An older copy must not be opened with if this one is refused.
    copy.remove()?;
    attachment::refuse_others(&configured, copy.path())?;

    let device = args.device.clone().unwrap_or_else(|| configured.device().into());
    let refused = |error| volume(&device, error);
    let header = DetachedHeader::read(header_area(&device)?).map_err(refused)?;
    configured.policy().judge(header.header()).into_result().map_err(refused)?;
    let canonical = header.canonical().map_err(refused)?;
    let request = PrepareVolumeRequest {
        name: args.name.clone(),
        header: header.copies().to_vec(),
        area_length: header.given() as u64,
    };
    let checked = hub.volumes().prepare_volume(request).await;
    let checked = checked
        .map_err(|status| hub.failed(&format!("checking the header of {}", args.name), &status))?
        .into_inner();
    copy.write(&canonical)?;

    let path = copy.path().display().to_string();
    if as_json {
        return console.json(&json!({
            "volume": args.name,
            "uuid": configured.volume.uuid,
            "device": device.display().to_string(),
            "header": path,
            "authentic": checked.authentic,
            "notes": checked.notes,
        }));
    }
    let how = if checked.authentic { "keeps every rule and fits its tag" } else { "keeps every rule" };
    let mut text = format!("the header of {} {how}; the copy to open it with is {path}\n", args.name);
    for note in &checked.notes {
        text.push_str(&format!("note: {}\n", crate::table::printable(note)));
    }
    console.text(&text)
}
