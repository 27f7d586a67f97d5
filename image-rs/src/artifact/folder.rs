//! All parts of an artifact in a new folder, which appears complete or not at all.

use std::{
    ffi::OsStr,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use super::{Artifact, Part, PartForm, archive};
use crate::{
    Compression, Descriptor, Error, Event, Keys, LayerFault, LayerKeys, Observer, Source,
    crew::Crew,
    layer::{self, Flow, Options, Run},
    policy::Admitted,
    staging::Staging,
};

/// What is to be pulled, and what that needs.
#[derive(Debug)]
pub struct ArtifactOrder<'a> {
    /// Where the blobs are.
    pub source: &'a dyn Source,
    /// The artifact.
    pub artifact: &'a Artifact,
    /// That it may be.
    pub admitted: &'a Admitted,
    /// Who opens the keys of encrypted layers.
    pub keys: Arc<dyn LayerKeys>,
}

/// What was pulled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pulled {
    /// Files and entries of archives.
    pub entries: u64,
    /// Their bytes, archives with their headers.
    pub bytes: u64,
}

/// Pulls the artifact of `order` into the directory `name` in `folder`, which must not exist or be empty. It appears complete
/// and written to the disk, or not at all.
///
/// Of `options` the limits and the numbers count; what is taken over of an archive is always the same.
///
/// # Errors
/// As [`crate::unpack_rootfs`].
pub fn pull_artifact(
    order: &ArtifactOrder<'_>,
    folder: BorrowedFd<'_>,
    name: &OsStr,
    options: &Options,
    observer: &dyn Observer,
) -> Result<Pulled, Error> {
    order.admitted.covers_manifest(order.artifact.manifest_digest())?;
    let parts = order.artifact.parts();
    for part in parts {
        let checked = check_size(part, parts, options);
        checked.map_err(|fault| Error::in_layer(part.descriptor.digest, fault))?;
    }
    let staging = Staging::begin_in_empty(folder, name)?;
    let root = staging.make_open("artifact")?;
    let blobs: Vec<&Descriptor> = parts.iter().map(|part| &part.descriptor).collect();
    let keys = Keys::ask_each(parts.iter().map(|part| part.encryption.as_ref()), Arc::clone(&order.keys));
    let run = Run::new(options.clone());
    let crew = Crew { source: order.source, blobs: &blobs, keys: &keys, workers: options.parallel };
    let done = crew.run(observer, |number, observer| match parts.get(number) {
        Some(part) => pull_part(order, (number, part), &keys, (root.as_fd(), staging.path()), &run, observer),
        None => Ok(Pulled::default()),
    })?;
    if observer.stopped() {
        return Err(Error::Interrupted);
    }
    staging.publish_durably("artifact")?;
    let sum = |all: Pulled, one: Pulled| Pulled {
        entries: all.entries + one.entries,
        bytes: all.bytes + one.bytes,
    };
    Ok(done.into_iter().fold(Pulled::default(), sum))
}

/// Refuses what is larger than the limits by its own account, before anything is fetched.
fn check_size(part: &Part, parts: &[Part], options: &Options) -> Result<(), LayerFault> {
    let limits = &options.limits;
    let files: u64 =
        parts.iter().filter(|part| part.form == PartForm::File).map(|part| part.descriptor.size).sum();
    if part.form == PartForm::File && files > limits.bytes {
        return Err(LayerFault::Limit { what: "bytes of files", limit: limits.bytes });
    }
    layer::check_size(part.descriptor.size, limits)
}

fn pull_part(
    order: &ArtifactOrder<'_>,
    (number, part): (usize, &Part),
    keys: &Keys,
    (root, path): (BorrowedFd<'_>, &str),
    run: &Run,
    observer: &dyn Observer,
) -> Result<Pulled, Error> {
    let failed = |fault| Error::in_layer(part.descriptor.digest, fault);
    let key = keys.of_layer(number, &|| observer.stopped()).map_err(|fault| failed(fault.into()))?;
    if part.encryption.is_some() != key.is_some() {
        return Err(Error::Interrupted);
    }
    let (compression, plain) = match part.form {
        PartForm::File => (Compression::None, None),
        PartForm::Archive { compression, digest } => (compression, digest),
    };
    let blob = order.source.blob(&part.descriptor)?;
    let flow = Flow { number, descriptor: &part.descriptor, compression, plain, blob, key };
    let title = part.title.as_str();
    let sunk = layer::pour(flow, run, observer, |from| match part.form {
        PartForm::File => archive::write_file(root, title, from, run),
        PartForm::Archive { .. } => archive::unpack(root, title, from, run),
    });
    let (bytes, entries) = sunk.map_err(|fault| failed(fault.for_folder(path)))?;
    observer.event(Event::LayerUnpacked { layer: number, entries, bytes, attributes_left_out: 0 });
    Ok(Pulled { entries, bytes })
}
