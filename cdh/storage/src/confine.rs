//! The unpacker can touch the store alone, whatever an archive makes it do ([`Within`]); the log says how far that went.

use std::{fs::File, os::fd::AsFd, path::Path};

use cc_confinement::{Landlock, Within};

/// Gives up everything outside `folder` for this thread and those that it starts: files, TCP, signals and abstract sockets
/// of others. How far that went.
pub(crate) fn to_folder(folder: &Path) -> Landlock {
    match restrict(folder) {
        Ok(Landlock::Fully) => {
            tracing::info!("confined to the store by Landlock, fully");
            Landlock::Fully
        }
        Ok(Landlock::Partly) => {
            tracing::info!("confined to the store by Landlock, as far as this kernel can");
            Landlock::Partly
        }
        Ok(Landlock::None) => {
            tracing::warn!("this kernel has no Landlock: the unpacker is not confined to the store");
            Landlock::None
        }
        Err(error) => {
            tracing::warn!(%error, "this kernel's Landlock cannot confine the unpacker to the store");
            Landlock::None
        }
    }
}

fn restrict(folder: &Path) -> Result<Landlock, Box<dyn std::error::Error + Send + Sync>> {
    let folder = File::open(folder)?;
    Within { folder: folder.as_fd(), readable: &[], connects: false }.confine()
}

#[cfg(test)]
mod tests {
    use std::{fs, io::ErrorKind, thread};

    use super::*;

    #[test]
    fn a_confined_thread_works_in_its_folder_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (inside, outside) = (folder.path().join("store"), folder.path().join("outside"));
        for folder in [&inside, &outside] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("there"), "1").unwrap();
        }
        // On a thread of its own: it cannot be taken back.
        let confined = thread::spawn({
            let (inside, outside) = (inside.clone(), outside.clone());
            move || {
                if matches!(restrict(&inside), Err(_) | Ok(Landlock::None)) {
                    cc_vectors::skip("this kernel's Landlock cannot confine");
                    return;
                }
                assert_eq!(fs::read_to_string(inside.join("there")).unwrap(), "1");
                fs::create_dir_all(inside.join("a/b")).unwrap();
                fs::hard_link(inside.join("there"), inside.join("a/b/linked")).unwrap();
                let denied = |result: std::io::Result<()>, what: &str| {
                    let error = result.expect_err(what);
                    assert!(
                        matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::CrossesDevices),
                        "{what}: {error}"
                    );
                };
                denied(fs::read(outside.join("there")).map(drop), "read");
                denied(fs::write(outside.join("there"), "2"), "write");
                denied(fs::write(outside.join("new"), "2"), "make");
                denied(fs::create_dir(outside.join("folder")), "make a folder");
                denied(fs::remove_file(outside.join("there")), "remove");
                denied(fs::rename(inside.join("there"), outside.join("moved")), "move out");
                denied(fs::read_dir(&outside).map(drop), "list");
            }
        });
        confined.join().unwrap();
        assert_eq!(fs::read_to_string(outside.join("there")).unwrap(), "1");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    }
}
