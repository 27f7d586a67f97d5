//! One request directory: its attributes and their rules, without any file system.
//!
//! The rules are those of `drivers/virt/coco/guest/report.c` and of configfs as the Linux ABI document
//! `configfs-tsm-report` describes them: each write counts, a read makes a report only if something was written
//! since the last one.

use std::sync::Arc;

use fuser::Errno;

use crate::machine::Tee;

/// Largest `inblob`, bytes.
const INBLOB_LIMIT: usize = 64;
/// Largest privilege level.
const PRIVLEVEL_LIMIT: u32 = 3;

/// The attributes of a request directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attribute {
    Inblob,
    Outblob,
    Auxblob,
    Provider,
    Generation,
    Privlevel,
    PrivlevelFloor,
}

impl Attribute {
    pub(crate) const ALL: [Self; 7] = [
        Self::Inblob,
        Self::Outblob,
        Self::Auxblob,
        Self::Provider,
        Self::Generation,
        Self::Privlevel,
        Self::PrivlevelFloor,
    ];

    /// What an entry shows with `tee`: only the driver for SNP has privilege levels and a second blob.
    pub(crate) fn of(tee: Tee) -> impl Iterator<Item = Self> {
        let hidden = [Self::Auxblob, Self::Privlevel, Self::PrivlevelFloor];
        Self::ALL.into_iter().filter(move |attribute| tee == Tee::Snp || !hidden.contains(attribute))
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Inblob => "inblob",
            Self::Outblob => "outblob",
            Self::Auxblob => "auxblob",
            Self::Provider => "provider",
            Self::Generation => "generation",
            Self::Privlevel => "privlevel",
            Self::PrivlevelFloor => "privlevel_floor",
        }
    }

    /// An attribute can be written or read, never both.
    pub(crate) fn is_writable(self) -> bool {
        matches!(self, Self::Inblob | Self::Privlevel)
    }

    /// Permission bits.
    pub(crate) fn mode(self) -> u16 {
        if self.is_writable() { 0o200 } else { 0o444 }
    }

    /// What `stat` shows, which has nothing to do with the content: a page for text, nothing for binary.
    pub(crate) fn size(self) -> u64 {
        match self {
            Self::Inblob | Self::Outblob | Self::Auxblob => 0,
            _ => 4096,
        }
    }
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Blobs {
    pub(crate) outblob: Arc<[u8]>,
    pub(crate) auxblob: Arc<[u8]>,
}

/// What a report is to be made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) report_data: [u8; 64],
    pub(crate) privlevel: u32,
    generation: u64,
}

/// The state of one request directory.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    inblob: Vec<u8>,
    privlevel: u32,
    /// Writes so far.
    written: u64,
    /// `written` when the report was made.
    read: u64,
    blobs: Option<Blobs>,
}

impl Request {
    /// A request that comes by another way than an entry.
    pub(crate) fn direct(report_data: [u8; 64], privlevel: u32) -> Self {
        Self { report_data, privlevel, generation: 0 }
    }
}

impl Entry {
    /// Takes what was written to `inblob` between its opening and closing.
    pub(crate) fn write_inblob(&mut self, data: &[u8]) -> Result<(), Errno> {
        if data.len() > INBLOB_LIMIT {
            return Err(Errno::EFBIG);
        }
        self.advance()?;
        self.inblob = data.to_vec();
        Ok(())
    }

    /// Takes the text of a privilege level.
    pub(crate) fn write_privlevel(&mut self, data: &[u8], floor: u32) -> Result<(), Errno> {
        let level = parse_number(data).ok_or(Errno::EINVAL)?;
        if level < floor || level > PRIVLEVEL_LIMIT {
            return Err(Errno::EINVAL);
        }
        self.advance()?;
        self.privlevel = level;
        Ok(())
    }

    /// Writes so far.
    pub(crate) fn generation(&self) -> u64 {
        self.written
    }

    /// The report, if nothing was written since it was made.
    pub(crate) fn cached(&self) -> Option<Blobs> {
        self.blobs.clone().filter(|_| self.read == self.written)
    }

    /// What a new report is to be made from.
    pub(crate) fn request(&self) -> Result<Request, Errno> {
        // The drivers take nothing but a full field; that of CCA would take less, which no client of ours gives.
        let report_data = self.inblob.as_slice().try_into().map_err(|_| Errno::EINVAL)?;
        Ok(Request { report_data, privlevel: self.privlevel, generation: self.written })
    }

    /// Keeps the answer to `request`.
    pub(crate) fn answer(&mut self, request: &Request, blobs: Blobs) {
        self.read = request.generation;
        self.blobs = Some(blobs);
    }

    /// Counts a write, unless the count would meet the last report's by running around.
    fn advance(&mut self) -> Result<(), Errno> {
        if self.written == self.read.wrapping_sub(1) {
            return Err(Errno::EBUSY);
        }
        self.written = self.written.wrapping_add(1);
        Ok(())
    }
}

/// A number as the kernel reads it: decimal, or hexadecimal after `0x`, or octal after `0`, one line feed at the end.
fn parse_number(data: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(data).ok()?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_prefix('+').unwrap_or(text);
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    if digits.starts_with('+') { None } else { u32::from_str_radix(digits, radix).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blobs(tag: u8) -> Blobs {
        Blobs { outblob: Arc::from([tag; 4]), auxblob: Arc::from([]) }
    }

    #[test]
    fn writes_count_and_make_the_report_stale() {
        let mut entry = Entry::default();
        assert_eq!(entry.generation(), 0);
        assert!(entry.cached().is_none());
        entry.write_inblob(&[1; 64]).unwrap();
        let request = entry.request().unwrap();
        assert_eq!((entry.generation(), request.report_data, request.privlevel), (1, [1; 64], 0));
        entry.answer(&request, blobs(1));
        assert_eq!(entry.cached(), Some(blobs(1)));
        entry.write_privlevel(b"2\n", 1).unwrap();
        assert_eq!((entry.generation(), entry.cached()), (2, None));
        assert_eq!(entry.request().unwrap().privlevel, 2);
    }

    #[test]
    fn a_write_during_the_making_makes_the_report_stale() {
        let mut entry = Entry::default();
        entry.write_inblob(&[1; 64]).unwrap();
        let request = entry.request().unwrap();
        entry.write_inblob(&[2; 64]).unwrap();
        entry.answer(&request, blobs(1));
        assert_eq!(entry.cached(), None);
    }

    #[test]
    fn wrong_lengths_are_refused_when_read() {
        let mut entry = Entry::default();
        assert_eq!(entry.request().unwrap_err(), Errno::EINVAL);
        for length in [0, 1, 63] {
            entry.write_inblob(&vec![0; length]).unwrap();
            assert_eq!(entry.request().unwrap_err(), Errno::EINVAL);
        }
        assert_eq!(entry.write_inblob(&[0; 65]), Err(Errno::EFBIG));
        assert_eq!(entry.generation(), 3, "a refused write does not count");
    }

    #[test]
    fn privilege_levels_are_text_in_range() {
        let mut entry = Entry::default();
        for (text, level) in [("1", 1), ("3\n", 3), ("0x2", 2), ("+1", 1), ("01", 1)] {
            entry.write_privlevel(text.as_bytes(), 1).unwrap();
            assert_eq!(entry.privlevel, level, "{text:?}");
        }
        for bad in
            [&b""[..], b"0", b"4", b"\x01", b"\x00\x00\x00\x01", b"1 ", b"1\n\n", b"-1", b"++1", b"0x", b"08"]
        {
            assert_eq!(entry.write_privlevel(bad, 1), Err(Errno::EINVAL), "{bad:?}");
        }
        assert_eq!(entry.generation(), 5);
    }

    #[test]
    fn the_count_never_runs_into_the_last_report() {
        let mut entry = Entry { written: 6, read: 8, ..Entry::default() };
        entry.write_inblob(&[0; 64]).unwrap();
        assert_eq!(entry.write_inblob(&[0; 64]), Err(Errno::EBUSY));
    }
}
