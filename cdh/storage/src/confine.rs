//! Landlock (Linux, Documentation/userspace-api/landlock.rst): whatever an archive makes the unpacker do, it can do it in the
//! store alone.
//!
//! It is a second wall: the first is that the unpacker works with descriptors below the layer's directory. Where the kernel
//! has no Landlock, or one that forbids hard links between directories altogether, only the first stands, and the log says
//! so.

use std::path::Path;

use cc_confinement::Landlock;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};

/// The newest rules that are asked for; the kernel gives what it has.
const NEWEST: ABI = ABI::V6;

/// Gives up everything outside `folder` for this thread and those that it starts: files, TCP, signals and abstract sockets
/// of others. How far that went.
pub(crate) fn to_folder(folder: &Path) -> Landlock {
    match restrict(folder) {
        Ok(RulesetStatus::FullyEnforced) => {
            tracing::info!("confined to the store by Landlock, fully");
            Landlock::Fully
        }
        Ok(RulesetStatus::PartiallyEnforced) => {
            tracing::info!("confined to the store by Landlock, as far as this kernel can");
            Landlock::Partly
        }
        Ok(RulesetStatus::NotEnforced) => {
            tracing::warn!("this kernel has no Landlock: the unpacker is not confined to the store");
            Landlock::None
        }
        Err(error) => {
            tracing::warn!(%error, "this kernel's Landlock cannot confine the unpacker to the store");
            Landlock::None
        }
    }
}

fn restrict(folder: &Path) -> Result<RulesetStatus, Box<dyn std::error::Error>> {
    let all = AccessFs::from_all(NEWEST);
    let needless: BitFlags<AccessFs> = AccessFs::Execute | AccessFs::IoctlDev | AccessFs::MakeSock;
    let inside = PathBeneath::new(PathFd::new(folder)?, all & !needless);
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        // Kernels before 5.19 forbid it to everybody who is confined, and layers have hard links.
        .handle_access(AccessFs::Refer)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .add_rule(inside)?
        .restrict_self()?;
    Ok(status.ruleset)
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
                if matches!(restrict(&inside), Err(_) | Ok(RulesetStatus::NotEnforced)) {
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
