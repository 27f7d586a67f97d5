//! Text tables for people: labels in one column, values in the next, verdicts in front.
//!
//! Not a data format: whatever a program should read comes from `--json`. Text that came from outside (names in
//! certificates, claims, messages of a server) is made harmless here, in one place, before a terminal sees it.

/// Hexadecimal digits in one line.
const FOLD: usize = 64;

/// Characters of prose in one line; a longer word stays whole.
const WRAP: usize = 90;

/// A verdict in front of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Good.
    Ok,
    /// Works, but should be looked at.
    Warn,
    /// Broken or refused.
    Fail,
    /// Could not be judged.
    Open,
}

impl Mark {
    /// The word in the table and in JSON.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
            Self::Open => "open",
        }
    }

    fn colour(self) -> &'static str {
        match self {
            Self::Ok => "\x1b[32m",
            Self::Warn => "\x1b[33m",
            Self::Fail => "\x1b[1;31m",
            Self::Open => "\x1b[36m",
        }
    }
}

#[derive(Debug)]
enum Row {
    Section(String),
    Pair { mark: Option<Mark>, label: String, lines: Vec<String> },
}

/// Rows in the order in which they are shown.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
}

impl Table {
    /// An empty table.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Starts a group of rows under a heading.
    pub(crate) fn section(&mut self, title: &str) -> &mut Self {
        self.rows.push(Row::Section(printable(title)));
        self
    }

    /// Adds a label with its value. Line feeds in `value` start a new line in the value's column.
    pub(crate) fn row(&mut self, label: &str, value: impl AsRef<str>) -> &mut Self {
        self.push(None, label, value.as_ref())
    }

    /// Adds a value in hexadecimal, folded; long runs of zero bytes are named instead of shown.
    pub(crate) fn bytes(&mut self, label: &str, bytes: &[u8]) -> &mut Self {
        self.row(label, hex_lines(bytes))
    }

    /// Adds a row with a verdict in front.
    pub(crate) fn verdict(&mut self, mark: Mark, label: &str, value: impl AsRef<str>) -> &mut Self {
        self.push(Some(mark), label, value.as_ref())
    }

    fn push(&mut self, mark: Option<Mark>, label: &str, value: &str) -> &mut Self {
        let lines = value.lines().map(printable).flat_map(|line| wrap(&line)).collect();
        self.rows.push(Row::Pair { mark, label: printable(label), lines });
        self
    }

    /// The whole table as text that ends with a line feed; with terminal colours if `colour`.
    pub(crate) fn render(&self, colour: bool) -> String {
        let width = self.label_width();
        let mut out = String::new();
        for row in &self.rows {
            match row {
                Row::Section(title) => {
                    if !out.is_empty() {
                        out.push('\n');
                    }
                    out.push_str(&paint(title, "\x1b[1m", colour));
                    out.push('\n');
                }
                Row::Pair { mark, label, lines } => render_pair(&mut out, *mark, label, lines, width, colour),
            }
        }
        out
    }

    fn label_width(&self) -> usize {
        let label = |row: &Row| match row {
            Row::Section(_) => 0,
            Row::Pair { label, .. } => label.chars().count(),
        };
        self.rows.iter().map(label).max().unwrap_or_default()
    }
}

fn render_pair(
    out: &mut String,
    mark: Option<Mark>,
    label: &str,
    lines: &[String],
    width: usize,
    colour: bool,
) {
    let mut indent = 2;
    out.push_str("  ");
    if let Some(mark) = mark {
        indent += 6;
        out.push_str(&paint(mark.word(), mark.colour(), colour));
        out.push_str(&" ".repeat(6 - mark.word().len()));
    }
    out.push_str(label);
    let padding = width - label.chars().count() + 2;
    let mut lines = lines.iter();
    if let Some(first) = lines.next().filter(|line| !line.is_empty()) {
        out.push_str(&" ".repeat(padding));
        out.push_str(first);
    }
    out.push('\n');
    for line in lines {
        out.push_str(&" ".repeat(indent + width + 2));
        out.push_str(line);
        out.push('\n');
    }
}

fn paint(text: &str, code: &str, colour: bool) -> String {
    if colour { format!("{code}{text}\x1b[0m") } else { text.to_owned() }
}

/// `line` in pieces of at most [`WRAP`] characters, broken at spaces.
fn wrap(line: &str) -> Vec<String> {
    let mut lines: Vec<String> = vec![String::new()];
    for word in line.split(' ') {
        match lines.last_mut() {
            Some(last) if last.is_empty() => last.push_str(word),
            Some(last) if last.chars().count() + 1 + word.chars().count() <= WRAP => {
                last.push(' ');
                last.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// `text` without anything that could steer a terminal or reorder what it shows: control characters and the
/// bidirectional overrides of Unicode become visible escapes.
pub(crate) fn printable(text: &str) -> String {
    let harmless = |c: char| {
        !c.is_control()
            && !matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if text.chars().all(harmless) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if harmless(c) { out.push(c) } else { out.extend(c.escape_unicode()) }
    }
    out
}

/// Hexadecimal digits in lines of [`FOLD`]; a value of more than eight bytes that are all zero is described.
pub(crate) fn hex_lines(bytes: &[u8]) -> String {
    if bytes.len() > 8 && bytes.iter().all(|byte| *byte == 0) {
        return format!("all zero ({} bytes)", bytes.len());
    }
    bytes.chunks(FOLD / 2).map(hex::encode).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_long_values_folded() {
        let mut table = Table::new();
        table
            .section("report")
            .row("version", "3")
            .bytes("report data", &[0xab; 64])
            .bytes("chip id", &[0; 64]);
        let digits = "ab".repeat(32);
        assert_eq!(
            table.render(false),
            format!(
                "report\n  version      3\n  report data  {digits}\n               {digits}\n  chip id      all zero (64 bytes)\n"
            )
        );
    }

    #[test]
    fn prose_is_wrapped_at_spaces_and_no_word_is_cut() {
        let mut table = Table::new();
        let word = "x".repeat(100);
        table.row("a", format!("{} {word} end", "word ".repeat(20).trim_end()));
        let text = table.render(false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                format!("  a  {}", "word ".repeat(18).trim_end()).as_str(),
                "     word word",
                format!("     {word}").as_str(),
                "     end",
            ]
        );
    }

    #[test]
    fn verdicts_stand_in_front_and_carry_colour_only_when_asked() {
        let mut table = Table::new();
        table.verdict(Mark::Fail, "kbs", "refused\nnext: look at the log").verdict(
            Mark::Ok,
            "agent",
            "0.1.0",
        );
        assert_eq!(
            table.render(false),
            "  FAIL  kbs    refused\n               next: look at the log\n  ok    agent  0.1.0\n"
        );
        assert!(table.render(true).contains("\x1b[1;31mFAIL\x1b[0m"));
    }

    #[test]
    fn text_from_outside_cannot_steer_the_terminal() {
        let mut table = Table::new();
        table.section("a\x1b[2Jb").row("c\u{7}d", "e\u{202e}f\rg");
        let text = table.render(false);
        assert!(!text.contains(['\x1b', '\u{7}', '\u{202e}', '\r']), "{text:?}");
        assert!(text.contains(r"a\u{1b}[2Jb") && text.contains(r"\u{202e}"));
    }

    #[test]
    fn an_empty_value_leaves_no_trailing_blanks() {
        let mut table = Table::new();
        table.row("a", "").row("long label", "x");
        assert_eq!(table.render(false), "  a\n  long label  x\n");
    }
}
