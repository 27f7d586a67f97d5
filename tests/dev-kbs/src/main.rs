//! `dev-kbs`: a development key broker. See the library for what it is and is not.
#![forbid(unsafe_code)]

use std::io::{IsTerminal, Write, stderr, stdout};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use dev_kbs::Error;
use dev_kbs::admin::Admin;
use dev_kbs::clock::unix_now;
use dev_kbs::config::{AdminToken, Cli, Command, Serve};
use dev_kbs::server::Kbs;
use dev_kbs::state::StateDir;
use dev_kbs::{listen, tls};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal())
        .with_target(false)
        .init();
    let done = match &cli.command {
        Command::Serve(options) => serve(options),
        Command::AdminToken(options) => print_admin_token(options),
    };
    let Err(error) = done else { return ExitCode::SUCCESS };
    match error.downcast_ref::<Error>() {
        Some(known) => tracing::error!("{error:#} [{}]; next: {}", known.code(), known.hint()),
        None => tracing::error!("{error:#}"),
    }
    ExitCode::FAILURE
}

fn serve(options: &Serve) -> anyhow::Result<()> {
    let rules = options.rules()?;
    let state = StateDir::open(&options.state)?;
    banner(options);
    let kbs = Kbs::open(&state, rules)?;
    let acceptor = match options.insecure_http {
        true => None,
        false => Some(tls::acceptor(&state, options.listen.ip(), &options.tls_names)?),
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
        let listener = listen::bind(options.listen).await?;
        let address = listener.local_addr().context("read the address of the socket")?;
        let (scheme, certificate) = match acceptor {
            Some(_) => ("https", Some(state.file(tls::CERTIFICATE_FILE))),
            None => ("http", None),
        };
        let line =
            serde_json::json!({ "listening": format!("{scheme}://{address}"), "certificate": certificate });
        writeln!(stdout(), "{line}").context("print the address")?;
        let stop = async {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        };
        listen::serve(listener, acceptor, kbs.router(), stop).await;
        Ok(())
    })
}

fn banner(options: &Serve) {
    tracing::warn!(
        "dev-kbs is a development key broker, for tests and demos only: do not give it real secrets"
    );
    if options.test_roots.is_some() {
        tracing::warn!(
            "--test-roots: evidence under test roots is accepted; their keys are not in any processor"
        );
    }
    if options.allow_sample {
        tracing::warn!("--allow-sample: evidence that anyone can write is accepted");
    }
}

fn print_admin_token(options: &AdminToken) -> anyhow::Result<()> {
    let admin = Admin::load_or_create(&StateDir::open(&options.state)?)?;
    writeln!(stdout(), "{}", admin.token(unix_now(), options.lifetime)).context("print the token")
}
