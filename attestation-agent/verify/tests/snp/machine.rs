//! A machine that signs reports with a leaf key of the test authority.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use cc_evidence::snp::{
    CertEntry, CertKind, CpuId, Fields, KeyInfo, PlatformInfo, Policy, REPORT_LEN, Report, SIGNED_LEN,
    SnpEvidence, Tcb,
};
use cc_verify::snp::{Expectation, SnpClaims, verify};
use cc_verify::{Rejection, TrustRoots};

use crate::authority::{Authority, LeafSpec, NOW, good_leaf};

pub(crate) const REPORT_DATA: [u8; 48] = [0xD1; 48];
pub(crate) const INIT_DATA: [u8; 48] = [0x1D; 48];
pub(crate) const CHIP_ID: [u8; 64] = [0xC1; 64];

/// A machine in a state that verifies; tests spoil one thing.
pub(crate) struct Machine {
    pub(crate) key: EcdsaKeyPair,
    pub(crate) leaf: LeafSpec,
    pub(crate) fields: Fields,
}

impl Machine {
    /// A Milan machine with a VCEK.
    pub(crate) fn new(authority: &Authority) -> Self {
        let mut blank = [0; REPORT_LEN];
        blank[0] = 3;
        let mut fields = Report::parse(&blank).unwrap().fields().clone();
        fields.policy = Policy(0x3_001F);
        fields.sig_algo = 1;
        fields.platform_info = PlatformInfo(0x25);
        fields.report_data[..48].copy_from_slice(&REPORT_DATA);
        fields.host_data.copy_from_slice(&INIT_DATA[..32]);
        fields.measurement = [0x3E; 48];
        fields.cpuid = Some(CpuId { family: 0x19, model: 0x01, stepping: 1 });
        fields.reported_tcb = Tcb::from_parts(None, 10, 0, 23, 206);
        fields.chip_id = CHIP_ID;
        Machine {
            key: EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap(),
            leaf: good_leaf(authority, &CHIP_ID),
            fields,
        }
    }

    /// The same with a VLEK: no chip in report or certificate.
    pub(crate) fn with_vlek(authority: &Authority) -> Self {
        let mut machine = Self::new(authority);
        machine.fields.key_info = KeyInfo(1 << 2);
        machine.fields.chip_id = [0; 64];
        machine.leaf.issuer.clone_from(&authority.asvk.name);
        machine.leaf.subject = "SEV-VLEK";
        machine.leaf.hw_id = None;
        machine
    }

    /// The signed report.
    pub(crate) fn report(&self) -> Report {
        let mut raw = self.fields.encode();
        let signature = self.key.sign(&SystemRandom::new(), &raw[..SIGNED_LEN]).unwrap();
        let (r, s) = signature.as_ref().split_at(48);
        for (offset, number) in [(0x2A0, r), (0x2E8, s)] {
            raw[offset..offset + 48].copy_from_slice(number);
            raw[offset..offset + 48].reverse();
        }
        Report::parse(&raw).unwrap()
    }

    /// The leaf certificate from the authority that its kind belongs to.
    pub(crate) fn leaf_certificate(&self, authority: &Authority) -> CertEntry {
        let vlek = self.leaf.subject == "SEV-VLEK";
        let (kind, signer) =
            if vlek { (CertKind::Vlek, &authority.asvk) } else { (CertKind::Vcek, &authority.ask) };
        CertEntry { kind, data: self.leaf.sign(signer, self.key.public_key().as_ref()) }
    }

    pub(crate) fn evidence(&self, authority: &Authority) -> SnpEvidence {
        SnpEvidence { report: self.report(), certs: vec![self.leaf_certificate(authority)] }
    }

    /// The verdict on this machine under the test roots of `authority`.
    pub(crate) fn judge(&self, authority: &Authority) -> Result<SnpClaims, Rejection> {
        verify(&self.evidence(authority), &roots(authority), &expectation())
    }
}

pub(crate) fn roots(authority: &Authority) -> TrustRoots {
    TrustRoots::vendor().with_test_roots(&authority.pem()).unwrap()
}

pub(crate) const fn expectation() -> Expectation<'static> {
    Expectation { report_data: &REPORT_DATA, init_data_digest: Some(&INIT_DATA), now: NOW, extra_certs: &[] }
}
