//! The command line: that of the existing `coco_keyprovider`, and additions that are optional.
//!
//! Files that it names are read here. Not here: acting on any of it.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use cc_crypto::Secret;
use cc_crypto::ed25519::SigningKey;
use cc_daemon::address::Address;
use cc_daemon::start::StartFault;
use cc_kbs::KbsConfig;
use cc_kbs::admin::Administrator;
use clap::Parser;

/// Longest key or certificate file read, in bytes.
const MAX_PEM_LEN: usize = 1024 * 1024;
/// What this program is called in an administrator's tokens.
const ISSUER: &str = "coco_keyprovider";

/// Wraps the keys of container images that skopeo encrypts.
#[derive(Debug, Parser)]
#[command(
    name = "coco_keyprovider",
    version,
    long_version = cc_build::LONG_VERSION,
    after_help = "\
Example:
  head -c 32 /dev/urandom > keys/team-a
  coco_keyprovider --socket 127.0.0.1:50000 --key-dir keys &
  echo '{\"key-providers\":{\"attestation-agent\":{\"grpc\":\"127.0.0.1:50000\"}}}' > ocicrypt.conf
  OCICRYPT_KEYPROVIDER_CONFIG=$PWD/ocicrypt.conf skopeo copy --encryption-key \\
    provider:attestation-agent:keypath=team-a::keyid=kbs:///default/image-kek/team-a oci:app oci:app-encrypted

Parameters of --encryption-key, parted by '::':
  keyid=KID         name of the key in the key broker, kbs:///repository/type/tag [default: a random one]
  overwrite=true    makes a new key under keyid, in place of one that may be there
  keypath=FILE      key of 32 bytes, below --key-dir [default: a random key, which is registered]
  algorithm=NAME    A256GCM (default) or A256CTR
  sample=true       the key that everybody knows; only if --allow-sample was given

Exit codes: 0 stopped by a signal, 1 failed while serving, 64 wrong usage"
)]
pub struct Cli {
    /// Where to listen: an address of this machine with a port, or unix:///PATH
    #[arg(long, value_name = "ADDR")]
    socket: Address,
    /// Ed25519 private key (PKCS#8 PEM) of an administrator of the key broker, who registers each key
    #[arg(long, value_name = "FILE", requires = "kbs")]
    auth_private_key: Option<PathBuf>,
    /// URL of the key broker, https://host[:port]; plain http on this machine alone
    #[arg(long, value_name = "URL", requires = "auth_private_key")]
    kbs: Option<String>,
    /// PEM file: the key broker's own certificate or that of its CA, believed alone. Without it the public
    /// authorities are believed
    #[arg(long, value_name = "PEM", requires = "kbs")]
    cert_file: Option<PathBuf>,
    /// Speak plain http to another machine too: keys travel unprotected
    #[arg(long, requires = "kbs")]
    allow_plain_http: bool,
    /// Folder below which keypath= names files; nothing else is read [default: the folder it is started in, unless
    /// that is /]
    #[arg(long, value_name = "DIR")]
    key_dir: Option<PathBuf>,
    /// Folder of the key broker, repository/type, in which keys may be registered; may be repeated. Callers have no
    /// identity, and an administrator may overwrite every resource
    #[arg(long, value_name = "FOLDER", default_value = "default/image-kek")]
    register_below: Vec<String>,
    /// Accept sample=true: such images are encrypted with a key that everybody knows (for development)
    #[arg(long)]
    allow_sample: bool,
    /// Not supported: this program stays in the foreground
    #[arg(short, long)]
    daemon: bool,
}

/// The parsed configuration.
#[derive(Debug)]
pub struct Config {
    /// Where to serve.
    pub address: Address,
    /// Who registers keys, if they are to be registered.
    pub administrator: Option<Administrator>,
    /// The canonical folder of key files; none may be named without it.
    pub key_dir: Option<PathBuf>,
    /// Folders of the key broker, `repository/type`, in which keys are registered.
    pub register_below: Vec<String>,
    /// Whether the sample key may be used.
    pub allow_sample: bool,
}

impl Cli {
    /// Reads what the arguments name.
    ///
    /// # Errors
    /// `--daemon`, a file or folder that cannot be read, a key that is none, a URL that cannot be used.
    pub fn into_config(self) -> Result<Config, StartFault> {
        if self.daemon {
            return Err(StartFault::config(
                "--daemon is not supported: a program that detaches itself has no supervisor and no log",
                "run it under a service manager, for instance: systemd-run --unit coco_keyprovider coco_keyprovider --socket …",
            ));
        }
        let administrator = match (&self.auth_private_key, &self.kbs) {
            (Some(key), Some(url)) => Some(self.administrator(key, url)?),
            _ => None,
        };
        Ok(Config {
            administrator,
            key_dir: key_dir(self.key_dir.as_deref())?,
            allow_sample: self.allow_sample,
            register_below: self.register_below,
            address: self.socket,
        })
    }

    fn administrator(&self, key: &Path, url: &str) -> Result<Administrator, StartFault> {
        let pem = read_text(key)?;
        let signing_key = std::str::from_utf8(pem.expose())
            .map_err(|_| "it is no text".to_owned())
            .and_then(|pem| SigningKey::from_pem(pem).map_err(|e| e.to_string()))
            .map_err(|why| {
                StartFault::config(
                    format!("reading the private key {}: {why}", key.display()),
                    "give the key as `openssl genpkey -algorithm ed25519` writes it",
                )
            })?;
        let certificate = self.cert_file.as_deref().map(read_text).transpose()?;
        let root_certificate = certificate.map(|pem| String::from_utf8_lossy(pem.expose()).into_owned());
        let config =
            KbsConfig { root_certificate, allow_plain_http: self.allow_plain_http, ..KbsConfig::new(url) };
        Administrator::new(&config, signing_key, ISSUER)
            .map_err(|e| StartFault::new(cc_daemon::start::EXIT_CONFIG, e.code(), &e, e.hint()))
    }
}

/// The canonical form of the folder of keys. By default the one that this program was started in, which is what
/// `keypath=$(pwd)/key` needs; a service manager starts programs in `/`, and that would be every file.
fn key_dir(given: Option<&Path>) -> Result<Option<PathBuf>, StartFault> {
    let folder = given.unwrap_or_else(|| Path::new("."));
    let canonical = folder.canonicalize().and_then(|path| match path.is_dir() {
        true => Ok(path),
        false => Err(std::io::ErrorKind::NotADirectory.into()),
    });
    let canonical = canonical.map_err(|e| {
        StartFault::config(
            format!("opening the key folder {}: {e}", folder.display()),
            "name an existing folder",
        )
    })?;
    Ok((given.is_some() || canonical != Path::new("/")).then_some(canonical))
}

fn read_text(path: &Path) -> Result<Secret, StartFault> {
    let failed = |why: String| {
        StartFault::config(format!("reading {}: {why}", path.display()), "check the path and who may read it")
    };
    let mut bytes = Vec::with_capacity(64 * 1024);
    let file = File::open(path).map_err(|e| failed(e.to_string()))?;
    file.take(MAX_PEM_LEN as u64 + 1).read_to_end(&mut bytes).map_err(|e| failed(e.to_string()))?;
    let text = Secret::new(bytes);
    if text.len() > MAX_PEM_LEN {
        return Err(failed(format!("longer than {MAX_PEM_LEN} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn config(more: &[&str]) -> Result<Config, StartFault> {
        let fixed = ["coco_keyprovider", "--socket", "127.0.0.1:50000"];
        Cli::try_parse_from(fixed.iter().chain(more)).unwrap().into_config()
    }

    #[test]
    fn the_command_line_is_consistent_and_help_has_an_example() {
        Cli::command().debug_assert();
        assert!(Cli::command().render_long_help().to_string().contains("Example:"));
    }

    #[test]
    fn half_a_registration_and_foreign_addresses_are_refused() {
        for arguments in [
            &["--kbs", "https://kbs"][..],
            &["--auth-private-key", "key"],
            &["--cert-file", "x"],
            &["--socket", "0.0.0.0:1"],
        ] {
            let all = ["coco_keyprovider", "--socket", "127.0.0.1:1"].iter().chain(arguments);
            assert!(Cli::try_parse_from(all).is_err(), "{arguments:?}");
        }
        assert!(Cli::try_parse_from(["coco_keyprovider"]).is_err(), "there is no default address");
    }

    #[test]
    fn detaching_is_refused_with_a_reason() {
        for flag in ["-d", "--daemon"] {
            assert!(config(&[flag]).unwrap_err().message.contains("--daemon"));
        }
    }

    #[test]
    fn keys_and_folders_that_are_none_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key.pem");
        std::fs::write(&key, "no key").unwrap();
        let key = key.to_str().unwrap();
        for arguments in [
            ["--auth-private-key", key, "--kbs", "https://kbs"],
            ["--auth-private-key", "/nonexistent", "--kbs", "https://kbs"],
        ] {
            assert_eq!(config(&arguments).unwrap_err().exit, 64, "{arguments:?}");
        }
        assert!(config(&["--key-dir", key]).is_err());
        assert!(config(&["--key-dir", "/nonexistent"]).is_err());
        let here = config(&[]).unwrap().key_dir;
        assert_eq!(here, Some(std::env::current_dir().unwrap().canonicalize().unwrap()));
    }
}
