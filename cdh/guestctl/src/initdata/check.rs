//! `guestctl initdata inspect --check`: whether this machine was launched with a document.
//!
//! The agent is asked for evidence, and the field in it is compared. So the answer does not depend on whether the agent
//! was told of the document. Evidence is not verified here: this finds mistakes, it does not convince anybody else.

use cc_daemon::address::Address;
use cc_evidence::{
    Tee,
    initdata::{Field, InitData},
    snp::SnpEvidence,
    tdx::{Quote, TdxEvidence},
};
use cc_protos::attestation_agent::{GetEvidenceRequest, GetTeeTypeRequest};
use serde_json::Value;

use crate::{connect::Agent, failure::Failure, inspect::Check};

const NAME: &str = "this machine";

/// Asks the agent at `address` and compares.
pub(super) async fn run(document: &InitData, address: &Address) -> Result<Check, Failure> {
    let agent = Agent::at(address);
    let answer = agent.service().get_tee_type(GetTeeTypeRequest {}).await;
    let name = answer.map_err(|status| agent.failed("asking for the TEE", &status))?.into_inner().tee;
    let field = match name.parse::<Tee>().ok().and_then(Field::of) {
        Some(field) => field,
        None => {
            return Ok(Check::failed(NAME, format!("nothing on a machine of kind {name} holds init-data")));
        }
    };
    let expected = match field.expected(&document.digest()) {
        Ok(expected) => expected,
        Err(error) => return Ok(Check::failed(NAME, format!("{error}; {}", error.hint()))),
    };
    let doing = "collecting evidence";
    let answer = agent.service().get_evidence(GetEvidenceRequest { runtime_data: vec![0; 64] }).await;
    let evidence = answer.map_err(|status| agent.failed(doing, &status))?.into_inner().evidence;
    let garbled = |why: String| Failure::Garbled { doing: doing.into(), why };
    let evidence = String::from_utf8(evidence).map_err(|_| garbled("is not UTF-8".to_owned()))?;
    let found = held(field, &evidence).map_err(garbled)?;
    Ok(judge(field, &expected, &found))
}

fn judge(field: Field, expected: &[u8], found: &[u8]) -> Check {
    if found == expected {
        Check::verified(NAME, format!("its {} holds this document's digest", field.as_str()))
    } else if found.iter().all(|byte| *byte == 0) {
        Check::failed(NAME, format!("its {} is zero: it was launched without init-data", field.as_str()))
    } else {
        Check::failed(NAME, format!("its {} holds {}", field.as_str(), hex::encode(found)))
    }
}

/// What `evidence` says is in `field`.
fn held(field: Field, evidence: &str) -> Result<Vec<u8>, String> {
    let text = |error: cc_evidence::Error| format!("is not the evidence of that TEE: {error}");
    match field {
        Field::SnpHostData => Ok(SnpEvidence::from_json(evidence).map_err(text)?.report.host_data.to_vec()),
        Field::TdxMrConfigId => {
            let evidence = TdxEvidence::from_json(evidence).map_err(text)?;
            Ok(Quote::parse(&evidence.quote).map_err(text)?.body.mr_config_id.to_vec())
        }
        Field::Pcr8 => {
            let json: Value = serde_json::from_str(evidence).map_err(|_| "is not JSON".to_owned())?;
            let pcr = json.pointer("/tpm_quote/pcrs/8").and_then(Value::as_str);
            pcr.and_then(|pcr| hex::decode(pcr).ok()).ok_or_else(|| "has no PCR 8".to_owned())
        }
        Field::SgxConfigId | Field::CcaPersonalization => {
            Err("is of a TEE that is not compared here".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pcr_is_found_in_evidence_of_a_tpm() {
        let pcrs: Vec<String> = (0..24u8).map(|pcr| hex::encode([pcr; 32])).collect();
        let evidence = serde_json::json!({"tpm_quote": {"pcrs": pcrs}}).to_string();
        assert_eq!(held(Field::Pcr8, &evidence).unwrap(), [8; 32]);
        for bad in
            ["", "{}", "{\"tpm_quote\":{\"pcrs\":[]}}", "{\"tpm_quote\":{\"pcrs\":[1,2,3,4,5,6,7,8,9]}}"]
        {
            assert!(held(Field::Pcr8, bad).is_err(), "{bad}");
        }
        assert!(held(Field::SnpHostData, &evidence).is_err());
        assert!(held(Field::TdxMrConfigId, &evidence).is_err());
    }

    #[test]
    fn zeros_and_other_digests_are_told_apart() {
        assert!(judge(Field::SnpHostData, &[7; 32], &[7; 32]).is_verified());
        for (found, word) in [([0; 32], "without init-data"), ([9; 32], "holds 0909")] {
            let check = judge(Field::SnpHostData, &[7; 32], &found);
            assert!(!check.is_verified());
            assert!(format!("{check:?}").contains(word), "{check:?}");
        }
    }
}
