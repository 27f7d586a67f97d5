//! What goes wrong on an Azure machine beyond its TPM: the paravisor's report and the metadata service.

use std::time::Duration;

/// A failure of the paravisor or of the metadata service.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AzureError {
    /// The metadata service does not answer.
    #[error("asking the metadata service {url}: {why}")]
    MetadataUnreachable {
        /// What was asked for.
        url: String,
        /// How it failed.
        why: String,
    },
    /// It answers with another status than 200; redirects are not followed.
    #[error("asking the metadata service {url}: it answers with status {status}")]
    MetadataRefused {
        /// What was asked for.
        url: String,
        /// The status.
        status: u16,
    },
    /// Its answer cannot be used.
    #[error("asking the metadata service {url}: its answer is unusable: {why}")]
    MetadataMalformed {
        /// What was asked for.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// The HCL report is of other hardware than at start.
    #[error("the HCL report in the TPM is of {found}, at start it was of {expected}")]
    HardwareChanged {
        /// Name of the platform at start.
        expected: &'static str,
        /// Name of the platform now.
        found: &'static str,
    },
    /// The hardware's report does not vouch for the runtime data beside it.
    #[error(
        "the HCL report contradicts itself: the hardware's report data is not the hash of the runtime data"
    )]
    RuntimeDataUnbound,
    /// The hardware vouches for another attestation key than the TPM has.
    #[error("the runtime data names another attestation key than the one at the TPM's handle {handle:#010x}")]
    OtherKey {
        /// The handle.
        handle: u32,
    },
    /// What was written for the hardware to vouch for does not show in the report.
    #[error("the report data that was written into the TPM does not show in the HCL report after {} s", .waited.as_secs())]
    UserDataMissing {
        /// How long was waited.
        waited: Duration,
    },
}

impl AzureError {
    /// The stable code of this case.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::MetadataUnreachable { .. } => "AZURE_METADATA_UNREACHABLE",
            Self::MetadataRefused { .. } => "AZURE_METADATA_REFUSED",
            Self::MetadataMalformed { .. } => "AZURE_METADATA_MALFORMED",
            Self::HardwareChanged { .. } => "AZURE_HARDWARE_CHANGED",
            Self::RuntimeDataUnbound => "AZURE_RUNTIME_DATA_UNBOUND",
            Self::OtherKey { .. } => "AZURE_KEY_MISMATCH",
            Self::UserDataMissing { .. } => "AZURE_USER_DATA_TIMEOUT",
        }
    }

    /// The next step for the operator.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::MetadataUnreachable { .. } => {
                "the machine must reach its own link-local network: look at firewall and routes with `curl -H \
                 Metadata:true http://169.254.169.254/metadata/THIM/amd/certification`, and at [azure] metadata_url \
                 if it is set"
            }
            Self::MetadataRefused { .. } | Self::MetadataMalformed { .. } => {
                "check that this is an Azure confidential VM and that [azure] metadata_url, if it is set, is its metadata \
                 service; then try again later"
            }
            Self::HardwareChanged { .. } => "restart the agent so that it detects its platform again",
            Self::RuntimeDataUnbound | Self::OtherKey { .. } => {
                "the content of the TPM is damaged or was put together from several machines; nothing was sent. \
                 Restart the machine; if this repeats, do not trust the host and report it"
            }
            Self::UserDataMissing { .. } => {
                "another program of this machine may attest at the same moment: try again. A machine whose paravisor \
                 takes no report data (TPM index 0x01400002) cannot make this evidence: create it anew from a current \
                 image"
            }
        }
    }
}
