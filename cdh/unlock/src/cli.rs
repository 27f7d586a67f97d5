//! The command line. Nothing is read from the environment: in an initramfs it comes from the kernel's command line, which the host
//! writes.

use std::path::PathBuf;

use clap::Parser;

/// Opens encrypted volumes in the initramfs with keys from the key broker
#[derive(Debug, Parser)]
#[command(
    name = "initrd-unlock",
    version,
    long_version = cc_build::LONG_VERSION,
    after_help = "\
Waits for the disks of the configured volumes and for the key broker, checks the header of each volume (`guestctl disk check` has
the rules), attests this machine, compares the header's tag with the key, and has cryptsetup open the volume with a copy of the header in
memory. All volumes are opened, or none. A disk with the UUID of a volume that is not it is told and passed over, until the time is up.

Example, a configuration:
  root = \"/dev/mapper/root\"             # what the kernel's command line has to give as root=
  timeout = 120                         # seconds, for all of it

  [kbs]
  url = \"https://192.0.2.7:8080\"
  certificate = '''
  -----BEGIN CERTIFICATE-----
  …
  -----END CERTIFICATE-----
  '''

  [[volumes]]
  name = \"root\"                         # of the mapping: /dev/mapper/root
  uuid = \"6a2d7e1c-93f4-4a55-8f70-1d3b2c5e9a10\"
  key = \"kbs:///disk-encryption/vm-1/luks-key-0\"

Examples:
  initrd-unlock
  initrd-unlock --dry-run --json
  initrd-unlock --config unlock.toml data

Exit status:
  0  success: the volumes are open
  1  a file could not be read, or the output not be written
  2  wrong usage or configuration
  3  denied: the key broker refused, a header broke a rule or does not fit its tag, or the kernel's command line says what it
     must not say
  4  absent: the key broker has no such key
  5  unavailable: the disk did not appear, or the key broker did not answer in time
  6  misbehaving key broker: not trusted, or an answer that breaks the protocol
  7  platform: no TEE, or hardware, kernel or cryptsetup of this machine"
)]
pub struct Cli {
    /// Volumes to open, by name [default: all that are configured]
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/confidential-containers/unlock.toml")]
    pub(crate) config: PathBuf,
    /// Do everything but open: find the disks, check headers, attest, get the keys, compare the tags. What this machine's own boot
    /// would be refused for, its command line say, or a volume that is open, is a warning
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Tell the result, or the failure, as one line of JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
    /// Tell every step on standard error; without it, warnings alone
    #[arg(short, long)]
    verbose: bool,
}

impl Cli {
    /// The filter of the log.
    pub(crate) fn log_level(&self) -> &'static str {
        if self.verbose { "debug" } else { "warn" }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_the_example_of_its_help_can_be_read() {
        Cli::command().debug_assert();
        let help = Cli::command().render_long_help().to_string();
        for word in ["Examples:", "Exit status:", "  3  denied", "--dry-run"] {
            assert!(help.contains(word), "{word} in {help}");
        }
        let (_, example) = help.split_once("Example, a configuration:\n").unwrap();
        let (example, _) = example.split_once("\nExamples:").unwrap();
        let text = example.lines().map(str::trim_start).collect::<Vec<_>>().join("\n");
        let begin = text.find("-----BEGIN").unwrap();
        let end = text.rfind("-----END CERTIFICATE-----").unwrap() + "-----END CERTIFICATE-----".len();
        let text = text.replace(&text[begin..end], &crate::config::tests::certificate());
        crate::config::Config::parse(&text).unwrap();
    }
}
