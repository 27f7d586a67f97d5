//! Intel TDX evidence: a quote through the kernel's TSM interface, and the event logs that its registers sum up.
//!
//! The quote's layout is in the Intel TDX DCAP quoting library reference, the log's in the TCG PC client platform
//! firmware profile and UEFI 2.10 section 38. Nothing is verified here: the relying party judges signature, versions and
//! policy, and replays the log; a debug attribute is only logged.
//!
//! What the machine was launched with is read from a report of the TDX module where the driver's device is there,
//! because no host takes part in that; else from a quote.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Once;

use cc_evidence::tdx::{Quote, TdAttributes, TdReport, TdxEvidence};
use cc_evidence::{ReportData, Tee, initdata};

use crate::{Error, InitDataBinding, Platform, SysRoot, sys, tsm};

mod eventlog;

/// The name of the guest driver at the TSM interface.
pub(crate) const PROVIDER: &str = "tdx_guest";

/// The driver's device.
pub(crate) const DEVICE: &str = "dev/tdx_guest";

/// Bytes of MRCONFIGID.
const CONFIG_ID_LEN: usize = 48;

/// A trust domain.
#[derive(Debug)]
pub(crate) struct Tdx {
    tsm: tsm::Client,
    root: SysRoot,
    looked_at: Once,
}

impl Tdx {
    /// A trust domain whose TSM interface is `tsm`; its device and logs are below `root`.
    pub(crate) fn new(tsm: tsm::Client, root: SysRoot) -> Self {
        Self { tsm, root, looked_at: Once::new() }
    }

    /// A quote over `data`, checked to contain it, with its bytes.
    fn quote(&self, data: &[u8; 64]) -> Result<(Vec<u8>, Quote), Error> {
        // This driver has no privilege levels.
        let blobs = self.tsm.report(data, false)?;
        let quote = read(&blobs, data)?;
        self.looked_at.call_once(|| warn_about(quote.body.td_attributes));
        Ok((blobs.outblob, quote))
    }

    /// MRCONFIGID of this trust domain.
    fn config_id(&self) -> Result<[u8; CONFIG_ID_LEN], Error> {
        let path = self.root.path(DEVICE);
        match td_report(&path) {
            Ok(Some(report)) => Ok(report.td_info.mr_config_id),
            Ok(None) => Ok(self.quote(&[0; 64])?.1.body.mr_config_id),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "no TDREPORT; init-data is compared with a quote");
                Ok(self.quote(&[0; 64])?.1.body.mr_config_id)
            }
        }
    }
}

impl Platform for Tdx {
    fn tee(&self) -> Tee {
        Tee::Tdx
    }

    fn evidence(&self, data: &ReportData) -> Result<String, Error> {
        let cc_eventlog = eventlog::collect(&self.root)?;
        let (quote, _) = self.quote(&data.padded())?;
        TdxEvidence { quote, cc_eventlog }
            .to_json()
            .map_err(|source| Error::BadEvidence { what: "TDX evidence", source })
    }

    fn bind_init_data(&self, digest: &[u8]) -> Result<InitDataBinding, Error> {
        if digest.is_empty() {
            return Err(Error::EmptyDigest);
        }
        let found = self.config_id()?;
        let expected = initdata::fit(digest, CONFIG_ID_LEN);
        if found.as_slice() == expected.as_slice() {
            Ok(InitDataBinding::Bound)
        } else {
            Err(Error::InitDataMismatch { expected: hex::encode(&expected), found: hex::encode(found) })
        }
    }
}

/// Parses an answer and checks that it is the answer to `data`. Bytes after the quote are legal: some hosts hand over
/// the whole buffer.
fn read(blobs: &tsm::Blobs, data: &[u8; 64]) -> Result<Quote, Error> {
    if blobs.provider != PROVIDER {
        return Err(Error::ProviderChanged { expected: PROVIDER, found: blobs.provider.clone() });
    }
    let quote =
        Quote::parse(&blobs.outblob).map_err(|source| Error::BadEvidence { what: "TDX quote", source })?;
    if quote.body.report_data.as_slice() != data.as_slice() {
        return Err(Error::EvidenceMismatch { what: "TDX quote" });
    }
    Ok(quote)
}

/// A report of the TDX module; none if there is no device.
fn td_report(path: &PathBuf) -> Result<Option<TdReport>, Error> {
    let asked = [0; 64];
    let failed = |source| Error::Device { path: path.clone(), source };
    let device = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed)?,
    };
    let bytes = sys::td_report(&device, &asked).map_err(failed)?;
    let report = TdReport::parse(&bytes).map_err(|source| Error::BadEvidence { what: "TDREPORT", source })?;
    if report.report_data != asked || !report.td_info_intact() {
        return Err(Error::EvidenceMismatch { what: "TDREPORT" });
    }
    Ok(Some(report))
}

/// Logs what a relying party will probably refuse, once: the verdict is not ours.
fn warn_about(attributes: TdAttributes) {
    if attributes.debug() {
        tracing::warn!("the trust domain is in debug mode: the host can read this machine's memory");
    }
}

#[cfg(test)]
mod tests;
