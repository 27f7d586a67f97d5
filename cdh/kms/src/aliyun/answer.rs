//! Answers of Alibaba Cloud KMS: read, and compared with what was asked for.

use cc_crypto::Secret;
use http::StatusCode;
use serde::Deserialize;

use crate::error::{KmsError, quoted, told};
use crate::secret_text::SecretText;

/// The answer to `Decrypt`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Decrypted {
    pub(super) key_id: String,
    pub(super) plaintext: SecretText,
}

/// The answer to `Encrypt`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Encrypted {
    pub(super) key_id: String,
    pub(super) ciphertext_blob: String,
}

/// The answer to `GetSecretValue`. Binary secrets come as the text that was stored for them.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SecretValue {
    secret_name: String,
    secret_data: SecretText,
    version_id: String,
    version_stages: Option<Stages>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Stages {
    version_stage: Vec<String>,
}

impl SecretValue {
    /// The secret, if it is the one that was asked for: the UTF-8 bytes of its text.
    ///
    /// # Errors
    /// [`KmsError::OtherSubject`].
    pub(super) fn into_secret(self, doing: &str, asked: &Asked<'_>) -> Result<Secret, KmsError> {
        let stages = self.version_stages.as_ref().map(|stages| stages.version_stage.as_slice());
        asked.check(doing, &self.secret_name, &self.version_id, stages)?;
        Ok(self.secret_data.into_secret())
    }
}

/// The secret that was asked for.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    /// Its name, or its ARN (`acs:kms:<region>:<account>:secret/<name>`).
    pub(super) name: &'a str,
    pub(super) version_id: Option<&'a str>,
    pub(super) version_stage: Option<&'a str>,
}

impl Asked<'_> {
    /// Compares the names in an answer with what was asked for.
    ///
    /// # Errors
    /// [`KmsError::OtherSubject`].
    pub(super) fn check(
        &self,
        doing: &str,
        name: &str,
        version_id: &str,
        stages: Option<&[String]>,
    ) -> Result<(), KmsError> {
        let plain = match self.name.strip_prefix("acs:kms:") {
            Some(rest) => rest.split_once(":secret/").map_or("", |(_, name)| name),
            None => self.name,
        };
        if name != plain && name != self.name {
            return Err(other(doing, name));
        }
        if self.version_id.is_some_and(|asked| asked != version_id) {
            return Err(other(doing, version_id));
        }
        let missing = |asked: &&str| stages.is_some_and(|stages| !stages.iter().any(|stage| stage == asked));
        match self.version_stage.filter(missing) {
            Some(_) => Err(other(doing, version_id)),
            None => Ok(()),
        }
    }
}

/// Compares the key that an answer names by its id with the one that was asked for by id or ARN. An alias names another thing each
/// day, so that the service alone can tell what it stands for.
///
/// # Errors
/// [`KmsError::OtherSubject`].
pub(super) fn check_key(doing: &str, asked: &str, answered: &str) -> Result<(), KmsError> {
    let id = |text: &str| match text.strip_prefix("acs:kms:") {
        Some(rest) => rest.split_once(":key/").map(|(_, id)| id.to_owned()),
        None => Some(text.to_owned()),
    };
    let alias = asked.starts_with("alias/") || (asked.starts_with("acs:kms:") && asked.contains(":alias/"));
    let same = if alias { !answered.is_empty() } else { id(asked).is_some() && id(asked) == id(answered) };
    if same { Ok(()) } else { Err(other(doing, answered)) }
}

fn other(doing: &str, answered: &str) -> KmsError {
    KmsError::OtherSubject { doing: doing.to_owned(), answered: quoted(answered) }
}

/// How codes begin that are about the credential of a request, whatever it asks for.
const CREDENTIAL_CODES: [&str; 12] = [
    "InvalidAccessKeyId",
    "InvalidClientKey",
    "InvalidSecurityToken",
    "MissingSecurityToken",
    "SecurityTokenExpired",
    "SignatureDoesNotMatch",
    "SignatureNonceUsed",
    "IncompleteSignature",
    "InvalidSignature",
    "IllegalTimestamp",
    "InvalidTimeStamp",
    "RequestTimeTooSkewed",
];

/// An error body of the OpenAPI.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Problem {
    code: String,
    message: String,
}

/// What it means that a region's service answered with `status` and `body`.
pub(crate) fn refusal(doing: &str, status: StatusCode, body: &Secret) -> KmsError {
    let Problem { code, message } = serde_json::from_slice(body.expose()).unwrap_or_default();
    refused(doing, status, &code, &message)
}

/// What it means that the service answered with `status`, an error code and a message.
pub(super) fn refused(doing: &str, status: StatusCode, code: &str, message: &str) -> KmsError {
    let told = told(&format!("{code} (status {}) {message}", status.as_u16()));
    let doing = doing.to_owned();
    let begins = |words: &[&str]| words.iter().any(|word| code.starts_with(word));
    // Before what is absent: an access key may be that as well (`InvalidAccessKeyId.NotFound`).
    if begins(&CREDENTIAL_CODES) {
        return KmsError::Denied { doing, told };
    }
    if code.contains("NotFound") || begins(&["EntityNotExist"]) {
        return KmsError::Absent { doing, told };
    }
    if code.contains("Ciphertext") || begins(&["Forbidden.Decrypt", "DecryptFailed"]) {
        return KmsError::CannotDecrypt { doing, told };
    }
    if begins(&["Throttling", "InternalFailure", "InternalError", "ServiceUnavailable", "QpsLimit"])
        || status.is_server_error()
        || status == StatusCode::TOO_MANY_REQUESTS
    {
        return KmsError::Busy { doing, told };
    }
    let denied = [
        "Forbidden",
        "NoPermission",
        "Unauthorized",
        "Rejected.Disabled",
        "Rejected.PendingDeletion",
        "Rejected.Unavailable",
    ];
    if begins(&denied) || status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN {
        return KmsError::Denied { doing, told };
    }
    if code.is_empty() {
        return KmsError::BadAnswer { doing, why: format!("status {} without a reason", status.as_u16()) };
    }
    KmsError::RequestRefused { doing, told }
}
