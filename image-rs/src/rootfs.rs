//! All layers of an image as one directory.
//!
//! Every layer is unpacked into a directory of its own, several at a time; then they are merged, the lowest first, by
//! renaming. The result is what an overlay file system shows of the same layers: a directory of an upper layer takes the
//! place of anything but a directory, deletions apply to the layers below only, and a directory that a layer has
//! without saying anything about it keeps what is known from below.

pub(crate) mod merge;

use std::sync::Arc;

use crate::{
    Descriptor, Error, Image, Keys, LayerKeys, Observer, Source, Target,
    crew::Crew,
    kept::Kept,
    layer::{
        self, Options, Run, Stages, Stopwatch,
        unpack::{Applied, Form},
    },
    policy::Admitted,
    staging::Staging,
};

/// The root file system while it is made.
const ROOT: &str = "rootfs";

/// What was unpacked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Entries of all archives.
    pub entries: u64,
    /// `user.` attributes left out, because the file system does not have them.
    pub attributes_left_out: u64,
    /// What the stages took.
    pub stages: Stages,
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

/// Unpacks the image of `order` into the new directory `target`. It appears complete, or not at all. If the pull is only cut off
/// ([`Error::may_go_on`]), layers stay beside it as they are stored, where the disk has the room, for the next one.
///
/// # Errors
/// `IMAGE_DIGEST_MISMATCH` if another image was admitted; what is wrong with a layer or its key, with the layer's digest
/// in [`Error::Layer`]; what the source or the file system says; [`Error::Interrupted`] if the observer said so.
pub fn unpack_rootfs(
    order: &Order<'_>,
    target: &Target<'_>,
    options: &Options,
    observer: &dyn Observer,
) -> Result<Unpacked, Error> {
    order.admitted.covers(order.image)?;
    let staging = Staging::begin(target, order.image.manifest_digest())?;
    let keys = Keys::ask(order.image.layers(), Arc::clone(&order.keys));
    match target.confined(staging.folder(), || make(order, &keys, &staging, options, observer)) {
        Ok(unpacked) => staging.publish(ROOT).map(|()| unpacked),
        Err(error) => {
            staging.end(&error, observer);
            Err(error)
        }
    }
}

/// Makes the root file system, which is not yet where it belongs.
fn make(
    order: &Order<'_>,
    keys: &Keys,
    staging: &Staging,
    options: &Options,
    observer: &dyn Observer,
) -> Result<Unpacked, Error> {
    let run = Run::new(options.clone());
    let layers = unpack_layers(order, keys, staging, &run, observer)?;
    let root = staging.make_root(ROOT)?;
    let mut unpacked = Unpacked { stages: run.stages(), ..Unpacked::default() };
    let watch = Stopwatch::start();
    for (number, applied) in layers.iter().enumerate() {
        if observer.stopped() {
            return Err(Error::Interrupted);
        }
        merge::layer(&root, &staging.open(&number.to_string())?, &applied.deletions)
            .map_err(|error| staging.storage("merge the layers in", error))?;
        unpacked.entries += applied.entries;
        unpacked.attributes_left_out += applied.attributes_left_out;
    }
    unpacked.stages.merge = watch.spent();
    Ok(unpacked)
}

/// Unpacks all layers, each into the directory of its number.
fn unpack_layers(
    order: &Order<'_>,
    keys: &Keys,
    staging: &Staging,
    run: &Run,
    observer: &dyn Observer,
) -> Result<Vec<Applied>, Error> {
    let layers = order.image.layers();
    let descriptors: Vec<&Descriptor> = layers.iter().map(|layer| &layer.descriptor).collect();
    let kept = staging.kept()?;
    let crew = Crew { source: order.source, blobs: &descriptors, keys, workers: run.options().parallel };
    crew.run(observer, |number, observer| unpack_layer(order, number, keys, (staging, &kept), run, observer))
}

fn unpack_layer(
    order: &Order<'_>,
    number: usize,
    keys: &Keys,
    (staging, kept): (&Staging, &Kept),
    run: &Run,
    observer: &dyn Observer,
) -> Result<Applied, Error> {
    let Some(layer) = order.image.layers().get(number) else { return Ok(Applied::default()) };
    let failed = |fault| Error::in_layer(layer.descriptor.digest, fault);
    layer::check_size(layer.descriptor.size, &run.options().limits).map_err(failed)?;
    let key = keys.of_layer(number, &|| observer.stopped()).map_err(|fault| failed(fault.into()))?;
    let target = staging.make(&number.to_string())?;
    let copied = kept.copy(order.source, (number, &layer.descriptor), observer)?;
    layer::unpack_copied((number, layer, key), copied, (target, Form::Listed), run, observer)
        .map_err(|fault| failed(fault.for_folder(staging.path())))
}
