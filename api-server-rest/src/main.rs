//! `api-server-rest`: configuration, build, bind, serve; everything else is in the library.

use std::net::TcpListener;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use api_server_rest::config::{Config, ConfigError};
use api_server_rest::{confine, health};
use cc_confinement::Confinement;
use cc_daemon::sandbox::Needs;
use cc_daemon::shutdown::Shutdown;
use cc_daemon::{memory, notify, sandbox, telemetry};
use rustix::thread::CapabilitySet;

/// Buffers of the HTTP and RPC libraries hold secrets too: whatever is freed is wiped.
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> =
    zeroizing_alloc::ZeroAlloc(std::alloc::System);

fn main() -> ExitCode {
    let config = match Config::parse_from_arguments(std::env::args_os()) {
        Ok(config) => config,
        Err(ConfigError::CommandLine(error)) => {
            // Help and version go to standard output and are no failure. There is nobody left to tell if
            // printing fails.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
        Err(error) => return fail(&anyhow::anyhow!("{error} [{}]\n{}", error.code(), error.hint())),
    };
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn run(config: Config) -> anyhow::Result<()> {
    telemetry::init("info")?;
    if config.check_config {
        tracing::info!(?config, "the configuration is usable");
        return Ok(());
    }
    if config.health {
        return Ok(health::check(config.bind)?);
    }
    sandbox::forbid_core_dumps().context("forbidding core dumps")?;
    // Before there are threads: taking the socket clears environment variables.
    let inherited =
        listenfd::ListenFd::from_env().take_tcp_listener(0).context("taking the passed socket")?;
    // What a thread gives up its children do not have; afterwards there are more. Then /proc is gone too.
    let needs = Needs { capabilities: Some(CapabilitySet::NET_BIND_SERVICE), ..Needs::NETWORK };
    sandbox::refuse_needless_calls(config.seccomp, needs);
    let mut confinement = Confinement::of_this_process().context("asking what confines this process")?;
    confinement.landlock = confine::to_sockets(config.bind.port());
    sandbox::tell_of(&confinement);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(usize::from(config.threads))
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(serve(config, confinement, inherited))?;
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(())
}

async fn serve(
    config: Config,
    confinement: Confinement,
    inherited: Option<TcpListener>,
) -> anyhow::Result<()> {
    let shutdown = Shutdown::on_signals().context("installing signal handlers")?;
    tracing::info!(
        features = %config.features, aa = %config.aa_addr, cdh = %config.cdh_addr, strict = config.strict,
        "starting"
    );
    let server = config.build()?.confined(confinement).bind(inherited).await?;
    tracing::info!(address = %server.local_addr()?, "listening");
    notify::ready();
    notify::spawn_watchdog(&shutdown);
    memory::spawn_release();
    tokio::join!(server.serve(shutdown.clone()), async {
        shutdown.requested().await;
        notify::stopping();
    });
    Ok(())
}

/// The cause on standard error, whether or not the log is up.
#[allow(clippy::print_stderr)]
fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("api-server-rest: {error:#}");
    notify::status(&format!("not serving: {error:#}"));
    ExitCode::FAILURE
}
