//! The bodies of `auth` and `attest`, and the way from evidence to a verdict.
//!
//! The order is fixed: the key is checked, the nonce compared, the binding digests computed from the session's own
//! nonce and the received key, the evidence verified against them, and only then appraised. The first failed check
//! refuses the request and is named. Not the session's states (`session`), not the token's claims (`ear`); what makes
//! evidence genuine is the matter of `cc_verify`.
//!
//! Source: the key broker protocol of Trustee, version 0.4.0.

use cc_crypto::PublicJwk;
use cc_evidence::additional::AdditionalEvidence;
use cc_evidence::azure::{AzureEvidence, EvidenceVersion};
use cc_evidence::cca::CcaEvidence;
use cc_evidence::initdata::InitData;
use cc_evidence::nvidia::NvidiaEvidence;
use cc_evidence::snp::SnpEvidence;
use cc_evidence::tdx::{Quote, TdxEvidence};
use cc_evidence::tpm::TpmEvidence;
use cc_evidence::{Tee, binding};
use cc_verify::Rejection;
use cc_verify::appraisal::{ReferenceValues, appraise};
use cc_verify::tdx::Collateral;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::Error;
use crate::ear::{self, Appraised};
use crate::server::Rules;
use crate::session::Challenge;
use crate::tpm_keys;

/// The one protocol version.
pub const VERSION: &str = "0.4.0";

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct AuthRequest {
    version: String,
    tee: String,
    extra_params: Value,
}

/// Answers the `auth` request in `body`: the challenge, and the `extra-params` that go with it.
///
/// # Errors
/// [`Error::Malformed`] for another body; [`Error::Attestation`] for another version, a TEE that this server does not
/// verify, or a hash the client does not have.
pub fn challenge(body: &[u8], rules: &Rules) -> Result<(Challenge, Value), Error> {
    let request: AuthRequest =
        serde_json::from_slice(body).map_err(|source| Error::Malformed { what: "auth", source })?;
    if request.version != VERSION {
        return Err(refused(format!(
            "version: this server speaks {VERSION} of the protocol, the client {}",
            shown(&request.version)
        )));
    }
    let tee = request.tee.parse().map_err(|error| refused(format!("tee: {error}")))?;
    supported(tee, rules).map_err(|why| refused(format!("tee: {why}")))?;
    if tee == Tee::Nvidia {
        return Err(refused("tee: a GPU is a device of a machine and cannot vouch for one"));
    }
    let hash = rules.hash_algorithm.unwrap_or_default();
    if let Some(offered) = request.extra_params.get("supported-hash-algorithms").and_then(Value::as_array)
        && !offered.iter().any(|name| name.as_str().and_then(|name| name.parse().ok()) == Some(hash))
    {
        return Err(refused(format!("extra-params: the client does not offer the hash {hash}")));
    }
    let extra_params = match rules.hash_algorithm {
        Some(hash) => json!({ "selected-hash-algorithm": hash.as_str() }),
        None => Value::from(""),
    };
    Ok((Challenge::new(tee, hash)?, extra_params))
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct AttestRequest {
    init_data: Option<InitDataMember>,
    runtime_data: RuntimeData,
    tee_evidence: TeeEvidence,
}

#[derive(Deserialize)]
struct InitDataMember {
    format: String,
    body: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RuntimeData {
    nonce: String,
    tee_pubkey: Box<RawValue>,
}

/// These two members have underscores on the wire.
#[derive(Deserialize)]
struct TeeEvidence {
    primary_evidence: Box<RawValue>,
    additional_evidence: String,
}

/// A parsed `attest` request: the key in it is a good one, nothing else has been verified.
#[derive(Debug)]
pub struct Attestation {
    nonce: String,
    tee_pubkey: Value,
    init_data: Option<InitData>,
    primary: Box<RawValue>,
    /// As received; it is hashed as text.
    additional: String,
}

/// The verdict on a guest, and what goes into its token besides.
#[derive(Debug)]
pub struct Verdict {
    /// The primary TEE first.
    pub devices: Vec<Appraised>,
    /// `nonce` and `tee-pubkey`.
    pub runtime: Value,
    /// The table of the init-data document.
    pub init_data: Option<Value>,
}

impl Attestation {
    /// Reads the `attest` request in `body`.
    ///
    /// # Errors
    /// [`Error::Malformed`] for another body; [`Error::Attestation`] for a key that is not one of the protocol, or for
    /// an init-data document that cannot be read.
    pub fn parse(body: &[u8]) -> Result<Self, Error> {
        let malformed = |source| Error::Malformed { what: "attest", source };
        let request: AttestRequest = serde_json::from_slice(body).map_err(malformed)?;
        let key = request.runtime_data.tee_pubkey.get();
        PublicJwk::parse(key.as_bytes())
            .map_err(|error| refused(format!("runtime-data: tee-pubkey: {error}")))?;
        Ok(Self {
            nonce: request.runtime_data.nonce,
            // The digest is over the members as received; that there are no others was checked above.
            tee_pubkey: serde_json::from_str(key).map_err(malformed)?,
            init_data: request.init_data.map(document).transpose()?,
            primary: request.tee_evidence.primary_evidence,
            additional: request.tee_evidence.additional_evidence,
        })
    }

    /// Verifies the evidence against `challenge` at `now` (Unix seconds), and appraises it.
    ///
    /// # Errors
    /// [`Error::Attestation`], which names the first failed check.
    pub fn appraise(
        &self,
        challenge: &Challenge,
        rules: &Rules,
        reference_values: &ReferenceValues,
        now: u64,
    ) -> Result<Verdict, Error> {
        if self.nonce != challenge.nonce {
            return Err(refused("runtime-data: the nonce is not the one of this session"));
        }
        let hash = challenge.hash;
        let unbound = |error: cc_evidence::Error| refused(format!("runtime-data: {error}"));
        let for_primary = binding::primary_report_data(&self.nonce, &self.tee_pubkey, &self.additional, hash)
            .map_err(unbound)?;
        let for_devices =
            binding::device_report_data(&self.nonce, &self.tee_pubkey, hash).map_err(unbound)?;

        let registered_keys = tpm_keys::registered(reference_values);
        let verify = |tee, evidence: &str, report_data: &[u8], init_data| {
            let expected = Expected { report_data, init_data, registered_keys: &registered_keys, now };
            let appraised = verify(tee, evidence, &expected, rules)?.into_iter().map(|claims| {
                let appraisal = appraise(tee, &claims, reference_values);
                Appraised { tee, claims, appraisal }
            });
            Ok::<_, Error>(appraised.collect::<Vec<_>>())
        };
        let mut devices = verify(challenge.tee, self.primary.get(), &for_primary, self.init_data.as_ref())?;
        let additional = AdditionalEvidence::parse(&self.additional)
            .map_err(|error| refused(format!("additional evidence: {error}")))?;
        for (name, evidence) in additional.iter() {
            let tee = name.parse().map_err(|error| refused(format!("additional evidence: {error}")))?;
            devices.extend(verify(tee, evidence, &for_devices, None)?);
        }
        Ok(Verdict {
            devices,
            runtime: json!({ "nonce": self.nonce, "tee-pubkey": self.tee_pubkey }),
            init_data: self.init_data.as_ref().map(|document| ear::init_data_claims(document.data())),
        })
    }
}

fn document(member: InitDataMember) -> Result<InitData, Error> {
    if member.format != "toml" {
        return Err(refused(format!("init-data: the format must be toml, not {}", shown(&member.format))));
    }
    InitData::parse(&member.body).map_err(|error| refused(format!("init-data: {error}")))
}

/// Whether this server verifies evidence of `tee`; else why not.
fn supported(tee: Tee, rules: &Rules) -> Result<(), String> {
    match tee {
        Tee::Snp | Tee::Tdx | Tee::AzSnpVtpm | Tee::AzTdxVtpm | Tee::Tpm | Tee::Nvidia => Ok(()),
        Tee::Cca if rules.cca_keys.is_empty() => Err(format!(
            "{tee} evidence proves something only under a known platform key, and this server was given none (--cca-keys)"
        )),
        Tee::Cca => Ok(()),
        Tee::Sample | Tee::SampleDevice if rules.allow_sample => Ok(()),
        Tee::Sample | Tee::SampleDevice => Err(format!(
            "{tee} evidence proves nothing and is refused: this server runs without --allow-sample"
        )),
        other => Err(format!("this server has no verifier for {other}")),
    }
}

/// What the evidence must be bound to.
struct Expected<'a> {
    report_data: &'a [u8],
    init_data: Option<&'a InitData>,
    registered_keys: &'a [[u8; 32]],
    now: u64,
}

/// The claims in `evidence`, after every check on it: of one TEE, or of every device in it.
fn verify(tee: Tee, evidence: &str, expected: &Expected<'_>, rules: &Rules) -> Result<Vec<Value>, Error> {
    let failed = |check: &str, why: &dyn std::fmt::Display| refused(format!("evidence: {check}: {why}"));
    supported(tee, rules).map_err(|why| failed(tee.as_str(), &why))?;
    let digest = expected.init_data.map(InitData::digest);
    match tee {
        Tee::Snp => {
            let evidence = SnpEvidence::from_json(evidence).map_err(|error| failed("snp", &error))?;
            let expectation = cc_verify::snp::Expectation {
                report_data: expected.report_data,
                init_data_digest: digest.as_deref(),
                now: expected.now,
                extra_certs: &[],
            };
            cc_verify::snp::verify(&evidence, &rules.roots, &expectation).map(one)
        }
        Tee::Tdx => {
            let evidence = TdxEvidence::from_json(evidence).map_err(|error| failed("tdx", &error))?;
            let expectation = cc_verify::tdx::Expectation {
                report_data: expected.report_data,
                init_data_digest: digest.as_deref(),
                now: expected.now,
            };
            collateral_for(&evidence, rules, expected.now)
                .and_then(|collateral| {
                    cc_verify::tdx::verify(&evidence, &rules.roots, collateral, &expectation)
                })
                .map(one)
        }
        Tee::AzSnpVtpm | Tee::AzTdxVtpm => {
            let evidence =
                AzureEvidence::from_json(tee, evidence).map_err(|error| failed(tee.as_str(), &error))?;
            let expectation = cc_verify::azure::Expectation {
                report_data: expected.report_data,
                init_data_digest: digest.as_deref(),
                now: expected.now,
                // Older ones let one report of the hardware vouch for any later session.
                oldest: EvidenceVersion::V2,
            };
            let collateral = match tee {
                Tee::AzTdxVtpm => {
                    let quote = TdxEvidence { quote: evidence.endorsement.clone(), cc_eventlog: None };
                    collateral_for(&quote, rules, expected.now)
                }
                _ => Ok(None),
            };
            collateral
                .and_then(|collateral| {
                    cc_verify::azure::verify(&evidence, &rules.roots, collateral, &expectation)
                })
                .map(one)
        }
        Tee::Nvidia => {
            let evidence = NvidiaEvidence::from_json(evidence).map_err(|error| failed("nvidia", &error))?;
            let expectation =
                cc_verify::nvidia::Expectation { report_data: expected.report_data, now: expected.now };
            cc_verify::nvidia::verify(&evidence, &rules.roots, &expectation)
                .map(|devices| devices.into_iter().map(object).collect())
        }
        Tee::Tpm => {
            let evidence = TpmEvidence::from_json(evidence).map_err(|error| failed("tpm", &error))?;
            let expectation = cc_verify::tpm::Expectation {
                report_data: expected.report_data,
                init_data_digest: digest.as_deref(),
                registered_keys: expected.registered_keys,
            };
            cc_verify::tpm::verify(&evidence, &expectation).map(one)
        }
        Tee::Cca => {
            let evidence = CcaEvidence::from_json(evidence).map_err(|error| failed("cca", &error))?;
            let expectation = cc_verify::cca::Expectation {
                report_data: expected.report_data,
                init_data_digest: digest.as_deref(),
            };
            cc_verify::cca::verify(&evidence, &rules.cca_keys, &expectation).map(one)
        }
        _ => cc_verify::sample::verify(tee, evidence, expected.report_data, digest.as_deref()).map(one),
    }
    .map_err(|rejection| failed(rejection.check(), &rejection))?
}

/// The collateral about the platform that made `evidence`, if there is any.
fn collateral_for<'a>(
    evidence: &TdxEvidence,
    rules: &'a Rules,
    now: u64,
) -> Result<Option<&'a Collateral>, Rejection> {
    let quote = Quote::parse(&evidence.quote).map_err(|error| Rejection::Quote { why: error.to_string() })?;
    // Which platform it is, a genuine quote alone can tell.
    let fmspc = cc_verify::tdx::verify_quote(&quote, &rules.roots, now)?.pck().fmspc;
    let collateral = rules.collateral.about(fmspc);
    if collateral.is_none() {
        tracing::warn!(
            fmspc = hex::encode_upper(fmspc),
            "no collateral (--collateral) is about this TDX platform: it does not count as up to date"
        );
    }
    Ok(collateral)
}

fn one(claims: impl Serialize) -> Result<Vec<Value>, Error> {
    object(claims).map(|claims| vec![claims])
}

fn object(claims: impl Serialize) -> Result<Value, Error> {
    serde_json::to_value(claims).map_err(|_| Error::Internal("verified claims could not be written as JSON"))
}

fn refused(detail: impl Into<String>) -> Error {
    Error::Attestation(detail.into())
}

/// What a client sent, cut to a length fit for a sentence.
fn shown(text: &str) -> String {
    text.chars().take(32).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cc_evidence::{HashAlgorithm, sample};
    use cc_verify::TrustRoots;
    use proptest::prelude::*;

    use super::*;

    fn rules() -> Rules {
        Rules {
            roots: TrustRoots::vendor(),
            collateral: crate::collateral::CollateralStore::default(),
            cca_keys: cc_verify::cca::PlatformKeys::default(),
            allow_sample: false,
            hash_algorithm: None,
            token_lifetime: Duration::ZERO,
            session_lifetime: Duration::ZERO,
            strict_upstream_status: false,
            tls: false,
        }
    }

    #[test]
    fn what_a_client_sent_is_shown_short_and_escaped() {
        assert_eq!(shown("a\nb"), "a\\nb");
        assert_eq!(shown(&"x".repeat(1000)).len(), 32);
    }

    #[test]
    fn the_sample_tee_is_refused_at_both_ends_without_the_switch() {
        let rules = rules();
        let expected = Expected { report_data: b"x", init_data: None, registered_keys: &[], now: 0 };
        let evidence = sample::evidence_json(b"x");
        let refused = verify(Tee::Sample, &evidence, &expected, &rules).unwrap_err();
        assert!(refused.to_string().contains("--allow-sample"), "{refused}");
        assert!(verify(Tee::Sample, &evidence, &expected, &Rules { allow_sample: true, ..rules }).is_ok());
    }

    #[test]
    fn a_device_that_is_named_twice_is_refused() {
        let rules = Rules { allow_sample: true, ..rules() };
        let challenge = Challenge::new(Tee::Sample, HashAlgorithm::default()).unwrap();
        let tee_pubkey = json!({ "kty": "EC" });
        let verdict = |additional: String| {
            let nonce = challenge.nonce.clone();
            let bound =
                binding::primary_report_data(&nonce, &tee_pubkey, &additional, challenge.hash).unwrap();
            let primary = RawValue::from_string(sample::evidence_json(&bound)).unwrap();
            let tee_pubkey = tee_pubkey.clone();
            Attestation { nonce, tee_pubkey, init_data: None, primary, additional }.appraise(
                &challenge,
                &rules,
                &ReferenceValues::default(),
                0,
            )
        };
        let bound = binding::device_report_data(&challenge.nonce, &tee_pubkey, challenge.hash).unwrap();
        let device = sample::device_evidence_json(&bound);
        let once = verdict(format!(r#"{{"sampledevice":{device}}}"#)).unwrap();
        assert_eq!(once.devices.len(), 2);
        // Another reader might take the first of the two, which nothing here has looked at.
        let twice = verdict(format!(r#"{{"sampledevice":{{}},"sampledevice":{device}}}"#)).unwrap_err();
        assert!(twice.to_string().contains("twice"), "{twice}");
    }

    proptest! {
        #[test]
        fn any_body_is_taken_or_refused(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = challenge(&body, &rules());
            let _ = Attestation::parse(&body);
        }

        #[test]
        fn any_members_are_taken_or_refused(nonce in ".*", key in ".*", more in ".*") {
            let body = json!({
                "init-data": { "format": "toml", "body": more },
                "runtime-data": { "nonce": nonce, "tee-pubkey": { "kty": key } },
                "tee-evidence": { "primary_evidence": {}, "additional_evidence": more },
            });
            prop_assert!(Attestation::parse(body.to_string().as_bytes()).is_err());
        }
    }
}
