//! What the filter refuses and what it leaves, asked in processes of their own: it cannot be taken back.

#![cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests fail loudly, and start programs")]

mod sys;

use std::{
    net::{TcpListener, TcpStream},
    process::Command,
    sync::mpsc,
    thread,
};

use cc_confinement::{
    Confinement,
    filter::{KERNEL_CRYPTO, Needs, OwnFilter, Seccomp, refuse_needless_calls},
};
use rustix::net::AddressFamily;
use rustix::thread::{CapabilitySet, capabilities};

/// Set where a test is to do its part, in a process of its own.
const INSIDE: &str = "FILTER_TEST_INSIDE";

/// Runs `inside` in a process of its own, which is the test `name` again.
fn alone(name: &str, inside: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.args(["--exact", name, "--nocapture"]).env(INSIDE, "").output().unwrap();
    let told = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&told));
}

fn refused(call: libc::c_long) -> bool {
    sys::call(call, -1).raw_os_error() == Some(libc::EPERM)
}

const NEEDLESS: [(&str, libc::c_long); 30] = [
    ("init_module", libc::SYS_init_module),
    ("finit_module", libc::SYS_finit_module),
    ("delete_module", libc::SYS_delete_module),
    ("kexec_load", libc::SYS_kexec_load),
    ("bpf", libc::SYS_bpf),
    ("perf_event_open", libc::SYS_perf_event_open),
    ("ptrace", libc::SYS_ptrace),
    ("process_vm_readv", libc::SYS_process_vm_readv),
    ("process_vm_writev", libc::SYS_process_vm_writev),
    ("pidfd_getfd", libc::SYS_pidfd_getfd),
    ("userfaultfd", libc::SYS_userfaultfd),
    ("io_uring_setup", libc::SYS_io_uring_setup),
    ("io_uring_enter", libc::SYS_io_uring_enter),
    ("io_uring_register", libc::SYS_io_uring_register),
    ("reboot", libc::SYS_reboot),
    ("swapon", libc::SYS_swapon),
    ("swapoff", libc::SYS_swapoff),
    ("settimeofday", libc::SYS_settimeofday),
    ("clock_settime", libc::SYS_clock_settime),
    ("adjtimex", libc::SYS_adjtimex),
    ("clock_adjtime", libc::SYS_clock_adjtime),
    ("sethostname", libc::SYS_sethostname),
    ("open_by_handle_at", libc::SYS_open_by_handle_at),
    ("fanotify_init", libc::SYS_fanotify_init),
    ("chroot", libc::SYS_chroot),
    ("pivot_root", libc::SYS_pivot_root),
    ("unshare", libc::SYS_unshare),
    ("setns", libc::SYS_setns),
    ("quotactl", libc::SYS_quotactl),
    ("syslog", libc::SYS_syslog),
];
const MOUNTS: [(&str, libc::c_long); 6] = [
    ("mount", libc::SYS_mount),
    ("umount2", libc::SYS_umount2),
    ("move_mount", libc::SYS_move_mount),
    ("open_tree", libc::SYS_open_tree),
    ("fsopen", libc::SYS_fsopen),
    ("mount_setattr", libc::SYS_mount_setattr),
];
const KEYRINGS: [(&str, libc::c_long); 3] =
    [("add_key", libc::SYS_add_key), ("keyctl", libc::SYS_keyctl), ("request_key", libc::SYS_request_key)];

#[test]
fn what_nothing_needs_is_refused_to_all_threads_and_the_rest_goes_on() {
    alone("what_nothing_needs_is_refused_to_all_threads_and_the_rest_goes_on", || {
        let (ask, asked) = mpsc::channel();
        let older = thread::spawn(move || {
            asked.recv().unwrap();
            refused(libc::SYS_bpf)
        });
        refuse_needless_calls(Seccomp::On, Needs::NETWORK);
        let told = Confinement::of_this_process().unwrap();
        assert_eq!(told.own_filter, OwnFilter::Set);
        assert!(told.no_new_privileges && told.system_call_filters > 0, "{told}");
        assert!(told.to_string().contains("own filter: set, privileges: never gained"), "{told}");
        for (name, call) in NEEDLESS.into_iter().chain(MOUNTS).chain(KEYRINGS) {
            let error = sys::call(call, -1);
            assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{name}: {error}");
        }
        ask.send(()).unwrap();
        assert!(older.join().unwrap(), "a thread that was there before has the filter too");
        // A new name space by clone(2); clone3(2) is not there, so that libraries take clone(2).
        assert_eq!(sys::call(libc::SYS_clone, 0x1000_0000).raw_os_error(), Some(libc::EPERM));
        assert_eq!(sys::call(libc::SYS_clone3, -1).raw_os_error(), Some(libc::ENOSYS));
        // x32 on x86_64; nothing elsewhere.
        assert!(refused(0x4000_0000 | libc::SYS_getpid));
        for family in [AddressFamily::NETLINK, AddressFamily::PACKET, KERNEL_CRYPTO, AddressFamily::VSOCK] {
            let error = sys::call(libc::SYS_socket, family.as_raw().into());
            assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{family:?}: {error}");
        }

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        thread::spawn(|| assert!(refused(libc::SYS_bpf))).join().unwrap();
        assert!(Command::new("/bin/true").status().unwrap().success());
        // What it starts has the filter and says so.
        let status =
            Command::new("/bin/grep").args(["-E", "^(Seccomp|NoNewPrivs):", "/proc/self/status"]).output();
        let status = String::from_utf8(status.unwrap().stdout).unwrap();
        assert_eq!(status, "NoNewPrivs:\t1\nSeccomp:\t2\n");
    });
}

#[test]
fn who_mounts_may_mount_and_nothing_else_beside() {
    alone("who_mounts_may_mount_and_nothing_else_beside", || {
        let families = &[AddressFamily::UNIX, KERNEL_CRYPTO];
        refuse_needless_calls(
            Seccomp::On,
            Needs { mounts: true, keyrings: true, families, capabilities: None },
        );
        // Arguments are wrong, which the kernel says once the filter let it look; who has no CAP_SYS_ADMIN is told so first.
        let may = Confinement::of_this_process().unwrap().capabilities & 1 << 21 != 0;
        assert!(MOUNTS.iter().any(|(_, call)| !refused(*call)) || !may);
        assert!(!refused(libc::SYS_keyctl));
        assert!(NEEDLESS.iter().all(|(_, call)| refused(*call)));
        assert!(TcpListener::bind("127.0.0.1:0").is_err(), "of networks it has none");
    });
}

#[test]
fn capabilities_beyond_the_needs_are_gone_and_stay_away() {
    alone("capabilities_beyond_the_needs_are_gone_and_stay_away", || {
        let needs = Needs { capabilities: Some(CapabilitySet::CHOWN), ..Needs::LOCAL };
        refuse_needless_calls(Seccomp::On, needs);
        let sets = capabilities(None).unwrap();
        assert!(
            CapabilitySet::CHOWN.contains(sets.permitted | sets.effective | sets.inheritable),
            "{sets:?}"
        );
        // Root that starts a program would have them all again.
        let status = Command::new("/bin/grep").args(["-E", "^Cap(Prm|Eff):", "/proc/self/status"]).output();
        let status = String::from_utf8(status.unwrap().stdout).unwrap();
        assert_eq!(status.lines().count(), 2);
        for line in status.lines() {
            let set = u64::from_str_radix(line.split_once(":\t").unwrap().1, 16).unwrap();
            assert_eq!(set & !1, 0, "{status}");
        }
    });
}

#[test]
fn it_can_be_switched_off_and_says_so() {
    alone("it_can_be_switched_off_and_says_so", || {
        refuse_needless_calls("off".parse().unwrap(), Needs::LOCAL);
        let told = Confinement::of_this_process().unwrap();
        assert!(rustix::thread::no_new_privs().unwrap() && told.own_filter == OwnFilter::Off, "{told}");
        assert!(told.to_string().contains("own filter: switched off"), "{told}");
        assert!(!refused(libc::SYS_kcmp) || told.system_call_filters > 0);
        assert!("no".parse::<Seccomp>().is_err());
    });
}
