//! The mode that unpacks: bytes of a layer come out of a pipe, and go into the store once every digest was right.
//!
//! The hub has the network and the policy, this process has the archive: hashing, decompression and reading of the tar
//! format happen here, confined to the store.

use std::{fs::File, path::Path, sync::Arc, time::Duration};

use cc_crypto::Secret;
use cc_sealed::{LayerEncryption, LayerKey};
use cc_storage::{Answer, Answered, Channel, Cipher, Image, Layer, Name, Packet, Request};
use image_rs::{
    Descriptor, Silent, Storage,
    layer::{Input, Options, Run},
    store::{Claim, Hold, LayerName, Record, Reservation, Store, Stored},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    io::Errno,
};

use crate::{
    Failure, boot,
    serve::{Job, Worker, done},
};

/// Between two looks whether somebody else has filled a layer.
const GLANCE: Duration = Duration::from_millis(20);

/// The mode's worker.
#[derive(Debug)]
pub struct Layers {
    store: Arc<Store>,
    /// What all channels have in common.
    run: Run,
}

/// What a channel remembers: that it is in the midst of a pull, and the layer it is to fill.
#[derive(Debug, Default)]
pub struct Memory {
    hold: Option<Hold>,
    wanted: Option<(Reservation, image_rs::Layer)>,
}

impl Layers {
    /// Works in the store in `folder`, whose archives may have `limit` bytes together.
    ///
    /// # Errors
    /// The store cannot be used.
    pub fn open(folder: &Path, limit: Option<u64>) -> Result<Self, Failure> {
        // A store of another boot lay on a disk that the host could write to in between.
        let store = Store::open(folder, &boot::id()?, limit)?;
        Ok(Self { store: Arc::new(store), run: Run::new(Options::default()) })
    }

    fn claim(&self, layer: &Layer, channel: &Channel, memory: &mut Memory) -> Result<Answer, Failure> {
        let layer = read_layer(layer)?;
        let hold = match memory.hold.take() {
            Some(hold) => hold,
            None => self.store.hold()?,
        };
        let hold = memory.hold.insert(hold);
        memory.wanted = None;
        match self.store.claim(hold, &layer, self.run.options(), || is_open(channel))? {
            Claim::Present(stored) => present(&stored),
            Claim::Wanted(reservation) => {
                memory.wanted = Some((reservation, layer));
                Ok(Answer::Wanted)
            }
        }
    }

    fn fill(&self, blob: File, key: Option<LayerKey>, memory: &mut Memory) -> Result<Answer, Failure> {
        let claimed = memory.wanted.take();
        let (reservation, layer) =
            claimed.ok_or_else(|| Failure::Request { why: "no layer was claimed".to_owned() })?;
        let input = Input { number: 0, layer: &layer, blob: Box::new(blob), key: key.map(Arc::new) };
        present(&reservation.fill(input, &self.run, &Silent)?)
    }

    fn record(&self, image: &Image) -> Result<(), Failure> {
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
            Request::Claim(layer) => self.claim(layer, job.channel, memory)?,
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
                self.fill(blob, key, memory)?
            }
            Request::Record(image) => {
                self.record(image)?;
                return Ok(done());
            }
            _ => return Err(Failure::Request { why: "it is no work of the mode that unpacks".to_owned() }),
        };
        Ok(Packet { body, secret: None })
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

/// Waits a moment, and tells whether somebody still has the other end.
fn is_open(channel: &Channel) -> bool {
    let mut polled = [PollFd::new(channel, PollFlags::RDHUP)];
    let glance = Timespec::try_from(GLANCE).ok();
    match rustix::event::poll(&mut polled, glance.as_ref()) {
        Ok(0) | Err(Errno::INTR) => true,
        Ok(_) | Err(_) => false,
    }
}
