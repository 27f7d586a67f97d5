//! Where the tool writes: standard output and standard error, or two buffers in a test.
//!
//! The only module that prints. It knows nothing of what it prints, except that bytes which are no plain text do
//! not belong on a terminal. Files are written here too: new, mode 0600, complete or not at all.

use std::{
    fs::{self, OpenOptions},
    io::{self, IsTerminal, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use serde_json::Value;

use crate::{
    failure::Failure,
    table::{Table, printable},
};

/// The two streams of the tool.
pub struct Console<'a> {
    /// What the tool is called.
    name: &'static str,
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    out_is_terminal: bool,
    err_is_terminal: bool,
    colour: bool,
}

impl std::fmt::Debug for Console<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console")
            .field("out_is_terminal", &self.out_is_terminal)
            .field("colour", &self.colour)
            .finish_non_exhaustive()
    }
}

impl<'a> Console<'a> {
    /// Streams that are no terminals: no colour, any bytes.
    pub fn new(out: &'a mut dyn Write, err: &'a mut dyn Write) -> Self {
        Self { name: "guestctl", out, err, out_is_terminal: false, err_is_terminal: false, colour: false }
    }

    /// What the tool calls itself before its complaints.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// From here on the tool calls itself `name`.
    pub(crate) fn rename(&mut self, name: &'static str) {
        self.name = name;
    }

    /// The same streams with `out` treated as a terminal; `colour` decides about terminal colours.
    #[must_use]
    pub fn with_terminal(mut self, colour: bool) -> Self {
        self.out_is_terminal = true;
        self.colour = colour;
        self
    }

    /// Shows a table.
    pub(crate) fn table(&mut self, table: &Table) -> Result<(), Failure> {
        let text = table.render(self.colour);
        self.write(text.as_bytes())
    }

    /// Shows one JSON document, indented for people, ended by a line feed.
    pub(crate) fn json(&mut self, value: &Value) -> Result<(), Failure> {
        self.write(format!("{value:#}\n").as_bytes())
    }

    /// Shows text that the tool itself wrote, as it is.
    pub(crate) fn text(&mut self, text: &str) -> Result<(), Failure> {
        self.write(text.as_bytes())
    }

    /// Writes bytes as they are. A terminal gets only plain text, unless `force`.
    pub(crate) fn raw(&mut self, what: &str, bytes: &[u8], force: bool) -> Result<(), Failure> {
        if self.out_is_terminal && !force && !is_plain_text(bytes) {
            return Err(Failure::Terminal { what: what.to_owned(), length: bytes.len() });
        }
        self.write(bytes)
    }

    /// Says what went wrong and what to do next: `<tool>: message [CODE]` and `hint: …`.
    pub(crate) fn failure(&mut self, error: &Failure) {
        let message = printable(&error.to_string());
        let mut text = format!("{}: {message} [{}]\n", self.name, printable(error.code()));
        let hint = error.hint();
        if !hint.is_empty() {
            text.push_str(&format!("hint: {}\n", printable(&hint)));
        }
        self.complain(&text);
    }

    /// Shows one JSON document on a line of its own, one of a series.
    pub(crate) fn json_line(&mut self, value: &Value) -> Result<(), Failure> {
        self.write(format!("{value}\n").as_bytes())
    }

    /// Writes to standard error. There is nobody left to tell if that fails.
    pub(crate) fn complain(&mut self, text: &str) {
        let _ = self.err.write_all(text.as_bytes()).and_then(|()| self.err.flush());
    }

    /// Shows how far a long work is, in place of what was shown before; only if standard error is a terminal. An empty
    /// text takes it away.
    pub(crate) fn status(&mut self, text: &str) {
        if self.err_is_terminal {
            self.complain(&format!("\r\x1b[K{text}"));
        }
    }

    /// Whether [`Console::status`] shows anything.
    pub(crate) fn shows_status(&self) -> bool {
        self.err_is_terminal
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.out.write_all(bytes).and_then(|()| self.out.flush()).map_err(Failure::Output)
    }
}

/// Runs `work` with the streams of the process.
///
/// Colour is used on a terminal only, and not where the environment has a non-empty `NO_COLOR`
/// (<https://no-color.org>).
pub fn with_stdio<T>(work: impl FnOnce(&mut Console<'_>) -> T) -> T {
    let mut out = io::stdout().lock();
    let mut err = io::stderr();
    let terminal = out.is_terminal();
    let err_is_terminal = err.is_terminal();
    let mut console = Console::new(&mut out, &mut err);
    console.err_is_terminal = err_is_terminal;
    let mut console = if terminal { console.with_terminal(!no_colour_wanted()) } else { console };
    work(&mut console)
}

/// Writes `bytes` to a new file that only its owner can read. An existing file is never touched, and a file that
/// could not be written to its end is removed again.
pub(crate) fn write_private_file(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let failed = |source| Failure::OutputFile { path: path.to_owned(), source };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(path);
    }
    written.map_err(failed)
}

#[allow(clippy::disallowed_methods)] // a convention of terminals, not configuration
fn no_colour_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

fn is_plain_text(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes)
        .is_ok_and(|text| text.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\r' | '\t')))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_terminal_gets_plain_text_only() {
        for (bytes, plain) in
            [(&b"secret\n"[..], true), (b"\xff\xfe", false), (b"a\x1b[2J", false), (b"", true)]
        {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let mut console = Console::new(&mut out, &mut err).with_terminal(false);
            assert_eq!(console.raw("it", bytes, false).is_ok(), plain, "{bytes:?}");
            assert!(console.raw("it", bytes, true).is_ok());
        }
        let (mut out, mut err) = (Vec::new(), Vec::new());
        Console::new(&mut out, &mut err).raw("it", b"\xff\xfe", false).unwrap();
        assert_eq!(out, b"\xff\xfe");
    }

    #[test]
    fn files_are_new_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write_private_file(&path, b"one").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let error = write_private_file(&path, b"two").unwrap_err();
        assert_eq!(error.code(), "OUTPUT_FILE");
        assert_eq!(fs::read(&path).unwrap(), b"one");
    }

    #[test]
    fn failures_have_a_code_and_a_hint_and_cannot_steer_the_terminal() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let error = Failure::Argument {
            argument: "URI".into(),
            why: "bad \x1b[31m".into(),
            hint: "write it so".into(),
        };
        Console::new(&mut out, &mut err).failure(&error);
        let text = String::from_utf8(err).unwrap();
        assert_eq!(text, "guestctl: URI: bad \\u{1b}[31m [ARGUMENT_REFUSED]\nhint: write it so\n");
    }
}
