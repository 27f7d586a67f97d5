//! Which image a signature speaks of: `signedIdentity` of containers-policy.json(5), and the scopes of a policy.
//!
//! A signature carries the name that its maker gave to the image. Whether that name fits the one that is being pulled is
//! decided here, on parsed references, never on prefixes of text. An image that is pulled by digest has no tag as far as
//! these rules go, even if its reference has one beside the digest: the tag would not decide what is pulled.

use std::fmt;

use crate::{Reference, prefix_in_one_form};

/// Rule for the name in a signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Identity {
    MatchExact,
    MatchRepoDigestOrExact,
    MatchRepository,
    /// Where no rule is given: what the signature names has to fit. With a tag as [`Identity::MatchRepoDigestOrExact`], without
    /// one, as cosign signs, as [`Identity::MatchRepository`].
    AsSigned,
    ExactReference(Box<Reference>),
    /// Registry and repository.
    ExactRepository(String),
    Remap(Remap),
}

impl Identity {
    /// Whether a signature for `signed` may stand for `image`. `signed` is the text in the payload.
    /// An image without a name fits only where the policy gives one.
    pub(crate) fn admits(&self, image: Option<&Reference>, signed: &str) -> bool {
        let Ok(reference) = signed.parse::<Reference>() else { return false };
        let signed = Signed { name_only: is_name_only(signed), reference };
        match (self, image) {
            (Self::ExactReference(wanted), _) => !signed.name_only && signed.is(wanted),
            (Self::ExactRepository(wanted), _) => *wanted == repository(&signed.reference),
            (_, None) => false,
            (Self::MatchExact, Some(image)) => signed.is_exactly(image),
            (Self::MatchRepoDigestOrExact, Some(image)) => signed.is_repository_or_exactly(image),
            (Self::AsSigned, Some(image)) if !signed.name_only && signed.reference.digest().is_none() => {
                signed.is_repository_or_exactly(image)
            }
            (Self::MatchRepository | Self::AsSigned, Some(image)) => {
                repository(&signed.reference) == repository(image)
            }
            (Self::Remap(remap), Some(image)) => {
                remap.apply(image).is_some_and(|renamed| signed.is_repository_or_exactly(&renamed))
            }
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MatchExact => f.write_str("matchExact"),
            Self::MatchRepoDigestOrExact => f.write_str("matchRepoDigestOrExact"),
            Self::MatchRepository => f.write_str("matchRepository"),
            Self::AsSigned => f.write_str("the name and tag in the signature"),
            Self::ExactReference(reference) => write!(f, "exactReference {reference}"),
            Self::ExactRepository(repository) => write!(f, "exactRepository {repository}"),
            Self::Remap(remap) => write!(f, "remapIdentity {} to {}", remap.prefix, remap.signed_prefix),
        }
    }
}

/// The name in a signature.
struct Signed {
    reference: Reference,
    /// It had neither tag nor digest, so that the tag of `reference` is not in the signature.
    name_only: bool,
}

impl Signed {
    /// Both in full: repository, tag and digest.
    fn is(&self, other: &Reference) -> bool {
        repository(&self.reference) == repository(other)
            && self.reference.tag() == other.tag()
            && self.reference.digest() == other.digest()
    }

    fn is_exactly(&self, image: &Reference) -> bool {
        !self.name_only
            && self.reference.digest().is_none()
            && image.digest().is_none()
            && repository(&self.reference) == repository(image)
            && self.reference.tag() == image.tag()
    }

    fn is_repository_or_exactly(&self, image: &Reference) -> bool {
        match image.digest() {
            Some(_) => repository(&self.reference) == repository(image),
            None => self.is_exactly(image),
        }
    }
}

/// Registry and repository.
pub(crate) fn repository(reference: &Reference) -> String {
    format!("{}/{}", reference.registry(), reference.repository())
}

/// Whether `text`, a reference, has neither a tag nor a digest.
pub(crate) fn is_name_only(text: &str) -> bool {
    let last = text.rsplit_once('/').map_or(text, |(_, last)| last);
    !last.contains([':', '@'])
}

/// Replaces the beginning of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remap {
    prefix: String,
    signed_prefix: String,
}

impl Remap {
    /// `prefix` and `signed_prefix` are a registry, or a registry and any part of a repository.
    pub(crate) fn new(prefix: &str, signed_prefix: &str) -> Result<Self, String> {
        let (prefix, signed_prefix) = (prefix_in_one_form(prefix), prefix_in_one_form(signed_prefix));
        for (name, text) in [("prefix", &prefix), ("signedPrefix", &signed_prefix)] {
            // A name below it must be a reference on that very registry.
            let below = format!("{text}/x").parse::<Reference>();
            let whole = below.is_ok_and(|below| repository(&below) == format!("{text}/x"));
            if !whole {
                return Err(format!("{name} {:?} is no registry or part of a repository in full", cut(text)));
            }
        }
        Ok(Self { prefix, signed_prefix })
    }

    /// `image` under the name that signatures have; unchanged if the prefix is another.
    fn apply(&self, image: &Reference) -> Option<Reference> {
        let name = repository(image);
        let rest = name.strip_prefix(&self.prefix);
        let Some(rest) = rest.filter(|rest| rest.is_empty() || rest.starts_with('/')) else {
            return Some(image.clone());
        };
        let mut renamed = format!("{}{rest}", self.signed_prefix);
        match (image.digest(), image.tag()) {
            (Some(digest), _) => renamed.push_str(&format!("@{digest}")),
            (None, Some(tag)) => renamed.push_str(&format!(":{tag}")),
            (None, None) => {}
        }
        renamed.parse().ok()
    }
}

/// The scopes that `image` is looked up under, the closest first: the reference, its repository, each namespace above
/// it, the registry, and then wildcards for the registry's host.
pub(crate) fn scopes(image: &Reference) -> Vec<String> {
    let name = repository(image);
    let mut scopes = Vec::new();
    match (image.digest(), image.tag()) {
        (Some(digest), _) => scopes.push(format!("{name}@{digest}")),
        (None, Some(tag)) => scopes.push(format!("{name}:{tag}")),
        (None, None) => {}
    }
    let mut rest = name.as_str();
    loop {
        scopes.push(rest.to_owned());
        match rest.rsplit_once('/') {
            Some((above, _)) => rest = above,
            None => break,
        }
    }
    // An address has no domains above it.
    if !image.registry().starts_with('[') {
        let mut host = image.registry().split(':').next().unwrap_or_default();
        while let Some((_, above)) = host.split_once('.') {
            scopes.push(format!("*.{above}"));
            host = above;
        }
    }
    scopes
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn image(text: &str) -> Reference {
        text.parse().unwrap()
    }

    #[test]
    fn scopes_go_from_the_closest_to_the_widest() {
        assert_eq!(
            scopes(&image("a.b.example.com:5000/ns/repo:t")),
            [
                "a.b.example.com:5000/ns/repo:t",
                "a.b.example.com:5000/ns/repo",
                "a.b.example.com:5000/ns",
                "a.b.example.com:5000",
                "*.b.example.com",
                "*.example.com",
                "*.com",
            ]
        );
        assert_eq!(
            scopes(&image("busybox")),
            [
                "docker.io/library/busybox:latest",
                "docker.io/library/busybox",
                "docker.io/library",
                "docker.io",
                "*.io"
            ]
        );
        assert_eq!(scopes(&image("localhost/x"))[..3], ["localhost/x:latest", "localhost/x", "localhost"]);
        assert_eq!(scopes(&image("[::1]:5000/x")).last().unwrap(), "[::1]:5000");
    }

    #[test]
    fn a_tag_beside_a_digest_chooses_no_scope() {
        let scopes = scopes(&image(&format!("quay.io/a/b:lax@{DIGEST}")));
        assert_eq!(scopes[..2], [format!("quay.io/a/b@{DIGEST}"), "quay.io/a/b".to_owned()]);
    }

    #[test]
    fn each_rule_admits_what_the_format_says() {
        let tagged = "quay.io/a/b:1";
        let digested = format!("quay.io/a/b@{DIGEST}");
        let both = format!("quay.io/a/b:1@{DIGEST}");
        let reference = |text: &str| Identity::ExactReference(Box::new(image(text)));
        let remap = || Identity::Remap(Remap::new("mirror.example/copy", "quay.io/a").unwrap());
        let rows: &[(Identity, &str, &str, bool)] = &[
            (Identity::AsSigned, tagged, tagged, true),
            (Identity::AsSigned, tagged, "quay.io/a/b:2", false),
            (Identity::AsSigned, tagged, "quay.io/a/b", true),
            (Identity::AsSigned, tagged, "quay.io/a/c", false),
            (Identity::AsSigned, tagged, &digested, true),
            (Identity::AsSigned, &digested, "quay.io/a/b:2", true),
            (Identity::AsSigned, &both, "quay.io/a/b:2", true),
            (Identity::AsSigned, &digested, "quay.io/a/c:2", false),
            (Identity::MatchExact, tagged, tagged, true),
            (Identity::MatchExact, tagged, "quay.io/a/b:2", false),
            (Identity::MatchExact, tagged, "quay.io/a/b", false),
            (Identity::MatchExact, "quay.io/a/b", "quay.io/a/b", false),
            (Identity::MatchExact, "busybox", "docker.io/library/busybox:latest", true),
            (Identity::MatchExact, &digested, &digested, false),
            (Identity::MatchExact, &digested, tagged, false),
            (Identity::MatchExact, &both, tagged, false),
            (Identity::MatchRepoDigestOrExact, tagged, tagged, true),
            (Identity::MatchRepoDigestOrExact, tagged, "quay.io/a/b:2", false),
            (Identity::MatchRepoDigestOrExact, tagged, "quay.io/a/b", false),
            (Identity::MatchRepoDigestOrExact, &digested, "quay.io/a/b:2", true),
            (Identity::MatchRepoDigestOrExact, &digested, "quay.io/a/b", true),
            (Identity::MatchRepoDigestOrExact, &digested, "quay.io/a/c:2", false),
            (Identity::MatchRepository, tagged, "quay.io/a/b", true),
            (Identity::MatchRepository, tagged, "quay.io/a/b:9", true),
            (Identity::MatchRepository, tagged, "quay.io/a/bb", false),
            (Identity::MatchRepository, tagged, "evil.io/quay.io/a/b", false),
            (Identity::MatchRepository, tagged, "", false),
            (reference("quay.io/x/y:7"), tagged, "quay.io/x/y:7", true),
            (reference("quay.io/x/y:7"), "quay.io/x/y:7", "quay.io/x/y:8", false),
            (reference("quay.io/x/y:latest"), tagged, "quay.io/x/y", false),
            (Identity::ExactRepository("quay.io/x/y".into()), tagged, "quay.io/x/y:8", true),
            (Identity::ExactRepository("quay.io/x/y".into()), tagged, tagged, false),
            (remap(), "mirror.example/copy/b:1", tagged, true),
            (remap(), "mirror.example/copy/b:1", "mirror.example/copy/b:1", false),
            (remap(), "mirror.example/copy/b:1", "quay.io/a/b:2", false),
            (remap(), "mirror.example/copying/b:1", "quay.io/aing/b:1", false),
            (remap(), "mirror.example/copying/b:1", "mirror.example/copying/b:1", true),
        ];
        for (rule, pulled, signed, expected) in rows {
            assert_eq!(
                rule.admits(Some(&image(pulled)), signed),
                *expected,
                "{rule}: {pulled} signed as {signed}"
            );
            let exact = matches!(rule, Identity::ExactReference(_) | Identity::ExactRepository(_));
            assert_eq!(rule.admits(None, signed), *expected && exact, "{rule}");
        }
    }

    #[test]
    fn prefixes_are_whole_components() {
        assert!(Remap::new("example.com", "quay.io/a").is_ok());
        assert!(Remap::new("example.com:5000/a/b", "quay.io").is_ok());
        for bad in ["", "/", "a/", "UPPER.io/X y", "busybox", "example.com/a:tag", "http://a.io"] {
            assert!(Remap::new(bad, "quay.io").is_err(), "{bad}");
            assert!(Remap::new("quay.io", bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_in_a_signature_panics(signed in "\\PC{0,80}") {
            for rule in [Identity::MatchExact, Identity::MatchRepository, Identity::MatchRepoDigestOrExact] {
                let _ = rule.admits(Some(&image("quay.io/a/b:1")), &signed);
            }
        }

        #[test]
        fn another_repository_is_never_admitted(name in "[a-c]{1,3}(/[a-c]{1,2}){1,2}", tag in "[a-c]{1,2}") {
            let signed = format!("quay.io/{name}:{tag}");
            let pulled = image("quay.io/a/b:a");
            for rule in [Identity::MatchExact, Identity::MatchRepository, Identity::MatchRepoDigestOrExact] {
                if rule.admits(Some(&pulled), &signed) {
                    prop_assert_eq!(&name, "a/b");
                }
            }
        }
    }
}
