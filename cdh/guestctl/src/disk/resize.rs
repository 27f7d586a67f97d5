//! `guestctl disk resize`: an open volume reaches to the end of its disk, which the host has made larger.

use std::path::PathBuf;

use cc_daemon::address::Address;
use cc_mapping::Mapping;
use cc_storage::Request;
use serde_json::json;

use super::{
    configured::Configured,
    copy::{FOLDER, HeaderCopy},
    format::key,
    helper,
};
use crate::{
    connect::{HUB, Hub},
    failure::Failure,
    output::Console,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The volume stays open and mounted. Its mapping is compared with the copy of the header before and after. The file system is not changed:
`resize2fs /dev/mapper/NAME` lets an ext4 grow while it is mounted. A volume with integrity keeps its size.

Exit status: 0 done, or nothing to do; 1 or 3 the mapping is not as its header says; 2 the volume has integrity; 4 there is no such volume,
or it was not opened by its unit; 7 it is not mapped, or cdh-storage cannot be used; others as for `guestctl get`.

Example:
  guestctl disk resize data && resize2fs /dev/mapper/data")]
pub(super) struct Args {
    /// Name of the volume in [[volumes]] of the data hub's configuration
    #[arg(value_parser = super::enable::name)]
    name: String,
    /// Say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Folder of the copies of headers
    #[arg(long, value_name = "DIR", default_value = FOLDER)]
    headers: PathBuf,
    /// Path of cdh-storage [default: beside this program]
    #[arg(long, value_name = "PATH")]
    helper: Option<PathBuf>,
    /// Address of the confidential data hub
    #[arg(long, value_name = "ADDR", default_value = HUB)]
    cdh: Address,
}

pub(super) async fn run(args: &Args, as_json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    let hub = Hub::at(&args.cdh);
    Configured::find(&hub, &args.name).await?;
    let copy = HeaderCopy::of(&args.headers, &args.name)?;
    let (header, known) = (copy.read()?, copy.known());
    let mapping = Mapping::open(&args.name)?;
    mapping.check_owner(&header.header().binary().uuid)?;
    let before = mapping.target()?.length;
    if !args.dry_run {
        let secret = key(&hub, &args.name).await?;
        let request = Request::ResizeVolume { name: args.name.clone() };
        helper::disk(&helper::program(args.helper.as_deref()), request, secret, &header)?;
        mapping.verify_over(header.header(), known.allow_discards, known.device.as_deref())?;
    }
    let after = mapping.target()?.length;
    if as_json {
        return console.json(&json!({
            "volume": args.name, "sectors_before": before, "sectors": after, "resized": after != before,
        }));
    }
    console.text(&match (args.dry_run, after == before) {
        (true, _) => format!("{} has {before} sectors; it would reach to the end of its disk\n", args.name),
        (false, true) => format!("{} reaches to the end of its disk already\n", args.name),
        (false, false) => format!("{} has {after} sectors of 512 bytes, it had {before}\n", args.name),
    })
}
