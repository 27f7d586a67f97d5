//! Random layers over a few names come to the same tree in a bundle, in a folder and with `umoci unpack`.
//!
//! The names are few so that layers meet: directories that are named or only needed, files in the place of directories and the other way
//! round, deletions of what is there and of what is not, in directories that no other layer has.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use cc_tests::{
    process::{command, own_binary},
    stack::skip,
};

use crate::{Workshop, hub::Hub, tree};

/// Where symbolic links may be is nothing else: umoci follows links of lower layers, and so leaves the folder's own tree.
const NAMES: [&str; 10] = ["a", "b", "c", "a/a", "a/b", "b/a", "b/c", "a/a/a", "a/a/b", "a/b/c"];
/// How many images; each is one seed.
const IMAGES: u64 = 60;
/// How many are compared at the same time.
const AT_ONCE: usize = 8;

/// A generator whose numbers depend on the seed alone (Marsaglia, "Xorshift RNGs", 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % bound
    }

    fn one<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

/// A member of an archive.
fn member(out: &mut Vec<u8>, name: &str, kind: u8, (mode, owner, time): (u32, u32, usize), content: &str) {
    let mut block = [0; 512];
    let mut set = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    let (size, target) = if kind == b'2' { (0, content) } else { (content.len(), "") };
    set(0, name);
    set(100, &format!("{mode:07o}\0{owner:07o}\0{owner:07o}\0{size:011o}\0{time:011o}\0        "));
    set(157, target);
    set(257, "ustar\x0000");
    block[156] = kind;
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.extend(block);
    if size > 0 {
        out.extend(content.bytes());
        out.resize(out.len().next_multiple_of(512), 0);
    }
}

/// What a layer does, as text for a failure, and its archive.
fn layer(random: &mut Random) -> (String, Vec<u8>) {
    let (mut told, mut archive) = (String::new(), Vec::new());
    if random.below(2) == 0 {
        member(&mut archive, "./", b'5', (0o755, 0, 1), "");
        told.push_str(" ./");
    }
    if random.below(12) == 0 {
        member(&mut archive, ".wh..wh..opq", b'0', (0o644, 0, 1), "");
        told.push_str(" .wh..wh..opq");
    }
    let count = 1 + random.below(6);
    let names: BTreeSet<&str> = (0..count).map(|_| random.one(&NAMES)).collect();
    // What is something else than a directory in this layer, or deleted by it: nothing of the layer can be in it.
    let mut ended: Vec<&str> = Vec::new();
    let is_in = |name: &str, above: &str| name.strip_prefix(above).is_some_and(|rest| rest.starts_with('/'));
    for name in names {
        if ended.iter().any(|above| is_in(name, above)) {
            continue;
        }
        let (parent, last) = name.rsplit_once('/').map_or(("", name), |(parent, last)| (parent, last));
        let beside =
            |mark: &str| if parent.is_empty() { mark.to_owned() } else { format!("{parent}/{mark}") };
        let status = |random: &mut Random, modes: &[u32]| {
            (random.one(modes), random.one(&[0, 0, 7]), 1 + random.below(200))
        };
        let (text, kind) = match random.below(12) {
            0..=3 => (format!("{name}/"), b'5'),
            4 | 5 if last == "c" => (name.to_owned(), b'2'),
            4 | 5 => (name.to_owned(), b'0'),
            6 => (name.to_owned(), b'6'),
            // umoci would go through the link.
            10 | 11 if last == "c" => (beside(&format!(".wh.{last}")), b'w'),
            7..=9 => (beside(&format!(".wh.{last}")), b'w'),
            _ => (format!("{name}/.wh..wh..opq"), b'w'),
        };
        told.push_str(&format!(" {text}{}", if kind == b'2' { "@" } else { "" }));
        match kind {
            b'5' => {
                // None with the set-group-ID bit: umoci has directories that are only needed inherit it, and the group.
                let status = status(random, &[0o700, 0o755, 0o1777, 0o711]);
                member(&mut archive, &text, kind, status, "");
            }
            b'w' => member(&mut archive, &text, b'0', (0o644, 0, 1), ""),
            _ => {
                let status = status(random, &[0o644, 0o4755, 0o600]);
                let content = random.one(&["", "x", "elsewhere", "../b"]);
                let content = if kind == b'2' && content.is_empty() { "nowhere" } else { content };
                member(&mut archive, &text, kind, status, if kind == b'6' { "" } else { content });
            }
        }
        if kind != b'5' && !text.ends_with(".opq") {
            ended.push(name);
        }
    }
    archive.extend([0; 1024]);
    (told, archive)
}

/// Without the times of directories that `is_any` says: where the archives say nothing, they are made when it is unpacked.
fn timeless(tree: &BTreeMap<PathBuf, String>, is_any: fn(&str) -> bool) -> BTreeMap<PathBuf, String> {
    let strip = |line: &String| {
        let mut words: Vec<&str> = line.split(' ').collect();
        if words[0].starts_with('4') && is_any(words[2]) {
            words.remove(2);
        }
        words.join(" ")
    };
    tree.iter().map(|(path, line)| (path.clone(), strip(line))).collect()
}

#[test]
fn random_layers_are_one_tree_in_a_bundle_in_a_folder_and_with_umoci() {
    if command("umoci").arg("--version").output().is_err() {
        return skip("needs umoci");
    }
    let Some(shop) = Workshop::open() else { return };
    let images: Vec<_> = (1..=IMAGES).map(|seed| image(&shop, seed)).collect();
    let hub = Hub::start(&shop, &format!("layouts = [{:?}]\n", shop.folder.path()));
    let folder = shop.folder.path();
    // Each pull waits a while for an agent that is not there.
    let parts = images.chunks(images.len().div_ceil(AT_ONCE));
    let with_umoci: usize = std::thread::scope(|scope| {
        let part = |part| {
            scope.spawn({
                let hub = &hub;
                move || compare(folder, hub, part)
            })
        };
        let running: Vec<_> = parts.map(part).collect();
        running.into_iter().map(|part| part.join().unwrap()).sum()
    });
    assert!(with_umoci > images.len() / 2, "{with_umoci} of {} were compared with umoci", images.len());
}

/// Makes the image of the seed. Gives its name, its tag, and what its layers do.
fn image(shop: &Workshop, seed: u64) -> [String; 3] {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let layers: Vec<_> = (0..2 + random.below(3)).map(|_| layer(&mut random)).collect();
    let told: Vec<&String> = layers.iter().map(|(told, _)| told).collect();
    let what = format!("image {seed}: {told:#?}");
    let blobs: Vec<_> = layers.iter().map(|(_, archive)| shop.layout.gzip(archive).unwrap()).collect();
    let tag = format!("t{seed}");
    shop.layout.image(&tag, &blobs).unwrap();
    [format!("{}:{tag}", shop.layout.folder().display()), tag, what]
}

/// Compares the trees of these images. Gives how many of them umoci unpacks.
fn compare(folder: &Path, hub: &Hub, images: &[[String; 3]]) -> usize {
    let mut with_umoci = 0;
    for [image, tag, what] in images {
        let root = folder.join(format!("tree-{tag}"));
        let mut guestctl = own_binary("guestctl").unwrap();
        let ours = guestctl.args(["pull", &format!("oci:{image}"), "--rootfs"]).arg(&root).output().unwrap();
        let bundled = hub.pull_from(&format!("oci:{image}"), tag);
        let errors = [&ours, &bundled].map(|out| String::from_utf8_lossy(&out.stderr).into_owned());
        assert_eq!(ours.status.success(), bundled.status.success(), "{what}: {errors:?}");
        if !ours.status.success() {
            continue;
        }
        let seen = tree::of(&root);
        // Those of the archives have three digits.
        let stated = |tree| timeless(tree, |time| time.len() > "999.000000000".len());
        let bundle = tree::of(&hub.seen(tag, ""));
        tree::assert_equal(&stated(&bundle), &stated(&seen), &format!("the bundle of {what}"));

        let bundle = folder.join(format!("umoci-{tag}"));
        let unpacked = command("umoci").args(["unpack", "--image", image]).arg(&bundle).output().unwrap();
        // It does not put a directory that is only needed in the place of a file.
        if unpacked.status.success() {
            with_umoci += 1;
            // umoci sets times of directories also where the archives say nothing.
            let all = |tree| timeless(tree, |_| true);
            let unpacked = tree::of(&bundle.join("rootfs"));
            let theirs = all(&unpacked);
            tree::assert_equal(&all(&seen), &theirs, &format!("umoci and {what}"));
        }
        let _ = fs::remove_dir_all(bundle);
        fs::remove_dir_all(root).unwrap();
    }
    with_umoci
}
