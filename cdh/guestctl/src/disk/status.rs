//! `guestctl disk status`: the configured volumes, which of them are open, and what SecureMount has open.

use std::path::Path;

use cc_daemon::address::Address;
use cc_mapping::Mapping;
use cc_protos::guest_services::{ListSecureMountsRequest, ListVolumesRequest};
use serde_json::{Value, json};

use crate::{
    connect::{HUB, Hub},
    failure::Failure,
    output::Console,
    table::Table,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  guestctl disk status
  guestctl disk status --json")]
pub(super) struct Args {
    /// Address of the confidential data hub
    #[arg(long, value_name = "ADDR", default_value = HUB)]
    cdh: Address,
}

pub(super) async fn run(args: &Args, as_json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    let hub = Hub::at(&args.cdh);
    let answer = hub.volumes().list_volumes(ListVolumesRequest {}).await;
    let answer = answer.map_err(|status| hub.failed("asking about volumes", &status))?.into_inner();
    let (mut table, mut list) = (Table::new(), Vec::new());
    for volume in &answer.volumes {
        let present = Path::new("/dev/disk/by-uuid").join(&volume.uuid).exists();
        let mapping = Mapping::open(&volume.name);
        let own = mapping.as_ref().is_ok_and(|mapping| mapping.check_owner(&volume.uuid).is_ok());
        let target = mapping.ok().filter(|_| own).and_then(|mapping| mapping.target().ok());
        let state = match (&target, present) {
            (Some(_), _) => "open",
            (None, _) if Mapping::is_there(&volume.name).unwrap_or_default() => "another mapping of its name",
            (None, true) => "closed",
            (None, false) => "no disk",
        };
        let header = if volume.signed { "signed" } else { "allow-list" };
        table.section(&volume.name).row("state", state).row("uuid", &volume.uuid).row("key", &volume.key_uri);
        table.row("header", header);
        if let Some(target) = &target {
            table
                .row("mapping", format!("{}, {} sectors on {}", target.cipher, target.length, target.device));
        }
        list.push(json!({
            "name": volume.name, "uuid": volume.uuid, "key": volume.key_uri, "header": header, "state": state,
            "prepared": volume.prepared, "cipher": target.map(|target| target.cipher),
        }));
    }
    // A machine without the program that opens such devices has none of them.
    let mounts = hub.secure_unmounts().list_secure_mounts(ListSecureMountsRequest {}).await;
    for mount in mounts.map(|answer| answer.into_inner().mounts).unwrap_or_default() {
        table.section(&mount.mount_point).row("state", "open").row("device", &mount.device);
        table.row("mapping", &mount.mapper_name);
        table.row("when closed", if mount.ephemeral { "lost" } else { "kept" });
        list.push(json!({
            "name": mount.mapper_name, "at": mount.mount_point, "device": mount.device, "state": "open",
            "ephemeral": mount.ephemeral,
        }));
    }
    if as_json { console.json(&Value::Array(list)) } else { console.table(&table) }
}
