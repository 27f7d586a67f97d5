//! The manual: man pages and shell completions of every program that is installed.
//!
//! Pages of programs and completions are made of the very definitions that parse their command lines, so neither can say
//! anything else than `--help`. Pages of configuration files are written by hand, in `docs/configuration/`. It is a program
//! of the build: what it needs is in no daemon.

#![forbid(unsafe_code)]

pub mod document;
pub mod page;
pub mod surroundings;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Command, CommandFactory as _};
use clap_complete::Shell;

use crate::page::Page;
use crate::surroundings::{AGENT, HUB, REST, STORAGE, Surroundings, UNLOCK};

/// A program that is installed.
#[derive(Debug)]
pub struct Program {
    /// The definition of its command line.
    pub command: Command,
    /// Section of the manual: 1 for commands, 8 for daemons.
    pub section: u8,
    /// Pages to look at besides, such as `attestation-agent.toml(5)`.
    pub see_also: &'static [&'static str],
    /// For daemons: what else they take and leave.
    pub surroundings: Option<Surroundings>,
}

/// Every program that `make install` installs.
#[must_use]
pub fn programs() -> Vec<Program> {
    let program = |command, section, see_also| Program { command, section, see_also, surroundings: None };
    let daemon = |command, surroundings, see_also| Program {
        command,
        section: 8,
        see_also,
        surroundings: Some(surroundings),
    };
    let [guestctl, secret] = guestctl::command_lines();
    vec![
        daemon(
            attestation_agent::config::Cli::command(),
            AGENT,
            &["attestation-agent.toml(5)", "confidential-data-hub(8)", "guestctl-doctor(1)"],
        ),
        daemon(
            cdh::config::Cli::command(),
            HUB,
            &["confidential-data-hub.toml(5)", "attestation-agent(8)", "cdh-storage(8)", "guestctl-get(1)"],
        ),
        daemon(cdh_storage::cli::Cli::command(), STORAGE, &["confidential-data-hub(8)", "guestctl-disk(1)"]),
        daemon(api_server_rest::config::Config::command(), REST, &["confidential-data-hub(8)"]),
        program(guestctl, 1, &["confidential-data-hub(8)", "attestation-agent(8)", "secret(1)"]),
        program(secret, 1, &["guestctl-seal(1)", "confidential-data-hub.toml(5)"]),
        program(trustee_attester::cli::Cli::command(), 1, &["guestctl-get(1)"]),
        daemon(initrd_unlock::cli::Cli::command(), UNLOCK, &["unlock.toml(5)", "guestctl-disk(1)"]),
        program(coco_keyprovider::config::Cli::command(), 1, &["skopeo-copy(1)"]),
    ]
}

/// Pages of the configuration files: name, other names under which the page is found, source in Markdown.
const FILES: [(&str, &[&str], &str); 3] = [
    (
        "attestation-agent.toml",
        &["aa.toml"],
        include_str!("../../../docs/configuration/attestation-agent.toml.md"),
    ),
    (
        "confidential-data-hub.toml",
        &["cdh.toml"],
        include_str!("../../../docs/configuration/confidential-data-hub.toml.md"),
    ),
    ("unlock.toml", &[], include_str!("../../../docs/configuration/unlock.toml.md")),
];

/// All pages.
///
/// # Errors
/// A page written by hand uses Markdown that pages have no form for.
pub fn pages() -> anyhow::Result<Vec<Page>> {
    let mut pages = Vec::new();
    for program in programs() {
        pages.extend(page::of_program(&program));
    }
    for (name, aliases, source) in FILES {
        let text = document::render(name, 5, source).with_context(|| format!("the page {name}"))?;
        pages.push(Page { name: name.to_owned(), section: 5, text });
        for alias in aliases {
            let text = format!(".so man5/{name}.5\n");
            pages.push(Page { name: (*alias).to_owned(), section: 5, text });
        }
    }
    Ok(pages)
}

/// Writes everything below `share`, in the folders that `/usr/share` has for it; what was written, relative to `share`.
///
/// # Errors
/// See [`pages`]; and what cannot be written.
pub fn write(share: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    for page in pages()? {
        let file = format!("man/man{}/{}.{}", page.section, page.name, page.section);
        put(share, &file, page.text.as_bytes())?;
        written.push(file.into());
    }
    for program in programs() {
        let name = program.command.get_name().to_owned();
        for (shell, file) in [
            (Shell::Bash, format!("bash-completion/completions/{name}")),
            (Shell::Zsh, format!("zsh/site-functions/_{name}")),
            (Shell::Fish, format!("fish/vendor_completions.d/{name}.fish")),
        ] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut program.command.clone(), &name, &mut script);
            put(share, &file, &script)?;
            written.push(file.into());
        }
    }
    Ok(written)
}

fn put(share: &Path, file: &str, content: &[u8]) -> anyhow::Result<()> {
    let path = share.join(file);
    let folder = path.parent().context("a file has a folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    std::fs::write(&path, content).with_context(|| format!("writing {}", path.display()))
}
