//! One round of evidence: every GPU is found, its mode looked at, its report and chain taken.
//!
//! The order is fixed: who is there, does the driver serve all that are on the bus, does the machine's security rest on
//! switches, is confidential computing on, and only then the reports. The driver is not believed: counts are capped,
//! reports are parsed and must carry the nonce.

use std::collections::BTreeSet;
use std::fmt;

use cc_evidence::nvidia::{
    Architecture, Device, MAX_DEVICES, NONCE_LEN, NvidiaEvidence, Report, UNKNOWN_UUID,
};
use nvml_wrapper_sys::bindings::{
    NVML_CC_SYSTEM_DEVTOOLS_MODE_OFF, NVML_CC_SYSTEM_ENVIRONMENT_PROD, NVML_CC_SYSTEM_FEATURE_ENABLED,
    NVML_CC_SYSTEM_MULTIGPU_NONE, NVML_CC_SYSTEM_MULTIGPU_NVLE, NVML_CC_SYSTEM_MULTIGPU_PROTECTED_PCIE,
    NVML_DEVICE_ARCH_BLACKWELL, NVML_DEVICE_ARCH_HOPPER,
};

use super::bus::Bus;
use super::sys::{Handle, Library, Refusal, Running};
use super::{GpuError, Require};

/// What the driver is called in errors that are about no GPU.
const DRIVER: &str = "the driver";

/// NVML's code for what this device or machine does not have.
const NOT_SUPPORTED: u32 = 3;

const PEM_BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// A GPU that the driver serves.
struct Gpu<'a> {
    handle: Handle<'a>,
    uuid: String,
    address: String,
    /// Name, UUID and address, for people.
    label: String,
}

/// The GPUs that the driver serves, as it names them: address and UUID, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Present(BTreeSet<(String, String)>);

impl Present {
    fn of(gpus: &[Gpu<'_>]) -> Self {
        Self(gpus.iter().map(|gpu| (gpu.address.clone(), gpu.uuid.clone())).collect())
    }
}

impl fmt::Display for Present {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gpus: Vec<String> = self.0.iter().map(|(address, uuid)| format!("{address} ({uuid})")).collect();
        f.write_str(if gpus.is_empty() { "none".to_owned() } else { gpus.join(", ") }.as_str())
    }
}

/// Evidence of the GPUs over `nonce`: of all, or of those that can be attested, but at least one. Beside it, who is there.
pub(super) fn all(
    library: &Library,
    bus: &Bus,
    nonce: &[u8; NONCE_LEN],
    require: Require,
) -> Result<(NvidiaEvidence, Present), GpuError> {
    let driver = library.start().map_err(|refusal| refusal.about(DRIVER))?;
    let gpus = served(&driver)?;
    let lenient = require == Require::Attestable;
    let tolerate = |result: Result<(), GpuError>| match result {
        Err(error) if lenient => {
            tracing::warn!(code = error.code(), %error, "left out of the evidence");
            Ok(())
        }
        other => other,
    };
    for address in &bus.gpus {
        let known = gpus.iter().any(|gpu| gpu.address == *address);
        tolerate(if known { Ok(()) } else { Err(GpuError::NotServed { address: address.clone() }) })?;
    }
    tolerate(check_switches(&driver, bus))?;
    check_mode(&driver, &gpus)?;

    let mut devices = Vec::new();
    let mut left_out = None;
    for gpu in &gpus {
        match device(&driver, gpu, nonce) {
            Ok(device) => devices.push(device),
            Err(error) if lenient => {
                tracing::warn!(code = error.code(), %error, "left out of the evidence");
                left_out = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    match (devices.is_empty(), left_out) {
        (false, _) => Ok((NvidiaEvidence { devices }, Present::of(&gpus))),
        (true, Some(error)) => Err(error),
        (true, None) => Err(GpuError::NotServed { address: bus.gpus.join(", ") }),
    }
}

/// Tells the GPUs to accept work, all at once, if they are those that were `attested`.
pub(super) fn set_ready(library: &Library, bus: &Bus, attested: &Present) -> Result<(), GpuError> {
    let about_driver = |refusal: Refusal| refusal.about(DRIVER);
    let driver = library.start().map_err(about_driver)?;
    let gpus = served(&driver)?;
    let present = Present::of(&gpus);
    if present != *attested {
        return Err(GpuError::Changed { attested: attested.to_string(), found: present.to_string() });
    }
    // One that the driver does not serve was in no evidence.
    if let Some(address) = bus.gpus.iter().find(|address| !gpus.iter().any(|gpu| gpu.address == **address)) {
        return Err(GpuError::NotServed { address: address.clone() });
    }
    driver.set_ready().map_err(about_driver)
}

/// The GPUs that the driver serves.
fn served<'a>(driver: &'a Running<'_>) -> Result<Vec<Gpu<'a>>, GpuError> {
    let about_driver = |refusal: Refusal| refusal.about(DRIVER);
    let count = driver.count().map_err(about_driver)?;
    if usize::try_from(count).map_or(true, |count| count > MAX_DEVICES) {
        let why = format!("it counts {count} GPUs, at most {MAX_DEVICES} are attested");
        return Err(GpuError::Malformed { gpu: DRIVER.to_owned(), why });
    }
    let gpu = |index| {
        let number = format!("GPU number {index}");
        let handle = driver.gpu(index).map_err(|refusal| refusal.about(&number))?;
        // Names are for people, and the wire knows devices without one.
        let name = driver.name(handle).unwrap_or_else(|_| number.clone());
        let uuid = driver.uuid(handle).ok().map(|uuid| uuid.replace(' ', "")).filter(|uuid| !uuid.is_empty());
        let uuid = uuid.unwrap_or_else(|| UNKNOWN_UUID.to_owned());
        let address = driver.address(handle).map_err(|refusal| refusal.about(&format!("{name} ({uuid})")))?;
        let label = format!("{name} ({uuid}, {address})");
        Ok(Gpu { handle, uuid, address, label })
    };
    (0..count).map(gpu).collect()
}

/// Refuses machines whose GPUs trust switches: their evidence would be incomplete without those.
fn check_switches(driver: &Running<'_>, bus: &Bus) -> Result<(), GpuError> {
    let refuse = |why: String| Err(GpuError::Switches { why });
    match driver.multi_gpu_mode() {
        Ok(NVML_CC_SYSTEM_MULTIGPU_NONE | NVML_CC_SYSTEM_MULTIGPU_NVLE) => Ok(()),
        Ok(NVML_CC_SYSTEM_MULTIGPU_PROTECTED_PCIE) => {
            refuse("it is in protected PCIe mode, and NVML gives no reports of switches".to_owned())
        }
        Ok(other) => refuse(format!("it is in the multi-GPU mode {other}, which is unknown here")),
        // A driver from before that mode.
        Err(Refusal::Missing(_) | Refusal::Code(_, NOT_SUPPORTED)) if bus.switches.is_empty() => Ok(()),
        Err(Refusal::Missing(_) | Refusal::Code(_, NOT_SUPPORTED)) => refuse(format!(
            "there are switches at {}, and the driver does not tell whether the GPUs trust them",
            bus.switches.join(", ")
        )),
        Err(refusal) => Err(refusal.about(DRIVER)),
    }
}

/// Checks that confidential computing is on, for production, without developer tools.
fn check_mode(driver: &Running<'_>, gpus: &[Gpu<'_>]) -> Result<(), GpuError> {
    let labels = || gpus.iter().map(|gpu| gpu.label.as_str()).collect::<Vec<_>>().join(", ");
    let refuse = |why: &str| Err(GpuError::NotConfidential { gpu: labels(), why: why.to_owned() });
    let state = match driver.state() {
        Ok(state) => state,
        Err(Refusal::Code(_, NOT_SUPPORTED)) => return refuse("it has no confidential computing mode"),
        Err(refusal) => return Err(refusal.about(&labels())),
    };
    if state.feature != NVML_CC_SYSTEM_FEATURE_ENABLED {
        return refuse("its confidential computing mode is off");
    }
    if state.dev_tools != NVML_CC_SYSTEM_DEVTOOLS_MODE_OFF {
        return refuse("its confidential computing mode is DEVTOOLS, in which the host can debug it");
    }
    if state.environment != NVML_CC_SYSTEM_ENVIRONMENT_PROD {
        return refuse("its confidential computing mode is not that of production");
    }
    Ok(())
}

/// Report and chain of one GPU.
fn device(driver: &Running<'_>, gpu: &Gpu<'_>, nonce: &[u8; NONCE_LEN]) -> Result<Device, GpuError> {
    let about = |refusal: Refusal| match refusal {
        Refusal::Code(_, NOT_SUPPORTED) => GpuError::NotConfidential {
            gpu: gpu.label.clone(),
            why: "the driver gives no report of it; it is not in confidential computing mode".to_owned(),
        },
        other => other.about(&gpu.label),
    };
    let malformed = |why: String| GpuError::Malformed { gpu: gpu.label.clone(), why };
    let architecture = match driver.architecture(gpu.handle).map_err(about)? {
        NVML_DEVICE_ARCH_HOPPER => Architecture::Hopper,
        NVML_DEVICE_ARCH_BLACKWELL => Architecture::Blackwell,
        other => {
            let why = format!("it is of generation {other}, only Hopper (9) and Blackwell (10) have reports");
            return Err(GpuError::NotConfidential { gpu: gpu.label.clone(), why });
        }
    };
    let report = driver.report(gpu.handle, nonce).map_err(about)?;
    let parsed = Report::parse(&report).map_err(|error| malformed(error.to_string()))?;
    if parsed.nonce != *nonce {
        return Err(GpuError::Mismatch { gpu: gpu.label.clone() });
    }
    let chain = driver.certificate_chain(gpu.handle).map_err(about)?;
    // The driver may count the NUL at the end of the text, and what follows it.
    let chain = chain.split(|byte| *byte == 0).next().unwrap_or_default();
    if !chain.trim_ascii_start().starts_with(PEM_BEGIN) {
        return Err(malformed("its attestation certificate chain is not PEM text".to_owned()));
    }
    Ok(Device { architecture, uuid: gpu.uuid.clone(), report, certificate_chain: chain.to_vec() })
}
