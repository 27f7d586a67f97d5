//! The mode that unpacks: bytes of a layer come out of a pipe, and go into the store once every digest was right.
//!
//! The hub has the network and the policy, this process has the archive: hashing, decompression and reading of the tar
//! format happen here, confined to the store.

use std::{
    collections::BTreeMap,
    fs::File,
    path::Path,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use cc_crypto::Secret;
use cc_sealed::{LayerEncryption, LayerKey};
use cc_storage::{Answer, Answered, Channel, Cipher, Claim, Image, Layer, Name, Packet, Request};
use image_rs::{
    Descriptor, Event, LayerFault, Observer, Storage,
    layer::{Input, Options, Run, Stages},
    store::{self, Hold, LayerName, Record, Reservation, Store, Stored},
};

use crate::{
    Failure, boot,
    serve::{Job, Worker, done, is_open},
};

/// Between two looks whether somebody else has filled a layer.
const GLANCE: Duration = Duration::from_millis(20);

/// How long others that pull are waited for before the store is collected: those that were given up just now end soon.
const COLLECT_PATIENCE: Duration = Duration::from_secs(5);

/// Bytes for the windows of all pulls together: more than one pull takes, so that one whose layers come slowly leaves some, at
/// least the largest of the usual windows.
const ALL_WINDOWS: u64 = Options::WINDOWS + Options::LARGE_WINDOW;

/// The mode's worker.
#[derive(Debug)]
pub struct Layers {
    store: Arc<Store>,
    /// What all pulls have in common: memory for decoders.
    common: Run,
    /// What each pull is bounded by.
    options: Options,
    /// What the channels of one pull have in common: what its image has used of the bounds.
    pulls: Mutex<BTreeMap<Name, Weak<Run>>>,
}

/// What a channel remembers: that it is in the midst of a pull, and the layer it is to fill.
#[derive(Debug, Default)]
pub struct Memory {
    hold: Option<Hold>,
    pull: Option<(Name, Arc<Run>)>,
    wanted: Option<(Reservation, image_rs::Layer)>,
}

impl Layers {
    /// Works in the store in `folder`, whose layers may have `limit` bytes together; each image is unpacked by `options`.
    ///
    /// # Errors
    /// The store cannot be used.
    pub fn open(folder: &Path, limit: Option<u64>, options: Options) -> Result<Self, Failure> {
        // A store of another boot lay on a disk that the host could write to in between.
        let store = Arc::new(Store::open(folder, &boot::id()?, limit)?);
        let common = Options { windows: ALL_WINDOWS, ..options.clone() };
        Ok(Self { store, common: Run::new(common), options, pulls: Mutex::default() })
    }

    /// The run of the pull called `name`, which lasts as long as a channel has it.
    fn run(&self, name: &Name, memory: &mut Memory) -> Arc<Run> {
        if let Some((_, run)) = memory.pull.as_ref().filter(|(last, _)| last == name) {
            return Arc::clone(run);
        }
        let mut pulls = self.pulls.lock().unwrap_or_else(PoisonError::into_inner);
        pulls.retain(|_, run| run.strong_count() > 0);
        let run = pulls.get(name).and_then(Weak::upgrade);
        let run = run.unwrap_or_else(|| Arc::new(self.common.beside(self.options.clone())));
        pulls.insert(name.clone(), Arc::downgrade(&run));
        memory.pull = Some((name.clone(), Arc::clone(&run)));
        run
    }

    fn claim(&self, claim: &Claim, channel: &Channel, memory: &mut Memory) -> Result<Answer, Failure> {
        let layer = read_layer(&claim.layer)?;
        let run = self.run(&claim.pull, memory);
        let hold = match memory.hold.take() {
            Some(hold) => hold,
            None => self.store.hold()?,
        };
        let hold = memory.hold.insert(hold);
        memory.wanted = None;
        match self.store.claim(hold, &layer, run.options(), || is_open(channel, GLANCE))? {
            store::Claim::Present(stored) => {
                let in_layer = |fault: LayerFault| image_rs::Error::Layer {
                    layer: layer.descriptor.digest,
                    fault: Box::new(fault),
                };
                run.take_layer(&stored).map_err(in_layer)?;
                present(&stored)
            }
            store::Claim::Wanted(reservation) => {
                if reservation.is_beside() {
                    let layer = layer.descriptor.digest;
                    tracing::warn!(%layer, "another pull fills a layer slowly: this one fetches it too");
                }
                memory.wanted = Some((reservation, layer));
                Ok(Answer::Wanted)
            }
        }
    }

    fn fill(
        &self,
        blob: File,
        key: Option<LayerKey>,
        channel: &Channel,
        memory: &mut Memory,
    ) -> Result<Answer, Failure> {
        let ((reservation, layer), (_, run)) = memory
            .wanted
            .take()
            .zip(memory.pull.as_ref())
            .ok_or_else(|| Failure::Request { why: "no layer was claimed".to_owned() })?;
        let input = Input { number: 0, layer: &layer, blob: Box::new(blob), key: key.map(Arc::new) };
        present(&reservation.fill(input, run, &Wanted(channel))?)
    }

    fn collect(&self, channel: &Channel, memory: &mut Memory) -> Result<(), Failure> {
        *memory = Memory::default();
        let begun = Instant::now();
        loop {
            match self.store.collect() {
                Err(image_rs::Error::StoreBusy { .. })
                    if begun.elapsed() < COLLECT_PATIENCE && is_open(channel, GLANCE) => {}
                Err(error) => return Err(error.into()),
                Ok(collected) => {
                    let (layers, bytes) = (collected.layers, collected.bytes);
                    tracing::info!(layers, bytes, "layers that nobody needs are gone");
                    return Ok(());
                }
            }
        }
    }

    fn record(&self, image: &Image, memory: &Memory) -> Result<(), Failure> {
        if let Some((_, run)) = &memory.pull {
            tell(&image.reference, run.stages());
        }
        let layers = image.layers.iter().map(|name| name.as_str().parse::<LayerName>());
        let layers = layers.collect::<Result<_, _>>();
        let layers = layers.map_err(|why| Failure::Request { why: why.to_owned() })?;
        let manifest = image.manifest.parse()?;
        let reference = image.reference.clone();
        Ok(self.store.record(&Record { reference, manifest, layers, at: image.at })?)
    }
}

impl Worker for Layers {
    type Memory = Memory;

    fn work(&self, mut job: Job<'_>, memory: &mut Memory) -> Result<Answered, Failure> {
        let body = match &job.request {
            Request::Claim(claim) => self.claim(claim, job.channel, memory)?,
            Request::Fill(cipher) => {
                let key = match (cipher, job.secret.take()) {
                    (Some(cipher), Some(secret)) => Some(read_key(cipher, secret)?),
                    (None, None) => None,
                    _ => {
                        return Err(Failure::Request {
                            why: "a cipher and a key belong together".to_owned(),
                        });
                    }
                };
                let blob = File::from(job.only_fd()?);
                self.fill(blob, key, job.channel, memory)?
            }
            Request::Record(image) => {
                self.record(image, memory)?;
                return Ok(done());
            }
            Request::Collect => {
                self.collect(job.channel, memory)?;
                return Ok(done());
            }
            _ => return Err(Failure::Request { why: "it is no work of the mode that unpacks".to_owned() }),
        };
        Ok(Packet { body, secret: None })
    }
}

/// Says where the time of a pull went, if it had anything to unpack.
fn tell(image: &str, stages: Stages) {
    let took: Vec<String> = stages
        .each()
        .iter()
        .filter(|(_, spent)| !spent.elapsed.is_zero())
        .map(|(name, spent)| {
            format!("{name} {:.2} ({:.2})", spent.elapsed.as_secs_f64(), spent.processor.as_secs_f64())
        })
        .collect();
    if !took.is_empty() {
        let took = took.join(", ");
        tracing::info!(image, "seconds by stage, in parentheses those on a processor: {took}");
    }
}

fn read_layer(layer: &Layer) -> Result<image_rs::Layer, Failure> {
    let storage = Storage::of_media_type(&layer.media_type).ok_or_else(|| Failure::Request {
        why: format!("the media type {:?} is not that of a layer", layer.media_type),
    })?;
    let encryption = storage.encrypted.then(|| LayerEncryption::parse(&layer.encryption)).transpose();
    let encryption = encryption.map_err(|error| Failure::Request { why: error.to_string() })?;
    let descriptor = Descriptor {
        media_type: layer.media_type.clone(),
        digest: layer.digest.parse()?,
        size: layer.size,
        annotations: layer.encryption.clone(),
        platform: None,
    };
    let diff_id = layer.diff_id.parse()?;
    Ok(image_rs::Layer { descriptor, compression: storage.compression, encryption, diff_id })
}

fn read_key(cipher: &Cipher, key: Secret) -> Result<LayerKey, Failure> {
    let refused =
        || Failure::Request { why: "nonce and code have 16 and 32 bytes in hexadecimal".to_owned() };
    let (mut nonce, mut mac) = ([0; 16], [0; 32]);
    hex::decode_to_slice(&cipher.nonce, &mut nonce).map_err(|_| refused())?;
    hex::decode_to_slice(&cipher.mac, &mut mac).map_err(|_| refused())?;
    Ok(LayerKey { key, nonce, mac, digest: cipher.digest.clone() })
}

fn present(stored: &Stored) -> Result<Answer, Failure> {
    let name = stored.name.as_str().parse::<Name>();
    name.map(Answer::Present).map_err(|why| Failure::Request { why: why.to_owned() })
}

/// A layer is wanted as long as somebody has the other end.
struct Wanted<'a>(&'a Channel);

impl Observer for Wanted<'_> {
    fn event(&self, event: Event) {
        if let Event::LeftBehind { why } = event {
            tracing::error!("half a layer stays for now: {why}");
        }
    }

    fn stopped(&self) -> bool {
        !is_open(self.0, Duration::ZERO)
    }
}
