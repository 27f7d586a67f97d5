//! What opening a root disk costs, for programs: `target/rootdisk-summary.json` has an object for each tool that makes an initramfs.
//!
//! `added_kb` is the initramfs less the one that the same tool makes on a machine without `unlock.toml`, `initrd_kb` its whole size,
//! `unlock_seconds` the time from the start of `initrd-unlock` to the open volume, `boot_seconds` that from the kernel's start to the end of the
//! boot. Under emulation, with a debug build.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use serde_json::{Value, json};

/// Adds an object to the file, in place of an older one of the same name, and prints it.
pub(crate) fn record(name: &str, initrd: &Path, without: &Path, console: &str) {
    let [with, without] = [initrd, without].map(|path| fs::metadata(path).unwrap().len() / 1024);
    assert!(with > without, "{name}: {with} KiB, without the configuration {without} KiB");
    let line = console.lines().find_map(|line| line.split_once("disks and headers ")).unwrap().1;
    let seconds: Vec<f64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert_eq!(seconds.len(), 3, "{line}");
    let booted = console.lines().find_map(|line| line.split_once("ROOT-BOOTED after ")).unwrap().1;
    let boot: f64 = booted.split(' ').next().unwrap().parse().unwrap();
    let unlock = (seconds.iter().sum::<f64>() * 10.0).round() / 10.0;
    let row = json!({
        "initrd_kb": with,
        "added_kb": with - without,
        "unlock_seconds": unlock,
        "boot_seconds": boot,
    });
    println!("rootdisk-summary: {}", json!({ name: row }));

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/rootdisk-summary.json");
    // Tests run beside each other.
    let lock = File::create(path.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    let before = fs::read_to_string(&path).unwrap_or_default();
    let mut rows: BTreeMap<String, Value> = serde_json::from_str(&before).unwrap_or_default();
    rows.insert(name.to_owned(), row);
    fs::write(&path, format!("{}\n", serde_json::to_string_pretty(&rows).unwrap())).unwrap();
}
