//! Messages of the quote generation service: a TDREPORT goes to the host, a quote comes back.
//!
//! Layout of Intel's `qgs_msg_lib.h` (SGX Data Center Attestation Primitives, version 1.1 of the messages), little
//! endian, as `libtdx_attest` and QEMU speak it; on a stream each message follows its length, four bytes **big endian**.
//! Only the two messages about quotes are here. The answer comes from the host and is NOT trusted: it is a frame around
//! a quote, which is parsed and verified like any other.

use crate::Error;
use crate::dcap::MAX_QUOTE_LEN;
use crate::read::Reader;

use super::REPORT_LEN;

/// Length of the prefix of a message on a stream, in bytes.
pub const PREFIX_LEN: usize = 4;

/// Longest answer that is read, in bytes: a quote, its frame, and the identifier of a key.
pub const MAX_RESPONSE_LEN: usize = MAX_QUOTE_LEN + RESPONSE_FRAME_LEN + MAX_ID_LEN;

/// Header and the two lengths of an answer.
const RESPONSE_FRAME_LEN: usize = HEADER_LEN + 8;
const HEADER_LEN: usize = 16;
/// Room for the identifier of the attestation key that the service chose; it has 16 bytes today.
const MAX_ID_LEN: usize = 256;

const MAJOR: u16 = 1;
const MINOR: u16 = 1;
const GET_QUOTE_REQUEST: u32 = 0;
const GET_QUOTE_RESPONSE: u32 = 1;

/// What the service answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response<'a> {
    /// A quote, not looked at yet.
    Quote(&'a [u8]),
    /// An error code of the service, not zero.
    Refused(u32),
}

/// The request for a quote over `report`, with its prefix. The service chooses the attestation key.
#[must_use]
pub fn request(report: &[u8; REPORT_LEN]) -> Vec<u8> {
    const MESSAGE_LEN: u32 = 16 + 8 + 1024;
    const REPORT_SIZE: u32 = 1024;
    let mut bytes = MESSAGE_LEN.to_be_bytes().to_vec();
    bytes.extend(MAJOR.to_le_bytes());
    bytes.extend(MINOR.to_le_bytes());
    bytes.extend(GET_QUOTE_REQUEST.to_le_bytes());
    bytes.extend(MESSAGE_LEN.to_le_bytes());
    bytes.extend(0u32.to_le_bytes()); // error code, of answers alone
    bytes.extend(REPORT_SIZE.to_le_bytes());
    bytes.extend(0u32.to_le_bytes()); // no list of keys
    bytes.extend(report);
    bytes
}

/// The length of the answer that follows `prefix` on a stream.
///
/// # Errors
/// [`Error::Invalid`] for less than a header, [`Error::TooLarge`] above [`MAX_RESPONSE_LEN`]: nothing need be set aside
/// for it.
pub fn response_len(prefix: [u8; PREFIX_LEN]) -> Result<usize, Error> {
    let len = usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX);
    if len > MAX_RESPONSE_LEN {
        return Err(Error::TooLarge { what: "the answer for a quote", size: len, limit: MAX_RESPONSE_LEN });
    }
    if len < HEADER_LEN {
        let why = format!("{len} bytes were announced, a header alone has {HEADER_LEN}");
        return Err(Error::Invalid { field: "qgs.length", why });
    }
    Ok(len)
}

/// Reads an answer without its prefix.
///
/// # Errors
/// [`Error::TooLarge`], [`Error::Truncated`], [`Error::Trailing`], and [`Error::Invalid`] for another version or type of
/// message, a length that disagrees with the bytes, or no quote.
pub fn parse_response(bytes: &[u8]) -> Result<Response<'_>, Error> {
    if bytes.len() > MAX_RESPONSE_LEN {
        let (what, size) = ("the answer for a quote", bytes.len());
        return Err(Error::TooLarge { what, size, limit: MAX_RESPONSE_LEN });
    }
    let mut r = Reader::new(bytes);
    let major = r.u16_le("qgs.major_version")?;
    // A later minor version only adds messages.
    r.u16_le("qgs.minor_version")?;
    let kind = r.u32_le("qgs.type")?;
    let size = r.u32_le("qgs.size")?;
    let code = r.u32_le("qgs.error_code")?;
    expect("qgs.major_version", u32::from(major), u32::from(MAJOR))?;
    expect("qgs.type", kind, GET_QUOTE_RESPONSE)?;
    if usize::try_from(size).ok() != Some(bytes.len()) {
        let why = format!("{size} was found in a message of {} bytes", bytes.len());
        return Err(Error::Invalid { field: "qgs.size", why });
    }
    if code != 0 {
        // What follows the header of an error says nothing.
        return Ok(Response::Refused(code));
    }
    let mut length = |field| r.u32_le(field).map(|length| usize::try_from(length).unwrap_or(usize::MAX));
    let (id_len, quote_len) = (length("qgs.selected_id_size")?, length("qgs.quote_size")?);
    r.take(id_len, "qgs.selected_id")?;
    let quote = r.take(quote_len, "qgs.quote")?;
    r.finish("the answer for a quote")?;
    if quote.is_empty() {
        return Err(Error::Invalid { field: "qgs.quote_size", why: "there is no quote".to_owned() });
    }
    Ok(Response::Quote(quote))
}

fn expect(field: &'static str, found: u32, expected: u32) -> Result<(), Error> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Invalid { field, why: format!("{found} was found, {expected} is expected") })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn response(id: &[u8], quote: &[u8]) -> Vec<u8> {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap().to_le_bytes();
        let body = [&length(id), &length(quote), id, quote].concat();
        let size = u32::try_from(HEADER_LEN + body.len()).unwrap();
        [&[1, 0, 1, 0, 1, 0, 0, 0][..], &size.to_le_bytes(), &[0; 4], &body].concat()
    }

    #[test]
    fn a_request_has_the_layout_of_the_header_file() {
        let report = [0x5A; REPORT_LEN];
        let bytes = request(&report);
        assert_eq!(bytes[..4], [0, 0, 4, 0x18], "big endian");
        assert_eq!(bytes[4..28], [1, 0, 1, 0, 0, 0, 0, 0, 0x18, 4, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[28..], report);
        assert_eq!(response_len(*bytes.first_chunk().unwrap()), Ok(bytes.len() - PREFIX_LEN));
    }

    #[test]
    fn answers_are_quotes_or_refusals() {
        assert_eq!(parse_response(&response(&[], b"quote")), Ok(Response::Quote(b"quote")));
        assert_eq!(parse_response(&response(&[7; 16], b"quote")), Ok(Response::Quote(b"quote")));
        let refusal = [1, 0, 1, 0, 1, 0, 0, 0, 16, 0, 0, 0, 0x05, 0x20, 0x01, 0];
        assert_eq!(parse_response(&refusal), Ok(Response::Refused(0x12005)));
    }

    #[test]
    fn answers_of_another_form_are_refused() {
        let good = response(&[7; 16], b"quote");
        for length in 0..good.len() {
            assert!(parse_response(&good[..length]).is_err(), "{length}");
        }
        assert!(parse_response(&[good.as_slice(), &[0]].concat()).is_err(), "longer than it says");
        for (at, to) in [(0, 2), (4, 0), (4, 3), (8, 0), (16, 0xFF), (16, 15), (20, 4), (20, 6), (23, 0xFF)] {
            let mut bad = good.clone();
            bad[at] = to;
            assert!(parse_response(&bad).is_err(), "byte {at}");
        }
        assert!(parse_response(&response(&[], b"")).is_err(), "no quote");
    }

    #[test]
    fn announced_lengths_are_bounded() {
        for (length, fits) in
            [(0, false), (15, false), (16, true), (0x2_0000, true), (0x2_0200, false), (u32::MAX, false)]
        {
            assert_eq!(response_len(length.to_be_bytes()).is_ok(), fits, "{length}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_response(&bytes);
        }

        #[test]
        fn written_answers_read_back(
            id in proptest::collection::vec(any::<u8>(), 0..32),
            quote in proptest::collection::vec(any::<u8>(), 1..200),
        ) {
            let bytes = response(&id, &quote);
            prop_assert_eq!(parse_response(&bytes), Ok(Response::Quote(quote.as_slice())));
        }
    }
}
