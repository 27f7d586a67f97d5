//! Verified TPM evidence as claims.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use cc_evidence::tpm::{Attest, TpmEvidence};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::AttestationKey;

/// What a quote says: `pcr00` to `pcr23`, `report_data` and `init_data` (PCR 8) in hex, `ak_public` in base64 as Trustee's
/// TPM verifier names them; beside them `ak_sha256`, the TPM's counters and its firmware version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TpmClaims {
    pcrs: Vec<[u8; 32]>,
    report_data: Vec<u8>,
    ak_public: Vec<u8>,
    ak_sha256: [u8; 32],
    attest: Attest,
}

impl TpmClaims {
    pub(super) fn new(evidence: &TpmEvidence, attest: &Attest, key: &AttestationKey) -> Self {
        Self {
            pcrs: evidence.pcrs.to_vec(),
            report_data: attest.extra_data.clone(),
            ak_public: evidence.ak_public.clone(),
            ak_sha256: *key.fingerprint(),
            attest: attest.clone(),
        }
    }
}

impl Serialize for TpmClaims {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (pcr, value) in self.pcrs.iter().enumerate() {
            map.serialize_entry(&format!("pcr{pcr:02}"), &hex::encode(value))?;
        }
        map.serialize_entry("ak_public", &BASE64_STANDARD.encode(&self.ak_public))?;
        map.serialize_entry("ak_sha256", &hex::encode(self.ak_sha256))?;
        map.serialize_entry("report_data", &hex::encode(&self.report_data))?;
        map.serialize_entry("init_data", &hex::encode(super::init_data_pcr(&self.pcrs)))?;
        map.serialize_entry("clock", &self.attest.clock.clock)?;
        map.serialize_entry("clock_safe", &self.attest.clock.safe)?;
        map.serialize_entry("reset_count", &self.attest.clock.reset_count)?;
        map.serialize_entry("restart_count", &self.attest.clock.restart_count)?;
        map.serialize_entry("firmware_version", &format!("{:016x}", self.attest.firmware_version))?;
        map.end()
    }
}
