//! The request target: a path and a query that can be read in one way only.
//!
//! The path is checked and never decoded: what a client wrote is what the key broker sees. Whatever two
//! readers could take for two different paths (encoded slashes, dot segments, empty segments, NUL, broken
//! escapes) is refused here, so that no list of allowed paths can be walked around. This is not a URL
//! library: fragments and authorities are the HTTP library's business.
//!
//! Implements the origin form of RFC 9112 §3.2.1, the percent encoding of RFC 3986 §2.1, and the query as
//! `application/x-www-form-urlencoded` (WHATWG URL §5), of which a repeated key counts with its last value.

use std::borrow::Cow;

/// A checked request target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'a> {
    path: &'a str,
    query: Option<&'a str>,
}

/// Why a request target was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// Authority form, asterisk form, or no target at all.
    #[error("the request target is not an absolute path")]
    NotAPath,
    /// A byte outside printable ASCII, or a backslash, in the path or the query.
    #[error("the request target holds a character that must be percent-encoded")]
    RawCharacter,
    /// A `%` that two hexadecimal digits do not follow.
    #[error("the request target holds a broken percent encoding")]
    BrokenEscape,
    /// `%00` in the path.
    #[error("the path holds an encoded NUL")]
    Nul,
    /// `%2F` or `%5C` in the path.
    #[error("the path holds an encoded slash")]
    EncodedSlash,
    /// `//` in the path.
    #[error("the path holds an empty segment")]
    EmptySegment,
    /// `.` or `..`, encoded or not.
    #[error("the path holds a dot segment")]
    DotSegment,
    /// A query whose decoded bytes are not UTF-8.
    #[error("the query does not decode to UTF-8")]
    NotUtf8,
}

impl<'a> Target<'a> {
    /// Checks `raw`, an origin-form target (`/path` or `/path?query`).
    ///
    /// # Errors
    ///
    /// See [`TargetError`]; nothing is corrected silently.
    pub fn parse(raw: &'a str) -> Result<Self, TargetError> {
        if !raw.starts_with('/') {
            return Err(TargetError::NotAPath);
        }
        if raw.bytes().any(|b| !b.is_ascii_graphic() || b == b'\\') {
            return Err(TargetError::RawCharacter);
        }
        let (path, query) = match raw.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (raw, None),
        };
        check_path(path)?;
        if let Some(query) = query {
            for escape in escapes(query) {
                escape?;
            }
        }
        Ok(Self { path, query })
    }

    /// The path as written, percent encodings included; it starts with `/`.
    #[must_use]
    pub fn path(&self) -> &'a str {
        self.path
    }

    /// The text after `?` as written, if there is a `?`.
    #[must_use]
    pub fn query(&self) -> Option<&'a str> {
        self.query
    }

    /// The decoded value of the query parameter `name`: the last one if it is repeated, `None` if it is absent.
    ///
    /// # Errors
    ///
    /// [`TargetError::NotUtf8`] if a key or a value of that name does not decode to UTF-8: a replacement
    /// character in report data would bind something that nobody sent.
    pub fn parameter(&self, name: &str) -> Result<Option<Cow<'a, str>>, TargetError> {
        let mut found = None;
        for pair in self.query.unwrap_or_default().split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if decode_form(key)? == name {
                found = Some(decode_form(value)?);
            }
        }
        Ok(found)
    }
}

/// Refuses every path that could be read in two ways.
fn check_path(path: &str) -> Result<(), TargetError> {
    for escape in escapes(path) {
        match escape? {
            0 => return Err(TargetError::Nul),
            b'/' | b'\\' => return Err(TargetError::EncodedSlash),
            _ => {}
        }
    }
    if path.contains("//") {
        return Err(TargetError::EmptySegment);
    }
    match path.split('/').any(is_dot_segment) {
        true => Err(TargetError::DotSegment),
        false => Ok(()),
    }
}

/// Whether a segment means "here" or "above", with or without percent encoding.
fn is_dot_segment(segment: &str) -> bool {
    let mut rest = segment;
    let mut dots = 0;
    while !rest.is_empty() {
        let plain = rest.strip_prefix('.');
        let encoded = || rest.strip_prefix("%2e").or_else(|| rest.strip_prefix("%2E"));
        match plain.or_else(encoded) {
            Some(after) => rest = after,
            None => return false,
        }
        dots += 1;
    }
    dots == 1 || dots == 2
}

/// The bytes that the percent encodings of `text` stand for, in order.
fn escapes(text: &str) -> impl Iterator<Item = Result<u8, TargetError>> {
    text.split('%').skip(1).map(|after| {
        let mut digits = after.bytes();
        hex_pair(digits.next(), digits.next()).ok_or(TargetError::BrokenEscape)
    })
}

/// One byte out of two hexadecimal digits.
fn hex_pair(high: Option<u8>, low: Option<u8>) -> Option<u8> {
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    Some(digit(high?)? << 4 | digit(low?)?)
}

/// Decodes one key or value of a form: `+` is a space, `%XX` a byte, the whole is UTF-8.
fn decode_form(text: &str) -> Result<Cow<'_, str>, TargetError> {
    if !text.contains(['%', '+']) {
        return Ok(Cow::Borrowed(text));
    }
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => hex_pair(bytes.next(), bytes.next()).ok_or(TargetError::BrokenEscape)?,
            other => other,
        });
    }
    String::from_utf8(out).map(Cow::Owned).map_err(|_| TargetError::NotUtf8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn takes_plain_targets_as_written() {
        for (raw, path, query) in [
            ("/", "/", None),
            ("/info", "/info", None),
            ("/cdh/resource/a/b/c?x=1&y=%41", "/cdh/resource/a/b/c", Some("x=1&y=%41")),
            ("/cdh/resource/a%20b/%c3%a9", "/cdh/resource/a%20b/%c3%a9", None),
            ("/a/...", "/a/...", None),
            ("/a/.b/c.", "/a/.b/c.", None),
            ("/a?", "/a", Some("")),
            ("/a?b?c//../%2f", "/a", Some("b?c//../%2f")),
        ] {
            let target = Target::parse(raw).unwrap();
            assert_eq!((target.path(), target.query()), (path, query), "{raw}");
        }
    }

    #[test]
    fn refuses_what_two_readers_read_differently() {
        use TargetError::*;
        for (raw, error) in [
            ("", NotAPath),
            ("*", NotAPath),
            ("info", NotAPath),
            ("/a b", RawCharacter),
            ("/é", RawCharacter),
            ("/a\\b", RawCharacter),
            ("/a\tb", RawCharacter),
            ("/a?b\u{7f}", RawCharacter),
            ("/a%", BrokenEscape),
            ("/a%4", BrokenEscape),
            ("/a%zz", BrokenEscape),
            ("/a%%41", BrokenEscape),
            ("/a%+1", BrokenEscape),
            ("/a?b=%", BrokenEscape),
            ("/a?b=%4g", BrokenEscape),
            ("/a%00", Nul),
            ("/a%2fb", EncodedSlash),
            ("/a%2Fb", EncodedSlash),
            ("/a%5cb", EncodedSlash),
            ("//a", EmptySegment),
            ("/a//b", EmptySegment),
            ("/a/b//", EmptySegment),
            ("/.", DotSegment),
            ("/a/../b", DotSegment),
            ("/a/./b", DotSegment),
            ("/a/%2e/b", DotSegment),
            ("/a/%2E%2e", DotSegment),
            ("/a/.%2e/b", DotSegment),
        ] {
            assert_eq!(Target::parse(raw), Err(error), "{raw}");
        }
    }

    #[test]
    fn parameters_follow_the_form_rules() {
        let value = |raw: &'static str, name: &str| {
            Target::parse(raw).unwrap().parameter(name).map(|v| v.map(Cow::into_owned))
        };
        let some = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(value("/a", "k"), Ok(None));
        assert_eq!(value("/a?", "k"), Ok(None));
        assert_eq!(value("/a?k", "k"), some(""));
        assert_eq!(value("/a?k=", "k"), some(""));
        assert_eq!(value("/a?k=1&k=2", "k"), some("2"));
        assert_eq!(value("/a?j=1&&k=a+b%2B%3d=c", "k"), some("a b+==c"));
        assert_eq!(value("/a?%6b=v", "k"), some("v"));
        assert_eq!(value("/a?k=%00", "k"), some("\0"));
        assert_eq!(value("/a?k=%c3%a9", "k"), some("é"));
        assert_eq!(value("/a?k=%ff", "k"), Err(TargetError::NotUtf8));
    }

    /// Encodes a form value the long way round: every byte as an escape.
    fn encode_form(text: &str) -> String {
        text.bytes().map(|b| format!("%{b:02X}")).collect()
    }

    proptest! {
        #[test]
        fn never_panics(raw in ".{0,200}") {
            if let Ok(target) = Target::parse(&raw) {
                let _ = target.parameter("k");
            }
        }

        #[test]
        fn near_targets_never_panic_and_hide_nothing(raw in "/[a-z./%0-9+=&?]{0,40}") {
            if let Ok(target) = Target::parse(&raw) {
                prop_assert!(raw.starts_with(target.path()));
                prop_assert!(!target.path().split('/').any(|s| s == "." || s == ".."));
                let _ = target.parameter("k");
            }
        }

        #[test]
        fn form_values_round_trip(text in ".{0,60}") {
            let raw = format!("/a?k={}", encode_form(&text));
            let value = Target::parse(&raw).unwrap().parameter("k").unwrap().unwrap();
            prop_assert_eq!(value, text);
        }
    }
}
