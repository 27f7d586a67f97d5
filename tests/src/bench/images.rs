//! What an image costs on its way from a registry to an unpacked tree in memory: `guestctl pull`, and the data hub's `PullImage`, beside
//! what people use.
//!
//! The image holds real files: a Debian tree that tests boot, and sources of crates. Every program gets it from the same registry
//! into a tmpfs; the programs take turns. GNU tar, which unpacks the same blobs one after another without registry, digest or
//! whiteouts, is the floor. Podman runs in a machine that is booted from the tree, because Debian 12 has an older one.

mod hub;
mod large;
mod watched;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::container::{Container, Setup, Tree};
use crate::image::Layout;
use crate::process::{command, own_binary};
use crate::registry::Registry;
use hub::Hub;
pub use large::Large;
use watched::watched;
pub use watched::{Pull, Stage};

/// Uncompressed bytes of the image.
const BYTES: u64 = 480_000_000;
/// Where its copies are unpacked: memory.
const MEMORY: &str = "/dev/shm";
/// How the layers of the image are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// gzip at the usual level.
    Gzip,
    /// Zstandard at the usual level.
    Zstd,
    /// gzip, then encrypted for the holder of a private key.
    GzipEncrypted,
}

impl Packing {
    fn tag(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::GzipEncrypted => "gzip-encrypted",
        }
    }
}

/// A registry with the image in it, and a machine with Podman.
#[derive(Debug)]
pub struct Workshop {
    // Dropped first: it uses the folders.
    podman: Container,
    registry: Registry,
    folder: TempDir,
    memory: TempDir,
    name: String,
    key: PathBuf,
    /// Entries of all layers.
    pub entries: u64,
}

impl Workshop {
    /// Makes the image with this many layers, in all packings.
    ///
    /// # Errors
    /// A program is missing or fails.
    pub fn open(layers: usize) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("bench-images-").tempdir()?;
        let memory = tempfile::Builder::new().prefix("bench-images-").tempdir_in(MEMORY)?;
        let registry = Registry::start(folder.path())?;
        let layers = layers.max(1);
        let files = files()?;
        let share = BYTES / layers as u64;
        let mut lists = vec![Vec::new()];
        let mut sum = 0;
        for (size, path) in &files {
            if sum >= share && lists.len() < layers {
                lists.push(Vec::new());
                sum = 0;
            }
            sum += size;
            lists.last_mut().context("there is a first layer")?.push(format!("{path}\n"));
        }
        let mut archives = lists.iter().map(|list| {
            let file = folder.path().join("list");
            fs::write(&file, list.concat())?;
            let mut tar = command("tar");
            tar.args(["-C", "/", "--numeric-owner"]).arg("--files-from").arg(file);
            Ok(tar)
        });
        write_layout(&folder.path().join("layout"), &mut archives)?;
        let entries = files.len() as u64;
        let key = folder.path().join("key.pem");
        let public = folder.path().join("public.pem");
        run(command("openssl").args(["genrsa", "-out"]).arg(&key).arg("2048"))?;
        run(command("openssl").args(["rsa", "-pubout", "-in"]).arg(&key).arg("-out").arg(&public))?;
        let name = format!("{}/bench", registry.address());
        for packing in [Packing::Gzip, Packing::Zstd, Packing::GzipEncrypted] {
            let mut copy = skopeo();
            match packing {
                Packing::Gzip => copy.args(["--dest-compress-format", "gzip"]),
                Packing::Zstd => copy.args(["--dest-compress-format", "zstd"]),
                Packing::GzipEncrypted => copy.arg(format!("--encryption-key=jwe:{}", public.display())),
            };
            let from = match packing {
                Packing::GzipEncrypted => format!("docker://{name}:gzip"),
                _ => format!("oci:{}", folder.path().join("layout").display()),
            };
            copy.args(["--dest-compress", "--src-tls-verify=false", "--dest-tls-verify=false"]);
            run(copy.arg(from).arg(format!("docker://{name}:{}", packing.tag())))?;
        }
        large::push_small(&Layout::create(&folder.path().join("small"))?, &registry)?;
        let storage = memory.path().join("podman");
        fs::create_dir(&storage)?;
        let podman =
            Setup::new(Tree::Trixie)?.with_containers().bind(&storage, "/var/lib/containers").boot()?;
        let driver = podman.must(&["podman", "info", "--format", "{{.Store.GraphDriverName}}"])?;
        ensure!(driver.trim() == "overlay", "podman works with {driver}, which nobody would choose");
        Ok(Self { podman, registry, folder, memory, name, key, entries })
    }

    fn image(&self, packing: Packing) -> String {
        format!("{}:{}", self.name, packing.tag())
    }

    /// A folder that is not there yet.
    fn fresh(&self) -> anyhow::Result<PathBuf> {
        let folder = self.memory.path().join("out");
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        Ok(folder)
    }

    /// `guestctl pull`.
    ///
    /// # Errors
    /// It fails.
    pub fn ours(&self, packing: Packing) -> anyhow::Result<Pull> {
        let mut pull = own_binary("guestctl")?;
        pull.args(["pull", "--plain-http", "--json"])
            .arg(self.image(packing))
            .arg("--rootfs")
            .arg(self.fresh()?);
        if packing == Packing::GzipEncrypted {
            pull.arg("--decryption-key").arg(&self.key);
        }
        watched(&mut pull)
    }

    /// The data hub's `PullImage` into an empty store; not encrypted, as there is no key broker. Memory: see [`Pull::peak`], above idle.
    ///
    /// # Errors
    /// It fails.
    pub fn hub(&self, packing: Packing) -> anyhow::Result<Pull> {
        self.fresh()?;
        let hub = Hub::start(self.memory.path(), self.registry.address(), &format!("{}:small", self.name))?;
        let pulled = hub.pull(&self.image(packing));
        hub.stop()?;
        pulled
    }

    /// `skopeo copy` into a layout, then `umoci unpack`; gzip alone, because umoci of Debian 12 knows no other.
    ///
    /// # Errors
    /// One of them fails.
    pub fn skopeo_umoci(&self) -> anyhow::Result<Pull> {
        let folder = self.fresh()?;
        fs::create_dir(&folder)?;
        let start = Instant::now();
        let layout = folder.join("layout");
        run(skopeo()
            .arg("--src-tls-verify=false")
            .arg(format!("docker://{}", self.image(Packing::Gzip)))
            .arg(format!("oci:{}:it", layout.display())))?;
        run(command("umoci")
            .args(["unpack", "--image"])
            .arg(format!("{}:it", layout.display()))
            .arg(folder.join("bundle")))?;
        Ok(Pull::timed(start.elapsed()))
    }

    /// `podman pull` into its overlay storage.
    ///
    /// # Errors
    /// It fails.
    pub fn podman(&self, packing: Packing) -> anyhow::Result<Pull> {
        self.fresh()?;
        self.podman.must(&["podman", "rmi", "--all", "--force"])?;
        let image = self.image(packing);
        // The way into the machine is not podman's.
        let start = Instant::now();
        self.podman.must(&["true"])?;
        let way = start.elapsed();
        let start = Instant::now();
        self.podman.must(&["podman", "pull", "--quiet", "--tls-verify=false", &image])?;
        let time = start.elapsed().saturating_sub(way);
        self.podman.must(&["podman", "rmi", "--all", "--force"])?;
        Ok(Pull::timed(time))
    }

    /// GNU tar, for each blob of the image in turn.
    ///
    /// # Errors
    /// It fails.
    pub fn tar(&self, packing: Packing) -> anyhow::Result<Pull> {
        let blobs = self.blobs(packing)?;
        let folder = self.fresh()?;
        fs::create_dir(&folder)?;
        let filter = if packing == Packing::Zstd { "--zstd" } else { "--gzip" };
        let start = Instant::now();
        for blob in blobs {
            run(command("tar").arg(filter).arg("-xf").arg(blob).arg("-C").arg(&folder))?;
        }
        Ok(Pull::timed(start.elapsed()))
    }

    /// Where the registry keeps the layers.
    fn blobs(&self, packing: Packing) -> anyhow::Result<Vec<PathBuf>> {
        let mut inspect = command("skopeo");
        inspect
            .args(["inspect", "--raw", "--tls-verify=false"])
            .arg(format!("docker://{}", self.image(packing)));
        let manifest: Value = serde_json::from_slice(&run(&mut inspect)?)?;
        let layers = manifest.get("layers").and_then(Value::as_array).context("a manifest has layers")?;
        let blob = |layer: &Value| {
            let digest = layer.get("digest").and_then(Value::as_str).context("a layer has a digest")?;
            let hex = digest.strip_prefix("sha256:").context("a digest of another kind")?;
            let start = hex.get(..2).context("a short digest")?;
            let path = format!("registry/docker/registry/v2/blobs/sha256/{start}/{hex}/data");
            Ok(self.folder.path().join(path))
        };
        layers.iter().map(blob).collect()
    }

    /// Bytes of the image's layers as the registry has them.
    ///
    /// # Errors
    /// The registry does not have it.
    pub fn packed_bytes(&self, packing: Packing) -> anyhow::Result<u64> {
        self.blobs(packing)?.iter().map(|blob| Ok(fs::metadata(blob)?.len())).sum()
    }

    /// Where the registry listens.
    #[must_use]
    pub fn registry(&self) -> &str {
        self.registry.address()
    }
}

fn skopeo() -> Command {
    let mut skopeo = command("skopeo");
    skopeo.args(["--insecure-policy", "copy", "--quiet"]);
    skopeo
}

fn run(program: &mut Command) -> anyhow::Result<Vec<u8>> {
    let out = program.output().with_context(|| format!("starting {program:?}"))?;
    ensure!(out.status.success(), "{program:?}: {}", String::from_utf8_lossy(&out.stderr));
    Ok(out.stdout)
}

/// Writes an image layout whose plain layers these commands of GNU tar make.
fn write_layout(
    layout: &Path,
    archives: &mut dyn Iterator<Item = anyhow::Result<Command>>,
) -> anyhow::Result<()> {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let (mut descriptors, mut diff_ids) = (Vec::new(), Vec::new());
    for tar in archives {
        let archive = layout.join("archive");
        run(tar?.arg("-cf").arg(&archive))?;
        let (digest, size) = (sha256(&archive)?, fs::metadata(&archive)?.len());
        fs::rename(&archive, blobs.join(&digest))?;
        diff_ids.push(format!("sha256:{digest}"));
        descriptors.push(json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": format!("sha256:{digest}"), "size": size
        }));
    }
    let config = json!({"architecture": architecture(), "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let put = |media_type: &str, value: &Value| -> anyhow::Result<Value> {
        let path = layout.join("document");
        File::create(&path)?.write_all(&serde_json::to_vec(value)?)?;
        let (digest, size) = (sha256(&path)?, fs::metadata(&path)?.len());
        fs::rename(&path, blobs.join(&digest))?;
        Ok(json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size}))
    };
    let config = put("application/vnd.oci.image.config.v1+json", &config)?;
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest =
        put(kind, &json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": descriptors}))?;
    fs::write(
        layout.join("index.json"),
        serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [manifest]}))?,
    )?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(())
}

/// Size and path (without the first slash) of the files that the image is made of: the tree of Debian 13, then sources of crates.
fn files() -> anyhow::Result<Vec<(u64, String)>> {
    let tree = Tree::Trixie.folder().canonicalize().context("the tree is not there; see tests/trees/make")?;
    #[allow(clippy::disallowed_methods, reason = "where cargo keeps sources is told by the environment")]
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
        .context("no home directory")?;
    let (mut files, mut sum) = (Vec::new(), 0);
    for root in [tree, home.join("registry/src")] {
        let listed = run(command("find").arg(&root).args(["-xdev", "-type", "f", "-printf", "%s %p\\n"]))?;
        let listed = String::from_utf8(listed).context("a file name is not UTF-8")?;
        let mut lines: Vec<&str> = listed.lines().collect();
        lines.sort_unstable_by_key(|line| line.split_once(' ').map(|(_, path)| path));
        for line in lines {
            let (size, path) = line.split_once(' ').context("find prints size and path")?;
            let size: u64 = size.parse()?;
            if sum + size <= BYTES {
                sum += size;
                files.push((size, path.trim_start_matches('/').to_owned()));
            }
        }
    }
    ensure!(sum > BYTES / 10 * 9, "there are only {sum} bytes of files to make an image of");
    Ok(files)
}

fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

fn sha256(path: &Path) -> anyhow::Result<String> {
    let out = String::from_utf8(run(command("sha256sum").arg(path))?)?;
    Ok(out.split_whitespace().next().context("sha256sum prints a digest")?.to_owned())
}
