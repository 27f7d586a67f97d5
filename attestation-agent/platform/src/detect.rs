//! Finds out on which platform this process runs, by trying: a TEE is there if its interface answers.
//!
//! The existence of a file proves nothing (the configfs directory is there without any TEE), so the TSM interface
//! is asked by making and removing an entry. Device nodes are only noted, so that the operator sees what a
//! machine has that this version cannot use. There is no silent fallback: no TEE is an error.

use std::fmt;
use std::sync::Arc;

use cc_evidence::Tee;

use crate::sample::Sample;
use crate::snp::{self, Snp};
use crate::{Error, Options, Platform, SysRoot, tsm};

/// Device nodes that show a platform of which this version has no driver of its own.
const NOTED: [(Tee, &str, &str); 6] = [
    (Tee::Snp, "dev/sev-guest", "exists, not used: reports are taken through configfs (Linux 6.7 or later)"),
    (Tee::Tdx, "dev/tdx_guest", "exists, not supported by this version"),
    (Tee::Csv, "dev/csv-guest", "exists, not supported by this version"),
    (Tee::Sgx, "dev/attestation/attestation_type", "exists, not supported by this version"),
    (Tee::Se, "sys/firmware/uv/prot_virt_guest", "exists, not supported by this version"),
    (Tee::Tpm, "dev/tpm0", "exists, not supported by this version"),
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
    note_devices(&options.sys_root, &mut tried);
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
        Ok(name) => {
            let tee = match name.as_str() {
                "tdx_guest" => Some(Tee::Tdx),
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

fn note_devices(root: &SysRoot, tried: &mut Vec<Probe>) {
    tried.extend(NOTED.into_iter().map(|(tee, below, found)| {
        let path = root.path(below);
        let outcome = match path.try_exists() {
            Ok(true) => found.to_owned(),
            Ok(false) => "absent".to_owned(),
            Err(error) => format!("cannot be looked at: {error}"),
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
        assert!(text.contains("tdx_guest: exists, not supported by this version"), "{text}");
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
