//! The provider `pkcs11`: keys and data objects of a PKCS#11 token (OASIS PKCS #11 3.0), such as a hardware security module.
//!
//! A key's id is its label (`CKA_LABEL`). An RSA key unwraps by RSA-OAEP with MGF1 (`CKM_RSA_PKCS_OAEP`; hash SHA-256, or SHA-1
//! if the annotation `oaep_hash` says `SHA-1`), an AES key by AES-GCM (`CKM_AES_GCM`; the annotation `iv` is base64 of 12 bytes,
//! the tag of 16 bytes is behind the ciphertext). A secret is the value of a data object with that label.
//!
//! Module and token are the operator's, the PIN comes from the key broker. The module's code runs in this process: it is chosen
//! as carefully as the hub itself. Calls wait for hardware, so they run on threads of their own, one at a time ([`token`]).

mod token;

use std::sync::{Arc, Mutex, PoisonError};

use cc_crypto::Secret;
use cc_kbs::BoxFuture;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use crate::config::{Directories, Pkcs11Config};
use crate::credential::{Broker, Credential};
use crate::error::{KmsError, quoted};
use crate::member::Document;
use crate::{Kms, MAX_KEY_LEN, Members, Wrapped, bounded};
use token::{OaepHash, Parameters, Token};

pub(crate) const NAME: &str = "pkcs11";

/// Bytes of the initialization vector of AES-GCM.
const IV_LEN: usize = 12;
/// Longest wrapped key, in bytes: a modulus of RSA of 16384 bits, or a plaintext and its tag.
const MAX_CIPHERTEXT_LEN: usize = MAX_KEY_LEN + 16;
/// Longest label, in bytes.
const MAX_LABEL_LEN: usize = 255;

/// One token.
#[derive(Debug)]
pub(crate) struct Pkcs11 {
    shared: Arc<Shared>,
    pin: Credential,
}

/// What a thread that talks to the token works on.
#[derive(Debug)]
struct Shared {
    config: Pkcs11Config,
    /// One call at a time. A call that never comes back keeps its place, so that no second thread gets stuck.
    turn: Arc<Semaphore>,
    /// A PIN that the token did not take: each further try would bring it closer to locking itself.
    refused_pin: Mutex<Option<Secret>>,
}

impl Pkcs11 {
    /// The provider; the module is loaded when it is first needed.
    ///
    /// # Errors
    /// [`KmsError::Config`] for a module without an absolute path, or where no module can be loaded.
    pub(crate) fn new(
        config: &Pkcs11Config,
        directories: &Directories,
        broker: Option<&Arc<dyn Broker>>,
    ) -> Result<Self, KmsError> {
        let key = "kms.pkcs11.module";
        if cfg!(target_feature = "crt-static") {
            let why = "this program is linked statically and cannot load a module".to_owned();
            return Err(KmsError::Config { key, why });
        }
        if !config.module.is_absolute() {
            return Err(KmsError::Config { key, why: "not an absolute path".to_owned() });
        }
        let pin = Credential::new(NAME, config.pin.as_ref(), &directories.pkcs11, "pin", broker);
        let turn = Arc::new(Semaphore::new(1));
        let shared = Shared { config: config.clone(), turn, refused_pin: Mutex::default() };
        Ok(Self { shared: Arc::new(shared), pin })
    }

    /// Runs `work` with the token, logged in, on a thread of its own.
    async fn with_token<T: Send + 'static>(
        &self,
        doing: &str,
        deadline: Instant,
        work: impl FnOnce(&token::Session<'_>) -> Result<T, KmsError> + Send + 'static,
    ) -> Result<T, KmsError> {
        let deadline = bounded(deadline);
        let late = || KmsError::Timeout { doing: doing.to_owned() };
        let pin = self.pin.read_word(deadline).await?;
        // Never closed; if it were, calls would just not wait for each other.
        let turn =
            timeout_at(deadline, Arc::clone(&self.shared.turn).acquire_owned()).await.map_err(|_| late())?;
        let shared = Arc::clone(&self.shared);
        let call = tokio::task::spawn_blocking(move || {
            let result = shared.run(&pin, work);
            drop(turn);
            result
        });
        match timeout_at(deadline, call).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => {
                let why = "nothing: the thread that asked it died".to_owned();
                Err(KmsError::Pkcs11 { doing: doing.to_owned(), why })
            }
            Err(_) => Err(late()),
        }
    }
}

impl Shared {
    fn run<T>(
        &self,
        pin: &Zeroizing<String>,
        work: impl FnOnce(&token::Session<'_>) -> Result<T, KmsError>,
    ) -> Result<T, KmsError> {
        let mut refused_pin = self.refused_pin.lock().unwrap_or_else(PoisonError::into_inner);
        if refused_pin.as_ref().is_some_and(|refused| refused.matches(pin.as_bytes())) {
            let why = "it refused this PIN before, and it is not tried again".to_owned();
            return Err(KmsError::Pkcs11Pin { token: quoted(&self.config.token_label), why });
        }
        // Found anew each time: a token may have been taken out and put into another slot.
        let token = Token::find(&self.config.module, &self.config.token_label)?;
        let result = token.session(pin).and_then(|session| work(&session));
        if matches!(result, Err(KmsError::Pkcs11Pin { .. })) {
            *refused_pin = Some(Secret::new(pin.as_bytes().to_vec()));
        }
        result
    }
}

impl Kms for Pkcs11 {
    fn decrypt<'a>(
        &'a self,
        key_id: &'a str,
        ciphertext: &'a [u8],
        annotations: &'a Members,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<Secret, KmsError>> {
        Box::pin(async move {
            let document = Document { provider: NAME, members: annotations };
            let label = label(&document, "key_id", key_id)?;
            if ciphertext.is_empty() || ciphertext.len() > MAX_CIPHERTEXT_LEN {
                return Err(
                    document.refuse("encrypted_key", format!("not 1 to {MAX_CIPHERTEXT_LEN} bytes long"))
                );
            }
            let iv = document.bytes("iv")?;
            if iv.as_ref().is_some_and(|iv| iv.len() != IV_LEN) {
                return Err(document.refuse("iv", format!("not {IV_LEN} bytes long")));
            }
            let parameters = Parameters { oaep_hash: oaep_hash(&document)?, iv };
            let doing = format!("decrypting with the key {} of the token", quoted(key_id));
            let ciphertext = ciphertext.to_vec();
            let inner = doing.clone();
            self.with_token(&doing, deadline, move |session| {
                session.decrypt(&inner, &label, parameters, &ciphertext)
            })
            .await
        })
    }

    fn encrypt<'a>(
        &'a self,
        key_id: &'a str,
        plaintext: &'a Secret,
        annotations: &'a Members,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<Wrapped, KmsError>> {
        Box::pin(async move {
            let document = Document { provider: NAME, members: annotations };
            let label = label(&document, "key_id", key_id)?;
            if plaintext.is_empty() || plaintext.len() > MAX_KEY_LEN {
                return Err(document.refuse("the data key", format!("not 1 to {MAX_KEY_LEN} bytes long")));
            }
            let oaep_hash = oaep_hash(&document)?;
            let mut iv = vec![0; IV_LEN];
            let doing = format!("encrypting with the key {} of the token", quoted(key_id));
            getrandom::fill(&mut iv)
                .map_err(|e| KmsError::Pkcs11 { doing: doing.clone(), why: format!("nothing: {e}") })?;
            let parameters = Parameters { oaep_hash, iv: Some(iv) };
            let plaintext = Secret::new(plaintext.expose().to_vec());
            let inner = doing.clone();
            let (ciphertext, used_iv) = self
                .with_token(&doing, deadline, move |session| {
                    session.encrypt(&inner, &label, parameters, &plaintext)
                })
                .await?;
            let mut annotations = annotations.clone();
            if let Some(iv) = used_iv {
                let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, iv);
                annotations.insert("iv".to_owned(), text.into());
            }
            Ok(Wrapped { ciphertext, annotations })
        })
    }

    fn secret<'a>(
        &'a self,
        name: &'a str,
        annotations: &'a Members,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<Secret, KmsError>> {
        Box::pin(async move {
            let document = Document { provider: NAME, members: annotations };
            let label = label(&document, "name", name)?;
            let doing = format!("reading the data object {} of the token", quoted(name));
            let inner = doing.clone();
            self.with_token(&doing, deadline, move |session| session.data(&inner, &label)).await
        })
    }
}

fn label(document: &Document<'_>, what: &'static str, text: &str) -> Result<String, KmsError> {
    if text.is_empty() || text.len() > MAX_LABEL_LEN || text.chars().any(char::is_control) {
        return Err(document.refuse(what, format!("not a label of 1 to {MAX_LABEL_LEN} bytes")));
    }
    Ok(text.to_owned())
}

fn oaep_hash(document: &Document<'_>) -> Result<OaepHash, KmsError> {
    match document.text("oaep_hash")? {
        None | Some("SHA-256") => Ok(OaepHash::Sha256),
        Some("SHA-1") => Ok(OaepHash::Sha1),
        Some(_) => Err(document.refuse("oaep_hash", "neither SHA-256 nor SHA-1")),
    }
}

#[cfg(test)]
mod tests;
