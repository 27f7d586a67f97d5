//! Finds out on which platform this process runs, by trying: a TEE is there if its interface answers.
//!
//! The existence of a file proves nothing (the configfs directory is there without any TEE), so the TSM interface
//! is asked by making and removing an entry, and what it names is the platform: the kernel lets one driver serve it. A
//! driver's device is asked for what costs no report. The order is fixed, the first that answers is the platform, and
//! everything else that is there is noted, so that the operator sees what a machine has that was not chosen. There is no
//! silent fallback: no TEE is an error.

use std::fmt;
use std::sync::Arc;

use cc_evidence::Tee;

use crate::cca::{self, Cca};
use crate::sample::Sample;
use crate::snp::{self, Snp};
use crate::tdx::{self, Tdx};
use crate::{Error, Options, Platform, azure, nvidia, tpm, tsm};

/// What the driver behind a device gives: the platform, or why there is none.
type Found = Result<Arc<dyn Platform>, Error>;

/// A device node that shows a platform.
struct Candidate {
    tee: Tee,
    /// Where it is, below the root of the machine.
    below: &'static str,
    /// How the driver behind it is asked; none where this version has no use for it.
    ask: Option<fn(&Options) -> Found>,
}

/// The device nodes in the order in which they are asked, when the TSM interface has not found the platform.
const CANDIDATES: [Candidate; 5] = [
    Candidate { tee: Tee::Tdx, below: tdx::DEVICE, ask: Some(ask_tdx) },
    Candidate { tee: Tee::Snp, below: snp::device::DEVICE, ask: Some(ask_snp) },
    Candidate { tee: Tee::Csv, below: "dev/csv-guest", ask: None },
    Candidate { tee: Tee::Sgx, below: "dev/attestation/attestation_type", ask: None },
    Candidate { tee: Tee::Se, below: "sys/firmware/uv/prot_virt_guest", ask: None },
];

/// What was found.
#[derive(Clone, Debug)]
pub struct Detected {
    /// The platform that vouches for this machine.
    pub primary: Arc<dyn Platform>,
    /// Further devices with evidence of their own.
    pub devices: Vec<Arc<dyn Platform>>,
    /// Everything that was looked for, for the status report.
    pub tried: Vec<Probe>,
}

/// One thing that was looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The platform it shows; none where that is open, as for an interface that several platforms share.
    pub tee: Option<Tee>,
    /// What was looked at.
    pub what: String,
    /// What was found, a phrase.
    pub outcome: String,
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tee {
            Some(tee) => write!(f, "{tee}: {}: {}", self.what, self.outcome),
            None => write!(f, "{}: {}", self.what, self.outcome),
        }
    }
}

/// What an interface said.
enum Answer {
    /// A platform that this version serves.
    Served(Arc<dyn Platform>),
    /// Certainly no TEE behind it.
    Nothing,
    /// A TEE that this version does not serve, or an interface that is there but fails.
    Unusable,
}

impl Answer {
    /// The platform that was found.
    fn platform(&self) -> Option<Tee> {
        match self {
            Self::Served(platform) => Some(platform.tee()),
            Self::Nothing | Self::Unusable => None,
        }
    }
}

/// Finds the platform of this machine.
///
/// The sample platform is used only if the options name it and there is no trace of a TEE at the TSM interface or at a
/// driver's device: a machine with a TEE that fails or that this version cannot serve must not fall back to evidence that
/// proves nothing.
///
/// # Errors
/// [`Error::NoPlatform`] with everything that was looked for; [`Error::Device`] when it cannot be told whether there are
/// GPUs that must be attested.
pub fn detect(options: &Options) -> Result<Detected, Error> {
    let mut tried = Vec::new();
    let mut answer = ask_tsm(options, &mut tried);
    // A trust domain's own device comes before the TPM of a paravisor, all others after it.
    let [td, others @ ..] = &CANDIDATES;
    answer = ask_device(td, options, answer, &mut tried);
    answer = ask_azure(options, answer, &mut tried);
    for candidate in others {
        answer = ask_device(candidate, options, answer, &mut tried);
    }
    let answer = ask_tpm(options, answer, &mut tried);
    let primary = match (answer, options.sample) {
        (Answer::Served(platform), named) => {
            if named {
                tried.push(sample_probe("named in the configuration, not used: there is a TEE"));
            }
            Some(platform)
        }
        (Answer::Nothing, true) => {
            tried.push(sample_probe("named in the configuration, used"));
            Some(Arc::new(Sample::new()) as Arc<dyn Platform>)
        }
        (Answer::Unusable, true) => {
            tried.push(sample_probe(
                "named in the configuration, not used: there is a TEE or its interface fails",
            ));
            None
        }
        (_, false) => None,
    };
    match primary {
        Some(primary) => {
            let gpus = nvidia::detect(options, primary.tee(), &mut tried)?;
            let devices = gpus.map(|gpus| Arc::new(gpus) as Arc<dyn Platform>).into_iter().collect();
            Ok(Detected { primary, devices, tried })
        }
        None => Err(Error::NoPlatform { tried }),
    }
}

/// Asks the TSM interface who serves it.
fn ask_tsm(options: &Options, tried: &mut Vec<Probe>) -> Answer {
    let client = tsm::Client::new(&options.sys_root, options.quote_time_limit);
    let what = format!("TSM interface {}", options.sys_root.path(tsm::REPORT_DIRECTORY).display());
    let (tee, outcome, answer) = match client.provider() {
        Ok(name) if name == snp::PROVIDER => (
            Some(Tee::Snp),
            format!("provider {name}"),
            Answer::Served(Arc::new(Snp::new(client)) as Arc<dyn Platform>),
        ),
        Ok(name) if name == tdx::PROVIDER => (
            Some(Tee::Tdx),
            format!("provider {name}"),
            Answer::Served(Arc::new(Tdx::new(client, options)) as Arc<dyn Platform>),
        ),
        Ok(name) if name == cca::PROVIDER => (
            Some(Tee::Cca),
            format!("provider {name}"),
            Answer::Served(Arc::new(Cca::new(client)) as Arc<dyn Platform>),
        ),
        Ok(name) => (None, format!("found provider {name}, not supported by this version"), Answer::Unusable),
        Err(error @ (Error::TsmMissing { .. } | Error::TsmNoProvider { .. })) => {
            (None, error.to_string(), Answer::Nothing)
        }
        Err(error) => (None, format!("{error} [{}]", error.code()), Answer::Unusable),
    };
    tried.push(Probe { tee, what, outcome });
    answer
}

/// Looks at a device node after `before` was found, and asks its driver if that is no platform.
fn ask_device(candidate: &Candidate, options: &Options, before: Answer, tried: &mut Vec<Probe>) -> Answer {
    let path = options.sys_root.path(candidate.below);
    let (outcome, answer) = match (path.try_exists(), before.platform(), candidate.ask) {
        (Ok(false), ..) => ("absent".to_owned(), before),
        (Err(error), ..) => (format!("cannot be looked at: {error}"), before),
        (Ok(true), Some(chosen), _) if chosen == candidate.tee => {
            ("exists, of the platform found".to_owned(), before)
        }
        (Ok(true), Some(chosen), _) => (format!("exists, not used: {chosen} was found first"), before),
        (Ok(true), None, None) => ("exists, not supported by this version".to_owned(), before),
        (Ok(true), None, Some(ask)) => match ask(options) {
            Ok(platform) => ("answers, used".to_owned(), Answer::Served(platform)),
            Err(error) => (format!("exists, not used: {error} [{}]", error.code()), Answer::Unusable),
        },
    };
    tried.push(Probe { tee: Some(candidate.tee), what: path.display().to_string(), outcome });
    answer
}

fn ask_tdx(options: &Options) -> Found {
    let service = tdx::service::Service::new(options.sys_root.clone(), options.quote_time_limit);
    service.probe()?;
    Ok(Arc::new(Tdx::with_service(service, options)))
}

fn ask_snp(options: &Options) -> Found {
    let device = snp::device::Device::new(&options.sys_root, options.quote_time_limit);
    device.probe()?;
    Ok(Arc::new(Snp::with_device(device)))
}

/// Looks for the HCL report of an Azure machine in the TPMs after `before` was found. A TPM that cannot be asked at all is
/// none of such a machine's; what it says is told where TPMs are looked for.
fn ask_azure(options: &Options, before: Answer, tried: &mut Vec<Probe>) -> Answer {
    if !matches!(before, Answer::Nothing) {
        return before;
    }
    for path in tpm::candidates(&options.tpm, &options.sys_root) {
        let Ok(device) = tpm::Device::open(&path, options.quote_time_limit) else { continue };
        let (tee, outcome, answer) = match azure::find(device, &options.azure, options.quote_time_limit) {
            Ok(None) => (None, "absent".to_owned(), Answer::Nothing),
            Ok(Some(found)) => (Some(found.tee()), "read, used".to_owned(), Answer::Served(Arc::new(found))),
            Err(error) => (None, format!("not used: {error} [{}]", error.code()), Answer::Unusable),
        };
        tried.push(Probe { tee, what: format!("HCL report in {}", path.display()), outcome });
        if !matches!(answer, Answer::Nothing) {
            return answer;
        }
    }
    before
}

/// Looks for a TPM with an attestation key after `before` was found: what a machine without any TEE has at best. A TPM
/// without such a key is nothing, unless the configuration names it.
fn ask_tpm(options: &Options, before: Answer, tried: &mut Vec<Probe>) -> Answer {
    let probe = |(what, outcome)| Probe { tee: Some(Tee::Tpm), what, outcome };
    if !matches!(before, Answer::Nothing) {
        let outcome = before.platform().map_or_else(
            || "not used: there is a TEE or its interface fails".to_owned(),
            |chosen| format!("not used: {chosen} was found first"),
        );
        let there = tpm::candidates(&options.tpm, &options.sys_root);
        tried.extend(there.into_iter().map(|path| probe((path.display().to_string(), outcome.clone()))));
        return before;
    }
    let search = tpm::search(&options.tpm, &options.sys_root, options.quote_time_limit);
    tried.extend(search.looked_at.into_iter().map(probe));
    match search.found {
        Some(found) => {
            tracing::warn!(
                "the platform is a TPM alone: on a virtual machine it belongs to the host unless a TEE endorses it. Secrets \
                 are as safe as the reason why the relying party trusts this TPM's attestation key"
            );
            Answer::Served(Arc::new(found))
        }
        None if options.tpm.device.is_some() => Answer::Unusable,
        None => Answer::Nothing,
    }
}

fn sample_probe(outcome: &str) -> Probe {
    Probe { tee: Some(Tee::Sample), what: "sample platform".to_owned(), outcome: outcome.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;
    use crate::SysRoot;

    fn options(root: &std::path::Path, sample: bool) -> Options {
        Options {
            sys_root: SysRoot::new(root.to_owned()),
            sample,
            quote_time_limit: Duration::from_secs(20),
            ..Options::default()
        }
    }

    /// Puts an empty file at `below`.
    fn put(root: &std::path::Path, below: &str) {
        let path = root.join(below);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }

    #[test]
    fn nothing_found_is_an_error_that_lists_everything() {
        let root = tempfile::tempdir().unwrap();
        let error = detect(&options(root.path(), false)).unwrap_err();
        assert_eq!(error.code(), "TEE_NOT_FOUND");
        let text = error.to_string();
        for candidate in &CANDIDATES {
            assert!(text.contains(candidate.below), "{} in {text}", candidate.below);
        }
        assert!(text.contains("sys/kernel/config/tsm/report does not exist"), "{text}");
    }

    #[test]
    fn a_device_that_no_driver_serves_is_no_platform_and_forbids_sample_evidence() {
        for (below, outcome) in
            [(tdx::DEVICE, "exists, not used: asking"), (snp::device::DEVICE, "exists, not used: asking")]
        {
            let root = tempfile::tempdir().unwrap();
            put(root.path(), below);
            let error = detect(&options(root.path(), true)).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(outcome) && text.contains("[TEE_DEVICE]"), "{text}");
            assert!(text.contains("named in the configuration, not used"), "{text}");
        }
    }

    #[test]
    fn devices_beside_the_platform_found_are_noted_and_not_asked() {
        let root = tempfile::tempdir().unwrap();
        for device in [tdx::DEVICE, snp::device::DEVICE] {
            put(root.path(), device);
        }
        let mut options = options(root.path(), false);
        options.tpm.device = Some("/dev/null".into());
        for (chosen, other) in [(Tee::Tdx, Tee::Snp), (Tee::Snp, Tee::Tdx), (Tee::Cca, Tee::Tdx)] {
            let client = || tsm::Client::new(&options.sys_root, options.quote_time_limit);
            let platform: Arc<dyn Platform> = match chosen {
                Tee::Tdx => Arc::new(Tdx::new(client(), &options)),
                Tee::Snp => Arc::new(Snp::new(client())),
                _ => Arc::new(Cca::new(client())),
            };
            let (mut answer, mut tried) = (Answer::Served(platform), Vec::new());
            for candidate in &CANDIDATES {
                answer = ask_device(candidate, &options, answer, &mut tried);
            }
            let answer = ask_tpm(&options, answer, &mut tried);
            assert_eq!(answer.platform(), Some(chosen));
            let outcome = |tee| &tried.iter().find(|probe| probe.tee == Some(tee)).unwrap().outcome;
            if chosen != Tee::Cca {
                assert_eq!(outcome(chosen), "exists, of the platform found");
            }
            assert_eq!(outcome(other), &format!("exists, not used: {chosen} was found first"));
            assert_eq!(outcome(Tee::Tpm), &format!("not used: {chosen} was found first"));
            assert_eq!(outcome(Tee::Csv), "absent");
        }
    }

    #[test]
    fn sample_needs_to_be_named() {
        let root = tempfile::tempdir().unwrap();
        let found = detect(&options(root.path(), true)).unwrap();
        assert_eq!(found.primary.tee(), Tee::Sample);
        assert!(found.devices.is_empty());
        assert!(found.tried.iter().any(|p| p.tee == Some(Tee::Sample) && p.outcome.contains("used")));
        assert_eq!(detect(&options(root.path(), false)).unwrap_err().code(), "TEE_NOT_FOUND");
    }

    #[test]
    fn an_interface_that_fails_never_turns_into_sample_evidence() {
        let root = tempfile::tempdir().unwrap();
        // An ordinary directory: entries can be made, but they have no attributes.
        fs::create_dir_all(root.path().join(tsm::REPORT_DIRECTORY)).unwrap();
        let error = detect(&options(root.path(), true)).unwrap_err();
        assert!(error.to_string().contains("TSM_MALFORMED"), "{error}");
    }
}
