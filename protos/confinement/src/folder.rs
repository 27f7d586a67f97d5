//! Landlock (Linux, Documentation/userspace-api/landlock.rst): whatever an archive makes an unpacker do, it can do it in one
//! folder alone.
//!
//! It is a second wall: the first is that unpackers work with descriptors below their folder. Where the kernel has no Landlock,
//! or one that forbids hard links between directories altogether, only the first stands, and the caller says so.

use std::os::fd::BorrowedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use crate::Landlock;

/// The newest rules that are asked for; the kernel gives what it has.
const NEWEST: ABI = ABI::V6;

/// What is left to a thread.
#[derive(Clone, Copy, Debug)]
pub struct Within<'a> {
    /// Where it makes, changes and removes what it likes, but starts no programs and makes no sockets.
    pub folder: BorrowedFd<'a>,
    /// What it may read besides, with all that is below.
    pub readable: &'a [BorrowedFd<'a>],
    /// Whether it may connect by TCP; it never listens.
    pub connects: bool,
}

impl Within<'_> {
    /// Gives up everything else for this thread and those that it starts: files, TCP, signals and abstract sockets of others.
    /// What is open stays open. It cannot be taken back. Gives how far this kernel went along.
    ///
    /// # Errors
    /// This kernel's Landlock cannot do it; nothing was given up.
    pub fn confine(&self) -> Result<Landlock, Box<dyn std::error::Error + Send + Sync>> {
        Ok(match self.restrict()? {
            RulesetStatus::FullyEnforced => Landlock::Fully,
            RulesetStatus::PartiallyEnforced => Landlock::Partly,
            RulesetStatus::NotEnforced => Landlock::None,
        })
    }

    fn restrict(&self) -> Result<RulesetStatus, RulesetError> {
        let all = AccessFs::from_all(NEWEST);
        let needless: BitFlags<AccessFs> = AccessFs::Execute | AccessFs::IoctlDev | AccessFs::MakeSock;
        let net = match self.connects {
            true => AccessNet::BindTcp.into(),
            false => AccessNet::from_all(NEWEST),
        };
        let mut ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            // Kernels before 5.19 forbid it to everybody who is confined, and layers have hard links.
            .handle_access(AccessFs::Refer)?
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(all)?
            .handle_access(net)?
            .scope(Scope::from_all(NEWEST))?
            .create()?
            .add_rule(PathBeneath::new(self.folder, all & !needless))?;
        for readable in self.readable {
            ruleset = ruleset.add_rule(PathBeneath::new(readable, AccessFs::ReadFile | AccessFs::ReadDir))?;
        }
        Ok(ruleset.restrict_self()?.ruleset)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail loudly")]
mod tests {
    use std::{
        fs::{self, File},
        io::ErrorKind,
        net::{TcpListener, TcpStream},
        os::fd::AsFd,
        thread,
    };

    use super::*;

    #[test]
    fn a_confined_thread_works_in_its_folder_and_reads_what_it_may() {
        let top = tempfile::tempdir().unwrap();
        let [inside, readable, outside] = ["inside", "readable", "outside"].map(|name| top.path().join(name));
        for folder in [&inside, &readable, &outside] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("there"), "1").unwrap();
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        for connects in [true, false] {
            let paths = (inside.clone(), readable.clone(), outside.clone());
            // On a thread of its own: it cannot be taken back.
            let confined = thread::spawn(move || {
                let (inside, readable, outside) = paths;
                let open = |path| File::open(path).unwrap();
                let (folder, other) = (open(&inside), open(&readable));
                let within = Within { folder: folder.as_fd(), readable: &[other.as_fd()], connects };
                if matches!(within.confine(), Err(_) | Ok(Landlock::None)) {
                    cc_vectors::skip("this kernel's Landlock cannot confine");
                    return;
                }
                let denied = |result: std::io::Result<()>, what: &str| {
                    let error = result.expect_err(what);
                    assert!(
                        matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::CrossesDevices),
                        "{what}: {error}"
                    );
                };
                assert_eq!(fs::read_to_string(inside.join("there")).unwrap(), "1");
                fs::create_dir_all(inside.join("a/b")).unwrap();
                fs::hard_link(inside.join("there"), inside.join("a/b/linked")).unwrap();
                fs::remove_dir_all(inside.join("a")).unwrap();
                assert_eq!(fs::read_to_string(readable.join("there")).unwrap(), "1");
                denied(fs::write(readable.join("there"), "2"), "write what may be read");
                denied(fs::write(readable.join("new"), "2"), "make where it may read");
                denied(fs::read(outside.join("there")).map(drop), "read");
                denied(fs::write(outside.join("there"), "2"), "write");
                denied(fs::write(outside.join("new"), "2"), "make");
                denied(fs::create_dir(outside.join("folder")), "make a folder");
                denied(fs::remove_file(outside.join("there")), "remove");
                denied(fs::rename(inside.join("there"), outside.join("moved")), "move out");
                denied(fs::read_dir(&outside).map(drop), "list");
                denied(TcpListener::bind("127.0.0.1:0").map(drop), "listen");
                match connects {
                    true => drop(TcpStream::connect(address).unwrap()),
                    false => denied(TcpStream::connect(address).map(drop), "connect"),
                }
            });
            confined.join().unwrap();
            assert_eq!(fs::read_to_string(outside.join("there")).unwrap(), "1");
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        }
    }
}
