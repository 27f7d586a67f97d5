//! How far a pull is: counted by its threads, shown by the tool, on a terminal as one line that changes, else not at all
//! or as JSON.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use image_registry::Stop;
use image_rs::{Event, Observer};
use serde_json::{Value, json};

use crate::{failure::Failure, output::Console};

/// Counters that the pull's threads write to.
#[derive(Debug, Default)]
pub(super) struct Progress {
    stop: AtomicBool,
    /// Ends waiting for a registry.
    network: Stop,
    /// Compressed bytes of all layers.
    total: AtomicU64,
    /// Compressed bytes read, by layer.
    read: Mutex<Vec<u64>>,
    /// What is to be told once, not yet shown.
    steps: Mutex<VecDeque<Value>>,
}

impl Progress {
    /// Asks the pull to stop.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.network.stop();
    }

    /// What ends waiting for a registry when the pull is to stop.
    pub(super) const fn network(&self) -> &Stop {
        &self.network
    }

    /// Tells how many bytes each layer has.
    pub(super) fn expect(&self, sizes: impl ExactSizeIterator<Item = u64>) {
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = vec![0; sizes.len()];
        self.total.store(sizes.sum(), Ordering::Relaxed);
    }

    fn bytes_read(&self) -> u64 {
        self.read.lock().unwrap_or_else(PoisonError::into_inner).iter().sum()
    }

    fn step(&self, value: Value) {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).push_back(value);
    }

    fn take_steps(&self) -> VecDeque<Value> {
        std::mem::take(&mut self.steps.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Observer for Progress {
    fn event(&self, event: Event) {
        match event {
            Event::LayerStarted { layer, digest, size } => {
                self.step(
                    json!({"event": "layer", "layer": layer, "digest": digest.to_string(), "size": size}),
                );
            }
            Event::LayerRead { layer, bytes } => {
                let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(read) = read.get_mut(layer) {
                    *read = bytes;
                }
            }
            Event::LayerUnpacked { layer, entries, bytes, .. } => {
                self.step(json!({"event": "unpacked", "layer": layer, "entries": entries, "bytes": bytes}));
            }
            _ => {}
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Shows a [`Progress`].
#[derive(Debug)]
pub(super) struct View<'a, 'b> {
    json: bool,
    console: &'a mut Console<'b>,
    shown: u64,
}

impl<'a, 'b> View<'a, 'b> {
    pub(super) const fn new(json: bool, console: &'a mut Console<'b>) -> Self {
        Self { json, console, shown: 0 }
    }

    /// Time between two looks.
    pub(super) const fn interval(&self) -> Duration {
        if self.json { Duration::from_millis(500) } else { Duration::from_millis(100) }
    }

    /// Shows what is new.
    pub(super) fn show(&mut self, progress: &Progress) -> Result<(), Failure> {
        let steps = progress.take_steps();
        let (read, total) = (progress.bytes_read(), progress.total.load(Ordering::Relaxed));
        if self.json {
            steps.iter().try_for_each(|step| self.console.json_line(step))?;
            if read != self.shown {
                self.console.json_line(&json!({"event": "progress", "bytes": read, "of": total}))?;
            }
        } else if read != self.shown {
            self.console.status(&format!("{} of {} MB", read / 1_000_000, total.div_ceil(1_000_000)));
        }
        self.shown = read;
        Ok(())
    }

    /// Shows the rest and clears the line.
    pub(super) fn end(&mut self, progress: &Progress) -> Result<(), Failure> {
        if self.json {
            self.show(progress)
        } else {
            self.console.status("");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_tells_steps_and_bytes_and_text_says_nothing_without_a_terminal() {
        let progress = Progress::default();
        *progress.read.lock().unwrap() = vec![0; 2];
        progress.total.store(30, Ordering::Relaxed);
        progress.event(Event::LayerRead { layer: 1, bytes: 20 });
        progress.event(Event::LayerRead { layer: 0, bytes: 5 });
        progress.event(Event::LayerUnpacked { layer: 1, entries: 3, bytes: 40, attributes_left_out: 0 });
        let (mut out, mut err) = (Vec::new(), Vec::new());
        View::new(true, &mut Console::new(&mut out, &mut err)).end(&progress).unwrap();
        let lines: Vec<Value> =
            String::from_utf8(out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0], json!({"event": "unpacked", "layer": 1, "entries": 3, "bytes": 40}));
        assert_eq!(lines[1], json!({"event": "progress", "bytes": 25, "of": 30}));
        let mut out = Vec::new();
        View::new(false, &mut Console::new(&mut out, &mut err)).show(&progress).unwrap();
        assert!(out.is_empty() && err.is_empty());
    }
}
