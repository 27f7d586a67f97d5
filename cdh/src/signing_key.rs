//! The keys that may sign sealed secrets, and where their public halves come from.
//!
//! A sealed secret names its key (`kid`) itself, and the secret comes from the host: the name proves nothing. So the
//! configuration says which names may sign (`[sealed_secrets] signing_keys`); what is not listed is refused before anything
//! is fetched. Without the list every key that the key broker or the local folder holds may sign, as in the existing stack.
//!
//! A `kid` that is a `kbs://` URI is a resource of the key broker; any other is a file name in the local folder.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use cc_crypto::es256::VerifyingKey;
use cc_kbs::ResourceUri;
use rustix::fs::{self, FileType, Mode, OFlags, ResolveFlags};
use tokio::time::Instant;

use crate::credential::SEALED_SECRET_DIR;
use crate::error::HubError;
use crate::hub::Hub;
use crate::pattern::Pattern;

/// Longest key file read, in bytes; a JWK has 300.
const MAX_KEY_LEN: u64 = 8 * 1024;

/// Which keys may sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SigningKeys {
    /// Signatures are not looked at.
    NotVerified,
    /// Every key that is found.
    Any,
    /// Keys whose names one of the patterns covers.
    Listed(Vec<Pattern>),
}

impl SigningKeys {
    /// The public key called `kid`.
    ///
    /// # Errors
    /// [`HubError::SigningKeyRefused`] if it may not sign, [`HubError::SigningKey`] if it cannot be read, and what the
    /// hub says of a resource.
    pub async fn find(&self, kid: &str, hub: &Hub, deadline: Instant) -> Result<VerifyingKey, HubError> {
        if let Self::Listed(patterns) = self
            && !patterns.iter().any(|pattern| pattern.covers(kid))
        {
            return Err(HubError::SigningKeyRefused { kid: kid.to_owned() });
        }
        let failed = |why: String| HubError::SigningKey { kid: kid.to_owned(), why };
        let text = if kid.parse::<ResourceUri>().is_ok() {
            hub.fetch(kid, deadline).await?.into_exposed()
        } else {
            read(Path::new(SEALED_SECRET_DIR), kid).map_err(|e| failed(e.to_string()))?
        };
        VerifyingKey::from_jwk(&text).map_err(|e| failed(e.to_string()))
    }
}

/// Reads the file `name` below `folder`. Links are followed as long as they stay inside.
fn read(folder: &Path, name: &str) -> std::io::Result<Vec<u8>> {
    let flags = OFlags::CLOEXEC | OFlags::RDONLY;
    let folder =
        fs::openat2(fs::CWD, folder, flags | OFlags::DIRECTORY, Mode::empty(), ResolveFlags::NO_MAGICLINKS)?;
    // A FIFO would keep the opener waiting.
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let file = fs::openat2(&folder, name, flags | OFlags::NONBLOCK, Mode::empty(), resolve)?;
    let kind = FileType::from_raw_mode(fs::fstat(&file)?.st_mode);
    if kind != FileType::RegularFile {
        return Err(std::io::Error::other("not a regular file"));
    }
    let mut text = Vec::new();
    File::from(file).take(MAX_KEY_LEN + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_KEY_LEN {
        return Err(std::io::Error::other(format!("longer than {MAX_KEY_LEN} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn key_files_stay_in_their_folder() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("keys");
        std::fs::create_dir_all(folder.join("team")).unwrap();
        std::fs::write(root.path().join("outside"), "x").unwrap();
        std::fs::write(folder.join("inside"), "key").unwrap();
        std::fs::write(folder.join("long"), vec![b' '; 9000]).unwrap();
        symlink("inside", folder.join("link")).unwrap();
        symlink("../outside", folder.join("escape")).unwrap();
        assert_eq!(read(&folder, "inside").unwrap(), b"key");
        assert_eq!(read(&folder, "link").unwrap(), b"key", "a link that stays inside is followed");
        for bad in ["escape", "../outside", "/etc/passwd", "team", "long", "absent", "", "a\0b"] {
            assert!(read(&folder, bad).is_err(), "{bad}");
        }
    }
}
