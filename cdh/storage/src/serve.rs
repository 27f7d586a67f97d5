//! The socket: one thread for each channel, one request at a time on each.
//!
//! When the first channel is closed, the hub is gone: what still runs is brought to its end, and the process ends.

use std::{
    os::fd::OwnedFd,
    sync::atomic::{AtomicUsize, Ordering},
    thread::{self, Scope},
    time::Duration,
};

use cc_confinement::memory;
use cc_crypto::Secret;
use cc_evidence::blame::Blame;
use cc_storage::{Answer, Answered, Channel, Fault, Packet, Received, Request, StorageError};
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    io::Errno,
    net::{SocketFlags, sockopt},
    process::geteuid,
};

use crate::Failure;

/// Most channels at a time.
const MAX_CHANNELS: usize = 256;
/// The rest after a connection could not be accepted.
const REST: Duration = Duration::from_millis(100);

/// What a mode can do. Each channel has a worker of its own.
pub trait Worker: Send + Sync {
    /// What one channel remembers between two requests.
    type Memory: Default;

    /// Does what is asked.
    ///
    /// # Errors
    /// Why it was not done; then nothing is left of it.
    fn work(&self, job: Job<'_>, memory: &mut Self::Memory) -> Result<Answered, Failure>;
}

/// A request with what came with it.
#[derive(Debug)]
pub struct Job<'a> {
    /// What is asked.
    pub request: Request,
    /// Descriptors that came with it.
    pub fds: Vec<OwnedFd>,
    /// The secret that came with it.
    pub secret: Option<Secret>,
    /// The channel that it came over: work that waits looks whether anybody still wants it.
    pub channel: &'a Channel,
}

impl Job<'_> {
    /// The one descriptor that belongs to the request.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub fn only_fd(&mut self) -> Result<OwnedFd, Failure> {
        match (self.fds.pop(), self.fds.is_empty()) {
            (Some(fd), true) => Ok(fd),
            _ => Err(Failure::Request { why: "one file descriptor belongs to the request".to_owned() }),
        }
    }
}

/// Waits for `moment`, and tells whether somebody still has the other end of `channel`.
#[must_use]
pub fn is_open(channel: &Channel, moment: Duration) -> bool {
    let mut polled = [PollFd::new(channel, PollFlags::RDHUP)];
    let moment = Timespec::try_from(moment).ok();
    match rustix::event::poll(&mut polled, moment.as_ref()) {
        Ok(0) | Err(Errno::INTR) => true,
        Ok(_) | Err(_) => false,
    }
}

/// The answer that says no more than that it is done.
#[must_use]
pub fn done() -> Answered {
    Packet { body: Answer::Done, secret: None }
}

/// Serves `socket`, connected or listening, until the hub is gone.
///
/// # Errors
/// The socket is none that can be served, or fails.
pub fn serve<W: Worker>(socket: OwnedFd, worker: &W) -> Result<(), Failure> {
    let listening = sockopt::socket_acceptconn(&socket).map_err(|_| Failure::StandardInput)?;
    let channel = Channel::new(socket).map_err(|_| Failure::StandardInput)?;
    let channels = AtomicUsize::new(0);
    thread::scope(|scope| {
        let server = Server { worker, channels: &channels };
        if !listening {
            server.channel(scope, channel);
            return Ok(());
        }
        let socket = OwnedFd::from(channel);
        loop {
            let peer = match rustix::net::accept_with(&socket, SocketFlags::CLOEXEC) {
                Ok(peer) => peer,
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(error) if is_passing(error) => {
                    tracing::error!(%error, "cannot accept connections for now");
                    rest();
                    continue;
                }
                Err(error) => return Err(Failure::storage("accept a connection")(error)),
            };
            let uid = sockopt::socket_peercred(&peer).map(|peer| peer.uid);
            if !uid.is_ok_and(|uid| uid.is_root() || uid == geteuid()) {
                tracing::warn!("somebody else than the data hub connected");
                continue;
            }
            match Channel::new(peer) {
                Ok(channel) if server.reserve() => drop(server.clone().start(scope, channel)),
                Ok(channel) => refuse(&channel),
                Err(error) => tracing::error!(code = error.code(), %error, "a connection cannot be used"),
            }
        }
    })
}

/// Whether it is a lack of something (accept(2)), mostly of descriptors, which needs time to go.
fn is_passing(error: Errno) -> bool {
    matches!(error, Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::PROTO | Errno::PERM)
}

#[allow(clippy::disallowed_methods, reason = "the thread that accepts has nothing else to do")]
fn rest() {
    thread::sleep(REST);
}

/// Says why nobody will answer, before anything is asked.
fn refuse(channel: &Channel) {
    let busy = busy();
    if let Answer::Fault(fault) = &busy.body {
        tracing::warn!(code = fault.code, error = %fault, "a connection is sent away");
    }
    // Whoever is gone already does not need it.
    let _ = busy.encode().and_then(|bytes| channel.send(&bytes, &[]));
}

fn busy() -> Answered {
    let why = format!("cdh-storage has {MAX_CHANNELS} channels open, or there can be no more threads");
    Packet {
        body: Answer::Fault(Fault::new(Blame::Unavailable, "STORAGE_BUSY", why, "try again later")),
        secret: None,
    }
}

struct Server<'a, W> {
    worker: &'a W,
    channels: &'a AtomicUsize,
}

impl<W> Clone for Server<'_, W> {
    fn clone(&self) -> Self {
        Self { worker: self.worker, channels: self.channels }
    }
}

impl<'env, W: Worker> Server<'env, W> {
    /// Takes one of the places for channels, if one is free.
    fn reserve(&self) -> bool {
        let free = self.channels.fetch_add(1, Ordering::Relaxed) < MAX_CHANNELS;
        if !free {
            self.channels.fetch_sub(1, Ordering::Relaxed);
        }
        free
    }

    /// Serves a channel on a thread of its own, in the place that was reserved for it.
    fn start<'scope>(self, scope: &'scope Scope<'scope, 'env>, channel: Channel) -> bool {
        let channels = self.channels;
        let started = thread::Builder::new().spawn_scoped(scope, move || {
            self.channel(scope, channel);
            // A pull or a mount has come to its end; the next one may be far.
            memory::release();
            self.channels.fetch_sub(1, Ordering::Relaxed);
        });
        if let Err(error) = &started {
            tracing::error!(%error, "there is no thread for a channel, which is closed");
            channels.fetch_sub(1, Ordering::Relaxed);
        }
        started.is_ok()
    }

    fn channel<'scope>(&self, scope: &'scope Scope<'scope, 'env>, channel: Channel) {
        let mut memory = W::Memory::default();
        loop {
            let answered = match channel.receive() {
                Ok(None) => return,
                Ok(Some(received)) => self.answer(scope, received, &channel, &mut memory),
                Err(error @ StorageError::Protocol { .. }) => Err(error.into()),
                Err(error) => {
                    tracing::error!(code = error.code(), %error, "a channel is given up");
                    return;
                }
            };
            let answered = answered.unwrap_or_else(|failure| {
                tracing::warn!(code = failure.code(), error = %failure, "a request failed");
                Packet { body: Answer::Fault(failure.into()), secret: None }
            });
            let sent = answered.encode().and_then(|bytes| channel.send(&bytes, &[]));
            match sent {
                Ok(()) => {}
                Err(StorageError::Gone) => return,
                Err(error) => {
                    tracing::error!(code = error.code(), %error, "an answer cannot be sent");
                    return;
                }
            }
        }
    }

    fn answer<'scope>(
        &self,
        scope: &'scope Scope<'scope, 'env>,
        received: Received,
        channel: &Channel,
        memory: &mut W::Memory,
    ) -> Result<Answered, Failure> {
        let packet = Packet::<Request>::parse(&received.bytes)?;
        let mut job = Job { request: packet.body, fds: received.fds, secret: packet.secret, channel };
        if job.request != Request::Connect {
            return self.worker.work(job, memory);
        }
        let other = Channel::new(job.only_fd()?)?;
        let started = self.reserve() && self.clone().start(scope, other);
        Ok(if started { done() } else { busy() })
    }
}
