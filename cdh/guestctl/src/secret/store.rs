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
    KbsConfig, Session,
    offline::{self, OfflineStore},
    params::{CC_KBC, KbcParams, OFFLINE_FS_KBC},
};
use cc_kms::{BoxFuture, Broker};
use tokio::time::Instant;
use trustee_attester::{DnsFiles, Machine, MachineOptions, TpmOptions};

use crate::{failure, failure::Failure, seal::read};

/// Longest certificate file that is read, in bytes.
const MAX_CERTIFICATE_LEN: usize = 1024 * 1024;
/// How long one device may take for its evidence.
const QUOTE_TIME_LIMIT: Duration = Duration::from_secs(30);

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

/// Resources of the key broker.
#[derive(Debug)]
pub(super) enum Store {
    /// A session of this process's own.
    Broker(Session),
    /// Files of the image.
    Offline(OfflineStore),
}

impl Broker for Store {
    fn fetch<'a>(
        &'a self,
        reference: &'a str,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<Secret, cc_kbs::Error>> {
        Box::pin(async move {
            let uri = reference.parse()?;
            match self {
                Self::Broker(session) => session.fetch(&uri, deadline).await,
                Self::Offline(store) => store.fetch(&uri),
            }
        })
    }
}

impl Source {
    /// The store that is named, if one is. The TEE is looked for; nothing is sent yet.
    pub(super) fn open(&self) -> Result<Option<Arc<Store>>, Failure> {
        let Some(text) = self.aa_kbc_params.as_deref() else { return Ok(None) };
        let params = KbcParams::parse(text).map_err(|e| refused(e.to_string()))?;
        // What the libraries warn about: sample evidence, another root.
        match telemetry::init("warn") {
            Ok(()) | Err(TelemetryError::Again) => {}
            Err(e) => return Err(failure::of(Blame::Misused, e.code(), &e, e.hint())),
        }
        let store = match params.name.as_str() {
            OFFLINE_FS_KBC => {
                Store::Offline(OfflineStore::load(&offline::files(None)).map_err(|e| failure::kbs(&e))?)
            }
            CC_KBC => Store::Broker(self.session(params.uri)?),
            other => return Err(refused(format!("{other:?} is neither {CC_KBC} nor {OFFLINE_FS_KBC}"))),
        };
        Ok(Some(Arc::new(store)))
    }

    fn session(&self, url: String) -> Result<Session, Failure> {
        let config = KbsConfig {
            root_certificate: self.cert_file.as_deref().map(certificate).transpose()?,
            allow_plain_http: self.allow_plain_http,
            ..KbsConfig::new(url)
        };
        // What the caller got wrong is told before the hardware is asked for anything.
        config.check().map_err(|e| failure::kbs(&e))?;
        let machine = Machine::find(MachineOptions {
            sys_root: self.sys_root.clone(),
            sample: self.sample,
            init_data: None,
            tpm: TpmOptions::default(),
            quote_time_limit: QUOTE_TIME_LIMIT,
        })
        .map_err(|e| failure::of(e.blame(), e.code(), &e, e.hint()))?;
        Session::with_names(config, Arc::new(machine), Arc::new(DnsFiles::of_system()))
            .map_err(|e| failure::kbs(&e))
    }
}

/// The failure that the option for the key broker is missing or wrong.
pub(super) fn refused(why: String) -> Failure {
    Failure::Argument {
        argument: "--aa-kbc-params".into(),
        why,
        hint: "write cc_kbc::https://host:port of the key broker, or offline_fs_kbc::null".into(),
    }
}

fn certificate(path: &Path) -> Result<String, Failure> {
    let bytes = read(path, MAX_CERTIFICATE_LEN)?;
    String::from_utf8(bytes).map_err(|_| Failure::Malformed {
        path: path.to_owned(),
        kind: "PEM file",
        why: "it is no text".into(),
    })
}
