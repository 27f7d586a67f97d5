//! Sessions: from the challenge that `auth` gives to the attested guest that asks for resources.
//!
//! A nonce is good for one `attest`, whatever comes of it: it is taken out under the lock before anything is
//! verified, so two requests at the same time cannot both use it. Sessions live in memory, for a fixed time from
//! `auth`, and there is a limit to their number. Not the protocol bodies (`attest`), not the token (`token`).
//!
//! Source: the key broker protocol of Trustee, session cookie `kbs-session-id`.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cc_evidence::{HashAlgorithm, Tee};

use crate::Error;
use crate::token::Vouched;

/// Name of the session cookie.
pub const COOKIE: &str = "kbs-session-id";

/// How often expired sessions are looked for, at the earliest.
const SWEEP: Duration = Duration::from_secs(60);

/// A random UUID (version 4) in 32 lower-case hex digits. It is a credential: it has no text form but the cookie.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId([u8; 16]);

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(..)")
    }
}

impl SessionId {
    fn random() -> Result<Self, Error> {
        let mut bytes: [u8; 16] = random()?;
        // RFC 9562 §5.4: version 4 in byte 6, variant 2 in byte 8.
        let [.., version, _, variant, _, _, _, _, _, _, _] = &mut bytes;
        *version = (*version & 0x0f) | 0x40;
        *variant = (*variant & 0x3f) | 0x80;
        Ok(Self(bytes))
    }

    /// The session named in the `Cookie` headers of a request, or nothing when there is no such cookie or it has
    /// another form.
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let value = headers
            .get_all(header::COOKIE)
            .iter()
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split(';'))
            .filter_map(|pair| pair.split_once('='))
            .find(|(name, _)| name.trim() == COOKIE)
            .map(|(_, value)| value.trim())?;
        let mut bytes = [0; 16];
        hex::decode_to_slice(value, &mut bytes).ok()?;
        Some(Self(bytes))
    }
}

/// What `auth` promised a guest, and `attest` must answer.
#[derive(Clone, PartialEq, Eq)]
pub struct Challenge {
    /// The kind of the guest's primary TEE.
    pub tee: Tee,
    /// Standard base64 of 32 random bytes; used as text.
    pub nonce: String,
    /// The hash of every binding digest.
    pub hash: HashAlgorithm,
}

impl fmt::Debug for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenge").field("tee", &self.tee).field("hash", &self.hash).finish_non_exhaustive()
    }
}

impl Challenge {
    /// A challenge with a fresh nonce.
    ///
    /// # Errors
    /// [`Error::Internal`] when the system gives no random bytes.
    pub fn new(tee: Tee, hash: HashAlgorithm) -> Result<Self, Error> {
        Ok(Self { tee, nonce: STANDARD.encode(random::<32>()?), hash })
    }
}

#[derive(Debug)]
enum Stage {
    Challenged(Challenge),
    /// The nonce was used; verification runs, or failed.
    Spent,
    Attested(Arc<Vouched>),
}

#[derive(Debug)]
struct Slot {
    expires: Instant,
    /// The same moment on the wall clock, for the cookie.
    expires_at: SystemTime,
    stage: Stage,
}

#[derive(Debug)]
struct Slots {
    by_id: HashMap<SessionId, Slot>,
    swept: Instant,
}

/// All open sessions.
#[derive(Debug)]
pub struct Sessions {
    slots: Mutex<Slots>,
    lifetime: Duration,
    capacity: usize,
    /// Cookies are marked `Secure` (the server speaks TLS).
    secure: bool,
}

impl Sessions {
    /// No sessions yet; each will live `lifetime` from its `auth`, and at most `capacity` are open at a time. With
    /// `secure` the cookies are for TLS only.
    #[must_use]
    pub fn new(lifetime: Duration, capacity: usize, secure: bool) -> Self {
        let slots = Slots { by_id: HashMap::new(), swept: Instant::now() };
        Self { slots: Mutex::new(slots), lifetime, capacity, secure }
    }

    /// Opens a session for `challenge` and gives the text of its `Set-Cookie` header.
    ///
    /// # Errors
    /// [`Error::SessionsFull`] at the limit, [`Error::Internal`] when the system gives no random bytes.
    pub fn open(&self, challenge: Challenge) -> Result<String, Error> {
        let id = SessionId::random()?;
        let now = Instant::now();
        let slot = Slot {
            expires: now + self.lifetime,
            expires_at: SystemTime::now() + self.lifetime,
            stage: Stage::Challenged(challenge),
        };
        let cookie = self.cookie(id, slot.expires_at);
        let mut slots = self.lock();
        if slots.by_id.len() >= self.capacity || now.duration_since(slots.swept) >= SWEEP {
            slots.by_id.retain(|_, slot| slot.expires > now);
            slots.swept = now;
        }
        if slots.by_id.len() >= self.capacity {
            return Err(Error::SessionsFull(self.capacity));
        }
        slots.by_id.insert(id, slot);
        Ok(cookie)
    }

    /// Takes the challenge out of session `id`. It is gone after that, whatever comes of the verification.
    ///
    /// # Errors
    /// [`Error::Attestation`] when the session is unknown or expired, or its nonce was used before.
    pub fn spend(&self, id: SessionId) -> Result<Challenge, Error> {
        let mut slots = self.lock();
        let Some(slot) = slots.by_id.get_mut(&id).filter(|slot| slot.expires > Instant::now()) else {
            let seconds = self.lifetime.as_secs();
            return Err(Error::Attestation(format!(
                "session: unknown, or older than {seconds} s; start again at auth"
            )));
        };
        match std::mem::replace(&mut slot.stage, Stage::Spent) {
            Stage::Challenged(challenge) => Ok(challenge),
            used => {
                slot.stage = used;
                Err(Error::Attestation("session already used: its nonce is good for one attest".into()))
            }
        }
    }

    /// Marks the spent session `id` as attested and gives its `Set-Cookie` text, with the same expiry as before.
    /// Nothing when the session expired in the meantime.
    pub fn settle(&self, id: SessionId, vouched: Arc<Vouched>) -> Option<String> {
        let mut slots = self.lock();
        let slot = slots.by_id.get_mut(&id).filter(|slot| slot.expires > Instant::now())?;
        slot.stage = Stage::Attested(vouched);
        Some(self.cookie(id, slot.expires_at))
    }

    /// What is known of the guest of session `id`, when that is attested and not expired.
    #[must_use]
    pub fn attested(&self, id: SessionId) -> Option<Arc<Vouched>> {
        let slots = self.lock();
        let slot = slots.by_id.get(&id).filter(|slot| slot.expires > Instant::now())?;
        match &slot.stage {
            Stage::Attested(vouched) => Some(Arc::clone(vouched)),
            Stage::Challenged(_) | Stage::Spent => None,
        }
    }

    fn cookie(&self, id: SessionId, expires_at: SystemTime) -> String {
        let secure = if self.secure { "; Secure" } else { "" };
        format!(
            "{COOKIE}={}; Expires={}; Path=/kbs/v0; HttpOnly; SameSite=Strict{secure}",
            hex::encode(id.0),
            httpdate::fmt_http_date(expires_at)
        )
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        // No code under the lock can panic half-way through a change.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| Error::Internal("the system gives no random bytes"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn sessions(seconds: u64) -> Sessions {
        Sessions::new(Duration::from_secs(seconds), 2, true)
    }

    fn open(sessions: &Sessions) -> (SessionId, String) {
        let cookie = sessions.open(Challenge::new(Tee::Snp, HashAlgorithm::Sha384).unwrap()).unwrap();
        let mut headers = HeaderMap::new();
        let pair = format!("other=1; {}", cookie.split(';').next().unwrap());
        headers.insert(header::COOKIE, HeaderValue::from_str(&pair).unwrap());
        (SessionId::from_headers(&headers).unwrap(), cookie)
    }

    #[test]
    fn the_cookie_has_its_attributes() {
        let (_, cookie) = open(&sessions(300));
        let parts: Vec<&str> = cookie.split("; ").collect();
        let id = parts[0].strip_prefix("kbs-session-id=").unwrap();
        assert_eq!(id.len(), 32);
        assert!(id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
        assert_eq!(&id[12..13], "4", "UUID version 4");
        assert!(parts[1].starts_with("Expires=") && parts[1].ends_with(" GMT"));
        assert_eq!(parts[2..], ["Path=/kbs/v0", "HttpOnly", "SameSite=Strict", "Secure"]);
        let plain = Sessions::new(Duration::from_secs(1), 1, false);
        assert!(!open(&plain).1.contains("Secure"));
    }

    #[test]
    fn nonces_are_fresh_base64_of_32_bytes() {
        let one = Challenge::new(Tee::Snp, HashAlgorithm::Sha384).unwrap();
        let two = Challenge::new(Tee::Snp, HashAlgorithm::Sha384).unwrap();
        assert_eq!(one.nonce.len(), 44);
        assert_ne!(one.nonce, two.nonce);
        assert!(!format!("{one:?}").contains(&one.nonce));
    }

    #[test]
    fn a_challenge_is_given_once_even_to_parallel_requests() {
        let sessions = Arc::new(sessions(300));
        let (id, _) = open(&sessions);
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let sessions = Arc::clone(&sessions);
                std::thread::spawn(move || sessions.spend(id).is_ok())
            })
            .collect();
        let wins = threads.into_iter().filter_map(|thread| thread.join().ok()).filter(|won| *won).count();
        assert_eq!(wins, 1);
        assert!(sessions.spend(id).unwrap_err().to_string().contains("already used"));
        assert!(sessions.attested(id).is_none());
    }

    #[test]
    fn an_expired_session_is_as_if_unknown() {
        let sessions = sessions(0);
        let (id, _) = open(&sessions);
        assert!(sessions.spend(id).unwrap_err().to_string().contains("unknown"));
        assert!(sessions.attested(id).is_none());
    }

    #[test]
    fn the_number_of_sessions_is_bounded_and_expired_ones_make_room() {
        let full = sessions(300);
        let challenge = || Challenge::new(Tee::Snp, HashAlgorithm::Sha384).unwrap();
        full.open(challenge()).unwrap();
        full.open(challenge()).unwrap();
        assert!(matches!(full.open(challenge()), Err(Error::SessionsFull(2))));
        let short = sessions(0);
        for _ in 0..5 {
            short.open(challenge()).unwrap();
        }
    }

    #[test]
    fn cookies_of_another_form_are_no_session() {
        for text in ["", "kbs-session-id=", "kbs-session-id=zz", "kbs-session-id=00", "x=1"] {
            let mut headers = HeaderMap::new();
            headers.insert(header::COOKIE, HeaderValue::from_str(text).unwrap());
            assert!(SessionId::from_headers(&headers).is_none(), "{text}");
        }
    }
}
