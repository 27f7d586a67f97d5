//! `guestctl disk prepare`: the header of a configured volume, read once, checked, and laid down as the copy to open it with.
//!
//! The hub decides: it judges the header, gets the volume's key, which attests, and authenticates the header with it. From then on
//! its key socket gives the key, once. Whatever fails, no copy is left, and the volume cannot be opened.

use std::{
    fs::File,
    io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use cc_daemon::address::Address;
use cc_evidence::blame::Blame;
use cc_mapping::Mapping;
use cc_protos::guest_services::{PrepareVolumeRequest, PrepareVolumeResponse};
use cc_volume::luks2::DetachedHeader;
use serde_json::json;
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};

use super::{
    attachment,
    configured::Configured,
    copy::{FOLDER, HeaderCopy, Known},
    detached,
};
use crate::{
    connect::{HUB, Hub},
    failure::{self, Failure},
    output::Console,
};

/// Longest time in which a disk has to answer once.
const READING: Duration = Duration::from_secs(60);
/// Pause between two questions while nobody answers.
const PAUSE: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Meant for systemd: `guestctl disk enable` writes a drop-in that runs this before a volume of /etc/crypttab is opened. The copy is
what crypttab names as header=. The key is given only where the unit of systemd-cryptsetup runs this; by hand it is a check.

Refused as well, with exit status 3: a volume that would be opened in another way than with the copy, by the kernel's command line,
another line of /etc/crypttab, or a mapping of its name that is there already.

Exit status: 0 the header is good; 1 it is not, or the disk cannot be read; 3 the key broker denies the key; 4 there is no
such volume; others as for `guestctl get`.

Example:
  guestctl disk prepare data")]
pub(super) struct Args {
    /// Name of the volume in [[volumes]] of the data hub's configuration
    #[arg(value_parser = super::enable::name)]
    name: String,
    /// Read the header here [default: /dev/disk/by-uuid/UUID]
    #[arg(long, value_name = "PATH")]
    device: Option<PathBuf>,
    /// Wait for so long while the disk is not there, or the data hub or the key broker does not answer
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u32,
    /// Folder for the copy
    #[arg(long, value_name = "DIR", default_value = FOLDER)]
    headers: PathBuf,
    /// Address of the confidential data hub
    #[arg(long, value_name = "ADDR", default_value = HUB)]
    cdh: Address,
}

pub(super) async fn run(args: &Args, as_json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    let copy = HeaderCopy::of(&args.headers, &args.name)?;
    // What is open stays as it is, with the copy that it was opened with.
    attachment::refuse_mapped(&args.name)?;
    // An older copy must not be opened with if this one is refused.
    copy.remove()?;
    let end = Instant::now() + Duration::from_secs(args.wait.into());
    let mut told = String::new();
    let Prepared { configured, device, number, checked, header } = loop {
        match prepare(args, &copy).await {
            Err(failure) if may_pass(&failure) && Instant::now() < end => {
                // Each reason once.
                if told != failure.code() {
                    failure.code().clone_into(&mut told);
                    console.complain(&format!("guestctl: waiting: {failure} [{told}]\n"));
                }
                sleep(PAUSE).await;
            }
            other => break other?,
        }
    };
    if checked.armed {
        // Whoever opened it may have been killed half-way.
        Mapping::clear_leftover(&args.name, &configured.volume.uuid)?;
    }
    let allow_discards = configured.volume.policy.is_some_and(|policy| policy.allow_discards);
    copy.write(&header.canonical(), &Known { allow_discards, device: number })?;

    let path = copy.path().display().to_string();
    if as_json {
        return console.json(&json!({
            "volume": args.name,
            "uuid": configured.volume.uuid,
            "device": device.display().to_string(),
            "header": path,
            "authentic": checked.authentic,
            "armed": checked.armed,
            "notes": checked.notes,
        }));
    }
    let how = if checked.authentic { "keeps every rule and fits its tag" } else { "keeps every rule" };
    let mut text = format!("the header of {} {how}; the copy to open it with is {path}\n", args.name);
    if !checked.armed {
        text.push_str("the key is not given for it: only systemd's unit of the volume gets it, when it runs this itself\n");
    }
    for note in &checked.notes {
        text.push_str(&format!("note: {}\n", crate::table::printable(note)));
    }
    console.text(&text)
}

/// Whether waiting may help: nobody answers, or the disk is not there yet.
fn may_pass(failure: &Failure) -> bool {
    let absent = |source: &io::Error| source.kind() == io::ErrorKind::NotFound;
    failure.may_pass() || matches!(failure, Failure::Unreadable { source, .. } if absent(source))
}

/// Does `work`, which reads the disk `path`, on a thread of its own: whether the disk ever answers is the host's to say.
async fn in_time<T: Send + 'static>(
    path: &Path,
    limit: Duration,
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match timeout(limit, spawn_blocking(work)).await {
        Ok(Ok(done)) => done,
        _ => Err(failure::of(
            Blame::Unavailable,
            "VOLUME_DISK_HANGS",
            &format!("reading {}: it did not answer in {} s", path.display(), limit.as_secs()),
            "look at the kernel's log; the host has this disk wait",
        )),
    }
}

/// What was checked.
struct Prepared {
    configured: Configured,
    device: PathBuf,
    number: Option<String>,
    checked: PrepareVolumeResponse,
    header: DetachedHeader,
}

/// One attempt. The header is read anew each time, and it is the last reading that is laid down.
async fn prepare(args: &Args, copy: &HeaderCopy) -> Result<Prepared, Failure> {
    let hub = Hub::at(&args.cdh);
    let configured = Configured::find(&hub, &args.name).await?;
    attachment::refuse_others(&configured, copy.path())?;
    let device = args.device.clone().unwrap_or_else(|| configured.device().into());
    let (path, policy, copies) = (device.clone(), configured.policy(), configured.copies());
    let read = in_time(&device, READING, move || {
        let mut file =
            super::open(&path).map_err(|source| Failure::Unreadable { path: path.clone(), source })?;
        let header = detached(&mut file, &path, copies, |header| policy.judge(header).into_result())?;
        Ok((number(&file), header))
    });
    let (number, header) = read.await?;
    let checked = check(&hub, &args.name, &header).await?;
    Ok(Prepared { configured, device, number, checked, header })
}

/// Has the hub check a header: by its rules, and by its tag with the volume's key.
pub(super) async fn check(
    hub: &Hub<'_>,
    name: &str,
    header: &DetachedHeader,
) -> Result<PrepareVolumeResponse, Failure> {
    let (first, second) = header.trimmed();
    let request = PrepareVolumeRequest {
        name: name.to_owned(),
        header: first.to_vec(),
        second_header: second.to_vec(),
        area_length: header.given() as u64,
    };
    let checked = hub.volumes().prepare_volume(request).await;
    let checked = checked.map_err(|status| hub.failed(&format!("checking the header of {name}"), &status))?;
    Ok(checked.into_inner())
}

/// The number of a block device, `MAJOR:MINOR`.
fn number(file: &File) -> Option<String> {
    let status = file.metadata().ok().filter(|status| status.file_type().is_block_device())?;
    Some(format!("{}:{}", rustix::fs::major(status.rdev()), rustix::fs::minor(status.rdev())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_disk_that_never_answers_is_told_and_waited_for_again() {
        let (tell, told) = std::sync::mpsc::channel::<()>();
        let hangs = move || {
            let _ = told.recv();
            Ok(())
        };
        let failure = in_time(Path::new("/dev/vdz"), Duration::from_millis(50), hangs).await.unwrap_err();
        assert!(failure.code() == "VOLUME_DISK_HANGS" && failure.may_pass(), "{failure}");
        assert!(failure.to_string().contains("/dev/vdz"), "{failure}");
        drop(tell);
    }
}
