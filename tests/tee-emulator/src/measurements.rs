//! The FUSE face of the registers: `/sys/devices/virtual/misc/tdx_guest/measurements` as a program sees it.
//!
//! Follows the Linux ABI document `sysfs-devices-virtual-misc-tdx_guest` (kernel 6.16): every attribute has 48 raw bytes; writing
//! exactly 48 bytes at once extends RTMR 2 or 3, and nothing else can be written. What is extended here stands in
//! later quotes.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenAccMode, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry, ReplyOpen,
    ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use crate::device::Device;
use crate::machine::Td;

/// Bytes of every attribute.
const LEN: usize = 48;

/// Nothing is cached by the kernel: other processes extend.
const NO_CACHE: Duration = Duration::ZERO;

/// One attribute.
struct Attribute {
    name: &'static str,
    value: fn(&Td) -> [u8; LEN],
    /// The RTMR that writing extends.
    extends: Option<usize>,
}

const ATTRIBUTES: [Attribute; 8] = [
    Attribute { name: "mrconfigid", value: |td| td.mrconfigid.0, extends: None },
    Attribute { name: "mrowner", value: |_| [0; LEN], extends: None },
    Attribute { name: "mrownerconfig", value: |_| [0; LEN], extends: None },
    Attribute { name: "mrtd:sha384", value: |td| td.mrtd.0, extends: None },
    Attribute { name: "rtmr0:sha384", value: |td| td.rtmr0.0, extends: None },
    Attribute { name: "rtmr1:sha384", value: |td| td.rtmr1.0, extends: None },
    Attribute { name: "rtmr2:sha384", value: |td| td.rtmr2.0, extends: Some(2) },
    Attribute { name: "rtmr3:sha384", value: |td| td.rtmr3.0, extends: Some(3) },
];

/// Inode number of the first attribute; they follow each other in the order of [`ATTRIBUTES`].
const FIRST: u64 = 2;

/// The file system.
pub(crate) struct Measurements {
    device: Arc<Device>,
    owner: (u32, u32),
}

impl Measurements {
    pub(crate) fn new(device: Arc<Device>) -> Self {
        let owner = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        Self { device, owner }
    }

    /// What `stat` shows of the root, or of an attribute.
    fn stat(&self, inode: INodeNo) -> Result<FileAttr, Errno> {
        let (kind, perm, size, nlink) = match attribute(inode) {
            Ok(Attribute { extends: Some(_), .. }) => (FileType::RegularFile, 0o644, LEN as u64, 1),
            Ok(_) => (FileType::RegularFile, 0o444, LEN as u64, 1),
            Err(_) if inode == INodeNo::ROOT => (FileType::Directory, 0o755, 0, 2),
            Err(error) => return Err(error),
        };
        Ok(FileAttr {
            ino: inode,
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
        })
    }

    fn value(&self, inode: INodeNo) -> Result<[u8; LEN], Errno> {
        let attribute = attribute(inode)?;
        Ok((attribute.value)(&self.device.machine()?.td))
    }

    fn extend(&self, inode: INodeNo, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let number = attribute(inode)?.extends.ok_or(Errno::EACCES)?;
        let digest = <[u8; LEN]>::try_from(data).ok().filter(|_| offset == 0).ok_or(Errno::EINVAL)?;
        self.device.extend(number, digest)
    }
}

fn attribute(inode: INodeNo) -> Result<&'static Attribute, Errno> {
    let index = inode.0.checked_sub(FIRST).and_then(|index| usize::try_from(index).ok());
    index.and_then(|index| ATTRIBUTES.get(index)).ok_or(Errno::ENOENT)
}

/// Attributes with their inode numbers.
fn all() -> impl Iterator<Item = (INodeNo, &'static Attribute)> {
    (FIRST..).map(INodeNo).zip(&ATTRIBUTES)
}

impl Filesystem for Measurements {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = all().find(|(_, attribute)| parent == INodeNo::ROOT && name == attribute.name);
        match found.ok_or(Errno::ENOENT).and_then(|(inode, _)| self.stat(inode)) {
            Ok(stat) => reply.entry(&NO_CACHE, &stat, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.stat(inode) {
            Ok(stat) => reply.attr(&NO_CACHE, &stat),
            Err(error) => reply.error(error),
        }
    }

    /// Accepted and without effect: opening with O_TRUNC asks for it, and sysfs lets it pass.
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

    fn open(&self, _: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let writes = flags.acc_mode() != OpenAccMode::O_RDONLY;
        match attribute(inode) {
            // sysfs refuses root too where there is nothing to write.
            Ok(attribute) if writes && attribute.extends.is_none() => reply.error(Errno::EACCES),
            Ok(_) => reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.value(inode) {
            Ok(value) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(LEN);
                let end = start.saturating_add(usize::try_from(size).unwrap_or(usize::MAX)).min(LEN);
                reply.data(value.get(start..end).unwrap_or_default());
            }
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.extend(inode, offset, data) {
            Ok(()) => reply.written(data.len().try_into().unwrap_or_default()),
            Err(error) => reply.error(error),
        }
    }

    fn readdir(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        if inode != INodeNo::ROOT {
            return reply.error(Errno::ENOTDIR);
        }
        let dots = [(INodeNo::ROOT, FileType::Directory, "."), (INodeNo::ROOT, FileType::Directory, "..")];
        let files = all().map(|(inode, attribute)| (inode, FileType::RegularFile, attribute.name));
        for ((inode, kind, name), next) in
            dots.into_iter().chain(files).zip(1..).filter(|(_, next)| *next > offset)
        {
            if reply.add(inode, next, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}
