//! Runs a program on an emulated machine whose kernel has drivers' devices: `emulated-guest ROOT PROGRAM [ARGUMENT…]`.
//!
//! The program takes this one's place, with the filter of [`tee_emulator::door`] on it.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;

fn main() -> ExitCode {
    match run() {
        Ok(never) => match never {},
        Err(error) => {
            // No log is set up: there is nothing but this to say.
            let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{error:#}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<std::convert::Infallible> {
    let mut arguments = std::env::args_os().skip(1);
    let usage = "usage: emulated-guest ROOT PROGRAM [ARGUMENT...]";
    let (root, program) = (arguments.next().context(usage)?, arguments.next().context(usage)?);
    tee_emulator::door::enter(Path::new(&root))
        .with_context(|| format!("entering the emulated machine below {}", root.display()))?;
    #[allow(clippy::disallowed_methods, reason = "a test tool; it has nothing else to do")]
    let error = std::process::Command::new(&program).args(arguments).exec();
    Err(error).with_context(|| format!("running {}", program.display()))
}
