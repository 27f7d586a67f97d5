//! Whether the kernel enforces a file system's integrity: dm-verity, as sysfs tells it.
//!
//! Sources: Linux `Documentation/ABI/testing/sysfs-block-dm` (`dm/uuid`), `sysfs-block` (`ro`), and the prefix that
//! libcryptsetup gives every verity mapping. It is NOT known here whether the root hash was measured: it is on the
//! kernel command line, which the launch measurement covers or the key broker refuses.

use std::path::Path;

/// How the names of verity mappings begin.
const PREFIX: &str = "CRYPT-VERITY-";

/// Longest attribute that is looked at, in bytes; device-mapper allows 128.
const MAX_ATTRIBUTE: usize = 160;

/// Whether the block device with the number `device` (as `st_dev` gives it) is a verity mapping that cannot be written.
/// `sys` is where sysfs is mounted. A device that is not known there, such as an overlay's, is none.
pub(crate) fn protects(device: u64, sys: &Path) -> bool {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let folder = sys.join("dev/block").join(format!("{major}:{minor}"));
    let attribute = |name: &str| {
        std::fs::read_to_string(folder.join(name)).ok().filter(|text| text.len() <= MAX_ATTRIBUTE)
    };
    attribute("dm/uuid").is_some_and(|uuid| uuid.starts_with(PREFIX))
        && attribute("ro").is_some_and(|read_only| read_only.trim_end() == "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verity_mapping_is_told_by_its_name_and_by_being_read_only() {
        let sys = tempfile::tempdir().unwrap();
        let device = rustix::fs::makedev(253, 7);
        assert!(!protects(device, sys.path()), "unknown");
        let folder = sys.path().join("dev/block/253:7");
        std::fs::create_dir_all(folder.join("dm")).unwrap();
        for (uuid, read_only, expected) in [
            ("CRYPT-VERITY-0123456789abcdef-root\n", "1\n", true),
            ("CRYPT-VERITY-0123456789abcdef-root\n", "0\n", false),
            ("CRYPT-LUKS2-0123456789abcdef-root\n", "1\n", false),
            ("LVM-CRYPT-VERITY-\n", "1\n", false),
            ("\n", "1\n", false),
        ] {
            std::fs::write(folder.join("dm/uuid"), uuid).unwrap();
            std::fs::write(folder.join("ro"), read_only).unwrap();
            assert_eq!(protects(device, sys.path()), expected, "{uuid:?} {read_only:?}");
        }
        std::fs::remove_file(folder.join("ro")).unwrap();
        assert!(!protects(device, sys.path()), "an attribute is missing");
    }
}
