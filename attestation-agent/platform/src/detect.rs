//! Finds out on which platform this process runs, by trying: a TEE is there if its interface answers.
//!
//! The existence of a file proves nothing (the configfs directory is there without any TEE), so the TSM interface
//! is asked by making and removing an entry, and what it names is the platform: the kernel lets one driver serve it.
//! Device nodes are only noted, so that the operator sees what a machine has that was not chosen. There is no silent fallback: no TEE is an error.

use std::fmt;
use std::sync::Arc;

use cc_evidence::Tee;

use crate::sample::Sample;
use crate::snp::{self, Snp};
use crate::tdx::{self, Tdx};
use crate::{Error, Options, Platform, SysRoot, tsm};

/// Device nodes that show a platform, and what to say of them when the TSM interface has not found it.
const NOTED: [(Tee, &str, &str); 6] = [
    (Tee::Tdx, tdx::DEVICE, THROUGH_CONFIGFS),
    (Tee::Snp, "dev/sev-guest", THROUGH_CONFIGFS),
    (Tee::Csv, "dev/csv-guest", UNSUPPORTED),
    (Tee::Sgx, "dev/attestation/attestation_type", UNSUPPORTED),
    (Tee::Se, "sys/firmware/uv/prot_virt_guest", UNSUPPORTED),
    (Tee::Tpm, "dev/tpm0", UNSUPPORTED),
];

const THROUGH_CONFIGFS: &str = "exists, not used: evidence is taken through configfs (Linux 6.7 or later)";
const UNSUPPORTED: &str = "exists, not supported by this version";

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

/// What the TSM interface said.
enum Answer {
    /// A platform that this version serves.
    Served(Arc<dyn Platform>),
    /// Certainly no TEE behind it.
    Nothing,
    /// A TEE that this version does not serve, or an interface that is there but fails.
    Unusable,
}

/// Finds the platform of this machine.
///
/// The sample platform is used only if the options name it and no trace of a TEE answered at the TSM interface: a
/// machine with a TEE that fails or that this version cannot serve must not fall back to evidence that proves nothing.
///
/// # Errors
/// [`Error::NoPlatform`] with everything that was looked for.
pub fn detect(options: &Options) -> Result<Detected, Error> {
    let mut tried = Vec::new();
    let answer = ask_tsm(options, &mut tried);
    let chosen = match &answer {
        Answer::Served(platform) => Some(platform.tee()),
        _ => None,
    };
    note_devices(&options.sys_root, chosen, &mut tried);
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
        Some(primary) => Ok(Detected { primary, devices: Vec::new(), tried }),
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
            Answer::Served(Arc::new(Tdx::new(client, options.sys_root.clone())) as Arc<dyn Platform>),
        ),
        Ok(name) => {
            let tee = match name.as_str() {
                "arm_cca_guest" => Some(Tee::Cca),
                _ => None,
            };
            (tee, format!("found provider {name}, not supported by this version"), Answer::Unusable)
        }
        Err(error @ (Error::TsmMissing { .. } | Error::TsmNoProvider { .. })) => {
            (None, error.to_string(), Answer::Nothing)
        }
        Err(error) => (None, format!("{error} [{}]", error.code()), Answer::Unusable),
    };
    tried.push(Probe { tee, what, outcome });
    answer
}

/// Notes which device nodes there are beside the platform that was `chosen`, if any.
fn note_devices(root: &SysRoot, chosen: Option<Tee>, tried: &mut Vec<Probe>) {
    tried.extend(NOTED.into_iter().map(|(tee, below, unchosen)| {
        let path = root.path(below);
        let outcome = match (path.try_exists(), chosen) {
            (Ok(true), Some(chosen)) if chosen == tee => "exists, of the platform found".to_owned(),
            (Ok(true), Some(chosen)) => format!("exists, not used: the TSM interface is served by {chosen}"),
            (Ok(true), None) => unchosen.to_owned(),
            (Ok(false), _) => "absent".to_owned(),
            (Err(error), _) => format!("cannot be looked at: {error}"),
        };
        Probe { tee: Some(tee), what: path.display().to_string(), outcome }
    }));
}

fn sample_probe(outcome: &str) -> Probe {
    Probe { tee: Some(Tee::Sample), what: "sample platform".to_owned(), outcome: outcome.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;

    fn options(root: &std::path::Path, sample: bool) -> Options {
        Options { sys_root: SysRoot::new(root.to_owned()), sample, quote_time_limit: Duration::from_secs(20) }
    }

    #[test]
    fn nothing_found_is_an_error_that_lists_everything() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("dev")).unwrap();
        fs::write(root.path().join("dev/tdx_guest"), "").unwrap();
        let error = detect(&options(root.path(), false)).unwrap_err();
        assert_eq!(error.code(), "TEE_NOT_FOUND");
        let text = error.to_string();
        for (_, below, _) in NOTED {
            assert!(text.contains(below), "{below} in {text}");
        }
        assert!(text.contains("sys/kernel/config/tsm/report does not exist"), "{text}");
        assert!(text.contains("tdx_guest: exists, not used: evidence is taken through configfs"), "{text}");
    }

    #[test]
    fn of_several_devices_the_one_of_the_interface_is_chosen() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("dev")).unwrap();
        for device in ["dev/tdx_guest", "dev/sev-guest", "dev/tpm0"] {
            fs::write(root.path().join(device), "").unwrap();
        }
        for (chosen, other) in [(Tee::Tdx, Tee::Snp), (Tee::Snp, Tee::Tdx)] {
            let mut tried = Vec::new();
            note_devices(&SysRoot::new(root.path().to_owned()), Some(chosen), &mut tried);
            let outcome = |tee| &tried.iter().find(|probe| probe.tee == Some(tee)).unwrap().outcome;
            assert_eq!(outcome(chosen), "exists, of the platform found");
            for unused in [other, Tee::Tpm] {
                let expected = format!("exists, not used: the TSM interface is served by {chosen}");
                assert_eq!(outcome(unused), &expected);
            }
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
