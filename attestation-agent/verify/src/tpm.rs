//! Verification of TPM 2.0 quotes, and of the evidence of a TPM that stands alone.
//!
//! TCG "TPM 2.0 Library", part 1 (attestation) and part 2 (structures). A quote is as good as the reason to trust its
//! key: a TEE that vouches for the TPM, or, for a TPM alone, an administrator who registered the key after making sure
//! that it lives in a TPM and is restricted. Neither can be seen in a quote, so evidence by a key that nobody
//! registered is refused. Claim names are those of Trustee's TPM verifier. Which PCR values are good is the
//! matter of the appraisal.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use cc_evidence::initdata::{Field, INIT_DATA_PCR, fit};
use cc_evidence::tpm::{Attest, PCR_COUNT, Signature, TpmEvidence, digest_of_values};
use cc_evidence::{HashAlgorithm, Tee};

use crate::Rejection;

mod claims;
mod key;

pub use claims::TpmClaims;
pub use key::{AttestationKey, UnreadableKey, registered_key};

/// The hash of bank and signature.
const HASH: HashAlgorithm = HashAlgorithm::Sha256;

/// Bytes of report data in a quote of a TPM alone.
const NONCE_LEN: usize = 32;

/// What the evidence has to match.
#[derive(Clone, Copy, Debug)]
pub struct Expectation<'a> {
    /// Digest that the session binds, 1 to 64 bytes; cut or padded to the 32 bytes of the nonce.
    pub report_data: &'a [u8],
    /// Digest of the init-data document, which PCR 8 has to hold; `None` when the guest sent none.
    pub init_data_digest: Option<&'a [u8]>,
    /// The keys that are trusted, by the SHA-256 of their SubjectPublicKeyInfo; see [`registered_key`].
    pub registered_keys: &'a [[u8; 32]],
}

/// Runs all checks and gives the claims, or the first check that fails.
///
/// # Errors
/// [`Rejection::NothingExpected`], [`Rejection::Format`], [`Rejection::Tpm`] which names the check.
pub fn verify(evidence: &TpmEvidence, x: &Expectation<'_>) -> Result<TpmClaims, Rejection> {
    if x.report_data.is_empty() {
        return Err(Rejection::NothingExpected { tee: Tee::Tpm, what: "report data" });
    }
    if x.init_data_digest.is_some_and(<[u8]>::is_empty) {
        return Err(Rejection::NothingExpected { tee: Tee::Tpm, what: "init-data digest" });
    }
    let key = AttestationKey::from_spki(&evidence.ak_public)
        .map_err(|UnreadableKey(why)| refused("tpm.ak", format!("the attestation key is unusable: {why}")))?;
    if !x.registered_keys.contains(key.fingerprint()) {
        let why = format!(
            "the attestation key with the SHA-256 {} is not registered here (reference value trusted_aks): anyone can make such a key",
            hex::encode(key.fingerprint())
        );
        return Err(refused("tpm.ak_unregistered", why));
    }
    let signature = Signature::parse(&evidence.signature)
        .map_err(|e| Rejection::Format { tee: Tee::Tpm, why: e.to_string() })?;
    let nonce = fit(x.report_data, NONCE_LEN);
    let attest = verify_quote(&evidence.message, &signature, &key, &nonce, &evidence.pcrs)?;
    if let Some(digest) = x.init_data_digest {
        check_init_data(&evidence.pcrs, digest)?;
    }
    Ok(TpmClaims::new(evidence, &attest, &key))
}

/// Checks that `key` signed (RSASSA, SHA-256) the quote `message` (TPMS_ATTEST) with the nonce `qualifying`, over exactly
/// PCR 0 to 23 of the SHA-256 bank with these values. Why `key` is trusted is the caller's matter.
///
/// # Errors
/// [`Rejection::NothingExpected`] for an empty nonce, [`Rejection::Tpm`] which names the check.
pub fn verify_quote(
    message: &[u8],
    signature: &Signature,
    key: &AttestationKey,
    qualifying: &[u8],
    pcrs: &[[u8; 32]; PCR_COUNT],
) -> Result<Attest, Rejection> {
    if qualifying.is_empty() {
        return Err(Rejection::NothingExpected { tee: Tee::Tpm, what: "report data" });
    }
    verify_signature(message, signature, key)?;
    let attest = Attest::parse(message).map_err(|e| refused("tpm.quote", e.to_string()))?;
    if verify_slices_are_equal(&attest.extra_data, qualifying).is_err() {
        let why = format!(
            "its nonce is {}, expected {} (nonce, TEE key or device evidence differ)",
            hex::encode(&attest.extra_data),
            hex::encode(qualifying)
        );
        return Err(refused("tpm.report_data", why));
    }
    verify_pcrs(&attest, pcrs)?;
    Ok(attest)
}

/// Checks only that `key` signed `message`.
///
/// # Errors
/// [`Rejection::Tpm`] for another scheme than RSASSA with SHA-256, or a signature that is not the key's.
pub fn verify_signature(
    message: &[u8],
    signature: &Signature,
    key: &AttestationKey,
) -> Result<(), Rejection> {
    match signature {
        Signature::RsaSsa { hash, bytes } if *hash == HASH.tcg_id() => {
            if key.verifies(message, bytes) {
                Ok(())
            } else {
                Err(refused(
                    "tpm.signature",
                    "it was not signed by its attestation key over these bytes".to_owned(),
                ))
            }
        }
        other => Err(refused(
            "tpm.sig_algo",
            format!(
                "it is signed with {} and {}, not with rsassa and sha256",
                cc_evidence::tpm::algorithm_name(other.scheme()),
                cc_evidence::tpm::algorithm_name(other.hash())
            ),
        )),
    }
}

/// Checks only that the quote is about PCR 0 to 23 of the SHA-256 bank, and that they have these values.
///
/// # Errors
/// [`Rejection::Tpm`].
pub fn verify_pcrs(attest: &Attest, pcrs: &[[u8; 32]; PCR_COUNT]) -> Result<(), Rejection> {
    let all = |count| (0_u32..).take(count);
    let whole = match attest.selection.as_slice() {
        [bank] => bank.hash == HASH.tcg_id() && bank.pcrs().into_iter().eq(all(PCR_COUNT)),
        _ => false,
    };
    if !whole {
        let why = "it is not about exactly PCR 0 to 23 of the SHA-256 bank".to_owned();
        return Err(refused("tpm.pcr_selection", why));
    }
    let values = pcrs.map(Vec::from);
    if attest.pcr_digest != digest_of_values(HASH, &values) {
        let why = "the PCR values in the evidence are not those that were quoted".to_owned();
        return Err(refused("tpm.pcr_digest", why));
    }
    Ok(())
}

/// Checks that PCR 8 holds the `digest` of the init-data and nothing else.
///
/// # Errors
/// [`Rejection::Tpm`], also for a digest that is not 32 bytes long.
pub fn check_init_data(pcrs: &[[u8; 32]; PCR_COUNT], digest: &[u8]) -> Result<(), Rejection> {
    let expected = Field::Pcr8.expected(digest).map_err(|e| refused("tpm.init_data", e.to_string()))?;
    let found = init_data_pcr(pcrs);
    if found != expected {
        let why = format!(
            "PCR 8 is {}, the init-data that was sent gives {}",
            hex::encode(found),
            hex::encode(expected)
        );
        return Err(refused("tpm.init_data", why));
    }
    Ok(())
}

/// The value of the PCR that stands for the init-data.
pub(crate) fn init_data_pcr(pcrs: &[[u8; 32]]) -> &[u8] {
    pcrs.get(usize::from(INIT_DATA_PCR)).map(<[u8; 32]>::as_slice).unwrap_or_default()
}

fn refused(check: &'static str, why: String) -> Rejection {
    Rejection::Tpm { check, why }
}
