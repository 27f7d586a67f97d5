//! A stand-in for the service manager at the socket that `LoadCredential=` names (systemd.exec(5), "Credentials"), for
//! machines without systemd.
//!
//! It does what systemd does: from inside of the unit's control group it binds the name of unit and credential, connects,
//! closes its sending side, and reads to the end. The group is made for one question and removed again.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Output;

use anyhow::Context;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};

use crate::process::command;

/// Most bytes of a credential: systemd takes no longer answer.
pub const MAX_LEN: u64 = 1 << 20;

/// Makes a control group `$2` in a slice below the folder `$1` (its own view of the groups), and runs the rest in it.
const IN_GROUP: &str = r#"
set -e
mount -t cgroup2 none "$1"
slice=$1/stand-in.slice
mkdir -p "$slice"
mkdir "$slice/$2"
status=0
sh -c 'echo $$ >"$1/stand-in.slice/$2/cgroup.procs"; shift 2; exec "$@"' sh "$@" || status=$?
rmdir "$slice/$2"
# Another one may be in it.
rmdir "$slice" 2>/dev/null || true
exit $status
"#;

/// Asks for `credential` of `unit` as a process that is wherever this one is. What comes back is longer than [`MAX_LEN`]
/// bytes if the hub refuses.
///
/// # Errors
/// Nobody listens, or the answer does not end in order.
pub fn ask(socket: &Path, unit: &str, credential: &str) -> anyhow::Result<Vec<u8>> {
    let peer = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    let name = format!("{:x}/unit/{unit}/{credential}", std::process::id());
    rustix::net::bind(&peer, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
    rustix::net::connect(&peer, &SocketAddrUnix::new(socket)?)
        .with_context(|| format!("connecting to {}", socket.display()))?;
    let peer = UnixStream::from(peer);
    peer.shutdown(std::net::Shutdown::Write)?;
    let mut answer = Vec::new();
    peer.take(MAX_LEN + 1).read_to_end(&mut answer)?;
    Ok(answer)
}

/// Runs `program` with `arguments` in a control group that is called `unit`, with `folder` to mount the groups on. Needs
/// root.
///
/// # Errors
/// It cannot be started.
pub fn run_in_unit(folder: &Path, unit: &str, program: &Path, arguments: &[&str]) -> anyhow::Result<Output> {
    let mut unshare = command("unshare");
    unshare.args(["--mount", "--propagation", "private", "sh", "-c", IN_GROUP, "sh"]);
    unshare.arg(folder).arg(unit).arg(program).args(arguments);
    unshare.output().context("running a program in a control group of its own")
}
