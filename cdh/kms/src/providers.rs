//! The providers by name.

use std::sync::Arc;

use cc_kbs::Names;

use crate::aliyun::{self, Aliyun};
use crate::aws::{self, Aws};
use crate::config::{Directories, KmsConfig};
use crate::credential::Broker;
use crate::error::{KmsError, quoted};
use crate::kbs::{self, KeyBroker};
use crate::pkcs11::{self, Pkcs11};
use crate::vault::{self, Vault};
use crate::{Kms, Members};

/// The names of all providers, for messages.
pub const SUPPORTED: &str = "kbs, aliyun, aws, vault, pkcs11";

/// What providers need of the program that they run in.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The key broker; without one there is no provider `kbs`, and no credential comes from a `kbs://` URI.
    pub broker: Option<Arc<dyn Broker>>,
    /// Where credential files lie.
    pub directories: Directories,
    /// How names of hosts are looked up; by the C library if absent.
    pub names: Option<Arc<dyn Names>>,
}

/// All providers, as the operator configured them.
#[derive(Debug)]
pub struct Providers {
    broker: Option<Arc<dyn Broker>>,
    aliyun: Arc<Aliyun>,
    aws: Arc<Aws>,
    vault: Option<Arc<Vault>>,
    pkcs11: Option<Arc<Pkcs11>>,
}

impl Providers {
    /// Checks `config`; makes no connection and loads no module.
    ///
    /// # Errors
    /// [`KmsError::Config`].
    pub fn new(config: &KmsConfig, surroundings: Surroundings) -> Result<Self, KmsError> {
        let Surroundings { broker, directories, names } = surroundings;
        let aliyun = Aliyun::new(&config.aliyun, &directories, broker.as_ref(), names.clone())?;
        let aws = Aws::new(&config.aws, &directories, broker.as_ref(), names.clone())?;
        let vault =
            config.vault.as_ref().map(|c| Vault::new(c, &directories, broker.as_ref(), names)).transpose()?;
        let pkcs11 =
            config.pkcs11.as_ref().map(|c| Pkcs11::new(c, &directories, broker.as_ref())).transpose()?;
        let (aliyun, aws) = (Arc::new(aliyun), Arc::new(aws));
        Ok(Self { broker, aliyun, aws, vault: vault.map(Arc::new), pkcs11: pkcs11.map(Arc::new) })
    }

    /// The service that a document means by `provider` (in lower case) with its `settings`.
    ///
    /// # Errors
    /// [`KmsError::UnknownProvider`], [`KmsError::NotConfigured`], [`KmsError::Document`].
    pub fn open(&self, provider: &str, settings: &Members) -> Result<Arc<dyn Kms>, KmsError> {
        match provider {
            kbs::NAME => {
                let missing = KmsError::NotConfigured { provider: kbs::NAME, needs: "the key broker" };
                let broker = Arc::clone(self.broker.as_ref().ok_or(missing)?);
                Ok(Arc::new(KeyBroker { broker }))
            }
            aliyun::NAME => Ok(Arc::new(self.aliyun.open(settings)?)),
            aws::NAME => Ok(Arc::new(self.aws.open(settings)?)),
            vault::NAME => {
                let missing = KmsError::NotConfigured { provider: vault::NAME, needs: "kms.vault" };
                Ok(Arc::clone(self.vault.as_ref().ok_or(missing)?) as Arc<dyn Kms>)
            }
            pkcs11::NAME => {
                let missing = KmsError::NotConfigured { provider: pkcs11::NAME, needs: "kms.pkcs11" };
                Ok(Arc::clone(self.pkcs11.as_ref().ok_or(missing)?) as Arc<dyn Kms>)
            }
            other => Err(KmsError::UnknownProvider { provider: quoted(other) }),
        }
    }
}
