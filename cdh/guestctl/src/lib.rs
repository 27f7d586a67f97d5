//! The operator's tool for the guest components: fetches secrets, shows tokens and evidence, inspects files, and says
//! what is wrong with a machine.
//!
//! It holds no keys, attests nothing itself and releases nothing: what needs trust is done by the daemons, which it
//! asks over gRPC. `inspect` works alone, offline, with the verification library, as does `seal`, which signs with a key
//! that its operator has. Every sub-command has a file of its own and writes through [`Console`].
//!
//! Called by the name `secret` it is the tool of the existing stack by that name, which can attest by itself; see
//! `secret.rs`.

mod connect;
mod disk;
mod doctor;
mod evidence;
mod exit;
mod failure;
mod get;
mod images;
mod initdata;
mod inspect;
mod output;
mod podman_secret;
mod pull;
mod seal;
mod secret;
mod table;
mod token;
mod unseal;
mod verify_bundle;

use std::ffi::{OsStr, OsString};
use std::path::Path;

use cc_daemon::{memory, sandbox};
use clap::{CommandFactory, Parser, Subcommand, error::ErrorKind};
use tokio::runtime::{self, Runtime};

use crate::failure::Failure;
pub use crate::{
    exit::Exit,
    output::{Console, with_stdio},
};

/// Operate and diagnose the guest components of a confidential machine
#[derive(Debug, Parser)]
#[command(
    name = "guestctl",
    version,
    long_version = cc_build::LONG_VERSION,
    arg_required_else_help = true,
    after_help = format!("{}\n\nExample:\n  guestctl doctor", exit::HELP)
)]
struct Cli {
    /// Print JSON for programs instead of text for people
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fetch a resource through the confidential data hub
    Get(get::Args),
    /// Get an attestation token and show what it says
    Token(token::Args),
    /// Collect this machine's evidence and show what it says
    Evidence(evidence::Args),
    /// Explain a report, evidence, certificate, token or init-data file, and verify what can be verified
    Inspect(inspect::Args),
    /// Make, digest, inspect and unpack init-data documents
    Initdata(initdata::Args),
    /// Unpack an image into a new folder, every byte checked
    Pull(Box<pull::Args>),
    /// List and remove images in the data hub's store
    Images(images::Args),
    /// Make sealed secrets and the keys that sign them; verify their signatures
    Seal(seal::Args),
    /// Open a sealed secret through the confidential data hub
    Unseal(unseal::Args),
    /// Keep secrets of Podman as references, and fetch them when containers start
    PodmanSecret(podman_secret::Args),
    /// Verify a Sigstore bundle over a file or a digest
    VerifyBundle(verify_bundle::Args),
    /// Explain, check and sign the headers of LUKS2 volumes; prepare volumes for systemd to open
    Disk(disk::Args),
    /// Check the guest components of this machine
    Doctor(doctor::Args),
}

/// The definitions of both command lines, `guestctl` and `secret`: what man pages and completions are made of.
#[must_use]
pub fn command_lines() -> [clap::Command; 2] {
    [Cli::command(), secret::Cli::command()]
}

/// Runs the tool with `arguments`, the first of which is its own name, as the only work of this process: core dumps
/// are switched off first, because secrets will pass.
pub fn run_process(
    arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    console: &mut Console<'_>,
) -> Exit {
    match prepare_process() {
        Ok(runtime) => {
            let exit = runtime.block_on(run(arguments, console));
            // A disk that never answers must not keep the process.
            runtime.shutdown_background();
            exit
        }
        Err(failure) => report(&failure, console),
    }
}

fn prepare_process() -> Result<Runtime, Failure> {
    // Windows of decoders and buffers of layers go back as they are freed.
    memory::map_large_blocks();
    sandbox::forbid_core_dumps().map_err(|source| Failure::Start { step: "forbid core dumps", source })?;
    sandbox::raise_descriptor_limit()
        .map_err(|source| Failure::Start { step: "raise the limit of open files", source })?;
    runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Failure::Start { step: "start the runtime", source })
}

/// Runs the tool inside a tokio runtime with `arguments`, the first of which is its own name and decides which tool.
pub async fn run(
    arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    console: &mut Console<'_>,
) -> Exit {
    let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
    let called = arguments.first().and_then(|name| Path::new(name).file_name());
    let done = if called == Some(OsStr::new("secret")) {
        console.rename("secret");
        match secret::Cli::try_parse_from(arguments) {
            Ok(cli) => secret::run(&cli, console).await,
            Err(error) => return show_usage(&error, console),
        }
    } else {
        match Cli::try_parse_from(arguments) {
            Ok(cli) => dispatch(&cli, console).await,
            Err(error) => return show_usage(&error, console),
        }
    };
    match done {
        Ok(()) => Exit::Success,
        Err(failure) => report(&failure, console),
    }
}

fn report(failure: &Failure, console: &mut Console<'_>) -> Exit {
    if !failure.is_broken_pipe() {
        console.failure(failure);
    }
    failure.exit()
}

async fn dispatch(cli: &Cli, console: &mut Console<'_>) -> Result<(), Failure> {
    match &cli.command {
        Command::Get(args) => get::run(args, cli.json, console).await,
        Command::Token(args) => token::run(args, cli.json, console).await,
        Command::Evidence(args) => evidence::run(args, cli.json, console).await,
        Command::Inspect(args) => inspect::run(args, cli.json, console),
        Command::Initdata(args) => initdata::run(args, cli.json, console).await,
        Command::Pull(args) => pull::run(args, cli.json, console).await,
        Command::Images(args) => images::run(args, cli.json, console),
        Command::Seal(args) => seal::run(args, cli.json, console).await,
        Command::Unseal(args) => unseal::run(args, cli.json, console).await,
        Command::PodmanSecret(args) => podman_secret::run(args, cli.json, console).await,
        Command::VerifyBundle(args) => verify_bundle::run(args, cli.json, console),
        Command::Disk(args) => disk::run(args, cli.json, console).await,
        Command::Doctor(args) => doctor::run(args, cli.json, console).await,
    }
}

/// Help and version are answers; everything else that the parser says is a mistake of the caller.
fn show_usage(error: &clap::Error, console: &mut Console<'_>) -> Exit {
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => match console.text(&text) {
            Ok(()) => Exit::Success,
            Err(error) => error.exit(),
        },
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            console.complain(&text);
            Exit::Usage
        }
        _ => {
            let message = usage_message(console.name(), &text);
            console.complain(&message);
            Exit::Usage
        }
    }
}

/// The parser's complaint in the form of all other errors: its first paragraph is the message, the rest the hint.
fn usage_message(name: &str, text: &str) -> String {
    let (message, rest) = text.split_once("\n\n").unwrap_or((text, ""));
    let message: Vec<&str> = message.lines().map(str::trim).collect();
    let message = message.join(" ");
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    let rest: Vec<&str> = rest.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    format!("{name}: {} [USAGE]\nhint: {}\n", table::printable(message), table::printable(&rest.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run_captured(arguments: &[&str]) -> (Exit, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let exit = run(arguments.iter().copied(), &mut Console::new(&mut out, &mut err)).await;
        (exit, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[tokio::test]
    async fn help_documents_the_exit_statuses_and_every_command_ends_with_an_example() {
        let (exit, help, _) = run_captured(&["guestctl", "--help"]).await;
        assert_eq!(exit, Exit::Success);
        assert!(help.contains("3  denied"), "{help}");
        for command in Cli::command().get_subcommands() {
            let (exit, help, _) = run_captured(&["guestctl", command.get_name(), "--help"]).await;
            assert_eq!(exit, Exit::Success);
            let (_, examples) = help.split_once("Example:\n").unwrap();
            for line in examples.lines() {
                assert!(line.starts_with(&format!("  guestctl {}", command.get_name())), "{line}");
            }
        }
    }

    #[tokio::test]
    async fn mistakes_are_usage_errors_with_a_hint() {
        for arguments in [
            &["guestctl", "get"][..],
            &["guestctl", "gte", "x"],
            &["guestctl", "get", "a/b/c", "--cdh", "tcp://example.com"],
            &["guestctl", "token", "--type", "KBS"],
            &["guestctl", "token", "--raw", "--json"],
            &["guestctl", "evidence", "--raw", "--json"],
            &["guestctl", "evidence", "--report-data", "00", "--base64", "AA=="],
            &["guestctl", "inspect", "x", "--at", "yesterday"],
            &["guestctl", "doctor", "--rest", "example.com:80"],
            &["guestctl", "verify-bundle", "--bundle", "b", "file"],
            &["guestctl", "verify-bundle", "--bundle", "b", "--certificate-identity", "i", "file"],
            &[
                "guestctl",
                "verify-bundle",
                "--bundle",
                "b",
                "--key",
                "k",
                "--staging",
                "--trusted-root",
                "r",
                "file",
            ],
            &["guestctl", "pull", "oci:/x"],
            &["guestctl", "pull", "oci:", "--rootfs", "/x"],
            &["guestctl", "podman-secret", "delete"],
            &["guestctl", "podman-secret", "lookup", "--secret-id", "../etc/passwd"],
            &["guestctl", "initdata", "build"],
            &["guestctl", "initdata", "build", "--file", "../x=y"],
            &["guestctl", "initdata", "build", "--file", "a=b", "--algorithm", "md5"],
            &["guestctl", "initdata", "digest", "x", "--field", "host_data"],
            &["guestctl", "initdata", "digest", "x", "--base64"],
            &["guestctl", "initdata", "digest", "x", "--field", "snp", "--json"],
            &["guestctl", "seal", "vault", "--uri", "kbs:///a/b/c"],
            &["guestctl", "seal", "vault", "--uri", "kbs:///a/b/c", "--key", "x", "--settings", "[]"],
            &["guestctl", "unseal"],
            &["guestctl", "disk", "check"],
            &["guestctl", "disk", "check", "x", "--tag", "AAAA"],
            &["guestctl", "disk", "check", "x", "--detached", "--data-offset", "4096"],
            &["guestctl", "disk", "check", "x", "--max-keyslots", "0"],
            &["guestctl", "disk", "sign", "x"],
            &["guestctl", "disk", "prepare"],
            &["guestctl", "disk", "enable", "../x", "--uuid", "6a2d7e1c-93f4-4a55-8f70-1d3b2c5e9a10"],
            &["guestctl", "disk", "enable", "data", "--uuid", "1"],
        ] {
            let (exit, out, err) = run_captured(arguments).await;
            assert_eq!((exit, out.as_str()), (Exit::Usage, ""), "{arguments:?}");
            assert!(err.starts_with("guestctl: ") && err.contains(" [USAGE]\nhint: "), "{err}");
            assert!(!err.contains("error:"), "{err}");
        }
        let (exit, _, err) = run_captured(&["guestctl"]).await;
        assert_eq!(exit, Exit::Usage);
        assert!(err.contains("Commands:"), "{err}");
    }

    #[test]
    fn the_command_line_of_secret_is_consistent() {
        secret::Cli::command().debug_assert();
    }

    #[tokio::test]
    async fn the_name_it_is_called_by_decides_which_tool_it_is() {
        let (exit, help, _) = run_captured(&["/usr/local/bin/secret", "--help"]).await;
        assert_eq!(exit, Exit::Success);
        assert!(help.contains("Usage: secret ") && help.contains("  3  denied"), "{help}");
        let (exit, _, err) = run_captured(&["secret", "unseal"]).await;
        assert_eq!(exit, Exit::Usage);
        assert!(err.starts_with("secret: ") && err.contains(" [USAGE]\nhint: "), "{err}");
        let (exit, _, err) = run_captured(&["secret", "unseal", "--file-path", "/nonexistent"]).await;
        assert_eq!(exit, Exit::Failed);
        assert!(err.starts_with("secret: cannot read /nonexistent"), "{err}");
    }

    #[tokio::test]
    async fn what_is_sealed_verifies_and_unseals_with_its_key_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        for kid in ["a", "b"] {
            let made = ["secret", "keygen", "--kid", kid, "--output-dir", &path("")];
            assert_eq!(run_captured(&made).await.0, Exit::Success);
        }
        let (key, public) = (path("a-private.json"), path("a-public.json"));
        let vault = ["vault", "--resource-uri", "kbs:///default/db/pw", "--provider", "kbs"];
        let seal =
            ["secret", "seal", "--signing-kid", "kbs:///default/signing/a", "--signing-jwk-path", &key];
        let (exit, out, err) = run_captured(&[&seal[..], &vault].concat()).await;
        assert_eq!(exit, Exit::Success, "{err}");
        assert_eq!(out.lines().count(), 2, "a note, and the sealed text as the last line: {out}");
        std::fs::write(path("sealed"), out.lines().last().unwrap()).unwrap();

        let verify = ["guestctl", "seal", "verify", &path("sealed"), "--json", "--key"];
        let (exit, out, err) = run_captured(&[&verify[..], &[public.as_str()]].concat()).await;
        assert_eq!(exit, Exit::Success, "{err}");
        let shown: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!((&shown["verified"], &shown["name"]), (&true.into(), &"kbs:///default/db/pw".into()));
        let other = path("b-public.json");
        let (exit, out, err) = run_captured(&[&verify[..], &[other.as_str()]].concat()).await;
        assert_eq!((exit, out.as_str()), (Exit::Denied, ""));
        assert!(err.contains("[SEALED_SIGNATURE]"), "{err}");

        // The key's own name stands in for --kid.
        let output = path("again");
        let again =
            ["guestctl", "seal", "vault", "--uri", "default/db/pw", "--key", &key, "--output", &output];
        assert_eq!(run_captured(&again).await.0, Exit::Success);
        let sealed = std::fs::read(&output).unwrap();
        assert_eq!(cc_sealed::SealedSecret::parse(&sealed).unwrap().kid(), "a");
        assert_eq!(run_captured(&again).await.0, Exit::Failed, "an existing file is not replaced");

        // Without a key broker there is nothing to ask; with a file in the way nobody is asked.
        let unseal = ["secret", "unseal", "--file-path", &path("sealed")];
        let (exit, _, err) = run_captured(&unseal).await;
        assert_eq!(exit, Exit::Usage);
        assert!(err.contains("--aa-kbc-params"), "{err}");
        std::fs::write(path("sealed.unsealed"), "mine").unwrap();
        let (exit, _, err) = run_captured(&unseal).await;
        assert_eq!(exit, Exit::Failed);
        assert!(err.contains("[OUTPUT_FILE]"), "{err}");
        assert_eq!(std::fs::read(path("sealed.unsealed")).unwrap(), b"mine");
    }

    #[tokio::test]
    async fn json_is_accepted_before_and_after_the_command() {
        for arguments in [["guestctl", "--json", "inspect", "/"], ["guestctl", "inspect", "/", "--json"]] {
            let (exit, _, err) = run_captured(&arguments).await;
            assert_eq!(exit, Exit::Failed, "{err}");
            assert!(err.contains("[INPUT_UNREADABLE]"), "{err}");
        }
    }
}
