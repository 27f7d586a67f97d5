//! All parts of an artifact in a new folder, which appears complete or not at all.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use rustix::fs::RenameFlags;

use super::{Artifact, Part, PartForm, archive};
use crate::{
    Compression, Descriptor, Error, Event, Keys, LayerFault, LayerKeys, Observer, Source, Target,
    crew::Crew,
    kept::{Copied, Kept, Marks},
    layer::{self, Flow, Options, Run, Stages, unpack::open_beneath},
    limits::counted,
    policy::Admitted,
    staging::{self, Staging},
};

/// The folder while it is made.
const FOLDER: &str = "artifact";

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
    /// What the stages took.
    pub stages: Stages,
}

/// Pulls the artifact of `order` into the directory `target`, which must not exist or be empty. It appears complete
/// and written to the disk, or not at all; if it is a mount point, entry by entry at the end. If the pull is only cut off
/// ([`Error::may_go_on`]), files stay beside it, or in the mount point, for the next one.
///
/// Of `options` the limits and the numbers count; what is taken over of an archive is always the same.
///
/// # Errors
/// As [`crate::unpack_rootfs`].
pub fn pull_artifact(
    order: &ArtifactOrder<'_>,
    target: &Target<'_>,
    options: &Options,
    observer: &dyn Observer,
) -> Result<Pulled, Error> {
    order.admitted.covers_manifest(order.artifact.manifest_digest())?;
    let parts = order.artifact.parts();
    for part in parts {
        let checked = check_size(part, parts, options);
        checked.map_err(|fault| Error::in_layer(part.descriptor.digest, fault))?;
    }
    let image = order.artifact.manifest_digest();
    let staging = Staging::begin_in_empty(target, image, |folder| take_back(folder, parts))?;
    // Found out now, and not when all has come.
    let first =
        |part: &&Part| part.title.as_str().split('/').next().is_some_and(|first| staging.has_taken(first));
    if let Some(part) = parts.iter().find(first) {
        let why = format!("{} has something of that name", staging.path());
        return Err(Error::Title { title: part.title.as_str().escape_debug().to_string(), why });
    }
    let keys = Keys::ask_each(parts.iter().map(|part| part.encryption.as_ref()), Arc::clone(&order.keys));
    match target.confined(staging.folder(), || make(order, &keys, &staging, options, observer)) {
        Ok(pulled) => staging.publish_durably(FOLDER).map(|()| pulled),
        Err(error) => {
            staging.end(&error, observer);
            Err(error)
        }
    }
}

/// Makes the folder, which is not yet where it belongs.
fn make(
    order: &ArtifactOrder<'_>,
    keys: &Keys,
    staging: &Staging,
    options: &Options,
    observer: &dyn Observer,
) -> Result<Pulled, Error> {
    let parts = order.artifact.parts();
    let (root, kept) = (staging.make_open(FOLDER)?, staging.kept()?);
    let blobs: Vec<&Descriptor> = parts.iter().map(|part| &part.descriptor).collect();
    let run = Run::new(options.clone());
    let crew = Crew { source: order.source, blobs: &blobs, keys, workers: options.parallel };
    let place = Place { root: root.as_fd(), kept: &kept, path: staging.path() };
    let done = crew.run(observer, |number, observer| match parts.get(number) {
        Some(part) => pull_part(order, (number, part), keys, place, &run, observer),
        None => Ok((0, 0, None)),
    })?;
    if observer.stopped() {
        return Err(Error::Interrupted);
    }
    let mut all = Pulled { stages: run.stages(), ..Pulled::default() };
    for ((entries, bytes, blob), part) in done.into_iter().zip(parts) {
        all.entries += entries;
        all.bytes += bytes;
        let Some(blob) = blob else { continue };
        let placed = archive::place_file(root.as_fd(), part.title.as_str(), (kept.folder(), &blob));
        placed.map_err(|fault| Error::in_layer(part.descriptor.digest, fault.for_folder(place.path)))?;
    }
    Ok(all)
}

/// Puts files that already had their titles, when a pull was killed, back to what is kept.
fn take_back(folder: BorrowedFd<'_>, parts: &[Part]) {
    let Ok(kept) = staging::open_kept(folder) else { return };
    for part in parts.iter().filter(|part| is_plain(part)) {
        let path = format!("{}/{FOLDER}/{}", staging::WORK, part.title.as_str());
        let Some((above, name)) = path.rsplit_once('/') else { continue };
        let Ok(at) = open_beneath(folder, above.as_bytes()) else { continue };
        // What cannot be moved is fetched again.
        let _ = rustix::fs::renameat_with(
            &at,
            name,
            &kept,
            Kept::name(&part.descriptor.digest),
            RenameFlags::NOREPLACE,
        );
    }
}

/// Whether a part is a file whose blob has its bytes.
fn is_plain(part: &Part) -> bool {
    part.form == PartForm::File && part.encryption.is_none()
}

/// Where parts are made.
#[derive(Clone, Copy)]
struct Place<'a> {
    root: BorrowedFd<'a>,
    kept: &'a Kept,
    path: &'a str,
}

/// Refuses what is larger than the limits by its own account, before anything is fetched.
fn check_size(part: &Part, parts: &[Part], options: &Options) -> Result<(), LayerFault> {
    let limits = &options.limits;
    let files: u64 =
        parts.iter().filter(|part| part.form == PartForm::File).map(|part| part.descriptor.size).sum();
    if part.form == PartForm::File && files > limits.bytes {
        return Err(LayerFault::Limit { what: counted::CLAIMED, limit: limits.bytes });
    }
    layer::check_size(part.descriptor.size, limits)
}

/// Pulls one part; gives its files and entries, and its bytes. A file stays with what is kept until all are there, so that none of
/// them is lost if one does not come: its name there is given.
fn pull_part(
    order: &ArtifactOrder<'_>,
    (number, part): (usize, &Part),
    keys: &Keys,
    place: Place<'_>,
    run: &Run,
    observer: &dyn Observer,
) -> Result<(u64, u64, Option<String>), Error> {
    let title = part.title.as_str();
    let failed = |fault: LayerFault| {
        let fault = match fault {
            // Whatever it is called until it is whole.
            LayerFault::Storage { doing, source, .. } if is_plain(part) => {
                LayerFault::Storage { doing, name: title.escape_debug().to_string(), folder: None, source }
            }
            other => other,
        };
        Error::in_layer(part.descriptor.digest, fault.for_folder(place.path))
    };
    let key = keys.of_layer(number, &|| observer.stopped()).map_err(|fault| failed(fault.into()))?;
    if part.encryption.is_some() != key.is_some() {
        return Err(Error::Interrupted);
    }
    let (compression, plain) = match part.form {
        PartForm::File => (Compression::None, None),
        PartForm::Archive { compression, digest } => (compression, digest),
    };
    let descriptor = &part.descriptor;
    let opened = is_plain(part).then(|| place.kept.open((number, descriptor), observer));
    let mut blob = opened.transpose().map_err(failed)?.flatten();
    let marks = Marks::default();
    let mut flow = Flow {
        number,
        descriptor,
        compression,
        plain,
        blob: Box::new(io::empty()),
        begun: None,
        tap: None,
        key,
    };
    let sunk = match &mut blob {
        Some(blob) => {
            run.take_entry(0).map_err(failed)?;
            let length = blob.length();
            (flow.begun, flow.tap) = (Some(blob.begun()), Some(marks.tap(length, descriptor.size)));
            if length < descriptor.size || length == 0 {
                flow.blob = order.source.blob_from(descriptor, length)?;
            }
            let poured = layer::pour(flow, run, observer, |from| blob.fill(from, &marks).map(|()| 1));
            poured.map(|(bytes, entries)| (length + bytes, entries))
        }
        None => {
            Copied { blob: flow.blob, tap: flow.tap } =
                place.kept.copy(order.source, (number, descriptor), observer)?;
            layer::pour(flow, run, observer, |from| match part.form {
                PartForm::File => archive::write_file(place.root, title, from, run),
                PartForm::Archive { .. } => archive::unpack(place.root, title, from, run),
            })
        }
    };
    let (bytes, entries) = sunk.map_err(failed)?;
    observer.event(Event::LayerUnpacked { layer: number, entries, bytes, attributes_left_out: 0 });
    Ok((entries, bytes, blob.map(|blob| blob.name().to_owned())))
}
