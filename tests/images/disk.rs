//! Disks that are full, at every stage of a pull: what is said names the folder, and nothing is left.

use std::{
    fs,
    path::{Path, PathBuf},
};

use cc_tests::process::command;

use crate::{Workshop, archive, hub::Hub, left_in, run};

/// A file system in memory, gone at the end.
struct Small(PathBuf);

impl Small {
    fn mount(at: &Path, options: &str) -> Self {
        fs::create_dir_all(at).unwrap();
        run(command("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at));
        Self(at.to_owned())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = command("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Two layers: files, and then a replaced one and a deletion.
fn make_image(shop: &Workshop) {
    let (one, two) = (shop.path("one"), shop.path("two"));
    fs::create_dir_all(one.join("a/b")).unwrap();
    fs::create_dir_all(two.join("a")).unwrap();
    for (path, size) in [("large", 400_000), ("a/small", 10), ("a/b/empty", 0), ("a/gone", 5000)] {
        fs::write(one.join(path), vec![b'x'; size]).unwrap();
    }
    fs::write(two.join("a/.wh.gone"), "").unwrap();
    fs::write(two.join("large"), vec![b'y'; 100_000]).unwrap();
    let layers = [one, two].map(|folder| shop.layout.gzip(&archive(&folder)).unwrap());
    shop.layout.image("it", &layers).unwrap();
    shop.push("it");
}

/// By bytes and by files: the latter end at every single call that makes one.
fn sizes(bytes: u32, files: u32) -> impl Iterator<Item = String> {
    let sizes = (0..bytes).map(|step| format!("size={}k", 4 + 64 * step));
    sizes.chain((1..=files).map(|count| format!("size=4m,nr_inodes={count}")))
}

#[test]
fn a_full_disk_is_told_with_the_folder_and_nothing_is_left() {
    let Some(shop) = Workshop::open() else { return };
    make_image(&shop);
    let place = shop.path("small");
    let (mut failures, mut passed) = (0, 0);
    for options in sizes(12, 16) {
        let small = Small::mount(&place, &options);
        let target = place.join("root");
        let out = shop.pull("it", &target, &[]);
        let error = String::from_utf8_lossy(&out.stderr);
        if out.status.success() {
            passed += 1;
            assert_eq!(left_in(&place), ["root"], "{options}");
        } else {
            failures += 1;
            assert_eq!(out.status.code(), Some(7), "{options}: the platform is to blame: {error}");
            assert!(error.contains("_STORAGE]"), "{options}: {error}");
            assert!(error.contains(target.to_str().unwrap()), "{options}: the folder is not named: {error}");
            assert!(
                error.contains("No space left") && error.contains("free some space"),
                "{options}: {error}"
            );
            assert_eq!(left_in(&place), [""; 0], "{options}: {error}");
        }
        drop(small);
    }
    assert!(failures >= 10 && passed >= 2, "{failures} failures, {passed} successes");
}

/// What is in a folder of the hub's store; nothing where there is none.
fn names(hub: &Hub, folder: &str) -> Vec<String> {
    let folder = hub.store().join(folder);
    if folder.exists() { left_in(&folder) } else { Vec::new() }
}

#[test]
fn a_hub_whose_store_or_bundle_is_full_says_so_and_leaves_nothing() {
    let Some(shop) = Workshop::open() else { return };
    make_image(&shop);
    let mut hub = Hub::prepare(&shop, "");
    let (mut failures, mut passed) = (0, 0);
    // The store is nearly full: layers, notes, the overlay. Then the place of the bundle: folders and config.json.
    let stores = sizes(14, 44).step_by(2).map(|options| (hub.store(), options));
    let bundles = ["size=4k", "size=8k", "size=4m,nr_inodes=2", "size=4m,nr_inodes=3", "size=4m,nr_inodes=4"];
    let bundles = bundles.map(|options| (hub.bundle(""), options.to_owned()));
    for (place, options) in stores.chain(bundles).collect::<Vec<_>>() {
        let small = Small::mount(&place, &options);
        // Where the store is not the full disk, it has what passed before.
        let known = names(&hub, "images");
        hub.run();
        let out = hub.pull(&shop, "it", "b");
        let error = String::from_utf8_lossy(&out.stderr);
        if out.status.success() {
            passed += 1;
            assert_eq!(fs::metadata(hub.seen("b", "large")).unwrap().len(), 100_000, "{options}");
            assert!(!hub.seen("b", "a/gone").exists(), "{options}");
        } else {
            failures += 1;
            // What cdh-storage cannot even begin with is in its log: it ends before it serves.
            let told = ["LAYER_STORAGE", "IMAGE_STORAGE", "STORAGE_FAILED", "STORAGE_MOUNT", "STORAGE_GONE"];
            assert!(told.iter().any(|code| error.contains(&format!("[{code}]"))), "{options}: {error}");
            if !error.contains("STORAGE_GONE") {
                assert!(error.contains("No space left"), "{options}: {error}");
                // What cannot be mounted is told by the bundle.
                let place = if error.contains("STORAGE_MOUNT") { hub.bundle("b") } else { place };
                assert!(error.contains(place.to_str().unwrap().trim_end_matches('/')), "{options}: {error}");
            }
            assert!(!hub.bundle("b").exists() && hub.mounts() == 0, "{options}: {error}");
            for folder in ["layers", "images", "overlay"] {
                let names = names(&hub, folder);
                let right = match folder {
                    // Those that were whole before something else failed may stay.
                    "layers" => names.iter().all(|name| !name.starts_with('.')),
                    "images" => names == known,
                    _ => names.is_empty(),
                };
                assert!(right, "{options}: {folder}: {names:?}");
            }
        }
        hub.stop();
        drop(small);
        let _ = fs::remove_dir_all(hub.bundle(""));
    }
    assert!(failures >= 10 && passed >= 2, "{failures} failures, {passed} successes");
    hub.run();
    assert!(hub.pull(&shop, "it", "b").status.success());
}
