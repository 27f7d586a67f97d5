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

    /// What it is refused in detail is tested where the rules are.
    #[test]
    fn a_confined_thread_works_in_the_store_alone() {
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
                fs::write(inside.join("new"), "2").unwrap();
                for refused in
                    [fs::read(outside.join("there")).map(drop), fs::write(outside.join("new"), "2")]
                {
                    assert_eq!(refused.unwrap_err().kind(), ErrorKind::PermissionDenied);
                }
            }
        });
        confined.join().unwrap();
        assert_eq!(fs::read_to_string(outside.join("there")).unwrap(), "1");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    }
}
