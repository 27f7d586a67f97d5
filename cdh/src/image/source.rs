//! Where an image may be read: registries after search list, mirrors and rewriting, or, where the configuration allows it, a
//! folder of this machine.
//!
//! Calls block.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use cc_evidence::blame::Blame;
use cc_storage::Fault;
use image_registry::{Attempts, AuthFile, Client, Options, Proxy, Registries, Repository, Stop, leading};
use image_rs::{Error, Pointer, Reference, Source, source::Layout};
use tokio::time::Instant;

use super::{config::ImageConfig, resource::Resources};
use crate::error::HubError;

/// How long a client of registries is used before the resources that it is made of are looked at again.
const LIFE: Duration = Duration::from_secs(300);

/// Finds images.
#[derive(Debug)]
pub(super) struct Sources {
    client: Mutex<Option<(Instant, Client)>>,
}

/// An image that can be read.
pub(super) struct Found<'a> {
    pub(super) source: &'a dyn Source,
    pub(super) pointer: Pointer,
    /// Where it comes from a registry.
    pub(super) repository: Option<&'a Repository>,
}

/// The ways to an image, not yet gone.
pub(super) enum Place {
    Layout(Layout, Pointer),
    Registry(Attempts),
}

impl Sources {
    pub(super) fn new() -> Self {
        Self { client: Mutex::default() }
    }

    /// The places of the image called `name`. `stop` ends waiting for a registry.
    pub(super) fn place(
        &self,
        name: &str,
        config: &ImageConfig,
        resources: &Resources,
        stop: &Stop,
    ) -> Result<Place, HubError> {
        if let Some(layout) = name.strip_prefix("oci:").filter(|_| !config.layouts.is_empty()) {
            return open_layout(layout, &config.layouts);
        }
        let reference = of_registry(name)?;
        let attempts = self.client(config, resources)?.attempts(&reference, None, stop);
        Ok(Place::Registry(attempts.map_err(Error::from)?))
    }

    /// All images that may be pulled as `name`, each in its one spelling.
    pub(super) fn names(
        &self,
        name: &str,
        config: &ImageConfig,
        resources: &Resources,
    ) -> Result<Vec<String>, HubError> {
        let canonical = canonical(name, config)?;
        match of_registry(name) {
            Ok(reference) if !canonical.starts_with("oci:") && !reference.registry_named() => {
                let names = self.client(config, resources)?.names(&reference).map_err(Error::from)?;
                Ok(names.iter().map(ToString::to_string).collect())
            }
            _ => Ok(vec![canonical]),
        }
    }

    fn client(&self, config: &ImageConfig, resources: &Resources) -> Result<Client, HubError> {
        let slot = || self.client.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = |(since, _): &&(Instant, Client)| since.elapsed() < LIFE;
        if let Some((_, client)) = slot().as_ref().filter(is_fresh) {
            return Ok(client.clone());
        }
        // Not under the lock: those who come later are told at the same time when the key broker does not answer.
        let client = Client::new(&options(config, resources)?).map_err(Error::from)?;
        let mut slot = slot();
        match slot.as_ref().filter(is_fresh) {
            // Another one was faster; connections are shared by those who have one client.
            Some((_, client)) => Ok(client.clone()),
            None => {
                *slot = Some((Instant::now(), client.clone()));
                Ok(client)
            }
        }
    }
}

impl Place {
    /// Lets `pull` try one place after the other until it succeeds. What would fail everywhere is told at once.
    pub(super) fn first<T>(
        &self,
        mut pull: impl FnMut(&Found<'_>) -> Result<T, HubError>,
    ) -> Result<T, HubError> {
        let attempts = match self {
            Self::Layout(layout, pointer) => {
                return pull(&Found { source: layout, pointer: pointer.clone(), repository: None });
            }
            Self::Registry(attempts) => attempts,
        };
        let mut failures: Vec<(String, HubError)> = Vec::new();
        for repository in attempts {
            let reference = repository.reference();
            let found =
                Found { source: repository, pointer: reference.pointer(), repository: Some(repository) };
            match pull(&found) {
                Ok(done) => return Ok(done),
                Err(error) if is_everywhere(&error) => return Err(error),
                Err(error) => failures.push((reference.to_string(), error)),
            }
        }
        match failures.pop() {
            Some((_, only)) if failures.is_empty() => Err(only),
            Some(last) => {
                failures.push(last);
                let blames: Vec<Blame> = failures.iter().map(|(_, error)| error.blame()).collect();
                let lead = leading(&blames).and_then(|place| failures.get(place));
                let (_, lead) = lead.ok_or(Error::Interrupted)?;
                let (blame, code, hint) = (lead.blame(), lead.code().to_owned(), lead.hint());
                let told =
                    failures.iter().map(|(place, error)| format!("{place}: {error} [{}]", error.code()));
                let told = told.collect::<Vec<_>>().join("; ");
                let message = format!("none of {} places gave the image: {told}", failures.len());
                Err(Fault::new(blame, code, message, hint).into())
            }
            None => Err(Error::Interrupted.into()),
        }
    }
}

/// The one spelling of the image called `name`.
pub(super) fn canonical(name: &str, config: &ImageConfig) -> Result<String, HubError> {
    let Some(layout) = name.strip_prefix("oci:").filter(|_| !config.layouts.is_empty()) else {
        return Ok(of_registry(name)?.to_string());
    };
    let (folder, name) = find_layout(layout, &config.layouts)?;
    let name = name.map(|name| format!(":{name}")).unwrap_or_default();
    Ok(format!("oci:{}{name}", folder.display()))
}

fn of_registry(name: &str) -> Result<Reference, Error> {
    name.strip_prefix("docker://").unwrap_or(name).parse()
}

/// Whether another place cannot help.
fn is_everywhere(error: &HubError) -> bool {
    error.code() == Error::Interrupted.code() || matches!(error.blame(), Blame::Misused | Blame::Platform)
}

fn options(config: &ImageConfig, resources: &Resources) -> Result<Options, HubError> {
    let rules = match (&config.registry_config, &config.registry_configuration_uri) {
        (Some(table), _) => Some(toml::to_string(table).map_err(|error| {
            Fault::new(
                Blame::Misused,
                "REGISTRY_CONFIG",
                format!("image.registry_config: {error}"),
                "write it as containers-registries.conf(5), version 2",
            )
        })?),
        (None, Some(uri)) => Some(String::from_utf8_lossy(resources.fetch(uri)?.expose()).into_owned()),
        (None, None) => None,
    };
    let registries = rules.map(|rules| Registries::parse(&rules)).transpose().map_err(Error::from)?;
    let auth_file = match &config.authenticated_registry_credentials_uri {
        Some(uri) => AuthFile::parse(resources.fetch(uri)?.expose()).map_err(Error::from)?,
        None => AuthFile::default(),
    };
    let proxy = config.image_pull_proxy.clone().unwrap_or_default();
    Ok(Options {
        registries: registries.unwrap_or_default(),
        auth_file,
        proxy: Proxy {
            https: proxy.https_proxy,
            http: proxy.http_proxy,
            except: proxy.no_proxy.unwrap_or_default(),
        },
        extra_roots: config.extra_root_certificates.clone(),
        ..Options::default()
    })
}

/// Opens `FOLDER[:NAME]`, below one of the folders that the configuration allows.
fn open_layout(text: &str, allowed: &[PathBuf]) -> Result<Place, HubError> {
    let (folder, name) = find_layout(text, allowed)?;
    let layout = Layout::open(&folder)?;
    let pointer = match name {
        Some(name) => Pointer::Tag(name.to_owned()),
        None => layout.only()?,
    };
    Ok(Place::Layout(layout, pointer))
}

/// The folder that `FOLDER[:NAME]` leads to, if it is below an allowed one, and the name.
fn find_layout<'a>(text: &'a str, allowed: &[PathBuf]) -> Result<(PathBuf, Option<&'a str>), HubError> {
    // A colon before a slash belongs to the folder.
    let (folder, name) = match text.rsplit_once(':') {
        Some((folder, name)) if !name.contains('/') => (folder, Some(name)),
        _ => (text, None),
    };
    let resolved = Path::new(folder).canonicalize().unwrap_or_default();
    let below = |allowed: &PathBuf| allowed.canonicalize().is_ok_and(|allowed| resolved.starts_with(allowed));
    if !allowed.iter().any(below) {
        let folder: String = folder.chars().take(200).collect();
        return Err(Fault::new(
            Blame::Denied,
            "IMAGE_LAYOUT_REFUSED",
            format!("{folder:?} is not below a folder of image.layouts"),
            "add its folder to image.layouts in the data hub's configuration if images may come from there",
        )
        .into());
    }
    Ok((resolved, name))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use clap::Parser as _;

    use super::*;
    use crate::config::{Cli, Config, Surroundings};
    use crate::hub::Hub;

    #[tokio::test]
    async fn rules_are_asked_about_all_that_a_short_name_can_be() {
        let surroundings = Surroundings {
            aa_kbc_params: Some("offline_fs_kbc::null".to_owned()),
            ..Surroundings::default()
        };
        let hub = Config::build(Cli::try_parse_from(["hub"]).unwrap(), &surroundings).unwrap();
        let resources = Resources::new(Arc::new(Hub::new(&hub).unwrap()));
        let rules = serde_json::json!({"unqualified-search-registries": ["docker.io", "a.example"]});
        let config = ImageConfig { registry_config: Some(rules), ..ImageConfig::default() };
        let sources = Sources::new();
        for (name, expected) in [
            ("app", &["docker.io/library/app:latest", "a.example/app:latest"][..]),
            ("docker://team/app:1", &["docker.io/team/app:1", "a.example/team/app:1"]),
            ("docker.io/app", &["docker.io/library/app:latest"]),
            ("a.example/app:1", &["a.example/app:1"]),
        ] {
            assert_eq!(sources.names(name, &config, &resources).unwrap(), expected, "{name}");
        }
    }

    /// A key broker that takes connections and says nothing.
    fn silent() -> std::net::TcpListener {
        std::net::TcpListener::bind("127.0.0.1:0").unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn pulls_that_wait_for_one_resource_are_told_at_the_same_time() {
        // There is no agent either, which is waited for until the time limit.
        const LIMIT: Duration = Duration::from_secs(2);
        let broker = silent();
        let surroundings = Surroundings {
            aa_kbc_params: Some(format!("cc_kbc::http://{}", broker.local_addr().unwrap())),
            ..Surroundings::default()
        };
        let hub = Config::build(Cli::try_parse_from(["hub"]).unwrap(), &surroundings).unwrap();
        let resources = Resources::new(Arc::new(Hub::new(&hub).unwrap())).with_time_limit(LIMIT);
        let config = ImageConfig {
            authenticated_registry_credentials_uri: Some("kbs:///default/credential/test".to_owned()),
            ..ImageConfig::default()
        };
        let (sources, stop) = (Sources::new(), Stop::default());
        let begun = std::time::Instant::now();
        let codes = tokio::task::block_in_place(|| {
            std::thread::scope(|scope| {
                let pull =
                    || sources.place("a.example/app", &config, &resources, &stop).map(drop).unwrap_err();
                let pulls: Vec<_> = (0..5).map(|_| scope.spawn(pull)).collect();
                pulls.into_iter().map(|pull| pull.join().unwrap().code().to_owned()).collect::<Vec<_>>()
            })
        });
        let took = begun.elapsed();
        assert!(codes.iter().all(|code| *code == codes[0]), "{codes:?}");
        assert!((LIMIT / 2..2 * LIMIT).contains(&took), "five pulls were told after {took:?}: {codes:?}");
    }

    #[test]
    fn an_image_has_one_spelling_for_rules() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        for name in ["images/secret", "elsewhere"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        std::os::unix::fs::symlink(root.join("images/secret"), root.join("images/public")).unwrap();
        std::os::unix::fs::symlink(root.join("elsewhere"), root.join("images/out")).unwrap();
        let config = ImageConfig { layouts: vec![root.join("images")], ..ImageConfig::default() };
        let at = |path: &str| format!("oci:{}/{path}", root.display());
        let secret = "quay.io/secret/app:latest";
        let layout = at("images/secret:1.0");
        for (spelled, expected) in [
            ("quay.io/secret/app", secret),
            ("docker://quay.io/secret/app", secret),
            ("docker://QUAY.io/secret/app:latest", secret),
            ("x", "docker.io/library/x:latest"),
            ("library/x", "docker.io/library/x:latest"),
            ("index.docker.io/x:latest", "docker.io/library/x:latest"),
            (&at("images/secret:1.0"), &layout),
            (&at("images/public:1.0"), &layout),
            (&at("images/../images//secret/.:1.0"), &layout),
        ] {
            assert_eq!(canonical(spelled, &config).unwrap(), expected, "{spelled}");
        }
        for (spelled, code) in [
            (at("images/out:1.0").as_str(), "IMAGE_LAYOUT_REFUSED"),
            ("oci:images/secret", "IMAGE_LAYOUT_REFUSED"),
            ("docker://docker://x", "IMAGE_REFERENCE_INVALID"),
        ] {
            assert_eq!(canonical(spelled, &config).unwrap_err().code(), code, "{spelled}");
        }
    }
}
