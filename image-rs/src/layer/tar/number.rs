//! Numbers in header fields: octal text, or GNU's base-256.
//!
//! Octal: spaces, digits, then spaces and NULs to the field's end. Base-256: the first byte is 0x80 (or 0xff for a
//! negative number), the others are a big-endian number.

use super::Rule;

/// A number from 0 to 2^63-1; an empty field is 0.
pub(super) fn unsigned(what: &'static str, field: &[u8]) -> Result<u64, Rule> {
    let value = signed(what, field)?;
    u64::try_from(value).map_err(|_| Rule::Negative(what))
}

/// A number that may be negative in base-256; an empty field is 0.
pub(super) fn signed(what: &'static str, field: &[u8]) -> Result<i64, Rule> {
    match field.split_first() {
        Some((0x80, rest)) => base_256(what, rest, 0),
        Some((0xff, rest)) => base_256(what, rest, -1),
        _ => octal(what, field),
    }
}

/// Big-endian two's complement; `value` starts as the sign.
fn base_256(what: &'static str, bytes: &[u8], sign: i64) -> Result<i64, Rule> {
    let mut value = sign;
    for byte in bytes {
        value = value.checked_mul(256).ok_or(Rule::OutOfRange(what))? | i64::from(*byte);
    }
    Ok(value)
}

fn octal(what: &'static str, field: &[u8]) -> Result<i64, Rule> {
    let start = field.iter().position(|b| *b != b' ').unwrap_or(field.len());
    let digits = field.get(start..).unwrap_or_default();
    let end = digits.iter().position(|b| !matches!(b, b'0'..=b'7')).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    if rest.iter().any(|b| !matches!(b, 0 | b' ')) {
        return Err(Rule::Number(what));
    }
    let add = |sum: i64, digit: &u8| sum.checked_mul(8)?.checked_add(i64::from(digit - b'0'));
    digits.iter().try_fold(0i64, add).ok_or(Rule::OutOfRange(what))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn forms_that_every_reader_takes_alike() {
        for (field, value) in [
            (&b"0000644\0"[..], 0o644),
            (b"   644 \0", 0o644),
            (b"00000644", 0o644),
            (b"644\0\0\0\0\0", 0o644),
            (b"\0\0\0\0\0\0\0\0", 0),
            (b"        ", 0),
            (b"\x80\0\0\0\0\0\x01\0", 256),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", -2),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", i64::MAX),
        ] {
            assert_eq!(signed("x", field), Ok(value), "{field:?}");
        }
    }

    #[test]
    fn all_others_are_refused() {
        for field in [
            &b"0000648\0"[..],
            b"\x00\x00644\0\0\0",
            b"6 44\0\0\0\0",
            b"644\0x\0\0\0",
            b"-644\0\0\0\0",
            b"+644\0\0\0\0",
            b"0x1f\0\0\0\0",
            b"\t644\0\0\0\0",
            b"\x81\0\0\0\0\0\0\0",
            b"\xfe\0\0\0\0\0\0\0",
        ] {
            assert_eq!(signed("x", field), Err(Rule::Number("x")), "{field:?}");
        }
        assert_eq!(signed("x", b"\x80\0\0\0\x80\0\0\0\0\0\0\0"), Err(Rule::OutOfRange("x")));
        assert_eq!(signed("x", b"7777777777777777777777777"), Err(Rule::OutOfRange("x")));
        assert_eq!(unsigned("x", b"\xff\xff\xff\xff\xff\xff\xff\xfe"), Err(Rule::Negative("x")));
    }

    proptest! {
        #[test]
        fn base_256_is_twos_complement(value in any::<i64>()) {
            let mut field = [if value < 0 { 0xff } else { 0 }; 12];
            field[4..].copy_from_slice(&value.to_be_bytes());
            field[0] |= 0x80;
            prop_assert_eq!(signed("x", &field), Ok(value));
        }

        #[test]
        fn octal_reads_what_is_written(value in 0u64..1 << 33) {
            prop_assert_eq!(unsigned("x", format!("{value:011o}\0").as_bytes()), Ok(value));
        }

        #[test]
        fn never_panics(field in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = unsigned("x", &field);
        }
    }
}
