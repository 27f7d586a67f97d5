//! The folder that a file lies in: found without following links, in memory, and nobody else's to write.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use cc_crypto::Secret;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::memory::{self, Facts};
use crate::error::HubError;
use crate::placement::{self, Ownership};

/// Mode of folders that are made on the way.
const FOLDER_MODE: u32 = 0o755;
/// Who may write: everybody.
const WORLD_WRITABLE: u32 = 0o002;

/// Where a file goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    path: PathBuf,
    allow_disk: bool,
}

impl Target {
    /// Checks the form of `path`.
    pub(super) fn new(path: &str, allow_disk: bool) -> Result<Self, String> {
        let plain = path.split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."));
        // A file directly below the root has no folder of its own to make.
        if !path.starts_with('/') || !plain || path.contains('\0') || path.matches('/').count() < 2 {
            return Err(format!(
                "the path {path:?} is not an absolute one of a file in a folder, without empty, '.' or '..' parts"
            ));
        }
        Ok(Self { path: PathBuf::from(path), allow_disk })
    }

    fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }

    fn folder(&self) -> &Path {
        self.path.parent().unwrap_or_else(|| Path::new("/"))
    }

    fn refuse(&self, why: impl Into<String>) -> HubError {
        HubError::FileFolder { path: self.to_string(), why: why.into() }
    }

    /// Why the folder could not be opened.
    fn refuse_way(&self, e: Errno) -> HubError {
        match e {
            Errno::LOOP => self.refuse("there is a symbolic link on the way"),
            Errno::NOTDIR => self.refuse("something on the way is no folder"),
            e => self.failed(&e.into()),
        }
    }

    fn failed(&self, cause: &std::io::Error) -> HubError {
        HubError::FileWrite { path: self.to_string(), cause: cause.to_string() }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())
    }
}

/// Which file it is: device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity(u64, u64);

/// The open folder of a target.
#[derive(Debug)]
pub(super) struct Folder<'a> {
    target: &'a Target,
    directory: OwnedFd,
}

impl<'a> Folder<'a> {
    /// Opens the folder and makes what is missing of it.
    pub(super) fn make(target: &'a Target) -> Result<Self, HubError> {
        Self::make_on(target, &Facts::of_system().map_err(|e| target.failed(&e))?)
    }

    fn make_on(target: &'a Target, facts: &Facts) -> Result<Self, HubError> {
        let directory = match open(target.folder()) {
            Err(Errno::NOENT) => make_missing(target, facts)?,
            other => other.map_err(|e| target.refuse_way(e))?,
        };
        Self::checked(target, directory, facts)
    }

    /// The folder, if secrets may lie in it.
    fn checked(target: &'a Target, directory: OwnedFd, facts: &Facts) -> Result<Self, HubError> {
        check_memory(target, &directory, facts)?;
        if fs::fstat(&directory).map_err(|e| target.failed(&e.into()))?.st_mode & WORLD_WRITABLE != 0 {
            return Err(target.refuse("everybody may write to the folder"));
        }
        Ok(Self { target, directory })
    }

    /// Which file lies there, if it has this content and ownership.
    pub(super) fn holds(&self, content: &Secret, ownership: Ownership) -> Result<Option<Identity>, HubError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = match fs::openat(&self.directory, self.target.name(), flags, Mode::empty()) {
            Ok(file) => file,
            // Whatever else is there is replaced.
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(None),
            Err(e) => return Err(self.target.failed(&e.into())),
        };
        let failed = |e: std::io::Error| self.target.failed(&e);
        let found = fs::fstat(&file).map_err(|e| failed(e.into()))?;
        let same = is_as_written(&found, ownership)
            && u64::try_from(found.st_size).ok() == u64::try_from(content.len()).ok();
        if !same {
            return Ok(None);
        }
        let mut text = Vec::with_capacity(content.len() + 1);
        let limit = content.len() as u64 + 1;
        std::fs::File::from(file).take(limit).read_to_end(&mut text).map_err(failed)?;
        let text = Secret::new(text);
        Ok(content.matches(text.expose()).then_some(Identity(found.st_dev, found.st_ino)))
    }

    /// Replaces the file; which one it is now.
    pub(super) fn write(&self, content: &Secret, ownership: Ownership) -> Result<Identity, HubError> {
        let name = self.target.name();
        placement::replace(&self.directory, name, content, ownership).map_err(|e| self.target.failed(&e))?;
        identity(&self.directory, name).map_err(|e| self.target.failed(&e.into()))
    }

    /// The file that a killed hub left: one that lies where this one would write it, with the owner and the mode that it would
    /// give. Its content may be an old one.
    pub(super) fn left_behind(target: &Target, ownership: Ownership) -> Option<Identity> {
        let facts = Facts::of_system().ok()?;
        let folder = Folder::checked(target, open(target.folder()).ok()?, &facts).ok()?;
        let found = fs::statat(&folder.directory, target.name(), AtFlags::SYMLINK_NOFOLLOW).ok()?;
        (is_as_written(&found, ownership) && found.st_nlink == 1)
            .then_some(Identity(found.st_dev, found.st_ino))
    }

    /// Marks that the hook of the file is due, until [`Folder::hook_done`]: a hub that is killed before it ran leaves the mark to
    /// the next one. Whatever lies there by that name is replaced, never opened: the folder's owner may have put a FIFO there.
    pub(super) fn hook_due(&self) -> Result<(), HubError> {
        let empty = Secret::new(Vec::new());
        placement::replace(&self.directory, &mark(self.target.name()), &empty, Ownership::PRIVATE)
            .map_err(|e| self.target.failed(&e))
    }

    /// Whether the hook of the target's file is due since an earlier hub.
    pub(super) fn is_hook_due(target: &Target) -> bool {
        let found = open(target.folder())
            .and_then(|directory| fs::statat(&directory, mark(target.name()), AtFlags::SYMLINK_NOFOLLOW));
        found.is_ok_and(|found| {
            FileType::from_raw_mode(found.st_mode) == FileType::RegularFile
                && found.st_uid == rustix::process::geteuid().as_raw()
        })
    }

    /// Removes the mark that the hook is due.
    pub(super) fn hook_done(target: &Target) -> std::io::Result<()> {
        let done = open(target.folder())
            .and_then(|directory| fs::unlinkat(&directory, mark(target.name()), AtFlags::empty()));
        match done {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Removes what a killed hub left beside the file, half a mark included. A folder that is not there has nothing.
    pub(super) fn remove_leftover(target: &Target) -> std::io::Result<()> {
        match open(target.folder()) {
            Ok(directory) => {
                placement::remove_leftover(&directory, &mark(target.name()))?;
                placement::remove_leftover(&directory, target.name())
            }
            Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Removes the file if it still is the one that was written.
    pub(super) fn remove(target: &Target, ours: Identity) -> std::io::Result<()> {
        let directory = match open(target.folder()) {
            Err(Errno::NOENT) => return Ok(()),
            other => other?,
        };
        match identity(&directory, target.name()) {
            Ok(found) if found == ours => {
                fs::unlinkat(&directory, target.name(), AtFlags::empty())?;
                Ok(())
            }
            Ok(_) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

fn open(folder: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
    fs::openat2(fs::CWD, folder, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)
}

/// Name of the mark that the hook of the file `name` is due.
fn mark(name: &OsStr) -> OsString {
    let mut mark = OsString::from(".");
    mark.push(name);
    mark.push(".hook-due");
    mark
}

/// Whether a file is one that was written here with that ownership.
fn is_as_written(found: &Stat, ownership: Ownership) -> bool {
    let owner = |wanted: Option<u32>, own: u32, found: u32| wanted.unwrap_or(own) == found;
    FileType::from_raw_mode(found.st_mode) == FileType::RegularFile
        && found.st_mode & 0o7777 == ownership.mode
        && owner(ownership.uid, rustix::process::geteuid().as_raw(), found.st_uid)
        && owner(ownership.gid, rustix::process::getegid().as_raw(), found.st_gid)
}

/// Whether secrets may lie in this file system.
fn check_memory(target: &Target, directory: &OwnedFd, facts: &Facts) -> Result<(), HubError> {
    if target.allow_disk {
        return Ok(());
    }
    let failed = |e: Errno| target.failed(&e.into());
    let (kind, device) =
        (fs::fstatfs(directory).map_err(failed)?.f_type, fs::fstat(directory).map_err(failed)?.st_dev);
    memory::objection(kind, device, facts).map_or(Ok(()), |why| Err(target.refuse(why)))
}

/// Makes every folder on the way that is missing, whatever the umask, and opens the last. Nothing is made on a disk that must
/// not be used.
fn make_missing(target: &Target, facts: &Facts) -> Result<OwnedFd, HubError> {
    let failed = |e: Errno| target.failed(&e.into());
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let missing: Vec<&Path> = target.folder().ancestors().take_while(|path| !path.exists()).collect();
    let there = missing.last().and_then(|path| path.parent()).unwrap_or_else(|| target.folder());
    let mut directory = open(there).map_err(|e| target.refuse_way(e))?;
    check_memory(target, &directory, facts)?;
    for name in missing.iter().rev().filter_map(|path| path.file_name()) {
        let made = match fs::mkdirat(&directory, name, Mode::from_raw_mode(FOLDER_MODE)) {
            Ok(()) => true,
            // Somebody else was faster.
            Err(Errno::EXIST) => false,
            Err(e) => return Err(failed(e)),
        };
        directory = fs::openat(&directory, name, flags, Mode::empty()).map_err(|e| target.refuse_way(e))?;
        if made {
            fs::fchmod(&directory, Mode::from_raw_mode(FOLDER_MODE)).map_err(failed)?;
        }
    }
    Ok(directory)
}

fn identity(directory: &OwnedFd, name: &OsStr) -> rustix::io::Result<Identity> {
    let found = fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(Identity(found.st_dev, found.st_ino))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    const READABLE: Ownership = Ownership { mode: 0o440, uid: None, gid: None };

    /// A folder in memory.
    fn memory() -> tempfile::TempDir {
        tempfile::Builder::new()
            .permissions(std::fs::Permissions::from_mode(0o755))
            .tempdir_in("/dev/shm")
            .unwrap()
    }

    fn target(folder: &Path, name: &str) -> Target {
        Target::new(folder.join(name).to_str().unwrap(), false).unwrap()
    }

    /// On a machine without swap.
    fn make(target: &Target) -> Result<Folder<'_>, HubError> {
        Folder::make_on(target, &Facts { swaps: String::new(), mounts: String::new() })
    }

    fn secret(text: &str) -> Secret {
        Secret::new(text.as_bytes().to_vec())
    }

    #[test]
    fn a_file_is_written_once_and_again_when_anything_of_it_differs() {
        let memory = memory();
        let target = target(memory.path(), "a/b/key");
        let folder = make(&target).unwrap();
        let file = memory.path().join("a/b/key");
        assert_eq!(folder.holds(&secret("one"), READABLE).unwrap(), None);
        let first = folder.write(&secret("one"), READABLE).unwrap();
        assert_eq!(folder.holds(&secret("one"), READABLE).unwrap(), Some(first));
        assert_eq!(folder.holds(&secret("two"), READABLE).unwrap(), None, "content");
        assert_eq!(folder.holds(&secret("one"), Ownership::PRIVATE).unwrap(), None, "mode");
        assert_eq!(
            folder.holds(&secret("one"), Ownership { uid: Some(70), ..READABLE }).unwrap(),
            None,
            "owner"
        );
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o440);
        std::fs::remove_file(&file).unwrap();
        symlink("/etc/passwd", &file).unwrap();
        assert_eq!(folder.holds(&secret("one"), READABLE).unwrap(), None, "a link is not the file");
        let second = folder.write(&secret("two"), READABLE).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"two");
        assert_eq!(
            std::fs::read_dir(memory.path().join("a/b")).unwrap().count(),
            1,
            "nothing is left beside it"
        );
        // Somebody else's file stays, ours goes.
        std::fs::remove_file(&file).unwrap();
        std::fs::write(memory.path().join("a/b/other"), "x").unwrap();
        std::fs::write(&file, "theirs").unwrap();
        if identity(&open(target.folder()).unwrap(), target.name()).unwrap() != second {
            Folder::remove(&target, second).unwrap();
            assert!(file.exists());
        }
        let third = folder.write(&secret("three"), READABLE).unwrap();
        Folder::remove(&target, third).unwrap();
        assert!(!file.exists());
        Folder::remove(&target, third).unwrap();
    }

    #[test]
    fn folders_where_secrets_must_not_lie_are_refused() {
        let disk = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let on_disk = disk.path().canonicalize().unwrap().join("key");
        let refused = |target: &Target| make(target).unwrap_err();
        let strict = Target::new(on_disk.to_str().unwrap(), false).unwrap();
        assert_eq!(refused(&strict).code(), "FILE_FOLDER_REFUSED");
        let deeper = disk.path().canonicalize().unwrap().join("not/there/key");
        assert_eq!(
            refused(&Target::new(deeper.to_str().unwrap(), false).unwrap()).code(),
            "FILE_FOLDER_REFUSED"
        );
        assert!(!disk.path().join("not").exists(), "nothing is made there");
        make(&Target::new(on_disk.to_str().unwrap(), true).unwrap()).unwrap();
        let memory = memory();
        symlink(memory.path(), memory.path().join("link")).unwrap();
        assert_eq!(refused(&target(memory.path(), "link/key")).code(), "FILE_FOLDER_REFUSED");
        std::fs::write(memory.path().join("file"), "x").unwrap();
        assert_eq!(refused(&target(memory.path(), "file/key")).code(), "FILE_FOLDER_REFUSED");
        std::fs::create_dir(memory.path().join("open")).unwrap();
        std::fs::set_permissions(memory.path().join("open"), std::fs::Permissions::from_mode(0o1777))
            .unwrap();
        assert_eq!(refused(&target(memory.path(), "open/key")).code(), "FILE_FOLDER_REFUSED");
    }

    #[test]
    fn a_tmpfs_that_may_be_swapped_is_refused() {
        let memory = memory();
        let target = target(memory.path(), "a/key");
        let swaps = "Filename Type\n/dev/vda2 partition\n".to_owned();
        let facts = Facts { swaps, mounts: String::new() };
        let error = Folder::make_on(&target, &facts).unwrap_err();
        assert_eq!(error.code(), "FILE_FOLDER_REFUSED");
        assert!(error.to_string().contains("swapped out to /dev/vda2"), "{error}");
        assert!(!memory.path().join("a").exists(), "nothing is made there");
        let allowed = Target::new(memory.path().join("a/key").to_str().unwrap(), true).unwrap();
        Folder::make_on(&allowed, &facts).unwrap();
    }

    #[test]
    fn what_a_killed_hub_wrote_is_known_again_and_nothing_else_is() {
        let memory = memory();
        let path = memory.path().join("key");
        // The facts of the machine are asked here: it may swap.
        let target = Target::new(path.to_str().unwrap(), true).unwrap();
        let left = |ownership| Folder::left_behind(&target, ownership);
        assert_eq!(left(READABLE), None);
        let written = make(&target).unwrap().write(&secret("old"), READABLE).unwrap();
        assert_eq!(left(READABLE), Some(written));
        assert_eq!(left(Ownership::PRIVATE), None, "another mode");
        assert_eq!(left(Ownership { uid: Some(70), ..READABLE }), None, "another owner");
        std::fs::hard_link(&path, memory.path().join("other")).unwrap();
        assert_eq!(left(READABLE), None, "it has a second name");
        std::fs::remove_file(&path).unwrap();
        symlink("other", &path).unwrap();
        assert_eq!(left(READABLE), None, "a link");
        std::fs::set_permissions(memory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        std::fs::rename(memory.path().join("other"), &path).unwrap();
        assert_eq!(left(READABLE), None, "anybody could have put it there");
        assert_eq!(Folder::left_behind(&self::target(memory.path(), "not/there"), READABLE), None);
    }

    #[test]
    fn a_hook_is_due_until_it_is_done() {
        let memory = memory();
        let target = target(memory.path(), "key");
        assert!(!Folder::is_hook_due(&target));
        let folder = make(&target).unwrap();
        folder.hook_due().unwrap();
        folder.hook_due().unwrap();
        assert!(Folder::is_hook_due(&target));
        Folder::hook_done(&target).unwrap();
        assert!(!Folder::is_hook_due(&target));
        Folder::hook_done(&target).unwrap();
        symlink("/etc/passwd", memory.path().join(".key.hook-due")).unwrap();
        assert!(!Folder::is_hook_due(&target), "a link is no mark");
        folder.hook_due().unwrap();
        assert!(Folder::is_hook_due(&target), "the link is replaced");
        assert!(std::fs::symlink_metadata("/etc/passwd").unwrap().len() > 0, "and not followed");
    }

    #[test]
    fn what_the_folders_owner_puts_in_the_place_of_the_mark_holds_nothing_up() {
        let memory = memory();
        // Where the tests are not root, the folder is one's own.
        let _ = std::os::unix::fs::chown(memory.path(), Some(65534), Some(65534));
        let target = target(memory.path(), "key");
        for name in [".key.hook-due", ".key.new", "..key.hook-due.new"] {
            let fifo = memory.path().join(name);
            fs::mknodat(fs::CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
        }
        let (sender, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let folder = make(&target).unwrap();
            folder.hook_due().unwrap();
            folder.write(&secret("one"), READABLE).unwrap();
            sender.send(Folder::is_hook_due(&target)).unwrap();
        });
        assert!(ended.recv_timeout(std::time::Duration::from_secs(20)).unwrap());
    }

    #[test]
    fn what_a_killed_hub_left_goes() {
        let memory = memory();
        std::fs::write(memory.path().join(".key.new"), "half a sec").unwrap();
        std::fs::write(memory.path().join("key"), "whole").unwrap();
        Folder::remove_leftover(&target(memory.path(), "key")).unwrap();
        let names: Vec<_> =
            std::fs::read_dir(memory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["key"]);
        Folder::remove_leftover(&target(memory.path(), "not/there")).unwrap();
    }
}
