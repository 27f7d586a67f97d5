//! Entries of a layer into a directory (OCI image specification, layer.md).
//!
//! Works from the descriptor of an empty directory and never leaves it, whatever the archive says: parents are resolved
//! by openat2(2) beneath that directory and through no symbolic link, and the last part of a name is only ever used by
//! calls that do not follow links. The directory must not be reachable for others while it is being filled. There is no
//! global state: any number of layers can be unpacked at once, and none needs the network or a key.
//!
//! Order for each file: content, owner, mode, attributes, time; because chown(2) takes the set-id bits and capabilities
//! away. Times of directories are set at the very end, and so are the lists that what is made in them would begin with.

mod acl;
mod deletion;
mod ledger;
mod name;
mod place;
mod xattr;

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, makedev},
    io::Errno,
};

use super::{
    Options, Run,
    tar::{Entry, Kind, Time},
};
use crate::{LayerFault, limits::counted};
pub use deletion::{Deletions, Form};
pub(crate) use deletion::{make_whiteout, set_opaque};
use ledger::Ledger;
use name::Name;
pub(crate) use name::split_last;
use place::Places;
pub(crate) use place::open_beneath;
pub(crate) use xattr::content_of;

/// What of an entry is taken over as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Refuse device nodes instead of making them.
    pub refuse_devices: bool,
    /// Take set-user-id and set-group-id bits and file capabilities away.
    pub drop_privileges: bool,
}

/// What came of one layer.
#[derive(Debug, Default)]
pub struct Applied {
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes that its files claim to have, holes included, in whole blocks.
    pub claimed: u64,
    /// Bytes that it takes up: blocks of files without holes, and something for each entry.
    pub occupied: u64,
    /// `user.` attributes left out, because the file system does not have them.
    pub attributes_left_out: u64,
    /// What the layer says about those below it, unless it was written into the directory.
    pub deletions: Deletions,
}

/// A layer being unpacked.
#[derive(Debug)]
pub(super) struct Unpacker<'a> {
    places: Places<'a>,
    form: Form,
    run: &'a Run,
    file: Option<OpenFile>,
    /// Paths and times of directories.
    times: Ledger<'a>,
    /// Access control lists that what is made in a directory would begin with.
    default_lists: BTreeMap<Vec<u8>, Vec<u8>>,
    applied: Applied,
    has_user_attributes: bool,
}

#[derive(Debug)]
struct OpenFile {
    file: OwnedFd,
    entry: Entry,
    size: u64,
    /// End of the data written so far.
    end: u64,
}

impl<'a> Unpacker<'a> {
    /// Unpacks into `target`.
    pub(super) fn new(target: OwnedFd, form: Form, run: &'a Run) -> Self {
        Self {
            places: Places::new(target, form, run),
            form,
            run,
            file: None,
            times: Ledger::new(run),
            default_lists: BTreeMap::new(),
            applied: Applied::default(),
            has_user_attributes: true,
        }
    }

    const fn options(&self) -> &'a Options {
        self.run.options()
    }

    /// Makes what `entry` says; of a file only the beginning.
    pub(super) fn entry(&mut self, mut entry: Entry) -> Result<(), LayerFault> {
        self.applied.entries += 1;
        let refused = |why| LayerFault::Entry { name: shown(&entry.name), why };
        let depth = self.options().limits.depth;
        let name = Name::parse(&entry.name, depth).map_err(|why| match why {
            name::TOO_DEEP => LayerFault::Limit { what: counted::DEPTH, limit: depth as u64 },
            why => refused(why),
        })?;
        if self.options().policy.drop_privileges {
            entry.mode &= 0o1777;
            entry.xattrs.retain(|(name, _)| name != xattr::CAPABILITY);
        }
        match (name, &entry.kind) {
            (Name::Root, Kind::Directory) => self.root(&entry),
            (Name::Root, _) => Err(refused("only a directory can stand for the layer itself")),
            (Name::Opaque { directory }, Kind::File { size: 0 }) => self.opaque(&directory, &entry),
            (Name::Whiteout { parent, name }, Kind::File { size: 0 }) => {
                self.whiteout(&parent, &name, &entry)
            }
            (Name::Opaque { .. } | Name::Whiteout { .. }, _) => {
                Err(refused("a deletion mark is something else than an empty file"))
            }
            (Name::Plain { parent, name }, _) => self.plain(&parent, &name, entry),
        }
    }

    /// Writes a piece of the last file.
    pub(super) fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<(), LayerFault> {
        let Some(open) = &mut self.file else { return Ok(()) };
        let mut rest = bytes;
        let mut at = offset;
        while !rest.is_empty() {
            let written = match rustix::io::pwrite(&open.file, rest, at) {
                Ok(0) => Err(Errno::IO),
                Err(Errno::INTR) => Ok(0),
                other => other,
            };
            let written = written.map_err(|error| storage("write", &open.entry.name, error))?;
            rest = rest.get(written..).unwrap_or_default();
            at += written as u64;
        }
        open.end = at;
        Ok(())
    }

    /// Completes the last file. There is none open after a deletion mark, which is an empty file in the archive only.
    pub(super) fn file_end(&mut self) -> Result<(), LayerFault> {
        let Some(open) = self.file.take() else { return Ok(()) };
        let name = &open.entry.name;
        if open.end < open.size {
            rustix::fs::ftruncate(&open.file, open.size).map_err(|error| storage("extend", name, error))?;
        }
        self.set_metadata(&open.file, &open.entry, None)?;
        rustix::fs::futimens(&open.file, &times(open.entry.mtime))
            .map_err(|error| storage("set the time of", name, error))
    }

    /// Sets what directories get last of all.
    pub(super) fn finish(mut self) -> Result<Applied, LayerFault> {
        if self.form == Form::Overlay {
            self.settle()?;
        }
        for (path, list) in &self.default_lists {
            let directory =
                open_beneath(self.places.root(), path).map_err(|error| storage("open", path, error))?;
            rustix::fs::fsetxattr(&directory, acl::DEFAULT, list, XattrFlags::empty())
                .map_err(|error| storage("set an attribute of", path, error))?;
        }
        for (path, time) in self.times.iter() {
            let directory =
                open_beneath(self.places.root(), path).map_err(|error| storage("open", path, error))?;
            let set = rustix::fs::futimens(&directory, &times(time));
            set.map_err(|error| storage("set the time of", path, error))?;
        }
        self.applied.deletions.implied = self.places.into_implied();
        Ok(self.applied)
    }

    fn plain(&mut self, parent: &[u8], name: &[u8], entry: Entry) -> Result<(), LayerFault> {
        let of = |fault: place::Fault| fault.of(&entry.name);
        let failed = |error| storage("make", &entry.name, error);
        match &entry.kind {
            Kind::Directory => return self.directory(parent, name, &entry),
            Kind::File { size } => {
                let size = *size;
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = self
                    .places
                    .make(parent, name, |at, name| {
                        rustix::fs::openat(at, name, flags, Mode::from_raw_mode(0o600))
                    })
                    .map_err(of)?;
                self.file = Some(OpenFile { file, entry, size, end: 0 });
                return Ok(());
            }
            Kind::Symlink { target } => {
                let target = target.as_slice();
                self.places
                    .make(parent, name, |at, name| rustix::fs::symlinkat(target, at, name))
                    .map_err(of)?;
            }
            Kind::Link { target } => return self.link(parent, name, target, &entry),
            Kind::Fifo => self.node(parent, name, &entry, FileType::Fifo, 0)?,
            Kind::CharDevice { major: 0, minor: 0 } => {
                let why = "a character device 0/0 is a deletion mark for overlay file systems only";
                return Err(LayerFault::Entry { name: shown(&entry.name), why });
            }
            Kind::CharDevice { major, minor } => {
                self.node(parent, name, &entry, FileType::CharacterDevice, makedev(*major, *minor))?;
            }
            Kind::BlockDevice { major, minor } => {
                self.node(parent, name, &entry, FileType::BlockDevice, makedev(*major, *minor))?;
            }
        }
        // What follows is for symbolic links, pipes and devices, which cannot be opened to work on them.
        if let Some(why) = entry.xattrs.iter().find_map(|(name, _)| xattr::judge_elsewhere(name)) {
            return Err(LayerFault::Entry { name: shown(&entry.name), why });
        }
        let at = self.places.enter(parent).map_err(of)?;
        let (uid, gid) = owner(&entry);
        rustix::fs::chownat(at, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        if !matches!(entry.kind, Kind::Symlink { .. }) {
            rustix::fs::chmodat(at, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())
                .map_err(failed)?;
            check_mode(&entry, || rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW))?;
        }
        rustix::fs::utimensat(at, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW).map_err(failed)
    }

    fn node(
        &mut self,
        parent: &[u8],
        name: &[u8],
        entry: &Entry,
        kind: FileType,
        device: u64,
    ) -> Result<(), LayerFault> {
        if self.options().policy.refuse_devices && kind != FileType::Fifo {
            return Err(LayerFault::Entry {
                name: shown(&entry.name),
                why: "device nodes are refused here (image.devices of the data hub, --refuse-devices)",
            });
        }
        let mode = Mode::from_raw_mode(0o600);
        self.places
            .make(parent, name, |at, name| rustix::fs::mknodat(at, name, kind, mode, device))
            .map_err(|fault| fault.of(&entry.name))
    }

    fn link(&mut self, parent: &[u8], name: &[u8], target: &[u8], entry: &Entry) -> Result<(), LayerFault> {
        let refused = |why| LayerFault::Entry { name: shown(&entry.name), why };
        let (to, to_name) = match Name::parse_target(target, self.options().limits.depth).map_err(refused)? {
            Name::Plain { parent, name } => (parent, name),
            _ => return Err(refused("the hard link's target cannot be linked to")),
        };
        let directory = match open_beneath(self.places.root(), &to) {
            Ok(directory) => directory,
            Err(Errno::NOENT | Errno::NOTDIR) => {
                return Err(refused("the hard link's target is not in this layer"));
            }
            Err(Errno::LOOP | Errno::XDEV) => {
                return Err(refused("the hard link's target is behind a symbolic link"));
            }
            Err(error) => return Err(storage("open the target of", &entry.name, error)),
        };
        let status = match rustix::fs::statat(&directory, to_name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(status) => status,
            Err(Errno::NOENT) => return Err(refused("the hard link's target is not in this layer")),
            Err(error) => return Err(storage("look at the target of", &entry.name, error)),
        };
        if FileType::from_raw_mode(status.st_mode) == FileType::Directory || deletion::is_whiteout(&status) {
            return Err(refused("the hard link's target cannot be linked to"));
        }
        if (to.as_slice(), to_name.as_slice()) == (parent, name) {
            return Err(refused("the hard link points at itself"));
        }
        // Some readers take over what the link's own header says, others do not.
        let is_symlink = FileType::from_raw_mode(status.st_mode) == FileType::Symlink;
        if (status.st_uid, status.st_gid) != (entry.uid, entry.gid)
            || (!is_symlink && status.st_mode & 0o7777 != entry.mode)
            || !self.has_attributes(&directory, &to_name, &status, entry)?
        {
            return Err(refused("the hard link has another owner, mode or attribute than its target"));
        }
        self.places
            .make(parent, name, |at, name| {
                rustix::fs::linkat(&directory, to_name.as_slice(), at, name, AtFlags::empty())
            })
            .map_err(|fault| fault.of(&entry.name))
    }

    /// Whether the target `name` of the hard link `entry` has every attribute that the link has.
    fn has_attributes(
        &self,
        at: &OwnedFd,
        name: &[u8],
        status: &Stat,
        entry: &Entry,
    ) -> Result<bool, LayerFault> {
        let counts = |verdict| match verdict {
            xattr::Verdict::Ignore => false,
            xattr::Verdict::User => self.has_user_attributes,
            xattr::Verdict::Set
            | xattr::Verdict::AccessList
            | xattr::Verdict::DefaultList
            | xattr::Verdict::Refuse(_) => true,
        };
        let mut wanted = entry.xattrs.iter().filter(|(name, _)| counts(xattr::judge(name))).peekable();
        if wanted.peek().is_none() {
            return Ok(true);
        }
        if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
            return Ok(false);
        }
        let failed = |error| storage("look at the target of", &entry.name, error);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(at, name, flags, Mode::empty()).map_err(failed)?;
        let mut value = vec![0; 64 << 10];
        Ok(wanted.all(|(name, wanted)| {
            let length = rustix::fs::fgetxattr(&file, name.as_slice(), &mut value);
            length.is_ok_and(|length| value.get(..length) == Some(wanted.as_slice()))
        }))
    }

    fn directory(&mut self, parent: &[u8], name: &[u8], entry: &Entry) -> Result<(), LayerFault> {
        let path = name::join(parent, name);
        let new = self.places.enter_new(parent, name, &path).map_err(|fault| fault.of(&entry.name))?;
        self.places.state(&path);
        let directory = self.places.enter(&path).map_err(|fault| fault.of(&entry.name))?;
        let directory = directory.try_clone_to_owned().map_err(|source| LayerFault::Storage {
            doing: "open",
            name: shown(&entry.name),
            folder: None,
            source,
        })?;
        if !new {
            forget_attributes(&directory, entry)?;
        }
        self.set_metadata(&directory, entry, Some(&path))?;
        self.times.push(&path, entry.mtime)
    }

    fn root(&mut self, entry: &Entry) -> Result<(), LayerFault> {
        let root = self.places.root().try_clone_to_owned();
        let root = root.map_err(|source| LayerFault::Storage {
            doing: "open",
            name: "the layer".to_owned(),
            folder: None,
            source,
        })?;
        self.places.state(b"");
        forget_attributes(&root, entry)?;
        self.set_metadata(&root, entry, Some(b""))?;
        self.times.push(b"", entry.mtime)
    }

    fn whiteout(&mut self, parent: &[u8], name: &[u8], entry: &Entry) -> Result<(), LayerFault> {
        let failed = |error| storage("make", &entry.name, error);
        let at = match self.places.existing(parent) {
            Ok(Some(at)) => at,
            // A deletion is no reason to have its directory: the layers below may have none.
            Ok(None) => return self.list(&name::join(parent, name), |deletions| &mut deletions.whiteouts),
            // Where a file takes the place of a directory, umoci deletes besides what was in that: there is nothing left of it.
            Err(place::Fault::Occupied) => return Ok(()),
            Err(fault) => return Err(fault.of(&entry.name)),
        };
        match rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {}
            // The same mark a second time.
            Ok(status) if self.form == Form::Overlay && deletion::is_whiteout(&status) => return Ok(()),
            Err(error) => return Err(failed(error)),
            Ok(_) => {
                // It speaks of the layers below alone, but some readers remove what they have just unpacked.
                let why = "it deletes what the same layer has made before";
                return Err(LayerFault::Entry { name: shown(&entry.name), why });
            }
        }
        match self.form {
            Form::Listed => self.list(&name::join(parent, name), |deletions| &mut deletions.whiteouts),
            Form::Overlay => {
                make_whiteout(at, name).map_err(failed)?;
                self.mark(parent)
            }
        }
    }

    /// Something is deleted in the directory.
    fn mark(&mut self, directory: &[u8]) -> Result<(), LayerFault> {
        // The layer's own directory is never the only one that an overlay shows.
        if directory.is_empty() || self.applied.deletions.marked.contains(directory) {
            return Ok(());
        }
        self.run.take_names(deletion::memory_of(directory))?;
        self.applied.deletions.marked.insert(directory.to_vec());
        Ok(())
    }

    fn opaque(&mut self, path: &[u8], entry: &Entry) -> Result<(), LayerFault> {
        let directory = self.places.existing(path).map_err(|fault| fault.of(&entry.name))?;
        match (self.form, directory) {
            (Form::Overlay, Some(directory)) => {
                set_opaque(directory)
                    .map_err(|error| storage("mark the directory of", &entry.name, error))?;
                self.places.hide_below(path)
            }
            (Form::Listed, _) | (Form::Overlay, None) => self.list(path, |deletions| &mut deletions.opaque),
        }
    }

    /// For an overlay, when all is there: deletions in directories that were made after them get into these, and those that say
    /// nothing go, because a directory around them hides all that is below.
    fn settle(&mut self) -> Result<(), LayerFault> {
        for path in std::mem::take(&mut self.applied.deletions.opaque) {
            match self.places.existing(&path) {
                Ok(Some(directory)) => {
                    set_opaque(directory).map_err(|error| storage("mark", &path, error))?;
                    self.places.hide_below(&path)?;
                }
                Ok(None) => self.applied.deletions.opaque.push(path),
                Err(place::Fault::Occupied | place::Fault::Refused(_)) => {}
                Err(fault) => return Err(fault.of(&path)),
            }
        }
        for path in std::mem::take(&mut self.applied.deletions.whiteouts) {
            let (parent, name) = split_last(&path);
            match self.places.existing(parent) {
                Ok(Some(at)) => {
                    let at = at.try_clone_to_owned();
                    self.settle_whiteout(at, parent, name)?;
                }
                Ok(None) => self.applied.deletions.whiteouts.push(path),
                Err(place::Fault::Occupied | place::Fault::Refused(_)) => {}
                Err(fault) => return Err(fault.of(&path)),
            }
        }
        let Deletions { whiteouts, opaque, marked, .. } = &mut self.applied.deletions;
        whiteouts.retain(|path| !self.places.is_hidden_below(path));
        opaque.retain(|path| !self.places.is_hidden_below(path));
        let said_twice: Vec<_> = marked.extract_if(.., |path| self.places.is_hidden_below(path)).collect();
        for path in said_twice {
            deletion::forget_whiteouts(self.places.root(), &path)
                .map_err(|error| storage("remove deletion marks in", &path, error))?;
        }
        Ok(())
    }

    /// Deletes `name` in the directory `parent`, which was made after the mark, and so was what is there by that name.
    fn settle_whiteout(
        &mut self,
        at: std::io::Result<OwnedFd>,
        parent: &[u8],
        name: &[u8],
    ) -> Result<(), LayerFault> {
        let path = name::join(parent, name);
        let at = at.map_err(|source| LayerFault::Storage {
            doing: "open",
            name: shown(parent),
            folder: None,
            source,
        })?;
        let failed = |error| storage("make the deletion mark of", &path, error);
        match rustix::fs::statat(&at, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {
                make_whiteout(at.as_fd(), name).map_err(failed)?;
                self.mark(parent)
            }
            Ok(status) if FileType::from_raw_mode(status.st_mode) == FileType::Directory => {
                let directory = open_beneath(at.as_fd(), name).map_err(failed)?;
                set_opaque(directory.as_fd()).map_err(failed)?;
                self.places.hide_below(&path)
            }
            Ok(_) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    fn list(
        &mut self,
        path: &[u8],
        list: impl FnOnce(&mut Deletions) -> &mut Vec<Vec<u8>>,
    ) -> Result<(), LayerFault> {
        self.run.take_names(path.len() + 2 * size_of::<Vec<u8>>())?;
        list(&mut self.applied.deletions).push(path.to_vec());
        Ok(())
    }

    /// Owner, mode and attributes of an open file, or of the open directory `directory`, in the order that keeps all of them.
    fn set_metadata(
        &mut self,
        file: &OwnedFd,
        entry: &Entry,
        directory: Option<&[u8]>,
    ) -> Result<(), LayerFault> {
        let refused = |why| LayerFault::Entry { name: shown(&entry.name), why };
        let (uid, gid) = owner(entry);
        rustix::fs::fchown(file.as_fd(), uid, gid)
            .map_err(|error| storage("set the owner of", &entry.name, error))?;
        rustix::fs::fchmod(file.as_fd(), Mode::from_raw_mode(entry.mode))
            .map_err(|error| storage("set the mode of", &entry.name, error))?;
        if let Some(path) = directory {
            // What its last entry says counts.
            self.default_lists.remove(path);
        }
        for (name, value) in &entry.xattrs {
            match xattr::judge(name) {
                xattr::Verdict::Ignore => continue,
                xattr::Verdict::Refuse(why) => return Err(refused(why)),
                xattr::Verdict::User if !self.has_user_attributes => {
                    self.applied.attributes_left_out += 1;
                    continue;
                }
                xattr::Verdict::AccessList => {
                    // Setting the list sets the mode: readers that know no lists must not see another one.
                    if acl::permissions(value).map_err(refused)? != entry.mode & 0o777 {
                        return Err(refused("its access control list and its mode differ"));
                    }
                }
                xattr::Verdict::DefaultList => {
                    acl::permissions(value).map_err(refused)?;
                    let path = directory.ok_or_else(|| refused("only a directory has a default list"))?;
                    self.run.take_names(path.len() + value.len() + 4 * size_of::<Vec<u8>>())?;
                    self.default_lists.insert(path.to_vec(), value.clone());
                    continue;
                }
                xattr::Verdict::User | xattr::Verdict::Set => {}
            }
            match rustix::fs::fsetxattr(file.as_fd(), name.as_slice(), value, XattrFlags::empty()) {
                Ok(()) => {}
                Err(Errno::OPNOTSUPP) if name.starts_with(b"user.") => {
                    self.has_user_attributes = false;
                    self.applied.attributes_left_out += 1;
                }
                Err(error) => return Err(storage("set an attribute of", &entry.name, error)),
            }
        }
        check_mode(entry, || rustix::fs::fstat(file))
    }
}

/// Takes away what an earlier entry for the same directory gave it: the last one says all of it.
fn forget_attributes(directory: &OwnedFd, entry: &Entry) -> Result<(), LayerFault> {
    let forgotten = content_of(directory.as_fd()).and_then(|names| {
        names.iter().try_for_each(|name| rustix::fs::fremovexattr(directory, name.as_slice()))
    });
    forgotten.map_err(|error| storage("remove an attribute of", &entry.name, error))
}

/// Whether a file kept its set-id bits: without CAP_FSETID the kernel takes set-group-ID away for a group of others, and says
/// nothing (chmod(2)).
fn check_mode(entry: &Entry, status: impl FnOnce() -> Result<Stat, Errno>) -> Result<(), LayerFault> {
    if entry.mode & 0o6000 == 0 {
        return Ok(());
    }
    match status() {
        Ok(status) if status.st_mode & 0o7777 == entry.mode => Ok(()),
        Ok(_) => Err(storage("keep the set-id bits of", &entry.name, Errno::PERM)),
        Err(error) => Err(storage("look at the mode of", &entry.name, error)),
    }
}

fn owner(entry: &Entry) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
}

/// Both times of a file: the archive has one.
fn times(time: Time) -> Timestamps {
    let time = Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

fn storage(doing: &'static str, name: &[u8], error: Errno) -> LayerFault {
    LayerFault::Storage { doing, name: shown(name), folder: None, source: error.into() }
}

/// A name for messages: escaped and cut.
fn shown(name: &[u8]) -> String {
    const MOST: usize = 200;
    let mut text: String =
        name.iter().take(MOST).copied().flat_map(std::ascii::escape_default).map(char::from).collect();
    if name.len() > MOST {
        text.push('…');
    }
    text
}
