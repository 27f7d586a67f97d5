//! Tar archives of layers: however the bytes are cut, they are the same entries, and each file is as long as it says. What is
//! accepted another reader, the crate `tar`, reads the same: names, types, targets, sizes and content.
#![no_main]

use std::io::Read;

use image_rs::{
    Limits,
    layer::tar::{Entry, Event, Kind, Reader, Rule},
};
use libfuzzer_sys::fuzz_target;

const SIZE: u64 = 1 << 20;

/// Entries, and how many bytes of data came for each.
fn read(archive: &[u8], cut: usize) -> Result<Vec<(Entry, u64)>, Rule> {
    let mut reader = Reader::new(Limits { bytes: SIZE, entries: 1000, ..Limits::default() });
    let mut all: Vec<(Entry, u64)> = Vec::new();
    let mut end = 0;
    for mut piece in archive.chunks(cut) {
        while let Some(event) = reader.next(&mut piece).map_err(|refusal| refusal.rule)? {
            match event {
                Event::Entry(entry) => {
                    assert!(!entry.name.is_empty() && !entry.name.contains(&0));
                    assert!(entry.mode <= 0o7777 && entry.mtime.nanoseconds < 1_000_000_000);
                    all.push((entry, 0));
                    end = 0;
                }
                Event::Data { offset, bytes } => {
                    assert!(offset >= end && !bytes.is_empty());
                    end = offset + bytes.len() as u64;
                    all.last_mut().expect("data belongs to an entry").1 += bytes.len() as u64;
                }
                Event::FileEnd => {
                    let Some((Entry { kind: Kind::File { size }, .. }, data)) = all.last() else {
                        panic!("the end of a file without a file")
                    };
                    assert!(end <= *size && *data <= *size && *size <= SIZE);
                }
            }
        }
        assert!(piece.is_empty());
    }
    reader.finish().map_err(|refusal| refusal.rule)?;
    Ok(all)
}

/// An entry as both readers tell it: name, type, target, and the content of a file.
type Seen = (Vec<u8>, u8, Vec<u8>, Vec<u8>);

fn ours(archive: &[u8]) -> Vec<Seen> {
    let mut reader = Reader::new(Limits { bytes: SIZE, entries: 1000, ..Limits::default() });
    let mut all: Vec<Seen> = Vec::new();
    let mut rest = archive;
    while let Some(event) = reader.next(&mut rest).expect("it was accepted") {
        match event {
            Event::Entry(entry) => all.push(match entry.kind {
                Kind::File { size } => {
                    (entry.name, b'f', Vec::new(), vec![0; usize::try_from(size).expect("bounded")])
                }
                Kind::Directory => (entry.name, b'd', Vec::new(), Vec::new()),
                Kind::Symlink { target } => (entry.name, b's', target, Vec::new()),
                Kind::Link { target } => (entry.name, b'l', target, Vec::new()),
                Kind::CharDevice { .. } => (entry.name, b'c', Vec::new(), Vec::new()),
                Kind::BlockDevice { .. } => (entry.name, b'b', Vec::new(), Vec::new()),
                Kind::Fifo => (entry.name, b'p', Vec::new(), Vec::new()),
            }),
            Event::Data { offset, bytes } => {
                let at = usize::try_from(offset).expect("bounded");
                let content = &mut all.last_mut().expect("data belongs to an entry").3;
                content[at..at + bytes.len()].copy_from_slice(bytes);
            }
            Event::FileEnd => {}
        }
    }
    all
}

fn theirs(archive: &[u8]) -> std::io::Result<Vec<Seen>> {
    let mut all = Vec::new();
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        let kind = match entry.header().entry_type() {
            tar::EntryType::Regular | tar::EntryType::GNUSparse => b'f',
            tar::EntryType::Directory => b'd',
            tar::EntryType::Symlink => b's',
            tar::EntryType::Link => b'l',
            tar::EntryType::Char => b'c',
            tar::EntryType::Block => b'b',
            tar::EntryType::Fifo => b'p',
            // It stands for no entry; the reader gives it all the same.
            tar::EntryType::XGlobalHeader => continue,
            other => panic!("an entry of type {other:?} was accepted"),
        };
        let target = match kind {
            b's' | b'l' => entry.link_name_bytes().map(Vec::from).unwrap_or_default(),
            _ => Vec::new(),
        };
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        all.push((entry.path_bytes().to_vec(), kind, target, content));
    }
    Ok(all)
}

/// Sparse files of pax are files with a map to this other reader, which GNU tar reads as ours does.
fn has_pax_sparse(archive: &[u8]) -> bool {
    archive.windows(11).any(|window| window == b"GNU.sparse.")
}

fuzz_target!(|archive: &[u8]| {
    let whole = read(archive, usize::MAX);
    if whole.is_ok() && !has_pax_sparse(archive) {
        // The other reader wants the zeros after the last file's data, which some writers leave away.
        let mut padded = archive.to_vec();
        padded.resize(archive.len().next_multiple_of(512), 0);
        assert_eq!(theirs(&padded).expect("what is accepted the other reads too"), ours(archive));
    }
    for cut in [13, 511, 700] {
        assert_eq!(read(archive, cut), whole);
    }
});
