//! The command line, parsed into typed values.
//!
//! There is no configuration file: the pod runtime starts this server with `--features` alone, and the
//! defaults of the other options are the compatible behaviour. The log level is `RUST_LOG`'s.

use std::ffi::OsString;
use std::net::SocketAddr;

use cc_daemon::address::Address;
use cc_daemon::sandbox::Seccomp;
use clap::Parser;

use crate::door::{Door, PathPrefix, Policy};
use crate::host::{AllowedHosts, HostError};
use crate::routes::Features;
use crate::server::Server;
use crate::upstream::{CALL_TIME, Upstream};

const EXAMPLES: &str = "\
Examples:
  api-server-rest --features resource --allow-path default/key
  curl --fail http://127.0.0.1:8006/cdh/resource/default/key/1

Exit codes: 0 stopped by a signal; 1 wrong options, an address that cannot be bound, or with --health: no server answers there";

/// The command line of `api-server-rest`.
#[derive(Debug, Clone, Parser)]
#[command(name = "api-server-rest", version, long_version = cc_build::LONG_VERSION, about = "The localhost door: secrets and evidence over HTTP", after_help = EXAMPLES)]
pub struct Config {
    /// Address and port to listen on; peers that are not on this machine are refused in any case
    #[arg(short, long, value_name = "IP:PORT", default_value = "127.0.0.1:8006")]
    pub bind: SocketAddr,

    /// What to serve: resource (/cdh), attestation (/aa) or all
    #[arg(short, long, value_name = "FEATURES", default_value = "resource")]
    pub features: Features,

    /// Socket of the confidential data hub
    #[arg(
        short,
        long = "cdh_addr",
        value_name = "ADDRESS",
        default_value = "unix:///run/confidential-containers/cdh.sock"
    )]
    pub cdh_addr: Address,

    /// Socket of the attestation agent
    #[arg(
        short,
        long = "aa_addr",
        value_name = "ADDRESS",
        default_value = "unix:///run/confidential-containers/attestation-agent/attestation-agent.sock"
    )]
    pub aa_addr: Address,

    /// Refuse /aa, whatever the features say: evidence over data of a workload's choice is worth its secrets
    #[arg(long)]
    pub strict: bool,

    /// Answer to this Host name too, beside the loopback addresses and localhost (repeatable)
    #[arg(long = "allow-host", value_name = "NAME")]
    pub allow_hosts: Vec<String>,

    /// Serve only resources whose path begins with these segments (repeatable; default: all)
    #[arg(long = "allow-path", value_name = "PREFIX", value_parser = PathPrefix::parse)]
    pub allow_paths: Vec<PathPrefix>,

    /// DANGEROUS: leave the private key in the answer of /aa/token; every process that can reach this
    /// server can then open what the key broker sends to this machine
    #[arg(long)]
    pub expose_token_key: bool,

    /// Worker threads
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub threads: u16,

    /// Check the options and exit
    #[arg(long)]
    pub check_config: bool,

    /// Ask the server that runs at this address whether it answers, and exit
    #[arg(long, conflicts_with = "check_config")]
    pub health: bool,

    /// Whether to refuse itself the system calls that it does not need: on or off. Off is for debugging
    #[arg(long, value_name = "WHAT", default_value = "on")]
    pub seccomp: Seccomp,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The command line is not understood, or asks for help or the version.
    #[error(transparent)]
    CommandLine(#[from] clap::Error),
    /// A name that cannot stand in a `Host` header.
    #[error("--allow-host takes bare host names or addresses, without scheme and port: {0}")]
    AllowHost(HostError),
    /// Strict mode with an address that other machines may reach.
    #[error("--strict listens on loopback addresses only, not on {0}")]
    StrictBind(SocketAddr),
}

impl ConfigError {
    /// The stable code of the error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::CommandLine(_) => "COMMAND_LINE",
            Self::AllowHost(_) => "CONFIG_ALLOW_HOST",
            Self::StrictBind(_) => "CONFIG_STRICT_BIND",
        }
    }

    /// What the operator can do next.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::CommandLine(_) => "api-server-rest --help lists the options",
            Self::AllowHost(_) => "write --allow-host gate.internal",
            Self::StrictBind(_) => "bind 127.0.0.1 or [::1]; a pod shares its network name space",
        }
        .to_owned()
    }
}

impl Config {
    /// Parses a command line whose first element is the program's name, and checks what concerns more than one
    /// option.
    ///
    /// # Errors
    ///
    /// See [`ConfigError`]; asking for help or the version is [`ConfigError::CommandLine`] too.
    pub fn parse_from_arguments<I, A>(arguments: I) -> Result<Self, ConfigError>
    where
        I: IntoIterator<Item = A>,
        A: Into<OsString> + Clone,
    {
        let config = Self::try_parse_from(arguments)?;
        config.hosts()?;
        if config.strict && !config.bind.ip().is_loopback() {
            return Err(ConfigError::StrictBind(config.bind));
        }
        Ok(config)
    }

    /// Prepares the server; nothing is bound or connected yet.
    ///
    /// # Errors
    ///
    /// See [`ConfigError`].
    pub fn build(self) -> Result<Server, ConfigError> {
        let hosts = self.hosts()?;
        if !self.bind.ip().is_loopback() {
            tracing::warn!(bind = %self.bind, "listening on an address that other machines may reach; they are answered 403");
        }
        if self.expose_token_key {
            tracing::warn!(
                "/aa/token hands out private keys (--expose-token-key): anybody who reaches this \
                            server can open what the key broker sends to this machine"
            );
        }
        let policy = Policy {
            features: self.features,
            strict: self.strict,
            paths: self.allow_paths,
            expose_token_key: self.expose_token_key,
        };
        let upstream = Upstream::new(self.aa_addr, self.cdh_addr, CALL_TIME);
        upstream.line().serving(format!("serving {} on {}", self.features, self.bind));
        Ok(Server::new(Door::new(policy, hosts, upstream), self.bind))
    }

    fn hosts(&self) -> Result<AllowedHosts, ConfigError> {
        AllowedHosts::new(self.bind.ip(), &self.allow_hosts).map_err(ConfigError::AllowHost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Config, ConfigError> {
        Config::parse_from_arguments(std::iter::once("api-server-rest").chain(arguments.iter().copied()))
    }

    #[test]
    fn defaults_are_those_of_the_interface() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.bind.to_string(), "127.0.0.1:8006");
        assert_eq!(config.features, Features::Resource);
        assert_eq!(config.cdh_addr.to_string(), "unix:///run/confidential-containers/cdh.sock");
        assert_eq!(
            config.aa_addr.to_string(),
            "unix:///run/confidential-containers/attestation-agent/attestation-agent.sock"
        );
        assert!(!config.strict && !config.expose_token_key && !config.check_config);
        assert!(config.allow_hosts.is_empty() && config.allow_paths.is_empty());
        assert_eq!(config.threads, 1);
    }

    #[test]
    fn options_have_their_names() {
        let config = parse(&[
            "-b",
            "[::1]:9",
            "-f",
            "all",
            "-c",
            "unix:///c.sock",
            "-a",
            "unix:///a.sock",
            "--strict",
            "--allow-host",
            "gate.internal",
            "--allow-host",
            "gate",
            "--allow-path",
            "default/key",
            "--expose-token-key",
            "--threads",
            "4",
            "--check-config",
        ])
        .unwrap();
        assert_eq!((config.bind.to_string().as_str(), config.features), ("[::1]:9", Features::All));
        assert_eq!(config.cdh_addr.to_string(), "unix:///c.sock");
        assert_eq!(config.aa_addr.to_string(), "unix:///a.sock");
        assert_eq!((config.allow_hosts.len(), config.allow_paths.len(), config.threads), (2, 1, 4));
        assert!(config.strict && config.expose_token_key && config.check_config);
        let long = parse(&[
            "--bind",
            "127.0.0.1:1",
            "--features",
            "attestation",
            "--cdh_addr",
            "unix:///c",
            "--aa_addr",
            "unix:///a",
        ])
        .unwrap();
        assert_eq!(long.features, Features::Attestation);
    }

    #[test]
    fn unusable_options_are_refused() {
        for arguments in [
            &["-f", "none"][..],
            &["-f", ""],
            &["-b", "localhost:8006"],
            &["-b", "127.0.0.1"],
            &["-c", "/run/cdh.sock"],
            &["-a", "tcp://127.0.0.1:1"],
            &["--cdh-addr", "unix:///c.sock"],
            &["--allow-path", ""],
            &["--allow-path", "a/../b"],
            &["--threads", "0"],
            &["extra"],
        ] {
            assert!(matches!(parse(arguments), Err(ConfigError::CommandLine(_))), "{arguments:?}");
        }
        assert!(matches!(parse(&["--allow-host", "gate:80"]), Err(ConfigError::AllowHost(_))));
        assert!(matches!(parse(&["--strict", "-b", "0.0.0.0:8006"]), Err(ConfigError::StrictBind(_))));
        assert!(parse(&["-b", "0.0.0.0:8006"]).is_ok());
    }

    #[test]
    fn errors_have_codes_and_hints() {
        for (arguments, code) in [
            (&["extra"][..], "COMMAND_LINE"),
            (&["--allow-host", ":"], "CONFIG_ALLOW_HOST"),
            (&["--strict", "-b", "0.0.0.0:1"], "CONFIG_STRICT_BIND"),
        ] {
            let error = parse(arguments).unwrap_err();
            assert_eq!(error.code(), code);
            assert!(!error.hint().is_empty());
        }
    }
}
