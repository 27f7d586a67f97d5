//! Credentials of the services: from the key broker, directly or through a file that the data hub filled.
//!
//! They are read at each use, so that a new one counts at once, and are never kept. No environment variable, metadata service
//! or profile of the machine is looked at: what the host can write opens nothing.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use cc_crypto::Secret;
use cc_kbs::BoxFuture;
use rustix::fs::{self, FileType, Mode, OFlags};
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::config::CredentialPlace;
use crate::error::KmsError;

/// Longest credential read, in bytes.
const MAX_LEN: usize = 64 * 1024;

/// The key broker, as far as this crate needs it.
pub trait Broker: Send + Sync + fmt::Debug {
    /// Fetches what `reference` (a `kbs://` or `kbs+<plugin>://` URI) names by `deadline`.
    ///
    /// # Errors
    /// See [`cc_kbs::Error`].
    fn fetch<'a>(
        &'a self,
        reference: &'a str,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<Secret, cc_kbs::Error>>;
}

/// One credential of one provider.
#[derive(Clone, Debug)]
pub(crate) struct Credential {
    provider: &'static str,
    place: CredentialPlace,
    broker: Option<Arc<dyn Broker>>,
}

impl Credential {
    /// The one that lies at `configured`, or in the file `name` of `directory`.
    pub(crate) fn new(
        provider: &'static str,
        configured: Option<&CredentialPlace>,
        directory: &Path,
        name: &str,
        broker: Option<&Arc<dyn Broker>>,
    ) -> Self {
        let place = configured.cloned().unwrap_or_else(|| CredentialPlace::File(directory.join(name)));
        Self { provider, place, broker: broker.cloned() }
    }

    /// Reads it by `deadline`: at most 64 KiB.
    ///
    /// # Errors
    /// [`KmsError::CredentialMissing`], [`KmsError::CredentialMalformed`] if it is too long, or what the key broker says.
    pub(crate) async fn read(&self, deadline: Instant) -> Result<Secret, KmsError> {
        let secret = match &self.place {
            CredentialPlace::Resource(uri) => {
                let needs = "the key broker";
                let broker =
                    self.broker.as_ref().ok_or(KmsError::NotConfigured { provider: self.provider, needs })?;
                broker
                    .fetch(&uri.to_string(), deadline)
                    .await
                    .map_err(|source| KmsError::CredentialRefused { provider: self.provider, source })?
            }
            CredentialPlace::File(path) => read_file(path).map_err(|e| KmsError::CredentialMissing {
                provider: self.provider,
                place: self.place_name(),
                why: e.to_string(),
            })?,
        };
        if secret.len() > MAX_LEN {
            return Err(self.malformed(format!("longer than {MAX_LEN} bytes")));
        }
        Ok(secret)
    }

    /// Reads it by `deadline` as one line of visible characters; white space around it is taken off.
    ///
    /// # Errors
    /// As [`Credential::read`].
    pub(crate) async fn read_word(&self, deadline: Instant) -> Result<Zeroizing<String>, KmsError> {
        let secret = self.read(deadline).await?;
        let word = secret.expose().trim_ascii();
        if word.is_empty() || !word.iter().all(u8::is_ascii_graphic) {
            return Err(self.malformed("it is not one word of visible ASCII characters"));
        }
        // Checked above; there is nothing to replace.
        Ok(Zeroizing::new(String::from_utf8_lossy(word).into_owned()))
    }

    /// A [`KmsError::CredentialMalformed`] about this credential.
    pub(crate) fn malformed(&self, why: impl Into<String>) -> KmsError {
        KmsError::CredentialMalformed { provider: self.provider, place: self.place_name(), why: why.into() }
    }

    fn place_name(&self) -> String {
        match &self.place {
            CredentialPlace::Resource(uri) => uri.to_string(),
            CredentialPlace::File(path) => path.display().to_string(),
        }
    }
}

/// Reads a regular file, at most one byte more than [`MAX_LEN`].
fn read_file(path: &Path) -> std::io::Result<Secret> {
    // A FIFO would keep the opener waiting.
    let flags = OFlags::CLOEXEC | OFlags::RDONLY | OFlags::NONBLOCK;
    let file = fs::open(path, flags, Mode::empty())?;
    if FileType::from_raw_mode(fs::fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(std::io::Error::other("not a regular file"));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_LEN + 1));
    File::from(file).take(MAX_LEN as u64 + 1).read_to_end(&mut bytes)?;
    Ok(Secret::from(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn files_are_bounded_and_words_are_words() {
        let folder = tempfile::tempdir().unwrap();
        let credential = Credential::new("vault", None, folder.path(), "token", None);
        let deadline = Instant::now() + crate::TIME_LIMIT;
        assert_eq!(credential.read(deadline).await.unwrap_err().code(), "KMS_CREDENTIAL_MISSING");
        for (content, expected) in [
            (&b"hvs.x\n"[..], Ok("hvs.x")),
            (b"", Err("KMS_CREDENTIAL_MALFORMED")),
            (b"two words", Err("KMS_CREDENTIAL_MALFORMED")),
            (b"x\r\nX-Vault-Token: y", Err("KMS_CREDENTIAL_MALFORMED")),
            (&[b'a'; 65_537], Err("KMS_CREDENTIAL_MALFORMED")),
        ] {
            std::fs::write(folder.path().join("token"), content).unwrap();
            let word = credential.read_word(deadline).await;
            assert_eq!(
                word.as_deref().map(String::as_str).map_err(|e| e.code().to_owned()),
                expected.map_err(str::to_owned)
            );
        }
        let elsewhere = CredentialPlace::try_from("kbs:///default/kms/token".to_owned()).unwrap();
        let credential = Credential::new("vault", Some(&elsewhere), folder.path(), "token", None);
        assert_eq!(credential.read(deadline).await.unwrap_err().code(), "KMS_NOT_CONFIGURED");
        let credential = Credential::new("vault", None, Path::new("/dev"), "null", None);
        assert!(credential.read(deadline).await.unwrap_err().to_string().contains("not a regular file"));
    }
}
