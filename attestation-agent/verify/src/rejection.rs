//! Why evidence was refused: one variant per check.
//!
//! `check()` is the stable name of the failed check; the message is a sentence for the person who has
//! to act, with what was expected and what was found. All values in it are public: they stand in the
//! evidence or in certificates.

use std::fmt;
use std::time::Duration;

use cc_evidence::Tee;
use cc_evidence::blame::Blame;
use cc_evidence::snp::{CpuId, Product, SigningKey};
use der::DateTime;

/// The check that evidence failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// The evidence is not of the format of its TEE.
    #[error("the {tee} evidence cannot be read: {why}")]
    Format {
        /// TEE whose evidence was expected.
        tee: Tee,
        /// The parser's message.
        why: String,
    },
    /// A report version that this verifier does not know, or that lacks the processor's identity.
    #[error("report version {found} is refused: versions 3 to 5 are accepted")]
    Version {
        /// Version in the report.
        found: u32,
    },
    /// A processor that belongs to no known product.
    #[error("the report is from {}: Milan, Genoa and Turin are known", Processor(*cpuid))]
    Product {
        /// Identity in the report.
        cpuid: Option<CpuId>,
    },
    /// The report is not signed by a VCEK or VLEK.
    #[error("the report is signed by {found}: a VCEK or a VLEK is needed")]
    SigningKey {
        /// Signing key in the report.
        found: SigningKey,
    },
    /// Nobody supplied the certificate of the signing key.
    #[error(
        "the {kind} certificate that signs this report is neither in the evidence nor in the offline store"
    )]
    NoLeafCertificate {
        /// `VCEK` or `VLEK`.
        kind: &'static str,
    },
    /// A certificate that cannot be read or is of the wrong kind.
    #[error("the {name} certificate is unusable: {why}")]
    Certificate {
        /// Which certificate.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// The leaf's common name is not that of its kind.
    #[error("the leaf certificate is named {found:?}: the report was signed by a key named {expected:?}")]
    LeafName {
        /// `SEV-VCEK` or `SEV-VLEK`.
        expected: &'static str,
        /// Common name in the certificate.
        found: String,
    },
    /// The chain to a trusted root is broken.
    #[error("the certificate chain is broken: {why}")]
    Chain {
        /// Where and how.
        why: String,
    },
    /// A certificate outside its validity.
    #[error("the {name} certificate is valid from {} to {}, the time of verification is {}",
            Utc(*not_before), Utc(*not_after), Utc(*now))]
    Validity {
        /// Name of the check: `snp.vcek_validity`, `snp.vlek_validity`, `snp.ca_validity` or
        /// `tdx.pck_validity`.
        check: &'static str,
        /// Which certificate.
        name: String,
        /// Seconds since 1970.
        not_before: u64,
        /// Seconds since 1970.
        not_after: u64,
        /// Time of verification, seconds since 1970.
        now: u64,
    },
    /// AMD revoked an intermediate key.
    #[error("the {name} certificate is revoked")]
    Revoked {
        /// Which certificate.
        name: String,
    },
    /// A revocation list that is there but cannot be relied on.
    #[error("the certificate revocation list is unusable: {why}")]
    Crl {
        /// What is wrong.
        why: String,
    },
    /// Another signature algorithm than ECDSA P-384 with SHA-384.
    #[error("the report names signature algorithm {found}: 1 (ECDSA P-384 with SHA-384) is needed")]
    SignatureAlgorithm {
        /// Algorithm in the report.
        found: u32,
    },
    /// The report's signature does not verify.
    #[error("the report's signature is not valid: {why}")]
    Signature {
        /// How it fails.
        why: String,
    },
    /// Report and certificate are for different products.
    #[error("the leaf certificate is for {certificate}, the report is from {report}")]
    ProductName {
        /// Product in the certificate or of its chain.
        certificate: String,
        /// Product in the report.
        report: Product,
    },
    /// The leaf certificate is for another firmware level than the report says.
    #[error("the leaf certificate is for {part} level {certificate}, the report says {report}")]
    Tcb {
        /// Firmware component.
        part: &'static str,
        /// Level in the certificate; `none` when it has none.
        certificate: String,
        /// Level in the report; `none` when it has none.
        report: String,
    },
    /// The leaf certificate belongs to another chip.
    #[error("the VCEK certificate is for chip {certificate}, the report is from chip {report}")]
    ChipId {
        /// Hardware identifier in the certificate, hex.
        certificate: String,
        /// Chip identifier in the report, hex.
        report: String,
    },
    /// The report was requested by less privileged software.
    #[error("the report was made at VMPL {found}: only VMPL 0 is trusted")]
    Vmpl {
        /// Privilege level in the report.
        found: u32,
    },
    /// The caller gave nothing to compare with; without it any recorded report would pass.
    #[error("no expected {what} was given for {tee} evidence")]
    NothingExpected {
        /// TEE whose evidence was given.
        tee: Tee,
        /// `report data` or `init-data digest`.
        what: &'static str,
    },
    /// The report is not bound to this session.
    #[error("the report data is {found}: expected {expected} (nonce, TEE key or device evidence differ)")]
    ReportData {
        /// TEE whose evidence was given.
        tee: Tee,
        /// Expected field, hex.
        expected: String,
        /// Field in the evidence, hex.
        found: String,
    },
    /// The hardware was launched with another init-data digest.
    #[error("the host data is {found}: the init-data that was sent has digest {expected}")]
    InitData {
        /// Expected field, hex.
        expected: String,
        /// Field in the evidence, hex.
        found: String,
    },
    /// The TDX quote cannot be read.
    #[error("the TDX quote cannot be read: {why}")]
    Quote {
        /// The parser's message.
        why: String,
    },
    /// The chain of the platform's provisioning key (PCK) to a trusted root is broken.
    #[error("the chain of the platform's certificate (PCK) is broken: {why}")]
    PckChain {
        /// Where and how.
        why: String,
    },
    /// Intel revoked the platform's key or the authority that certified it.
    #[error("the {name} certificate is revoked")]
    PckRevoked {
        /// Which certificate.
        name: String,
    },
    /// The report of the quoting enclave (QE) is not signed by the platform's key.
    #[error("the quoting enclave's report is not signed by the key of the platform's certificate (PCK)")]
    QeReport,
    /// The report of the quoting enclave does not name the key that signed the quote.
    #[error("the quoting enclave's report does not bind the attestation key of this quote")]
    QeBinding,
    /// The quote's signature does not verify.
    #[error("the quote was not signed by its attestation key over these bytes")]
    QuoteSignature,
    /// The domain was launched with another init-data digest.
    #[error("MRCONFIGID is {found}: the init-data that was sent has digest {expected}")]
    MrConfigId {
        /// Expected field, hex.
        expected: String,
        /// Field in the quote, hex.
        found: String,
    },
    /// The event log cannot be read or does not lead to the registers of the quote.
    #[error("the event log does not explain the quote: {why}")]
    EventLog {
        /// What is wrong.
        why: String,
    },
    /// The HCL report of an Azure machine cannot be read.
    #[error("the HCL report cannot be read: {why}")]
    HclReport {
        /// The parser's message.
        why: String,
    },
    /// Evidence of a version that lets the hardware's report be used again.
    #[error(
        "the evidence has version {found}: from version {oldest} on the hardware's report is of this session"
    )]
    EvidenceVersion {
        /// Version of the evidence.
        found: u8,
        /// The oldest one that is accepted.
        oldest: u8,
    },
    /// The hardware does not vouch for the runtime data.
    #[error("the hardware's report data is {found}: the runtime data beside it has the hash {expected}")]
    RuntimeData {
        /// Expected field, hex.
        expected: String,
        /// Field in the report, hex.
        found: String,
    },
    /// The hardware's report is of another session.
    #[error(
        "the user data in the HCL report is {found}: expected {expected} (a report of an earlier session)"
    )]
    UserData {
        /// Expected bytes, hex.
        expected: String,
        /// Bytes in the runtime data, hex.
        found: String,
    },
    /// Collateral that cannot be relied on, or that is for other platforms.
    #[error("the {what} is unusable: {why}")]
    Collateral {
        /// `TCB info`, `QE identity`, `collateral signing chain` or `revocation list`.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The quoting enclave is not Intel's.
    #[error("the quoting enclave is not the one that Intel's QE identity describes: {why}")]
    QeIdentity {
        /// What differs.
        why: String,
    },
    /// The TDX module is not Intel's.
    #[error("the TDX module is not one that Intel's TCB info describes: {why}")]
    TdxModule {
        /// What differs.
        why: String,
    },
    /// No platform key that the relying party was given signed the platform's token.
    #[error(
        "the platform token of instance {instance_id} is not signed by a platform key (CPAK) that is trusted here"
    )]
    CcaPlatform {
        /// Instance in the token, hex.
        instance_id: String,
    },
    /// The platform does not vouch for the realm's key.
    #[error("the platform token's challenge is not the hash of the realm's attestation key")]
    CcaRealmKey,
    /// The realm's token is not signed by the realm's key.
    #[error("the realm token was not signed by the realm's attestation key over these bytes")]
    CcaRealm,
    /// The realm was launched with another personalization value than the init-data digest.
    #[error("the realm personalization value is {found}: the init-data that was sent has digest {expected}")]
    CcaPersonalization {
        /// Digest that was expected, hex.
        expected: String,
        /// Value in the token, hex.
        found: String,
    },
    /// Security versions below every level that Intel rates.
    #[error("no TCB level of the {what} fits: its security versions are too low")]
    TcbUnsupported {
        /// `platform`, `TDX module` or `quoting enclave`.
        what: &'static str,
    },
    /// Intel revoked the level that the machine is at.
    #[error("the TCB level of the machine is revoked ({advisories})")]
    TcbRevoked {
        /// Identifiers of Intel's advisories, or `no advisory`.
        advisories: String,
    },
    /// A TPM's quote, or what goes with it, fails a check.
    #[error("the TPM quote is refused: {why}")]
    Tpm {
        /// Name of the check: `tpm.ak`, `tpm.ak_unregistered`, `tpm.sig_algo`, `tpm.signature`, `tpm.quote`,
        /// `tpm.report_data`, `tpm.pcr_selection`, `tpm.pcr_digest` or `tpm.init_data`.
        check: &'static str,
        /// What is wrong.
        why: String,
    },
    /// An attestation token, or the key that signed it, fails a check.
    #[error("the attestation token is refused: {why}")]
    Token {
        /// Name of the check: `token.format`, `token.algorithm`, `token.key`, `token.signature`, `token.x5c`,
        /// `token.leaf_key`, `token.chain` or `token.validity`.
        check: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The evidence of a GPU fails a check.
    #[error("the evidence of {gpu} is refused: {why}")]
    Gpu {
        /// Name of the check: `nvidia.report`, `nvidia.arch`, `nvidia.chain`, `nvidia.validity`, `nvidia.signature`,
        /// `nvidia.fwid`, `nvidia.report_data` or `nvidia.duplicate`.
        check: &'static str,
        /// The driver's name for the device.
        gpu: String,
        /// What is wrong.
        why: String,
    },
}

impl Rejection {
    /// Stable name of the failed check, for example `snp.report_data`.
    #[must_use]
    pub const fn check(&self) -> &'static str {
        match self {
            Rejection::Format { .. } => "evidence.format",
            Rejection::Version { .. } => "snp.version",
            Rejection::Product { .. } => "snp.product",
            Rejection::SigningKey { .. } => "snp.signing_key",
            Rejection::NoLeafCertificate { .. } => "snp.no_leaf_certificate",
            Rejection::Certificate { .. } => "snp.certificate",
            Rejection::LeafName { .. } => "snp.leaf_name",
            Rejection::Chain { .. } => "snp.chain",
            Rejection::Validity { check, .. } => check,
            Rejection::Revoked { .. } => "snp.revoked",
            Rejection::Crl { .. } => "snp.crl",
            Rejection::SignatureAlgorithm { .. } => "snp.sig_algo",
            Rejection::Signature { .. } => "snp.signature",
            Rejection::ProductName { .. } => "snp.product_name",
            Rejection::Tcb { .. } => "snp.tcb",
            Rejection::ChipId { .. } => "snp.chip_id",
            Rejection::Vmpl { .. } => "snp.vmpl",
            Rejection::NothingExpected { .. } => "expectation.missing",
            Rejection::ReportData { tee: Tee::Sample, .. } => "sample.report_data",
            Rejection::ReportData { tee: Tee::Tdx, .. } => "tdx.report_data",
            Rejection::ReportData { tee: Tee::Cca, .. } => "cca.report_data",
            Rejection::ReportData { tee: Tee::SampleDevice, .. } => "sampledevice.report_data",
            Rejection::ReportData { .. } => "snp.report_data",
            Rejection::InitData { .. } => "snp.init_data",
            Rejection::Quote { .. } => "tdx.quote",
            Rejection::PckChain { .. } => "tdx.pck_chain",
            Rejection::PckRevoked { .. } => "tdx.pck_revoked",
            Rejection::QeReport => "tdx.qe_report",
            Rejection::QeBinding => "tdx.qe_binding",
            Rejection::QuoteSignature => "tdx.signature",
            Rejection::MrConfigId { .. } => "tdx.init_data",
            Rejection::EventLog { .. } => "tdx.eventlog",
            Rejection::HclReport { .. } => "azure.hcl_report",
            Rejection::EvidenceVersion { .. } => "azure.evidence_version",
            Rejection::RuntimeData { .. } => "azure.runtime_data",
            Rejection::UserData { .. } => "azure.user_data",
            Rejection::Collateral { .. } => "tdx.collateral",
            Rejection::QeIdentity { .. } => "tdx.qe_identity",
            Rejection::TdxModule { .. } => "tdx.module",
            Rejection::CcaPlatform { .. } => "cca.platform_key",
            Rejection::CcaRealmKey => "cca.realm_key",
            Rejection::CcaRealm => "cca.realm_signature",
            Rejection::CcaPersonalization { .. } => "cca.init_data",
            Rejection::TcbUnsupported { .. } => "tdx.tcb_unsupported",
            Rejection::TcbRevoked { .. } => "tdx.tcb_revoked",
            Rejection::Tpm { check, .. } | Rejection::Gpu { check, .. } | Rejection::Token { check, .. } => {
                check
            }
        }
    }

    /// Stable name for error details, the same for every failed check.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Rejection::NothingExpected { .. } => "VERIFIER_MISUSED",
            _ => "EVIDENCE_REJECTED",
        }
    }

    /// Who has to act: a policy said no, except when the verifier's caller forgot the expectation.
    #[must_use]
    pub const fn blame(&self) -> Blame {
        match self {
            Rejection::NothingExpected { .. } => Blame::Misused,
            _ => Blame::Denied,
        }
    }

    /// The next step for the operator.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Rejection::Format { .. }
            | Rejection::Quote { .. }
            | Rejection::HclReport { .. } => {
                "check that the guest's agent sends evidence of the TEE that it names"
            }
            Rejection::Version { .. } => {
                "update the SEV firmware of the host so that it writes report version 3 or later"
            }
            Rejection::Product { .. } => {
                "update this verifier, or check that the report is from an EPYC processor with SEV-SNP"
            }
            Rejection::SigningKey { .. } => {
                "let the host's administrator load the signing key; unsigned reports prove nothing"
            }
            Rejection::NoLeafCertificate { .. } => {
                "let the host supply its certificate table, or fetch the certificate from kdsintf.amd.com \
                 once and add it to the offline store; this verifier uses no network"
            }
            Rejection::Certificate { .. } | Rejection::LeafName { .. } | Rejection::ProductName { .. } => {
                "let the host's administrator renew the certificate table; it does not fit this machine"
            }
            Rejection::Chain { .. } | Rejection::PckChain { .. } => {
                "the evidence is signed under a root that is not trusted here: an emulator or a forgery; for \
                 an emulator pass its test roots to the verifier by name"
            }
            Rejection::Validity { .. } => {
                "check the verifier's clock, then let the host's administrator renew the certificate"
            }
            Rejection::Revoked { .. } | Rejection::PckRevoked { .. } => {
                "the key is compromised: do not trust machines with it, ask the host's provider"
            }
            Rejection::Crl { .. } => "fetch the revocation list from AMD again, or remove it",
            Rejection::SignatureAlgorithm { .. }
            | Rejection::Signature { .. }
            | Rejection::QeReport
            | Rejection::QeBinding
            | Rejection::QuoteSignature => {
                "the report was changed on its way or was signed by another chip; collect new evidence, and \
                 check the host if it happens again"
            }
            Rejection::Tcb { .. } => {
                "the host's certificate is for another firmware level; after a firmware update the host must \
                 fetch a new one"
            }
            Rejection::ChipId { .. } => {
                "the host's certificate is another chip's; the host must fetch the one of this chip"
            }
            Rejection::Vmpl { .. } => "collect the evidence at VMPL 0, or let the paravisor attest",
            Rejection::NothingExpected { .. } => "pass the digest that the session expects",
            Rejection::ReportData { .. } => {
                "the evidence belongs to another session (replayed or mixed up), or guest and server hash \
                 different data"
            }
            Rejection::EvidenceVersion { .. } => {
                "update the guest's agent so that it sends version 2; on older machines create the machine anew"
            }
            Rejection::UserData { .. } | Rejection::RuntimeData { .. } => {
                "the evidence was put together from several pieces: collect new evidence, and do not trust the host if it \
                 happens again"
            }
            Rejection::EventLog { .. } => {
                "collect new evidence; if it happens again, something measures into the registers without \
                 writing to the log"
            }
            Rejection::Collateral { .. } => {
                "fetch TCB info, QE identity and their issuer chain for this FMSPC from \
                 api.trustedservices.intel.com again, unchanged to the byte; this verifier uses no network"
            }
            Rejection::QeIdentity { .. } | Rejection::TdxModule { .. } => {
                "check the host: its attestation software or TDX module was not signed by Intel, or the \
                 collateral is older than it"
            }
            Rejection::TcbUnsupported { .. } | Rejection::TcbRevoked { .. } => {
                "let the host's administrator update BIOS, microcode and TDX module, and renew the \
                 platform's certificate (PCK)"
            }
            Rejection::Tpm { check, .. } => tpm_hint(check),
            Rejection::Gpu { check, .. } => gpu_hint(check),
            Rejection::Token { check, .. } => token_hint(check),
            Rejection::CcaPlatform { .. } => {
                "give the relying party the public attestation key (CPAK) of this platform, as its maker publishes it, if \
                 the platform is to be trusted; for an emulator pass its key by name"
            }
            Rejection::CcaRealmKey | Rejection::CcaRealm => {
                "the two halves of the token do not belong together: it was changed on its way or put together; collect \
                 new evidence, and check the host if it happens again"
            }
            Rejection::CcaPersonalization { .. } => {
                "launch the realm with the SHA-512 digest of the init-data that it uses as its personalization value, or \
                 correct the init-data document"
            }
            Rejection::InitData { .. } | Rejection::MrConfigId { .. } => {
                "launch the machine with the digest of the init-data that it uses, or correct the init-data \
                 document"
            }
        }
        .to_owned()
    }
}

/// What to do about a TPM quote that failed `check`.
fn tpm_hint(check: &str) -> &'static str {
    match check {
        "tpm.ak_unregistered" => {
            "make sure that the key is a restricted key of the TPM you mean (docs/tpm.md), then add this SHA-256, or the key \
             as PEM, to the reference value trusted_aks; setting it replaces the list, so send the old entries along"
        }
        "tpm.ak" | "tpm.sig_algo" => {
            "make an attestation key as docs/tpm.md says: RSA of 2048 bits or more, RSASSA, SHA-256"
        }
        "tpm.report_data" => {
            "the evidence belongs to another session (replayed or mixed up), or guest and server hash different data"
        }
        "tpm.pcr_selection" => "check that the guest's agent quotes PCR 0 to 23 of the SHA-256 bank",
        "tpm.init_data" => {
            "boot the machine with this init-data (algorithm sha256) and with no other program that extends PCR 8"
        }
        _ => "the quote was changed on its way or is by another key; collect new evidence",
    }
}

/// What to do about an attestation token that failed `check`.
fn token_hint(check: &str) -> &'static str {
    match check {
        "token.format" => "take the token anew from its source; it may have been cut",
        "token.algorithm" | "token.key" => {
            "let the attestation service sign with an RSA key of 2048 to 8192 bits, P-256 or P-384, and show that key in \
             the token's header (jwk)"
        }
        "token.x5c" | "token.leaf_key" => {
            "give the attestation service the certificate chain of its token key: leaf first, and for this very key"
        }
        "token.chain" => {
            "the signer is not one that these roots vouch for: check that they are those of your attestation service, and \
             that it was given its intermediate certificates"
        }
        "token.validity" => {
            "check the clock, or judge at another time; then renew the certificate of the attestation service"
        }
        _ => {
            "the token was changed on its way or signed by another key: do not trust it, and ask for a new one"
        }
    }
}

/// What to do about a GPU that failed `check`.
fn gpu_hint(check: &str) -> &'static str {
    match check {
        "nvidia.arch" | "nvidia.report" => {
            "check that the evidence is that of a GPU of the Hopper generation and came unchanged from its driver"
        }
        "nvidia.chain" => {
            "the evidence is signed under a root that is not trusted here: an emulator or a forgery; for an emulator pass \
             its test roots to the verifier by name"
        }
        "nvidia.validity" => "check the verifier's clock",
        "nvidia.report_data" | "nvidia.duplicate" => {
            "the evidence belongs to another session or another device (replayed or mixed up); collect it anew"
        }
        _ => "the report was changed on its way or was signed by another GPU; collect new evidence",
    }
}

struct Processor(Option<CpuId>);

impl fmt::Display for Processor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(cpuid) => write!(f, "an unknown processor ({cpuid})"),
            None => f.write_str("a processor that it does not name"),
        }
    }
}

/// Seconds since 1970 as a date for people; the number itself beyond the year 9999.
pub(crate) struct Utc(pub(crate) u64);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DateTime::from_unix_duration(Duration::from_secs(self.0)) {
            Ok(date) => write!(f, "{date}"),
            Err(_) => write!(f, "{} s after 1970", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_say_expected_and_found() {
        let validity = Rejection::Validity {
            check: "snp.vlek_validity",
            name: "SEV-VLEK".to_owned(),
            not_before: 1_733_868_861,
            not_after: 1_765_404_861,
            now: u64::MAX,
        };
        assert_eq!(
            validity.to_string(),
            "the SEV-VLEK certificate is valid from 2024-12-10T22:14:21Z to 2025-12-10T22:14:21Z, \
             the time of verification is 18446744073709551615 s after 1970"
        );
        let product = Rejection::Product { cpuid: None };
        assert!(product.to_string().contains("does not name"), "{product}");
    }

    #[test]
    fn a_missing_expectation_is_the_callers_fault() {
        let missing = Rejection::NothingExpected { tee: Tee::Snp, what: "report data" };
        assert_eq!((missing.blame(), missing.code()), (Blame::Misused, "VERIFIER_MISUSED"));
        let vmpl = Rejection::Vmpl { found: 1 };
        assert_eq!((vmpl.blame(), vmpl.check()), (Blame::Denied, "snp.vmpl"));
    }
}
