//! The socket that crypttab names as a key file: one connection, one key.
//!
//! systemd-cryptsetup binds the volume's name, connects, closes its sending side and reads to the end (crypttab(5), "AF_UNIX
//! key files"). Any process may bind any name, so the name only selects; the kernel's word counts: the peer is root, and its
//! control group is that of `systemd-cryptsetup@NAME.service`. The protocol has no refusal: whoever gets no key gets no byte.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use cc_crypto::Secret;
use cc_daemon::listen::{ListenError, Listener};
use cc_daemon::peer::Caller;
use cc_daemon::shutdown::Shutdown;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};

use super::Volumes;
use crate::audit::{Ask, Door};
use crate::door;
use crate::error::HubError;
use crate::hub::FETCH_TIME_LIMIT;

/// How long a peer may take to read its key.
const WRITE_TIME_LIMIT: Duration = Duration::from_secs(60);

/// The door over the configured volumes.
#[derive(Debug)]
pub struct KeyDoor {
    volumes: Arc<Volumes>,
}

impl KeyDoor {
    /// A door that gives the keys of `volumes`.
    #[must_use]
    pub fn new(volumes: Arc<Volumes>) -> Self {
        Self { volumes }
    }

    /// Answers on `listener`, which is published, until `shutdown`; then those who wait get nothing.
    ///
    /// # Errors
    /// The listener is no Unix socket, or cannot be handed to the runtime.
    pub async fn serve(self, listener: Listener, shutdown: Shutdown) -> Result<(), ListenError> {
        let door = Arc::new(self);
        let answer = |stream| {
            let (door, shutdown) = (Arc::clone(&door), shutdown.clone());
            async move { door.answer(stream, &shutdown).await }
        };
        door::serve(listener, &shutdown, "key of a volume", answer).await
    }

    async fn answer(&self, mut stream: UnixStream, shutdown: &Shutdown) {
        let caller = Caller::of_connection(&stream).unwrap_or(Caller::UNKNOWN);
        let ask = Ask::of_caller(Door::Volume, caller);
        let name = Caller::bound_volume(&stream);
        let result = tokio::select! {
            result = self.find(&ask, name.as_deref()) => result,
            () = shutdown.requested() => Err(HubError::Stopping),
        };
        ask.answer(&result);
        let key = match result {
            Ok(key) => key,
            Err(e) => return tracing::warn!(code = e.code(), hint = e.hint(), "no key for a volume: {e}"),
        };
        match timeout(WRITE_TIME_LIMIT, stream.write_all(key.expose())).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the key of a volume was not taken"),
            Err(_) => tracing::warn!("the key of a volume was not taken in time"),
        }
    }

    async fn find(&self, ask: &Ask, name: Option<&str>) -> Result<Secret, HubError> {
        let name = self.select(ask, name)?;
        self.volumes.give(name, ask, Instant::now() + FETCH_TIME_LIMIT).await
    }

    /// Whose key the peer may ask for: that of the volume it names, if the kernel confirms that it opens that one.
    fn select<'a>(&self, ask: &Ask, name: Option<&'a str>) -> Result<&'a str, HubError> {
        let name = name.ok_or(HubError::VolumeNameAbsent)?;
        let refused = |why| HubError::VolumeUnproven { name: name.to_owned(), why };
        let caller = ask.caller().ok_or_else(|| refused("nobody is known to ask".to_owned()))?;
        if caller.uid != Some(0) {
            return Err(refused("systemd-cryptsetup is root, and the caller is not".to_owned()));
        }
        match caller.unit() {
            Some(own) if own == unit(name) => Ok(name),
            Some(own) => Err(refused(format!("the caller runs in {own}"))),
            None => Err(refused("the caller's control group is not readable here".to_owned())),
        }
    }
}

/// The unit that opens the volume `name`, as the generator of systemd names it (systemd.unit(5), "String escaping").
pub(super) fn unit(name: &str) -> String {
    let mut unit = "systemd-cryptsetup@".to_owned();
    for (place, byte) in name.bytes().enumerate() {
        match byte {
            b'.' if place == 0 => unit.push_str("\\x2e"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'_' | b'.' => unit.push(char::from(byte)),
            // Writing to a text cannot fail.
            other => drop(write!(unit, "\\x{other:02x}")),
        }
    }
    unit + ".service"
}

#[cfg(test)]
mod tests {
    use cc_daemon::peer::Place;

    use super::*;
    use crate::volume::tests::volumes;

    fn ask(uid: u32, unit: Option<&str>) -> Ask {
        let place = Place { unit: unit.map(str::to_owned), container: None };
        let caller = Caller { uid: Some(uid), place: Some(Arc::new(place)), ..Caller::UNKNOWN };
        Ask::of_caller(Door::Volume, caller)
    }

    #[test]
    fn units_are_named_as_the_generator_names_them() {
        assert_eq!(unit("data"), "systemd-cryptsetup@data.service");
        assert_eq!(unit("db-1.x_y"), "systemd-cryptsetup@db\\x2d1.x_y.service");
    }

    #[tokio::test]
    async fn the_name_selects_and_the_kernel_decides() {
        let folder = tempfile::tempdir().unwrap();
        let door = KeyDoor::new(Arc::new(volumes(folder.path())));
        let own = Some("systemd-cryptsetup@data.service");
        for (uid, unit, name, code) in [
            (0, own, None, "VOLUME_NAME_ABSENT"),
            (70, own, Some("data"), "VOLUME_UNPROVEN"),
            (0, Some("thief.service"), Some("data"), "VOLUME_UNPROVEN"),
            (0, own, Some("other"), "VOLUME_UNPROVEN"),
            (0, None, Some("data"), "VOLUME_UNPROVEN"),
            (0, Some("systemd-cryptsetup@nowhere.service"), Some("nowhere"), "VOLUME_UNKNOWN"),
            (0, own, Some("data"), "VOLUME_UNPREPARED"),
        ] {
            let error = door.find(&ask(uid, unit), name).await.unwrap_err();
            assert_eq!(error.code(), code, "{uid} {unit:?} {name:?}");
        }
    }
}
