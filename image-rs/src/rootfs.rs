//! All layers of an image as one directory.
//!
//! Every layer is unpacked into a directory of its own, several at a time; then they are merged, the lowest first, by
//! renaming. The result is what an overlay file system shows of the same layers: a directory of an upper layer takes the
//! place of anything but a directory, deletions apply to the layers below only, and a directory that a layer has
//! without saying anything about it keeps what is known from below.

mod merge;

use std::{
    ffi::OsStr,
    os::fd::BorrowedFd,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use crate::{
    Error, Event, Image, Observer, Source,
    layer::{
        self, Options,
        unpack::{Applied, Form},
    },
    policy::Admitted,
    staging::Staging,
};

/// What was unpacked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Entries of all archives.
    pub entries: u64,
    /// `user.` attributes left out, because the file system does not have them.
    pub attributes_left_out: u64,
}

/// Unpacks `image`, the one that was `admitted`, into the new directory `name` in `folder`. It appears complete, or not
/// at all.
///
/// # Errors
/// `IMAGE_DIGEST_MISMATCH` if another image was admitted; what is wrong with a layer, with its number left to [`Error::Layer`]; what the source or the file system says;
/// [`Error::Interrupted`] if the observer said so.
pub fn unpack_rootfs(
    source: &dyn Source,
    image: &Image,
    admitted: &Admitted,
    folder: BorrowedFd<'_>,
    name: &OsStr,
    options: &Options,
    observer: &dyn Observer,
) -> Result<Unpacked, Error> {
    admitted.covers(image)?;
    let staging = Staging::begin(folder, name)?;
    let layers = unpack_layers(source, image, &staging, options, observer)?;
    let root = staging.make_root("rootfs")?;
    let mut unpacked = Unpacked::default();
    for (number, applied) in layers.iter().enumerate() {
        if observer.stopped() {
            return Err(Error::Interrupted);
        }
        merge::layer(&root, &staging.open(&number.to_string())?, &applied.deletions)?;
        unpacked.entries += applied.entries;
        unpacked.attributes_left_out += applied.attributes_left_out;
    }
    staging.publish("rootfs")?;
    Ok(unpacked)
}

/// Unpacks all layers, each into the directory of its number; the largest are begun first.
fn unpack_layers(
    source: &dyn Source,
    image: &Image,
    staging: &Staging,
    options: &Options,
    observer: &dyn Observer,
) -> Result<Vec<Applied>, Error> {
    let mut waiting: Vec<usize> = (0..image.layers().len()).collect();
    waiting.sort_by_key(|number| image.layers().get(*number).map(|layer| layer.descriptor.size));
    let workers = options.parallel.clamp(1, waiting.len().max(1));
    let waiting = Mutex::new(waiting);
    let observer = StopAll { observer, stop: AtomicBool::new(false) };
    // Taken in a step of its own: the lock must be free again while the layer is unpacked.
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let results: Vec<Result<Vec<(usize, Applied)>, Error>> = thread::scope(|scope| {
        let work = || {
            let mut done = Vec::new();
            while let Some(number) = next() {
                match unpack_layer(source, image, number, staging, options, &observer) {
                    Ok(applied) => done.push((number, applied)),
                    Err(error) => {
                        observer.stop.store(true, Ordering::Relaxed);
                        return Err(error);
                    }
                }
            }
            Ok(done)
        };
        // This thread is one of them, so that the work is done also where there can be no other.
        let others = (1..workers).map_while(|_| thread::Builder::new().spawn_scoped(scope, work).ok());
        let others: Vec<_> = others.collect();
        let own = work();
        let others = others.into_iter().map(thread::ScopedJoinHandle::join);
        let others = others.map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        std::iter::once(own).chain(others).collect()
    });
    let mut all = Vec::new();
    let mut failure = None;
    for result in results {
        match result {
            Ok(done) => all.extend(done),
            // Those that were only stopped tell less than the one that failed.
            Err(Error::Interrupted) => {
                failure.get_or_insert(Error::Interrupted);
            }
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(error) => Err(error),
        None => {
            all.sort_by_key(|(number, _)| *number);
            Ok(all.into_iter().map(|(_, applied)| applied).collect())
        }
    }
}

fn unpack_layer(
    source: &dyn Source,
    image: &Image,
    number: usize,
    staging: &Staging,
    options: &Options,
    observer: &dyn Observer,
) -> Result<Applied, Error> {
    if observer.stopped() {
        return Err(Error::Interrupted);
    }
    let Some(layer) = image.layers().get(number) else { return Ok(Applied::default()) };
    let target = staging.make(&number.to_string())?;
    let blob = source.blob(&layer.descriptor)?;
    layer::unpack_layer(number, layer, blob, target, Form::Listed, options, observer)
        .map_err(|fault| Error::in_layer(layer.descriptor.digest, fault))
}

/// Stops all layers when one has failed.
struct StopAll<'a> {
    observer: &'a dyn Observer,
    stop: AtomicBool,
}

impl Observer for StopAll<'_> {
    fn event(&self, event: Event) {
        self.observer.event(event);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.observer.stopped()
    }
}
