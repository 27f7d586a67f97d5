//! How to reach a KBS and whom to believe that it is one.
//!
//! Values only; reading them from files is the daemons' business.

use std::net::IpAddr;
use std::time::Duration;

use cc_crypto::KeyAlgorithm;
use serde::Deserialize;
use url::{Host, Url};

use crate::client::Client;
use crate::error::KbsError;

/// Configuration of a KBS client.
#[derive(Debug, Clone)]
pub struct KbsConfig {
    /// Base URL, `https://host[:port][/prefix]`; trailing slashes do not matter.
    pub url: String,
    /// PEM text with the certificates to trust: CA certificates, or the server's own certificate as a pin.
    /// `None` trusts the public certification authorities of the web.
    pub root_certificate: Option<String>,
    /// Whether `root_certificate` replaces the public authorities or joins them.
    pub certificate_mode: CertificateMode,
    /// Allows plain http to hosts other than this machine.
    pub allow_plain_http: bool,
    /// Kind of the session key.
    pub key_algorithm: KeyAlgorithm,
    /// How long a denial answers for newcomers too; [`DEFAULT_DENIAL_PAUSE`] unless there is a reason.
    pub denial_pause: Duration,
    /// How soon a KBS that does not answer is asked again.
    pub pace: Pace,
}

/// How soon a KBS that does not answer is asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// How long making a connection may take.
    pub connecting: Duration,
    /// The longest wait between two tries; they grow up to it.
    pub longest_wait: Duration,
}

impl Default for Pace {
    /// For a KBS that many guests ask: 10 s and 5 s.
    fn default() -> Self {
        Self { connecting: Duration::from_secs(10), longest_wait: Duration::from_secs(5) }
    }
}

impl Pace {
    /// While the network is still coming up: 2 s each. What was sent before there was a way to the KBS is lost, and waiting for it, or
    /// after it, is lost time.
    #[must_use]
    pub fn of_start() -> Self {
        Self { connecting: Duration::from_secs(2), longest_wait: Duration::from_secs(2) }
    }
}

/// A denial is final for the evidence it was given for. The pause keeps a workload that asks in a loop on a machine
/// that was denied from costing a quote each time.
pub const DEFAULT_DENIAL_PAUSE: Duration = Duration::from_secs(5);

/// What a configured certificate does to the public certification authorities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum CertificateMode {
    /// It is the only root.
    #[default]
    Only,
    /// It is one more root.
    Add,
}

impl KbsConfig {
    /// The default configuration for the KBS at `url`.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            root_certificate: None,
            certificate_mode: CertificateMode::default(),
            allow_plain_http: false,
            key_algorithm: KeyAlgorithm::default(),
            denial_pause: DEFAULT_DENIAL_PAUSE,
            pace: Pace::default(),
        }
    }

    /// Finds out whether a client could be made of this; makes no connection.
    ///
    /// # Errors
    /// [`KbsError::Config`] or [`KbsError::PlainHttp`].
    pub fn check(&self) -> Result<(), KbsError> {
        Client::new(self).map(drop)
    }

    /// The checked base URL without trailing slashes.
    ///
    /// # Errors
    /// [`KbsError::Config`] if it is no http(s) URL, or holds a user name, query or fragment;
    /// [`KbsError::PlainHttp`] for plain http to another machine.
    pub(crate) fn base_url(&self) -> Result<String, KbsError> {
        let bad = |why: &str| KbsError::Config { what: "URL", why: why.to_owned() };
        let url = Url::parse(&self.url).map_err(|e| bad(&e.to_string()))?;
        // Messages below may repeat the URL, so a password in it is refused first and without naming it.
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad("it holds a user name or password"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(bad("it has a query or fragment"));
        }
        let mut url = url;
        // The name is looked up in a file that others may write; the address is this machine by definition.
        if url.scheme() == "http" && url.host_str() == Some("localhost") {
            url.set_host(Some("127.0.0.1")).map_err(|e| bad(&e.to_string()))?;
        }
        let text = url.as_str().trim_end_matches('/').to_owned();
        match url.scheme() {
            "https" => Ok(text),
            "http" if self.allow_plain_http || is_this_machine(&url) => Ok(text),
            "http" => Err(KbsError::PlainHttp { url: text }),
            _ => Err(bad("the scheme is neither https nor http")),
        }
    }
}

fn is_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(_)) | None => false,
        Some(Host::Ipv4(ip)) => IpAddr::V4(ip).is_loopback(),
        Some(Host::Ipv6(ip)) => IpAddr::V6(ip).is_loopback(),
    }
}

#[cfg(test)]
mod tests {
    use super::KbsConfig;

    #[test]
    fn base_urls() {
        for (url, expected) in [
            ("https://kbs.example.org", Ok("https://kbs.example.org")),
            ("https://kbs.example.org:8443/", Ok("https://kbs.example.org:8443")),
            ("https://kbs.example.org/prefix///", Ok("https://kbs.example.org/prefix")),
            ("http://127.0.0.1:8080", Ok("http://127.0.0.1:8080")),
            ("http://127.7.7.7/", Ok("http://127.7.7.7")),
            ("http://[::1]:8080", Ok("http://[::1]:8080")),
            ("http://localhost:8080", Ok("http://127.0.0.1:8080")),
            ("http://kbs:8080", Err("KBS_PLAIN_HTTP")),
            ("http://localhost.example.org", Err("KBS_PLAIN_HTTP")),
            ("http://10.0.0.1", Err("KBS_PLAIN_HTTP")),
            ("http://[::2]", Err("KBS_PLAIN_HTTP")),
            ("http://0.0.0.0", Err("KBS_PLAIN_HTTP")),
            ("", Err("KBS_CONFIG")),
            ("kbs.example.org", Err("KBS_CONFIG")),
            ("ftp://h", Err("KBS_CONFIG")),
            ("https://", Err("KBS_CONFIG")),
            ("https://user:hunter2@h", Err("KBS_CONFIG")),
            ("https://h?x=1", Err("KBS_CONFIG")),
            ("https://h#x", Err("KBS_CONFIG")),
        ] {
            match (KbsConfig::new(url).base_url(), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(e), Err(code)) => {
                    assert_eq!(e.code(), code, "{url}");
                    assert!(!format!("{e:?}").contains("hunter2"));
                }
                (found, _) => panic!("{url}: {found:?}"),
            }
        }
    }

    #[test]
    fn plain_http_by_name() {
        let config = KbsConfig { allow_plain_http: true, ..KbsConfig::new("http://kbs:8080") };
        assert_eq!(config.base_url().unwrap(), "http://kbs:8080");
    }
}
