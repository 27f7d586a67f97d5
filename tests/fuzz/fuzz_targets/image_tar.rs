//! Tar archives of layers: however the bytes are cut, they are the same entries, and each file is as long as it says.
#![no_main]

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

fuzz_target!(|archive: &[u8]| {
    let whole = read(archive, usize::MAX);
    for cut in [13, 511, 700] {
        assert_eq!(read(archive, cut), whole);
    }
});
