//! Where a part of an artifact gets to: a relative path out of a manifest.
//!
//! Pure. Written in one way only, so that two names never mean one file and none leads out of the folder.

use std::fmt;

/// Most bytes of a title.
const MAX_TITLE: usize = 1024;
/// Most bytes of one part of a path on Linux file systems.
const MAX_PART: usize = 255;
/// Most directories above a file.
const MAX_DEPTH: usize = 32;

/// A path below the folder of an artifact, without empty, `.` and `..` parts. The empty path, written `.`, is the folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Title(String);

impl Title {
    /// Reads a title as the annotation `org.opencontainers.image.title` has it.
    ///
    /// # Errors
    /// Which rule it breaks.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text == "." {
            return Ok(Self(String::new()));
        }
        if text.is_empty() {
            return Err("it is empty");
        }
        if text.len() > MAX_TITLE {
            return Err("it is longer than 1024 bytes");
        }
        if text.starts_with('/') {
            return Err("it is absolute");
        }
        if text.chars().any(char::is_control) {
            return Err("a control character is in it");
        }
        let parts = || text.split('/');
        if parts().any(|part| part == "..") {
            return Err("it has a part \"..\"");
        }
        if parts().any(|part| matches!(part, "" | ".")) {
            return Err("it has an empty part or a part \".\"");
        }
        if parts().any(|part| part.len() > MAX_PART) {
            return Err("a part of it is longer than 255 bytes");
        }
        if parts().count() > MAX_DEPTH + 1 {
            return Err("it lies in more than 32 directories");
        }
        Ok(Self(text.to_owned()))
    }

    /// The path; empty for the folder itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether one of the two is the other, or lies in it.
    pub(super) fn meets(&self, other: &Self) -> bool {
        let (shorter, longer) = if self.0.len() < other.0.len() { (self, other) } else { (other, self) };
        let rest = longer.0.strip_prefix(&shorter.0);
        shorter.0.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl fmt::Display for Title {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "." } else { &self.0 })
    }
}

/// The parts of a name in an archive; as archivers write it, it may begin with `./` and end with `/`.
///
/// # Errors
/// Which rule it breaks.
pub(super) fn entry_parts(name: &[u8], depth: usize) -> Result<Vec<&[u8]>, &'static str> {
    if name.starts_with(b"/") {
        return Err("the name is absolute");
    }
    let parts: Vec<&[u8]> = name.split(|b| *b == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    if parts.contains(&&b".."[..]) {
        return Err("the name has a part \"..\"");
    }
    if parts.iter().any(|part| part.len() > MAX_PART) {
        return Err("a part of the name is longer than 255 bytes");
    }
    if parts.len() > depth.saturating_add(1) {
        return Err("it lies in too many directories");
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn titles_are_relative_paths_written_in_one_way() {
        for good in ["a", "a/b/c.bin", ".hidden", "a b", "...", "a\\b", "models/Ü-7b.gguf", "."] {
            assert_eq!(Title::parse(good).unwrap().to_string(), good);
        }
        let (long, part) = ("a/".repeat(600) + "a", "p".repeat(256));
        let deep = "d/".repeat(33) + "x";
        for bad in [
            "",
            "/",
            "/etc/passwd",
            "..",
            "../x",
            "a/../b",
            "a/..",
            "a//b",
            "a/",
            "./a",
            "a/./b",
            "a\0b",
            "a\nb",
            "\u{1b}[2J",
            long.as_str(),
            part.as_str(),
            deep.as_str(),
        ] {
            assert!(Title::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Title::parse(&("d/".repeat(32) + "x")).is_ok());
    }

    #[test]
    fn titles_that_lie_in_each_other_meet() {
        for (one, other, meet) in [
            ("a", "a", true),
            ("a", "a/b", true),
            ("a", "ab", false),
            ("a/b", "a/c", false),
            (".", "a/b", true),
            ("a/b/c", "a/b", true),
            ("a-b", "a/b", false),
        ] {
            let (one, other) = (Title::parse(one).unwrap(), Title::parse(other).unwrap());
            assert!(one.meets(&other) == meet && other.meets(&one) == meet, "{one} {other}");
        }
    }

    #[test]
    fn names_in_archives_are_as_archivers_write_them() {
        assert_eq!(entry_parts(b"./a/b/", 4).unwrap(), [&b"a"[..], b"b"]);
        assert!(entry_parts(b"./", 4).unwrap().is_empty());
        for bad in [&b"/a"[..], b"a/../b", b"..", b"a/b/c/d/e/f"] {
            assert!(entry_parts(bad, 4).is_err());
        }
    }

    proptest! {
        #[test]
        fn whatever_passes_stays_below(text in "[a-c./\\\\]{0,12}|\\PC{0,20}") {
            if let Ok(title) = Title::parse(&text) {
                prop_assert_eq!(title.to_string(), text);
                let path = std::path::Path::new(title.as_str());
                let is_normal = |part| matches!(part, std::path::Component::Normal(_));
                prop_assert!(path.is_relative() && path.components().all(is_normal));
            }
        }

        #[test]
        fn names_never_panic(name in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(parts) = entry_parts(&name, 8) {
                prop_assert!(parts.iter().all(|part| !part.is_empty() && *part != b".." && *part != b"."));
            }
        }
    }
}
