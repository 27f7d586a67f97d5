//! Answers of AWS: read, and compared with what was asked for.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cc_crypto::Secret;
use http::StatusCode;
use serde::Deserialize;

use crate::error::{KmsError, quoted, told};
use crate::http_server::read_json;
use crate::secret_text::SecretText;

/// Letters and digits that AWS Secrets Manager appends to a secret's name in its ARN, behind a dash.
const ARN_SUFFIX_LEN: usize = 6;

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
    ciphertext_blob: String,
}

impl Encrypted {
    /// The wrapped key.
    ///
    /// # Errors
    /// [`KmsError::BadAnswer`].
    pub(super) fn ciphertext(&self, doing: &str) -> Result<Vec<u8>, KmsError> {
        STANDARD.decode(&self.ciphertext_blob).ok().filter(|blob| !blob.is_empty()).ok_or_else(|| {
            KmsError::BadAnswer { doing: doing.to_owned(), why: "CiphertextBlob is not base64".to_owned() }
        })
    }
}

/// The answer to `GetSecretValue`.
#[derive(Debug, Deserialize)]
pub(super) struct SecretValue {
    #[serde(rename = "ARN")]
    arn: String,
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "VersionId")]
    version_id: String,
    #[serde(rename = "SecretString")]
    text: Option<SecretText>,
    #[serde(rename = "SecretBinary")]
    binary: Option<SecretText>,
}

impl SecretValue {
    /// Compares the answer with the secret `name` (name, ARN, or ARN without its random suffix) and `version` that were asked
    /// for.
    ///
    /// # Errors
    /// [`KmsError::OtherSubject`].
    pub(super) fn check(&self, doing: &str, name: &str, version: Option<&str>) -> Result<(), KmsError> {
        let suffix = |rest: &str| {
            rest.strip_prefix('-')
                .is_some_and(|r| r.len() == ARN_SUFFIX_LEN && r.bytes().all(|b| b.is_ascii_alphanumeric()))
        };
        let same = match name.starts_with("arn:") {
            true => self.arn.strip_prefix(name).is_some_and(|rest| rest.is_empty() || suffix(rest)),
            false => self.name == name,
        };
        if !same {
            return Err(other(doing, &self.name));
        }
        if version.is_some_and(|version| version != self.version_id) {
            return Err(other(doing, &self.version_id));
        }
        Ok(())
    }

    /// The secret: the UTF-8 bytes of a text, else the bytes of a binary one.
    ///
    /// # Errors
    /// [`KmsError::BadAnswer`].
    pub(super) fn into_secret(self, doing: &str) -> Result<Secret, KmsError> {
        let bad = |why: &str| KmsError::BadAnswer { doing: doing.to_owned(), why: why.to_owned() };
        match (self.text, self.binary) {
            (Some(text), None) => Ok(text.into_secret()),
            (None, Some(binary)) => binary.decode().ok_or_else(|| bad("SecretBinary is not base64")),
            _ => Err(bad("it has not one of SecretString and SecretBinary")),
        }
    }
}

/// Compares the key that an answer names by its ARN with the one that was asked for. An alias names another thing each day, so
/// that AWS alone can tell what it stands for.
///
/// # Errors
/// [`KmsError::OtherSubject`].
pub(super) fn check_key(doing: &str, asked: &str, answered: &str) -> Result<(), KmsError> {
    let id = |arn: &str| {
        let (head, id) = arn.rsplit_once(":key/")?;
        head.starts_with("arn:").then(|| id.to_owned())
    };
    let answered_id = id(answered);
    let same = if asked.starts_with("alias/") || asked.contains(":alias/") {
        answered_id.is_some()
    } else if asked.starts_with("arn:") {
        // A key of several regions has one id in all of them.
        asked == answered || (id(asked) == answered_id && asked.contains(":key/mrk-"))
    } else {
        answered_id.as_deref() == Some(asked)
    };
    if same { Ok(()) } else { Err(other(doing, answered)) }
}

fn other(doing: &str, answered: &str) -> KmsError {
    KmsError::OtherSubject { doing: doing.to_owned(), answered: quoted(answered) }
}

/// What the readers of both services make of `body`.
pub(crate) fn read_all(doing: &str, asked: &str, body: &Secret) -> Vec<Result<Secret, KmsError>> {
    let bad = || KmsError::BadAnswer { doing: doing.to_owned(), why: "not base64".to_owned() };
    vec![
        read_json::<Decrypted>(doing, body).and_then(|read| {
            check_key(doing, asked, &read.key_id)?;
            read.plaintext.decode().ok_or_else(bad)
        }),
        read_json::<Encrypted>(doing, body).and_then(|read| {
            check_key(doing, asked, &read.key_id)?;
            read.ciphertext(doing).map(Secret::new)
        }),
        read_json::<SecretValue>(doing, body).and_then(|read| {
            read.check(doing, asked, Some("v1"))?;
            read.into_secret(doing)
        }),
    ]
}

/// An error body: `__type` with or without a name space before `#`, and a message under one of two names.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    #[serde(rename = "__type")]
    kind: String,
    message: Option<String>,
    #[serde(rename = "Message")]
    message_capital: Option<String>,
}

/// What it means that AWS answered with `status` and `body`.
pub(crate) fn refusal(doing: &str, status: StatusCode, body: &Secret) -> KmsError {
    let problem: Problem = serde_json::from_slice(body.expose()).unwrap_or_default();
    let kind = problem.kind.rsplit('#').next().unwrap_or_default().split(':').next().unwrap_or_default();
    let message = problem.message.or(problem.message_capital).unwrap_or_default();
    let told = told(&format!("{kind} (status {}) {message}", status.as_u16()));
    let doing = doing.to_owned();
    match kind {
        "AccessDeniedException"
        | "AccessDenied"
        | "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "ExpiredTokenException"
        | "InvalidSignatureException"
        | "SignatureDoesNotMatch"
        | "MissingAuthenticationTokenException"
        | "IncompleteSignatureException"
        | "NotAuthorized"
        | "OptInRequired"
        | "DisabledException"
        | "KMSInvalidStateException"
        | "InvalidKeyUsageException"
        | "DecryptionFailure" => KmsError::Denied { doing, told },
        "NotFoundException" | "ResourceNotFoundException" => KmsError::Absent { doing, told },
        "InvalidCiphertextException" | "IncorrectKeyException" => KmsError::CannotDecrypt { doing, told },
        "ThrottlingException"
        | "Throttling"
        | "LimitExceededException"
        | "KeyUnavailableException"
        | "KMSInternalException"
        | "DependencyTimeoutException"
        | "InternalServiceError"
        | "RequestTimeoutException" => KmsError::Busy { doing, told },
        _ if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
            KmsError::Busy { doing, told }
        }
        _ if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN => {
            KmsError::Denied { doing, told }
        }
        _ if kind.is_empty() => {
            KmsError::BadAnswer { doing, why: format!("status {} without a reason", status.as_u16()) }
        }
        _ => KmsError::RequestRefused { doing, told },
    }
}
