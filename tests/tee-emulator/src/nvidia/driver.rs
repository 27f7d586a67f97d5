//! The stand-in library and the side of the socket that answers it.

use std::collections::HashMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::{GpuChain, GpuKey, build};
use crate::Error;
use crate::machine::{DriverFault, Gpu, GpuFault, MachineSource, MultiGpu, Nvidia, NvidiaMode};

const SOURCE: &str = include_str!("nvml.c");
const LIBRARY: &str = "libnvidia-ml.so.1";
const SOCKET: &str = "nvml.sock";
/// Where the ready state is kept, a number as text.
const READY: &str = "ready";

/// Pause between two looks at whether a fault has changed.
const GLANCE: Duration = Duration::from_millis(20);
/// How long a client may take for its request.
const PATIENCE: Duration = Duration::from_secs(5);

const INVALID_ARGUMENT: u32 = 2;
const NOT_SUPPORTED: u32 = 3;
const DRIVER_NOT_LOADED: u32 = 9;
const GPU_IS_LOST: u32 = 15;
const UNKNOWN: u32 = 999;

/// A return code, and what goes into the caller's structure.
type Answer = (u32, Vec<u8>);

/// A running stand-in: the folder with the library is what `LD_LIBRARY_PATH` has to name. Dropping it ends it.
#[derive(Debug)]
pub struct Driver {
    folder: PathBuf,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    machine: MachineSource,
    chain: GpuChain,
    keys: Mutex<HashMap<u32, Arc<GpuKey>>>,
    folder: PathBuf,
    stopped: AtomicBool,
}

impl Driver {
    /// Compiles the library into `folder`, which is made if it does not exist, and answers it for the GPUs of
    /// `machine`. The C compiler is the one that links Rust programs, `cc`.
    ///
    /// # Errors
    /// [`Error::File`] when the folder or the compiler cannot be used, [`Error::Crypto`], [`Error::Encoding`].
    pub fn start(folder: &Path, machine: MachineSource) -> Result<Self, Error> {
        fs::create_dir_all(folder).map_err(file("making the folder", folder))?;
        let folder = folder.canonicalize().map_err(file("finding the folder", folder))?;
        compile(&folder, machine.load()?.nvidia.old_library)?;
        let socket = folder.join(SOCKET);
        // One that a killed emulator left behind.
        let _ = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).map_err(file("binding", &socket))?;
        let shared = Arc::new(Shared {
            machine,
            chain: GpuChain::generate()?,
            keys: Mutex::default(),
            folder: folder.clone(),
            stopped: AtomicBool::new(false),
        });
        let server = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if server.stopped.load(Ordering::Relaxed) {
                    return;
                }
                let server = Arc::clone(&server);
                thread::spawn(move || server.serve(client));
            }
        });
        Ok(Self { folder, shared })
    }

    /// The root under which the GPUs are certified, PEM.
    ///
    /// # Errors
    /// [`Error::Encoding`].
    pub fn roots_pem(&self) -> Result<String, Error> {
        self.shared.chain.roots_pem()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        // The listening thread looks up at the next client.
        drop(UnixStream::connect(self.folder.join(SOCKET)));
        let _ = fs::remove_file(self.folder.join(SOCKET));
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "the emulator is a test program; the stand-in is C, as the original"
)]
fn compile(folder: &Path, old: bool) -> Result<(), Error> {
    let (source, library) = (folder.join("nvml.c"), folder.join(LIBRARY));
    fs::write(&source, SOURCE).map_err(file("writing", &source))?;
    let mut command = std::process::Command::new("cc");
    command.args(["-shared", "-fPIC", "-Wall", "-Werror", "-Wl,-soname,libnvidia-ml.so.1"]);
    if old {
        command.arg("-DOLD");
    }
    let status = command.arg("-o").arg(&library).arg(&source).arg("-ldl").status();
    let status = status.map_err(file("running the C compiler cc for", &library))?;
    if status.success() {
        return Ok(());
    }
    Err(file("compiling", &library)(std::io::Error::other(format!("cc ended with {status}"))))
}

fn file(step: &'static str, path: &Path) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::File { step, path: path.to_owned(), source }
}

impl Shared {
    /// Answers one call.
    fn serve(&self, mut client: UnixStream) {
        let mut request = [0; 100];
        let read = client.set_read_timeout(Some(PATIENCE)).and_then(|()| client.read_exact(&mut request));
        if read.is_err() {
            return;
        }
        let (name, rest) = request.split_at(64);
        let function = String::from_utf8_lossy(name).trim_end_matches('\0').to_owned();
        let (index, nonce) = rest.split_at(4);
        let index = index.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let nonce = nonce.first_chunk().copied().unwrap_or_default();
        let (code, bytes) = self.answer(&function, index, &nonce).unwrap_or_else(|error| {
            tracing::error!(%error, function, "cannot answer the stand-in library");
            (UNKNOWN, Vec::new())
        });
        tracing::debug!(function, index, code, "answered the stand-in library");
        let length = u32::try_from(bytes.len()).unwrap_or(0).to_le_bytes();
        // A caller that has gone wants no answer.
        let _ = client.write_all(&[code.to_le_bytes().as_slice(), &length, &bytes].concat());
    }

    fn answer(&self, function: &str, index: u32, nonce: &[u8; 32]) -> Result<Answer, Error> {
        let nvidia = self.machine_when_it_answers()?;
        let number = |value: u32| (0, value.to_le_bytes().to_vec());
        Ok(match function {
            "nvmlInit_v2" if nvidia.fault == DriverFault::NotLoaded => (DRIVER_NOT_LOADED, Vec::new()),
            "nvmlInit_v2" | "nvmlShutdown" => (0, Vec::new()),
            "nvmlDeviceGetCount_v2" if nvidia.fault == DriverFault::CountLies => number(u32::MAX),
            "nvmlDeviceGetCount_v2" => number(u32::try_from(served(&nvidia).count()).unwrap_or(u32::MAX)),
            "nvmlSystemGetConfComputeState" => state(&nvidia, 0),
            "nvmlSystemGetConfComputeSettings" => settings(&nvidia),
            "nvmlSystemSetConfComputeGpusReadyState" => {
                let path = self.folder.join(READY);
                fs::write(&path, index.to_string()).map_err(file("writing", &path))?;
                (0, Vec::new())
            }
            _ => match usize::try_from(index).ok().and_then(|index| served(&nvidia).nth(index)) {
                Some(gpu) => self.about(gpu, function, index, nonce)?,
                None => (INVALID_ARGUMENT, Vec::new()),
            },
        })
    }

    /// The GPUs, as soon as the driver does not hang any more.
    #[allow(clippy::disallowed_methods, reason = "a thread of its own, which plays a driver that hangs")]
    fn machine_when_it_answers(&self) -> Result<Nvidia, Error> {
        loop {
            let nvidia = self.machine.load()?.nvidia;
            if nvidia.fault != DriverFault::Hang || self.stopped.load(Ordering::Relaxed) {
                return Ok(nvidia);
            }
            thread::sleep(GLANCE);
        }
    }

    fn about(&self, gpu: &Gpu, function: &str, index: u32, nonce: &[u8; 32]) -> Result<Answer, Error> {
        let text = |value: &str| match gpu.fault {
            GpuFault::EndlessName => (0, vec![b'A'; 96]),
            _ => (0, [value.as_bytes(), &[0]].concat()),
        };
        Ok(match (function, gpu.fault) {
            ("nvmlDeviceGetHandleByIndex_v2", GpuFault::Lost) => (GPU_IS_LOST, Vec::new()),
            ("nvmlDeviceGetHandleByIndex_v2", _) => (0, Vec::new()),
            ("nvmlDeviceGetName", _) => text(&gpu.name),
            ("nvmlDeviceGetUUID", _) => text(&gpu.uuid),
            ("nvmlDeviceGetPciInfo_v3", _) => (0, pci_info(&gpu.address)),
            ("nvmlDeviceGetArchitecture", _) => (0, gpu.architecture.to_le_bytes().to_vec()),
            ("nvmlDeviceGetConfComputeGpuAttestationReport", GpuFault::NotSupported) => {
                (NOT_SUPPORTED, Vec::new())
            }
            ("nvmlDeviceGetConfComputeGpuAttestationReport", GpuFault::UnknownError) => (777, Vec::new()),
            ("nvmlDeviceGetConfComputeGpuAttestationReport", _) => self.report(gpu, index, nonce)?,
            ("nvmlDeviceGetConfComputeGpuCertificate", _) => self.certificate(gpu, index)?,
            _ => (INVALID_ARGUMENT, Vec::new()),
        })
    }

    fn report(&self, gpu: &Gpu, index: u32, nonce: &[u8; 32]) -> Result<Answer, Error> {
        let report = match &gpu.recorded_report {
            Some(path) => hex_file(path)?,
            None => build(gpu, &*self.key(gpu, index)?, nonce)?,
        };
        let size = match gpu.fault {
            GpuFault::ReportSizeLies => u32::MAX,
            GpuFault::EmptyReport => 0,
            _ => u32::try_from(report.len()).unwrap_or(u32::MAX),
        };
        let head = [0u32, size, 0].map(u32::to_le_bytes).concat();
        Ok((0, [head.as_slice(), nonce, &padded(report, 0x2000), &[0; 0x1000]].concat()))
    }

    fn certificate(&self, gpu: &Gpu, index: u32) -> Result<Answer, Error> {
        let chain = match (&gpu.recorded_chain, gpu.fault) {
            (Some(path), _) => fs::read(path).map_err(file("reading", path))?,
            (None, GpuFault::NoPem) => vec![0x30, 0x82, 1, 0],
            (None, GpuFault::ForeignRoot) => {
                GpuChain::generate()?.pem(gpu, &*self.key(gpu, index)?)?.into_bytes()
            }
            (None, _) => self.chain.pem(gpu, &*self.key(gpu, index)?)?.into_bytes(),
        };
        // The driver counts the NUL at the end of the text.
        let size = match gpu.fault {
            GpuFault::ChainSizeLies => 0x1401,
            _ => u32::try_from(chain.len() + 1).unwrap_or(u32::MAX),
        };
        let head = [0u32, size].map(u32::to_le_bytes).concat();
        Ok((0, [head.as_slice(), &[0; 0x1000], &padded(chain, 0x1400)].concat()))
    }

    fn key(&self, gpu: &Gpu, index: u32) -> Result<Arc<GpuKey>, Error> {
        let index = if gpu.fault == GpuFault::AnotherGpu { 0 } else { index };
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = keys.get(&index) {
            return Ok(Arc::clone(key));
        }
        let key = Arc::new(GpuKey::generate()?);
        keys.insert(index, Arc::clone(&key));
        Ok(key)
    }
}

/// The GPUs that the driver serves: those of the machine but for one that it does not know.
fn served(nvidia: &Nvidia) -> impl Iterator<Item = &Gpu> {
    nvidia.gpus.iter().filter(|gpu| gpu.fault != GpuFault::NotServed)
}

/// Environment, feature, developer tools; after `version` if it is not 0.
fn state(nvidia: &Nvidia, version: u32) -> Answer {
    let fields = match nvidia.mode {
        NvidiaMode::On => [2u32, 1, 0],
        NvidiaMode::Off => [0, 0, 0],
        NvidiaMode::Devtools => [2, 1, 1],
        NvidiaMode::Simulated => [1, 1, 0],
        NvidiaMode::Unsupported => return (NOT_SUPPORTED, Vec::new()),
    };
    let version = (version != 0).then_some(version);
    (0, version.into_iter().chain(fields).flat_map(u32::to_le_bytes).collect())
}

fn settings(nvidia: &Nvidia) -> Answer {
    let mode: u32 = match nvidia.multi_gpu {
        MultiGpu::None => 0,
        MultiGpu::ProtectedPcie => 1,
        MultiGpu::Nvlink => 2,
        MultiGpu::Future => 7,
        MultiGpu::Unsupported => return (NOT_SUPPORTED, Vec::new()),
    };
    match state(nvidia, 0x0100_0014) {
        (0, fields) => (0, [fields.as_slice(), &mode.to_le_bytes()].concat()),
        refused => refused,
    }
}

/// `nvmlPciInfo_t` of an address like `0000:41:00.0`.
fn pci_info(address: &str) -> Vec<u8> {
    let part = |text: Option<&str>| u32::from_str_radix(text.unwrap_or_default(), 16).unwrap_or_default();
    let mut parts = address.split(['.', ':']);
    let (domain, bus, device) = (part(parts.next()), part(parts.next()), part(parts.next()));
    let mut info = padded(address.as_bytes().to_vec(), 16);
    info.extend([domain, bus, device, 0x2331_10DE, 0].map(u32::to_le_bytes).concat());
    info.extend(padded(address.as_bytes().to_vec(), 32));
    info
}

fn padded(mut bytes: Vec<u8>, length: usize) -> Vec<u8> {
    bytes.resize(length, 0);
    bytes
}

fn hex_file(path: &Path) -> Result<Vec<u8>, Error> {
    let text = fs::read_to_string(path).map_err(file("reading", path))?;
    hex::decode(text.trim()).map_err(|error| file("reading", path)(std::io::Error::other(error)))
}
