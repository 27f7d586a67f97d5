//! The kernel's command line, which the host writes: nothing on it is followed here, but some of it is a reason to open nothing.
//!
//! What stands on it after this program can undo all that was checked: another root file system, which finds the volumes open;
//! a shell; parameters by which systemd opens the volume itself, with the header on the disk. Refusing what is known finds mistakes.
//! It is NOT a wall: the key broker's policy has to compare the measurement that covers the command line.

use cc_volume::command_line::{concerning, words};

use crate::{config::Config, failure::Failure};

/// With `_` for each `-`: parameters that are refused, by what they do.
const REFUSED: [(&str, &[&str]); 3] = [
    (
        "starts another program than the system on the volume, or gives a shell",
        &[
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
        ],
    ),
    (
        "has a part of the system mounted from elsewhere",
        &[
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
        ],
    ),
    (
        "asks at the console, which is the host's, or lets it look into the kernel",
        &["systemd.confirm_spawn", "rd.cmdline", "kgdboc", "kgdbwait", "kgdbcon", "kdb"],
    ),
];
/// What has to stand there, with one of the values of [`OFF`]: systemd takes units from the host's credentials otherwise (systemd(1)), also
/// after the root file system was switched to, and no measurement covers those.
const CREDENTIALS: &str = "systemd.import_credentials";
/// What comes of credentials.
const HARM: &str = "the host's credentials into the system; they can be units that run as root";
/// Values with which they are as good as absent.
const OFF: [&str; 4] = ["0", "no", "false", "off"];

/// Refuses a command line with which the volumes of `config` must not be opened.
///
/// # Errors
/// [`Failure::CommandLine`] names the parameter.
pub(crate) fn check(text: &str, config: &Config) -> Result<(), Failure> {
    for volume in &config.volumes {
        if let Some(parameter) = concerning(text, &volume.name, &volume.uuid) {
            let name = &volume.name;
            return Err(has(
                &parameter,
                &format!("by which systemd would open {name} with the header on its disk"),
            ));
        }
    }
    let (mut roots, mut without_credentials) = (0, 0);
    for word in words(text) {
        let (key, value) = word.split_once('=').unwrap_or((&word, ""));
        // The kernel and systemd take capitals, and both kinds of strokes, for the same.
        let key = key.to_ascii_lowercase().replace('-', "_");
        let refused = REFUSED.iter().find(|(_, parameters)| parameters.contains(&key.as_str()));
        if let Some((what, _)) = refused
            && !OFF.contains(&value)
        {
            return Err(has(&word, &format!("which {what}")));
        }
        if key == CREDENTIALS {
            without_credentials += 1;
            if !OFF.contains(&value) {
                return Err(has(&word, &format!("which lets {HARM}")));
            }
        }
        if key == "root" {
            roots += 1;
            if value != config.root {
                return Err(has(&word, &format!("but the configuration names {}", config.root)));
            }
        }
    }
    if roots != 1 {
        let root = &config.root;
        let what =
            if roots == 0 { format!("lacks root={root}") } else { format!("has root={root} {roots} times") };
        return Err(Failure::CommandLine { what });
    }
    if without_credentials == 0 {
        return Err(Failure::CommandLine {
            what: format!("lacks {CREDENTIALS}=no, without which systemd lets {HARM}"),
        });
    }
    Ok(())
}

/// The line has `parameter`, as said in the half-sentence `what`.
fn has(parameter: &str, what: &str) -> Failure {
    let parameter: String = parameter.chars().take(80).collect();
    Failure::CommandLine { what: format!("has {parameter:?}, {what}") }
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
            assert!(failure.to_string().starts_with("the kernel's command line has "), "{failure}");
            assert_eq!((failure.code(), failure.status()), ("KERNEL_COMMAND_LINE_REFUSED", 3), "{more}");
        }
        for (line, what) in [
            ("", "lacks root=/dev/mapper/root"),
            (&format!("{LINE} root=/dev/mapper/root"), "has root=/dev/mapper/root 2 times"),
            (
                &LINE.replace("/dev/mapper/root", "UUID=1"),
                "has \"root=UUID=1\", but the configuration names /dev/mapper/root",
            ),
            (&LINE.replace("root=", "root= "), "has \"root=\", but"),
            (
                &LINE.replace(" systemd.import_credentials=no", ""),
                "lacks systemd.import_credentials=no, without which systemd lets",
            ),
            (
                &format!("{LINE} luks.options=discard"),
                "has \"luks.options=discard\", by which systemd would open root with",
            ),
        ] {
            let failure = check(line, &config).unwrap_err().to_string();
            assert!(failure.starts_with(&format!("the kernel's command line {what}")), "{failure}");
        }
    }
}
