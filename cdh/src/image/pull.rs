//! One pull from its name to its bundle, and back if a step fails.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Seek, Write},
    os::fd::AsFd,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use cc_crypto::Secret;
use cc_evidence::blame::Blame;
use cc_protos::attestation_agent::RuntimeMeasurementResult;
use cc_sealed::{WrappedOptions, key_provider};
use cc_storage::{Bundle, Client, Fault, Request};
use image_registry::Stop;
use image_rs::{
    Digest, Error, Image, KeyRefusal, LayerKeys, Limits, Platform, SourceFault,
    policy::{Admitted, Beside, Lookaside, Policy, Subject},
    runtime_config, unusable_volumes,
};
use rustix::fs::MemfdFlags;
use tokio::{runtime::Handle, time::Instant};

use super::{
    config::ImageConfig,
    event,
    layers::{self, Layers, Order},
    resource::Resources,
    source::{Found, Sources},
    storage::{self, Mode, Storage},
};
use crate::agent::AgentEvidence;
use crate::audit::{Ask, Door};
use crate::error::HubError;
use crate::hub::{FETCH_TIME_LIMIT, Hub};
use crate::unseal::Unsealer;

/// How long the agent may take to measure the event.
const EVENT_TIME_LIMIT: Duration = Duration::from_secs(10);
/// How long an agent may have no socket, because it is started again.
const AGENT_RETURN: Duration = Duration::from_secs(3);
/// The same where no pull goes on without it.
const AGENT_RETURN_STRICT: Duration = Duration::from_secs(10);
/// Where more files with places of OpenPGP signatures are, below the work folder.
const LOOKASIDE_FOLDER: &str = "image-security/simple_signing/sigstore_config";

/// Code of a store that has no room.
const STORE_FULL: &str = "IMAGE_STORE_FULL";

/// Pulls images.
#[derive(Debug)]
pub struct Puller {
    hub: Arc<Hub>,
    unsealer: Arc<Unsealer>,
    agent: AgentEvidence,
    config: ImageConfig,
    resources: Resources,
    sources: Sources,
    storage: Storage,
}

/// A bundle that stands, and goes with this value unless it is committed.
struct Made {
    manifest: Digest,
    /// The channel that it was made over.
    mount: Client,
    layers: Layers,
}

impl Puller {
    /// Pulls as `config` says, with resources and keys from `unsealer` and its hub; events go to `agent`. To be called in the
    /// runtime. Nothing is started yet.
    #[must_use]
    pub fn new(hub: Arc<Hub>, unsealer: Arc<Unsealer>, agent: AgentEvidence, config: ImageConfig) -> Self {
        let resources = Resources::new(Arc::clone(&hub));
        if storage::is_elsewhere(&config, Path::new(storage::UNIT_SOCKETS)) {
            let (work_dir, store) = (config.work_dir.display(), ImageConfig::default().work_dir);
            tracing::warn!(
                %work_dir, store = %store.display(),
                "images go to the store of the cdh-storage units, not to image.work_dir: to have them elsewhere, change --store of the units, \
                 and name their sockets in [image.storage]"
            );
        }
        let storage = Storage::new(&config);
        Self { hub, unsealer, agent, config, resources, sources: Sources::new(), storage }
    }

    /// All images that may be pulled as `image`, each in its one spelling, for rules about them: whole references, one for each
    /// entry of the search list if it names no registry, or `oci:` and the folder that it leads to.
    ///
    /// # Errors
    /// It names no image, or a folder that images may not come from; the settings of registries cannot be had.
    pub async fn names(self: &Arc<Self>, image: &str) -> Result<Vec<String>, HubError> {
        let (puller, image) = (Arc::clone(self), image.to_owned());
        blocking(move || puller.sources.names(&image, &puller.config, &puller.resources)).await
    }

    /// Pulls the image called `image` into the bundle at `bundle`. Gives the digest of its manifest. When nobody waits for the
    /// result any more, it is given up, and nothing is left.
    ///
    /// # Errors
    /// What the image, the policy, the registry, the key broker, `cdh-storage` or the agent says.
    pub async fn pull(self: &Arc<Self>, image: &str, bundle: &str) -> Result<String, HubError> {
        let stop = Stop::default();
        let given_up = StopWhenDropped(stop.clone());
        let (puller, image, bundle) = (Arc::clone(self), image.to_owned(), bundle.to_owned());
        // On a task of its own: what was begun is also undone if the caller goes away.
        let task = tokio::spawn(async move { puller.run(&image, &bundle, stop).await });
        let result = task.await.map_err(|_| HubError::Stopping)?;
        drop(given_up);
        result
    }

    async fn run(self: &Arc<Self>, image: &str, bundle: &str, stop: Stop) -> Result<String, HubError> {
        let made = {
            let (puller, image, bundle, stop) =
                (Arc::clone(self), image.to_owned(), bundle.to_owned(), stop.clone());
            blocking(move || puller.make(&image, &bundle, &stop)).await?
        };
        let manifest = made.manifest;
        let mut measured = wanted(&stop);
        if measured.is_ok() {
            measured = self.measure(image, &manifest).await;
        }
        let measured = measured.and_then(|()| wanted(&stop));
        let (name, path) = (image.to_owned(), bundle.to_owned());
        blocking(move || made.finish(&name, &path, measured)).await?;
        tracing::info!(image, %manifest, bundle, "image pulled");
        Ok(manifest.to_string())
    }

    /// All steps up to the bundle, once more if the store was full of what nobody needs.
    fn make(&self, image: &str, bundle: &str, stop: &Stop) -> Result<Made, HubError> {
        match self.make_once(image, bundle, stop) {
            Err(error) if error.code() == STORE_FULL && wanted(stop).is_ok() => {
                tracing::warn!(image, %error, "the store was collected, and the image is pulled once more");
                self.make_once(image, bundle, stop)
            }
            other => other,
        }
    }

    fn make_once(&self, image: &str, bundle: &str, stop: &Stop) -> Result<Made, HubError> {
        let place = self.sources.place(image, &self.config, &self.resources, stop)?;
        let mut is_fetched = false;
        let made = place.first(|found| {
            let resolved = Image::resolve(found.source, &found.pointer, &Platform::of_this_machine())?;
            let admitted = self.admit(found, &resolved)?;
            admitted.covers(&resolved)?;
            layers::check(image, &resolved)?;
            is_fetched = true;
            self.bundle(bundle, found, &resolved, stop)
        });
        // What can be tried again goes on with the layers that are there; else nobody will ever need them.
        if is_fetched && made.as_ref().is_err_and(|error| error.blame() != Blame::Unavailable) {
            self.collect();
        }
        made
    }

    /// Has the layers removed that no image has.
    fn collect(&self) {
        let collected = self.storage.channel(Mode::Unpack);
        let collected =
            collected.and_then(|mut channel| Ok(channel.ask(Request::Collect, None, &[]).map(drop)?));
        if let Err(error) = collected {
            let code = error.code();
            tracing::warn!(code, %error, "layers that no image has stay in the store for now");
        }
    }

    /// Judges the image by the policy, which is asked at each pull.
    fn admit(&self, found: &Found<'_>, image: &Image) -> Result<Admitted, HubError> {
        let policy = self.policy()?;
        let subject = Subject {
            reference: found.repository.map(image_registry::Repository::reference),
            manifest: image.manifest_digest(),
            index: image.index_digest(),
        };
        let fetch = |location: &str| {
            let fetched = self.resources.fetch(location).map_err(|error| match error.blame() {
                Blame::Absent => Error::NotFound { what: location.to_owned() },
                _ => Error::Source(Box::new(Unread::new(location, error))),
            });
            fetched.map(|bytes| bytes.expose().to_vec())
        };
        let verdict = match found.repository {
            Some(repository) => policy.decide(&subject, SystemTime::now(), &mut repository.signatures(fetch)),
            None => policy.decide(&subject, SystemTime::now(), &mut Beside::new(found.source, fetch)),
        };
        Ok(verdict.admitted()?)
    }

    fn policy(&self) -> Result<Policy, HubError> {
        let text = match (&self.config.image_security_policy_uri, &self.config.image_security_policy) {
            (Some(uri), _) => Some(self.resources.fetch(uri)?.expose().to_vec()),
            (None, Some(text)) => Some(text.clone().into_bytes()),
            (None, None) => None,
        };
        match text {
            Some(text) => Ok(Policy::parse(&text)?.with_lookaside(self.lookaside()?)),
            None if self.hub.is_strict() => Ok(Policy::refuse_all()),
            None => {
                tracing::warn!("no policy for images is configured: every image is admitted");
                Ok(Policy::admit_all())
            }
        }
    }

    fn lookaside(&self) -> Result<Lookaside, HubError> {
        let mut files: BTreeMap<String, String> = BTreeMap::new();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match (&self.config.sigstore_config_uri, &self.config.sigstore_config) {
            (Some(uri), _) => {
                files.insert(uri.clone(), text(self.resources.fetch(uri)?.expose()));
            }
            (None, Some(inline)) => {
                files.insert("image.sigstore_config".to_owned(), inline.clone());
            }
            (None, None) => {}
        }
        let folder = self.config.work_dir.join(LOOKASIDE_FOLDER);
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                let name = path.display().to_string();
                let content = text(self.resources.fetch(&name)?.expose());
                files.insert(name, content);
            }
        }
        Ok(Lookaside::parse(files.iter().map(|(name, text)| (name.as_str(), text.as_str())))?)
    }

    /// Layers into the store, and the bundle of them.
    fn bundle(&self, path: &str, found: &Found<'_>, image: &Image, stop: &Stop) -> Result<Made, HubError> {
        let mut limits = Limits::default();
        match self.config.max_image_bytes {
            Some(bytes) => limits.bytes = bytes,
            // Its own bounds are not known here.
            None if self.storage.has_unit_that_unpacks() => limits.bytes = u64::MAX,
            None => {}
        }
        let keys =
            Arc::new(UnsealerKeys { unsealer: Arc::clone(&self.unsealer), runtime: Handle::current() });
        let order = Order {
            source: found.source,
            image,
            keys,
            parallel: self.config.max_concurrent_layer_downloads_per_image,
            limits: &limits,
            stop,
        };
        let place = Request::CheckBundle { path: path.to_owned() };
        self.storage.channel(Mode::Mount)?.ask(place, None, &[])?;
        let layers = layers::fetch(&order, &self.storage)?;
        let config = runtime_config(image.config()).to_string();
        let config = in_memory(config.as_bytes())
            .map_err(|source| Error::Storage { doing: "keep config.json in memory".to_owned(), source })?;
        for volume in unusable_volumes(image.config()) {
            let volume: String = volume.chars().take(200).collect();
            tracing::warn!(
                volume,
                "no volume is mounted there: it is no absolute path below the root directory"
            );
        }
        let user = image.config().user.clone().unwrap_or_default();
        let bundle = Bundle { path: path.to_owned(), layers: layers.names.clone(), user };
        let (request, wanted) = (Request::MakeBundle(bundle), || !stop.is_stopped());
        let mut mount = self.storage.channel(Mode::Mount)?;
        let made = mount.ask_while(request, None, &[config.as_fd()], &wanted, layers::FAREWELL)?;
        made.ok_or(Error::Interrupted)?;
        Ok(Made { manifest: image.manifest_digest(), mount, layers })
    }

    /// Has the agent measure the event. Where there is no agent, or none that measures, the pull goes on; in strict mode there has
    /// to be one. Evidence from before is not used any more where the measurements are others now, or may be.
    async fn measure(&self, image: &str, manifest: &Digest) -> Result<(), HubError> {
        let measured = self.try_measure(image, manifest).await;
        if !matches!(measured, Ok(false)) {
            self.hub.forget_sessions();
        }
        measured.map(drop)
    }

    /// Whether the machine's measurements are others now; after an error nobody knows.
    async fn try_measure(&self, image: &str, manifest: &Digest) -> Result<bool, HubError> {
        let strict = self.hub.is_strict();
        if !self.agent.appears(if strict { AGENT_RETURN_STRICT } else { AGENT_RETURN }).await {
            if strict {
                return Err(Fault::new(
                    Blame::Unavailable,
                    "AA_UNREACHABLE",
                    format!("measuring the pull of {image}: there is no attestation agent"),
                    "start it: in strict mode no image is pulled that is not measured",
                )
                .into());
            }
            tracing::warn!(image, "there is no attestation agent: the pull is not measured");
            return Ok(false);
        }
        let request = event::of_pull(image, manifest);
        let answer = tokio::time::timeout(EVENT_TIME_LIMIT, self.agent.extend(request)).await;
        let timed_out = |_| {
            let message =
                format!("measuring the pull of {image}: the attestation agent did not answer in time");
            Fault::new(Blame::Unavailable, "AA_TIMEOUT", message, "see the log of the attestation agent")
        };
        match answer.map_err(timed_out)?? {
            RuntimeMeasurementResult::Ok => Ok(true),
            result => {
                tracing::warn!(image, result = result.as_str_name(), "the pull is not measured");
                Ok(false)
            }
        }
    }
}

impl Made {
    /// Lets the bundle at `path` stay and notes the image called `name`; or, if it was not `measured` or one of that fails, takes
    /// the bundle away. The first error is told.
    fn finish(mut self, name: &str, path: &str, measured: Result<(), HubError>) -> Result<(), HubError> {
        // In this order: an image of a pull that failed is not listed, and what an earlier pull noted of it stays.
        let done = measured.and_then(|()| {
            self.mount.ask(Request::CommitBundle, None, &[])?;
            self.record(name)
        });
        if done.is_err()
            && let Err(failure) = self.mount.ask(Request::RemoveBundle { path: path.to_owned() }, None, &[])
        {
            tracing::error!(bundle = path, code = failure.code(), error = %failure, "a bundle stays for now");
        }
        done
    }

    fn record(&mut self, name: &str) -> Result<(), HubError> {
        let at =
            SystemTime::now().duration_since(UNIX_EPOCH).map(|since| since.as_secs()).unwrap_or_default();
        self.layers.ask(Request::Record(cc_storage::Image {
            reference: name.to_owned(),
            manifest: self.manifest.to_string(),
            layers: self.layers.names.clone(),
            at,
        }))
    }
}

/// A resource that the policy names and that could not be had: whose fault it is stays.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {location}: {error} [{}]", error.code())]
struct Unread {
    location: String,
    error: HubError,
    hint: String,
}

impl Unread {
    fn new(location: &str, error: HubError) -> Self {
        Self { location: location.to_owned(), hint: error.hint(), error }
    }
}

impl SourceFault for Unread {
    fn code(&self) -> &'static str {
        "IMAGE_READ"
    }

    fn blame(&self) -> Blame {
        self.error.blame()
    }

    fn hint(&self) -> &str {
        &self.hint
    }
}

/// Whether somebody still waits for the result.
fn wanted(stop: &Stop) -> Result<(), HubError> {
    if stop.is_stopped() { Err(Error::Interrupted.into()) } else { Ok(()) }
}

struct StopWhenDropped(Stop);

impl Drop for StopWhenDropped {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Runs what blocks on a thread that may wait.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HubError> + Send + 'static,
) -> Result<T, HubError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| HubError::Stopping)?
}

/// A file that is in no folder.
fn in_memory(content: &[u8]) -> std::io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("config.json", MemfdFlags::CLOEXEC)?);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file)
}

/// The keys of layers are unwrapped here, for the configuration: the image that they are of was admitted by its policy.
#[derive(Debug)]
struct UnsealerKeys {
    unsealer: Arc<Unsealer>,
    runtime: Handle,
}

impl LayerKeys for UnsealerKeys {
    fn open(&self, wrapped: &WrappedOptions) -> Option<Result<Secret, KeyRefusal>> {
        let WrappedOptions::Provider(packet) = wrapped else { return None };
        let request = key_provider::unwrap_request(packet);
        let ask = Ask::of_configuration(Door::PullImage);
        let result = self.runtime.block_on(async {
            let deadline = Instant::now() + FETCH_TIME_LIMIT;
            let result = self.unsealer.unwrap_key(&ask, &request, deadline).await;
            let result = result.and_then(|answer| {
                let answer = Secret::new(answer);
                Ok(key_provider::parse_unwrapped(answer.expose())?)
            });
            ask.answer(&result);
            result
        });
        Some(result.map_err(|error| KeyRefusal {
            blame: error.blame(),
            code: error.code().to_owned(),
            message: error.to_string(),
            hint: error.hint(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use cc_storage::{Answer, Channel, Packet};

    use super::*;

    /// A half of `cdh-storage` that refuses what `refuses` says, and tells all that it was asked for.
    fn half(refuses: fn(&Request) -> bool) -> (Client, std::thread::JoinHandle<Vec<Request>>) {
        let (ours, theirs) = Channel::pair().unwrap();
        let serving = std::thread::spawn(move || {
            let mut asked = Vec::new();
            while let Some(received) = theirs.receive().unwrap() {
                let request = Packet::<Request>::parse(&received.bytes).unwrap().body;
                let body = match refuses(&request) {
                    true => Answer::Fault(Fault::new(Blame::Platform, "STORAGE_FAILED", "full", "make room")),
                    false => Answer::Done,
                };
                asked.push(request);
                theirs.send(&Packet { body, secret: None }.encode().unwrap(), &[]).unwrap();
            }
            asked
        });
        (Client::new(ours), serving)
    }

    #[test]
    fn an_image_is_listed_if_its_bundle_stays_and_only_then() {
        let name = |request: &Request| match request {
            Request::CommitBundle => "commit",
            Request::RemoveBundle { path } if path == "/b" => "remove",
            Request::Record(image) if image.reference == "x" => "record",
            _ => "something else",
        };
        let none: fn(&Request) -> bool = |_| false;
        let all: fn(&Request) -> bool = |_| true;
        let commit: fn(&Request) -> bool = |request| *request == Request::CommitBundle;
        for (measured, mounting, unpacking, expected) in [
            (true, none, none, Ok((&["commit"][..], &["record"][..]))),
            (true, commit, none, Err((&["commit", "remove"][..], &[][..]))),
            (true, none, all, Err((&["commit", "remove"], &["record"]))),
            (false, none, none, Err((&["remove"], &[]))),
        ] {
            let ((mount, mounted), (unpack, unpacked)) = (half(mounting), half(unpacking));
            let layers = Layers { names: Vec::new(), channels: vec![unpack] };
            let made = Made { manifest: Digest::of(image_rs::Algorithm::Sha256, b""), mount, layers };
            let measured = if measured { Ok(()) } else { Err(Error::Interrupted.into()) };
            let done = made.finish("x", "/b", measured);
            let asked = [mounted, unpacked].map(|half| half.join().unwrap());
            let asked = asked.each_ref().map(|half| half.iter().map(name).collect::<Vec<_>>());
            let (Ok((of_mount, of_unpack)) | Err((of_mount, of_unpack))) = expected;
            assert_eq!((done.is_ok(), &asked[0][..], &asked[1][..]), (expected.is_ok(), of_mount, of_unpack));
        }
    }
}
