//! Zstandard (RFC 8878), frame by frame, in memory that is known before it is taken.
//!
//! A frame says in its header how much memory its decoder needs. That is read first: a window above the options' largest is
//! refused, and any other is taken from the budget that all layers share ([`Run`]), so that layers with large windows are
//! decompressed one after another instead of all at once. They wait for it as long as somebody wants them.

use std::io::{self, BufRead, Read};

use zstd::{
    stream::raw::{Decoder, Operation},
    zstd_safe::DParameter,
};

use super::run::{Memory, Run};
use crate::{LayerFault, Observer};

/// Most bytes of a frame's window: 128 MiB, the most that the format's tools take without being told.
pub(super) const LARGEST_WINDOW: u64 = 1 << WINDOW_LOG;
const WINDOW_LOG: u32 = 27;
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Longest header of a frame.
const HEADER_MAX: usize = 18;

/// A frame wants more memory than any.
#[derive(Debug, thiserror::Error)]
#[error("a frame of {window} bytes of window, more than {limit}")]
pub(super) struct WindowTooLarge {
    window: u64,
    /// The most that it may be.
    pub(super) limit: u64,
}

/// There was no memory for a frame's window.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) struct NoMemory(pub(super) LayerFault);

/// Reads the uncompressed bytes of a stream of frames.
pub(super) struct Frames<'a, R> {
    from: R,
    decoder: Decoder<'static>,
    run: &'a Run,
    observer: &'a dyn Observer,
    /// What the window of this frame takes.
    memory: Option<Memory<'a>>,
    /// The first bytes of a frame, of which those before the second number were decoded.
    header: (Vec<u8>, usize),
    inside: bool,
}

impl<'a, R: BufRead> Frames<'a, R> {
    /// Reads frames out of `from`.
    pub(super) fn new(from: R, run: &'a Run, observer: &'a dyn Observer) -> io::Result<Self> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG))?;
        Ok(Self { from, decoder, run, observer, memory: None, header: (Vec::new(), 0), inside: false })
    }

    /// Reads the header of the next frame and waits for its memory. `false` at the end of the stream.
    fn begin(&mut self) -> io::Result<bool> {
        let mut header = Vec::with_capacity(HEADER_MAX);
        // Its length is known when its first bytes are.
        let length = loop {
            let needed = header_length(&header);
            if needed <= header.len() {
                break needed;
            }
            let available = self.from.fill_buf()?;
            if available.is_empty() {
                return if header.is_empty() { Ok(false) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            let wanted = available.len().min(needed - header.len());
            header.extend(available.iter().take(wanted));
            self.from.consume(wanted);
        };
        let window = window(header.get(..length).unwrap_or_default())?;
        let limit = self.run.options().largest_window.min(LARGEST_WINDOW);
        if window > limit {
            return Err(io::Error::other(WindowTooLarge { window, limit }));
        }
        if self.memory.as_ref().is_none_or(|memory| memory.amount() < window) {
            // Given back first: two layers that both wait for more must not hold what they have.
            self.memory = None;
            let memory = self.run.take_memory(window, self.observer);
            self.memory = Some(memory.map_err(|fault| io::Error::other(NoMemory(fault)))?);
        }
        self.header = (header, 0);
        self.inside = true;
        Ok(true)
    }
}

impl<R: BufRead> Read for Frames<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.inside && !self.begin()? {
                return Ok(0);
            }
            let (header, at) = &mut self.header;
            let head = header.get(*at..).unwrap_or_default();
            let status = if head.is_empty() {
                let input = self.from.fill_buf()?;
                let ended = input.is_empty();
                let status = self.decoder.run_on_buffers(input, into)?;
                self.from.consume(status.bytes_read);
                if ended && status.bytes_written == 0 && status.remaining != 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                status
            } else {
                let status = self.decoder.run_on_buffers(head, into)?;
                *at += status.bytes_read;
                status
            };
            if status.remaining == 0 {
                self.inside = false;
            }
            if status.bytes_written > 0 {
                return Ok(status.bytes_written);
            }
        }
    }
}

/// Bytes of the header that begins with `first`, as far as they tell.
fn header_length(first: &[u8]) -> usize {
    match first {
        [_, _, _, _, descriptor, ..] if first.starts_with(&MAGIC) => {
            5 + fields(*descriptor).iter().sum::<usize>()
        }
        // Magic number and length of what is to be skipped.
        [_, _, _, _, ..] if is_skippable(first) => 8,
        _ => 5,
    }
}

/// Bytes of window descriptor, dictionary and content size behind a frame header descriptor.
fn fields(descriptor: u8) -> [usize; 3] {
    let single = descriptor & 0x20 != 0;
    let dictionary = [0, 1, 2, 4].get(usize::from(descriptor & 3)).copied().unwrap_or(0);
    let content = match descriptor >> 6 {
        0 => usize::from(single),
        log => 1 << log,
    };
    [usize::from(!single), dictionary, content]
}

/// Bytes of memory that the frame with this whole header asks for.
fn window(header: &[u8]) -> io::Result<u64> {
    if is_skippable(header) {
        return Ok(0);
    }
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "no Zstandard frame begins here");
    let (magic, rest) = header.split_at_checked(MAGIC.len()).ok_or_else(malformed)?;
    let (descriptor, rest) = rest.split_first().ok_or_else(malformed)?;
    if magic != MAGIC {
        return Err(malformed());
    }
    let [window, dictionary, content] = fields(*descriptor);
    if window == 1 {
        let descriptor = *rest.first().ok_or_else(malformed)?;
        let base = 1u64 << (10 + (descriptor >> 3));
        return Ok(base + base / 8 * u64::from(descriptor & 7));
    }
    // One segment: the window is the content.
    let size = rest.get(dictionary..dictionary + content).ok_or_else(malformed)?;
    let size_of = size.iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    Ok(if content == 2 { size_of + 256 } else { size_of })
}

fn is_skippable(header: &[u8]) -> bool {
    matches!(header, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

#[cfg(test)]
mod tests {
    use std::{io::Write, sync::mpsc, time::Duration};

    use proptest::prelude::*;
    use zstd::stream::write::Encoder;

    use super::*;
    use crate::{Silent, layer::Options};

    fn run() -> Run {
        Run::new(Options::default())
    }

    /// Reads with a source that gives `piece` bytes at a time.
    fn read(bytes: &[u8], piece: usize, run: &Run) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        let from = io::BufReader::with_capacity(piece, bytes);
        Frames::new(from, run, &Silent)?.read_to_end(&mut plain).map(|_| plain)
    }

    fn frame(bytes: &[u8], window_log: u32, content_size: bool) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(window_log).unwrap();
        encoder.include_contentsize(content_size).unwrap();
        if content_size {
            encoder.set_pledged_src_size(Some(bytes.len() as u64)).unwrap();
        }
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn frames_skippable_ones_and_all_forms_of_headers_are_one_stream() {
        let parts: Vec<Vec<u8>> = [0, 1, 300, 70_000, 400_000].map(|length| vec![7; length]).to_vec();
        let mut stream = vec![0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
        for (part, content_size) in parts.iter().zip([true, false].into_iter().cycle()) {
            stream.extend(frame(part, 17, content_size));
            stream.extend(zstd::bulk::compress(part, 3).unwrap());
        }
        stream.extend([0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0]);
        let expected: Vec<u8> =
            parts.iter().flat_map(|part| [part.clone(), part.clone()]).flatten().collect();
        for piece in [1, 2, 7, 4096, 1 << 20] {
            assert_eq!(read(&stream, piece, &run()).unwrap(), expected, "{piece}");
        }
        assert_eq!(read(b"", 9, &run()).unwrap(), b"");
    }

    #[test]
    fn the_window_is_what_the_library_finds() {
        for log in [10, 17, 20, 23, 27] {
            assert_eq!(window(&frame(&[7; 100], log, false)).unwrap(), 1 << log, "{log}");
        }
        for length in [0usize, 255, 256, 257, 65_791, 65_792, 100_000] {
            let whole = zstd::bulk::compress(&vec![7; length], 1).unwrap();
            assert_eq!(window(&whole).unwrap(), length as u64, "{length}");
        }
    }

    #[test]
    fn windows_beyond_the_largest_are_refused_whatever_says_so() {
        // A frame header, and then an empty last block.
        let by_window = |log: u8| vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, (log - 10) << 3, 0x01, 0x00, 0x00];
        assert_eq!(read(&by_window(27), 9, &run()).unwrap(), b"");
        let single = [&MAGIC[..], &[0xe0], &(LARGEST_WINDOW + 1).to_le_bytes(), &[1, 0, 0]].concat();
        let just_above = [&MAGIC[..], &[0x00, (17 << 3) | 1, 1, 0, 0]].concat();
        for frame in [by_window(28), by_window(31), single, just_above] {
            let error = read(&frame, 9, &run()).unwrap_err();
            assert!(error.get_ref().is_some_and(|cause| cause.is::<WindowTooLarge>()), "{error}");
        }
    }

    #[test]
    fn the_operator_may_bound_windows() {
        let run = Run::new(Options { largest_window: 1 << 20, ..Options::default() });
        assert_eq!(read(&frame(&[7; 100], 20, false), 9, &run).unwrap(), [7; 100]);
        let error = read(&frame(&[7; 100], 21, false), 9, &run).unwrap_err();
        assert_eq!(error.to_string(), "a frame of 2097152 bytes of window, more than 1048576");
    }

    #[test]
    fn cut_and_foreign_streams_are_errors() {
        let good = frame(&[9; 5000], 17, true);
        for cut in 1..good.len() {
            assert!(read(&good[..cut], 11, &run()).is_err(), "cut at {cut}");
        }
        for bad in [&b"garbage"[..], b"x", &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0]] {
            assert!(read(&[good.clone(), bad.to_vec()].concat(), 11, &run()).is_err());
        }
    }

    #[test]
    fn a_frame_waits_until_there_is_memory_for_its_window() {
        let run = run();
        let all = run.take_memory(LARGEST_WINDOW, &Silent).unwrap();
        let (done, results) = mpsc::channel();
        std::thread::scope(|scope| {
            let (run, small) = (&run, frame(&[1; 10], 25, false));
            scope.spawn(move || done.send(read(&small, 9, run).unwrap()));
            assert!(results.recv_timeout(Duration::from_millis(50)).is_err(), "it waits");
            drop(all);
            assert_eq!(results.recv().unwrap(), [1; 10]);
        });
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64), piece in 1..9usize) {
            let run = run();
            let _ = read(&bytes, piece, &run);
            let _ = read(&[&MAGIC[..], &bytes].concat(), piece, &run);
        }

        #[test]
        fn what_is_written_is_read(bytes in proptest::collection::vec(any::<u8>(), 0..3000), log in 10..22u32, sized in any::<bool>(), piece in 1..40usize) {
            prop_assert_eq!(read(&frame(&bytes, log, sized), piece, &run()).unwrap(), bytes);
        }
    }
}
