//! Signature Version 4 on a request, by the crate `aws-sigv4`, and the access key's file.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign as signature_of};
use aws_sigv4::sign::v4;
use bytes::Bytes;
use cc_crypto::Secret;
use cc_kbs::foreign::json_fault;
use http::Request;
use serde::Deserialize;

use crate::secret_text::SecretText;

/// An access key of AWS.
#[derive(Debug, Deserialize)]
pub(super) struct AccessKey {
    access_key_id: String,
    secret_access_key: SecretText,
    session_token: Option<SecretText>,
}

impl AccessKey {
    /// Reads `{"access_key_id", "secret_access_key", "session_token"}`, of which the last is only there for a temporary key.
    ///
    /// # Errors
    /// What is wrong; the text is not quoted.
    pub(super) fn parse(text: &Secret) -> Result<Self, String> {
        // Derived readers take a list of the members' values as well.
        if text.expose().trim_ascii_start().first() != Some(&b'{') {
            return Err("not a JSON object".to_owned());
        }
        let key: Self = serde_json::from_slice(text.expose()).map_err(|e| json_fault(&e))?;
        // They become header values.
        let word = |text: &str, max: usize| {
            (1..=max).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
        };
        let id = |text: &str| word(text, 128) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !id(&key.access_key_id) {
            return Err("access_key_id is not 1 to 128 letters and digits".to_owned());
        }
        if !word(key.secret_access_key.expose(), 256) {
            return Err("secret_access_key is not 1 to 256 visible ASCII characters".to_owned());
        }
        if !key.session_token.as_ref().is_none_or(|token| word(token.expose(), 8192)) {
            return Err("session_token is not 1 to 8192 visible ASCII characters".to_owned());
        }
        Ok(key)
    }
}

/// Signs `request`, which goes to `/` at `base` (`https://host`), for `service` in `region` at `time`: adds the headers
/// `x-amz-date`, `authorization` and, with a temporary key, `x-amz-security-token`. All headers that are there are signed.
///
/// # Errors
/// A header that is no text.
pub(super) fn sign(
    request: &mut Request<Bytes>,
    base: &str,
    service: &str,
    region: &str,
    key: &AccessKey,
    time: SystemTime,
) -> Result<(), String> {
    let token = key.session_token.as_ref().map(|token| token.expose().to_owned());
    let identity =
        Credentials::new(&key.access_key_id, key.secret_access_key.expose(), token, None, "kbs").into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name(service)
        .time(time)
        .settings(SigningSettings::default())
        .build()
        .map_err(|e| e.to_string())?
        .into();
    let headers = request
        .headers()
        .iter()
        .map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| "a header is no text".to_owned())?;
    let body = SignableBody::Bytes(request.body());
    let signable =
        SignableRequest::new(request.method().as_str(), format!("{base}/"), headers.into_iter(), body)
            .map_err(|e| e.to_string())?;
    let (instructions, _) = signature_of(signable, &parameters).map_err(|e| e.to_string())?.into_parts();
    instructions.apply_to_request_http1x(request);
    Ok(())
}
