//! The hub's side: a request goes, its answer comes. Calls block; they belong on threads that may wait.

use std::{
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use cc_crypto::Secret;

use crate::{Answer, Channel, Packet, Request, StorageError};

/// Between two looks whether an answer is still wanted.
const GLANCE: Duration = Duration::from_millis(50);

/// A channel to `cdh-storage`, one request at a time.
#[derive(Debug)]
pub struct Client {
    /// None when an answer was not waited for: it must not be taken for that of the next request.
    channel: Option<Channel>,
}

/// A good answer and the secret that came with it.
pub type Answered = Packet<Answer>;

impl Client {
    /// Asks over `channel`.
    #[must_use]
    pub fn new(channel: Channel) -> Self {
        Self { channel: Some(channel) }
    }

    /// A second channel to the same program, for work beside this one's.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn connect(&mut self) -> Result<Self, StorageError> {
        let (ours, theirs) = Channel::pair()?;
        self.ask(Request::Connect, None, &[theirs.as_fd()])?;
        Ok(Self::new(ours))
    }

    /// Asks and waits for the answer. `secret` and `fds` go with the request.
    ///
    /// # Errors
    /// What `cdh-storage` tells, as [`StorageError::Fault`]; `STORAGE_GONE`, `STORAGE_PROTOCOL`, `STORAGE_SOCKET`.
    pub fn ask(
        &mut self,
        request: Request,
        secret: Option<Secret>,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Answered, StorageError> {
        self.send(request, secret, fds)?;
        self.receive()
    }

    /// Like [`Client::ask`], as long as the answer is `wanted`, which is asked every 50 ms. `None` when it is not wanted any more: then
    /// `cdh-storage` is told so, and waited for, at most for `farewell`, until it has undone what it was at; the client is of no more use.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn ask_while(
        &mut self,
        request: Request,
        secret: Option<Secret>,
        fds: &[BorrowedFd<'_>],
        wanted: &dyn Fn() -> bool,
        farewell: Duration,
    ) -> Result<Option<Answered>, StorageError> {
        self.send(request, secret, fds)?;
        while !self.open()?.wait(GLANCE)? {
            if !wanted() {
                self.channel.take().into_iter().for_each(|channel| channel.leave(farewell));
                return Ok(None);
            }
        }
        self.receive().map(Some)
    }

    fn open(&self) -> Result<&Channel, StorageError> {
        self.channel.as_ref().ok_or(StorageError::Gone)
    }

    fn send(
        &self,
        request: Request,
        secret: Option<Secret>,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), StorageError> {
        match self.open()?.send(&Packet { body: request, secret }.encode()?, fds) {
            // Whoever sends a caller away says why before he closes.
            Err(StorageError::Gone) => self.receive().and(Err(StorageError::Gone)),
            sent => sent,
        }
    }

    fn receive(&self) -> Result<Answered, StorageError> {
        let received = self.open()?.receive()?.ok_or(StorageError::Gone)?;
        match Packet::<Answer>::parse(&received.bytes)? {
            Packet { body: Answer::Fault(fault), .. } => Err(fault.into()),
            answered => Ok(answered),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        sync::atomic::{AtomicBool, Ordering},
        time::{Duration, Instant},
    };

    use cc_evidence::blame::Blame;

    use super::*;
    use crate::Fault;

    #[test]
    fn an_answer_that_is_not_wanted_any_more_ends_the_channel() {
        let (ours, theirs) = Channel::pair().unwrap();
        let mut client = Client::new(ours);
        let looks = Cell::new(0);
        let wanted = || {
            looks.set(looks.get() + 1);
            looks.get() < 3
        };
        let begun = Instant::now();
        let undone = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert!(theirs.receive().unwrap().is_some());
                assert!(theirs.receive().unwrap().is_none(), "the other end hears of it");
                // What it still says is not taken for anything, and it is waited for.
                theirs.send(&Packet { body: Answer::Done, secret: None }.encode().unwrap(), &[]).unwrap();
                undone.store(true, Ordering::SeqCst);
                drop(theirs);
            });
            assert!(
                client
                    .ask_while(Request::CommitBundle, None, &[], &wanted, Duration::from_secs(60))
                    .unwrap()
                    .is_none()
            );
            assert!(undone.load(Ordering::SeqCst), "it was not waited for");
        });
        assert!(looks.get() == 3 && begun.elapsed() >= Duration::from_millis(100));
        assert_eq!(client.ask(Request::CommitBundle, None, &[]).unwrap_err().code(), "STORAGE_GONE");
    }

    #[test]
    fn why_a_channel_was_closed_is_told() {
        for asked_before in [false, true] {
            let (ours, theirs) = Channel::pair().unwrap();
            let fault = Fault::new(Blame::Unavailable, "STORAGE_BUSY", "busy", "later");
            let busy = Packet { body: Answer::Fault(fault), secret: None }.encode().unwrap();
            theirs.send(&busy, &[]).unwrap();
            let mut client = Client::new(ours);
            if asked_before {
                client.send(Request::CommitBundle, None, &[]).unwrap();
                drop(theirs);
                assert_eq!(client.receive().unwrap_err().code(), "STORAGE_BUSY");
            } else {
                drop(theirs);
                let told = client.ask(Request::CommitBundle, None, &[]).unwrap_err();
                assert_eq!((told.code(), told.blame()), ("STORAGE_BUSY", Blame::Unavailable));
            }
            assert_eq!(client.ask(Request::CommitBundle, None, &[]).unwrap_err().code(), "STORAGE_GONE");
        }
    }

    #[test]
    fn an_answer_that_comes_is_taken() {
        let (ours, theirs) = Channel::pair().unwrap();
        let answer = Packet { body: Answer::Done, secret: None }.encode().unwrap();
        theirs.send(&answer, &[]).unwrap();
        let answered =
            Client::new(ours).ask_while(Request::CommitBundle, None, &[], &|| false, Duration::ZERO).unwrap();
        assert_eq!(answered.unwrap().body, Answer::Done);
    }
}
