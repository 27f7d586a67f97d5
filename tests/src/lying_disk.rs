//! A disk of the host's that says one thing first and another thing later: a file of a file system of ours (FUSE), for a program or for
//! QEMU to read.
//!
//! What a virtual disk answers is up to its host at each read. The header that is looked at need not be the header that is used.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context;
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, ReplyOpen, Request,
};
use rustix::mount::{UnmountFlags, unmount};

const FILE: INodeNo = INodeNo(2);

/// From when on the other header is told.
#[derive(Clone, Copy, Debug)]
pub enum Lies {
    /// To whoever reads a byte again.
    Again,
    /// To everybody, once all that it stands in place of was read.
    OnceRead,
}

/// The disk; it is gone when this is dropped.
#[derive(Debug)]
pub struct LyingDisk {
    folder: PathBuf,
    told: Arc<AtomicUsize>,
    _session: BackgroundSession,
}

impl LyingDisk {
    /// Mounts one at the empty folder `folder`, with the bytes of `truth` and later `lie` at their beginning.
    ///
    /// # Errors
    /// `truth` cannot be read, or the file system not be mounted.
    pub fn mount(folder: &Path, truth: &Path, lie: Vec<u8>, lies: Lies) -> anyhow::Result<Self> {
        let truth = File::open(truth).with_context(|| format!("reading {}", truth.display()))?;
        let length = truth.metadata()?.len();
        let told = Arc::new(AtomicUsize::new(0));
        let unread = Mutex::new(vec![true; lie.len()]);
        let disk = Disk { truth, length, lie, lies, unread, told: Arc::clone(&told) };
        let session = fuser::spawn_mount(disk, folder, &Config::default()).context("mounting a disk")?;
        Ok(Self { folder: folder.to_owned(), told, _session: session })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.join("disk")
    }

    /// How often the other header was told.
    #[must_use]
    pub fn told(&self) -> usize {
        self.told.load(Ordering::SeqCst)
    }
}

impl Drop for LyingDisk {
    fn drop(&mut self) {
        // Whoever still reads it keeps it until then.
        let _ = unmount(&self.folder, UnmountFlags::DETACH);
    }
}

/// The file system: one file, `disk`.
struct Disk {
    truth: File,
    length: u64,
    lie: Vec<u8>,
    lies: Lies,
    /// Of each byte that the lie stands in place of, whether it is still to be read.
    unread: Mutex<Vec<bool>>,
    told: Arc<AtomicUsize>,
}

impl Disk {
    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let root = inode != FILE;
        FileAttr {
            ino: inode,
            size: if root { 0 } else { self.length },
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if root { FileType::Directory } else { FileType::RegularFile },
            perm: if root { 0o755 } else { 0o600 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    fn answer(&self, offset: u64, size: u32) -> Option<Vec<u8>> {
        let end = (offset + u64::from(size)).min(self.length).max(offset);
        let mut bytes = vec![0; usize::try_from(end - offset).ok()?];
        self.truth.read_exact_at(&mut bytes, offset).ok()?;
        let (first, last) = (usize::try_from(offset).ok()?, usize::try_from(end).ok()?);
        let mut unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, all) = (unread.len(), !unread.contains(&true));
        let bytes_read = unread.get_mut(first.min(count)..last.min(count))?;
        let lying = match self.lies {
            Lies::Again => bytes_read.contains(&false),
            Lies::OnceRead => all,
        };
        bytes_read.fill(false);
        let lie = self.lie.get(usize::try_from(offset).ok()?..).unwrap_or_default();
        if lying && !lie.is_empty() {
            self.told.fetch_add(1, Ordering::SeqCst);
            bytes.iter_mut().zip(lie).for_each(|(byte, other)| *byte = *other);
        }
        Some(bytes)
    }
}

impl Filesystem for Disk {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == "disk" {
            reply.entry(&Duration::ZERO, &self.attributes(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&Duration::ZERO, &self.attributes(inode));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.answer(offset, size) {
            Some(bytes) => reply.data(&bytes),
            None => reply.error(Errno::EIO),
        }
    }
}
