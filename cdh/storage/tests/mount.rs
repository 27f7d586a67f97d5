//! The program in the mode that mounts, in a mount namespace of its own, asked as the data hub asks.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests fail loudly and start programs"
)]

use std::{
    fs::{self, File},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use cc_storage::{Answer, Bundle, Channel, Client, Name, Request, StorageError};
use tempfile::TempDir;

const CONFIG: &str = r#"{"ociVersion":"1.0.2"}"#;

/// The program at work. Its mounts are its own.
struct Storage {
    client: Option<Client>,
    child: Child,
    folder: TempDir,
}

impl Storage {
    fn start() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            cc_vectors::skip("needs root");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let (client, child) = Self::spawn(folder.path());
        Some(Self { client: Some(client), child, folder })
    }

    fn spawn(folder: &Path) -> (Client, Child) {
        let (ours, theirs) = Channel::pair().unwrap();
        let child = Command::new("unshare")
            .args([
                "--mount",
                "--propagation",
                "private",
                env!("CARGO_BIN_EXE_cdh-storage"),
                "mount",
                "--store",
            ])
            .arg(folder.join("store"))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .unwrap();
        (Client::new(ours), child)
    }

    fn client(&mut self) -> &mut Client {
        self.client.as_mut().unwrap()
    }

    /// A layer with these files.
    fn layer(&self, number: u8, files: &[&str]) -> Name {
        let name: Name = format!("{number:02x}").repeat(32).parse().unwrap();
        let tree = self.folder.path().join(format!("store/layers/{name}/tree"));
        fs::create_dir_all(&tree).unwrap();
        for file in files {
            fs::write(tree.join(file), number.to_string()).unwrap();
        }
        for note in ["implied", "marks"] {
            fs::write(tree.with_file_name(note), "").unwrap();
        }
        name
    }

    fn bundle(&self, name: &str, layers: &[Name]) -> Request {
        let path = self.folder.path().join(name).display().to_string();
        Request::MakeBundle(Bundle { path, layers: layers.to_vec(), user: String::new() })
    }

    fn release(&self, name: &str) -> Request {
        Request::RemoveBundle { path: self.folder.path().join(name).display().to_string() }
    }

    fn ask(&mut self, request: Request) -> Result<Answer, StorageError> {
        let config = self.folder.path().join("config");
        fs::write(&config, CONFIG).unwrap();
        let config = File::open(config).unwrap();
        let with_config = matches!(request, Request::MakeBundle(_));
        let fds = if with_config { vec![config.as_fd()] } else { Vec::new() };
        self.client().ask(request, None, &fds).map(|answered| answered.body)
    }

    /// A path in its own view of the file system.
    fn seen(&self, path: &str) -> PathBuf {
        let inside = self.folder.path().join(path);
        Path::new("/proc")
            .join(self.child.id().to_string())
            .join("root")
            .join(inside.strip_prefix("/").unwrap())
    }

    /// Unmounts a path in its view of the file system.
    fn unmount(&self, path: &str) {
        let pid = self.child.id().to_string();
        let path = self.folder.path().join(path);
        let done = Command::new("nsenter").args(["--mount", "--target", &pid, "umount"]).arg(path).status();
        assert!(done.unwrap().success());
    }

    /// The directory of the overlay of a bundle.
    fn overlay_of(&self, bundle: &str) -> PathBuf {
        let path = self.folder.path().join(bundle).display().to_string();
        let all = fs::read_dir(self.folder.path().join("store/overlay")).unwrap();
        let mut all = all.map(|entry| entry.unwrap().path());
        all.find(|overlay| fs::read_to_string(overlay.join("bundle")).is_ok_and(|text| text == path)).unwrap()
    }

    fn overlays(&self) -> usize {
        fs::read_dir(self.folder.path().join("store/overlay")).unwrap().count()
    }
}

/// Which boot this is.
fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned()
}

impl Drop for Storage {
    fn drop(&mut self) {
        self.client = None;
        self.child.wait().unwrap();
    }
}

#[test]
fn a_bundle_is_made_and_removed() {
    let Some(mut storage) = Storage::start() else { return };
    let layers = [storage.layer(1, &["low", "both"]), storage.layer(2, &["both"])];
    let request = storage.bundle("b/one", &layers);
    assert_eq!(storage.ask(request.clone()).unwrap(), Answer::Done);
    assert_eq!(fs::read_to_string(storage.seen("b/one/rootfs/both")).unwrap(), "2");
    assert_eq!(fs::read_to_string(storage.seen("b/one/rootfs/low")).unwrap(), "1");
    assert_eq!(fs::read_to_string(storage.seen("b/one/config.json")).unwrap(), CONFIG);
    fs::write(storage.seen("b/one/rootfs/new"), "").unwrap();
    assert!(!storage.folder.path().join(format!("store/layers/{}/tree/new", layers[1])).exists());

    assert_eq!(storage.ask(Request::CommitBundle).unwrap(), Answer::Done);
    assert_eq!(storage.ask(request).unwrap_err().code(), "BUNDLE_EXISTS");
    let request = storage.release("b/one");
    storage.ask(request.clone()).unwrap();
    assert!(!storage.folder.path().join("b").exists());
    assert_eq!(storage.overlays(), 0);
    assert_eq!(storage.ask(request).unwrap_err().code(), "BUNDLE_UNKNOWN");
}

#[test]
fn a_layer_that_deletes_all_below_it_hides_the_layers_below() {
    let Some(mut storage) = Storage::start() else { return };
    let layers = [1, 2, 3].map(|number| storage.layer(number, &[&number.to_string()]));
    let tree = |layer: &Name| storage.folder.path().join(format!("store/layers/{layer}/tree"));
    let low = tree(&layers[0]);
    fs::set_permissions(&low, fs::Permissions::from_mode(0o711)).unwrap();
    fs::create_dir(low.join("below")).unwrap();
    // The second deletes; neither its archive nor the third's says what the root is.
    let none = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(tree(&layers[1]), "trusted.overlay.opaque", b"y", none).unwrap();
    for layer in &layers[1..] {
        fs::create_dir(tree(layer).join("below")).unwrap();
        fs::write(tree(layer).with_file_name("implied"), b"\0below\0").unwrap();
    }
    fs::set_permissions(low.join("below"), fs::Permissions::from_mode(0o700)).unwrap();
    storage.ask(storage.bundle("b/one", &layers)).unwrap();
    let rootfs = storage.seen("b/one/rootfs");
    let mut names: Vec<_> = fs::read_dir(&rootfs).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["2", "3", "below"]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&rootfs), mode(&rootfs.join("below"))), (0o711, 0o755));
}

#[test]
fn what_cannot_be_committed_can_be_removed() {
    let Some(mut storage) = Storage::start() else { return };
    let layers = [storage.layer(1, &["file"])];
    storage.ask(storage.bundle("b/one", &layers)).unwrap();
    fs::create_dir(storage.overlay_of("b/one").join("complete")).unwrap();
    assert_eq!(storage.ask(Request::CommitBundle).unwrap_err().code(), "STORAGE_FAILED");
    storage.ask(storage.release("b/one")).unwrap();
    assert!(!storage.folder.path().join("b").exists());
    assert_eq!(storage.overlays(), 0);
}

#[test]
fn what_cannot_be_made_leaves_nothing() {
    let Some(mut storage) = Storage::start() else { return };
    let layer = storage.layer(1, &["file"]);
    let absent: Name = "9".repeat(64).parse().unwrap();
    fs::create_dir_all(storage.folder.path().join("full/rootfs/x")).unwrap();
    fs::create_dir_all(storage.folder.path().join("configured")).unwrap();
    fs::write(storage.folder.path().join("configured/config.json"), "theirs").unwrap();
    for (name, layers, code) in [
        ("new/a", vec![], "STORAGE_REQUEST_REFUSED"),
        ("new/b", vec![layer.clone(), layer.clone()], "STORAGE_REQUEST_REFUSED"),
        ("new/c", vec![absent], "STORE_LAYER_ABSENT"),
        ("../new", vec![layer.clone()], "BUNDLE_PATH_REFUSED"),
        ("full", vec![layer.clone()], "BUNDLE_EXISTS"),
        ("configured", vec![layer.clone()], "BUNDLE_EXISTS"),
    ] {
        let request = storage.bundle(name, &layers);
        assert_eq!(storage.ask(request).unwrap_err().code(), code, "{name}");
        assert!(!storage.folder.path().join("new").exists(), "{name}");
        assert_eq!(storage.overlays(), 0, "{name}");
    }
    assert_eq!(fs::read_to_string(storage.folder.path().join("configured/config.json")).unwrap(), "theirs");
    assert!(storage.seen("full/rootfs/x").is_dir());
    // A layer that is no directory.
    let broken = storage.layer(3, &[]);
    let tree = storage.folder.path().join(format!("store/layers/{broken}/tree"));
    fs::remove_dir(&tree).unwrap();
    fs::write(&tree, "").unwrap();
    let request = storage.bundle("new/d", &[layer, broken]);
    let error = storage.ask(request).unwrap_err();
    assert_eq!(error.code(), "STORAGE_FAILED");
    assert!(error.to_string().contains("open the layers"), "{error}");
    assert!(!storage.folder.path().join("new").exists());
    assert_eq!(storage.overlays(), 0);
}

#[test]
fn channels_work_side_by_side_and_the_program_ends_with_the_first() {
    let Some(mut storage) = Storage::start() else { return };
    let layers = [storage.layer(1, &["file"])];
    let requests: Vec<_> = (0..8).map(|i| storage.bundle(&format!("b{i}"), &layers)).collect();
    let config = storage.folder.path().join("config");
    fs::write(&config, CONFIG).unwrap();
    let config = File::open(config).unwrap();
    let mut clients: Vec<_> = requests.iter().map(|_| storage.client().connect().unwrap()).collect();
    thread::scope(|scope| {
        for (client, request) in clients.iter_mut().zip(requests) {
            let config = config.try_clone().unwrap();
            scope.spawn(move || {
                client.ask(request, None, &[config.as_fd()]).unwrap();
                client.ask(Request::CommitBundle, None, &[]).unwrap();
            });
        }
    });
    assert_eq!(storage.overlays(), 8);
    assert!(storage.ask(Request::Connect).is_err(), "without the socket that belongs to it");
    storage.client = None;
    clients.clear();
    assert!(storage.child.wait().unwrap().success());
}

#[test]
fn a_start_undoes_what_is_not_complete_and_forgets_what_is_gone() {
    let Some(mut storage) = Storage::start() else { return };
    let layers = [storage.layer(1, &["file"])];
    let request = storage.bundle("b", &layers);
    storage.ask(request).unwrap();
    storage.ask(Request::CommitBundle).unwrap();
    let half = storage.folder.path().join(format!("store/overlay/{}", "7".repeat(64)));
    fs::create_dir_all(half.join("upper")).unwrap();
    let bundle = storage.folder.path().join("half");
    fs::create_dir_all(bundle.join("rootfs")).unwrap();
    fs::write(bundle.join("config.json"), "{}").unwrap();
    fs::write(half.join("boot"), boot()).unwrap();
    fs::write(half.join("bundle"), bundle.to_str().unwrap()).unwrap();
    fs::write(half.join("made"), format!("{}\n", bundle.display())).unwrap();
    // The mounts go with the namespace of the first.
    storage.client = None;
    storage.child.wait().unwrap();
    let (client, child) = Storage::spawn(storage.folder.path());
    (storage.client, storage.child) = (Some(client), child);
    let request = storage.release("nothing");
    assert_eq!(storage.ask(request).unwrap_err().code(), "BUNDLE_UNKNOWN");
    assert_eq!(storage.overlays(), 0);
    assert!(!bundle.exists());
}

#[test]
fn a_leftover_that_cannot_be_undone_is_in_nobodys_way() {
    let Some(mut storage) = Storage::start() else { return };
    let layers = [storage.layer(1, &["file"])];
    let request = storage.bundle("a", &layers);
    storage.ask(request).unwrap();
    storage.ask(Request::CommitBundle).unwrap();
    storage.client = None;
    storage.child.wait().unwrap();
    // While nobody looks: the program would take it for something of another boot as long as its note is not there.
    let left = storage.folder.path().join(format!("store/overlay/{}", "7".repeat(64)));
    let bundle = storage.folder.path().join("left");
    fs::create_dir_all(left.join("upper")).unwrap();
    fs::create_dir_all(bundle.join("config.json/theirs")).unwrap();
    fs::write(left.join("boot"), boot()).unwrap();
    fs::write(left.join("bundle"), bundle.to_str().unwrap()).unwrap();
    // A start is possible as well, and once the folder is out of the way it goes.
    for (overlays, name) in [(2, "b"), (1, "c")] {
        let (client, child) = Storage::spawn(storage.folder.path());
        (storage.client, storage.child) = (Some(client), child);
        let request = storage.bundle(name, &layers);
        storage.ask(request).unwrap();
        storage.ask(Request::CommitBundle).unwrap();
        assert_eq!(storage.overlays(), overlays, "{name}");
        assert_eq!(left.exists(), overlays == 2);
        storage.client = None;
        storage.child.wait().unwrap();
        if bundle.exists() {
            fs::remove_dir_all(&bundle).unwrap();
        }
    }
}

#[test]
fn what_another_boot_left_is_forgotten_and_nothing_is_removed_where_it_points() {
    let Some(mut storage) = Storage::start() else { return };
    storage.client = None;
    storage.child.wait().unwrap();
    let victim = storage.folder.path().join("victim");
    fs::create_dir_all(victim.join("rootfs")).unwrap();
    fs::write(victim.join("config.json"), "theirs").unwrap();
    // Half of one and a complete one, from no boot and from another one.
    for (number, boot, complete) in
        [(1, None, false), (2, Some("another"), false), (3, Some("another"), true)]
    {
        let planted = storage.folder.path().join(format!("store/overlay/{number:064x}"));
        fs::create_dir_all(planted.join("upper")).unwrap();
        fs::write(planted.join("bundle"), victim.to_str().unwrap()).unwrap();
        fs::write(planted.join("made"), format!("{}\n", victim.display())).unwrap();
        boot.iter().for_each(|boot| fs::write(planted.join("boot"), boot).unwrap());
        if complete {
            fs::write(planted.join("complete"), "").unwrap();
        }
    }
    let (client, child) = Storage::spawn(storage.folder.path());
    (storage.client, storage.child) = (Some(client), child);
    let request = storage.release("victim");
    assert_eq!(storage.ask(request).unwrap_err().code(), "BUNDLE_UNKNOWN");
    assert_eq!(storage.overlays(), 0);
    assert_eq!(fs::read_to_string(victim.join("config.json")).unwrap(), "theirs");
    assert!(victim.join("rootfs").is_dir());
}

#[test]
fn a_bundle_that_is_not_committed_goes_with_its_channel() {
    let Some(mut storage) = Storage::start() else { return };
    let layers = [storage.layer(1, &["file"])];
    let request = storage.bundle("b/one", &layers);
    let mut other = storage.client().connect().unwrap();
    let config = File::open("/dev/null").unwrap();
    other.ask(request.clone(), None, &[config.as_fd()]).unwrap();
    assert_eq!(storage.overlays(), 1);
    let again = other.ask(request.clone(), None, &[config.as_fd()]).unwrap_err();
    assert_eq!(again.code(), "STORAGE_REQUEST_REFUSED", "one at a time");
    drop(other);
    let bundle = storage.folder.path().join("b");
    while bundle.exists() {
        thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(storage.overlays(), 0);
    // By a word over the channel it goes too, and there is nothing to commit then.
    storage.ask(request.clone()).unwrap();
    let release = storage.release("b/one");
    storage.ask(release).unwrap();
    assert!(!bundle.exists() && storage.overlays() == 0);
    assert_eq!(storage.ask(Request::CommitBundle).unwrap_err().code(), "STORAGE_REQUEST_REFUSED");
    // Nothing of it is in the way of the next one.
    storage.ask(request).unwrap();
    storage.ask(Request::CommitBundle).unwrap();
    assert!(storage.seen("b/one/rootfs/file").exists());
}

#[test]
fn what_a_container_that_is_gone_wrote_goes_with_the_next_bundle() {
    let Some(mut storage) = Storage::start() else { return };
    let layers = [storage.layer(1, &["file"])];
    for name in ["a", "b"] {
        let request = storage.bundle(name, &layers);
        storage.ask(request).unwrap();
        storage.ask(Request::CommitBundle).unwrap();
        fs::write(storage.seen(&format!("{name}/rootfs/written")), "").unwrap();
    }
    // As whoever ran it leaves it: unmounted, and its folder removed.
    storage.unmount("a/rootfs");
    fs::remove_dir_all(storage.folder.path().join("a")).unwrap();
    assert_eq!(storage.overlays(), 2);
    let request = storage.bundle("a", &layers);
    storage.ask(request).unwrap();
    storage.ask(Request::CommitBundle).unwrap();
    assert_eq!(storage.overlays(), 2, "one of b, and one of the new a");
    assert!(storage.seen("b/rootfs/written").exists() && !storage.seen("a/rootfs/written").exists());

    // Two that are said to be at one path: the older one is not mounted any more.
    storage.unmount("a/rootfs");
    fs::remove_file(storage.folder.path().join("a/config.json")).unwrap();
    let stale = storage.folder.path().join(format!("store/overlay/{}", "0".repeat(64)));
    let copied = Command::new("cp").arg("-a").arg(storage.overlay_of("a")).arg(&stale).status().unwrap();
    assert!(copied.success());
    let release = storage.release("a");
    storage.ask(release).unwrap();
    assert_eq!(storage.overlays(), 1);
}

#[test]
fn one_bundle_at_a_time_is_made_at_a_path() {
    let Some(mut storage) = Storage::start() else { return };
    let layers: Vec<_> = (0..8).map(|number| storage.layer(number, &["file"])).collect();
    let request = storage.bundle("held", &layers[..1]);
    fs::create_dir(storage.folder.path().join("held")).unwrap();
    let held = File::open(storage.folder.path().join("held")).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    assert_eq!(storage.ask(request).unwrap_err().code(), "BUNDLE_EXISTS");
    assert_eq!(fs::read_dir(storage.folder.path().join("held")).unwrap().count(), 0);

    // Each with a layer and a configuration that belong together.
    let path = storage.folder.path().join("one").display().to_string();
    let mut clients: Vec<_> = layers.iter().map(|_| storage.client().connect().unwrap()).collect();
    let make = |(number, client): (usize, &mut Client)| {
        let bundle = Bundle { path: path.clone(), layers: vec![layers[number].clone()], user: String::new() };
        let config = storage.folder.path().join(format!("config{number}"));
        fs::write(&config, number.to_string()).unwrap();
        let config = File::open(config).unwrap();
        client.ask(Request::MakeBundle(bundle), None, &[config.as_fd()])?;
        client.ask(Request::CommitBundle, None, &[]).map(|_| number)
    };
    let make = &make;
    let made: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> =
            clients.iter_mut().enumerate().map(|one| scope.spawn(move || make(one))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let [number] = made.iter().filter_map(|made| made.as_ref().ok()).collect::<Vec<_>>()[..] else {
        panic!("one gets it: {made:?}")
    };
    assert!(made.iter().filter_map(|made| made.as_ref().err()).all(|error| error.code() == "BUNDLE_EXISTS"));
    for file in ["one/rootfs/file", "one/config.json"] {
        assert_eq!(fs::read_to_string(storage.seen(file)).unwrap(), number.to_string(), "{file}");
    }
    assert_eq!(storage.overlays(), 1);
}

#[test]
fn without_such_a_socket_it_says_so() {
    let output = Command::new(env!("CARGO_BIN_EXE_cdh-storage"))
        .args(["mount", "--store", "/tmp"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("STORAGE_STANDARD_INPUT"));
}
