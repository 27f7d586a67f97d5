//! The demo's disk: a header that its host has changed, which the distribution's cryptsetup opens with any key, and the guest does not.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::ensure;
use cc_tests::mutant;
use cc_tests::process::command;

use super::{guestctl, heading, refused, say};

const CRYPTSETUP: &str = "/usr/sbin/cryptsetup";
/// Bytes of the volume, most of them its header.
const DISK_LEN: u64 = 32 << 20;

/// The round of the demo.
pub(super) fn round() -> anyhow::Result<()> {
    heading("a disk: its header is what the host says it is");
    if !Path::new(CRYPTSETUP).exists() {
        say("left out: this machine has no cryptsetup");
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (disk, secret, token) = (path("disk.img"), path("secret"), path("token"));
    let mut key = [0; 64];
    aws_lc_rs::rand::fill(&mut key)?;
    fs::write(&secret, key)?;
    File::create_new(&disk)?.set_len(DISK_LEN)?;
    let fast = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
    let format = ["luksFormat", "-q", "--type", "luks2", "--key-file", &secret];
    ensure!(cryptsetup(&[&format[..], &fast, &[&disk]].concat())?, "the volume was not made");
    fs::write(&token, guestctl(&["disk", "sign", &disk, "--key", &secret])?)?;
    ensure!(cryptsetup(&["token", "import", "--json-file", &token, &disk])?, "the tag was not taken");
    guestctl(&["disk", "check", &disk, "--key", &secret])?;

    heading("the host writes another header: a keyslot with the null cipher");
    File::options().write(true).open(&disk)?.write_all_at(&mutant::any_key_opens(Path::new(&disk))?, 0)?;
    let any = path("any");
    fs::write(&any, "a key that nobody has set")?;
    // It takes a release before 2.8.1, and a kernel with device-mapper and the null cipher.
    if cryptsetup(&["open", "--test-passphrase", "--key-file", &any, &disk])? {
        say("cryptsetup has opened it with a key that nobody has set");
    } else {
        say(
            "not here: cryptsetup before 2.8.1 opens it where the kernel has device-mapper and the null cipher",
        );
    }
    refused(&["disk", "check", &disk], "null-cipher")
}

fn cryptsetup(arguments: &[&str]) -> anyhow::Result<bool> {
    say(&format!("$ cryptsetup {}", arguments.join(" ")));
    Ok(command(CRYPTSETUP).args(arguments).output()?.status.success())
}
