//! Removing what nobody needs: what killed processes left, and layers of no image and no mount.

use std::{collections::BTreeSet, os::fd::AsFd};

use rustix::fs::FlockOperation;

use super::{LayerName, Record, Store};
use crate::{Error, tree};

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Layers.
    pub layers: usize,
    /// Bytes of their uncompressed archives.
    pub bytes: u64,
}

impl Store {
    /// Removes all layers that neither an image nor an overlay has.
    ///
    /// # Errors
    /// `IMAGE_STORE_BUSY` while somebody pulls, `IMAGE_STORAGE`.
    pub fn collect(&self) -> Result<Collected, Error> {
        let Some(_alone) = self.lock(FlockOperation::NonBlockingLockExclusive)? else {
            return Err(Error::StoreBusy { path: self.path.clone() });
        };
        self.remove_partial()?;
        let mut needed = self.mounted()?;
        needed.extend(self.images()?.into_iter().flat_map(|record: Record| record.layers));
        self.remove_layers(&needed)
    }

    /// Removes all images and all layers that are not mounted.
    pub(super) fn empty(&self) -> Result<(), Error> {
        for folder in ["images", "locks"] {
            tree::empty(self.subfolder(folder)?.as_fd())
                .map_err(|error| self.storage("remove something of", error))?;
        }
        self.remove_partial()?;
        self.remove_layers(&self.mounted()?).map(drop)
    }

    /// Removes what has not got its name, and locks that nobody can hold.
    pub(super) fn remove_partial(&self) -> Result<(), Error> {
        for folder in ["layers", "images", "locks"] {
            let folder_fd = self.subfolder(folder)?;
            let names = tree::names(folder_fd.as_fd()).map_err(|error| self.storage("read", error))?;
            for name in &names {
                let named = name.to_str().is_ok_and(|name| match folder {
                    "layers" => name.parse::<LayerName>().is_ok(),
                    "images" => !name.starts_with('.'),
                    _ => false,
                });
                if !named {
                    tree::remove(folder_fd.as_fd(), name.as_c_str())
                        .map_err(|error| self.storage("remove something of", error))?;
                }
            }
        }
        Ok(())
    }

    fn remove_layers(&self, needed: &BTreeSet<LayerName>) -> Result<Collected, Error> {
        let mut collected = Collected::default();
        let layers = self.subfolder("layers")?;
        for name in self.layer_names()?.iter().filter(|name| !needed.contains(name)) {
            collected.bytes += self.note(name)?.map_or(0, |note| note.bytes);
            collected.layers += 1;
            // First it loses its name: half a layer must not have one.
            let partial = format!(".{name}.partial");
            rustix::fs::renameat(&layers, name.as_str(), &layers, &partial)
                .map_err(|error| self.storage("remove something of", error))?;
            self.remove(layers.as_fd(), &partial)?;
        }
        Ok(collected)
    }

    /// Layers that an overlay is made of: whoever mounts notes them, one a line, in `overlay/<anything>/layers`, and beside
    /// it the boot. An overlay of another boot is mounted no more, and its notes may be the host's.
    fn mounted(&self) -> Result<BTreeSet<LayerName>, Error> {
        let overlays = self.subfolder("overlay")?;
        let names = tree::names(overlays.as_fd()).map_err(|error| self.storage("read", error))?;
        let mut layers = BTreeSet::new();
        for name in names.iter().filter_map(|name| name.to_str().ok()) {
            let boot = self.read(overlays.as_fd(), &format!("{name}/boot"))?;
            if boot.is_none_or(|boot| boot.trim_ascii() != self.boot.as_bytes()) {
                continue;
            }
            let list = self.read(overlays.as_fd(), &format!("{name}/layers"))?.unwrap_or_default();
            layers.extend(
                String::from_utf8_lossy(&list).lines().filter_map(|line| line.parse::<LayerName>().ok()),
            );
        }
        Ok(layers)
    }
}
