//! A Unix socket that keeps message boundaries (`SOCK_SEQPACKET`, unix(7)), with file descriptors beside the bytes.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType, sockopt,
    },
};
use zeroize::Zeroizing;

use crate::{MAX_LEN, StorageError};

/// Most file descriptors of one message.
const MAX_FDS: usize = 4;

/// One end of a connection. Calls block.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// A message as it came.
#[derive(Debug)]
pub struct Received {
    /// Its bytes; wiped when dropped.
    pub bytes: Zeroizing<Vec<u8>>,
    /// The file descriptors that came with it.
    pub fds: Vec<OwnedFd>,
}

impl Channel {
    /// Takes a connected socket.
    ///
    /// # Errors
    /// `STORAGE_SOCKET` if it is of another kind.
    pub fn new(socket: OwnedFd) -> Result<Self, StorageError> {
        let family = sockopt::socket_domain(&socket).map_err(StorageError::socket("look at"))?;
        let kind = sockopt::socket_type(&socket).map_err(StorageError::socket("look at"))?;
        if (family, kind) != (AddressFamily::UNIX, SocketType::SEQPACKET) {
            return Err(StorageError::socket("use")(Errno::PROTOTYPE));
        }
        Ok(Self(socket))
    }

    /// Both ends of a new connection.
    ///
    /// # Errors
    /// `STORAGE_SOCKET`.
    pub fn pair() -> Result<(Self, Self), StorageError> {
        let flags = SocketFlags::CLOEXEC;
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map(|(one, other)| (Self(one), Self(other)))
            .map_err(StorageError::socket("make"))
    }

    /// Sends a message with at most four file descriptors.
    ///
    /// # Errors
    /// `STORAGE_GONE` if nobody has the other end, `STORAGE_SOCKET`.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), StorageError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(StorageError::socket("send over")(Errno::TOOBIG));
        }
        loop {
            match rustix::net::sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => return Err(StorageError::Gone),
                Err(error) => return Err(StorageError::socket("send over")(error)),
            }
        }
    }

    /// Waits until there is a message or nobody has the other end, at most for `moment`; whether that is so.
    ///
    /// # Errors
    /// `STORAGE_SOCKET`.
    pub fn wait(&self, moment: Duration) -> Result<bool, StorageError> {
        let mut polled = [PollFd::new(&self.0, PollFlags::IN)];
        match rustix::event::poll(&mut polled, Timespec::try_from(moment).ok().as_ref()) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(StorageError::socket("wait at")(error)),
        }
    }

    /// Tells the other end that nothing more comes, and waits at most for `moment` until it is closed, whatever it still says.
    pub(crate) fn leave(self, moment: Duration) {
        let since = Instant::now();
        if rustix::net::shutdown(&self.0, Shutdown::Write).is_err() {
            return;
        }
        while let Some(rest) = moment.checked_sub(since.elapsed()).filter(|rest| !rest.is_zero()) {
            match self.wait(rest).map(|ready| ready.then(|| self.receive())) {
                Ok(None | Some(Ok(Some(_)))) => {}
                Ok(Some(Ok(None) | Err(_))) | Err(_) => return,
            }
        }
    }

    /// The next message; `None` when nobody has the other end any more.
    ///
    /// # Errors
    /// `STORAGE_PROTOCOL` for a message that is too long or has too many file descriptors, `STORAGE_SOCKET`.
    pub fn receive(&self) -> Result<Option<Received>, StorageError> {
        let mut bytes = Zeroizing::new(vec![0; MAX_LEN]);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let message = loop {
            let mut slices = [IoSliceMut::new(&mut bytes)];
            match rustix::net::recvmsg(&self.0, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(message) => break message,
                // The other end was closed with something unread in it. What it sent before comes next, or the end.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(error) => return Err(StorageError::socket("receive from")(error)),
            }
        };
        let mut fds = Vec::new();
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = part {
                fds.extend(rights);
            }
        }
        if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            let why = "a message is too long or has too many file descriptors".to_owned();
            return Err(StorageError::Protocol { why });
        }
        if message.bytes == 0 && fds.is_empty() {
            return Ok(None);
        }
        bytes.truncate(message.bytes);
        Ok(Some(Received { bytes, fds }))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.0
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read, Write},
    };

    use super::*;

    #[test]
    fn messages_arrive_whole_with_their_descriptors() {
        let (one, other) = Channel::pair().unwrap();
        let (read, write) = std::io::pipe().unwrap();
        one.send(&vec![7; MAX_LEN], &[read.as_fd()]).unwrap();
        one.send(b"second", &[]).unwrap();
        drop((one, read));
        let mut first = other.receive().unwrap().unwrap();
        assert_eq!((first.bytes.len(), first.fds.len()), (MAX_LEN, 1));
        File::from(OwnedFd::from(write)).write_all(b"through").unwrap();
        let mut text = String::new();
        File::from(first.fds.remove(0)).read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        assert_eq!(*other.receive().unwrap().unwrap().bytes, b"second");
        assert!(other.receive().unwrap().is_none());
        assert_eq!(other.send(b"x", &[]).unwrap_err().code(), "STORAGE_GONE");
    }

    #[test]
    fn what_is_too_long_and_what_is_no_such_socket_is_refused() {
        let (one, other) = Channel::pair().unwrap();
        one.send(&vec![7; MAX_LEN + 1], &[]).unwrap();
        assert_eq!(other.receive().unwrap_err().code(), "STORAGE_PROTOCOL");
        let (stream, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(Channel::new(stream.into()).is_err());
    }
}
