//! A bounded stream of bytes between two threads.
//!
//! A fixed number of buffers goes round: filled ones one way, empty ones back, so nothing is copied and nothing grows. A
//! sender that goes away without [`Sender::finish`] is an error for the receiver, never an end: half a stream
//! must not look whole.

use std::{
    io::{self, BufRead, Read},
    sync::mpsc,
};

/// The receiver is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Closed;

enum Message {
    Bytes(Vec<u8>, usize),
    End,
}

/// The end that bytes go into.
#[derive(Debug)]
pub(super) struct Sender {
    full: mpsc::SyncSender<Message>,
    empty: mpsc::Receiver<Vec<u8>>,
}

/// The end that bytes come out of.
#[derive(Debug)]
pub(super) struct Receiver {
    full: mpsc::Receiver<Message>,
    empty: mpsc::SyncSender<Vec<u8>>,
    buffer: Vec<u8>,
    at: usize,
    filled: usize,
    ended: bool,
}

/// A stream with `count` buffers of `size` bytes in it, besides the one that the sender fills.
pub(super) fn pipe(count: usize, size: usize) -> (Sender, Receiver) {
    let (full_in, full_out) = mpsc::sync_channel(count);
    let (empty_in, empty_out) = mpsc::sync_channel(count + 1);
    for _ in 0..count {
        // Cannot fail: there is room, and the other end is in hand.
        let _ = empty_in.send(vec![0; size]);
    }
    let sender = Sender { full: full_in, empty: empty_out };
    let receiver =
        Receiver { full: full_out, empty: empty_in, buffer: Vec::new(), at: 0, filled: 0, ended: false };
    (sender, receiver)
}

impl Sender {
    /// Hands over the first `filled` bytes of `buffer` and gives an empty buffer for the next ones. Waits while all
    /// buffers are on their way.
    pub(super) fn send(&mut self, buffer: Vec<u8>, filled: usize) -> Result<Vec<u8>, Closed> {
        self.full.send(Message::Bytes(buffer, filled)).map_err(|_| Closed)?;
        self.empty.recv().map_err(|_| Closed)
    }

    /// Marks the end of the stream.
    pub(super) fn finish(&mut self) {
        // A receiver that is gone does not need it.
        let _ = self.full.send(Message::End);
    }
}

impl Receiver {
    /// Whether reading on means waiting for the sender.
    pub(super) fn is_drained(&self) -> bool {
        self.at >= self.filled && !self.ended
    }
}

impl BufRead for Receiver {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.is_drained() {
            if !self.buffer.is_empty() {
                // A sender that is gone needs no buffers.
                let _ = self.empty.send(std::mem::take(&mut self.buffer));
            }
            match self.full.recv() {
                Ok(Message::Bytes(buffer, filled)) => {
                    (self.buffer, self.at, self.filled) = (buffer, 0, filled)
                }
                Ok(Message::End) => self.ended = true,
                Err(_) => {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the stream was given up"));
                }
            }
        }
        Ok(self.buffer.get(self.at..self.filled).unwrap_or_default())
    }

    fn consume(&mut self, amount: usize) {
        self.at = self.filled.min(self.at + amount);
    }
}

/// `Read` by what `BufRead` lends; the bytes that went into `into`, 0 at the end.
///
/// # Errors
/// What filling the buffer says.
pub(super) fn read_buffered(from: &mut impl BufRead, into: &mut [u8]) -> io::Result<usize> {
    let mut available = from.fill_buf()?;
    let read = available.read(into)?;
    from.consume(read);
    Ok(read)
}

impl Read for Receiver {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, into)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn bytes_arrive_in_order_and_buffers_go_round() {
        let (mut sender, mut receiver) = pipe(2, 8);
        let sending = thread::spawn(move || {
            let mut buffer = vec![0; 8];
            for number in 0..100u8 {
                buffer[..3].copy_from_slice(&[number, number, number]);
                buffer = sender.send(buffer, 3).unwrap();
                assert_eq!(buffer.len(), 8);
            }
            sender.finish();
        });
        let mut all = Vec::new();
        receiver.read_to_end(&mut all).unwrap();
        sending.join().unwrap();
        assert_eq!(all, (0..100u8).flat_map(|n| [n, n, n]).collect::<Vec<_>>());
        assert_eq!(receiver.read(&mut [0; 4]).unwrap(), 0, "the end stays the end");
    }

    #[test]
    fn a_sender_that_goes_away_is_no_end() {
        let (mut sender, mut receiver) = pipe(1, 4);
        sender.send(vec![7; 4], 4).unwrap();
        drop(sender);
        let mut all = Vec::new();
        assert_eq!(receiver.read_to_end(&mut all).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(all, [7; 4]);
    }

    #[test]
    fn a_receiver_that_goes_away_is_noticed() {
        let (mut sender, receiver) = pipe(1, 4);
        drop(receiver);
        assert_eq!(sender.send(vec![0; 4], 4), Err(Closed));
    }
}
