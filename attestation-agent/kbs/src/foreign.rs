//! Text from the other side, made fit for an error message or a log line.
//!
//! A KBS, or whoever answers in its place, chooses this text: it must not move a terminal's cursor, fake a
//! log line, or fill a disk.

use serde::Deserialize;

/// `text` on one line: control characters and invisible direction marks become spaces, runs of spaces
/// one, and what is longer than `max` bytes is cut with `…`.
#[must_use]
pub fn clean(text: &str, max: usize) -> String {
    let mut out = String::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control() || is_invisible(c)) {
        if word.is_empty() {
            continue;
        }
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
        if out.len() > max {
            let cut = out.floor_char_boundary(max);
            out.truncate(cut);
            out.push('…');
            break;
        }
    }
    out
}

/// Reads one JSON object into `T`. Derived readers take a list of the members' values as well, which the
/// protocol does not know.
///
/// # Errors
/// What is wrong, as of [`json_fault`].
pub(crate) fn json_object<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, String> {
    if text.trim_ascii_start().first() == Some(&b'[') {
        return Err("a list where an object is expected".to_owned());
    }
    serde_json::from_slice(text).map_err(|e| json_fault(&e))
}

/// Where a JSON text stopped making sense. The text itself may be a secret and is never quoted, which is why
/// the parser's own message is not used.
#[must_use]
pub fn json_fault(e: &serde_json::Error) -> String {
    let why = match e.classify() {
        serde_json::error::Category::Eof => "the JSON text ends too early",
        serde_json::error::Category::Data => "a member is missing, has the wrong type or appears twice",
        serde_json::error::Category::Syntax | serde_json::error::Category::Io => "not JSON",
    };
    format!("{why} (line {}, column {})", e.line(), e.column())
}

/// Zero-width characters and those that change the direction of writing (Unicode bidirectional algorithm).
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::clean;

    #[test]
    fn table() {
        for (text, expected) in [
            ("plain", "plain"),
            ("  two\n\tlines ", "two lines"),
            ("\x1b[31mred\x07", "[31mred"),
            ("a\u{202e}b\u{0}c", "a b c"),
            ("", ""),
        ] {
            assert_eq!(clean(text, 100), expected);
        }
        assert_eq!(clean(&"x".repeat(50), 10), format!("{}…", "x".repeat(10)));
    }

    proptest! {
        #[test]
        fn bounded_and_without_controls(text in any::<String>(), max in 0..64usize) {
            let cleaned = clean(&text, max);
            prop_assert!(cleaned.len() <= max + '…'.len_utf8());
            prop_assert!(!cleaned.chars().any(char::is_control));
        }
    }
}
