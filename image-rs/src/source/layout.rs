//! An image layout (OCI image specification, image-layout.md) in a folder, as `skopeo copy … oci:FOLDER:TAG` writes it, or
//! in a tar archive (`oci-archive:FILE:TAG`).
//!
//! Folder or archive is opened once; files are found from there by names made of a digest, never by a name out of a
//! document, and no symbolic link is followed inside.

use std::{
    fs::File,
    io::Read,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

use super::{Document, MAX_DOCUMENT, Pointer, Source, archive::Archive};
use crate::{
    Descriptor, Digest, Error, Index,
    json::{self, Object},
};

/// Annotation that gives an entry of `index.json` its name.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// An open image layout.
#[derive(Debug)]
pub struct Layout {
    files: Files,
    path: PathBuf,
    index: Index,
}

/// What the layout is in.
#[derive(Debug)]
enum Files {
    Folder(OwnedFd),
    Archive(Archive),
}

impl Layout {
    /// Opens the layout in the folder `path` and reads its index.
    ///
    /// # Errors
    /// `IMAGE_NOT_FOUND` if the folder is no image layout, `IMAGE_DOCUMENT_INVALID` if its index is malformed.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let read = |source: rustix::io::Errno| Error::Read {
            what: path.display().to_string(),
            source: source.into(),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| match error {
            rustix::io::Errno::NOENT => Error::NotFound { what: format!("folder {}", path.display()) },
            other => read(other),
        })?;
        Self::read(Files::Folder(folder), path)
    }

    /// Opens the layout in the tar archive `path`, which is not compressed, and reads its index. The archive must not change
    /// while it is open.
    ///
    /// # Errors
    /// As [`Layout::open`]; `IMAGE_DOCUMENT_INVALID` also if it is no archive that all readers read alike.
    pub fn open_archive(path: &Path) -> Result<Self, Error> {
        Self::read(Files::Archive(Archive::open(path)?), path)
    }

    fn read(files: Files, path: &Path) -> Result<Self, Error> {
        let mut layout = Self { files, path: path.to_owned(), index: Index { manifests: Vec::new() } };
        let marker = layout.small("oci-layout")?;
        let marker = json::parse("oci-layout file", &marker)?;
        let marker = Object::new("oci-layout file", &marker, &["imageLayoutVersion"])?;
        let version = marker.required_text("imageLayoutVersion")?;
        if !version.starts_with("1.") {
            return Err(marker.malformed(format!("version {version:?} is not known")));
        }
        let index = layout.small("index.json")?;
        let index = json::parse("index.json of the layout", &index)?;
        layout.index = Index::read(&Object::new("index.json of the layout", &index, &["manifests"])?)?;
        Ok(layout)
    }

    /// Names the one image of a layout that has just one.
    ///
    /// # Errors
    /// `IMAGE_AMBIGUOUS` if there are more, with their names; `IMAGE_NOT_FOUND` if there is none.
    pub fn only(&self) -> Result<Pointer, Error> {
        match self.index.manifests.as_slice() {
            [one] => Ok(Pointer::Digest(one.digest)),
            [] => Err(Error::NotFound { what: format!("image in {}", self.path.display()) }),
            several => {
                let names = several.iter().filter_map(|d| d.annotations.get(REF_NAME)).take(20);
                let names: Vec<String> = names.map(|name| name.escape_debug().to_string()).collect();
                let why = format!("it holds {} images: {}", several.len(), names.join(", "));
                Err(Error::Ambiguous { what: self.path.display().to_string(), why })
            }
        }
    }

    /// The entry of the index that `pointer` names.
    fn entry(&self, pointer: &Pointer) -> Result<Option<&Descriptor>, Error> {
        let named = |d: &&Descriptor| match pointer {
            Pointer::Tag(tag) => d.annotations.get(REF_NAME) == Some(tag),
            Pointer::Digest(digest) => d.digest == *digest,
        };
        let mut found = self.index.manifests.iter().filter(named);
        let first = found.next();
        match (pointer, first) {
            (Pointer::Tag(tag), Some(first)) if found.any(|other| other.digest != first.digest) => {
                let why = format!("two images have the name {tag:?}");
                Err(Error::Ambiguous { what: self.path.display().to_string(), why })
            }
            _ => Ok(first),
        }
    }

    /// Opens a regular file by its path inside the layout.
    fn file(&self, path: &str) -> Result<Box<dyn Read + Send>, Error> {
        let what = || self.path.join(path).display().to_string();
        let folder = match &self.files {
            Files::Folder(folder) => folder,
            Files::Archive(archive) => {
                let content = archive.content(path);
                return content.ok_or_else(|| Error::NotFound { what: format!("file {}", what()) });
            }
        };
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let file = match rustix::fs::openat2(folder.as_fd(), path, flags, Mode::empty(), within) {
            Ok(file) => file,
            Err(rustix::io::Errno::NOENT) => {
                return Err(Error::NotFound { what: format!("file {}", what()) });
            }
            Err(error) => return Err(Error::Read { what: what(), source: error.into() }),
        };
        let status = rustix::fs::fstat(&file);
        let status = status.map_err(|error| Error::Read { what: what(), source: error.into() })?;
        if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
            return Err(Error::Document { what: what(), why: "not a regular file".to_owned() });
        }
        Ok(Box::new(File::from(file)))
    }

    fn small(&self, path: &str) -> Result<Vec<u8>, Error> {
        let what = || self.path.join(path).display().to_string();
        let mut bytes = Vec::new();
        let read = self.file(path)?.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes);
        read.map_err(|source| Error::Read { what: what(), source })?;
        if bytes.len() as u64 > MAX_DOCUMENT {
            return Err(Error::Document {
                what: what(),
                why: format!("it has more than {MAX_DOCUMENT} bytes"),
            });
        }
        Ok(bytes)
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

impl Source for Layout {
    fn document(&self, pointer: &Pointer) -> Result<Document, Error> {
        let entry = self.entry(pointer)?;
        let digest = match (pointer, entry) {
            (_, Some(entry)) => entry.digest,
            (Pointer::Digest(digest), None) => *digest,
            (Pointer::Tag(tag), None) => {
                return Err(Error::NotFound { what: format!("image {tag:?} in {}", self.path.display()) });
            }
        };
        let bytes = self.small(&blob_path(&digest))?;
        // Here a name stands for a digest, which nobody else knows.
        super::check_digest("image manifest", &bytes, digest)?;
        Ok(Document { media_type: entry.map(|d| d.media_type.clone()), bytes })
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, Error> {
        self.file(&blob_path(&descriptor.digest))
    }
}
