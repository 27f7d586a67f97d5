//! Which verifications are made of a report and of certificates, and what is said of those that cannot be made.
//!
//! The verdicts are the verification library's. Its steps are asked one by one, so that an expired certificate does
//! not hide whether the signature is good.

use cc_evidence::snp::{CertEntry, CertKind, Product, Report, SigningKey, SnpEvidence};
use cc_verify::{
    Rejection, TrustRoots,
    snp::{ChainReport, Expectation, verify, verify_chain, verify_identity, verify_signature},
};
use der::pem::{LineEnding, encode_string};

use super::{kds_url, leaf_kind};
use crate::inspect::{Check, Trust, certificate::Certificate};

const SIGNATURE: &str = "report signature";
const CHAIN: &str = "certificate chain";
const DATES: &str = "dates";
const IDENTITY: &str = "tcb and chip";
const RULES: &str = "verifier rules";
const BINDINGS: &str = "bindings";
const ROOT: &str = "root";

/// The verifications of a report. `revocations` are lists that came with it; intermediates and roots that came with
/// it are the host's word and are not used.
pub(super) fn report_checks(
    report: &Report,
    leaf: Option<&Certificate>,
    revocations: &[CertEntry],
    trust: &Trust,
) -> Vec<Check> {
    let mut checks = match (leaf, leaf_kind(report)) {
        (_, None) => vec![Check::failed(SIGNATURE, no_signer(report.signing_key()))],
        (None, Some(kind)) => vec![
            Check::not_verified(SIGNATURE, no_leaf(report, kind)),
            Check::not_verified(CHAIN, "the same certificate is needed"),
            Check::not_verified(DATES, "the same certificate is needed"),
            Check::not_verified(IDENTITY, "the same certificate is needed"),
        ],
        (Some(leaf), Some(kind)) => {
            let bundle = [&[CertEntry { kind, data: leaf.der.clone() }], revocations].concat();
            let signed = format!("made by the key of {} over these bytes", leaf.short_name());
            let mut checks = vec![Check::of(SIGNATURE, signed, verify_signature(report, &leaf.der))];
            checks.extend(leaf_chain(&bundle, leaf, trust));
            checks.push(identity(report, leaf));
            if checks.iter().all(Check::is_verified) {
                checks.push(rules(report, bundle, trust));
            }
            checks
        }
    };
    checks.push(Check::not_verified(
        BINDINGS,
        "which report data and host data are the right ones is known only to whoever asked for the report",
    ));
    checks
}

/// The verifications of certificates without a report: each chip's or provider's certificate under a trusted root,
/// and authorities among themselves.
pub(crate) fn chain_checks(certificates: &[&Certificate], trust: &Trust) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut authorities = Vec::new();
    for certificate in certificates {
        let kind = match certificate.short_name() {
            "SEV-VCEK" => CertKind::Vcek,
            "SEV-VLEK" => CertKind::Vlek,
            _ => {
                authorities.push(*certificate);
                continue;
            }
        };
        checks.extend(leaf_chain(&[CertEntry { kind, data: certificate.der.clone() }], certificate, trust));
    }
    if !authorities.is_empty() {
        checks.extend(authority_checks(&authorities, trust));
    }
    if checks.is_empty() {
        checks.push(Check::not_verified(CHAIN, "there is no certificate"));
    }
    checks
}

/// Chain and dates as two lines. The library looks at dates only after the signatures held, so a complaint about
/// dates is also good news about the chain.
fn leaf_chain(bundle: &[CertEntry], certificate: &Certificate, trust: &Trust) -> [Check; 2] {
    match verify_chain(bundle, &trust.roots, trust.at.0) {
        Ok(chain) => [
            Check::verified(CHAIN, describe(&chain)),
            Check::verified(DATES, format!("every certificate is valid at {}", trust.at)),
        ],
        Err(why @ Rejection::Validity { .. }) => [
            Check::verified(CHAIN, format!("{} is signed under a trusted root", certificate.short_name())),
            Check::failed(DATES, why.to_string()),
        ],
        Err(why) => [
            Check::failed(CHAIN, why.to_string()),
            Check::not_verified(DATES, "they count only in a trusted chain"),
        ],
    }
}

fn describe(chain: &ChainReport) -> String {
    let names: Vec<&str> = chain.links.iter().map(|link| link.name.as_str()).collect();
    let root = if chain.test_root { "a root given with --roots" } else { "AMD's root" };
    format!("{} ({root})", names.join(", signed by "))
}

/// Whether the certificate is that of the chip and firmware level which the report names.
fn identity(report: &Report, certificate: &Certificate) -> Check {
    let chip = if report.signing_key() == SigningKey::Vlek {
        "a VLEK names no chip"
    } else if report.mask_chip_key() && report.chip_id == [0; 64] {
        "the host hides the chip"
    } else {
        "and of this chip"
    };
    let same = format!("the certificate is of the reported firmware level; {chip}");
    Check::of(IDENTITY, same, verify_identity(report, &certificate.der))
}

/// What the verifier asks beyond the lines above, for instance a version that it knows and VMPL 0.
fn rules(report: &Report, bundle: Vec<CertEntry>, trust: &Trust) -> Check {
    let evidence = SnpEvidence { report: report.clone(), certs: bundle };
    // The right report data is not known here, so the report's own stands in and proves nothing.
    let expectation = Expectation {
        report_data: &report.report_data,
        init_data_digest: None,
        now: trust.at.0,
        extra_certs: &[],
    };
    let outcome = verify(&evidence, &trust.roots, &expectation).map(|_| ());
    Check::of(RULES, "the verifier would accept it over the right report data and host data".into(), outcome)
}

fn no_signer(key: SigningKey) -> String {
    format!("the report names {key} as its signing key: nothing vouches for it")
}

fn no_leaf(report: &Report, kind: CertKind) -> String {
    match kds_url(report) {
        Some(url) => format!("the {kind} certificate is needed: --cert FILE, from {url}"),
        None => format!("the {kind} certificate is needed: --cert FILE, from the host's provider"),
    }
}

/// Authorities sign each other, and the root is one that is known.
fn authority_checks(authorities: &[&Certificate], trust: &Trust) -> Vec<Check> {
    let names: Vec<&str> = authorities.iter().map(|authority| authority.short_name()).collect();
    let complete = Product::ALL.iter().any(|product| {
        names.contains(&format!("ARK-{product}").as_str())
            && names.contains(&format!("SEV-{product}").as_str())
    });
    let chain = if complete {
        let pem: String = authorities
            .iter()
            .flat_map(|authority| encode_string("CERTIFICATE", LineEnding::LF, &authority.der))
            .collect();
        let outcome = TrustRoots::vendor().with_test_roots(&pem).map(|_| ());
        Check::of(CHAIN, format!("the root signs itself and the others: {}", names.join(", ")), outcome)
    } else {
        Check::not_verified(CHAIN, "only a set like ARK-Milan with SEV-Milan in one file can be checked")
    };
    let mut checks = vec![chain, authority_dates(authorities, trust)];
    checks.extend(authorities.iter().filter_map(|authority| root(authority, trust)));
    checks
}

fn authority_dates(authorities: &[&Certificate], trust: &Trust) -> Check {
    let outside = authorities
        .iter()
        .find(|authority| !(authority.not_before..=authority.not_after).contains(&trust.at));
    match outside {
        None => Check::verified(DATES, format!("every certificate is valid at {}", trust.at)),
        Some(certificate) => Check::failed(
            DATES,
            format!(
                "{} is valid from {} to {}, not at {}",
                certificate.short_name(),
                certificate.not_before,
                certificate.not_after,
                trust.at
            ),
        ),
    }
}

/// Whether a root certificate is the vendor's or was given as trusted.
fn root(certificate: &Certificate, trust: &Trust) -> Option<Check> {
    let name = certificate.short_name();
    if !name.starts_with("ARK-") {
        return None;
    }
    Some(if TrustRoots::is_vendor_root(name, &certificate.sha256) {
        Check::verified(ROOT, format!("{name} is AMD's"))
    } else if trust.given.contains(&certificate.sha256) {
        Check::verified(ROOT, format!("{name} is not AMD's, but was given with --roots"))
    } else {
        Check::failed(ROOT, format!("{name} has the SHA-256 {}, which is not AMD's", certificate.sha256))
    })
}
