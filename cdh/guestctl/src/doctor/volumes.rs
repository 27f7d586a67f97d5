//! The volumes of the hub's configuration: whether their disks are there, and whether systemd opens them as it should.

use std::path::Path;

use cc_daemon::address::Address;
use cc_mapping::Mapping;
use cc_protos::guest_services::{ListVolumesRequest, Volume};
use tonic::Code;

use super::Finding;
use crate::{connect::Hub, disk::Enabled};

/// Checks the volumes that the hub at `address` knows. One that does not know the question has none, and only root of the machine, not
/// of a container, is told of them and sees their mappings: others look at none.
pub(super) async fn check(address: &Address) -> Vec<Finding> {
    let hub = Hub::at(address);
    let answer = match hub.volumes().list_volumes(ListVolumesRequest {}).await {
        Ok(answer) => answer.into_inner(),
        // What is wrong with the hub itself is told elsewhere.
        Err(status)
            if matches!(
                status.code(),
                Code::Unimplemented | Code::Unavailable | Code::PermissionDenied | Code::Unauthenticated
            ) =>
        {
            return Vec::new();
        }
        Err(status) => {
            return vec![Finding::from_failure("volumes", &hub.failed("asking about volumes", &status))];
        }
    };
    let root = Path::new("/");
    let look = |volume: &Volume| {
        let enabled = Enabled::of(root, volume, &answer.key_socket);
        let device = root.join("dev/disk/by-uuid").join(&volume.uuid).exists();
        let open = Mapping::open(&volume.name).is_ok_and(|mapping| mapping.check_owner(&volume.uuid).is_ok());
        finding(volume, device, open, enabled)
    };
    answer.volumes.iter().map(look).collect()
}

/// What is to be said of a volume: whether its disk is there, whether it is open, and whether systemd opens it.
fn finding(volume: &Volume, device: bool, open: bool, enabled: Enabled) -> Finding {
    let name = &volume.name;
    let what = format!("volume {name}");
    let state = match (open, volume.prepared) {
        (true, _) => "open",
        (false, true) => "closed, its header is checked",
        (false, false) => "closed",
    };
    let again = || format!("guestctl disk enable {name} --replace, then systemctl daemon-reload");
    match enabled {
        Enabled::Amiss { what: why, unchecked: true } => Finding::fail(
            what,
            format!("{state}, and {why}: it would be opened with the header on its disk, or not at all"),
            format!("look at /etc/crypttab; {}", again()),
        ),
        Enabled::Amiss { what: why, unchecked: false } => {
            Finding::fail(what, format!("{state}, and {why}: it stays closed, or is not watched"), again())
        }
        // As where the programs of `make install` have given way to packages.
        Enabled::NoProgram(program) => Finding::fail(
            what,
            format!(
                "{state}, and its drop-in calls {program}, which cannot be run here: systemd cannot open it"
            ),
            format!(
                "guestctl disk enable {name}, with the --options that its line of /etc/crypttab has, then systemctl daemon-reload"
            ),
        ),
        // Perhaps it is made later, or a program of the initramfs has opened it.
        Enabled::No if !device => Finding::warn(
            what,
            format!("{state}; no disk has a header with the UUID {}, and systemd opens none", volume.uuid),
            format!(
                "attach the disk, or make it: guestctl disk format {name} --device PATH; then guestctl disk enable {name}"
            ),
        ),
        Enabled::Yes if !device => Finding::fail(
            what,
            format!("no disk has a header with the UUID {}", volume.uuid),
            format!(
                "attach the disk; a blank one becomes the volume by guestctl disk format {name} --device PATH"
            ),
        ),
        Enabled::No if open => Finding::warn(
            what,
            "open, and systemd does not open it at boot",
            format!("guestctl disk enable {name}"),
        ),
        Enabled::No => Finding::warn(
            what,
            "its disk is there, and systemd does not open it",
            format!("guestctl disk enable {name}"),
        ),
        Enabled::Yes if !open => Finding::fail(
            what,
            format!("{state}, though systemd has to open it"),
            format!(
                "systemctl status systemd-cryptsetup@{name} says why; names with \"-\": systemd-escape {name}"
            ),
        ),
        Enabled::Yes if !volume.signed => Finding::warn(
            what,
            "open; its header needs no tag, so it may be the host's",
            "sign it (guestctl disk sign) and remove header = \"allow-list\"",
        ),
        Enabled::Yes => Finding::ok(what, "open"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Mark;

    #[test]
    fn a_volume_is_good_if_it_is_open_and_systemd_opens_it_as_it_should() {
        let volume = |signed| Volume { name: "data".to_owned(), signed, ..Volume::default() };
        let amiss = |unchecked| Enabled::Amiss { what: "the line is wrong".to_owned(), unchecked };
        let gone = || Enabled::NoProgram("/usr/local/bin/guestctl".to_owned());
        for (signed, device, open, enabled, mark, part) in [
            (true, true, true, Enabled::Yes, Mark::Ok, "open"),
            (false, true, true, Enabled::Yes, Mark::Warn, "needs no tag"),
            (true, true, false, Enabled::Yes, Mark::Fail, "has to open it"),
            (true, false, false, Enabled::Yes, Mark::Fail, "no disk"),
            (true, false, false, Enabled::No, Mark::Warn, "no disk"),
            (true, true, false, Enabled::No, Mark::Warn, "does not open it"),
            (true, true, true, Enabled::No, Mark::Warn, "at boot"),
            (true, true, true, amiss(true), Mark::Fail, "the line is wrong: it would be opened with"),
            (true, true, false, amiss(false), Mark::Fail, "the line is wrong: it stays closed"),
            (true, true, true, gone(), Mark::Fail, "calls /usr/local/bin/guestctl, which cannot be run"),
            (true, true, false, gone(), Mark::Fail, "calls /usr/local/bin/guestctl, which cannot be run"),
        ] {
            let finding = finding(&volume(signed), device, open, enabled);
            assert_eq!(finding.mark, mark, "{finding:?}");
            assert!(finding.what == "volume data" && finding.detail.contains(part), "{finding:?}");
            assert_eq!(finding.next.is_empty(), mark == Mark::Ok, "{finding:?}");
            if finding.detail.contains("/usr/local/bin/guestctl") {
                assert!(finding.next.starts_with("guestctl disk enable data,"), "{finding:?}");
            }
        }
    }
}
