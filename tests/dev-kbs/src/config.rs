//! The command line, and what it means.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use cc_evidence::HashAlgorithm;
use cc_verify::TrustRoots;
use cc_verify::cca::PlatformKeys;
use clap::{Args, Parser, Subcommand};

use crate::Error;
use crate::collateral::CollateralStore;
use crate::server::Rules;

/// Largest file of certificates or keys that is read, in bytes.
const ROOTS_LIMIT: u64 = 1 << 20;

/// The program's arguments.
#[derive(Debug, Parser)]
#[command(
    name = "dev-kbs",
    version,
    about = "A development key broker: verifies for real, for tests and demos only"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the key broker protocol until SIGTERM or SIGINT.
    ///
    /// Prints one line of JSON on standard output when it listens: {"listening":URL,"certificate":FILE or null}.
    #[command(
        after_help = "Example:\n  dev-kbs serve --state /tmp/kbs --listen 127.0.0.1:8080 --test-roots roots.pem"
    )]
    Serve(Box<Serve>),
    /// Print a token for the admin endpoints.
    #[command(
        after_help = "Example:\n  curl --cacert /tmp/kbs/tls.crt -H \"Authorization: Bearer $(dev-kbs admin-token --state /tmp/kbs)\" \\\n    --data-binary @key.bin https://127.0.0.1:8080/kbs/v0/resource/default/key/1"
    )]
    AdminToken(AdminToken),
}

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// Directory for the database, the keys and the certificate; made when it is missing.
    #[arg(long, value_name = "DIR")]
    pub state: PathBuf,
    /// Address to listen on; port 0 takes any free port.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Serve plain HTTP in place of TLS.
    #[arg(long)]
    pub insecure_http: bool,
    /// A further name or address for the certificate, when that is made at the first start (repeatable).
    #[arg(long = "tls-name", value_name = "NAME")]
    pub tls_names: Vec<String>,
    /// Also trust the roots in this PEM file, such as the TEE emulator's. Only on a loopback address.
    #[arg(long, value_name = "FILE")]
    pub test_roots: Option<PathBuf>,
    /// Collateral for TDX: tcbInfo.json, qeIdentity.json, tcb-signing-chain.pem and revocation lists (*.crl) as Intel's
    /// service gives them, or directories with such sets. Without it no TDX machine counts as up to date.
    #[arg(long, value_name = "DIR")]
    pub collateral: Option<PathBuf>,
    /// The Arm CCA platforms that are trusted: their public attestation keys (CPAK) as PEM, JWK, or a list of {pkey,
    /// implementation-id, instance-id}. Without it CCA evidence is refused: there is no manufacturer's root.
    #[arg(long, value_name = "FILE")]
    pub cca_keys: Option<PathBuf>,
    /// Accept the sample TEE, whose evidence anyone can write.
    #[arg(long)]
    pub allow_sample: bool,
    /// Life of an attestation token, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub token_lifetime: u64,
    /// Life of a session, from auth on, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub session_lifetime: u64,
    /// Select this hash for the binding digests (sha256, sha384, sha512, sm3) and say so in the challenge; when left
    /// out the challenge selects none, which means sha384.
    #[arg(long, value_name = "NAME", value_parser = HashAlgorithm::from_str)]
    pub hash_algorithm: Option<HashAlgorithm>,
    /// Answer as Trustee does: 401 for nearly every refusal, also for a denial or a missing resource.
    #[arg(long)]
    pub strict_upstream_status: bool,
}

/// Arguments of `admin-token`.
#[derive(Debug, Args)]
pub struct AdminToken {
    /// State directory of the server.
    #[arg(long, value_name = "DIR")]
    pub state: PathBuf,
    /// Life of the token, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    pub lifetime: u64,
}

impl Serve {
    /// What the server goes by, after the options were checked against each other.
    ///
    /// # Errors
    /// [`Error::Options`] when test roots meet an address that others can reach or cannot be read as certificates,
    /// [`Error::State`] when their file cannot be read; [`Error::Options`] when the collateral cannot be used.
    pub fn rules(&self) -> Result<Rules, Error> {
        let mut roots = TrustRoots::vendor();
        if let Some(path) = &self.test_roots {
            if !self.listen.ip().is_loopback() {
                return Err(Error::Options(format!(
                    "--test-roots trusts keys that anyone can make, so it needs a loopback address, not {}",
                    self.listen.ip()
                )));
            }
            let pem = read(path, "read the test roots")?;
            roots = roots
                .with_test_roots(&pem)
                .map_err(|error| Error::Options(format!("--test-roots {}: {error}", path.display())))?;
        }
        Ok(Rules {
            roots,
            collateral: self
                .collateral
                .as_deref()
                .map(CollateralStore::read)
                .transpose()?
                .unwrap_or_default(),
            cca_keys: self.cca_keys()?,
            allow_sample: self.allow_sample,
            hash_algorithm: self.hash_algorithm,
            token_lifetime: Duration::from_secs(self.token_lifetime),
            session_lifetime: Duration::from_secs(self.session_lifetime),
            strict_upstream_status: self.strict_upstream_status,
            tls: !self.insecure_http,
        })
    }

    /// The platforms that `--cca-keys` names, none without it.
    fn cca_keys(&self) -> Result<PlatformKeys, Error> {
        let Some(path) = &self.cca_keys else { return Ok(PlatformKeys::default()) };
        PlatformKeys::parse(&read(path, "read the keys of CCA platforms")?)
            .map_err(|error| Error::Options(format!("--cca-keys {}: {error}", path.display())))
    }
}

/// Reads a file of certificates or keys.
fn read(path: &Path, doing: &'static str) -> Result<String, Error> {
    let bounded = || {
        if fs::metadata(path)?.len() > ROOTS_LIMIT {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        fs::read_to_string(path)
    };
    bounded().map_err(|source| Error::State { doing, path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn serve(more: &[&str]) -> Serve {
        let all = ["dev-kbs", "serve", "--state", "/nowhere"].iter().chain(more);
        match Cli::try_parse_from(all).unwrap().command {
            Command::Serve(serve) => *serve,
            Command::AdminToken(_) => panic!("another command"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults_are_the_safe_ones() {
        let rules = serve(&[]).rules().unwrap();
        assert!(rules.tls && !rules.allow_sample && !rules.strict_upstream_status);
        assert_eq!((rules.token_lifetime.as_secs(), rules.session_lifetime.as_secs()), (300, 300));
        assert_eq!(rules.hash_algorithm, None);
    }

    #[test]
    fn test_roots_stay_on_the_loopback() {
        for address in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1"] {
            let refused = serve(&["--test-roots", "/nowhere", "--listen", address]).rules().unwrap_err();
            assert!(matches!(refused, Error::Options(_)), "{refused}");
        }
        for address in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1"] {
            let refused = serve(&["--test-roots", "/nowhere", "--listen", address]).rules().unwrap_err();
            assert!(matches!(refused, Error::State { .. }), "{refused}");
        }
    }
}
