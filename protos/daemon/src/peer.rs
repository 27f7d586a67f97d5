//! Who calls: the identity that the kernel vouches for, the place it runs in, and what the request says about its way.
//!
//! The identity is the one that `SO_PEERCRED` (`unix(7)`) reports: user, group and process at the time of
//! `connect`. It is NOT an access rule; each daemon decides what a caller may do.

use std::fmt;
use std::sync::Arc;

use http::HeaderMap;
use rustix::net::SocketAddrUnix;

mod bound_name;
mod place;
mod sys;

pub use bound_name::BoundName;
pub use place::Place;

/// Metadata key by which the HTTP front marks what it passes on.
pub const FORWARDED_BY: &str = "x-forwarded-by";
/// Value of [`FORWARDED_BY`] for requests that came over local HTTP.
pub const FORWARDED_BY_REST: &str = "api-server-rest";

/// The protocol that a request came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// gRPC over HTTP/2.
    Grpc,
    /// ttrpc.
    Ttrpc,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Grpc => "grpc",
            Self::Ttrpc => "ttrpc",
        })
    }
}

/// The caller of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Process that connected; unknown over TCP and for processes of another PID namespace.
    pub pid: Option<u32>,
    /// Its effective user; unknown over TCP.
    pub uid: Option<u32>,
    /// Its effective group; unknown over TCP.
    pub gid: Option<u32>,
    /// The protocol.
    pub transport: Transport,
    /// Whether the request says that it was passed on by the HTTP front. Any caller may say so: it may narrow
    /// what is given, never widen it.
    pub local_http: bool,
    /// Unit and container; unknown over TCP, and where the process has ended or belongs to another namespace.
    pub place: Option<Arc<Place>>,
}

impl Caller {
    /// A caller of whom nothing is known.
    pub const UNKNOWN: Self =
        Self { pid: None, uid: None, gid: None, transport: Transport::Grpc, local_http: false, place: None };

    /// The caller of a request that came through [`crate::server::RpcServer`]; [`Caller::UNKNOWN`] for a request
    /// that did not.
    #[must_use]
    pub fn of<T>(request: &tonic::Request<T>) -> Self {
        request.extensions().get::<Self>().cloned().unwrap_or(Self::UNKNOWN)
    }

    /// What the kernel says about the other end of `connection`.
    ///
    /// # Errors
    /// The kernel says nothing.
    pub fn of_connection(connection: &tokio::net::UnixStream) -> std::io::Result<Self> {
        let credentials = connection.peer_cred()?;
        // 0 stands for a process that has no number in this PID namespace.
        let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0);
        Ok(Self {
            pid,
            uid: Some(credentials.uid()),
            gid: Some(credentials.gid()),
            place: pid.and_then(|pid| Place::of_peer(connection, pid)).map(Arc::new),
            ..Self::UNKNOWN
        })
    }

    /// The name that the other end of `connection` has bound, if it is one that systemd binds for a unit's credential.
    #[must_use]
    pub fn bound_name(connection: &tokio::net::UnixStream) -> Option<BoundName> {
        BoundName::parse(peer_address(connection)?.abstract_name()?)
    }

    /// The volume in the name that the other end of `connection` has bound, if it is one that systemd binds for a volume's key.
    #[must_use]
    pub fn bound_volume(connection: &tokio::net::UnixStream) -> Option<String> {
        bound_name::volume(peer_address(connection)?.abstract_name()?).map(str::to_owned)
    }

    /// The system unit of the caller, if it is known.
    #[must_use]
    pub fn unit(&self) -> Option<&str> {
        self.place.as_ref()?.unit.as_deref()
    }

    /// The container of the caller, if it is known.
    #[must_use]
    pub fn container(&self) -> Option<&str> {
        self.place.as_ref()?.container.as_deref()
    }

    /// The same caller with what one request's headers add.
    pub(crate) fn with_headers(&self, headers: &HeaderMap) -> Self {
        let forwarded = headers.get_all(FORWARDED_BY).iter().any(|value| value == FORWARDED_BY_REST);
        Self { local_http: forwarded, ..self.clone() }
    }
}

fn peer_address(connection: &tokio::net::UnixStream) -> Option<SocketAddrUnix> {
    let address = rustix::net::getpeername(connection).ok()??;
    SocketAddrUnix::try_from(address).ok()
}

impl fmt::Display for Caller {
    /// `uid 0 pid 17 in db.service over ttrpc`, with `?` for what is unknown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |number: Option<u32>| number.map_or_else(|| "?".to_owned(), |number| number.to_string());
        write!(f, "uid {} pid {}", show(self.uid), show(self.pid))?;
        if let Some(unit) = self.unit() {
            write!(f, " in {unit}")?;
        }
        write!(f, " over {}", self.transport)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_mark_counts_as_local_http() {
        let mut headers = HeaderMap::new();
        assert!(!Caller::UNKNOWN.with_headers(&headers).local_http);
        headers.insert(FORWARDED_BY, "somebody-else".parse().unwrap());
        assert!(!Caller::UNKNOWN.with_headers(&headers).local_http);
        headers.append(FORWARDED_BY, FORWARDED_BY_REST.parse().unwrap());
        assert!(Caller::UNKNOWN.with_headers(&headers).local_http);
    }

    #[test]
    fn a_request_from_elsewhere_has_an_unknown_caller() {
        let request = tonic::Request::new(());
        assert_eq!(Caller::of(&request), Caller::UNKNOWN);
        assert_eq!(Caller::UNKNOWN.to_string(), "uid ? pid ? over grpc");
    }
}
