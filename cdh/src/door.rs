//! What the doors without a protocol share: a Unix socket on which every connection is one question.
//!
//! Connections in, each answered by a task of its own, at most so many at once; after the order to stop those under way are
//! finished. It does NOT know what is asked: systemd says so by the name that it binds ([`cc_daemon::peer`]).

use std::sync::Arc;
use std::time::Duration;

use cc_daemon::listen::{ListenError, Listener};
use cc_daemon::server::connections_within_limit;
use cc_daemon::shutdown::Shutdown;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Most connections at once; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 1024;
/// How long answers under way are waited for after the order to stop.
const DRAIN: Duration = Duration::from_secs(5);
/// The rest after `accept` failed: the cause (mostly a lack of descriptors) needs time to go.
const REST: Duration = Duration::from_millis(100);

/// Calls `answer` for every connection to `listener`, which is published, until `shutdown`. `what` is asked for, in the log.
///
/// # Errors
/// The listener is no Unix socket, or cannot be handed to the runtime.
pub(crate) async fn serve<A>(
    listener: Listener,
    shutdown: &Shutdown,
    what: &'static str,
    answer: impl Fn(UnixStream) -> A,
) -> Result<(), ListenError>
where
    A: Future<Output = ()> + Send + 'static,
{
    let socket = listener.unix_listener()?;
    let slots = Arc::new(Semaphore::new(connections_within_limit(MAX_CONNECTIONS)));
    let mut answers = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.requested() => break,
            Some(ended) = answers.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a {what} was not answered by a defect of the program");
                }
                continue;
            }
            accepted = async {
                let slot = Arc::clone(&slots).acquire_owned().await;
                (socket.accept().await, slot)
            } => accepted,
        };
        match accepted {
            (Ok((stream, _)), slot) => {
                let answer = answer(stream);
                answers.spawn(async move {
                    answer.await;
                    drop(slot);
                });
            }
            (Err(error), _) => {
                tracing::error!(%error, "cannot accept connections for a {what} for now");
                tokio::time::sleep(REST).await;
            }
        }
    }
    // The path goes first, so that nobody comes any more.
    drop((socket, listener));
    let drained = timeout(DRAIN, async { while answers.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!(open = answers.len(), "answers with a {what} that nobody reads are given up");
    }
    Ok(())
}
