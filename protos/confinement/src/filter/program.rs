//! The filter as a program of the kernel's (Linux, Documentation/userspace-api/seccomp_filter.rst).

use libc::{c_long, c_ulong};
use rustix::net::AddressFamily;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

use super::Needs;

/// What no program of this project does, by what it would do.
const REFUSED: &[&[c_long]] = &[
    // Code in the kernel.
    &[libc::SYS_init_module, libc::SYS_finit_module, libc::SYS_delete_module],
    &[libc::SYS_kexec_load, libc::SYS_bpf, libc::SYS_perf_event_open],
    // Memory and descriptors of other processes, and faults of its own that others answer.
    &[libc::SYS_ptrace, libc::SYS_process_vm_readv, libc::SYS_process_vm_writev, libc::SYS_process_madvise],
    &[libc::SYS_pidfd_getfd, libc::SYS_kcmp, libc::SYS_userfaultfd],
    &[libc::SYS_migrate_pages, libc::SYS_move_pages],
    // Calls that no filter sees.
    &[libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register],
    // The machine as a whole.
    &[libc::SYS_reboot, libc::SYS_swapon, libc::SYS_swapoff, libc::SYS_acct, libc::SYS_syslog],
    &[libc::SYS_settimeofday, libc::SYS_clock_settime, libc::SYS_clock_adjtime, libc::SYS_adjtimex],
    &[libc::SYS_sethostname, libc::SYS_setdomainname, libc::SYS_vhangup],
    &[libc::SYS_quotactl, libc::SYS_quotactl_fd],
    // Files by number, and those that others open.
    &[libc::SYS_open_by_handle_at, libc::SYS_fanotify_init, libc::SYS_lookup_dcookie, libc::SYS_nfsservctl],
    // Other roots and name spaces.
    &[libc::SYS_chroot, libc::SYS_pivot_root, libc::SYS_unshare, libc::SYS_setns],
];

#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[c_long] =
    &[libc::SYS_kexec_file_load, libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt];
#[cfg(target_arch = "aarch64")]
const REFUSED_HERE: &[c_long] = &[KEXEC_FILE_LOAD];

/// The C library of musl has no name for it here.
#[cfg(target_arch = "aarch64")]
const KEXEC_FILE_LOAD: c_long = 294;
/// Younger than the names of the C library; the same everywhere (include/uapi/asm-generic/unistd.h).
const OPEN_TREE_ATTR: c_long = 467;

const MOUNTS: &[c_long] = &[
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    OPEN_TREE_ATTR,
];

const KEYRINGS: &[c_long] = &[libc::SYS_add_key, libc::SYS_keyctl, libc::SYS_request_key];

/// New name spaces, asked for by clone(2).
const NAME_SPACES: &[c_ulong] = &[
    0x0200_0000, // CLONE_NEWCGROUP
    0x0002_0000, // CLONE_NEWNS
    0x0400_0000, // CLONE_NEWUTS
    0x0800_0000, // CLONE_NEWIPC
    0x1000_0000, // CLONE_NEWUSER
    0x2000_0000, // CLONE_NEWPID
    0x4000_0000, // CLONE_NEWNET
];

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: (TargetArch, u32) = (TargetArch::x86_64, 0xc000_003e);
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: (TargetArch, u32) = (TargetArch::aarch64, 0xc000_00b7);

/// The program for these needs.
pub(super) fn of(needs: Needs) -> Result<BpfProgram, BackendError> {
    let Needs { mounts, keyrings, families, capabilities: _ } = needs;
    let groups = [(false, REFUSED_HERE), (mounts, MOUNTS), (keyrings, KEYRINGS)];
    let further = groups.into_iter().filter(|(needed, _)| !needed).map(|(_, calls)| calls);
    let calls = REFUSED.iter().copied().chain(further).flatten();
    let mut rules: std::collections::BTreeMap<_, _> = calls.map(|call| (*call, Vec::new())).collect();
    rules.insert(libc::SYS_socket, vec![SeccompRule::new(none_of(families)?)?]);
    rules.insert(libc::SYS_clone, NAME_SPACES.iter().map(|flag| asks_for(*flag)).collect::<Result<_, _>>()?);
    let refuse = SeccompAction::Errno(errno(libc::EPERM));
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, ARCHITECTURE.0)?;
    let list: BpfProgram = filter.try_into()?;
    Ok([foreign().to_vec(), list].concat())
}

fn none_of(families: &[AddressFamily]) -> Result<Vec<SeccompCondition>, BackendError> {
    let other = |family: &AddressFamily| {
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, family.as_raw().into())
    };
    families.iter().map(other).collect()
}

fn asks_for(flag: c_ulong) -> Result<SeccompRule, BackendError> {
    let equal = SeccompCmpOp::MaskedEq(flag);
    SeccompRule::new(vec![SeccompCondition::new(0, SeccompCmpArgLen::Qword, equal, flag)?])
}

/// What goes before the list: calls of other architectures, and those of x32, have other numbers, so there is no list for them. Flags
/// of clone3(2) lie in memory, where a filter cannot look: without it libraries take clone(2).
fn foreign() -> [sock_filter; 8] {
    // struct seccomp_data: the number of the call, then the architecture, four bytes each.
    const NUMBER: u32 = 0;
    const ARCHITECTURE_IS: u32 = 4;
    // linux/bpf_common.h: BPF_LD | BPF_W | BPF_ABS; BPF_JMP with BPF_JEQ, BPF_JGE, BPF_K; BPF_RET | BPF_K.
    let load = |k| sock_filter { code: 0x20, jt: 0, jf: 0, k };
    let skip_if_equal = |k| sock_filter { code: 0x15, jt: 1, jf: 0, k };
    let skip_unless_equal = |k| sock_filter { code: 0x15, jt: 0, jf: 1, k };
    let skip_if_less = |k| sock_filter { code: 0x35, jt: 0, jf: 1, k };
    let refuse = |code| sock_filter { code: 0x06, jt: 0, jf: 0, k: SeccompAction::Errno(errno(code)).into() };
    /// `__X32_SYSCALL_BIT`; nowhere are there so many calls.
    const X32: u32 = 0x4000_0000;
    /// The same everywhere.
    const CLONE3: u32 = 435;
    [
        load(ARCHITECTURE_IS),
        skip_if_equal(ARCHITECTURE.1),
        refuse(libc::EPERM),
        load(NUMBER),
        skip_if_less(X32),
        refuse(libc::EPERM),
        skip_unless_equal(CLONE3),
        refuse(libc::ENOSYS),
    ]
}

fn errno(code: libc::c_int) -> u32 {
    // Error numbers are small and positive.
    code.unsigned_abs()
}
