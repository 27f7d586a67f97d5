//! What the hub refuses by its own settings and before it fetches, and that nothing is left when it says so.

use std::fs;

use crate::{Workshop, archive, hub::Hub, left_in, run};

impl Workshop {
    /// An image in the layout alone, of the folders that `make` fills by a shell script each.
    fn made(&self, tag: &str, scripts: &[&str]) -> String {
        let layer = |(number, script): (usize, &&str)| {
            let folder = self.path(&format!("{tag}-{number}"));
            fs::create_dir(&folder).unwrap();
            let mut shell = cc_tests::process::command("sh");
            run(shell.args(["-ec", script]).current_dir(&folder));
            self.layout.gzip(&archive(&folder)).unwrap()
        };
        let layers: Vec<_> = scripts.iter().enumerate().map(layer).collect();
        self.layout.image(tag, &layers).unwrap();
        format!("oci:{}:{tag}", self.layout.folder().display())
    }

    /// A hub that also takes images of the layout.
    fn hub_of_layout(&self, more: &str) -> Hub {
        Hub::start(self, &format!("layouts = [{:?}]\n{more}", self.folder.path()))
    }
}

#[test]
fn bounds_of_the_configuration_are_told_with_their_keys() {
    let Some(shop) = Workshop::open() else { return };
    let files = shop.made("files", &["seq 20 | xargs touch"]);
    let large = shop.made("large", &["truncate -s 2M sparse"]);
    let long = shop.made("long", &["mkdir -p deep/deep/deep/deep; touch a-long-name-of-an-entry"]);
    let device = shop.made("device", &["mknod null c 1 3"]);
    // Its layers are small, and each entry takes a place.
    let many = shop.made("many", &["seq 30 | while read n; do echo >$n; done"]);
    for (image, setting, code, told) in [
        (
            &files,
            "max_image_entries = 10",
            "LAYER_LIMIT",
            &["more than 10 entries", "image.max_image_entries"],
        ),
        (
            &large,
            "max_image_bytes = 1000000",
            "LAYER_LIMIT",
            &["more than 1000000 bytes", "image.max_image_bytes"],
        ),
        (
            &long,
            "max_name_bytes = 20",
            "LAYER_LIMIT",
            &["more than 20 bytes in a name", "image.max_name_bytes"],
        ),
        (&long, "max_depth = 2", "LAYER_LIMIT", &["more than 2 directories", "image.max_depth"]),
        (&device, "devices = \"refuse\"", "LAYER_ENTRY_REFUSED", &["device nodes", "image.devices"]),
        (&many, "max_store_bytes = 100000", "IMAGE_STORE_FULL", &["100000", "image.max_store_bytes"]),
    ] {
        let mut hub = shop.hub_of_layout(&format!("{setting}\n"));
        let out = hub.pull_from(image, "refused");
        let error = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && error.contains(&format!("[{code}]")), "{setting}: {error}");
        assert!(told.iter().all(|words| error.contains(words)), "{setting}: {error}");
        hub.assert_nothing_left(setting);
        hub.stop();
    }
    let hub = shop.hub_of_layout("devices = \"allow\"\nmax_ratio = 2000\n");
    for image in [&files, &large, &long, &device, &many] {
        let out = hub.pull_from(image, image.rsplit(':').next().unwrap());
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
}

#[test]
fn a_place_that_no_bundle_can_have_is_told_before_layers_are_fetched() {
    let Some(shop) = Workshop::open() else { return };
    let image = shop.made("app", &["touch file"]);
    let hub = shop.hub_of_layout("");
    // Whoever asked for the layer would be told that it is not there.
    for blob in fs::read_dir(shop.layout.folder().join("blobs/sha256")).unwrap() {
        let path = blob.unwrap().path();
        if fs::read(&path).unwrap().starts_with(&[0x1f, 0x8b]) {
            fs::remove_file(path).unwrap();
        }
    }
    let says = |bundle: &str, code: &str| {
        let out = hub.pull_from(&image, bundle);
        let error = String::from_utf8_lossy(&out.stderr);
        assert!(error.contains(&format!("[{code}]")), "{bundle}: {error}");
    };
    says("free", "IMAGE_NOT_FOUND");
    for (bundle, inside) in [("config", "config.json"), ("root", "rootfs/file")] {
        let inside = hub.bundle(bundle).join(inside);
        fs::create_dir_all(inside.parent().unwrap()).unwrap();
        fs::write(inside, "theirs").unwrap();
        says(bundle, "BUNDLE_EXISTS");
    }
    says("a/../b", "BUNDLE_PATH_REFUSED");
}

#[test]
fn when_a_refusal_is_told_nothing_is_left_of_the_other_layers() {
    let Some(shop) = Workshop::open() else { return };
    let many = "for d in $(seq 40); do mkdir $d; (cd $d; seq 100 | xargs touch); done; mkdir ";
    let layers: Vec<String> = (0..4).map(|number| format!("{many}own-{number}")).collect();
    let mut layers: Vec<&str> = layers.iter().map(String::as_str).collect();
    layers.push("mknod null c 1 3");
    let image = shop.made("image", &layers);
    let hub = shop.hub_of_layout("devices = \"refuse\"\nmax_concurrent_layer_downloads_per_image = 5\n");
    for _ in 0..3 {
        let out = hub.pull_from(&image, "refused");
        assert!(String::from_utf8_lossy(&out.stderr).contains("[LAYER_ENTRY_REFUSED]"));
        let left = left_in(&hub.store().join("layers"));
        assert!(left.iter().all(|name| !name.starts_with('.')), "{left:?}");
    }
}
