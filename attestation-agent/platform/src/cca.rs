//! Arm CCA evidence through the kernel's TSM interface.
//!
//! The attestation token's layout is in Arm's realm management monitor specification (DEN0137) and
//! draft-ffm-rats-cca-token. A realm has measurement registers of its own, but the kernel gives no way to extend them;
//! its personalization value is whatever the host launched it with and is NOT compared with init-data here.
//! Nothing is verified: the relying party judges signatures, platform and measurements.

use cc_evidence::cca::{CcaEvidence, Token};
use cc_evidence::{ReportData, Tee};

use crate::{Error, InitDataBinding, Platform, tsm};

/// The name of the guest driver at the TSM interface.
pub(crate) const PROVIDER: &str = "arm_cca_guest";

/// A realm.
#[derive(Debug)]
pub(crate) struct Cca {
    tsm: tsm::Client,
}

impl Cca {
    /// A realm whose TSM interface is `tsm`.
    pub(crate) fn new(tsm: tsm::Client) -> Self {
        Self { tsm }
    }
}

impl Platform for Cca {
    fn tee(&self) -> Tee {
        Tee::Cca
    }

    fn evidence(&self, data: &ReportData) -> Result<String, Error> {
        let data = data.padded();
        // This driver has no privilege levels.
        let blobs = self.tsm.report(&data, false)?;
        check(&blobs, &data)?;
        CcaEvidence { token: blobs.outblob }
            .to_json()
            .map_err(|source| Error::BadEvidence { what: "CCA evidence", source })
    }

    fn bind_init_data(&self, digest: &[u8]) -> Result<InitDataBinding, Error> {
        if digest.is_empty() { Err(Error::EmptyDigest) } else { Ok(InitDataBinding::Unsupported) }
    }
}

/// Parses an answer and checks that it is the answer to `data`.
fn check(blobs: &tsm::Blobs, data: &[u8; 64]) -> Result<(), Error> {
    if blobs.provider != PROVIDER {
        return Err(Error::ProviderChanged { expected: PROVIDER, found: blobs.provider.clone() });
    }
    let token =
        Token::parse(&blobs.outblob).map_err(|source| Error::BadEvidence { what: "CCA token", source })?;
    if token.realm.claims.challenge != *data {
        return Err(Error::EvidenceMismatch { what: "CCA token" });
    }
    Ok(())
}
