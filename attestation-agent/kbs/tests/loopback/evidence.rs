//! A machine that makes sample evidence, slowly or not at all if told so.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cc_evidence::sample;
use cc_kbs::{BoxFuture, Error, EvidenceSource};

#[derive(Debug, Default)]
pub(crate) struct Machine {
    /// Evidence asked for so far.
    pub(crate) quotes: AtomicUsize,
    /// Wait before each piece of evidence.
    pub(crate) delay: Mutex<Duration>,
    /// How far the clock jumps during each quote, in the order given.
    pub(crate) jumps: Mutex<VecDeque<Duration>>,
    /// Failures to give before evidence is given.
    pub(crate) faults: Mutex<VecDeque<Error>>,
    pub(crate) devices: Mutex<String>,
    pub(crate) init_data: Mutex<Option<String>>,
    /// How often the devices were told that they are accepted; they never take notice.
    pub(crate) accepted: AtomicUsize,
}

impl Machine {
    pub(crate) fn quotes(&self) -> usize {
        self.quotes.load(Ordering::SeqCst)
    }
}

impl EvidenceSource for Machine {
    fn tee(&self) -> BoxFuture<'_, Result<String, Error>> {
        Box::pin(async { Ok("sample".to_owned()) })
    }

    fn additional(&self, _: Vec<u8>) -> BoxFuture<'_, Result<String, Error>> {
        Box::pin(async { Ok(self.devices.lock().unwrap().clone()) })
    }

    fn primary(&self, report_data: Vec<u8>) -> BoxFuture<'_, Result<String, Error>> {
        Box::pin(async move {
            self.quotes.fetch_add(1, Ordering::SeqCst);
            let delay = *self.delay.lock().unwrap();
            tokio::time::sleep(delay).await;
            let jump = self.jumps.lock().unwrap().pop_front();
            if let Some(jump) = jump {
                jump_ahead(jump).await;
            }
            match self.faults.lock().unwrap().pop_front() {
                Some(fault) => Err(fault),
                None => Ok(sample::evidence_json(&report_data)),
            }
        })
    }

    fn devices_accepted(&self) -> BoxFuture<'_, ()> {
        self.accepted.fetch_add(1, Ordering::SeqCst);
        Box::pin(std::future::pending())
    }

    fn init_data(&self) -> BoxFuture<'_, Result<Option<String>, Error>> {
        Box::pin(async { Ok(self.init_data.lock().unwrap().clone()) })
    }
}

/// Moves the runtime's monotonic clock.
pub(crate) async fn jump_ahead(by: Duration) {
    tokio::time::pause();
    tokio::time::advance(by).await;
    tokio::time::resume();
}
