//! What a client is set up with.

use std::{fmt, sync::Arc, time::Duration};

use cc_crypto::Secret;
use cc_kbs::Names;

use crate::{AuthFile, Registries, RegistryError};

/// How registries are reached, believed and asked. The default: straight, by the public authorities of the web, anonymously.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Search list, mirrors and blocks.
    pub registries: Registries,
    /// Credentials by registry and repository.
    pub auth_file: AuthFile,
    /// Proxies.
    pub proxy: Proxy,
    /// PEM texts of authorities that are believed besides those of the web.
    pub extra_roots: Vec<String>,
    /// How long is waited and how often tried.
    pub patience: Patience,
    /// How large blobs are read.
    pub ranges: Ranges,
    /// Who looks names up; the C library if nobody.
    pub names: Option<Arc<dyn Names>>,
}

/// Which requests go through a proxy (RFC 9110 section 9.3.6 for https).
#[derive(Clone, Default)]
pub struct Proxy {
    /// URL of the proxy for https, `http[s]://[user:password@]host[:port]`.
    pub https: Option<String>,
    /// URL of the proxy for plain http.
    pub http: Option<String>,
    /// What is asked directly: names with all below them, addresses, networks (`10.0.0.0/8`), separated by commas; `*` is
    /// everything. This machine itself always is.
    pub except: String,
}

impl fmt::Debug for Proxy {
    /// Without the URLs, which can have passwords in them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("https", &self.https.is_some())
            .field("http", &self.http.is_some())
            .field("except", &self.except)
            .finish()
    }
}

/// How long a registry is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// To look a name up and connect, TLS included.
    pub connect: Duration,
    /// For the head of an answer, and for each 32 KiB of a body, or its rest.
    pub idle: Duration,
    /// For a document from the first try to its last byte: a manifest, a configuration, a token, a signature. Layers have no
    /// such limit, since nobody can tell how long they take.
    pub document: Duration,
    /// Tries of one document, or of one place in a blob.
    pub tries: u32,
    /// Before the second try; doubled for each one after. A registry that names a time (`Retry-After`) is obeyed up to half
    /// a minute.
    pub pause: Duration,
}

impl Default for Patience {
    /// 10 s, 30 s, 60 s, five tries, a quarter of a second.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            document: Duration::from_secs(60),
            tries: 5,
            pause: Duration::from_millis(250),
        }
    }
}

/// When blobs are read by several connections at once. It is done only where the registry says that it knows ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranges {
    /// Smallest blob for which it is done, in bytes.
    pub from: u64,
    /// Bytes a second that one connection has to give, so that it stays at one. What the reader takes does not count.
    pub below: u64,
    /// Bytes of one range, and of one buffer.
    pub piece: u32,
    /// Buffers of all blobs of a client together, so most memory is `piece` times this; fewer than two: no ranges.
    pub buffers: u32,
    /// Connections for one blob.
    pub connections: u32,
}

impl Default for Ranges {
    /// From 32 MiB on, below 50 MB/s, in pieces of 4 MiB, six buffers, three connections.
    fn default() -> Self {
        Self { from: 32 << 20, below: 50_000_000, piece: 4 << 20, buffers: 6, connections: 3 }
    }
}

/// User and password for one registry.
pub struct Login {
    pub(crate) user: String,
    pub(crate) password: Secret,
}

impl Login {
    /// From `user:password`; what follows the first colon is the password.
    ///
    /// # Errors
    /// [`RegistryError::Config`] if there is no colon, no user, or a control character.
    pub fn parse(text: &[u8]) -> Result<Self, RegistryError> {
        let bad = |why: &str| RegistryError::config("credentials", why);
        let text = std::str::from_utf8(text).map_err(|_| bad("not UTF-8"))?;
        let (user, password) = text.split_once(':').ok_or_else(|| bad("not user:password"))?;
        if user.is_empty() {
            return Err(bad("the user has no name"));
        }
        if text.chars().any(char::is_control) {
            return Err(bad("a control character is in it"));
        }
        Ok(Self { user: user.to_owned(), password: Secret::new(password.as_bytes().to_vec()) })
    }

    pub(crate) fn copy(&self) -> Self {
        Self { user: self.user.clone(), password: Secret::new(self.password.expose().to_vec()) }
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_cut_at_the_first_colon_and_have_no_text_form() {
        let login = Login::parse(b"user:pass:word").unwrap();
        assert_eq!((login.user.as_str(), login.password.expose()), ("user", &b"pass:word"[..]));
        assert_eq!(format!("{login:?}"), "Login");
        assert!(Login::parse(b"user:").is_ok(), "an empty password is one");
        for bad in [&b"user"[..], b":x", b"", b"a:b\n", b"a\0:b", b"\xff:x"] {
            let error = Login::parse(bad).unwrap_err();
            assert_eq!(error.code(), "REGISTRY_CONFIG", "{error}");
        }
    }

    #[test]
    fn proxies_have_no_text_form() {
        let proxy = Proxy { https: Some("http://u:hunter2@p".into()), ..Proxy::default() };
        assert!(!format!("{proxy:?}").contains("hunter2"));
    }
}
