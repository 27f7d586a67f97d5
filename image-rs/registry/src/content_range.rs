//! Which part of a blob an answer is: `Content-Range` (RFC 9110 section 14.4).

/// `bytes <first>-<last>/<whole>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentRange {
    /// Place of the first byte.
    pub first: u64,
    /// Place of the last byte.
    pub last: u64,
    /// Length of the whole, if known.
    pub whole: Option<u64>,
}

impl ContentRange {
    /// Reads the value of the header; `None` if it is no range of bytes, or one that cannot be.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (unit, rest) = text.split_once(' ')?;
        let (range, whole) = rest.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last) = (number(first)?, number(last)?);
        let whole = if whole == "*" { None } else { Some(number(whole)?) };
        let fits = first <= last && whole.is_none_or(|whole| last < whole);
        (unit.eq_ignore_ascii_case("bytes") && fits).then_some(Self { first, last, whole })
    }
}

/// Digits only; `u64::from_str` would take a sign.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_are_read_strictly() {
        let range = |first, last, whole| Some(ContentRange { first, last, whole });
        for (text, expected) in [
            ("bytes 0-0/1", range(0, 0, Some(1))),
            ("Bytes 5-9/10", range(5, 9, Some(10))),
            ("bytes 5-9/*", range(5, 9, None)),
            ("bytes 5-10/10", None),
            ("bytes 9-5/10", None),
            ("bytes */10", None),
            ("bytes=0-1/2", None),
            ("bytes +0-1/2", None),
            ("bytes 0-1/2 ", None),
            ("bytes 0-1", None),
            ("items 0-1/2", None),
            ("bytes 0-18446744073709551616/*", None),
            ("bytes -1/2", None),
            ("", None),
        ] {
            assert_eq!(ContentRange::parse(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "(bytes )?[0-9*/ +-]{0,30}|\\PC{0,30}") {
            if let Some(range) = ContentRange::parse(&text) {
                prop_assert!(range.first <= range.last && range.whole.is_none_or(|whole| range.last < whole));
            }
        }

        #[test]
        fn what_is_written_is_read(first in any::<u64>(), more in any::<u64>(), beyond in 1..1000u64) {
            let last = first.saturating_add(more);
            let text = format!("bytes {first}-{last}/*");
            prop_assert_eq!(ContentRange::parse(&text), Some(ContentRange { first, last, whole: None }));
            if let Some(whole) = last.checked_add(beyond) {
                let text = format!("bytes {first}-{last}/{whole}");
                prop_assert_eq!(ContentRange::parse(&text), Some(ContentRange { first, last, whole: Some(whole) }));
            }
        }
    }
}
