//! The skeleton of a daemon's `main`: what every daemon does before and after its own part, in the one safe order.
//!
//! Inherited sockets are taken while the process has one thread (taking them clears environment variables),
//! signals are caught before anything slow begins, and whatever stops the start is told on standard error with
//! code and next step, log or no log. It is not the daemon's own start: that is the future it hands in.

use std::fmt;
use std::io;
use std::process::ExitCode;

use crate::config::{ConfigError, Source};
use crate::listen::{ListenError, Listener};
use crate::sandbox::{Needs, Seccomp};
use crate::shutdown::Shutdown;
use crate::telemetry::TelemetryError;
use crate::{memory, notify, sandbox, telemetry};

/// Exit code for bad configuration (`EX_USAGE` of sysexits.h).
pub const EXIT_CONFIG: u8 = 64;
/// Exit code for something the daemon needs and the machine lacks (`EX_UNAVAILABLE`).
pub const EXIT_UNAVAILABLE: u8 = 69;
/// Exit code for a failure while serving.
pub const EXIT_FAILED: u8 = 1;

/// Why a daemon did not start, or stopped serving.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} [{code}]")]
pub struct StartFault {
    /// Exit code of the process.
    pub exit: u8,
    /// Stable code.
    pub code: String,
    /// What was being done to what, and why it failed.
    pub message: String,
    /// The next step for the operator.
    pub hint: String,
}

impl StartFault {
    /// A fault that ends the process with `exit`.
    pub fn new(
        exit: u8,
        code: impl Into<String>,
        message: impl fmt::Display,
        hint: impl Into<String>,
    ) -> Self {
        Self { exit, code: code.into(), message: message.to_string(), hint: hint.into() }
    }

    /// A value of the configuration that cannot be used.
    pub fn config(message: impl fmt::Display, hint: impl Into<String>) -> Self {
        Self::new(EXIT_CONFIG, "CONFIG_INVALID", message, hint)
    }
}

impl From<ConfigError> for StartFault {
    /// A file that is there and cannot be read, for now, is something that the machine lacks; the service manager tries again.
    fn from(e: ConfigError) -> Self {
        let exit = match &e {
            ConfigError::Read { source, .. } if source.kind() != io::ErrorKind::NotFound => EXIT_UNAVAILABLE,
            _ => EXIT_CONFIG,
        };
        Self::new(exit, e.code(), with_causes(&e), e.hint())
    }
}

impl From<ListenError> for StartFault {
    fn from(e: ListenError) -> Self {
        Self::new(EXIT_FAILED, e.code(), with_causes(&e), e.hint())
    }
}

impl From<TelemetryError> for StartFault {
    fn from(e: TelemetryError) -> Self {
        Self::new(EXIT_CONFIG, e.code(), with_causes(&e), e.hint())
    }
}

/// An error and its causes in one line.
fn with_causes(e: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(e), |e| e.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The environment variable `name` as text; `None` if it is not set. For a daemon's `config.rs`.
///
/// # Errors
/// It is set and not UTF-8. Taking that for absent would, for instance, turn a pin into the public roots.
#[allow(clippy::disallowed_methods, reason = "the one function through which daemons read the environment")]
pub fn environment(name: &str) -> Result<Option<String>, StartFault> {
    let unreadable = |_| {
        StartFault::config(format!("the environment variable {name} is not UTF-8"), "correct or unset it")
    };
    std::env::var_os(name).map(|value| value.into_string().map_err(unreadable)).transpose()
}

/// The text of the kernel command line; empty where there is none to read.
pub fn kernel_command_line() -> String {
    std::fs::read_to_string("/proc/cmdline").unwrap_or_default()
}

/// What the skeleton needs to know of a daemon's configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Log filter; `RUST_LOG` wins.
    pub log_level: String,
    /// Where the configuration came from; its unknown keys are warned about by name.
    pub source: Source,
    /// Settings that were given and that this version does not act on.
    pub unused: Vec<&'static str>,
    /// Worker threads of the runtime.
    pub threads: usize,
    /// Whether it refuses itself the system calls that it does not need.
    pub seccomp: Seccomp,
    /// Which it needs all the same.
    pub needs: Needs,
}

/// Runs a daemon: `serve` gets the inherited sockets and the shutdown signal and returns when it has drained.
pub fn run<F>(name: &str, settings: &Settings, serve: impl FnOnce(Vec<Listener>, Shutdown) -> F) -> ExitCode
where
    F: Future<Output = Result<(), StartFault>>,
{
    match try_run(settings, serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => report(name, &fault),
    }
}

fn try_run<F>(settings: &Settings, serve: impl FnOnce(Vec<Listener>, Shutdown) -> F) -> Result<(), StartFault>
where
    F: Future<Output = Result<(), StartFault>>,
{
    let inherited = Listener::inherited()?;
    let waiting: Vec<_> = inherited.iter().filter_map(|socket| socket.another_handle().ok()).collect();
    let result = start(settings, inherited, serve);
    if result.as_ref().is_err_and(|fault| fault.exit == EXIT_CONFIG) {
        waiting.iter().for_each(Listener::end_waiting);
    }
    result
}

fn start<F>(
    settings: &Settings,
    inherited: Vec<Listener>,
    serve: impl FnOnce(Vec<Listener>, Shutdown) -> F,
) -> Result<(), StartFault>
where
    F: Future<Output = Result<(), StartFault>>,
{
    telemetry::init(&settings.log_level)?;
    let system = |doing: &'static str| {
        move |e: io::Error| {
            StartFault::new(
                EXIT_FAILED,
                "SYSTEM_RESOURCE",
                format!("{doing}: {e}"),
                "see the system's limits",
            )
        }
    };
    sandbox::forbid_core_dumps().map_err(system("forbidding core dumps"))?;
    // Before there are threads and callers.
    sandbox::refuse_needless_calls(settings.seccomp, settings.needs);
    sandbox::tell();
    for key in &settings.source.unknown_keys {
        tracing::warn!(file = %settings.source.path, key, "unknown configuration key is ignored");
    }
    for key in &settings.unused {
        tracing::warn!(key, "this version does not act on this setting");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(settings.threads)
        .enable_all()
        .build()
        .map_err(system("starting the runtime"))?;
    let result = runtime.block_on(async {
        let shutdown = Shutdown::on_signals().map_err(system("listening for signals"))?;
        notify::spawn_watchdog(&shutdown);
        memory::spawn_release();
        serve(inherited, shutdown).await
    });
    // A thread that is stuck in a device must not keep the process.
    runtime.shutdown_background();
    result
}

/// Ends the connections that wait on sockets of the service manager, for a daemon that ends before it has read its configuration: nobody
/// is coming, and for each of them the service manager would start it again at once. Call it once, before there are threads: it clears
/// the variables by which sockets are passed.
pub fn send_callers_away() {
    // Nothing to do where they are taken already, or are not what they should be.
    Listener::inherited().unwrap_or_default().iter().for_each(Listener::end_waiting);
}

/// Tells the cause on standard error, and in the status that the service manager shows; the exit code. Callers that wait on
/// sockets of the service manager for a daemon that cannot use its configuration are sent away: nobody is coming.
#[allow(clippy::print_stderr, reason = "the cause of a failed start goes to stderr, log or no log")]
pub fn report(name: &str, fault: &StartFault) -> ExitCode {
    if fault.exit == EXIT_CONFIG {
        send_callers_away();
    }
    eprintln!("{name}: {fault}\nhint: {}", fault.hint);
    notify::status(&format!("not serving: {fault}; {}", fault.hint));
    ExitCode::from(fault.exit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_the_kit_keep_code_and_hint() {
        let e = crate::config::load::<serde_json::Value>(std::path::Path::new("/nonexistent/x.toml"))
            .unwrap_err();
        let (code, hint) = (e.code(), e.hint());
        let fault = StartFault::from(e);
        assert_eq!((fault.code.as_str(), fault.hint, fault.exit), (code, hint, EXIT_CONFIG));
        assert!(fault.message.contains("/nonexistent/x.toml"), "{}", fault.message);
    }

    #[test]
    fn a_file_that_cannot_be_read_for_now_is_tried_again() {
        for (kind, exit) in [
            (io::ErrorKind::NotFound, EXIT_CONFIG),
            (io::ErrorKind::PermissionDenied, EXIT_UNAVAILABLE),
            (io::ErrorKind::Other, EXIT_UNAVAILABLE),
        ] {
            let fault =
                StartFault::from(ConfigError::Read { path: "/etc/x.toml".into(), source: kind.into() });
            assert_eq!(fault.exit, exit, "{kind}");
        }
    }
}
