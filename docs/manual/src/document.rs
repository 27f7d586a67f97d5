//! Man pages out of Markdown: the part of CommonMark that the pages in `docs/configuration/` are written in.
//!
//! Headings, paragraphs, lists, code, links to elsewhere in the documentation (their text stays). Whatever else is met is an
//! error, so that no text is lost on the way. The form of the pages is that of man(7).

use crate::page::NO_DATE;
use anyhow::bail;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};
use pulldown_cmark::{Event, HeadingLevel, Parser, Tag, TagEnd};

/// The page `name` of a section. The document's first heading and the paragraph below it are its name and what it is.
///
/// # Errors
/// Markdown that pages have no form for.
pub fn render(name: &str, section: u8, markdown: &str) -> anyhow::Result<String> {
    let mut page = Writer::new(name, section);
    for event in Parser::new(markdown) {
        page.write(event)?;
    }
    Ok(page.roff.render())
}

/// Where text goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Into the line `NAME`, which the first heading begins.
    Name,
    /// Into the heading of a section, or of a part of one.
    Section,
    Part,
    /// Into a paragraph.
    Paragraph,
    /// Into an item of a list: at its begin, or behind the term that it explains.
    Item,
    Explained,
    /// Into lines that stay as they are.
    Code,
}

struct Writer {
    roff: Roff,
    at: At,
    line: Vec<Inline>,
    /// How the text is set: inside of emphasis.
    strong: bool,
    slanted: bool,
    /// How many lists are open.
    depth: usize,
}

impl Writer {
    fn new(name: &str, section: u8) -> Self {
        let mut roff = Roff::new();
        let source = crate::page::source();
        roff.control("TH", [name, &section.to_string(), NO_DATE, &source, "Guest services"]);
        Self { roff, at: At::Name, line: Vec::new(), strong: false, slanted: false, depth: 0 }
    }

    fn write(&mut self, event: Event<'_>) -> anyhow::Result<()> {
        match event {
            Event::Start(tag) => self.begin(&tag)?,
            Event::End(tag) => self.end(tag),
            Event::Text(text) if self.at == At::Code => {
                for line in text.lines() {
                    match line.is_empty() {
                        true => self.roff.control("sp", []),
                        false => self.roff.text([roman(line)]),
                    };
                }
            }
            Event::Text(text) => self.text(&text),
            Event::Code(text) => self.line.push(bold(text.into_string())),
            Event::SoftBreak => self.line.push(roman(" ")),
            other => bail!("pages have no form for {other:?}"),
        }
        Ok(())
    }

    fn text(&mut self, text: &str) {
        let mut text = text;
        if self.at == At::Item
            && let Some((term, rest)) = text.split_once(": ")
        {
            self.line.push(roman(term));
            self.term();
            text = rest;
        }
        self.line.push(match (self.strong, self.slanted) {
            (true, _) => bold(text),
            (false, true) => italic(text),
            (false, false) => roman(text),
        });
    }

    /// The line so far is a term; what follows explains it.
    fn term(&mut self) {
        self.roff.control("TP", []);
        self.flush();
        self.at = At::Explained;
    }

    fn flush(&mut self) {
        if !self.line.is_empty() {
            self.roff.text(std::mem::take(&mut self.line));
        }
    }

    fn begin(&mut self, tag: &Tag<'_>) -> anyhow::Result<()> {
        match tag {
            Tag::Heading { level: HeadingLevel::H1, .. } => {
                self.roff.control("SH", ["NAME"]);
                self.at = At::Name;
            }
            Tag::Heading { level: HeadingLevel::H2, .. } => self.at = At::Section,
            Tag::Heading { level: HeadingLevel::H3, .. } => self.at = At::Part,
            Tag::Paragraph => match self.at {
                At::Name => self.line.push(roman(" - ")),
                At::Item | At::Explained => {
                    self.flush();
                    self.roff.control("IP", []);
                }
                _ => {
                    self.roff.control("PP", []);
                    self.at = At::Paragraph;
                }
            },
            Tag::List(None) => {
                self.flush();
                if self.depth > 0 {
                    self.roff.control("RS", []);
                }
                self.depth += 1;
            }
            Tag::Item => self.at = At::Item,
            Tag::CodeBlock(_) => {
                self.flush();
                self.roff.control("PP", []).control("RS", ["4"]).control("nf", []);
                self.at = At::Code;
            }
            Tag::Emphasis => self.slanted = true,
            Tag::Strong => self.strong = true,
            Tag::Link { .. } => {}
            other => bail!("pages have no form for {other:?}"),
        }
        Ok(())
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Heading(HeadingLevel::H1) => {}
            TagEnd::Heading(_) => {
                let heading: String = std::mem::take(&mut self.line).into_iter().map(plain).collect();
                match self.at {
                    At::Part => self.roff.control("SS", [&*heading]),
                    _ => self.roff.control("SH", [&*heading.to_uppercase()]),
                };
                self.at = At::Paragraph;
            }
            TagEnd::Paragraph => {
                self.flush();
                if self.at == At::Name {
                    self.at = At::Paragraph;
                }
            }
            TagEnd::Item => {
                if self.at == At::Item && !self.line.is_empty() {
                    self.roff.control("IP", ["\\(bu", "2"]);
                }
                self.flush();
                self.at = At::Paragraph;
            }
            TagEnd::List(_) => {
                self.depth -= 1;
                if self.depth > 0 {
                    self.roff.control("RE", []);
                    self.at = At::Explained;
                }
            }
            TagEnd::CodeBlock => {
                self.roff.control("fi", []).control("RE", []);
                self.at = At::Paragraph;
            }
            TagEnd::Emphasis => self.slanted = false,
            TagEnd::Strong => self.strong = false,
            _ => {}
        }
    }
}

/// Headings are set in one font.
fn plain(inline: Inline) -> String {
    match inline {
        Inline::Roman(text) | Inline::Italic(text) | Inline::Bold(text) => text,
        Inline::LineBreak => " ".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pages_are_made_of() {
        let markdown = "# x.toml\n\nhow `x` is set up\n\n## Keys\n\nText with [a link](elsewhere.md)\nand *more*.\n\n- `a`, a number: what\n  it does\n- no term\n\n### `[part]`\n\n```toml\n[part]\n\n.b = 1\n```\n\n**Last** one.\n";
        let page = render("x.toml", 5, markdown).unwrap();
        let (_, body) = page.split_once(".SH NAME\n").unwrap();
        assert_eq!(
            body,
            "x.toml \\- how \\fBx\\fR is set up\n.SH KEYS\n.PP\nText with a link and \\fImore\\fR.\n\
             .TP\n\\fBa\\fR, a number\nwhat it does\n.IP \\(bu 2\nno term\n.SS [part]\n\
             .PP\n.RS 4\n.nf\n[part]\n.sp\n\\&.b = 1\n.fi\n.RE\n.PP\n\\fBLast\\fR one.\n"
        );
    }

    #[test]
    fn what_has_no_form_is_an_error() {
        for markdown in ["![image](x.png)", "<b>x</b>", "1. one", "> quoted", "a\n\n---\n\nb", "#### deep"] {
            assert!(render("x", 5, &format!("# x\n\ny\n\n{markdown}\n")).is_err(), "{markdown}");
        }
    }
}
