//! Image layouts in tar archives.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use image_rs::{
    Compression, Error, Image, Platform, Pointer,
    source::{Layout, Source},
};

use crate::{
    archive::{Archive, Header},
    layout,
};

fn simple() -> layout::Image {
    layout::Image::of_layers(&[(Compression::Gzip, vec![7; 100_000]), (Compression::None, Vec::new())])
}

/// All files below `folder` with their names from there.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                    found.push((name, fs::read(path).unwrap()));
                }
            }
        }
    }
    found
}

fn packed(image: &layout::Image, prefix: &str) -> Archive {
    let add =
        |archive: Archive, (name, bytes): (String, Vec<u8>)| archive.file(&format!("{prefix}{name}"), &bytes);
    files(image.path()).into_iter().fold(Archive::default().directory("blobs/"), add)
}

fn open(bytes: &[u8]) -> Result<Layout, Error> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    Layout::open_archive(file.path())
}

#[test]
fn an_archive_gives_what_its_folder_does() {
    let image = simple();
    let platform = Platform::of_this_machine();
    let folder = Layout::open(image.path()).unwrap();
    let expected = Image::resolve(&folder, &Pointer::Tag("it".into()), &platform).unwrap();
    for prefix in ["", "./"] {
        let layout = open(&packed(&image, prefix).end()).unwrap();
        let resolved = Image::resolve(&layout, &layout.only().unwrap(), &platform).unwrap();
        assert_eq!(resolved.manifest_digest(), expected.manifest_digest());
        for layer in resolved.layers() {
            let (mut one, mut other) = (Vec::new(), Vec::new());
            layout.blob(&layer.descriptor).unwrap().read_to_end(&mut one).unwrap();
            folder.blob(&layer.descriptor).unwrap().read_to_end(&mut other).unwrap();
            assert!(one == other && one.len() as u64 == layer.descriptor.size);
        }
        assert_eq!(layout.document(&Pointer::Tag("other".into())).unwrap_err().code(), "IMAGE_NOT_FOUND");
    }
}

#[test]
fn archives_that_readers_read_differently_are_refused() {
    let image = simple();
    let whole = packed(&image, "").end();
    let sparse = |archive: Archive| {
        archive
            .pax(&[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.name", b"x"),
                ("GNU.sparse.realsize", b"1000"),
            ])
            .file(
                "y",
                format!("{:\0<512}", "1\n512\n5\n")
                    .as_bytes()
                    .iter()
                    .chain(b"12345")
                    .copied()
                    .collect::<Vec<u8>>()
                    .as_slice(),
            )
            .end()
    };
    for (bytes, why) in [
        (packed(&image, "").file("index.json", b"{}").end(), "twice"),
        (packed(&image, "").file("./oci-layout", b"{}").end(), "twice"),
        (packed(&image, "").symlink("index.json", "/etc/passwd").end(), "twice"),
        (sparse(packed(&image, "")), "sparse"),
        (whole[..whole.len() / 2].to_vec(), ""),
        (vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0], ""),
        (vec![b'x'; 2000], ""),
    ] {
        let error = open(&bytes).unwrap_err();
        assert_eq!(error.code(), "IMAGE_DOCUMENT_INVALID", "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    for (bytes, code) in [
        (Vec::new(), "IMAGE_NOT_FOUND"),
        (Archive::default().file("other", b"x").end(), "IMAGE_NOT_FOUND"),
        (Archive::default().symlink("oci-layout", "other").file("other", b"{}").end(), "IMAGE_NOT_FOUND"),
    ] {
        assert_eq!(open(&bytes).unwrap_err().code(), code);
    }
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(Layout::open_archive(folder.path()).unwrap_err().code(), "IMAGE_DOCUMENT_INVALID");
    assert_eq!(Layout::open_archive(&folder.path().join("none")).unwrap_err().code(), "IMAGE_NOT_FOUND");
    let many = (0..20_001).fold(Archive::default(), |archive, i| {
        archive.member(&Header::new(format!("{i}").as_bytes(), b'0', 0), b"")
    });
    assert_eq!(open(&many.end()).unwrap_err().code(), "IMAGE_DOCUMENT_INVALID");
}
