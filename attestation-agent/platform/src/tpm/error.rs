//! Why a TPM gave no answer, or not the one that was asked for.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use cc_evidence::HashAlgorithm;
use cc_evidence::blame::Blame;

use super::response_code::{self, Refusal};

/// A failure of a TPM. `step` says what was being done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TpmError {
    /// The path leads to something else than a TPM.
    #[error("opening the TPM {}: it is neither a character device nor a Unix socket", .path.display())]
    NoDevice {
        /// The path.
        path: PathBuf,
    },
    /// It cannot be opened.
    #[error("opening the TPM {} failed: {source}", .path.display())]
    Open {
        /// The path.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Another process holds it.
    #[error("opening the TPM {}: another process has it open, for {} s already", .path.display(), .limit.as_secs_f32())]
    Busy {
        /// The path.
        path: PathBuf,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The time limit passed.
    #[error("{step}: the TPM {} gave no answer within {} s", .path.display(), .limit.as_secs_f32())]
    Timeout {
        /// What was being done.
        step: String,
        /// The TPM.
        path: PathBuf,
        /// The limit.
        limit: Duration,
    },
    /// An earlier command is still inside the kernel.
    #[error("refused: the TPM {} owes the answer to an earlier command since {} s", .path.display(), .since.as_secs())]
    Stuck {
        /// The TPM.
        path: PathBuf,
        /// Since when nobody waits for that command any more.
        since: Duration,
    },
    /// Reading or writing failed.
    #[error("{step}: the TPM {} failed: {source}", .path.display())]
    Io {
        /// What was being done.
        step: String,
        /// The TPM.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A response breaks its format.
    #[error("{step}: the TPM's response is malformed: {why}")]
    Malformed {
        /// What was being done.
        step: String,
        /// What is wrong.
        why: String,
    },
    /// The TPM kept asking for patience.
    #[error("{step}: the TPM answered {code} for {} s", .limit.as_secs_f32())]
    Later {
        /// What was being done.
        step: String,
        /// What it answered last.
        code: String,
        /// The time limit.
        limit: Duration,
    },
    /// Dictionary attack protection.
    #[error("{step}: the TPM is locked out after failed authorizations: {code}")]
    LockedOut {
        /// What was being done.
        step: String,
        /// The response code.
        code: String,
    },
    /// No memory or no handles.
    #[error("{step}: the TPM has no room for another object or session: {code}")]
    Exhausted {
        /// What was being done.
        step: String,
        /// The response code.
        code: String,
    },
    /// The empty password is not accepted.
    #[error("{step}: the TPM refuses the empty password: {code}")]
    Authorization {
        /// What was being done.
        step: String,
        /// The response code.
        code: String,
    },
    /// Failure mode, or not started.
    #[error("{step}: the TPM is out of service: {code}")]
    Failed {
        /// What was being done.
        step: String,
        /// The response code.
        code: String,
    },
    /// A PCR of the processor's late launch (17 to 22), which the TPM lets nobody else extend.
    #[error("{step}: the TPM lets only the processor extend this PCR: {code}")]
    Locality {
        /// What was being done.
        step: String,
        /// The response code.
        code: String,
    },
    /// Another refusal.
    #[error("{step}: the TPM refused: {code}")]
    Refused {
        /// What was being done.
        step: String,
        /// The response code.
        code: String,
        /// Which kind.
        number: u32,
    },
    /// No object at a handle.
    #[error("there is no key at the TPM's handle {handle:#010x}")]
    HandleAbsent {
        /// The handle.
        handle: u32,
    },
    /// A key that cannot attest.
    #[error("the key at the TPM's handle {handle:#010x} cannot be used to attest: {why}")]
    KeyUnfit {
        /// The handle.
        handle: u32,
        /// What is wrong with it.
        why: String,
    },
    /// No such bank.
    #[error("the TPM has no {hash} bank with the PCRs that were asked for")]
    NoBank {
        /// Algorithm of the bank.
        hash: HashAlgorithm,
    },
    /// PCRs kept changing.
    #[error("the TPM's PCRs changed while they were read and quoted, {tries} times in a row")]
    Unsteady {
        /// How often it was tried.
        tries: usize,
    },
    /// A quote that answers another question.
    #[error("the TPM answered with a quote over {what}")]
    OtherAnswer {
        /// What differs.
        what: &'static str,
    },
    /// An earlier attempt was refused, and another one would count towards a lockout.
    #[error(
        "refused: the TPM did not accept the empty password for the key at {handle:#010x}, which was not tried again"
    )]
    NotAgain {
        /// The handle.
        handle: u32,
    },
    /// No such NV index.
    #[error("there is no NV index {index:#010x} in the TPM")]
    NvAbsent {
        /// The index.
        index: u32,
    },
    /// An index that neither owner nor its own password opens.
    #[error("the NV index {index:#010x} may not be {doing} by owner or by its own password")]
    NvForbidden {
        /// The index.
        index: u32,
        /// `read` or `written`.
        doing: String,
    },
    /// More than the caller reads.
    #[error("the NV index {index:#010x} has {size} bytes, at most {limit} are read")]
    NvTooLarge {
        /// The index.
        index: u32,
        /// Its size in bytes.
        size: usize,
        /// The caller's limit in bytes.
        limit: usize,
    },
    /// An index of another size than what is to be written.
    #[error("the NV index {index:#010x} exists with {size} bytes, {wanted} are to be written")]
    NvOtherSize {
        /// The index.
        index: u32,
        /// Its size in bytes.
        size: usize,
        /// What was to be written, in bytes.
        wanted: usize,
    },
    /// PCR 8 cannot stand for the init-data.
    #[error("init-data mismatch: PCR 8 holds {found}; it must be zero or {expected}")]
    InitDataPcr {
        /// Hex of what the document's digest gives.
        expected: String,
        /// Hex of what it holds.
        found: String,
    },
    /// An init-data digest that PCR 8 has no place for.
    #[error("the init-data digest has {len} bytes; PCR 8 of the SHA-256 bank takes exactly 32")]
    InitDataDigest {
        /// Its length.
        len: usize,
    },
    /// The caller asks for what no TPM does.
    #[error("not sent to the TPM: {why}")]
    BadRequest {
        /// What is wrong.
        why: String,
    },
}

impl TpmError {
    /// The error for the response `code` to `step`.
    pub(super) fn refused(step: &str, number: u32, why: Refusal) -> Self {
        let (step, code) = (step.to_owned(), response_code::name(number));
        match why {
            Refusal::LockedOut => Self::LockedOut { step, code },
            Refusal::Exhausted => Self::Exhausted { step, code },
            Refusal::Authorization => Self::Authorization { step, code },
            Refusal::Failed => Self::Failed { step, code },
            Refusal::Locality => Self::Locality { step, code },
            Refusal::Handle | Refusal::Other => Self::Refused { step, code, number },
        }
    }

    /// The same error, which is about the key at `handle` if the TPM found a handle wrong.
    pub(super) fn at_handle(self, handle: u32) -> Self {
        if self.is_about_a_handle() { Self::HandleAbsent { handle } } else { self }
    }

    /// The same error, which is about the NV index if the TPM found a handle wrong.
    pub(super) fn at_nv(self, index: u32) -> Self {
        if self.is_about_a_handle() { Self::NvAbsent { index } } else { self }
    }

    fn is_about_a_handle(&self) -> bool {
        match self {
            Self::Refused { number, .. } => {
                response_code::kind(*number) == response_code::Kind::Refused(Refusal::Handle)
            }
            _ => false,
        }
    }

    /// Who has to act: the one who runs the machine, unless what was asked for makes no sense.
    #[must_use]
    pub const fn blame(&self) -> Blame {
        match self {
            Self::BadRequest { .. } | Self::InitDataDigest { .. } => Blame::Misused,
            _ => Blame::Platform,
        }
    }

    /// The stable code of this case.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoDevice { .. } | Self::Open { .. } => "TPM_OPEN",
            Self::Busy { .. } => "TPM_BUSY",
            Self::Timeout { .. } | Self::Later { .. } => "TPM_TIMEOUT",
            Self::Stuck { .. } => "TPM_STUCK",
            Self::Io { .. } => "TPM_IO",
            Self::Malformed { .. } => "TPM_MALFORMED",
            Self::LockedOut { .. } => "TPM_LOCKED_OUT",
            Self::Exhausted { .. } => "TPM_EXHAUSTED",
            Self::Authorization { .. } | Self::NotAgain { .. } => "TPM_AUTHORIZATION",
            Self::Failed { .. } => "TPM_OUT_OF_SERVICE",
            Self::Locality { .. } => "TPM_PCR_RESERVED",
            Self::Refused { .. } => "TPM_REFUSED",
            Self::HandleAbsent { .. } => "TPM_KEY_ABSENT",
            Self::KeyUnfit { .. } => "TPM_KEY_UNFIT",
            Self::NoBank { .. } => "TPM_NO_BANK",
            Self::Unsteady { .. } => "TPM_PCRS_UNSTEADY",
            Self::OtherAnswer { .. } => "EVIDENCE_MISMATCH",
            Self::NvAbsent { .. } => "TPM_NV_ABSENT",
            Self::NvForbidden { .. } | Self::NvTooLarge { .. } | Self::NvOtherSize { .. } => "TPM_NV_UNFIT",
            Self::InitDataPcr { .. } => "INIT_DATA_MISMATCH",
            Self::InitDataDigest { .. } => "INIT_DATA_DIGEST_LENGTH",
            Self::BadRequest { .. } => "TPM_REQUEST_INVALID",
        }
    }

    /// The next step for the operator.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::NoDevice { .. } => {
                "name a TPM device (/dev/tpmrm0) or the socket of a software TPM: the agent takes it from AA_TPM_DEVICE or [tpm] \
                 device, trustee-attester from --tpm-device"
            }
            Self::Open { .. } => {
                "the agent needs read and write access to the TPM device: run it as root or in the group tss, and let its \
                 unit or container have the device; `ls -l /dev/tpm*` shows what there is"
            }
            Self::Busy { .. } => {
                "use /dev/tpmrm0, which programs share, instead of /dev/tpm0; or stop the process that holds it (`fuser -v \
                 /dev/tpm0`)"
            }
            Self::Timeout { .. } => {
                "a TPM may need seconds when it tests itself: try again; a socket of swtpm serves one client at a time, so stop \
                 the other one; a longer limit can be set with [platform] quote_time_limit_seconds"
            }
            Self::Later { .. } => {
                "the TPM is occupied (self-test, wear protection, another client): try again later"
            }
            Self::Stuck { .. } => {
                "nothing is sent before the earlier command returns; if it does not, look in the kernel log for tpm and reboot"
            }
            Self::Io { .. } => "look in the kernel log for messages of the TPM driver",
            Self::Malformed { .. } => {
                "what answers is no TPM 2.0, or is damaged: check the path, and look in the kernel log for tpm; if the host gives \
                 this machine its TPM, report it to the provider"
            }
            Self::LockedOut { .. } => {
                "wait until the lockout has passed (`tpm2_getcap properties-variable` shows the interval), or reset it with the \
                 lockout password: tpm2_dictionarylockout --clear-lockout"
            }
            Self::Exhausted { .. } => {
                "another program left objects or sessions in the TPM: use /dev/tpmrm0, or free them with tpm2_flushcontext \
                 --transient-object and tpm2_flushcontext --loaded-session"
            }
            Self::Authorization { .. } | Self::NotAgain { .. } => {
                "the key, index or register must have an empty password and no policy; make the attestation key as docs/tpm.md says, \
                 then restart the agent. It does not try again, as failures count towards a lockout of the TPM"
            }
            Self::Failed { .. } => {
                "the firmware did not start the TPM, or its self-test failed: reboot the machine"
            }
            Self::Locality { .. } => {
                "remove init_pcr from [eventlog_config] and restart the agent: events go to PCR 13 then; or name another PCR from 9 to \
                 15 that nothing else extends; 16 and 23 can be reset by any program"
            }
            Self::Refused { .. } => {
                "the name of the code is explained in part 2 of the TPM 2.0 Library (TPM_RC); `tpm2_rc_decode` does so too"
            }
            Self::HandleAbsent { .. } => {
                "make an attestation key and keep it at this handle, as docs/tpm.md says (tpm2_createek, tpm2_createak, \
                 tpm2_evictcontrol), or name another handle: the agent takes it from AA_TPM_AK_HANDLE or [tpm] ak_handle, \
                 trustee-attester from --tpm-ak-handle"
            }
            Self::KeyUnfit { .. } => {
                "make an attestation key as docs/tpm.md says: persistent, RSA of 2048 bits or more, restricted, signing with RSASSA \
                 and SHA-256"
            }
            Self::NoBank { .. } => {
                "switch the bank on in the firmware's setup, or with `tpm2_pcrallocate sha256:all` and a reboot"
            }
            Self::Unsteady { .. } => {
                "a program extends PCRs all the time: try again when the machine has started; then find that program"
            }
            Self::OtherAnswer { .. } => {
                "the TPM, or what stands before it, answered another request; nothing was sent. If this repeats, do not trust it"
            }
            Self::NvAbsent { .. } => {
                "this TPM does not have what the platform keeps there; check which machine this is"
            }
            Self::NvForbidden { .. } | Self::NvTooLarge { .. } | Self::NvOtherSize { .. } => {
                "the index is not what this platform defines; `tpm2_nvreadpublic` shows it"
            }
            Self::InitDataPcr { .. } => {
                "something else extended PCR 8 in this boot (GRUB does so with its commands), or the machine was started with other \
                 init-data: give the agent the document of this boot, or boot without another user of PCR 8"
            }
            Self::InitDataDigest { .. } => "let the init-data document say algorithm = \"sha256\"",
            Self::BadRequest { .. } => "pass PCR numbers from 0 to 23, and digests of the bank's length",
        }
    }
}
