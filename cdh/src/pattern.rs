//! Patterns of the configuration: which references a rule is about.
//!
//! `*` stands for any run of characters without `/`, `**` for any run at all; everything else stands for itself. A pattern
//! covers a whole text. Not a regular expression, and not a shell's glob: no classes, no escapes, no case folding.

use std::fmt;

use serde::Deserialize;

/// Longest pattern, in bytes, and most stars in it: matching takes time in their product with the text's length.
const MAX_LEN: usize = 1024;
const MAX_STARS: usize = 8;

/// A checked pattern.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Pattern(String);

impl Pattern {
    /// Whether the pattern covers the whole of `text`.
    #[must_use]
    pub fn covers(&self, text: &str) -> bool {
        covers(self.0.as_bytes(), text.as_bytes())
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() || text.len() > MAX_LEN {
            return Err(format!("a pattern has 1 to {MAX_LEN} bytes"));
        }
        if text.bytes().filter(|b| *b == b'*').count() > MAX_STARS {
            return Err(format!("a pattern has at most {MAX_STARS} stars"));
        }
        Ok(Self(text))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn covers(pattern: &[u8], text: &[u8]) -> bool {
    match pattern {
        [] => text.is_empty(),
        [b'*', b'*', rest @ ..] => {
            (0..=text.len()).any(|taken| text.get(taken..).is_some_and(|t| covers(rest, t)))
        }
        [b'*', rest @ ..] => {
            let segment = text.iter().position(|b| *b == b'/').unwrap_or(text.len());
            (0..=segment).any(|taken| text.get(taken..).is_some_and(|t| covers(rest, t)))
        }
        [byte, rest @ ..] => text.split_first().is_some_and(|(first, t)| first == byte && covers(rest, t)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(pattern: &str, text: &str) -> bool {
        Pattern::try_from(pattern.to_owned()).unwrap().covers(text)
    }

    #[test]
    fn stars_stop_at_slashes_and_double_stars_do_not() {
        assert!(covers("kbs:///team/*/key", "kbs:///team/a/key"));
        assert!(covers("kbs:///team/**", "kbs:///team/a/key"));
        assert!(covers("*", "file") && covers("**", "") && covers("a*c", "ac"));
        for (pattern, text) in [
            ("kbs:///team/*", "kbs:///team/a/key"),
            ("kbs:///team/*/key", "kbs:///team//a/key"),
            ("kbs:///team/**", "kbs:///teammate/a/key"),
            ("file", "file2"),
            ("file", "File"),
            ("a?c", "abc"),
        ] {
            assert!(!covers(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn patterns_that_would_take_long_are_refused() {
        for bad in ["", "*********", &"a".repeat(1025)] {
            assert!(Pattern::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
