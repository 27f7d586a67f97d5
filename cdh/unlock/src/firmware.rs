//! What the host tells systemd through the firmware's variables.
//!
//! Where Secure Boot is off, systemd reads the EFI variable `SystemdOptions` as it reads the kernel's command line, in the initramfs and in the
//! system (kernel-command-line(7), systemd(1)). The host keeps the variables, and no measurement that policies look at covers this one: a
//! machine that has it opens nothing. It is NOT a look at other variables; which programs the firmware starts is measured.

use std::path::Path;

use crate::failure::Failure;

/// systemd's own variable under its vendor's identifier, as efivarfs has it, and systemd's copy of it.
const VARIABLES: [&str; 2] = [
    "sys/firmware/efi/efivars/SystemdOptions-8cf2644b-4b0b-428f-9387-6d876050dc67",
    "run/systemd/efivars/SystemdOptions-8cf2644b-4b0b-428f-9387-6d876050dc67",
];
const VARIABLES_FOLDER: &str = "sys/firmware/efi/efivars";

/// Refuses a machine whose firmware, seen below `root`, has options for systemd.
///
/// # Errors
/// [`Failure::FirmwareVariable`] names the file.
pub(crate) fn check(root: &Path) -> Result<(), Failure> {
    for variable in VARIABLES {
        let path = root.join(variable);
        // Also where it cannot be looked at: only its absence is good.
        match path.symlink_metadata() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            _ => return Err(Failure::FirmwareVariable { path }),
        }
    }
    let folder = root.join(VARIABLES_FOLDER);
    let unseen = std::fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_none());
    if unseen {
        tracing::warn!(folder = %folder.display(), "the firmware's variables cannot be seen: is efivarfs mounted?");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_for_systemd_are_a_reason_to_open_nothing() {
        let root = tempfile::tempdir().unwrap();
        check(root.path()).unwrap();
        for variable in VARIABLES {
            let path = root.path().join(variable);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            check(root.path()).unwrap();
            std::fs::write(&path, "").unwrap();
            let failure = check(root.path()).unwrap_err();
            assert_eq!((failure.code(), failure.status()), ("FIRMWARE_VARIABLE_REFUSED", 3), "{variable}");
            std::fs::remove_file(&path).unwrap();
        }
    }
}
