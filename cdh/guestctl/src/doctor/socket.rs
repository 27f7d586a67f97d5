//! Who can open a daemon's Unix socket: owner and mode of the file.
//!
//! Only the file itself is judged; the folders above it may narrow access further, never widen it.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use cc_daemon::address::Address;

use super::Finding;

/// The widest mode that is expected: the owner, and one group for the REST server.
const EXPECTED: u32 = 0o660;

/// Checks the socket of a daemon. TCP addresses have no owner; a missing socket is reported by the call that fails.
pub(super) fn check(what: &str, address: &Address) -> Option<Finding> {
    match address {
        Address::Unix(path) => judge(what, path),
        Address::Tcp(address) => Some(Finding::warn(
            what,
            format!("{address} is open to every process of this machine"),
            "use the Unix socket where the caller's identity should count",
        )),
    }
}

fn judge(what: &str, path: &Path) -> Option<Finding> {
    let metadata = fs::metadata(path).ok()?;
    let shown = path.display();
    if !metadata.file_type().is_socket() {
        return Some(Finding::fail(
            what,
            format!("{shown} is not a socket"),
            "remove it and restart the daemon",
        ));
    }
    let mode = metadata.mode() & 0o777;
    let owner = metadata.uid();
    let found = format!("{shown}, mode {mode:04o}, owner {owner}, group {}", metadata.gid());
    if mode & !EXPECTED & 0o666 != 0 {
        let next = format!("narrow it to 0600, or to 0660 with a group: chmod {EXPECTED:04o} {shown}");
        return Some(Finding::warn(what, format!("{found}: wider than expected"), next));
    }
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return Some(Finding::warn(
            what,
            format!("{found}: neither root nor you own it"),
            "make sure that the daemon is meant to run as this user",
        ));
    }
    Some(Finding::ok(what, found))
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::PermissionsExt, net::UnixListener};

    use super::*;
    use crate::table::Mark;

    #[test]
    fn modes_wider_than_expected_are_warned_about() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let _listener = UnixListener::bind(&path).unwrap();
        for (mode, mark) in [
            (0o600, Mark::Ok),
            (0o660, Mark::Ok),
            (0o770, Mark::Ok),
            (0o666, Mark::Warn),
            (0o604, Mark::Warn),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let finding = judge("socket", &path).unwrap();
            assert_eq!(finding.mark, mark, "{mode:o} {finding:?}");
            assert!(finding.detail.contains(&format!("mode {mode:04o}")));
        }
    }

    #[test]
    fn a_file_in_the_socket_s_place_fails_and_nothing_is_no_finding() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        assert!(judge("socket", &path).is_none());
        fs::write(&path, "").unwrap();
        assert_eq!(judge("socket", &path).unwrap().mark, Mark::Fail);
    }
}
