//! Blobs of a pull that was cut off, as they are stored, for the next pull of the same image.
//!
//! A file of an artifact is such a blob itself. Of what is unpacked or decrypted (layers, archives) there is a copy, as long as
//! there is room: there is NONE in file systems in memory, nor where the disk has less room than all copies take. What is kept
//! lay on a disk meanwhile, so nothing of it is believed: it is hashed again, and all of a blob has to have the digest that
//! names it in the end.

mod blob;

use std::{
    collections::{BTreeSet, VecDeque},
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use rustix::{
    fs::{AtFlags, FsWord},
    io::Errno,
};

use crate::{Descriptor, Digest, Error, Event, LayerFault, Observer, Source, layer::Tap, tree};
pub(crate) use blob::KeptBlob;

/// Bytes between two marks.
const BETWEEN_MARKS: u64 = 4 << 20;
/// Copies of shorter blobs are not worth their files.
const SHORTEST_COPY: u64 = 1 << 20;
/// What file systems in memory are called by fstatfs(2): tmpfs and ramfs.
const IN_MEMORY: [FsWord; 2] = [0x0102_1994, 0x8584_58f6];
/// How the names of marks end.
const MARKS: &str = ".marks";
/// How the names of copies end.
const COPY: &str = ".copy";

/// The folder of what is kept.
#[derive(Debug)]
pub(crate) struct Kept {
    folder: OwnedFd,
    /// Blobs that somebody is at, or was.
    claimed: Mutex<BTreeSet<Digest>>,
    /// Bytes of copies.
    copied: AtomicU64,
    /// There is no room for copies.
    no_copies: AtomicBool,
}

/// A blob on its way in, a copy of which may be kept.
pub(crate) struct Copied<'a> {
    /// All its bytes from the first on.
    pub(crate) blob: Box<dyn Read + Send + 'a>,
    /// What makes the copy.
    pub(crate) tap: Option<Tap<'a>>,
}

impl Kept {
    /// What is kept in `folder`.
    pub(crate) fn new(folder: OwnedFd) -> Self {
        let in_memory = rustix::fs::fstatfs(&folder).is_ok_and(|status| IN_MEMORY.contains(&status.f_type));
        let (claimed, copied) = (Mutex::default(), AtomicU64::new(0));
        Self { folder, claimed, copied, no_copies: AtomicBool::new(in_memory) }
    }

    /// Bytes of the blobs in `folder`; `None` if there are none. Marks alone are nothing.
    pub(crate) fn bytes(folder: BorrowedFd<'_>) -> Result<Option<u64>, Errno> {
        let mut all = None;
        for name in tree::names(folder)?.iter().filter(|name| !name.to_bytes().ends_with(MARKS.as_bytes())) {
            let status = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
            *all.get_or_insert(0) += u64::try_from(status.st_size).unwrap_or_default();
        }
        Ok(all)
    }

    /// Where blobs lie under their [`Kept::name`].
    pub(crate) fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// The name of a blob in the folder.
    pub(crate) fn name(digest: &Digest) -> String {
        format!("{}-{}", digest.algorithm().as_str(), digest.hex())
    }

    /// Opens the file that `descriptor` names, and hashes what is there of it. `None` if somebody is at it: an artifact can name
    /// a blob twice.
    ///
    /// # Errors
    /// What the file system says; [`LayerFault::Interrupted`].
    pub(crate) fn open(
        &self,
        (number, descriptor): (usize, &Descriptor),
        observer: &dyn Observer,
    ) -> Result<Option<KeptBlob>, LayerFault> {
        self.open_as(Self::name(&descriptor.digest), (number, descriptor), observer, |bytes| {
            observer.event(Event::LayerRead { layer: number, bytes });
        })
    }

    fn open_as(
        &self,
        name: String,
        (number, descriptor): (usize, &Descriptor),
        observer: &dyn Observer,
        mut tell: impl FnMut(u64),
    ) -> Result<Option<KeptBlob>, LayerFault> {
        if !self.claimed.lock().unwrap_or_else(PoisonError::into_inner).insert(descriptor.digest) {
            return Ok(None);
        }
        let opened = KeptBlob::open(self.folder.as_fd(), &name, descriptor, |bytes| {
            tell(bytes);
            !observer.stopped()
        });
        let blob = opened.map_err(|source| blob::storage("read", &name, source))?;
        let Some(blob) = blob else { return Err(LayerFault::Interrupted) };
        if blob.length() > 0 {
            observer.event(Event::LayerKept { layer: number, bytes: blob.length() });
        }
        Ok(Some(blob))
    }

    /// The blob that `descriptor` names, out of what is kept of it and behind that from `source`. What comes is kept.
    ///
    /// # Errors
    /// What the source says; [`Error::Interrupted`].
    pub(crate) fn copy<'a>(
        &'a self,
        source: &'a dyn Source,
        (number, descriptor): (usize, &'a Descriptor),
        observer: &dyn Observer,
    ) -> Result<Copied<'a>, Error> {
        let worth = descriptor.size >= SHORTEST_COPY && !self.no_copies.load(Ordering::Relaxed);
        // Its bytes are read once more, on their way through the pipe: they are counted then.
        let name = format!("{}{COPY}", Self::name(&descriptor.digest));
        let kept = match worth.then(|| self.open_as(name, (number, descriptor), observer, |_| ())) {
            Some(Err(LayerFault::Interrupted)) => return Err(Error::Interrupted),
            // No pull fails for want of a copy.
            None | Some(Err(_)) => None,
            Some(Ok(kept)) => kept,
        };
        let Some((kept, again)) = kept.and_then(|kept| kept.again().map(|again| (kept, again)).ok()) else {
            return Ok(Copied { blob: source.blob(descriptor)?, tap: None });
        };
        let length = kept.length();
        self.copied.fetch_add(length, Ordering::Relaxed);
        let rest = match length {
            // What is not there is told here.
            0 => Rest::Opened(source.blob(descriptor)?),
            _ => Rest::Waiting(source),
        };
        let blob = Resumed { kept: again, at: 0, length, descriptor, rest };
        Ok(Copied { blob: Box::new(blob), tap: Some(self.tap(kept, descriptor.size)) })
    }

    /// Writes what comes behind the bytes that `kept` has, until that cannot be done any more.
    fn tap(&self, kept: KeptBlob, size: u64) -> Tap<'_> {
        let mut kept = Some(kept);
        Box::new(move |bytes, length, hasher| {
            let Some(blob) = kept.as_mut().filter(|blob| length > blob.length()) else { return };
            self.copied.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            let written = blob.write(bytes).and_then(|()| match blob.is_due(size) {
                true => blob.mark(length, &hasher.clone().finish()).map(|()| self.has_room()),
                false => Ok(true),
            });
            if !matches!(written, Ok(true)) {
                self.no_copies.store(true, Ordering::Relaxed);
            }
            if self.no_copies.load(Ordering::Relaxed) {
                self.remove_copies();
                kept = None;
            }
        })
    }

    /// Whether the disk has more room than all copies take, so that they are in nobody's way.
    fn has_room(&self) -> bool {
        let copied = self.copied.load(Ordering::Relaxed);
        rustix::fs::fstatvfs(&self.folder)
            .is_ok_and(|status| status.f_bavail.saturating_mul(status.f_frsize) > copied)
    }

    /// Removes the copies: what is not a copy has no room either. What cannot be removed now goes with the folder.
    fn remove_copies(&self) {
        for name in tree::names(self.folder.as_fd()).unwrap_or_default() {
            if name.to_string_lossy().trim_end_matches(MARKS).ends_with(COPY) {
                let _ = rustix::fs::unlinkat(&self.folder, &name, AtFlags::empty());
            }
        }
    }
}

/// What is kept of a blob, and then the rest of it.
struct Resumed<'a> {
    kept: File,
    at: u64,
    /// Bytes that are kept.
    length: u64,
    descriptor: &'a Descriptor,
    rest: Rest<'a>,
}

enum Rest<'a> {
    /// Not asked for before it is needed.
    Waiting(&'a dyn Source),
    Opened(Box<dyn Read + Send>),
}

impl Read for Resumed<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at < self.length {
            let most = into.len().min(usize::try_from(self.length - self.at).unwrap_or(usize::MAX));
            let read = self.kept.read_at(into.get_mut(..most).unwrap_or_default(), self.at)?;
            self.at += read as u64;
            return match read {
                0 if most > 0 => Err(io::ErrorKind::UnexpectedEof.into()),
                read => Ok(read),
            };
        }
        match &mut self.rest {
            Rest::Opened(blob) => blob.read(into),
            Rest::Waiting(_) if self.length >= self.descriptor.size => Ok(0),
            Rest::Waiting(source) => {
                let mut blob = source.blob_from(self.descriptor, self.length).map_err(io::Error::other)?;
                let read = blob.read(into);
                self.rest = Rest::Opened(blob);
                read
            }
        }
    }
}

/// Marks on the way from the thread that hashes to the one that writes.
#[derive(Debug, Default)]
pub(crate) struct Marks(Mutex<VecDeque<(u64, Digest)>>);

impl Marks {
    /// Makes marks for a blob that has `size` bytes in all, `from` of which are there.
    pub(crate) fn tap(&self, from: u64, size: u64) -> Tap<'_> {
        let mut last = from;
        Box::new(move |_, length, hasher| {
            if length >= size || length - last >= BETWEEN_MARKS {
                last = length;
                let mark = (length, hasher.clone().finish());
                self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(mark);
            }
        })
    }

    /// The next mark, once `written` bytes are written.
    fn due(&self, written: u64) -> Option<(u64, Digest)> {
        let mut marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        marks.pop_front_if(|(length, _)| *length <= written)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{Algorithm, Document, Pointer, Silent};

    /// A source that has nothing.
    #[derive(Debug)]
    struct Nothing;

    impl Source for Nothing {
        fn document(&self, pointer: &Pointer) -> Result<Document, Error> {
            Err(Error::NotFound { what: pointer.to_string() })
        }

        fn blob(&self, _: &Descriptor) -> Result<Box<dyn Read + Send>, Error> {
            Ok(Box::new(io::empty()))
        }
    }

    fn descriptor(text: &[u8], size: u64) -> Descriptor {
        Descriptor {
            media_type: String::new(),
            digest: Digest::of(Algorithm::Sha256, text),
            size,
            annotations: Default::default(),
            platform: None,
        }
    }

    #[test]
    fn copies_give_way_and_files_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::new(File::open(folder.path()).unwrap().into());
        // Whatever the temporary folder is on.
        kept.no_copies.store(false, Ordering::Relaxed);
        let names = || fs::read_dir(folder.path()).unwrap().count();
        let (file, layers) = (descriptor(b"file", 10), [b"a", b"b"].map(|name| descriptor(name, 3 << 20)));
        let mut blob = kept.open((0, &file), &Silent).unwrap().unwrap();
        blob.write(b"123").unwrap();
        assert!(kept.open((3, &file), &Silent).unwrap().is_none(), "one at a time");
        let mut taps: Vec<_> = layers
            .iter()
            .map(|layer| kept.copy(&Nothing, (1, layer), &Silent).unwrap().tap.unwrap())
            .collect();
        assert_eq!(names(), 6);
        let bytes = vec![7; 1 << 20];
        let mut hasher = Algorithm::Sha256.hasher();
        hasher.update(&bytes);
        for tap in &mut taps {
            tap(&bytes, 1 << 20, &hasher);
        }
        assert_eq!(Kept::bytes(File::open(folder.path()).unwrap().as_fd()).unwrap(), Some(3 + (2 << 20)));
        kept.no_copies.store(true, Ordering::Relaxed);
        taps[0](&bytes, 2 << 20, &hasher);
        assert_eq!(names(), 2, "all copies have gone, and what is no copy has not");
        taps[1](&bytes, 2 << 20, &hasher);
        assert_eq!((names(), blob.length()), (2, 3));
        let short = descriptor(b"short", SHORTEST_COPY - 1);
        assert!(kept.copy(&Nothing, (2, &short), &Silent).unwrap().tap.is_none());
    }
}
