//! Where a caller runs: the systemd unit and the container that its control group names.
//!
//! The kernel tells who connected (`SO_PEERCRED`) and keeps a descriptor of that process (`SO_PEERPIDFD`); its control group
//! is read from `/proc/<pid>/cgroup` while the descriptor shows that the process still is the same. Names follow systemd's
//! rules for control groups (systemd.io, "Control Group APIs and Delegation") and the scopes of Podman, CRI-O, containerd
//! and Docker.
//!
//! What it proves: that the process was in that group when it connected. A group's name is the word of whoever made it, and
//! that is not always root: systemd hands the groups below a user's manager (`user@<uid>.service`) to that user, and those
//! below a unit with `Delegate=` to that unit, who name them as they like. So the unit is the first one on the path, a
//! container is the outermost one, and below a user's manager there is none. What remains: a delegated unit that is no
//! container itself can give its own processes a container's name.
//!
//! A container runtime may take the path from somebody else (OCI runtime specification, `linux.cgroupsPath`), for kata-agent that is the
//! host. So a unit lies in a slice, where systemd puts all of them, and a process with a PID namespace of its own that is in no container
//! known by its name is nowhere: neither a unit nor outside of all containers. That is so for services with `PrivatePIDs=`, too.
//!
//! It proves nothing across the namespaces: a process of another PID namespace has no number here, and one outside of our
//! control-group namespace has no readable path.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::sys;

/// Longest control-group file read, in bytes.
const MAX_LEN: u64 = 16 * 1024;
/// Hexadecimal digits in a container's identifier.
const CONTAINER_ID_LEN: usize = 64;

/// The unit and container of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The system unit, for instance `db.service`.
    pub unit: Option<String>,
    /// The outermost container's identifier, 64 lower-case hexadecimal digits. None below a user's manager.
    pub container: Option<String>,
}

impl Place {
    /// The place of the process `pid` at the other end of `socket`; none if it cannot be told for certain.
    pub(super) fn of_peer(socket: impl AsFd, pid: u32) -> Option<Self> {
        let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
        let process = known_process(sys::peer_process(socket), pid)?;
        let file = |name: &str| read(&format!("/proc/{}/{name}", pid.as_raw_nonzero())).ok();
        let (place, status) = (Self::parse(&file("cgroup")?), file("status")?);
        let certain = place.container.is_some() || !is_nested(&status);
        (lives(&process) && certain).then_some(place)
    }

    /// The place of this process.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn of_this_process() -> std::io::Result<Self> {
        read("/proc/self/cgroup").map(|text| Self::parse(&text))
    }

    /// Reads the text of a `/proc/<pid>/cgroup` file (cgroups(7)): the line of the unified hierarchy.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let Some(path) = text.lines().find_map(|line| line.strip_prefix("0::")) else {
            return Self::default();
        };
        let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
        // Above our own control-group namespace what a path says is not ours to read; names that systemd would not give are
        // nobody's.
        let plain = path.bytes().all(|byte| byte.is_ascii_graphic());
        if !plain || names.contains(&"..") {
            return Self::default();
        }
        let unit = names
            .iter()
            .map(|name| name.strip_prefix('_').unwrap_or(name))
            .enumerate()
            .find(|(_, name)| !name.ends_with(".slice"));
        let unit = unit.filter(|(depth, name)| {
            let kinds = [".service", ".scope", ".socket", ".mount"];
            (*depth > 0 || *name == "init.scope") && kinds.iter().any(|kind| name.ends_with(kind))
        });
        let unit = unit.map(|(_, name)| name);
        Self {
            unit: unit.map(str::to_owned),
            container: names
                .iter()
                .take_while(|name| !is_user_manager(name))
                .find_map(|name| container(name))
                .map(str::to_owned),
        }
    }
}

/// The peer's process as the kernel `told` it. Kernels that do not know the question know only the number `pid`: opening it
/// now and checking that it lives on keeps the window small. After any other failure the number may be somebody else's.
fn known_process(told: std::io::Result<OwnedFd>, pid: Pid) -> Option<OwnedFd> {
    match told {
        Ok(process) => Some(process),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOPROTOOPT) => {
            pidfd_open(pid, PidfdFlags::empty()).ok()
        }
        Err(_) => None,
    }
}

/// Whether a process has more numbers than the one that it has here, by its `/proc/<pid>/status` (proc_pid_status(5), `NSpid`): it lives in
/// a PID namespace below this one.
fn is_nested(status: &str) -> bool {
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.is_some_and(|numbers| numbers.split_ascii_whitespace().count() > 1)
}

/// Whether the names below `name` are an unprivileged user's own.
fn is_user_manager(name: &str) -> bool {
    let name = name.strip_prefix('_').unwrap_or(name);
    name.starts_with("user@") && name.ends_with(".service")
}

/// The container in a name such as `libpod-<id>.scope`, `cri-containerd-<id>.scope`, `libpod-payload-<id>` or `<id>`.
fn container(name: &str) -> Option<&str> {
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let id = name.rsplit(['-', ':']).next()?;
    let digits = id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (id.len() == CONTAINER_ID_LEN && digits).then_some(id)
}

fn read(path: &str) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_LEN).read_to_string(&mut text)?;
    Ok(text)
}

/// Whether the process has not ended: its descriptor becomes readable when it does.
fn lives(process: &OwnedFd) -> bool {
    let mut descriptors = [PollFd::new(process, PollFlags::IN)];
    matches!(poll(&mut descriptors, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn units_and_containers_are_read_from_the_unified_line() {
        for (path, unit, container) in [
            ("/system.slice/db.service", Some("db.service"), None),
            ("/system.slice/db.service/child", Some("db.service"), None),
            ("/system.slice/system-app.slice/app@1.service", Some("app@1.service"), None),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/x.service",
                Some("user@1000.service"),
                None,
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/docker-ID.scope",
                Some("user@1000.service"),
                None,
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container",
                Some("user@1000.service"),
                None,
            ),
            ("/machine.slice/libpod-ID.scope/docker-FAKE.scope", Some("libpod-ID.scope"), Some(ID)),
            (
                "/machine.slice/libpod-ID.scope/user.slice/user-0.slice/user@0.service/docker-FAKE.scope",
                Some("libpod-ID.scope"),
                Some(ID),
            ),
            ("/machine.slice/libpod-ID.scope", Some("libpod-ID.scope"), Some(ID)),
            ("/machine.slice/libpod-ID.scope/container", Some("libpod-ID.scope"), Some(ID)),
            ("/system.slice/app.service/libpod-payload-ID", Some("app.service"), Some(ID)),
            (
                "/kubepods.slice/kubepods-pod1.slice/cri-containerd-ID.scope",
                Some("cri-containerd-ID.scope"),
                Some(ID),
            ),
            ("/kubepods-besteffort-podabc.slice:cri-containerd:ID", None, Some(ID)),
            ("/docker/ID", None, Some(ID)),
            ("/system.slice/_db.service", Some("db.service"), None),
            ("/", None, None),
            ("/../system.slice/db.service", None, None),
            ("/system.slice/db.service (deleted)", None, None),
            ("/init.scope", Some("init.scope"), None),
            ("/systemd-cryptsetup@data.service", None, None),
            ("/kata/systemd-cryptsetup@data.service", None, None),
            ("/a.slice/libpod-0123.scope", Some("libpod-0123.scope"), None),
        ] {
            let text = format!(
                "1:cpu:/other.service\n0::{}\n",
                path.replace("ID", ID).replace("FAKE", &"f".repeat(64))
            );
            let expected = Place {
                unit: unit.map(|unit| unit.replace("ID", ID)),
                container: container.map(str::to_owned),
            };
            assert_eq!(Place::parse(&text), expected, "{path}");
        }
        assert_eq!(
            Place::parse("1:name=systemd:/system.slice/db.service\n"),
            Place::default(),
            "only the unified line"
        );
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a process that ends")]
    fn a_peer_is_in_our_own_place_and_a_dead_one_in_none() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let place = Place::of_peer(&ours, std::process::id()).unwrap();
        assert_eq!(place, Place::of_this_process().unwrap());
        let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
        let process =
            pidfd_open(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), PidfdFlags::empty());
        child.wait().unwrap();
        assert!(!lives(&process.unwrap()));
    }

    #[test]
    fn a_process_with_a_namespace_of_numbers_is_told_by_its_status() {
        assert!(is_nested("Name:\tsh\nNSpid:\t4711\t1\nNSpgid:\t4711\t1\n"));
        assert!(!is_nested("Name:\tsh\nNSpid:\t4711\nNSpgid:\t1\t1\n") && !is_nested(""));
    }

    #[test]
    fn only_a_kernel_without_the_question_makes_the_number_count() {
        let pid = rustix::process::getpid();
        let told = |errno: Errno| known_process(Err(errno.into()), pid).is_some();
        assert!(told(Errno::NOPROTOOPT));
        for errno in [Errno::SRCH, Errno::INVAL, Errno::NODATA, Errno::MFILE, Errno::PERM] {
            assert!(!told(errno), "{errno:?}");
        }
    }

    /// The other program of the test below: this one again, which connects and ends.
    const PEER_CONNECTS_TO: &str = "PLACE_TEST_PEER_CONNECTS_TO";

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a process that ends")]
    fn a_peer_that_ended_before_it_was_accepted_is_nowhere() {
        if let Some(path) = std::env::var_os(PEER_CONNECTS_TO) {
            UnixStream::connect(path).unwrap();
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let name = "peer::place::tests::a_peer_that_ended_before_it_was_accepted_is_nowhere";
        let mut peer = std::process::Command::new(std::env::current_exe().unwrap());
        let mut peer = peer.args(["--exact", name]).env(PEER_CONNECTS_TO, &path).spawn().unwrap();
        assert!(peer.wait().unwrap().success());
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(Place::of_peer(&accepted, peer.id()), None);
        if sys::peer_process(&accepted).is_err_and(|e| Errno::from_io_error(&e) == Some(Errno::NOPROTOOPT)) {
            return; // All that such a kernel can tell.
        }
        // Its number went to another process, here this one.
        assert_eq!(Place::of_peer(&accepted, std::process::id()), None);
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<String>()) {
            let _ = Place::parse(&text);
            let _ = Place::parse(&format!("0::/{text}"));
        }
    }
}
