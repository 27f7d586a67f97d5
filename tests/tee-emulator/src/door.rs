//! Drivers' devices for programs of this machine: `/dev/sev-guest` and `/dev/tdx_guest` without the drivers.
//!
//! A program that [`enter`]s gets a system call filter (seccomp) that hands the drivers' `ioctl`s, and nothing else, to the
//! emulator, which answers them in the program's memory. The program itself is the one that is shipped: it opens a
//! character device of that name below its root, which is a null device here, and asks it.
//!
//! It is NOT an isolation of any kind, and only kernels with `SECCOMP_RET_USER_NOTIF` (Linux 5.5) have it.

use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use crate::device::Device;
use crate::machine::Tee;
use crate::tdx::qgs;

mod memory;
mod sev_guest;
mod sys;
mod tdx_guest;

use memory::Memory;

/// Where programs knock, below the root.
const SOCKET: &str = "run/tee-emulator/door.socket";
/// Where the quote generation service is, below the root.
const QUOTE_SERVICE: &str = "run/tdx-qgs/qgs.socket";

/// Makes the device of `device`'s driver below `root`, and serves it, on threads of its own until the program ends.
pub(crate) fn open(root: &Path, device: &Arc<Device>) -> io::Result<()> {
    let node = match device.tee() {
        Tee::Snp => "dev/sev-guest",
        Tee::Tdx => "dev/tdx_guest",
        Tee::Cca => return Err(io::Error::other("the driver for CCA has no device")),
    };
    make_node(&place(root, node)?)?;
    if device.tee() == Tee::Tdx {
        qgs::serve(&place(root, QUOTE_SERVICE)?, Arc::clone(device))?;
    }
    let listener = UnixListener::bind(place(root, SOCKET)?)?;
    let device = Arc::clone(device);
    thread::Builder::new().name("door".to_owned()).spawn(move || {
        for stream in listener.incoming() {
            if let Err(error) = stream.and_then(|stream| admit(&stream, &device)) {
                tracing::warn!(%error, "a program could not enter");
            }
        }
    })?;
    Ok(())
}

/// Lets the calling thread, the threads that it starts from now on and the programs that it becomes reach the devices of
/// the emulator below `root`. There is no way back.
///
/// # Errors
/// There is no emulator, or the kernel has no such filters.
pub fn enter(root: &Path) -> io::Result<()> {
    let stream = UnixStream::connect(root.join(SOCKET))?;
    let listener = sys::install_filter(&[sev_guest::REPORT, sev_guest::EXTENDED_REPORT, tdx_guest::REPORT])?;
    let descriptors = [listener.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(&stream, &[IoSlice::new(&[0])], &mut control, SendFlags::empty())?;
    Ok(())
}

/// Whether this kernel has what [`enter`] needs.
pub fn is_possible() -> bool {
    sys::has_notifications()
}

/// Takes the descriptor that a program brings and serves its calls.
fn admit(stream: &UnixStream, device: &Arc<Device>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let listener = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let listener = listener.ok_or_else(|| io::Error::other("it brought no descriptor"))?;
    let device = Arc::clone(device);
    thread::Builder::new().name("driver".to_owned()).spawn(move || {
        if let Err(error) = serve(&listener, &device) {
            tracing::warn!(%error, "a program's calls are not answered any more");
        }
    })?;
    Ok(())
}

/// Answers calls until the program is gone: one at a time, as the drivers do.
fn serve(listener: &OwnedFd, device: &Device) -> io::Result<()> {
    while let Some(call) = sys::next_call(listener)? {
        let answer = answer(&call, device);
        match sys::respond(listener, call.id, answer.err()) {
            // The caller has died, or a signal took it away.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => {}
            other => other?,
        }
    }
    Ok(())
}

fn answer(call: &sys::Call, device: &Device) -> Result<(), Errno> {
    let memory = Memory::of(call.pid)?;
    match call.request {
        sev_guest::REPORT | sev_guest::EXTENDED_REPORT => {
            sev_guest::answer(device, &memory, call.request, call.argument)
        }
        tdx_guest::REPORT => tdx_guest::answer(device, &memory, call.argument),
        _ => Err(Errno::NOTTY),
    }
}

/// The path of `below`, with its folder made.
fn place(root: &Path, below: &str) -> io::Result<PathBuf> {
    let path = root.join(below);
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    Ok(path)
}

/// A null device: what is not answered here gets its answer.
fn make_node(path: &Path) -> io::Result<()> {
    let mode = Mode::RUSR | Mode::WUSR;
    Ok(mknodat(CWD, path, FileType::CharacterDevice, mode, makedev(1, 3))?)
}
