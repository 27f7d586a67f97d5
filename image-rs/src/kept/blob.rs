//! One blob that is kept, and its marks.
//!
//! A mark says how long the blob was at some moment, and which digest it had then: a number of eight bytes, the least first, and
//! the digits of the digest. After a crash of the machine the end of a file can be anything; the marks tell how far it is good.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::{fd::BorrowedFd, unix::fs::FileExt},
};

use rustix::fs::{FileType, Mode, OFlags, Stat};

use super::{BETWEEN_MARKS, MARKS, Marks};
use crate::{Descriptor, Digest, Hasher, LayerFault, tree};

/// Bytes that are hashed between two looks whether that is still wanted.
const BUFFER: usize = 256 << 10;

/// A blob, as far as it is there.
#[derive(Debug)]
pub(crate) struct KeptBlob {
    name: String,
    file: File,
    marks: File,
    length: u64,
    marked: u64,
    /// Over what was there when it was opened.
    hasher: Hasher,
}

impl KeptBlob {
    /// Opens the blob called `name` in `folder`, or makes it; hashes what is there, and cuts off what is not right. `look` is told
    /// how far that is, and says whether to go on; `None` if not.
    pub(super) fn open(
        folder: BorrowedFd<'_>,
        name: &str,
        descriptor: &Descriptor,
        look: impl FnMut(u64) -> bool,
    ) -> io::Result<Option<Self>> {
        let (file, marks) = (open_own(folder, name)?, open_own(folder, &format!("{name}{MARKS}"))?);
        let hasher = descriptor.digest.algorithm().hasher();
        let mut blob = Self { name: name.to_owned(), file, marks, length: 0, marked: 0, hasher };
        Ok(blob.check(descriptor, look)?.then_some(blob))
    }

    /// Its name in the folder.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// How many bytes are there.
    pub(crate) const fn length(&self) -> u64 {
        self.length
    }

    /// How many bytes were there when it was opened, and the hash over them.
    pub(crate) fn begun(&self) -> (u64, Hasher) {
        (self.length, self.hasher.clone())
    }

    /// The same file, to read from.
    pub(super) fn again(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Hashes as much as the marks agree with, or all of it if that is the whole blob, and cuts off the rest.
    fn check(&mut self, descriptor: &Descriptor, mut look: impl FnMut(u64) -> bool) -> io::Result<bool> {
        let there = self.file.metadata()?.len();
        let mut hasher = self.hasher.clone();
        let (mut at, mut good, mut marks, mut agree) = (0, (0, self.hasher.clone()), 0, true);
        let mut reader = BufReader::new(&self.marks);
        while agree && let Some((length, digest)) = next_mark(&mut reader, &descriptor.digest)? {
            if length <= at || length > there.min(descriptor.size) {
                break;
            }
            if !self.hash(&mut hasher, at..length, &mut look)? {
                return Ok(false);
            }
            at = length;
            agree = hasher.clone().finish().hex().as_bytes() == digest;
            if agree {
                good = (at, hasher.clone());
                marks += record(&descriptor.digest) as u64;
            }
        }
        // One that is whole needs no marks.
        if agree && at < there && there == descriptor.size {
            if !self.hash(&mut hasher, at..there, &mut look)? {
                return Ok(false);
            }
            if hasher.clone().finish() == descriptor.digest {
                good = (there, hasher);
            }
        }
        (self.length, self.hasher) = good;
        self.marked = self.length;
        self.file.set_len(self.length)?;
        self.marks.set_len(marks)?;
        self.marks.seek(SeekFrom::Start(marks))?;
        Ok(true)
    }

    fn hash(
        &self,
        hasher: &mut Hasher,
        range: std::ops::Range<u64>,
        look: &mut impl FnMut(u64) -> bool,
    ) -> io::Result<bool> {
        let mut buffer = vec![0; BUFFER];
        let mut at = range.start;
        while at < range.end {
            if !look(at) {
                return Ok(false);
            }
            let most = usize::try_from(range.end - at).unwrap_or(BUFFER).min(BUFFER);
            let read = self.file.read_at(buffer.get_mut(..most).unwrap_or_default(), at)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            hasher.update(buffer.get(..read).unwrap_or_default());
            at += read as u64;
        }
        Ok(true)
    }

    /// Writes all that comes behind what is there, with the marks that are made of it.
    pub(crate) fn fill(&mut self, from: &mut impl BufRead, marks: &Marks) -> Result<(), LayerFault> {
        loop {
            let bytes = from.fill_buf().map_err(LayerFault::Read)?;
            let length = bytes.len();
            if length == 0 {
                return Ok(());
            }
            let mut written = self.write(bytes);
            while let (Ok(()), Some((length, digest))) = (&written, marks.due(self.length)) {
                written = self.mark(length, &digest);
            }
            written.map_err(|source| storage("write", &self.name, source))?;
            from.consume(length);
        }
    }

    /// Writes bytes behind those that are there.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.length)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Whether it is time for a mark, in a blob of `size` bytes.
    pub(super) const fn is_due(&self, size: u64) -> bool {
        self.length >= size || self.length - self.marked >= BETWEEN_MARKS
    }

    /// Notes that the first `length` bytes have this digest.
    pub(super) fn mark(&mut self, length: u64, digest: &Digest) -> io::Result<()> {
        let mut record = length.to_le_bytes().to_vec();
        record.extend_from_slice(digest.hex().as_bytes());
        self.marks.write_all(&record)?;
        self.marked = length;
        Ok(())
    }
}

/// Opens the file `name`, or makes it. One that anybody but this user may have open gives way, and so does what is no file.
fn open_own(folder: BorrowedFd<'_>, name: &str) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    if let Ok(file) = rustix::fs::openat(folder, name, flags, Mode::empty()) {
        let Stat { st_mode, st_uid, st_nlink, .. } = rustix::fs::fstat(&file)?;
        let is_file = FileType::from_raw_mode(st_mode) == FileType::RegularFile;
        if is_file && st_uid == rustix::process::geteuid().as_raw() && st_nlink == 1 {
            return Ok(File::from(file));
        }
    }
    tree::remove(folder, name)?;
    let new = flags | OFlags::CREATE | OFlags::EXCL;
    Ok(File::from(rustix::fs::openat(folder, name, new, Mode::RUSR | Mode::WUSR)?))
}

/// Bytes of a mark with a digest like this one.
fn record(like: &Digest) -> usize {
    size_of::<u64>() + 2 * like.algorithm().length()
}

/// The next mark; `None` at the end, or where one was cut off.
fn next_mark(from: &mut impl Read, like: &Digest) -> io::Result<Option<(u64, Vec<u8>)>> {
    let mut bytes = Vec::new();
    from.take(record(like) as u64).read_to_end(&mut bytes)?;
    let Some((length, digest)) = bytes.split_first_chunk() else { return Ok(None) };
    let whole = digest.len() == 2 * like.algorithm().length();
    Ok(whole.then(|| (u64::from_le_bytes(*length), digest.to_vec())))
}

/// A fault of the blob called `name`.
pub(super) fn storage(doing: &'static str, name: &str, source: io::Error) -> LayerFault {
    LayerFault::Storage { doing, name: name.to_owned(), folder: None, source }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::fd::AsFd, path::Path};

    use proptest::prelude::*;

    use super::*;
    use crate::Algorithm;

    fn descriptor(bytes: &[u8]) -> Descriptor {
        Descriptor {
            media_type: String::new(),
            digest: Digest::of(Algorithm::Sha256, bytes),
            size: bytes.len() as u64,
            annotations: Default::default(),
            platform: None,
        }
    }

    fn open(folder: &Path, descriptor: &Descriptor) -> KeptBlob {
        let folder = File::open(folder).unwrap();
        KeptBlob::open(folder.as_fd(), "it", descriptor, |_| true).unwrap().unwrap()
    }

    /// Bytes in which no two pieces are the same.
    fn noise(length: usize) -> Vec<u8> {
        (0..u32::try_from(length).unwrap()).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect()
    }

    /// Writes the first `length` bytes with a mark at each of these places.
    fn write(blob: &mut KeptBlob, bytes: &[u8], marks: &[usize], length: usize) {
        let mut at = 0;
        for mark in marks {
            blob.write(&bytes[at..*mark]).unwrap();
            blob.mark(*mark as u64, &Digest::of(Algorithm::Sha256, &bytes[..*mark])).unwrap();
            at = *mark;
        }
        blob.write(&bytes[at..length]).unwrap();
    }

    #[test]
    fn what_the_marks_agree_with_is_taken_over_and_the_rest_is_not() {
        let bytes = noise(10_000);
        let descriptor = descriptor(&bytes);
        let change = |path: &Path, at: u64| {
            let file = File::options().write(true).open(path).unwrap();
            file.write_all_at(b"\0\x01", at).unwrap();
        };
        type Harm<'a> = &'a dyn Fn(&Path);
        let cases: [(usize, Harm<'_>, u64); 7] = [
            (9_000, &|_| (), 8_000),
            (9_000, &|at| change(&at.join("it"), 5_000), 4_000),
            (9_000, &|at| change(&at.join("it"), 3), 0),
            (9_000, &|at| change(&at.join("it.marks"), 80), 4_000),
            (
                9_000,
                &|at| File::options().write(true).open(at.join("it")).unwrap().set_len(7_000).unwrap(),
                4_000,
            ),
            (
                9_000,
                &|at| File::options().write(true).open(at.join("it.marks")).unwrap().set_len(100).unwrap(),
                4_000,
            ),
            (10_000, &|at| fs::write(at.join("it.marks"), "").unwrap(), 10_000),
        ];
        for (number, (length, harm, taken)) in cases.into_iter().enumerate() {
            let folder = tempfile::tempdir().unwrap();
            write(&mut open(folder.path(), &descriptor), &bytes, &[4_000, 8_000], length);
            harm(folder.path());
            let mut blob = open(folder.path(), &descriptor);
            assert_eq!(blob.length(), taken, "case {number}");
            let (begun, hasher) = blob.begun();
            let at = usize::try_from(taken).unwrap();
            assert_eq!((begun, hasher.finish()), (taken, Digest::of(Algorithm::Sha256, &bytes[..at])));
            blob.write(&bytes[at..]).unwrap();
            assert!(fs::read(folder.path().join("it")).unwrap() == bytes, "case {number}");
            assert_eq!(open(folder.path(), &descriptor).length(), 10_000, "case {number}");
        }
    }

    #[test]
    fn another_blob_of_that_length_is_not_taken_over() {
        let (bytes, folder) = (noise(1000), tempfile::tempdir().unwrap());
        fs::write(folder.path().join("it"), vec![1; 1000]).unwrap();
        assert_eq!(open(folder.path(), &descriptor(&bytes)).length(), 0);
    }

    #[test]
    fn what_others_may_have_open_gives_way() {
        use std::os::unix::fs::{MetadataExt, symlink};
        let (bytes, folder) = (noise(1000), tempfile::tempdir().unwrap());
        let (it, other) = (folder.path().join("it"), folder.path().join("other"));
        fs::write(&other, &bytes).unwrap();
        let cases: [&dyn Fn(); 3] =
            [&|| symlink(&other, &it).unwrap(), &|| fs::hard_link(&other, &it).unwrap(), &|| {
                fs::create_dir_all(it.join("x")).unwrap()
            }];
        for make in cases {
            make();
            assert_eq!(open(folder.path(), &descriptor(&bytes)).length(), 0);
            let made = fs::symlink_metadata(&it).unwrap();
            assert!(made.is_file() && made.nlink() == 1 && made.mode() & 0o777 == 0o600);
            assert!(fs::read(&other).unwrap() == bytes);
            fs::remove_file(&it).unwrap();
        }
    }

    proptest! {
        #[test]
        fn whatever_lies_there_only_the_blobs_own_beginning_is_taken_over(
            marks in proptest::collection::vec(any::<u8>(), 0..300),
            there in proptest::collection::vec(any::<u8>(), 0..600),
        ) {
            let (bytes, folder) = (noise(500), tempfile::tempdir().unwrap());
            fs::write(folder.path().join("it"), &there).unwrap();
            fs::write(folder.path().join("it.marks"), &marks).unwrap();
            let blob = open(folder.path(), &descriptor(&bytes));
            let at = usize::try_from(blob.length()).unwrap();
            prop_assert_eq!(blob.begun().1.finish(), Digest::of(Algorithm::Sha256, &there[..at]));
        }
    }
}
