//! The claims about a realm and its platform, under the names of Trustee's CCA verifier: bytes are standard base64.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use cc_evidence::cca::{PlatformClaims, RealmClaims, SoftwareComponent, Token};
use serde::Serialize;

/// All claims.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CcaClaims {
    /// About the platform.
    pub platform: PlatformTokenClaims,
    /// About the realm.
    pub realm: RealmTokenClaims,
    /// The realm's personalization value, hex.
    pub init_data: String,
    /// The realm's challenge, hex.
    pub report_data: String,
}

/// What the platform says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the claims of the platform's token, by their names there")]
pub struct PlatformTokenClaims {
    pub cca_platform_profile: String,
    pub cca_platform_implementation_id: String,
    pub cca_platform_instance_id: String,
    pub cca_platform_challenge: String,
    pub cca_platform_config: String,
    pub cca_platform_lifecycle: u64,
    pub cca_platform_sw_components: Vec<ComponentClaims>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cca_platform_service_indicator: Option<String>,
    pub cca_platform_hash_algo_id: &'static str,
}

/// A part of the platform's firmware.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the claims of the platform's token, by their names there")]
pub struct ComponentClaims {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measurement_type: Option<String>,
    pub measurement_value: String,
    pub signer_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// What the realm management monitor says about the realm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the claims of the realm's token, by their names there")]
pub struct RealmTokenClaims {
    pub cca_realm_challenge: String,
    pub cca_realm_personalization_value: String,
    pub cca_realm_initial_measurement: String,
    pub cca_realm_extensible_measurements: [String; 4],
    pub cca_realm_hash_algo_id: &'static str,
    pub cca_realm_public_key: String,
    pub cca_realm_public_key_hash_algo_id: &'static str,
}

impl CcaClaims {
    /// The claims of a token, verified or not: whoever shows them says which.
    #[must_use]
    pub fn of(token: &Token) -> Self {
        let (platform, realm) = (&token.platform.claims, &token.realm.claims);
        Self {
            platform: PlatformTokenClaims::new(platform),
            realm: RealmTokenClaims::new(realm),
            init_data: hex::encode(realm.personalization),
            report_data: hex::encode(realm.challenge),
        }
    }
}

impl PlatformTokenClaims {
    fn new(claims: &PlatformClaims) -> Self {
        Self {
            cca_platform_profile: claims.profile.clone(),
            cca_platform_implementation_id: base64(&claims.implementation_id),
            cca_platform_instance_id: base64(&claims.instance_id),
            cca_platform_challenge: base64(&claims.challenge),
            cca_platform_config: base64(&claims.config),
            cca_platform_lifecycle: claims.lifecycle,
            cca_platform_sw_components: claims.software_components.iter().map(ComponentClaims::new).collect(),
            cca_platform_service_indicator: claims.verification_service.clone(),
            cca_platform_hash_algo_id: claims.hash.as_str(),
        }
    }
}

impl ComponentClaims {
    fn new(component: &SoftwareComponent) -> Self {
        Self {
            measurement_type: component.kind.clone(),
            measurement_value: base64(&component.measurement),
            signer_id: base64(&component.signer_id),
            version: component.version.clone(),
        }
    }
}

impl RealmTokenClaims {
    fn new(claims: &RealmClaims) -> Self {
        Self {
            cca_realm_challenge: base64(&claims.challenge),
            cca_realm_personalization_value: base64(&claims.personalization),
            cca_realm_initial_measurement: base64(&claims.initial_measurement),
            cca_realm_extensible_measurements: claims
                .extensible_measurements
                .each_ref()
                .map(|register| base64(register)),
            cca_realm_hash_algo_id: claims.hash.as_str(),
            cca_realm_public_key: base64(&claims.public_key_bytes),
            cca_realm_public_key_hash_algo_id: claims.public_key_hash.as_str(),
        }
    }
}

fn base64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}
