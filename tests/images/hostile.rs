//! Images that mean harm, as a registry hands them out: each is refused by the name of a rule, and nothing is left of it.

use std::{fs, io::Write as _};

use cc_tests::image::{LAYER, Layer, gzip, sha256};
use flate2::{Compression, write::GzEncoder};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::json;

use crate::{Workshop, hub::Hub};

/// A ustar header: mode 0755, owner 0:0, time 0.
fn header(name: &[u8], kind: u8, size: u64, target: &[u8]) -> [u8; 512] {
    let mut block = [0; 512];
    let mut set = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    set(0, &name[..name.len().min(100)]);
    set(100, b"0000755\x000000000\x000000000\0");
    set(124, format!("{size:011o}\0").as_bytes());
    set(136, b"00000000000\0        ");
    set(156, &[kind]);
    set(157, target);
    set(257, b"ustar\x0000");
    set(329, b"0000001\x000000003\0");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// A pax header that names the next member.
fn long_name(name: &str) -> Vec<u8> {
    let rest = " path=\n".len() + name.len();
    let length = (rest + 1..).find(|length| length.to_string().len() + rest == *length).unwrap();
    let mut out = header(b"pax", b'x', length as u64, b"").to_vec();
    out.extend(format!("{length} path={name}\n").bytes());
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

fn ended(blocks: &[&[u8]]) -> Vec<u8> {
    [&blocks.concat()[..], &[0; 1024]].concat()
}

impl Workshop {
    /// An image of this one archive, in the registry.
    fn push_archive(&self, tag: &str, archive: &[u8]) {
        self.push_layer(tag, self.layout.gzip(archive).unwrap());
    }

    fn push_layer(&self, tag: &str, layer: Layer) {
        self.layout.image(tag, &[layer]).unwrap();
        self.push(tag);
    }

    fn push_compressed(&self, tag: &str, compression: &str, blob: &[u8]) {
        let descriptor = self.layout.blob(&format!("{LAYER}+{compression}"), blob).unwrap();
        self.push_layer(tag, Layer { descriptor, diff_id: sha256(b"not reached") });
    }
}

#[test]
fn archives_that_lead_out_or_ask_for_what_is_not_given_are_refused() {
    let Some(shop) = Workshop::open() else { return };
    let outside = shop.path("outside");
    fs::write(&outside, "untouched").unwrap();
    let up = format!("../../../../../../../../..{}", outside.display());
    let through = outside.parent().unwrap().to_str().unwrap().as_bytes();
    let file = |name: &str| [&header(name.as_bytes(), b'0', 4, b"")[..], b"evil", &[0; 508]].concat();
    let hub = Hub::start(&shop, "");
    for (tag, archive, more, code) in [
        ("dots", ended(&[&file(&up)]), &[][..], "LAYER_ENTRY_REFUSED"),
        (
            "through",
            ended(&[&header(b"way", b'2', 0, through), &file("way/outside")]),
            &[],
            "LAYER_ENTRY_REFUSED",
        ),
        ("hard", ended(&[&header(b"hard", b'1', 0, up.as_bytes())]), &[], "LAYER_ENTRY_REFUSED"),
        ("device", ended(&[&header(b"null", b'3', 0, b"")]), &["--refuse-devices"], "LAYER_ENTRY_REFUSED"),
        ("mark", ended(&[&header(b".wh...", b'0', 0, b"")]), &[], "LAYER_ENTRY_REFUSED"),
        (
            "long",
            ended(&[&long_name(&"n".repeat(64 << 10)), &header(b"n", b'0', 0, b"")]),
            &[],
            "LAYER_LIMIT",
        ),
        (
            "deep",
            ended(&[&long_name(&("d/".repeat(1000) + "d")), &header(b"d", b'0', 0, b"")]),
            &[],
            "LAYER_LIMIT",
        ),
        ("cut", file("cut")[..514].to_vec(), &[], "LAYER_ARCHIVE_REFUSED"),
        (
            "deletion",
            ended(&[&header(b"way", b'2', 0, through), &header(b"way/.wh.outside", b'0', 0, b"")]),
            &[],
            "LAYER_ENTRY_REFUSED",
        ),
    ] {
        shop.push_archive(tag, &archive);
        shop.refused(tag, more, code);
        // Containers have devices; the hub takes them over, unless it is told not to.
        if tag != "device" {
            hub.refused(&shop, tag, code);
        }
        assert_eq!(fs::read_to_string(&outside).unwrap(), "untouched", "{tag}");
    }
}

/// A frame of Zstandard that is so many times 128 KiB of zeros, each in four bytes (RFC 8878, 3.1.1.2.2: blocks of one byte).
fn zeros_of_zstandard(blocks: usize) -> Vec<u8> {
    let block = |last: u32| {
        let header = (128 << 10) << 3 | 1 << 1 | last;
        [&u32::to_le_bytes(header)[..3], &[0]].concat()
    };
    // A window of 1 MiB, and nothing that tells the length.
    let header = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 10 << 3];
    [header, block(0).repeat(blocks - 1), block(1)].concat()
}

#[test]
fn layers_that_grow_without_end_are_stopped() {
    let Some(shop) = Workshop::open() else { return };
    // The end of an archive may be followed by zeros, of which no header tells: 200 megabytes are 200 kilobytes of gzip. The limit is the
    // operator's: honest files of zeros shrink as much.
    let mut bomb = GzEncoder::new(Vec::new(), Compression::fast());
    let zeros = vec![0; 1 << 20];
    (0..200).for_each(|_| bomb.write_all(&zeros).unwrap());
    shop.push_compressed("gzip", "gzip", &bomb.finish().unwrap());
    let error = shop.refused("gzip", &["--max-bytes", "50000000"], "LAYER_LIMIT");
    assert!(error.contains("more than 50000000 bytes when uncompressed"), "{error}");
    // A file that says that it is long.
    let claim = gzip(&[&header(b"bomb", b'0', 2 << 30, b"")[..], &vec![0; 8 << 20]].concat()).unwrap();
    shop.push_compressed("claim", "gzip", &claim);
    let error = shop.refused("claim", &["--max-bytes", "50000000"], "LAYER_LIMIT");
    assert!(error.contains("more than 50000000 bytes in its files"), "{error}");
    let hub = Hub::start(&shop, "max_store_bytes = 50000000\n");
    let error = hub.refused(&shop, "gzip", "IMAGE_STORE_FULL");
    assert!(error.contains("50000000"), "{error}");
    drop(hub);
    let hub = Hub::start(&shop, "");

    // With Zstandard ten kilobytes are 300 megabytes, which nothing honest is: 256 MiB of them come out without an operator's limit.
    shop.push_compressed("zstd", "zstd", &zeros_of_zstandard(2400));
    for error in [shop.refused("zstd", &[], "LAYER_LIMIT"), hub.refused(&shop, "zstd", "LAYER_LIMIT")] {
        assert!(error.contains("more than 268435456 bytes when uncompressed"), "{error}");
    }

    // A frame of Zstandard that asks for a window of 2 GiB, which its header can (RFC 8878, 3.1.1.1.2), with one empty block.
    shop.push_compressed("window", "zstd", &[0x28, 0xb5, 0x2f, 0xfd, 0, 21 << 3, 1, 0, 0]);
    shop.refused("window", &[], "LAYER_LIMIT");
    hub.refused(&shop, "window", "LAYER_LIMIT");
}

#[test]
fn ten_million_directories_are_stopped() {
    let Some(shop) = Workshop::open() else { return };
    // They have to be remembered until the end, for their times. That bound comes before the one of entries.
    let many = header(&[b"d".repeat(98), b"/".to_vec()].concat(), b'5', 0, b"").repeat(100_000);
    shop.push_compressed("many", "gzip", &gzip(&many).unwrap().repeat(100));
    let hub = Hub::start(&shop, "");
    for error in [shop.refused("many", &[], "LAYER_LIMIT"), hub.refused(&shop, "many", "LAYER_LIMIT")] {
        let words = "more than 33554432 bytes of names of directories and deletions";
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn a_manifest_with_ten_thousand_layers_is_refused_before_anything_is_fetched() {
    let Some(shop) = Workshop::open() else { return };
    let layer = shop.layout.gzip(&ended(&[&header(b"a", b'0', 0, b"")])).unwrap();
    shop.layout.image("many", &vec![layer; 10_000]).unwrap();
    shop.push("many");
    let error = shop.refused("many", &[], "IMAGE_DOCUMENT_INVALID");
    assert!(error.contains("layers"), "{error}");
    Hub::start(&shop, "").refused(&shop, "many", "IMAGE_DOCUMENT_INVALID");
}

#[test]
fn a_signature_of_another_image_admits_nothing() {
    let Some(shop) = Workshop::open() else { return };
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    fs::write(shop.path("key.pub"), key.public_key_pem()).unwrap();
    let requirement = json!({
        "type": "sigstoreSigned", "keyPath": shop.path("key.pub"), "signedIdentity": {"type": "matchRepository"},
    });
    let policy = shop.path("policy.json").display().to_string();
    fs::write(&policy, json!({"default": [requirement]}).to_string()).unwrap();
    let image = |tag: &str| {
        let layer = shop.layout.gzip(&ended(&[&header(tag.as_bytes(), b'0', 0, b"")])).unwrap();
        let digest = shop.layout.image(tag, &[layer]).unwrap();
        shop.push(tag);
        digest
    };
    let (good, bad) = (image("good"), image("bad"));
    let signature = shop.layout.sign(&good, &shop.name("good"), &key).unwrap();
    shop.push(&signature);
    let judged = ["--policy", policy.as_str()];
    let out = shop.pull("good", &shop.path("good-root"), &judged);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    shop.refused("bad", &judged, "IMAGE_UNSIGNED");
    // The signature of one image under the name of the other's.
    let name = format!("{}.sig", bad.replace(':', "-"));
    shop.layout.push(&signature, &shop.registry, "app", &name).unwrap();
    let error = shop.refused("bad", &judged, "IMAGE_SIGNATURE_REFUSED");
    assert!(error.contains(&good), "{error}");
    let hub = Hub::start(&shop, &format!("image_security_policy_uri = {policy:?}\n"));
    let error = hub.refused(&shop, "bad", "IMAGE_SIGNATURE_REFUSED");
    assert!(error.contains(&good), "{error}");
    let out = hub.pull(&shop, "good", "good");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn blobs_that_a_registry_has_altered_or_cut_are_refused() {
    let Some(shop) = Workshop::open() else { return };
    let hub = Hub::start(&shop, "");
    // Random enough not to shrink: a layer of several buffers, below one that is right.
    let mut content = vec![0; 1 << 20];
    aws_lc_rs::rand::fill(&mut content).unwrap();
    for (tag, code) in [("altered", "LAYER_DIGEST_MISMATCH"), ("cut", "IMAGE_LENGTH")] {
        let right = shop.layout.gzip(&ended(&[&header(b"right", b'0', 0, b"")])).unwrap();
        content[0] = content[0].wrapping_add(1);
        let archive = ended(&[&header(b"random", b'0', 1 << 20, b""), &content]);
        let wrong = shop.layout.gzip(&archive).unwrap();
        let digest = wrong.descriptor["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
        shop.layout.image(tag, &[right, wrong]).unwrap();
        shop.push(tag);
        let blobs = shop.path("registry/docker/registry/v2/blobs/sha256");
        let blob = blobs.join(&digest[..2]).join(&digest).join("data");
        let mut bytes = fs::read(&blob).unwrap();
        match tag {
            "altered" => bytes[700_000] ^= 1,
            _ => bytes.truncate(700_000),
        }
        fs::write(&blob, bytes).unwrap();
        let error = shop.refused(tag, &[], code);
        assert!(error.contains(&digest), "{error}");
        // The layer that was right has a name in the store and stays for others; of the wrong one nothing does.
        let out = hub.pull(&shop, tag, "refused");
        let error = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && error.contains(&format!("[{code}]")), "{tag}: {error}");
        let layers = crate::left_in(&hub.store().join("layers"));
        assert!(layers.len() <= 1 && layers.iter().all(|name| !name.starts_with('.')), "{layers:?}");
        assert!(!hub.bundle("refused").exists() && hub.mounts() == 0, "{tag}");
    }
}
