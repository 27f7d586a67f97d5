//! A program behind a Unix socket that only claims to be a TPM.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use tempfile::TempDir;

/// TPM_RC_RETRY: the first use of an algorithm starts its self-test.
const RETRY: u32 = 0x922;

/// What the liar does with one command.
pub(crate) enum Reply {
    /// Sends these bytes, whatever they are.
    Bytes(Vec<u8>),
    /// Sends these bytes and goes away.
    Last(Vec<u8>),
    /// Never answers.
    Silence,
    /// Goes away.
    Close,
}

/// Where it listens.
pub(crate) struct Liar {
    folder: TempDir,
}

impl Liar {
    /// Answers every command by `reply`, which gets the command and how many came before it.
    pub(crate) fn new(mut reply: impl FnMut(&[u8], usize) -> Reply + Send + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("tpm")).unwrap();
        // Ends with the test's process; the socket goes with the folder.
        std::thread::spawn(move || {
            let mut count = 0;
            let mut kept = Vec::new();
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                while let Some(command) = read_command(&mut stream) {
                    match reply(&command, count) {
                        Reply::Bytes(bytes) => drop(stream.write_all(&bytes)),
                        Reply::Last(bytes) => {
                            drop(stream.write_all(&bytes));
                            break;
                        }
                        Reply::Silence => {
                            kept.push(stream.try_clone());
                        }
                        Reply::Close => break,
                    }
                    count += 1;
                }
            }
        });
        Self { folder }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("tpm")
    }
}

/// Hands every command to the real TPM at `socket`, and its response to `change`, if the TPM does not ask for patience.
pub(crate) fn between(
    socket: PathBuf,
    mut change: impl FnMut(&[u8], Vec<u8>) -> Vec<u8> + Send + 'static,
) -> Liar {
    Liar::new(move |command, _| {
        let mut tpm = UnixStream::connect(&socket).unwrap();
        tpm.write_all(command).unwrap();
        let response = read_command(&mut tpm).unwrap();
        // The TPM serves one client at a time, and `change` may be the next.
        drop(tpm);
        Reply::Bytes(if code_of(&response) == RETRY { response } else { change(command, response) })
    })
}

/// A response with this tag and code, and with this after the header.
pub(crate) fn response(tag: u16, code: u32, body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(10 + body.len()).unwrap();
    [tag.to_be_bytes().as_slice(), &size.to_be_bytes(), &code.to_be_bytes(), body].concat()
}

/// The command code of a command, the response code of a response.
pub(crate) fn code_of(command: &[u8]) -> u32 {
    u32::from_be_bytes(command[6..10].try_into().unwrap())
}

/// One whole frame; none when the peer is gone.
fn read_command(stream: &mut UnixStream) -> Option<Vec<u8>> {
    let mut header = [0; 10];
    stream.read_exact(&mut header).ok()?;
    let size = u32::from_be_bytes(header[2..6].try_into().unwrap());
    let mut rest = vec![0; usize::try_from(size).unwrap() - header.len()];
    stream.read_exact(&mut rest).ok()?;
    Some([header.as_slice(), &rest].concat())
}
