//! Man pages of programs, out of the definitions of their command lines; a page for each sub-command.
//!
//! What clap shows below the options (`after_help`) is text with a form of its own: paragraphs that begin with `Example` or
//! `Exit` become the sections of these names, indented lines stay as they are. Pages of daemons have the sections ENVIRONMENT and
//! FILES besides. The form of the pages is that of man(7).

use clap::builder::Resettable;
use clap::{Arg, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::Program;
use crate::surroundings::Surroundings;

/// One page.
#[derive(Debug)]
pub struct Page {
    /// Its name, such as `guestctl-disk-format`.
    pub name: String,
    /// Section of the manual.
    pub section: u8,
    /// Its source.
    pub text: String,
}

/// The page of a program, then those of its sub-commands.
#[must_use]
pub fn of_program(program: &Program) -> Vec<Page> {
    // The sub-command `help` of every command would be a page that says nothing.
    let mut command = program.command.clone().disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    collect(&command, program.section, program.see_also, program.surroundings, &mut pages);
    pages
}

fn collect(
    command: &Command,
    section: u8,
    see_also: &[&str],
    surroundings: Option<Surroundings>,
    pages: &mut Vec<Page>,
) {
    let name = name(command).to_owned();
    pages.push(Page { name: name.clone(), section, text: render(command, section, see_also, surroundings) });
    let above = format!("{name}({section})");
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        collect(below, section, &[&above], None, pages);
    }
}

/// The command with those above it, such as `guestctl-disk-format`.
fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

fn render(command: &Command, section: u8, see_also: &[&str], surroundings: Option<Surroundings>) -> String {
    let more = command.get_after_long_help().or_else(|| command.get_after_help()).map(ToString::to_string);
    // With what the commands above need, which the writer of pages does not know.
    let usage = command.clone().render_usage().to_string();
    // The commit and the target of this build are not the page's business.
    let command = command
        .clone()
        .after_help(Resettable::Reset)
        .after_long_help(Resettable::Reset)
        .long_version(Resettable::Reset)
        .override_usage(usage.trim_start_matches("Usage: ").to_owned())
        .mut_args(with_aliases);
    let mut roff = Roff::new();
    for part in more.iter().flat_map(|text| parts(text)) {
        part.render(&mut roff);
    }
    if let Some(Surroundings { environment, files }) = surroundings {
        table(&mut roff, "ENVIRONMENT", environment);
        table(&mut roff, "FILES", files);
    }
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman(see_also.join(", "))]);
    let mut page = Vec::new();
    let man = Man::new(command)
        .section(section.to_string())
        .date(NO_DATE)
        .source(source())
        .manual("Guest services");
    // Writing into memory does not fail.
    let _ = man.render(&mut page);
    String::from_utf8_lossy(&page).into_owned() + body(&roff.render())
}

/// A section of names, each with what it is.
fn table(roff: &mut Roff, heading: &str, rows: &[(&str, &str)]) {
    roff.control("SH", [heading]);
    if rows.is_empty() {
        roff.text([roman("None of it is read.")]);
    }
    for (name, what) in rows {
        roff.control("TP", []);
        roff.text([bold(*name)]);
        roff.text([roman(*what)]);
    }
}

/// A page says no date, so that it is the same whenever it is made: an empty argument as man(7) writes it.
pub(crate) const NO_DATE: &str = "\"\"";

/// What stands in the lower corner of every page.
pub(crate) fn source() -> String {
    format!("confidential-guest {}", cc_build::VERSION)
}

/// An option with its other names in its text, as `--help` shows them.
fn with_aliases(option: Arg) -> Arg {
    let names: Vec<String> =
        option.get_visible_aliases().into_iter().flatten().map(|name| format!("--{name}")).collect();
    let text = option.get_long_help().or_else(|| option.get_help()).map(ToString::to_string);
    match (names.is_empty(), text) {
        (false, Some(text)) => option.long_help(format!("{text} [aliases: {}]", names.join(", "))),
        _ => option,
    }
}

/// A rendered text without the definitions at its begin, which a page needs once.
fn body(rendered: &str) -> &str {
    let preamble = Roff::new().render();
    rendered.strip_prefix(&preamble).unwrap_or(rendered)
}

/// A section made of text below the options.
struct Part<'a> {
    heading: &'static str,
    lines: Vec<&'a str>,
}

/// The sections of a text: what has no section of its own is a note.
fn parts(text: &str) -> Vec<Part<'_>> {
    let mut parts: Vec<Part<'_>> = Vec::new();
    for paragraph in text.split("\n\n") {
        let paragraph = paragraph.trim_end();
        // What is indented goes on with what stands above.
        if let (true, Some(part)) = (paragraph.starts_with("  "), parts.last_mut()) {
            part.lines.push("");
            part.lines.extend(paragraph.lines());
            continue;
        }
        let (heading, paragraph) = match paragraph.split_once(':') {
            Some(("Example" | "Examples", rest)) => ("EXAMPLES", rest),
            Some(("Exit status" | "Exit codes", rest)) => ("EXIT STATUS", rest),
            _ => match paragraph.strip_prefix("Example, ") {
                Some(of_what) => ("EXAMPLES", of_what),
                None => ("NOTES", paragraph),
            },
        };
        let lines = paragraph.trim_start_matches('\n').lines();
        match parts.iter_mut().find(|part| part.heading == heading) {
            Some(part) => {
                part.lines.push("");
                part.lines.extend(lines);
            }
            None => parts.push(Part { heading, lines: lines.collect() }),
        }
    }
    parts
}

impl Part<'_> {
    fn render(&self, roff: &mut Roff) {
        roff.control("SH", [self.heading]);
        let mut as_it_is = false;
        for line in &self.lines {
            let indented = line.starts_with("  ");
            if indented != as_it_is && !line.is_empty() {
                roff.control(if indented { "nf" } else { "fi" }, []);
                as_it_is = indented;
            }
            match (line.is_empty(), as_it_is) {
                (true, true) => roff.control("sp", []),
                (true, false) => roff.control("PP", []),
                (false, _) => {
                    roff.text([roman(line.strip_prefix("  ").unwrap_or_else(|| line.trim_start()))])
                }
            };
        }
        if as_it_is {
            roff.control("fi", []);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_below_the_options_becomes_sections() {
        let text = "A note\nof two lines.\n\nExit codes: 0 good, 1 bad\n\nExample:\n  run it\n    twice\n\nExample, in a unit:\n  run\n\nAnother note:\n  x";
        let mut roff = Roff::new();
        parts(text).iter().for_each(|part| part.render(&mut roff));
        assert_eq!(
            roff.to_roff(),
            ".SH NOTES\nA note\nof two lines.\n.PP\nAnother note:\n.nf\nx\n.fi\n\
             .SH \"EXIT STATUS\"\n0 good, 1 bad\n.SH EXAMPLES\n.nf\nrun it\n  twice\n.sp\n.fi\nin a unit:\n.nf\nrun\n.fi\n"
        );
    }

    #[test]
    fn nothing_of_the_build_is_in_a_page() {
        for page in crate::pages().unwrap() {
            assert!(!page.text.contains("commit: "), "{}", page.name);
        }
    }
}
