//! The command line: that of the existing `trustee-attester`, and additions that are optional.
//!
//! Nothing is read from the environment: in an initramfs it comes from the kernel command line, which the host
//! writes. Sample evidence therefore has a flag of its own and no variable.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{MachineOptions, TpmOptions, failure::Failure};
use cc_evidence::initdata::{self, InitData};
use cc_kbs::{KbsConfig, ResourceUri};
use cc_platform::tpm::read_handle;
use clap::{Parser, Subcommand};

/// Longest certificate file that is read, in bytes.
const MAX_CERTIFICATE_LEN: usize = 1024 * 1024;

/// Attests this machine to a key broker (KBS) and prints one resource as base64.
#[derive(Debug, Parser)]
#[command(
    name = "trustee-attester",
    version,
    long_version = cc_build::LONG_VERSION,
    after_help = "\
Examples:
  trustee-attester --url https://kbs.example:8080 --cert-file kbs.pem get-resource --path default/key/1 | base64 -d
  trustee-attester --url https://kbs.example:8080 get-resource --path default/key/1 --initdata \"$(cat initdata.toml)\"

Exit status:
  0  success: the resource is on standard output, nothing else
  1  a file could not be read, or the output not be written
  2  wrong usage
  3  denied: the key broker refused, the code says why
  4  absent: no such resource
  5  unavailable: the key broker does not answer
  6  misbehaving key broker: not trusted, or an answer that breaks the protocol
  7  platform: no TEE, or hardware, kernel or init-data of this machine"
)]
pub struct Cli {
    /// URL of the key broker, https://host[:port]; plain http on this machine alone
    #[arg(long, value_name = "URL")]
    url: String,
    /// PEM file: the key broker's own certificate or that of its CA, believed alone. Without it the public
    /// authorities are believed
    #[arg(long, value_name = "PEM")]
    cert_file: Option<PathBuf>,
    /// Speak plain http to another machine too: evidence and token travel unprotected
    #[arg(long)]
    allow_plain_http: bool,
    /// Where no TEE is found, send sample evidence, which proves nothing (for development)
    #[arg(long)]
    sample: bool,
    /// Where no TEE is found: the TPM to use, a character device or the Unix socket of a software TPM
    #[arg(long, value_name = "PATH", value_parser = absolute_path)]
    tpm_device: Option<PathBuf>,
    /// Persistent handle of the attestation key in that TPM, hexadecimal
    #[arg(long, value_name = "HANDLE", default_value = "0x81010002", value_parser = read_handle)]
    tpm_ak_handle: u32,
    /// How long all of it may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u16).range(1..=600))]
    timeout: u16,
    /// Look TEE interfaces up below this folder instead of / (for tests)
    #[arg(long, value_name = "DIR", default_value = "/")]
    sys_root: PathBuf,
    /// Tell every step on standard error; without it, warnings alone
    #[arg(short, long)]
    verbose: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Attest, fetch a resource and print it as one line of base64
    #[command(arg_required_else_help = true)]
    GetResource {
        /// repository/type/tag, or a full kbs:// URI
        #[arg(long, value_name = "PATH")]
        path: String,
        /// Text of the init-data document that the machine was started with
        #[arg(long, value_name = "TOML")]
        initdata: Option<String>,
        /// The same from a file, so that it does not show in the list of processes
        #[arg(long, value_name = "FILE", conflicts_with = "initdata")]
        initdata_file: Option<PathBuf>,
    },
}

impl Cli {
    /// The resource that is asked for.
    ///
    /// # Errors
    /// The path is none.
    pub fn resource(&self) -> Result<ResourceUri, Failure> {
        let Command::GetResource { path, .. } = &self.command;
        let uri = match path.contains("://") {
            true => path.clone(),
            false => format!("kbs:///{}", path.strip_prefix('/').unwrap_or(path)),
        };
        Ok(uri.parse::<ResourceUri>()?)
    }

    /// How to reach the key broker. The certificate file is read here.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn key_broker(&self) -> Result<KbsConfig, Failure> {
        let root_certificate =
            self.cert_file.as_deref().map(|path| read_text(path, MAX_CERTIFICATE_LEN)).transpose()?;
        Ok(KbsConfig {
            root_certificate,
            allow_plain_http: self.allow_plain_http,
            ..KbsConfig::new(self.url.as_str())
        })
    }

    /// What to look for, and where. The init-data document is read here.
    ///
    /// # Errors
    /// The file cannot be read, or is no init-data document.
    pub fn machine(&self) -> Result<MachineOptions, Failure> {
        let Command::GetResource { initdata, initdata_file, .. } = &self.command;
        let text = match initdata_file {
            Some(path) => Some(read_text(path, initdata::MAX_LEN)?),
            None => initdata.clone(),
        };
        let init_data = text.map(|text| InitData::parse(&text)).transpose().map_err(Failure::InitData)?;
        Ok(MachineOptions {
            sys_root: self.sys_root.clone(),
            sample: self.sample,
            init_data,
            tpm: TpmOptions { device: self.tpm_device.clone(), ak_handle: self.tpm_ak_handle },
            // So that a device that hangs is named, and not just the end of the time.
            quote_time_limit: self.time_limit() / 2,
        })
    }

    /// The filter of the log.
    pub fn log_level(&self) -> &'static str {
        if self.verbose { "debug" } else { "warn" }
    }

    /// From the start to the resource.
    pub fn time_limit(&self) -> Duration {
        Duration::from_secs(self.timeout.into())
    }
}

/// A path that means the same device in whatever folder the tool is started.
fn absolute_path(text: &str) -> Result<PathBuf, &'static str> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err("give an absolute path, for example /dev/tpmrm0") }
}

/// A file of at most `limit` bytes of UTF-8.
fn read_text(path: &Path, limit: usize) -> Result<String, Failure> {
    let unreadable = |why: String| Failure::Unreadable { path: path.to_owned(), why };
    let file = File::open(path).map_err(|e| unreadable(e.to_string()))?;
    let mut text = String::new();
    file.take(limit as u64 + 1).read_to_string(&mut text).map_err(|e| unreadable(e.to_string()))?;
    if text.len() > limit {
        return Err(unreadable(format!("it is longer than {limit} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn cli(more: &[&str]) -> Cli {
        let fixed = ["trustee-attester", "--url", "https://kbs:8080"];
        Cli::try_parse_from(fixed.iter().chain(more)).unwrap()
    }

    #[test]
    fn the_command_line_is_consistent_and_help_tells_the_exit_statuses() {
        Cli::command().debug_assert();
        let help = Cli::command().render_long_help().to_string();
        for word in ["Examples:", "Exit status:", "  3  denied", "--cert-file", "get-resource"] {
            assert!(help.contains(word), "{word} in {help}");
        }
    }

    #[test]
    fn short_slashed_and_full_paths_name_the_same_resource() {
        for path in ["default/key/1", "/default/key/1", "kbs:///default/key/1"] {
            let cli = cli(&["get-resource", "--path", path]);
            assert_eq!(cli.resource().unwrap().http_path(), "/kbs/v0/resource/default/key/1", "{path}");
        }
        let plugin = cli(&["get-resource", "--path", "kbs+pkcs11:///a/b?x=1"]);
        assert_eq!(plugin.resource().unwrap().http_path(), "/kbs/v0/pkcs11/a/b?x=1");
    }

    #[test]
    fn paths_that_two_readers_could_read_differently_are_refused() {
        for path in ["", "/", "a//b", "a/%2e%2e/b", "a%2Fb", "a\\b", "a b", "a/b\n", "http://a/b", "//a/b/c"]
        {
            let failure = cli(&["get-resource", "--path", path]).resource().unwrap_err();
            assert_eq!((failure.code(), failure.status()), ("RESOURCE_URI_INVALID", 2), "{path:?}");
        }
    }

    #[test]
    fn files_are_bounded_and_named_in_errors() {
        let folder = tempfile::tempdir().unwrap();
        let large = folder.path().join("large.pem");
        std::fs::write(&large, vec![b'#'; MAX_CERTIFICATE_LEN + 1]).unwrap();
        for path in [folder.path().join("absent"), folder.path().to_owned(), large, "/dev/zero".into()] {
            let path = path.to_str().unwrap();
            let failure =
                cli(&["--cert-file", path, "get-resource", "--path", "a/b/c"]).key_broker().unwrap_err();
            assert_eq!((failure.code(), failure.status()), ("INPUT_UNREADABLE", 1), "{path}");
            assert!(failure.to_string().contains(path), "{failure}");
        }
    }

    #[test]
    fn the_tpm_and_its_key_are_named_by_flags() {
        let tpm = |more: &[&str]| {
            cli(&[more, &["get-resource", "--path", "a/b/c"]].concat()).machine().unwrap().tpm
        };
        assert_eq!(tpm(&[]), TpmOptions::default(), "the handle that docs and agent have");
        assert_eq!(
            tpm(&["--tpm-device", "/dev/tpmrm1", "--tpm-ak-handle", "81000003"]),
            TpmOptions { device: Some("/dev/tpmrm1".into()), ak_handle: 0x8100_0003 }
        );
        for wrong in [["--tpm-device", "tpm0"], ["--tpm-ak-handle", "0x80000001"], ["--tpm-ak-handle", "x"]] {
            let fixed = ["trustee-attester", "--url", "u"];
            let line = fixed.iter().chain(&wrong).chain(&["get-resource", "--path", "a/b/c"]);
            assert!(Cli::try_parse_from(line).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn init_data_is_given_once() {
        let twice = [
            "trustee-attester",
            "--url",
            "u",
            "get-resource",
            "--path",
            "a",
            "--initdata",
            "x",
            "--initdata-file",
            "y",
        ];
        assert!(Cli::try_parse_from(twice).is_err());
    }
}
