//! A disk that is written to: opened for nobody else, looked at before, and written in steps that a power cut does not hurt.
//!
//! A header is never changed in place. It is made in memory, and comes onto the disk in a few steps, each of them on the disk before
//! the next one. After any number of them the volume is what it was before or what it shall be.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
    os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use cc_evidence::blame::Blame;
use cc_volume::luks2::{Copies, DetachedHeader, Header, Secondary, format::MAX_AREA_LEN};
use rustix::fs::OFlags;

use super::detached;
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
    /// Of a block device: that of its driver, and that of the device there.
    number: Option<(u32, u32)>,
}

impl Device {
    /// Opens it. A disk that is mounted, or used by anybody else in the kernel, is refused.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let failed = |source: io::Error| match source.raw_os_error() {
            Some(code) if code == rustix::io::Errno::BUSY.raw_os_error() => failure::of(
                Blame::Misused,
                "DEVICE_IN_USE",
                &format!("{} is in use", path.display()),
                "unmount it, and close what is mapped over it: `systemctl stop systemd-cryptsetup@NAME.service` for a volume of \
                 crypttab; lsblk shows what that is",
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
                "give a larger disk: the header takes 16 MiB, the data has to be at least as much",
            ));
        }
        let status = file.metadata().map_err(failed)?;
        let is_block = status.file_type().is_block_device();
        let number = is_block.then(|| (rustix::fs::major(status.rdev()), rustix::fs::minor(status.rdev())));
        Ok(Self { file, path: path.to_owned(), length, number })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its bytes.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// The number of a block device.
    pub(super) fn number(&self) -> Result<(u32, u32), Failure> {
        self.number
            .ok_or_else(|| self.refused("it is no block device", "name a block device; lsblk shows them"))
    }

    /// Leaves it to others while `work` is done, and opens it again: by then its path must not lead to another device.
    pub(super) fn lend<T>(self, work: impl FnOnce() -> Result<T, Failure>) -> Result<(Self, T), Failure> {
        let Self { file, path, number, .. } = self;
        drop(file);
        let done = work()?;
        let again = Self::open(&path)?;
        if again.number != number {
            let hint = "nothing was written to the other device; look at the kernel's log, and begin again with the right one";
            return Err(again.refused("it is another device by now", hint));
        }
        Ok((again, done))
    }

    fn refused(&self, why: &str, hint: &str) -> Failure {
        let message = format!("the device {} is refused: {why}", self.path.display());
        failure::of(Blame::Misused, "DEVICE_REFUSED", &message, hint)
    }

    /// The header of the volume on it, from one of the `copies` and unless `admit` says something against it, with its keyslots.
    pub(super) fn header(
        &mut self,
        copies: Copies,
        admit: impl FnOnce(&Header) -> Result<(), cc_volume::Error>,
    ) -> Result<DetachedHeader, Failure> {
        detached(&mut self.file, &self.path, copies, admit)
    }

    /// The header area, in one pass.
    fn head(&self) -> Result<Vec<u8>, Failure> {
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
        // Also one that was left half written: it is no blank disk.
        if let Ok(header) = Header::read_by(&head, head.len(), Copies::Either) {
            let own = header.binary().uuid == uuid;
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
        for (done, step) in steps.iter().enumerate() {
            let written =
                self.file.write_all_at(&step.bytes, step.offset).and_then(|()| self.file.sync_data());
            written.map_err(|source| self.unwritten(done + 1, steps.len(), &source))?;
        }
        Ok(())
    }

    fn unwritten(&self, step: usize, all: usize, source: &io::Error) -> Failure {
        let path = self.path.display();
        failure::of(
            Blame::Platform,
            "DISK_WRITE_FAILED",
            &format!("writing {path}, step {step} of {all}: {source}"),
            "see the kernel's log (`journalctl -k`) for a fault of the disk, then run the same command again: an interrupted format begins anew; \
             of an interrupted rotation or repair what is left is done, and all the time one of the two keys opens a volume with a signed header",
        )
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

/// The steps from the header `before` to `after`, which has other keyslots: the second copy of `before`, if that is damaged or older,
/// because it has to do while the first one is written; the new areas, where nothing is yet; the first copy, from which on the new key
/// opens; the second copy; and zeros over the former areas.
pub(super) fn change_steps(before: &DetachedHeader, after: &DetachedHeader) -> Result<Vec<Step>, Failure> {
    let area = after.canonical().to_bytes();
    let (all_old, all_new): (Vec<_>, Vec<_>) = (before.areas().collect(), after.areas().collect());
    // A keyslot of neither key stays where it is.
    let old: Vec<_> = all_old.iter().filter(|area| !all_new.contains(area)).collect();
    let new: Vec<_> = all_new.iter().filter(|area| !all_old.contains(area)).collect();
    let overlap = |new: &&Range<usize>| all_old.iter().any(|old| new.start < old.end && old.start < new.end);
    let size = usize::try_from(after.header().binary().size).unwrap_or_default();
    if new.iter().any(overlap) || before.header().binary().size != after.header().binary().size {
        let why = "would have the new key overwrite the present one".to_owned();
        return Err(Failure::Garbled { doing: "changing the header".to_owned(), why });
    }
    let piece = |place: Range<usize>| Step {
        offset: place.start as u64,
        bytes: area.get(place).unwrap_or_default().to_vec(),
    };
    let mut steps: Vec<Step> = repair_step(before).filter(|step| step.offset != 0).into_iter().collect();
    steps.extend(new.into_iter().cloned().map(piece));
    steps.push(piece(0..size));
    steps.push(piece(size..2 * size));
    steps.extend(old.iter().map(|place| Step { offset: place.start as u64, bytes: vec![0; place.len()] }));
    Ok(steps)
}

/// The steps that may be left of a change to `header` that was interrupted behind its first copy: the second copy, and zeros wherever no
/// keyslot lies; before them the first copy, if that was damaged since.
pub(super) fn rest_of_change(header: &DetachedHeader) -> Vec<Step> {
    let size = usize::try_from(header.header().binary().size).unwrap_or_default();
    let rest = header.canonical().to_bytes().split_off(size);
    let first = repair_step(header).filter(|step| step.offset == 0);
    first.into_iter().chain([Step { offset: size as u64, bytes: rest }]).collect()
}

/// The step that makes both copies say what `header` says: the one that does not is written anew. None if both do.
pub(super) fn repair_step(header: &DetachedHeader) -> Option<Step> {
    let number = match (header.header().damage(), header.header().secondary()) {
        (Some(_), _) => 0,
        (None, Secondary::Same) => return None,
        (None, _) => 1,
    };
    let canonical = header.canonical();
    canonical.pieces().nth(number).map(|(offset, bytes)| Step { offset, bytes: bytes.to_vec() })
}

/// The mark that a format is under way.
pub(super) fn mark(uuid: &str) -> Step {
    Step { offset: 0, bytes: marker(uuid) }
}

fn marker(uuid: &str) -> Vec<u8> {
    let mut block = cc_storage::format_mark(uuid).into_bytes();
    block.resize(BLOCK_LEN, 0);
    block
}

#[cfg(test)]
pub(crate) mod tests {
    use cc_volume::luks2::format::{Binary, Metadata};

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

    /// A disk that cryptsetup made a volume on, which the key in the file `old` opens; there is a file `new` too.
    pub(crate) fn volume(folder: &Path) -> Option<PathBuf> {
        let path = disk(folder, 32 << 20);
        for key in ["old", "new"] {
            std::fs::write(folder.join(key), key.repeat(20)).unwrap();
        }
        let (shown, old) = (path.to_str().unwrap(), folder.join("old"));
        let make = ["luksFormat", "--type", "luks2", shown, old.to_str().unwrap()];
        cryptsetup(&[&make[..], &CHEAP].concat(), b"").map(|_| path.clone())
    }

    const CHEAP: [&str; 4] = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations=1000", "-q"];

    fn read(path: &Path) -> DetachedHeader {
        detached(&mut File::open(path).unwrap(), path, Copies::Either, |_| Ok(())).unwrap()
    }

    /// What a header says, and what is in its keyslots.
    fn content(header: &DetachedHeader) -> (&Binary, &Metadata, Vec<u8>) {
        let keyslots = header.canonical().pieces().skip(2).flat_map(|(_, bytes)| bytes.to_vec()).collect();
        (header.header().binary(), header.header().metadata(), keyslots)
    }

    /// The second copy is as an earlier change left it that was cut off, or damaged: whoever writes the first one first makes it good.
    #[test]
    fn a_change_of_keys_begins_with_a_second_copy_that_is_good() {
        let folder = tempfile::tempdir().unwrap();
        let Some(path) = volume(folder.path()) else { return };
        let copy = folder.path().join("copy");
        std::fs::copy(&path, &copy).unwrap();
        let [old, new] = ["old", "new"].map(|key| folder.path().join(key).to_str().unwrap().to_owned());
        let add = [&["luksAddKey", "--key-file", &old, copy.to_str().unwrap(), &new][..], &CHEAP].concat();
        assert_eq!(cryptsetup(&add, b""), Some(true));
        assert_eq!(cryptsetup(&["luksRemoveKey", "-q", copy.to_str().unwrap(), &old], b""), Some(true));
        let (former, present) = (read(&path), read(&copy));
        let device = Device::open(&copy).unwrap();
        let older = former.canonical().to_bytes()[0x4000..0x8000].to_vec();
        for second in [older, vec![0xff; 0x4000]] {
            device.write(&[Step { offset: 0x4000, bytes: second }]).unwrap();
            let before = read(&copy);
            assert!(content(&before) == content(&present));
            let steps = change_steps(&before, &former).unwrap();
            assert_eq!((steps.len(), steps[0].offset), (5, 0x4000));
            let first = steps.iter().position(|step| step.offset == 0).unwrap();
            let torn = Step { offset: 0, bytes: steps[first].bytes[..4608].to_vec() };
            device.write(&steps[..first]).unwrap();
            device.write(&[torn]).unwrap();
            assert!(content(&read(&copy)) == content(&present), "the present key opens it");
            // As it was, for the next round.
            device.write(&[Step { offset: 0, bytes: present.canonical().to_bytes() }]).unwrap();
        }
    }

    /// Wherever the writing is cut off, at each sector of the copies and each page of the keyslots: one key opens the volume, and the policy for one
    /// keyslot admits the header.
    #[test]
    fn a_change_of_keys_that_is_cut_off_leaves_a_volume_that_opens() {
        let folder = tempfile::tempdir().unwrap();
        let Some(path) = volume(folder.path()) else { return };
        let copy = folder.path().join("copy");
        let (disk, changed) = (path.to_str().unwrap(), copy.to_str().unwrap());
        let [old, new] = ["old", "new"].map(|key| folder.path().join(key).to_str().unwrap().to_owned());
        std::fs::copy(&path, &copy).unwrap();
        let add = [&["luksAddKey", "--key-file", &old, changed, &new][..], &CHEAP].concat();
        assert_eq!(cryptsetup(&add, b""), Some(true));
        assert_eq!(cryptsetup(&["luksRemoveKey", "-q", changed, &old], b""), Some(true));

        let device = Device::open(&path).unwrap();
        let (before, after) = (read(&path), read(&copy));
        let steps = change_steps(&before, &after).unwrap();
        assert_eq!(steps.len(), 4);
        // By the header that is checked: cryptsetup brings copies on the disk into order before anybody can look at them.
        let header = folder.path().join("header");
        let detached = header.to_str().unwrap();
        let opens = |key: &str| {
            let arguments = ["open", "--test-passphrase", "--key-file", key, "--header", detached, disk];
            cryptsetup(&arguments, b"").unwrap()
        };
        let mut torn_copies = 0;
        for (done, step) in steps.iter().enumerate() {
            let sector = if step.bytes.len() == 0x4000 { 512 } else { 4096 };
            for torn in (0..=step.bytes.len()).step_by(sector) {
                device.write(&[Step { offset: step.offset, bytes: step.bytes[..torn].to_vec() }]).unwrap();
                let now = read(&path);
                let verdict = cc_volume::luks2::Policy::default().judge(now.header());
                assert!(verdict.is_admitted(), "{torn} bytes of step {done}: {verdict:?}");
                torn_copies += usize::from(now.header().damage().is_some());
                // Up to the first copy it is the volume as it was, then the one that it shall be.
                let whole = done > 1 || (done == 1 && now.header().damage().is_none() && torn > 0);
                let expected = if whole { &after } else { &before };
                assert!(content(&now) == content(expected), "{torn} bytes of step {done}");
                if torn == 4608 || torn == step.bytes.len() {
                    std::fs::write(&header, now.canonical().to_bytes()).unwrap();
                    assert_eq!((opens(&old), opens(&new)), (!whole, whole), "{torn} bytes of step {done}");
                }
            }
        }
        assert!(torn_copies > 2, "the first copy was never torn");
        // Once more, when the last step was not done: the same as if it had been.
        let (start, former) = (steps[3].offset, before.canonical().to_bytes());
        let former = former[usize::try_from(start).unwrap()..][..steps[3].bytes.len()].to_vec();
        device.write(&[Step { offset: start, bytes: former }]).unwrap();
        device.write(&rest_of_change(&after)).unwrap();
        let expected = after.canonical().to_bytes();
        assert_eq!(device.head().unwrap()[..expected.len()], expected);
        // Nothing of the former key is left.
        let area = before.areas().next().unwrap();
        assert!(device.head().unwrap()[area].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_damaged_or_older_copy_is_written_anew_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let Some(path) = volume(folder.path()) else { return };
        let device = Device::open(&path).unwrap();
        let whole = device.head().unwrap();
        assert!(repair_step(&read(&path)).is_none());
        for (at, copy) in [(4200, 0), (0x4000 + 4200, 0x4000)] {
            device.write(&[Step { offset: at, bytes: vec![0xff; 512] }]).unwrap();
            let step = repair_step(&read(&path)).unwrap();
            assert_eq!((step.offset, step.bytes.len()), (copy, 0x4000), "{at}");
            device.write(&[step]).unwrap();
            let now = read(&path);
            assert!(now.header().damage().is_none() && repair_step(&now).is_none());
            assert!(device.head().unwrap()[0x8000..] == whole[0x8000..], "the keyslots stay");
        }
    }

    /// However far the writing of a format came: it begins anew, or is done.
    #[test]
    fn a_format_that_is_cut_off_inside_of_a_step_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let Some(made) = volume(folder.path()) else { return };
        let area = read(&made).canonical().to_bytes();
        let uuid = read(&made).header().binary().uuid.clone();
        let path = folder.path().join("blank");
        File::create(&path).unwrap().set_len(32 << 20).unwrap();
        let device = Device::open(&path).unwrap();
        let steps = format_steps(&uuid, &area[..1 << 20]);
        for (done, step) in steps.iter().enumerate() {
            // Behind the copies it makes no difference.
            let places = (0..=step.bytes.len()).step_by(512).filter(|at| *at <= 0x8000 || at % 0x4_0000 == 0);
            for torn in places {
                device.write(&[Step { offset: step.offset, bytes: step.bytes[..torn].to_vec() }]).unwrap();
                let expected = if done == 2 && torn > 0 { Content::Volume } else { Content::Blank };
                assert_eq!(device.content(&uuid).unwrap(), expected, "{torn} bytes of step {done}");
            }
        }
    }
}
