//! What opening an encrypted disk costs beside cryptsetup with the same key; and what the tests measured of root disks.
//!
//! Measured here is the way to the volume key, because the kernel may have no device mapper: `cryptsetup open --test-passphrase` on the
//! disk, beside one reading of the header and its keyslots, rules, tag, and the same cryptsetup with the sealed copy of the header.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use cc_crypto::Secret;
use cc_volume::luks2::{Copies, DetachedHeader, HeaderKey, NotRead, Policy};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use serde::Deserialize;

use crate::process::{command, own_binary};

/// Times that each side opens a volume.
const TURNS: usize = 9;
/// Users' search paths do not lead there.
const CRYPTSETUP: &str = "/usr/sbin/cryptsetup";
/// What opens the volumes. As good as random for whoever does not know it.
const KEY: [u8; 64] = *b"the key of a volume that is made for a measurement and no more.!";

/// How a volume's key becomes that of its keyslot.
#[derive(Clone, Copy, Debug)]
pub enum Derivation {
    /// As `guestctl disk format` has it: a key of a key broker has full entropy.
    Minimal,
    /// What cryptsetup takes for passwords: Argon2id, as slow as it finds two seconds on this machine.
    Default,
}

/// Medians of opening a volume up to its volume key.
#[derive(Clone, Copy, Debug)]
pub struct Keyslot {
    /// cryptsetup, with the header on the disk.
    pub cryptsetup: Duration,
    /// Ours: checks, then cryptsetup with the header that was checked.
    pub ours: Duration,
    /// The checks of that alone.
    pub checks: Duration,
}

/// Opens a volume up to its volume key, in turns with cryptsetup.
///
/// # Errors
/// cryptsetup is missing or fails, or the header is refused.
pub fn keyslot(derivation: Derivation) -> anyhow::Result<Keyslot> {
    let folder = tempfile::Builder::new().prefix("bench-disks-").tempdir()?;
    let (disk, key) = (folder.path().join("disk"), folder.path().join("key"));
    File::create(&disk)?.set_len(32 << 20)?;
    fs::write(&key, KEY)?;
    let (disk, key) = (disk.to_str().context("a path")?, key.to_str().context("a path")?);
    let options: &[&str] = match derivation {
        Derivation::Minimal => &["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"],
        Derivation::Default => &["--pbkdf", "argon2id"],
    };
    let fixed = ["luksFormat", "-q", "--type", "luks2", "--sector-size", "4096", "--key-file", key];
    run(CRYPTSETUP, &[&fixed[..], options, &[disk]].concat(), b"")?;
    let token = own_binary("guestctl")?.args(["disk", "sign", disk, "--key", key]).output()?;
    run(CRYPTSETUP, &["token", "import", "--json-file", "-", disk], &token.stdout)?;

    let (mut theirs, mut ours, mut checks) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let start = Instant::now();
        run(CRYPTSETUP, &["open", "--test-passphrase", "--type", "luks2", "--key-file", "-", disk], &KEY)?;
        theirs.push(start.elapsed());
        let start = Instant::now();
        let header = checked(Path::new(disk))?;
        checks.push(start.elapsed());
        open_with(&header, disk)?;
        ours.push(start.elapsed());
    }
    Ok(Keyslot { cryptsetup: median(theirs)?, ours: median(ours)?, checks: median(checks)? })
}

/// The header of a volume, read once, judged, authenticated, and sealed in memory, as all our doors to a volume do it.
fn checked(disk: &Path) -> anyhow::Result<OwnedFd> {
    let mut disk = File::open(disk)?;
    let length = disk.seek(SeekFrom::End(0))?;
    let fill = |at: usize, into: &mut [u8]| disk.read_exact_at(into, at as u64);
    let admit = |header: &_| Policy::default().judge(header).into_result();
    let header = match DetachedHeader::read_from(fill, length, Copies::Either, admit) {
        Ok(header) => header,
        Err(NotRead::Disk(error)) => return Err(error.into()),
        Err(NotRead::Header(error)) => return Err(error.into()),
    };
    let tag = header.header().tag().context("the header has no tag")?;
    HeaderKey::derive(&Secret::new(KEY.to_vec()))?.verify(header.header(), tag)?;
    // Programs that are started inherit it.
    let file = File::from(memfd_create("header", MemfdFlags::ALLOW_SEALING)?);
    let canonical = header.canonical();
    file.set_len(canonical.length() as u64)?;
    for (at, piece) in canonical.pieces() {
        file.write_all_at(piece, at)?;
    }
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file.into())
}

fn open_with(header: &OwnedFd, disk: &str) -> anyhow::Result<()> {
    let mut child = command(CRYPTSETUP)
        .args(["open", "--test-passphrase", "--type", "luks2", "--disable-external-tokens", "--header"])
        .arg(format!("/proc/self/fd/{}", header.as_raw_fd()))
        .args(["--key-file", "-", disk])
        .stdin(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("a pipe")?.write_all(&KEY)?;
    ensure!(child.wait()?.success(), "cryptsetup does not open the volume with the checked header");
    Ok(())
}

/// What the virtual machines of the tests measured, by the tool that made the initramfs; nothing where those tests have not run.
///
/// # Errors
/// The file is not what the tests write.
pub fn root_disks() -> anyhow::Result<BTreeMap<String, RootDisk>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/rootdisk-summary.json");
    match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).with_context(|| path.display().to_string()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// A root disk that is opened in the initramfs, of a machine whose processor is emulated.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct RootDisk {
    /// What ours adds to the initramfs, in KiB.
    pub added_kb: u64,
    /// From the start of `initrd-unlock` to the open volume, attestation and key included.
    pub unlock_seconds: f64,
    /// From the kernel's start to the end of the boot.
    pub boot_seconds: f64,
}

fn median(mut times: Vec<Duration>) -> anyhow::Result<Duration> {
    times.sort_unstable();
    times.get(times.len() / 2).copied().context("nothing was measured")
}

/// Runs a program that has to succeed, with `input` on its standard input.
fn run(program: &str, arguments: &[&str], input: &[u8]) -> anyhow::Result<()> {
    let mut child = command(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("starting {program}"))?;
    child.stdin.take().context("a pipe")?.write_all(input)?;
    ensure!(child.wait()?.success(), "{program} {arguments:?}");
    Ok(())
}
