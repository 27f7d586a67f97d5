//! Writes HCL reports and the runtime data in them, byte by byte and not with the parser of `cc-evidence`.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::json;

/// Length of the place for the hardware's report.
const PLACE_LEN: usize = 1184;
/// Size of the index that holds the report.
const INDEX_LEN: usize = 2600;

/// The runtime data. `modulus` is the attestation key's, none for a machine that names no such key.
pub(super) fn runtime_data(modulus: Option<&[u8]>, user_data: &[u8; 64]) -> String {
    let key = |name: &str, use_: &str, modulus: &[u8]| {
        json!({
            "kid": name, "key_ops": [use_], "kty": "RSA", "e": "AQAB",
            "n": BASE64_URL_SAFE_NO_PAD.encode(modulus),
        })
    };
    let mut keys: Vec<_> = modulus.map(|modulus| key("HCLAkPub", "sign", modulus)).into_iter().collect();
    keys.push(key("HCLEkPub", "encrypt", &[0xE1; 256]));
    json!({
        "keys": keys,
        "vm-configuration": {
            "console-enabled": true, "secure-boot": true, "tpm-enabled": true,
            "vmUniqueId": "00000000-0000-4000-8000-7E570000A2E0",
        },
        "user-data": hex::encode_upper(user_data),
    })
    .to_string()
}

/// The report around `hardware` (an SNP report or a TDREPORT) and `runtime`; `kind` is 2 for SNP, 4 for TDX.
pub(super) fn report(hardware: &[u8], kind: u32, runtime: &str) -> Vec<u8> {
    let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes();
    let mut place = hardware.to_vec();
    place.resize(PLACE_LEN, 0);
    let mut report = Vec::with_capacity(INDEX_LEN);
    report.extend(b"HCLA");
    report.extend(2u32.to_le_bytes());
    report.extend(size(32 + PLACE_LEN + 20 + runtime.len()));
    report.extend(2u32.to_le_bytes()); // request type
    report.extend([0; 16]); // status, reserved
    report.extend(place);
    report.extend(size(20 + runtime.len()));
    report.extend(1u32.to_le_bytes());
    report.extend(kind.to_le_bytes());
    report.extend(1u32.to_le_bytes()); // SHA-256
    report.extend(size(runtime.len()));
    report.extend(runtime.as_bytes());
    report.resize(INDEX_LEN.max(report.len()), 0);
    report
}
