//! What the header of a volume of ours may say: an allow list, rule by rule.
//!
//! It judges one header and says everything that is wrong with it. It does not open the volume, does not decide which
//! volume it should be, and cannot tell an old header from a new one. That a header is admitted means that opening it does
//! no harm by itself; that it is the one that was made is shown by its tag.

mod keyslot;
mod segment;

use serde_json::Value;

use super::{
    Header, Rule, Secondary,
    format::{BINARY_LEN, Digest, MAX_AREA_LEN, TAG_TOKEN},
    object::below,
};
use crate::{Error, error::quoted};

/// Settings of the kernel that change speed and order, not who sees what. `no-journal` concerns volumes with integrity.
const HARMLESS_FLAGS: [&str; 5] =
    ["same-cpu-crypt", "submit-from-crypt-cpus", "no-journal", "no-read-workqueue", "no-write-workqueue"];

/// What is demanded of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Most keyslots: 1, or 2 while a secret is being replaced.
    pub max_keyslots: usize,
    /// The header is a file of its own, the data begins at the first byte of its device.
    pub detached: bool,
    /// Where the data must begin, in bytes. `None`: at 0 if detached, else between the header's end and 16 MiB.
    pub data_offset: Option<u64>,
    /// Sectors must be authenticated.
    pub require_integrity: bool,
    /// The host may be told which blocks are unused.
    pub allow_discards: bool,
    /// What opening may cost.
    pub kdf: KdfLimits,
}

impl Default for Policy {
    /// One keyslot, the header at the start of its device, integrity as the header says, no discards.
    fn default() -> Self {
        Self {
            max_keyslots: 1,
            detached: false,
            data_offset: None,
            require_integrity: false,
            allow_discards: false,
            kdf: KdfLimits::default(),
        }
    }
}

/// What the derivation of a key may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KdfLimits {
    /// Most rounds of PBKDF2.
    pub pbkdf2_iterations: u32,
    /// Most memory of Argon2id, in KiB.
    pub argon2_memory_kib: u32,
    /// Most passes of Argon2id.
    pub argon2_time: u32,
    /// Most threads of Argon2id.
    pub argon2_cpus: u32,
}

impl Default for KdfLimits {
    /// 20 million rounds, which take some seconds; 1 GiB, 10 passes, 4 threads.
    fn default() -> Self {
        Self { pbkdf2_iterations: 20_000_000, argon2_memory_kib: 1 << 20, argon2_time: 10, argon2_cpus: 4 }
    }
}

/// A broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which one.
    pub rule: Rule,
    /// Where: a JSON member, or a part of the header.
    pub place: String,
    /// What is there.
    pub found: String,
}

/// What the policy says about a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The broken rules, in the order of [`Rule`].
    pub violations: Vec<Violation>,
    /// What is unusual and does no harm, as sentences.
    pub notes: Vec<String>,
}

impl Verdict {
    /// Whether no rule is broken.
    #[must_use]
    pub fn is_admitted(&self) -> bool {
        self.violations.is_empty()
    }

    /// Nothing, if no rule is broken.
    ///
    /// # Errors
    /// [`Error::Refused`] with the names of the broken rules.
    pub fn into_result(self) -> Result<(), Error> {
        let mut rules: Vec<&str> = self.violations.iter().map(|violation| violation.rule.name()).collect();
        rules.dedup();
        if rules.is_empty() { Ok(()) } else { Err(Error::Refused { rules: rules.join(", ") }) }
    }
}

impl Policy {
    /// Judges `header` by every rule.
    #[must_use]
    pub fn judge(&self, header: &Header) -> Verdict {
        let mut findings = Findings::default();
        self.check_header(header, &mut findings);
        keyslot::check(self, header, &mut findings);
        segment::check(self, header, &mut findings);
        self.check_digests(header, &mut findings);
        self.check_config(header, &mut findings);
        let Findings { mut violations, notes } = findings;
        violations.sort_by_key(|violation| violation.rule);
        Verdict { violations, notes }
    }

    fn check_header(&self, header: &Header, findings: &mut Findings) {
        let (binary, config) = (header.binary(), &header.metadata().config);
        if let Some(damage) = header.damage() {
            findings.note(&format!(
                "the first copy is damaged and not used: {} (rule {}); the second one takes its place, `guestctl disk repair` writes the damaged one anew",
                damage.why, damage.rule
            ));
        }
        match header.secondary() {
            Secondary::Same => {}
            // How far behind says nothing: a change of keys counts several writes and reaches the disk as one.
            Secondary::Older { seqid } => findings.note(&format!(
                "the second copy is older than the first, as an interrupted write leaves it, and not used: of write {seqid}, not {}",
                binary.seqid
            )),
            Secondary::Damaged { rule, why } => {
                findings.note(&format!("the second copy is damaged and not used: {why} (rule {rule})"));
            }
            Secondary::Newer { seqid } => {
                let found = format!("write {seqid}, newer than write {} of the first copy", binary.seqid);
                findings.add(Rule::Copies, "second copy", found);
            }
            Secondary::Different => findings.add(
                Rule::Copies,
                "second copy",
                format!("another content under the same count of writes, {}", binary.seqid),
            ),
        }
        if config.json_size.checked_add(BINARY_LEN as u64) != Some(binary.size) {
            findings.add(Rule::HeaderArea, "config.json_size", config.json_size.to_string());
        }
        let end = header_end(header);
        if !config.keyslots_size.is_multiple_of(BINARY_LEN as u64)
            || end.is_none_or(|end| end > MAX_AREA_LEN as u64)
        {
            findings.add(Rule::HeaderArea, "config.keyslots_size", config.keyslots_size.to_string());
        }
        for place in &header.metadata().unknown {
            findings.add(Rule::UnknownMember, place, "not part of the format 1.1".to_owned());
        }
        scan(header.json(), "", &mut |place, text| {
            if text.contains("cipher_null") || (place.ends_with("encryption") && is_null(text)) {
                findings.add(Rule::NullCipher, place, quoted(text));
            }
        });
    }

    fn check_digests(&self, header: &Header, findings: &mut Findings) {
        let metadata = header.metadata();
        if metadata.digests.len() != 1 {
            findings.add(Rule::Digest, "digests", format!("{} of them", metadata.digests.len()));
        }
        for (number, digest) in &metadata.digests {
            self.check_digest(&format!("digests.{number}"), digest, findings);
            let keyslots: Vec<u32> = metadata.keyslots.keys().copied().collect();
            if digest.keyslots != keyslots {
                findings.add(
                    Rule::DigestBinding,
                    &format!("digests.{number}.keyslots"),
                    format!("{:?}", digest.keyslots),
                );
            }
            if digest.segments != [0] {
                findings.add(
                    Rule::DigestBinding,
                    &format!("digests.{number}.segments"),
                    format!("{:?}", digest.segments),
                );
            }
        }
    }

    fn check_digest(&self, place: &str, digest: &Digest, findings: &mut Findings) {
        let Some(pbkdf2) = &digest.pbkdf2 else {
            return findings.add(Rule::Digest, &format!("{place}.type"), quoted(&digest.kind));
        };
        if pbkdf2.hash != "sha256" {
            findings.add(Rule::Digest, &format!("{place}.hash"), quoted(&pbkdf2.hash));
        }
        for (name, bytes) in [("salt", &pbkdf2.salt), ("digest", &pbkdf2.digest)] {
            if bytes.len() != 32 {
                findings.add(Rule::Digest, &format!("{place}.{name}"), format!("{} bytes", bytes.len()));
            }
        }
        if !(1..=self.kdf.pbkdf2_iterations).contains(&pbkdf2.iterations) {
            findings.add(Rule::KdfCost, &format!("{place}.iterations"), pbkdf2.iterations.to_string());
        }
    }

    fn check_config(&self, header: &Header, findings: &mut Findings) {
        let metadata = header.metadata();
        for flag in &metadata.config.flags {
            let allowed =
                HARMLESS_FLAGS.contains(&flag.as_str()) || (self.allow_discards && flag == "allow-discards");
            if !allowed {
                findings.add(Rule::ConfigFlags, "config.flags", quoted(flag));
            }
        }
        for requirement in &metadata.config.requirements {
            let rule =
                if requirement.contains("reencrypt") { Rule::Reencryption } else { Rule::Requirements };
            findings.add(rule, "config.requirements.mandatory", quoted(requirement));
        }
        let mut tags = 0;
        for (number, token) in &metadata.tokens {
            let place = format!("tokens.{number}");
            match token.kind.as_str() {
                TAG_TOKEN if !token.keyslots.is_empty() => {
                    findings.add(Rule::Tokens, &place, "a tag that is assigned to a keyslot".to_owned());
                }
                TAG_TOKEN if tags > 0 => findings.add(Rule::Tokens, &place, "a second tag".to_owned()),
                TAG_TOKEN => tags += 1,
                kind => findings.add(Rule::Tokens, &place, quoted(kind)),
            }
        }
    }
}

/// Where the keyslots area ends, in bytes from the start of the header.
fn header_end(header: &Header) -> Option<u64> {
    // The size is one of the format's, at most 4 MiB: the product is small.
    header.metadata().config.keyslots_size.checked_add(2 * header.binary().size)
}

/// Whether `encryption` names no cipher, or one that encrypts each block by itself.
fn is_null(encryption: &str) -> bool {
    encryption.is_empty()
        || encryption.split(['-', '(', ')', ':', ',']).any(|part| part == "null" || part == "ecb")
}

/// Calls `see` with place and value of every text in `value`.
fn scan(value: &Value, place: &str, see: &mut impl FnMut(&str, &str)) {
    match value {
        Value::String(text) => see(place, text),
        Value::Array(items) => items.iter().for_each(|item| scan(item, place, see)),
        Value::Object(members) => {
            members.iter().for_each(|(name, value)| scan(value, &below(place, name), see))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// What was found so far.
#[derive(Default)]
struct Findings {
    violations: Vec<Violation>,
    notes: Vec<String>,
}

impl Findings {
    fn add(&mut self, rule: Rule, place: &str, found: String) {
        self.violations.push(Violation { rule, place: place.to_owned(), found });
    }

    fn note(&mut self, sentence: &str) {
        self.notes.push(sentence.to_owned());
    }
}
