//! The pipe of one layer: whose fault is named when bytes are wrong, and that it ends.

use std::{
    fs::File,
    io::{self, Cursor, Read},
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use image_rs::{
    Algorithm, Compression, Digest, Error, Event, Layer, LayerFault, Limits, Observer, Silent,
    layer::{self, Input, Options, Run, unpack::Form},
};

use crate::{archive::Archive, layout, rules, snapshot};

const ALL: [Compression; 3] = [Compression::None, Compression::Gzip, Compression::Zstd];

fn run(
    layer: &Layer,
    blob: impl Read + Send + 'static,
    options: &Options,
    observer: &dyn Observer,
) -> Result<Vec<String>, LayerFault> {
    let folder = tempfile::tempdir().unwrap();
    let target = OwnedFd::from(File::open(folder.path()).unwrap());
    let input = Input { number: 3, layer, blob: Box::new(blob), key: None };
    layer::unpack_layer(input, target, Form::Listed, &Run::new(options.clone()), observer)?;
    Ok(snapshot::names(folder.path()))
}

fn unpack(layer: &Layer, blob: &[u8]) -> Result<Vec<String>, LayerFault> {
    run(layer, Cursor::new(blob.to_vec()), &Options::default(), &Silent)
}

/// Several buffers long, and hard to compress.
fn large() -> Vec<u8> {
    let mut state = 1u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        u8::try_from(state >> 24).unwrap()
    };
    let data: Vec<u8> = (0..3_000_000).map(|_| random()).collect();
    Archive::default().file("a", &data).file("b", b"after").end()
}

#[test]
fn right_bytes_pass_in_every_compression() {
    let archive = large();
    for compression in ALL {
        let (mut layer, blob) = layout::layer(compression, &archive);
        assert_eq!(unpack(&layer, &blob).unwrap(), ["a", "b"], "{compression:?}");
        layer.diff_id = Digest::of(Algorithm::Sha512, &archive);
        layer.descriptor.digest = Digest::of(Algorithm::Sha512, &blob);
        assert_eq!(unpack(&layer, &blob).unwrap(), ["a", "b"], "{compression:?} with SHA-512");
    }
}

#[test]
fn both_digests_cover_everything_to_the_end() {
    for compression in ALL {
        // What follows the end marker changes no entry, but is part of what was signed.
        let archive = [large(), b"appendix".to_vec()].concat();
        let (right, blob) = layout::layer(compression, &archive);
        assert_eq!(unpack(&right, &blob).unwrap(), ["a", "b"]);
        let other = Layer { diff_id: layout::sha256(&large()), ..right.clone() };
        let fault = unpack(&other, &blob).unwrap_err();
        assert!(matches!(fault, LayerFault::DigestMismatch { of: "uncompressed archive", .. }), "{fault}");
        let mut other = right.clone();
        other.descriptor.digest = layout::sha256(b"something else");
        let fault = unpack(&other, &blob).unwrap_err();
        assert!(matches!(fault, LayerFault::DigestMismatch { of: "blob", .. }), "{fault}");
    }
}

#[test]
fn damage_on_the_way_is_told_from_damage_at_the_source() {
    let archive = large();
    for compression in ALL {
        let (layer, blob) = layout::layer(compression, &archive);
        for at in [0, 5, blob.len() / 2, blob.len() - 1] {
            let mut damaged = blob.clone();
            damaged[at] ^= 0x55;
            let fault = unpack(&layer, &damaged).unwrap_err();
            assert!(
                matches!(fault, LayerFault::DigestMismatch { of: "blob", .. }),
                "{compression:?} at {at}: {fault}"
            );
        }
        let fault = unpack(&layer, &blob[..blob.len() - 1]).unwrap_err();
        assert_eq!(fault.code(), "LAYER_LENGTH");
        let fault = unpack(&layer, &[blob.clone(), vec![0]].concat()).unwrap_err();
        assert!(fault.to_string().contains("has more bytes"), "{fault}");
    }
    for compression in [Compression::Gzip, Compression::Zstd] {
        let (mut layer, blob) = layout::layer(compression, &archive);
        let damaged = &blob[..blob.len() - 9];
        layer.descriptor.digest = layout::sha256(damaged);
        layer.descriptor.size = damaged.len() as u64;
        assert_eq!(unpack(&layer, damaged).unwrap_err().code(), "LAYER_COMPRESSION", "{compression:?}");
    }
    let (layer, blob) = layout::layer(Compression::Gzip, &archive[..archive.len() - 1534]);
    assert_eq!(unpack(&layer, &blob).unwrap_err().code(), "LAYER_ARCHIVE_REFUSED");
}

#[test]
fn expansion_is_bounded() {
    let zeros = Archive::default().file("zeros", &vec![0; 2_000_000]).end();
    let limits = |bytes| Options { limits: Limits { bytes, ..Limits::default() }, ..Options::default() };
    for compression in ALL {
        let (layer, blob) = layout::layer(compression, &zeros);
        assert!(run(&layer, Cursor::new(blob.clone()), &limits(3_000_000), &Silent).is_ok());
        let fault = run(&layer, Cursor::new(blob), &limits(1_000_000), &Silent).unwrap_err();
        assert_eq!(fault.code(), "LAYER_LIMIT", "{fault}");
    }
}

#[test]
fn the_ratio_counts_once_an_archive_is_large() {
    // 300 MiB of zeros, which Zstandard packs into some kilobytes.
    let size: u64 = 300 << 20;
    let header = crate::archive::Header::new(b"zeros", b'0', size).sealed();
    let plain = Cursor::new(header).chain(io::repeat(0).take(size + 1024));
    let blob = zstd::encode_all(plain, 1).unwrap();
    assert!((blob.len() as u64) < size / Limits::default().ratio);
    let (mut layer, _) = layout::layer(Compression::Zstd, b"");
    layer.descriptor.digest = layout::sha256(&blob);
    layer.descriptor.size = blob.len() as u64;
    let too_large = |fault: LayerFault| {
        let limit = Limits::RATIO_FROM;
        let told = fault.to_string();
        assert!(told.starts_with(&format!("more than {limit} bytes when uncompressed")), "{told}");
        assert!(fault.hint().contains("image.max_ratio"), "{}", fault.hint());
    };
    too_large(unpack(&layer, &blob).unwrap_err());
    // What counts is what has come, not what is announced. Nobody waits for the rest, however slow it is.
    layer.descriptor.size = 1 << 30;
    let slow = Cursor::new(blob).chain(Slow);
    too_large(run(&layer, slow, &Options::default(), &Silent).unwrap_err());
}

/// A byte every ten milliseconds.
struct Slow;

impl Read for Slow {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        std::thread::sleep(std::time::Duration::from_millis(10));
        io::repeat(0).read(&mut buffer[..1])
    }
}

/// Gives some bytes and then an error.
struct Failing(Cursor<Vec<u8>>, Option<io::Error>);

impl Read for Failing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(self.1.take().unwrap()),
            read => Ok(read),
        }
    }
}

#[test]
fn what_a_source_tells_in_a_failed_read_arrives() {
    let (layer, blob) = layout::layer(Compression::Gzip, &large());
    let failing = |error| Failing(Cursor::new(blob[..blob.len() / 2].to_vec()), Some(error));
    let told = io::Error::other(Error::NotFound { what: "it".into() });
    let fault = run(&layer, failing(told), &Options::default(), &Silent).unwrap_err();
    let LayerFault::Read(source) = fault else { panic!("{fault}") };
    assert!(matches!(source.downcast::<Error>(), Ok(Error::NotFound { .. })));
    let broken = io::Error::from(io::ErrorKind::ConnectionReset);
    assert_eq!(run(&layer, failing(broken), &Options::default(), &Silent).unwrap_err().code(), "LAYER_READ");
}

/// Counts what is read.
struct Counted<R>(R, Arc<AtomicU64>);

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(buffer)?;
        self.1.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// What `blob`, without an end, is refused by, and how much of it was read.
fn refused(layer: &Layer, blob: impl Read + Send + 'static, limits: Limits) -> (LayerFault, u64) {
    let count = Arc::new(AtomicU64::new(0));
    let options = Options { limits, ..Options::default() };
    let fault = run(layer, Counted(blob, Arc::clone(&count)), &options, &Silent).unwrap_err();
    (fault, count.load(Ordering::Relaxed))
}

#[test]
fn a_blob_without_an_end_is_given_up() {
    // Damage is given the benefit of the doubt, for as long as the buffers and 16 MiB go.
    let few = 20 << 20;
    for compression in ALL {
        let (mut layer, _) = layout::layer(compression, b"");
        layer.descriptor.size = 200 << 30;
        let (fault, read) = refused(&layer, io::repeat(b'x'), Limits::default());
        let code =
            if compression == Compression::None { "LAYER_ARCHIVE_REFUSED" } else { "LAYER_COMPRESSION" };
        assert_eq!(fault.code(), code, "{fault}");
        assert!((16 << 20..few).contains(&read), "{compression:?}: {read}");
    }
    // What is not for the content to answer for ends at once.
    let (mut layer, _) = layout::layer(Compression::None, b"");
    layer.descriptor.size = 200 << 30;
    let start = Archive::default().file("a", b"x").file("b", b"x").0;
    let limits = Limits { entries: 1, ..Limits::default() };
    let (fault, read) = refused(&layer, Cursor::new(start).chain(io::repeat(0)), limits);
    assert!(matches!(fault, LayerFault::Limit { what: "entries", limit: 1 }), "{fault}");
    assert!(read < 8 << 20, "{read}");
}

#[test]
fn a_blob_that_cannot_be_within_the_bounds_is_not_read() {
    let (mut layer, _) = layout::layer(Compression::Gzip, b"");
    layer.descriptor.size = 1 << 50;
    let (fault, read) = refused(&layer, io::repeat(b'x'), Limits::default());
    assert!(matches!(fault, LayerFault::Limit { what: "bytes as stored", .. }), "{fault}");
    assert_eq!(read, 0);
}

#[derive(Default)]
struct Watching {
    events: Mutex<Vec<Event>>,
    read: AtomicU64,
    stop: AtomicBool,
}

impl Observer for Watching {
    fn event(&self, event: Event) {
        match event {
            Event::LayerRead { layer: 3, bytes } => assert!(self.read.swap(bytes, Ordering::Relaxed) < bytes),
            other => self.events.lock().unwrap().push(other),
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

#[test]
fn events_tell_what_happened_and_a_pull_can_be_stopped() {
    let archive = large();
    let (layer, blob) = layout::layer(Compression::Gzip, &archive);
    let watching = Watching::default();
    run(&layer, Cursor::new(blob.clone()), &Options::default(), &watching).unwrap();
    assert_eq!(watching.read.load(Ordering::Relaxed), blob.len() as u64);
    let events = watching.events.lock().unwrap();
    let (digest, size, bytes) = (layer.descriptor.digest, layer.descriptor.size, archive.len() as u64);
    assert_eq!(
        *events,
        [
            Event::LayerStarted { layer: 3, digest, size },
            Event::LayerUnpacked { layer: 3, entries: 2, bytes, attributes_left_out: 0 },
        ]
    );
    let stopped = Watching { stop: AtomicBool::new(true), ..Watching::default() };
    let fault = run(&layer, Cursor::new(blob), &Options::default(), &stopped).unwrap_err();
    assert!(matches!(fault, LayerFault::Interrupted));
}

#[test]
fn archives_with_nothing_in_them_are_layers_too() {
    for archive in [Vec::new(), Archive::default().end()] {
        assert_eq!(rules::read(&archive).unwrap(), []);
        for compression in ALL {
            let (layer, blob) = layout::layer(compression, &archive);
            assert!(unpack(&layer, &blob).unwrap().is_empty());
        }
    }
}

/// Bounds are those of the image: what layers use up together counts.
#[test]
fn layers_of_one_run_share_its_bounds() {
    let archive = |name: &str| Archive::default().file(name, &[7; 12_288]).end();
    let small = (0..100).fold(Archive::default(), |all, i| all.file(&i.to_string(), b"x")).end();
    let limits = Limits { bytes: 350_000, entries: 5, ..Limits::default() };
    let few = Options { limits, ..Options::default() };
    let many = Options { limits: Limits { entries: 1000, ..few.limits.clone() }, ..Options::default() };
    let zeros = Archive::default().file("zeros", &vec![0; 300_000_000]).end();
    let wide = Options { limits: Limits { ratio: 1, ..Limits::default() }, ..Options::default() };
    for (layers, options, what) in [
        (vec![archive("a"); 6], &few, "entries"),
        (vec![archive("a"); 30], &many, "bytes when uncompressed"),
        (vec![small], &many, "bytes of files"),
        (vec![zeros], &wide, "bytes when uncompressed, for what has come of it compressed"),
    ] {
        let run = Run::new(options.clone());
        let faults: Vec<LayerFault> = layers
            .iter()
            .filter_map(|archive| {
                let (layer, blob) = layout::layer(Compression::Gzip, archive);
                let folder = tempfile::tempdir().unwrap();
                let target = OwnedFd::from(File::open(folder.path()).unwrap());
                let input = Input { number: 0, layer: &layer, blob: Box::new(Cursor::new(blob)), key: None };
                layer::unpack_layer(input, target, Form::Listed, &run, &Silent).err()
            })
            .collect();
        assert!(layers.len() == 1 || faults.len() < layers.len(), "the first ones pass");
        assert!(faults[0].to_string().ends_with(what), "{}", faults[0]);
    }
}
