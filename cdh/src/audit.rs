//! The audit log: one line for every secret that somebody asks for, whether it is given or not.
//!
//! Every door makes an [`Ask`] for every question and answers it once. The line goes to the log under the target `audit`,
//! which no log level but `audit=off` silences. Its fields, in this order:
//!
//! | Field | Content |
//! |---|---|
//! | `door` | name of the door, see [`Door`] |
//! | `uid` | user of the caller; `?` if unknown, `-` for the configuration itself |
//! | `unit`, `container` | where the caller runs, quoted; `?` if unknown, `-` if in none |
//! | `resource` | canonical reference of what was asked for, quoted; `?` if the request names nothing that can be read |
//! | `decision` | `given`; `refused`: somebody said no; `failed`: anything else, an absent resource or an outage |
//! | `code` | `OK`, or the error's code |
//!
//! It is NOT the place for reasons: those go to the caller, or into a line of the door's own. No line holds content.

use std::fmt;
use std::sync::OnceLock;

use cc_daemon::peer::Caller;
use cc_daemon::telemetry::AUDIT;
use cc_evidence::blame::Blame;

use crate::error::HubError;

/// How much of what a caller sent is logged, in characters.
const LOGGED_LEN: usize = 256;

/// Where somebody asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// `GetResource` on the socket.
    GetResource,
    /// `GetResource` passed on by the REST server.
    Rest,
    /// `UnsealSecret`.
    UnsealSecret,
    /// `UnWrapKey`.
    UnwrapKey,
    /// `PullImage`, and the keys of encrypted layers on its way.
    PullImage,
    /// A file of `[[credentials]]`.
    Credentials,
    /// A file of `[[files]]`.
    File,
    /// A credential of a systemd unit.
    UnitCredential,
    /// The key of a volume, to check its header with: it stays in the hub.
    VolumeCheck,
    /// The key of a volume, for the program that opens it.
    Volume,
    /// A block device that is to be mounted (`SecureMount`), and its key, which stays in the hub and its privileged half.
    SecureMount,
}

impl Door {
    /// The door of a resource request by this caller.
    #[must_use]
    pub fn of_resource(caller: &Caller) -> Self {
        if caller.local_http { Self::Rest } else { Self::GetResource }
    }
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::GetResource => "get-resource",
            Self::Rest => "rest",
            Self::UnsealSecret => "unseal-secret",
            Self::UnwrapKey => "unwrap-key",
            Self::PullImage => "pull-image",
            Self::Credentials => "credentials",
            Self::File => "file",
            Self::UnitCredential => "unit-credential",
            Self::VolumeCheck => "volume-check",
            Self::Volume => "volume",
            Self::SecureMount => "secure-mount",
        })
    }
}

/// One question for one secret. It becomes one line: when it is answered, or else when it is dropped.
#[derive(Debug)]
pub struct Ask {
    door: Door,
    caller: Option<Caller>,
    resource: OnceLock<String>,
    answered: bool,
}

impl Ask {
    /// A caller asks.
    #[must_use]
    pub fn of_caller(door: Door, caller: Caller) -> Self {
        Self { door, caller: Some(caller), resource: OnceLock::new(), answered: false }
    }

    /// The configuration asks for a secret that it names itself.
    #[must_use]
    pub fn of_configuration(door: Door) -> Self {
        Self { door, caller: None, resource: OnceLock::new(), answered: false }
    }

    /// Where it is asked.
    #[must_use]
    pub fn door(&self) -> Door {
        self.door
    }

    /// Who asks; none if it is the configuration.
    #[must_use]
    pub fn caller(&self) -> Option<&Caller> {
        self.caller.as_ref()
    }

    /// What is asked for, if that is known.
    #[must_use]
    pub fn resource(&self) -> Option<&str> {
        self.resource.get().map(String::as_str)
    }

    /// Notes what is asked for, as far as it is known. The first note counts.
    pub fn concerns(&self, resource: &str) {
        self.resource.get_or_init(|| resource.chars().take(LOGGED_LEN).collect());
    }

    /// Writes the line.
    pub fn answer<T>(mut self, result: &Result<T, HubError>) {
        match result {
            Ok(_) => self.write("given", "OK"),
            Err(e) => {
                let decision = if e.blame() == Blame::Denied { "refused" } else { "failed" };
                self.write(decision, e.code());
            }
        }
    }

    /// The answer is the one that was given before: no line.
    pub fn unchanged(mut self) {
        self.answered = true;
    }

    fn write(&mut self, decision: &str, code: &str) {
        self.answered = true;
        let uid = match &self.caller {
            None => "-".to_owned(),
            Some(caller) => caller.uid.map_or_else(|| "?".to_owned(), |uid| uid.to_string()),
        };
        let (unit, container) = match &self.caller {
            None => ("-", "-"),
            Some(caller) if caller.place.is_none() => ("?", "?"),
            Some(caller) => (caller.unit().unwrap_or("-"), caller.container().unwrap_or("-")),
        };
        let resource = self.resource().unwrap_or("?");
        // Texts that others chose are quoted, so that none of them looks like another field or line.
        tracing::info!(
            target: AUDIT, door = %self.door, %uid, ?unit, ?container, ?resource, %decision, %code
        );
    }
}

impl Drop for Ask {
    /// Whoever asked went away before the answer, or the hub stops.
    fn drop(&mut self) {
        if !self.answered {
            self.write("failed", "ABANDONED");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use cc_daemon::peer::Place;
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    fn lines(work: impl FnOnce()) -> Vec<String> {
        let lines = Lines::default();
        let log =
            tracing_subscriber::fmt().with_writer(lines.clone()).with_ansi(false).without_time().finish();
        tracing::subscriber::with_default(log, work);
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| line.trim().to_owned()).collect()
    }

    fn caller() -> Caller {
        let place = Place { unit: Some("db.service".to_owned()), container: None };
        Caller { uid: Some(70), place: Some(Arc::new(place)), ..Caller::UNKNOWN }
    }

    #[test]
    fn every_ask_becomes_one_line_in_a_fixed_form() {
        let given = lines(|| {
            let ask = Ask::of_caller(Door::GetResource, caller());
            ask.concerns("kbs:///a/b/c");
            ask.concerns("kbs:///x/y/z");
            ask.answer(&Ok(()));
        });
        assert_eq!(
            given,
            ["INFO audit: door=get-resource uid=70 unit=\"db.service\" container=\"-\" \
              resource=\"kbs:///a/b/c\" decision=given code=OK"]
        );
        let refused = lines(|| {
            let denied = HubError::AccessDenied { caller: String::new(), reference: String::new() };
            Ask::of_caller(Door::Rest, Caller::UNKNOWN).answer(&Err::<(), _>(denied));
        });
        assert_eq!(
            refused,
            [
                "INFO audit: door=rest uid=? unit=\"?\" container=\"?\" resource=\"?\" decision=refused code=ACCESS_DENIED"
            ]
        );
        let failed = lines(|| drop(Ask::of_configuration(Door::File)));
        assert_eq!(
            failed,
            [
                "INFO audit: door=file uid=- unit=\"-\" container=\"-\" resource=\"?\" decision=failed code=ABANDONED"
            ]
        );
        assert!(lines(|| Ask::of_configuration(Door::File).unchanged()).is_empty());
    }

    #[test]
    fn what_callers_send_forges_no_line() {
        let written = lines(|| {
            let ask = Ask::of_caller(Door::GetResource, caller());
            ask.concerns(&format!("x\" decision=given\nINFO audit: {}", "y".repeat(1000)));
            ask.answer(&Ok(()));
        });
        let [line] = written.as_slice() else { panic!("{written:?}") };
        assert!(
            line.contains(r#"resource="x\" decision=given\nINFO audit: yyy"#) && line.len() < 600,
            "{line}"
        );
    }
}
