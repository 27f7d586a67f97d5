//! Configuration files: TOML, JSON or YAML into typed values.
//!
//! The format follows the file's extension (`.toml`, `.json`, `.yaml`, `.yml`). With any other extension the
//! first of TOML, JSON and YAML whose syntax fits is taken. A file of blank lines and `#` comments is valid
//! in every format and means: all defaults. Keys that nobody reads are reported by name and are no error here.
//!
//! It is NOT a layering of sources: one file is one configuration. Error texts name positions and types and
//! never quote lines of the file.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use cc_evidence::HashAlgorithm;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::listen::SocketOptions;
pub use crate::provenance::{Provenance, Source, UnmeasuredConfig};

/// Largest configuration file in bytes.
pub const MAX_BYTES: u64 = 1 << 20;

/// Most unknown keys that are reported.
const MAX_UNKNOWN: usize = 64;

/// A configuration and what was noticed while reading it.
#[derive(Clone, Debug)]
pub struct Loaded<T> {
    /// The configuration.
    pub value: T,
    /// Keys of the file that nobody read, as dotted paths, sorted; at most 64.
    pub unknown_keys: Vec<String>,
    /// The file.
    pub path: PathBuf,
    /// SHA-256 of the bytes that were parsed.
    pub sha256: Vec<u8>,
    /// Number of the device that the file lies on (`st_dev`).
    pub device: u64,
}

/// How a configuration file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// TOML 1.0.
    Toml,
    /// JSON, RFC 8259.
    Json,
    /// YAML 1.2.
    Yaml,
}

impl Format {
    /// The format that a file's extension names, whatever its case.
    #[must_use]
    pub fn of_extension(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "toml" => Some(Self::Toml),
            "json" => Some(Self::Json),
            "yaml" | "yml" => Some(Self::Yaml),
            _ => None,
        }
    }

    /// The first of TOML, JSON and YAML whose syntax fits the text; TOML if none does.
    #[must_use]
    pub fn sniff(text: &str) -> Self {
        if text.parse::<toml::Table>().is_ok() {
            Self::Toml
        } else if serde_json::from_str::<IgnoredAny>(text).is_ok() {
            Self::Json
        } else if serde_saphyr::from_str::<IgnoredAny>(text).is_ok() {
            Self::Yaml
        } else {
            Self::Toml
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Toml => "TOML",
            Self::Json => "JSON",
            Self::Yaml => "YAML",
        })
    }
}

/// `[log]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct LogSection {
    /// Log filter.
    pub level: String,
}

impl Default for LogSection {
    fn default() -> Self {
        Self { level: "info".to_owned() }
    }
}

/// Mode and owner of a Unix socket, as a configuration file gives them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SocketSection {
    /// Octal text such as `"0660"`; `0600` if absent.
    pub mode: Option<String>,
    /// Owner; unchanged if absent.
    pub uid: Option<u32>,
    /// Group; unchanged if absent.
    pub gid: Option<u32>,
}

impl SocketSection {
    /// The options they mean.
    ///
    /// # Errors
    ///
    /// The mode that is no octal text of at most `0777`.
    pub fn options(&self) -> Result<SocketOptions, String> {
        let parse = |text: &String| {
            u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777).ok_or_else(|| text.clone())
        };
        let mode = self.mode.as_ref().map(parse).transpose()?.unwrap_or(0o600);
        Ok(SocketOptions { mode, uid: self.uid, gid: self.gid })
    }
}

/// Why a text is not the configuration it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// The format that the text was read as.
    pub format: Format,
    /// Line and column, from 1; absent where the format's library does not tell.
    pub position: Option<(u64, u64)>,
    /// What is wrong there.
    pub reason: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((line, column)) = self.position {
            write!(f, "line {line}, column {column}: ")?;
        }
        write!(f, "{} (read as {})", self.reason, self.format)
    }
}

impl std::error::Error for ParseError {}

/// A configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The path names a folder, a device or a pipe.
    #[error("the configuration {path:?} is no regular file")]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The file is larger than [`MAX_BYTES`].
    #[error("the configuration file {path:?} is larger than {MAX_BYTES} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is not UTF-8 text.
    #[error("the configuration file {path:?} is not UTF-8 text")]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// Syntax or types are wrong.
    #[error("the configuration file {path:?} is not valid: {source}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: ParseError,
    },
}

impl ConfigError {
    /// Stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Read { .. } => "CONFIG_UNREADABLE",
            Self::NotAFile { .. } => "CONFIG_NOT_A_FILE",
            Self::TooLarge { .. } => "CONFIG_TOO_LARGE",
            Self::NotText { .. } | Self::Invalid { .. } => "CONFIG_INVALID",
        }
    }

    /// The next step for the operator.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Read { .. } => "check the path and the permissions of the file and its folders".to_owned(),
            Self::NotAFile { .. } => "name a TOML, JSON or YAML file".to_owned(),
            Self::TooLarge { .. } => "configuration files are small; is this the right file?".to_owned(),
            Self::NotText { .. } | Self::Invalid { .. } => {
                "correct the file; its extension (.toml, .json, .yaml) says how it is read".to_owned()
            }
        }
    }
}

/// Reads a configuration file of at most [`MAX_BYTES`] bytes.
///
/// # Errors
///
/// [`ConfigError`] names the file, the reason and, where it can, line and column.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<Loaded<T>, ConfigError> {
    let named = || path.to_owned();
    let (text, device) = read(path)?;
    let format = Format::of_extension(path).unwrap_or_else(|| Format::sniff(&text));
    let (value, unknown_keys) =
        parse(&text, format).map_err(|source| ConfigError::Invalid { path: named(), source })?;
    let sha256 = HashAlgorithm::Sha256.digest(text.as_bytes());
    Ok(Loaded { value, unknown_keys, path: named(), sha256, device })
}

/// The file's text and the device it lies on.
fn read(path: &Path) -> Result<(String, u64), ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    // Asked before opening: opening a pipe would wait for its writer.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(ConfigError::NotAFile { path: path.to_owned() });
    }
    let file = File::open(path).map_err(failed)?;
    let device = file.metadata().map_err(failed)?.dev();
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(ConfigError::TooLarge { path: path.to_owned() });
    }
    let text = String::from_utf8(bytes).map_err(|_| ConfigError::NotText { path: path.to_owned() })?;
    Ok((text, device))
}

/// Reads a configuration from text. Gives the value and the keys that nobody read.
///
/// # Errors
///
/// The text is not valid in this format, or does not have the shape of `T`.
pub fn parse<T: DeserializeOwned>(text: &str, format: Format) -> Result<(T, Vec<String>), ParseError> {
    let mut unknown = Vec::new();
    let mut note = |key: serde_ignored::Path<'_>| {
        if unknown.len() < MAX_UNKNOWN {
            unknown.push(named(&key));
        }
    };
    let blank = text.lines().map(str::trim_start).all(|line| line.is_empty() || line.starts_with('#'));
    let value = match format {
        _ if blank => from_toml("", &mut note),
        Format::Toml => from_toml(text, &mut note),
        Format::Json => from_json(text, &mut note),
        Format::Yaml => from_yaml(text, &mut note),
    }?;
    unknown.sort_unstable();
    Ok((value, unknown))
}

/// The key as a person writes it: `token_configs.kbs.crt`, with `[1]` for the second of a list. Optional values
/// are no level of their own.
fn named(key: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    let join = |parent: &Path<'_>, name: &str| match named(parent) {
        outer if outer.is_empty() => name.to_owned(),
        outer => format!("{outer}.{name}"),
    };
    match key {
        Path::Root => String::new(),
        Path::Map { parent, key } => join(parent, key),
        Path::Seq { parent, index } => format!("{}[{index}]", named(parent)),
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            named(parent)
        }
    }
}

fn from_toml<T: DeserializeOwned>(
    text: &str,
    note: &mut dyn FnMut(serde_ignored::Path<'_>),
) -> Result<T, ParseError> {
    toml::Deserializer::parse(text).and_then(|toml| serde_ignored::deserialize(toml, note)).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        let position = before.map(|before| {
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            (line as u64, column as u64)
        });
        ParseError { format: Format::Toml, position, reason: error.message().to_owned() }
    })
}

fn from_json<T: DeserializeOwned>(
    text: &str,
    note: &mut dyn FnMut(serde_ignored::Path<'_>),
) -> Result<T, ParseError> {
    let mut json = serde_json::Deserializer::from_str(text);
    let value = serde_ignored::deserialize(&mut json, note);
    value.and_then(|value| json.end().map(|()| value)).map_err(|error| {
        let position = (error.line() as u64, error.column() as u64);
        // The library puts the position at the end of its text; it has its own field here.
        let text = error.to_string();
        let reason = text.strip_suffix(&format!(" at line {} column {}", position.0, position.1));
        ParseError {
            format: Format::Json,
            position: Some(position),
            reason: reason.unwrap_or(&text).to_owned(),
        }
    })
}

fn from_yaml<T: DeserializeOwned>(
    text: &str,
    note: &mut dyn FnMut(serde_ignored::Path<'_>),
) -> Result<T, ParseError> {
    serde_saphyr::with_deserializer_from_str(text, |yaml| serde_ignored::deserialize(yaml, note)).map_err(
        |error| {
            let error = error.without_snippet();
            let position = error.location().map(|location| (location.line(), location.column()));
            ParseError { format: Format::Yaml, position, reason: error.to_string() }
        },
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Sample {
        socket: String,
        log: Log,
        ports: Vec<u16>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Log {
        level: String,
    }

    fn write(name: &str, content: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        (folder, path)
    }

    const TOML: &str = "socket = \"a\"\nports = [1, 2]\nnew = 1\n[log]\nlevel = \"info\"\ncolour = true\n";
    const JSON: &str =
        r#"{"socket": "a", "ports": [1, 2], "new": 1, "log": {"level": "info", "colour": true}}"#;
    const YAML: &str = "socket: a\nports: [1, 2]\nnew: 1\nlog:\n  level: info\n  colour: true\n";

    #[test]
    fn the_three_formats_say_the_same_by_extension_and_by_sniffing() {
        for (extension, text) in [("toml", TOML), ("json", JSON), ("yaml", YAML), ("yml", YAML)] {
            for name in [format!("a.{extension}"), "a.conf".to_owned(), "a".to_owned()] {
                let (_folder, path) = write(&name, text.as_bytes());
                let loaded: Loaded<Sample> = load(&path).unwrap();
                assert_eq!(loaded.value.socket, "a", "{name}");
                assert_eq!(loaded.value.log.level, "info", "{name}");
                assert_eq!(loaded.value.ports, [1, 2], "{name}");
                assert_eq!(loaded.unknown_keys, ["log.colour", "new"], "{name}");
            }
        }
    }

    #[test]
    fn blank_files_mean_all_defaults_in_every_format() {
        for name in ["a.toml", "a.json", "a.yaml", "a.conf"] {
            for text in ["", "\n  \n", "# only a comment\n"] {
                let (_folder, path) = write(name, text.as_bytes());
                assert_eq!(load::<Sample>(&path).unwrap().value, Sample::default(), "{name} {text:?}");
            }
        }
    }

    #[test]
    fn errors_name_the_place_and_quote_no_line() {
        let cases = [
            ("a.toml", "socket = \"a\"\nports = \"canary", (2, 16)),
            ("a.toml", "socket = \"a\"\nports = 7\n", (2, 9)),
            ("a.json", "{\"socket\": \"a\",\n \"ports\": {}}", (2, 10)),
            ("a.json", "{} {}", (1, 4)),
            ("a.yaml", "socket: a\nports: {canary: b}\n", (2, 8)),
        ];
        for (name, text, position) in cases {
            let (_folder, path) = write(name, text.as_bytes());
            let error = load::<Sample>(&path).unwrap_err();
            assert_eq!(error.code(), "CONFIG_INVALID", "{name}");
            let shown = error.to_string();
            assert!(shown.contains(name) && !shown.contains("canary"), "{shown}");
            let ConfigError::Invalid { source, .. } = error else { panic!("{shown}") };
            assert_eq!(source.position, Some(position), "{shown}");
        }
    }

    #[test]
    fn files_that_are_none_are_refused() {
        let (folder, path) = write("a.toml", &[0xff, 0xfe]);
        assert_eq!(load::<Sample>(&path).unwrap_err().code(), "CONFIG_INVALID");
        assert_eq!(load::<Sample>(folder.path()).unwrap_err().code(), "CONFIG_NOT_A_FILE");
        assert_eq!(load::<Sample>(&folder.path().join("b")).unwrap_err().code(), "CONFIG_UNREADABLE");
        let (_folder, path) = write("a.toml", &vec![b'#'; usize::try_from(MAX_BYTES).unwrap() + 1]);
        assert_eq!(load::<Sample>(&path).unwrap_err().code(), "CONFIG_TOO_LARGE");
        let (_folder, path) = write("a.toml", &vec![b'#'; usize::try_from(MAX_BYTES).unwrap()]);
        assert!(load::<Sample>(&path).is_ok());
    }

    #[test]
    fn deep_and_repeating_files_are_answered() {
        let laughs: String = (1..30).map(|n| format!("a{n}: &a{n} [*a{}, *a{}]\n", n - 1, n - 1)).collect();
        let texts = [
            "[".repeat(100_000),
            "{\"a\":".repeat(100_000),
            format!("a = {}", "[".repeat(100_000)),
            format!("a{} = 1", ".a".repeat(100_000)),
            format!("a: {}", "{a: ".repeat(100_000)),
            format!("a0: &a0 [x]\n{laughs}"),
        ];
        for text in texts {
            for format in [Format::Toml, Format::Json, Format::Yaml, Format::sniff(&text)] {
                let _ = parse::<Sample>(&text, format);
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_answer(text in "[\\PC\n]{0,200}") {
            let sniffed = Format::sniff(&text);
            for format in [Format::Toml, Format::Json, Format::Yaml, sniffed] {
                let _ = parse::<Sample>(&text, format);
            }
        }

        #[test]
        fn what_is_written_as_toml_is_read(socket in "[a-z/:]{0,20}", level in "[a-z]{0,9}", ports: Vec<u16>) {
            let mut table = toml::Table::new();
            table.insert("socket".into(), socket.clone().into());
            table.insert("ports".into(), toml::Value::try_from(&ports).unwrap());
            table.insert("log".into(), toml::Table::from_iter([("level".into(), level.clone().into())]).into());
            let (value, unknown) = parse::<Sample>(&table.to_string(), Format::Toml).unwrap();
            prop_assert_eq!(value, Sample { socket, ports, log: Log { level } });
            prop_assert!(unknown.is_empty());
        }
    }
}
