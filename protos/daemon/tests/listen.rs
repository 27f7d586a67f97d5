//! Sockets on disk: when they appear, what they replace, what they leave behind.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use cc_daemon::address::{Address, MAX_SOCKET_PATH};
use cc_daemon::listen::{ListenError, Listener, SocketOptions};

fn bind(path: &Path) -> Result<Listener, ListenError> {
    Listener::bind(&Address::Unix(path.to_owned()), &SocketOptions::default())
}

/// Names in a folder, hidden ones included.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_socket_appears_when_it_is_published_and_goes_with_its_listener() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/b/x.sock");
    let mut listener = bind(&path).unwrap();
    assert!(!path.exists());
    listener.publish().unwrap();
    assert_eq!(names(path.parent().unwrap()), ["x.sock"]);
    UnixStream::connect(&path).unwrap();
    listener.publish().unwrap();
    assert_eq!(path.parent().unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o755);
    drop(listener);
    assert_eq!(names(path.parent().unwrap()), [""; 0]);
}

#[test]
fn nothing_stays_of_a_socket_that_was_never_published() {
    let folder = tempfile::tempdir().unwrap();
    drop(bind(&folder.path().join("x.sock")).unwrap());
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
fn mode_and_owner_are_those_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    for mode in [0o600, 0o660, 0o666] {
        let path = folder.path().join("x.sock");
        let options = SocketOptions { mode, uid: Some(uid), gid: Some(gid) };
        let mut listener = Listener::bind(&Address::Unix(path.clone()), &options).unwrap();
        listener.publish().unwrap();
        let found = path.symlink_metadata().unwrap();
        assert_eq!((found.mode() & 0o777, found.uid(), found.gid()), (mode, uid, gid));
    }
}

#[test]
fn a_socket_that_nobody_answers_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let mut listener = bind(&path).unwrap();
    listener.publish().unwrap();
    UnixStream::connect(&path).unwrap();
}

#[test]
fn a_socket_that_answers_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sock");
    let mut late = bind(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    let error = bind(&path).unwrap_err();
    assert!(error.code() == "SOCKET_ALREADY_SERVED" && error.to_string().contains("x.sock"), "{error}");
    assert_eq!(late.publish().unwrap_err().code(), "SOCKET_ALREADY_SERVED");
    drop(late);
    assert_eq!(names(folder.path()), ["x.sock"]);
    UnixStream::connect(&path).unwrap();
    drop(other);
}

#[test]
fn other_files_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sock");
    std::fs::write(&path, "precious").unwrap();
    let error = bind(&path).unwrap_err();
    assert!(error.code() == "SOCKET_PATH_OCCUPIED" && error.to_string().contains("x.sock"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("elsewhere.sock", &path).unwrap();
    assert_eq!(bind(&path).unwrap_err().code(), "SOCKET_PATH_OCCUPIED");
    assert_eq!(bind(&path.join("below")).unwrap_err().code(), "SOCKET_REFUSED");
    assert_eq!(names(folder.path()), ["x.sock"]);
}

#[test]
fn a_successors_socket_is_not_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sock");
    let mut listener = bind(&path).unwrap();
    listener.publish().unwrap();
    std::fs::remove_file(&path).unwrap();
    let successor = UnixListener::bind(&path).unwrap();
    drop(listener);
    UnixStream::connect(&path).unwrap();
    drop(successor);
}

#[test]
fn paths_that_do_not_fit_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x".repeat(120));
    let error = bind(&path).unwrap_err();
    assert_eq!(error.code(), "ADDRESS_PATH_TOO_LONG", "{error}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
fn the_longest_path_that_fits_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let name = "x".repeat(MAX_SOCKET_PATH - folder.path().as_os_str().len() - 1);
    let path = folder.path().join(name);
    let mut listener = bind(&path).unwrap();
    listener.publish().unwrap();
    UnixStream::connect(&path).unwrap();
}

#[test]
fn left_over_hidden_names_are_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let left_over = folder.path().join(format!(".{:x}.0", std::process::id()));
    drop(UnixListener::bind(&left_over).unwrap());
    let mut listener = bind(&folder.path().join("x.sock")).unwrap();
    listener.publish().unwrap();
    UnixStream::connect(folder.path().join("x.sock")).unwrap();
}

#[test]
fn tcp_is_for_the_loopback_interface() {
    let options = SocketOptions::default();
    let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap(), &options).unwrap();
    assert_ne!(listener.tcp_address().unwrap().port(), 0);
    let everywhere = Address::Tcp("0.0.0.0:0".parse().unwrap());
    assert_eq!(Listener::bind(&everywhere, &options).unwrap_err().code(), "ADDRESS_NOT_LOOPBACK");
    let taken = Address::Tcp(listener.tcp_address().unwrap());
    assert_eq!(Listener::bind(&taken, &options).unwrap_err().code(), "SOCKET_REFUSED");
}
