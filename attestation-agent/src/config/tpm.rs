//! Which TPM and which key: the table `[tpm]` of the configuration file, and the two variables of the existing stack.

use std::path::PathBuf;

use cc_daemon::start::{self, StartFault};
use cc_platform::tpm::{DEFAULT_AK_HANDLE, TpmOptions, read_handle};
use serde::Deserialize;

/// `[tpm]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TpmConfig {
    device: Option<PathBuf>,
    /// Hexadecimal, `0x` allowed.
    ak_handle: Option<String>,
}

/// What the environment says about the TPM; it wins over the file.
#[derive(Debug, Default)]
pub struct TpmEnvironment {
    /// `AA_TPM_DEVICE`.
    pub device: Option<String>,
    /// `AA_TPM_AK_HANDLE`.
    pub ak_handle: Option<String>,
}

impl TpmEnvironment {
    /// Reads both from this process.
    pub(super) fn of_process() -> Result<Self, StartFault> {
        Ok(Self {
            device: start::environment("AA_TPM_DEVICE")?,
            ak_handle: start::environment("AA_TPM_AK_HANDLE")?,
        })
    }
}

impl TpmConfig {
    /// File and environment put together.
    ///
    /// # Errors
    /// A handle that is no number, or not that of a persistent object; a relative path.
    pub(super) fn options(self, environment: &TpmEnvironment) -> Result<TpmOptions, StartFault> {
        let (ak_name, ak_handle) = match (&environment.ak_handle, &self.ak_handle) {
            (Some(text), _) => ("AA_TPM_AK_HANDLE", Some(text)),
            (None, text) => ("tpm.ak_handle", text.as_ref()),
        };
        let ak_handle = ak_handle.map_or(Ok(DEFAULT_AK_HANDLE), |text| {
            read_handle(text).map_err(|why| {
                StartFault::config(
                    format!("{ak_name} is {text:?}: {why}"),
                    "give the persistent handle of the attestation key in hexadecimal, for example 0x81010002",
                )
            })
        })?;
        let device = environment.device.as_ref().map(PathBuf::from).or(self.device);
        match device {
            Some(path) if !path.is_absolute() => Err(StartFault::config(
                format!("the TPM device is {path:?}, which is no absolute path"),
                "give the path of a device or socket, for example /dev/tpmrm0, in AA_TPM_DEVICE or [tpm] device",
            )),
            device => Ok(TpmOptions { device, ak_handle }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(device: Option<&str>, ak_handle: Option<&str>) -> TpmEnvironment {
        TpmEnvironment { device: device.map(str::to_owned), ak_handle: ak_handle.map(str::to_owned) }
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let file = || TpmConfig { device: Some("/dev/tpm1".into()), ak_handle: Some("81000003".to_owned()) };
        let of_file = file().options(&environment(None, None)).unwrap();
        assert_eq!(of_file, TpmOptions { device: Some("/dev/tpm1".into()), ak_handle: 0x8100_0003 });
        let of_both = file().options(&environment(Some("/run/tpm"), Some("0x81010009"))).unwrap();
        assert_eq!(of_both, TpmOptions { device: Some("/run/tpm".into()), ak_handle: 0x8101_0009 });
        assert_eq!(TpmConfig::default().options(&environment(None, None)).unwrap(), TpmOptions::default());
    }

    #[test]
    fn bad_values_are_named() {
        for (text, why) in [("0x80000001", "persistent"), ("zz", "hexadecimal"), ("", "hexadecimal")] {
            let error = TpmConfig::default().options(&environment(None, Some(text))).unwrap_err().to_string();
            assert!(error.contains("AA_TPM_AK_HANDLE") && error.contains(why), "{error}");
        }
        let error = TpmConfig::default().options(&environment(Some("tpm0"), None)).unwrap_err().to_string();
        assert!(error.contains("absolute"), "{error}");
    }
}
