//! Where `secret unseal` gets resources of the key broker: by attesting itself, or from the image's own files.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use cc_crypto::Secret;
use cc_daemon::telemetry::{self, TelemetryError};
use cc_evidence::blame::Blame;
use cc_kbs::{
    KbsConfig, ResourceUri, Session,
    offline::{self, OfflineStore},
    params::{CC_KBC, KbcParams, OFFLINE_FS_KBC},
};
use tokio::time::Instant;
use trustee_attester::{DnsFiles, Machine, MachineOptions};

use crate::{failure, failure::Failure, seal::read};

/// Longest certificate file that is read, in bytes.
const MAX_CERTIFICATE_LEN: usize = 1024 * 1024;
/// How long all requests of one run may take.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// How the key broker is reached.
#[derive(Debug, clap::Args)]
pub(super) struct Source {
    /// cc_kbc::URL of the key broker, to which this machine then attests; or offline_fs_kbc::null
    #[arg(long, value_name = "KBC::URI")]
    aa_kbc_params: Option<String>,
    /// PEM file: the key broker's own certificate or that of its CA, believed alone. Without it the public
    /// authorities are believed
    #[arg(long, value_name = "PEM", requires = "aa_kbc_params")]
    cert_file: Option<PathBuf>,
    /// Speak plain http to another machine too: evidence and token travel unprotected
    #[arg(long, requires = "aa_kbc_params")]
    allow_plain_http: bool,
    /// Where no TEE is found, send sample evidence, which proves nothing (for development)
    #[arg(long, requires = "aa_kbc_params")]
    sample: bool,
    /// Look TEE interfaces up below this folder instead of / (for tests)
    #[arg(long, value_name = "DIR", default_value = "/")]
    sys_root: PathBuf,
}

/// A store of resources, opened when the first one is asked for.
#[derive(Debug)]
pub(super) struct Store<'a> {
    source: &'a Source,
    opened: Option<Opened>,
    deadline: Instant,
}

#[derive(Debug)]
enum Opened {
    Broker(Session),
    Offline(OfflineStore),
}

impl<'a> Store<'a> {
    pub(super) fn new(source: &'a Source) -> Self {
        Self { source, opened: None, deadline: Instant::now() + TIME_LIMIT }
    }

    /// The resource called `reference`, a `kbs://` URI.
    pub(super) async fn fetch(&mut self, reference: &str) -> Result<Secret, Failure> {
        let uri: ResourceUri = reference.parse().map_err(|e| failure::kbs(&e))?;
        let opened = match self.opened.take() {
            Some(opened) => opened,
            None => open(self.source, &uri)?,
        };
        let found = match self.opened.insert(opened) {
            Opened::Broker(session) => session.fetch(&uri, self.deadline).await,
            Opened::Offline(store) => store.fetch(&uri),
        };
        found.map_err(|e| failure::kbs(&e))
    }
}

fn open(source: &Source, uri: &ResourceUri) -> Result<Opened, Failure> {
    let refused = |why: String| Failure::Argument {
        argument: "--aa-kbc-params".into(),
        why,
        hint: "write cc_kbc::https://host:port of the key broker, or offline_fs_kbc::null".into(),
    };
    let text = source.aa_kbc_params.as_deref().ok_or_else(|| refused(format!("needed to fetch {uri}")))?;
    let params = KbcParams::parse(text).map_err(|e| refused(e.to_string()))?;
    // What the libraries warn about: sample evidence, another root.
    match telemetry::init("warn") {
        Ok(()) | Err(TelemetryError::Again) => {}
        Err(e) => return Err(failure::of(Blame::Misused, e.code(), &e, e.hint())),
    }
    match params.name.as_str() {
        OFFLINE_FS_KBC => {
            OfflineStore::load(&offline::files(None)).map(Opened::Offline).map_err(|e| failure::kbs(&e))
        }
        CC_KBC => session(source, params.uri).map(Opened::Broker),
        other => Err(refused(format!("{other:?} is neither {CC_KBC} nor {OFFLINE_FS_KBC}"))),
    }
}

fn session(source: &Source, url: String) -> Result<Session, Failure> {
    let config = KbsConfig {
        root_certificate: source.cert_file.as_deref().map(certificate).transpose()?,
        allow_plain_http: source.allow_plain_http,
        ..KbsConfig::new(url)
    };
    // What the caller got wrong is told before the hardware is asked for anything.
    config.check().map_err(|e| failure::kbs(&e))?;
    let machine = Machine::find(MachineOptions {
        sys_root: source.sys_root.clone(),
        sample: source.sample,
        init_data: None,
        quote_time_limit: TIME_LIMIT / 2,
    })
    .map_err(|e| failure::of(e.blame(), e.code(), &e, e.hint()))?;
    Session::with_names(config, Arc::new(machine), Arc::new(DnsFiles::of_system()))
        .map_err(|e| failure::kbs(&e))
}

fn certificate(path: &Path) -> Result<String, Failure> {
    let bytes = read(path, MAX_CERTIFICATE_LEN)?;
    String::from_utf8(bytes).map_err(|_| Failure::Malformed {
        path: path.to_owned(),
        kind: "PEM file",
        why: "it is no text".into(),
    })
}
