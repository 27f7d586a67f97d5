//! The runtime data: which keys the virtual TPM has, how the machine is configured, and what the guest wrote.
//!
//! JSON with `keys` (JSON Web Keys, RFC 7517), `vm-configuration` and `user-data` (hexadecimal). Its attestation key
//! is the member `HCLAkPub`. Members that are not known are covered by the hash and otherwise left alone.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::Error;

const WHAT: &str = "the runtime data of an HCL report";

/// Name of the attestation key.
const AK: &str = "HCLAkPub";

/// Smallest and largest modulus in bytes: RSA of 2048 to 4096 bits.
const MODULUS_LEN: std::ops::RangeInclusive<usize> = 256..=512;

/// What the runtime data says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeData {
    /// The public attestation key of the TPM.
    pub ak: AkPublic,
    /// Names of all keys, in order.
    pub key_names: Vec<String>,
    /// How the machine is configured, as the paravisor says.
    pub vm_configuration: Map<String, Value>,
    /// What the guest wrote into the TPM for the hardware to vouch for, followed by zeros; at most 64 bytes. None on
    /// machines without this input.
    pub user_data: Option<Vec<u8>>,
}

/// A public RSA key: big-endian numbers without leading zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AkPublic {
    /// The modulus, 256 to 512 bytes.
    pub modulus: Vec<u8>,
    /// The public exponent, 1 to 4 bytes.
    pub exponent: Vec<u8>,
}

impl RuntimeData {
    /// Reads the JSON text.
    ///
    /// # Errors
    /// [`Error::Json`] when it is not of this shape, has no or several attestation keys, or one that is not RSA of 2048
    /// to 4096 bits, or when `user-data` is not up to 64 bytes in hexadecimal.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let wire: Wire = serde_json::from_str(text).map_err(|e| malformed(e.to_string()))?;
        let mut named = wire.keys.iter().filter(|key| key.kid == AK);
        let ak = match (named.next(), named.next()) {
            (Some(key), None) => key.to_rsa()?,
            (None, _) => return Err(malformed(format!("there is no key {AK}"))),
            (Some(_), Some(_)) => return Err(malformed(format!("the key {AK} is there twice"))),
        };
        let user_data = wire.user_data.map(|text| match hex::decode(&text) {
            Ok(bytes) if bytes.len() <= 64 => Ok(bytes),
            _ => Err(malformed("user-data is not up to 64 bytes in hexadecimal".to_owned())),
        });
        Ok(RuntimeData {
            ak,
            key_names: wire.keys.into_iter().map(|key| key.kid).collect(),
            vm_configuration: wire.vm_configuration,
            user_data: user_data.transpose()?,
        })
    }

    /// Whether the user data is exactly `data` followed by zeros. Empty data is no data.
    #[must_use]
    pub fn has_user_data(&self, data: &[u8]) -> bool {
        let held = self.user_data.as_deref().unwrap_or_default();
        let (head, rest) = held.split_at_checked(data.len()).unwrap_or_default();
        !data.is_empty() && head == data && rest.iter().all(|byte| *byte == 0)
    }
}

/// Members that are used; serde refuses one that is named twice.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Wire {
    keys: Vec<Jwk>,
    #[serde(default)]
    vm_configuration: Map<String, Value>,
    user_data: Option<String>,
}

#[derive(Deserialize)]
struct Jwk {
    kid: String,
    kty: String,
    n: Option<String>,
    e: Option<String>,
}

impl Jwk {
    fn to_rsa(&self) -> Result<AkPublic, Error> {
        if self.kty != "RSA" {
            return Err(malformed(format!("the key {AK} is not RSA")));
        }
        let number = |member: &str, text: &Option<String>| {
            let bytes = text.as_ref().and_then(|text| BASE64_URL_SAFE_NO_PAD.decode(text).ok());
            let bytes = bytes.ok_or_else(|| malformed(format!("{member} of {AK} is not base64url")))?;
            Ok(bytes.into_iter().skip_while(|byte| *byte == 0).collect::<Vec<u8>>())
        };
        let key = AkPublic { modulus: number("n", &self.n)?, exponent: number("e", &self.e)? };
        if !MODULUS_LEN.contains(&key.modulus.len()) || !(1..=4).contains(&key.exponent.len()) {
            return Err(malformed(format!("{AK} is not an RSA key of 2048 to 4096 bits")));
        }
        Ok(key)
    }
}

fn malformed(why: String) -> Error {
    Error::Json { what: WHAT, why }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// A change to a document, and what its refusal says.
    type Case<'a> = (&'a dyn Fn(&mut Value), &'a str);

    fn document() -> Value {
        let n = BASE64_URL_SAFE_NO_PAD.encode([0xC1; 256]);
        json!({
            "keys": [
                {"kid": "HCLAkPub", "key_ops": ["sign"], "kty": "RSA", "e": "AQAB", "n": n},
                {"kid": "HCLEkPub", "key_ops": ["encrypt"], "kty": "RSA", "e": "AQAB", "n": n},
            ],
            "vm-configuration": {"secure-boot": true},
            "user-data": "AB".repeat(32) + &"00".repeat(32),
        })
    }

    #[test]
    fn members_are_read() {
        let data = RuntimeData::parse(&document().to_string()).unwrap();
        assert_eq!(data.ak, AkPublic { modulus: vec![0xC1; 256], exponent: vec![1, 0, 1] });
        assert_eq!(data.key_names, ["HCLAkPub", "HCLEkPub"]);
        assert_eq!(data.vm_configuration["secure-boot"], true);
        assert!(data.has_user_data(&[0xAB; 32]));
        for other in [&[0xAB; 31][..], &[0xAB; 33], &[0xAC; 32], &[], &[0; 64], &[0xAB; 65]] {
            assert!(!data.has_user_data(other), "{other:?}");
        }
    }

    #[test]
    fn other_documents_are_refused() {
        let changed = |change: &dyn Fn(&mut Value)| {
            let mut document = document();
            change(&mut document);
            RuntimeData::parse(&document.to_string()).unwrap_err().to_string()
        };
        let table: [Case<'_>; 11] = [
            (&|d| d["keys"] = json!([]), "there is no key HCLAkPub"),
            (&|d| d["keys"][0]["kid"] = json!("other"), "there is no key HCLAkPub"),
            (&|d| d["keys"][1]["kid"] = json!("HCLAkPub"), "is there twice"),
            (&|d| d["keys"][0]["kty"] = json!("EC"), "is not RSA"),
            (&|d| d["keys"][0]["n"] = json!("a=b"), "n of HCLAkPub is not base64url"),
            (&|d| d["keys"][0]["e"] = Value::Null, "e of HCLAkPub is not base64url"),
            (&|d| d["keys"][0]["e"] = json!("AAA"), "not an RSA key of"),
            (&|d| d["keys"][0]["n"] = json!("AQAB"), "not an RSA key of"),
            (&|d| d["user-data"] = json!("0"), "user-data is not"),
            (&|d| d["user-data"] = json!("00".repeat(65)), "user-data is not"),
            (&|d| d["vm-configuration"] = json!([]), "map"),
        ];
        for (change, expected) in table {
            let error = changed(change);
            assert!(error.contains(expected), "{error} lacks {expected:?}");
        }
        let twice = document().to_string().replacen("{\"keys\"", "{\"user-data\":\"\",\"keys\"", 1);
        assert!(RuntimeData::parse(&twice).unwrap_err().to_string().contains("duplicate"), "{twice}");
    }

    #[test]
    fn a_machine_without_the_input_has_no_user_data() {
        let mut document = document();
        document.as_object_mut().unwrap().remove("user-data");
        let data = RuntimeData::parse(&document.to_string()).unwrap();
        assert_eq!(data.user_data, None);
        assert!(!data.has_user_data(&[0; 48]));
    }

    proptest! {
        #[test]
        fn random_text_never_panics(text: String) {
            let _ = RuntimeData::parse(&text);
        }
    }
}
