//! RSA signatures by a private key that comes in a PKCS#12 container (RFC 7292).
//!
//! One algorithm: RSASSA-PKCS1-v1_5 with SHA-256 (RFC 8017 section 8.2), keys of 2048 to 8192 bits. Verification is
//! [`crate::verify`]'s.

use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::RSA_PKCS1_SHA256;

use crate::{Error, Secret, pkcs12};

/// A private key that signs.
pub struct SigningKey(KeyPair);

impl SigningKey {
    /// The private key in the PKCS#12 container `der` (at most 64 KiB), which `password` (UTF-8) opens.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Malformed`] if it is no container, holds no key, or does not open with this password;
    /// [`Error::InvalidKey`] for a key that is not RSA of 2048 to 8192 bits.
    pub fn from_pkcs12(der: &[u8], password: &Secret) -> Result<Self, Error> {
        let key = pkcs12::private_key(der, password)?;
        KeyPair::from_pkcs8(key.expose())
            .map(Self)
            .map_err(|_| Error::InvalidKey { why: "not an RSA key of 2048 to 8192 bits" })
    }

    /// The signature of `message`, as long as the modulus.
    ///
    /// # Errors
    /// [`Error::Library`] if the library refuses.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let mut signature = vec![0; self.0.public_modulus_len()];
        self.0
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)
            .map_err(|_| Error::Library { doing: "signing with RSA" })?;
        Ok(signature)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rsa::SigningKey({} bits)", self.0.public_modulus_len() * 8)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::verify::PublicKey;

    const PASSWORD: &str = "pass w\u{f6}rd";

    fn password(text: &str) -> Secret {
        Secret::new(text.as_bytes().to_vec())
    }

    #[allow(clippy::disallowed_methods, reason = "another program makes what is read here")]
    fn openssl(folder: &Path, arguments: &[&str]) {
        let status = Command::new("openssl")
            .args(arguments)
            .current_dir(folder)
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "openssl {arguments:?}");
    }

    /// Containers as openssl(1) makes them, and the public key.
    fn containers(folder: &Path, key: &[&str]) -> (Vec<(&'static str, Vec<u8>)>, Vec<u8>) {
        openssl(folder, &[&["genpkey", "-out", "key.pem"], key].concat());
        openssl(folder, &["pkey", "-in", "key.pem", "-pubout", "-out", "public.pem"]);
        openssl(folder, &["req", "-x509", "-key", "key.pem", "-subj", "/CN=client", "-out", "cert.pem"]);
        let kinds: [(&str, &[&str]); 5] = [
            ("PBES2 with AES-256", &[]),
            ("PBES2 with AES-128", &["-keypbe", "AES-128-CBC", "-macalg", "sha512"]),
            ("PBES2 with AES-192", &["-keypbe", "AES-192-CBC", "-macalg", "sha384"]),
            ("3DES", &["-keypbe", "PBE-SHA1-3DES", "-certpbe", "PBE-SHA1-3DES", "-macalg", "sha1"]),
            ("no certificate", &["-nocerts", "-iter", "1"]),
        ];
        let made = kinds.map(|(what, more)| {
            let pass = format!("pass:{PASSWORD}");
            let export = ["pkcs12", "-export", "-inkey", "key.pem", "-in", "cert.pem", "-out", "out.p12"];
            openssl(folder, &[&export[..], &["-passout", &pass], more].concat());
            (what, std::fs::read(folder.join("out.p12")).unwrap())
        });
        (made.to_vec(), std::fs::read(folder.join("public.pem")).unwrap())
    }

    #[test]
    fn keys_come_out_and_sign() {
        let folder = tempfile::tempdir().unwrap();
        let (made, public) =
            containers(folder.path(), &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]);
        let public = PublicKey::from_pem(&public).unwrap();
        for (what, container) in made {
            let key = SigningKey::from_pkcs12(&container, &password(PASSWORD)).expect(what);
            let signature = key.sign(b"message").unwrap();
            assert_eq!(signature.len(), 256);
            public.verify(b"message", &signature).expect(what);
            assert_eq!(format!("{key:?}"), "rsa::SigningKey(2048 bits)");
            for wrong in ["", "pass", "pass w\u{f6}rd\0", "pass w\u{f6}rd\0x"] {
                let error = SigningKey::from_pkcs12(&container, &password(wrong)).unwrap_err();
                assert_eq!(error.code(), "CRYPTO_MALFORMED", "{what} {wrong:?}");
            }
            for end in [0, 1, 20, container.len() / 2, container.len() - 1] {
                assert!(SigningKey::from_pkcs12(&container[..end], &password(PASSWORD)).is_err());
            }
            // Whatever byte is changed, the integrity check or the reader sees it, or it changes nothing.
            for place in 0..container.len() {
                let mut damaged = container.clone();
                damaged[place] ^= 1;
                if let Ok(key) = SigningKey::from_pkcs12(&damaged, &password(PASSWORD)) {
                    assert_eq!(key.sign(b"message").unwrap(), signature, "{what} {place}");
                }
            }
        }
        let long = SigningKey::from_pkcs12(&[0x30; 65_537], &password(PASSWORD));
        assert_eq!(long.unwrap_err().code(), "CRYPTO_TOO_LARGE");
    }

    #[test]
    fn other_keys_and_encryptions_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (made, _) =
            containers(folder.path(), &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        let error = SigningKey::from_pkcs12(&made[0].1, &password(PASSWORD)).unwrap_err();
        assert_eq!(error.code(), "CRYPTO_INVALID_KEY");
        let pass = format!("pass:{PASSWORD}");
        let more = ["-keypbe", "CAMELLIA-256-CBC", "-passout", &pass, "-out", "out.p12"];
        openssl(
            folder.path(),
            &[&["pkcs12", "-export", "-inkey", "key.pem", "-nocerts"][..], &more].concat(),
        );
        let other = std::fs::read(folder.path().join("out.p12")).unwrap();
        let error = SigningKey::from_pkcs12(&other, &password(PASSWORD)).unwrap_err();
        assert!(error.to_string().contains("not AES-CBC"), "{error}");
    }
}
