//! What is said at the end: for people at the console on two lines, for programs as one line of JSON.

use std::{fs, io::Write, path::Path, process::ExitCode, time::Duration};

use serde_json::{Value, json};

use crate::{
    cli::Cli,
    failure::{Failure, Stopped},
};

/// What was done.
#[derive(Debug)]
pub(crate) struct Report {
    /// In the order of the configuration.
    pub(crate) volumes: Vec<Opened>,
    /// How long it took until all disks were there and their headers judged.
    pub(crate) disks: Duration,
    /// How long attestation and keys took after that.
    pub(crate) keys: Duration,
    /// How long cryptsetup took.
    pub(crate) opening: Duration,
}

/// A volume that was opened, or would have been.
#[derive(Debug)]
pub(crate) struct Opened {
    /// Its name.
    pub(crate) name: String,
    /// Its UUID.
    pub(crate) uuid: String,
    /// The disk that it is on.
    pub(crate) device: String,
}

/// Tells what was done.
pub(crate) fn success(cli: &Cli, report: &Report) -> ExitCode {
    let text = if cli.json { format!("{}\n", as_json(cli, report)) } else { as_text(cli, report) };
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure(cli, &Stopped::from(Failure::Output(error))),
    }
}

fn as_json(cli: &Cli, report: &Report) -> Value {
    let volumes: Vec<Value> = report
        .volumes
        .iter()
        .map(|volume| json!({"name": volume.name, "uuid": volume.uuid, "device": volume.device, "open": !cli.dry_run}))
        .collect();
    let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    json!({
        "volumes": volumes,
        "milliseconds": {
            "disks": milliseconds(report.disks),
            "keys": milliseconds(report.keys),
            "opening": milliseconds(report.opening),
        },
    })
}

fn as_text(cli: &Cli, report: &Report) -> String {
    let verdict = if cli.dry_run { "would be opened" } else { "is open" };
    let mut text = String::new();
    for Opened { name, device, .. } in &report.volumes {
        text.push_str(&format!(
            "initrd-unlock: the volume {name} on {device} {verdict}; its header fits its tag\n"
        ));
    }
    let seconds = [report.disks, report.keys, report.opening].map(|time| time.as_secs_f64());
    let [disks, keys, opening] = seconds;
    text.push_str(&format!(
        "initrd-unlock: disks and headers {disks:.1} s, attestation and keys {keys:.1} s, cryptsetup {opening:.1} s\n"
    ));
    text
}

/// Tells why it ended: on standard error, which is the console in an initramfs.
#[allow(clippy::print_stderr, clippy::print_stdout, reason = "the place where errors are told")]
pub(crate) fn failure(cli: &Cli, stopped: &Stopped) -> ExitCode {
    let Stopped { volume, failure } = stopped;
    let (code, hint) = (failure.code(), failure.hint());
    if cli.json {
        let error = json!({"volume": volume, "code": code, "message": failure.to_string(), "hint": hint});
        println!("{}", json!({"error": error}));
    }
    let subject = match volume {
        Some(name) => format!("the volume {name} stays closed"),
        None => "no volume was opened".to_owned(),
    };
    eprintln!("initrd-unlock: {subject}: {failure} [{code}]\nhint: {hint}");
    if failure.is_silence() {
        eprintln!("initrd-unlock: the network interfaces: {}", interfaces(Path::new("/sys/class/net")));
    }
    ExitCode::from(failure.status())
}

/// The network interfaces below `folder`, a folder as `/sys/class/net` is, with their state.
fn interfaces(folder: &Path) -> String {
    let found = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut interfaces: Vec<String> = found
        .map(|entry| {
            let state = fs::read_to_string(entry.path().join("operstate")).unwrap_or_default();
            format!("{}: {}", entry.file_name().display(), state.trim())
        })
        .collect();
    interfaces.sort();
    if interfaces.is_empty() { "none".to_owned() } else { interfaces.join(", ").escape_debug().to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_interface_is_told_with_its_state() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(interfaces(folder.path()), "none");
        for (name, state) in [("lo", "unknown\n"), ("eth0", "down\n")] {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("operstate"), state).unwrap();
        }
        fs::create_dir(folder.path().join("odd")).unwrap();
        assert_eq!(interfaces(folder.path()), "eth0: down, lo: unknown, odd: ");
    }
}
