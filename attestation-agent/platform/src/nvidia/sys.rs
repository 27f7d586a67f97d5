//! The calls into NVIDIA's management library. All of this project's contact with it is here.
//!
//! The library is found by the dynamic loader at run time. `nvml-wrapper-sys` has the layouts of the structures and the
//! types of the functions; its own calls panic when a function is missing, and the safe wrapper above it slices by sizes
//! that the driver gives, so functions are taken out of it one by one and every size is checked before it is used. Once
//! loaded the library stays: a thread may still be inside.
#![allow(unsafe_code, reason = "calls of C functions through pointers")]

use std::marker::PhantomData;
use std::ptr::null_mut;
use std::sync::OnceLock;

use cc_evidence::nvidia::NONCE_LEN;
use nvml_wrapper_sys::bindings::{
    NVML_CC_ACCEPTING_CLIENT_REQUESTS_TRUE, NvmlLib, nvmlConfComputeGpuAttestationReport_t,
    nvmlConfComputeGpuCertificate_t, nvmlConfComputeSystemState_t, nvmlDevice_t, nvmlPciInfo_t,
    nvmlSystemConfComputeSettings_t,
};

use super::GpuError;

/// The one name by which the library is looked for.
const NAME: &str = "libnvidia-ml.so.1";

/// Room for a name or UUID with its NUL, bytes: the larger of the two that NVML documents.
const TEXT_LEN: usize = 96;

/// Version 1 of the settings: size of the structure, version in the highest byte.
const SETTINGS_V1: u32 = 0x0100_0014;

/// The loaded library.
pub(super) struct Library(NvmlLib);

/// One GPU, valid as long as the session that gave it.
#[derive(Clone, Copy)]
pub(super) struct Handle<'a>(nvmlDevice_t, PhantomData<&'a Library>);

/// What the machine is set to.
#[derive(Clone, Copy, Debug)]
pub(super) struct State {
    pub(super) environment: u32,
    pub(super) feature: u32,
    pub(super) dev_tools: u32,
}

/// Shuts the driver down again when dropped.
pub(super) struct Running<'a>(&'a Library);

/// Why a call gave nothing.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The library does not have this function.
    Missing(&'static str),
    /// The driver's return code.
    Code(&'static str, u32),
    /// An answer that the interface does not allow.
    Malformed(String),
}

impl Refusal {
    /// The error about `gpu`, or about `the driver`.
    pub(super) fn about(self, gpu: &str) -> GpuError {
        match self {
            Self::Missing(function) => GpuError::TooOld { function },
            Self::Code(function, code) => GpuError::Driver { function, gpu: gpu.to_owned(), code },
            Self::Malformed(why) => GpuError::Malformed { gpu: gpu.to_owned(), why },
        }
    }
}

/// The function, if the library has it.
fn function<'a, F, E>(found: &'a Result<F, E>, name: &'static str) -> Result<&'a F, Refusal> {
    found.as_ref().map_err(|_| Refusal::Missing(name))
}

fn succeeded(name: &'static str, code: u32) -> Result<(), Refusal> {
    if code == 0 { Ok(()) } else { Err(Refusal::Code(name, code)) }
}

impl Library {
    /// The library, loaded at the first call. `gpus` are named in the error.
    pub(super) fn load(gpus: &[String]) -> Result<&'static Self, GpuError> {
        static LOADED: OnceLock<Library> = OnceLock::new();
        if let Some(library) = LOADED.get() {
            return Ok(library);
        }
        // SAFETY: loading runs the library's initialisers and takes symbols by the names that NVIDIA documents; it is the
        // driver's own library, found where the image's loader finds it, and no other path can be given.
        let library = unsafe { NvmlLib::new(NAME) }
            .map_err(|error| GpuError::Library { gpus: gpus.join(", "), why: error.to_string() })?;
        Ok(LOADED.get_or_init(|| Self(library)))
    }

    /// Starts the driver's session of this process.
    pub(super) fn start(&self) -> Result<Running<'_>, Refusal> {
        let name = "nvmlInit_v2";
        let init = function(&self.0.nvmlInit_v2, name)?;
        // SAFETY: it takes nothing and may be called at any time, also more than once.
        succeeded(name, unsafe { init() })?;
        Ok(Running(self))
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Ok(shutdown) = &self.0.0.nvmlShutdown {
            // SAFETY: one call for the one of `nvmlInit_v2` that made this value; no handle outlives it.
            let code = unsafe { shutdown() };
            if code != 0 {
                tracing::debug!(code, "nvmlShutdown failed");
            }
        }
    }
}

impl Running<'_> {
    fn library(&self) -> &NvmlLib {
        &self.0.0
    }

    /// Number of GPUs that the driver serves.
    pub(super) fn count(&self) -> Result<u32, Refusal> {
        let name = "nvmlDeviceGetCount_v2";
        let call = function(&self.library().nvmlDeviceGetCount_v2, name)?;
        let mut count = 0;
        // SAFETY: the one argument points to a number that outlives the call.
        succeeded(name, unsafe { call(&mut count) })?;
        Ok(count)
    }

    /// The GPU with this number, from 0.
    pub(super) fn gpu(&self, index: u32) -> Result<Handle<'_>, Refusal> {
        let name = "nvmlDeviceGetHandleByIndex_v2";
        let call = function(&self.library().nvmlDeviceGetHandleByIndex_v2, name)?;
        let mut handle = null_mut();
        // SAFETY: the second argument points to a handle that outlives the call.
        succeeded(name, unsafe { call(index, &mut handle) })?;
        Ok(Handle(handle, PhantomData))
    }

    /// The product's name, `NVIDIA H100 PCIe`.
    pub(super) fn name(&self, gpu: Handle<'_>) -> Result<String, Refusal> {
        let name = "nvmlDeviceGetName";
        let call = function(&self.library().nvmlDeviceGetName, name)?;
        // SAFETY: the buffer has the length that is passed, and outlives the call.
        text(name, |buffer, len| unsafe { call(gpu.0, buffer, len) })
    }

    /// `GPU-` and a UUID.
    pub(super) fn uuid(&self, gpu: Handle<'_>) -> Result<String, Refusal> {
        let name = "nvmlDeviceGetUUID";
        let call = function(&self.library().nvmlDeviceGetUUID, name)?;
        // SAFETY: the buffer has the length that is passed, and outlives the call.
        text(name, |buffer, len| unsafe { call(gpu.0, buffer, len) })
    }

    /// The PCI address as the kernel writes it.
    pub(super) fn address(&self, gpu: Handle<'_>) -> Result<String, Refusal> {
        let name = "nvmlDeviceGetPciInfo_v3";
        let call = function(&self.library().nvmlDeviceGetPciInfo_v3, name)?;
        let mut info = nvmlPciInfo_t {
            busIdLegacy: [0; 16],
            domain: 0,
            bus: 0,
            device: 0,
            pciDeviceId: 0,
            pciSubSystemId: 0,
            busId: [0; 32],
        };
        // SAFETY: the second argument points to the structure that the function fills, and outlives the call.
        succeeded(name, unsafe { call(gpu.0, &mut info) })?;
        Ok(format!("{:04x}:{:02x}:{:02x}.0", info.domain, info.bus, info.device))
    }

    /// NVML's number of the generation: 9 Hopper, 10 Blackwell.
    pub(super) fn architecture(&self, gpu: Handle<'_>) -> Result<u32, Refusal> {
        let name = "nvmlDeviceGetArchitecture";
        let call = function(&self.library().nvmlDeviceGetArchitecture, name)?;
        let mut architecture = 0;
        // SAFETY: the second argument points to a number that outlives the call.
        succeeded(name, unsafe { call(gpu.0, &mut architecture) })?;
        Ok(architecture)
    }

    /// What the machine is set to.
    pub(super) fn state(&self) -> Result<State, Refusal> {
        let name = "nvmlSystemGetConfComputeState";
        let call = function(&self.library().nvmlSystemGetConfComputeState, name)?;
        let mut state = nvmlConfComputeSystemState_t { environment: 0, ccFeature: 0, devToolsMode: 0 };
        // SAFETY: the argument points to the structure that the function fills, and outlives the call.
        succeeded(name, unsafe { call(&mut state) })?;
        Ok(State { environment: state.environment, feature: state.ccFeature, dev_tools: state.devToolsMode })
    }

    /// How several GPUs work together: 0 not at all, 1 protected PCIe, 2 encrypted NVLink.
    pub(super) fn multi_gpu_mode(&self) -> Result<u32, Refusal> {
        let name = "nvmlSystemGetConfComputeSettings";
        let call = function(&self.library().nvmlSystemGetConfComputeSettings, name)?;
        let mut settings = nvmlSystemConfComputeSettings_t {
            version: SETTINGS_V1,
            environment: 0,
            ccFeature: 0,
            devToolsMode: 0,
            multiGpuMode: 0,
        };
        // SAFETY: the argument points to the structure whose version and size it names, and outlives the call.
        succeeded(name, unsafe { call(&mut settings) })?;
        Ok(settings.multiGpuMode)
    }

    /// The report over `nonce`.
    pub(super) fn report(&self, gpu: Handle<'_>, nonce: &[u8; NONCE_LEN]) -> Result<Vec<u8>, Refusal> {
        let name = "nvmlDeviceGetConfComputeGpuAttestationReport";
        let call = function(&self.library().nvmlDeviceGetConfComputeGpuAttestationReport, name)?;
        let mut report = Box::new(nvmlConfComputeGpuAttestationReport_t {
            isCecAttestationReportPresent: 0,
            attestationReportSize: 0,
            cecAttestationReportSize: 0,
            nonce: *nonce,
            attestationReport: [0; 8192],
            cecAttestationReport: [0; 4096],
        });
        // SAFETY: the second argument points to the structure that the function fills, and outlives the call.
        succeeded(name, unsafe { call(gpu.0, &mut *report) })?;
        part("attestation report", &report.attestationReport, report.attestationReportSize)
    }

    /// The certificate chain of the key that signs reports, PEM.
    pub(super) fn certificate_chain(&self, gpu: Handle<'_>) -> Result<Vec<u8>, Refusal> {
        let name = "nvmlDeviceGetConfComputeGpuCertificate";
        let call = function(&self.library().nvmlDeviceGetConfComputeGpuCertificate, name)?;
        let mut certificate = Box::new(nvmlConfComputeGpuCertificate_t {
            certChainSize: 0,
            attestationCertChainSize: 0,
            certChain: [0; 4096],
            attestationCertChain: [0; 5120],
        });
        // SAFETY: the second argument points to the structure that the function fills, and outlives the call.
        succeeded(name, unsafe { call(gpu.0, &mut *certificate) })?;
        part(
            "attestation certificate chain",
            &certificate.attestationCertChain,
            certificate.attestationCertChainSize,
        )
    }

    /// Tells the GPUs to accept work.
    pub(super) fn set_ready(&self) -> Result<(), Refusal> {
        let name = "nvmlSystemSetConfComputeGpusReadyState";
        let call = function(&self.library().nvmlSystemSetConfComputeGpusReadyState, name)?;
        // SAFETY: the argument is a number.
        succeeded(name, unsafe { call(NVML_CC_ACCEPTING_CLIENT_REQUESTS_TRUE) })
    }
}

/// The first `size` bytes of a buffer that the driver filled: `size` is its word.
fn part(what: &str, buffer: &[u8], size: u32) -> Result<Vec<u8>, Refusal> {
    let filled = usize::try_from(size).ok().filter(|size| *size > 0).and_then(|size| buffer.get(..size));
    let limit = buffer.len();
    filled.map(<[u8]>::to_vec).ok_or_else(|| {
        Refusal::Malformed(format!(
            "its {what} has {size} bytes by the driver's word, 1 to {limit} are possible"
        ))
    })
}

/// Text that a function writes into a buffer and ends with NUL. What is no printable ASCII is replaced: it goes into
/// logs and evidence.
fn text(
    name: &'static str,
    write: impl FnOnce(*mut std::ffi::c_char, u32) -> u32,
) -> Result<String, Refusal> {
    const LEN: u32 = 96;
    const { assert!(LEN as usize == TEXT_LEN) };
    let mut buffer: [std::ffi::c_char; TEXT_LEN] = [0; TEXT_LEN];
    succeeded(name, write(buffer.as_mut_ptr(), LEN))?;
    let bytes = buffer.map(|character| u8::from_ne_bytes(character.to_ne_bytes()));
    match bytes.split(|byte| *byte == 0).next() {
        Some(text) if text.len() < TEXT_LEN => {
            let printable =
                |byte: &u8| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '?' };
            Ok(text.iter().map(printable).collect())
        }
        _ => Err(Refusal::Malformed(format!("{name} gives {TEXT_LEN} bytes without an end"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_sizes_of_the_header() {
        assert_eq!(size_of::<nvmlConfComputeGpuAttestationReport_t>(), 12 + 32 + 0x2000 + 0x1000);
        assert_eq!(size_of::<nvmlConfComputeGpuCertificate_t>(), 8 + 0x1000 + 0x1400);
        assert_eq!(size_of::<nvmlConfComputeSystemState_t>(), 12);
        assert_eq!(size_of::<nvmlSystemConfComputeSettings_t>(), 0x14);
        assert_eq!(size_of::<nvmlPciInfo_t>(), 16 + 5 * 4 + 32);
    }

    #[test]
    fn sizes_are_checked_against_the_buffer() {
        assert_eq!(part("x", &[1, 2, 3], 2).unwrap(), [1, 2]);
        assert_eq!(part("x", &[1, 2, 3], 3).unwrap(), [1, 2, 3]);
        for lie in [0, 4, u32::MAX] {
            assert!(matches!(part("x", &[1, 2, 3], lie), Err(Refusal::Malformed(_))), "{lie}");
        }
    }

    #[test]
    fn text_ends_at_its_nul_and_has_one() {
        let fill = |byte: u8, count: usize| {
            text("f", move |buffer, len| {
                assert_eq!(usize::try_from(len).unwrap(), TEXT_LEN);
                for index in 0..count {
                    // SAFETY: `count` is at most the length of the buffer.
                    unsafe { *buffer.add(index) = std::ffi::c_char::from_ne_bytes([byte]) };
                }
                0
            })
        };
        assert_eq!(fill(b'a', 3).unwrap(), "aaa");
        assert_eq!(fill(b'a', TEXT_LEN - 1).unwrap().len(), TEXT_LEN - 1);
        assert_eq!(fill(0x1B, 2).unwrap(), "??");
        assert!(matches!(fill(b'a', TEXT_LEN), Err(Refusal::Malformed(_))));
        assert!(matches!(text("f", |_, _| 3), Err(Refusal::Code("f", 3))));
    }
}
