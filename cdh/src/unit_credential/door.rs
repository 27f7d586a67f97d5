//! The door itself: connections in, credentials or refusals out.
//!
//! It never reads: systemd closes its sending side at once, which says nothing. Whatever happens, a peer that was accepted
//! gets the whole credential or a refusal, also when the hub stops.

use std::sync::Arc;
use std::time::Duration;

use cc_crypto::Secret;
use cc_daemon::listen::{ListenError, Listener};
use cc_daemon::peer::{BoundName, Caller};
use cc_daemon::shutdown::Shutdown;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};

use super::{Entry, MAX_CREDENTIAL_LEN};
use crate::audit::{Ask, Door};
use crate::door;
use crate::error::HubError;
use crate::flight::Flights;
use crate::hub::FETCH_TIME_LIMIT;
use crate::reference::SecretRef;
use crate::unseal::Unsealer;

/// Bytes of a refusal: more than systemd takes, also of an encrypted credential.
pub const REFUSAL_LEN: usize = 4 * MAX_CREDENTIAL_LEN;
/// How long a peer may take to read its answer.
const WRITE_TIME_LIMIT: Duration = Duration::from_secs(60);

/// Zeros for refusals.
static NOTHING: [u8; 64 << 10] = [0; 64 << 10];

/// What a fetch that several wait for ends in.
#[derive(Clone, Debug)]
struct Outcome {
    resource: Option<String>,
    secret: Result<Arc<Secret>, HubError>,
}

/// A secret, and who asks where not all may have the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Flight {
    secret: SecretRef,
    unit: Option<String>,
}

/// The door over one table.
#[derive(Debug)]
pub struct UnitDoor {
    entries: Vec<Entry>,
    unsealer: Arc<Unsealer>,
    flights: Flights<Flight, Outcome>,
}

impl UnitDoor {
    /// A door that gives what `entries` say.
    #[must_use]
    pub fn new(entries: Vec<Entry>, unsealer: Arc<Unsealer>) -> Self {
        Self { entries, unsealer, flights: Flights::default() }
    }

    /// Answers on `listener`, which is published, until `shutdown`; then those who wait are refused.
    ///
    /// # Errors
    /// The listener is no Unix socket, or cannot be handed to the runtime.
    pub async fn serve(self, listener: Listener, shutdown: Shutdown) -> Result<(), ListenError> {
        let door = Arc::new(self);
        let answer = |stream| {
            let (door, shutdown) = (Arc::clone(&door), shutdown.clone());
            async move { door.answer(stream, &shutdown).await }
        };
        door::serve(listener, &shutdown, "credential", answer).await
    }

    /// Answers one connection.
    async fn answer(&self, mut stream: UnixStream, shutdown: &Shutdown) {
        let caller = Caller::of_connection(&stream).unwrap_or(Caller::UNKNOWN);
        let ask = Ask::of_caller(Door::UnitCredential, caller);
        let result = tokio::select! {
            result = self.find(&ask, &stream) => result,
            () = shutdown.requested() => Err(HubError::Stopping),
        };
        if let Err(e) = &result {
            let caller = ask.caller().map(ToString::to_string).unwrap_or_default();
            tracing::warn!(
                caller,
                code = e.code(),
                hint = e.hint(),
                "no credential, its unit will not start: {e}"
            );
        }
        ask.answer(&result);
        let written = timeout(WRITE_TIME_LIMIT, async {
            match result {
                Ok(secret) => stream.write_all(secret.expose()).await,
                Err(_) => refuse(&mut stream).await,
            }
        });
        match written.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the answer to a unit was not taken"),
            Err(_) => tracing::warn!("the answer to a unit was not taken in time"),
        }
    }

    async fn find(&self, ask: &Ask, stream: &UnixStream) -> Result<Arc<Secret>, HubError> {
        let secret = self.select(ask, Caller::bound_name(stream))?;
        let deadline = Instant::now() + FETCH_TIME_LIMIT;
        // Who may have a resource is known beforehand, and all who may wait for one fetch. What a sealed secret names is
        // known when it is open: there only the processes of one unit share.
        let unit = match secret {
            SecretRef::Resource(uri) => {
                self.unsealer.hub().admit(ask, uri)?;
                None
            }
            SecretRef::Sealed(_) => ask.caller().and_then(Caller::unit).map(str::to_owned),
        };
        tracing::debug!(
            "{} may have its credential",
            ask.caller().and_then(Caller::unit).unwrap_or_default()
        );
        let fetch = async {
            let found = secret.resolve(&self.unsealer, ask, deadline).await;
            Outcome { resource: ask.resource().map(str::to_owned), secret: found.map(Arc::new) }
        };
        let outcome = self.flights.join(&Flight { secret: secret.clone(), unit }, fetch).await;
        if let Some(resource) = &outcome.resource {
            ask.concerns(resource);
        }
        let secret = outcome.secret?;
        if secret.is_empty() || secret.len() > MAX_CREDENTIAL_LEN {
            return Err(HubError::CredentialLength { length: secret.len() });
        }
        Ok(secret)
    }

    /// Which secret the peer may ask for: the entry that its name selects, if the kernel confirms the name.
    fn select(&self, ask: &Ask, name: Option<BoundName>) -> Result<&SecretRef, HubError> {
        let Some(BoundName { unit, credential }) = name else { return Err(HubError::UnitNameAbsent) };
        let entry = self.entries.iter().find(|e| e.credential == credential && e.unit.covers(&unit));
        match entry.map(|entry| &entry.secret) {
            Some(SecretRef::Resource(uri)) => ask.concerns(uri),
            Some(SecretRef::Sealed(_)) => {}
            None => ask.concerns(&format!("unit:{unit}/{credential}")),
        }
        let refused = |why| HubError::UnitUnproven { unit: unit.clone(), why };
        let caller = ask.caller().ok_or_else(|| refused("nobody is known to ask".to_owned()))?;
        if caller.uid != Some(0) {
            return Err(refused("the service manager is root, and the caller is not".to_owned()));
        }
        match caller.unit() {
            Some(own) if own == unit => {}
            Some(own) => return Err(refused(format!("the caller runs in {own}"))),
            None => return Err(refused("the caller's control group is not readable here".to_owned())),
        }
        entry.map(|entry| &entry.secret).ok_or(HubError::UnitCredentialUnknown { unit, credential })
    }
}

async fn refuse(stream: &mut UnixStream) -> std::io::Result<()> {
    for _ in 0..REFUSAL_LEN / NOTHING.len() {
        match stream.write_all(&NOTHING).await {
            // It has read as much as it takes.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            other => other?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream as Client;

    use cc_daemon::address::Address;
    use cc_daemon::listen::SocketOptions;
    use cc_daemon::peer::Place;
    use clap::Parser as _;
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::config::{Cli, Config, Surroundings};
    use crate::hub::Hub;

    const TABLE: &str = r#"
        [[entries]]
        unit = "db.service"
        credential = "pw"
        secret = "kbs:///db/pw/1"
        [[entries]]
        unit = "worker@*.service"
        credential = "pw"
        secret = "kbs:///worker/pw/1"
    "#;

    #[derive(serde::Deserialize)]
    struct Table {
        entries: Vec<Entry>,
    }

    /// A door over an empty offline store.
    fn door() -> UnitDoor {
        let cli = Cli::try_parse_from(["confidential-data-hub"]).unwrap();
        let config = Config::build(cli, &Surroundings::default()).unwrap();
        let surroundings =
            cc_kms::Surroundings { broker: None, directories: config.kms_directories.clone(), names: None };
        let providers = cc_kms::Providers::new(&config.kms, surroundings).unwrap();
        let hub = Arc::new(Hub::new(&config).unwrap());
        let unsealer = Unsealer::new(hub, config.signing_keys, providers);
        UnitDoor::new(toml::from_str::<Table>(TABLE).unwrap().entries, Arc::new(unsealer))
    }

    fn ask(uid: u32, unit: Option<&str>) -> Ask {
        let place = Place { unit: unit.map(str::to_owned), container: None };
        let caller = Caller { uid: Some(uid), place: Some(Arc::new(place)), ..Caller::UNKNOWN };
        Ask::of_caller(Door::UnitCredential, caller)
    }

    #[test]
    fn the_name_selects_and_the_kernel_decides() {
        let door = door();
        let name = |unit: &str, credential: &str| {
            Some(BoundName { unit: unit.to_owned(), credential: credential.to_owned() })
        };
        let select = |uid, unit: Option<&str>, name| match door.select(&ask(uid, unit), name) {
            Ok(secret) => secret.to_string(),
            Err(e) => e.code().to_owned(),
        };
        let (db, web, worker) = (Some("db.service"), Some("web.service"), Some("worker@7.service"));
        assert_eq!(select(0, db, name("db.service", "pw")), "kbs:///db/pw/1");
        assert_eq!(select(0, worker, name("worker@7.service", "pw")), "kbs:///worker/pw/1");
        assert_eq!(select(0, web, name("web.service", "pw")), "UNIT_CREDENTIAL_UNKNOWN");
        assert_eq!(select(0, db, name("db.service", "other")), "UNIT_CREDENTIAL_UNKNOWN");
        assert_eq!(select(0, web, name("db.service", "pw")), "UNIT_UNPROVEN", "another unit");
        assert_eq!(select(0, worker, name("worker@8.service", "pw")), "UNIT_UNPROVEN", "another instance");
        assert_eq!(select(70, db, name("db.service", "pw")), "UNIT_UNPROVEN", "not root");
        assert_eq!(select(0, None, name("db.service", "pw")), "UNIT_UNPROVEN", "no unit");
        assert_eq!(select(0, db, None), "UNIT_NAME_ABSENT");
    }

    /// Connects as systemd does: with a name, and with the sending side closed.
    fn connect(socket: &std::path::Path, name: &str) -> Client {
        let client = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&client, &SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap()).unwrap();
        rustix::net::connect(&client, &SocketAddrUnix::new(socket).unwrap()).unwrap();
        let client = Client::from(client);
        client.shutdown(std::net::Shutdown::Write).unwrap();
        client.set_nonblocking(true).unwrap();
        client
    }

    async fn answer_to(client: Client) -> Vec<u8> {
        let mut answer = Vec::new();
        UnixStream::from_std(client).unwrap().read_to_end(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_refusal_is_longer_than_any_credential() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials.sock");
        let mut listener = Listener::bind(&Address::Unix(path.clone()), &SocketOptions::default()).unwrap();
        listener.publish().unwrap();
        let shutdown = Shutdown::new();
        let serving = tokio::spawn(door().serve(listener, shutdown.clone()));
        let name = format!("{:x}/unit/db.service/pw", std::process::id());
        // This test runs in no unit called db.service.
        let answer = answer_to(connect(&path, &name)).await;
        assert!(
            answer.len() > MAX_CREDENTIAL_LEN && answer.iter().all(|byte| *byte == 0),
            "{}",
            answer.len()
        );
        shutdown.trigger();
        serving.await.unwrap().unwrap();
        assert!(!path.exists());
    }
}
