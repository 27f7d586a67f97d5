//! From "this layer is needed" to "it is there": fetched and unpacked by one, however many want it.
//!
//! Whoever waits does so while it goes on: a registry that drips must not hold the layer for those that could have it from
//! another. Then he fills it beside the first; who comes to the end first gives it its name, and the other ends, and his copy goes.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags, RenameFlags},
    io::Errno,
};

use super::{
    Hold, LayerName, Store, Stored, implied,
    layer::{Checked, Note},
    marks::Marks,
    progress::{Counted, Watch},
    tally::Share,
};
use crate::{
    Error, Event, Layer, LayerFault, Observer,
    layer::{self, Input, Options, Run, unpack::Form},
};

/// Whose turn it is.
#[derive(Debug)]
pub enum Claim {
    /// The layer is there.
    Present(Stored),
    /// Whoever asked is to fill it.
    Wanted(Reservation),
}

/// How long a layer is waited for of which hardly anything comes, while somebody else is filling it.
pub(super) const PATIENCE: Duration = Duration::from_secs(180);
/// Between two looks whether somebody else has got through.
const LOOK: Duration = Duration::from_secs(1);

/// The right to fill one layer. Whoever else wants it waits until this value is gone, or for as long as he has patience.
#[derive(Debug)]
pub struct Reservation {
    store: Arc<Store>,
    checked: Checked,
    place: Place,
}

/// Where a layer is filled. The first place is that of the one who waits for nobody.
#[derive(Debug)]
struct Place {
    layer: LayerName,
    number: usize,
    lock: Arc<OwnedFd>,
}

impl Store {
    /// Looks for the layer, which is unpacked by `options.policy`. If somebody else is filling it, waits for him, but not for longer than
    /// some minutes in which hardly anything comes (see [`Store::with_patience`]); `pause` is called in between, should wait some milliseconds, and says whether the layer is
    /// still wanted.
    ///
    /// # Errors
    /// `IMAGE_INTERRUPTED` if it is not wanted any more, `IMAGE_STORAGE`.
    pub fn claim(
        self: &Arc<Self>,
        _hold: &Hold,
        layer: &Layer,
        options: &Options,
        mut pause: impl FnMut() -> bool,
    ) -> Result<Claim, Error> {
        let checked = Checked::new(layer, options.policy);
        let name = checked.name();
        if let Some(stored) = self.stored(&name, &checked)? {
            return Ok(Claim::Present(stored));
        }
        let locks = self.subfolder("locks")?;
        let first = self.place(locks.as_fd(), &name, 0)?;
        let mut watch = Watch::new(&first.lock);
        let place = loop {
            if self.take(&first)? {
                break first;
            }
            if watch.is_stalled(&first.lock, self.patience) {
                break self.place_beside(locks.as_fd(), &name)?;
            }
            if !pause() {
                return Err(Error::Interrupted);
            }
            // Whoever fills it beside the first does not free the first place.
            if let Some(stored) = self.stored(&name, &checked)? {
                return Ok(Claim::Present(stored));
            }
        };
        Ok(match self.stored(&name, &checked)? {
            Some(stored) => Claim::Present(stored),
            None => Claim::Wanted(Reservation { store: Arc::clone(self), checked, place }),
        })
    }

    /// A place that is not taken yet.
    fn place(&self, locks: BorrowedFd<'_>, layer: &LayerName, number: usize) -> Result<Place, Error> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = if number == 0 { layer.to_string() } else { format!("{layer}.{number}") };
        let lock = rustix::fs::openat(locks, name, flags, Mode::from_raw_mode(0o600));
        let lock = lock.map_err(|error| self.storage("lock a layer of", error))?;
        Ok(Place { layer: layer.clone(), number, lock: Arc::new(lock) })
    }

    /// The next free place beside the first, taken.
    fn place_beside(&self, locks: BorrowedFd<'_>, layer: &LayerName) -> Result<Place, Error> {
        let mut number = 1;
        loop {
            let place = self.place(locks, layer, number)?;
            if self.take(&place)? {
                return Ok(place);
            }
            number += 1;
        }
    }

    /// Takes a place, unless somebody has it.
    fn take(&self, place: &Place) -> Result<bool, Error> {
        let exclusive = FlockOperation::NonBlockingLockExclusive;
        match rustix::io::retry_on_intr(|| rustix::fs::flock(&place.lock, exclusive)) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(self.storage("lock a layer of", error)),
        }
    }

    /// The layer, if it is there. One whose note is damaged is not.
    fn stored(&self, name: &LayerName, checked: &Checked) -> Result<Option<Stored>, Error> {
        let note = self.note(name)?.filter(|note| note.checked == *checked);
        Ok(note.map(|note| note.stored(name.clone())))
    }

    pub(super) fn note(&self, name: &LayerName) -> Result<Option<Note>, Error> {
        let text = self.read(self.folder.as_fd(), &format!("layers/{name}/layer.json"))?;
        Ok(text.and_then(|text| serde_json::from_slice(&text).ok()))
    }
}

impl Reservation {
    /// Whether somebody else has been filling the layer for too long.
    #[must_use]
    pub const fn is_beside(&self) -> bool {
        self.place.number > 0
    }

    /// Runs the bytes of `input`, which has to be of the layer that was claimed, through the pipe into the store. The
    /// bounds of `run` count for all layers of an image together, beside the store's own.
    ///
    /// # Errors
    /// As [`layer::unpack_layer`]; `IMAGE_STORE_FULL` if the layer does not fit under the store's limit. Nothing is left then.
    pub fn fill(self, input: Input<'_>, run: &Run, observer: &dyn Observer) -> Result<Stored, Error> {
        let layers = self.store.subfolder("layers")?;
        let partial = self.place.partial();
        // Nobody else has this name; what is there was left by a killed process.
        self.store.remove(layers.as_fd(), &partial)?;
        let filled = self.fill_partial(&layers, &partial, input, run, observer);
        // It has got the layer's name, or it is not wanted. What cannot be removed now is removed by whoever has this place next, or
        // when the store is collected.
        if let Err(error) = self.store.remove(layers.as_fd(), &partial) {
            observer.event(Event::LeftBehind { why: error.to_string() });
        }
        filled
    }

    fn fill_partial(
        &self,
        layers: &OwnedFd,
        partial: &str,
        input: Input<'_>,
        run: &Run,
        observer: &dyn Observer,
    ) -> Result<Stored, Error> {
        let failed = |error| self.store.storage("make a layer in", error);
        let make = |at: &OwnedFd, name: &str, mode: u32| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::mkdirat(at, name, Mode::RWXU)?;
            let made = rustix::fs::openat(at, name, flags, Mode::empty())?;
            rustix::fs::fchmod(&made, Mode::from_raw_mode(mode))?;
            Ok(made)
        };
        let folder = make(layers, partial, 0o700).map_err(failed)?;
        let tree = make(&folder, "tree", 0o755).map_err(failed)?;
        let share = self.store.limit.map(|limit| Share::new(&self.store, limit)).transpose()?.map(Arc::new);
        let run = &match &share {
            Some(share) => run.within(Arc::clone(share) as _),
            None => run.clone(),
        };
        let looked = Mutex::new(Instant::now());
        let measured = Measured { observer, reservation: self, looked, bytes: AtomicU64::new(0) };
        let digest = input.layer.descriptor.digest;
        let blob = Box::new(Counted::new(input.blob, Arc::clone(&self.place.lock)));
        let applied = layer::unpack_layer(Input { blob, ..input }, tree, Form::Overlay, run, &measured);
        if let (Err(LayerFault::Interrupted), Some(stored)) = (&applied, self.stored()?) {
            return Ok(stored);
        }
        let applied = applied.map_err(|fault| match share.as_ref().and_then(|share| share.refused()) {
            Some(others) => {
                let room = self.store.limit.unwrap_or_default().saturating_sub(others);
                self.store.full(others, digest, format!("more than {room}"))
            }
            None => Error::in_layer(digest, fault.for_folder(&format!("the store {}", self.store.path))),
        })?;
        let bytes = measured.bytes.into_inner();
        let occupied = bytes.max(applied.occupied);
        let note = Note {
            checked: self.checked.clone(),
            bytes,
            occupied,
            claimed: applied.claimed,
            entries: applied.entries,
            names: applied.deletions.memory(),
            attributes_left_out: applied.attributes_left_out,
        };
        self.store.write(folder.as_fd(), "implied", &implied::write(&applied.deletions.implied))?;
        self.store.write(folder.as_fd(), "marks", &Marks::of(&applied.deletions).write())?;
        self.store.write(folder.as_fd(), "layer.json", &serde_json::to_vec(&note).unwrap_or_default())?;
        // Two layers that were filled at the same time must not pass the limit together.
        let _alone = self.store.publishing()?;
        // Who filled it beside this one was first.
        if let Some(stored) = self.stored()? {
            return Ok(stored);
        }
        let used = self.store.used()?;
        if self.store.limit.is_some_and(|limit| used.saturating_add(occupied) > limit) {
            return Err(self.store.full(used, digest, occupied.to_string()));
        }
        // One of this name whose note is damaged.
        let name = self.place.layer.as_str();
        self.store.remove(layers.as_fd(), name)?;
        rustix::fs::renameat_with(layers, partial, layers, name, RenameFlags::NOREPLACE).map_err(failed)?;
        if let Some(share) = share {
            share.publish();
        }
        Ok(note.stored(self.place.layer.clone()))
    }

    fn stored(&self) -> Result<Option<Stored>, Error> {
        self.store.stored(&self.place.layer, &self.checked)
    }
}

impl Place {
    /// Name of the directory that is filled there.
    fn partial(&self) -> String {
        match self.number {
            0 => format!(".{}.partial", self.layer),
            number => format!(".{}.{number}.partial", self.layer),
        }
    }
}

impl Store {
    pub(super) fn publishing(&self) -> Result<OwnedFd, Error> {
        let failed = |error| self.storage("lock", error);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.folder, "locks/publish", flags, Mode::from_raw_mode(0o600));
        let file = file.map_err(failed)?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))
            .map_err(failed)?;
        Ok(file)
    }

    fn full(&self, used: u64, layer: crate::Digest, needed: String) -> Error {
        let limit = self.limit.unwrap_or_default();
        Error::StoreFull { limit, used, layer: Box::new(layer), needed }
    }
}

/// Passes events on and keeps how long the archive was. Stops also when somebody else has got through.
struct Measured<'a> {
    observer: &'a dyn Observer,
    reservation: &'a Reservation,
    /// When it was asked last whether the layer is there.
    looked: Mutex<Instant>,
    bytes: AtomicU64,
}

impl Observer for Measured<'_> {
    fn event(&self, event: Event) {
        if let Event::LayerUnpacked { bytes, .. } = event {
            self.bytes.store(bytes, Ordering::Relaxed);
        }
        self.observer.event(event);
    }

    fn stopped(&self) -> bool {
        if self.observer.stopped() {
            return true;
        }
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.elapsed() < LOOK {
            return false;
        }
        *looked = Instant::now();
        matches!(self.reservation.stored(), Ok(Some(_)))
    }
}
