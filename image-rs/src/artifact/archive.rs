//! The archive of a directory into the folder of an artifact.
//!
//! The reader is the one of layers ([`tar`]). What is made of it is less: files, directories, and symbolic
//! links that lead downwards, owned by whoever pulls, with permission bits but without set-id bits, attributes and times.
//! Links that could lead out of the folder are refused: whoever reads the folder later follows them.

use std::{
    io::BufRead,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, RenameFlags},
    io::Errno,
};

use super::title::entry_parts;
use crate::{
    LayerFault,
    layer::{
        Metered, Run,
        tar::{Entry, Event, Kind, Reader},
        unpack::open_beneath,
    },
};

/// Mode of what has none of its own, whatever the umask is.
const DIRECTORY: Mode = Mode::from_raw_mode(0o755);
const FILE: Mode = Mode::from_raw_mode(0o644);

/// Writes the file `title` below `root`, which must not be there yet.
pub(super) fn write_file(
    root: BorrowedFd<'_>,
    title: &str,
    from: &mut Metered<'_>,
    run: &Run,
) -> Result<u64, LayerFault> {
    run.take_entry(0)?;
    let file = make_file(root, title.as_bytes(), FILE)?;
    loop {
        let bytes = from.fill_buf().map_err(LayerFault::Read)?;
        let length = bytes.len();
        if length == 0 {
            return Ok(1);
        }
        write_all(&file, bytes, None).map_err(|error| storage("write", title.as_bytes(), error))?;
        from.consume(length);
    }
}

/// Gives the name `title` below `root` to the file `name` of the folder `from`.
pub(super) fn place_file(
    root: BorrowedFd<'_>,
    title: &str,
    (from, name): (BorrowedFd<'_>, &str),
) -> Result<(), LayerFault> {
    let failed = |error| made(title.as_bytes(), error);
    let (at, last) = parent(root, title.as_bytes())?;
    rustix::fs::chmodat(from, name, FILE, AtFlags::empty()).map_err(failed)?;
    rustix::fs::renameat_with(from, name, &at, last, RenameFlags::NOREPLACE).map_err(failed)
}

/// Unpacks an archive, all of which has to lie in the directory `title`, below `root`. Gives its entries.
pub(super) fn unpack(
    root: BorrowedFd<'_>,
    title: &str,
    from: &mut Metered<'_>,
    run: &Run,
) -> Result<u64, LayerFault> {
    let mut reader = Reader::new(run.options().limits.clone());
    let mut target =
        Target { root, title: title.split('/').filter(|part| !part.is_empty()).collect(), run, file: None };
    let mut entries = 0;
    loop {
        let chunk = from.fill_buf().map_err(LayerFault::Read)?;
        if chunk.is_empty() {
            break;
        }
        let length = chunk.len();
        let mut rest = chunk;
        while let Some(event) = reader.next(&mut rest)? {
            match event {
                Event::Entry(entry) => {
                    run.take_entry(entry.kind.size())?;
                    entries += 1;
                    target.entry(entry)?;
                }
                Event::Data { offset, bytes } => target.data(offset, bytes)?,
                Event::FileEnd => target.file_end()?,
            }
        }
        from.consume(length);
    }
    reader.finish()?;
    // An archive of nothing is an empty directory.
    make_directory(root, title.as_bytes())?;
    Ok(entries)
}

struct Target<'a> {
    root: BorrowedFd<'a>,
    title: Vec<&'a str>,
    run: &'a Run,
    file: Option<OpenFile>,
}

struct OpenFile {
    file: OwnedFd,
    name: Vec<u8>,
    size: u64,
    end: u64,
}

impl Target<'_> {
    fn entry(&mut self, entry: Entry) -> Result<(), LayerFault> {
        let refused = |why| LayerFault::Entry { name: shown(&entry.name), why };
        let parts = entry_parts(&entry.name, self.run.options().limits.depth).map_err(refused)?;
        let is_directory = entry.kind == Kind::Directory;
        let above = self.title.len().min(parts.len());
        let on_the_way = parts.iter().zip(&self.title).all(|(part, title)| *part == title.as_bytes());
        match (on_the_way, parts.len() > above) {
            (false, _) => return Err(refused("it is not in the directory that the layer's title names")),
            // The directory itself, or one above it.
            (true, false) if is_directory => return make_directory(self.root, &parts.join(&b'/')),
            (true, false) => return Err(refused("only a directory can stand for the layer's title")),
            (true, true) => {}
        }
        let path = parts.join(&b'/');
        match &entry.kind {
            Kind::Directory => make_directory(self.root, &path),
            Kind::File { size } => {
                // The owner reads and writes it: there is no other owner who could give that back.
                let mode = Mode::from_raw_mode((entry.mode & 0o777) | 0o600);
                let file = make_file(self.root, &path, mode)?;
                self.file = Some(OpenFile { file, size: *size, end: 0, name: entry.name });
                Ok(())
            }
            Kind::Symlink { target } => {
                if target.starts_with(b"/") || target.split(|b| *b == b'/').any(|part| part == b"..") {
                    return Err(refused("it is a symbolic link that does not only lead downwards"));
                }
                let (at, name) = parent(self.root, &path)?;
                rustix::fs::symlinkat(target.as_slice(), &at, name).map_err(|error| made(&entry.name, error))
            }
            Kind::Link { .. } => Err(refused("hard links are for images")),
            Kind::CharDevice { .. } | Kind::BlockDevice { .. } | Kind::Fifo => {
                Err(refused("devices and pipes are for images"))
            }
        }
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<(), LayerFault> {
        let Some(open) = &mut self.file else { return Ok(()) };
        write_all(&open.file, bytes, Some(offset)).map_err(|error| storage("write", &open.name, error))?;
        open.end = offset + bytes.len() as u64;
        Ok(())
    }

    fn file_end(&mut self) -> Result<(), LayerFault> {
        let Some(open) = self.file.take() else { return Ok(()) };
        if open.end < open.size {
            let extended = rustix::fs::ftruncate(&open.file, open.size);
            extended.map_err(|error| storage("extend", &open.name, error))?;
        }
        Ok(())
    }
}

/// Writes all of `bytes`, at `offset` or where the last ones ended.
fn write_all(file: &OwnedFd, bytes: &[u8], offset: Option<u64>) -> Result<(), Errno> {
    let mut done = 0;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        let written = match offset {
            Some(offset) => rustix::io::pwrite(file, rest, offset + done as u64),
            None => rustix::io::write(file, rest),
        };
        match written {
            Ok(0) => return Err(Errno::IO),
            Ok(written) => done += written,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Makes an empty file with this mode; one that is there is not opened.
fn make_file(root: BorrowedFd<'_>, path: &[u8], mode: Mode) -> Result<OwnedFd, LayerFault> {
    let (at, name) = parent(root, path)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&at, name, flags, mode).map_err(|error| made(path, error))?;
    rustix::fs::fchmod(&file, mode).map_err(|error| storage("set the mode of", path, error))?;
    Ok(file)
}

/// Makes the directory `path` and those above it, as far as they are not there.
fn make_directory(root: BorrowedFd<'_>, path: &[u8]) -> Result<(), LayerFault> {
    match path.is_empty() {
        true => Ok(()),
        false => enter(root, path).map(drop),
    }
}

/// The directory that `path` lies in, made if need be, and the last part of `path`.
fn parent<'a>(root: BorrowedFd<'_>, path: &'a [u8]) -> Result<(OwnedFd, &'a [u8]), LayerFault> {
    match path.iter().rposition(|b| *b == b'/') {
        None => Ok((opened(root, path, b"")?, path)),
        Some(at) => {
            let (above, name) = path.split_at(at);
            Ok((enter(root, above)?, name.get(1..).unwrap_or_default()))
        }
    }
}

fn opened(root: BorrowedFd<'_>, of: &[u8], path: &[u8]) -> Result<OwnedFd, LayerFault> {
    open_beneath(root, path).map_err(|error| match error {
        Errno::LOOP | Errno::XDEV | Errno::NOTDIR => {
            LayerFault::Entry { name: shown(of), why: "its directory is something else" }
        }
        error => storage("open the directory of", of, error),
    })
}

fn enter(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, LayerFault> {
    match open_beneath(root, path) {
        Ok(directory) => return Ok(directory),
        Err(Errno::NOENT) => {}
        Err(_) => return opened(root, path, path),
    }
    let mut at = opened(root, path, b"")?;
    for part in path.split(|b| *b == b'/') {
        match rustix::fs::mkdirat(&at, part, DIRECTORY) {
            Ok(()) => {
                let inside = opened(at.as_fd(), path, part)?;
                let set = rustix::fs::fchmod(&inside, DIRECTORY);
                set.map_err(|error| storage("set the mode of", path, error))?;
                at = inside;
            }
            // Of this part of the artifact, or of another one that lies beside it.
            Err(Errno::EXIST) => at = opened(at.as_fd(), path, part)?,
            Err(error) => return Err(storage("make", path, error)),
        }
    }
    Ok(at)
}

fn made(name: &[u8], error: Errno) -> LayerFault {
    match error {
        Errno::EXIST => {
            LayerFault::Entry { name: shown(name), why: "there is something of that name already" }
        }
        error => storage("make", name, error),
    }
}

fn storage(doing: &'static str, name: &[u8], error: Errno) -> LayerFault {
    LayerFault::Storage { doing, name: shown(name), folder: None, source: error.into() }
}

/// A name as it is told: escaped and cut.
fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name.get(..name.len().min(200)).unwrap_or_default()).escape_debug().to_string()
}
