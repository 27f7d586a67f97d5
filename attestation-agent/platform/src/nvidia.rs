//! NVIDIA GPUs as attesting devices beside the machine's TEE, through NVIDIA's management library (NVML).
//!
//! Whether there is a GPU is asked of the PCI bus, so a machine without one never loads a driver library, and one whose
//! driver is missing does not pass for a machine without a GPU. The library, `libnvidia-ml.so.1`, is loaded at run time
//! at the first request, by that name alone. Every GPU of the machine is in the evidence or there is none
//! ([`Require::All`]), because a shorter list would look complete.
//!
//! The report is checked to carry the nonce; chain and signature are the relying party's to verify. Switches (NVSwitch)
//! are NOT attested: NVML has no report of theirs. A machine whose security rests on them is refused.
//!
//! Source: NVIDIA NVML API reference, "Confidential Computing"; DMTF DSP0274 1.1 for the report.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cc_evidence::nvidia::{NONCE_LEN, NvidiaEvidence};
use cc_evidence::{ReportData, Tee};

use crate::detect::Probe;
use crate::gate::Gate;
use crate::{Error, InitDataBinding, Options, Platform, SysRoot};

mod bus;
mod collect;
mod error;
mod sys;

use bus::Bus;
use collect::Present;
pub use error::GpuError;
use sys::Library;

/// How GPUs are treated, `[nvidia]` in the agent's configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NvidiaOptions {
    /// Which GPUs must be attested. When left out: all of them, but none beside the sample platform, which proves
    /// nothing anyway.
    pub require: Option<Require>,
    /// Whether GPUs are told to accept work once a relying party has accepted them. Only with [`Require::All`].
    pub set_ready: bool,
}

/// Which GPUs must be attested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Require {
    /// Every GPU of the machine; one that cannot be attested is an error.
    All,
    /// Those that can be; the others are left out with a warning, as the existing stack does.
    Attestable,
    /// None, even where it could be done.
    None,
}

/// The PCI addresses of the NVIDIA GPUs below `root`, in order. No driver is asked.
///
/// # Errors
/// [`Error::Device`] when the PCI bus cannot be looked at.
pub fn on_bus(root: &SysRoot) -> Result<Vec<String>, Error> {
    Ok(Bus::scan(root)?.gpus)
}

/// Finds the GPUs of the machine; gives the device to ask for their evidence, if there is one.
///
/// With [`Require::All`] the driver is not touched here, so that it costs a machine's start nothing and a driver may be
/// loaded later. With [`Require::Attestable`] a report is made, because only that tells whether one can be.
///
/// # Errors
/// [`Error::Device`] when the PCI bus cannot be looked at and GPUs matter.
pub(crate) fn detect(options: &Options, primary: Tee, tried: &mut Vec<Probe>) -> Result<Option<Gpus>, Error> {
    let default = if primary == Tee::Sample { Require::None } else { Require::All };
    let require = options.nvidia.require.unwrap_or(default);
    let mut probe = |outcome: String| {
        let what = format!("GPUs on {}", options.sys_root.path(bus::DEVICES).display());
        tried.push(Probe { tee: Some(Tee::Nvidia), what, outcome });
    };
    let bus = match (Bus::scan(&options.sys_root), require) {
        (Ok(bus), _) => bus,
        (Err(error), Require::None) => {
            probe(format!("cannot be looked at: {error}"));
            return Ok(None);
        }
        (Err(error), _) => return Err(error),
    };
    if bus.gpus.is_empty() {
        probe("none".to_owned());
        return Ok(None);
    }
    let found = bus.gpus.join(", ");
    if require == Require::None {
        probe(format!("{found}; not attested: nvidia.require is none"));
        return Ok(None);
    }
    let gpus = Gpus::new(options, require);
    if require == Require::Attestable {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(|source| Error::System {
            step: "getting random bytes",
            source: std::io::Error::other(source),
        })?;
        if let Err(error) = gpus.collect(nonce) {
            tracing::warn!(code = error.code(), %error, gpus = found, "no GPU can be attested; none will be");
            probe(format!("{found}; not attested: {error} [{}]", error.code()));
            return Ok(None);
        }
    }
    probe(format!("{found}; attested with every request"));
    Ok(Some(gpus))
}

/// The GPUs of the machine, one device on the wire.
#[derive(Debug)]
pub(crate) struct Gpus {
    root: SysRoot,
    require: Require,
    set_ready: bool,
    gate: Gate,
    /// The GPUs in the evidence that was given out last, until they are set ready.
    attested: Mutex<Option<Present>>,
}

impl Gpus {
    fn new(options: &Options, require: Require) -> Self {
        Self {
            root: options.sys_root.clone(),
            require,
            set_ready: options.nvidia.set_ready && require == Require::All,
            gate: Gate::new(options.quote_time_limit),
            attested: Mutex::default(),
        }
    }

    /// Evidence over `nonce` on a thread that may be left behind.
    fn collect(&self, nonce: [u8; NONCE_LEN]) -> Result<(NvidiaEvidence, Present), Error> {
        let (root, require) = (self.root.clone(), self.require);
        self.run("collecting GPU evidence", move || {
            // Anew each time: a GPU that came since the start counts.
            let bus = Bus::scan(&root)?;
            let library = Library::load(&bus.gpus)?;
            Ok(collect::all(library, &bus, &nonce, require)?)
        })
    }

    /// Runs `job` behind the gate, and names the driver in what the gate says.
    fn run<T: Send + 'static>(
        &self,
        step: &'static str,
        job: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let limit: Duration = self.gate.limit();
        self.gate.run(step, move |_| job()).map_err(|error| match error {
            Error::TsmTimeout { step, .. } => GpuError::Timeout { step, limit }.into(),
            Error::TsmStuck { since } => GpuError::Stuck { since }.into(),
            other => other,
        })
    }
}

impl Platform for Gpus {
    fn tee(&self) -> Tee {
        Tee::Nvidia
    }

    /// The nonce is the first 32 bytes of `data`; shorter data is padded with zeros.
    fn evidence(&self, data: &ReportData) -> Result<String, Error> {
        let nonce = data.padded().first_chunk().copied().unwrap_or_default();
        let (evidence, present) = self.collect(nonce)?;
        let text =
            evidence.to_json().map_err(|source| Error::BadEvidence { what: "NVIDIA evidence", source })?;
        *self.attested.lock().unwrap_or_else(PoisonError::into_inner) = Some(present);
        Ok(text)
    }

    fn bind_init_data(&self, _digest: &[u8]) -> Result<InitDataBinding, Error> {
        Ok(InitDataBinding::Unsupported)
    }

    /// Tells the GPUs to accept work, if that is switched on and they are those whose evidence was given out last. Once for
    /// each evidence.
    fn accepted(&self) -> Result<(), Error> {
        if !self.set_ready {
            return Ok(());
        }
        let attested = self.attested.lock().unwrap_or_else(PoisonError::into_inner).take();
        let attested = attested.ok_or(GpuError::NothingAttested)?;
        let root = self.root.clone();
        self.run("setting the GPUs ready", move || {
            let bus = Bus::scan(&root)?;
            Ok(collect::set_ready(Library::load(&bus.gpus)?, &bus, &attested)?)
        })?;
        tracing::info!("the GPUs were attested and accept work");
        Ok(())
    }
}
