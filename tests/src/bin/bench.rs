//! `make bench`: what the stack costs, beside what a user would do instead: ask the key broker directly.
//!
//! Everything is measured in one run on one machine and read as ratios. A table goes to the terminal, the same
//! numbers go to `target/bench/summary.json`. Nothing here fails on a slow machine: a missed budget is printed.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use cc_crypto::{Jwe, TeeKeyPair};
use cc_tests::bench::disks::{self, Derivation};
use cc_tests::bench::evidence;
use cc_tests::bench::images::{Large, Packing, Pull, Workshop};
use cc_tests::bench::load::{self, Summary, Target};
use cc_tests::machine::{Gpu, Kind, Machine};
use cc_tests::process::{binary_folder, own_binary};
use cc_tests::stack::{Options, Part, Stack, Tee, address};
use clap::Parser;
use serde::Serialize;

/// Measures the stack beside clients that ask the key broker directly.
#[derive(Debug, Parser)]
#[command(after_help = "Example:\n  bench --requests 20000")]
struct Cli {
    /// Requests in the memory measurement
    #[arg(long, default_value_t = 100_000)]
    requests: u64,
    /// Only what evidence takes on each platform, and what a dead key broker costs
    #[arg(long)]
    platforms: bool,
    /// Only what images take from a registry to a tree
    #[arg(long, conflicts_with = "platforms")]
    images: bool,
    /// Only what opening encrypted disks takes
    #[arg(long, conflicts_with_all = ["platforms", "images"])]
    disks: bool,
    /// Seconds that each throughput measurement may take
    #[arg(long, default_value_t = 6)]
    seconds: u64,
}

/// Where the measured secret is kept: 32 bytes, a disk key.
const RESOURCE: &str = "default/bench/key";
const SECRET: &[u8; 32] = b"0123456789abcdef0123456789abcdef";
/// How many applications ask at once after boot.
const CROWD: usize = 1000;
const DAEMONS: [Part; 3] = [Part::Agent, Part::Hub, Part::Rest];
const BINARIES: [&str; 3] = ["attestation-agent", "confidential-data-hub", "api-server-rest"];
const MIB: f64 = 1024.0 * 1024.0;

/// One line of the table.
#[derive(Debug, Serialize)]
struct Row {
    what: String,
    measured: f64,
    unit: &'static str,
    /// The budget, as a number in the same unit; absent for context.
    budget: Option<f64>,
    met: Option<bool>,
}

#[derive(Debug, Default)]
struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// A figure without a budget.
    fn context(&mut self, what: impl Into<String>, measured: f64, unit: &'static str) {
        self.push(what.into(), measured, unit, None, None);
    }

    /// A figure that must not be above its budget.
    fn at_most(&mut self, what: impl Into<String>, measured: f64, unit: &'static str, budget: f64) {
        self.push(what.into(), measured, unit, Some(budget), Some(measured <= budget));
    }

    /// A figure that must not be below its budget.
    fn at_least(&mut self, what: impl Into<String>, measured: f64, unit: &'static str, budget: f64) {
        self.push(what.into(), measured, unit, Some(budget), Some(measured >= budget));
    }

    fn push(
        &mut self,
        what: String,
        measured: f64,
        unit: &'static str,
        budget: Option<f64>,
        met: Option<bool>,
    ) {
        let verdict = match (budget, met) {
            (Some(budget), Some(true)) => format!("budget {budget:>8.2}  met"),
            (Some(budget), _) => format!("budget {budget:>8.2}  MISSED"),
            _ => String::new(),
        };
        say(&format!("{what:<58} {measured:>10.2} {unit:<6} {verdict}"));
        self.rows.push(Row { what, measured, unit, budget, met });
    }
}

fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            say(&format!("failed: {e:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    let mut report = Report::default();
    let all = !(cli.platforms || cli.images || cli.disks);
    if all {
        daemons(cli, &mut report)?;
    }
    if all || cli.platforms {
        platforms(&mut report)?;
        failover(&mut report)?;
    }
    if all || cli.images {
        pulls(&mut report)?;
    }
    if all || cli.disks {
        volumes(&mut report)?;
    }
    let folder = binary_folder()?.join("../bench");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join("summary.json");
    std::fs::write(&file, serde_json::to_vec_pretty(&report.rows)?)?;
    let missed = report.rows.iter().filter(|r| r.met == Some(false)).count();
    say(&format!("\n{} budgets missed; numbers in {}", missed, file.display()));
    Ok(())
}

/// Size, start, throughput and memory of the daemons.
fn daemons(cli: &Cli, report: &mut Report) -> anyhow::Result<()> {
    sizes(report)?;
    let options = Options {
        kbs_arguments: vec!["--token-lifetime".to_owned(), "3600".to_owned()],
        ..Options::default()
    };
    let mut stack = Stack::start(Options { log: Some("warn".to_owned()), ..options })?;
    stack.put_resource(RESOURCE, SECRET)?;
    crowd(report, &stack)?;
    starts(report, &mut stack)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    throughput(report, &mut stack, &runtime, Duration::from_secs(cli.seconds))?;
    memory(report, &mut stack, &runtime, cli.requests)?;
    Ok(())
}

/// One piece of evidence on each emulated platform: the device, and what the agent adds to it.
fn platforms(report: &mut Report) -> anyhow::Result<()> {
    let options = |machine| Options { machine, log: Some("warn".to_owned()), ..Options::default() };
    let tpm = Options { tee: Tee::Tpm, ..options(Machine::default()) };
    for (name, options) in [
        ("SEV-SNP", options(Machine::default())),
        ("TDX", options(Machine::tdx())),
        ("Arm CCA", options(Machine::cca())),
        ("TPM", tpm),
        ("Azure SEV-SNP", options(Machine::azure(Kind::Snp))),
        ("Azure TDX", options(Machine::azure(Kind::Tdx))),
    ] {
        let stack = Stack::start(options)?;
        let figures = evidence::measure(&stack)?;
        report.context(format!("evidence, {name}: the device alone"), millis(figures.device), "ms");
        report.at_most(format!("evidence, {name}: added by the agent"), millis(figures.added()), "ms", 1.0);
    }
    let stack = Stack::start(options(Machine::with_gpus([Gpu::number(1)])))?;
    report.context(
        "evidence, NVIDIA GPU: through the agent",
        millis(evidence::measure_devices(&stack)?),
        "ms",
    );
    Ok(())
}

/// What a dead first key broker costs the first secret and the ones after it.
fn failover(report: &mut Report) -> anyhow::Result<()> {
    let mut first = Vec::new();
    for dead_first_kbs in [false, true] {
        let stack =
            Stack::start(Options { dead_first_kbs, log: Some("warn".to_owned()), ..Options::default() })?;
        stack.put_resource(RESOURCE, SECRET)?;
        let server = rest_address(&stack)?;
        let start = Instant::now();
        ensure!(ask_once(server)?.starts_with(b"HTTP/1.1 200"), "no secret");
        first.push(millis(start.elapsed()));
    }
    if let [alive, dead] = first.as_slice() {
        report.context("first secret", *alive, "ms");
        report.context("first secret, first key broker dead", *dead, "ms");
        report.at_most("added by a dead first key broker", dead - alive, "ms", 1000.0);
    }
    Ok(())
}

fn sizes(report: &mut Report) -> anyhow::Result<()> {
    let folder = binary_folder()?;
    let mut total = 0.0;
    for name in BINARIES {
        let bytes =
            std::fs::metadata(folder.join(name)).with_context(|| format!("{name} is not built"))?.len();
        let mib = to_f64(bytes) / MIB;
        total += mib;
        report.context(format!("size of {name}"), mib, "MiB");
    }
    // The budget is in decimal megabytes.
    report.at_most("size of the three daemons", total * MIB / 1e6, "MB", 18.0);
    Ok(())
}

/// Everybody asks at once, right after boot.
fn crowd(report: &mut Report, stack: &Stack) -> anyhow::Result<()> {
    let server = rest_address(stack)?;
    let start = Barrier::new(CROWD);
    let answered: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CROWD)
            .filter_map(|_| {
                let ask = || {
                    start.wait();
                    usize::from(ask_once(server).is_ok_and(|answer| answer.starts_with(b"HTTP/1.1 200")))
                };
                std::thread::Builder::new().stack_size(128 * 1024).spawn_scoped(scope, ask).ok()
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap_or(0)).sum()
    });
    ensure!(answered == CROWD, "only {answered} of {CROWD} got the secret");
    report.at_most("quotes for 1,000 parallel first requests", to_f64(stack.quotes()?), "", 1.0);
    Ok(())
}

/// Start of all three daemons to the first secret, beyond the time that the evidence itself takes.
fn starts(report: &mut Report, stack: &mut Stack) -> anyhow::Result<()> {
    let server = rest_address(stack)?;
    let mut listening = Vec::new();
    let mut secret = Vec::new();
    for _ in 0..7 {
        for part in DAEMONS.into_iter().rev() {
            stack.stop_part(part)?;
        }
        let start = Instant::now();
        stack.spawn_all()?;
        wait_until(|| {
            TcpStream::connect(server).is_ok() && stack.hub_socket().exists() && stack.agent_socket().exists()
        })?;
        listening.push(millis(start.elapsed()));
        wait_until(|| ask_once(server).is_ok_and(|answer| answer.starts_with(b"HTTP/1.1 200")))?;
        secret.push(millis(start.elapsed()));
    }
    let mut evidence = Vec::new();
    for _ in 0..7 {
        let start = Instant::now();
        let url = format!("{}/aa/evidence?runtime_data=aGVsbG8&encoding=base64", stack.rest_url());
        ensure!(cc_tests::curl::get(&url)?.status == 200, "no evidence");
        evidence.push(millis(start.elapsed()));
    }
    let (listening, secret) = (median(&mut listening), median(&mut secret));
    let handshake = handshake_without_us(stack)?;
    report.context("start of all three to listening, median of 7", listening, "ms");
    report.context("start of all three to first secret, median of 7", secret, "ms");
    report.context("one piece of evidence by curl, median of 7", median(&mut evidence), "ms");
    report.context("emulated TEE alone, median of 7", handshake, "ms");
    report.at_most("start to first secret beyond the evidence time", secret - handshake, "ms", 20.0);
    Ok(())
}

/// The time the TEE itself takes for a report, straight at its interface.
fn handshake_without_us(stack: &Stack) -> anyhow::Result<f64> {
    let mut times = Vec::new();
    for i in 0..7 {
        let entry = stack.tsm_report().join(format!("bench-{i}"));
        let start = Instant::now();
        std::fs::create_dir(&entry)?;
        std::fs::OpenOptions::new().write(true).open(entry.join("inblob"))?.write_all(&[7; 64])?;
        // As the agent does: a report of the level that the kernel offers.
        std::fs::OpenOptions::new().write(true).open(entry.join("privlevel"))?.write_all(b"0")?;
        std::fs::read(entry.join("outblob"))?;
        std::fs::read(entry.join("auxblob"))?;
        times.push(millis(start.elapsed()));
        std::fs::remove_dir(&entry)?;
    }
    Ok(median(&mut times))
}

/// Secrets per second over REST beside warm clients straight at the key broker, in turns.
fn throughput(
    report: &mut Report,
    stack: &mut Stack,
    runtime: &tokio::runtime::Runtime,
    limit: Duration,
) -> anyhow::Result<()> {
    let rest = rest_target(stack)?;
    let (kbs, open) = kbs_target(stack)?;
    for (connections, requests) in [(1, 8_000), (16, 20_000), (64, 20_000)] {
        let mut rest_runs = Vec::new();
        let mut kbs_runs = Vec::new();
        let mut cpu = Vec::new();
        for _ in 0..3 {
            kbs_runs.push(runtime.block_on(load::run_with(
                kbs.clone(),
                connections,
                requests,
                limit,
                Arc::clone(&open),
            ))?);
            let before = cpu_time(stack)?;
            let run = runtime.block_on(load::run(rest.clone(), connections, requests, limit))?;
            cpu.push(millis(cpu_time(stack)?.saturating_sub(before)) / to_f64(run.requests.max(1)));
            rest_runs.push(run);
        }
        for run in rest_runs.iter().chain(&kbs_runs) {
            ensure!(run.errors == 0, "{} errors at {connections} connections", run.errors);
        }
        let (rest, kbs) = (best(&rest_runs)?, best(&kbs_runs)?);
        let name = format!("{connections} connection{}", if connections == 1 { "" } else { "s" });
        report.context(format!("REST, {name}: requests per second"), rest.rps, "1/s");
        report.context(format!("straight at the KBS, {name}: requests per second"), kbs.rps, "1/s");
        report.context(format!("REST, {name}: p50"), to_f64(rest.p50_us) / 1e3, "ms");
        report.context(format!("straight at the KBS, {name}: p50"), to_f64(kbs.p50_us) / 1e3, "ms");
        report.context(format!("REST, {name}: p99"), to_f64(rest.p99_us) / 1e3, "ms");
        report.context(format!("straight at the KBS, {name}: p99"), to_f64(kbs.p99_us) / 1e3, "ms");
        if connections == 1 {
            let ratio = to_f64(rest.p50_us) / to_f64(kbs.p50_us.max(1));
            report.at_most("REST p50 / KBS p50, 1 connection", ratio, "x", 1.3);
        }
        if connections == 64 {
            report.at_least("REST / KBS requests per second, 64 connections", rest.rps / kbs.rps, "x", 0.5);
            report.at_most("our processor time per request, 64 connections", median(&mut cpu), "ms", 0.5);
        }
    }
    Ok(())
}

/// Resident memory: fresh, after many requests, and a while later.
fn memory(
    report: &mut Report,
    stack: &mut Stack,
    runtime: &tokio::runtime::Runtime,
    requests: u64,
) -> anyhow::Result<()> {
    for part in DAEMONS.into_iter().rev() {
        stack.stop_part(part)?;
    }
    for part in DAEMONS {
        stack.start_part(part)?;
    }
    report.at_most("idle memory of the three daemons", resident(stack)?, "MB", 15.0);
    let target = rest_target(stack)?;
    let run = runtime.block_on(load::run(target, 64, requests, Duration::from_secs(240)))?;
    ensure!(run.errors == 0, "{} errors in the memory run", run.errors);
    report.context("requests in the memory run", to_f64(run.requests), "");
    report.at_most("memory right after them", resident(stack)?, "MB", 25.0);
    runtime.block_on(async { tokio::time::sleep(Duration::from_secs(15)).await });
    report.at_most("memory 15 s later", resident(stack)?, "MB", 25.0);
    Ok(())
}

fn resident(stack: &mut Stack) -> anyhow::Result<f64> {
    let mut total = 0;
    for part in DAEMONS {
        total += stack.part(part)?.resident_bytes()?;
    }
    Ok(to_f64(total) / 1e6)
}

fn cpu_time(stack: &mut Stack) -> anyhow::Result<Duration> {
    let mut total = Duration::ZERO;
    for part in DAEMONS {
        total += stack.part(part)?.cpu_time()?;
    }
    Ok(total)
}

fn rest_address(stack: &Stack) -> anyhow::Result<SocketAddr> {
    Ok(stack.rest_url().trim_start_matches("http://").parse()?)
}

fn rest_target(stack: &Stack) -> anyhow::Result<Target> {
    Ok(Target {
        addr: rest_address(stack)?,
        path: format!("/cdh/resource/{RESOURCE}"),
        headers: http::HeaderMap::new(),
        tls: None,
    })
}

/// A client that has attested and asks the key broker itself: it opens each answer with its own key.
fn kbs_target(stack: &Stack) -> anyhow::Result<(Target, load::Open)> {
    let file = stack.folder().join("bench-token.json");
    let out = own_binary("guestctl")?
        .args(["token", "--with-key", "--aa", &address(&stack.agent_socket()), "--output"])
        .arg(&file)
        .output()?;
    ensure!(out.status.success(), "no token: {}", String::from_utf8_lossy(&out.stderr));
    let token: serde_json::Value = serde_json::from_slice(&std::fs::read(&file)?)?;
    let text = |member: &str| token.get(member).and_then(|v| v.as_str()).context("no token");
    let key = TeeKeyPair::from_private_pem(text("tee_keypair")?)?;
    let mut headers = http::HeaderMap::new();
    headers.insert(http::header::AUTHORIZATION, format!("Bearer {}", text("token")?).parse()?);
    let open: load::Open = Arc::new(move |body| {
        Jwe::parse(body).and_then(|jwe| key.open(&jwe)).is_ok_and(|s| s.expose() == SECRET)
    });
    let target = Target {
        addr: stack.kbs_url().trim_start_matches("https://").parse()?,
        path: format!("/kbs/v0/resource/{RESOURCE}"),
        headers,
        tls: Some(std::fs::read_to_string(stack.kbs_certificate())?),
    };
    Ok((target, open))
}

/// One request on a connection of its own; the whole answer.
fn ask_once(server: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(Duration::from_secs(50)))?;
    let path = format!("/cdh/resource/{RESOURCE}");
    stream.write_all(
        format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

#[allow(clippy::disallowed_methods, reason = "a measurement waits for other processes")]
fn wait_until(mut done: impl FnMut() -> bool) -> anyhow::Result<()> {
    let start = Instant::now();
    while !done() {
        ensure!(start.elapsed() < Duration::from_secs(20), "the stack did not come up");
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// What an image takes from a registry to a tree in memory, beside what people use.
fn pulls(report: &mut Report) -> anyhow::Result<()> {
    say("\nimages");
    let hash = hash_rate()?;
    report.context("SHA-256 on one core", hash / 1e6, "MB/s");
    for layers in [6, 60] {
        let workshop = Workshop::open(layers)?;
        let about = |what: &str| format!("{layers} layers, {what}");
        report.context(about("files"), to_f64(workshop.entries), "");
        let contenders: [(&str, &dyn Fn() -> anyhow::Result<Pull>); 11] = [
            ("gzip, guestctl", &|| workshop.ours(Packing::Gzip)),
            ("gzip, PullImage", &|| workshop.hub(Packing::Gzip)),
            ("gzip, podman", &|| workshop.podman(Packing::Gzip)),
            ("gzip, skopeo and umoci", &|| workshop.skopeo_umoci()),
            ("gzip, GNU tar of the blobs", &|| workshop.tar(Packing::Gzip)),
            ("zstd, guestctl", &|| workshop.ours(Packing::Zstd)),
            ("zstd, PullImage", &|| workshop.hub(Packing::Zstd)),
            ("zstd, podman", &|| workshop.podman(Packing::Zstd)),
            ("zstd, GNU tar of the blobs", &|| workshop.tar(Packing::Zstd)),
            ("gzip encrypted, guestctl", &|| workshop.ours(Packing::GzipEncrypted)),
            ("gzip again, guestctl", &|| workshop.ours(Packing::Gzip)),
        ];
        let mut results: Vec<Vec<Pull>> = vec![Vec::new(); contenders.len()];
        for _ in 0..3 {
            for ((_, pull), results) in contenders.iter().zip(&mut results) {
                results.push(pull()?);
            }
        }
        let mut medians = Vec::new();
        for ((name, _), results) in contenders.iter().zip(&mut results) {
            medians.push(pulled(report, &about(name), results));
        }
        let [gzip, hub, podman, umoci, _, zstd, hub_zstd, podman_zstd, _, encrypted, again] =
            medians.as_slice()
        else {
            return Err(anyhow::anyhow!("a contender is missing"));
        };
        report.at_least(about("gzip, podman / guestctl"), podman / gzip, "", 2.7);
        report.at_least(about("gzip, podman / PullImage"), podman / hub, "", 2.7);
        report.at_least(about("gzip, skopeo and umoci / guestctl"), umoci / gzip, "", 4.0);
        report.at_least(about("zstd, podman / guestctl"), podman_zstd / zstd, "", 3.5);
        report.at_least(about("zstd, podman / PullImage"), podman_zstd / hub_zstd, "", 3.5);
        report.at_most(about("encrypted / plain"), encrypted / gzip.min(*again), "", 1.15);
        for (name, packing, time) in [("gzip", Packing::Gzip, gzip), ("zstd", Packing::Zstd, zstd)] {
            let hashed = to_f64(workshop.packed_bytes(packing)? + 480_000_000) / hash;
            report.context(about(&format!("{name}, all digests on one core at its limit")), hashed, "s");
            report.context(about(&format!("{name}, guestctl / that limit")), time / hashed, "");
        }
    }
    let large = Large::make()?;
    for (name, pull) in [("guestctl", large.guestctl()), ("PullImage", large.hub())] {
        pulled(report, &format!("5 GB in 10 layers, gzip, {name}"), &mut [pull?]);
    }
    Ok(())
}

/// Tells what pulls of one kind took: the time of the middle one, which is given, and what its stages took of a processor; the most memory of
/// all.
fn pulled(report: &mut Report, name: &str, pulls: &mut [Pull]) -> f64 {
    pulls.sort_by_key(|pull| pull.time);
    let Some(middle) = pulls.get(pulls.len() / 2) else { return f64::NAN };
    let time = middle.time.as_secs_f64();
    report.context(name, time, "s");
    for stage in middle.stages.iter().filter(|stage| stage.seconds >= 0.001) {
        report.context(format!("{name}: {}, processor", stage.name), stage.processor_seconds, "s");
    }
    if let Some(fetch) = middle.stages.iter().find(|stage| stage.name == "fetch") {
        let waited = (fetch.seconds - fetch.processor_seconds).max(0.0);
        report.context(format!("{name}: waiting for the registry, all layers"), waited, "s");
    }
    if let Some(peak) = pulls.iter().filter_map(|pull| pull.peak).max() {
        report.at_most(format!("{name}, memory"), to_f64(peak) / 1e6, "MB", 64.0);
    }
    time
}

/// What opening an encrypted disk takes beside cryptsetup with the same key; what a root disk costs in the virtual machines of the tests.
fn volumes(report: &mut Report) -> anyhow::Result<()> {
    say("\ndisks: on this machine up to the volume key, without the mapping");
    for (name, derivation) in [
        ("PBKDF2, 1000 rounds", Derivation::Minimal),
        ("Argon2id, cryptsetup's default", Derivation::Default),
    ] {
        let opened = disks::keyslot(derivation)?;
        report.context(format!("{name}: cryptsetup"), millis(opened.cryptsetup), "ms");
        report.context(format!("{name}: ours"), millis(opened.ours), "ms");
        report.context(format!("{name}: of that, reading and checks"), millis(opened.checks), "ms");
        let ratio = opened.ours.as_secs_f64() / opened.cryptsetup.as_secs_f64();
        report.at_most(format!("{name}: ours / cryptsetup"), ratio, "", 1.1);
    }
    for (maker, disk) in disks::root_disks()? {
        let about = |what: &str| format!("root disk, {maker}, as the tests measured it: {what}");
        report.context(about("added to the initramfs"), to_f64(disk.added_kb), "KiB");
        report.context(about("unlocking"), disk.unlock_seconds, "s");
        report.context(about("boot"), disk.boot_seconds, "s");
    }
    Ok(())
}

/// Bytes of SHA-256 in a second on one core.
fn hash_rate() -> anyhow::Result<f64> {
    let block = vec![0x5a; 64 << 20];
    let mut rates = Vec::new();
    for _ in 0..5 {
        let start = Instant::now();
        std::hint::black_box(image_rs::Digest::of(image_rs::Algorithm::Sha256, &block));
        rates.push(to_f64(block.len() as u64) / start.elapsed().as_secs_f64());
    }
    Ok(median(&mut rates))
}

fn best(runs: &[Summary]) -> anyhow::Result<&Summary> {
    runs.iter().max_by(|a, b| a.rps.total_cmp(&b.rps)).context("nothing was measured")
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[allow(clippy::cast_precision_loss, reason = "counts and sizes here are far below 2^52")]
fn to_f64(value: u64) -> f64 {
    value as f64
}
