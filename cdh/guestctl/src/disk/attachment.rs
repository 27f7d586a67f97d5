//! How systemd is to open a volume, and whether that is what will be done.
//!
//! The line of crypttab(5) that names the checked copy does not decide alone: systemd-cryptsetup-generator(8) prefers what the
//! kernel's command line says of a volume, and with options from there the unit has no `header=`: the volume would be opened with
//! the header on the disk. A mapping that is there already is taken as it is. So before a header is checked, whatever else could
//! open the volume is a reason to refuse. Only systemd's own account of the unit counts, not the files that it was made from.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use cc_evidence::blame::Blame;
use cc_mapping::Mapping;
use cc_volume::command_line;

use super::configured::Configured;
use crate::failure::{self, Failure};

const SYSTEMCTL: &str = "/usr/bin/systemctl";
/// Where systemd has its program: Debian 12 and others, and since systemd 256.
const PROGRAMS: [&str; 4] = [
    "/usr/lib/systemd/systemd-cryptsetup",
    "/lib/systemd/systemd-cryptsetup",
    "/usr/bin/systemd-cryptsetup",
    "/bin/systemd-cryptsetup",
];
/// Options of crypttab(5) that say when and how fast, never what is opened with what.
const HARMLESS: [&str; 6] =
    ["_netdev", "nofail", "noauto", "no-read-workqueue", "no-write-workqueue", "same-cpu-crypt"];
/// The same, with a value.
const HARMLESS_WITH_VALUE: [&str; 2] = ["timeout=", "x-systemd.device-timeout="];

/// Whether an option may stand beside those that are required.
pub(super) fn is_harmless(option: &str) -> bool {
    HARMLESS.contains(&option) || HARMLESS_WITH_VALUE.iter().any(|start| option.starts_with(start))
}

/// The instance of a unit (systemd.unit(5), "String escaping") for a name that the hub admits.
pub(super) fn instance(name: &str) -> String {
    format!("systemd-cryptsetup@{}.service", name.replace('-', "\\x2d"))
}

/// Whether this process was started by the unit that opens the volume `name`.
pub(super) fn is_in_unit(name: &str) -> bool {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    groups.lines().any(|group| group.rsplit('/').next() == Some(instance(name).as_str()))
}

/// Refuses if there is a mapping called `name` already.
pub(super) fn refuse_mapped(name: &str) -> Result<(), Failure> {
    if Mapping::is_there(name)? {
        return Err(failure::of(
            Blame::Denied,
            "VOLUME_MAPPED_ALREADY",
            &format!(
                "a mapping called {name} is there already: systemd would take it for the volume as it is"
            ),
            format!(
                "find out who made it; `systemctl stop '{}'` or `dmsetup remove {name}` removes it",
                instance(name)
            ),
        ));
    }
    Ok(())
}

/// Refuses if the volume would be opened in another way than with the copy of its header at `copy`.
pub(super) fn refuse_others(configured: &Configured, copy: &Path) -> Result<(), Failure> {
    let Configured { volume, key_socket } = configured;
    let name = &volume.name;
    refuse_mapped(name)?;
    let text = fs::read_to_string("/proc/cmdline")
        .map_err(|source| Failure::Unreadable { path: "/proc/cmdline".into(), source })?;
    if let Some(parameter) = command_line::concerning(&text, name, &volume.uuid) {
        return Err(otherwise(
            name,
            &format!(
                "the kernel's command line has {}, which systemd prefers to /etc/crypttab",
                crate::table::printable(&parameter)
            ),
            "remove it from the command line, and have the key broker's policy measure that",
        ));
    }
    let Some(commands) = commands(name)? else { return Ok(()) };
    let discards = volume.policy.is_some_and(|policy| policy.allow_discards);
    let expected = Expected { name, uuid: &volume.uuid, key_socket, copy, discards };
    expected.compare(&commands).map_err(|why| {
        let hint = format!("run `guestctl disk enable {name} --replace`, then `systemctl daemon-reload`");
        otherwise(name, &format!("{} {why}", instance(name)), &hint)
    })
}

fn otherwise(name: &str, why: &str, hint: &str) -> Failure {
    let message = format!("the volume {name} would not be opened with the checked header: {why}");
    failure::of(Blame::Denied, "VOLUME_OPENED_OTHERWISE", &message, hint)
}

/// The commands that systemd would open the volume with. None if there is no such unit here, and this is not part of it.
#[allow(clippy::disallowed_methods, reason = "systemd's account of its units, for a command-line tool")]
fn commands(name: &str) -> Result<Option<String>, Failure> {
    let required = is_in_unit(name);
    if !required && !Path::new("/run/systemd/system").is_dir() {
        return Ok(None);
    }
    let unit = instance(name);
    let unknown = |why: String| otherwise(name, &why, "look at `systemctl status`");
    let output = Command::new(SYSTEMCTL)
        .args(["show", "--property=LoadState,ExecStart", "--", &unit])
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .map_err(|source| unknown(format!("asking {SYSTEMCTL} about {unit}: {source}")))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() && text.lines().any(|line| line == "LoadState=loaded") {
        return Ok(Some(text));
    }
    if required {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(unknown(format!(
            "systemd does not tell about {unit}: {}",
            crate::table::printable(said.trim())
        )));
    }
    Ok(None)
}

/// What the unit has to do.
struct Expected<'a> {
    name: &'a str,
    uuid: &'a str,
    key_socket: &'a str,
    copy: &'a Path,
    discards: bool,
}

impl Expected<'_> {
    /// Compares with the properties of a unit as `systemctl show` writes them:
    /// `ExecStart={ path=… ; argv[]=PROGRAM attach NAME DEVICE KEY OPTIONS ; ignore_errors=no ; … }`.
    fn compare(&self, properties: &str) -> Result<(), String> {
        let mut starts = properties.lines().filter_map(|line| line.strip_prefix("ExecStart="));
        let (Some(start), None) = (starts.next(), starts.next()) else {
            return Err("does not have one command in ExecStart=".to_owned());
        };
        let field = |name: &str| {
            let (_, rest) = start.split_once(name)?;
            Some(rest.split_once(" ; ")?.0)
        };
        let (Some(path), Some(arguments)) = (field("{ path="), field(" ; argv[]=")) else {
            return Err("has an ExecStart= that cannot be read".to_owned());
        };
        let words: Vec<&str> = arguments.split(' ').collect();
        let &[program, verb, name, device, key, options] = words.as_slice() else {
            return Err(format!("runs {arguments:?}"));
        };
        let by_uuid = format!("/dev/disk/by-uuid/{}", self.uuid);
        for (what, found, expected) in [
            ("the command", verb, "attach"),
            ("the name", name, self.name),
            ("the device", device, by_uuid.as_str()),
            ("the key", key, self.key_socket),
        ] {
            if found != expected {
                return Err(format!("has {found} as {what}, not {expected}"));
            }
        }
        if !PROGRAMS.contains(&program) || path != program {
            return Err(format!("runs {path}, which is not systemd's program"));
        }
        self.compare_options(options)
    }

    fn compare_options(&self, options: &str) -> Result<(), String> {
        let header = format!("header={}", self.copy.display());
        let required = ["luks", "headless=true", header.as_str()];
        for option in required {
            if options.split(',').filter(|found| *found == option).count() != 1 {
                return Err(format!("does not have the option {option} once: {options}"));
            }
        }
        let admitted = |option: &str| {
            required.contains(&option) || is_harmless(option) || (self.discards && option == "discard")
        };
        match options.split(',').find(|option| !admitted(option)) {
            Some(other) => Err(format!("has the option {other}, which is not admitted")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "6a2d7e1c-93f4-4a55-8f70-1d3b2c5e9a10";
    const OTHER: &str = "7a2d7e1c-93f4-4a55-8f70-1d3b2c5e9a10";

    #[test]
    fn a_unit_that_would_open_in_another_way_is_refused() {
        let good = format!(
            "LoadState=loaded\nExecStart={{ path=/usr/lib/systemd/systemd-cryptsetup ; \
             argv[]=/usr/lib/systemd/systemd-cryptsetup attach data /dev/disk/by-uuid/{UUID} /run/s.sock \
             luks,headless=true,_netdev,header=/run/h/data.header,nofail,timeout=9 ; ignore_errors=no ; \
             start_time=[n/a] ; stop_time=[n/a] ; pid=0 ; code=(null) ; status=0/0 }}\n"
        );
        let compare = |text: &str, discards| {
            let copy = Path::new("/run/h/data.header");
            Expected { name: "data", uuid: UUID, key_socket: "/run/s.sock", copy, discards }.compare(text)
        };
        compare(&good, false).unwrap();
        for (from, to) in [
            (",header=/run/h/data.header", ""),
            ("data.header", "data.headers"),
            ("data.header,", "data.header,header=/dev/vdb,"),
            ("data.header", "data.header:/dev/vdb"),
            ("luks,headless=true,_netdev,header=/run/h/data.header,nofail,timeout=9", "luks"),
            (" luks,", " plain,luks,"),
            ("headless=true,", ""),
            (",nofail", ",discard"),
            (",nofail", ",tpm2-device=auto"),
            ("/run/s.sock", "-"),
            (UUID, OTHER),
            (" attach data", " attach other"),
            (" attach", " detach"),
            ("path=/usr/lib/systemd", "path=/tmp"),
            ("/usr/lib/systemd/systemd-cryptsetup", "/usr/local/bin/x"),
            ("ExecStart=", "ExecStop="),
            (" ; ", " "),
        ] {
            let text = good.replace(from, to);
            assert_ne!(text, good);
            assert!(compare(&text, false).is_err(), "{from} {to}");
        }
        assert!(compare(&format!("{good}{good}"), false).is_err());
        compare(&good.replace("nofail", "discard"), true).unwrap();
        compare(&good.replace("/usr/lib/systemd/", "/usr/bin/"), false).unwrap();
    }
}
