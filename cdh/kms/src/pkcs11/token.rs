//! One token behind its module, through the crate `cryptoki`. Everything here blocks.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use cc_crypto::Secret;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session as RawSession, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;

use crate::MAX_KEY_LEN;
use crate::error::{KmsError, quoted};

/// Bits of the tag of AES-GCM.
const TAG_BITS: u64 = 128;
/// Longest data object read, in bytes.
const MAX_DATA_LEN: usize = 64 * 1024;

/// The hash of RSA-OAEP and of its mask generation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OaepHash {
    Sha256,
    Sha1,
}

/// What a mechanism needs beside the key.
#[derive(Debug)]
pub(super) struct Parameters {
    pub(super) oaep_hash: OaepHash,
    /// Initialization vector of AES-GCM.
    pub(super) iv: Option<Vec<u8>>,
}

/// Modules that this process has loaded. A module is initialized once in a process (PKCS #11 3.0 section 5.4) and is never unloaded,
/// because it may run threads of its own.
static LOADED: Mutex<Vec<(PathBuf, Pkcs11)>> = Mutex::new(Vec::new());

/// The module at `path`, loaded and initialized.
fn module(path: &Path) -> Result<Pkcs11, String> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, module)) = loaded.iter().find(|(known, _)| known == path) {
        return Ok(module.clone());
    }
    let module = Pkcs11::new(path).map_err(|e| e.to_string())?;
    match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        // By another user of the same library in this process.
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
        Err(e) => return Err(describe(&e)),
    }
    loaded.push((path.to_owned(), module.clone()));
    Ok(module)
}

/// A token in its slot, with the module that knows it.
#[derive(Debug)]
pub(super) struct Token {
    module: Pkcs11,
    slot: Slot,
    label: String,
}

impl Token {
    /// Finds the token with `label` through the module at `path`, which is loaded if need be.
    ///
    /// # Errors
    /// [`KmsError::Pkcs11Module`].
    pub(super) fn find(path: &Path, label: &str) -> Result<Self, KmsError> {
        let failed = |why: String| KmsError::Pkcs11Module { module: path.display().to_string(), why };
        let module = module(path).map_err(failed)?;
        let slots = module.get_slots_with_token().map_err(|e| failed(describe(&e)))?;
        let is_it = |slot: &Slot| module.get_token_info(*slot).is_ok_and(|token| token.label() == label);
        let found: Vec<Slot> = slots.into_iter().filter(is_it).collect();
        match found.as_slice() {
            [slot] => Ok(Self { slot: *slot, label: label.to_owned(), module }),
            [] => Err(failed(format!("it has no token with the label {}", quoted(label)))),
            _ => Err(failed(format!("it has several tokens with the label {}", quoted(label)))),
        }
    }

    /// A session of the token's user. Its end is the user's log-out.
    ///
    /// # Errors
    /// [`KmsError::Pkcs11Pin`] if the token refused the PIN, [`KmsError::Pkcs11Locked`] if it takes none or has one try left,
    /// [`KmsError::Pkcs11`].
    pub(super) fn session(&self, pin: &str) -> Result<Session<'_>, KmsError> {
        let failed = |e: &Error| KmsError::Pkcs11 {
            doing: format!("opening a session of the token {}", quoted(&self.label)),
            why: describe(e),
        };
        let unusable = |why: &str| KmsError::Pkcs11Locked { token: quoted(&self.label), why: why.to_owned() };
        // The flags of CK_TOKEN_INFO (PKCS #11 3.0 section 3.2). The PIN may be right, but a wrong one would lock the token for
        // everybody who uses it.
        let info = self.module.get_token_info(self.slot).map_err(|e| failed(&e))?;
        if let Some(why) = guard(info.user_pin_locked(), info.user_pin_final_try()) {
            return Err(unusable(why));
        }
        if info.user_pin_count_low() {
            let token = &self.label;
            tracing::warn!(
                token,
                "somebody logged in to the PKCS#11 token with a wrong PIN since the last right one"
            );
        }
        let raw = self.module.open_ro_session(self.slot).map_err(|e| failed(&e))?;
        match raw.login(UserType::User, Some(&AuthPin::from(pin.to_owned()))) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(Session { raw, token: self }),
            Err(e @ Error::Pkcs11(RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange, _)) => {
                Err(KmsError::Pkcs11Pin { token: quoted(&self.label), why: describe(&e) })
            }
            Err(e @ Error::Pkcs11(RvError::PinLocked | RvError::PinExpired, _)) => {
                Err(unusable(&describe(&e)))
            }
            Err(e) => Err(failed(&e)),
        }
    }
}

/// Why nobody logs in to a token with these flags from here, if so.
fn guard(locked: bool, final_try: bool) -> Option<&'static str> {
    match (locked, final_try) {
        (true, _) => Some("its user's PIN is locked"),
        (_, true) => Some("a wrong PIN would lock it: its user has one try left"),
        (false, false) => None,
    }
}

/// A session of the token's user.
#[derive(Debug)]
pub(super) struct Session<'a> {
    raw: RawSession,
    token: &'a Token,
}

/// What a key can do here.
enum Kind {
    Rsa,
    Aes,
}

impl Session<'_> {
    /// Unwraps `ciphertext` with the key called `label`.
    ///
    /// # Errors
    /// [`KmsError::Absent`], [`KmsError::Document`], [`KmsError::CannotDecrypt`], [`KmsError::Pkcs11`].
    pub(super) fn decrypt(
        &self,
        doing: &str,
        label: &str,
        mut parameters: Parameters,
        ciphertext: &[u8],
    ) -> Result<Secret, KmsError> {
        let (key, kind) = self.key(doing, label, Attribute::Decrypt(true))?;
        let mechanism = mechanism(kind, &mut parameters)?;
        let plaintext = self.raw.decrypt(&mechanism, key, ciphertext).map_err(|e| match e {
            Error::Pkcs11(
                RvError::EncryptedDataInvalid
                | RvError::EncryptedDataLenRange
                | RvError::DataInvalid
                | RvError::DataLenRange,
                _,
            ) => KmsError::CannotDecrypt { doing: doing.to_owned(), told: describe(&e) },
            e => failed(doing, &e),
        })?;
        let plaintext = Secret::new(plaintext);
        if plaintext.is_empty() || plaintext.len() > MAX_KEY_LEN {
            return Err(KmsError::BadAnswer {
                doing: doing.to_owned(),
                why: "the plaintext has an impossible length".to_owned(),
            });
        }
        Ok(plaintext)
    }

    /// Wraps `plaintext` with the key called `label`; gives the initialization vector too if it was used.
    ///
    /// # Errors
    /// [`KmsError::Absent`], [`KmsError::Document`], [`KmsError::Pkcs11`].
    pub(super) fn encrypt(
        &self,
        doing: &str,
        label: &str,
        mut parameters: Parameters,
        plaintext: &Secret,
    ) -> Result<(Vec<u8>, Option<Vec<u8>>), KmsError> {
        let (key, kind) = self.key(doing, label, Attribute::Encrypt(true))?;
        let uses_iv = matches!(kind, Kind::Aes);
        let ciphertext = {
            let mechanism = mechanism(kind, &mut parameters)?;
            self.raw.encrypt(&mechanism, key, plaintext.expose()).map_err(|e| failed(doing, &e))?
        };
        Ok((ciphertext, parameters.iv.filter(|_| uses_iv)))
    }

    /// The value of the data object called `label`.
    ///
    /// # Errors
    /// [`KmsError::Absent`], [`KmsError::BadAnswer`], [`KmsError::AnswerTooLarge`], [`KmsError::Pkcs11`].
    pub(super) fn data(&self, doing: &str, label: &str) -> Result<Secret, KmsError> {
        let object = self.only(doing, label, &[Attribute::Class(ObjectClass::DATA)])?;
        let value = self
            .raw
            .get_attributes(object, &[AttributeType::Value])
            .map_err(|e| failed(doing, &e))?
            .into_iter()
            .find_map(|attribute| match attribute {
                Attribute::Value(value) => Some(Secret::new(value)),
                _ => None,
            });
        match value {
            Some(value) if value.len() > MAX_DATA_LEN => {
                Err(KmsError::AnswerTooLarge { doing: doing.to_owned(), limit: MAX_DATA_LEN })
            }
            Some(value) => Ok(value),
            None => Err(KmsError::BadAnswer {
                doing: doing.to_owned(),
                why: "the object has no value that can be read".to_owned(),
            }),
        }
    }

    /// The key called `label` that may be used for `usage`.
    fn key(&self, doing: &str, label: &str, usage: Attribute) -> Result<(ObjectHandle, Kind), KmsError> {
        let key = self.only(doing, label, &[usage])?;
        let attributes =
            self.raw.get_attributes(key, &[AttributeType::KeyType]).map_err(|e| failed(doing, &e))?;
        let kind = attributes.iter().find_map(|attribute| match attribute {
            Attribute::KeyType(KeyType::RSA) => Some(Kind::Rsa),
            Attribute::KeyType(KeyType::AES) => Some(Kind::Aes),
            _ => None,
        });
        match kind {
            Some(kind) => Ok((key, kind)),
            None => Err(refused("key_id", "the key is neither RSA nor AES")),
        }
    }

    /// The only object called `label` with the attributes of `template`.
    fn only(&self, doing: &str, label: &str, template: &[Attribute]) -> Result<ObjectHandle, KmsError> {
        let mut wanted = vec![Attribute::Label(label.as_bytes().to_vec())];
        wanted.extend_from_slice(template);
        let found = self.raw.find_objects(&wanted).map_err(|e| failed(doing, &e))?;
        let told = match found.as_slice() {
            [object] => return Ok(*object),
            [] => format!("the token {} has none that may be used for it", quoted(&self.token.label)),
            several => format!("the token {} has {} of that label", quoted(&self.token.label), several.len()),
        };
        Err(KmsError::Absent { doing: doing.to_owned(), told })
    }
}

/// The mechanism for a key of that kind.
fn mechanism(kind: Kind, parameters: &mut Parameters) -> Result<Mechanism<'_>, KmsError> {
    match kind {
        Kind::Rsa => {
            let (hash, mask) = match parameters.oaep_hash {
                OaepHash::Sha256 => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
                OaepHash::Sha1 => (MechanismType::SHA1, PkcsMgfType::MGF1_SHA1),
            };
            Ok(Mechanism::RsaPkcsOaep(PkcsOaepParams::new(hash, mask, PkcsOaepSource::empty())))
        }
        Kind::Aes => {
            let iv = parameters.iv.as_mut().ok_or_else(|| refused("iv", "an AES key needs it"))?;
            GcmParams::new(iv, &[], TAG_BITS.into())
                .map(Mechanism::AesGcm)
                .map_err(|e| refused("iv", &e.to_string()))
        }
    }
}

fn refused(what: &'static str, why: &str) -> KmsError {
    KmsError::Document { provider: super::NAME, what, why: why.to_owned() }
}

fn failed(doing: &str, e: &Error) -> KmsError {
    KmsError::Pkcs11 { doing: doing.to_owned(), why: describe(e) }
}

/// The call and its return value; the library's own text explains each at length.
fn describe(e: &Error) -> String {
    match e {
        Error::Pkcs11(value, function) => format!("{value:?} to C_{function:?}"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::guard;

    #[test]
    fn the_last_try_is_nobodys() {
        assert!(guard(false, false).is_none());
        assert!(guard(false, true).unwrap().contains("one try left"));
        for final_try in [false, true] {
            assert!(guard(true, final_try).unwrap().contains("is locked"));
        }
    }
}
