//! No secret, token or cookie reaches a log, not even at trace level.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tracing::level_filters::LevelFilter;

use crate::evidence::jump_ahead;
use crate::server::{CANARY, Kbs, Reply, Step, until};
use crate::{session, soon, uri};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn nothing_secret_is_logged() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let kbs = Kbs::start().await;
    let (session, _) = session(&kbs);
    session.fetch(&uri(), soon()).await.unwrap();
    // An outage, a refused token, a bare secret, a denial, a renewal.
    kbs.script(
        Step::Resource,
        [Reply::status(503, CANARY), Reply::problem(401, "TokenVerifierError", "old")],
    );
    session.fetch(&uri(), soon()).await.unwrap();
    kbs.script(Step::Resource, [Reply::status(200, CANARY), Reply::problem(401, "PolicyDeny", "no")]);
    session.fetch(&uri(), soon()).await.unwrap_err();
    session.fetch(&uri(), soon()).await.unwrap_err();
    jump_ahead(Duration::from_secs(85)).await;
    session.fetch(&uri(), soon()).await.unwrap();
    until("renewal", || session.status().handshakes == 3).await;

    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("attested to the KBS") && text.contains("KBS_SERVER_ERROR"), "{text}");
    assert!(!text.contains(CANARY), "{text}");
    let token = session.token(soon()).await.unwrap();
    assert!(!text.contains(std::str::from_utf8(token.token().expose()).unwrap()));
}
