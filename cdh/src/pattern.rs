//! Patterns of the configuration: which references a rule is about.
//!
//! `*` stands for any run of characters without `/`, `**` for any run at all; everything else stands for itself. A pattern
//! covers a whole text. Not a regular expression, and not a shell's glob: no classes, no escapes, no case folding.

use std::fmt;

use serde::Deserialize;

/// Longest pattern, in bytes, and most stars in it. Matching takes as many steps as pattern and text have bytes, multiplied.
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

/// Reads the pattern once. After each part of it, `ends` tells for each place in the text whether the parts so far cover all
/// before that place; trying each star's lengths one by one would take as many steps as there are ways to place the stars.
fn covers(pattern: &[u8], text: &[u8]) -> bool {
    let mut ends = vec![false; text.len() + 1];
    if let Some(first) = ends.first_mut() {
        *first = true;
    }
    let mut rest = pattern;
    while let Some((part, after)) = Part::first_of(rest) {
        rest = after;
        // Whether the parts before this one, and with it, end before the byte that was looked at last.
        let (mut before, mut with) = (false, false);
        for (end, byte) in ends.iter_mut().zip(std::iter::once(None).chain(text.iter().map(Some))) {
            with = match (part, byte) {
                (Part::Byte(wanted), byte) => before && byte == Some(&wanted),
                (Part::InSegment, byte) => *end || (with && byte != Some(&b'/')),
                (Part::Anything, _) => *end || with,
            };
            before = std::mem::replace(end, with);
        }
    }
    ends.last().is_some_and(|whole| *whole)
}

/// One part of a pattern.
#[derive(Clone, Copy)]
enum Part {
    Byte(u8),
    /// `*`
    InSegment,
    /// `**`
    Anything,
}

impl Part {
    fn first_of(pattern: &[u8]) -> Option<(Self, &[u8])> {
        match pattern {
            [] => None,
            [b'*', b'*', rest @ ..] => Some((Self::Anything, rest)),
            [b'*', rest @ ..] => Some((Self::InSegment, rest)),
            [byte, rest @ ..] => Some((Self::Byte(*byte), rest)),
        }
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

    /// Eight stars in a text of 2,000 bytes can be placed in some 10^22 ways.
    #[test]
    fn stars_are_not_placed_one_by_one() {
        let text = format!("kbs:///prod/{}/key", "-".repeat(2000));
        assert!(!covers("kbs:///prod/*-*-*-*-*-*-*-*/kez", &text));
        assert!(covers("kbs:///prod/*-*-*-*-*-*-*-*/key", &text));
        assert!(!covers("**-**-**-**z", &text));
    }

    /// What the words above the module say, without a thought for time.
    fn by_trying(pattern: &str, text: &str) -> bool {
        let cut = |n: usize| text.get(n..);
        if let Some(rest) = pattern.strip_prefix("**") {
            return (0..=text.len()).filter_map(cut).any(|text| by_trying(rest, text));
        }
        if let Some(rest) = pattern.strip_prefix('*') {
            let run = text.find('/').unwrap_or(text.len());
            return (0..=run).filter_map(cut).any(|text| by_trying(rest, text));
        }
        match pattern.chars().next() {
            None => text.is_empty(),
            Some(c) => text.strip_prefix(c).is_some_and(|text| by_trying(&pattern[c.len_utf8()..], text)),
        }
    }

    /// Every text of up to `longest` of the `letters`.
    fn texts(letters: &str, longest: usize) -> Vec<String> {
        let mut all = vec![String::new()];
        let mut from = 0;
        for _ in 0..longest {
            let longer: Vec<String> = all[from..]
                .iter()
                .flat_map(|text| letters.chars().map(move |letter| format!("{text}{letter}")))
                .collect();
            from = all.len();
            all.extend(longer);
        }
        all
    }

    #[test]
    fn reading_once_finds_what_trying_finds() {
        let texts_to_cover = texts("ab/", 5);
        for pattern in texts("a*/", 6).into_iter().filter(|pattern| !pattern.is_empty()) {
            for text in &texts_to_cover {
                assert_eq!(covers(&pattern, text), by_trying(&pattern, text), "{pattern} {text}");
            }
        }
    }
}
