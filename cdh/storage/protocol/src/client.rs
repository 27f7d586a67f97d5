//! The hub's side: a request goes, its answer comes. Calls block; they belong on threads that may wait.

use std::os::fd::{AsFd, BorrowedFd};

use cc_crypto::Secret;

use crate::{Answer, Channel, Packet, Request, StorageError};

/// A channel to `cdh-storage`, one request at a time.
#[derive(Debug)]
pub struct Client {
    channel: Channel,
}

/// A good answer and the secret that came with it.
pub type Answered = Packet<Answer>;

impl Client {
    /// Asks over `channel`.
    #[must_use]
    pub fn new(channel: Channel) -> Self {
        Self { channel }
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
        self.channel.send(&Packet { body: request, secret }.encode()?, fds)?;
        let received = self.channel.receive()?.ok_or(StorageError::Gone)?;
        match Packet::<Answer>::parse(&received.bytes)? {
            Packet { body: Answer::Fault(fault), .. } => Err(fault.into()),
            answered => Ok(answered),
        }
    }
}
