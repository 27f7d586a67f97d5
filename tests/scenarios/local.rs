//! The matrix of bad input, local half: configuration files, sockets, both RPC transports, HTTP, resources that
//! run out, and clocks that are wrong.
//!
//! Each row is a test with the real programs. It checks what the caller or the operator is told, that the daemon
//! serves the next well-behaved caller, and that neither descriptors nor memory stay behind.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cc_protos::attestation_agent as aa;
use cc_tests::process::{Process, own_binary};
use cc_tests::stack::address;
use prost::Message;
use protobuf::Message as _;
use tempfile::TempDir;

pub(crate) mod clock;
mod config;
mod descriptors;
pub(crate) mod disk;
mod grpc;
mod rest;
mod socket;
mod ttrpc;
mod url;

/// More than a debug build of a daemon ever needs for bounded work, in bytes.
const MEMORY_LIMIT: u64 = 128 << 20;
/// How long a daemon may take to let go of what a bad client held: its time limits are 10 to 30 seconds.
const SETTLING: Duration = Duration::from_secs(45);

/// An agent on the sample platform, alone.
struct Agent {
    process: Process,
    socket: PathBuf,
    /// Descriptors open after its first answer.
    descriptors: usize,
    folder: TempDir,
}

impl Agent {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("aa.sock");
        let mut process =
            Process::start("attestation-agent", sample_agent(&folder, &socket), folder.path()).unwrap();
        process.wait_for_path(&socket).unwrap();
        assert_eq!(tee_type(&socket).as_deref(), Ok("sample"));
        let descriptors = descriptors(&process);
        Self { process, socket, descriptors, folder }
    }

    /// A raw connection with a time limit for reads.
    fn connect(&self) -> UnixStream {
        connect(&self.socket)
    }

    /// A good caller is served, and what bad callers held is given back.
    fn assert_sound(&self) {
        assert_eq!(tee_type(&self.socket).as_deref(), Ok("sample"), "{}", self.process.log());
        assert_settles(&self.process, self.descriptors);
    }
}

/// What a row skipped or found besides its outcome.
#[allow(clippy::print_stderr, reason = "a skipped test says so")]
fn note(text: &str) {
    eprintln!("{text}");
}

/// The command of an agent on the sample platform.
fn sample_agent(folder: &TempDir, socket: &Path) -> Command {
    let config = folder.path().join("aa.toml");
    std::fs::write(&config, "[platform]\nsample = true\n").unwrap();
    let mut command = own_binary("attestation-agent").unwrap();
    command.arg("-a").arg(address(socket)).arg("-c").arg(config);
    command
}

/// Runs a program to its end; exit code and what it wrote.
fn run(mut command: Command) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    command.env_remove("RUST_LOG");
    let mut process = Process::start("program", command, folder.path()).unwrap();
    let code = process.wait().unwrap_or_else(|e| panic!("it hangs: {e:#}"));
    (code, process.log())
}

fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(40))).unwrap();
    stream
}

/// Number of open descriptors.
fn descriptors(process: &Process) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", process.pid())).unwrap().count()
}

/// Waits until the descriptors are back at `before`, and checks memory.
fn assert_settles(process: &Process, before: usize) {
    let deadline = Instant::now() + SETTLING;
    while descriptors(process) > before {
        let now = descriptors(process);
        assert!(Instant::now() < deadline, "{now} descriptors, {before} before:\n{}", process.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    let memory = process.resident_bytes().unwrap();
    assert!(memory < MEMORY_LIMIT, "{memory} bytes");
}

/// A ttrpc frame with the header fields as given.
fn frame(length: u32, stream: u32, kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend(stream.to_be_bytes());
    bytes.extend([kind, flags]);
    bytes.extend(payload);
    bytes
}

/// A well-formed ttrpc request for the agent's `method`.
fn request(stream: u32, method: &str, payload: Vec<u8>) -> Vec<u8> {
    let mut message = ::ttrpc::proto::Request::new();
    message.service = "attestation_agent.AttestationAgentService".to_owned();
    message.method = method.to_owned();
    message.payload = payload;
    let bytes = message.write_to_bytes().unwrap();
    frame(u32::try_from(bytes.len()).unwrap(), stream, 1, 1, &bytes)
}

/// Stream, status code, status message and payload of the next response; `None` at the end of the connection.
fn response(stream: &mut UnixStream) -> Option<(u32, i32, String, Vec<u8>)> {
    let mut header = [0; 10];
    stream.read_exact(&mut header).ok()?;
    let length = u32::from_be_bytes(header[..4].try_into().unwrap());
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).ok()?;
    let message = ::ttrpc::proto::Response::parse_from_bytes(&payload).unwrap();
    let number = u32::from_be_bytes(header[4..8].try_into().unwrap());
    let status = message.status.unwrap_or_default();
    Some((number, status.code.value(), status.message.clone(), message.payload))
}

/// What a good caller gets for `GetTeeType`.
fn tee_type(socket: &Path) -> Result<String, String> {
    let mut stream = UnixStream::connect(socket).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    stream.write_all(&request(1, "GetTeeType", Vec::new())).map_err(|e| e.to_string())?;
    let (_, code, message, payload) = response(&mut stream).ok_or("no answer")?;
    match code {
        0 => Ok(aa::GetTeeTypeResponse::decode(payload.as_slice()).unwrap().tee),
        _ => Err(message),
    }
}
