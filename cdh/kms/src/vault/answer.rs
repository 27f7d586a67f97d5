//! Answers of HashiCorp Vault and OpenBao: read, and compared with what was asked for.

use std::collections::BTreeMap;
use std::fmt;

use cc_crypto::Secret;
use http::StatusCode;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::MAX_CIPHERTEXT_LEN;
use crate::error::{KmsError, quoted, told};
use crate::http_server::read_json;
use crate::secret_text::SecretText;

/// The answer to `decrypt`.
#[derive(Debug, Deserialize)]
pub(super) struct Decrypted {
    pub(super) data: Plaintext,
}

#[derive(Debug, Deserialize)]
pub(super) struct Plaintext {
    pub(super) plaintext: SecretText,
}

/// The answer to `encrypt`.
#[derive(Debug, Deserialize)]
pub(super) struct Encrypted {
    pub(super) data: Ciphertext,
}

#[derive(Debug, Deserialize)]
pub(super) struct Ciphertext {
    pub(super) ciphertext: String,
}

/// A wrapped key as the text that the transit engine gives and takes; none if it cannot be one.
pub(super) fn ciphertext(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() <= MAX_CIPHERTEXT_LEN)?;
    let (version, blob) = text.strip_prefix("vault:v")?.split_once(':')?;
    let digits = (1..=9).contains(&version.len()) && version.bytes().all(|b| b.is_ascii_digit());
    let base64 = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=');
    (digits && !blob.is_empty() && blob.bytes().all(base64)).then_some(text)
}

#[derive(Deserialize)]
struct Flat {
    data: Fields,
}

type Fields = BTreeMap<String, Field>;

/// A member of a secret. One that is no text is kept as nothing, so that it can be told from an absent one.
enum Field {
    Text(SecretText),
    Other,
}

/// Written by hand: a derived reader would keep a copy of the text while it tries one variant after the other.
impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(FieldVisitor)
    }
}

struct FieldVisitor;

impl<'de> Visitor<'de> for FieldVisitor {
    type Value = Field;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member of a secret")
    }

    fn visit_str<E>(self, text: &str) -> Result<Field, E> {
        Ok(Field::Text(text.to_owned().into()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Field, E> {
        Ok(Field::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Field, E> {
        Ok(Field::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Field, E> {
        Ok(Field::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Field, E> {
        Ok(Field::Other)
    }

    fn visit_unit<E>(self) -> Result<Field, E> {
        Ok(Field::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Field, A::Error> {
        IgnoredAny.visit_seq(list).map(|_| Field::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Field, A::Error> {
        IgnoredAny.visit_map(object).map(|_| Field::Other)
    }
}

#[derive(Deserialize)]
struct Nested {
    data: Versioned,
}

#[derive(Deserialize)]
struct Versioned {
    data: Option<Fields>,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    version: u64,
}

/// The text of the member `field` in the answer about a secret of an engine of version `engine`; without a name, of its only
/// member. `version` is the one that was asked for.
///
/// # Errors
/// [`KmsError::BadAnswer`], [`KmsError::OtherSubject`], [`KmsError::Absent`].
pub(super) fn field(
    doing: &str,
    answer: &Secret,
    engine: u8,
    version: Option<&str>,
    field: Option<&str>,
) -> Result<Secret, KmsError> {
    let absent = |told: String| KmsError::Absent { doing: doing.to_owned(), told };
    let mut fields = if engine == 1 {
        read_json::<Flat>(doing, answer)?.data
    } else {
        let found = read_json::<Nested>(doing, answer)?.data;
        let number = version.and_then(|v| v.parse::<u64>().ok()).filter(|number| *number != 0);
        if number.is_some_and(|asked| asked != found.metadata.version) {
            let answered = format!("version {}", found.metadata.version);
            return Err(KmsError::OtherSubject { doing: doing.to_owned(), answered });
        }
        found.data.ok_or_else(|| absent("the version is deleted".to_owned()))?
    };
    let value = match field {
        Some(name) => fields.remove(name).ok_or_else(|| absent(format!("no member {}", quoted(name))))?,
        None if fields.len() == 1 => {
            fields.pop_first().map(|(_, value)| value).ok_or_else(|| absent(String::new()))?
        }
        None => {
            let told = format!("it has {} members: the annotation field says which", fields.len());
            return Err(KmsError::RequestRefused { doing: doing.to_owned(), told });
        }
    };
    match value {
        Field::Text(text) => Ok(text.into_secret()),
        Field::Other => {
            let told = "the member is not a text".to_owned();
            Err(KmsError::RequestRefused { doing: doing.to_owned(), told })
        }
    }
}

/// What the readers of both engines make of `body`.
pub(crate) fn read_all(doing: &str, asked: &str, body: &Secret) -> Vec<Result<Secret, KmsError>> {
    let bad = || KmsError::BadAnswer { doing: doing.to_owned(), why: "not what it should be".to_owned() };
    vec![
        read_json::<Decrypted>(doing, body).and_then(|read| read.data.plaintext.decode().ok_or_else(bad)),
        read_json::<Encrypted>(doing, body).and_then(|read| {
            let text = read.data.ciphertext.into_bytes();
            ciphertext(&text).ok_or_else(bad)?;
            Ok(Secret::new(text))
        }),
        field(doing, body, 1, None, Some(asked)),
        field(doing, body, 1, None, None),
        field(doing, body, 2, Some("2"), Some(asked)),
        field(doing, body, 2, None, None),
    ]
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    errors: Vec<String>,
}

/// What it means that the service answered with `status` and `body`.
pub(crate) fn refusal(doing: &str, status: StatusCode, body: &Secret) -> KmsError {
    let problem: Problem = serde_json::from_slice(body.expose()).unwrap_or_default();
    let told = told(&format!("status {} {}", status.as_u16(), problem.errors.join("; ")));
    let doing = doing.to_owned();
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => KmsError::Denied { doing, told },
        StatusCode::NOT_FOUND => KmsError::Absent { doing, told },
        StatusCode::TOO_MANY_REQUESTS => KmsError::Busy { doing, told },
        status if status.is_server_error() => KmsError::Busy { doing, told },
        _ if problem.errors.iter().any(|error| error.contains("key not found")) => {
            KmsError::Absent { doing, told }
        }
        _ => KmsError::RequestRefused { doing, told },
    }
}

/// The transit engine finds a request to decrypt wrong when the wrapped key does not open.
pub(super) fn cannot_decrypt(error: KmsError) -> KmsError {
    match error {
        KmsError::RequestRefused { doing, told } => KmsError::CannotDecrypt { doing, told },
        other => other,
    }
}
