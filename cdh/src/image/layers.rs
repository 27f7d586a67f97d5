//! The layers of an image into the store: several at a time, each asked for, and fetched only if it is not there.
//!
//! The bytes go from the source through a pipe to `cdh-storage`, which checks and unpacks them.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read, Write},
    os::fd::AsFd,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use cc_crypto::Secret;
use cc_evidence::blame::Blame;
use cc_sealed::LayerKey;
use cc_storage::{Answer, Cipher, Claim, Client, Fault, Layer, Name, Request, StorageError};
use image_registry::Stop;
use image_rs::{Error, Image, Keys, LayerFault, LayerKeys, Limits, Source, layer};
use rustix::event::{PollFd, PollFlags, Timespec};

use super::storage::{Mode, Storage};
use crate::error::HubError;

/// Bytes between source and pipe.
const BUFFER: usize = 256 << 10;

/// Most bytes of the annotations of an encrypted layer in JSON: they have to fit into one message with the rest of a claim.
const MAX_ANNOTATIONS: usize = cc_storage::MAX_LEN - (8 << 10);
/// Between two looks whether a layer that cannot go on is still wanted.
const GLANCE: Duration = Duration::from_millis(50);

/// How long an error waits until what it ended is undone.
pub(super) const FAREWELL: Duration = Duration::from_secs(10);

/// What is to be brought into the store.
pub(super) struct Order<'a> {
    pub(super) source: &'a dyn Source,
    pub(super) image: &'a Image,
    pub(super) keys: Arc<dyn LayerKeys>,
    /// Layers at a time.
    pub(super) parallel: usize,
    /// What the program that unpacks bounds images by, as far as it is known here.
    pub(super) limits: &'a Limits,
    /// Whether nobody wants the image any more.
    pub(super) stop: &'a Stop,
}

/// The layers of an image in the store, which they stay in as long as this value lives.
pub(super) struct Layers {
    /// Names in the store, the lowest first, each once.
    pub(super) names: Vec<Name>,
    /// At least one channel on which something was claimed.
    pub(super) channels: Vec<Client>,
}

impl Layers {
    /// Asks the program that has them for something else.
    pub(super) fn ask(&mut self, request: Request) -> Result<(), HubError> {
        let channel = self.channels.first_mut().ok_or(StorageError::Gone)?;
        Ok(channel.ask(request, None, &[]).map(drop)?)
    }
}

/// Whether a bundle can be made of the image called `name`.
pub(super) fn check(name: &str, image: &Image) -> Result<(), HubError> {
    let unusable = |why: String| {
        let message = format!("no bundle can be made of {name}: {why}");
        let hint = "build the image with a root file system, and encrypt it for fewer recipients";
        Err(Fault::new(Blame::Misbehaved, "IMAGE_LAYERS_UNUSABLE", message, hint).into())
    };
    if image.layers().is_empty() {
        return unusable("it has no layers".to_owned());
    }
    for layer in image.layers().iter().filter(|layer| layer.encryption.is_some()) {
        let length = serde_json::to_vec(&layer.descriptor.annotations).map_or(usize::MAX, |text| text.len());
        if length > MAX_ANNOTATIONS {
            let digest = layer.descriptor.digest;
            return unusable(format!(
                "layer {digest} has {length} bytes of annotations, more than {MAX_ANNOTATIONS}"
            ));
        }
    }
    Ok(())
}

/// Brings all layers into the store.
pub(super) fn fetch(order: &Order<'_>, storage: &Storage) -> Result<Layers, HubError> {
    // What the program that unpacks would refuse is not asked for.
    for layer in order.image.layers() {
        let checked = layer::check_size(layer.descriptor.size, order.limits);
        checked.map_err(|fault| Error::Layer { layer: layer.descriptor.digest, fault: Box::new(fault) })?;
    }
    let mut pull = [0; 32];
    getrandom::fill(&mut pull).map_err(|error| Error::Storage {
        doing: "make up a name for the pull".to_owned(),
        source: io::Error::other(error.to_string()),
    })?;
    let mut waiting = distinct(order.image);
    let numbers = waiting.clone();
    // The largest are begun first.
    waiting.sort_by_key(|number| order.image.layers().get(*number).map(|layer| layer.descriptor.size));
    let workers = order.parallel.clamp(1, waiting.len().max(1));
    let work = Work {
        order,
        pull: pull.into(),
        waiting: Mutex::new(waiting),
        failed: AtomicBool::new(false),
        keys: OnceLock::new(),
    };
    let results: Vec<Result<Done, HubError>> = thread::scope(|scope| {
        let run = || {
            let result = storage.channel(Mode::Unpack).and_then(|channel| work.run(channel));
            if result.is_err() {
                work.give_up();
            }
            result
        };
        let others = (1..workers).map_while(|_| thread::Builder::new().spawn_scoped(scope, run).ok());
        let others: Vec<_> = others.collect();
        let own = run();
        let others = others.into_iter().map(thread::ScopedJoinHandle::join);
        let others = others.map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        std::iter::once(own).chain(others).collect()
    });
    let (mut found, mut channels, mut failure) = (Vec::new(), Vec::new(), None);
    for result in results {
        match result {
            Ok(done) => {
                found.extend(done.found);
                channels.push(done.channel);
            }
            // Those that were only stopped tell less than the one that failed.
            Err(error) if error.code() == Error::Interrupted.code() => {
                failure.get_or_insert(error);
            }
            Err(error) => failure = Some(error),
        }
    }
    if let Some(failure) = failure {
        return Err(failure);
    }
    found.sort_by_key(|(number, _)| *number);
    debug_assert_eq!(found.iter().map(|(number, _)| *number).collect::<Vec<_>>(), numbers);
    Ok(Layers { names: found.into_iter().map(|(_, name)| name).collect(), channels })
}

/// The places of the layers, the lowest first, without those that come again further up: there they say all that they say, so
/// below they would be hidden, and an overlay takes a directory only once.
fn distinct(image: &Image) -> Vec<usize> {
    let mut seen = BTreeSet::new();
    let mut numbers: Vec<usize> = image
        .layers()
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, layer)| {
            seen.insert((layer.descriptor.digest, layer.diff_id, &layer.descriptor.media_type))
        })
        .map(|(number, _)| number)
        .collect();
    numbers.reverse();
    numbers
}

struct Work<'a> {
    order: &'a Order<'a>,
    /// What `cdh-storage` knows it by.
    pull: Name,
    waiting: Mutex<Vec<usize>>,
    failed: AtomicBool,
    /// Asked for when the first layer needs one, then all at once.
    keys: OnceLock<Keys>,
}

/// What one worker brought into the store.
struct Done {
    found: Vec<(usize, Name)>,
    channel: Client,
}

impl Work<'_> {
    fn run(&self, mut channel: Client) -> Result<Done, HubError> {
        let mut found = Vec::new();
        // Taken in a step of its own: the lock must be free again while the layer is fetched.
        let next = || self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
        while let Some(number) = next() {
            found.push((number, self.layer(number, &mut channel)?));
        }
        Ok(Done { found, channel })
    }

    fn is_stopped(&self) -> bool {
        self.failed.load(Ordering::Relaxed) || self.order.stop.is_stopped()
    }

    /// Has all layers stopped, also those that wait for the network, which hear nothing of a flag.
    fn give_up(&self) {
        self.failed.store(true, Ordering::Relaxed);
        self.order.source.give_up();
    }

    fn layer(&self, number: usize, channel: &mut Client) -> Result<Name, HubError> {
        let interrupted = || HubError::from(Error::Interrupted);
        if self.is_stopped() {
            return Err(interrupted());
        }
        let layer = self.order.image.layers().get(number).ok_or_else(interrupted)?;
        let digest = layer.descriptor.digest;
        let wanted = Layer {
            media_type: layer.descriptor.media_type.clone(),
            digest: digest.to_string(),
            size: layer.descriptor.size,
            diff_id: layer.diff_id.to_string(),
            encryption: match layer.encryption {
                Some(_) => layer.descriptor.annotations.clone(),
                None => Default::default(),
            },
        };
        let claim = Claim { pull: self.pull.clone(), layer: wanted };
        // Another pull may be filling it, for as long as its registry takes.
        let wanted = || !self.is_stopped();
        let claimed = channel.ask_while(Request::Claim(claim), None, &[], &wanted, Duration::ZERO)?;
        match claimed.ok_or_else(interrupted)?.body {
            Answer::Present(name) => return Ok(name),
            Answer::Wanted => {}
            _ => return Err(unexpected()),
        }
        let keys = || Keys::ask(self.order.image.layers(), Arc::clone(&self.order.keys));
        let key = match &layer.encryption {
            None => None,
            Some(_) => {
                let key = self.keys.get_or_init(keys).of_layer(number, &|| self.is_stopped());
                let key = key.map_err(|fault| Error::Layer {
                    layer: digest,
                    fault: Box::new(LayerFault::Key(Box::new(fault))),
                })?;
                Some(key.ok_or_else(interrupted)?)
            }
        };
        let blob = self.order.source.blob(&layer.descriptor)?;
        self.fill(channel, blob, key.as_deref())
            .map_err(|fault| fault.unwrap_or_else(interrupted).in_layer(&digest.to_string()))
    }

    /// Lets the bytes of `blob` flow until the layer is there. No error of its own means that nobody wants it any more.
    fn fill(
        &self,
        channel: &mut Client,
        blob: Box<dyn Read + Send>,
        key: Option<&LayerKey>,
    ) -> Result<Name, Option<HubError>> {
        let failed = |source| {
            let doing = "make a pipe to cdh-storage".to_owned();
            Some(HubError::from(Error::Storage { doing, source }))
        };
        let (read, write) = io::pipe().map_err(failed)?;
        // As much as one buffer; without, it is only slower.
        let _ = rustix::pipe::fcntl_setpipe_size(&write, BUFFER);
        let cipher =
            key.map(|key| Cipher { nonce: hex(&key.nonce), mac: hex(&key.mac), digest: key.digest.clone() });
        let secret = key.map(|key| Secret::new(key.key.expose().to_vec()));
        // Writing must not wait where nobody looks whether the layer is wanted.
        rustix::io::ioctl_fionbio(&write, true).map_err(|error| failed(error.into()))?;
        let cut = AtomicBool::new(false);
        let (fed, answered, refused) = thread::scope(|scope| {
            let cut = &cut;
            let feeding = thread::Builder::new()
                .spawn_scoped(scope, move || {
                    let mut pipe = File::from(std::os::fd::OwnedFd::from(write));
                    let fed = feed(blob, &mut pipe, &|| self.is_stopped());
                    // Known before the pipe is closed: what cdh-storage says of an end that came too early is no news.
                    cut.store(!matches!(fed, Fed::All), Ordering::SeqCst);
                    fed
                })
                .map_err(failed)?;
            let wanted = || !cut.load(Ordering::SeqCst) && !self.is_stopped();
            let answered =
                channel.ask_while(Request::Fill(cipher), secret, &[read.as_fd()], &wanted, FAREWELL);
            let refused = answered.is_err() && !cut.load(Ordering::SeqCst);
            if refused {
                // The feeder may wait for a slow registry, for bytes that nobody wants.
                self.give_up();
            }
            // The other end has its own; if nobody reads any more, the feeder has to notice.
            drop(read);
            let fed = feeding.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok::<_, Option<HubError>>((fed, answered, refused))
        })?;
        match (fed, answered) {
            // Whatever became of the source then, it is because of this.
            (_, Err(error)) if refused => Err(Some(error.into())),
            // It is there, perhaps because another pull was faster; then it does not count what the source says.
            (_, Ok(Some(answered))) => match answered.body {
                Answer::Present(name) => Ok(name),
                _ => Err(Some(unexpected())),
            },
            // What the source said is why the layer was cut.
            (Fed::Failed(error), _) => Err(Some(error.into())),
            (Fed::Stopped, _) => Err(None),
            (Fed::All, Ok(None)) => Err(None),
            (Fed::All, Err(error)) => Err(Some(error.into())),
        }
    }
}

enum Fed {
    All,
    Stopped,
    Failed(Error),
}

/// Copies all of `blob` into the pipe, which does not wait, unless it is to stop or nobody reads any more.
fn feed(mut blob: Box<dyn Read + Send>, pipe: &mut File, stopped: &dyn Fn() -> bool) -> Fed {
    let mut buffer = vec![0; BUFFER];
    loop {
        if stopped() {
            return Fed::Stopped;
        }
        let read = match blob.read(&mut buffer) {
            Ok(0) => return Fed::All,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                return Fed::Failed(match error.downcast::<Error>() {
                    Ok(told) => told,
                    Err(source) => Error::Read { what: "a layer".to_owned(), source },
                });
            }
        };
        match write_all(pipe, buffer.get(..read).unwrap_or_default(), stopped) {
            Written::All => {}
            Written::Stopped => return Fed::Stopped,
            // Why nobody reads any more is told by whoever did.
            Written::Closed => return Fed::All,
        }
    }
}

enum Written {
    All,
    Stopped,
    Closed,
}

fn write_all(pipe: &mut File, mut bytes: &[u8], stopped: &dyn Fn() -> bool) -> Written {
    let glance = Timespec::try_from(GLANCE).ok();
    while !bytes.is_empty() {
        match pipe.write(bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if stopped() {
                    return Written::Stopped;
                }
                let _ = rustix::event::poll(&mut [PollFd::new(pipe, PollFlags::OUT)], glance.as_ref());
            }
            Err(_) => return Written::Closed,
        }
    }
    Written::All
}

fn unexpected() -> HubError {
    StorageError::Protocol { why: "the answer does not fit the request".to_owned() }.into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use image_rs::{Descriptor, Document, NoKeys, Platform, Pointer};
    use serde_json::json;

    use super::*;
    use crate::image::config::ImageConfig;

    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

    /// Has documents, and no layer that anybody may ask for.
    #[derive(Debug)]
    struct Documents {
        manifest: Vec<u8>,
        config: Vec<u8>,
    }

    impl Source for Documents {
        fn document(&self, _: &Pointer) -> Result<Document, Error> {
            Ok(Document { media_type: Some(MANIFEST.to_owned()), bytes: self.manifest.clone() })
        }

        fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, Error> {
            assert_eq!(descriptor.media_type, CONFIG, "a layer was asked for");
            Ok(Box::new(io::Cursor::new(self.config.clone())))
        }
    }

    #[test]
    fn a_layer_that_would_be_refused_is_not_asked_for() {
        let sha256 = |bytes: &[u8]| image_rs::Digest::of(image_rs::Algorithm::Sha256, bytes).to_string();
        let config = json!({
            "os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [sha256(b"x")]},
        });
        let config = config.to_string().into_bytes();
        let layer = json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": sha256(b"x"), "size": 1u64 << 49,
        });
        let manifest = json!({
            "schemaVersion": 2, "layers": [layer],
            "config": {"mediaType": CONFIG, "digest": sha256(&config), "size": config.len()},
        });
        let source = Documents { manifest: manifest.to_string().into_bytes(), config };
        let platform = Platform { os: "linux".into(), architecture: "amd64".into(), variant: None };
        let image = Image::resolve(&source, &Pointer::Tag("it".to_owned()), &platform).unwrap();
        let stop = Stop::default();
        let limits = &Limits::default();
        let order = Order {
            source: &source,
            image: &image,
            keys: Arc::new(NoKeys),
            parallel: 1,
            limits,
            stop: &stop,
        };
        let config = toml::from_str::<ImageConfig>("storage = {program = '/nonexistent'}").unwrap();
        let refused = fetch(&order, &Storage::new(&config)).map(drop).unwrap_err();
        assert_eq!(refused.code(), "LAYER_LIMIT", "{refused}");
    }
}
