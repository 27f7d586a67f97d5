//! Resource paths.
//!
//! Source: the resource plugin of Trustee's key broker: `repository/type/tag`, each segment
//! `[A-Za-z0-9_-][A-Za-z0-9_.-]*`. Percent-encoding is not undone: no legal character needs it, and a path must not
//! have two spellings. Not the storage (`store`) and not the decision who gets a resource (`policy`).

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// Longest path, in bytes.
const LIMIT: usize = 512;

/// A checked path of three segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourcePath(String);

impl ResourcePath {
    /// `repository/type/tag`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ResourcePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ResourcePath {
    type Err = Error;

    fn from_str(path: &str) -> Result<Self, Error> {
        let legal = path.len() <= LIMIT
            && path.split('/').count() == 3
            && path.split('/').all(|segment| !segment.starts_with('.') && is_segment(segment));
        if legal {
            Ok(Self(path.to_owned()))
        } else {
            Err(Error::ResourcePath(path.chars().take(LIMIT).collect()))
        }
    }
}

fn is_segment(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn three_segments_of_legal_characters() {
        for good in ["default/key/1", "a/b/c.d", "_/-/9..", "A-Z/a_z/0.9"] {
            assert_eq!(good.parse::<ResourcePath>().unwrap().as_str(), good);
        }
        let long = format!("a/b/{}", "c".repeat(600));
        for bad in [
            "", "a", "a/b", "a/b/c/d", "a//c", "/a/b", "a/b/", "../b/c", ".a/b/c", "a/b/c%2e", "a/b/ü",
            "a/b/c d", &long,
        ] {
            assert!(matches!(bad.parse::<ResourcePath>(), Err(Error::ResourcePath(_))), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken_as_it_is_or_refused(text in ".{0,40}|[a-c./%-]{0,12}") {
            if let Ok(path) = text.parse::<ResourcePath>() {
                prop_assert_eq!(path.as_str(), text.as_str());
                prop_assert!(!text.contains("..") || !text.split('/').any(|segment| segment == ".."));
            }
        }
    }
}
