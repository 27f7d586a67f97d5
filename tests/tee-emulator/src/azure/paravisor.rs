//! The paravisor: what it has from the guest, and the HCL report that it makes of it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};

use super::hcl;
use crate::instance::Instance;
use crate::machine::{AzureFault, Machine, MachineSource};
use crate::stats::Stats;
use crate::tdx::{quote, report as tdreport};
use crate::{Error, Manufacturer, report};

/// The paravisor of one machine.
#[derive(Debug)]
pub(super) struct Paravisor {
    maker: Arc<Manufacturer>,
    machine: MachineSource,
    /// Of the TPM's attestation key.
    modulus: Vec<u8>,
    instance: Instance,
    input: Mutex<Input>,
    stats: Stats,
}

/// What the guest wrote.
#[derive(Debug)]
struct Input {
    shown: [u8; 64],
    /// The last writing, until it shows.
    written: Option<([u8; 64], Instant)>,
}

/// What the metadata service says.
#[derive(Debug)]
pub(super) enum Answer {
    /// The chip's certificate, DER.
    Certificate(Vec<u8>),
    /// A quote.
    Quote(Vec<u8>),
    /// It has no answer for this machine.
    None,
}

impl Paravisor {
    pub(super) fn new(
        maker: Arc<Manufacturer>,
        machine: MachineSource,
        modulus: Vec<u8>,
        stats: Option<PathBuf>,
    ) -> Result<Self, Error> {
        Ok(Self {
            maker,
            machine,
            modulus,
            instance: Instance::start()?,
            input: Mutex::new(Input { shown: [0; 64], written: None }),
            stats: Stats::new(stats),
        })
    }

    /// What goes wrong with the machine as it is now.
    pub(super) fn fault(&self) -> Result<AzureFault, Error> {
        Ok(self.machine.load()?.azure.fault)
    }

    /// The guest has written report data.
    pub(super) fn take(&self, report_data: [u8; 64]) -> Result<(), Error> {
        let azure = self.machine.load()?.azure;
        if azure.fault != AzureFault::NoUserData {
            let shows = Instant::now() + Duration::from_millis(azure.user_data_delay_ms);
            self.input().written = Some((report_data, shows));
        }
        Ok(())
    }

    /// The TPM has made a quote.
    pub(super) fn count_quote(&self) {
        self.stats.update(|counts| counts.quotes += 1);
    }

    /// The HCL report as it is now.
    pub(super) fn report(&self) -> Result<Vec<u8>, Error> {
        let machine = self.machine.load()?;
        self.maker.check(&machine)?;
        let fault = machine.azure.fault;
        let modulus = match fault {
            AzureFault::NoAk => None,
            AzureFault::OtherAk => Some(vec![0xC1; 256]),
            _ => Some(self.modulus.clone()),
        };
        let mut runtime = hcl::runtime_data(modulus.as_deref(), &self.user_data());
        let mut bound = [0; 64];
        bound.iter_mut().zip(digest(&SHA256, runtime.as_bytes()).as_ref()).for_each(|(to, from)| *to = *from);
        let (hardware, kind) = self.hardware(&machine, &bound)?;
        if fault == AzureFault::AlterRuntimeData {
            runtime = runtime.replacen("\"secure-boot\":true", "\"secure-boot\":null", 1);
        }
        let kind = if fault == AzureFault::UnknownType { 3 } else { kind };
        let mut report = hcl::report(&hardware, kind, &runtime);
        if fault == AzureFault::IndexShort {
            report.truncate(1300);
        }
        Ok(report)
    }

    /// What the metadata service gives out for the machine: `td_report` is what the guest sent, if it did.
    pub(super) fn answer(&self, td_report: Option<&[u8]>) -> Result<Answer, Error> {
        let mut machine = self.machine.load()?;
        self.maker.check(&machine)?;
        let other = machine.azure.fault == AzureFault::MetadataOther;
        match (&*self.maker, td_report) {
            (Manufacturer::Amd(chain), None) => {
                if other {
                    machine.chip_id.0.reverse();
                }
                chain.vcek_der(&machine).map(Answer::Certificate)
            }
            (Manufacturer::Intel(chain), Some(td_report)) => {
                let Some(mut report_data) = tdreport::check(td_report, &self.instance.mac_key) else {
                    return Ok(Answer::None);
                };
                if other {
                    report_data.reverse();
                }
                quote::build(chain, &machine, &report_data).map(Answer::Quote)
            }
            _ => Ok(Answer::None),
        }
    }

    fn hardware(&self, machine: &Machine, bound: &[u8; 64]) -> Result<(Vec<u8>, u32), Error> {
        match &*self.maker {
            Manufacturer::Amd(chain) => {
                let report = report::build(chain, machine, bound, machine.vmpl, &self.instance.report_id)?;
                Ok((report.to_vec(), 2))
            }
            Manufacturer::Intel(_) => Ok((tdreport::build(machine, bound, &self.instance.mac_key), 4)),
            // No Azure machine has such a processor.
            Manufacturer::Arm(_) => {
                Err(Error::Crypto { step: "making a hardware report of CCA for a paravisor" })
            }
        }
    }

    fn user_data(&self) -> [u8; 64] {
        let mut input = self.input();
        if let Some((data, _)) = input.written.take_if(|(_, shows)| *shows <= Instant::now()) {
            input.shown = data;
        }
        input.shown
    }

    fn input(&self) -> MutexGuard<'_, Input> {
        self.input.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
