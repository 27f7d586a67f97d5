//! The keys of encrypted layers: the data hub of this machine unwraps them.
//!
//! It attests when it must and asks the key broker for the key that a layer's annotation names; the key of the layer
//! comes back through its socket (the key-provider protocol of ocicrypt, `UnWrapKey`).

use std::sync::Arc;

use cc_crypto::Secret;
use cc_daemon::address::Address;
use cc_evidence::blame::Blame;
use cc_protos::keyprovider::KeyProviderKeyWrapProtocolInput;
use cc_sealed::{WrappedOptions, key_provider};
use image_rs::{KeyRefusal, LayerKeys};
use tokio::runtime::Handle;

use crate::{
    connect::{HUB, Hub},
    failure::Failure,
};

/// What the operator gives.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// Address of the confidential data hub, which unwraps the keys of encrypted layers
    #[arg(long, value_name = "ADDR", default_value = HUB)]
    cdh: Address,
}

impl Args {
    /// Who opens the keys of encrypted layers. To be called in the runtime.
    pub(super) fn service(&self) -> Result<Arc<dyn LayerKeys>, Failure> {
        Ok(Arc::new(HubKeys::at(self.cdh.clone())))
    }
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
