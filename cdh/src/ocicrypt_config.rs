//! `ocicrypt_config.json`: tells image tools of this guest that the hub unwraps image keys.
//!
//! The key-provider configuration of the ocicrypt project. The existing stack writes it at each start and sets
//! `OCICRYPT_KEYPROVIDER_CONFIG` to it; where that variable is set already, the image or its operator has one of his own, and
//! none is written. It holds no secret. Nothing in this process reads it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use cc_daemon::address::Address;
use serde_json::json;

/// Where it goes.
const PATH: &str = "/run/confidential-containers/cdh/ocicrypt_config.json";
/// Name of the key provider in images.
const PROVIDER: &str = "attestation-agent";

/// Writes the configuration that leads to the hub at `address` to its place. Nothing depends on it here: where it cannot be
/// written, a warning says so.
pub fn offer(address: &Address) {
    match write(Path::new(PATH), address) {
        Ok(()) => tracing::debug!(path = PATH, "wrote the configuration for image tools"),
        Err(error) => tracing::warn!(
            path = PATH,
            %error,
            "no configuration for image tools could be written: those need OCICRYPT_KEYPROVIDER_CONFIG"
        ),
    }
}

/// Writes the configuration that leads to the hub at `address`, in place of an older one: whole or not at all.
///
/// # Errors
/// What the system says.
fn write(path: &Path, address: &Address) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(folder)?;
    // Two hubs at once, as in tests, do not meet in one file.
    let aside = folder.join(format!(".ocicrypt_config.{}", std::process::id()));
    let result = write_aside(&aside, address).and_then(|()| fs::rename(&aside, path));
    if result.is_err() {
        // The first error is the one to report; the file may not exist at all.
        let _ = fs::remove_file(&aside);
    }
    result
}

fn write_aside(aside: &Path, address: &Address) -> io::Result<()> {
    match fs::remove_file(aside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(aside)?;
    file.write_all(text(address).as_bytes())
}

/// The hub speaks both protocols on a Unix socket, and image tools of the guest know ttrpc there.
fn text(address: &Address) -> String {
    let attributes = match address {
        Address::Unix(path) => json!({"ttrpc": format!("unix://{}", path.display())}),
        Address::Tcp(address) => json!({"grpc": address.to_string()}),
    };
    json!({"key-providers": {PROVIDER: attributes}}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_leads_to_the_hub_and_is_replaced_whole() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("run/cdh/ocicrypt_config.json");
        for (address, attribute, value) in [
            (
                "unix:///run/confidential-containers/cdh.sock",
                "ttrpc",
                "unix:///run/confidential-containers/cdh.sock",
            ),
            ("127.0.0.1:50000", "grpc", "127.0.0.1:50000"),
        ] {
            write(&path, &address.parse().unwrap()).unwrap();
            let text = fs::read(&path).unwrap();
            let read: serde_json::Value = serde_json::from_slice(&text).unwrap();
            assert_eq!(read, json!({"key-providers": {"attestation-agent": {attribute: value}}}));
            assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
        }
    }

    #[test]
    fn a_link_in_its_place_is_replaced_and_failures_leave_nothing() {
        let root = tempfile::tempdir().unwrap();
        let (path, target) = (root.path().join("ocicrypt_config.json"), root.path().join("target"));
        std::os::unix::fs::symlink(&target, &path).unwrap();
        write(&path, &"127.0.0.1:1".parse().unwrap()).unwrap();
        assert!(!target.exists() && fs::symlink_metadata(&path).unwrap().is_file());
        let folder = root.path().join("folder");
        fs::create_dir_all(folder.join("in-the-way")).unwrap();
        assert!(write(&folder, &"127.0.0.1:1".parse().unwrap()).is_err());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2, "what was written aside is gone");
    }
}
