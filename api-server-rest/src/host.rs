//! Who the client thinks it talks to: the `Host` and `Origin` checks.
//!
//! A browser in the pod that was lured to a hostile name which resolves to 127.0.0.1 sends that name in
//! `Host` (DNS rebinding), and a hostile page that posts to 127.0.0.1 sends its own name in `Origin`. Only the
//! loopback names and the names that the operator added are answered. This is not authentication: a local
//! process can send any header it likes.
//!
//! Implements the syntax of RFC 9110 §7.2 (`uri-host [ ":" port ]`) and RFC 6454 §7 (`Origin`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::HeaderMap;
use http::header::{HOST, ORIGIN};

/// A parsed `Host` value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host<'a> {
    /// An IPv4 literal in dotted form, or an IPv6 literal in brackets.
    Address(IpAddr),
    /// Any other name, as written.
    Name(&'a str),
}

/// Why a request was refused by its `Host` or `Origin`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// No `Host` header.
    #[error("the request has no Host header")]
    Missing,
    /// More than one `Host` header.
    #[error("the request has more than one Host header")]
    Doubled,
    /// A value that is not a host and an optional port.
    #[error("the Host header is not a host name with an optional port")]
    Malformed,
    /// A name that this server does not answer to.
    #[error("this server does not answer to the name {0:?}")]
    ForeignHost(String),
    /// A web page of another origin.
    #[error("web pages of the origin {0:?} may not use this server")]
    ForeignOrigin(String),
}

/// The names that the server answers to.
#[derive(Debug, Clone)]
pub struct AllowedHosts {
    addresses: Vec<IpAddr>,
    names: Vec<String>,
}

impl<'a> Host<'a> {
    /// Parses `host` or `host:port`.
    ///
    /// # Errors
    ///
    /// [`HostError::Malformed`] for user information, an empty host, an unbracketed or broken IPv6 literal, a
    /// port that is not 0 to 65535, or a character that no registered name has.
    pub fn parse(value: &'a [u8]) -> Result<Self, HostError> {
        let text = std::str::from_utf8(value).map_err(|_| HostError::Malformed)?;
        let (host, rest) = match text.strip_prefix('[') {
            Some(bracketed) => {
                let (literal, rest) = bracketed.split_once(']').ok_or(HostError::Malformed)?;
                let address: Ipv6Addr = literal.parse().map_err(|_| HostError::Malformed)?;
                (Self::Address(address.into()), rest)
            }
            None => {
                let (name, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
                let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
                if name.is_empty() || !name.bytes().all(known) {
                    return Err(HostError::Malformed);
                }
                (name.parse::<Ipv4Addr>().map_or(Self::Name(name), |v4| Self::Address(v4.into())), rest)
            }
        };
        // An empty port ("localhost:") is allowed by the grammar.
        match rest.strip_prefix(':') {
            None if rest.is_empty() => Ok(host),
            Some(port) if port.is_empty() || is_port(port) => Ok(host),
            _ => Err(HostError::Malformed),
        }
    }
}

impl AllowedHosts {
    /// The loopback names `127.0.0.1`, `localhost`, `[::1]`, the address that the server is bound to, and
    /// `names`, each a host name without a port or an IP literal (IPv6 in brackets).
    ///
    /// # Errors
    ///
    /// [`HostError::Malformed`] if one of `names` is not a bare host name.
    pub fn new<S: AsRef<str>>(bound: IpAddr, names: &[S]) -> Result<Self, HostError> {
        let mut allowed = Self {
            addresses: vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            names: vec!["localhost".to_owned()],
        };
        if !bound.is_unspecified() {
            allowed.addresses.push(bound);
        }
        for name in names {
            let name = name.as_ref();
            let bare = name.ends_with(']') || !name.contains(':');
            match Host::parse(name.as_bytes())? {
                _ if !bare => return Err(HostError::Malformed),
                Host::Address(address) => allowed.addresses.push(address),
                Host::Name(name) => allowed.names.push(name.to_owned()),
            }
        }
        Ok(allowed)
    }

    /// Checks a request: one `Host`, the authority of an absolute-form target if there was one (RFC 9112
    /// §3.2.2), and every `Origin`; all must be names of ours, with any port.
    ///
    /// # Errors
    ///
    /// See [`HostError`].
    pub fn check(&self, headers: &HeaderMap, authority: Option<&str>) -> Result<(), HostError> {
        let mut hosts = headers.get_all(HOST).iter();
        let value = hosts.next().ok_or(HostError::Missing)?;
        if hosts.next().is_some() {
            return Err(HostError::Doubled);
        }
        self.check_host(value.as_bytes())?;
        if let Some(authority) = authority {
            self.check_host(authority.as_bytes())?;
        }
        headers.get_all(ORIGIN).iter().try_for_each(|origin| self.check_origin(origin.as_bytes()))
    }

    fn check_host(&self, value: &[u8]) -> Result<(), HostError> {
        match self.contains(Host::parse(value)?) {
            true => Ok(()),
            false => Err(HostError::ForeignHost(shown(value))),
        }
    }

    fn check_origin(&self, origin: &[u8]) -> Result<(), HostError> {
        let authority = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
        match authority.map(Host::parse) {
            Some(Ok(host)) if self.contains(host) => Ok(()),
            _ => Err(HostError::ForeignOrigin(shown(origin))),
        }
    }

    fn contains(&self, host: Host<'_>) -> bool {
        match host {
            Host::Address(address) => self.addresses.contains(&address),
            Host::Name(name) => self.names.iter().any(|known| known.eq_ignore_ascii_case(name)),
        }
    }
}

/// Whether `text` is a port number in decimal digits.
fn is_port(text: &str) -> bool {
    text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

/// A header value for an error message: its first 100 characters.
fn shown(value: &[u8]) -> String {
    String::from_utf8_lossy(value).chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn allowed(names: &[&str]) -> AllowedHosts {
        AllowedHosts::new(Ipv4Addr::LOCALHOST.into(), names).unwrap()
    }

    fn headers(pairs: &[(http::HeaderName, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(name.clone(), HeaderValue::from_str(value).unwrap());
        }
        map
    }

    #[test]
    fn loopback_names_with_any_port_pass() {
        let allowed = allowed(&[]);
        for host in
            ["127.0.0.1", "127.0.0.1:8006", "localhost", "LOCALHOST:1", "localhost:", "[::1]", "[::1]:65535"]
        {
            assert_eq!(allowed.check(&headers(&[(HOST, host)]), None), Ok(()), "{host}");
        }
    }

    #[test]
    fn foreign_names_are_refused_by_name() {
        let allowed = allowed(&[]);
        for host in [
            "evil.example",
            "localhost.evil.example",
            "localhost.",
            "127.0.0.2",
            "127.1",
            "10.0.0.1:8006",
            "[::2]",
        ] {
            let error = allowed.check(&headers(&[(HOST, host)]), None).unwrap_err();
            assert_eq!(error, HostError::ForeignHost(host.to_owned()));
        }
    }

    #[test]
    fn malformed_values_are_refused() {
        for host in [
            "",
            ":80",
            "::1",
            "[::1",
            "[::1]x",
            "[::1]:x",
            "[127.0.0.1]",
            "localhost:65536",
            "localhost:+80",
            "localhost:8006:1",
            "user@localhost",
            "local host",
            "localhost/",
            "localhost,evil",
            "lo\u{e9}",
        ] {
            assert_eq!(Host::parse(host.as_bytes()), Err(HostError::Malformed), "{host}");
        }
        assert_eq!(Host::parse(b"a\xff"), Err(HostError::Malformed));
    }

    #[test]
    fn one_host_header_is_needed() {
        let allowed = allowed(&[]);
        assert_eq!(allowed.check(&HeaderMap::new(), None), Err(HostError::Missing));
        let two = headers(&[(HOST, "localhost"), (HOST, "localhost")]);
        assert_eq!(allowed.check(&two, None), Err(HostError::Doubled));
    }

    #[test]
    fn the_authority_of_an_absolute_target_counts_too() {
        let allowed = allowed(&[]);
        let local = headers(&[(HOST, "localhost")]);
        assert_eq!(allowed.check(&local, Some("127.0.0.1:8006")), Ok(()));
        assert!(matches!(allowed.check(&local, Some("evil.example")), Err(HostError::ForeignHost(_))));
        assert_eq!(allowed.check(&local, Some("user@localhost")), Err(HostError::Malformed));
    }

    #[test]
    fn foreign_origins_are_refused() {
        let allowed = allowed(&[]);
        let with = |origin: &str| allowed.check(&headers(&[(HOST, "localhost"), (ORIGIN, origin)]), None);
        assert_eq!(with("http://localhost:3000"), Ok(()));
        assert_eq!(with("https://[::1]"), Ok(()));
        for origin in [
            "null",
            "",
            "https://evil.example",
            "http://localhost.evil.example",
            "file://localhost",
            "http://",
        ] {
            assert_eq!(with(origin), Err(HostError::ForeignOrigin(origin.to_owned())), "{origin}");
        }
    }

    #[test]
    fn names_are_added_by_the_operator() {
        let allowed = allowed(&["gate.internal", "10.1.2.3", "[fd00::1]"]);
        for host in ["gate.internal:8006", "GATE.internal", "10.1.2.3", "[fd00:0::1]:8006"] {
            assert_eq!(allowed.check(&headers(&[(HOST, host)]), None), Ok(()), "{host}");
        }
        for name in ["gate:80", "gate:", "[::1]:80", "", "a b", "http://gate"] {
            assert!(AllowedHosts::new(Ipv4Addr::LOCALHOST.into(), &[name]).is_err(), "{name}");
        }
        let other = AllowedHosts::new("127.0.0.5".parse().unwrap(), &[] as &[&str]).unwrap();
        assert_eq!(other.check(&headers(&[(HOST, "127.0.0.5")]), None), Ok(()));
    }

    #[test]
    fn long_names_are_cut_in_messages() {
        let host = "a".repeat(5000);
        let error = allowed(&[]).check(&headers(&[(HOST, &host)]), None).unwrap_err();
        assert_eq!(error, HostError::ForeignHost("a".repeat(100)));
    }

    proptest! {
        #[test]
        fn never_panics(value in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Host::parse(&value);
        }

        #[test]
        fn addresses_round_trip(address in any::<IpAddr>(), port in any::<u16>()) {
            let text = std::net::SocketAddr::new(address, port).to_string();
            prop_assert_eq!(Host::parse(text.as_bytes()), Ok(Host::Address(address)));
        }

        #[test]
        fn names_keep_their_spelling(name in "[a-z][a-zA-Z0-9.-]{0,30}", port in proptest::option::of(any::<u16>())) {
            let text = port.map_or_else(|| name.clone(), |port| format!("{name}:{port}"));
            prop_assert_eq!(Host::parse(text.as_bytes()), Ok(Host::Name(&name)));
        }
    }
}
