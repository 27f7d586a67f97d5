//! Operating system and architecture, in the words of images.
//!
//! Images use the names of Go (`GOOS`, `GOARCH`), see the OCI image specification, image-index.md.

use std::{fmt, str::FromStr};

/// What an image is made for, or what this machine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// Operating system, `linux`.
    pub os: String,
    /// Architecture, for example `amd64`.
    pub architecture: String,
    /// Version of the architecture, for example `v8`.
    pub variant: Option<String>,
}

impl Platform {
    /// The machine that this program was built for.
    #[must_use]
    pub fn of_this_machine() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            other => other,
        };
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: None }
    }

    /// Whether an image made for `offered` runs here for certain: same system, same architecture, and no variant beyond
    /// the one that every such machine has.
    #[must_use]
    pub fn runs(&self, offered: &Self) -> bool {
        let baseline = match offered.architecture.as_str() {
            "arm64" => "v8",
            "amd64" => "v1",
            _ => "",
        };
        let variant_fits = offered.variant == self.variant
            || offered.variant.as_deref().is_none_or(|v| v.is_empty() || v == baseline);
        self.os == offered.os && self.architecture == offered.architecture && variant_fits
    }
}

impl FromStr for Platform {
    type Err = &'static str;

    /// Reads `system/architecture` or `system/architecture/variant`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fit = |part: &&str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        let parts: Vec<&str> = text.split('/').filter(fit).collect();
        let (os, architecture, variant) = match parts.as_slice() {
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some((*variant).to_owned())),
            _ => return Err("a platform is written system/architecture[/variant], such as linux/arm64"),
        };
        if text.split('/').count() != parts.len() {
            return Err("a platform has parts of letters and digits");
        }
        Ok(Self { os: (*os).to_owned(), architecture: (*architecture).to_owned(), variant })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(os: &str, architecture: &str, variant: Option<&str>) -> Platform {
        Platform { os: os.into(), architecture: architecture.into(), variant: variant.map(Into::into) }
    }

    #[test]
    fn platforms_are_written_with_slashes() {
        for text in ["linux/amd64", "linux/arm64/v8"] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), text);
        }
        for bad in
            ["", "linux", "linux/", "/amd64", "linux//v8", "linux/amd64/v1/x", "linux/a b", "linux/amd64/"]
        {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_baseline_variants_are_sure_to_run() {
        let amd64 = platform("linux", "amd64", None);
        for (offered, runs) in [
            (platform("linux", "amd64", None), true),
            (platform("linux", "amd64", Some("v1")), true),
            (platform("linux", "amd64", Some("v3")), false),
            (platform("linux", "arm64", Some("v8")), false),
            (platform("windows", "amd64", None), false),
        ] {
            assert_eq!(amd64.runs(&offered), runs, "{offered}");
        }
        assert!(platform("linux", "arm64", None).runs(&platform("linux", "arm64", Some("v8"))));
        assert!(!platform("linux", "arm64", None).runs(&platform("linux", "arm64", Some("v9"))));
    }
}
