//! The device mapper's ioctls, as far as a mapping is asked for and removed (Linux `include/uapi/linux/dm-ioctl.h`, version 4).
//!
//! A request is one buffer: `struct dm_ioctl`, and behind it room for the answer. It may hold a key;
//! the allocator of this program wipes what is freed.

#![allow(unsafe_code, reason = "an ioctl is a promise about the kernel's view of our memory")]

use std::{io, os::fd::AsFd};

use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

/// Bytes of `struct dm_ioctl`.
const HEAD_LEN: usize = 312;
/// Bytes of `struct dm_target_spec`.
const SPEC_LEN: usize = 40;
/// Bytes of a request: the table of one target with a long key takes less than a quarter.
const LEN: usize = 16 << 10;
/// The same, as the head says it.
const LEN_FIELD: u32 = 16 << 10;
/// Where the answer may begin: [`HEAD_LEN`].
const START_FIELD: u32 = 312;
/// `DM_STATUS_TABLE_FLAG`: the table is wanted, not the state.
const STATUS_TABLE: u32 = 1 << 4;
/// `DM_BUFFER_FULL_FLAG`: the answer did not fit.
const BUFFER_FULL: u32 = 1 << 8;
/// The version of the interface that is spoken: 4.0.0.
const VERSION: u32 = 4;

/// `DM_DEV_REMOVE`.
pub(super) const REMOVE: Opcode = opcode::read_write::<[u8; HEAD_LEN]>(0xfd, 4);
/// `DM_TABLE_STATUS`.
pub(super) const TABLE_STATUS: Opcode = opcode::read_write::<[u8; HEAD_LEN]>(0xfd, 12);

#[repr(C, align(8))]
struct Buffer([u8; LEN]);

impl std::fmt::Debug for Buffer {
    /// It may hold a key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Buffer")
    }
}

/// A request about one mapping, and its answer.
#[derive(Debug)]
pub(super) struct Request {
    buffer: Box<Buffer>,
}

impl Request {
    /// A request about the mapping `name`.
    ///
    /// # Errors
    /// What is wrong with the name.
    pub(super) fn new(name: &str) -> Result<Self, &'static str> {
        // The field has 128 bytes, the last of which is zero.
        if name.is_empty() || name.len() > 127 || name.bytes().any(|byte| byte == 0 || byte == b'/') {
            return Err("it has a name that no mapping has");
        }
        let mut request = Self { buffer: Box::new(Buffer([0; LEN])) };
        request.put(0, VERSION);
        request.put(12, LEN_FIELD);
        request.put(16, START_FIELD);
        request.put(28, STATUS_TABLE);
        if let Some(field) = request.buffer.0.get_mut(48..48 + name.len()) {
            field.copy_from_slice(name.as_bytes());
        }
        Ok(request)
    }

    /// Sends it to the device mapper's control device.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn send<const CODE: Opcode>(&mut self, control: impl AsFd) -> io::Result<()> {
        // SAFETY: CODE is one of the two above, which take a `struct dm_ioctl` that says in `data_size` how long the buffer is that
        // it begins: LEN bytes, all of them ours, aligned for its widest field. The kernel reads and writes no more than those.
        Ok(unsafe { ioctl(control, Updater::<CODE, Buffer>::new(&mut self.buffer)) }?)
    }

    /// The one target of the answer: its first sector, its number of sectors, its type, its parameters.
    ///
    /// # Errors
    /// What else it is.
    pub(super) fn only_target(&self) -> Result<(u64, u64, &str, &str), &'static str> {
        if self.u32(28).is_none_or(|flags| flags & BUFFER_FULL != 0) || self.u32(20) != Some(1) {
            return Err("it is not one target");
        }
        let at = self.u32(16).and_then(|start| usize::try_from(start).ok()).ok_or("its table is nowhere")?;
        let length = |at| Some(u64::from_ne_bytes(self.bytes(at)?));
        let (start, sectors) = length(at).zip(length(at + 8)).ok_or("its table is cut")?;
        let kind = self.text(at + 24, 16).ok_or("its target has no type")?;
        let text = self.text(at + SPEC_LEN, LEN).ok_or("its target has no parameters")?;
        Ok((start, sectors, kind, text))
    }

    /// What the kernel knows the mapping as: its identifier, and its device as `MAJOR:MINOR`.
    pub(super) fn identity(&self) -> Option<(String, String)> {
        let device = u64::from_ne_bytes(self.bytes(40)?);
        let device = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
        Some((self.text(176, 129)?.to_owned(), device))
    }

    fn put(&mut self, at: usize, number: u32) {
        if let Some(field) = self.buffer.0.get_mut(at..at + 4) {
            field.copy_from_slice(&number.to_ne_bytes());
        }
    }

    fn u32(&self, at: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(self.bytes(at)?))
    }

    fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.buffer.0.get(at..)?.first_chunk().copied()
    }

    /// The text at `at`, which ends with a zero within `most` bytes.
    fn text(&self, at: usize, most: usize) -> Option<&str> {
        let bytes = self.buffer.0.get(at..)?;
        let bytes = bytes.get(..most).unwrap_or(bytes);
        let end = bytes.iter().position(|byte| *byte == 0)?;
        std::str::from_utf8(bytes.get(..end)?).ok()
    }
}
