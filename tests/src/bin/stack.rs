//! `make demo` and `make up`: the whole stack on this machine, to watch or to work with.

#[path = "stack/disk.rs"]
mod disk;
#[path = "stack/images.rs"]
mod images;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use cc_tests::eventlog::EventLog;
use cc_tests::machine::{Gpu, Kind, Machine, POLICY_DEBUG, Td};
use cc_tests::process::{binary_folder, command};
use cc_tests::stack::{ForeignKbs, Options, Part, Stack, Tee, address};
use cc_tests::unit_credential;
use clap::{Parser, Subcommand, ValueEnum};

/// Starts key broker, emulated TEE, agent, data hub and REST server on this machine.
#[derive(Debug, Parser)]
#[command(
    after_help = "Example:\n  stack demo\n  stack up --kbs-url https://kbs.example:8080 --kbs-cert ca.pem --tee sample"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show releases and denials on SEV-SNP, on TDX and on a TPM, and of images, then stop. Ends with "demo: ok"
    Demo {
        /// Port of the REST server
        #[arg(long, default_value_t = REST_PORT)]
        rest_port: u16,
    },
    /// Ask for the credential of a unit as the service manager does
    #[command(hide = true)]
    Credential { socket: PathBuf, unit: String, credential: String },
    /// Keep the stack running until Ctrl-C
    Up {
        /// A key broker that is running already, instead of the development one
        #[arg(long)]
        kbs_url: Option<String>,
        /// PEM file with that key broker's root certificate
        #[arg(long)]
        kbs_cert: Option<PathBuf>,
        /// Which TEE the agent uses
        #[arg(long, default_value = "snp")]
        tee: TeeName,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TeeName {
    /// SEV-SNP, emulated on this machine
    Snp,
    /// TDX, emulated on this machine
    Tdx,
    /// Arm CCA, emulated on this machine
    Cca,
    /// An Azure machine with SEV-SNP, emulated on this machine
    AzSnpVtpm,
    /// An Azure machine with TDX, emulated on this machine
    AzTdxVtpm,
    /// A TPM alone, in software on this machine
    Tpm,
    /// The sample platform, which proves nothing
    Sample,
    /// Whatever this machine has
    Host,
}

/// The port that the documentation of the REST server names.
const REST_PORT: u16 = 8006;
/// Where the demo's secret is kept.
const RESOURCE: &str = "default/key/1";
/// The demo's secret.
const SECRET: &[u8] = b"the horse is called battery staple\n";

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Demo { rest_port } => demo(rest_port),
        Command::Credential { socket, unit, credential } => show_credential(&socket, &unit, &credential),
        Command::Up { kbs_url, kbs_cert, tee } => up(kbs_url, kbs_cert, tee),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            say(&format!("failed: {e:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Prints a line. A closed standard output ends nothing.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn heading(text: &str) {
    say(&format!("\n== {text}"));
}

/// A machine that has to be denied, and a word of the reason.
struct Denied {
    title: &'static str,
    machine: Machine,
    reason: &'static str,
}

fn demo(rest_port: u16) -> anyhow::Result<()> {
    let honest = Machine::default();
    let denied = [
        Denied {
            title: "a machine that runs other code",
            machine: Machine { measurement: "66".repeat(48), ..honest.clone() },
            reason: "measurement",
        },
        Denied {
            title: "a machine that the host may debug",
            machine: Machine { policy: honest.policy | POLICY_DEBUG, ..honest.clone() },
            reason: "debug",
        },
        Denied {
            title: "a report with one flipped bit",
            machine: Machine { fault: "flip-bit".to_owned(), ..honest.clone() },
            reason: "signature",
        },
    ];
    round("SEV-SNP", &honest, rest_port, None, denied)?;
    round_of_doors()?;

    let log = EventLog::of_a_boot();
    let honest = Machine::tdx_after(&log);
    let denied = [Denied {
        title: "a trust domain that runs other code",
        machine: Machine { td: Td { mrtd: "66".repeat(48), ..honest.td.clone() }, ..honest.clone() },
        reason: "mr_td",
    }];
    round("TDX", &honest, rest_port, Some(&log), denied)?;
    round_of_tpm(rest_port)?;
    let honest = Machine::with_gpus([Gpu::number(1)]);
    let denied = [Denied {
        title: "one altered byte in the GPU's report denies the whole machine",
        machine: Machine::with_gpus([Gpu::faulty(1, "flip-byte")]),
        reason: "nvidia.signature",
    }];
    round("SEV-SNP (with an NVIDIA GPU)", &honest, rest_port, None, denied)?;
    images::round()?;
    disk::round()?;
    say("\ndemo: ok");
    Ok(())
}

/// A stack on `honest`: it gets the secret, the machines after it do not, and then it gets it again. With the `log` of
/// its boot the machine measures an event too.
fn round<const N: usize>(
    platform: &str,
    honest: &Machine,
    rest_port: u16,
    log: Option<&EventLog>,
    denied: [Denied; N],
) -> anyhow::Result<()> {
    heading(&format!("a key broker, an emulated {platform} machine, and the guest services"));
    let options = Options {
        machine: honest.clone(),
        firmware_log: log.map(EventLog::area),
        agent_config: format!("[eventlog_config]\nenable_eventlog = {}\n", log.is_some()),
        rest_port: Some(rest_port),
        ..Options::default()
    };
    let mut stack = Stack::start(options)?;
    say(&format!("key broker        {}", stack.kbs_url()));
    say(&format!("REST server       {}", stack.rest_url()));
    say(&format!("measurement       {}", honest.launch_measurement()));
    say("the administrator stores a secret and tells the key broker which measurement is good");
    stack.put_resource(RESOURCE, SECRET)?;

    heading("the application asks for its secret");
    let answer = ask(&stack)?;
    ensure!(answer.status == 200, "the honest machine was refused: {}", answer.text());
    ensure!(answer.body == SECRET, "the secret arrived altered");
    say(&format!("released after one quote (the TEE counts {})", stack.quotes()?));
    if log.is_some() {
        measure(&stack)?;
    }

    for Denied { title, machine, reason } in denied {
        heading(title);
        // Another machine has a data hub of its own, without this one's session.
        stack.stop_part(Part::Hub)?;
        stack.set_machine(&machine)?;
        stack.start_part(Part::Hub)?;
        let answer = ask(&stack)?;
        ensure!(answer.status == 403, "it was not denied: {} {}", answer.status, answer.text());
        ensure!(answer.text().contains(reason), "the reason {reason:?} is not told: {}", answer.text());
    }

    heading("the honest machine again");
    stack.stop_part(Part::Hub)?;
    stack.set_machine(honest)?;
    stack.start_part(Part::Hub)?;
    ensure!(ask(&stack)?.status == 200, "the honest machine was refused");
    Ok(())
}

/// An application measures an event; from then on every quote tells of it.
fn measure(stack: &Stack) -> anyhow::Result<()> {
    const EVENT: &str = r#"{"domain":"example.org","operation":"StartJob","content":"job 7"}"#;
    heading("the application measures an event");
    let url = format!("{}/aa/aael", stack.rest_url());
    say(&format!("$ curl --data '{EVENT}' {url}"));
    let answer = cc_tests::curl::curl(&["--data", EVENT], &url)?;
    say(&answer.text());
    ensure!(answer.text() == r#"{"success":"true"}"#, "the event was not measured: {}", answer.text());
    let register = std::fs::read(stack.measurements().join("rtmr3:sha384"))?;
    say(&format!("RTMR3 {}", register.iter().map(|byte| format!("{byte:02x}")).collect::<String>()));
    Ok(())
}

/// A stack on a TPM alone: it gets the secret, does not after a PCR changed, and does again after a reset.
fn round_of_tpm(rest_port: u16) -> anyhow::Result<()> {
    heading("a key broker, a machine with a TPM alone (swtpm), and the guest services");
    let mut stack =
        Stack::start(Options { tee: Tee::Tpm, rest_port: Some(rest_port), ..Options::default() })?;
    let socket = stack.soft_tpm()?.socket();
    say(&format!("key broker        {}", stack.kbs_url()));
    say(&format!("TPM               {}", socket.display()));
    say(
        "the administrator stores a secret, registers the TPM's attestation key and tells which PCRs are good",
    );
    stack.put_resource(RESOURCE, SECRET)?;

    heading("the application asks for its secret");
    let answer = ask(&stack)?;
    ensure!(answer.status == 200, "the honest machine was refused: {}", answer.text());
    ensure!(answer.body == SECRET, "the secret arrived altered");

    heading("a machine that measured something else into PCR 11");
    let extend = format!("tpm2_pcrextend 11:sha256={}", "66".repeat(32));
    say(&format!("$ {extend}"));
    stack.soft_tpm()?.tool(&extend)?;
    stack.stop_part(Part::Hub)?;
    stack.start_part(Part::Hub)?;
    let answer = ask(&stack)?;
    ensure!(answer.status == 403, "it was not denied: {} {}", answer.status, answer.text());
    ensure!(answer.text().contains("PCR 11"), "the PCR is not told: {}", answer.text());

    heading("the machine after a reset");
    stack.soft_tpm()?.reset()?;
    stack.stop_part(Part::Hub)?;
    stack.start_part(Part::Hub)?;
    ensure!(ask(&stack)?.status == 200, "the honest machine was refused");
    Ok(())
}

/// The same secret by the other doors: a systemd credential, a sealed secret, a Podman secret.
fn round_of_doors() -> anyhow::Result<()> {
    const UNIT: &str = "demo-db.service";
    heading("the other doors: the same secret, the way a workload takes it already");
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("credentials.sock");
    let entry =
        format!("{{ unit = {UNIT:?}, credential = \"db-password\", secret = \"kbs:///{RESOURCE}\" }}");
    let stack = Stack::start(Options {
        hub_config: format!("credential_socket = {:?}\nunit_credentials = [{entry}]\n", address(&socket)),
        folder: Some(folder.path().to_owned()),
        ..Options::default()
    })?;
    stack.put_resource(RESOURCE, SECRET)?;
    door_of_units(&stack, &socket, UNIT)?;
    door_of_sealed_secrets(&stack)?;
    door_of_podman(&stack)?;
    ensure!(stack.quotes()? == 1, "the doors share one session");
    say("one quote for all of them");
    Ok(())
}

/// A unit's credential. A process stands in for systemd, so that machines without it can watch.
fn door_of_units(stack: &Stack, socket: &Path, unit: &str) -> anyhow::Result<()> {
    heading("a systemd credential");
    say(&format!("{unit} has   LoadCredential=db-password:{}", socket.display()));
    let groups = stack.folder().join("groups");
    std::fs::create_dir(&groups)?;
    let program = binary_folder()?.join("stack");
    let socket = socket.to_str().context("the socket's path is no text")?;
    let ask = ["credential", socket, unit, "db-password"];
    for (group, given) in [(unit, true), ("demo-web.service", false)] {
        say(&format!("$ cat $CREDENTIALS_DIRECTORY/db-password      (in the control group {group})"));
        let out = unit_credential::run_in_unit(&groups, group, &program, &ask)?;
        let text = String::from_utf8_lossy(&out.stdout);
        say(text.trim_end());
        let expected = if given { SECRET } else { REFUSED.as_bytes() };
        ensure!(out.stdout == expected, "{group}: {text}{}", String::from_utf8_lossy(&out.stderr));
    }
    Ok(())
}

/// What [`show_credential`] prints where the hub refuses.
const REFUSED: &str = "refused: the unit would not start (status=243/CREDENTIALS)\n";

fn show_credential(socket: &Path, unit: &str, credential: &str) -> anyhow::Result<()> {
    let answer = unit_credential::ask(socket, unit, credential)?;
    let refused = answer.len() as u64 > unit_credential::MAX_LEN;
    std::io::stdout().write_all(if refused { REFUSED.as_bytes() } else { &answer })?;
    Ok(())
}

/// A sealed secret names the secret, signed; only the hub of an attested machine opens it.
fn door_of_sealed_secrets(stack: &Stack) -> anyhow::Result<()> {
    const SIGNER: &str = "default/sealed-signing/demo";
    heading("a sealed secret");
    let (key, sealed) = (stack.folder().join("demo-private.json"), stack.folder().join("sealed.txt"));
    let kid = format!("kbs:///{SIGNER}");
    let folder = stack.folder().display().to_string();
    let (key, sealed) = (key.display().to_string(), sealed.display().to_string());
    guestctl(&["seal", "keygen", "--kid", &kid, "--to", &folder])?;
    stack.put_resource(SIGNER, &std::fs::read(stack.folder().join("demo-public.json"))?)?;
    guestctl(&["seal", "vault", "--uri", &format!("kbs:///{RESOURCE}"), "--key", &key, "--output", &sealed])?;
    let opened = guestctl(&["unseal", &sealed, "--cdh", &address(&stack.hub_socket())])?;
    ensure!(opened == SECRET, "the sealed secret opened to something else");
    Ok(())
}

/// A secret of Podman is a reference; Podman's own storage stays untouched.
fn door_of_podman(stack: &Stack) -> anyhow::Result<()> {
    heading("a Podman secret");
    let help = command("podman").args(["secret", "inspect", "--help"]).output();
    if !help.is_ok_and(|help| String::from_utf8_lossy(&help.stdout).contains("--showsecret")) {
        say("left out: this machine has no Podman, or one that is too old to show secrets");
        return Ok(());
    }
    let folder = stack.folder().join("podman");
    std::fs::create_dir(&folder)?;
    let program = binary_folder()?.join("guestctl");
    let driver = |operation: &str, more: &str| {
        let line = format!(
            "{} podman-secret {operation} --state {}/references",
            program.display(),
            folder.display()
        );
        format!("{operation} = {:?}\n", line + more)
    };
    let hub = format!(" --cdh {}", address(&stack.hub_socket()));
    let text =
        ["store", "list", "delete"].map(|operation| driver(operation, "")).concat() + &driver("lookup", &hub);
    let config = folder.join("containers.conf");
    std::fs::write(&config, format!("[secrets]\ndriver = \"shell\"\n[secrets.opts]\n{text}"))?;
    let reference = folder.join("reference");
    std::fs::write(&reference, format!("kbs:///{RESOURCE}"))?;
    let podman = |arguments: &[&str]| -> anyhow::Result<Vec<u8>> {
        let mut podman = command("podman");
        podman.env("CONTAINERS_CONF", &config).args(["--storage-driver", "vfs", "--root"]);
        podman.arg(folder.join("root")).arg("--runroot").arg(folder.join("run"));
        podman.arg("--tmpdir").arg(folder.join("tmp")).args(arguments);
        let out = podman.output()?;
        ensure!(out.status.success(), "podman {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
        Ok(out.stdout)
    };
    say(&format!("$ printf kbs:///{RESOURCE} | podman secret create db-password -"));
    podman(&["secret", "create", "db-password", &reference.display().to_string()])?;
    let show = ["secret", "inspect", "--showsecret", "--format", "{{.SecretData}}", "db-password"];
    say(&format!("$ podman {}", show.join(" ")));
    let shown = podman(&show)?;
    say(String::from_utf8_lossy(&shown).trim_end());
    ensure!(shown.trim_ascii() == SECRET.trim_ascii(), "Podman shows something else");
    Ok(())
}

/// Runs the operator's tool, shown as a person would type it; its standard output.
fn guestctl(arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
    say(&format!("$ guestctl {}", arguments.join(" ")));
    let out = command(binary_folder()?.join("guestctl")).args(arguments).output()?;
    let text = String::from_utf8_lossy(&out.stdout);
    ensure!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
    if !text.trim().is_empty() {
        say(text.trim_end());
    }
    Ok(out.stdout)
}

/// Runs the operator's tool, which has to be refused, with `reason` in what it says.
fn refused(arguments: &[&str], reason: &str) -> anyhow::Result<()> {
    say(&format!("$ guestctl {}", arguments.join(" ")));
    let out = command(binary_folder()?.join("guestctl")).args(arguments).output()?;
    let text = String::from_utf8_lossy(&out.stderr);
    say(text.trim_end());
    let status = out.status.code().context("a signal ended guestctl")?;
    say(&format!("[exit status {status}]"));
    ensure!(status != 0, "it was not refused");
    ensure!(text.contains(reason), "the reason {reason:?} is not told");
    Ok(())
}

/// What an application does, shown as a person would type it.
fn ask(stack: &Stack) -> anyhow::Result<cc_tests::curl::Answer> {
    let path = format!("/cdh/resource/{RESOURCE}");
    say(&format!("$ curl {}{path}", stack.rest_url()));
    let answer = stack.rest_get(&path)?;
    say(answer.text().trim_end());
    say(&format!("[HTTP {}]", answer.status));
    Ok(answer)
}

/// What is left to do when the machine is not one that this program made up: it has no reference values, so that every
/// request is denied.
fn way_to_reference_values(stack: &Stack) -> String {
    format!(
        "\n\
        The key broker knows nothing good about this machine yet and denies it. To change that:\n\
        1. look at what the machine says:  target/debug/guestctl evidence --aa unix://{aa}\n\
        2. try as above: the denial names each reference value that is missing, and what was found instead\n\
        3. if you trust what you saw, set them (a TPM needs more: docs/tpm.md), for example\n  \
           jq -n '{{snp_launch_measurement: [\"HEX\"], snp_bootloader: [4]}} | tojson | @base64 | {{version: \"0.1.0\", type: \"sample\", \
           payload: .}}' |\n    \
           curl --cacert {certificate} -H @{header} --data-binary @- {kbs}/kbs/v0/reference-value\n",
        aa = stack.agent_socket().display(),
        certificate = stack.kbs_certificate().display(),
        header = stack.admin_headers().display(),
        kbs = stack.kbs_url(),
    )
}

fn up(kbs_url: Option<String>, kbs_cert: Option<PathBuf>, tee: TeeName) -> anyhow::Result<()> {
    if kbs_url.is_some() && !matches!(tee, TeeName::Sample | TeeName::Host) {
        bail!(
            "a key broker that is not ours does not trust an emulated TEE or TPM: give --tee sample or --tee host"
        );
    }
    if let Some(path) = &kbs_cert {
        // A file that is not there must not turn into trust in the public authorities.
        let pem = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        ensure!(pem.contains("-----BEGIN CERTIFICATE-----"), "{} holds no PEM certificate", path.display());
    }
    let foreign = kbs_url.is_some();
    let options = Options {
        tee: match tee {
            TeeName::Tpm => Tee::Tpm,
            TeeName::Sample => Tee::Sample,
            TeeName::Host => Tee::Host,
            _ => Tee::Emulated,
        },
        machine: match tee {
            TeeName::Tdx => Machine::tdx(),
            TeeName::Cca => Machine::cca(),
            TeeName::AzSnpVtpm => Machine::azure(Kind::Snp),
            TeeName::AzTdxVtpm => Machine::azure(Kind::Tdx),
            _ => Machine::default(),
        },
        foreign_kbs: kbs_url.map(|url| ForeignKbs { url, certificate: kbs_cert }),
        kbs_arguments: if matches!(tee, TeeName::Sample) {
            vec!["--allow-sample".to_owned()]
        } else {
            Vec::new()
        },
        rest_port: Some(REST_PORT),
        ..Options::default()
    };
    let stack = Stack::start(options)?;
    say(&format!("key broker        {}", stack.kbs_url()));
    if !foreign {
        stack.put_resource(RESOURCE, SECRET)?;
        say(&format!("  certificate     {}", stack.kbs_certificate().display()));
        say(&format!("  admin header    {}", stack.admin_headers().display()));
    }
    say(&format!("agent socket      unix://{}", stack.agent_socket().display()));
    say(&format!("data hub socket   unix://{}", stack.hub_socket().display()));
    say(&format!("REST server       {}", stack.rest_url()));
    say(&format!("logs              {}", stack.folder().display()));
    say(&format!("try               curl {}/cdh/resource/{RESOURCE}", stack.rest_url()));
    if !foreign && matches!(tee, TeeName::Host) {
        say(&way_to_reference_values(&stack));
    }
    say("Ctrl-C stops everything");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime
        .block_on(async {
            let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
            tokio::select! {
                result = tokio::signal::ctrl_c() => result,
                _ = term.recv() => Ok(()),
            }
        })
        .context("waiting for Ctrl-C")?;
    Ok(())
}
