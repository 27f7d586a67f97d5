//! The keys of encrypted layers: who opens them, and asking for all of an image at once.
//!
//! Each layer has a key of its own, wrapped in its descriptor ([`cc_sealed::LayerEncryption`]). All are asked for as soon as
//! the image is known, several at a time, equal ones once, so that a slow key service costs its time once and layers
//! that need no key do not wait for it. It does NOT know who unwraps: a data hub, a key broker or a private key is behind
//! [`LayerKeys`].

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use cc_crypto::Secret;
use cc_evidence::blame::Blame;
use cc_sealed::{LayerEncryption, LayerKey, SealedError, WrappedOptions};

use crate::Layer;

/// Keys asked for at a time.
const PARALLEL: usize = 8;

/// Opens the wrapped private options of layers. Calls block; several threads call at once.
pub trait LayerKeys: fmt::Debug + Send + Sync {
    /// The private options in `wrapped`; `None` if that is wrapped for somebody else, so that the next way is tried.
    ///
    /// # Errors
    /// Why they cannot be had.
    fn open(&self, wrapped: &WrappedOptions) -> Option<Result<Secret, KeyRefusal>>;
}

/// Opens nothing, for images that are not encrypted.
#[derive(Clone, Copy, Debug)]
pub struct NoKeys;

impl LayerKeys for NoKeys {
    fn open(&self, _: &WrappedOptions) -> Option<Result<Secret, KeyRefusal>> {
        None
    }
}

/// Why whoever opens keys did not: its own account.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} [{code}]")]
pub struct KeyRefusal {
    /// Who has to act.
    pub blame: Blame,
    /// Its stable code.
    pub code: String,
    /// What it said.
    pub message: String,
    /// The next step for the operator.
    pub hint: String,
}

/// Why a layer has no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFault {
    /// Nobody who was asked opens what it is wrapped in.
    #[error("it is wrapped {wrapped}, and nothing that opens those was given")]
    Nobody {
        /// "for a key provider", "as JWE" or both.
        wrapped: &'static str,
    },
    /// It was not asked for before its layer, or for a layer that is not encrypted.
    #[error("it does not go with the layer")]
    NotAsked,
    /// What was unwrapped names the layer before it was encrypted in a way that cannot be compared.
    #[error("its private options name the plain layer by none of the digests that are known")]
    Digest,
    /// Whoever opens it did not.
    #[error("{0}")]
    Refused(KeyRefusal),
    /// What was unwrapped cannot be used.
    #[error("{0}")]
    Unusable(SealedError),
    /// Whoever opens it panicked.
    #[error("asking for it ended by a fault of this program, which its log tells")]
    Lost,
}

impl KeyFault {
    /// Stable code, in capitals.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Nobody { .. } => "LAYER_KEY_UNKNOWN",
            Self::NotAsked => "LAYER_KEY_MISUSED",
            Self::Refused(_) => "LAYER_KEY_REFUSED",
            Self::Lost => "LAYER_KEY_LOST",
            Self::Digest | Self::Unusable(_) => "LAYER_ENCRYPTION",
        }
    }

    /// Who has to act.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            Self::Nobody { .. } | Self::NotAsked => Blame::Misused,
            Self::Refused(refusal) => refusal.blame,
            Self::Lost => Blame::Platform,
            Self::Digest | Self::Unusable(_) => Blame::Misbehaved,
        }
    }

    /// The next step for the operator.
    #[must_use]
    pub fn hint(&self) -> &str {
        match self {
            Self::Nobody { .. } => {
                "name the private key that opens it, or encrypt the image for a key provider"
            }
            Self::NotAsked => "ask for the keys of all layers before unpacking them",
            Self::Refused(refusal) => &refusal.hint,
            Self::Lost => "report it, with the log of this program",
            Self::Digest | Self::Unusable(_) => "encrypt the image anew with a current tool",
        }
    }
}

/// The keys of the layers of one image, being asked for.
///
/// Dropping it does not wait for answers that are still to come.
#[derive(Debug)]
pub struct Keys {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    service: Arc<dyn LayerKeys>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    asks: VecDeque<Ask>,
    slots: Vec<Slot>,
}

/// Ways to one key, and the layers that have it.
#[derive(Debug)]
struct Ask {
    packets: Vec<WrappedOptions>,
    layers: Vec<(usize, LayerEncryption)>,
}

#[derive(Clone, Debug)]
enum Slot {
    NotNeeded,
    Asked,
    There(Arc<LayerKey>),
    Failed(KeyFault),
}

impl Keys {
    /// Begins to ask `service` for the keys of `layers`.
    #[must_use]
    pub fn ask(layers: &[Layer], service: Arc<dyn LayerKeys>) -> Self {
        Self::ask_each(layers.iter().map(|layer| layer.encryption.as_ref()), service)
    }

    /// Begins to ask `service` for the keys of blobs that are encrypted so.
    pub(crate) fn ask_each<'a>(
        blobs: impl Iterator<Item = Option<&'a LayerEncryption>>,
        service: Arc<dyn LayerKeys>,
    ) -> Self {
        let mut asks: BTreeMap<&[WrappedOptions], Vec<(usize, LayerEncryption)>> = BTreeMap::new();
        let mut slots = Vec::new();
        for (number, encryption) in blobs.enumerate() {
            slots.push(match encryption {
                None => Slot::NotNeeded,
                Some(encryption) => {
                    asks.entry(encryption.packets()).or_default().push((number, encryption.clone()));
                    Slot::Asked
                }
            });
        }
        let asks: VecDeque<Ask> =
            asks.into_iter().map(|(packets, layers)| Ask { packets: packets.to_vec(), layers }).collect();
        let threads = asks.len().min(PARALLEL);
        let state = Mutex::new(State { asks, slots });
        let shared = Arc::new(Shared { service, state, changed: Condvar::new() });
        // They are not waited for: whoever gives an image up must not wait for a key broker.
        let started = (0..threads).filter(|_| {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name("layer-keys".to_owned()).spawn(move || shared.work()).is_ok()
        });
        if started.count() == 0 {
            shared.work();
        }
        Self { shared }
    }

    /// Whether nothing has to be waited for before the layer with this number is unpacked, or refused.
    #[must_use]
    pub fn is_settled(&self, number: usize) -> bool {
        !matches!(self.shared.lock().slots.get(number), Some(Slot::Asked))
    }

    /// The key of the layer with this number; `None` if it needs none. Waits for it until `stopped` says so, which is
    /// asked every now and then and answered with `None` as well.
    ///
    /// # Errors
    /// Why there is no key.
    pub fn of_layer(
        &self,
        number: usize,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Option<Arc<LayerKey>>, KeyFault> {
        loop {
            match self.shared.lock().slots.get(number) {
                None | Some(Slot::NotNeeded) => return Ok(None),
                Some(Slot::There(key)) => return Ok(Some(Arc::clone(key))),
                Some(Slot::Failed(fault)) => return Err(fault.clone()),
                Some(Slot::Asked) => {}
            }
            if stopped() {
                return Ok(None);
            }
            self.wait();
        }
    }

    /// The first layer whose key cannot be had, and why.
    #[must_use]
    pub fn failure(&self) -> Option<(usize, KeyFault)> {
        let state = self.shared.lock();
        state.slots.iter().enumerate().find_map(|(number, slot)| match slot {
            Slot::Failed(fault) => Some((number, fault.clone())),
            _ => None,
        })
    }

    /// Waits until another key came, or a moment.
    pub fn wait(&self) {
        let moment = Duration::from_millis(50);
        let guard = self.shared.lock();
        if guard.slots.iter().any(|slot| matches!(slot, Slot::Asked)) {
            drop(self.shared.changed.wait_timeout(guard, moment).unwrap_or_else(PoisonError::into_inner));
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.shared.lock().asks.clear();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        // Taken in a step of its own: the lock must be free again while the service is asked.
        let next = || self.lock().asks.pop_front();
        while let Some(ask) = next() {
            // Whoever waits for the key would wait for ever.
            let opening = || open_first(self.service.as_ref(), &ask.packets);
            let answer = panic::catch_unwind(AssertUnwindSafe(opening)).unwrap_or(Err(KeyFault::Lost));
            let mut state = self.lock();
            for (number, encryption) in ask.layers {
                let slot = match &answer {
                    Ok(options) => match encryption.join(options) {
                        Ok(key) => Slot::There(Arc::new(key)),
                        Err(error) => Slot::Failed(KeyFault::Unusable(error)),
                    },
                    Err(fault) => Slot::Failed(fault.clone()),
                };
                if let Some(place) = state.slots.get_mut(number) {
                    *place = slot;
                }
            }
            drop(state);
            self.changed.notify_all();
        }
    }
}

/// The options of the first packet that opens. If none does, what the first one that was tried failed by is told.
fn open_first(service: &dyn LayerKeys, packets: &[WrappedOptions]) -> Result<Secret, KeyFault> {
    let mut failure = None;
    for packet in packets {
        match service.open(packet) {
            None => {}
            Some(Ok(options)) => return Ok(options),
            Some(Err(refusal)) => {
                failure.get_or_insert(refusal);
            }
        }
    }
    let jwe = packets.iter().any(|packet| matches!(packet, WrappedOptions::Jwe(_)));
    let provider = packets.iter().any(|packet| matches!(packet, WrappedOptions::Provider(_)));
    Err(failure.map_or_else(
        || KeyFault::Nobody {
            wrapped: match (provider, jwe) {
                (true, true) => "for a key provider and as JWE",
                (true, false) => "for a key provider",
                (false, _) => "as JWE for the holder of a private key",
            },
        },
        KeyFault::Refused,
    ))
}
