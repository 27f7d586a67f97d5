//! `manual`: writes the man pages and completions into a folder.

use std::path::PathBuf;

use clap::Parser;

/// Write the man pages and shell completions of all programs
#[derive(Debug, Parser)]
#[command(name = "manual", version, after_help = "Example:\n  manual target/share")]
struct Cli {
    /// Folder that is laid out as /usr/share
    folder: PathBuf,
}

fn main() -> anyhow::Result<()> {
    manual::write(&Cli::parse().folder).map(|_| ())
}
