//! The demo's images: one that is signed and encrypted is pulled after attestation; one without a signature is refused by
//! the policy before anything is fetched of it; and one whose key the key broker withholds stays closed.

use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use cc_tests::image::Layout;
use cc_tests::process::{Process, command, own_binary};
use cc_tests::registry::Registry;
use cc_tests::stack::{Options, Stack, address};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::json;

use super::{guestctl, heading, refused, say};

/// What the image holds.
const GREETING: &str = "hello from inside\n";
/// Name of the images, up to the tag.
const REPOSITORY: &str = "team/app";
/// The key that the key broker gives to attested guests, and the one that it does not.
const KEYS: [&str; 2] = ["default/image-kek/app", "default/image-kek/withheld"];

/// Where the images are.
struct Place<'a> {
    layout: &'a Layout,
    /// Where this machine has one.
    registry: Option<Registry>,
    policy: String,
    hub: String,
}

impl Place<'_> {
    /// Host and repository of the images.
    fn repository(&self) -> String {
        let host = self.registry.as_ref().map_or("registry.example", Registry::address);
        format!("{host}/{REPOSITORY}")
    }

    /// The command line that pulls the image `tag` into the folder `rootfs`.
    fn pull(&self, tag: &str, rootfs: &Path) -> Vec<String> {
        let name = format!("{}:{tag}", self.repository());
        let (image, more) = match &self.registry {
            Some(_) => (name, vec!["--plain-http".to_owned()]),
            None => {
                (format!("oci:{}:{tag}", self.layout.folder().display()), vec!["--name".to_owned(), name])
            }
        };
        let rootfs = rootfs.display().to_string();
        let fixed = ["--policy", &self.policy, "--cdh", &self.hub, "--rootfs", &rootfs].map(str::to_owned);
        [vec!["pull".to_owned(), image], more, fixed.to_vec()].concat()
    }
}

/// The round of the demo.
pub(super) fn round() -> anyhow::Result<()> {
    heading("images: only what is signed, opened only where the machine is attested");
    let stack = Stack::start(Options::default())?;
    let folder = stack.folder().join("images");
    fs::create_dir(&folder)?;
    stack.set_policy(&format!("default = \"deny\"\n[[allow]]\nresource = {:?}\n", KEYS[0]))?;
    say("the administrator lets attested guests have the key of one image, not that of the other");

    let layout = Layout::create(&folder.join("layout"))?;
    let registry = match command("docker-registry").arg("--version").output() {
        Ok(_) => Some(Registry::start(&folder)?),
        Err(_) => {
            say("left out: this machine has no docker-registry; the images are in a folder");
            None
        }
    };
    let place = Place {
        layout: &layout,
        registry,
        policy: folder.join("policy.json").display().to_string(),
        hub: address(&stack.hub_socket()),
    };
    make_images(&stack, &place, &folder)?;

    heading("a signed and encrypted image");
    let rootfs = folder.join("app");
    guestctl(&texts(&place.pull("signed", &rootfs)))?;
    let greeting = fs::read_to_string(rootfs.join("greeting"))?;
    say(&format!("$ cat {}\n{}", rootfs.join("greeting").display(), greeting.trim_end()));
    ensure!(greeting == GREETING, "the image holds something else");
    ensure!(stack.quotes()? == 1, "the machine was not attested for the image's key");

    heading("gate 1: an image that nobody signed");
    refused(&texts(&place.pull("unsigned", &folder.join("unsigned"))), "IMAGE_UNSIGNED")?;
    ensure!(stack.quotes()? == 1, "a key was asked for");

    heading("gate 2: a signed image whose key the key broker withholds");
    refused(&texts(&place.pull("withheld", &folder.join("withheld"))), "KBS_DENIED_POLICY")?;
    for name in ["unsigned", "withheld"] {
        let left = [folder.join(name), folder.join(format!(".{name}.guestctl-partial"))];
        ensure!(left.iter().all(|path| !path.exists()), "something is left of {name}");
    }
    say("nothing is left of either");
    Ok(())
}

/// What the publisher does: keys, three images, a policy that knows the publisher.
fn make_images(stack: &Stack, place: &Place<'_>, folder: &Path) -> anyhow::Result<()> {
    let socket = folder.join("keyprovider.sock");
    let mut provider = own_binary("coco_keyprovider")?;
    provider.arg("--socket").arg(address(&socket)).args(["--kbs", stack.kbs_url(), "--cert-file"]);
    provider.arg(stack.kbs_certificate()).arg("--auth-private-key").arg(stack.kbs_state().join("admin.key"));
    let mut provider = Process::start("coco_keyprovider", provider, folder)?;
    provider.wait_for_path(&socket)?;
    say("the publisher encrypts images, their keys wrapped by coco_keyprovider, and signs two of three");

    let (root, archive) = (folder.join("root"), folder.join("root.tar"));
    fs::create_dir(&root)?;
    fs::write(root.join("greeting"), GREETING)?;
    let status = command("tar").arg("-cf").arg(&archive).arg("-C").arg(&root).arg(".").status()?;
    ensure!(status.success(), "tar failed");
    let archive = fs::read(archive)?;

    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let public = folder.join("publisher.pub");
    fs::write(&public, key.public_key_pem())?;
    for (tag, kek, signed) in
        [("signed", KEYS[0], true), ("unsigned", KEYS[0], false), ("withheld", KEYS[1], true)]
    {
        let layer = place.layout.encrypted(&archive, &address(&socket), &format!("kbs:///{kek}"))?;
        let digest = place.layout.image(tag, &[layer])?;
        let mut tags = vec![tag.to_owned()];
        if signed {
            tags.push(place.layout.sign(&digest, &format!("{}:{tag}", place.repository()), &key)?);
        }
        if let Some(registry) = &place.registry {
            tags.iter().try_for_each(|tag| place.layout.push(tag, registry, REPOSITORY, tag))?;
        }
    }
    let requirement =
        json!({"type": "sigstoreSigned", "keyPath": public, "signedIdentity": {"type": "matchRepository"}});
    let scopes = json!({place.repository(): [requirement]});
    let policy = json!({"default": [{"type": "reject"}], "transports": {"docker": scopes}});
    fs::write(&place.policy, policy.to_string()).context("writing the policy")?;
    say(&format!("policy            {policy}"));
    ensure!(provider.stop()? == 0, "the key provider failed");
    Ok(())
}

fn texts(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}
