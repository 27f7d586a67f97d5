//! Where images of a name are looked for: containers-registries.conf(5), version 2.
//!
//! A name is not always where an image is: a search list completes names without a registry, rules block prefixes, move
//! them, or put mirrors before them. The result is a list of attempts in their order. Prefixes match at the start of a name
//! and end where a part of it ends. It is NOT a policy for images, which judges the rewritten name afterwards.
//!
//! `insecure` means plain http here; TLS without checking who answers is not offered.

use image_rs::{Pointer, Reference, prefix_in_one_form};
use serde::Deserialize;

use crate::RegistryError;

/// Longest file read, in bytes.
const MAX_LEN: usize = 1 << 20;
/// Most rules, mirrors of one rule, and entries of the search list.
const MAX_RULES: usize = 10_000;
const MAX_MIRRORS: usize = 64;
const MAX_SEARCH: usize = 64;
const DOCKER: &str = "docker.io";

/// Search list and rules. The default: `docker.io`, and no rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registries {
    search: Vec<String>,
    rules: Vec<Rule>,
    /// Registries that are read over plain http whatever the rules say.
    plain_http: Vec<String>,
}

impl Default for Registries {
    fn default() -> Self {
        Self { search: vec![DOCKER.to_owned()], rules: Vec::new(), plain_http: Vec::new() }
    }
}

/// One place to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The name to pull, after rewriting.
    pub reference: Reference,
    /// Whether it is read over plain http.
    pub plain_http: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    prefix: String,
    location: Option<String>,
    plain_http: bool,
    blocked: bool,
    mirrors: Vec<Mirror>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Mirror {
    location: String,
    plain_http: bool,
    takes: Takes,
}

/// Which names a mirror is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    All,
    Digests,
    Tags,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    unqualified_search_registries: Option<Vec<String>>,
    #[serde(default)]
    registry: Vec<RuleEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RuleEntry {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror: Vec<MirrorEntry>,
    #[serde(default)]
    mirror_by_digest_only: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct MirrorEntry {
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    pull_from_mirror: String,
}

impl Registries {
    /// Reads `text`. Keys that are not known are left alone.
    ///
    /// # Errors
    /// [`RegistryError::Config`] names the rule that cannot be.
    pub fn parse(text: &str) -> Result<Self, RegistryError> {
        let bad = |why: String| RegistryError::config("registry configuration", why);
        if text.len() > MAX_LEN {
            return Err(bad(format!("it has more than {MAX_LEN} bytes")));
        }
        let file: File = toml::from_str(text).map_err(|e| bad(e.message().to_owned()))?;
        let search = file.unqualified_search_registries.unwrap_or_else(|| vec![DOCKER.to_owned()]);
        if file.registry.len() > MAX_RULES || search.len() > MAX_SEARCH {
            return Err(bad(format!("more than {MAX_RULES} rules or {MAX_SEARCH} registries to search")));
        }
        let numbered = file.registry.into_iter().enumerate();
        let rule = |(i, entry): (usize, RuleEntry)| {
            entry.rule().map_err(|why| bad(format!("registry {}: {why}", i + 1)))
        };
        Ok(Self { search, rules: numbered.map(rule).collect::<Result<_, _>>()?, plain_http: Vec::new() })
    }

    /// The same with `registry`, `host[:port]`, read over plain http. It is no rule: blocks and mirrors stay.
    #[must_use]
    pub fn with_plain_http(mut self, registry: &str) -> Self {
        self.plain_http.push(prefix_in_one_form(registry));
        self
    }

    /// The places of `reference`, in the order in which they are to be tried; at least one.
    ///
    /// # Errors
    /// [`RegistryError::Blocked`] if a rule forbids them all, [`RegistryError::Config`] if a rule makes no name of it.
    pub fn attempts(&self, reference: &Reference) -> Result<Vec<Attempt>, RegistryError> {
        let mut attempts = Vec::new();
        for candidate in self.candidates(reference)? {
            attempts.extend(self.places(&candidate)?);
        }
        for attempt in &mut attempts {
            attempt.plain_http |= self.plain_http.iter().any(|plain| plain == attempt.reference.registry());
        }
        if attempts.is_empty() {
            return Err(RegistryError::Blocked { reference: reference.to_string() });
        }
        Ok(attempts)
    }

    /// What the name can stand for. Only one without a registry can stand for several.
    pub(crate) fn candidates(&self, reference: &Reference) -> Result<Vec<Reference>, RegistryError> {
        if reference.registry_named() {
            return Ok(vec![reference.clone()]);
        }
        let text = reference.to_string();
        let short = text.strip_prefix(DOCKER).and_then(|rest| rest.strip_prefix('/')).unwrap_or(&text);
        let short = short.strip_prefix("library/").unwrap_or(short);
        let whole = |registry: &String| match registry.as_str() {
            DOCKER => Ok(reference.clone()),
            registry => parse(&format!("{registry}/{short}"), &format!("search registry {registry}")),
        };
        self.search.iter().map(whole).collect()
    }

    /// Whether what has this digest is blocked by it, whatever tag stands before it.
    fn blocks_digest(&self, reference: &Reference) -> bool {
        let Some(digest) = reference.digest() else { return false };
        let text = format!("{}/{}@{digest}", reference.registry(), reference.repository());
        self.rules
            .iter()
            .any(|rule| rule.blocked && rule.prefix.contains('@') && rule.matched(&text).is_some())
    }

    fn places(&self, reference: &Reference) -> Result<Vec<Attempt>, RegistryError> {
        let text = reference.to_string();
        let matching = self.rules.iter().filter_map(|rule| Some((rule.matched(&text)?, rule)));
        // Of equal ones the last, which `max_by_key` gives.
        let Some((length, rule)) = matching.max_by_key(|(length, _)| *length) else {
            return Ok(match self.blocks_digest(reference) {
                true => Vec::new(),
                false => vec![Attempt { reference: reference.clone(), plain_http: false }],
            });
        };
        if rule.blocked || self.blocks_digest(reference) {
            return Ok(Vec::new());
        }
        let rest = text.get(length..).unwrap_or_default();
        let moved = |location: &str, plain_http: bool| {
            let what = format!("location {location}");
            let moved = parse(&format!("{location}{rest}"), &what)?;
            // Whoever asks for a digest gets what has it, wherever from.
            if reference.digest().is_some() && moved.digest() != reference.digest() {
                return Err(RegistryError::config(what, format!("it makes another image of {reference}")));
            }
            Ok(Attempt { reference: moved, plain_http })
        };
        let by_digest = matches!(reference.pointer(), Pointer::Digest(_));
        let asked = |mirror: &&Mirror| match mirror.takes {
            Takes::All => true,
            Takes::Digests => by_digest,
            Takes::Tags => !by_digest,
        };
        let mirrors =
            rule.mirrors.iter().filter(asked).map(|mirror| moved(&mirror.location, mirror.plain_http));
        let own = match &rule.location {
            Some(location) => moved(location, rule.plain_http),
            None => Ok(Attempt { reference: reference.clone(), plain_http: rule.plain_http }),
        };
        mirrors.chain([own]).collect()
    }
}

fn parse(text: &str, what: &str) -> Result<Reference, RegistryError> {
    text.parse().map_err(|e: image_rs::Error| RegistryError::config(what, e.to_string()))
}

impl RuleEntry {
    fn rule(self) -> Result<Rule, String> {
        if self.prefix.is_empty() && self.location.is_empty() {
            return Err("prefix and location are both empty".to_owned());
        }
        if self.prefix.starts_with("*.") && self.location.is_empty() && !self.blocked && !self.insecure {
            return Err(format!("the prefix {:?} needs a location", self.prefix));
        }
        let host = self.prefix.strip_prefix("*.").unwrap_or(&self.prefix);
        if host.contains('*') || (host.len() < self.prefix.len() && host.contains('/')) {
            return Err(format!("the prefix {:?} has a * elsewhere than before a host", self.prefix));
        }
        if self.mirror.len() > MAX_MIRRORS {
            return Err(format!("more than {MAX_MIRRORS} mirrors"));
        }
        let by_digest = self.mirror_by_digest_only;
        let mirrors =
            self.mirror.into_iter().map(|mirror| mirror.mirror(by_digest)).collect::<Result<_, _>>()?;
        let location = Some(self.location).filter(|location| !location.is_empty());
        let prefix = match (self.prefix.is_empty(), &location) {
            (true, Some(location)) => location.clone(),
            _ => self.prefix,
        };
        Ok(Rule {
            prefix: prefix_in_one_form(&prefix),
            location,
            plain_http: self.insecure,
            blocked: self.blocked,
            mirrors,
        })
    }
}

impl MirrorEntry {
    fn mirror(self, by_digest: bool) -> Result<Mirror, String> {
        if self.location.is_empty() {
            return Err("a mirror has no location".to_owned());
        }
        let takes = match (self.pull_from_mirror.as_str(), by_digest) {
            ("" | "all", false) => Takes::All,
            ("digest-only", _) | ("", true) => Takes::Digests,
            ("tag-only", false) => Takes::Tags,
            (other, _) => return Err(format!("pull-from-mirror is {other:?}, which cannot be")),
        };
        Ok(Mirror { location: self.location, plain_http: self.insecure, takes })
    }
}

impl Rule {
    /// How much of the start of `text` the prefix covers; `None` if it does not match.
    fn matched(&self, text: &str) -> Option<usize> {
        let ends_part = |at: usize| matches!(text.as_bytes().get(at), None | Some(b':' | b'/' | b'@'));
        let Some(host) = self.prefix.strip_prefix('*') else {
            return (text.starts_with(&self.prefix) && ends_part(self.prefix.len()))
                .then_some(self.prefix.len());
        };
        let registry = text.split('/').next().unwrap_or_default();
        let ends = registry.match_indices(host).map(|(at, _)| at + host.len());
        ends.filter(|end| ends_part(*end)).last()
    }
}

#[cfg(test)]
mod tests;
