//! An image of 5 GB in 10 layers of gzip: memory must not depend on the size.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use aws_lc_rs::digest::{self, Context as Hash, SHA256};
use flate2::{Compression, write::GzEncoder};
use serde_json::json;
use tempfile::TempDir;

use super::{MEMORY, hub::Hub, watched::Pull, watched::watched};
use crate::{
    image::{LAYER, Layer, Layout},
    process::{command, own_binary},
    registry::Registry,
};

const LAYERS: usize = 10;
/// Bytes of the file in each layer, whole blocks of tar.
const FILE: u64 = 512 << 20;

/// The image, in a registry.
#[derive(Debug)]
pub struct Large {
    registry: Registry,
    memory: TempDir,
    // Dropped last: the registry uses it.
    _folder: TempDir,
}

impl Large {
    /// Makes the image and sends it to a registry of its own.
    ///
    /// # Errors
    /// There is no room for it, or a program is missing.
    pub fn make() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("bench-images-").tempdir()?;
        let memory = tempfile::Builder::new().prefix("bench-images-").tempdir_in(MEMORY)?;
        let registry = Registry::start(folder.path())?;
        let layout = Layout::create(&folder.path().join("layout"))?;
        let content = folder.path().join("content");
        make_content(&content)?;
        // What is in the layers is compressed once: members of gzip one behind the other are one stream (RFC 1952, 2.2).
        let packed = folder.path().join("packed");
        let mut encoder = GzEncoder::new(File::create(&packed)?, Compression::fast());
        io::copy(&mut File::open(&content)?, &mut encoder)?;
        encoder.finish()?;
        let mut layers = Vec::new();
        for number in 0..LAYERS {
            let (layer, blob) = make_layer(&layout, folder.path(), number)?;
            // Sent one by one, so that only the registry has all of it.
            let tag = format!("layer-{number}");
            layout.image(&tag, std::slice::from_ref(&layer))?;
            layout.push(&tag, &registry, "bench", &tag)?;
            fs::remove_file(blob)?;
            layers.push(layer);
        }
        layout.image("large", &layers)?;
        layout.push("large", &registry, "bench", "large")?;
        push_small(&layout, &registry)?;
        for path in [content, packed] {
            fs::remove_file(path)?;
        }
        fs::remove_dir_all(layout.folder())?;
        Ok(Self { registry, memory, _folder: folder })
    }

    fn image(&self, tag: &str) -> String {
        format!("{}/bench:{tag}", self.registry.address())
    }

    /// `guestctl pull` into memory.
    ///
    /// # Errors
    /// There is no room for it, or it fails.
    pub fn guestctl(&self) -> anyhow::Result<Pull> {
        let rootfs = self.memory.path().join("out");
        let mut pull = own_binary("guestctl")?;
        pull.args(["pull", "--plain-http", "--json", &self.image("large"), "--rootfs"]).arg(&rootfs);
        let pulled = watched(&mut pull);
        if rootfs.exists() {
            fs::remove_dir_all(rootfs)?;
        }
        pulled
    }

    /// The data hub's `PullImage` with its store in memory.
    ///
    /// # Errors
    /// There is no room for it, or it fails.
    pub fn hub(&self) -> anyhow::Result<Pull> {
        let hub = Hub::start(self.memory.path(), self.registry.address(), &self.image("small"))?;
        let pulled = hub.pull(&self.image("large"));
        hub.stop()?;
        pulled
    }
}

/// Sends a small image to the registry, as `bench:small`.
pub(super) fn push_small(layout: &Layout, registry: &Registry) -> anyhow::Result<()> {
    let layer = layout.gzip(&[&header("small", 0)?[..], &[0; 1024]].concat())?;
    layout.image("small", &[layer])?;
    layout.push("small", registry, "bench", "small")
}

/// Random text, so that decompression has work to do.
fn make_content(path: &Path) -> anyhow::Result<()> {
    let script = format!("base64 --wrap=0 /dev/urandom | head --bytes={FILE}");
    let made = command("sh").args(["-c", &script]).stdout(File::create(path)?).status()?;
    ensure!(made.success() && fs::metadata(path)?.len() == FILE, "no {FILE} bytes of random text");
    Ok(())
}

/// A layer with the content under a name of its own, and where its blob is.
fn make_layer(layout: &Layout, folder: &Path, number: usize) -> anyhow::Result<(Layer, PathBuf)> {
    let (begin, end) = (header(&format!("file-{number}"), FILE)?, [0; 1024]);
    let new = folder.join("layer");
    let mut blob = File::create(&new)?;
    blob.write_all(&crate::image::gzip(&begin)?)?;
    io::copy(&mut File::open(folder.join("packed"))?, &mut blob)?;
    blob.write_all(&crate::image::gzip(&end)?)?;
    let diff_id = hash(&[&begin], &folder.join("content"), &end)?;
    let (digest, size) = (hash(&[], &new, &[])?, blob.metadata()?.len());
    let name = digest.strip_prefix("sha256:").context("a digest of another kind")?;
    let path = layout.folder().join("blobs/sha256").join(name);
    fs::rename(new, &path)?;
    let descriptor = json!({"mediaType": format!("{LAYER}+gzip"), "digest": digest, "size": size});
    Ok((Layer { descriptor, diff_id }, path))
}

/// `sha256:` and the digest of `before`, a file, and `after`.
fn hash(before: &[&[u8]], file: &Path, after: &[u8]) -> anyhow::Result<String> {
    struct Sink(Hash);
    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.update(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut sink = Sink(digest::Context::new(&SHA256));
    before.iter().for_each(|bytes| sink.0.update(bytes));
    io::copy(&mut io::BufReader::with_capacity(1 << 20, File::open(file)?), &mut sink)?;
    sink.0.update(after);
    Ok(format!("sha256:{}", hex::encode(sink.0.finish())))
}

/// A ustar header (POSIX.1-2017, pax): a file of so many bytes, mode 0644, owner 0:0, time 0.
fn header(name: &str, size: u64) -> anyhow::Result<[u8; 512]> {
    let mut block = [0; 512];
    let mut set = |at: usize, bytes: &[u8]| -> anyhow::Result<()> {
        block.get_mut(at..at + bytes.len()).context("a long field")?.copy_from_slice(bytes);
        Ok(())
    };
    set(0, name.as_bytes())?;
    set(100, b"0000644\x000000000\x000000000\0")?;
    set(124, format!("{size:011o}\0").as_bytes())?;
    set(136, b"00000000000\0        0")?;
    set(257, b"ustar\x0000")?;
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block.get_mut(148..156).context("a short block")?.copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}
