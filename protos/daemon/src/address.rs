//! Where a daemon listens or a peer is reached: a Unix socket or a TCP port on the loopback interface.
//!
//! It is NOT a general URI: no host names (they would be resolved by a file that the host may write), no
//! abstract sockets (they have neither owner nor mode), no address beyond this machine.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;

/// The longest path of a Unix socket in bytes: `sun_path` of `unix(7)` less the closing zero.
pub const MAX_SOCKET_PATH: usize = 107;

/// A local address.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Address {
    /// Absolute path of a Unix stream socket.
    Unix(PathBuf),
    /// Address and port on the loopback interface.
    Tcp(SocketAddr),
}

/// The text is no address that a daemon may use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// Neither `unix://` and a path nor an IP address and a port.
    #[error("{text:?} is no address")]
    Unreadable {
        /// The text as given.
        text: String,
    },
    /// The path of the socket is not absolute, or names a folder.
    #[error("{text:?} names no absolute path of a socket")]
    NotAbsolute {
        /// The text as given.
        text: String,
    },
    /// The path does not fit into a socket address.
    #[error("the socket path {path:?} is longer than {MAX_SOCKET_PATH} bytes")]
    PathTooLong {
        /// The path.
        path: PathBuf,
    },
    /// The IP address is not one of the loopback interface.
    #[error("{address} is not on the loopback interface")]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
}

impl AddressError {
    /// Stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } | Self::NotAbsolute { .. } => "ADDRESS_UNREADABLE",
            Self::PathTooLong { .. } => "ADDRESS_PATH_TOO_LONG",
            Self::NotLoopback { .. } => "ADDRESS_NOT_LOOPBACK",
        }
    }

    /// The next step for the operator.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Unreadable { .. } | Self::NotAbsolute { .. } => {
                "write unix:///absolute/path.sock or 127.0.0.1:PORT".to_owned()
            }
            Self::PathTooLong { .. } => "choose a shorter folder for the socket".to_owned(),
            Self::NotLoopback { .. } => {
                "callers over TCP have no identity; use 127.0.0.1, [::1] or a Unix socket".to_owned()
            }
        }
    }
}

impl Address {
    /// Checks what the types do not: an absolute path that fits into a socket address, a loopback IP address.
    ///
    /// # Errors
    ///
    /// [`AddressError`] names the rule that is broken.
    pub fn check(&self) -> Result<(), AddressError> {
        match self {
            Self::Unix(path) => check_path(path, &path.to_string_lossy()),
            Self::Tcp(address) if address.ip().is_loopback() => Ok(()),
            Self::Tcp(address) => Err(AddressError::NotLoopback { address: *address }),
        }
    }
}

fn check_path(path: &Path, text: &str) -> Result<(), AddressError> {
    let bytes = path.as_os_str().as_encoded_bytes();
    if !path.is_absolute() || path.file_name().is_none() || bytes.ends_with(b"/") || bytes.contains(&0) {
        return Err(AddressError::NotAbsolute { text: text.to_owned() });
    }
    if bytes.len() > MAX_SOCKET_PATH {
        return Err(AddressError::PathTooLong { path: path.to_owned() });
    }
    Ok(())
}

impl FromStr for Address {
    type Err = AddressError;

    /// Reads `unix:///absolute/path`, `127.0.0.1:50002`, `[::1]:50002`, or such an IP address behind `http://`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let address = if let Some(path) = text.strip_prefix("unix://") {
            check_path(Path::new(path), text)?;
            Self::Unix(PathBuf::from(path))
        } else {
            let host =
                text.strip_prefix("http://").map_or(text, |rest| rest.strip_suffix('/').unwrap_or(rest));
            Self::Tcp(host.parse().map_err(|_| AddressError::Unreadable { text: text.to_owned() })?)
        };
        address.check()?;
        Ok(address)
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_forms_are_read() {
        let cases = [
            ("unix:///run/a/cdh.sock", "unix:///run/a/cdh.sock"),
            ("127.0.0.1:50002", "127.0.0.1:50002"),
            ("[::1]:50002", "[::1]:50002"),
            ("http://127.0.0.1:50002", "127.0.0.1:50002"),
            ("http://127.0.0.1:50002/", "127.0.0.1:50002"),
        ];
        for (text, shown) in cases {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), shown, "{text}");
        }
    }

    #[test]
    fn other_forms_are_refused_with_their_code() {
        let long = format!("unix:///{}", "a".repeat(MAX_SOCKET_PATH));
        let cases = [
            ("", "ADDRESS_UNREADABLE"),
            ("unix://", "ADDRESS_UNREADABLE"),
            ("unix://relative.sock", "ADDRESS_UNREADABLE"),
            ("unix:///run/", "ADDRESS_UNREADABLE"),
            ("unix:///", "ADDRESS_UNREADABLE"),
            ("unix:///run/a\0b", "ADDRESS_UNREADABLE"),
            ("localhost:50002", "ADDRESS_UNREADABLE"),
            ("https://127.0.0.1:1", "ADDRESS_UNREADABLE"),
            ("127.0.0.1", "ADDRESS_UNREADABLE"),
            ("0.0.0.0:50002", "ADDRESS_NOT_LOOPBACK"),
            ("10.0.0.1:50002", "ADDRESS_NOT_LOOPBACK"),
            (long.as_str(), "ADDRESS_PATH_TOO_LONG"),
        ];
        for (text, code) in cases {
            assert_eq!(text.parse::<Address>().unwrap_err().code(), code, "{text:?}");
        }
        let fits = format!("unix:///{}", "a".repeat(MAX_SOCKET_PATH - 1));
        assert!(fits.parse::<Address>().is_ok());
    }

    proptest! {
        #[test]
        fn any_text_is_an_answer_and_what_is_read_is_shown_again(text in ".{0,140}") {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
            }
        }
    }
}
