//! A disk that answers the second read with another header: a file of a file system of ours.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use cc_tests::mutant;
use cc_tests::process::own_binary;
use cc_tests::stack::{Options, Stack, emulator_runs_here};
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, ReplyOpen, Request,
};
use rustix::mount::{UnmountFlags, unmount};

use crate::{format, opens};

const UUID: &str = "44444444-93f4-4a55-8f70-1d3b2c5e9a10";
const KEY: [u8; 64] = *b"what the key broker has for this volume and the host never sees.";
const FILE: INodeNo = INodeNo(2);

/// The file system: one file, `disk`.
struct Lying {
    first: Vec<u8>,
    then: Vec<u8>,
    /// Up to which byte the first answer was given.
    seen: Mutex<u64>,
    lies: Arc<AtomicUsize>,
}

impl Lying {
    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let root = inode != FILE;
        FileAttr {
            ino: inode,
            size: if root { 0 } else { self.first.len() as u64 },
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
}

impl Filesystem for Lying {
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
        let end = (offset + u64::from(size)).min(self.first.len() as u64).max(offset);
        let mut seen = self.seen.lock().unwrap();
        let again = offset < *seen;
        *seen = end.max(*seen);
        if again {
            self.lies.fetch_add(1, Ordering::SeqCst);
        }
        let bytes = if again { &self.then } else { &self.first };
        let range = usize::try_from(offset).unwrap()..usize::try_from(end).unwrap();
        reply.data(bytes.get(range).unwrap_or_default());
    }
}

struct Mounted {
    path: PathBuf,
    _session: BackgroundSession,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.path, UnmountFlags::DETACH).unwrap();
    }
}

/// Runs `guestctl disk prepare data` on this disk: whether it succeeds, and what it says.
pub(crate) fn prepare(stack: &Stack, device: &Path, more: &[&str]) -> (bool, String) {
    prepare_at(stack.folder(), &stack.hub_socket(), device, more)
}

/// The same, with the folder of a stack and the socket of its hub.
pub(crate) fn prepare_at(folder: &Path, hub: &Path, device: &Path, more: &[&str]) -> (bool, String) {
    let out = own_binary("guestctl")
        .unwrap()
        .args(["disk", "prepare", "data", "--cdh", &format!("unix://{}", hub.display()), "--device"])
        .arg(device)
        .arg("--headers")
        .arg(folder.join("headers"))
        .args(more)
        .output()
        .unwrap();
    (out.status.success(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
}

#[test]
fn a_disk_that_answers_the_second_read_differently_is_opened_by_the_first() {
    if !(emulator_runs_here() && crate::has_cryptsetup()) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("volume");
    format(folder.path(), &disk, UUID, &KEY);
    let hub_config = format!(
        "cryptsetup_socket = \"unix://{}\"\n[[volumes]]\nname = \"data\"\nuuid = {UUID:?}\nkey = \"kbs:///disk/data/key\"\n",
        folder.path().join("keys.sock").display()
    );
    let stack =
        Stack::start(Options { hub_config, ..Options::default() }).unwrap_or_else(|e| panic!("{e:#}"));
    stack.put_resource("disk/data/key", &KEY).unwrap();

    let first = std::fs::read(&disk).unwrap();
    let mut then = first.clone();
    let bad = mutant::any_key_opens(&disk).unwrap();
    then[..bad.len()].copy_from_slice(&bad);
    let lies = Arc::new(AtomicUsize::new(0));
    let (path, seen) = (folder.path().join("mnt"), Mutex::default());
    std::fs::create_dir(&path).unwrap();
    let lying = Lying { first, then: then.clone(), seen, lies: Arc::clone(&lies) };
    let session = fuser::spawn_mount(lying, &path, &Config::default()).unwrap();
    let mounted = Mounted { path, _session: session };

    let (done, said) = prepare(&stack, &mounted.path.join("disk"), &[]);
    assert!(done && said.contains("fits its tag"), "{said}");
    assert_eq!(lies.load(Ordering::SeqCst), 0, "no byte was read twice");
    // The copy is the first header: cryptsetup opens with it whatever the disk says by now.
    let copy = stack.folder().join("headers/data.header");
    let (whole, other) = (std::fs::read(&copy).unwrap(), folder.path().join("other"));
    assert!(!whole.windows(11).any(|window| window == b"cipher_null"));
    assert!(opens(&copy, &KEY) && !opens(&copy, b"wrong"));

    // Whoever reads now gets the second header: it is refused, and no copy is left.
    let (done, said) = prepare(&stack, &mounted.path.join("disk"), &[]);
    assert!(!done && said.contains("null-cipher") && !copy.exists(), "{said}");

    // The valid disk of another machine: another UUID; or the same UUID and another key.
    format(folder.path(), &other, &UUID.replace("4444", "5555"), &KEY);
    let (done, said) = prepare(&stack, &other, &[]);
    assert!(!done && said.contains("[VOLUME_UUID_DIFFERS]") && !copy.exists(), "{said}");
    format(folder.path(), &other, UUID, &[7; 64]);
    let (done, said) = prepare(&stack, &other, &[]);
    assert!(!done && said.contains("[LUKS_TAG_MISMATCH]") && !copy.exists(), "{said}");
    let (done, said) = prepare(&stack, &folder.path().join("absent"), &[]);
    assert!(!done && said.contains("[INPUT_UNREADABLE]") && !copy.exists(), "{said}");
}
