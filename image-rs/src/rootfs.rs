//! All layers of an image as one directory.
//!
//! Every layer is unpacked into a directory of its own, several at a time; then they are merged, the lowest first, by
//! renaming. The result is what an overlay file system shows of the same layers: a directory of an upper layer takes the
//! place of anything but a directory, deletions apply to the layers below only, and a directory that a layer has
//! without saying anything about it keeps what is known from below.

pub(crate) mod merge;

use std::{
    ffi::OsStr,
    os::fd::BorrowedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use crate::{
    Error, Event, Image, Keys, LayerFault, LayerKeys, Observer, Source,
    layer::{
        self, Input, Options, Run,
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

/// What is to be unpacked, and what that needs.
#[derive(Debug)]
pub struct Order<'a> {
    /// Where the layers are.
    pub source: &'a dyn Source,
    /// The image.
    pub image: &'a Image,
    /// That it may be.
    pub admitted: &'a Admitted,
    /// Who opens the keys of encrypted layers.
    pub keys: Arc<dyn LayerKeys>,
}

/// Unpacks the image of `order` into the new directory `name` in `folder`. It appears complete, or not at all.
///
/// # Errors
/// `IMAGE_DIGEST_MISMATCH` if another image was admitted; what is wrong with a layer or its key, with the layer's digest
/// in [`Error::Layer`]; what the source or the file system says; [`Error::Interrupted`] if the observer said so.
pub fn unpack_rootfs(
    order: &Order<'_>,
    folder: BorrowedFd<'_>,
    name: &OsStr,
    options: &Options,
    observer: &dyn Observer,
) -> Result<Unpacked, Error> {
    order.admitted.covers(order.image)?;
    let staging = Staging::begin(folder, name)?;
    let layers = unpack_layers(order, &staging, options, observer)?;
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

/// Unpacks all layers, each into the directory of its number; the largest are begun first, those that wait for their key
/// later.
fn unpack_layers(
    order: &Order<'_>,
    staging: &Staging,
    options: &Options,
    observer: &dyn Observer,
) -> Result<Vec<Applied>, Error> {
    let layers = order.image.layers();
    let mut waiting: Vec<usize> = (0..layers.len()).collect();
    waiting.sort_by_key(|number| layers.get(*number).map(|layer| layer.descriptor.size));
    let workers = options.parallel.clamp(1, waiting.len().max(1));
    let waiting = Mutex::new(waiting);
    let keys = Keys::ask(layers, Arc::clone(&order.keys));
    let run = Run::new(options.clone());
    let observer = StopAll { observer, keys: &keys, stop: AtomicBool::new(false) };
    let results: Vec<Result<Vec<(usize, Applied)>, Error>> = thread::scope(|scope| {
        let work = || {
            let mut done = Vec::new();
            while let Some(number) = next(&waiting, &keys, &observer)? {
                match unpack_layer(order, number, &keys, staging, &run, &observer) {
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
    match (failure, keys.failure()) {
        (None, _) => {
            all.sort_by_key(|(number, _)| *number);
            Ok(all.into_iter().map(|(_, applied)| applied).collect())
        }
        (Some(Error::Interrupted), Some((number, fault))) => Err(in_layer(order.image, number, fault.into())),
        (Some(error), _) => Err(error),
    }
}

/// The next layer to unpack: the largest one that waits for no key.
fn next(waiting: &Mutex<Vec<usize>>, keys: &Keys, observer: &dyn Observer) -> Result<Option<usize>, Error> {
    loop {
        {
            let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.is_empty() {
                return Ok(None);
            }
            if let Some(place) = waiting.iter().rposition(|number| keys.is_settled(*number)) {
                return Ok(Some(waiting.remove(place)));
            }
        }
        if observer.stopped() {
            return Err(Error::Interrupted);
        }
        keys.wait();
    }
}

fn unpack_layer(
    order: &Order<'_>,
    number: usize,
    keys: &Keys,
    staging: &Staging,
    run: &Run,
    observer: &dyn Observer,
) -> Result<Applied, Error> {
    if observer.stopped() {
        return Err(Error::Interrupted);
    }
    let Some(layer) = order.image.layers().get(number) else { return Ok(Applied::default()) };
    let failed = |fault| in_layer(order.image, number, fault);
    layer::check_size(layer, &run.options().limits).map_err(failed)?;
    let key = keys.of_layer(number, &|| observer.stopped()).map_err(|fault| failed(fault.into()))?;
    let target = staging.make(&number.to_string())?;
    let blob = order.source.blob(&layer.descriptor)?;
    let input = Input { number, layer, blob, key };
    layer::unpack_layer(input, target, Form::Listed, run, observer).map_err(failed)
}

fn in_layer(image: &Image, number: usize, fault: LayerFault) -> Error {
    match image.layers().get(number) {
        Some(layer) => Error::in_layer(layer.descriptor.digest, fault),
        None => Error::Interrupted,
    }
}

/// Stops all layers when one has failed, or its key.
struct StopAll<'a> {
    observer: &'a dyn Observer,
    keys: &'a Keys,
    stop: AtomicBool,
}

impl Observer for StopAll<'_> {
    fn event(&self, event: Event) {
        self.observer.event(event);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.observer.stopped() || self.keys.failure().is_some()
    }
}
