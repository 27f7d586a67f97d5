//! What the paravisor of an emulated Azure machine does, and what goes wrong with it.

use serde::Deserialize;

/// The paravisor and its surroundings.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Azure {
    /// What goes wrong.
    pub fault: AzureFault,
    /// Milliseconds from the guest's writing of report data until they show in the HCL report.
    pub user_data_delay_ms: u64,
}

impl Default for Azure {
    fn default() -> Self {
        Self { fault: AzureFault::None, user_data_delay_ms: 200 }
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AzureFault {
    /// Nothing.
    None,
    /// The runtime data is altered after the hardware has signed its hash.
    AlterRuntimeData,
    /// The runtime data names another attestation key than the TPM has.
    OtherAk,
    /// The runtime data names no attestation key.
    NoAk,
    /// The report data that the guest writes never shows.
    NoUserData,
    /// There is no HCL report in the TPM.
    IndexMissing,
    /// The HCL report ends in the middle.
    IndexShort,
    /// The index of the HCL report has 65535 bytes.
    IndexHuge,
    /// The TPM answers with 1 MiB when it is asked for the HCL report.
    AnswerHuge,
    /// The HCL report is from hardware of an unknown kind.
    UnknownType,
    /// The metadata service takes the question and says nothing.
    MetadataHang,
    /// It answers 404.
    MetadataNotFound,
    /// It answers 500.
    MetadataError,
    /// It answers with something else than JSON.
    MetadataGarbage,
    /// It answers with 10 MB.
    MetadataHuge,
    /// It answers with a redirect.
    MetadataRedirect,
    /// It answers with another chip's certificate, or a quote over other report data.
    MetadataOther,
}
