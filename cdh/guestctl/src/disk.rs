//! `guestctl disk`: explains the header of a LUKS2 volume, checks it before anything opens it, and signs it; prepares configured
//! volumes for systemd to open, and says afterwards whether what is open is what was checked.
//!
//! Nothing is opened here but by asking the data hub, and only `format`, `rotate` and `repair` write to disks. A header is read once, and
//! all that is said is about those bytes: a host may answer the next reader differently, so whatever opens a volume after a check has to
//! use the bytes that were checked, which `prepare` lays down for it. The rules are those of [`cc_volume`].

mod attachment;
mod check;
mod configured;
mod copy;
mod device;
mod enable;
mod enabled;
mod format;
mod helper;
mod inspect;
mod open;
mod prepare;
mod repair;
mod resize;
mod rotate;
mod sign;
mod status;
mod tag;
mod verify;

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use cc_crypto::Secret;
use cc_volume::luks2::{
    Copies, DetachedHeader, Header, HeaderKey, NotRead, Policy, Verdict, format::MAX_AREA_LEN,
};
use clap::{Subcommand, value_parser};
use rustix::fs::OFlags;
use serde_json::{Value, json};

pub(crate) use self::enabled::Enabled;
use crate::{
    failure::Failure,
    output::Console,
    seal,
    table::{Mark, Table},
};

/// Longest secret read, in bytes; cryptsetup reads no longer key file.
const MAX_SECRET_LEN: usize = 8 << 20;

/// What the operator gives.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit status: 0 done, the header is good; 1 the header is refused, or a file cannot be used; 2 wrong usage. What asks the data hub:
as for `guestctl get`.

Example:
  guestctl disk inspect /dev/vdb
  guestctl disk check /dev/vdb --require-integrity
  guestctl disk sign /dev/vdb --key secret | cryptsetup token import --json-file - /dev/vdb
  guestctl disk check /dev/vdb --key secret
  guestctl disk enable data")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what a header says, and mark what is dangerous
    Inspect(InspectArgs),
    /// Exit with 0 if a header keeps every rule, with 1 if not; with --key also whether its tag fits
    Check(CheckArgs),
    /// Print the tag that ties a header to the secret of its volume, as a token for cryptsetup
    Sign(SignArgs),
    /// Let systemd open a configured volume at boot: write its line of crypttab and a drop-in
    Enable(enable::Args),
    /// Check the header of a configured volume with its key, and lay down the copy to open it with
    Prepare(prepare::Args),
    /// Compare an open volume with the header that it was opened with; close it if they differ
    Verify(verify::VerifyArgs),
    /// Close what is left of a volume whose unit has ended
    Retire(verify::RetireArgs),
    /// Make a configured volume on a blank disk
    Format(format::Args),
    /// Give a configured volume another key
    Rotate(rotate::Args),
    /// Write the copy of a volume's header anew that an interrupted write has damaged or left behind
    Repair(repair::Args),
    /// Let an open volume reach to the end of its disk, which has grown
    Resize(resize::Args),
    /// Open a block device that no configuration names
    Open(open::OpenArgs),
    /// Close what was opened by `open` or by kata-agent
    Close(open::CloseArgs),
    /// Show the configured volumes, and which of them are open
    Status(status::Args),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Marks are those of `guestctl disk check`; they do not change the exit status here.

Example:
  guestctl disk inspect /dev/vdb
  guestctl disk inspect header.img --detached --json")]
struct InspectArgs {
    /// Device, image, or file that holds the header
    file: PathBuf,
    #[command(flatten)]
    policy: PolicyArgs,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The rules and the reasons for them: docs/disks.md. Without --key an admitted header may still be another volume's, or an
older one of this volume.

Example:
  guestctl disk check /dev/vdb
  guestctl disk check /dev/vdb --require-integrity --key secret
  guestctl disk check header.img --detached --key secret --tag \"$(cat header.tag)\"")]
struct CheckArgs {
    /// Device, image, or file that holds the header
    file: PathBuf,
    /// File with the secret that opens the volume, used as it is; - for standard input
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Compare with this tag (base64) instead of the one in the header
    #[arg(long, value_name = "TAG", requires = "key")]
    tag: Option<String>,
    #[command(flatten)]
    policy: PolicyArgs,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Sign where header and secret are trusted, after each change of keyslots, label or flags. The secret must be random, 32 bytes or
more: whoever sees a tag can try guesses of a weak one. A header that the rules refuse is not signed.

Example:
  guestctl disk sign /dev/vdb --key secret | cryptsetup token import --json-file - /dev/vdb
  guestctl disk sign header.img --detached --key secret --tag-only > header.tag")]
struct SignArgs {
    /// Device, image, or file that holds the header
    file: PathBuf,
    /// File with the secret that opens the volume, used as it is; - for standard input
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Print the tag alone (base64), to keep it beside the secret in the key broker
    #[arg(long, conflicts_with = "json")]
    tag_only: bool,
    #[command(flatten)]
    policy: PolicyArgs,
}

/// What the header must be like, where volumes differ.
#[derive(Debug, clap::Args)]
struct PolicyArgs {
    /// The header is a file of its own; the data begins at byte 0 of its device
    #[arg(long)]
    detached: bool,
    /// The data begins at this byte [default: behind the header, at 16 MiB at most]
    #[arg(long, value_name = "BYTES", conflicts_with = "detached")]
    data_offset: Option<u64>,
    /// Most keyslots: 2 while a secret is being replaced
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = value_parser!(u8).range(1..=32))]
    max_keyslots: u8,
    /// Refuse a volume whose sectors are not authenticated
    #[arg(long)]
    require_integrity: bool,
    /// Admit the flag allow-discards, which tells the host which blocks are unused
    #[arg(long)]
    allow_discards: bool,
}

impl PolicyArgs {
    fn policy(&self) -> Policy {
        Policy {
            max_keyslots: self.max_keyslots.into(),
            detached: self.detached,
            data_offset: self.data_offset,
            require_integrity: self.require_integrity,
            allow_discards: self.allow_discards,
            ..Policy::default()
        }
    }
}

/// Does what the sub-command says.
pub(crate) async fn run(args: &Args, json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    match &args.command {
        Command::Inspect(args) => inspect::run(args, json, console),
        Command::Check(args) => check::run(args, json, console),
        Command::Sign(args) => sign::run(args, json, console),
        Command::Enable(args) => enable::run(args, json, console).await,
        Command::Prepare(args) => prepare::run(args, json, console).await,
        Command::Verify(args) => verify::verify(args, json, console),
        Command::Retire(args) => verify::retire(args, json, console),
        Command::Format(args) => format::run(args, json, console).await,
        Command::Rotate(args) => rotate::run(args, json, console).await,
        Command::Repair(args) => repair::run(args, json, console).await,
        Command::Resize(args) => resize::run(args, json, console).await,
        Command::Open(args) => open::open(args, json, console).await,
        Command::Close(args) => open::close(args, json, console).await,
        Command::Status(args) => status::run(args, json, console).await,
    }
}

/// The first 16 MiB at `path`, in one pass.
fn header_area(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    open(path)
        .and_then(|file| file.take(MAX_AREA_LEN as u64).read_to_end(&mut bytes))
        .map_err(|source| Failure::Unreadable { path: path.to_owned(), source })?;
    Ok(bytes)
}

/// The header at the start of `file`, which is `path`, from one of the `copies` and unless `admit` says something against it, with its
/// keyslots; each byte is read once.
fn detached(
    file: &mut File,
    path: &Path,
    copies: Copies,
    admit: impl FnOnce(&Header) -> Result<(), cc_volume::Error>,
) -> Result<DetachedHeader, Failure> {
    let unreadable = |source| Failure::Unreadable { path: path.to_owned(), source };
    let length = file.seek(SeekFrom::End(0)).map_err(unreadable)?;
    let fill = |at: usize, into: &mut [u8]| file.read_exact_at(into, at as u64);
    DetachedHeader::read_from(fill, length, copies, admit).map_err(|error| match error {
        NotRead::Disk(source) => unreadable(source),
        NotRead::Header(error) => volume(path, error),
    })
}

/// Opens a file or device; a pipe without a writer does not block.
fn open(path: &Path) -> io::Result<File> {
    let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).unwrap_or_default();
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// The key that the secret in the file at `path` gives.
fn header_key(path: &Path) -> Result<HeaderKey, Failure> {
    let secret = Secret::new(seal::read(path, MAX_SECRET_LEN)?);
    HeaderKey::derive(&secret).map_err(|error| volume(path, error))
}

fn volume(path: &Path, error: cc_volume::Error) -> Failure {
    Failure::Volume { path: path.to_owned(), error }
}

/// The header in `bytes`, read at `path`.
fn read(path: &Path, bytes: &[u8]) -> Result<Header, Failure> {
    Header::read(bytes).map_err(|error| volume(path, error))
}

/// Adds a row for each broken rule and each note.
fn add_verdict(verdict: &Verdict, table: &mut Table) {
    for violation in &verdict.violations {
        let rule = violation.rule;
        let text = format!("{} is {}\n{}", violation.place, violation.found, rule.why());
        table.verdict(Mark::Fail, rule.name(), text);
    }
    for note in &verdict.notes {
        table.verdict(Mark::Warn, "note", note);
    }
}

/// The broken rules, for programs.
fn violations(verdict: &Verdict) -> Value {
    verdict
        .violations
        .iter()
        .map(|violation| {
            json!({
                "rule": violation.rule.name(),
                "place": violation.place,
                "found": violation.found,
                "why": violation.rule.why(),
            })
        })
        .collect()
}
