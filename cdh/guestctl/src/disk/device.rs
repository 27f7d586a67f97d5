//! A disk that is written to: opened for nobody else, looked at before, and written in steps that a power cut does not hurt.
//!
//! A header is never changed in place. It is made in memory, and comes onto the disk in a few steps, each of them on the disk before
//! the next one. After any number of them the volume is what it was before or what it shall be.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use cc_evidence::blame::Blame;
use cc_volume::luks2::{DetachedHeader, format::MAX_AREA_LEN};
use rustix::fs::OFlags;

use super::volume;
use crate::failure::{self, Failure};

/// Bytes of the smallest disk: the header area and as much data.
const MIN_LEN: u64 = 2 * MAX_AREA_LEN as u64;
/// Bytes at the end of a disk that have to be zero: partition tables and other volumes leave copies there.
const TAIL_LEN: u64 = 1 << 20;
/// Bytes of the block that is written last: the binary header.
const BLOCK_LEN: usize = 4096;

/// One write.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
}

/// What is on a disk that is to be formatted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Zeros, or what an interrupted format of this volume left.
    Blank,
    /// The volume itself.
    Volume,
    /// Something else.
    Foreign,
}

/// A disk, or a file in its place.
#[derive(Debug)]
pub(super) struct Device {
    file: File,
    path: PathBuf,
    length: u64,
}

impl Device {
    /// Opens it. A disk that is mounted, or used by anybody else in the kernel, is refused.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let failed = |source: io::Error| match source.raw_os_error() {
            Some(code) if code == rustix::io::Errno::BUSY.raw_os_error() => failure::of(
                Blame::Misused,
                "DEVICE_IN_USE",
                &format!("{} is in use", path.display()),
                "unmount it, or close what is mapped over it; lsblk shows that",
            ),
            _ => Failure::Unreadable { path: path.to_owned(), source },
        };
        let is_block = std::fs::metadata(path).map_err(failed)?.file_type().is_block_device();
        let flags = if is_block { OFlags::EXCL | OFlags::CLOEXEC } else { OFlags::CLOEXEC };
        let flags = i32::try_from(flags.bits()).unwrap_or_default();
        let mut file =
            OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).map_err(failed)?;
        let length = file.seek(SeekFrom::End(0)).map_err(failed)?;
        if length < MIN_LEN {
            return Err(failure::of(
                Blame::Misused,
                "DEVICE_TOO_SMALL",
                &format!("{} has {length} bytes, a volume takes {MIN_LEN}", path.display()),
                "give a larger disk",
            ));
        }
        Ok(Self { file, path: path.to_owned(), length })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its bytes.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// The header area, in one pass.
    pub(super) fn head(&self) -> Result<Vec<u8>, Failure> {
        let mut file = &self.file;
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0))
            .and_then(|_| file.take(MAX_AREA_LEN as u64).read_to_end(&mut bytes))
            .map_err(|source| Failure::Unreadable { path: self.path.clone(), source })?;
        Ok(bytes)
    }

    /// What is on it, where the volume `uuid` is to be made.
    pub(super) fn content(&self, uuid: &str) -> Result<Content, Failure> {
        let head = self.head()?;
        if let Ok(header) = DetachedHeader::read(head.clone()) {
            let own = header.header().binary().uuid == uuid;
            return Ok(if own { Content::Volume } else { Content::Foreign });
        }
        if head.get(..BLOCK_LEN) == Some(&marker(uuid)[..]) {
            return Ok(Content::Blank);
        }
        let mut tail = vec![0; usize::try_from(TAIL_LEN).unwrap_or_default()];
        self.file
            .read_exact_at(&mut tail, self.length - TAIL_LEN)
            .map_err(|source| Failure::Unreadable { path: self.path.clone(), source })?;
        let blank = head.iter().chain(&tail).all(|byte| *byte == 0);
        Ok(if blank { Content::Blank } else { Content::Foreign })
    }

    /// Writes the steps, each of them on the disk before the next one.
    pub(super) fn write(&self, steps: &[Step]) -> Result<(), Failure> {
        for step in steps {
            self.file
                .write_all_at(&step.bytes, step.offset)
                .and_then(|()| self.file.sync_data())
                .map_err(|source| Failure::OutputFile { path: self.path.clone(), source })?;
        }
        Ok(())
    }
}

/// The steps by which a blank disk gets the header area `area` of the volume `uuid`. The first one leaves a mark that the rest is
/// under way, so that an interrupted format begins anew; the last one makes it a volume.
pub(super) fn format_steps(uuid: &str, area: &[u8]) -> Vec<Step> {
    let (first, rest) = area.split_at_checked(BLOCK_LEN).unwrap_or((area, &[]));
    vec![
        mark(uuid),
        Step { offset: BLOCK_LEN as u64, bytes: rest.to_vec() },
        Step { offset: 0, bytes: first.to_vec() },
    ]
}

/// The steps from the header `before` to `after`, which has other keyslots: the new areas, where nothing is yet; the first copy, from
/// which on the new key opens; the second copy; and zeros over the former areas.
pub(super) fn change_steps(
    path: &Path,
    before: &DetachedHeader,
    after: &DetachedHeader,
) -> Result<Vec<Step>, Failure> {
    let area = after.canonical().map_err(|error| volume(path, error))?;
    let (all_old, all_new) = (areas(before), areas(after));
    // A keyslot of neither key stays where it is.
    let old: Vec<_> = all_old.iter().filter(|area| !all_new.contains(area)).collect();
    let new: Vec<_> = all_new.iter().filter(|area| !all_old.contains(area)).collect();
    let overlap = |(start, end): &&(usize, usize)| all_old.iter().any(|(from, to)| start < to && from < end);
    let size = usize::try_from(after.header().binary().size).unwrap_or_default();
    if new.iter().any(overlap) || before.header().binary().size != after.header().binary().size {
        let why = "the new key would overwrite the present one".to_owned();
        return Err(Failure::Garbled { doing: "changing the header".to_owned(), why });
    }
    let piece = |start: usize, end: usize| Step {
        offset: start as u64,
        bytes: area.get(start..end).unwrap_or_default().to_vec(),
    };
    let mut steps: Vec<Step> = new.iter().map(|(start, end)| piece(*start, *end)).collect();
    steps.push(piece(0, size));
    steps.push(piece(size, 2 * size));
    steps.extend(old.iter().map(|(start, end)| Step { offset: *start as u64, bytes: vec![0; end - start] }));
    Ok(steps)
}

/// The steps that may be left of a change to `header` that was interrupted behind its first copy: the second copy, and zeros wherever no
/// keyslot lies.
pub(super) fn rest_of_change(path: &Path, header: &DetachedHeader) -> Result<Vec<Step>, Failure> {
    let area = header.canonical().map_err(|error| volume(path, error))?;
    let size = usize::try_from(header.header().binary().size).unwrap_or_default();
    let rest = area.get(size..).unwrap_or_default();
    Ok(vec![Step { offset: size as u64, bytes: rest.to_vec() }])
}

/// Where the keyslots of a header that the policy admits lie.
fn areas(header: &DetachedHeader) -> Vec<(usize, usize)> {
    let slots = header.header().metadata().keyslots.values().filter_map(|keyslot| keyslot.slot.as_ref());
    slots
        .filter_map(|slot| {
            let start = usize::try_from(slot.area.offset).ok()?;
            Some((start, start.checked_add(usize::try_from(slot.area.size).ok()?)?))
        })
        .collect()
}

/// The mark that a format is under way.
pub(super) fn mark(uuid: &str) -> Step {
    Step { offset: 0, bytes: marker(uuid) }
}

fn marker(uuid: &str) -> Vec<u8> {
    let mut block = format!("this disk is being formatted as the volume {uuid}\n").into_bytes();
    block.resize(BLOCK_LEN, 0);
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "6a2d7e1c-93f4-4a55-8f70-1d3b2c5e9a10";

    fn disk(folder: &Path, length: u64) -> PathBuf {
        let path = folder.join("disk");
        File::create(&path).unwrap().set_len(length).unwrap();
        path
    }

    #[test]
    fn a_disk_is_blank_only_if_nothing_is_on_it_or_its_format_was_interrupted() {
        let folder = tempfile::tempdir().unwrap();
        let path = disk(folder.path(), 64 << 20);
        let device = Device::open(&path).unwrap();
        assert_eq!(device.content(UUID).unwrap(), Content::Blank);
        for offset in [0, 512, 1 << 20, (16 << 20) - 1, (63 << 20), (64 << 20) - 1] {
            device.write(&[Step { offset, bytes: vec![1] }]).unwrap();
            assert_eq!(device.content(UUID).unwrap(), Content::Foreign, "{offset}");
            device.write(&[Step { offset, bytes: vec![0] }]).unwrap();
        }
        let steps = format_steps(UUID, &vec![7; 1 << 20]);
        for done in 1..steps.len() {
            device.write(&steps[..done]).unwrap();
            assert_eq!(device.content(UUID).unwrap(), Content::Blank, "killed after {done} steps");
            let other = UUID.replace("6a2d", "6a2e");
            assert_eq!(device.content(&other).unwrap(), Content::Foreign, "it is not another volume's");
        }
        device.write(&steps).unwrap();
        assert_eq!(device.content(UUID).unwrap(), Content::Foreign);
    }

    #[test]
    fn a_small_disk_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = Device::open(&disk(folder.path(), (32 << 20) - 1)).unwrap_err();
        assert_eq!(error.code(), "DEVICE_TOO_SMALL");
        assert!(Device::open(&folder.path().join("absent")).is_err());
    }

    /// cryptsetup with `input` on its standard input; none where it is not installed.
    #[allow(clippy::disallowed_methods, reason = "a test starts cryptsetup")]
    fn cryptsetup(arguments: &[&str], input: &[u8]) -> Option<bool> {
        use std::{
            io::Write as _,
            process::{Command, Stdio},
        };
        let mut command = Command::new("/usr/sbin/cryptsetup");
        let child =
            command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let Ok(mut child) = child else {
            cc_vectors::skip("needs cryptsetup");
            return None;
        };
        child.stdin.take().unwrap().write_all(input).unwrap();
        Some(child.wait().unwrap().success())
    }

    /// However many steps of a change of keys are done when the power fails: one key opens the volume, and the policy for one
    /// keyslot admits the header.
    #[test]
    fn a_change_of_keys_that_is_cut_off_leaves_a_volume_that_opens() {
        let folder = tempfile::tempdir().unwrap();
        let (path, copy) = (disk(folder.path(), 32 << 20), folder.path().join("copy"));
        let (disk, changed) = (path.to_str().unwrap(), copy.to_str().unwrap());
        let cheap = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "-q"];
        let [old, new] = ["old", "new"].map(|key| {
            let file = folder.path().join(key);
            std::fs::write(&file, key.repeat(20)).unwrap();
            file.to_str().unwrap().to_owned()
        });
        let make = [&["luksFormat", "--type", "luks2", disk, &old][..], &cheap].concat();
        if cryptsetup(&make, b"").is_none() {
            return;
        }
        std::fs::copy(&path, &copy).unwrap();
        let add = [&["luksAddKey", "--key-file", &old, changed, &new][..], &cheap].concat();
        assert_eq!(cryptsetup(&add, b""), Some(true));
        assert_eq!(cryptsetup(&["luksRemoveKey", "-q", changed, &old], b""), Some(true));

        let device = Device::open(&path).unwrap();
        let before = DetachedHeader::read(device.head().unwrap()).unwrap();
        let after = DetachedHeader::read(Device::open(&copy).unwrap().head().unwrap()).unwrap();
        let steps = change_steps(&path, &before, &after).unwrap();
        assert_eq!(steps.len(), 4);
        // By the header that is checked: cryptsetup brings copies on the disk into order before anybody can look at them.
        let header = folder.path().join("header");
        let detached = header.to_str().unwrap();
        let opens = |key: &str| {
            let arguments = ["open", "--test-passphrase", "--key-file", key, "--header", detached, disk];
            cryptsetup(&arguments, b"").unwrap()
        };
        for done in 0..=steps.len() {
            device.write(&steps[..done]).unwrap();
            let now = DetachedHeader::read(device.head().unwrap()).unwrap();
            let verdict = cc_volume::luks2::Policy::default().judge(now.header());
            assert!(verdict.is_admitted(), "after {done} steps: {verdict:?}");
            std::fs::write(&header, now.canonical().unwrap()).unwrap();
            assert_eq!((opens(&old), opens(&new)), (done < 2, done >= 2), "after {done} steps");
        }
        // Once more, when the last step was not done: the same as if it had been.
        let (start, former) = (steps[3].offset, before.canonical().unwrap());
        let former = former[usize::try_from(start).unwrap()..][..steps[3].bytes.len()].to_vec();
        device.write(&[Step { offset: start, bytes: former }]).unwrap();
        device.write(&rest_of_change(&path, &after).unwrap()).unwrap();
        assert_eq!(device.head().unwrap()[..after.canonical().unwrap().len()], after.canonical().unwrap());
        // Nothing of the former key is left.
        let area = areas(&before)[0];
        assert!(device.head().unwrap()[area.0..area.1].iter().all(|byte| *byte == 0));
    }
}
