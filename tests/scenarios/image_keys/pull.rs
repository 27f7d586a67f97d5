//! `guestctl pull` of images that real skopeo encrypted.

use std::path::Path;
use std::process::Output;

use cc_tests::process::{command, own_binary};
use cc_tests::stack::address;

use super::{KID, Workshop};

impl Workshop {
    /// Runs `guestctl pull` of the image in the layout `name` into the folder `<name>-root`.
    fn pull(&self, name: &str, more: &[&str]) -> Output {
        let mut guestctl = own_binary("guestctl").unwrap();
        guestctl.current_dir(self.stack.folder()).args(["pull", &format!("oci:{name}:v1"), "--rootfs"]);
        guestctl.arg(format!("{name}-root")).args(["--cdh", &address(&self.stack.hub_socket())]).args(more);
        guestctl.output().unwrap()
    }

    /// Everything in the folder `<name>-root`: type, mode, owner, size, time, target and content of each file.
    fn tree(&self, name: &str) -> String {
        const LIST: &str = "find . -mindepth 1 -printf '%P %y %m %U:%G %s %T@ %l\\n' | sort && \
                            find . -type f -exec sha256sum {} + | sort";
        let folder = self.path(&format!("{name}-root"));
        let out = command("sh").args(["-ec", LIST]).current_dir(folder).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    fn pulled(&self, name: &str, more: &[&str]) {
        let out = self.pull(name, more);
        assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stderr));
        assert_eq!(self.tree(name), self.tree("plain"), "{name}");
    }

    fn key(&self) {
        std::fs::write(self.key_dir.join("app"), [3; 32]).unwrap();
    }
}

fn names(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn what_skopeo_encrypted_unpacks_to_the_plain_tree_after_one_attestation() {
    let Some(shop) = Workshop::open(&[]) else { return };
    shop.key();
    assert!(shop.pull("plain", &[]).status.success());
    for (name, parameters, more) in [
        ("gcm", format!(":keypath=app::keyid={KID}"), &[][..]),
        ("ctr", format!(":keypath=app::keyid={KID}::algorithm=A256CTR"), &[]),
        ("random", String::new(), &[]),
        ("one-layer", format!(":keypath=app::keyid={KID}"), &["--encrypt-layer", "1"]),
    ] {
        let recipient = format!("provider:attestation-agent{parameters}");
        let to = format!("oci:{name}:v1");
        let arguments = [&["--encryption-key", &recipient][..], more, &["oci:plain:v1", &to]].concat();
        let out = shop.copy(&shop.provider, &arguments);
        assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stderr));
        shop.pulled(name, &[]);
    }
    // Compressed first and encrypted then it is read; at once, what skopeo says it encrypted is what it read.
    let zstd = ["--dest-compress-format", "zstd"];
    let recipient = ["--encryption-key", &format!("provider:attestation-agent:keypath=app::keyid={KID}")];
    for (arguments, from, to) in [
        (&zstd[..], "plain", "compressed"),
        (&recipient, "compressed", "zstd"),
        (&[zstd, recipient].concat(), "plain", "at-once"),
    ] {
        let names = [format!("oci:{from}:v1"), format!("oci:{to}:v1")];
        let out = shop.copy(&shop.provider, &[arguments, &names.each_ref().map(String::as_str)].concat());
        assert!(out.status.success(), "{to}: {}", String::from_utf8_lossy(&out.stderr));
    }
    assert_eq!(shop.layers("zstd")[0]["mediaType"], "application/vnd.oci.image.layer.v1.tar+zstd+encrypted");
    shop.pulled("zstd", &[]);
    let error = shop.pull("at-once", &[]).stderr;
    assert!(String::from_utf8_lossy(&error).contains("[LAYER_PLAIN_DIGEST]"));
    assert_eq!(shop.stack.quotes().unwrap(), 1, "one attestation for all keys of all layers");
}

#[test]
fn a_key_that_the_key_broker_withholds_leaves_nothing_and_says_which_layer_and_why() {
    let Some(shop) = Workshop::open(&[]) else { return };
    shop.key();
    let out = shop.encrypt(&format!(":keypath=app::keyid={KID}"), "oci:withheld:v1");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    shop.stack.set_policy("").unwrap();
    let before = names(shop.stack.folder());
    let out = shop.pull("withheld", &[]);
    let error = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && error.contains("LAYER_KEY_REFUSED"), "{error}");
    let layers = shop.layers("withheld");
    let digests = layers.iter().map(|layer| layer["digest"].as_str().unwrap());
    assert!(digests.into_iter().any(|digest| error.contains(digest)), "{error}");
    assert!(error.contains("[KBS_DENIED_POLICY]"), "{error}");
    assert_eq!(names(shop.stack.folder()), before, "nothing stays behind");
}

#[test]
fn private_keys_in_files_open_what_skopeo_encrypted_for_them() {
    let Some(shop) = Workshop::open(&[]) else { return };
    assert!(shop.pull("plain", &[]).status.success());
    let openssl = |arguments: &[&str]| {
        let out = command("openssl").args(arguments).current_dir(shop.stack.folder()).output().unwrap();
        assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    };
    openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072", "-out", "rsa.pem"]);
    openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "p256.pem"]);
    openssl(&["ecparam", "-name", "secp521r1", "-genkey", "-noout", "-out", "p521.pem"]);
    openssl(&["ecparam", "-name", "secp384r1", "-genkey", "-noout", "-out", "p384.pem"]);
    let keys = ["rsa", "p256", "p521", "p384"];
    for key in keys {
        openssl(&["pkey", "-in", &format!("{key}.pem"), "-pubout", "-out", &format!("{key}.pub")]);
        let recipient = format!("jwe:{key}.pub");
        let out =
            shop.copy("unused", &["--encryption-key", &recipient, "oci:plain:v1", &format!("oci:{key}:v1")]);
        assert!(out.status.success(), "{key}: {}", String::from_utf8_lossy(&out.stderr));
    }
    let recipients = keys.map(|key| ["--encryption-key".to_owned(), format!("jwe:{key}.pub")]);
    let recipients: Vec<&str> = recipients.as_flattened().iter().map(String::as_str).collect();
    let out = shop.copy("unused", &[&recipients[..], &["oci:plain:v1", "oci:all:v1"]].concat());
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    for key in ["rsa", "p256", "p521"] {
        shop.pulled(key, &["--decryption-key", "p256.pem", "--decryption-key", &format!("{key}.pem")]);
        shop.pulled("all", &["--decryption-key", &format!("{key}.pem")]);
        std::fs::remove_dir_all(shop.path("all-root")).unwrap();
    }
    for (image, more, code) in [
        ("p521", &["--decryption-key", "p256.pem"][..], "LAYER_KEY_REFUSED"),
        ("p384", &[], "LAYER_KEY_UNKNOWN"),
        ("p384", &["--decryption-key", "p384.pem"], "INPUT_MALFORMED"),
        ("p384", &["--decryption-key", "rsa.pem:file=/etc/hostname"], "ARGUMENT_REFUSED"),
        ("p384", &["--decryption-key", "provider:other"], "ARGUMENT_REFUSED"),
    ] {
        let _ = std::fs::remove_dir_all(shop.path(&format!("{image}-root")));
        let out = shop.pull(image, more);
        let error = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && error.contains(&format!("[{code}]")), "{image} {more:?}: {error}");
    }
    assert_eq!(shop.stack.quotes().unwrap(), 0, "nobody asked the hub");
}
