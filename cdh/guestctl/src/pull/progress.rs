//! How far a pull is: counted by its threads, shown by the tool. On a terminal that is one line that changes; as JSON, events; else
//! plain lines, few enough for a log.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use cc_confinement::Landlock;
use image_registry::Stop;
use image_rs::{Event, Observer, layer::Stages};
use serde_json::{Value, json};

use crate::{failure::Failure, output::Console, table::printable};

/// Between two lines that say how far all of it is.
const BETWEEN_LINES: Duration = Duration::from_secs(10);
/// Most lines at a time; there is one such time a second.
const MOST_LINES: usize = 20;

/// Counters that the pull's threads write to.
#[derive(Debug, Default)]
pub(super) struct Progress {
    stop: AtomicBool,
    /// Ends waiting for a registry.
    network: Stop,
    /// Compressed bytes of all layers.
    total: AtomicU64,
    /// Bytes that were there from an earlier pull.
    kept: AtomicU64,
    layers: Mutex<Layers>,
    /// What is to be told once, not yet shown.
    steps: Mutex<VecDeque<Step>>,
    /// Whether it was told what confines the pull.
    confined: AtomicBool,
}

#[derive(Debug, Default)]
struct Layers {
    /// What each is called.
    names: Vec<String>,
    /// Compressed bytes read of each.
    read: Vec<u64>,
}

/// What is told once.
#[derive(Debug)]
enum Step {
    Confined(Landlock),
    Started { layer: usize, digest: String, size: u64 },
    Resumed { layer: usize, bytes: u64 },
    Unpacked { layer: usize, entries: u64, bytes: u64 },
    Kept { folder: String, bytes: u64 },
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

    /// Tells what the layers are called and how many bytes each has.
    pub(super) fn expect(&self, layers: impl Iterator<Item = (String, u64)>) {
        let (names, sizes): (Vec<String>, Vec<u64>) = layers.unzip();
        self.total.store(sizes.iter().sum(), Ordering::Relaxed);
        self.kept.store(0, Ordering::Relaxed);
        *self.layers() = Layers { read: vec![0; names.len()], names };
    }

    /// Tells how far this machine's Landlock confines the pull.
    pub(super) fn confined(&self, landlock: Landlock) {
        if !self.confined.swap(true, Ordering::Relaxed) {
            self.step(Step::Confined(landlock));
        }
    }

    /// Bytes that were there from an earlier pull.
    pub(super) fn bytes_kept(&self) -> u64 {
        self.kept.load(Ordering::Relaxed)
    }

    fn layers(&self) -> std::sync::MutexGuard<'_, Layers> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bytes_read(&self) -> u64 {
        self.layers().read.iter().sum()
    }

    fn name(&self, layer: usize) -> String {
        self.layers().names.get(layer).map(|name| printable(name)).unwrap_or_default()
    }

    fn step(&self, step: Step) {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).push_back(step);
    }

    fn take_steps(&self) -> VecDeque<Step> {
        std::mem::take(&mut self.steps.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Observer for Progress {
    fn event(&self, event: Event) {
        match event {
            Event::LayerStarted { layer, digest, size } => {
                self.step(Step::Started { layer, digest: digest.to_string(), size });
            }
            Event::LayerKept { layer, bytes } => {
                self.kept.fetch_add(bytes, Ordering::Relaxed);
                self.step(Step::Resumed { layer, bytes });
            }
            Event::LayerRead { layer, bytes } => {
                if let Some(read) = self.layers().read.get_mut(layer) {
                    *read = bytes;
                }
            }
            Event::LayerUnpacked { layer, entries, bytes, .. } => {
                self.step(Step::Unpacked { layer, entries, bytes });
            }
            Event::Kept { folder, bytes } => self.step(Step::Kept { folder, bytes }),
            _ => {}
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// What each stage took, in seconds, for JSON.
pub(super) fn stages(stages: &Stages) -> Value {
    let each = stages.each().into_iter().map(|(name, spent)| {
        let told =
            json!({"seconds": spent.elapsed.as_secs_f64(), "processor_seconds": spent.processor.as_secs_f64()});
        (name.to_owned(), told)
    });
    Value::Object(each.collect())
}

impl Step {
    fn json(&self) -> Value {
        match self {
            Self::Confined(landlock) => json!({"event": "confined", "landlock": landlock.as_str()}),
            Self::Started { layer, digest, size } => {
                json!({"event": "layer", "layer": layer, "digest": digest, "size": size})
            }
            Self::Resumed { layer, bytes } => json!({"event": "resumed", "layer": layer, "bytes": bytes}),
            Self::Unpacked { layer, entries, bytes } => {
                json!({"event": "unpacked", "layer": layer, "entries": entries, "bytes": bytes})
            }
            Self::Kept { folder, bytes } => json!({"event": "kept", "folder": folder, "bytes": bytes}),
        }
    }

    /// What an operator has to know, whatever is shown otherwise.
    fn note(&self) -> Option<String> {
        match self {
            Self::Confined(Landlock::None) => {
                Some("warning: this kernel's Landlock cannot confine the pull to its folder\n".to_owned())
            }
            Self::Kept { folder, bytes } => Some(format!(
                "note: {} stay in {}; the same command goes on from there, with --restart from the beginning\n",
                size(*bytes),
                printable(folder)
            )),
            _ => None,
        }
    }

    /// A line for a log; none for what [`Step::note`] tells, or nobody needs to know.
    fn line(&self, progress: &Progress) -> Option<String> {
        match self {
            Self::Started { layer, size: bytes, .. } => {
                Some(format!("{}: {}\n", progress.name(*layer), size(*bytes)))
            }
            Self::Resumed { layer, bytes } => {
                Some(format!("{}: {} of an earlier pull are right\n", progress.name(*layer), size(*bytes)))
            }
            Self::Unpacked { layer, entries, .. } => {
                Some(format!("{}: done, {entries} entries\n", progress.name(*layer)))
            }
            Self::Confined(_) | Self::Kept { .. } => None,
        }
    }
}

/// A length for people.
fn size(bytes: u64) -> String {
    let tenths = |unit: u64| (bytes / unit, bytes % unit * 10 / unit);
    match bytes {
        0..1_000_000 => format!("{bytes} bytes"),
        1_000_000..1_000_000_000 => format!("{}.{} MB", tenths(1_000_000).0, tenths(1_000_000).1),
        _ => format!("{}.{} GB", tenths(1_000_000_000).0, tenths(1_000_000_000).1),
    }
}

/// How a pull is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Json,
    /// One line that changes.
    Status,
    /// One line after the other.
    Lines,
    /// Notes alone.
    Quiet,
}

/// Shows a [`Progress`].
#[derive(Debug)]
pub(super) struct View<'a, 'b> {
    form: Form,
    console: &'a mut Console<'b>,
    shown: u64,
    /// When it was last said how far all of it is.
    said: Instant,
}

impl<'a, 'b> View<'a, 'b> {
    pub(super) fn new(json: bool, quiet: bool, console: &'a mut Console<'b>) -> Self {
        let form = match (json, quiet, console.shows_status()) {
            (true, _, _) => Form::Json,
            (_, true, _) => Form::Quiet,
            (_, _, true) => Form::Status,
            _ => Form::Lines,
        };
        Self { form, console, shown: 0, said: Instant::now() }
    }

    /// Time between two looks.
    pub(super) const fn interval(&self) -> Duration {
        match self.form {
            Form::Json => Duration::from_millis(500),
            Form::Status => Duration::from_millis(100),
            Form::Lines | Form::Quiet => Duration::from_secs(1),
        }
    }

    /// Shows what is new.
    pub(super) fn show(&mut self, progress: &Progress) -> Result<(), Failure> {
        let steps = progress.take_steps();
        let (read, total) = (progress.bytes_read(), progress.total.load(Ordering::Relaxed));
        if self.form == Form::Json {
            steps.iter().try_for_each(|step| self.console.json_line(&step.json()))?;
            if read != self.shown {
                self.console.json_line(&json!({"event": "progress", "bytes": read, "of": total}))?;
            }
            self.shown = read;
            return Ok(());
        }
        for note in steps.iter().filter_map(Step::note) {
            self.console.status("");
            self.console.complain(&note);
        }
        match self.form {
            Form::Status if read != self.shown => {
                self.console.status(&format!("{} of {}", size(read), size(total)));
            }
            Form::Lines => self.lines(&steps, progress),
            _ => {}
        }
        self.shown = read;
        Ok(())
    }

    fn lines(&mut self, steps: &VecDeque<Step>, progress: &Progress) {
        let lines: Vec<String> = steps.iter().filter_map(|step| step.line(progress)).collect();
        let mut text: String = lines.iter().take(MOST_LINES).map(String::as_str).collect();
        if let Some(more @ 1..) = lines.len().checked_sub(MOST_LINES) {
            text.push_str(&format!("… and {more} lines more\n"));
        }
        let (read, total) = (progress.bytes_read(), progress.total.load(Ordering::Relaxed));
        if self.said.elapsed() >= BETWEEN_LINES {
            self.said = Instant::now();
            text.push_str(&format!("{} of {}\n", size(read), size(total)));
        }
        if !text.is_empty() {
            self.console.complain(&text);
        }
    }

    /// Shows the rest and clears the line.
    pub(super) fn end(&mut self, progress: &Progress) -> Result<(), Failure> {
        let shown = self.show(progress);
        self.console.status("");
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two layers, one of which goes on from what an earlier pull has left.
    fn begun() -> Progress {
        let progress = Progress::default();
        progress.expect(
            [("layer 1 of 2", 10_000_000), ("layer 2 of 2", 20)].map(|(n, s)| (n.to_owned(), s)).into_iter(),
        );
        progress.event(Event::LayerKept { layer: 0, bytes: 2_500_000 });
        progress.event(Event::LayerRead { layer: 1, bytes: 20 });
        progress.event(Event::LayerRead { layer: 0, bytes: 5 });
        progress.event(Event::LayerUnpacked { layer: 1, entries: 3, bytes: 40, attributes_left_out: 0 });
        progress
    }

    fn shown(progress: &Progress, json: bool, quiet: bool) -> (String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        View::new(json, quiet, &mut Console::new(&mut out, &mut err)).end(progress).unwrap();
        (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn json_tells_steps_and_bytes() {
        let progress = begun();
        progress.confined(Landlock::Fully);
        progress.confined(Landlock::Fully);
        progress.event(Event::Kept { folder: "/x".into(), bytes: 7 });
        let (out, err) = shown(&progress, true, false);
        let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let expected = [
            json!({"event": "resumed", "layer": 0, "bytes": 2_500_000}),
            json!({"event": "unpacked", "layer": 1, "entries": 3, "bytes": 40}),
            json!({"event": "confined", "landlock": "fully"}),
            json!({"event": "kept", "folder": "/x", "bytes": 7}),
            json!({"event": "progress", "bytes": 25, "of": 10_000_020}),
        ];
        assert_eq!((lines.as_slice(), err.as_str()), (&expected[..], ""));
        assert_eq!(progress.bytes_kept(), 2_500_000);
    }

    #[test]
    fn without_a_terminal_there_are_plain_lines_or_notes_alone() {
        let (out, err) = shown(&begun(), false, false);
        let expected = "layer 1 of 2: 2.5 MB of an earlier pull are right\nlayer 2 of 2: done, 3 entries\n";
        assert_eq!((out.as_str(), err.as_str()), ("", expected));
        let progress = begun();
        progress.event(Event::Kept { folder: "/x\u{7}".into(), bytes: 1_234_000_000 });
        progress.confined(Landlock::None);
        let (out, err) = shown(&progress, false, true);
        assert_eq!((out.as_str(), err.lines().count()), ("", 2), "{err}");
        assert!(err.starts_with("note: 1.2 GB stay in /x\\u{7}; ") && err.contains("\nwarning: "), "{err}");
    }

    #[test]
    fn no_pull_fills_a_log() {
        let progress = begun();
        for _ in 0..1000 {
            progress.event(Event::LayerUnpacked { layer: 1, entries: 3, bytes: 40, attributes_left_out: 0 });
        }
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut console = Console::new(&mut out, &mut err);
        let mut view = View::new(false, false, &mut console);
        view.show(&progress).unwrap();
        view.show(&progress).unwrap();
        view.said = Instant::now().checked_sub(BETWEEN_LINES).unwrap();
        view.show(&progress).unwrap();
        view.show(&progress).unwrap();
        let err = String::from_utf8(err).unwrap();
        assert_eq!(err.lines().count(), MOST_LINES + 2, "{err}");
        assert!(err.ends_with("… and 982 lines more\n25 bytes of 10.0 MB\n"), "{err}");
    }
}
