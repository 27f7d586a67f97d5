//! A platform under a test root: its certificates, quoting enclave, domain and collateral, each of which a
//! test can spoil in one place.

use std::cell::OnceCell;

use cc_evidence::dcap::{EnclaveFields, EnclaveReport, SignatureData, qe_report_data};
use cc_evidence::tdx::{TdAttributes, TdBody, Tdx15, TdxEvidence, assemble, to_be_signed};
use cc_verify::TrustRoots;
use cc_verify::tdx::{Collateral, Expectation, TdxClaims, verify};
use serde_json::{Value, json};

use crate::authority::{CertSpec, Key, NOW, PckSpec, pem};

pub(crate) const ROOT: &str = "Intel SGX Root CA";
pub(crate) const PLATFORM_CA: &str = "Intel SGX PCK Platform CA";
pub(crate) const LEAF: &str = "Intel SGX PCK Certificate";
pub(crate) const SIGNER: &str = "Intel SGX TCB Signing";

pub(crate) const REPORT_DATA: [u8; 48] = [0xDA; 48];
pub(crate) const INIT_DATA: [u8; 32] = [0x1D; 32];

/// All that goes into a piece of evidence and its collateral.
pub(crate) struct Platform {
    pub(crate) root_key: Key,
    pub(crate) authority_key: Key,
    pub(crate) pck_key: Key,
    pub(crate) attestation_key: Key,
    pub(crate) signer_key: Key,
    pub(crate) root: CertSpec,
    pub(crate) authority: CertSpec,
    pub(crate) leaf: CertSpec,
    pub(crate) signer: CertSpec,
    pub(crate) pck: PckSpec,
    pub(crate) qe: EnclaveFields,
    pub(crate) auth_data: Vec<u8>,
    pub(crate) body: TdBody,
    pub(crate) log: Option<Vec<u8>>,
    pub(crate) tcb_info: Value,
    pub(crate) qe_identity: Value,
    pub(crate) lists: Vec<Vec<u8>>,
    /// Signatures are random, and a root is known by its digest.
    root_pem: OnceCell<String>,
}

impl Platform {
    /// A good one.
    pub(crate) fn new() -> Self {
        let mut report_data = [0; 64];
        report_data[..48].copy_from_slice(&REPORT_DATA);
        let mut mr_config_id = [0; 48];
        mr_config_id[..32].copy_from_slice(&INIT_DATA);
        let components = [2, 2, 2, 2, 4, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0];
        let tee_tcb_svn = [5, 3, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        Platform {
            root_key: Key::new(),
            authority_key: Key::new(),
            pck_key: Key::new(),
            attestation_key: Key::new(),
            signer_key: Key::new(),
            root: CertSpec::new(1, ROOT, ROOT, true),
            authority: CertSpec::new(2, ROOT, PLATFORM_CA, true),
            leaf: CertSpec::new(3, PLATFORM_CA, LEAF, false),
            signer: CertSpec::new(4, ROOT, SIGNER, false),
            pck: PckSpec {
                components,
                pce_svn: 13,
                pce_id: [0, 0],
                fmspc: vec![0, 0xA0, 0x6D, 8, 0, 0],
                more: Vec::new(),
            },
            qe: EnclaveFields {
                cpu_svn: components,
                misc_select: [0; 4],
                attributes: [0x15, 0, 0, 0, 0, 0, 0, 0, 0xE7, 0, 0, 0, 0, 0, 0, 0],
                mr_enclave: [0x9E; 32],
                mr_signer: [0x7E; 32],
                config_id: [0; 64],
                isv_prod_id: 2,
                isv_svn: 7,
                report_data: [0; 64],
            },
            auth_data: (0..32).collect(),
            body: TdBody {
                tee_tcb_svn,
                mr_seam: [0x5E; 48],
                mrsigner_seam: [0; 48],
                seam_attributes: 0,
                td_attributes: TdAttributes(1 << 28),
                xfam: 0x0006_02E7,
                mr_td: [0x7D; 48],
                mr_config_id,
                mr_owner: [0; 48],
                mr_owner_config: [0; 48],
                rtmr: [[0; 48]; 4],
                report_data,
                tdx15: None,
            },
            log: None,
            tcb_info: tcb_info(&components, &tee_tcb_svn),
            qe_identity: qe_identity(),
            lists: Vec::new(),
            root_pem: OnceCell::new(),
        }
    }

    /// Makes the domain one of TDX 1.5, quoted in version 5; the TDX module may have been updated since.
    pub(crate) fn with_tdx15(mut self, tee_tcb_svn2: [u8; 16]) -> Self {
        self.body.tdx15 = Some(Tdx15 { tee_tcb_svn2, mr_servicetd: [0x55; 48] });
        self
    }

    pub(crate) fn root_pem(&self) -> &str {
        self.root_pem.get_or_init(|| pem(&self.root.sign(&self.root_key, self.root_key.point())))
    }

    pub(crate) fn roots(&self) -> TrustRoots {
        TrustRoots::vendor().with_test_roots(self.root_pem()).unwrap()
    }

    /// PCK certificate, authority, root, and the NUL that real chains have.
    pub(crate) fn pck_chain(&self) -> String {
        let mut leaf = self.leaf.clone();
        leaf.more.push(self.pck.extension());
        let leaf = pem(&leaf.sign(&self.authority_key, self.pck_key.point()));
        let authority = pem(&self.authority.sign(&self.root_key, self.authority_key.point()));
        format!("{leaf}{authority}{}\0", self.root_pem())
    }

    pub(crate) fn signature_data(&self, signed: &[u8]) -> SignatureData {
        let attestation_key = self.attestation_key.coordinates();
        let mut qe = self.qe;
        if qe.report_data == [0; 64] {
            qe.report_data = qe_report_data(&attestation_key, &self.auth_data);
        }
        let qe_report = EnclaveReport::new(qe);
        SignatureData {
            signature: self.attestation_key.sign(signed),
            attestation_key,
            qe_report,
            qe_report_signature: self.pck_key.sign(qe_report.raw()),
            qe_auth_data: self.auth_data.clone(),
            pck_chain: self.pck_chain().into_bytes(),
        }
    }

    pub(crate) fn quote(&self) -> Vec<u8> {
        let signed = to_be_signed([0x1D; 20], &self.body);
        assemble(&signed, &self.signature_data(&signed)).unwrap()
    }

    pub(crate) fn evidence(&self) -> TdxEvidence {
        TdxEvidence { quote: self.quote(), cc_eventlog: self.log.clone() }
    }

    pub(crate) fn signing_chain(&self) -> String {
        let signer = pem(&self.signer.sign(&self.root_key, self.signer_key.point()));
        format!("{signer}{}", self.root_pem())
    }

    /// The documents as the service would answer them.
    pub(crate) fn documents(&self) -> [String; 2] {
        [("tcbInfo", &self.tcb_info), ("enclaveIdentity", &self.qe_identity)].map(|(name, body)| {
            let body = body.to_string();
            let signature = hex::encode(self.signer_key.sign(body.as_bytes()));
            format!(r#"{{"{name}":{body},"signature":"{signature}"}}"#)
        })
    }

    pub(crate) fn collateral(&self) -> Result<Collateral, cc_verify::Rejection> {
        let [tcb_info, qe_identity] = self.documents();
        Collateral::parse(&tcb_info, &qe_identity, &self.signing_chain())?
            .with_revocation_lists(self.lists.clone())
    }

    /// Verification with all that there is; the name of the check that failed.
    pub(crate) fn verdict(&self) -> Result<TdxClaims, &'static str> {
        self.verdict_of(&self.evidence(), &self.roots())
    }

    pub(crate) fn verdict_of(
        &self,
        evidence: &TdxEvidence,
        roots: &TrustRoots,
    ) -> Result<TdxClaims, &'static str> {
        let collateral = self.collateral().map_err(|rejection| rejection.check())?;
        verify(evidence, roots, Some(&collateral), &expectation()).map_err(|rejection| rejection.check())
    }
}

pub(crate) fn expectation() -> Expectation<'static> {
    Expectation { report_data: &REPORT_DATA, init_data_digest: Some(&INIT_DATA), now: NOW }
}

fn components(svn: &[u8; 16]) -> Value {
    svn.iter().map(|svn| json!({ "svn": svn })).collect()
}

fn tcb_info(sgx: &[u8; 16], tdx: &[u8; 16]) -> Value {
    let level = |pcesvn: u8, date: &str, status: &str| {
        json!({
            "tcb": { "sgxtcbcomponents": components(sgx), "pcesvn": pcesvn, "tdxtcbcomponents": components(tdx) },
            "tcbDate": date, "tcbStatus": status, "advisoryIDs": [format!("INTEL-SA-{pcesvn:05}")],
        })
    };
    json!({
        "id": "TDX", "version": 3,
        "issueDate": "2025-12-20T00:00:00Z", "nextUpdate": "2026-01-19T00:00:00Z",
        "fmspc": "00A06D080000", "pceId": "0000", "tcbType": 0, "tcbEvaluationDataNumber": 17,
        "tdxModule": { "mrsigner": "00".repeat(48), "attributes": "00".repeat(8), "attributesMask": "FF".repeat(8) },
        "tdxModuleIdentities": [{
            "id": "TDX_03",
            "mrsigner": "00".repeat(48), "attributes": "00".repeat(8), "attributesMask": "FF".repeat(8),
            "tcbLevels": [
                { "tcb": { "isvsvn": 5 }, "tcbDate": "2024-03-13T00:00:00Z", "tcbStatus": "UpToDate" },
                { "tcb": { "isvsvn": 3 }, "tcbDate": "2024-03-13T00:00:00Z", "tcbStatus": "OutOfDate" },
            ],
        }],
        "tcbLevels": [
            level(13, "2024-03-13T00:00:00Z", "UpToDate"),
            level(11, "2023-08-09T00:00:00Z", "SWHardeningNeeded"),
            level(9, "2020-08-09T00:00:00Z", "OutOfDateConfigurationNeeded"),
            level(5, "2018-01-04T00:00:00Z", "Revoked"),
        ],
    })
}

fn qe_identity() -> Value {
    json!({
        "id": "TD_QE", "version": 2,
        "issueDate": "2025-12-21T00:00:00Z", "nextUpdate": "2026-01-20T00:00:00Z",
        "tcbEvaluationDataNumber": 17, "miscselect": "00000000", "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": "7E".repeat(32), "isvprodid": 2,
        "tcbLevels": [
            { "tcb": { "isvsvn": 7 }, "tcbDate": "2024-03-13T00:00:00Z", "tcbStatus": "UpToDate" },
            { "tcb": { "isvsvn": 4 }, "tcbDate": "2023-03-13T00:00:00Z", "tcbStatus": "OutOfDate" },
        ],
    })
}
