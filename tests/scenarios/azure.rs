//! The same stories on machines of Azure: release on both kinds of hardware, denial by name of the check, init-data, and
//! what a paravisor or a metadata service may do to the agent.

use cc_crypto::{KeyAlgorithm, TeeKeyPair};
use cc_evidence::azure::AzureEvidence;
use cc_evidence::{HashAlgorithm, Tee, binding};
use cc_protos::attestation_agent as aa;
use cc_protos::attestation_agent::attestation_agent_service_client::AttestationAgentServiceClient;
use cc_tests::curl;
use cc_tests::machine::{Azure, Kind, Machine, POLICY_DEBUG};
use cc_tests::stack::{Options, Part, Stack, azure_emulator_runs_here};
use serde_json::{Value, json};

use crate::denial::ask_as;
use crate::operator::guestctl;
use crate::rpc::channel;
use crate::{RESOURCE, REST_PATH, SECRET, assert_refused, code};

const KINDS: [(Kind, Tee); 2] = [(Kind::Snp, Tee::AzSnpVtpm), (Kind::Tdx, Tee::AzTdxVtpm)];

fn options(kind: Kind) -> Options {
    Options { machine: Machine::azure(kind), ..Options::default() }
}

/// A running stack that holds the secret.
fn stack(options: Options) -> Option<Stack> {
    if !azure_emulator_runs_here() {
        return None;
    }
    let stack = Stack::start(options).unwrap_or_else(|e| panic!("{e:#}"));
    stack.put_resource(RESOURCE, SECRET).unwrap();
    Some(stack)
}

/// A machine of which the paravisor or its surroundings are faulty.
fn faulty(kind: Kind, fault: &str) -> Machine {
    Machine { azure: Some(Azure { fault: fault.to_owned(), ..Azure::default() }), ..Machine::azure(kind) }
}

#[test]
fn secrets_are_released_after_one_quote_on_both_kinds_of_hardware() {
    for (kind, tee) in KINDS {
        let Some(stack) = stack(options(kind)) else { return };
        for _ in 0..5 {
            let answer = stack.rest_get(REST_PATH).unwrap();
            assert_eq!((answer.status, answer.body.as_slice()), (200, SECRET), "{tee}: {}", answer.text());
        }
        assert_eq!(stack.quotes().unwrap(), 1, "{tee}");
        let (status, out, error) = guestctl(&stack, &["doctor"]);
        assert_eq!(status, Some(0), "{out}{error}");
        assert!(out.contains(tee.as_str()), "{out}");
        let (status, out, error) = guestctl(&stack, &["token"]);
        assert_eq!(status, Some(0), "{error}");
        assert!(out.contains("affirming"), "{out}");
    }
}

#[test]
fn tampered_machines_are_denied_with_the_reason() {
    for (kind, _) in KINDS {
        let honest = Machine::azure(kind);
        let other_code = match kind {
            Kind::Snp => Machine { measurement: "66".repeat(48), ..honest.clone() },
            _ => {
                let mut machine = honest.clone();
                machine.td.mrtd = "66".repeat(48);
                machine
            }
        };
        let flipped = Machine { fault: "flip-bit".to_owned(), ..honest.clone() };
        let signature = if kind == Kind::Snp { "snp.signature" } else { "tdx.signature" };
        let mut cases = vec![
            (other_code, "KBS_DENIED_POLICY", if kind == Kind::Snp { "measurement" } else { "mr_td" }),
            (flipped, "KBS_DENIED_ATTESTATION", signature),
        ];
        if kind == Kind::Snp {
            let debug = Machine { policy: honest.policy | POLICY_DEBUG, ..honest.clone() };
            cases.push((debug, "KBS_DENIED_POLICY", "policy_debug_allowed"));
            let level = Machine { vmpl: 1, ..honest.clone() };
            cases.push((level, "KBS_DENIED_ATTESTATION", "snp.vmpl"));
        }
        let Some(mut stack) = stack(options(kind)) else { return };
        for (machine, expected, reason) in cases {
            let answer = ask_as(&mut stack, &machine);
            assert_refused(&answer, reason, 403, expected, &[reason]);
        }
        let answer = ask_as(&mut stack, &honest);
        assert_eq!((answer.status, answer.body.as_slice()), (200, SECRET), "{}", answer.text());
        if kind == Kind::Snp {
            // An agent keeps its chip's certificate; that a new one is another chip's, only who verifies it finds out.
            stack.stop_part(Part::Agent).unwrap();
            stack.set_machine(&faulty(kind, "metadata-other")).unwrap();
            stack.start_part(Part::Agent).unwrap();
            let answer = ask_as(&mut stack, &faulty(kind, "metadata-other"));
            assert!(answer.text().contains("snp.chip_id"), "{}", answer.text());
        }
    }
}

/// A guest that speaks the protocol itself, with evidence that it changes on the way.
struct Guest<'a> {
    stack: &'a Stack,
    tee: Tee,
    key: TeeKeyPair,
}

impl Guest<'_> {
    fn new(stack: &Stack, tee: Tee) -> Guest<'_> {
        Guest { stack, tee, key: TeeKeyPair::generate(KeyAlgorithm::default()).unwrap() }
    }

    /// Attests with what `change` makes of genuine evidence; `change` may ask for further evidence.
    fn attest(&self, change: impl FnOnce(&Self, Value) -> Value) -> curl::Answer {
        let cookies = self.stack.folder().join("cookies");
        let auth = json!({"version": "0.4.0", "tee": self.tee.as_str(), "extra-params": {}});
        let challenge: Value = serde_json::from_slice(&self.post("auth", &auth, &cookies).body).unwrap();
        let (nonce, key) = (challenge["nonce"].as_str().unwrap(), self.key.public_jwk());
        let digest = binding::primary_report_data(nonce, &key, "", HashAlgorithm::Sha384).unwrap();
        let evidence = change(self, self.evidence(&digest));
        let attest = json!({
            "runtime-data": {"nonce": nonce, "tee-pubkey": key},
            "tee-evidence": {"primary_evidence": evidence, "additional_evidence": ""},
        });
        self.post("attest", &attest, &cookies)
    }

    fn post(&self, endpoint: &str, body: &Value, cookies: &std::path::Path) -> curl::Answer {
        let path = self.stack.folder().join("guest-body");
        std::fs::write(&path, body.to_string()).unwrap();
        let show = |path: &std::path::Path| path.display().to_string();
        let (certificate, cookies, body) =
            (show(&self.stack.kbs_certificate()), show(cookies), format!("@{}", path.display()));
        let url = format!("{}/kbs/v0/{endpoint}", self.stack.kbs_url());
        let arguments = [
            "--cacert",
            &certificate,
            "--cookie",
            &cookies,
            "--cookie-jar",
            &cookies,
            "--data-binary",
            &body,
        ];
        curl::curl(&arguments, &url).unwrap()
    }

    /// Evidence of the agent over `report_data`.
    fn evidence(&self, report_data: &[u8]) -> Value {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let evidence = runtime.block_on(async {
            let mut client = AttestationAgentServiceClient::new(channel(&self.stack.agent_socket()).await);
            let request = aa::GetEvidenceRequest { runtime_data: report_data.to_vec() };
            client.get_evidence(request).await.unwrap().into_inner().evidence
        });
        serde_json::from_slice(&evidence).unwrap()
    }
}

/// The HCL report in `evidence`, changed by `change`.
fn with_hcl(tee: Tee, evidence: &Value, change: impl FnOnce(&mut Vec<u8>)) -> Value {
    let mut read = AzureEvidence::from_json(tee, &evidence.to_string()).unwrap();
    change(&mut read.hcl_report);
    serde_json::from_str(&read.to_json().unwrap()).unwrap()
}

#[test]
fn evidence_that_does_not_belong_together_is_denied() {
    for (kind, tee) in KINDS {
        let Some(stack) = stack(options(kind)) else { return };
        let guest = Guest::new(&stack, tee);
        let honest = guest.attest(|_, evidence| evidence);
        assert_eq!(honest.status, 200, "{tee}: {}", honest.text());

        let altered = guest.attest(|_, evidence| {
            with_hcl(tee, &evidence, |hcl| {
                let at = hcl.windows(4).position(|part| part == b"true").unwrap();
                hcl[at..at + 4].copy_from_slice(b"null");
            })
        });
        let of_another = guest.attest(|_, evidence| {
            with_hcl(tee, &evidence, |hcl| {
                // A digit in the middle of the first key's modulus.
                let at = hcl.windows(5).position(|part| part == b"\"n\":\"").unwrap() + 100;
                hcl[at] = if hcl[at] == b'A' { b'B' } else { b'A' };
            })
        });
        let old = guest.attest(|guest, evidence| {
            // The hardware vouched for this one too, but in another session.
            let mut old = guest.evidence(&[7; 48]);
            old["tpm_quote"] = evidence["tpm_quote"].clone();
            old
        });
        let replayed = guest.attest(|guest, _| guest.evidence(&[7; 48]));
        let version_1 = guest.attest(|_, mut evidence| {
            evidence["version"] = json!(1);
            evidence
        });
        for (title, answer, check) in [
            ("altered runtime data", altered, "azure.runtime_data"),
            ("another's key", of_another, "tpm.signature"),
            ("an old report with a fresh quote", old, "azure.user_data"),
            ("a whole evidence of another session", replayed, "tpm.report_data"),
            ("version 1", version_1, "azure.evidence_version"),
        ] {
            assert_eq!(answer.status, 401, "{tee}: {title}: {}", answer.text());
            assert!(answer.text().contains(check), "{tee}: {title}: {check} is missing in {}", answer.text());
        }
    }
}

#[test]
fn init_data_is_extended_once_and_an_agent_that_restarts_accepts_it() {
    let document = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n\"aa.toml\" = '''\n[log]\nlevel = \"info\"\n'''\n";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("initdata.toml");
    std::fs::write(&path, document).unwrap();
    let with_document = |kind| Options {
        agent_arguments: vec!["--initdata-toml".to_owned(), path.display().to_string()],
        ..options(kind)
    };
    for (kind, tee) in KINDS {
        let Some(mut stack) = stack(with_document(kind)) else { return };
        for _ in 0..2 {
            let answer = ask_as(&mut stack, &Machine::azure(kind));
            assert_eq!((answer.status, answer.body.as_slice()), (200, SECRET), "{tee}: {}", answer.text());
            stack.stop_part(Part::Agent).unwrap();
            stack.start_part(Part::Agent).unwrap();
        }
        // What the machine was started with does not change while it runs.
        std::fs::write(&path, document.replace("info", "debug")).unwrap();
        stack.stop_part(Part::Agent).unwrap();
        let mut agent = stack.spawn_agent().unwrap();
        assert_eq!(agent.wait().unwrap(), Some(69), "{}", agent.log());
        assert!(agent.log().contains("init-data mismatch"), "{}", agent.log());
        std::fs::write(&path, document).unwrap();
    }
}

#[test]
fn evidence_with_a_fault_of_the_paravisor_is_never_sent() {
    let Some(mut stack) = stack(options(Kind::Snp)) else { return };
    for (fault, expected) in [
        ("alter-runtime-data", "AZURE_RUNTIME_DATA_UNBOUND"),
        ("other-ak", "AZURE_KEY_MISMATCH"),
        ("no-ak", "EVIDENCE_MALFORMED"),
        ("unknown-type", "EVIDENCE_MALFORMED"),
        ("index-short", "EVIDENCE_MALFORMED"),
        ("index-huge", "TPM_NV_UNFIT"),
        ("index-missing", "TPM_NV_ABSENT"),
        ("answer-huge", "TPM_MALFORMED"),
    ] {
        let answer = ask_as(&mut stack, &faulty(Kind::Snp, fault));
        assert_eq!(answer.status, 500, "{fault}: our platform is to blame: {}", answer.text());
        assert_eq!(code(&answer.body), expected, "{fault}: {}", answer.text());
    }
    // Report data that never show are given up in time.
    let start = std::time::Instant::now();
    let answer = ask_as(&mut stack, &faulty(Kind::Snp, "no-user-data"));
    assert_eq!(code(&answer.body), "AZURE_USER_DATA_TIMEOUT", "{}", answer.text());
    assert!(start.elapsed().as_secs() < 30, "{:?}", start.elapsed());
    let log = stack.part(Part::Kbs).unwrap().log();
    assert!(!log.contains("attest: "), "the key broker saw none of it:\n{log}");
    // Those that take their time are waited for.
    let slow = Azure { user_data_delay_ms: 3000, ..Azure::default() };
    let answer = ask_as(&mut stack, &Machine { azure: Some(slow), ..Machine::azure(Kind::Snp) });
    assert_eq!((answer.status, answer.body.as_slice()), (200, SECRET), "{}", answer.text());
}

#[test]
fn the_metadata_service_cannot_harm_the_agent() {
    for (kind, tee) in KINDS {
        let Some(mut stack) = stack(options(kind)) else { return };
        for (fault, expected) in [
            ("metadata-not-found", "AZURE_METADATA_REFUSED"),
            ("metadata-error", "AZURE_METADATA_REFUSED"),
            ("metadata-redirect", "AZURE_METADATA_REFUSED"),
            ("metadata-garbage", "AZURE_METADATA_MALFORMED"),
            ("metadata-huge", "AZURE_METADATA_MALFORMED"),
            ("metadata-hang", "AZURE_METADATA_UNREACHABLE"),
        ] {
            // Waiting is the same on both.
            if (kind, fault) == (Kind::Tdx, "metadata-hang") {
                continue;
            }
            let start = std::time::Instant::now();
            let answer = ask_as(&mut stack, &faulty(kind, fault));
            assert_eq!(answer.status, 500, "{tee}: {fault}: {}", answer.text());
            assert_eq!(code(&answer.body), expected, "{tee}: {fault}: {}", answer.text());
            assert!(start.elapsed().as_secs() < 40, "{fault}: {:?}", start.elapsed());
        }
        if kind == Kind::Tdx {
            let answer = ask_as(&mut stack, &faulty(kind, "metadata-other"));
            assert_eq!(code(&answer.body), "EVIDENCE_MISMATCH", "{}", answer.text());
        }
        let answer = ask_as(&mut stack, &Machine::azure(kind));
        assert_eq!((answer.status, answer.body.as_slice()), (200, SECRET), "{tee}: {}", answer.text());
    }
}

#[test]
fn a_machine_whose_hcl_report_cannot_be_used_is_no_other_platform() {
    if !azure_emulator_runs_here() {
        return;
    }
    let mut stack = Stack::prepare(options(Kind::Snp)).unwrap();
    stack.start_part(Part::Emulator).unwrap();
    stack.start_part(Part::Kbs).unwrap();
    for fault in ["no-ak", "unknown-type", "index-short", "index-huge", "answer-huge"] {
        stack.set_machine(&faulty(Kind::Snp, fault)).unwrap();
        let mut agent = stack.spawn_agent().unwrap();
        assert_eq!(agent.wait().unwrap(), Some(69), "{fault}: {}", agent.log());
        let log = agent.log();
        assert!(log.contains("TEE_NOT_FOUND") && log.contains("HCL report in"), "{fault}: {log}");
    }
    // Without such a report it is a machine with a TPM; this one has no key for that.
    stack.set_machine(&faulty(Kind::Snp, "index-missing")).unwrap();
    let mut agent = stack.spawn_agent().unwrap();
    assert_eq!(agent.wait().unwrap(), Some(69), "{}", agent.log());
    assert!(agent.log().contains("TPM_KEY_ABSENT"), "{}", agent.log());
}
