//! `guestctl disk repair`: the copy of a volume's header that an interrupted write has left damaged or behind.
//!
//! What is written is what the volume opens with: the copy that keeps the rules and fits the tag, as the data hub says.

use std::path::PathBuf;

use cc_daemon::address::Address;
use serde_json::json;

use super::{
    configured::Configured,
    device::{Device, repair_step},
    prepare::check,
};
use crate::{
    connect::{HUB, Hub},
    failure::Failure,
    output::Console,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The volume must be closed: `systemctl stop systemd-cryptsetup@NAME.service`. Written is the copy that is damaged, or older than the other, and
nothing else; what it says is what the volume opens with now. Of a volume with a signed header that is the second copy where the first one
is damaged, if its tag fits under the volume's key.

Exit status: 0 done, or nothing to do; 1 or 3 neither copy is good; 2 the disk is in use; 4 there is no such volume or key; others as for
`guestctl get`.

Example:
  guestctl disk repair data --dry-run")]
pub(super) struct Args {
    /// Name of the volume in [[volumes]] of the data hub's configuration
    #[arg(value_parser = super::enable::name)]
    name: String,
    /// The disk [default: /dev/disk/by-uuid/UUID]
    #[arg(long, value_name = "PATH")]
    device: Option<PathBuf>,
    /// Do everything but write
    #[arg(long)]
    dry_run: bool,
    /// Address of the confidential data hub
    #[arg(long, value_name = "ADDR", default_value = HUB)]
    cdh: Address,
}

pub(super) async fn run(args: &Args, as_json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    let hub = Hub::at(&args.cdh);
    let configured = Configured::find(&hub, &args.name).await?;
    let path = args.device.clone().unwrap_or_else(|| configured.device().into());
    let mut device = Device::open(&path)?;
    let policy = configured.policy();
    let header = device.header(configured.copies(), |header| policy.judge(header).into_result())?;
    let checked = check(&hub, &args.name, &header).await?;
    let step = repair_step(&header);
    let copy = step.as_ref().map(|step| if step.offset == 0 { "first" } else { "second" });
    if !args.dry_run {
        device.write(step.as_slice())?;
    }

    let shown = path.display().to_string();
    if as_json {
        return console.json(&json!({
            "volume": args.name,
            "uuid": configured.volume.uuid,
            "device": shown,
            "authentic": checked.authentic,
            "copy": copy,
            "written": copy.is_some() && !args.dry_run,
        }));
    }
    let name = &args.name;
    console.text(&match (copy, args.dry_run) {
        (None, _) => {
            format!("{shown}: both copies of the header of {name} say the same; nothing was written\n")
        }
        (Some(copy), true) => {
            format!("{shown}: the {copy} copy of the header of {name} would be written anew\n")
        }
        (Some(copy), false) => format!("{shown}: the {copy} copy of the header of {name} is written anew\n"),
    })
}
