//! `guestctl images`: what is in the data hub's store of layers, and removing what is not needed any more.
//!
//! Works on the store's folder itself, so it needs root and no running hub.

use std::path::PathBuf;

use image_rs::{Digest, Error, store::Store};
use serde_json::json;

use crate::{failure::Failure, output::Console, table::printable};

/// Where the data hub keeps its layers unless told otherwise.
const STORE: &str = "/run/kata-containers/image";

/// What the operator gives.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  guestctl images ls
  guestctl images rm sha256:4e3d…
  guestctl images gc --json")]
pub(crate) struct Args {
    /// Folder of the store: image.work_dir of the data hub's configuration
    #[arg(long, value_name = "FOLDER", default_value = STORE, global = true)]
    store: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the images, with the digests of their manifests
    Ls,
    /// Forget images; their layers go with the next gc
    Rm {
        /// Digests of manifests
        #[arg(required = true, value_name = "DIGEST")]
        manifests: Vec<Digest>,
    },
    /// Remove the layers that no image has and nothing is mounted from
    Gc,
}

/// Does what is asked.
pub(crate) fn run(args: &Args, json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    let failed = |error| Failure::Image { image: args.store.display().to_string(), error: Box::new(error) };
    let store = open(args).map_err(failed)?;
    match &args.command {
        Command::Ls => {
            let images = store.images().map_err(failed)?;
            let used = store.used().map_err(failed)?;
            if json {
                let images: Vec<_> = images
                    .iter()
                    .map(|image| {
                        json!({
                            "reference": image.reference, "manifest_digest": image.manifest.to_string(),
                            "layers": image.layers.len(), "pulled": image.at,
                        })
                    })
                    .collect();
                return console.json(&json!({"images": images, "bytes": used}));
            }
            let mut text = String::new();
            for image in &images {
                let reference = printable(&image.reference);
                text.push_str(&format!("{reference}\n  {}  {} layers\n", image.manifest, image.layers.len()));
            }
            console.text(&format!("{text}{} images, {} MB of archives\n", images.len(), used / 1_000_000))
        }
        Command::Rm { manifests } => {
            for manifest in manifests {
                if !store.forget(manifest).map_err(failed)? {
                    return Err(failed(Error::NotFound { what: format!("image {manifest} in the store") }));
                }
            }
            let count = manifests.len();
            match json {
                true => console.json(&json!({"forgotten": count})),
                false => {
                    console.text(&format!("{count} forgotten; guestctl images gc removes their layers\n"))
                }
            }
        }
        Command::Gc => {
            let collected = store.collect().map_err(failed)?;
            match json {
                true => console.json(&json!({"layers": collected.layers, "bytes": collected.bytes})),
                false => console.text(&format!(
                    "{} layers removed, {} MB of archives\n",
                    collected.layers,
                    collected.bytes / 1_000_000
                )),
            }
        }
    }
}

fn open(args: &Args) -> Result<Store, Error> {
    let missing = |_| Error::NotFound { what: format!("store {}", args.store.display()) };
    std::fs::metadata(args.store.join("store.json")).map_err(missing)?;
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let boot = boot.map_err(|source| Error::Read { what: "the number of this boot".to_owned(), source })?;
    Store::open(&args.store, &boot, None)
}
