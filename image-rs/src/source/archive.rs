//! A tar archive as a set of files: where each lies is found out once, and they are read from there.
//!
//! The archive may be larger than memory: only headers are read, by the strict reader that layers go through as well; it is
//! given zeros for the data, which it does not look at. A name that is there twice is refused, since readers
//! differ in which of both they take. What is not a regular file has no content here, whatever it links to.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::Arc,
};

use rustix::fs::OFlags;

use crate::{
    Error, Limits,
    layer::tar::{Event, Kind, Reader},
};

/// Most members.
const MAX_MEMBERS: u64 = 20_000;
const BLOCK: usize = 512;
/// What the reader is given for data.
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// Start and length of each member's content by name; `None` for what has none.
type Members = BTreeMap<Vec<u8>, Option<(u64, u64)>>;

/// An open archive.
#[derive(Debug)]
pub(super) struct Archive {
    file: Arc<File>,
    members: Members,
}

impl Archive {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let what = || path.display().to_string();
        let read = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => Error::NotFound { what: format!("archive {}", what()) },
            _ => Error::Read { what: what(), source },
        };
        // Not to wait for the writer of a pipe.
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(read)?;
        if !file.metadata().map_err(read)?.is_file() {
            return Err(Error::Document { what: what(), why: "not a regular file".to_owned() });
        }
        let members = index(&file).map_err(|fault| match fault {
            Fault::Read(source) => read(source),
            Fault::Format(why) => Error::Document { what: what(), why },
        })?;
        Ok(Self { file: Arc::new(file), members })
    }

    /// The content of the file called `name`, if there is one.
    pub(super) fn content(&self, name: &str) -> Option<Box<dyn Read + Send>> {
        let (at, left) = (*self.members.get(name.as_bytes())?)?;
        Some(Box::new(Content { file: Arc::clone(&self.file), at, left }))
    }
}

#[derive(Debug)]
struct Content {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Read for Content {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = into.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.file.read_at(into.get_mut(..most).unwrap_or_default(), self.at)?;
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

enum Fault {
    Read(io::Error),
    Format(String),
}

/// The file whose data comes.
struct Open {
    name: Vec<u8>,
    start: u64,
    size: u64,
    seen: u64,
}

fn index(file: &File) -> Result<Members, Fault> {
    let length = file.metadata().map_err(Fault::Read)?.len();
    let limits = Limits { bytes: u64::MAX, entries: MAX_MEMBERS, ..Limits::default() };
    let mut reader = Reader::new(limits);
    let mut members = Members::new();
    let (mut at, mut open): (u64, Option<Open>) = (0, None);
    while at < length {
        let mut header = [0; BLOCK];
        let left = open.as_ref().map_or(0, |open| open.size - open.seen);
        let mut input = if left > 0 {
            let most = left.min(length - at).min(ZEROS.len() as u64);
            ZEROS.get(..usize::try_from(most).unwrap_or_default()).unwrap_or_default()
        } else {
            // A header, or the padding after data.
            let most = BLOCK - usize::try_from(at % BLOCK as u64).unwrap_or_default();
            let read = file.read_at(header.get_mut(..most).unwrap_or_default(), at).map_err(Fault::Read)?;
            header.get(..read).unwrap_or_default()
        };
        if input.is_empty() {
            break;
        }
        at += input.len() as u64;
        while let Some(event) =
            reader.next(&mut input).map_err(|refusal| Fault::Format(refusal.to_string()))?
        {
            match event {
                Event::Entry(entry) => {
                    let name = entry.name.strip_prefix(b"./").unwrap_or(&entry.name).to_vec();
                    match entry.kind {
                        Kind::Directory => {}
                        Kind::File { size } => open = Some(Open { name, start: at, size, seen: 0 }),
                        _ => insert(&mut members, name, None)?,
                    }
                }
                Event::Data { offset, bytes } => {
                    let Some(open) = open.as_mut().filter(|open| open.seen == offset) else {
                        return Err(Fault::Format("a member is a sparse file".to_owned()));
                    };
                    open.seen += bytes.len() as u64;
                }
                Event::FileEnd => {
                    if let Some(Open { name, start, size, seen }) = open.take() {
                        if size != seen {
                            return Err(Fault::Format("a member is a sparse file".to_owned()));
                        }
                        insert(&mut members, name, Some((start, size)))?;
                    }
                }
            }
        }
    }
    reader.finish().map_err(|refusal| Fault::Format(refusal.to_string()))?;
    Ok(members)
}

fn insert(members: &mut Members, name: Vec<u8>, content: Option<(u64, u64)>) -> Result<(), Fault> {
    let shown = name.escape_ascii().to_string().chars().take(160).collect::<String>();
    match members.insert(name, content) {
        None => Ok(()),
        Some(_) => Err(Fault::Format(format!("{shown} is in it twice"))),
    }
}
