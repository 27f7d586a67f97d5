//! Appraisal: verified claims against reference values, as a trust vector.
//!
//! The rules, the names of reference values and the numbers are those of Trustee's built-in CPU policy
//! for `snp`, `tdx`, `az-snp-vtpm`, `az-tdx-vtpm`, `tpm` and `sample`, and of its GPU policy the names of the reference values for `nvidia`; those
//! for `cca`, which Trustee leaves to the operator, are our own. The vector and its tiers are those of AR4SI (draft-ietf-rats-ar4si) and EAR. A
//! fixed table in code, NOT a policy engine. Every shortfall comes with a sentence, so that a security
//! officer sees which reference value failed and what was found instead.

use std::collections::BTreeMap;
use std::fmt;

use cc_evidence::Tee;
use serde::Serialize;
use serde_json::Value;

mod rules;

/// Reference values by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReferenceValues(pub BTreeMap<String, Value>);

impl ReferenceValues {
    /// Takes the members of a JSON object as reference values, replacing those of the same name.
    /// Anything but an object changes nothing and gives `false`.
    pub fn extend(&mut self, payload: &Value) -> bool {
        let Some(object) = payload.as_object() else { return false };
        self.0.extend(object.iter().map(|(name, value)| (name.clone(), value.clone())));
        true
    }
}

/// The eight claims of a trust vector; 0 is no statement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TrustVector {
    /// Identity of the instance.
    pub instance_identity: i8,
    /// Configuration of the environment.
    pub configuration: i8,
    /// Code that was loaded.
    pub executables: i8,
    /// File system.
    pub file_system: i8,
    /// Hardware and firmware.
    pub hardware: i8,
    /// Protection of memory at run time.
    pub runtime_opaque: i8,
    /// Protection of storage.
    pub storage_opaque: i8,
    /// Trust in data from elsewhere.
    pub sourced_data: i8,
}

impl TrustVector {
    /// The worst tier of all claims.
    #[must_use]
    pub fn status(&self) -> Status {
        [
            self.instance_identity,
            self.configuration,
            self.executables,
            self.file_system,
            self.hardware,
            self.runtime_opaque,
            self.storage_opaque,
            self.sourced_data,
        ]
        .into_iter()
        .map(Status::of_claim)
        .max()
        .unwrap_or(Status::None)
    }
}

/// A trust tier, from no statement to contraindicated; a later one is worse, except that `None` says
/// nothing at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// No statement.
    None,
    /// Trustworthy as far as the verifier knows.
    Affirming,
    /// Something should be looked at.
    Warning,
    /// Not to be trusted.
    Contraindicated,
}

impl Status {
    /// The tier that one claim value belongs to.
    #[must_use]
    pub const fn of_claim(value: i8) -> Self {
        match value {
            -1..=1 => Status::None,
            2..=31 | -32..=-2 => Status::Affirming,
            32..=95 | -96..=-33 => Status::Warning,
            96..=127 | -128..=-97 => Status::Contraindicated,
        }
    }

    /// The name in tokens.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Status::None => "none",
            Status::Affirming => "affirming",
            Status::Warning => "warning",
            Status::Contraindicated => "contraindicated",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The result of an appraisal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appraisal {
    /// The numbers.
    pub vector: TrustVector,
    /// For every claim that is not the best: which reference value failed, and the value found. Each
    /// begins with the name of the claim.
    pub reasons: Vec<String>,
}

impl Appraisal {
    /// The worst tier of the vector.
    #[must_use]
    pub fn status(&self) -> Status {
        self.vector.status()
    }
}

/// Compares the claims of a TEE with reference values.
///
/// `claims` is the JSON object of the verifier's claims, such as [`crate::snp::SnpClaims`]. Types must
/// match exactly: the text `"3"` is not the number 3. TEEs without rules get the defaults, which are
/// contraindicated, and a reason.
#[must_use]
pub fn appraise(tee: Tee, claims: &Value, references: &ReferenceValues) -> Appraisal {
    let mut rules = rules::Rules::new(claims, references);
    let vector = match tee {
        Tee::Snp => rules.snp(),
        Tee::Tdx => rules.tdx(),
        Tee::Nvidia => rules.nvidia(),
        Tee::Cca => rules.cca(),
        Tee::AzSnpVtpm => rules.az_snp(),
        Tee::AzTdxVtpm => rules.az_tdx(),
        Tee::Tpm => rules.tpm(),
        Tee::Sample => rules.sample(),
        other => rules.unknown(other),
    };
    Appraisal { vector, reasons: rules.into_reasons() }
}

#[cfg(test)]
mod tests;
