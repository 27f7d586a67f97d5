//! Access keys of Alibaba Cloud: those that lie in a file, and the temporary ones that the metadata service gives for a role.

use cc_crypto::Secret;
use cc_kbs::foreign::json_fault;
use serde::Deserialize;

use crate::secret_text::SecretText;

/// An access key.
#[derive(Debug)]
pub(super) struct AccessKey {
    pub(super) id: String,
    pub(super) secret: SecretText,
    /// Of a temporary one.
    pub(super) security_token: Option<SecretText>,
}

/// `credential.json`.
#[derive(Deserialize)]
struct File {
    access_key_id: String,
    access_key_secret: SecretText,
    security_token: Option<SecretText>,
}

/// The answer of the metadata service.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Metadata {
    access_key_id: String,
    access_key_secret: SecretText,
    security_token: SecretText,
}

/// `ecsRamRole.json`: which role, and which region its key is used in.
#[derive(Debug, Deserialize)]
pub(super) struct RamRole {
    #[serde(rename = "ecs_ram_role_name")]
    pub(super) name: String,
    #[serde(rename = "region_id")]
    pub(super) region: String,
}

impl AccessKey {
    /// Reads `{"access_key_id", "access_key_secret", "security_token"}`, of which the last is only there for a temporary key.
    ///
    /// # Errors
    /// What is wrong; the text is not quoted.
    pub(super) fn of_file(text: &Secret) -> Result<Self, String> {
        let File { access_key_id, access_key_secret, security_token } = object(text)?;
        Self { id: access_key_id, secret: access_key_secret, security_token }.checked()
    }

    /// Reads `<id>:<secret>:<security token>`; white space around it is taken off.
    ///
    /// # Errors
    /// As [`AccessKey::of_file`].
    pub(super) fn of_line(text: &Secret) -> Result<Self, String> {
        const BAD: &str = "not of the form <access key id>:<access key secret>:<security token>";
        let line = std::str::from_utf8(text.expose().trim_ascii()).map_err(|_| BAD)?;
        let mut parts = line.split(':').map(str::to_owned);
        let (Some(id), Some(secret), Some(token), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(BAD.to_owned());
        };
        Self { id, secret: secret.into(), security_token: Some(token.into()) }.checked()
    }

    /// Reads what the metadata service answered.
    ///
    /// # Errors
    /// As [`AccessKey::of_file`].
    pub(super) fn of_metadata(text: &Secret) -> Result<Self, String> {
        let Metadata { access_key_id, access_key_secret, security_token } = object(text)?;
        Self { id: access_key_id, secret: access_key_secret, security_token: Some(security_token) }.checked()
    }

    fn checked(self) -> Result<Self, String> {
        let word = |text: &str, max: usize| {
            (1..=max).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
        };
        if !word(&self.id, 128) {
            return Err("the access key id is not 1 to 128 visible ASCII characters".to_owned());
        }
        if !word(self.secret.expose(), 256) {
            return Err("the access key secret is not 1 to 256 visible ASCII characters".to_owned());
        }
        if !self.security_token.as_ref().is_none_or(|token| word(token.expose(), 8192)) {
            return Err("the security token is not 1 to 8192 visible ASCII characters".to_owned());
        }
        Ok(self)
    }
}

impl RamRole {
    /// Reads `{"ecs_ram_role_name", "region_id"}`. The role's name becomes part of a path.
    ///
    /// # Errors
    /// What is wrong.
    pub(super) fn parse(text: &Secret) -> Result<Self, String> {
        let role: Self = object(text)?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        if !(1..=64).contains(&role.name.len()) || !role.name.bytes().all(plain) {
            return Err("ecs_ram_role_name is not 1 to 64 letters, digits, dashes and underscores".to_owned());
        }
        Ok(role)
    }
}

fn object<'a, T: Deserialize<'a>>(text: &'a Secret) -> Result<T, String> {
    // Derived readers take a list of the members' values as well.
    if text.expose().trim_ascii_start().first() != Some(&b'{') {
        return Err("not a JSON object".to_owned());
    }
    serde_json::from_slice(text.expose()).map_err(|e| json_fault(&e))
}
