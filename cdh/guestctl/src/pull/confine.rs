//! What a pull may touch while it reads archives: the folder that it makes the result in, and the network.
//!
//! Archives are hostile and the pull runs as root. So the threads that read them are confined by Landlock; policies, keys,
//! certificates and credentials were read before, names are looked up and keys are asked for outside, and the result gets its
//! name outside.

use std::{
    fs::File,
    io,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use cc_confinement::{Landlock, Within};
use cc_kbs::{BoxFuture, Names};
use tokio::runtime::Handle;
use trustee_attester::DnsFiles;

/// Confines this thread to `folder`, the network, and reading what is in `layout`. How far that went.
pub(super) fn to_folder(folder: BorrowedFd<'_>, layout: Option<&File>) -> Landlock {
    let readable: Vec<BorrowedFd<'_>> = layout.map(AsFd::as_fd).into_iter().collect();
    let confined = Within { folder, readable: &readable, connects: true }.confine();
    // A kernel that cannot do it is as one that has none: it is told, and the pull goes on.
    confined.unwrap_or_default()
}

/// Looks names up outside of what is confined: that reads files of this machine.
#[derive(Debug)]
pub(super) struct NamesOutside {
    names: Arc<DnsFiles>,
    runtime: Handle,
}

impl NamesOutside {
    /// By the files of this machine, in this runtime.
    pub(super) fn of_system() -> Self {
        Self { names: Arc::new(DnsFiles::of_system()), runtime: Handle::current() }
    }
}

impl Names for NamesOutside {
    fn addresses<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        let (names, name) = (Arc::clone(&self.names), name.to_owned());
        let found = self.runtime.spawn(async move { names.addresses(&name).await });
        Box::pin(async move { found.await.map_err(io::Error::other)? })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        ffi::OsStr,
        fs,
        io::{ErrorKind, Read},
        path::{Path, PathBuf},
        sync::Mutex,
        thread,
        time::SystemTime,
    };

    use image_rs::{
        Algorithm, Artifact, ArtifactOrder, Descriptor, Digest, Document, Error, NoKeys, Pointer, Silent,
        Source, Target,
        layer::Options,
        policy::{Beside, Policy, Subject},
        pull_artifact,
        source::Layout,
    };
    use serde_json::json;

    use super::*;

    /// A layout of an artifact with one file; a source that tries, where it is read, what an archive could make a reader do.
    #[derive(Debug)]
    struct Probe {
        layout: Layout,
        outside: PathBuf,
        tried: Mutex<Vec<(&'static str, Option<ErrorKind>)>>,
    }

    impl Source for Probe {
        fn document(&self, pointer: &Pointer) -> Result<Document, Error> {
            self.layout.document(pointer)
        }

        fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, Error> {
            let there = self.outside.join("there");
            let tried = [
                ("read", fs::read(&there).map(drop)),
                ("write", fs::write(&there, "2")),
                ("make", fs::write(self.outside.join("new"), "2")),
                ("remove", fs::remove_file(&there)),
                ("list", fs::read_dir("/").map(drop)),
                ("read of the machine", fs::read("/etc/passwd").map(drop)),
            ];
            let tried = tried.map(|(what, result)| (what, result.err().map(|error| error.kind())));
            self.tried.lock().unwrap().extend(tried);
            self.layout.blob(descriptor)
        }
    }

    fn write_layout(folder: &Path) {
        fs::create_dir_all(folder.join("blobs/sha256")).unwrap();
        let blob = |media_type: &str, bytes: &[u8]| {
            let digest = Digest::of(Algorithm::Sha256, bytes);
            fs::write(folder.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
            json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()})
        };
        let mut file = blob("application/vnd.example.weights", b"weights");
        file["annotations"] = json!({"org.opencontainers.image.title": "weights"});
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type, "layers": [file],
            "config": blob("application/vnd.oci.empty.v1+json", b"{}"),
        });
        let index =
            json!({"schemaVersion": 2, "manifests": [blob(media_type, manifest.to_string().as_bytes())]});
        fs::write(folder.join("index.json"), index.to_string()).unwrap();
        fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    }

    #[test]
    fn what_reads_archives_is_confined() {
        let top = tempfile::tempdir().unwrap();
        let [at, layout, outside] = ["at", "layout", "outside"].map(|name| top.path().join(name));
        fs::create_dir(&at).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("there"), "1").unwrap();
        write_layout(&layout);
        let readable = File::open(&layout).unwrap();
        let source = Probe {
            layout: Layout::open(&layout).unwrap(),
            outside: outside.clone(),
            tried: Mutex::default(),
        };
        let platform = image_rs::Platform::of_this_machine();
        let pointer = source.layout.only().unwrap();
        let artifact = Artifact::resolve(&source.layout, &pointer, &platform).unwrap();
        let subject = Subject { reference: None, manifest: artifact.manifest_digest(), index: None };
        let mut signatures = Beside::new(&source, |what| Err(Error::NotFound { what: what.to_owned() }));
        let verdict = Policy::admit_all().decide(&subject, SystemTime::now(), &mut signatures);
        let admitted = verdict.admitted().unwrap();
        let order = ArtifactOrder {
            source: &source,
            artifact: &artifact,
            admitted: &admitted,
            keys: Arc::new(NoKeys),
        };
        let (folder, how) = (File::open(&at).unwrap(), Mutex::new(Landlock::None));
        let confine = |folder: BorrowedFd<'_>| *how.lock().unwrap() = to_folder(folder, Some(&readable));
        let target = Target::new(folder.as_fd(), OsStr::new("out")).confined_by(&confine);
        pull_artifact(&order, &target, &Options::default(), &Silent).unwrap();
        assert_eq!(fs::read_to_string(at.join("out/weights")).unwrap(), "weights");
        // This thread is not confined.
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        if *how.lock().unwrap() == Landlock::None {
            cc_vectors::skip("this kernel's Landlock cannot confine");
            return;
        }
        assert_eq!(fs::read_to_string(outside.join("there")).unwrap(), "1");
        let tried = source.tried.lock().unwrap();
        assert_eq!(tried.len(), 6);
        for (what, error) in &*tried {
            assert_eq!(*error, Some(ErrorKind::PermissionDenied), "{what}");
        }
    }

    #[tokio::test]
    async fn names_are_looked_up_from_confined_threads() {
        let names = NamesOutside::of_system();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        let looked_up = tokio::task::spawn_blocking(move || {
            let confined = thread::spawn(move || {
                to_folder(File::open(path).unwrap().as_fd(), None);
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(names.addresses("localhost"))
            });
            confined.join().unwrap()
        });
        assert!(looked_up.await.unwrap().unwrap().iter().any(IpAddr::is_loopback));
    }
}
