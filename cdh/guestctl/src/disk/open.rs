//! `guestctl disk open` and `close`: a block device that no configuration names, opened by the data hub as kata-agent has it done
//! (`SecureMount`), and closed again.

use std::{collections::HashMap, time::Duration};

use cc_daemon::address::Address;
use cc_protos::{api::SecureMountRequest, guest_services::SecureUnmountRequest};
use cc_volume::mount_request::{Device, Key, Plan, Source, Target};
use serde_json::json;

use crate::{
    connect::{HUB, Hub},
    failure::{self, Failure},
    output::Console,
};

/// Patience where a file system may be made on a large device.
const PATIENCE: Duration = Duration::from_secs(3600);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
With --format the device is wiped: its new header stays in the guest's memory, and what is written is lost with the guest, or when the
volume is closed. Without, the device is a LUKS2 volume, whose header has to keep the rules of `guestctl disk check`. Volumes of
[[volumes]] are opened by systemd: `guestctl disk enable`.

Exit status: 0 done; 2 an option, the device or the folder is refused; 3 the header is refused, or the key is denied; 7 cdh-storage
cannot be used; others as for `guestctl get`.

Example:
  guestctl disk open /dev/vdc --at /srv/scratch --format --integrity
  guestctl disk open /dev/vdc --at /srv/data --key kbs:///disk/a/key --dry-run
  guestctl disk close /srv/scratch")]
pub(super) struct OpenArgs {
    /// The device, by its path or as MAJOR:MINOR
    device: String,
    /// Empty folder to mount it on; with --link the path of a link to its mapping
    #[arg(long, value_name = "PATH")]
    at: String,
    /// Make a link to the mapping, and mount nothing
    #[arg(long)]
    link: bool,
    /// The key: a kbs:// URI, a sealed secret, or file://PATH [default with --format: a random one]
    #[arg(long, value_name = "KEY", required_unless_present = "format")]
    key: Option<String>,
    /// Wipe the device, and format it for this guest alone
    #[arg(long)]
    format: bool,
    /// Authenticate each sector
    #[arg(long, requires = "format")]
    integrity: bool,
    /// Further arguments for mkfs.ext4
    #[arg(long, value_name = "OPTIONS", requires = "format", allow_hyphen_values = true)]
    mkfs: Option<String>,
    /// Name of the mapping [default: a random UUID]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Address of the confidential data hub
    #[arg(long, value_name = "ADDR", default_value = HUB)]
    cdh: Address,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Unmounts what `guestctl disk open` or kata-agent had the data hub mount there, or removes the link, and closes the mapping. What was formatted
when it was opened is lost.

Exit status: 0 done; 2 it is in use; 4 nothing is open there; others as for `guestctl get`.

Example:
  guestctl disk close /srv/scratch --dry-run
  guestctl disk close /srv/scratch")]
pub(super) struct CloseArgs {
    /// The folder or link that it was opened at
    at: String,
    /// Say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Address of the confidential data hub
    #[arg(long, value_name = "ADDR", default_value = HUB)]
    cdh: Address,
}

impl OpenArgs {
    /// The options as the contract has them.
    fn options(&self) -> HashMap<String, String> {
        let number = self.device.bytes().all(|byte| byte.is_ascii_digit() || byte == b':');
        let device = if number { "deviceId" } else { "devicePath" };
        let fixed = [
            (device, self.device.as_str()),
            ("encryptionType", "luks2"),
            ("sourceType", if self.format { "empty" } else { "encrypted" }),
            ("targetType", if self.link { "device" } else { "fileSystem" }),
            ("dataIntegrity", if self.integrity { "true" } else { "false" }),
        ];
        let given = [("key", &self.key), ("mkfsOpts", &self.mkfs), ("mapperName", &self.name)];
        let given = given.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?)));
        fixed.into_iter().chain(given).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }
}

pub(super) async fn open(args: &OpenArgs, as_json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    let options = args.options();
    let pairs = options.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let plan = Plan::read("block-device", pairs, &args.at)
        .map_err(|error| failure::of(error.blame(), error.code(), &error, error.hint()))?;
    if !args.dry_run {
        let hub = Hub::at(&args.cdh);
        let request = SecureMountRequest {
            volume_type: "block-device".to_owned(),
            options,
            flags: Vec::new(),
            mount_point: args.at.clone(),
        };
        let answer = hub.secure_mounts(PATIENCE).secure_mount(request).await;
        answer.map_err(|status| hub.failed(&format!("opening {}", args.device), &status))?;
    }
    if as_json {
        return console.json(&json!({
            "device": args.device, "at": args.at, "formatted": args.format, "opened": !args.dry_run,
        }));
    }
    console.text(&if args.dry_run {
        format!("nothing was done; this would be: {}\n", steps(&plan).join("; "))
    } else {
        format!("{} is open at {}\n", args.device, args.at)
    })
}

pub(super) async fn close(args: &CloseArgs, as_json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    let hub = Hub::at(&args.cdh);
    if args.dry_run {
        let listed = hub
            .secure_unmounts()
            .list_secure_mounts(cc_protos::guest_services::ListSecureMountsRequest {})
            .await;
        let listed = listed.map_err(|status| hub.failed("asking what is open", &status))?.into_inner();
        let at = args.at.strip_suffix('/').unwrap_or(&args.at);
        let found = listed.mounts.iter().find(|mount| mount.mount_point == at).ok_or_else(|| {
            failure::of(
                cc_evidence::blame::Blame::Absent,
                "VOLUME_NOT_OPEN",
                &format!("no volume is open at {}", args.at),
                "check the path; `guestctl disk status` shows what is open",
            )
        })?;
        if as_json {
            return console.json(&json!({
                "at": args.at, "device": found.device, "closed": false, "lost": found.ephemeral,
            }));
        }
        let lost = if found.ephemeral { ", and what is on it would be lost" } else { "" };
        return console.text(&format!("{} would be closed{lost}\n", found.device));
    }
    let request = SecureUnmountRequest { mount_point: args.at.clone() };
    let answer = hub.secure_unmounts().secure_unmount(request).await;
    answer.map_err(|status| hub.failed(&format!("closing {}", args.at), &status))?;
    if as_json {
        return console.json(&json!({"at": args.at, "closed": true}));
    }
    console.text(&format!("{} is closed\n", args.at))
}

/// What would be done, in words.
fn steps(plan: &Plan) -> Vec<String> {
    let device = match &plan.device {
        Device::Number { major, minor } => format!("device {major}:{minor}"),
        Device::Path(path) => path.clone(),
    };
    let key = match &plan.key {
        Key::Random => "a random key".to_owned(),
        Key::Reference(text) if text.starts_with("sealed.") => "the key in a sealed secret".to_owned(),
        Key::Reference(uri) => format!("the key {uri}"),
        Key::File(path) => format!("the key in {path}"),
    };
    let first = match plan.source {
        Source::Empty { integrity: true } => format!("wipe {device} and format it with integrity and {key}"),
        Source::Empty { integrity: false } => format!("wipe {device} and format it with {key}"),
        Source::Encrypted => format!("check the header of {device} and open it with {key}"),
    };
    let last = match plan.target {
        Target::Device => format!("link {} to its mapping", plan.mount_point),
        Target::FileSystem { .. } => format!("mount it as ext4 on {}", plan.mount_point),
    };
    vec![first, last]
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run(arguments: &[&str]) -> (crate::Exit, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let arguments = [&["guestctl", "disk"], arguments].concat();
        let exit = crate::run(arguments, &mut Console::new(&mut out, &mut err)).await;
        (exit, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[tokio::test]
    async fn a_dry_run_reads_the_options_as_the_hub_does() {
        let (exit, out, _) =
            run(&["open", "/dev/vdz", "--at", "/srv/x", "--format", "--integrity", "--dry-run"]).await;
        assert_eq!(exit, crate::Exit::Success);
        assert!(out.contains("wipe /dev/vdz and format it with integrity and a random key"), "{out}");
        let (exit, out, _) =
            run(&["open", "253:16", "--at", "/srv/x", "--link", "--key", "sealed.a.b.c", "--dry-run"]).await;
        assert_eq!(exit, crate::Exit::Success);
        assert!(out.contains("device 253:16") && !out.contains("sealed.a"), "{out}");
        for bad in [
            &["open", "vdz", "--at", "/srv/x", "--format", "--dry-run"][..],
            &["open", "/dev/vdz", "--at", "srv", "--format", "--dry-run"],
            &["open", "/dev/vdz", "--at", "/srv", "--format", "--mkfs", "-d /etc", "--dry-run"],
            &["open", "/dev/vdz", "--at", "/srv", "--key", "secret", "--dry-run"],
            &["open", "/dev/vdz", "--at", "/srv", "--dry-run"],
        ] {
            let (exit, _, err) = run(bad).await;
            assert_eq!(exit, crate::Exit::Usage, "{bad:?}: {err}");
        }
    }
}
