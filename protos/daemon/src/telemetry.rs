//! The log: human-readable lines on standard error.
//!
//! The filter of a daemon is `RUST_LOG` if set, else what the configuration says; tools in an initramfs, where the host writes
//! the environment, take theirs from their flags alone. Above it stands a cap that no setting
//! lifts: the libraries that move bytes (HTTP/2, TLS, RPC) never log below `info`, because at `debug` and
//! `trace` they print frames, and frames hold secrets.
//!
//! Lines under the target `audit` are written at every level; `audit=off` silences them.
//!
//! It is NOT the place that keeps secrets out of our own log lines: those never contain them.

use std::io::IsTerminal as _;

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Libraries that may print what passes through them. A name covers every target that begins with it:
/// `hyper` also stands for `hyper_util`, `tokio` for `tokio_rustls`.
const CAPPED: [&str; 10] =
    ["axum", "h2", "hyper", "mio", "prost", "rustls", "tokio", "tonic", "tower", "want"];

/// The target of lines that record who was given which secret.
pub const AUDIT: &str = "audit";

/// The log cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// The filter is no filter expression.
    #[error("{origin} is no log filter: {reason}")]
    Filter {
        /// Where the filter came from.
        origin: &'static str,
        /// Why it cannot be read.
        reason: String,
    },
    /// A log was set up before.
    #[error("the log is already set up")]
    Again,
}

impl TelemetryError {
    /// Stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Filter { .. } => "LOG_FILTER_INVALID",
            Self::Again => "LOG_SET_UP_TWICE",
        }
    }

    /// The next step for the operator.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Filter { .. } => "use a level such as info, or target=level pairs with commas".to_owned(),
            Self::Again => "this is a defect of the program".to_owned(),
        }
    }
}

/// Starts the log of this process. `level` is a filter expression of the `tracing` project (`info`,
/// `warn,cc_kbs=debug`); `RUST_LOG` wins if it is set and not empty.
///
/// # Errors
///
/// The filter that counts is invalid, or a log was set up before.
pub fn init(level: &str) -> Result<(), TelemetryError> {
    // The one place of a daemon's log that reads the environment.
    #[allow(clippy::disallowed_methods)]
    let wish = std::env::var_os("RUST_LOG").filter(|wish| !wish.is_empty());
    match &wish {
        Some(wish) => start(filter("RUST_LOG", &wish.to_string_lossy())?),
        None => init_without_environment(level),
    }
}

/// The same without a look at the environment: `level` is what counts.
///
/// # Errors
///
/// `level` is no filter, or a log was set up before.
pub fn init_without_environment(level: &str) -> Result<(), TelemetryError> {
    start(filter("the configured log level", level)?)
}

fn start(filter: EnvFilter) -> Result<(), TelemetryError> {
    let ansi = std::io::stderr().is_terminal();
    subscriber(filter, std::io::stderr, ansi).try_init().map_err(|_| TelemetryError::Again)
}

fn subscriber<W>(filter: EnvFilter, writer: W, ansi: bool) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(ansi);
    tracing_subscriber::registry().with(cap()).with(filter).with(lines)
}

fn filter(origin: &'static str, text: &str) -> Result<EnvFilter, TelemetryError> {
    let invalid = |reason: String| TelemetryError::Filter { origin, reason };
    // The library takes a lone word for the name of a target and silences all others: a misspelt level would
    // switch the log off. Span filters have commas of their own and are left to the library.
    let words = text.split(',').map(str::trim).filter(|_| !text.contains('['));
    for word in words.filter(|word| !word.is_empty() && !word.contains('=')) {
        word.parse::<LevelFilter>().map_err(|_| invalid(format!("{word:?} is no level")))?;
    }
    let filter = EnvFilter::builder().parse(text).map_err(|error| invalid(error.to_string()))?;
    // Who was given what is recorded at every level, unless it is switched off by name.
    let named = text.split(',').any(|word| word.trim().split('=').next() == Some(AUDIT));
    if named {
        return Ok(filter);
    }
    let record = format!("{AUDIT}=info").parse().map_err(|_| invalid("the record has no name".to_owned()))?;
    Ok(filter.add_directive(record))
}

fn cap() -> Targets {
    let info = |name: &&'static str| (*name, LevelFilter::INFO);
    Targets::new().with_default(LevelFilter::TRACE).with_targets(CAPPED.iter().map(info))
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn the_cap_holds_for_every_library_and_its_modules() {
        let cap = cap();
        for name in CAPPED {
            for target in [name.to_owned(), format!("{name}::codec::framed_read")] {
                assert!(cap.would_enable(&target, &Level::INFO), "{target}");
                assert!(!cap.would_enable(&target, &Level::DEBUG), "{target}");
            }
        }
        assert!(cap.would_enable("cc_kbs::session", &Level::TRACE));
    }

    /// A log in memory.
    #[derive(Clone, Default)]
    struct Memory(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

    impl std::io::Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn no_filter_lifts_the_cap() {
        for text in ["trace", "h2=trace", "info,h2::codec=trace"] {
            let memory = Memory::default();
            let writer = memory.clone();
            let log = subscriber(filter("RUST_LOG", text).unwrap(), move || writer.clone(), false);
            tracing::subscriber::with_default(log, || {
                tracing::trace!(target: "h2::codec", "canary frame");
                tracing::debug!(target: "rustls::conn", "canary record");
                tracing::error!(target: "h2::codec", "broken");
                tracing::info!(target: "cc_kbs", "ours");
            });
            let log = String::from_utf8(memory.0.lock().unwrap().clone()).unwrap();
            assert!(!log.contains("canary"), "{text}: {log}");
            assert!(log.contains("broken"), "{text}: {log}");
            assert_eq!(log.contains("ours"), text != "h2=trace", "{text}: {log}");
        }
    }

    #[test]
    fn only_its_own_name_silences_the_record() {
        for (text, recorded) in [
            ("error", true),
            ("off", true),
            ("cc_kbs=debug", true),
            ("info,audit=off", false),
            ("trace", true),
        ] {
            let memory = Memory::default();
            let writer = memory.clone();
            let log = subscriber(filter("RUST_LOG", text).unwrap(), move || writer.clone(), false);
            tracing::subscriber::with_default(log, || tracing::info!(target: AUDIT, "given"));
            assert_eq!(!memory.0.lock().unwrap().is_empty(), recorded, "{text}");
        }
    }

    #[test]
    fn invalid_filters_are_errors() {
        for text in ["loud", "a=b=c", "cc_kbs=7up"] {
            assert_eq!(filter("RUST_LOG", text).unwrap_err().code(), "LOG_FILTER_INVALID", "{text}");
        }
        for text in ["info", "warn,cc_kbs=debug", "trace"] {
            assert!(filter("RUST_LOG", text).is_ok(), "{text}");
        }
    }
}
