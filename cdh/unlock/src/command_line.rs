//! The kernel's command line, which the host writes: nothing on it is followed here, but some of it is a reason to open nothing.
//!
//! What stands on it after this program can undo all that was checked: another root file system, which finds the volumes open;
//! a shell; parameters by which systemd opens the volume itself, with the header on the disk. Refusing what is known finds mistakes.
//! It is NOT a wall: the key broker's policy has to compare the measurement that covers the command line.

use cc_volume::command_line::{concerning, words};

use crate::{config::Config, failure::Failure};

/// With `_` for each `-`: parameters that give somebody at the console a shell in this initramfs, or start another first program, or another root.
const REFUSED: [&str; 35] = [
    "init",
    "rdinit",
    "boot",
    "break",
    "rd.break",
    "rd.shell",
    "rd.systemd.unit",
    "rd.systemd.debug_shell",
    "systemd.debug_shell",
    // Commands and units of whoever writes the line, as root.
    "systemd.run",
    "systemd.wants",
    "rd.systemd.wants",
    "systemd.set_credential",
    "systemd.set_credential_binary",
    "systemd.crash_shell",
    "rd.systemd.crash_shell",
    "systemd.confirm_spawn",
    // Parts of the system that are mounted from elsewhere, or an empty one.
    "mount.usr",
    "systemd.mount_extra",
    "rd.systemd.mount_extra",
    "systemd.swap_extra",
    "rd.systemd.swap_extra",
    "systemd.volatile",
    "roothash",
    "usrhash",
    "netroot",
    "nfsroot",
    "cryptopts",
    "rd.live.image",
    "rd.overlay",
    // What is asked and answered at the console.
    "rd.cmdline",
    "kgdboc",
    "kgdbwait",
    "kgdbcon",
    "kdb",
];
/// What has to stand there, with one of the values of [`OFF`]: systemd takes units from the host's credentials otherwise (systemd(1)), also
/// after the root file system was switched to, and no measurement covers those.
const CREDENTIALS: &str = "systemd.import_credentials";
/// Values with which they are as good as absent.
const OFF: [&str; 4] = ["0", "no", "false", "off"];

/// Refuses a command line with which the volumes of `config` must not be opened.
///
/// # Errors
/// [`Failure::CommandLine`] names the parameter.
pub(crate) fn check(text: &str, config: &Config) -> Result<(), Failure> {
    let refused = |parameter: &str, why: &str| {
        let parameter = parameter.chars().take(80).collect();
        Err(Failure::CommandLine { parameter, why: why.to_owned() })
    };
    for volume in &config.volumes {
        if let Some(parameter) = concerning(text, &volume.name, &volume.uuid) {
            return refused(&parameter, "would have a volume opened with the header on the disk");
        }
    }
    let (mut roots, mut without_credentials) = (0, 0);
    for word in words(text) {
        let (key, value) = word.split_once('=').unwrap_or((&word, ""));
        // The kernel and systemd take capitals, and both kinds of strokes, for the same.
        let key = key.to_ascii_lowercase().replace('-', "_");
        if REFUSED.contains(&key.as_str()) && !OFF.contains(&value) {
            return refused(&word, "starts something else than the system on the volume");
        }
        if key == CREDENTIALS {
            without_credentials += 1;
            if !OFF.contains(&value) {
                return refused(
                    &word,
                    "lets the host's credentials into the system, which can be units that run as root",
                );
            }
        }
        if key == "root" {
            roots += 1;
            if value != config.root {
                return refused(
                    &word,
                    &format!("is not the root that the configuration names, {}", config.root),
                );
            }
        }
    }
    if roots != 1 {
        return refused(
            "root",
            &format!("has to be there once, as root={}; it is there {roots} times", config.root),
        );
    }
    if without_credentials == 0 {
        return refused(
            CREDENTIALS,
            "has to be there, as systemd.import_credentials=no: the host's credentials can be units that run as root",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::good;

    const LINE: &str = "console=ttyS0 root=/dev/mapper/root ro quiet rd.shell=0 systemd.unit=multi-user.target systemd.import_credentials=no";

    #[test]
    fn what_opens_or_starts_something_else_is_refused() {
        let config = Config::parse(&good()).unwrap();
        check(LINE, &config).unwrap();
        for more in [
            "root=/dev/vdb",
            "root=/dev/mapper/root",
            "\"root=/dev/vdb\"",
            "init=/bin/sh",
            "rdinit=/bin/sh",
            "break",
            "break=premount",
            "rd.break",
            "rd.shell",
            "rd.shell=1",
            "boot=nfs",
            "systemd.debug_shell",
            "RD.systemd.unit=rescue.target",
            "systemd.import_credentials=yes",
            "systemd.import-credentials",
            "systemd.run=/bin/evil",
            "systemd.mount-extra=/dev/vdb:/etc:ext4",
            "systemd.debug-shell",
            "mount.usr=/dev/vdb",
            "kgdboc=ttyS0",
            "rd.luks.uuid=6a2d7e1c-93f4-4a55-8f70-1d3b2c5e9a10",
            "luks.options=discard",
        ] {
            let failure = check(&format!("{LINE} {more}"), &config).unwrap_err();
            assert_eq!((failure.code(), failure.status()), ("KERNEL_COMMAND_LINE_REFUSED", 3), "{more}");
        }
        for line in [
            "",
            "quiet",
            &LINE.replace("/dev/mapper/root", "UUID=1"),
            &LINE.replace("root=", "root= "),
            &LINE.replace(" systemd.import_credentials=no", ""),
        ] {
            assert!(check(line, &config).is_err(), "{line}");
        }
    }
}
