//! The keys of encrypted layers: the data hub of this machine unwraps them, or private keys in files do.
//!
//! It attests when it must and asks the key broker for the key that a layer's annotation names; the key of the layer
//! comes back through its socket (the key-provider protocol of ocicrypt, `UnWrapKey`).

use std::{fs::File, io::Read, path::Path, sync::Arc};

use cc_crypto::{Secret, jwe::RecipientKey};
use cc_daemon::address::Address;
use cc_evidence::blame::Blame;
use cc_protos::keyprovider::KeyProviderKeyWrapProtocolInput;
use cc_sealed::{WrappedOptions, key_provider};
use image_rs::{KeyRefusal, LayerKeys};
use tokio::runtime::Handle;

use crate::{
    connect::{HUB, Hub},
    failure::Failure,
    table::printable,
};

/// Longest file of a private key read, in bytes: an RSA key of 8192 bits takes 6.5 KiB.
const KEY_MAX: usize = 32 << 10;

/// What the operator gives.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// Address of the confidential data hub, which unwraps the keys of encrypted layers
    #[arg(long, value_name = "ADDR", default_value = HUB)]
    cdh: Address,
    /// Private key (PEM) that opens layers encrypted for its holder (jwe); may be given several times
    #[arg(long, value_name = "FILE")]
    decryption_key: Vec<String>,
}

impl Args {
    /// The data hub.
    pub(super) fn hub(&self) -> &Address {
        &self.cdh
    }

    /// Who opens the keys of encrypted layers. To be called in the runtime.
    pub(super) fn service(&self) -> Result<Arc<dyn LayerKeys>, Failure> {
        let files = self.decryption_key.iter().map(|text| read(text)).collect::<Result<_, _>>()?;
        Ok(Arc::new(Keys { hub: HubKeys::at(self.cdh.clone()), files }))
    }
}

/// The hub for what is wrapped for key providers, the files for what is wrapped for their keys.
#[derive(Debug)]
struct Keys {
    hub: HubKeys,
    files: Vec<(String, RecipientKey)>,
}

impl LayerKeys for Keys {
    fn open(&self, wrapped: &WrappedOptions) -> Option<Result<Secret, KeyRefusal>> {
        let WrappedOptions::Jwe(text) = wrapped else { return self.hub.open(wrapped) };
        let mut failure = None;
        for (file, key) in &self.files {
            match key.open(text) {
                Ok(options) => return Some(Ok(options)),
                Err(error) => {
                    failure.get_or_insert((file, error));
                }
            }
        }
        failure.map(|(file, error)| {
            Err(KeyRefusal {
                blame: Blame::Misused,
                code: error.code().to_owned(),
                message: format!("unwrapping it with {}: {error}", printable(file)),
                hint: "name the file of a private key that the image was encrypted for".to_owned(),
            })
        })
    }
}

/// The private key that the operator names as image tools have it: `FILE`. Their other forms are refused by name.
fn read(text: &str) -> Result<(String, RecipientKey), Failure> {
    let refused = |why: String, hint: &str| Failure::Argument {
        argument: "--decryption-key".to_owned(),
        why,
        hint: hint.to_owned(),
    };
    if text.starts_with("provider:") {
        let why = "key providers are not named: the data hub is asked".to_owned();
        return Err(refused(why, "leave it away, and give the hub's address with --cdh"));
    }
    if !Path::new(text).exists()
        && let Some((file, form)) = text.rsplit_once(':')
        && Path::new(file).exists()
    {
        let form = form.split_once('=').map_or("a passphrase", |(form, _)| form);
        let why = format!("a key behind a passphrase ({}) is not read", printable(form));
        return Err(refused(why, "take the passphrase away: openssl pkey -in FILE -out NEW"));
    }
    let path = Path::new(text);
    let unreadable = |source| Failure::Unreadable { path: path.to_owned(), source };
    // Reserved at once: growing would free a buffer with key bytes in it.
    let mut bytes = Vec::with_capacity(KEY_MAX + 64);
    File::open(path)
        .and_then(|file| file.take(KEY_MAX as u64).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    let bytes = Secret::new(bytes);
    let malformed = |why: String| Failure::Malformed { path: path.to_owned(), kind: "private key", why };
    let pem = str::from_utf8(bytes.expose()).map_err(|_| malformed("not PEM text".to_owned()))?;
    let key = RecipientKey::from_pem(pem).map_err(|error| malformed(error.to_string()))?;
    Ok((text.to_owned(), key))
}

/// The data hub at an address.
#[derive(Debug)]
pub(super) struct HubKeys {
    address: Address,
    runtime: Handle,
}

impl HubKeys {
    /// The hub at `address`; it is connected to when the first key is needed. To be called in the runtime.
    pub(super) fn at(address: Address) -> Self {
        Self { address, runtime: Handle::current() }
    }

    async fn unwrap(&self, packet: &[u8]) -> Result<Secret, Failure> {
        let hub = Hub::at(&self.address);
        let request = KeyProviderKeyWrapProtocolInput {
            key_provider_key_wrap_protocol_input: key_provider::unwrap_request(packet),
        };
        let answer = hub
            .key_provider()
            .un_wrap_key(request)
            .await
            .map_err(|status| hub.failed("unwrapping it", &status))?
            .into_inner();
        let answer = Secret::new(answer.key_provider_key_wrap_protocol_output);
        key_provider::parse_unwrapped(answer.expose()).map_err(|error| Failure::Garbled {
            doing: "unwrapping it (confidential data hub)".to_owned(),
            why: format!("is not one of the protocol: {error}"),
        })
    }
}

impl LayerKeys for HubKeys {
    fn open(&self, wrapped: &WrappedOptions) -> Option<Result<Secret, KeyRefusal>> {
        let WrappedOptions::Provider(packet) = wrapped else { return None };
        Some(self.runtime.block_on(self.unwrap(packet)).map_err(refusal))
    }
}

/// What the hub said, without the code that [`KeyRefusal`] shows itself.
fn refusal(failure: Failure) -> KeyRefusal {
    let blame = match &failure {
        Failure::Reply { fault, .. } => fault.blame,
        _ => Blame::Misbehaved,
    };
    KeyRefusal { blame, code: failure.code().to_owned(), message: failure.to_string(), hint: failure.hint() }
}
