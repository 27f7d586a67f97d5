//! The rule table: which claim is compared with which reference value, and what that is worth.
//!
//! Values: executables 3 approved, 4 approved as far as the boot chain goes, 33 unrecognized; hardware 2 genuine, 97 unrecognized; configuration 2
//! approved, 3 no known weakness, 36 unknown. Numbers of AR4SI, choices of Trustee's default CPU policy.

use cc_evidence::Tee;
use serde_json::Value;

use super::{ReferenceValues, TrustVector};

const APPROVED_BOOT: i8 = 3;
/// The registers fit, but kernel and parameters are not compared one by one.
const APPROVED_REGISTERS: i8 = 4;
const UNRECOGNIZED_CODE: i8 = 33;
const GENUINE: i8 = 2;
const UNRECOGNIZED_HARDWARE: i8 = 97;
const APPROVED_CONFIGURATION: i8 = 2;
const NO_KNOWN_WEAKNESS: i8 = 3;
const UNKNOWN_CONFIGURATION: i8 = 36;

/// A condition on one claim; names are paths from the top of the claims, with dots.
#[derive(Clone, Copy)]
enum Rule {
    /// The claim is a member of the list that the reference value is.
    Listed { claim: &'static str, reference: &'static str },
    /// The claim equals the reference value.
    Equal { claim: &'static str, reference: &'static str },
    /// The claim is a number not below the reference value.
    AtLeast { claim: &'static str, reference: &'static str },
    /// The claim is `false`.
    Off { claim: &'static str },
    /// The claim is this text, whatever the reference values say.
    Is { claim: &'static str, text: &'static str },
    /// The claim is a whole number from `least` to `most`.
    Within { claim: &'static str, least: u64, most: u64 },
    /// The claim is a list with at least one element, and this member of each is a member of the list that the reference
    /// value is.
    EachListed { claim: &'static str, member: &'static str, reference: &'static str },
    /// The event log has a record of this type whose details name this thing and whose SHA-384 digest
    /// equals the reference value. The name in a record is nobody's proof; the digest is what counts.
    Measured { type_name: &'static str, detail: &'static str, name: &'static str, reference: &'static str },
}

const SNP_EXECUTABLES: [Rule; 1] =
    [Rule::Listed { claim: "measurement", reference: "snp_launch_measurement" }];

const SNP_HARDWARE: [Rule; 4] = [
    Rule::Listed { claim: "reported_tcb_bootloader", reference: "snp_bootloader" },
    Rule::Listed { claim: "reported_tcb_microcode", reference: "snp_microcode" },
    Rule::Listed { claim: "reported_tcb_snp", reference: "snp_snp_svn" },
    Rule::Listed { claim: "reported_tcb_tee", reference: "snp_tee_svn" },
];

const SNP_CLOSED: [Rule; 2] =
    [Rule::Off { claim: "policy_debug_allowed" }, Rule::Off { claim: "policy_migrate_ma" }];

const SNP_CONFIGURATION: [Rule; 6] = [
    Rule::Equal { claim: "platform_smt_enabled", reference: "snp_smt_enabled" },
    Rule::Equal { claim: "platform_tsme_enabled", reference: "snp_tsme_enabled" },
    Rule::Equal { claim: "policy_abi_major", reference: "snp_guest_abi_major" },
    Rule::Equal { claim: "policy_abi_minor", reference: "snp_guest_abi_minor" },
    Rule::Equal { claim: "policy_single_socket", reference: "snp_single_socket" },
    Rule::Equal { claim: "policy_smt_allowed", reference: "snp_smt_allowed" },
];

const TDX_REGISTERS: [Rule; 2] = [
    Rule::Listed { claim: "quote.body.rtmr_1", reference: "rtmr_1" },
    Rule::Listed { claim: "quote.body.rtmr_2", reference: "rtmr_2" },
];

const TDX_KERNEL: [Rule; 2] = [
    Rule::Measured {
        type_name: "EV_EFI_BOOT_SERVICES_APPLICATION",
        detail: "device_paths",
        name: "File(kernel)",
        reference: "tdvfkernel",
    },
    Rule::Measured {
        type_name: "EV_EVENT_TAG",
        detail: "string",
        name: "LOADED_IMAGE::LoadOptions",
        reference: "tdvfkernelparams",
    },
];

const TDX_HARDWARE: [Rule; 5] = [
    Rule::Listed { claim: "quote.body.mr_td", reference: "mr_td" },
    Rule::Is { claim: "quote.header.tee_type", text: "81000000" },
    Rule::Is { claim: "quote.header.vendor_id", text: "939a7233f79c4ca9940a0db3957f0607" },
    Rule::Is { claim: "tcb_status", text: "UpToDate" },
    Rule::Is { claim: "collateral_expiration_status", text: "0" },
];

const TDX_CONFIGURATION: [Rule; 2] = [
    Rule::Off { claim: "td_attributes.debug" },
    Rule::Listed { claim: "quote.body.xfam", reference: "xfam" },
];

const NVIDIA_HARDWARE: [Rule; 1] =
    [Rule::Listed { claim: "config.vbios_version", reference: "allowed_vbios_versions" }];

const NVIDIA_EXECUTABLES: [Rule; 1] =
    [Rule::Listed { claim: "config.driver_version", reference: "allowed_driver_versions" }];

/// Reference value with the approved measurements of GPUs: an object from number to a list of digests.
const NVIDIA_MEASUREMENTS: &str = "nvidia_measurements";

const CCA_EXECUTABLES: [Rule; 1] = [Rule::Listed {
    claim: "realm.cca-realm-initial-measurement",
    reference: "cca_realm_initial_measurement",
}];

const CCA_HARDWARE: [Rule; 2] = [
    Rule::Listed {
        claim: "platform.cca-platform-implementation-id",
        reference: "cca_platform_implementation_id",
    },
    Rule::EachListed {
        claim: "platform.cca-platform-sw-components",
        member: "measurement-value",
        reference: "cca_platform_sw_components",
    },
];

/// The lifecycle states of a secured platform, DEN0137: none of development, debug or the end of its life.
const CCA_SECURED: [Rule; 1] =
    [Rule::Within { claim: "platform.cca-platform-lifecycle", least: 0x3000, most: 0x30FF }];

const CCA_CONFIGURATION: [Rule; 1] =
    [Rule::Listed { claim: "platform.cca-platform-config", reference: "cca_platform_config" }];

/// The names of the existing policy have no prefix on this platform, and all values are texts.
const AZ_SNP_EXECUTABLES: [Rule; 2] = [
    Rule::Listed { claim: "measurement", reference: "measurement" },
    Rule::Listed { claim: "tpm.pcr11", reference: "snp_pcr11" },
];

const AZ_SNP_HARDWARE: [Rule; 4] = [
    Rule::Listed { claim: "reported_tcb_bootloader", reference: "tcb_bootloader" },
    Rule::Listed { claim: "reported_tcb_microcode", reference: "tcb_microcode" },
    Rule::Listed { claim: "reported_tcb_snp", reference: "tcb_snp" },
    Rule::Listed { claim: "reported_tcb_tee", reference: "tcb_tee" },
];

/// The existing policy does not ask for the first two; what the host may read is no approved configuration.
const AZ_SNP_CONFIGURATION: [Rule; 8] = [
    Rule::Is { claim: "policy_debug_allowed", text: "false" },
    Rule::Is { claim: "policy_migrate_ma", text: "false" },
    Rule::Listed { claim: "platform_smt_enabled", reference: "smt_enabled" },
    Rule::Listed { claim: "platform_tsme_enabled", reference: "tsme_enabled" },
    Rule::Listed { claim: "policy_abi_major", reference: "abi_major" },
    Rule::Listed { claim: "policy_abi_minor", reference: "abi_minor" },
    Rule::Listed { claim: "policy_single_socket", reference: "single_socket" },
    Rule::Listed { claim: "policy_smt_allowed", reference: "smt_allowed" },
];

const AZ_TDX_EXECUTABLES: [Rule; 1] = [Rule::Listed { claim: "tpm.pcr11", reference: "tdx_pcr11" }];

/// PCRs that any program can reset and extend to what it likes (TCG PC Client Platform TPM Profile, section 4.6: debug and
/// application support).
const RESETTABLE: [u32; 2] = [16, 23];

const SAMPLE_EXECUTABLES: [Rule; 1] = [Rule::Listed { claim: "launch_digest", reference: "launch_digest" }];

const SAMPLE_HARDWARE: [Rule; 3] = [
    Rule::Listed { claim: "svn", reference: "svn" },
    Rule::Equal { claim: "platform_version.major", reference: "major_version" },
    Rule::AtLeast { claim: "platform_version.minor", reference: "minimum_minor_version" },
];

const SAMPLE_CONFIGURATION: [Rule; 1] = [Rule::Off { claim: "debug" }];

/// Runs rules over one set of claims and collects what failed.
pub(super) struct Rules<'a> {
    claims: &'a Value,
    references: &'a ReferenceValues,
    reasons: Vec<String>,
}

impl<'a> Rules<'a> {
    pub(super) const fn new(claims: &'a Value, references: &'a ReferenceValues) -> Self {
        Rules { claims, references, reasons: Vec::new() }
    }

    pub(super) fn into_reasons(self) -> Vec<String> {
        self.reasons
    }

    pub(super) fn snp(&mut self) -> TrustVector {
        TrustVector {
            executables: if self.all("executables", &SNP_EXECUTABLES) {
                APPROVED_BOOT
            } else {
                UNRECOGNIZED_CODE
            },
            hardware: if self.all("hardware", &SNP_HARDWARE) { GENUINE } else { UNRECOGNIZED_HARDWARE },
            configuration: self.configuration(&SNP_CLOSED, &SNP_CONFIGURATION),
            ..TrustVector::default()
        }
    }

    pub(super) fn tdx(&mut self) -> TrustVector {
        let hardware = self.all("hardware", &TDX_HARDWARE);
        let configuration = self.all("configuration", &TDX_CONFIGURATION);
        TrustVector {
            executables: if !self.all("executables", &TDX_REGISTERS) {
                UNRECOGNIZED_CODE
            } else if self.all("executables", &TDX_KERNEL) {
                APPROVED_BOOT
            } else {
                APPROVED_REGISTERS
            },
            hardware: if hardware { GENUINE } else { UNRECOGNIZED_HARDWARE },
            configuration: if configuration { APPROVED_CONFIGURATION } else { UNKNOWN_CONFIGURATION },
            ..TrustVector::default()
        }
    }

    pub(super) fn cca(&mut self) -> TrustVector {
        let executables = self.all("executables", &CCA_EXECUTABLES);
        let hardware = self.all("hardware", &CCA_HARDWARE);
        TrustVector {
            executables: if executables { APPROVED_BOOT } else { UNRECOGNIZED_CODE },
            hardware: if hardware { GENUINE } else { UNRECOGNIZED_HARDWARE },
            configuration: self.configuration(&CCA_SECURED, &CCA_CONFIGURATION),
            ..TrustVector::default()
        }
    }

    pub(super) fn az_snp(&mut self) -> TrustVector {
        self.vector(&AZ_SNP_EXECUTABLES, &AZ_SNP_HARDWARE, &AZ_SNP_CONFIGURATION)
    }

    /// Hardware and configuration are those of a trust domain; what booted in it is in the TPM alone.
    pub(super) fn az_tdx(&mut self) -> TrustVector {
        self.vector(&AZ_TDX_EXECUTABLES, &TDX_HARDWARE, &TDX_CONFIGURATION)
    }

    pub(super) fn sample(&mut self) -> TrustVector {
        self.vector(&SAMPLE_EXECUTABLES, &SAMPLE_HARDWARE, &SAMPLE_CONFIGURATION)
    }

    /// All that holds is approved, all that does not is unknown.
    fn vector(&mut self, executables: &[Rule], hardware: &[Rule], configuration: &[Rule]) -> TrustVector {
        let executables = self.all("executables", executables);
        let hardware = self.all("hardware", hardware);
        let configuration = self.all("configuration", configuration);
        TrustVector {
            executables: if executables { APPROVED_BOOT } else { UNRECOGNIZED_CODE },
            hardware: if hardware { GENUINE } else { UNRECOGNIZED_HARDWARE },
            configuration: if configuration { APPROVED_CONFIGURATION } else { UNKNOWN_CONFIGURATION },
            ..TrustVector::default()
        }
    }

    /// Where `safe` does not hold, the configuration is unknown; where it does, nothing is known against it, and it is approved if
    /// `approved` holds too.
    fn configuration(&mut self, safe: &[Rule], approved: &[Rule]) -> i8 {
        if !self.all("configuration", safe) {
            UNKNOWN_CONFIGURATION
        } else if self.all("configuration", approved) {
            APPROVED_CONFIGURATION
        } else {
            NO_KNOWN_WEAKNESS
        }
    }

    /// Every reference value `tpm_pcr00` to `tpm_pcr23` that there is has to list the PCR, and one there must be of another PCR
    /// than [`RESETTABLE`]. That the key is registered was a condition of the verification, and all that is known of the
    /// hardware; nothing says anything about the configuration.
    pub(super) fn tpm(&mut self) -> TrustVector {
        let before = self.reasons.len();
        let mut tells = false;
        for pcr in 0..24 {
            let reference = format!("tpm_pcr{pcr:02}");
            let Some(expected) = self.references.0.get(&reference) else { continue };
            tells |= !RESETTABLE.contains(&pcr);
            let found = self.claims.get(format!("pcr{pcr:02}"));
            let listed = found.zip(expected.as_array()).is_some_and(|(found, list)| list.contains(found));
            if !listed {
                let found = found.map_or_else(|| "absent".to_owned(), show);
                self.reasons
                    .push(format!("executables: PCR {pcr} {found} is not in reference value {reference}"));
            }
        }
        if !tells {
            self.reasons.push(
                "executables: there is no reference value for a PCR that tells what was booted (tpm_pcr00 to tpm_pcr22, \
                 but for tpm_pcr16)"
                    .to_owned(),
            );
        }
        let approved = self.reasons.len() == before;
        TrustVector {
            executables: if approved { APPROVED_BOOT } else { UNRECOGNIZED_CODE },
            hardware: GENUINE,
            ..TrustVector::default()
        }
    }

    /// Versions, by the names of the reference values for NVIDIA's own verifier; measurements too where there are
    /// reference values for them, which is worth more than the versions alone.
    pub(super) fn nvidia(&mut self) -> TrustVector {
        let hardware = self.all("hardware", &NVIDIA_HARDWARE);
        let versions = self.all("executables", &NVIDIA_EXECUTABLES);
        let measured = self.measured_gpu();
        TrustVector {
            executables: match measured {
                Some(true) if versions => APPROVED_BOOT,
                None if versions => APPROVED_REGISTERS,
                _ => UNRECOGNIZED_CODE,
            },
            hardware: if hardware { GENUINE } else { UNRECOGNIZED_HARDWARE },
            ..TrustVector::default()
        }
    }

    /// Whether the measurements are approved; nothing when there are no reference values for them. A reference value of
    /// another form approves nothing.
    fn measured_gpu(&mut self) -> Option<bool> {
        let expected = self.references.0.get(NVIDIA_MEASUREMENTS)?;
        let Some(expected) = expected.as_object().filter(|expected| !expected.is_empty()) else {
            self.reasons
                .push(format!("executables: reference value {NVIDIA_MEASUREMENTS} is no object of lists"));
            return Some(false);
        };
        let before = self.reasons.len();
        for (number, approved) in expected {
            let found = self.claims.get("measurements").and_then(|all| all.get(number));
            let listed = found.zip(approved.as_array()).is_some_and(|(found, list)| list.contains(found));
            if !listed {
                let found = found.map_or_else(|| "absent".to_owned(), show);
                self.reasons.push(format!(
                    "executables: measurement {number} {found} is not in reference value {NVIDIA_MEASUREMENTS}"
                ));
            }
        }
        Some(self.reasons.len() == before)
    }

    /// The defaults for a TEE that has no rules here.
    pub(super) fn unknown(&mut self, tee: Tee) -> TrustVector {
        for member in ["executables", "hardware", "configuration"] {
            self.reasons.push(format!("{member}: there are no rules for {tee} evidence"));
        }
        TrustVector {
            executables: UNRECOGNIZED_CODE,
            hardware: UNRECOGNIZED_HARDWARE,
            configuration: UNKNOWN_CONFIGURATION,
            ..TrustVector::default()
        }
    }

    /// Whether all rules hold. Every one that fails is reported, not just the first.
    fn all(&mut self, member: &str, rules: &[Rule]) -> bool {
        let before = self.reasons.len();
        let failed = rules.iter().filter_map(|rule| self.check(*rule).err());
        let failed: Vec<_> = failed.map(|why| format!("{member}: {why}")).collect();
        self.reasons.extend(failed);
        self.reasons.len() == before
    }

    fn check(&self, rule: Rule) -> Result<(), String> {
        match rule {
            Rule::Off { claim } => match self.claim(claim)? {
                Value::Bool(false) => Ok(()),
                found => Err(format!("{claim} is {}, it must be false", show(found))),
            },
            Rule::Is { claim, text } => {
                let found = self.claim(claim)?;
                ensure(found == text, || format!("{claim} is {}, it must be {text}", show(found)))
            }
            Rule::Within { claim, least, most } => {
                let found = self.claim(claim)?;
                let within = found.as_u64().is_some_and(|found| (least..=most).contains(&found));
                ensure(within, || {
                    format!("{claim} is {}, it must be from {least:#x} to {most:#x}", show(found))
                })
            }
            Rule::EachListed { claim, member, reference } => {
                let (found, expected) = self.pair(claim, reference)?;
                let (parts, list) = (found.as_array(), expected.as_array());
                let (Some(parts), Some(list)) = (parts.filter(|parts| !parts.is_empty()), list) else {
                    return Err(format!("{claim} is no list, or reference value {reference} is none"));
                };
                let stranger = parts.iter().find(|part| {
                    !part.get(member).is_some_and(|value| list.iter().any(|one| equal(one, value)))
                });
                match stranger {
                    None => Ok(()),
                    Some(part) => {
                        Err(format!("{claim}: {} is not in reference value {reference}", show(part)))
                    }
                }
            }
            Rule::Measured { type_name, detail, name, reference } => {
                let expected = self.references.0.get(reference).ok_or_else(|| {
                    format!("{name} is not compared, there is no reference value {reference}")
                })?;
                let events = self.claims.get("uefi_event_logs").and_then(Value::as_array);
                let found = events.into_iter().flatten().any(|event| {
                    is_extended(event)
                        && event.get("type_name").is_some_and(|found| found == type_name)
                        && event
                            .get("details")
                            .and_then(|all| all.get(detail))
                            .is_some_and(|found| names(found, name))
                        && has_digest(event, expected)
                });
                ensure(found, || {
                    format!("the event log has no record of {name} with reference value {reference}")
                })
            }
            Rule::Listed { claim, reference } => {
                let (found, expected) = self.pair(claim, reference)?;
                let listed = expected.as_array().is_some_and(|list| list.iter().any(|one| equal(one, found)));
                ensure(listed, || format!("{claim} {} is not in reference value {reference}", show(found)))
            }
            Rule::Equal { claim, reference } => {
                let (found, expected) = self.pair(claim, reference)?;
                ensure(equal(expected, found), || {
                    format!("{claim} is {}, reference value {reference} is {}", show(found), show(expected))
                })
            }
            Rule::AtLeast { claim, reference } => {
                let (found, expected) = self.pair(claim, reference)?;
                let enough =
                    found.as_f64().zip(expected.as_f64()).is_some_and(|(found, least)| found >= least);
                ensure(enough, || {
                    format!(
                        "{claim} is {}, reference value {reference} asks for {}",
                        show(found),
                        show(expected)
                    )
                })
            }
        }
    }

    fn claim(&self, path: &str) -> Result<&'a Value, String> {
        path.split('.')
            .try_fold(self.claims, |value, member| value.get(member))
            .ok_or_else(|| format!("the evidence has no claim {path}"))
    }

    fn pair(&self, claim: &str, reference: &str) -> Result<(&'a Value, &'a Value), String> {
        let found = self.claim(claim)?;
        match self.references.0.get(reference) {
            Some(expected) => Ok((found, expected)),
            None => Err(format!("{claim} is {}, there is no reference value {reference}", show(found))),
        }
    }
}

/// Equality of JSON values as policies see it: numbers by value, all else by type and content.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

/// Whether a record went into a run-time register: those of index 0 are bound to nothing.
fn is_extended(event: &Value) -> bool {
    event.get("index").and_then(Value::as_u64).is_some_and(|index| (1..=4).contains(&index))
}

/// Whether a detail of a record is this text or a list with it.
fn names(detail: &Value, name: &str) -> bool {
    detail == name || detail.as_array().is_some_and(|list| list.iter().any(|one| one == name))
}

/// Whether a record was measured with this SHA-384 digest; digests of other algorithms extended nothing.
fn has_digest(event: &Value, expected: &Value) -> bool {
    let digests = event.get("digests").and_then(Value::as_array);
    digests.into_iter().flatten().any(|digest| {
        digest.get("alg").is_some_and(|alg| alg == "SHA-384") && digest.get("digest") == Some(expected)
    })
}

/// A value for people: texts without quotation marks.
fn show(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn ensure(holds: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why()) }
}
