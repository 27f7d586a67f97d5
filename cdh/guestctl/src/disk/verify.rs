//! `guestctl disk verify`: what the kernel has mapped, compared with the header that the volume was opened with; closed if it
//! differs.

use std::path::PathBuf;

use cc_volume::luks2::Header;
use serde_json::json;

use super::{
    copy::{FOLDER, HeaderCopy},
    mapping::Mapping,
    volume,
};
use crate::{failure::Failure, output::Console};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Compared are cipher, sectors, offset, length and integrity, and whether the key lies in the kernel's keyring, where nobody can read it
back. Meant for systemd: `guestctl disk enable` writes a drop-in that runs this after the volume was opened.

Exit status: 0 the mapping is as the header says; 1 it is not, and is closed; 7 the kernel does not tell.

Example:
  guestctl disk verify data")]
pub(super) struct Args {
    /// Name of the volume, and of its mapping
    #[arg(value_parser = super::enable::name)]
    name: String,
    /// Folder of the copies of headers
    #[arg(long, value_name = "DIR", default_value = FOLDER)]
    headers: PathBuf,
    /// Admit a mapping that tells the host which blocks are unused
    #[arg(long)]
    allow_discards: bool,
}

pub(super) fn run(args: &Args, as_json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    let mapping = Mapping::open(&args.name)?;
    if let Err(failure) = check(args, &mapping) {
        // The first error is the one to report; a mapping that is in use cannot be closed.
        if mapping.remove().is_err() {
            console.complain(&format!(
                "guestctl: the mapping {} could not be closed: it is in use\n",
                args.name
            ));
        }
        return Err(failure);
    }
    if as_json {
        return console.json(&json!({"volume": args.name, "verdict": "as its header says"}));
    }
    console.text(&format!("the mapping {} is as its header says\n", args.name))
}

fn check(args: &Args, mapping: &Mapping) -> Result<(), Failure> {
    let copy = HeaderCopy::of(&args.headers, &args.name)?;
    let refused = |error| volume(mapping.path(), error);
    let header = Header::read(&copy.read()?).map_err(|error| volume(copy.path(), error))?;
    let target = mapping.target()?;
    target.check(&header, args.allow_discards).map_err(refused)?;
    target.check_length(mapping.length_below(&target.device)?).map_err(refused)
}
