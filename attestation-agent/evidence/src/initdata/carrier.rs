//! How an init-data document travels to the guest: compressed on a block device, or compressed in an annotation.
//!
//! The device (Kata Containers) begins with the eight bytes `initdata`, a little-endian u64 with the length of what
//! follows, and that many bytes of gzip (RFC 1952); what comes after is the rest of the last sector. The annotation
//! `io.katacontainers.config.hypervisor.cc_init_data`, and the file that peer pods leave in the guest, is standard
//! base64 of the same gzip. The host writes both: every length is checked before memory is set aside for it, and one
//! gzip member is read, no more. Not here: opening devices, and what the document says ([`super::InitData`]).

use std::io::{Read, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::bufread::GzDecoder;
use flate2::{Compression, GzBuilder};

use super::{MAX_LEN, invalid};
use crate::Error;

/// Bytes at the start of an init-data device: magic and length.
pub const DEVICE_HEADER_LEN: usize = 16;

/// Longest compressed document, in bytes. Data that cannot be compressed grows by five bytes in every 16 KiB or more
/// and by a header of a few dozen bytes, so nothing longer comes from a document of [`MAX_LEN`] bytes.
pub const MAX_COMPRESSED_LEN: usize = MAX_LEN + 4096;

const MAGIC: &[u8; 8] = b"initdata";

/// Devices are read in sectors.
const SECTOR: usize = 512;

/// Reads the start of a block device: the length in bytes of the gzip that follows, or none if this is no init-data
/// device.
///
/// # Errors
/// [`Error::InitData`] for a length of zero, [`Error::TooLarge`] beyond [`MAX_COMPRESSED_LEN`].
pub fn device_length(header: &[u8; DEVICE_HEADER_LEN]) -> Result<Option<usize>, Error> {
    let Some((magic, length)) = header.split_first_chunk::<8>() else { return Ok(None) };
    let (true, Some(length)) = (magic == MAGIC, length.first_chunk::<8>()) else { return Ok(None) };
    let size = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
    match size {
        0 => Err(invalid("the init-data device says that it holds 0 bytes".to_owned())),
        _ => bounded("the gzip on the init-data device", size).map(Some),
    }
}

/// The document in the image of an init-data device; none if it does not begin like one.
///
/// # Errors
/// As [`device_length`] and [`expand`]; [`Error::Truncated`] if the image ends early.
pub fn from_device(image: &[u8]) -> Result<Option<String>, Error> {
    let Some((header, rest)) = image.split_first_chunk() else { return Ok(None) };
    let Some(length) = device_length(header)? else { return Ok(None) };
    let gzip = rest.get(..length).ok_or(Error::Truncated {
        field: "initdata.gzip",
        need: length,
        left: rest.len(),
    })?;
    expand(gzip).map(Some)
}

/// The image of an init-data device that holds `document`, padded with zeros to whole sectors.
///
/// # Errors
/// As [`compress`].
pub fn to_device(document: &str) -> Result<Vec<u8>, Error> {
    let gzip = compress(document)?;
    let mut image = Vec::with_capacity((DEVICE_HEADER_LEN + gzip.len()).next_multiple_of(SECTOR));
    image.extend_from_slice(MAGIC);
    image.extend_from_slice(&(gzip.len() as u64).to_le_bytes());
    image.extend_from_slice(&gzip);
    image.resize(image.len().next_multiple_of(SECTOR), 0);
    Ok(image)
}

/// The document in the text of an annotation. White space around it is no part of it: files end with a line feed.
///
/// # Errors
/// [`Error::InitData`] if it is not standard base64, else as [`expand`].
pub fn from_annotation(text: &str) -> Result<String, Error> {
    let text = text.trim_ascii();
    bounded("the base64 of the init-data document", text.len() / 4 * 3)?;
    let gzip = STANDARD
        .decode(text)
        .map_err(|_| invalid("its wrapping is not standard base64 in one line".to_owned()))?;
    expand(&gzip)
}

/// The text of an annotation that holds `document`, without a line feed.
///
/// # Errors
/// As [`compress`].
pub fn to_annotation(document: &str) -> Result<String, Error> {
    Ok(STANDARD.encode(compress(document)?))
}

/// Expands one gzip member that is exactly `gzip` to the text in it, of at most [`MAX_LEN`] bytes.
///
/// # Errors
/// [`Error::TooLarge`] for more on either side; [`Error::Trailing`] for bytes or further members after the first;
/// [`Error::InitData`] for anything that is not gzip, has a wrong checksum or length, or is not UTF-8.
pub fn expand(gzip: &[u8]) -> Result<String, Error> {
    bounded("the gzip of the init-data document", gzip.len())?;
    let mut rest = gzip;
    let mut bytes = Vec::new();
    GzDecoder::new(&mut rest)
        .take(MAX_LEN as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| invalid(format!("its gzip wrapping cannot be read ({error})")))?;
    if bytes.len() > MAX_LEN {
        let what = "the init-data document, as far as it was expanded,";
        return Err(Error::TooLarge { what, size: bytes.len(), limit: MAX_LEN });
    }
    if !rest.is_empty() {
        return Err(Error::Trailing { what: "the gzip of the init-data document", extra: rest.len() });
    }
    String::from_utf8(bytes).map_err(|_| invalid("it is not UTF-8 text".to_owned()))
}

/// Compresses a document. The same text gives the same bytes: no name and no time go in.
///
/// # Errors
/// [`Error::TooLarge`] beyond [`MAX_LEN`].
pub fn compress(document: &str) -> Result<Vec<u8>, Error> {
    if document.len() > MAX_LEN {
        return Err(Error::TooLarge { what: "the init-data document", size: document.len(), limit: MAX_LEN });
    }
    let mut writer = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    let written = writer.write_all(document.as_bytes()).and_then(|()| writer.finish());
    written.map_err(|error| invalid(format!("compressing it failed ({error})")))
}

fn bounded(what: &'static str, size: usize) -> Result<usize, Error> {
    if size > MAX_COMPRESSED_LEN {
        return Err(Error::TooLarge { what, size, limit: MAX_COMPRESSED_LEN });
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n\"aa.toml\" = ''\n";

    /// What `printf hello | gzip -9n` writes: made by another program.
    const HELLO: &str = "1f8b0800000000000203cb48cdc9c9070086a6103605000000";

    #[test]
    fn another_program_s_gzip_is_read() {
        assert_eq!(expand(&hex::decode(HELLO).unwrap()).unwrap(), "hello");
    }

    #[test]
    fn gzip_that_is_not_exactly_one_sound_member_is_refused() {
        let good = compress(TEXT).unwrap();
        let change = |at: usize| {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            bytes
        };
        let cases = [
            ("nothing", Vec::new(), "INIT_DATA_INVALID"),
            ("no gzip", b"plain text, not gzip at all".to_vec(), "INIT_DATA_INVALID"),
            ("cut", good[..good.len() - 1].to_vec(), "INIT_DATA_INVALID"),
            ("checksum", change(good.len() - 8), "INIT_DATA_INVALID"),
            ("length", change(good.len() - 4), "INIT_DATA_INVALID"),
            ("method", change(2), "INIT_DATA_INVALID"),
            ("one byte more", [good.as_slice(), &[0]].concat(), "EVIDENCE_TRAILING_BYTES"),
            ("two members", [good.as_slice(), &good].concat(), "EVIDENCE_TRAILING_BYTES"),
            ("not UTF-8", gzip(b"\xff\xfe"), "INIT_DATA_INVALID"),
        ];
        for (title, bytes, code) in cases {
            assert_eq!(expand(&bytes).unwrap_err().code(), code, "{title}");
        }
    }

    #[test]
    fn a_bomb_is_expanded_to_the_limit_and_no_further() {
        let bomb = gzip(&vec![b' '; 256 << 20]);
        assert!(bomb.len() < MAX_COMPRESSED_LEN, "{} bytes", bomb.len());
        let error = expand(&bomb).unwrap_err();
        assert_eq!(error.code(), "EVIDENCE_TOO_LARGE");
        assert!(error.to_string().contains(&(MAX_LEN + 1).to_string()), "{error}");
        assert_eq!(expand(&compress(&" ".repeat(MAX_LEN)).unwrap()).unwrap().len(), MAX_LEN);
        assert_eq!(compress(&" ".repeat(MAX_LEN + 1)).unwrap_err().code(), "EVIDENCE_TOO_LARGE");
    }

    #[test]
    fn noise_still_fits() {
        let mut seed = 1u64;
        let noise: String = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(u8::try_from((seed >> 33) % 127 + 1).unwrap())
        })
        .take(MAX_LEN)
        .collect();
        assert_eq!(expand(&compress(&noise).unwrap()).unwrap(), noise);
    }

    #[test]
    fn devices_begin_with_magic_and_a_length_that_is_checked() {
        let image = to_device(TEXT).unwrap();
        assert_eq!(image.len() % SECTOR, 0);
        assert_eq!(from_device(&image).unwrap().unwrap(), TEXT);
        let with_length = |length: u64| {
            let mut image = image.clone();
            image[8..16].copy_from_slice(&length.to_le_bytes());
            from_device(&image).unwrap_err().code()
        };
        assert_eq!(with_length(0), "INIT_DATA_INVALID");
        assert_eq!(with_length(MAX_COMPRESSED_LEN as u64 + 1), "EVIDENCE_TOO_LARGE");
        assert_eq!(with_length(u64::MAX), "EVIDENCE_TOO_LARGE");
        assert_eq!(with_length(MAX_COMPRESSED_LEN as u64), "EVIDENCE_TRUNCATED");
        assert_eq!(with_length(512 - 16), "EVIDENCE_TRAILING_BYTES", "padding is no part of the gzip");
        for other in [&b"INITDATA"[..], b"", b"initdat", &[0; 600], TEXT.as_bytes()] {
            assert_eq!(from_device(other).unwrap(), None);
        }
    }

    #[test]
    fn annotations_are_one_line_of_standard_base64() {
        let text = to_annotation(TEXT).unwrap();
        assert!(!text.contains('\n'));
        assert_eq!(from_annotation(&format!("{text}\n")).unwrap(), TEXT);
        let (start, end) = text.split_at(40);
        for bad in [format!("{start}\n{end}"), text.replace('=', ""), format!("-{text}"), String::new()] {
            let result = from_annotation(&bad);
            // A text whose length is a multiple of four has no padding to lose.
            assert!(bad == text || result.unwrap_err().code() == "INIT_DATA_INVALID", "{bad}");
        }
        let long = "A".repeat(MAX_COMPRESSED_LEN * 2);
        assert_eq!(from_annotation(&long).unwrap_err().code(), "EVIDENCE_TOO_LARGE");
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut writer = GzBuilder::new().write(Vec::new(), Compression::best());
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap()
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(text: String) {
            prop_assert_eq!(&from_device(&to_device(&text).unwrap()).unwrap().unwrap(), &text);
            prop_assert_eq!(&from_annotation(&to_annotation(&text).unwrap()).unwrap(), &text);
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), text: String) {
            let _ = expand(&bytes);
            let _ = from_device(&bytes);
            let _ = from_device(&[b"initdata".as_slice(), &[200, 0, 0, 0, 0, 0, 0, 0, 0x1f, 0x8b, 8, 0], &bytes].concat());
            let _ = from_annotation(&text);
        }

        #[test]
        fn a_flipped_bit_gives_the_same_text_or_an_error(at in 0usize..1000, bit in 0u8..8) {
            let mut bytes = compress(TEXT).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            // Time, operating system and hints of the header mean nothing; everything else is covered.
            if let Ok(text) = expand(&bytes) {
                prop_assert_eq!(text, TEXT);
                prop_assert!((3..10).contains(&at), "byte {at}");
            }
        }
    }
}
