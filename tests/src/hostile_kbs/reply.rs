//! What a script may answer.

use serde_json::{Value, json};

use super::ERROR_TYPE;

/// One answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// What an honest broker says.
    Honest,
    /// A challenge with this JSON text, in which `NONCE` stands for a fresh nonce, and a fresh cookie.
    Challenge(String),
    /// A token with these claims, which this broker accepts afterwards.
    Token(Value),
    /// A whole HTTP answer.
    Http {
        /// Status.
        status: u16,
        /// Further header lines.
        headers: Vec<(String, String)>,
        /// Body.
        body: Vec<u8>,
    },
    /// These bytes and the end of the connection.
    Raw(Vec<u8>),
    /// Nothing, until the guest goes away.
    Silence,
    /// A head with this status that promises 1 MiB, then a byte every 50 ms.
    Trickle(u16),
    /// A head with this status that promises 1 MiB, 100 bytes of it, and the end of the connection.
    Cut(u16),
    /// A head with this status that promises `length` bytes, and then as many as the guest takes.
    Announced {
        /// Status.
        status: u16,
        /// The `Content-Length`.
        length: u64,
    },
    /// A head with this status and chunks as long as the guest takes them, up to 2 GiB.
    Endless(u16),
}

impl Reply {
    /// A whole answer.
    pub fn http(status: u16, body: impl AsRef<[u8]>) -> Self {
        Self::Http { status, headers: Vec::new(), body: body.as_ref().to_vec() }
    }

    /// An error in the form of the protocol; `kind` is the last segment of its type.
    pub fn problem(status: u16, kind: &str, detail: &str) -> Self {
        Self::http(status, json!({"type": format!("{ERROR_TYPE}{kind}"), "detail": detail}).to_string())
    }

    /// The answer with one more header line.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        if let Self::Http { headers, .. } = &mut self {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }
}
