//! `guestctl disk enable`: lets systemd open a configured volume at boot.
//!
//! Two texts: a line of crypttab(5), whose key is the hub's socket and whose header is the checked copy, and a drop-in for the
//! volume's `systemd-cryptsetup@.service`, which has the copy made before and the mapping verified after. systemd-cryptsetup reads a
//! header before it asks for the key, so a line without the drop-in opens nothing: there is no copy. Nothing is done a second
//! time, and a line that says something else is left alone unless the operator says so. Not every distribution starts
//! `remote-cryptsetup.target`, which opens the volumes that wait for the network: it is enabled as well.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use cc_daemon::address::Address;
use serde_json::json;

use super::{attachment, configured::Configured, copy::FOLDER};
use crate::{
    connect::{HUB, Hub},
    failure::Failure,
    output::Console,
};

/// Where the key is given unless the hub says otherwise.
const KEY_SOCKET: &str = "/run/confidential-containers/cryptsetup.sock";
/// The name of the drop-in.
const DROP_IN: &str = "50-confidential.conf";
/// What `systemctl enable remote-cryptsetup.target` makes, and where it leads.
const TARGET_LINK: &str = "etc/systemd/system/multi-user.target.wants/remote-cryptsetup.target";
const TARGET: &str = "/usr/lib/systemd/system/remote-cryptsetup.target";

#[derive(Debug, clap::Args)]
#[command(after_help = "\
After it: `systemctl daemon-reload`, then `systemctl start systemd-cryptsetup@NAME.service`, or the next boot. A file system on
/dev/mapper/NAME needs _netdev (and nofail, if the machine is to start without it) in /etc/fstab.

Exit status: 0 done, or nothing to do; 1 a file cannot be written, or another line of that name is there; 4 there is no such volume;
others as for `guestctl get`.

Example:
  guestctl disk enable data --dry-run
  guestctl disk enable data
  guestctl disk enable data --uuid 6a2d7e1c-93f4-4a55-8f70-1d3b2c5e9a10 --root /mnt/image")]
pub(super) struct Args {
    /// Name of the volume in [[volumes]] of the data hub's configuration
    #[arg(value_parser = name)]
    name: String,
    /// UUID of the volume; then the data hub is not asked
    #[arg(long, value_name = "UUID", value_parser = uuid)]
    uuid: Option<String>,
    /// Further options of the line, separated by commas, of those of crypttab(5) that say when and how fast: nofail, timeout=30
    #[arg(long, value_name = "OPTIONS", value_delimiter = ',', value_parser = option)]
    options: Vec<String>,
    /// Show what would be written
    #[arg(long)]
    dry_run: bool,
    /// Replace lines of that name that say something else
    #[arg(long)]
    replace: bool,
    /// How long a boot waits for the data hub or the key broker where neither answers; then it goes on, and the volume is tried again
    /// each minute
    #[arg(long, value_name = "SECONDS", default_value_t = 90)]
    wait: u32,
    /// Root of the file system to write to, such as that of an image
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Path of this program on that system [default: where it lies here, if that is below /usr; else /usr/local/bin/guestctl]
    #[arg(long, value_name = "PATH")]
    program: Option<String>,
    /// Address of the confidential data hub
    #[arg(long, value_name = "ADDR", default_value = HUB)]
    cdh: Address,
}

pub(super) async fn run(args: &Args, as_json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    let (uuid, key_socket) = match &args.uuid {
        Some(uuid) => (uuid.clone(), KEY_SOCKET.to_owned()),
        None => {
            let Configured { volume, key_socket } = Configured::find(&Hub::at(&args.cdh), &args.name).await?;
            (volume.uuid, key_socket)
        }
    };
    let line = line(&args.name, &uuid, &key_socket, &args.options);
    let program = args.program.clone().unwrap_or_else(own_path);
    let drop_in = drop_in(&args.name, &program, args.wait);

    let crypttab = Target::read(args.root.join("etc/crypttab"))?;
    let unit = Target::read(drop_in_path(&args.root, &args.name))?;
    let lines = with_line(&crypttab, (&args.name, &uuid), &line, args.replace)?;
    let mut changed = Vec::new();
    for (target, content) in [(&crypttab, &lines), (&unit, &drop_in)] {
        if target.content != *content {
            changed.push(target.path.display().to_string());
            if !args.dry_run {
                target.write(content)?;
            }
        }
    }

    let link = args.root.join(TARGET_LINK);
    if link.symlink_metadata().is_err() {
        changed.push(link.display().to_string());
        if !args.dry_run {
            make_link(&link)?;
        }
    }

    if as_json {
        return console.json(&json!({
            "volume": args.name,
            "uuid": uuid,
            "crypttab": line,
            "drop_in": {"path": unit.path.display().to_string(), "content": drop_in},
            "changed": changed,
            "written": !args.dry_run,
        }));
    }
    let mut text = String::new();
    if args.dry_run {
        text = format!("{}:\n{line}\n\n{}:\n{drop_in}\n", crypttab.path.display(), unit.path.display());
    }
    text.push_str(&match (changed.is_empty(), args.dry_run) {
        (true, _) => format!("the volume {} is enabled already\n", args.name),
        (false, true) => format!("nothing was written; these files would change: {}\n", changed.join(", ")),
        (false, false) => format!("written: {}\nnow run: systemctl daemon-reload\n", changed.join(", ")),
    });
    console.text(&text)
}

/// `data UUID=… SOCKET luks,headless=true,_netdev,header=…`: without a terminal, after the network, and all metadata from the
/// checked copy.
pub(super) fn line(name: &str, uuid: &str, key_socket: &str, more: &[String]) -> String {
    let header = format!("header={FOLDER}/{name}.header");
    let mut options = vec!["luks".to_owned(), "headless=true".to_owned(), "_netdev".to_owned(), header];
    options.extend(more.iter().cloned());
    format!("{name} UUID={uuid} {key_socket} {}", options.join(","))
}

/// Where the drop-in of the volume `name` is, below `root`.
pub(super) fn drop_in_path(root: &Path, name: &str) -> PathBuf {
    root.join(format!("etc/systemd/system/{}.d", attachment::instance(name))).join(DROP_IN)
}

/// The program that `text` calls, if it is the drop-in of the volume `name`, with whatever program and time to wait.
pub(super) fn program_of<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let told = text.lines().find_map(|line| line.strip_prefix("ExecStartPre="))?;
    let (program, wait) = told.split_once(&format!(" disk prepare {name} --wait "))?;
    wait.parse().is_ok_and(|wait| drop_in(name, program, wait) == text).then_some(program)
}

/// The drop-in of the volume `name`, which waits for so many seconds and calls `program`.
pub(super) fn drop_in(name: &str, program: &str, wait: u32) -> String {
    format!(
        "# Written by `guestctl disk enable {name}`.\n\
         [Unit]\n\
         Wants=network-online.target confidential-data-hub.service\n\
         After=network-online.target confidential-data-hub.service\n\
         StartLimitIntervalSec=0\n\
         \n\
         [Service]\n\
         # Who stands before the machine is told why a volume stays closed.\n\
         StandardError=journal+console\n\
         ExecStartPre={program} disk prepare {name} --wait {wait}\n\
         ExecStartPost={program} disk verify {name}\n\
         # Whatever failed or was killed: nothing stays open that was not verified.\n\
         ExecStopPost={program} disk retire {name}\n\
         # What was refused or did not answer may be mended.\n\
         Restart=on-failure\n\
         RestartSec=60\n\
         # The volume's key is in its memory: no dump, no swap.\n\
         LimitCORE=0\n\
         MemorySwapMax=0\n"
    )
}

/// The text of crypttab with `line` in it, for the volume `name` with the UUID `uuid`.
fn with_line(
    crypttab: &Target,
    (name, uuid): (&str, &str),
    line: &str,
    replace: bool,
) -> Result<String, Failure> {
    let refused = |why: String, hint: &str| Failure::Argument {
        argument: name.to_owned(),
        why: format!("{} has {why}", crypttab.path.display()),
        hint: hint.to_owned(),
    };
    let field = |text: &str, number| text.split_ascii_whitespace().nth(number).unwrap_or_default().to_owned();
    let lines: Vec<&str> = crypttab.content.lines().collect();
    let is_comment = |text: &str| text.trim_start().starts_with('#');
    if let Some(other) = lines
        .iter()
        .find(|text| !is_comment(text) && field(text, 0) != name && is_device_of(&field(text, 1), uuid))
    {
        return Err(refused(
            format!("a line that opens the same volume by another name: {other}"),
            "remove it: two units would open one volume, and only one of them checks its header",
        ));
    }
    let own: Vec<&str> = lines.iter().copied().filter(|text| field(text, 0) == name).collect();
    let same = |text: &str| text.split_ascii_whitespace().eq(line.split_ascii_whitespace());
    match own.as_slice() {
        [there] if same(there) => return Ok(crypttab.content.clone()),
        [there, ..] if !replace => {
            let number =
                if own.len() > 1 { format!("{} lines", own.len()) } else { "another line".to_owned() };
            return Err(refused(
                format!("{number} of that name: {there}"),
                "look at it; --replace puts the new one in its place",
            ));
        }
        _ => {}
    }
    let mut placed = false;
    let mut kept: Vec<&str> = lines
        .into_iter()
        .filter_map(|text| match field(text, 0) == name {
            false => Some(text),
            true => (!std::mem::replace(&mut placed, true)).then_some(line),
        })
        .collect();
    if !placed {
        kept.push(line);
    }
    Ok(kept.join("\n") + "\n")
}

/// Whether the second field of a line names the device with this UUID, as far as that can be told from its text.
pub(super) fn is_device_of(device: &str, uuid: &str) -> bool {
    let device = device.to_ascii_lowercase();
    let named = device.strip_prefix("uuid=").or_else(|| device.strip_prefix("/dev/disk/by-uuid/"));
    named.is_some_and(|named| named.trim_matches('"') == uuid)
}

fn make_link(link: &Path) -> Result<(), Failure> {
    let folder = link.parent().unwrap_or_else(|| Path::new("/"));
    fs::create_dir_all(folder)
        .and_then(|()| std::os::unix::fs::symlink(TARGET, link))
        .map_err(|source| Failure::OutputFile { path: link.to_owned(), source })
}

/// A file that may have to be written.
#[derive(Debug)]
struct Target {
    path: PathBuf,
    /// What is in it; nothing if it is not there.
    content: String,
}

impl Target {
    fn read(path: PathBuf) -> Result<Self, Failure> {
        match fs::read_to_string(&path) {
            Ok(content) => Ok(Self { path, content }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Self { path, content: String::new() })
            }
            Err(source) => Err(Failure::Unreadable { path, source }),
        }
    }

    /// Replaces it as a whole; its mode stays, or is 0644.
    fn write(&self, content: &str) -> Result<(), Failure> {
        let failed = |source| Failure::OutputFile { path: self.path.clone(), source };
        let folder = self.path.parent().unwrap_or_else(|| Path::new("/"));
        fs::create_dir_all(folder).map_err(failed)?;
        let mode = fs::metadata(&self.path).map_or(0o644, |status| status.mode() & 0o777);
        let temporary = folder.join(format!(".{DROP_IN}.{}", std::process::id()));
        let written = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut file| {
                file.write_all(content.as_bytes())?;
                file.set_permissions(fs::Permissions::from_mode(mode))?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&temporary, &self.path));
        if written.is_err() {
            // The first error is the one to report.
            let _ = fs::remove_file(&temporary);
        }
        written.map_err(failed)
    }
}

/// A name as the hub admits it.
pub(super) fn name(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let starts = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if starts && text.len() <= 48 && text.bytes().all(plain) {
        return Ok(text.to_owned());
    }
    Err("a name has at most 48 letters, digits, '.', '_' and '-'".to_owned())
}

fn uuid(text: &str) -> Result<String, String> {
    let groups = text.split('-').map(str::len).eq([8, 4, 4, 4, 12]);
    if groups && text.bytes().all(|byte| matches!(byte, b'-' | b'0'..=b'9' | b'a'..=b'f')) {
        return Ok(text.to_owned());
    }
    Err("a UUID is five groups of lower-case hexadecimal digits".to_owned())
}

fn option(text: &str) -> Result<String, String> {
    if text.contains(',') || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("an option has no spaces".to_owned());
    }
    if !attachment::is_harmless(text) {
        return Err("only options that say when and how fast a volume is opened are admitted: nofail, noauto, timeout=, \
                    x-systemd.device-timeout=, no-read-workqueue, no-write-workqueue, same-cpu-crypt"
            .to_owned());
    }
    Ok(text.to_owned())
}

/// Where this program lies, if it was installed; else where it is installed by default.
fn own_path() -> String {
    let own = std::env::current_exe().ok().filter(|path| path.starts_with("/usr"));
    own.and_then(|path| path.to_str().map(str::to_owned))
        .unwrap_or_else(|| "/usr/local/bin/guestctl".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "6a2d7e1c-93f4-4a55-8f70-1d3b2c5e9a10";

    async fn enable(root: &Path, more: &[&str]) -> (crate::Exit, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let base = ["guestctl", "disk", "enable", "db-1", "--uuid", UUID, "--root", root.to_str().unwrap()];
        let exit = crate::run([&base[..], more].concat(), &mut Console::new(&mut out, &mut err)).await;
        (exit, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[tokio::test]
    async fn a_volume_is_enabled_once_and_other_lines_stay() {
        let root = tempfile::tempdir().unwrap();
        let crypttab = root.path().join("etc/crypttab");
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(&crypttab, "# volumes\nother /dev/sda none").unwrap();
        fs::set_permissions(&crypttab, fs::Permissions::from_mode(0o600)).unwrap();
        let (exit, out, _) = enable(root.path(), &["--dry-run"]).await;
        assert_eq!(exit, crate::Exit::Success);
        assert!(out.contains("nothing was written") && out.contains("header="), "{out}");
        assert_eq!(fs::read_to_string(&crypttab).unwrap(), "# volumes\nother /dev/sda none");

        assert_eq!(enable(root.path(), &["--options", "nofail"]).await.0, crate::Exit::Success);
        let line = format!(
            "db-1 UUID={UUID} {KEY_SOCKET} luks,headless=true,_netdev,header={FOLDER}/db-1.header,nofail\n"
        );
        let expected = format!("# volumes\nother /dev/sda none\n{line}");
        assert_eq!(fs::read_to_string(&crypttab).unwrap(), expected);
        assert_eq!(fs::metadata(&crypttab).unwrap().mode() & 0o777, 0o600);
        let unit = root.path().join("etc/systemd/system/systemd-cryptsetup@db\\x2d1.service.d").join(DROP_IN);
        let text = fs::read_to_string(unit).unwrap();
        for line in [
            "ExecStartPre=/usr/local/bin/guestctl disk prepare db-1 --wait 90\n",
            "ExecStartPost=/usr/local/bin/guestctl disk verify db-1\n",
            "ExecStopPost=/usr/local/bin/guestctl disk retire db-1\n",
            "Restart=on-failure\n",
            "LimitCORE=0\nMemorySwapMax=0\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert_eq!(fs::read_link(root.path().join(TARGET_LINK)).unwrap(), Path::new(TARGET));

        let (_, out, _) = enable(root.path(), &["--options", "nofail"]).await;
        assert!(out.contains("is enabled already"), "{out}");
        let (exit, _, err) = enable(root.path(), &[]).await;
        assert!(exit != crate::Exit::Success && err.contains("another line of that name"), "{err}");
        let (exit, out, _) = enable(root.path(), &["--replace", "--json"]).await;
        assert_eq!(exit, crate::Exit::Success);
        let told: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(told["changed"].as_array().unwrap().len(), 1);
        assert!(!fs::read_to_string(&crypttab).unwrap().contains("nofail"));
    }

    /// systemd would take another line, or a second unit would open the volume with the header on the disk.
    #[tokio::test]
    async fn other_lines_for_the_same_name_or_device_are_told() {
        let root = tempfile::tempdir().unwrap();
        let crypttab = root.path().join("etc/crypttab");
        fs::create_dir(root.path().join("etc")).unwrap();
        for device in [
            format!("UUID={UUID}"),
            format!("uuid=\"{}\"", UUID.to_uppercase()),
            format!("/dev/disk/by-uuid/{UUID}"),
        ] {
            let content = format!("other {device} none luks\n");
            fs::write(&crypttab, &content).unwrap();
            for more in [&[][..], &["--replace"]] {
                let (exit, _, err) = enable(root.path(), more).await;
                assert!(exit == crate::Exit::Usage && err.contains("by another name"), "{device}: {err}");
            }
            assert_eq!(fs::read_to_string(&crypttab).unwrap(), content);
        }
        fs::write(
            &crypttab,
            format!("db-1 /dev/sda none\n# other UUID={UUID}\ndb-1 /dev/sdb none\nlast /dev/sdc none\n"),
        )
        .unwrap();
        let (exit, _, err) = enable(root.path(), &[]).await;
        assert!(exit == crate::Exit::Usage && err.contains("2 lines of that name"), "{err}");
        assert_eq!(enable(root.path(), &["--replace"]).await.0, crate::Exit::Success);
        let text = fs::read_to_string(&crypttab).unwrap();
        let names: Vec<&str> = text.lines().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(names, ["db-1", "#", "last"], "{text}");
    }

    #[tokio::test]
    async fn options_that_open_in_another_way_are_refused() {
        let root = tempfile::tempdir().unwrap();
        for bad in [
            "header=/dev/vdb",
            "plain",
            "a b",
            "tpm2-device=auto",
            "keyfile-offset=1",
            "cipher=x",
            "offset=8",
            "",
        ] {
            let (exit, _, err) = enable(root.path(), &["--options", bad]).await;
            assert_eq!(exit, crate::Exit::Usage, "{bad}: {err}");
        }
        assert!(!root.path().join("etc").exists());
    }
}
