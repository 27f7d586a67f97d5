//! The text form `<kbc>::<uri>` by which a key broker client is named on the kernel command line and in the
//! environment (`aa_kbc_params` of the Confidential Containers guest components).
//!
//! Not here: reading either place; the callers pass the texts in.

/// Name of the client that talks to a key broker.
pub const CC_KBC: &str = "cc_kbc";
/// Name of the client that reads files of the image.
pub const OFFLINE_FS_KBC: &str = "offline_fs_kbc";

/// A parsed `<kbc>::<uri>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KbcParams {
    /// Which client: [`CC_KBC`] or [`OFFLINE_FS_KBC`]; other names are kept and refused where they are used.
    pub name: String,
    /// Base URL of the key broker, or whatever stands in its place.
    pub uri: String,
}

impl Default for KbcParams {
    /// What the existing stack takes when neither place names one.
    fn default() -> Self {
        Self { name: OFFLINE_FS_KBC.to_owned(), uri: String::new() }
    }
}

/// A text that is not of the form `<kbc>::<uri>`. It is not repeated: a URL may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the text is not of the form <kbc>::<uri>: it has {parts} parts between \"::\"")]
pub struct KbcParamsError {
    parts: usize,
}

impl KbcParams {
    /// Parses `<kbc>::<uri>`: exactly two parts when split on `::`.
    ///
    /// # Errors
    /// Fewer or more parts, so that an IPv6 literal with `::` cannot be given this way.
    pub fn parse(text: &str) -> Result<Self, KbcParamsError> {
        let mut parts = text.split("::");
        match (parts.next(), parts.next(), parts.next()) {
            (Some(name), Some(uri), None) if !name.is_empty() => {
                Ok(Self { name: name.to_owned(), uri: uri.to_owned() })
            }
            _ => Err(KbcParamsError { parts: text.split("::").filter(|part| !part.is_empty()).count() }),
        }
    }

    /// Finds the parameters: the environment's text first, then `agent.aa_kbc_params=` on the kernel command
    /// line (the first of several), else the default.
    ///
    /// # Errors
    /// The text that was found is malformed.
    pub fn find(environment: Option<&str>, kernel_command_line: &str) -> Result<Self, KbcParamsError> {
        if let Some(text) = environment {
            return Self::parse(text);
        }
        match kernel_parameter(kernel_command_line, "agent.aa_kbc_params") {
            Some(text) => Self::parse(text),
            None => Ok(Self::default()),
        }
    }
}

/// The value of the first `name=value` on a kernel command line, split on ASCII white space.
pub fn kernel_parameter<'a>(command_line: &'a str, name: &str) -> Option<&'a str> {
    command_line
        .split_ascii_whitespace()
        .filter_map(|word| word.split_once('='))
        .find_map(|(key, value)| (key == name).then_some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_two_parts() {
        let good = KbcParams::parse("cc_kbc::http://10.0.0.1:8080").unwrap();
        assert_eq!((good.name.as_str(), good.uri.as_str()), (CC_KBC, "http://10.0.0.1:8080"));
        for bad in ["", "cc_kbc", "::uri", "cc_kbc::http://[::1]:8080", "a::b::c"] {
            assert!(KbcParams::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn environment_beats_kernel_command_line_and_the_first_wins() {
        let line = "quiet agent.aa_kbc_params=cc_kbc::http://a agent.aa_kbc_params=cc_kbc::http://b";
        assert_eq!(KbcParams::find(None, line).unwrap().uri, "http://a");
        assert_eq!(KbcParams::find(Some("cc_kbc::http://c"), line).unwrap().uri, "http://c");
        assert_eq!(KbcParams::find(None, "quiet").unwrap(), KbcParams::default());
        assert!(KbcParams::find(None, "agent.aa_kbc_params=nonsense").is_err());
    }
}
