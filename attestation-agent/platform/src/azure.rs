//! Azure confidential machines: SEV-SNP or TDX below a paravisor that gives the guest a virtual TPM.
//!
//! The guest writes report data into an index of the TPM; the paravisor puts them into the runtime data of a new HCL
//! report, for whose hash the hardware vouches; the TPM quotes over the same report data. The chip's certificate and
//! quotes over a TDREPORT come from the metadata service ([`metadata`]). Indices and handles: Microsoft's "Guest
//! attestation for Confidential VMs"; shape of the evidence: the Azure attesters of the guest components.
//!
//! Nothing is verified here: signatures, versions and policy are the relying party's. What is checked is that the parts
//! answer the question that was asked and belong together; evidence that does not is not given out.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use cc_evidence::azure::{AzureEvidence, EvidenceVersion, Hardware, HclReport, MAX_HCL_LEN, TpmQuote};
use cc_evidence::snp::Report;
use cc_evidence::tdx::Quote as TdQuote;
use cc_evidence::tpm::{KeyKind, PCR_COUNT, PCRS, Public, Signature};
use cc_evidence::{ReportData, Tee};

use crate::tpm::{BANK, Bank, Device, TpmError};
use crate::{Error, InitDataBinding, Platform, Registers};

mod error;
mod http;
pub mod metadata;

pub use error::AzureError;
use metadata::MetadataUrl;

/// Index of the HCL report.
const HCL_INDEX: u32 = 0x0140_0001;

/// Index that takes report data.
const REPORT_DATA_INDEX: u32 = 0x0140_0002;

/// Persistent handle of the attestation key.
const AK_HANDLE: u32 = 0x8100_0003;

/// How long written report data may take to show; some three seconds are usual.
const SHOW_LIMIT: Duration = Duration::from_secs(15);

/// Pause between two looks at the HCL report.
const GLANCE: Duration = Duration::from_millis(100);

/// How long a certificate of the service is used again: handshakes come every few minutes at most.
const KEEP_VCEK: Duration = Duration::from_secs(10 * 60);

/// How often a report is looked at that cannot be used.
const LOOKS: u32 = 3;

/// What the configuration says about Azure machines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AzureOptions {
    /// Where the metadata service is.
    pub metadata_url: MetadataUrl,
}

/// A confidential machine of Azure.
#[derive(Debug)]
pub(crate) struct Azure {
    tee: Tee,
    bank: Bank,
    metadata_url: MetadataUrl,
    limit: Duration,
    /// The chip's certificate, as the service gave it last.
    vcek: Mutex<Option<KeptVcek>>,
}

/// A VCEK certificate for some time.
#[derive(Debug)]
struct KeptVcek {
    wanted: VcekFor,
    certificate: Vec<u8>,
    since: Instant,
}

impl KeptVcek {
    /// Whether it will do for `wanted` at `now`.
    fn serves(&self, wanted: VcekFor, now: Instant) -> bool {
        self.wanted == wanted && now.saturating_duration_since(self.since) < KEEP_VCEK
    }
}

/// Chip and firmware level that a VCEK certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct VcekFor {
    chip_id: [u8; 64],
    reported_tcb: [u8; 8],
}

/// Looks for an HCL report in the TPM `device`; none if it has no index for one. One request takes `limit` at most.
///
/// # Errors
/// There is something at the index that cannot be used: such a machine must not turn into another platform.
pub(crate) fn find(device: Device, options: &AzureOptions, limit: Duration) -> Result<Option<Azure>, Error> {
    let bytes = match device.nv_read(HCL_INDEX, MAX_HCL_LEN) {
        Err(Error::Tpm(TpmError::NvAbsent { .. })) => return Ok(None),
        other => other?,
    };
    let tee = parse(&bytes)?.tee();
    let metadata_url = options.metadata_url.clone();
    Ok(Some(Azure { tee, bank: Bank(device), metadata_url, limit, vcek: Mutex::new(None) }))
}

impl Azure {
    /// An HCL report in whose runtime data `data` stands, for whose hash the hardware vouches. Empty data are no
    /// question: whatever report there is answers it.
    fn hcl_report(&self, data: &ReportData, deadline: Instant) -> Result<(Vec<u8>, HclReport), Error> {
        if !data.as_bytes().is_empty() {
            self.bank.0.nv_define_write(REPORT_DATA_INDEX, &data.padded())?;
        }
        let start = Instant::now();
        let limit = deadline.min(start + SHOW_LIMIT);
        let mut unusable = 0;
        loop {
            let bytes = self.bank.0.nv_read(HCL_INDEX, MAX_HCL_LEN)?;
            match self.check(&bytes, data) {
                Ok(Some(hcl)) => return Ok((bytes, hcl)),
                Ok(None) => {}
                // The paravisor may have written while the parts were read.
                Err(error) => {
                    unusable += 1;
                    if unusable == LOOKS {
                        return Err(error);
                    }
                }
            }
            if Instant::now() + GLANCE >= limit {
                return Err(AzureError::UserDataMissing { waited: start.elapsed() }.into());
            }
            wait(GLANCE);
        }
    }

    /// The report in `bytes`; none while it does not hold `data`.
    fn check(&self, bytes: &[u8], data: &ReportData) -> Result<Option<HclReport>, Error> {
        let hcl = parse(bytes)?;
        if hcl.tee() != self.tee {
            let (expected, found) = (self.tee.as_str(), hcl.tee().as_str());
            return Err(AzureError::HardwareChanged { expected, found }.into());
        }
        if !hcl.binds_runtime_data() {
            return Err(AzureError::RuntimeDataUnbound.into());
        }
        let answers = data.as_bytes().is_empty() || hcl.runtime().has_user_data(data.as_bytes());
        Ok(answers.then_some(hcl))
    }

    /// A quote over `data` by the key that `hcl` names.
    fn tpm_quote(&self, data: &ReportData, hcl: &HclReport) -> Result<TpmQuote, Error> {
        if !is_named(hcl, &self.bank.0.public(AK_HANDLE)?) {
            return Err(AzureError::OtherKey { handle: AK_HANDLE }.into());
        }
        let all: Vec<u32> = (0..PCRS).collect();
        let quote = self.bank.0.quote(AK_HANDLE, data.as_bytes(), BANK, &all)?;
        let malformed = |source| Error::BadEvidence { what: "TPM signature", source };
        let unfit = |why: &str| TpmError::KeyUnfit { handle: AK_HANDLE, why: why.to_owned() };
        let signature = match Signature::parse(&quote.signature).map_err(malformed)? {
            Signature::RsaSsa { bytes, .. } => bytes,
            _ => return Err(unfit("its scheme is not RSASSA").into()),
        };
        let pcrs: Vec<[u8; 32]> =
            quote.pcrs.iter().filter_map(|value| value.as_slice().try_into().ok()).collect();
        let pcrs: [[u8; 32]; PCR_COUNT] = pcrs.try_into().map_err(|_| TpmError::NoBank { hash: BANK })?;
        Ok(TpmQuote { signature, message: quote.attest, pcrs })
    }

    /// What makes the hardware's report verifiable for others.
    fn endorsement(&self, hcl: &HclReport, deadline: Instant) -> Result<Vec<u8>, Error> {
        match hcl.hardware() {
            Hardware::Snp(report) => self.vcek(report, deadline),
            Hardware::Tdx(_) => {
                let quote = metadata::td_quote(&self.metadata_url, hcl.hardware_bytes(), deadline)?;
                let read = TdQuote::parse(&quote).map_err(|source| Error::BadEvidence {
                    what: "TDX quote of the metadata service",
                    source,
                })?;
                if read.body.report_data != *hcl.report_data() {
                    return Err(Error::EvidenceMismatch { what: "TDX quote of the metadata service" });
                }
                Ok(quote)
            }
        }
    }

    /// The certificate does not change while chip and firmware stay, and each look at the service costs a round trip. Nobody
    /// here looks at whether it belongs to the report: one that does not is forgotten after a while.
    fn vcek(&self, report: &Report, deadline: Instant) -> Result<Vec<u8>, Error> {
        let wanted = VcekFor { chip_id: report.chip_id, reported_tcb: report.reported_tcb.raw };
        // Requests are made one at a time; a wait here would be one for the same certificate.
        let mut kept = self.vcek.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = kept.as_ref().filter(|kept| kept.serves(wanted, Instant::now())) {
            return Ok(kept.certificate.clone());
        }
        let certificate = metadata::vcek(&self.metadata_url, deadline)?;
        *kept = Some(KeptVcek { wanted, certificate: certificate.clone(), since: Instant::now() });
        Ok(certificate)
    }
}

impl Platform for Azure {
    fn tee(&self) -> Tee {
        self.tee
    }

    fn evidence(&self, data: &ReportData) -> Result<String, Error> {
        let deadline = Instant::now() + self.limit;
        let (hcl_report, hcl) = self.hcl_report(data, deadline)?;
        let quote = self.tpm_quote(data, &hcl)?;
        let endorsement = self.endorsement(&hcl, deadline)?;
        AzureEvidence { version: EvidenceVersion::V2, tee: self.tee, quote, hcl_report, endorsement }
            .to_json()
            .map_err(|source| Error::BadEvidence { what: "Azure evidence", source })
    }

    /// The hardware vouches for the TPM.
    fn bind_init_data(&self, digest: &[u8]) -> Result<InitDataBinding, Error> {
        self.bank.bind_init_data(digest).map(|()| InitDataBinding::Bound)
    }

    fn registers(&self) -> Option<&dyn Registers> {
        Some(&self.bank)
    }
}

/// Whether the runtime data names `key`.
fn is_named(hcl: &HclReport, key: &Public) -> bool {
    let KeyKind::Rsa(rsa) = &key.key else { return false };
    let ak = &hcl.runtime().ak;
    let plain = |number: &[u8]| number.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<u8>>();
    ak.modulus == plain(&rsa.modulus) && ak.exponent == plain(&rsa.public_exponent().to_be_bytes())
}

fn parse(bytes: &[u8]) -> Result<HclReport, Error> {
    HclReport::parse(bytes).map_err(|source| Error::BadEvidence { what: "HCL report", source })
}

#[allow(clippy::disallowed_methods, reason = "a device thread waits for the paravisor")]
fn wait(pause: Duration) {
    std::thread::sleep(pause);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_kept_for_its_chip_and_firmware_and_not_for_ever() {
        let wanted = VcekFor { chip_id: [1; 64], reported_tcb: [2; 8] };
        let since = Instant::now();
        let kept = KeptVcek { wanted, certificate: Vec::new(), since };
        assert!(kept.serves(wanted, since) && kept.serves(wanted, since + KEEP_VCEK / 2));
        assert!(!kept.serves(wanted, since + KEEP_VCEK), "a wrong one would be sent until the next start");
        assert!(!kept.serves(VcekFor { chip_id: [3; 64], ..wanted }, since));
        assert!(!kept.serves(VcekFor { reported_tcb: [3; 8], ..wanted }, since));
    }
}
