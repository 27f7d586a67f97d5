//! `guestctl disk verify`: what the kernel has mapped, compared with the header that the volume was opened with; closed if it
//! differs. `guestctl disk retire`: the end of a volume, however its unit ended.

use std::path::PathBuf;

use cc_mapping::Mapping;
use serde_json::json;

use super::copy::{FOLDER, HeaderCopy};
use crate::{failure::Failure, output::Console};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Compared are the kernel's identifier of the mapping, the device below, cipher, key, sectors, offset, length, integrity with the mapping
below it, and every option; the key has to lie in the kernel's keyring, where nobody can read it back. Meant for systemd: `guestctl disk enable` writes a
drop-in that runs this after the volume was opened. A mapping that is another one than that of the volume is left alone.

Exit status: 0 the mapping is as the header says; 1 or 3 it is not, and is closed if it is this volume's; 4 the volume was not opened by its unit; 7 the kernel does not tell.

Example:
  guestctl disk verify data")]
pub(super) struct VerifyArgs {
    /// Name of the volume, and of its mapping
    #[arg(value_parser = super::enable::name)]
    name: String,
    /// Folder of the copies of headers
    #[arg(long, value_name = "DIR", default_value = FOLDER)]
    headers: PathBuf,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Meant for systemd: `guestctl disk enable` writes a drop-in that runs this whenever the volume's unit has ended, also when it was not opened,
not verified, or something was killed on the way. Closed is the mapping that was opened with the copy of the header, and no other; then the
copy is removed. Without a copy nothing is touched.

Exit status: 0 nothing is left; 2 the mapping is in use; 3 the mapping is another one; 7 the kernel does not tell.

Example:
  guestctl disk retire data")]
pub(super) struct RetireArgs {
    /// Name of the volume, and of its mapping
    #[arg(value_parser = super::enable::name)]
    name: String,
    /// Folder of the copies of headers
    #[arg(long, value_name = "DIR", default_value = FOLDER)]
    headers: PathBuf,
}

pub(super) fn verify(args: &VerifyArgs, as_json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    let copy = HeaderCopy::of(&args.headers, &args.name)?;
    let (header, known) = (copy.read()?, copy.known());
    let header = header.header();
    let mapping = Mapping::open(&args.name)?;
    if let Err(failure) = mapping.verify_over(header, known.allow_discards, known.device.as_deref()) {
        // The first error is the one to report.
        if let Err(error) = mapping.close(&header.binary().uuid)
            && !error.is_absent()
        {
            console.complain(&format!("guestctl: the mapping {} stays: {error}\n", args.name));
        }
        return Err(failure.into());
    }
    if as_json {
        return console.json(&json!({"volume": args.name, "verdict": "as its header says"}));
    }
    console.text(&format!("the mapping {} is as its header says\n", args.name))
}

pub(super) fn retire(args: &RetireArgs, as_json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    let copy = HeaderCopy::of(&args.headers, &args.name)?;
    let closed = match copy.find()? {
        None => false,
        Some(header) => {
            let uuid = &header.header().binary().uuid;
            let closed = Mapping::open(&args.name).and_then(|mapping| mapping.close(uuid));
            match closed {
                Ok(closed) => closed,
                // Neither a mapping nor the means for one.
                Err(error) if error.is_absent() => false,
                Err(error) => return Err(error.into()),
            }
        }
    };
    copy.remove()?;
    if as_json {
        return console.json(&json!({"volume": args.name, "closed": closed}));
    }
    let what = if closed { "was closed" } else { "has no mapping that is left" };
    console.text(&format!("{} {what}\n", args.name))
}
