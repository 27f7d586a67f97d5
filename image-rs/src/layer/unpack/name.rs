//! Names in archives as places below a directory.
//!
//! Pure. A place is written as a path without empty, `.` and `..` parts; the empty path is the layer itself.

/// Prefix of names that delete something in the layers below.
const WHITEOUT: &[u8] = b".wh.";
/// Name that deletes everything in its directory in the layers below.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Most bytes of one part of a name on Linux file systems.
const MAX_PART: usize = 255;

/// Why a name with too many directories is refused.
pub(super) const TOO_DEEP: &str = "it lies in too many directories";

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// The layer's own directory.
    Root,
    /// Something in a directory.
    Plain { parent: Vec<u8>, name: Vec<u8> },
    /// The deletion of something in a directory.
    Whiteout { parent: Vec<u8>, name: Vec<u8> },
    /// The deletion of everything in a directory.
    Opaque { directory: Vec<u8> },
}

impl Name {
    /// Reads the name of an entry; at most `depth` directories above it.
    pub(super) fn parse(name: &[u8], depth: usize) -> Result<Self, &'static str> {
        if name.starts_with(b"/") && name.iter().any(|b| *b != b'/') {
            return Err("the name is absolute");
        }
        split(name, depth)
    }

    /// Reads the target of a hard link, which is relative to the layer's directory even if it starts with a slash.
    pub(super) fn parse_target(target: &[u8], depth: usize) -> Result<Self, &'static str> {
        split(target, depth)
    }
}

fn split(name: &[u8], depth: usize) -> Result<Name, &'static str> {
    let mut parts: Vec<&[u8]> =
        name.split(|b| *b == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    if parts.contains(&&b".."[..]) {
        return Err("the name has a part \"..\"");
    }
    if parts.iter().any(|part| part.len() > MAX_PART) {
        return Err("a part of the name is longer than 255 bytes");
    }
    let Some(last) = parts.pop() else { return Ok(Name::Root) };
    if parts.len() > depth {
        return Err(TOO_DEEP);
    }
    if parts.iter().any(|part| part.starts_with(WHITEOUT)) {
        return Err("a directory in its name has the prefix of a deletion mark");
    }
    let parent = parts.join(&b'/');
    if last == OPAQUE {
        return Ok(Name::Opaque { directory: parent });
    }
    match last.strip_prefix(WHITEOUT) {
        None => Ok(Name::Plain { parent, name: last.to_vec() }),
        Some(name) if name.starts_with(WHITEOUT) => Err("an unknown kind of deletion mark"),
        Some(b"" | b"." | b"..") => Err("a deletion mark that names nothing"),
        Some(name) => Ok(Name::Whiteout { parent, name: name.to_vec() }),
    }
}

/// The path of `name` in `parent`.
pub(super) fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

/// The directory of a path, and its last part.
pub(crate) fn split_last(path: &[u8]) -> (&[u8], &[u8]) {
    let slash = path.iter().rposition(|b| *b == b'/');
    slash.and_then(|at| Some((path.get(..at)?, path.get(at + 1..)?))).unwrap_or((&[], path))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain(parent: &str, name: &str) -> Name {
        Name::Plain { parent: parent.into(), name: name.into() }
    }

    #[test]
    fn names_become_places() {
        for (given, place) in [
            ("a", plain("", "a")),
            ("./a", plain("", "a")),
            ("a/b/", plain("a", "b")),
            ("a//./b/c", plain("a/b", "c")),
            ("./", Name::Root),
            (".", Name::Root),
            ("/", Name::Root),
            (".wh.x", Name::Whiteout { parent: b"".to_vec(), name: b"x".to_vec() }),
            ("a/.wh.x", Name::Whiteout { parent: b"a".to_vec(), name: b"x".to_vec() }),
            ("a/b/.wh..wh..opq", Name::Opaque { directory: b"a/b".to_vec() }),
            ("a.wh.x", plain("", "a.wh.x")),
            ("...", plain("", "...")),
        ] {
            assert_eq!(Name::parse(given.as_bytes(), 9), Ok(place), "{given}");
        }
        assert_eq!(Name::parse_target(b"/a/b", 9), Ok(plain("a", "b")));
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let long = "x".repeat(256);
        for bad in [
            "..",
            "../a",
            "a/../b",
            "a/..",
            "/a",
            "//a/b",
            ".wh.",
            ".wh..",
            ".wh...",
            ".wh..wh.x",
            ".wh..wh..opq/a",
            ".wh.x/y",
            "a/b/c/d/e",
            long.as_str(),
        ] {
            assert!(Name::parse(bad.as_bytes(), 3).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_place_is_below_the_directory(name in proptest::collection::vec(prop::sample::select(b"a./wh\xff".to_vec()), 0..24)) {
            let Ok(place) = Name::parse(&name, 64) else { return Ok(()) };
            let path = match place {
                Name::Root => return Ok(()),
                Name::Plain { parent, name } | Name::Whiteout { parent, name } => join(&parent, &name),
                Name::Opaque { directory } => join(&directory, b"x"),
            };
            for part in path.split(|b| *b == b'/') {
                prop_assert!(!matches!(part, b"" | b"." | b".."));
            }
        }
    }
}
