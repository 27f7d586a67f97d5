//! What the stages of the pipe have failed by, and what that means for the rest of the blob.
//!
//! A fault in what was read may be damage on the way: some more is read, because the digest of the blob tells who is to
//! blame. A full disk or a bound that was passed stays what it is whatever follows, so nothing more is read then.

use std::sync::OnceLock;

use crate::LayerFault;

/// Bytes of the blob that are still read after a fault in its content. A registry that announces a blob without an end
/// must not keep anybody busy with it.
pub(super) const FURTHER: u64 = 16 << 20;

/// A stage behind the one that reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Decrypt,
    Inflate,
    Sink,
}

/// The first failure in time.
#[derive(Debug, Default)]
pub(super) struct Aftermath(OnceLock<(Stage, bool)>);

impl Aftermath {
    /// Takes note of what `stage` ended by. To be called before the stage gives up its input or its output: the next stage
    /// would fail by that, and be the first to say so.
    pub(super) fn note<T>(&self, stage: Stage, result: &Result<T, LayerFault>) {
        if let Err(fault) = result {
            // Only the first counts: the others follow from it.
            let _ = self.0.set((stage, is_of_content(fault)));
        }
    }

    /// The stage that failed first.
    pub(super) fn first(&self) -> Option<Stage> {
        self.0.get().map(|(stage, _)| *stage)
    }

    /// Bytes that are worth reading from now on; `None` if there is no failure.
    pub(super) fn further(&self) -> Option<u64> {
        self.0.get().map(|(_, of_content)| if *of_content { FURTHER } else { 0 })
    }
}

/// Whether other bytes would not have had it.
const fn is_of_content(fault: &LayerFault) -> bool {
    match fault {
        LayerFault::Limit { .. }
        | LayerFault::Storage { .. }
        | LayerFault::Key(_)
        | LayerFault::Busy
        | LayerFault::Interrupted => false,
        LayerFault::Read(_)
        | LayerFault::Length { .. }
        | LayerFault::DigestMismatch { .. }
        | LayerFault::Mac
        | LayerFault::PlainDigest { .. }
        | LayerFault::Compression(_)
        | LayerFault::Archive(_)
        | LayerFault::Entry { .. } => true,
    }
}
