//! Evidence of all NVIDIA devices as JSON, in the shape that Trustee's NVIDIA verifier reads.
//!
//! `{"device_evidence_list": [{"arch", "uuid", "evidence", "certificate"}]}`: `evidence` is the report and `certificate`
//! the PEM chain, leaf first, both in standard base64 with padding. Older guests send the report as hexadecimal; that is
//! read too. `arch` and `uuid` are the driver's words, which no signature covers.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use super::report::MAX_REPORT_LEN;
use crate::Error;

/// Longest text that [`NvidiaEvidence::from_json`] reads, in bytes.
pub const MAX_JSON_LEN: usize = 2 * 1024 * 1024;

/// Longest certificate chain, in bytes of PEM. NVML's own buffer has 5120.
pub const MAX_CHAIN_LEN: usize = 16 * 1024;

/// Most devices in one piece of evidence.
pub const MAX_DEVICES: usize = 64;

/// What stands for the name of a device that has none.
pub const UNKNOWN_UUID: &str = "unknown";

const WHAT: &str = "NVIDIA evidence";

/// Longest name of a device, in bytes.
const MAX_UUID_LEN: usize = 96;

/// The evidence of all devices of one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NvidiaEvidence {
    /// The devices; at least one, at most [`MAX_DEVICES`].
    pub devices: Vec<Device>,
}

/// The evidence of one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Generation of the device.
    pub architecture: Architecture,
    /// Name that the driver has for it, `GPU-` and a UUID; [`UNKNOWN_UUID`] if it has none.
    pub uuid: String,
    /// The report as the driver gave it, see [`super::Report`].
    pub report: Vec<u8>,
    /// Certificate chain, PEM, leaf first.
    pub certificate_chain: Vec<u8>,
}

/// Generations of devices that have such reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Architecture {
    /// GPUs of the Hopper generation: H100, H200.
    Hopper,
    /// GPUs of the Blackwell generation.
    Blackwell,
    /// Switches of the third NVSwitch generation.
    Ls10,
}

impl Architecture {
    /// Every value.
    pub const ALL: [Self; 3] = [Self::Hopper, Self::Blackwell, Self::Ls10];

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hopper => "HOPPER",
            Self::Blackwell => "BLACKWELL",
            Self::Ls10 => "LS10",
        }
    }

    /// Whether it is a switch, not a GPU.
    #[must_use]
    pub const fn is_switch(self) -> bool {
        matches!(self, Self::Ls10)
    }
}

impl NvidiaEvidence {
    /// Compact JSON.
    ///
    /// # Errors
    /// [`Error::TooLarge`] and [`Error::Invalid`] for what no verifier of this project would read.
    pub fn to_json(&self) -> Result<String, Error> {
        self.check()?;
        let list = self.devices.iter().map(|device| DeviceJson {
            arch: device.architecture.as_str().to_owned(),
            uuid: device.uuid.clone(),
            evidence: BASE64_STANDARD.encode(&device.report),
            certificate: BASE64_STANDARD.encode(&device.certificate_chain),
        });
        let wire = EvidenceJson { device_evidence_list: list.collect() };
        serde_json::to_string(&wire).map_err(|e| Error::Json { what: WHAT, why: e.to_string() })
    }

    /// Reads evidence of at most [`MAX_JSON_LEN`] bytes.
    ///
    /// # Errors
    /// [`Error::TooLarge`]; [`Error::Json`] for another shape, an unknown architecture or broken base64;
    /// [`Error::Invalid`] for no device at all or a name that is none.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_JSON_LEN {
            return Err(Error::TooLarge { what: WHAT, size: text.len(), limit: MAX_JSON_LEN });
        }
        let wire: EvidenceJson = serde_json::from_str(text).map_err(|e| json_error(e.to_string()))?;
        let devices = wire.device_evidence_list.into_iter().map(DeviceJson::read);
        let evidence = Self { devices: devices.collect::<Result<_, _>>()? };
        evidence.check()?;
        Ok(evidence)
    }

    fn check(&self) -> Result<(), Error> {
        if self.devices.is_empty() {
            let why = "it is empty: evidence of no device proves nothing".to_owned();
            return Err(Error::Invalid { field: "nvidia.device_evidence_list", why });
        }
        limit("the number of NVIDIA devices", self.devices.len(), MAX_DEVICES)?;
        for device in &self.devices {
            limit("a GPU report", device.report.len(), MAX_REPORT_LEN)?;
            limit("a certificate chain", device.certificate_chain.len(), MAX_CHAIN_LEN)?;
            if device.uuid.is_empty()
                || device.uuid.len() > MAX_UUID_LEN
                || !device.uuid.bytes().all(|byte| byte.is_ascii_graphic())
            {
                let why = format!("it must be 1 to {MAX_UUID_LEN} printable ASCII characters");
                return Err(Error::Invalid { field: "nvidia.uuid", why });
            }
        }
        Ok(())
    }
}

fn limit(what: &'static str, size: usize, limit: usize) -> Result<(), Error> {
    if size > limit { Err(Error::TooLarge { what, size, limit }) } else { Ok(()) }
}

#[derive(Serialize, Deserialize)]
struct EvidenceJson {
    device_evidence_list: Vec<DeviceJson>,
}

/// Members in the order of the wire form.
#[derive(Serialize, Deserialize)]
struct DeviceJson {
    arch: String,
    #[serde(default = "unknown_uuid")]
    uuid: String,
    evidence: String,
    certificate: String,
}

fn unknown_uuid() -> String {
    UNKNOWN_UUID.to_owned()
}

impl DeviceJson {
    fn read(self) -> Result<Device, Error> {
        let architecture = Architecture::ALL
            .into_iter()
            .find(|known| known.as_str().eq_ignore_ascii_case(&self.arch))
            .ok_or_else(|| json_error("arch is none of HOPPER, BLACKWELL and LS10".to_owned()))?;
        let base64 = |member: &str, text: &str| {
            BASE64_STANDARD.decode(text).map_err(|e| json_error(format!("{member} is not base64: {e}")))
        };
        // A report begins with 11 e0 01 ff, whose base64 has a slash: no text is both.
        let report = match hex::decode(&self.evidence) {
            Ok(report) if !report.is_empty() => report,
            _ => base64("evidence", &self.evidence)?,
        };
        let certificate_chain = base64("certificate", &self.certificate)?;
        Ok(Device { architecture, uuid: self.uuid, report, certificate_chain })
    }
}

fn json_error(why: String) -> Error {
    Error::Json { what: WHAT, why }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn device() -> Device {
        Device {
            architecture: Architecture::Hopper,
            uuid: "GPU-1".to_owned(),
            report: vec![0x11, 0xE0, 1, 0xFF],
            certificate_chain: b"PEM".to_vec(),
        }
    }

    #[test]
    fn the_wire_form_is_fixed() {
        let evidence = NvidiaEvidence { devices: vec![device()] };
        let text = r#"{"device_evidence_list":[{"arch":"HOPPER","uuid":"GPU-1","evidence":"EeAB/w==","certificate":"UEVN"}]}"#;
        assert_eq!(evidence.to_json().unwrap(), text);
        assert_eq!(NvidiaEvidence::from_json(text), Ok(evidence));
    }

    #[test]
    fn older_forms_are_read() {
        let text =
            r#"{"device_evidence_list":[{"arch":"Hopper","evidence":"11e001ff","certificate":"UEVN"}]}"#;
        let read = NvidiaEvidence::from_json(text).unwrap();
        assert_eq!(read.devices, [Device { uuid: UNKNOWN_UUID.to_owned(), ..device() }]);
    }

    #[test]
    fn other_shapes_and_sizes_are_refused() {
        let one = |arch: &str, uuid: &str, evidence: &str, certificate: &str| {
            let device = serde_json::json!({"arch": arch, "uuid": uuid, "evidence": evidence, "certificate": certificate});
            serde_json::json!({ "device_evidence_list": [device] }).to_string()
        };
        let long = "A".repeat(40_000);
        for (text, code) in [
            (String::new(), "EVIDENCE_JSON_INVALID"),
            ("{}".to_owned(), "EVIDENCE_JSON_INVALID"),
            (r#"{"device_evidence_list":[]}"#.to_owned(), "EVIDENCE_FIELD_INVALID"),
            (one("AMPERE", "a", "", ""), "EVIDENCE_JSON_INVALID"),
            (one("LS10", "a", "-", ""), "EVIDENCE_JSON_INVALID"),
            (one("LS10", "a", "", "A"), "EVIDENCE_JSON_INVALID"),
            (one("LS10", "", "", ""), "EVIDENCE_FIELD_INVALID"),
            (one("LS10", "a\nb", "", ""), "EVIDENCE_FIELD_INVALID"),
            (one("LS10", &"a".repeat(97), "", ""), "EVIDENCE_FIELD_INVALID"),
            (one("LS10", "a", &long, ""), "EVIDENCE_TOO_LARGE"),
            (one("LS10", "a", "", &long), "EVIDENCE_TOO_LARGE"),
            (" ".repeat(MAX_JSON_LEN + 1), "EVIDENCE_TOO_LARGE"),
        ] {
            let shown = text.chars().take(120).collect::<String>();
            assert_eq!(NvidiaEvidence::from_json(&text).unwrap_err().code(), code, "{shown}");
        }
        let many = NvidiaEvidence { devices: vec![device(); MAX_DEVICES + 1] };
        assert_eq!(many.to_json().unwrap_err().code(), "EVIDENCE_TOO_LARGE");
    }

    proptest! {
        #[test]
        fn round_trip(
            devices in prop::collection::vec(
                (0usize..3, "[!-~]{1,40}", prop::collection::vec(any::<u8>(), 0..200), any::<Vec<u8>>()),
                1..10,
            ),
        ) {
            let devices = devices.into_iter().map(|(arch, uuid, report, certificate_chain)| Device {
                architecture: Architecture::ALL[arch], uuid, report, certificate_chain,
            });
            // Bytes whose base64 is hexadecimal as well are no report.
            let devices: Vec<_> = devices
                .filter(|device| hex::decode(BASE64_STANDARD.encode(&device.report)).is_err() || device.report.is_empty())
                .collect();
            prop_assume!(!devices.is_empty());
            let evidence = NvidiaEvidence { devices };
            prop_assert_eq!(NvidiaEvidence::from_json(&evidence.to_json().unwrap()), Ok(evidence));
        }

        #[test]
        fn random_text_never_panics(text: String) {
            let _ = NvidiaEvidence::from_json(&text);
        }
    }
}
