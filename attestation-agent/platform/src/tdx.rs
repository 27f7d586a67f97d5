//! Intel TDX evidence: a quote through the kernel's TSM interface or from the host's quote generation service, and the
//! event logs that its registers sum up.
//!
//! The quote's layout is in the Intel TDX DCAP quoting library reference, the log's in the TCG PC client platform
//! firmware profile and UEFI 2.10 section 38. Nothing is verified here: the relying party judges signature, versions and
//! policy, and replays the log; a debug attribute is only logged.
//!
//! What the machine was launched with is asked of the TDX module where the driver lets us, because no host takes part in
//! that; else it is read from a quote, which nobody has verified at that point.

use std::path::PathBuf;
use std::sync::Once;

use cc_evidence::tdx::{Quote, TdAttributes, TdxEvidence};
use cc_evidence::{ReportData, Tee, initdata};

use crate::{AGENT_EVENT_LOG, Error, InitDataBinding, Options, Platform, Registers, SysRoot, tsm};

mod eventlog;
mod module;
mod rtmr;
pub(crate) mod service;

use service::Service;

/// The name of the guest driver at the TSM interface.
pub(crate) const PROVIDER: &str = "tdx_guest";

/// The driver's device.
pub(crate) const DEVICE: &str = "dev/tdx_guest";

/// A trust domain.
#[derive(Debug)]
pub(crate) struct Tdx {
    source: Source,
    root: SysRoot,
    /// The agent's log.
    event_log: PathBuf,
    registers: rtmr::Rtmr,
    looked_at: Once,
}

/// Where quotes come from.
#[derive(Debug)]
enum Source {
    Tsm(tsm::Client),
    Service(Service),
}

impl Tdx {
    /// A trust domain whose TSM interface is `tsm`; its device and logs are where `options` say.
    pub(crate) fn new(tsm: tsm::Client, options: &Options) -> Self {
        Self::of(Source::Tsm(tsm), options)
    }

    /// A trust domain without a TSM interface: its device and logs are where `options` say, quotes come from `service`.
    pub(crate) fn with_service(service: Service, options: &Options) -> Self {
        Self::of(Source::Service(service), options)
    }

    fn of(source: Source, options: &Options) -> Self {
        let root = options.sys_root.clone();
        let event_log = options.event_log.clone().unwrap_or_else(|| root.path(AGENT_EVENT_LOG));
        Self { source, event_log, registers: rtmr::Rtmr::new(root.clone()), root, looked_at: Once::new() }
    }

    /// A quote over `data`, checked to contain it, with its bytes.
    fn quote(&self, data: &[u8; 64]) -> Result<(Vec<u8>, Quote), Error> {
        let (bytes, quote) = match &self.source {
            Source::Tsm(client) => {
                // This driver has no privilege levels.
                let blobs = client.report(data, false)?;
                let quote = read(&blobs, data)?;
                (blobs.outblob, quote)
            }
            Source::Service(service) => service.quote(data)?,
        };
        self.looked_at.call_once(|| warn_about(quote.body.td_attributes));
        Ok((bytes, quote))
    }

    /// MRCONFIGID of this trust domain, and how good the source of it is.
    fn config_id(&self) -> Result<([u8; module::LEN], InitDataBinding), Error> {
        if let Some(found) = module::config_id(&self.root)? {
            return Ok((found, InitDataBinding::Bound));
        }
        tracing::warn!("no {DEVICE} here: init-data is compared with a quote, which the host handed over");
        Ok((self.quote(&[0; 64])?.1.body.mr_config_id, InitDataBinding::Claimed))
    }
}

impl Platform for Tdx {
    fn tee(&self) -> Tee {
        Tee::Tdx
    }

    fn evidence(&self, data: &ReportData) -> Result<String, Error> {
        // First, so that a log that cannot be used costs no quote.
        let cc_eventlog = eventlog::collect(&self.root, &self.event_log)?;
        let (quote, parsed) = self.quote(&data.padded())?;
        if let Some(log) = &cc_eventlog {
            eventlog::warn_unless_explained(log, &parsed.body.rtmr);
        }
        TdxEvidence { quote, cc_eventlog }
            .to_json()
            .map_err(|source| Error::BadEvidence { what: "TDX evidence", source })
    }

    fn bind_init_data(&self, digest: &[u8]) -> Result<InitDataBinding, Error> {
        if digest.is_empty() {
            return Err(Error::EmptyDigest);
        }
        let (found, binding) = self.config_id()?;
        let expected = initdata::fit(digest, module::LEN);
        if found.as_slice() == expected.as_slice() {
            Ok(binding)
        } else {
            Err(Error::InitDataMismatch { expected: hex::encode(&expected), found: hex::encode(found) })
        }
    }

    fn registers(&self) -> Option<&dyn Registers> {
        Some(&self.registers)
    }
}

/// Parses an answer and checks that it is the answer to `data`. Bytes after the quote are legal: some hosts hand over
/// the whole buffer.
fn read(blobs: &tsm::Blobs, data: &[u8; 64]) -> Result<Quote, Error> {
    if blobs.provider != PROVIDER {
        return Err(Error::ProviderChanged { expected: PROVIDER, found: blobs.provider.clone() });
    }
    answer(&blobs.outblob, data)
}

/// Parses a quote and checks that it is the answer to `data`.
fn answer(bytes: &[u8], data: &[u8; 64]) -> Result<Quote, Error> {
    let quote = Quote::parse(bytes).map_err(|source| Error::BadEvidence { what: "TDX quote", source })?;
    if quote.body.report_data.as_slice() != data.as_slice() {
        return Err(Error::EvidenceMismatch { what: "TDX quote" });
    }
    Ok(quote)
}

/// Logs what a relying party will probably refuse, once: the verdict is not ours.
fn warn_about(attributes: TdAttributes) {
    if attributes.debug() {
        tracing::warn!("the trust domain is in debug mode: the host can read this machine's memory");
    }
}

#[cfg(test)]
mod tests;
