//! System calls around the filter: installing it, taking calls from it, answering them.
//!
//! `seccomp(2)` and `seccomp_unotify(2)`; the filter is classic BPF over `struct seccomp_data`.
#![allow(unsafe_code, reason = "no library of ours has these calls")]

use std::io;

use libc::{
    BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, seccomp_notif, seccomp_notif_resp, sock_filter,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, FromRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

/// Architecture of this program's system calls, `linux/audit.h`.
const ARCHITECTURE: u32 = if cfg!(target_arch = "aarch64") { 0xC000_00B7 } else { 0xC000_003E };

/// Where number, architecture and the low half of the second argument are in `struct seccomp_data`, little endian.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const REQUEST: u32 = 24;

const RECEIVE: Opcode = opcode::read_write::<seccomp_notif>(b'!', 0);
const SEND: Opcode = opcode::read_write::<seccomp_notif_resp>(b'!', 1);

/// An `ioctl` that waits for its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    /// Names the call in the answer.
    pub(super) id: u64,
    /// The thread that made it.
    pub(super) pid: u32,
    /// The request's number.
    pub(super) request: u32,
    /// The request's argument.
    pub(super) argument: u64,
}

/// Filters the calling thread, and what comes of it: `ioctl`s with one of `requests` wait for whoever has the descriptor
/// that is returned.
pub(super) fn install_filter(requests: &[u32]) -> io::Result<OwnedFd> {
    rustix::thread::set_no_new_privs(true)?;
    let mut program = program(requests);
    let length = u16::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    let program = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    // SAFETY: `program` points to as many instructions as it says; the kernel copies them during the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    };
    match i32::try_from(result) {
        // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
        Ok(descriptor) if descriptor >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether the kernel knows filters that hand calls to another program.
pub(super) fn has_notifications() -> bool {
    let action: u32 = libc::SECCOMP_RET_USER_NOTIF;
    // SAFETY: the kernel reads one number at the address, which lives until the call returns.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_GET_ACTION_AVAIL,
            0 as libc::c_ulong,
            &raw const action,
        )
    };
    result == 0
}

/// The next call; none once every program behind the filter is gone.
pub(super) fn next_call(listener: &OwnedFd) -> io::Result<Option<Call>> {
    loop {
        let mut set = [PollFd::new(listener, PollFlags::IN)];
        match poll(&mut set, None) {
            Err(Errno::INTR) => continue,
            other => other?,
        };
        let [ready] = set;
        if !ready.revents().contains(PollFlags::IN) {
            return Ok(None);
        }
        // SAFETY: the structure is numbers only, for which zero is valid.
        let mut call: seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the number is the kernel's for this structure, which is zeroed as it must be.
        match unsafe { ioctl(listener.as_fd(), Updater::<RECEIVE, _>::new(&mut call)) } {
            Ok(()) => {
                let [_, request, argument, ..] = call.data.args;
                let [a, b, c, d, ..] = request.to_le_bytes();
                return Ok(Some(Call {
                    id: call.id,
                    pid: call.pid,
                    request: u32::from_le_bytes([a, b, c, d]),
                    argument,
                }));
            }
            // The caller went away in between.
            Err(Errno::NOENT | Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Answers a call: with success, or with an error.
pub(super) fn respond(listener: &OwnedFd, id: u64, error: Option<Errno>) -> io::Result<()> {
    let error = error.map_or(0, |error| -error.raw_os_error());
    let mut answer = seccomp_notif_resp { id, val: 0, error, flags: 0 };
    // SAFETY: the number is the kernel's for this structure.
    Ok(unsafe { ioctl(listener.as_fd(), Updater::<SEND, _>::new(&mut answer)) }?)
}

/// The filter: everything passes but the `ioctl`s that are asked for.
fn program(requests: &[u32]) -> Vec<sock_filter> {
    let load = |offset| instruction(BPF_LD | BPF_W | BPF_ABS, offset, 0, 0);
    let give = |value| instruction(BPF_RET | BPF_K, value, 0, 0);
    let same = |value, then, other| instruction(BPF_JMP | BPF_JEQ | BPF_K, value, then, other);
    let ioctl = u32::try_from(libc::SYS_ioctl).unwrap_or_default();
    let count = u8::try_from(requests.len()).unwrap_or_default();
    let mut program = vec![
        load(ARCH),
        // To the pass at the end of the comparisons.
        same(ARCHITECTURE, 0, count + 3),
        load(NUMBER),
        same(ioctl, 0, count + 1),
        load(REQUEST),
    ];
    // To the notification behind the pass.
    program.extend(requests.iter().zip((1..=count).rev()).map(|(request, left)| same(*request, left, 0)));
    program.extend([give(libc::SECCOMP_RET_ALLOW), give(libc::SECCOMP_RET_USER_NOTIF)]);
    program
}

fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: u16::try_from(code).unwrap_or_default(), jt, jf, k }
}
