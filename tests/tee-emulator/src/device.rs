//! The emulated TEE driver: answers requests with signed reports, with the delays and faults of the machine.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use aws_lc_rs::digest::{SHA384, digest};
use aws_lc_rs::hmac;
use cc_evidence::snp::{CertEntry, CertKind, cert_table};
use fuser::Errno;

use crate::entry::{Blobs, Request};
use crate::instance::Instance;
use crate::machine::{Certificates, Fault, Machine, MachineSource, Tee};
use crate::stats::Stats;
use crate::tdx::quote;
use crate::{Error, Manufacturer, TestChain, cca, report};

/// How often a hanging request looks whether it may go on.
const HANG_STEP: Duration = Duration::from_millis(20);
/// Length of a huge answer.
const HUGE_LEN: usize = 4 * 1024 * 1024;

/// The emulated driver.
#[derive(Debug)]
pub(crate) struct Device {
    maker: Arc<Manufacturer>,
    machine: MachineSource,
    /// Time that every report takes.
    generation_time: Duration,
    instance: Instance,
    /// One report at a time, as in the kernel; what is kept from the last one.
    last: Mutex<Last>,
    /// What software has extended the run-time registers 0 to 3 with since the start.
    extensions: Mutex<[Vec<[u8; 48]>; 4]>,
    stopped: AtomicBool,
    pub(crate) stats: Stats,
}

#[derive(Debug, Default)]
struct Last {
    report: Option<Vec<u8>>,
    /// The chip's certificate for this machine: signing it costs more than all else.
    vcek: Option<(Machine, Vec<u8>)>,
}

impl Device {
    pub(crate) fn new(
        maker: Arc<Manufacturer>,
        machine: MachineSource,
        generation_time: Duration,
        stats: Stats,
    ) -> Result<Self, Error> {
        Ok(Self {
            maker,
            machine,
            generation_time,
            instance: Instance::start()?,
            last: Mutex::default(),
            extensions: Mutex::default(),
            stopped: AtomicBool::new(false),
            stats,
        })
    }

    /// The kind of TEE, which never changes.
    pub(crate) fn tee(&self) -> Tee {
        self.maker.tee()
    }

    /// What authenticates TDREPORTs on this machine.
    pub(crate) fn mac_key(&self) -> &hmac::Key {
        &self.instance.mac_key
    }

    /// The machine, with its registers as they are now, if it has a TEE driver; ENXIO if not.
    pub(crate) fn machine(&self) -> Result<Machine, Errno> {
        let mut machine = self.machine.load().map_err(|error| log(&error))?;
        if machine.provider().is_none() {
            return Err(Errno::ENXIO);
        }
        let td = &mut machine.td;
        let registers = [&mut td.rtmr0, &mut td.rtmr1, &mut td.rtmr2, &mut td.rtmr3];
        let extensions = self.extensions.lock().unwrap_or_else(PoisonError::into_inner);
        for (register, extension) in registers.into_iter().zip(extensions.iter()) {
            for value in extension {
                let new = digest(&SHA384, &[register.0, *value].concat());
                register.0.iter_mut().zip(new.as_ref()).for_each(|(to, from)| *to = *from);
            }
        }
        Ok(machine)
    }

    /// Extends the run-time register `number`.
    pub(crate) fn extend(&self, number: usize, value: [u8; 48]) -> Result<(), Errno> {
        self.machine()?;
        let mut extensions = self.extensions.lock().unwrap_or_else(PoisonError::into_inner);
        extensions.get_mut(number).ok_or(Errno::ENOENT)?.push(value);
        Ok(())
    }

    /// Makes a report. Blocks for as long as the machine wants.
    pub(crate) fn generate(&self, request: &Request) -> Result<Blobs, Errno> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let machine = self.machine_that_answers()?;
        match machine.fault {
            Fault::Busy => return Err(Errno::EBUSY),
            Fault::HostTimeout => return Err(Errno::ETIMEDOUT),
            _ => {}
        }
        pause(self.generation_time + machine.delay());
        let blobs = self.answer(&mut last, &machine, request).map_err(|error| log(&error))?;
        self.stats.update(|counts| counts.quotes += 1);
        Ok(blobs)
    }

    /// Lets hanging requests end with an error.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    fn machine_that_answers(&self) -> Result<Machine, Errno> {
        loop {
            let machine = self.machine()?;
            if machine.fault != Fault::Hang {
                return Ok(machine);
            }
            if self.stopped.load(Ordering::Relaxed) {
                return Err(log(&Error::Stopped));
            }
            pause(HANG_STEP);
        }
    }

    fn answer(
        &self,
        last: &mut MutexGuard<'_, Last>,
        machine: &Machine,
        request: &Request,
    ) -> Result<Blobs, Error> {
        self.maker.check(machine)?;
        let fresh = self.report(machine, request, &request.report_data)?;
        let given = match (machine.fault, last.report.take()) {
            (Fault::Stale, Some(previous)) => previous,
            // Nothing was asked before: a report over other data is as stale.
            (Fault::Stale, None) => self.report(machine, request, &[0x5A; 64])?,
            _ => fresh.clone(),
        };
        last.report = Some(fresh);
        let table = match &*self.maker {
            Manufacturer::Amd(chain) => table(chain, last, machine)?,
            Manufacturer::Intel(_) | Manufacturer::Arm(_) => Vec::new(),
        };
        Ok(Blobs { outblob: in_length(given, machine.fault).into(), auxblob: table.into() })
    }

    /// A report or quote over `data`.
    fn report(&self, machine: &Machine, request: &Request, data: &[u8; 64]) -> Result<Vec<u8>, Error> {
        match &*self.maker {
            Manufacturer::Amd(_) if request.privlevel < machine.vmpl => {
                Err(Error::PrivilegeLevel { asked: request.privlevel, floor: machine.vmpl })
            }
            Manufacturer::Amd(chain) => {
                report::build(chain, machine, data, request.privlevel, &self.instance.report_id)
                    .map(Into::into)
            }
            Manufacturer::Intel(chain) => quote::build(chain, machine, data),
            Manufacturer::Arm(platform) => cca::token(platform, machine, data),
        }
    }
}

/// The certificate table of SEV-SNP.
fn table(chain: &TestChain, last: &mut Last, machine: &Machine) -> Result<Vec<u8>, Error> {
    if machine.certificates == Certificates::None {
        return Ok(Vec::new());
    }
    let vcek = match &last.vcek {
        Some((for_machine, vcek)) if for_machine == machine => vcek.clone(),
        _ => {
            let vcek = chain.vcek_der(machine)?;
            last.vcek = Some((machine.clone(), vcek.clone()));
            vcek
        }
    };
    let mut entries = vec![CertEntry { kind: CertKind::Vcek, data: vcek }];
    if machine.certificates == Certificates::Full {
        entries.push(CertEntry { kind: CertKind::Ask, data: chain.ask_der().to_vec() });
        entries.push(CertEntry { kind: CertKind::Ark, data: chain.ark_der().to_vec() });
    }
    Ok(cert_table::encode(&entries)?)
}

/// The report in the length that the fault gives it.
fn in_length(mut bytes: Vec<u8>, fault: Fault) -> Vec<u8> {
    match fault {
        Fault::Short => bytes.truncate(bytes.len().saturating_sub(1)),
        Fault::Empty => bytes.clear(),
        Fault::Huge => bytes.resize(HUGE_LEN, 0),
        _ => {}
    }
    bytes
}

/// The client sees an I/O error; the reason is for the person who runs the emulator.
fn log(error: &Error) -> Errno {
    tracing::error!(%error, "no report");
    Errno::EIO
}

#[allow(clippy::disallowed_methods)] // a thread per report, outside of any runtime
fn pause(duration: Duration) {
    if !duration.is_zero() {
        thread::sleep(duration);
    }
}
