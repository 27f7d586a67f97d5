//! The whole stack on one machine: emulated TEE, key broker, agent, data hub, REST server.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
pub use cc_vectors::skip;
use tempfile::TempDir;

use crate::curl::{self, Answer};
use crate::machine::{self, Kind, Machine};
use crate::process::{Process, own_binary, with_own_mounts};
use crate::soft_tpm::SoftTpm;

/// Where the emulated TSM interface lies below the system root that the agent is given.
const TSM_REPORT: &str = "sys/kernel/config/tsm/report";
/// Where the registers of a TDX machine lie below it, in kernels from 6.16.
const MEASUREMENTS: &str = "sys/devices/virtual/misc/tdx_guest/measurements";
/// Where the PCI bus is below it.
const PCI_DEVICES: &str = "sys/bus/pci/devices";
/// Where the firmware's event log lies below it.
const FIRMWARE_LOG: &str = "sys/firmware/acpi/tables/data/CCEL";
/// Where the agent's own event log lies below it.
const AGENT_LOG: &str = "run/attestation-agent/eventlog";

/// A key broker that is not there: the discard port, where nobody listens.
pub const DEAD_KBS: &str = "https://127.0.0.1:9";

/// Which TEE the agent finds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tee {
    /// The emulator's.
    #[default]
    Emulated,
    /// A TPM alone, in software (swtpm), with an attestation key.
    Tpm,
    /// The sample platform, which proves nothing.
    Sample,
    /// The one of this machine.
    Host,
}

/// A key broker that is not ours.
#[derive(Debug, Clone)]
pub struct ForeignKbs {
    /// Base URL.
    pub url: String,
    /// PEM file with its root certificate.
    pub certificate: Option<PathBuf>,
}

/// How a stack differs from the plain one.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Which TEE the agent finds.
    pub tee: Tee,
    /// Use this key broker instead of starting one.
    pub foreign_kbs: Option<ForeignKbs>,
    /// The machine the emulator plays.
    pub machine: Machine,
    /// What the machine's firmware left as its event log; no log if absent.
    pub firmware_log: Option<Vec<u8>>,
    /// The kernel of a TDX machine is older than 6.16: software cannot extend its registers.
    pub old_kernel: bool,
    /// The kernel is older than 6.7: the TEE's driver has its device and no TSM interface.
    pub devices_only: bool,
    /// The machine has no library of NVIDIA's driver.
    pub no_nvidia_library: bool,
    /// Do not give the key broker the collateral of the emulated TDX platform.
    pub no_collateral: bool,
    /// Further arguments of the key broker.
    pub kbs_arguments: Vec<String>,
    /// TOML put into the `[platform]` table of the agent's configuration.
    pub agent_platform_config: String,
    /// TOML appended to the agent's configuration.
    pub agent_config: String,
    /// Further arguments of the agent.
    pub agent_arguments: Vec<String>,
    /// Do not allow agent and hub to start with an unmeasured configuration by name: what they do then is their own affair.
    pub measured_config: bool,
    /// TOML put before the tables of the hub's configuration.
    pub hub_config: String,
    /// TOML put into the `[kbc]` table of the hub's configuration.
    pub hub_kbc_config: String,
    /// The hub's first key broker is one that is not there; the real one stands in for it.
    pub dead_first_kbs: bool,
    /// Further arguments of the hub.
    pub hub_arguments: Vec<String>,
    /// Variables in the environment of the hub.
    pub hub_environment: Vec<(String, String)>,
    /// The hub mounts in a namespace of its own.
    pub hub_own_mounts: bool,
    /// Further arguments of the REST server.
    pub rest_arguments: Vec<String>,
    /// REST port; a free one if absent.
    pub rest_port: Option<u16>,
    /// Log filter of the daemons (`RUST_LOG`); `info` if absent.
    pub log: Option<String>,
    /// Do not tell the key broker any reference values.
    pub no_reference_values: bool,
    /// Where the stack keeps its files; a new folder if absent.
    pub folder: Option<PathBuf>,
}

/// A running stack. Dropping it stops everything in the reverse order of its start.
#[derive(Debug)]
pub struct Stack {
    // Dropped in this order.
    rest: Option<Process>,
    hub: Option<Process>,
    agent: Option<Process>,
    kbs: Option<Process>,
    emulator: Option<Process>,
    tpm: Option<SoftTpm>,
    options: Options,
    kbs_url: String,
    /// The metadata service of an Azure machine.
    metadata_url: Option<String>,
    rest_port: u16,
    folder: PathBuf,
    _temporary: Option<TempDir>,
}

/// The programs of a stack, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The emulated TEE.
    Emulator,
    /// The key broker.
    Kbs,
    /// The attestation agent.
    Agent,
    /// The data hub.
    Hub,
    /// The REST server.
    Rest,
}

impl Stack {
    /// Starts everything, tells the key broker the machine's reference values, and waits until all serve.
    ///
    /// # Errors
    /// A program that does not start; its log is in the error.
    pub fn start(options: Options) -> anyhow::Result<Self> {
        let mut stack = Self::prepare(options)?;
        if stack.options.tee == Tee::Emulated {
            stack.start_part(Part::Emulator)?;
        }
        if stack.options.tee == Tee::Tpm {
            let tpm = SoftTpm::start(&stack.folder.join("tpm"))?;
            tpm.make_key("-G rsa -s rsassa")?;
            stack.tpm = Some(tpm);
        }
        if stack.options.foreign_kbs.is_none() {
            stack.start_part(Part::Kbs)?;
            if let (false, Some(values)) = (stack.options.no_reference_values, stack.reference_values()?) {
                stack.set_reference_values(&values)?;
            }
            if stack.options.tee == Tee::Tpm {
                stack.set_policy(
                    "default = \"affirming\"\n[[allow]]\nresource = \"*/*/*\"\ntee = \"tpm\"\n",
                )?;
            }
        }
        for part in [Part::Agent, Part::Hub, Part::Rest] {
            stack.start_part(part)?;
        }
        Ok(stack)
    }

    /// Makes the folder and the configuration files; starts nothing.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn prepare(options: Options) -> anyhow::Result<Self> {
        let (folder, temporary) = match &options.folder {
            Some(folder) => (folder.clone(), None),
            None => {
                let temporary = tempfile::Builder::new().prefix("guest-").tempdir()?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        std::fs::create_dir_all(folder.join("root"))?;
        // An Azure machine has no TSM interface: its TEE belongs to the paravisor. Nor has one with a TPM alone.
        if !options.devices_only && options.machine.azure.is_none() && options.tee != Tee::Tpm {
            std::fs::create_dir_all(folder.join("root").join(TSM_REPORT))?;
        }
        options.machine.write(&folder.join("machine.toml"))?;
        write_gpus(&folder, &options.machine)?;
        if let Some(log) = &options.firmware_log {
            write_firmware_log(&folder, log)?;
        }
        let rest_port = match options.rest_port {
            Some(port) => port,
            None => crate::port::claim()?,
        };
        Ok(Self {
            rest: None,
            hub: None,
            agent: None,
            kbs: None,
            emulator: None,
            tpm: None,
            kbs_url: options.foreign_kbs.as_ref().map(|k| k.url.clone()).unwrap_or_default(),
            metadata_url: None,
            options,
            rest_port,
            folder,
            _temporary: temporary,
        })
    }

    /// Starts one program and waits until it serves.
    ///
    /// # Errors
    /// It does not start; its log is in the error.
    pub fn start_part(&mut self, part: Part) -> anyhow::Result<()> {
        match part {
            Part::Emulator => self.start_emulator(),
            Part::Kbs => self.start_kbs(),
            Part::Agent => {
                let mut agent = self.spawn_agent()?;
                agent.wait_for_path(&self.agent_socket())?;
                self.agent = Some(agent);
                Ok(())
            }
            Part::Hub => {
                let mut hub = self.spawn_hub()?;
                hub.wait_for_path(&self.hub_socket())?;
                self.hub = Some(hub);
                Ok(())
            }
            Part::Rest => {
                let mut rest = self.spawn_rest()?;
                rest.wait_for_port(self.rest_port)?;
                self.rest = Some(rest);
                Ok(())
            }
        }
    }

    fn start_emulator(&mut self) -> anyhow::Result<()> {
        let azure = self.options.machine.azure.is_some();
        let name = if azure { "azure-emulator" } else { "tee-emulator" };
        let mut command = own_binary(name)?;
        if azure {
            command.arg("--tpm").arg(self.tpm()).arg("--state").arg(self.folder.join("swtpm"));
        } else if self.options.devices_only {
            command.arg("--devices").arg(self.folder.join("root"));
        } else {
            command.arg("--mount").arg(self.tsm_report());
        }
        command
            .arg("--machine")
            .arg(self.folder.join("machine.toml"))
            .arg("--roots-out")
            .arg(self.roots())
            .arg("--stats")
            .arg(self.folder.join("stats.json"));
        if self.options.machine.tee == Kind::Tdx {
            command.arg("--collateral-out").arg(self.collateral());
            if !(azure || self.options.old_kernel || self.options.devices_only) {
                command.arg("--measurements").arg(self.measurements());
            }
        }
        if !self.options.machine.nvidia.gpus.is_empty() {
            command.arg("--nvidia").arg(self.nvidia());
        }
        let (emulator, ready) = Process::start_announced(name, command, &self.folder)?;
        self.metadata_url = ready.get("metadata").and_then(|url| url.as_str()).map(str::to_owned);
        self.emulator = Some(emulator);
        Ok(())
    }

    fn start_kbs(&mut self) -> anyhow::Result<()> {
        let mut command = own_binary("dev-kbs")?;
        command.arg("serve").arg("--state").arg(self.kbs_state());
        // A restarted key broker comes back at the address that the others know.
        let listen = match self.kbs_url.strip_prefix("https://") {
            Some(listen) => listen.to_owned(),
            None => format!("127.0.0.1:{}", crate::port::claim()?),
        };
        command.arg("--listen").arg(listen);
        if self.options.tee == Tee::Emulated {
            // There is no root of CCA: the platform's key is told.
            let option = if self.options.machine.tee == Kind::Cca { "--cca-keys" } else { "--test-roots" };
            command.arg(option).arg(self.roots());
            if self.options.machine.tee == Kind::Tdx && !self.options.no_collateral {
                command.arg("--collateral").arg(self.collateral());
            }
        }
        command.args(&self.options.kbs_arguments).env("RUST_LOG", self.log_filter());
        let (kbs, ready) = Process::start_announced("dev-kbs", command, &self.folder)?;
        self.kbs_url = ready
            .get("listening")
            .and_then(|v| v.as_str())
            .context("the key broker names no address")?
            .to_owned();
        self.kbs = Some(kbs);
        let out = own_binary("dev-kbs")?.arg("admin-token").arg("--state").arg(self.kbs_state()).output()?;
        ensure!(out.status.success(), "no admin token: {}", String::from_utf8_lossy(&out.stderr));
        let header = format!("Authorization: Bearer {}\n", String::from_utf8_lossy(&out.stdout).trim());
        std::fs::write(self.admin_headers(), header)?;
        Ok(())
    }

    /// Starts agent, hub and REST server at once, without waiting for any.
    ///
    /// # Errors
    /// One of them cannot be started.
    pub fn spawn_all(&mut self) -> anyhow::Result<()> {
        self.agent = Some(self.spawn_agent()?);
        self.hub = Some(self.spawn_hub()?);
        self.rest = Some(self.spawn_rest()?);
        Ok(())
    }

    /// Starts the agent without waiting for its socket.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn_agent(&self) -> anyhow::Result<Process> {
        let config = self.folder.join("aa.toml");
        std::fs::write(&config, self.agent_config())?;
        let mut command = own_binary("attestation-agent")?;
        if self.options.devices_only && self.options.tee == Tee::Emulated {
            let agent = command.get_program().to_owned();
            command = own_binary("emulated-guest")?;
            command.arg(self.folder.join("root")).arg(agent);
        }
        command.arg("-a").arg(address(&self.agent_socket())).arg("-c").arg(config);
        // The stack's files lie on a disk that nobody measured; what strict mode makes of that has tests of its own.
        if !self.options.measured_config {
            command.args(["--unmeasured-config", "allow"]);
        }
        command.args(&self.options.agent_arguments).env("RUST_LOG", self.log_filter());
        if !self.options.machine.nvidia.gpus.is_empty() && !self.options.no_nvidia_library {
            command.env("LD_LIBRARY_PATH", self.nvidia());
        }
        Process::start("attestation-agent", command, &self.folder)
    }

    /// Text of the agent's configuration file. It names the key broker, so that one has to run.
    pub fn agent_config(&self) -> String {
        let platform = match self.options.tee {
            Tee::Emulated => {
                let platform = format!("sys_root = {:?}", self.folder.join("root"));
                let azure =
                    |url| format!("\n[tpm]\ndevice = {:?}\n[azure]\nmetadata_url = {url:?}", self.tpm());
                platform + &self.metadata_url.as_ref().map(azure).unwrap_or_default()
            }
            Tee::Tpm => format!(
                "sys_root = {:?}\n[tpm]\ndevice = {:?}",
                self.folder.join("root"),
                self.folder.join("tpm/tpm")
            ),
            Tee::Sample => "sample = true".to_owned(),
            Tee::Host => String::new(),
        };
        format!(
            "[token_configs.kbs]\nurl = {url:?}\n{certificate}[platform]\n{platform}\n{platform_more}\n{more}\n",
            url = self.kbs_url,
            certificate = self.certificate_line("cert"),
            platform_more = self.options.agent_platform_config,
            more = self.options.agent_config,
        )
    }

    /// Starts the data hub with this configuration in place of [`Stack::hub_config`], and waits until it serves.
    ///
    /// # Errors
    /// It does not start; its log is in the error.
    pub fn start_hub_with(&mut self, config: &str) -> anyhow::Result<()> {
        let mut hub = self.spawn_hub_with(config)?;
        hub.wait_for_path(&self.hub_socket())?;
        self.hub = Some(hub);
        Ok(())
    }

    /// Starts the data hub without waiting for its socket.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn_hub(&self) -> anyhow::Result<Process> {
        self.spawn_hub_with(&self.hub_config())
    }

    fn spawn_hub_with(&self, text: &str) -> anyhow::Result<Process> {
        let config = self.folder.join("cdh.toml");
        std::fs::write(&config, text)?;
        let mut command = own_binary("confidential-data-hub")?;
        command.arg("-c").arg(config);
        if !self.options.measured_config {
            command.args(["--unmeasured-config", "allow"]);
        }
        command.args(&self.options.hub_arguments).env("RUST_LOG", self.log_filter());
        command.envs(self.options.hub_environment.iter().cloned());
        if self.options.hub_own_mounts {
            command = with_own_mounts(&command);
        }
        Process::start("confidential-data-hub", command, &self.folder)
    }

    /// Text of the data hub's configuration file. It names the key broker, so that one has to run.
    pub fn hub_config(&self) -> String {
        let real = format!("url = {:?}\n{}", self.kbs_url, self.certificate_line("kbs_cert"));
        let (first, alternate) = if self.options.dead_first_kbs {
            (format!("url = {DEAD_KBS:?}\n"), format!("[[kbc.alternates]]\n{real}"))
        } else {
            (real, String::new())
        };
        format!(
            "socket = {socket:?}\n{more}\n[kbc]\nname = \"cc_kbc\"\n{first}{kbc}\n{alternate}\n[aa]\naa_socket = {aa:?}\n",
            socket = address(&self.hub_socket()),
            more = self.options.hub_config,
            kbc = self.options.hub_kbc_config,
            aa = address(&self.agent_socket()),
        )
    }

    fn spawn_rest(&self) -> anyhow::Result<Process> {
        let mut command = own_binary("api-server-rest")?;
        command.arg("-b").arg(format!("127.0.0.1:{}", self.rest_port)).args(["-f", "all"]);
        command.arg("-c").arg(address(&self.hub_socket())).arg("-a").arg(address(&self.agent_socket()));
        command.args(&self.options.rest_arguments).env("RUST_LOG", self.log_filter());
        Process::start("api-server-rest", command, &self.folder)
    }

    fn log_filter(&self) -> &str {
        self.options.log.as_deref().unwrap_or("info")
    }

    fn slot(&mut self, part: Part) -> &mut Option<Process> {
        match part {
            Part::Emulator => &mut self.emulator,
            Part::Kbs => &mut self.kbs,
            Part::Agent => &mut self.agent,
            Part::Hub => &mut self.hub,
            Part::Rest => &mut self.rest,
        }
    }

    /// A running program of the stack.
    ///
    /// # Errors
    /// It was not started.
    pub fn part(&mut self, part: Part) -> anyhow::Result<&mut Process> {
        self.slot(part).as_mut().with_context(|| format!("{part:?} is not running"))
    }

    /// Stops one program; its exit code.
    ///
    /// # Errors
    /// It does not stop in time, or was not running.
    pub fn stop_part(&mut self, part: Part) -> anyhow::Result<i32> {
        self.slot(part).take().with_context(|| format!("{part:?} is not running"))?.stop()
    }

    /// Changes the machine from the next report on.
    ///
    /// # Errors
    /// The machine file cannot be written.
    pub fn set_machine(&self, machine: &Machine) -> anyhow::Result<()> {
        write_gpus(&self.folder, machine)?;
        machine.write(&self.folder.join("machine.toml"))
    }

    /// Changes what the firmware left as its event log.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set_firmware_log(&self, log: &[u8]) -> anyhow::Result<()> {
        write_firmware_log(&self.folder, log)
    }

    /// How many quotes the TEE has made.
    ///
    /// # Errors
    /// The emulator's counter cannot be read.
    pub fn quotes(&self) -> anyhow::Result<u64> {
        let Ok(text) = std::fs::read_to_string(self.folder.join("stats.json")) else { return Ok(0) };
        let stats: serde_json::Value = serde_json::from_str(&text)?;
        stats.get("quotes").and_then(serde_json::Value::as_u64).context("the emulator counts nothing")
    }

    /// The software TPM.
    ///
    /// # Errors
    /// This stack has none.
    pub fn soft_tpm(&mut self) -> anyhow::Result<&mut SoftTpm> {
        self.tpm.as_mut().context("this stack has no TPM")
    }

    /// What the key broker's administrator says is good: what this stack's machine is when it starts. Of a machine that is
    /// not ours nobody here can say that.
    fn reference_values(&self) -> anyhow::Result<Option<serde_json::Value>> {
        let Some(tpm) = &self.tpm else {
            return Ok(match self.options.tee {
                Tee::Sample => Some(machine::sample_reference_values()),
                Tee::Host => None,
                Tee::Emulated | Tee::Tpm => Some(self.options.machine.reference_values()),
            });
        };
        Ok(Some(serde_json::json!({
            "trusted_aks": [std::fs::read_to_string(tpm.folder().join("ak.pem"))?],
            "tpm_pcr04": [tpm.pcr(4)?], "tpm_pcr07": [tpm.pcr(7)?], "tpm_pcr11": [tpm.pcr(11)?],
        })))
    }

    /// Stores a secret at the key broker, as its administrator would. `path` is `repository/type/tag`.
    ///
    /// # Errors
    /// The key broker refuses it.
    pub fn put_resource(&self, path: &str, content: &[u8]) -> anyhow::Result<()> {
        self.admin_post(&format!("resource/{path}"), content)
    }

    /// Tells the key broker reference values.
    ///
    /// # Errors
    /// The key broker refuses them.
    pub fn set_reference_values(&self, values: &serde_json::Value) -> anyhow::Result<()> {
        let payload = STANDARD.encode(values.to_string());
        let message = serde_json::json!({"version": "0.1.0", "type": "sample", "payload": payload});
        self.admin_post("reference-value", message.to_string().as_bytes())
    }

    /// Makes the key broker release the resource at `path` only to machines with a device of this kind.
    ///
    /// # Errors
    /// The key broker refuses the policy.
    pub fn require_device(&self, path: &str, device: &str) -> anyhow::Result<()> {
        self.set_policy(&format!("[[allow]]\nresource = {path:?}\ndevice = {device:?}\n"))
    }

    /// Gives the key broker its resource policy, a rule document.
    ///
    /// # Errors
    /// The key broker refuses it.
    pub fn set_policy(&self, policy: &str) -> anyhow::Result<()> {
        let body = serde_json::json!({ "policy": URL_SAFE_NO_PAD.encode(policy) });
        self.admin_post("resource-policy", body.to_string().as_bytes())
    }

    /// An administrator's POST to the key broker.
    ///
    /// # Errors
    /// Any answer but 200.
    pub fn admin_post(&self, endpoint: &str, content: &[u8]) -> anyhow::Result<()> {
        let body = self.folder.join("admin-body");
        std::fs::write(&body, content)?;
        let url = format!("{}/kbs/v0/{endpoint}", self.kbs_url);
        let answer = curl::post_file(&url, &body, &self.admin_headers(), &self.kbs_certificate())?;
        std::fs::remove_file(&body)?;
        ensure!(answer.status == 200, "POST {endpoint}: {} {}", answer.status, answer.text());
        Ok(())
    }

    /// What a workload gets from the REST server at `path` (with its leading slash).
    ///
    /// # Errors
    /// No HTTP answer.
    pub fn rest_get(&self, path: &str) -> anyhow::Result<Answer> {
        curl::get(&format!("{}{path}", self.rest_url()))
    }

    /// Base URL of the REST server.
    pub fn rest_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.rest_port)
    }

    /// Base URL of the key broker.
    pub fn kbs_url(&self) -> &str {
        &self.kbs_url
    }

    /// Folder of everything this stack writes; the logs are `<program>.log`.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The agent's socket.
    pub fn agent_socket(&self) -> PathBuf {
        self.folder.join("aa.sock")
    }

    /// The data hub's socket.
    pub fn hub_socket(&self) -> PathBuf {
        self.folder.join("cdh.sock")
    }

    /// Mount point of the emulated TSM report interface.
    pub fn tsm_report(&self) -> PathBuf {
        self.folder.join("root").join(TSM_REPORT)
    }

    /// Mount point of the emulated registers of a TDX machine.
    pub fn measurements(&self) -> PathBuf {
        self.folder.join("root").join(MEASUREMENTS)
    }

    /// The log of the events that the agent measured.
    pub fn agent_log(&self) -> PathBuf {
        self.folder.join("root").join(AGENT_LOG)
    }

    /// The TPM of an emulated Azure machine.
    pub fn tpm(&self) -> PathBuf {
        self.folder.join("tpm.sock")
    }

    /// The emulator's root certificates, or the public key of its CCA platform.
    pub fn roots(&self) -> PathBuf {
        self.folder.join("roots.pem")
    }

    /// The collateral of the emulated TDX platform.
    pub fn collateral(&self) -> PathBuf {
        self.folder.join("collateral")
    }

    /// The folder of the stand-in for NVIDIA's library.
    pub fn nvidia(&self) -> PathBuf {
        self.folder.join("nvidia")
    }

    /// The key broker's state folder.
    pub fn kbs_state(&self) -> PathBuf {
        self.folder.join("kbs")
    }

    /// The key broker's TLS certificate.
    pub fn kbs_certificate(&self) -> PathBuf {
        self.kbs_state().join("tls.crt")
    }

    /// Header file with the administrator's token.
    pub fn admin_headers(&self) -> PathBuf {
        self.folder.join("admin-headers")
    }

    /// A TOML line that pins the key broker's certificate; nothing when there is none.
    fn certificate_line(&self, key: &str) -> String {
        let path = match &self.options.foreign_kbs {
            Some(foreign) => foreign.certificate.clone(),
            None => Some(self.kbs_certificate()),
        };
        match path.and_then(|path| std::fs::read_to_string(path).ok()) {
            Some(pem) => format!("{key} = '''{pem}'''\n"),
            None => String::new(),
        }
    }
}

/// `unix://` address of a path.
pub fn address(path: &Path) -> String {
    format!("unix://{}", path.display())
}

fn write_firmware_log(folder: &Path, log: &[u8]) -> anyhow::Result<()> {
    let path = folder.join("root").join(FIRMWARE_LOG);
    std::fs::create_dir_all(path.parent().context("the log has no folder")?)?;
    std::fs::write(&path, log).with_context(|| format!("writing {}", path.display()))
}

/// Puts the GPUs of the machine on its PCI bus, and nothing else. A machine that never had a GPU has no bus.
fn write_gpus(folder: &Path, machine: &Machine) -> anyhow::Result<()> {
    let bus = folder.join("root").join(PCI_DEVICES);
    if bus.exists() {
        std::fs::remove_dir_all(&bus)?;
    }
    for gpu in &machine.nvidia.gpus {
        let function = bus.join(&gpu.address);
        std::fs::create_dir_all(&function)?;
        std::fs::write(function.join("vendor"), "0x10de\n")?;
        std::fs::write(function.join("class"), "0x030200\n")?;
    }
    Ok(())
}

/// Whether this machine can run the emulator (root and `/dev/fuse`); tells why not.
pub fn emulator_runs_here() -> bool {
    let root = rustix::process::geteuid().is_root();
    let fuse = Path::new("/dev/fuse").exists();
    if !(root && fuse) {
        skip(&format!("the TEE emulator needs root (here: {root}) and /dev/fuse (here: {fuse})"));
    }
    root && fuse
}

/// Whether this machine can run the emulated machine of Azure (swtpm); tells why not.
pub fn azure_emulator_runs_here() -> bool {
    let there = crate::process::command("swtpm").arg("--version").output().is_ok();
    if !there {
        skip("the emulated Azure machine needs swtpm");
    }
    there
}
