//! Times of directories, to be set when all else is done, in bounded memory.

use crate::{
    LayerFault,
    layer::{run::Run, tar::Time},
};

/// Bytes that an entry takes beside its path.
const ENTRY: usize = size_of::<(u32, Time)>();

/// Paths with times, in the order they came. A path may come twice; the last one counts.
#[derive(Debug)]
pub(super) struct Ledger<'a> {
    entries: Vec<(u32, Time)>,
    /// All paths, one after the other.
    paths: Vec<u8>,
    run: &'a Run,
}

impl<'a> Ledger<'a> {
    /// An empty ledger, which takes its memory from that of `run`.
    pub(super) const fn new(run: &'a Run) -> Self {
        Self { entries: Vec::new(), paths: Vec::new(), run }
    }

    pub(super) fn push(&mut self, path: &[u8], time: Time) -> Result<(), LayerFault> {
        self.run.take_names(path.len() + ENTRY)?;
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

impl Drop for Ledger<'_> {
    fn drop(&mut self) {
        self.run.return_names(self.paths.len() + self.entries.len() * ENTRY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, layer::Options};

    #[test]
    fn paths_come_back_in_order_and_memory_is_bounded() {
        let time = |seconds| Time { seconds, nanoseconds: 0 };
        let limits = Limits { ledger: 200, ..Limits::default() };
        let run = Run::new(Options { limits, ..Options::default() });
        let mut ledger = Ledger::new(&run);
        ledger.push(b"", time(1)).unwrap();
        ledger.push(b"a/b", time(2)).unwrap();
        ledger.push(b"c", time(3)).unwrap();
        let all: Vec<_> = ledger.iter().collect();
        assert_eq!(all, [(&b""[..], time(1)), (b"a/b", time(2)), (b"c", time(3))]);
        assert!(matches!(ledger.push(&[b'x'; 150], time(4)), Err(LayerFault::Limit { limit: 200, .. })));
        drop(ledger);
        run.return_names(150 + ENTRY); // what was refused
        run.take_names(200).unwrap();
    }
}
