//! What a file holds, told from its content alone; names and extensions count for nothing.
//!
//! Only a first look: whoever takes the answer parses the bytes fully and may still refuse them. Every rule looks at
//! a prefix or a shape that the other formats cannot have, so that the order matters little and no input is taken for
//! two things.

use cc_evidence::{
    HashAlgorithm,
    snp::{CertKind, REPORT_LEN, cert_table},
    tdx,
};

use super::dcap::{Kind, is_quote, quote_kind};
use super::nvidia;
use crate::initdata::Form;

/// A kind of content and the part of the input that carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content<'a> {
    /// AMD SEV-SNP attestation report, 1184 bytes (AMD publication 56860).
    SnpReport(&'a [u8]),
    /// JSON with the members `attestation_report` or `report`.
    SnpEvidence(&'a str),
    /// Intel TDX quote, version 4 or 5.
    TdxQuote(&'a [u8]),
    /// JSON with the member `quote`, of a trust domain or of an enclave.
    QuoteEvidence(&'a str),
    /// HCL report of an Azure machine.
    HclReport(&'a [u8]),
    /// JSON with the members `hcl_report`, or `quote`, `report` and `vcek`.
    AzureEvidence(&'a str),
    /// TDREPORT, 1024 bytes.
    TdReport(&'a [u8]),
    /// Intel SGX quote, version 3.
    SgxQuote(&'a [u8]),
    /// Event log with the record that declares its algorithms (TCG PC Client Platform Firmware Profile).
    EventLog(&'a [u8]),
    /// The agent's event log: records alone.
    AgentLog(&'a [u8]),
    /// Arm CCA attestation token, CBOR.
    CcaToken(&'a [u8]),
    /// JSON with the member `token`, a list of bytes.
    CcaEvidence(&'a str),
    /// JSON with the members `attestation_report` and `serial_number`.
    CsvEvidence(&'a str),
    /// Quote of a TPM 2.0, TPMS_ATTEST.
    TpmQuote(&'a [u8]),
    /// JSON with the members `tpm_quote` and `ak_public`.
    TpmEvidence(&'a str),
    /// SPDM measurements of an NVIDIA GPU: request and response (DMTF DSP0274 1.1).
    NvidiaReport(&'a [u8]),
    /// JSON with the member `device_evidence_list`, possibly inside a member `nvidia`.
    NvidiaEvidence(&'a str),
    /// Certificate table of an extended report (AMD publication 56421).
    CertTable(&'a [u8]),
    /// One X.509 certificate in DER.
    CertificateDer(&'a [u8]),
    /// X.509 certificates in PEM.
    CertificatePem(&'a str),
    /// Attestation token: JWS in compact serialization (RFC 7515).
    Token(&'a str),
    /// Init-data document: TOML, or one of the forms in which it travels.
    InitData(&'a [u8]),
}

impl Content<'_> {
    /// The kind in words.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SnpReport(_) => "SNP report",
            Self::SnpEvidence(_) => "SNP evidence",
            Self::TdxQuote(_) => "TDX quote",
            Self::QuoteEvidence(_) => "evidence with a quote",
            Self::TdReport(_) => "TDREPORT",
            Self::HclReport(_) => "HCL report",
            Self::AzureEvidence(_) => "Azure evidence",
            Self::SgxQuote(_) => "SGX quote",
            Self::EventLog(_) | Self::AgentLog(_) => "event log",
            Self::CcaToken(_) => "Arm CCA token",
            Self::CcaEvidence(_) => "Arm CCA evidence",
            Self::CsvEvidence(_) => "Hygon CSV evidence",
            Self::TpmQuote(_) => "TPM quote",
            Self::TpmEvidence(_) => "TPM evidence",
            Self::NvidiaReport(_) => "NVIDIA GPU report",
            Self::NvidiaEvidence(_) => "NVIDIA evidence",
            Self::CertTable(_) => "SNP certificate table",
            Self::CertificateDer(_) | Self::CertificatePem(_) => "certificate",
            Self::Token(_) => "attestation token",
            Self::InitData(_) => "init-data document",
        }
    }
}

/// Length of one entry of a certificate table (GUID, offset, length), in bytes.
const TABLE_ENTRY: usize = 24;

/// Recognises `bytes`, or says what they seem to be instead.
pub(crate) fn recognise(bytes: &[u8]) -> Result<Content<'_>, String> {
    if bytes.is_empty() {
        return Err("the file is empty".into());
    }
    // Before reports, whose guest policy never is what stands there.
    if is_agent_log(bytes) {
        return Ok(Content::AgentLog(bytes));
    }
    if bytes.len() == REPORT_LEN && has_report_version(bytes) {
        return Ok(Content::SnpReport(bytes));
    }
    if bytes.len() == tdx::REPORT_LEN && matches!(bytes.get(..4), Some([0x81, _, _, 0])) {
        return Ok(Content::TdReport(bytes));
    }
    if bytes.starts_with(b"HCLA") && bytes.contains(&0) {
        return Ok(Content::HclReport(bytes));
    }
    match quote_kind(bytes) {
        Some(Kind::Tdx) => return Ok(Content::TdxQuote(bytes)),
        Some(Kind::Sgx) => return Ok(Content::SgxQuote(bytes)),
        None => {}
    }
    // A CBOR tag in three bytes, 399 or 907, and a map.
    if matches!(bytes.get(..4), Some([0xD9, 0x01, 0x8F, 0xA0..=0xB7] | [0xD9, 0x03, 0x8B, 0xA0..=0xB7])) {
        return Ok(Content::CcaToken(bytes));
    }
    if bytes.starts_with(b"\xffTCG\x80\x18") {
        return Ok(Content::TpmQuote(bytes));
    }
    if nvidia::is_report(bytes) {
        return Ok(Content::NvidiaReport(bytes));
    }
    if bytes.starts_with(&[0x30, 0x82]) {
        return Ok(Content::CertificateDer(bytes));
    }
    if Form::of(bytes) != Form::Toml {
        return Ok(Content::InitData(bytes));
    }
    match std::str::from_utf8(bytes) {
        // NUL is valid UTF-8, but no text has it: an empty certificate table is zeros only.
        Ok(text) if !text.contains('\0') => recognise_text(text),
        _ => recognise_binary(bytes),
    }
}

fn recognise_text(text: &str) -> Result<Content<'_>, String> {
    let text_body = text.trim_ascii();
    if text_body.is_empty() {
        return Err("the file holds only white space".into());
    }
    if text.contains("PRIVATE KEY-----") {
        return Err("a private key, and guestctl shows none".into());
    }
    // Evidence may carry certificates as texts.
    if text_body.starts_with('{') {
        return recognise_json(text_body);
    }
    if text.contains("-----BEGIN CERTIFICATE-----") {
        return Ok(Content::CertificatePem(text));
    }
    if is_compact_jws(text_body) {
        return Ok(Content::Token(text_body));
    }
    if names_init_data_keys(text) {
        // The digest is over every byte of the file, so nothing is trimmed.
        return Ok(Content::InitData(text.as_bytes()));
    }
    Err("text of an unknown kind".into())
}

fn recognise_json(text: &str) -> Result<Content<'_>, String> {
    /// Only the member names matter here; the values are skipped, not built.
    #[derive(serde::Deserialize)]
    struct Members {
        attestation_report: Option<serde::de::IgnoredAny>,
        report: Option<serde::de::IgnoredAny>,
        tee_keypair: Option<serde::de::IgnoredAny>,
        svn: Option<serde::de::IgnoredAny>,
        serial_number: Option<serde::de::IgnoredAny>,
        token: Option<serde_json::Value>,
        ak_public: Option<serde::de::IgnoredAny>,
        quote: Option<serde_json::Value>,
        hcl_report: Option<serde::de::IgnoredAny>,
        vcek: Option<serde::de::IgnoredAny>,
        device_evidence_list: Option<serde::de::IgnoredAny>,
        nvidia: Option<serde::de::IgnoredAny>,
    }
    let members: Members = serde_json::from_str(text).map_err(|error| format!("broken JSON: {error}"))?;
    if members.attestation_report.is_some() && members.serial_number.is_some() {
        Ok(Content::CsvEvidence(text))
    } else if members.hcl_report.is_some() || (members.quote.is_some() && members.vcek.is_some()) {
        Ok(Content::AzureEvidence(text))
    } else if members.attestation_report.is_some() || members.report.is_some() {
        Ok(Content::SnpEvidence(text))
    } else if members.ak_public.is_some() {
        Ok(Content::TpmEvidence(text))
    } else if members.device_evidence_list.is_some() || members.nvidia.is_some() {
        Ok(Content::NvidiaEvidence(text))
    } else if members.tee_keypair.is_some() {
        Err("an answer of GetToken with a private key in it; give the token alone".into())
    } else if members.svn.is_some() {
        Err("evidence of the sample TEE: anyone can write it and it proves nothing".into())
    } else if members.token.is_some_and(|token| token.is_array()) {
        Ok(Content::CcaEvidence(text))
    } else if let Some(quote) = members.quote {
        match quote.as_str() {
            Some(quote) if is_quote(quote) => Ok(Content::QuoteEvidence(text)),
            _ => Err("evidence JSON of another TEE than SNP, TDX and SGX".into()),
        }
    } else {
        Err("JSON of an unknown kind".into())
    }
}

fn recognise_binary(bytes: &[u8]) -> Result<Content<'_>, String> {
    if is_event_log(bytes) {
        return Ok(Content::EventLog(bytes));
    }
    // A host without certificates hands out a table that is all end mark.
    let empty = bytes.len() >= TABLE_ENTRY && bytes.iter().all(|byte| *byte == 0);
    if empty || begins_with_certificate_guid(bytes) || lists_a_certificate(bytes) {
        return Ok(Content::CertTable(bytes));
    }
    if has_report_version(bytes) {
        return Err(format!("{} bytes that begin like an SNP report, which has {REPORT_LEN}", bytes.len()));
    }
    Err(format!("{} bytes of an unknown kind", bytes.len()))
}

/// The type of the first record, an old-style digest that is all zero, and a signature or the zeros of an agent.
fn is_event_log(bytes: &[u8]) -> bool {
    let part = |range: std::ops::Range<usize>| bytes.get(range).unwrap_or_default();
    part(4..8) == 3u32.to_le_bytes()
        && part(8..28) == [0; 20]
        && (part(32..48) == b"Spec ID Event03\0"
            || (part(28..32) == 0x25u32.to_le_bytes() && part(32..48) == [0; 16]))
}

/// Type and digest count of the first record: tagged data with one digest of a known algorithm.
fn is_agent_log(bytes: &[u8]) -> bool {
    let algorithm = bytes.get(12..14).and_then(|id| id.try_into().ok()).map(u16::from_le_bytes);
    bytes.get(4..12) == Some(&[6, 0, 0, 0, 1, 0, 0, 0])
        && algorithm.is_some_and(|id| HashAlgorithm::from_tcg_id(id).is_some())
}

fn begins_with_certificate_guid(bytes: &[u8]) -> bool {
    bytes.first_chunk().is_some_and(|guid| CertKind::from_guid(*guid).name().is_some())
}

/// Tables may begin with entries of other kinds.
fn lists_a_certificate(bytes: &[u8]) -> bool {
    cert_table::parse(bytes).is_ok_and(|entries| entries.iter().any(|entry| entry.kind.name().is_some()))
}

/// Versions are small numbers; leave room for those to come.
fn has_report_version(bytes: &[u8]) -> bool {
    matches!(bytes.get(..4), Some([1..=15, 0, 0, 0]))
}

fn is_compact_jws(text: &str) -> bool {
    let base64url = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    // Every JWS header is a JSON object, and `{"` in base64 begins with these letters.
    text.starts_with("eyJ") && text.split('.').count() == 3 && text.split('.').all(base64url)
}

fn names_init_data_keys(text: &str) -> bool {
    let starts = |name: &str| {
        text.lines().any(|line| {
            line.trim_start().strip_prefix(name).is_some_and(|rest| rest.trim_start().starts_with('='))
        })
    };
    let has_data =
        text.lines().any(|line| line.trim().starts_with("[data]") || line.trim_start().starts_with("data"));
    starts("version") && starts("algorithm") && has_data
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn report() -> Vec<u8> {
        let mut bytes = vec![0xa5; REPORT_LEN];
        bytes[..4].copy_from_slice(&[3, 0, 0, 0]);
        bytes
    }

    #[test]
    fn content_decides() {
        let report = report();
        let mut table = CertKind::Vcek.guid().to_vec();
        table.extend([0xff; 40]);
        let token = "eyJhbGciOiJFUzI1NiJ9.eyJleHAiOjF9.c2ln";
        let initdata = "# mine\nversion = \"0.1.0\"\n algorithm=\"sha256\"\n[data]\n";
        let annotation = "H4sIAAAAAAACAw==";
        assert_eq!(recognise(annotation.as_bytes()), Ok(Content::InitData(annotation.as_bytes())));
        let device = b"initdata\x10\0\0\0\0\0\0\0";
        assert_eq!(recognise(device), Ok(Content::InitData(device)));
        let evidence = " {\"cert_chain\":null,\"attestation_report\":{}}";
        let pem = "text before\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(recognise(&report), Ok(Content::SnpReport(&report)));
        assert_eq!(recognise(&table), Ok(Content::CertTable(&table)));
        assert_eq!(recognise(&[0; 24]), Ok(Content::CertTable(&[0; 24])));
        assert_eq!(recognise(b"\x30\x82\x01\x00"), Ok(Content::CertificateDer(b"\x30\x82\x01\x00")));
        assert_eq!(recognise(pem.as_bytes()), Ok(Content::CertificatePem(pem)));
        assert_eq!(recognise(format!("{token}\n").as_bytes()), Ok(Content::Token(token)));
        assert_eq!(recognise(initdata.as_bytes()), Ok(Content::InitData(initdata.as_bytes())));
        assert_eq!(recognise(evidence.as_bytes()), Ok(Content::SnpEvidence(evidence.trim())));
        let tdx_quote = [4, 0, 2, 0, 0x81, 0, 0, 0];
        assert_eq!(recognise(&tdx_quote), Ok(Content::TdxQuote(&tdx_quote)));
        let sgx_quote = [3, 0, 2, 0, 0, 0, 0, 0];
        assert_eq!(recognise(&sgx_quote), Ok(Content::SgxQuote(&sgx_quote)));
        let tdx_evidence = "{\"cc_eventlog\":null,\"quote\":\"BAACAIEAAAA=\"}";
        assert_eq!(recognise(tdx_evidence.as_bytes()), Ok(Content::QuoteEvidence(tdx_evidence)));
        let token = [0xD9, 0x01, 0x8F, 0xA2];
        assert_eq!(recognise(&token), Ok(Content::CcaToken(&token)));
        let cca = "{\"token\":[217,1,143]}";
        assert_eq!(recognise(cca.as_bytes()), Ok(Content::CcaEvidence(cca)));
        let csv = "{\"attestation_report\":{},\"serial_number\":[]}";
        assert_eq!(recognise(csv.as_bytes()), Ok(Content::CsvEvidence(csv)));
        let hcl = b"HCLA\x02\0\0\0";
        assert_eq!(recognise(hcl), Ok(Content::HclReport(hcl)));
        for azure in ["{\"version\":2,\"hcl_report\":\"\"}", "{\"quote\":{},\"report\":[],\"vcek\":\"\"}"] {
            assert_eq!(recognise(azure.as_bytes()), Ok(Content::AzureEvidence(azure)));
        }
        assert_eq!(recognise(b"\xffTCG\x80\x18\0"), Ok(Content::TpmQuote(b"\xffTCG\x80\x18\0")));
        let tpm_evidence = "{\"tpm_quote\":{},\"ak_public\":\"\"}";
        assert_eq!(recognise(tpm_evidence.as_bytes()), Ok(Content::TpmEvidence(tpm_evidence)));
        let gpu_report = [0x11, 0xe0, 1, 0xff, 0];
        assert_eq!(recognise(&gpu_report), Ok(Content::NvidiaReport(&gpu_report)));
        for gpus in ["{\"device_evidence_list\":[]}", "{\"nvidia\":{}}"] {
            assert_eq!(recognise(gpus.as_bytes()), Ok(Content::NvidiaEvidence(gpus)));
        }
        let mut td_report = vec![0; tdx::REPORT_LEN];
        td_report[..4].copy_from_slice(&[0x81, 0, 1, 0]);
        assert_eq!(recognise(&td_report), Ok(Content::TdReport(&td_report)));
    }

    #[test]
    fn what_is_not_known_is_named_as_well_as_possible() {
        let cases: [(&[u8], &str); 10] = [
            (b"", "empty"),
            (b" \n", "white space"),
            (b"hello", "text of an unknown kind"),
            (b"-----BEGIN PRIVATE KEY-----\nAAAA", "private key"),
            (b"{\"token\":\"a\",\"tee_keypair\":\"b\"}", "private key"),
            (b"{\"svn\":\"1\",\"report_data\":\"\"}", "sample"),
            (b"{\"quote\":\"AAAA\"}", "another TEE"),
            (b"{\"a\":", "broken JSON"),
            (b"\xff\xfe\xfd", "3 bytes"),
            (&report()[..1000], "begin like an SNP report"),
        ];
        for (bytes, expected) in cases {
            let why = recognise(bytes).unwrap_err();
            assert!(why.contains(expected), "{why}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_recognised_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
            let _ = recognise(&bytes);
        }

        #[test]
        fn any_text_is_recognised_or_refused(text in "(eyJ|\\{|version = |-----BEGIN CERTIFICATE-----)?\\PC{0,300}") {
            let _ = recognise(text.as_bytes());
        }

        #[test]
        fn any_report_with_a_small_version_is_a_report(version in 1u8..=15, fill in any::<u8>()) {
            let mut bytes = vec![fill; REPORT_LEN];
            bytes[..4].copy_from_slice(&[version, 0, 0, 0]);
            prop_assert_eq!(recognise(&bytes), Ok(Content::SnpReport(&bytes)));
        }
    }
}
