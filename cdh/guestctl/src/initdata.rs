//! `guestctl initdata`: makes init-data documents, computes what a launcher needs, looks into them, unpacks them.
//!
//! Init-data is the configuration that the launcher of a confidential machine binds to its hardware. Building and
//! digesting is done wherever machines are launched; unpacking in the guest, where nobody else does it. Nothing here
//! decides whether a document is genuine: the attestation agent compares it with the hardware, and `--check` asks it.

mod build;
mod check;
mod digest;
mod disk;
mod form;
mod unpack;

use std::path::{Path, PathBuf};

use cc_daemon::address::Address;
use cc_evidence::HashAlgorithm;
use cc_evidence::initdata::InitData;
use clap::Subcommand;

use self::digest::Place;
pub(crate) use self::{
    digest::add_fields,
    form::{Form, open as open_form},
};
use crate::{connect::AGENT, failure::Failure, inspect, output::Console};

/// What the operator gives.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit status: 0 done; 1 the machine does not hold the document (inspect --check), or a file cannot be used; 2 wrong
usage; 5 the agent does not answer.

Example:
  guestctl initdata build --file aa.toml=aa.toml --file cdh.toml=cdh.toml --to initdata.toml
  guestctl initdata digest initdata.toml --field snp --base64
  guestctl initdata inspect initdata.toml --check
  guestctl initdata unpack auto --to /run/confidential-containers/initdata")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a document from files
    Build(BuildArgs),
    /// Show the digest, and what each platform's hardware must be given
    Digest(DigestArgs),
    /// Show what is inside by name and size, in whatever form it comes
    Inspect(InspectArgs),
    /// Write the document and the files in it into a new folder
    Unpack(UnpackArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
toml is the document itself. annotation is what goes into the annotation
io.katacontainers.config.hypervisor.cc_init_data of a pod. device-image is a disk for the guest. All three stand for
the same digest as long as the files and the algorithm are the same.

Example:
  guestctl initdata build --file aa.toml=aa.toml --file cdh.toml=cdh.toml > initdata.toml
  guestctl initdata build --file cdh.toml=cdh.toml --output annotation
  guestctl initdata build --file aa.toml=aa.toml --file cdh.toml=cdh.toml --output device-image --to initdata.img")]
struct BuildArgs {
    /// An entry and the file with its content; repeatable
    #[arg(long = "file", value_name = "NAME=PATH", required = true, value_parser = build::parse_entry)]
    files: Vec<build::Entry>,
    /// Digest algorithm that the document names: sha256 (fits every platform but CCA), sha384 or sha512
    #[arg(long, value_name = "NAME", default_value = "sha256", value_parser = build::parse_algorithm)]
    algorithm: HashAlgorithm,
    /// Form of the result
    #[arg(long, value_name = "FORM", default_value = "toml")]
    output: build::Output,
    /// Write to this new file (mode 0600) instead of standard output
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
QEMU takes host-data of sev-snp-guest and mrconfigid of tdx-guest in base64.

Example:
  guestctl initdata digest initdata.toml
  guestctl initdata digest initdata.img --field snp --base64
  guestctl initdata digest initdata.toml --field pcr8")]
struct DigestArgs {
    /// Document, annotation text or device image; - for standard input
    file: PathBuf,
    /// Print this value alone: digest, snp, tdx, sgx, cca, or pcr8 (PCR 8 after one extension from zero)
    #[arg(long, value_name = "NAME", conflicts_with = "json")]
    field: Option<Place>,
    /// Print the value in base64 instead of hexadecimal
    #[arg(long, requires = "field")]
    base64: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
With --check exits with 1 if this machine does not hold the document's digest. The agent's evidence is read for that,
not verified: a relying party's verdict counts.

Example:
  guestctl initdata inspect initdata.toml
  guestctl initdata inspect /dev/vdb --json
  guestctl initdata inspect /run/peerpod/initdata --check")]
struct InspectArgs {
    /// Document, annotation text, device image or device; - for standard input
    file: PathBuf,
    /// Ask the attestation agent whether this machine was launched with the document
    #[arg(long)]
    check: bool,
    /// Address of the attestation agent
    #[arg(long, value_name = "ADDR", default_value = AGENT)]
    aa: Address,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
For machines without kata-agent, which does the same. The files count for nothing by themselves: start the attestation
agent with --initdata-toml FOLDER/initdata.toml, which compares the document with the hardware.

Example:
  guestctl initdata unpack auto --to /run/confidential-containers/initdata
  guestctl initdata unpack initdata.img --to ./initdata")]
struct UnpackArgs {
    /// Device, device image, annotation text or document; auto for the one init-data device among /dev/vd* and /dev/sd*
    source: PathBuf,
    /// Folder to make: mode 0700, its files 0600; it appears when all of it is written
    #[arg(long, value_name = "FOLDER")]
    to: PathBuf,
}

/// Does what the sub-command says.
pub(crate) async fn run(args: &Args, json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    match &args.command {
        Command::Build(args) => build::run(args, json, console),
        Command::Digest(args) => digest::run(args, json, console),
        Command::Inspect(args) => run_inspect(args, json, console).await,
        Command::Unpack(args) => unpack::run(args, json, console),
    }
}

async fn run_inspect(args: &InspectArgs, json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    let (form, document) = open(&args.file)?;
    let mut inspection = inspect::init_data(&document, form);
    if args.check {
        inspection.checks = vec![check::run(&document, &args.aa).await?];
    }
    inspection.show(json, console)
}

/// Reads a document in whatever form.
fn open(path: &Path) -> Result<(Form, InitData), Failure> {
    let bytes = disk::read(path)?;
    open_form(&bytes).map_err(|why| Failure::Malformed {
        path: path.to_owned(),
        kind: "init-data document",
        why,
    })
}
