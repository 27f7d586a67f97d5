//! Until when a request must be answered.
//!
//! The server stops every request at its deadline; a handler reads it here to give what is left to those it
//! calls itself. The caller's wish travels as `grpc-timeout` (gRPC over HTTP/2, "Timeout") or as ttrpc's
//! `timeout_nano`; it can shorten the server's own limit, not lengthen it.

use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;

/// The instant at which a request is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// The deadline of a request that came through [`crate::server::RpcServer`]; for one that did not, 60 s from
    /// now.
    #[must_use]
    pub fn of<T>(request: &tonic::Request<T>) -> Instant {
        request
            .extensions()
            .get::<Self>()
            .map_or_else(|| Instant::now() + crate::server::DEFAULT_DEADLINE, |deadline| deadline.0)
    }

    /// The earlier of what the server allows and what the caller asked for, from now on.
    pub(crate) fn from_now(allowed: Duration, asked: Option<Duration>) -> Self {
        Self(Instant::now() + asked.map_or(allowed, |asked| asked.min(allowed)))
    }

    /// The instant itself.
    pub(crate) fn instant(self) -> Instant {
        self.0
    }
}

/// Reads `grpc-timeout`: at most eight digits and a unit (`H`, `M`, `S`, `m`, `u`, `n`). Anything else counts as
/// absent: the server's own limit holds then.
pub(crate) fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts_are_read_as_the_protocol_says() {
        let cases = [
            ("1S", Some(Duration::from_secs(1))),
            ("250m", Some(Duration::from_millis(250))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("7u", Some(Duration::from_micros(7))),
            ("0n", Some(Duration::ZERO)),
            ("2M", Some(Duration::from_secs(120))),
            ("100000000S", None),
            ("S", None),
            ("", None),
            ("-1S", None),
            ("1s", None),
            ("1", None),
        ];
        for (text, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            assert_eq!(grpc_timeout(&headers), expected, "{text:?}");
        }
    }

    #[tokio::test]
    async fn a_caller_shortens_and_never_lengthens() {
        let limit = Duration::from_secs(60);
        let asked = |seconds| Deadline::from_now(limit, Some(Duration::from_secs(seconds)));
        assert!(asked(5) < Deadline::from_now(limit, None));
        assert!(asked(3600).instant() <= Instant::now() + limit);
    }
}
