//! Who the container's program runs as, by the files of the image's own root directory.

use std::{
    fs::File,
    io::Read,
    os::fd::{AsRawFd, BorrowedFd},
};

use image_rs::{MAX_USER_FILE, User, with_user};
use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use crate::Failure;

/// The text of `config.json` at `path` with the user that the image names as `user`, looked up below `root`. One that names nobody leaves
/// it as it is.
pub(super) fn set(config: Vec<u8>, user: &str, root: BorrowedFd<'_>, path: &str) -> Result<Vec<u8>, Failure> {
    if user.is_empty() {
        return Ok(config);
    }
    let read = |name: &str| {
        read(root, name).map_err(Failure::storage(format!("read {name} of the image for {path}")))
    };
    let user = User::find(user, &read("etc/passwd")?, &read("etc/group")?)?;
    with_user(&config, &user).ok_or_else(|| Failure::Request { why: "config.json has no process".to_owned() })
}

/// The file `name` below `root`, where links lead nowhere else; empty if it is not there, or no regular file.
fn read(root: BorrowedFd<'_>, name: &str) -> Result<Vec<u8>, std::io::Error> {
    let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    // Looked at before it is opened: opening a device can do something.
    let found = rustix::fs::openat2(root, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), within);
    let found = match found {
        Ok(found) => found,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    if FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) != FileType::RegularFile {
        return Ok(Vec::new());
    }
    let file = File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))?;
    let mut text = Vec::new();
    file.take(MAX_USER_FILE).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::fd::AsFd, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn files_are_those_of_the_image_whatever_links_say() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(folder.path().join("passwd"), "app:x:1:1::/:").unwrap();
        let opened = File::open(&root).unwrap();
        let passwd = || read(opened.as_fd(), "etc/passwd").unwrap();
        assert_eq!(passwd(), b"");
        symlink("../../passwd", root.join("etc/passwd")).unwrap();
        assert_eq!(passwd(), b"", "a link leads out of the image");
        fs::write(root.join("inside"), "app:x:2:2::/:").unwrap();
        fs::remove_file(root.join("etc/passwd")).unwrap();
        symlink("/inside", root.join("etc/passwd")).unwrap();
        assert_eq!(passwd(), b"app:x:2:2::/:", "a link within the image");
        fs::remove_file(root.join("etc/passwd")).unwrap();
        fs::create_dir(root.join("etc/passwd")).unwrap();
        assert_eq!(passwd(), b"");

        let config = br#"{"process": {"user": {"uid": 0, "gid": 0}}}"#.to_vec();
        let set = |config: &[u8], user| set(config.to_vec(), user, opened.as_fd(), "config.json");
        assert_eq!(set(&config, "").unwrap(), config);
        let text = String::from_utf8(set(&config, "7:8").unwrap()).unwrap();
        assert!(text.contains("\"uid\":7") && text.contains("\"gid\":8"), "{text}");
        assert_eq!(set(&config, "app").unwrap_err().code(), "IMAGE_USER_UNKNOWN");
    }
}
