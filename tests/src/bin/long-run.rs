//! `long-run`: many requests while the key broker is restarted, the token expires and the agent is killed; prints
//! what came of it as JSON.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use cc_tests::long_run::{Figures, Plan, run};
use clap::Parser;

/// Asks the stack for a secret again and again while its neighbours die.
#[derive(Debug, Parser)]
#[command(after_help = "Example:\n  long-run --requests 100000")]
struct Cli {
    /// Requests in all
    #[arg(long, default_value_t = 100_000)]
    requests: u64,
    /// Connections that ask at the same time
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Shortest length of the run in seconds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let plan = Plan {
        requests: cli.requests,
        connections: cli.connections,
        burst: (cli.requests / 100).max(1),
        at_least: Duration::from_secs(cli.seconds),
        rest: Duration::from_secs(15),
    };
    match run(&plan).and_then(|figures| {
        writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&figures)?)?;
        Ok(figures)
    }) {
        Ok(figures) => verdict(&figures),
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "long-run: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn verdict(figures: &Figures) -> ExitCode {
    match figures.is_clean() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
