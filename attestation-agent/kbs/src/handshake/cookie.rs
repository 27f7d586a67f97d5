//! The one cookie of the protocol, `kbs-session-id` (RFC 6265 section 4.1).
//!
//! No cookie store: the cookie lives as long as one handshake, goes to one path, and its attributes do not
//! matter to that.

use http::header::SET_COOKIE;
use http::{HeaderMap, HeaderValue};

use crate::error::KbsError;

use super::AUTH;

const NAME: &str = "kbs-session-id";
/// Longest cookie value accepted, in bytes; Trustee sends 32.
const MAX_LEN: usize = 512;

/// The `Cookie` header to send back, marked as sensitive.
pub(super) fn of(answer: &HeaderMap) -> Result<HeaderValue, KbsError> {
    let mut found: Option<&str> = None;
    for header in answer.get_all(SET_COOKIE) {
        let Some(value) = header.to_str().ok().and_then(session_id) else { continue };
        if found.is_some_and(|other| other != value) {
            return Err(KbsError::bad(AUTH, "two different session cookies"));
        }
        found = Some(value);
    }
    let value = found.ok_or_else(|| KbsError::bad(AUTH, "no session cookie"))?;
    if value.is_empty() || value.len() > MAX_LEN || !value.bytes().all(is_cookie_octet) {
        return Err(KbsError::bad(AUTH, "a malformed session cookie"));
    }
    let mut header = HeaderValue::from_str(&format!("{NAME}={value}"))
        .map_err(|_| KbsError::bad(AUTH, "a malformed session cookie"))?;
    header.set_sensitive(true);
    Ok(header)
}

/// The value, if this `Set-Cookie` text is for our cookie.
fn session_id(set_cookie: &str) -> Option<&str> {
    let (name, value) = set_cookie.split(';').next()?.split_once('=')?;
    (name.trim() == NAME).then(|| value.trim())
}

fn is_cookie_octet(b: u8) -> bool {
    matches!(b, 0x21 | 0x23..=0x2b | 0x2d..=0x3a | 0x3c..=0x5b | 0x5d..=0x7e)
}

#[cfg(test)]
mod tests {
    use http::header::SET_COOKIE;
    use http::{HeaderMap, HeaderValue};

    use super::of;

    fn cookies(lines: &[&str]) -> HeaderMap {
        lines.iter().map(|l| (SET_COOKIE, HeaderValue::from_str(l).unwrap())).collect()
    }

    #[test]
    fn ours_is_found_among_others() {
        for lines in [
            &["kbs-session-id=abc; Expires=Sun, 22 Nov 2026 12:00:00 GMT"][..],
            &["other=1; Path=/", "kbs-session-id=abc; Path=/kbs/v0; HttpOnly; SameSite=Strict"],
            &["kbs-session-id=abc", "kbs-session-id=abc"],
            &[" kbs-session-id = abc ;x"],
        ] {
            let header = of(&cookies(lines)).unwrap();
            assert_eq!(header, "kbs-session-id=abc");
            assert_eq!(format!("{header:?}"), "Sensitive");
        }
    }

    #[test]
    fn missing_ambiguous_or_malformed() {
        let long = format!("kbs-session-id={}", "a".repeat(513));
        for lines in [
            &[][..],
            &["other=1"],
            &["KBS-SESSION-ID=abc"],
            &["kbs-session-id"],
            &["kbs-session-id="],
            &["kbs-session-id=a b"],
            &["kbs-session-id=a,b"],
            &["kbs-session-id=\"a\""],
            &["kbs-session-id=a", "kbs-session-id=b"],
            &[long.as_str()],
        ] {
            assert!(of(&cookies(lines)).is_err(), "{lines:?}");
        }
    }
}
