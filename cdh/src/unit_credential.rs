//! Credentials of systemd units: the socket that `LoadCredential=` names.
//!
//! ```ini
//! [Service]
//! LoadCredential=db-password:/run/confidential-containers/credentials.sock
//! ```
//!
//! At the start of a unit the service manager connects from inside the unit's control group, reads to the end, and lays the
//! bytes into `$CREDENTIALS_DIRECTORY` (systemd.exec(5), "Credentials"). The name it binds before it connects says which
//! unit wants which credential ([`cc_daemon::peer::BoundName`]). Any process may choose any name, so that name only selects; the kernel's word
//! counts: the peer is root, and its control group is the unit that it names.
//!
//! The protocol has no refusal: an answer without a byte is a credential without content to systemd (252 and 257), and the
//! unit starts with it. What it does refuse is an answer that is longer than a credential may be. So a refusal is
//! [`REFUSAL_LEN`] zeros, and the unit fails to start with status 243/CREDENTIALS.
//!
//! Not here: who may have which secret beyond the table of this door; [`crate::access`] decides here as everywhere.

mod door;

use serde::Deserialize;

use crate::pattern::Pattern;
use crate::reference::SecretRef;

pub use door::{REFUSAL_LEN, UnitDoor};

/// Where the socket is unless configured otherwise.
pub const DEFAULT_SOCKET: &str = "unix:///run/confidential-containers/credentials.sock";
/// Most bytes of a credential (systemd.exec(5)).
pub const MAX_CREDENTIAL_LEN: usize = 1 << 20;

/// One entry of `[[unit_credentials]]`: units, a credential of theirs, and its content.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The units, by full name: `db.service`, `worker@*.service`.
    pub unit: Pattern,
    /// The credential's name in the unit.
    pub credential: String,
    /// What it holds.
    pub secret: SecretRef,
}
