//! What a program says about its own build: the text behind `--version`.
//!
//! Version, commit, target and features are fixed when it is compiled. It is NOT a time or a place of the build: those would
//! make two builds of the same sources differ.

#![forbid(unsafe_code)]

/// The text with the names of the cargo features that change what the program does.
macro_rules! text {
    ($features:literal) => {
        concat!(
            env!("CARGO_PKG_VERSION"),
            "\ncommit: ",
            env!("BUILD_COMMIT"),
            "\ntarget: ",
            env!("BUILD_TARGET"),
            "\nfeatures: ",
            $features
        )
    };
}

/// Version of all programs of this project, such as `0.1.0`: what `-V` prints.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Four lines: the version, the commit (`unknown` where nobody told), the target, the features.
pub const LONG_VERSION: &str = text!("none");

/// [`LONG_VERSION`] of a program that was built with the feature `luks`.
pub const LONG_VERSION_LUKS: &str = text!("luks");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_says_one_thing() {
        for text in [LONG_VERSION, LONG_VERSION_LUKS] {
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(lines.len(), 4, "{text}");
            assert_eq!(lines[0], VERSION);
            for (line, begin) in lines[1..].iter().zip(["commit: ", "target: ", "features: "]) {
                assert!(line.len() > begin.len() && line.starts_with(begin), "{text}");
            }
            assert!(lines[2].contains(std::env::consts::ARCH), "{text}");
        }
    }
}
