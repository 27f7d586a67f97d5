//! Where `guestctl pull` finds an image: in a folder or archive of this machine, or in a registry.

use std::{
    ffi::OsString,
    fmt,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use image_registry::{
    Attempts, AuthFile, Client, Login, Options, Proxy, Registries, RegistryError, Repository, Stop,
};
use image_rs::{Error, Pointer, Reference, Source, source::Layout};

use super::confine::NamesOutside;
use crate::failure::Failure;

/// Longest file of settings read, in bytes.
const FILE_MAX: u64 = 4 << 20;

/// How registries are reached.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// Credentials of registries (containers-auth.json(5)), as podman login writes them; without it, those of the file
    /// that the environment variable REGISTRY_AUTH_FILE names
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
    /// File with user:password for the registry of IMAGE, and for no mirror of it
    #[arg(long, value_name = "FILE")]
    creds_file: Option<PathBuf>,
    /// Mirrors, blocked and plain-http registries (containers-registries.conf(5)); without it, the file that the
    /// environment variable CONTAINERS_REGISTRIES_CONF names
    #[arg(long, value_name = "FILE")]
    registries_conf: Option<PathBuf>,
    /// Trust this certificate authority (PEM) besides the public ones; may be given several times
    #[arg(long, value_name = "FILE")]
    cert: Vec<PathBuf>,
    /// Speak plain http with the registry of IMAGE
    #[arg(long)]
    plain_http: bool,
}

/// Where the image is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// In an image layout.
    Layout { form: Form, path: PathBuf, name: Option<String> },
    /// In a registry, by the name that was given: the data hub completes it by its own search list.
    Registry { reference: Reference, given: String },
}

/// What an image layout is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Folder,
    Archive,
}

impl Form {
    const ALL: [Self; 2] = [Self::Folder, Self::Archive];

    /// How names of such images begin, as skopeo has them.
    const fn prefix(self) -> &'static str {
        match self {
            Self::Folder => "oci:",
            Self::Archive => "oci-archive:",
        }
    }

    fn open(self, path: &Path) -> Result<Layout, Error> {
        match self {
            Self::Folder => Layout::open(path),
            Self::Archive => Layout::open_archive(path),
        }
    }
}

impl FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Form::ALL.into_iter().find_map(|form| Some((form, text.strip_prefix(form.prefix())?)));
        let Some((form, rest)) = found else {
            let name = text.strip_prefix("docker://").unwrap_or(text);
            let reference = name.parse();
            let given = name.to_owned();
            return reference.map(|reference| Self::Registry { reference, given }).map_err(|error: Error| {
                format!("{error}; a folder is written oci:FOLDER[:NAME], an archive oci-archive:FILE[:NAME]")
            });
        };
        // A colon before a slash belongs to the path.
        let (path, name) = match rest.rsplit_once(':') {
            Some((path, name)) if !name.contains('/') => (path, Some(name)),
            _ => (rest, None),
        };
        if path.is_empty() || name.is_some_and(str::is_empty) {
            return Err(format!("it is written {}PATH[:NAME]", form.prefix()));
        }
        Ok(Self::Layout { form, path: path.into(), name: name.map(str::to_owned) })
    }
}

impl fmt::Display for From {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layout { form, path, name } => {
                write!(f, "{}{}", form.prefix(), path.display())?;
                name.iter().try_for_each(|name| write!(f, ":{name}"))
            }
            Self::Registry { reference, .. } => reference.fmt(f),
        }
    }
}

/// An image that can be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<'a> {
    pub(super) source: &'a dyn Source,
    pub(super) pointer: &'a Pointer,
    /// Where it comes from a registry.
    pub(super) repository: Option<&'a Repository>,
}

impl Found<'_> {
    /// The same, also where it was given up in the middle.
    pub(super) fn again<T>(&self, work: impl FnOnce(&Found<'_>) -> T) -> T {
        match self.repository.map(Repository::again) {
            Some(again) => work(&Found { source: &again, pointer: self.pointer, repository: Some(&again) }),
            None => work(self),
        }
    }
}

/// The ways to an image, not yet gone.
#[derive(Debug)]
pub(super) enum Place {
    Layout { form: Form, path: PathBuf, name: Option<String> },
    Registry(Attempts),
}

impl Place {
    /// Reads the settings. `stop` ends waiting for a registry.
    pub(super) fn new(from: &From, args: &Args, stop: &Stop) -> Result<Self, Failure> {
        let reference = match from {
            From::Layout { form, path, name } => {
                return Ok(Self::Layout { form: *form, path: path.clone(), name: name.clone() });
            }
            From::Registry { reference, .. } => reference,
        };
        args.attempts(reference, stop).map(Self::Registry)
    }

    /// The folder that blobs are read from by name, if there is one. That it cannot be opened is told when it is read.
    pub(super) fn layout(&self) -> Option<File> {
        match self {
            Self::Layout { form: Form::Folder, path, .. } => File::open(path).ok(),
            _ => None,
        }
    }

    /// Lets `work` try each place of the image until it succeeds.
    pub(super) fn first<T>(&self, mut work: impl FnMut(&Found<'_>) -> Result<T, Error>) -> Result<T, Error> {
        match self {
            Self::Layout { form, path, name } => {
                let layout = form.open(path)?;
                let pointer = match name {
                    Some(name) => Pointer::Tag(name.clone()),
                    None => layout.only()?,
                };
                work(&Found { source: &layout, pointer: &pointer, repository: None })
            }
            Self::Registry(attempts) => attempts.first(|repository| {
                let pointer = repository.reference().pointer();
                work(&Found { source: repository, pointer: &pointer, repository: Some(repository) })
            }),
        }
    }
}

impl Args {
    /// Reads the files, and gives the places where `reference` may be.
    fn attempts(&self, reference: &Reference, stop: &Stop) -> Result<Attempts, Failure> {
        let failed = |image: &Path| {
            let image = image.display().to_string();
            move |error: RegistryError| Failure::Image { image, error: Box::new(error.into()) }
        };
        let proxy = proxy(environment)?;
        let mut options =
            Options { proxy, names: Some(Arc::new(NamesOutside::of_system())), ..Options::default() };
        // Not read with the arguments: nobody gave them for a pull that the hub makes.
        let given = |argument: &Option<PathBuf>, variable| {
            let set = || environment(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
            argument.clone().or_else(set)
        };
        if let Some(path) = &given(&self.registries_conf, "CONTAINERS_REGISTRIES_CONF") {
            options.registries = Registries::parse(&text(path)?).map_err(failed(path))?;
        }
        if self.plain_http {
            options.registries = options.registries.with_plain_http(reference.registry());
        }
        if let Some(path) = &given(&self.authfile, "REGISTRY_AUTH_FILE") {
            options.auth_file = AuthFile::parse(&bytes(path)?).map_err(failed(path))?;
        }
        options.extra_roots = self.cert.iter().map(|path| text(path)).collect::<Result<_, _>>()?;
        let login = match &self.creds_file {
            Some(path) => Some(Login::parse(bytes(path)?.trim_ascii_end()).map_err(failed(path))?),
            None => None,
        };
        let client = Client::new(&options);
        let attempts = client.and_then(|client| client.attempts(reference, login.as_ref(), stop));
        attempts.map_err(failed(Path::new(&reference.to_string())))
    }
}

#[allow(clippy::disallowed_methods, reason = "the tool's own environment, read once")]
fn environment(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// The proxies that the environment names, as curl and skopeo take them. An empty variable is as good as none; one that
/// cannot be read is an error, so that nothing goes past a proxy unseen.
fn proxy(variable: impl Fn(&str) -> Option<OsString>) -> Result<Proxy, Failure> {
    let either = |upper: &str| {
        let names = [upper.to_owned(), upper.to_ascii_lowercase()];
        let set = |name: String| Some((variable(&name).filter(|value| !value.is_empty())?, name));
        let Some((value, name)) = names.into_iter().find_map(set) else { return Ok(None) };
        value.into_string().map(Some).map_err(|_| Failure::Argument {
            argument: name,
            why: "this environment variable is not UTF-8".to_owned(),
            hint: "write it as http[s]://[user:password@]host[:port], other bytes as %XX".to_owned(),
        })
    };
    Ok(Proxy {
        https: either("HTTPS_PROXY")?,
        http: either("HTTP_PROXY")?,
        except: either("NO_PROXY")?.unwrap_or_default(),
    })
}

fn bytes(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut bytes));
    let bounded = read.and_then(|length| match length as u64 > FILE_MAX {
        true => Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {FILE_MAX} bytes"))),
        false => Ok(bytes),
    });
    bounded.map_err(|source| Failure::Unreadable { path: path.to_owned(), source })
}

fn text(path: &Path) -> Result<String, Failure> {
    String::from_utf8(bytes(path)?).map_err(|_| Failure::Malformed {
        path: path.to_owned(),
        kind: "text file",
        why: "not UTF-8".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_named_by_folder_and_name() {
        let of = |form, path: &str, name: Option<&str>| From::Layout {
            form,
            path: path.into(),
            name: name.map(Into::into),
        };
        let layout = |path: &str, name: Option<&str>| of(Form::Folder, path, name);
        for (text, from) in [
            ("oci:/a/b", layout("/a/b", None)),
            ("oci:/a/b:1.0", layout("/a/b", Some("1.0"))),
            ("oci:b:1.0", layout("b", Some("1.0"))),
            ("oci:/a:b/c", layout("/a:b/c", None)),
            ("oci:/a:b/c:d", layout("/a:b/c", Some("d"))),
            ("oci-archive:a.tar:1.0", of(Form::Archive, "a.tar", Some("1.0"))),
            ("oci-archive:/a/b.tar", of(Form::Archive, "/a/b.tar", None)),
        ] {
            assert_eq!(text.parse::<From>().unwrap(), from, "{text}");
            assert_eq!(from.to_string(), text);
        }
        for bad in ["", "oci:", "oci::x", "oci:/a:", "oci-archive:", "/a", "docker://", "http://a/b", "A"] {
            assert!(bad.parse::<From>().is_err(), "{bad}");
        }
    }

    /// A list of the hub's decides what a short name means there, and none of this side.
    #[test]
    fn the_hub_gets_the_name_as_it_was_given() {
        for (text, given) in [("app", "app"), ("docker://app:1", "app:1"), ("a.b/app@sha256", "")] {
            match text.parse() {
                Ok(From::Registry { reference, given: name }) => {
                    assert_eq!((name.as_str(), reference.registry()), (given, "docker.io"));
                }
                other => assert!(given.is_empty() && other.is_err(), "{other:?}"),
            }
        }
    }

    #[test]
    fn proxies_of_the_environment_are_never_overlooked() {
        use std::os::unix::ffi::OsStringExt;
        let read = |set: &[(&str, &[u8])]| {
            let find = |name: &str| set.iter().find(|(known, _)| *known == name);
            proxy(|name| find(name).map(|(_, value)| OsString::from_vec(value.to_vec())))
        };
        let found = read(&[("HTTPS_PROXY", b""), ("https_proxy", b"http://p"), ("NO_PROXY", b"x")]).unwrap();
        assert_eq!(
            (found.https.as_deref(), found.http, found.except.as_str()),
            (Some("http://p"), None, "x")
        );
        let found = read(&[("HTTP_PROXY", b"http://upper"), ("http_proxy", b"http://lower")]).unwrap();
        assert_eq!(found.http.as_deref(), Some("http://upper"));
        for name in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "no_proxy"] {
            let error = read(&[(name, b"http://u:hunter2\xff@p")]).unwrap_err();
            let told = error.to_string();
            assert!(told.contains(name) && !told.contains("hunter2"), "{told}");
        }
    }

    #[test]
    fn other_names_are_of_registries() {
        for (text, whole) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("docker://quay.io/a/b:1", "quay.io/a/b:1"),
            ("localhost:5000/x", "localhost:5000/x:latest"),
        ] {
            assert_eq!(text.parse::<From>().unwrap().to_string(), whole);
        }
    }
}
