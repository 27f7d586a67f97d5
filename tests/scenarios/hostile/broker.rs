//! The honest broker (`dev-kbs`) and a guest that cheats: evidence of the real agent, sent where it does not belong.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cc_crypto::{KeyAlgorithm, TeeKeyPair};
use cc_evidence::{HashAlgorithm, binding};
use cc_tests::curl::{Answer, curl};
use cc_tests::stack::{Options, Stack};
use serde_json::{Value, json};

use super::ask;
use crate::{SECRET, stack};

/// A session at the broker: cookie file and nonce.
struct Visit<'a> {
    stack: &'a Stack,
    jar: tempfile::NamedTempFile,
    nonce: String,
}

fn post(stack: &Stack, endpoint: &str, body: &Value, cookies: &[&str]) -> Answer {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), body.to_string()).unwrap();
    let (data, certificate) = (format!("@{}", file.path().display()), stack.kbs_certificate());
    let mut arguments = vec!["--cacert", certificate.to_str().unwrap(), "--data-binary", &data];
    arguments.extend(cookies);
    curl(&arguments, &format!("{}/kbs/v0/{endpoint}", stack.kbs_url())).unwrap()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

impl<'a> Visit<'a> {
    fn open(stack: &'a Stack) -> Self {
        let jar = tempfile::NamedTempFile::new().unwrap();
        let request = json!({"version": "0.4.0", "tee": "snp", "extra-params": {}});
        let answer = post(stack, "auth", &request, &["--cookie-jar", path(jar.path())]);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        Self { stack, jar, nonce: body["nonce"].as_str().unwrap().to_owned() }
    }

    /// The body of `attest` with evidence that is bound to `nonce` and `key`.
    fn body(&self, nonce: &str, key: &TeeKeyPair) -> Value {
        let digest =
            binding::primary_report_data(nonce, &key.public_jwk(), "", HashAlgorithm::Sha384).unwrap();
        let digest = URL_SAFE_NO_PAD.encode(digest);
        let evidence =
            self.stack.rest_get(&format!("/aa/evidence?runtime_data={digest}&encoding=base64")).unwrap();
        assert_eq!(evidence.status, 200, "{}", evidence.text());
        let evidence: Value = serde_json::from_slice(&evidence.body).unwrap();
        json!({
            "init-data": null,
            "runtime-data": {"nonce": self.nonce, "tee-pubkey": key.public_jwk()},
            "tee-evidence": {"primary_evidence": evidence, "additional_evidence": ""},
        })
    }

    fn attest(&self, body: &Value) -> Answer {
        post(self.stack, "attest", body, &["--cookie", path(self.jar.path())])
    }
}

fn refused(answer: &Answer, name: &str, says: &str) {
    assert_eq!(answer.status, 401, "{name}: {}", answer.text());
    assert!(answer.text().contains("AttestationError"), "{name}: {}", answer.text());
    assert!(answer.text().contains(says), "{name}: {says:?} is missing in {}", answer.text());
}

#[test]
fn evidence_opens_one_session_once() {
    let Some(stack) = stack(Options::default()) else { return };
    let key = TeeKeyPair::generate(KeyAlgorithm::EcdhP256).unwrap();
    let other_key = TeeKeyPair::generate(KeyAlgorithm::EcdhP256).unwrap();

    let first = Visit::open(&stack);
    let body = first.body(&first.nonce, &key);
    let answer = first.attest(&body);
    assert_eq!(answer.status, 200, "the control: {}", answer.text());

    refused(&first.attest(&body), "the same body again", "session");
    let fresh = first.body(&first.nonce, &other_key);
    refused(&first.attest(&fresh), "a second attestation on one session", "session");

    let second = Visit::open(&stack);
    refused(&second.attest(&body), "the whole body in another session", "nonce");
    let second = Visit::open(&stack);
    let mut patched = body.clone();
    patched["runtime-data"]["nonce"] = json!(second.nonce);
    refused(&second.attest(&patched), "last time's report under the new nonce", "report_data");
    let second = Visit::open(&stack);
    let another = second.body(&first.nonce, &key);
    refused(&second.attest(&another), "a fresh report over another nonce", "report_data");
    let second = Visit::open(&stack);
    let mut stolen = second.body(&second.nonce, &key);
    stolen["runtime-data"]["tee-pubkey"] = other_key.public_jwk();
    refused(&second.attest(&stolen), "another key under the evidence", "report_data");
    let second = Visit::open(&stack);
    let mut spaced = second.body(&second.nonce, &key);
    spaced["tee-evidence"]["additional_evidence"] = json!(" ");
    let answer = second.attest(&spaced);
    assert_eq!(answer.status, 401, "one space more: {}", answer.text());

    let third = Visit::open(&stack);
    let body = third.body(&third.nonce, &key);
    refused(&post(&stack, "attest", &body, &[]), "no cookie", "session");
    let answer = third.attest(&body);
    assert_eq!(answer.status, 200, "and the session is still good: {}", answer.text());

    let answer = ask(&stack);
    assert_eq!((answer.status, answer.body.as_slice()), (200, SECRET), "{}", answer.text());
}
