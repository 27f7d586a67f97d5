//! Where the metadata service of an Azure machine is: the table `[azure]` of the configuration file.

use cc_daemon::start::StartFault;
use cc_platform::azure::AzureOptions;
use cc_platform::azure::metadata::{DEFAULT_URL, MetadataUrl};
use serde::Deserialize;

/// `[azure]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct AzureConfig {
    metadata_url: Option<String>,
    /// The service may be at any address, not only at one of this machine.
    allow_remote_metadata: bool,
}

impl AzureConfig {
    /// The options for the platform.
    pub(super) fn options(self) -> Result<AzureOptions, StartFault> {
        let metadata_url = match self.metadata_url {
            None => MetadataUrl::default(),
            Some(text) => MetadataUrl::parse(&text, self.allow_remote_metadata).map_err(|why| {
                StartFault::config(
                    format!("azure.metadata_url: {why}"),
                    format!("leave it away, or write it like {DEFAULT_URL}; for an address that is neither link-local nor of the loopback set azure.allow_remote_metadata too"),
                )
            })?,
        };
        Ok(AzureOptions { metadata_url })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn options(config: serde_json::Value) -> Result<AzureOptions, StartFault> {
        serde_json::from_value::<AzureConfig>(config).unwrap().options()
    }

    #[test]
    fn the_service_is_where_the_file_says_if_that_is_this_machine() {
        assert_eq!(options(json!({})).unwrap(), AzureOptions::default());
        let near = json!({"metadata_url": "http://127.0.0.1:8080/imds"});
        assert_eq!(options(near).unwrap().metadata_url.to_string(), "http://127.0.0.1:8080/imds");
        let error = options(json!({"metadata_url": "http://10.0.0.1"})).unwrap_err().to_string();
        assert!(error.contains("azure.metadata_url"), "{error}");
        let named = json!({"metadata_url": "http://10.0.0.1", "allow_remote_metadata": true});
        assert!(options(named).is_ok());
        // A malformed value is not repeated: it may hold a password.
        let error =
            options(json!({"metadata_url": "http://admin:hunter2@127.0.0.1"})).unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }
}
