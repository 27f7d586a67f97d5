//! AMD SEV-SNP evidence, through the kernel's TSM interface or the guest driver's own device.
//!
//! The report's layout is in AMD publication 56860 (SEV-SNP firmware ABI), the certificate table's in the guest
//! hypervisor communication block specification (56421). The report is asked for at the lowest-numbered level
//! that the guest may use. Nothing is verified here: the relying party judges signature, versions and policy;
//! a debug policy or a privilege level other than 0 is only logged.

use std::sync::Once;

use cc_evidence::snp::{REPORT_LEN, Report, SnpEvidence, cert_table};
use cc_evidence::{ReportData, Tee, initdata};

use crate::{Error, InitDataBinding, Platform, tsm};

pub(crate) mod device;

use device::Device;

/// The name of the guest driver at the TSM interface.
pub(crate) const PROVIDER: &str = "sev_guest";

/// Bytes of host data in a report.
const HOST_DATA_LEN: usize = 32;

/// An SEV-SNP guest.
#[derive(Debug)]
pub(crate) struct Snp {
    source: Source,
    looked_at: Once,
}

/// Where reports come from.
#[derive(Debug)]
enum Source {
    Tsm(tsm::Client),
    Device(Device),
}

impl Snp {
    /// A guest whose TSM interface is `tsm`.
    pub(crate) fn new(tsm: tsm::Client) -> Self {
        Self { source: Source::Tsm(tsm), looked_at: Once::new() }
    }

    /// A guest whose driver has the device `device` and no TSM interface.
    pub(crate) fn with_device(device: Device) -> Self {
        Self { source: Source::Device(device), looked_at: Once::new() }
    }

    /// A report over `data`, checked to contain it, and the certificates that came with it.
    fn ask(&self, data: &[u8; 64]) -> Result<SnpEvidence, Error> {
        let blobs = match &self.source {
            Source::Tsm(client) => client.report(data, true)?,
            Source::Device(device) => device.report(data)?,
        };
        let evidence = read(&blobs, data)?;
        self.looked_at.call_once(|| warn_about(&evidence.report));
        Ok(evidence)
    }
}

impl Platform for Snp {
    fn tee(&self) -> Tee {
        Tee::Snp
    }

    fn evidence(&self, data: &ReportData) -> Result<String, Error> {
        let evidence = self.ask(&data.padded())?;
        evidence.to_json().map_err(|source| Error::BadEvidence { what: "SNP evidence", source })
    }

    fn bind_init_data(&self, digest: &[u8]) -> Result<InitDataBinding, Error> {
        if digest.is_empty() {
            return Err(Error::EmptyDigest);
        }
        let report = self.ask(&[0; 64])?.report;
        let expected = initdata::fit(digest, HOST_DATA_LEN);
        if report.host_data.as_slice() == expected.as_slice() {
            Ok(InitDataBinding::Bound)
        } else {
            Err(Error::InitDataMismatch {
                expected: hex::encode(&expected),
                found: hex::encode(report.host_data.as_slice()),
            })
        }
    }
}

/// Parses an answer and checks that it is the answer to `data`.
fn read(blobs: &tsm::Blobs, data: &[u8; 64]) -> Result<SnpEvidence, Error> {
    if blobs.provider != PROVIDER {
        return Err(Error::ProviderChanged { expected: PROVIDER, found: blobs.provider.clone() });
    }
    if blobs.outblob.len() != REPORT_LEN {
        let reason = format!("{} bytes, an SNP report has {REPORT_LEN}", blobs.outblob.len());
        return Err(Error::TsmMalformed { attribute: "outblob", reason });
    }
    let report =
        Report::parse(&blobs.outblob).map_err(|source| Error::BadEvidence { what: "SNP report", source })?;
    if report.report_data.as_slice() != data.as_slice() {
        return Err(Error::EvidenceMismatch { what: "SNP report" });
    }
    // No bytes at all: the host has no certificates, which is normal.
    let certs = if blobs.auxblob.is_empty() {
        Vec::new()
    } else {
        cert_table::parse(&blobs.auxblob)
            .map_err(|source| Error::BadEvidence { what: "SNP certificate table", source })?
    };
    Ok(SnpEvidence { report, certs })
}

/// Logs what a relying party will probably refuse, once: the verdict is not ours.
fn warn_about(report: &Report) {
    if report.policy.debug_allowed() {
        tracing::warn!("the guest policy allows debugging: the host can read this machine's memory");
    }
    if report.vmpl != 0 {
        tracing::warn!(
            vmpl = report.vmpl,
            "the report is not from privilege level 0; relying parties may refuse it"
        );
    }
}

#[cfg(test)]
mod tests {
    use cc_evidence::snp::{CertEntry, CertKind};
    use proptest::prelude::*;

    use super::*;

    const ASKED: [u8; 64] = [0xA5; 64];

    /// A report of version 3 with nothing but report data in it, at its place in publication 56860.
    fn blobs() -> tsm::Blobs {
        let mut outblob = vec![0u8; REPORT_LEN];
        outblob[0] = 3;
        outblob[0x188] = 0x19;
        outblob[0x50..0x90].copy_from_slice(&ASKED);
        tsm::Blobs { outblob, auxblob: Vec::new(), provider: PROVIDER.to_owned() }
    }

    #[test]
    fn the_answer_to_the_question_is_accepted() {
        let evidence = read(&blobs(), &ASKED).unwrap();
        assert!(evidence.certs.is_empty());
        assert_eq!(evidence.report.report_data.as_slice(), ASKED);
    }

    #[test]
    fn other_answers_are_refused() {
        let code = |change: &dyn Fn(&mut tsm::Blobs)| {
            let mut blobs = blobs();
            change(&mut blobs);
            read(&blobs, &ASKED).unwrap_err().code()
        };
        assert_eq!(code(&|b| b.outblob[0x50] ^= 1), "EVIDENCE_MISMATCH");
        assert_eq!(code(&|b| b.outblob[0x8F] ^= 0x80), "EVIDENCE_MISMATCH");
        assert_eq!(code(&|b| b.outblob.truncate(1183)), "TSM_MALFORMED");
        assert_eq!(code(&|b| b.outblob.push(0)), "TSM_MALFORMED");
        assert_eq!(code(&|b| b.provider = "tdx_guest".to_owned()), "TSM_PROVIDER_CHANGED");
        assert_eq!(code(&|b| b.auxblob = vec![0xFF; 24]), "EVIDENCE_MALFORMED");
        assert_eq!(code(&|b| b.auxblob = vec![0; 5]), "EVIDENCE_MALFORMED");
    }

    /// A machine of a cloud provider: the report is signed by the provider's key, whose certificate is in the table. The
    /// driver's device hands out the whole buffer.
    #[test]
    fn a_recorded_report_of_a_cloud_provider_goes_out_with_its_certificate() {
        let Some(folder) = cc_vectors::folder("snp-milan-v3-vlek") else { return };
        let outblob = std::fs::read(folder.join("report.bin")).unwrap();
        let vlek = CertEntry { kind: CertKind::Vlek, data: std::fs::read(folder.join("vlek.der")).unwrap() };
        let mut auxblob = cert_table::encode(std::slice::from_ref(&vlek)).unwrap();
        auxblob.resize(16 * 1024, 0);
        let asked = outblob[0x50..0x90].try_into().unwrap();
        let blobs = tsm::Blobs { outblob, auxblob, provider: PROVIDER.to_owned() };
        let evidence = read(&blobs, &asked).unwrap();
        assert_eq!((evidence.report.vmpl, &evidence.certs), (1, &vec![vlek]));
        assert!(evidence.to_json().unwrap().contains(r#""cert_type":"VLEK""#));
    }

    proptest! {
        #[test]
        fn whatever_the_hardware_says_is_refused_without_panic(
            outblob in proptest::collection::vec(any::<u8>(), 0..=REPORT_LEN + 1),
            auxblob in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let answer = tsm::Blobs { outblob, auxblob, provider: PROVIDER.to_owned() };
            prop_assert!(read(&answer, &ASKED).is_err());
        }

        #[test]
        fn any_certificate_table_is_read_without_panic(auxblob in proptest::collection::vec(any::<u8>(), 0..400)) {
            let answer = tsm::Blobs { auxblob, ..blobs() };
            let _ = read(&answer, &ASKED);
        }
    }
}
