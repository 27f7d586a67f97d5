//! The FUSE face: `/sys/kernel/config/tsm/report` as a program sees it.
//!
//! Follows configfs where it differs from ordinary files: `mkdir` makes the attributes, nothing else can be made or
//! removed, an attribute can be read or written but not both, a binary attribute takes effect when it is closed,
//! and what an open file reads is fixed by its first read.

use std::ffi::OsStr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use crate::device::Device;

mod tree;

use tree::{Node, Tree};

/// Nothing is cached by the kernel: other processes change what there is.
const NO_CACHE: Duration = Duration::ZERO;

/// The file system.
pub(crate) struct Report {
    tree: Arc<Tree>,
    owner: (u32, u32),
}

impl Report {
    pub(crate) fn new(device: Arc<Device>) -> Self {
        let owner = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        Self { tree: Arc::new(Tree::new(device)), owner }
    }

    fn attributes(&self, node: Node) -> FileAttr {
        let (kind, perm, size, nlink) = match node {
            Node::Root | Node::Directory(_) => (FileType::Directory, 0o755, 0, 2),
            Node::File(_, attribute) => (FileType::RegularFile, attribute.mode(), attribute.size(), 1),
        };
        FileAttr {
            ino: node.inode(),
            size,
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink,
            uid: self.owner.0,
            gid: self.owner.1,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for Report {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.tree.find(parent, name) {
            Ok(node) => reply.entry(&NO_CACHE, &self.attributes(node), Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.tree.node(inode) {
            Ok(node) => reply.attr(&NO_CACHE, &self.attributes(node)),
            Err(error) => reply.error(error),
        }
    }

    /// Accepted and without effect: opening with O_TRUNC asks for it, and configfs lets it pass.
    fn setattr(
        &self,
        request: &Request,
        inode: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        handle: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.getattr(request, inode, handle, reply);
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        match self.tree.make(parent, name) {
            Ok(node) => reply.entry(&NO_CACHE, &self.attributes(node), Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        match self.tree.remove(parent, name) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    /// configfs has no files of its users; the VFS answers EACCES where a file system cannot create.
    fn create(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        reply.error(Errno::EACCES);
    }

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EPERM);
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: INodeNo,
        _: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EPERM);
    }

    fn open(&self, _: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.tree.open(inode, flags.acc_mode()) {
            // Direct: the size that `stat` shows must not cut what is read.
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::FOPEN_DIRECT_IO),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let tree = Arc::clone(&self.tree);
        // On a thread of its own, because a report may take for ever and the rest must go on.
        let answer = move || match tree.content(handle.0) {
            Ok(content) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
                let size = usize::try_from(size).unwrap_or(usize::MAX);
                let end = start.saturating_add(size).min(content.len());
                reply.data(content.get(start..end).unwrap_or_default());
            }
            Err(error) => reply.error(error),
        };
        // If there is no thread, the dropped reply answers with an error.
        if let Err(error) = thread::Builder::new().name("tsm-read".to_owned()).spawn(answer) {
            tracing::error!(%error, "cannot start a thread for a read");
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.tree.write(handle.0, offset, data) {
            Ok(written) => reply.written(written),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, handle: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // The client's close waits for this; it does not wait for the release.
        self.tree.commit(handle.0);
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.tree.close(handle.0);
        reply.ok();
    }

    fn readdir(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        match self.tree.listing(inode) {
            Ok(all) => {
                for ((node, name), next) in all.into_iter().zip(1..).filter(|(_, next)| *next > offset) {
                    if reply.add(node.inode(), next, self.attributes(node).kind, name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(error) => reply.error(error),
        }
    }
}
