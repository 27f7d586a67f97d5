//! The pipe of one layer: read, hash, decrypt, decompress, hash, untar; one pass, each stage on a thread of its own.
//!
//! Between the stages are a few buffers of fixed size, so memory does not depend on the layer. A stage that fails ends
//! the others; what is reported is what happened first along the stream. The archive is unpacked while it is still being
//! checked: whoever calls must not show the result before [`unpack_layer`] has returned without an error.

mod aftermath;
mod decrypt;
mod inflate;
mod run;
mod stages;
mod stream;
pub mod tar;
pub mod unpack;
mod zstandard;

use std::{
    fmt,
    io::{BufRead, Read},
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use aftermath::{Aftermath, FURTHER, Stage};
use cc_sealed::LayerKey;
use run::BLOCK;
pub(crate) use run::Room;
pub use run::Run;
pub(crate) use stages::{Metered, Stopwatch};
pub use stages::{Spent, Stages};
use stream::{Closed, Receiver, Sender};
use tar::Event as TarEvent;
use unpack::{Applied, Form, Policy, Unpacker};

use crate::{
    Compression, Descriptor, Digest, Event, Hasher, KeyFault, Layer, LayerFault, Limits, Mismatch, Observer,
    kept::Copied, limits::counted,
};

/// Bytes of one buffer between two stages.
const BUFFER: usize = 256 << 10;
/// Buffers between two stages.
const BUFFERS: usize = 4;

/// What all layers of an image are unpacked by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bounds for all layers together.
    pub limits: Limits,
    /// What is not taken over as it is.
    pub policy: Policy,
    /// Layers at a time. Each has up to four threads and four megabytes of buffers.
    pub parallel: usize,
    /// Bytes of memory for the windows of all Zstandard decoders of a run together, but for windows above
    /// [`Options::LARGE_WINDOW`]: of those, up to [`Options::largest_window`], there is one at a time beside. A frame waits until
    /// others are at their end; if none comes to its end for a quarter of an hour, it fails.
    pub windows: u64,
    /// Most bytes of a window; a frame with a larger one is refused. Not more than [`Options::LARGEST_WINDOW`].
    pub largest_window: u64,
}

impl Options {
    /// Bytes for windows by default: with the buffers of eight layers that stays below 64 megabytes.
    pub const WINDOWS: u64 = 24 << 20;
    /// Bytes of the largest window of the usual levels of compression, 1 to 19.
    pub const LARGE_WINDOW: u64 = 8 << 20;
    /// Bytes of the largest window that there can be: 128 MiB, the most that the format's tools take without being told.
    pub const LARGEST_WINDOW: u64 = zstandard::LARGEST_WINDOW;
}

impl Default for Options {
    /// The default limits, everything taken over, as many layers at a time as there are processors, at most eight,
    /// [`Options::WINDOWS`], and [`Options::LARGEST_WINDOW`].
    fn default() -> Self {
        let parallel = thread::available_parallelism().map_or(1, usize::from).min(8);
        Self {
            limits: Limits::default(),
            policy: Policy::default(),
            parallel,
            windows: Self::WINDOWS,
            largest_window: Self::LARGEST_WINDOW,
        }
    }
}

/// One layer on its way in.
pub struct Input<'a> {
    /// Its place, for events; 0 is the lowest.
    pub number: usize,
    /// How it is stored, and what it has to be.
    pub layer: &'a Layer,
    /// Its bytes as they are stored.
    pub blob: Box<dyn Read + Send>,
    /// What decrypts it, if it is encrypted.
    pub key: Option<Arc<LayerKey>>,
}

impl fmt::Debug for Input<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input")
            .field("number", &self.number)
            .field("layer", self.layer)
            .finish_non_exhaustive()
    }
}

/// A blob on its way in, whatever its uncompressed bytes are.
pub(crate) struct Flow<'a> {
    /// Its place, for events.
    pub(crate) number: usize,
    /// Names the blob.
    pub(crate) descriptor: &'a Descriptor,
    /// How it is compressed.
    pub(crate) compression: Compression,
    /// Digest of the uncompressed bytes, where there is one to compare.
    pub(crate) plain: Option<Digest>,
    /// Its bytes as they are stored, without those that came before.
    pub(crate) blob: Box<dyn Read + Send + 'a>,
    /// How many came before, which do not go through the pipe, and the hash over them.
    pub(crate) begun: Option<(u64, Hasher)>,
    /// Is told what comes.
    pub(crate) tap: Option<Tap<'a>>,
    /// What decrypts it, if it is encrypted.
    pub(crate) key: Option<Arc<LayerKey>>,
}

/// Is told bytes of a blob as they come, before they are handed on; how many there are with them; and the hash over all those.
pub(crate) type Tap<'a> = Box<dyn FnMut(&[u8], u64, &Hasher) + Send + 'a>;

/// Runs the bytes of `input` through the pipe into the empty directory `target`.
///
/// On an error the directory holds what was unpacked so far, and has to be removed by the caller.
///
/// # Errors
/// What is wrong with the layer; [`LayerFault::Interrupted`] if the observer said so. Damage is told from a blob that is not
/// the one that was named if the rest of it is not longer than 16 MiB.
pub fn unpack_layer(
    input: Input<'_>,
    target: OwnedFd,
    form: Form,
    run: &Run,
    observer: &dyn Observer,
) -> Result<Applied, LayerFault> {
    let Input { number, layer, blob, key } = input;
    unpack_copied((number, layer, key), Copied { blob, tap: None }, (target, form), run, observer)
}

/// The same for a blob of which a copy is kept.
///
/// # Errors
/// As [`unpack_layer`].
pub(crate) fn unpack_copied(
    (number, layer, key): (usize, &Layer, Option<Arc<LayerKey>>),
    Copied { blob, tap }: Copied<'_>,
    (target, form): (OwnedFd, Form),
    run: &Run,
    observer: &dyn Observer,
) -> Result<Applied, LayerFault> {
    if layer.encryption.is_some() != key.is_some() {
        return Err(LayerFault::Key(Box::new(KeyFault::NotAsked)));
    }
    let flow = Flow {
        number,
        descriptor: &layer.descriptor,
        compression: layer.compression,
        plain: Some(layer.diff_id),
        blob,
        begun: None,
        tap,
        key,
    };
    let (bytes, applied) = pour(flow, run, observer, |plain| untar(plain, target, form, run))?;
    observer.event(Event::LayerUnpacked {
        layer: number,
        entries: applied.entries,
        bytes,
        attributes_left_out: applied.attributes_left_out,
    });
    Ok(applied)
}

/// Runs a blob through all stages up to `sink`, which has to read the uncompressed bytes to their end. Gives their number and
/// what `sink` made of them; that is good only if this gives no error.
///
/// # Errors
/// As [`unpack_layer`].
pub(crate) fn pour<T>(
    flow: Flow<'_>,
    run: &Run,
    observer: &dyn Observer,
    sink: impl FnOnce(&mut Metered<'_>) -> Result<T, LayerFault>,
) -> Result<(u64, T), LayerFault> {
    let Flow { number, descriptor, compression, plain, blob, begun, tap, key } = flow;
    let begun = begun.unwrap_or_else(|| (0, descriptor.digest.algorithm().hasher()));
    check_size(descriptor.size, &run.options().limits)?;
    let size = descriptor.size;
    let arrived = &Arrived { run, compression, bytes: AtomicU64::new(0) };
    observer.event(Event::LayerStarted { layer: number, digest: descriptor.digest, size });
    let (stored_in, stored_out) = stream::pipe(BUFFERS, BUFFER);
    let (mut plain_in, plain_out) = stream::pipe(BUFFERS, BUFFER);
    let aftermath = &Aftermath::default();
    thread::scope(|scope| {
        let from = Incoming { blob, begun, tap };
        let fetching = move || fetch(number, descriptor, from, stored_in, (arrived, observer), aftermath);
        let fetching = thread::Builder::new().spawn_scoped(scope, fetching).map_err(no_thread)?;
        let (decrypting, mut compressed) = match &key {
            None => (None, stored_out),
            Some(key) => {
                let (mut compressed_in, compressed_out) = stream::pipe(BUFFERS, decrypt::OUT);
                let mut stored = stored_out;
                // Tools that compress while they encrypt name what they read.
                let also = plain.filter(|_| compression != Compression::None);
                let decrypting = move || {
                    let decrypted =
                        decrypt::decrypt(key, also, &mut stored, &mut compressed_in, run.meters());
                    aftermath.note(Stage::Decrypt, &decrypted);
                    // Not before: the next stage fails by it.
                    drop(compressed_in);
                    decrypted
                };
                let decrypting = thread::Builder::new().spawn_scoped(scope, decrypting).map_err(no_thread)?;
                (Some(decrypting), compressed_out)
            }
        };
        let inflating = move || {
            let inflated = inflate(arrived, plain, &mut compressed, &mut plain_in, observer);
            aftermath.note(Stage::Inflate, &inflated);
            drop(plain_in);
            inflated
        };
        let inflating = thread::Builder::new().spawn_scoped(scope, inflating).map_err(no_thread)?;
        let mut plain = plain_out;
        let watch = &Stopwatch::start();
        let sunk = sink(&mut Metered::new(&mut plain, watch, &run.meters().unpack));
        watch.lap(&run.meters().unpack);
        aftermath.note(Stage::Sink, &sunk);
        drop(plain);
        let fetched = joined(fetching.join());
        let decrypted = decrypting.map_or(Ok(()), |decrypting| joined(decrypting.join()));
        let inflated = joined(inflating.join());
        // Each stage sees the failure of the one before it as the end of its input.
        let first = match fetched? {
            Fetched::Whole => None,
            Fetched::GivenUp => aftermath.first(),
        };
        match first {
            None | Some(Stage::Decrypt) => decrypted.and(inflated).and_then(|bytes| Ok((bytes, sunk?))),
            Some(Stage::Inflate) => inflated.and_then(|bytes| Ok((bytes, sunk?))),
            Some(Stage::Sink) => sunk.and_then(|sunk| Ok((inflated?, sunk))),
        }
    })
}

fn no_thread(source: std::io::Error) -> LayerFault {
    LayerFault::Storage { doing: "start a thread for", name: "the layer".to_owned(), folder: None, source }
}

/// A stage that panicked goes on panicking here.
fn joined<T>(result: thread::Result<T>) -> T {
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Refuses a blob that is said to have `size` bytes if nothing within the bounds can have become so long when it was stored.
/// To be asked before the blob is.
///
/// # Errors
/// [`LayerFault::Limit`].
pub fn check_size(size: u64, limits: &Limits) -> Result<(), LayerFault> {
    // What cannot be compressed grows a little: by five bytes in every 32 KiB of gzip, and headers.
    let limit = limits.bytes.saturating_add(limits.bytes / 64).saturating_add(1 << 20);
    match size > limit {
        true => Err(LayerFault::Limit { what: counted::STORED, limit: limits.bytes }),
        false => Ok(()),
    }
}

/// How reading the blob ended.
enum Fetched {
    /// It was read to its end, and is the one that was named.
    Whole,
    /// A later stage failed, and the rest was not worth reading.
    GivenUp,
}

/// A blob that comes from a source.
struct Incoming<'a> {
    blob: Box<dyn Read + Send + 'a>,
    /// How many bytes came before, and the hash over them.
    begun: (u64, Hasher),
    tap: Option<Tap<'a>>,
}

/// Reads and hashes the blob. Goes on for a while after a fault in what was read: whether the bytes were the right ones
/// decides who is to blame.
fn fetch(
    number: usize,
    descriptor: &Descriptor,
    from: Incoming<'_>,
    mut to: Sender,
    (arrived, observer): (&Arrived<'_>, &dyn Observer),
    aftermath: &Aftermath,
) -> Result<Fetched, LayerFault> {
    let Descriptor { digest: expected, size, .. } = *descriptor;
    let Incoming { mut blob, begun: (mut read, mut hasher), mut tap } = from;
    let mut wanted = true;
    let mut last = None;
    let mut buffer = vec![0; BUFFER];
    let (watch, meters) = (Stopwatch::start(), arrived.run.meters());
    loop {
        watch.skip();
        if observer.stopped() {
            return Err(LayerFault::Interrupted);
        }
        if let Some(further) = aftermath.further().or_else(|| (!wanted).then_some(FURTHER))
            && read >= *last.get_or_insert_with(|| read.saturating_add(further))
            && read < size
        {
            return Ok(Fetched::GivenUp);
        }
        // What has come is handed on at once: a source that is slow must not keep anybody from looking at it, nor here from
        // looking whether it is still wanted.
        let filled = read_some(&mut blob, &mut buffer).map_err(LayerFault::Read)?;
        watch.lap(&meters.fetch);
        if filled == 0 {
            break;
        }
        let bytes = buffer.get(..filled).unwrap_or_default();
        read += filled as u64;
        if read > size {
            return Err(LayerFault::Length { expected: size, actual: "more".to_owned() });
        }
        hasher.update(bytes);
        watch.lap(&meters.hash);
        if let Some(tap) = &mut tap {
            tap(bytes, read, &hasher);
            watch.lap(&meters.unpack);
        }
        arrived.add(filled as u64);
        observer.event(Event::LayerRead { layer: number, bytes: read });
        if wanted {
            match to.send(buffer, filled) {
                Ok(empty) => buffer = empty,
                Err(Closed) => {
                    wanted = false;
                    buffer = vec![0; BUFFER];
                }
            }
        }
    }
    if read != size {
        return Err(LayerFault::Length { expected: size, actual: read.to_string() });
    }
    compare("blob", expected, hasher)?;
    to.finish();
    Ok(Fetched::Whole)
}

/// Decompresses what has arrived, and hashes it if it has a digest to compare. Gives its length.
fn inflate(
    arrived: &Arrived<'_>,
    expected: Option<Digest>,
    from: &mut Receiver,
    to: &mut Sender,
    observer: &dyn Observer,
) -> Result<u64, LayerFault> {
    let mut hashed = expected.map(|expected| (expected, expected.algorithm().hasher()));
    let Arrived { run, compression, .. } = *arrived;
    let (watch, meters) = (&Stopwatch::start(), run.meters());
    let from = Metered::new(from, watch, &meters.inflate);
    let mut plain = inflate::decoder(compression, from, run, observer).map_err(damaged)?;
    let mut written = 0;
    let mut buffer = vec![0; BUFFER];
    loop {
        let filled = fill(&mut plain, &mut buffer).map_err(damaged)?;
        watch.lap(&meters.inflate);
        if filled == 0 {
            break;
        }
        written += filled as u64;
        let (what, limit) = arrived.bytes_allowed();
        if written > limit {
            return Err(LayerFault::Limit { what, limit });
        }
        run.take_bytes(compression, filled as u64)?;
        if let Some((_, hasher)) = &mut hashed {
            hasher.update(buffer.get(..filled).unwrap_or_default());
        }
        watch.lap(&meters.hash);
        let sent = to.send(buffer, filled);
        watch.skip();
        match sent {
            Ok(empty) => buffer = empty,
            // The reason is the next stage's to tell.
            Err(Closed) => return Ok(written),
        }
    }
    if let Some((expected, hasher)) = hashed {
        compare("uncompressed archive", expected, hasher)?;
    }
    to.finish();
    Ok(written)
}

fn damaged(error: std::io::Error) -> LayerFault {
    if let Some(cause) = error.get_ref().and_then(|cause| cause.downcast_ref::<zstandard::WindowTooLarge>()) {
        return LayerFault::Limit { what: counted::WINDOW, limit: cause.limit };
    }
    match error.downcast::<zstandard::NoMemory>() {
        Ok(zstandard::NoMemory(fault)) => fault,
        Err(error) => LayerFault::Compression(error),
    }
}

/// What has come of a blob so far. What it is announced as proves nothing: whoever answers for it need not send it.
struct Arrived<'a> {
    run: &'a Run,
    compression: Compression,
    bytes: AtomicU64,
}

impl Arrived<'_> {
    /// Counts bytes, before they are handed on.
    fn add(&self, count: u64) {
        self.bytes.fetch_add(count, Ordering::Relaxed);
        self.run.take_stored(self.compression, count);
    }

    /// How long the archive may have become by now, by its own bound or by the ratio to what has come.
    fn bytes_allowed(&self) -> (&'static str, u64) {
        let limits = &self.run.options().limits;
        let by_ratio = match self.compression {
            Compression::None => u64::MAX,
            Compression::Gzip | Compression::Zstd => {
                let bytes = self.bytes.load(Ordering::Relaxed);
                bytes.saturating_mul(limits.ratio).max(Limits::RATIO_FROM)
            }
        };
        match limits.bytes <= by_ratio {
            true => (counted::INFLATED, limits.bytes),
            false => (counted::INFLATED_BY_RATIO, by_ratio),
        }
    }
}

fn untar(from: &mut Metered<'_>, target: OwnedFd, form: Form, run: &Run) -> Result<Applied, LayerFault> {
    let mut reader = tar::Reader::new(run.options().limits.clone());
    let mut unpacker = Unpacker::new(target, form, run);
    let mut taken = Taken::default();
    loop {
        let chunk = from.fill_buf().map_err(LayerFault::Read)?;
        if chunk.is_empty() {
            break;
        }
        let length = chunk.len();
        let mut rest = chunk;
        while let Some(event) = reader.next(&mut rest)? {
            match event {
                TarEvent::Entry(entry) => {
                    taken.claimed += run.take_entry(entry.kind.size())?;
                    taken.entry(run)?;
                    unpacker.entry(entry)?;
                }
                TarEvent::Data { offset, bytes } => {
                    taken.data(offset, bytes.len() as u64, run)?;
                    unpacker.data(offset, bytes)?;
                }
                TarEvent::FileEnd => unpacker.file_end()?,
            }
        }
        from.consume(length);
    }
    reader.finish()?;
    let applied = unpacker.finish()?;
    Ok(Applied { claimed: taken.claimed, occupied: taken.occupied, ..applied })
}

/// What the entries of a layer take up, which is more than their archive says where files are small or have holes.
#[derive(Debug, Default)]
struct Taken {
    claimed: u64,
    occupied: u64,
    /// The block of the present file that was counted last.
    block: Option<u64>,
}

impl Taken {
    /// Bytes of an entry besides its content: about what its inode and its name are in memory.
    const ENTRY: u64 = 1024;

    fn entry(&mut self, run: &Run) -> Result<(), LayerFault> {
        self.block = None;
        self.take(Self::ENTRY, run)
    }

    /// Counts the blocks that these bytes are in, each once.
    fn data(&mut self, offset: u64, length: u64, run: &Run) -> Result<(), LayerFault> {
        let Some(last) = length.checked_sub(1).map(|most| offset.saturating_add(most) / BLOCK) else {
            return Ok(());
        };
        let first = offset / BLOCK;
        let known = u64::from(self.block == Some(first));
        self.block = Some(last);
        self.take((last - first + 1 - known) * BLOCK, run)
    }

    fn take(&mut self, count: u64, run: &Run) -> Result<(), LayerFault> {
        self.occupied = self.occupied.saturating_add(count);
        run.occupy(count)
    }
}

fn compare(of: &'static str, expected: Digest, hasher: Hasher) -> Result<(), LayerFault> {
    let actual = hasher.finish();
    let digests = Mismatch { expected, actual };
    if actual == expected {
        Ok(())
    } else {
        Err(LayerFault::DigestMismatch { of, digests: Box::new(digests) })
    }
}

/// Reads until the buffer is full or the stream ends.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match read_some(from, rest)? {
            0 => break,
            more => filled += more,
        }
    }
    Ok(filled)
}

/// Reads what one read gives; nothing at the end.
fn read_some(from: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match from.read(buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}
