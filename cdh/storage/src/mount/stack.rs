//! What an overlay is stacked of: the layers of the store, and below one whose deletions its directory does not tell, a layer of
//! these alone, which is made for this one overlay.

use std::{
    fs::File,
    io::Read,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use cc_storage::{MAX_LAYERS, Name};
use image_rs::store::{
    below::{self, Below},
    implied,
    marks::{self, Marks},
};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

use super::state::State;
use crate::Failure;

/// Longest note beside a layer that is read, in bytes; more than a layer may have.
const MAX_NOTE: u64 = 64 << 20;

/// Layers, the lowest first.
#[derive(Debug)]
pub(super) struct Stack {
    layers: Vec<Below>,
    /// Their directories, relative to the store.
    paths: Vec<String>,
    /// How many of them are hidden by one above them.
    hidden: usize,
}

impl Stack {
    /// Opens the layers called `names` of `store`, for the overlay of `state`. `goes_on` is asked now and then.
    pub(super) fn open(
        store: BorrowedFd<'_>,
        names: &[Name],
        state: &State,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Self, Failure> {
        let mut stack = Self { layers: Vec::new(), paths: Vec::new(), hidden: 0 };
        for name in names {
            let layer = open(store, name).map_err(Failure::storage("open the layers"))?;
            // What is hidden as a whole has nothing to delete: a layer of deletions would show directories that are not there any more.
            if below::hides_all_below(&layer).map_err(Failure::storage("look at the layers"))? {
                stack.hidden = stack.layers.len();
            }
            let below: Vec<&Below> = stack.layers.iter().skip(stack.hidden).collect();
            let applying = layer.marks.applying(&below, goes_on).map_err(given_up("look at the layers"))?;
            if applying != Marks::default() {
                let (path, tree) = state.make_layer(stack.paths.len())?;
                let made = applying.make(tree).map_err(Failure::storage("make a layer of deletions"))?;
                stack.paths.push(path);
                stack.layers.extend(made);
            }
            stack.paths.push(format!("layers/{name}/tree"));
            stack.layers.push(layer);
        }
        let shown = stack.shown().len();
        if shown > MAX_LAYERS {
            let why = format!("with those of deletions alone it has {shown} layers, more than {MAX_LAYERS}");
            return Err(Failure::Request { why });
        }
        Ok(stack)
    }

    /// The directories that are to be mounted, relative to the store.
    pub(super) fn shown(&self) -> &[String] {
        self.paths.get(self.hidden..).unwrap_or_default()
    }

    /// Sets in the overlay that is mounted at `merged` what the kernel does not show of the layers by itself. `goes_on` is asked now and
    /// then.
    pub(super) fn complete(
        &self,
        merged: BorrowedFd<'_>,
        path: &str,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<(), Failure> {
        let layers: Vec<&Below> = self.layers.iter().collect();
        let shown = layers.get(self.hidden..).unwrap_or_default();
        marks::hide_ghosts(shown, merged, goes_on).map_err(given_up(&format!("hide deletions in {path}")))?;
        implied::restore(&layers, self.hidden, merged, goes_on)
            .map_err(given_up(&format!("set the owners of directories in {path}")))
    }
}

/// For `map_err`: the file system said no when `doing`, or nobody wants it any more.
fn given_up(doing: &str) -> impl FnOnce(Errno) -> Failure {
    move |error| match error {
        Errno::CANCELED => image_rs::Error::Interrupted.into(),
        error => Failure::storage(doing)(error),
    }
}

/// A layer with what is kept beside it.
fn open(store: BorrowedFd<'_>, layer: &Name) -> Result<Below, Errno> {
    let read = |name: &str| {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let note = rustix::fs::openat(store, format!("layers/{layer}/{name}"), flags, Mode::empty())?;
        let mut bytes = Vec::new();
        File::from(note).take(MAX_NOTE).read_to_end(&mut bytes).map_err(|_| Errno::IO)?;
        Ok::<_, Errno>(bytes)
    };
    Ok(Below {
        tree: open_directory(store, &format!("layers/{layer}/tree"))?,
        implied: implied::read(&read("implied")?),
        marks: Marks::read(&read("marks")?),
    })
}

pub(super) fn open_directory(at: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at.as_fd(), path, flags, Mode::empty())
}
