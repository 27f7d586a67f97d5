//! Decompression of a layer: gzip (RFC 1952, several members), Zstandard (RFC 8878, several frames), or none.
//!
//! It does not bound the output, the pipe does.

use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;

use super::{run::Run, zstandard::Frames};
use crate::{Compression, Observer};

/// A reader of the uncompressed bytes of `from`.
pub(super) fn decoder<'a>(
    compression: Compression,
    from: impl BufRead + 'a,
    run: &'a Run,
    observer: &'a dyn Observer,
) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match compression {
        Compression::None => Box::new(from),
        Compression::Gzip => Box::new(MultiGzDecoder::new(from)),
        Compression::Zstd => Box::new(Frames::new(from, run, observer)?),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression as Level, write::GzEncoder};

    use super::*;
    use crate::{Silent, layer::Options};

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Level::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn inflate(compression: Compression, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        decoder(compression, bytes, &Run::new(Options::default()), &Silent)?.read_to_end(&mut plain)?;
        Ok(plain)
    }

    #[test]
    fn several_members_and_frames_are_one_stream() {
        let members = [gzip(b"one "), gzip(b""), gzip(b"two")].concat();
        assert_eq!(inflate(Compression::Gzip, &members).unwrap(), b"one two");
        let frames =
            [zstd::encode_all(&b"one "[..], 1).unwrap(), zstd::encode_all(&b"two"[..], 1).unwrap()].concat();
        assert_eq!(inflate(Compression::Zstd, &frames).unwrap(), b"one two");
        assert_eq!(inflate(Compression::None, b"one").unwrap(), b"one");
    }

    #[test]
    fn damaged_and_short_streams_are_errors() {
        for (compression, good) in [
            (Compression::Gzip, gzip(&[7; 5000])),
            (Compression::Zstd, zstd::encode_all(&[7; 5000][..], 1).unwrap()),
        ] {
            for cut in 1..good.len() {
                assert!(inflate(compression, &good[..cut]).is_err(), "{compression:?} cut at {cut}");
            }
            assert!(inflate(compression, &[good.clone(), b"garbage".to_vec()].concat()).is_err());
        }
        let mut wrong = gzip(b"some bytes");
        let at = wrong.len() - 6;
        wrong[at] ^= 1;
        assert!(inflate(Compression::Gzip, &wrong).is_err(), "its own checksum");
    }
}
