//! The claims of an attestation token: an EAT attestation result (EAR) as the attestation service of Trustee makes it.
//!
//! Writing (`claims`) and reading back what the resource policy needs (`Module`). Not the signature (`token`), not the
//! verdict itself (`attest`). Sources: draft-ietf-rats-ear, draft-ietf-rats-ar4si; member names as on Trustee's wire.

use cc_evidence::Tee;
use cc_verify::appraisal::{Appraisal, Status};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Extension member of a submodule: why it is not affirming, a list of sentences for people. Absent when it is.
const REASONS: &str = "dev-kbs.reasons";
const STATUS: &str = "ear.status";
const EVIDENCE: &str = "ear.veraison.annotated-evidence";

/// One device whose evidence was verified, with the verdict on it.
#[derive(Debug, Clone)]
pub struct Appraised {
    /// Kind of device.
    pub tee: Tee,
    /// What the verifier read out of the evidence, a JSON object; `report_data` and `init_data` in it are strings.
    pub claims: Value,
    /// The verdict.
    pub appraisal: Appraisal,
}

impl Appraised {
    /// The class of the device, which names its submodule.
    fn class(&self) -> &'static str {
        match self.tee {
            Tee::SampleDevice | Tee::Nvidia => "gpu",
            Tee::HygonDcu => "dcu",
            Tee::NvidiaDpu => "nvidia-dpu",
            _ => "cpu",
        }
    }
}

/// The claims of a token that is good from `now` (Unix seconds) for `lifetime` seconds.
///
/// `devices` begins with the primary TEE. `runtime` is what the evidence is bound to (`nonce` and `tee-pubkey`),
/// `init_data` the table of the init-data document when there was one.
#[must_use]
pub fn claims(
    now: u64,
    lifetime: u64,
    devices: &[Appraised],
    runtime: &Value,
    init_data: Option<&Value>,
) -> Value {
    let mut submods = Map::new();
    for device in devices {
        let class = device.class();
        let number = (0..).find(|number| !submods.contains_key(&format!("{class}{number}"))).unwrap_or(0u32);
        submods.insert(format!("{class}{number}"), submodule(device, runtime, init_data));
    }
    json!({
        "eat_profile": "tag:github.com,2024:confidential-containers/Trustee",
        "iat": now,
        "exp": now.saturating_add(lifetime),
        "iss": "CoCo-Attestation-Service",
        "ear.verifier-id": {
            "build": concat!("dev-kbs ", env!("CARGO_PKG_VERSION")),
            "developer": "https://confidentialcontainers.org",
        },
        "submods": submods,
    })
}

fn submodule(device: &Appraised, runtime: &Value, init_data: Option<&Value>) -> Value {
    let mut own = device.claims.clone();
    let mut take = |name| own.as_object_mut().and_then(|claims| claims.remove(name));
    let (report_data, init_data_digest) = (take("report_data"), take("init_data"));
    let mut evidence = Map::from_iter([(device.tee.as_str().to_owned(), own)]);
    if let Some(report_data) = report_data {
        evidence.insert("report_data".into(), report_data);
        evidence.insert("runtime_data_claims".into(), runtime.clone());
    }
    if let Some(digest) = init_data_digest {
        evidence.insert("init_data".into(), digest);
        if let Some(table) = init_data {
            evidence.insert("init_data_claims".into(), table.clone());
        }
    }
    let status = device.appraisal.status();
    let mut module = json!({
        STATUS: status,
        "ear.trustworthiness-vector": device.appraisal.vector,
        "ear.appraisal-policy-id": "default",
        EVIDENCE: evidence,
    });
    if let (true, Some(members)) = (status != Status::Affirming, module.as_object_mut()) {
        members.insert(REASONS.into(), json!(device.appraisal.reasons));
    }
    module
}

/// The table of an init-data document as it lands in a token: `aa.toml` and `cdh.toml` as JSON when they parse.
#[must_use]
pub fn init_data_claims<'a>(data: impl IntoIterator<Item = (&'a String, &'a String)>) -> Value {
    let entry = |(name, text): (&String, &String)| {
        let parsed = match name.as_str() {
            "aa.toml" | "cdh.toml" => toml::from_str::<Value>(text).ok().map(|value| (name.clone(), value)),
            "policy.rego" => policy_data(text).map(|value| ("agent_policy_claims".to_owned(), value)),
            _ => None,
        };
        parsed.unwrap_or_else(|| (name.clone(), Value::from(text.as_str())))
    };
    Value::Object(data.into_iter().map(entry).collect())
}

/// The object that a guest policy assigns to `policy_data` at its end.
fn policy_data(rego: &str) -> Option<Value> {
    let (_, object) = rego.rsplit_once("policy_data := {")?;
    serde_json::from_str(&format!("{{{object}")).ok()
}

/// One device as a token tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Name of the submodule, such as `cpu0`.
    pub name: String,
    /// Name of the TEE, empty when the token names none.
    pub tee: String,
    /// The verdict.
    pub status: Status,
    /// The launch measurement, where there is one: hex, or the text of the sample TEE.
    pub measurement: Option<String>,
    /// Why the status is not affirming.
    pub reasons: Vec<String>,
}

impl Module {
    /// Reads the submodule `name` of a token; nothing when it has no status.
    #[must_use]
    pub fn from_claims(name: &str, module: &Value) -> Option<Self> {
        let status = module.get(STATUS).and_then(Value::as_str)?;
        let status = [Status::None, Status::Affirming, Status::Warning, Status::Contraindicated]
            .into_iter()
            .find(|known| known.as_str() == status)?;
        let tee = module
            .get(EVIDENCE)
            .and_then(Value::as_object)
            .and_then(|evidence| evidence.iter().find(|(name, _)| name.parse::<Tee>().is_ok()));
        let measurement = tee
            .and_then(|(_, claims)| {
                ["/measurement", "/quote/body/mr_td", "/launch_digest"]
                    .iter()
                    .find_map(|path| claims.pointer(path))
            })
            .and_then(Value::as_str)
            .map(str::to_owned);
        let reasons = module.get(REASONS).and_then(|list| Vec::deserialize(list).ok()).unwrap_or_default();
        Some(Self {
            name: name.to_owned(),
            tee: tee.map(|(name, _)| name.clone()).unwrap_or_default(),
            status,
            measurement,
            reasons,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use cc_verify::appraisal::TrustVector;

    use super::*;

    fn device(tee: Tee, claims: Value, reasons: &[&str]) -> Appraised {
        let vector =
            TrustVector { hardware: if reasons.is_empty() { 2 } else { 97 }, ..TrustVector::default() };
        let reasons = reasons.iter().map(|reason| (*reason).to_owned()).collect();
        Appraised { tee, claims, appraisal: Appraisal { vector, reasons } }
    }

    #[test]
    fn the_token_has_the_members_of_the_wire() {
        let snp =
            device(Tee::Snp, json!({ "measurement": "aa", "report_data": "01", "init_data": "02" }), &[]);
        let runtime = json!({ "nonce": "n", "tee-pubkey": { "kty": "EC" } });
        let claims = claims(100, 300, &[snp], &runtime, Some(&json!({ "a": "b" })));
        assert_eq!((claims["iat"].as_u64(), claims["exp"].as_u64()), (Some(100), Some(400)));
        assert_eq!(claims["iss"], "CoCo-Attestation-Service");
        assert_eq!(
            claims["submods"],
            json!({ "cpu0": {
                "ear.status": "affirming",
                "ear.trustworthiness-vector": {
                    "instance-identity": 0, "configuration": 0, "executables": 0, "file-system": 0,
                    "hardware": 2, "runtime-opaque": 0, "storage-opaque": 0, "sourced-data": 0 },
                "ear.appraisal-policy-id": "default",
                "ear.veraison.annotated-evidence": {
                    "snp": { "measurement": "aa" },
                    "report_data": "01", "runtime_data_claims": runtime,
                    "init_data": "02", "init_data_claims": { "a": "b" } } } })
        );
    }

    #[test]
    fn what_was_written_is_read_back() {
        let devices = [
            device(Tee::Sample, json!({ "launch_digest": "abcde", "report_data": "" }), &["svn: 1"]),
            device(Tee::SampleDevice, json!({ "svn": "2" }), &[]),
            device(Tee::Tpm, json!({}), &[]),
        ];
        let claims = claims(0, 1, &devices, &json!({}), None);
        let modules: Vec<Module> = claims["submods"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, module)| Module::from_claims(name, module).unwrap())
            .collect();
        let shown: Vec<_> = modules.iter().map(|m| (m.name.as_str(), m.tee.as_str(), m.status)).collect();
        assert_eq!(
            shown,
            [
                ("cpu0", "sample", Status::Contraindicated),
                ("cpu1", "tpm", Status::Affirming),
                ("gpu0", "sampledevice", Status::Affirming)
            ]
        );
        assert_eq!(modules[0].reasons, ["svn: 1"]);
        assert_eq!(modules[0].measurement.as_deref(), Some("abcde"));
        assert!(Module::from_claims("cpu0", &json!({ "ear.status": "fine" })).is_none());
    }

    #[test]
    fn init_data_files_are_shown_as_json_where_they_are() {
        let data: BTreeMap<String, String> = [
            ("aa.toml", "[a]\nb = 1"),
            ("cdh.toml", "not toml"),
            ("other.toml", "a = 1"),
            ("policy.rego", "package agent\npolicy_data := {\"x\": [1]}\n"),
        ]
        .map(|(name, text)| (name.to_owned(), text.to_owned()))
        .into();
        assert_eq!(
            init_data_claims(&data),
            json!({ "aa.toml": { "a": { "b": 1 } }, "cdh.toml": "not toml", "other.toml": "a = 1",
                    "agent_policy_claims": { "x": [1] } })
        );
    }
}
