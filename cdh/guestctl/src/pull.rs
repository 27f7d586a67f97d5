//! `guestctl pull`: an image, unpacked into a new folder, or an artifact's files, every byte compared with its digest.
//!
//! The work is that of the image library, on threads of its own; this side shows how far it is, and stops it when the
//! operator does (Ctrl-C, SIGTERM). What came until then stays beside the folder, and the next pull goes on with it. The folder
//! appears complete or not at all. It needs root for images, which have owners, devices and file capabilities.

mod admission;
mod artifact;
mod bundle;
mod confine;
mod keys;
mod place;
mod progress;

use std::{
    ffi::OsString,
    fs::File,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use cc_evidence::blame::Blame;
use clap::value_parser;
use image_registry::Stop;
use image_rs::{
    Descriptor, Error, Image, Layer, LayerKeys, Order, Platform, Target, Unpacked, discard_kept, layer,
    policy::Verdict, unpack_rootfs,
};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use crate::{failure::Failure, output::Console};
use admission::Admission;
use place::{Found, From, Place};
use progress::{Progress, View};

/// What the operator gives.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Progress is one line that changes on a terminal; else plain lines on standard error, at the start and end of each layer or file \
and every 10 seconds, at most 20 in a second; --quiet leaves them out.
JSON (--json) is one object on each line: \
{\"event\":\"confined\"|\"layer\"|\"resumed\"|\"progress\"|\"unpacked\"|\"kept\"|\"done\", …}.

A pull that is stopped, killed or cut off from the registry leaves what came in .FOLDER.guestctl-partial beside the folder (in a \
mount point: in it), for root alone. The same command goes on from there, after all of it was hashed again.

Example:
  guestctl pull quay.io/team/app:1.0 --authfile auth.json --rootfs /srv/app
  guestctl pull oci:/srv/images/app:1.0 --rootfs /srv/app
  guestctl pull quay.io/team/app:1.0 --bundle /run/bundles/app
  guestctl pull --artifact quay.io/team/model:7b /srv/models/7b --policy policy.json
  guestctl pull oci:/srv/images/app --rootfs /srv/app --refuse-devices --json
  guestctl pull oci:/srv/images/app:1.0 --policy policy.json --name quay.io/team/app:1.0 --explain")]
pub(crate) struct Args {
    /// `[registry[:port]/]name[:tag][@digest]` in a registry, or an image layout on this machine, `oci:FOLDER[:NAME]` or
    /// `oci-archive:FILE[:NAME]`, with the name of the image in it if it holds several
    #[arg(value_name = "IMAGE")]
    from: From,
    /// With --artifact: put the files into this folder, which must not exist or be empty; it may be an empty mount point
    #[arg(value_name = "DIR", requires = "artifact")]
    dir: Option<PathBuf>,
    /// IMAGE is an artifact (files such as a model, as oras pushes them); its files get into DIR
    #[arg(long, conflicts_with_all = ["rootfs", "bundle", "refuse_devices", "drop_privileges"])]
    artifact: bool,
    /// Unpack into this new folder
    #[arg(long, value_name = "FOLDER", required_unless_present_any = ["explain", "bundle", "artifact"])]
    rootfs: Option<PathBuf>,
    /// Have the data hub make a bundle (rootfs, mounted, and config.json) in this folder, by the hub's own policy and
    /// settings; there is no way to a bundle without a hub
    #[arg(long, value_name = "FOLDER", conflicts_with_all = [
        "rootfs", "explain", "policy", "authfile", "creds_file", "registries_conf", "cert", "plain_http",
        "refuse_devices", "drop_privileges", "max_bytes", "max_window", "decryption_key", "platform", "restart", "quiet",
    ])]
    bundle: Option<PathBuf>,
    #[command(flatten)]
    registry: place::Args,
    #[command(flatten)]
    admission: admission::Args,
    #[command(flatten)]
    keys: keys::Args,
    /// Take the image for this machine instead, such as linux/arm64
    #[arg(long, value_name = "SYSTEM/ARCHITECTURE")]
    platform: Option<Platform>,
    /// Refuse an image with device nodes
    #[arg(long)]
    refuse_devices: bool,
    /// Leave set-user-id and set-group-id bits and file capabilities out
    #[arg(long)]
    drop_privileges: bool,
    /// Throw away what an earlier pull to the same place has left, and begin anew
    #[arg(long, conflicts_with = "explain")]
    restart: bool,
    /// Show no progress, only warnings and what becomes of a pull that is cut off
    #[arg(long, short)]
    quiet: bool,
    /// Refuse an image with more bytes than this when uncompressed
    #[arg(long, alias = "max-layer-bytes", value_name = "BYTES")]
    max_bytes: Option<u64>,
    /// Refuse layers of Zstandard with a larger window; at most 134217728 (128 MiB). One above 8 MiB takes as much memory beside the
    /// 64 megabytes that a pull takes
    #[arg(long, value_name = "BYTES", default_value_t = layer::Options::LARGEST_WINDOW, value_parser = value_parser!(u64).range(1024..=layer::Options::LARGEST_WINDOW))]
    max_window: u64,
}

/// Pulls and shows how far it is.
pub(crate) async fn run(args: &Args, json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    if let Some(folder) = &args.bundle {
        return bundle::run(&args.from, folder, args.keys.hub(), json, console).await;
    }
    if args.artifact {
        return match &args.dir {
            _ if args.admission.explain => artifact::explain(args, json, console).await,
            Some(folder) => artifact::run(args, folder, json, console).await,
            None => Err(Failure::Argument {
                argument: "DIR".to_owned(),
                why: "--artifact needs a folder to put the files into".to_owned(),
                hint: "guestctl pull --artifact IMAGE DIR".to_owned(),
            }),
        };
    }
    let admission = args.admission.read()?;
    let Some(rootfs) = args.rootfs.clone().filter(|_| !args.admission.explain) else {
        return explain(args, admission, json, console).await;
    };
    if args.admission.policy().is_none() {
        console.complain("warning: no --policy: whatever image this is, it is unpacked\n");
    }
    let progress = Arc::new(Progress::default());
    let place = Place::new(&args.from, &args.registry, progress.network())?;
    let work = {
        let (progress, target, restart) = (Arc::clone(&progress), rootfs.clone(), args.restart);
        let (platform, options, keys) = (platform(args), args.options(), args.keys.service()?);
        move || {
            into_target(&place, (&target, restart), &progress, |found, target| {
                pull(found, &admission, target, (&platform, &options), &keys, &progress)
            })
        }
    };
    let pulled = watch(work, &progress, (json, args.quiet), console).await?;
    let (image, unpacked) = pulled.map_err(failed(args))?;
    report(args, (&rootfs, progress.bytes_kept()), &image, &unpacked, json, console)
}

/// Does `work` on a thread of its own, shows how far it is, and stops it by signals.
async fn watch<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    progress: &Progress,
    (json, quiet): (bool, bool),
    console: &mut Console<'_>,
) -> Result<Result<T, Error>, Failure> {
    let started = |source| Failure::Start { step: "wait for signals", source };
    let mut interrupt = signal(SignalKind::interrupt()).map_err(started)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(started)?;
    let mut work = tokio::task::spawn_blocking(work);
    let mut view = View::new(json, quiet, console);
    // Whoever reads the progress may go away: then the pull is stopped as by a signal, and waited for.
    let mut shown = Ok(());
    let result = loop {
        tokio::select! {
            result = &mut work => break result,
            () = tokio::time::sleep(view.interval()), if shown.is_ok() => {
                shown = view.show(progress);
                if shown.is_err() {
                    progress.stop();
                }
            }
            _ = interrupt.recv() => progress.stop(),
            _ = terminate.recv() => progress.stop(),
        }
    };
    shown?;
    view.end(progress)?;
    result.map_err(|join| std::panic::resume_unwind(join.into_panic()))
}

/// What was judged, and how a pull of it would end.
struct Judged<T> {
    verdict: Verdict,
    what: T,
    /// The name that it has where it was read; none in a layout.
    place: Option<String>,
    end: Result<(), Error>,
}

/// Judges the image in one place after the other until one is admitted, as a pull does; blocks meanwhile.
async fn judged<T: Send + 'static>(
    place: Place,
    mut judge: impl FnMut(&Found<'_>) -> Result<(Verdict, T), Error> + Send + 'static,
) -> Result<Result<Judged<T>, Error>, Failure> {
    let judge_all = move || {
        let mut last = None;
        let end = place.first(|found| {
            let (verdict, what) = judge(found)?;
            let name = found.repository.map(|repository| repository.reference().to_string());
            let end = verdict.clone().admitted().map(drop);
            last = Some((verdict, what, name));
            end
        });
        match (last, end) {
            (Some((verdict, what, place)), end) => Ok(Judged { verdict, what, place, end }),
            (None, end) => Err(end.err().unwrap_or(Error::Interrupted)),
        }
    };
    let judged = tokio::task::spawn_blocking(judge_all).await;
    judged.map_err(|join| std::panic::resume_unwind(join.into_panic()))
}

/// Names the image in an error.
fn failed(args: &Args) -> impl Fn(Error) -> Failure {
    |error| Failure::Image { image: args.from.to_string(), error: Box::new(error) }
}

/// Judges the image and says how, without unpacking it.
async fn explain(
    args: &Args,
    admission: Admission,
    json: bool,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let place = Place::new(&args.from, &args.registry, &Stop::default())?;
    let platform = platform(args);
    let judge = move |found: &Found<'_>| {
        let image = Image::resolve(found.source, found.pointer, &platform)?;
        Ok((admission.decide(found, (image.manifest_digest(), image.index_digest())), image))
    };
    let judged = judged(place, judge).await?.map_err(failed(args))?;
    if json {
        let mut told = judged.verdict.explain();
        if let Value::Object(members) = &mut told {
            members.insert("place".to_owned(), json!(judged.place));
            members.insert("layers".to_owned(), judged.what.layers().iter().map(layer_json).collect());
        }
        console.json(&told)?;
    } else if judged.end.is_ok() {
        admission::show(&judged.verdict, console)?;
        console.text(&fetched(&judged.what, judged.place.as_deref()))?;
    }
    judged.end.map_err(failed(args))
}

fn layer_json(layer: &Layer) -> Value {
    let Descriptor { digest, size, media_type, .. } = &layer.descriptor;
    json!({
        "digest": digest.to_string(), "size": size, "media_type": media_type, "encrypted": layer.encryption.is_some(),
    })
}

/// What a pull would fetch of an image that is admitted, layer by layer.
fn fetched(image: &Image, place: Option<&str>) -> String {
    let total: u64 = image.layers().iter().map(|layer| layer.descriptor.size).sum();
    let from = place.map(|place| format!(" from {place}")).unwrap_or_default();
    let mut text = format!("{} layers, {total} bytes{from}:\n", image.layers().len());
    for layer in image.layers() {
        let Descriptor { digest, size, media_type, .. } = &layer.descriptor;
        text.push_str(&format!("  {digest}: {size} bytes, {media_type}\n"));
    }
    text
}

fn platform(args: &Args) -> Platform {
    args.platform.clone().unwrap_or_else(Platform::of_this_machine)
}

impl Args {
    fn options(&self) -> layer::Options {
        let mut options = layer::Options::default();
        options.policy.refuse_devices = self.refuse_devices;
        options.policy.drop_privileges = self.drop_privileges;
        options.largest_window = self.max_window;
        if let Some(bytes) = self.max_bytes {
            options.limits.bytes = bytes;
        }
        options
    }
}

/// Lets `pull` try each place of the image until one gives it, confined to where it makes the result. What an earlier pull has
/// left goes if that is wanted, and if this one is told that it was wrong.
fn into_target<T>(
    place: &Place,
    (target, restart): (&Path, bool),
    progress: &Progress,
    mut pull: impl FnMut(&Found<'_>, &Target<'_>) -> Result<T, Error>,
) -> Result<T, Error> {
    let (folder, name) = split(target)?;
    let layout = place.layout();
    let confine = |folder: BorrowedFd<'_>| progress.confined(confine::to_folder(folder, layout.as_ref()));
    let target = Target::new(folder.as_fd(), &name).confined_by(&confine);
    if restart {
        discard_kept(&target)?;
    }
    let pulled = place.first(|found| match pull(found, &target) {
        // What was kept has gone with the error: it may have been wrong, whoever it came from, and this place right.
        Err(error) if progress.bytes_kept() > 0 && error.blame() == Blame::Misbehaved => {
            found.again(|found| pull(found, &target))
        }
        pulled => pulled,
    });
    if let Err(error) = &pulled
        && !error.may_go_on()
        && matches!(error.blame(), Blame::Denied | Blame::Misbehaved)
    {
        // The error that is told says more than that something stays.
        let _ = discard_kept(&target);
    }
    pulled
}

fn pull(
    found: &Found<'_>,
    admission: &Admission,
    target: &Target<'_>,
    (platform, options): (&Platform, &layer::Options),
    keys: &Arc<dyn LayerKeys>,
    progress: &Progress,
) -> Result<(Image, Unpacked), Error> {
    let image = Image::resolve(found.source, found.pointer, platform)?;
    let digests = (image.manifest_digest(), image.index_digest());
    let admitted = admission.decide(found, digests).admitted()?;
    let count = image.layers().len();
    let name = |number| format!("layer {} of {count}", number + 1);
    let layers = image.layers().iter().enumerate();
    progress.expect(layers.map(|(number, layer)| (name(number), layer.descriptor.size)));
    let order = Order { source: found.source, image: &image, admitted: &admitted, keys: Arc::clone(keys) };
    let unpacked = unpack_rootfs(&order, target, options, progress)?;
    Ok((image, unpacked))
}

/// The open folder that the target will be in, and the target's name there.
fn split(target: &Path) -> Result<(File, OsString), Error> {
    let failed = |path: &Path, source| Error::Storage { doing: format!("open {}", path.display()), source };
    let name = target.file_name().ok_or_else(|| failed(target, std::io::ErrorKind::InvalidInput.into()))?;
    let folder = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    Ok((File::open(folder).map_err(|source| failed(folder, source))?, name.to_owned()))
}

/// What is said of bytes that an earlier pull had left.
fn resumed(bytes: u64) -> String {
    match bytes {
        0 => String::new(),
        bytes => format!("note: {bytes} bytes are from an earlier pull, hashed again\n"),
    }
}

fn report(
    args: &Args,
    (rootfs, kept): (&Path, u64),
    image: &Image,
    unpacked: &Unpacked,
    json: bool,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let (manifest, config) = (image.manifest_digest(), image.config_digest());
    let (entries, layers, left_out) = (unpacked.entries, image.layers().len(), unpacked.attributes_left_out);
    if json {
        return console.json_line(&json!({
            "event": "done", "image": args.from.to_string(), "manifest_digest": manifest.to_string(),
            "index_digest": image.index_digest().map(|digest| digest.to_string()),
            "config_digest": config.to_string(), "rootfs": rootfs.display().to_string(), "layers": layers,
            "entries": entries, "attributes_left_out": left_out, "bytes_resumed": kept,
            "policy": args.admission.policy(), "stages": progress::stages(&unpacked.stages),
        }));
    }
    let left_out = match left_out {
        0 => String::new(),
        n => format!("note: {n} user. attributes left out, the file system of the folder has none\n"),
    };
    let rootfs = rootfs.display();
    console.text(&format!(
        "{rootfs}: {layers} layers, {entries} entries\nmanifest {manifest}\nconfig   {config}\n{left_out}{}",
        resumed(kept)
    ))
}
