//! Resource URIs: the name of a secret at a KBS.
//!
//! ```text
//! uri    = scheme "://" [ host [ ":" port ] ] "/" segment *( "/" segment ) [ "?" query ]
//! scheme = "kbs" | "kbs+" plugin
//! ```
//!
//! Read by the WHATWG URL rules for a non-special scheme: the scheme is lower-cased, `.` and `..` segments are
//! resolved, a fragment is dropped. Host and port are kept for the text form and play no part in a request.
//! Whatever two readers could read differently is refused: a missing `//`, empty segments, user names, back
//! slashes, control characters, encoded slashes, back slashes or NULs, and encodings that are not UTF-8.
//!
//! One resource has one path. Servers decode paths, rules about resources are compared with their text: so a
//! character that needs no encoding must not have one (RFC 3986 section 6.2.2), and the digits of an encoding
//! are put in upper case.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use url::Url;

use crate::error::KbsError;
use crate::foreign;

/// Longest URI read, in bytes.
const MAX_LEN: usize = 2048;
/// The plugin whose URIs have the bare scheme `kbs`.
const RESOURCE: &str = "resource";
/// The visible ASCII characters that a path holds encoded: the path percent-encode set of the WHATWG URL standard, and
/// the percent sign.
const NEEDS_ENCODING: &[u8] = b"\"#%<>?`{}";

/// A parsed resource URI.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct ResourceUri {
    plugin: String,
    address: String,
    segments: Vec<String>,
    query: Option<String>,
}

impl ResourceUri {
    /// Name of the KBS plugin that serves the resource; `resource` for the scheme `kbs`.
    #[must_use]
    pub fn plugin(&self) -> &str {
        &self.plugin
    }

    /// The path segments, percent-encoded in the one way there is, at least one, none empty.
    #[must_use]
    pub fn segments(&self) -> &[String] {
        &self.segments
    }

    /// The query without its `?`, as written; never empty.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    /// The segments joined by `/`: the key of the offline store.
    #[must_use]
    pub fn path(&self) -> String {
        self.segments.join("/")
    }

    /// Path and query below the base URL of a KBS: `/kbs/v0/<plugin>/<segments>[?query]`.
    #[must_use]
    pub fn http_path(&self) -> String {
        let query = self.query.iter().flat_map(|q| ["?", q.as_str()]).collect::<String>();
        format!("/kbs/v0/{}/{}{query}", self.plugin, self.path())
    }
}

impl FromStr for ResourceUri {
    type Err = KbsError;

    fn from_str(text: &str) -> Result<Self, KbsError> {
        parse(text)
            .map_err(|why| KbsError::ResourceUri { uri: format!("{:?}", foreign::clean(text, 200)), why })
    }
}

impl TryFrom<String> for ResourceUri {
    type Error = KbsError;

    fn try_from(text: String) -> Result<Self, KbsError> {
        text.parse()
    }
}

impl fmt::Display for ResourceUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("kbs")?;
        if self.plugin != RESOURCE {
            write!(f, "+{}", self.plugin)?;
        }
        write!(f, "://{}/{}", self.address, self.path())?;
        match &self.query {
            Some(query) => write!(f, "?{query}"),
            None => Ok(()),
        }
    }
}

fn parse(text: &str) -> Result<ResourceUri, &'static str> {
    if text.len() > MAX_LEN {
        return Err("longer than 2048 bytes");
    }
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("it holds a space or control character");
    }
    let (scheme, rest) = text.split_once(':').ok_or("it has no scheme")?;
    let plugin = plugin(&scheme.to_ascii_lowercase())?;
    let raw_path = rest.split(['?', '#']).next().unwrap_or_default();
    check_encoding(raw_path)?;
    let url = Url::parse(text).map_err(|_| "it is not a URL")?;
    if !rest.starts_with("//") || !url.has_authority() {
        return Err("there is no // after the scheme");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it holds a user name");
    }
    let path = upper_case_digits(url.path());
    let path = path.strip_prefix('/').ok_or("it has no path")?;
    let segments: Vec<String> = path.split('/').map(str::to_owned).collect();
    if segments.iter().any(String::is_empty) {
        return Err("it has an empty path segment");
    }
    let query = url.query().filter(|q| !q.is_empty()).map(str::to_owned);
    let uri = ResourceUri { plugin, address: url.authority().to_owned(), segments, query };
    // Encoding makes three characters of one: what is printed and requested must be short as well.
    if uri.to_string().len() > MAX_LEN {
        return Err("longer than 2048 bytes in its encoded form");
    }
    Ok(uri)
}

/// Name of the plugin in a lower-case scheme.
fn plugin(scheme: &str) -> Result<String, &'static str> {
    match scheme.strip_prefix("kbs") {
        Some("") => Ok(RESOURCE.to_owned()),
        Some(plus) => match plus.strip_prefix('+') {
            Some("") => Err("there is no plugin name after kbs+"),
            // The name becomes a path segment.
            Some(name) if name.chars().all(|c| c == '.') => Err("the plugin name consists of dots"),
            Some(name) => Ok(name.to_owned()),
            None => Err("the scheme is neither kbs nor kbs+<plugin>"),
        },
        None => Err("the scheme is neither kbs nor kbs+<plugin>"),
    }
}

/// Refuses what URL readers disagree about, before one of them has resolved it.
fn check_encoding(raw: &str) -> Result<(), &'static str> {
    if raw.contains('\\') {
        return Err("it holds a back slash");
    }
    let mut decoded = Vec::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16));
        let code = digit().zip(digit()).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
        match code.ok_or("it holds a % without two hexadecimal digits")? {
            b'/' | b'\\' | 0 => return Err("it holds an encoded slash, back slash or NUL"),
            byte if byte.is_ascii_graphic() && !NEEDS_ENCODING.contains(&byte) => {
                return Err("it encodes a character that needs no encoding");
            }
            byte => decoded.push(byte),
        }
    }
    match std::str::from_utf8(&decoded) {
        Ok(_) => Ok(()),
        Err(_) => Err("what it encodes is not UTF-8"),
    }
}

/// `path`, whose encodings are well-formed, with their digits in upper case.
fn upper_case_digits(path: &str) -> String {
    let mut parts = path.split('%');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2).unwrap_or((part, ""));
        text.push('%');
        text.push_str(&digits.to_ascii_uppercase());
        text.push_str(rest);
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::ResourceUri;

    fn uri(text: &str) -> ResourceUri {
        text.parse().unwrap()
    }

    #[test]
    fn texts_that_print_back_unchanged() {
        for text in [
            "kbs:///alice/cosign-key/213",
            "kbs:///repo/type/tag?param1=value1&param2=value2",
            "kbs+pkcs11:///repo/type/tag",
            "kbs+custom://example.com:8080/repo/type/tag",
            "kbs://example.org:8081/alice/decryption-key/1",
            "kbs:///repo/nested/type/tag/extra",
            "kbs:///one",
            "kbs:///a%20b/c~d/%C3%BC",
            "kbs://[::1]:8080/a/b/c",
        ] {
            assert_eq!(uri(text).to_string(), text);
        }
    }

    #[test]
    fn texts_that_print_canonically() {
        for (text, canonical) in [
            ("kbs+resource:///repo/type/tag", "kbs:///repo/type/tag"),
            ("KBS:///repo/type/tag", "kbs:///repo/type/tag"),
            ("kbs:///a/b/../c/./d", "kbs:///a/c/d"),
            ("kbs:///a/b/c#fragment", "kbs:///a/b/c"),
            ("kbs:///a/b/c?", "kbs:///a/b/c"),
            ("kbs:///a/ü", "kbs:///a/%C3%BC"),
            ("kbs:///a/%c3%bC/%7bx%7d", "kbs:///a/%C3%BC/%7Bx%7D"),
        ] {
            assert_eq!(uri(text).to_string(), canonical);
        }
    }

    #[test]
    fn no_character_has_two_spellings() {
        for code in 0x21..0x7f_u8 {
            let raw = char::from(code);
            let spellings = [format!("a{raw}b"), format!("a%{code:02X}b"), format!("a%{code:02x}b")];
            let paths: std::collections::BTreeSet<String> = spellings
                .iter()
                .filter_map(|segment| format!("kbs:///{segment}/x").parse().ok())
                // These three end a segment or path and do not stand for themselves.
                .filter(|uri: &ResourceUri| uri.path() != "a/b/x" && uri.path() != "a")
                .map(|uri| uri.path())
                .collect();
            assert!(paths.len() <= 1, "{raw}: {paths:?}");
        }
    }

    #[test]
    fn texts_that_are_refused() {
        let long = format!("kbs:///{}", "a".repeat(2048));
        for text in [
            "",
            "kbs",
            "kbs:",
            "kbs://",
            "kbs:///",
            "kbs://host",
            "kbs://host/",
            "kbs:////a",
            "kbs:///a//b",
            "kbs:///a/",
            "kbs:///a/..",
            "kbs:///a/b/.",
            "kbs:foo/bar",
            "kbs:/foo/bar",
            "kbs+:///repo/type/tag",
            "http:///repo/type/tag",
            "https://h/repo/type/tag",
            "kbsx:///a/b/c",
            "kbs-x:///a/b/c",
            "kbs+..:///a/b/c",
            "kbs:///a/%2e%2e/b",
            "kbs:///a/%2E/b",
            "kbs:///a/.%2e/b",
            "kbs:///a%2fb/c",
            "kbs:///a%2Fb/c",
            "kbs:///a%00/b",
            "kbs:///a\\b/c",
            "kbs:///a%5cb/c",
            "kbs:///a/%62/c",
            "kbs:///%64b/key/1",
            "kbs:///a/%7E/c",
            "kbs:///a/b%3a1/c",
            "kbs:///a/%/c",
            "kbs:///a/b%2",
            "kbs:///a/%zz/c",
            "kbs:///a/%+1/c",
            "kbs:///a/%c1%a2/c",
            "kbs:///a/%FF",
            "kbs:///a b/c",
            "kbs:///a\nb/c",
            " kbs:///a/b/c",
            "kbs:///a/b/c ",
            "kbs://user@h/a/b",
            "kbs://user:pw@h/a/b",
            "/a/b/c",
            "a/b/c",
            &long,
        ] {
            let e = text.parse::<ResourceUri>().unwrap_err();
            assert_eq!(e.code(), "RESOURCE_URI_INVALID", "{text}");
            assert!(e.to_string().len() < 400 && !e.to_string().contains('\n'));
        }
    }

    #[test]
    fn a_host_that_reads_as_encoded_dots_without_its_port_is_refused() {
        for text in ["kbs://.%2E:/a/b", "kbs://%2e:/a"] {
            assert!(text.parse::<ResourceUri>().is_err(), "{text}");
        }
        assert_eq!(uri("kbs://host:/a").to_string(), "kbs://host/a");
    }

    #[test]
    fn a_short_text_whose_encoding_is_long_is_refused() {
        // 1,508 bytes, of which the encoding makes 3,008.
        let text = format!("kbs:///a/{}", "ü".repeat(750));
        assert!(text.len() < 2048 && text.parse::<ResourceUri>().is_err());
        let short = uri(&format!("kbs:///a/{}", "ü".repeat(339)));
        assert_eq!((short.to_string().len(), uri(&short.to_string())), (2043, short));
    }

    #[test]
    fn parts_and_http_path() {
        let parsed = uri("kbs://example.org:8081/alice/decryption-key/1");
        assert_eq!(parsed.http_path(), "/kbs/v0/resource/alice/decryption-key/1");
        assert_eq!(parsed.plugin(), "resource");
        assert_eq!(parsed.segments(), ["alice", "decryption-key", "1"]);
        assert_eq!(parsed.path(), "alice/decryption-key/1");
        assert_eq!(parsed.query(), None);
        let with_query = uri("kbs+pkcs11:///wrap-key?id=7&x");
        assert_eq!(with_query.http_path(), "/kbs/v0/pkcs11/wrap-key?id=7&x");
        assert_eq!(with_query.query(), Some("id=7&x"));
    }

    #[test]
    fn reads_from_configuration() {
        let parsed: ResourceUri = serde_json::from_str(r#""kbs:///a/b/c""#).unwrap();
        assert_eq!(parsed, uri("kbs:///a/b/c"));
        assert!(serde_json::from_str::<ResourceUri>(r#""http://a/b/c""#).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,100}", tail in "[a-z/%.2eEfF0\\\\?#:@]{0,60}") {
            let _ = text.parse::<ResourceUri>();
            let _ = format!("kbs://{tail}").parse::<ResourceUri>();
        }

        #[test]
        fn printing_is_a_fixed_point_and_the_path_is_fit_for_http(
            plugin in "(\\+[a-z][a-z0-9-]{0,8})?", path in "(/[!-~&&[^/?#\\\\]]{1,12}){1,5}", query in "(\\?[!-~&&[^#]]{0,12})?",
        ) {
            if let Ok(parsed) = format!("kbs{plugin}://{path}{query}").parse::<ResourceUri>() {
                let text = parsed.to_string();
                prop_assert_eq!(&uri(&text), &parsed);
                prop_assert_eq!(uri(&text).to_string(), text);
                let http: http::uri::PathAndQuery = parsed.http_path().parse().unwrap();
                prop_assert_eq!(http.as_str(), parsed.http_path());
                prop_assert!(!http.path().split('/').any(|s| s == "." || s == ".."));
            }
        }
    }
}
