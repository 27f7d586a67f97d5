//! Times of directories, to be set when all else is done, in bounded memory.

use crate::{LayerFault, layer::tar::Time};

/// Paths with times, in the order they came. A path may come twice; the last one counts.
#[derive(Debug)]
pub(super) struct Ledger {
    entries: Vec<(u32, Time)>,
    /// All paths, one after the other.
    paths: Vec<u8>,
    used: usize,
    most: usize,
}

impl Ledger {
    /// A ledger of at most `most` bytes.
    pub(super) const fn new(most: usize) -> Self {
        Self { entries: Vec::new(), paths: Vec::new(), used: 0, most }
    }

    /// Counts another path that is remembered elsewhere.
    pub(super) fn charge(&mut self, path: &[u8]) -> Result<(), LayerFault> {
        self.used += path.len() + size_of::<(u32, Time)>();
        if self.used <= self.most && u32::try_from(path.len()).is_ok() {
            Ok(())
        } else {
            Err(LayerFault::Limit { what: "bytes of directory names", limit: self.most as u64 })
        }
    }

    pub(super) fn push(&mut self, path: &[u8], time: Time) -> Result<(), LayerFault> {
        self.charge(path)?;
        self.paths.extend_from_slice(path);
        self.entries.push((u32::try_from(path.len()).unwrap_or(u32::MAX), time));
        Ok(())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], Time)> {
        let mut rest = self.paths.as_slice();
        self.entries.iter().map(move |(length, time)| {
            let (path, others) = rest.split_at_checked(*length as usize).unwrap_or((rest, &[]));
            rest = others;
            (path, *time)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_come_back_in_order_and_memory_is_bounded() {
        let time = |seconds| Time { seconds, nanoseconds: 0 };
        let mut ledger = Ledger::new(200);
        ledger.push(b"", time(1)).unwrap();
        ledger.push(b"a/b", time(2)).unwrap();
        ledger.push(b"c", time(3)).unwrap();
        let all: Vec<_> = ledger.iter().collect();
        assert_eq!(all, [(&b""[..], time(1)), (b"a/b", time(2)), (b"c", time(3))]);
        assert!(matches!(ledger.push(&[b'x'; 150], time(4)), Err(LayerFault::Limit { limit: 200, .. })));
    }
}
