//! Whether what is written to a file system stays in memory: a ramfs does, a tmpfs unless it may be swapped out (tmpfs(5)).
//!
//! A tmpfs is swapped like any memory where there is a swap area (proc_swaps(5)), unless it was mounted with `noswap` (Linux 6.4).
//! Facts come as texts, so that every machine can be tested on any; the decision is pure.

use rustix::fs::FsWord;

/// `TMPFS_MAGIC` and `RAMFS_MAGIC` (statfs(2)).
const TMPFS: FsWord = 0x0102_1994;
const RAMFS: FsWord = 0x8584_58f6;

/// What the kernel tells about swap areas and mounts.
#[derive(Debug)]
pub(super) struct Facts {
    /// `/proc/swaps`: a line of titles, then one for each area.
    pub(super) swaps: String,
    /// `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
    pub(super) mounts: String,
}

impl Facts {
    /// Those of this machine. A file that cannot be read is an error; a kernel without swap has no list of it.
    pub(super) fn of_system() -> std::io::Result<Self> {
        let swaps = match std::fs::read_to_string("/proc/swaps") {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            other => other?,
        };
        // Names of mounts may be any bytes.
        let mounts = std::fs::read("/proc/self/mountinfo")?;
        Ok(Self { swaps, mounts: String::from_utf8_lossy(&mounts).into_owned() })
    }

    /// The first swap area.
    fn swap(&self) -> Option<&str> {
        self.swaps.lines().skip(1).find_map(|line| line.split_whitespace().next())
    }

    /// Whether the file system of that device number was mounted with `noswap`.
    fn never_swapped(&self, device: u64) -> bool {
        let device = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
        let options = |line: &str| {
            let (mount, system) = line.split_once(" - ")?;
            (mount.split(' ').nth(2) == Some(device.as_str())).then_some(())?;
            // Type, source, options of the file system.
            system.split(' ').nth(2).map(|options| options.split(',').any(|option| option == "noswap"))
        };
        self.mounts.lines().find_map(options).unwrap_or(false)
    }
}

/// Why a secret must not lie in a file system of type `kind` and device number `device`, if it must not.
pub(super) fn objection(kind: FsWord, device: u64, facts: &Facts) -> Option<String> {
    match (kind, facts.swap()) {
        (RAMFS, _) | (TMPFS, None) => None,
        (TMPFS, Some(_)) if facts.never_swapped(device) => None,
        (TMPFS, Some(area)) => Some(format!(
            "the folder's tmpfs may be swapped out to {area}; mount one with the option noswap (Linux 6.4), or a ramfs"
        )),
        _ => Some("the folder is not in memory (tmpfs or ramfs)".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MOUNTS: &str = "22 1 0:21 / /run rw,nosuid shared:5 - tmpfs tmpfs rw,size=1k,mode=755,inode64\n\
        23 22 0:46 / /run/secrets rw,relatime - tmpfs tmpfs rw,size=1024k,noswap\n\
        24 22 0:47 / /run/noswap rw,noswap shared:9 master:2 - tmpfs noswap rw,mode=700\n";
    const SWAPS: &str = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
        /dev/vda2                               partition\t2097148\t\t0\t\t-2\n";

    fn facts(swaps: &str) -> Facts {
        Facts { swaps: swaps.to_owned(), mounts: MOUNTS.to_owned() }
    }

    #[test]
    fn what_may_be_swapped_is_no_memory() {
        let device = |minor| rustix::fs::makedev(0, minor);
        let titles = SWAPS.split_inclusive('\n').next().unwrap();
        for (what, kind, minor, swaps, good) in [
            ("no swap", TMPFS, 21, titles, true),
            ("a kernel without swap", TMPFS, 21, "", true),
            ("swap", TMPFS, 21, SWAPS, false),
            ("swap, but not for this one", TMPFS, 46, SWAPS, true),
            ("a source and a mount point by that name", TMPFS, 47, SWAPS, false),
            ("a mount that is not listed", TMPFS, 99, SWAPS, false),
            ("ramfs", RAMFS, 21, SWAPS, true),
            ("ext4", 0xEF53, 21, titles, false),
        ] {
            assert_eq!(objection(kind, device(minor), &facts(swaps)).is_none(), good, "{what}");
        }
        let why = objection(TMPFS, device(21), &facts(SWAPS)).unwrap();
        assert!(why.contains("/dev/vda2") && why.contains("noswap"), "{why}");
    }

    #[test]
    fn the_facts_of_this_machine_can_be_read() {
        let facts = Facts::of_system().unwrap();
        assert!(facts.mounts.lines().all(|line| line.contains(" - ")));
    }

    proptest! {
        #[test]
        fn texts_never_panic(swaps in "\\PC{0,60}", mounts in "[0-9: a-z,\n-]{0,80}", device in any::<u64>()) {
            let _ = objection(TMPFS, device, &Facts { swaps: format!("x\n{swaps}"), mounts });
        }
    }
}
