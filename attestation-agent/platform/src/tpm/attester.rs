//! The platform `tpm`: a quote over all PCRs by an attestation key that an administrator made.
//!
//! It stands alone: nothing ties the TPM to a TEE. On a virtual machine it belongs to the host, which can make it say
//! anything, unless a TEE endorses it; the relying party has to know the key from elsewhere. Shape of the evidence: the
//! `tpm` attester of the guest components.

use std::sync::atomic::{AtomicBool, Ordering};

use cc_evidence::tpm::{ALG_RSASSA, KeyKind, PCRS, Public, TpmEvidence};
use cc_evidence::{ReportData, Tee};

use super::bank::{BANK, Bank};
use super::{Device, TpmError, key};
use crate::{Error, InitDataBinding, Platform, Registers};

/// Bytes of report data in a quote.
const NONCE_LEN: usize = 32;

/// Persistent handles (TPM_HT_PERSISTENT): a key elsewhere does not outlive the program that loaded it.
const PERSISTENT: std::ops::RangeInclusive<u32> = 0x8100_0000..=0x81FF_FFFF;

/// Fewest bits of an attestation key.
const MIN_BITS: u16 = 2048;

/// A TPM with an attestation key.
#[derive(Debug)]
pub(crate) struct Tpm {
    bank: Bank,
    ak: u32,
    /// The key's password is not the empty one: each further attempt would count towards a lockout of the TPM.
    locked: AtomicBool,
}

impl Tpm {
    /// The TPM `device`, whose key at the handle `ak` is looked at.
    pub(super) fn new(device: Device, ak: u32) -> Result<Self, Error> {
        if !PERSISTENT.contains(&ak) {
            let why = "it is not a persistent handle (0x81000000 to 0x81ffffff)".to_owned();
            return Err(TpmError::KeyUnfit { handle: ak, why }.into());
        }
        device.run(|link| check_key(ak, &key::public(link, ak)?.public))?;
        Ok(Self { bank: Bank(device), ak, locked: AtomicBool::new(false) })
    }
}

impl Platform for Tpm {
    fn tee(&self) -> Tee {
        Tee::Tpm
    }

    fn evidence(&self, data: &ReportData) -> Result<String, Error> {
        if self.locked.load(Ordering::Relaxed) {
            return Err(TpmError::NotAgain { handle: self.ak }.into());
        }
        let nonce = *data.padded().first_chunk::<NONCE_LEN>().unwrap_or(&[0; NONCE_LEN]);
        let evidence = self.bank.0.run(|link| {
            let named = key::public(link, self.ak)?;
            check_key(self.ak, &named.public)?;
            let all: Vec<u32> = (0..PCRS).collect();
            let quote = key::quote(link, self.ak, &nonce, BANK, &all).inspect_err(|error| {
                let refused = matches!(error, TpmError::Authorization { .. });
                self.locked.fetch_or(refused, Ordering::Relaxed);
            })?;
            quote.check_signer(&named)?;
            let unfit = |why: &str| TpmError::KeyUnfit { handle: self.ak, why: why.to_owned() };
            let pcrs: Vec<[u8; 32]> =
                quote.pcrs.iter().filter_map(|value| value.as_slice().try_into().ok()).collect();
            Ok(TpmEvidence {
                signature: quote.signature,
                message: quote.attest,
                pcrs: pcrs.try_into().map_err(|_| TpmError::NoBank { hash: BANK })?,
                ak_public: named.public.rsa_spki_der().ok_or_else(|| unfit("it is no RSA key"))?,
            })
        })?;
        evidence.to_json().map_err(|source| Error::BadEvidence { what: "TPM evidence", source })
    }

    /// The TPM of a virtual machine is the host's program, and nothing here tells it from a chip: its word is for a relying
    /// party that knows its key.
    fn bind_init_data(&self, digest: &[u8]) -> Result<InitDataBinding, Error> {
        self.bank.bind_init_data(digest).map(|()| InitDataBinding::Claimed)
    }

    fn registers(&self) -> Option<&dyn Registers> {
        Some(&self.bank)
    }
}

/// That quotes by this key mean something, and that relying parties can check them.
fn check_key(handle: u32, public: &Public) -> Result<(), TpmError> {
    let unfit = |why: String| Err(TpmError::KeyUnfit { handle, why });
    let KeyKind::Rsa(rsa) = &public.key else {
        return unfit("it is an elliptic curve key, evidence of this kind is signed by RSA".to_owned());
    };
    if rsa.bits < MIN_BITS {
        return unfit(format!("it has {} bits, fewer than {MIN_BITS}", rsa.bits));
    }
    if !public.is_restricted_signer() {
        return unfit(
            "it is not a restricted signing key: it would sign anything, not only what its TPM made"
                .to_owned(),
        );
    }
    if rsa.scheme.is_some_and(|scheme| scheme != (ALG_RSASSA, Some(BANK.tcg_id()))) {
        return unfit("its scheme is not RSASSA with SHA-256".to_owned());
    }
    Ok(())
}
