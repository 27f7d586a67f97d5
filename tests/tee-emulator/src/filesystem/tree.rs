//! What is in the file system: request directories, their attributes, open files. No FUSE replies here.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuser::{Errno, INodeNo, OpenAccMode};

use crate::device::Device;
use crate::entry::{Attribute, Blobs, Entry};

/// Inode numbers per request directory: itself and its attributes.
const STRIDE: u64 = 16;
/// Largest `inblob`, bytes; configfs refuses more at the write.
const INBLOB_LIMIT: usize = 64;

/// The tree below the mount point.
pub(super) struct Tree {
    device: Arc<Device>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Numbers of the request directories by name.
    names: BTreeMap<OsString, u64>,
    entries: HashMap<u64, Entry>,
    handles: HashMap<u64, Handle>,
    /// The last number given to a directory or an open file.
    counter: u64,
}

/// An open attribute.
struct Handle {
    entry: u64,
    attribute: Attribute,
    /// What was written and has not taken effect.
    pending: Option<Vec<u8>>,
    /// What it reads.
    content: Option<Arc<[u8]>>,
}

/// What an inode number stands for.
#[derive(Clone, Copy)]
pub(super) enum Node {
    Root,
    Directory(u64),
    File(u64, Attribute),
}

impl Node {
    fn of(inode: INodeNo) -> Option<Self> {
        if inode == INodeNo::ROOT {
            return Some(Self::Root);
        }
        let entry = inode.0 / STRIDE;
        match usize::try_from(inode.0 % STRIDE).ok()? {
            0 => Some(Self::Directory(entry)),
            index => Attribute::ALL.get(index - 1).map(|attribute| Self::File(entry, *attribute)),
        }
    }

    pub(super) fn inode(self) -> INodeNo {
        match self {
            Self::Root => INodeNo::ROOT,
            Self::Directory(entry) => INodeNo(entry * STRIDE),
            Self::File(entry, attribute) => {
                let index =
                    Attribute::ALL.iter().zip(1..).find(|(a, _)| **a == attribute).map_or(0, |(_, i)| i);
                INodeNo(entry * STRIDE + index)
            }
        }
    }
}

impl Tree {
    pub(super) fn new(device: Arc<Device>) -> Self {
        Self { device, state: Mutex::default() }
    }

    /// What `inode` stands for, if it is still there.
    pub(super) fn node(&self, inode: INodeNo) -> Result<Node, Errno> {
        let node = Node::of(inode).ok_or(Errno::ENOENT)?;
        match node {
            Node::Root => Ok(node),
            Node::Directory(entry) | Node::File(entry, _) => {
                self.lock().entries.contains_key(&entry).then_some(node).ok_or(Errno::ENOENT)
            }
        }
    }

    pub(super) fn find(&self, parent: INodeNo, name: &OsStr) -> Result<Node, Errno> {
        match self.node(parent)? {
            Node::Root => self.lock().names.get(name).copied().map(Node::Directory).ok_or(Errno::ENOENT),
            Node::Directory(entry) => Attribute::of(self.device.tee())
                .find(|attribute| name == attribute.name())
                .map(|attribute| Node::File(entry, attribute))
                .ok_or(Errno::ENOENT),
            Node::File(..) => Err(Errno::ENOTDIR),
        }
    }

    /// Makes a request directory; only below the root, and only with a TEE driver.
    pub(super) fn make(&self, parent: INodeNo, name: &OsStr) -> Result<Node, Errno> {
        if !matches!(self.node(parent)?, Node::Root) {
            return Err(Errno::EPERM);
        }
        self.device.machine()?;
        let mut state = self.lock();
        if state.names.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        let entry = state.next();
        state.names.insert(name.to_owned(), entry);
        state.entries.insert(entry, Entry::default());
        self.count(state);
        Ok(Node::Directory(entry))
    }

    /// Removes a request directory with its attributes. Files that are open stay open and read ENOENT.
    pub(super) fn remove(&self, parent: INodeNo, name: &OsStr) -> Result<(), Errno> {
        if !matches!(self.node(parent)?, Node::Root) {
            return Err(Errno::EPERM);
        }
        let mut state = self.lock();
        let entry = state.names.remove(name).ok_or(Errno::ENOENT)?;
        state.entries.remove(&entry);
        self.count(state);
        Ok(())
    }

    pub(super) fn listing(&self, inode: INodeNo) -> Result<Vec<(Node, OsString)>, Errno> {
        let node = self.node(inode)?;
        let mut all = vec![(node, OsString::from(".")), (Node::Root, OsString::from(".."))];
        match node {
            Node::Root => {
                all.extend(self.lock().names.iter().map(|(name, e)| (Node::Directory(*e), name.clone())));
            }
            Node::Directory(entry) => {
                let shown = Attribute::of(self.device.tee());
                all.extend(shown.map(|a| (Node::File(entry, a), OsString::from(a.name()))));
            }
            Node::File(..) => return Err(Errno::ENOTDIR),
        }
        Ok(all)
    }

    /// Opens an attribute in the one direction that it has; gives the number of the open file.
    pub(super) fn open(&self, inode: INodeNo, direction: OpenAccMode) -> Result<u64, Errno> {
        let Node::File(entry, attribute) = self.node(inode)? else { return Err(Errno::EISDIR) };
        let own = if attribute.is_writable() { OpenAccMode::O_WRONLY } else { OpenAccMode::O_RDONLY };
        if direction != own {
            return Err(Errno::EACCES);
        }
        let mut state = self.lock();
        let handle = state.next();
        state.handles.insert(handle, Handle { entry, attribute, pending: None, content: None });
        Ok(handle)
    }

    pub(super) fn write(&self, handle: u64, offset: u64, data: &[u8]) -> Result<u32, Errno> {
        let floor = self.device.machine()?.vmpl;
        let mut state = self.lock();
        let handle = state.handles.get_mut(&handle).ok_or(Errno::EBADF)?;
        let entry = handle.entry;
        match handle.attribute {
            Attribute::Inblob => {
                let pending = handle.pending.get_or_insert_default();
                let start = usize::try_from(offset).map_err(|_| Errno::EFBIG)?;
                let end =
                    start.checked_add(data.len()).filter(|end| *end <= INBLOB_LIMIT).ok_or(Errno::EFBIG)?;
                pending.resize(end.max(pending.len()), 0);
                pending.iter_mut().skip(start).zip(data).for_each(|(to, from)| *to = *from);
            }
            Attribute::Privlevel => {
                state.entries.get_mut(&entry).ok_or(Errno::ENOENT)?.write_privlevel(data, floor)?;
            }
            _ => return Err(Errno::EBADF),
        }
        u32::try_from(data.len()).map_err(|_| Errno::EFBIG)
    }

    /// Lets what was written to `inblob` take effect. The kernel does so on close and drops the result; a client
    /// notices by the generation.
    pub(super) fn commit(&self, handle: u64) {
        let mut state = self.lock();
        let State { handles, entries, .. } = &mut *state;
        let Some(handle) = handles.get_mut(&handle) else { return };
        let Some(data) = handle.pending.take() else { return };
        if let Some(entry) = entries.get_mut(&handle.entry)
            && let Err(error) = entry.write_inblob(&data)
        {
            tracing::warn!(?error, "a write to inblob did not take effect");
        }
    }

    pub(super) fn close(&self, handle: u64) {
        self.commit(handle);
        self.lock().handles.remove(&handle);
    }

    /// What the open file reads: fixed by its first read, as in configfs. Blocks while a report is made.
    pub(super) fn content(&self, handle: u64) -> Result<Arc<[u8]>, Errno> {
        let (entry, attribute) = {
            let state = self.lock();
            let handle = state.handles.get(&handle).ok_or(Errno::EBADF)?;
            if let Some(content) = &handle.content {
                return Ok(Arc::clone(content));
            }
            (handle.entry, handle.attribute)
        };
        let machine = self.device.machine()?;
        let content: Arc<[u8]> = match attribute {
            Attribute::Provider => text(machine.provider().unwrap_or_default()),
            Attribute::PrivlevelFloor => text(&machine.vmpl.to_string()),
            Attribute::Generation => {
                text(&self.lock().entries.get(&entry).ok_or(Errno::ENOENT)?.generation().to_string())
            }
            Attribute::Outblob => self.blobs(entry)?.outblob,
            Attribute::Auxblob => self.blobs(entry)?.auxblob,
            Attribute::Inblob | Attribute::Privlevel => return Err(Errno::EACCES),
        };
        if let Some(handle) = self.lock().handles.get_mut(&handle) {
            handle.content = Some(Arc::clone(&content));
        }
        Ok(content)
    }

    fn blobs(&self, entry: u64) -> Result<Blobs, Errno> {
        let request = {
            let state = self.lock();
            let entry = state.entries.get(&entry).ok_or(Errno::ENOENT)?;
            let request = entry.request()?;
            if let Some(blobs) = entry.cached() {
                return Ok(blobs);
            }
            request
        };
        // Without the lock: other directories go on while this one waits.
        let blobs = self.device.generate(&request)?;
        self.lock().entries.get_mut(&entry).ok_or(Errno::ENOENT)?.answer(&request, blobs.clone());
        Ok(blobs)
    }

    /// Tells the counters how many directories there are.
    fn count(&self, state: MutexGuard<'_, State>) {
        let open = u64::try_from(state.entries.len()).unwrap_or(u64::MAX);
        self.device.stats.update(|counts| counts.entries_open = open);
        drop(state);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }
}

fn text(content: &str) -> Arc<[u8]> {
    Arc::from(format!("{content}\n").into_bytes())
}
