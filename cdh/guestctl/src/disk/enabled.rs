//! Whether systemd opens a configured volume at boot, with the header that was checked: looks at what `guestctl disk enable` writes.
//!
//! For `guestctl doctor`. It reads files, opens no disk and asks nobody: what is opened is decided by `prepare`, which asks systemd.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use cc_protos::guest_services::Volume;

use super::{attachment, enable};

/// What was found of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Enabled {
    /// Neither line nor drop-in.
    No,
    /// Line and drop-in, as they are written.
    Yes,
    /// Line and drop-in, but this program, which the drop-in calls, cannot be run.
    NoProgram(String),
    /// Something is amiss, as half a sentence; whether the volume may be opened with the header on its disk.
    Amiss { what: String, unchecked: bool },
}

impl Enabled {
    /// Looks below `root` for what opens `volume`, whose key is given at `key_socket`.
    pub(crate) fn of(root: &Path, volume: &Volume, key_socket: &str) -> Self {
        let Volume { name, uuid, .. } = volume;
        let amiss = |what: &str, unchecked| Self::Amiss { what: what.to_owned(), unchecked };
        let crypttab = fs::read_to_string(root.join("etc/crypttab")).unwrap_or_default();
        let lines: Vec<Vec<&str>> = crypttab
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'))
            .map(|line| line.split_ascii_whitespace().collect())
            .collect();
        let other = |fields: &&Vec<&str>| {
            fields.first() != Some(&name.as_str())
                && fields.get(1).is_some_and(|device| enable::is_device_of(device, uuid))
        };
        if let Some(fields) = lines.iter().find(other) {
            let what =
                format!("a line of /etc/crypttab opens it by the name {}", fields.first().unwrap_or(&""));
            return Self::Amiss { what, unchecked: true };
        }
        let own: Vec<_> = lines.iter().filter(|fields| fields.first() == Some(&name.as_str())).collect();
        let drop_in = fs::read_to_string(enable::drop_in_path(root, name)).ok();
        match (own.as_slice(), drop_in) {
            ([], None) => Self::No,
            ([], Some(_)) => amiss("/etc/crypttab has no line for it", false),
            ([_, _, ..], _) => amiss("/etc/crypttab has several lines of its name", true),
            ([fields], drop_in) => {
                if !is_our_line(fields, volume, key_socket) {
                    return amiss(
                        "its line of /etc/crypttab says something else than `guestctl disk enable` writes",
                        true,
                    );
                }
                // There is no copy of the header then, and no key.
                let Some(text) = drop_in else { return amiss("the drop-in of its unit is not there", false) };
                match enable::program_of(&text, name) {
                    None => {
                        amiss("the drop-in of its unit is not what this `guestctl disk enable` writes", false)
                    }
                    Some(program) if !is_executable(root, program) => Self::NoProgram(program.to_owned()),
                    Some(_) => Self::Yes,
                }
            }
        }
    }
}

/// Whether a program below `root` can be run, as far as its mode says.
fn is_executable(root: &Path, program: &str) -> bool {
    let status = fs::metadata(root.join(program.trim_start_matches('/')));
    status.is_ok_and(|status| status.is_file() && status.permissions().mode() & 0o111 != 0)
}

/// Whether a line is what is written, but for options that say when and how fast.
fn is_our_line(fields: &[&str], volume: &Volume, key_socket: &str) -> bool {
    let expected = enable::line(&volume.name, &volume.uuid, key_socket, &[]);
    let expected: Vec<&str> = expected.split(' ').collect();
    let (&[_, device, key, options], &[_, our_device, our_key, ours]) = (fields, expected.as_slice()) else {
        return false;
    };
    let given: Vec<&str> = options.split(',').collect();
    let ours: Vec<&str> = ours.split(',').collect();
    let discards = volume.policy.is_some_and(|policy| policy.allow_discards);
    let admitted = |option: &&str| {
        ours.contains(option) || attachment::is_harmless(option) || (discards && *option == "discard")
    };
    (device, key) == (our_device, our_key)
        && ours.iter().all(|option| given.iter().filter(|given| *given == option).count() == 1)
        && given.iter().all(admitted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "6a2d7e1c-93f4-4a55-8f70-1d3b2c5e9a10";
    const SOCKET: &str = "/run/s.sock";

    #[test]
    fn line_and_drop_in_are_looked_at_together() {
        let root = tempfile::tempdir().unwrap();
        let volume = Volume { name: "db-1".to_owned(), uuid: UUID.to_owned(), ..Volume::default() };
        let found = || Enabled::of(root.path(), &volume, SOCKET);
        let crypttab = |text: &str| fs::write(root.path().join("etc/crypttab"), text).unwrap();
        let amiss = |part: &str, unchecked: bool| match found() {
            Enabled::Amiss { what, unchecked: found } => {
                assert!(what.contains(part) && found == unchecked, "{what}")
            }
            other => panic!("{part}: {other:?}"),
        };
        assert_eq!(found(), Enabled::No);
        fs::create_dir_all(root.path().join("etc")).unwrap();
        let line = enable::line("db-1", UUID, SOCKET, &["nofail".to_owned()]);
        crypttab(&format!("# db-1 old\nother UUID=1 none\n{line}\n"));
        amiss("drop-in of its unit is not there", false);

        let path = enable::drop_in_path(root.path(), "db-1");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let drop_in = enable::drop_in("db-1", "/opt/guestctl", 30);
        fs::write(&path, &drop_in).unwrap();
        let program = root.path().join("opt/guestctl");
        let no_program = Enabled::NoProgram("/opt/guestctl".to_owned());
        assert_eq!(found(), no_program);
        fs::create_dir_all(&program).unwrap();
        assert_eq!(found(), no_program, "a folder");
        fs::remove_dir(&program).unwrap();
        for (mode, expected) in [(0o644, &no_program), (0o755, &Enabled::Yes)] {
            fs::write(&program, "").unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(found(), *expected, "{mode:o}");
        }
        for (from, to) in [
            ("disk verify", "disk check"),
            ("LimitCORE=0\n", ""),
            ("--wait 30", "--wait 30 --device /dev/vdb"),
            ("ExecStartPre=", "#ExecStartPre="),
        ] {
            fs::write(&path, drop_in.replace(from, to)).unwrap();
            amiss("is not what this", false);
        }
        fs::write(&path, &drop_in).unwrap();

        for (from, to) in [
            ("nofail", "tpm2-device=auto"),
            ("luks,", ""),
            (",header=", ",xheader="),
            (SOCKET, "none"),
            (UUID, "7a2d7e1c-93f4-4a55-8f70-1d3b2c5e9a10"),
            (",nofail", ",discard"),
        ] {
            crypttab(&line.replace(from, to));
            amiss("says something else", true);
        }
        crypttab(&format!("{line}\n{line}\n"));
        amiss("several lines", true);
        crypttab(&format!("{line}\nother UUID={UUID} none luks\n"));
        amiss("by the name other", true);
        crypttab("");
        amiss("has no line", false);
    }
}
