//! The program in the mode that unpacks, asked as the data hub asks: confined, killed, and out of space.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests fail loudly and start programs"
)]

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use cc_storage::{Answer, Channel, Claim, Client, Image, Layer, Name, Request, StorageError};
use image_rs::{Algorithm, Digest};
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// The program at work.
struct Storage {
    client: Option<Client>,
    child: Child,
}

impl Storage {
    fn start(store: &Path) -> Self {
        Self::start_with(Command::new(env!("CARGO_BIN_EXE_cdh-storage")), store)
    }

    fn start_with(mut command: Command, store: &Path) -> Self {
        let (ours, theirs) = Channel::pair().unwrap();
        let log = File::create(store.with_extension("log")).unwrap();
        let child = command
            .args(["unpack", "--store"])
            .arg(store)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stderr(log)
            .spawn()
            .unwrap();
        Self { client: Some(Client::new(ours)), child }
    }

    fn ask(&mut self, request: Request) -> Result<Answer, StorageError> {
        self.client.as_mut().unwrap().ask(request, None, &[]).map(|answered| answered.body)
    }

    /// The layer's name in the store, and whether it was there.
    fn get(&mut self, layer: &Layer, blob: &[u8]) -> Result<(Name, bool), StorageError> {
        match self.ask(claim(layer))? {
            Answer::Present(name) => return Ok((name, true)),
            other => assert_eq!(other, Answer::Wanted),
        }
        let (read, mut write) = io::pipe().unwrap();
        let blob = blob.to_vec();
        // It ends when the other end is gone.
        let feeding = thread::spawn(move || write.write_all(&blob));
        let answered = self.client.as_mut().unwrap().ask(Request::Fill(None), None, &[read.as_fd()]);
        drop(read);
        let _ = feeding.join().unwrap();
        match answered?.body {
            Answer::Present(name) => Ok((name, false)),
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        self.client = None;
        let _ = self.child.wait();
    }
}

/// A layer of that many files of some kilobytes, and its blob.
fn layer(files: usize, content: u8) -> (Layer, Vec<u8>) {
    let mut archive = tar::Builder::new(Vec::new());
    for number in 0..files {
        let mut header = tar::Header::new_ustar();
        header.set_size(4000);
        header.set_mode(0o644);
        let path = format!("folder{}/file{number}", number % 7);
        archive.append_data(&mut header, path, &[content; 4000][..]).unwrap();
    }
    described(archive.into_inner().unwrap())
}

fn described(blob: Vec<u8>) -> (Layer, Vec<u8>) {
    let digest = Digest::of(Algorithm::Sha256, &blob).to_string();
    let layer = Layer {
        media_type: "application/vnd.oci.image.layer.v1.tar".to_owned(),
        digest: digest.clone(),
        size: blob.len() as u64,
        diff_id: digest,
        encryption: BTreeMap::new(),
    };
    (layer, blob)
}

/// Asks for the layer in the one pull that there is.
fn claim(layer: &Layer) -> Request {
    claim_for(0, layer)
}

fn claim_for(pull: u8, layer: &Layer) -> Request {
    Request::Claim(Claim { pull: [pull; 32].into(), layer: layer.clone() })
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        cc_vectors::skip("needs root");
    }
    root
}

fn files_of(store: &Path, name: &Name) -> usize {
    let tree = store.join(format!("layers/{name}/tree"));
    names(&tree).iter().map(|folder| names(&tree.join(folder)).len()).sum()
}

#[test]
fn layers_are_unpacked_and_requests_out_of_order_refused() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let mut storage = Storage::start(&store);
    let (layer, blob) = layer(20, 1);
    let (name, present) = storage.get(&layer, &blob).unwrap();
    assert!(!present && files_of(&store, &name) == 20);
    assert_eq!(storage.get(&layer, b"").unwrap(), (name.clone(), true));
    let image =
        Image { reference: "app:1".to_owned(), manifest: layer.digest.clone(), layers: vec![name], at: 1 };
    storage.ask(Request::Record(image)).unwrap();
    let (read, _write) = io::pipe().unwrap();
    let fill = storage.client.as_mut().unwrap().ask(Request::Fill(None), None, &[read.as_fd()]);
    assert_eq!(fill.unwrap_err().code(), "STORAGE_REQUEST_REFUSED", "nothing was claimed");
    let other = Layer { media_type: "text/plain".to_owned(), ..layer.clone() };
    assert_eq!(storage.ask(claim(&other)).unwrap_err().code(), "STORAGE_REQUEST_REFUSED");
    let wrong = Layer { digest: format!("sha256:{}", "0".repeat(64)), ..layer };
    assert_eq!(storage.get(&wrong, &blob).unwrap_err().code(), "LAYER_DIGEST_MISMATCH");
    assert_eq!(names(&store.join("layers")).len(), 1);
    let release = Request::RemoveBundle { path: "/b".to_owned() };
    assert_eq!(storage.ask(release).unwrap_err().code(), "STORAGE_REQUEST_REFUSED", "the other mode's");
}

#[test]
fn layers_of_no_image_go_when_the_channels_of_their_pull_are_closed() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let mut storage = Storage::start(&store);
    let mut pull = storage.client.as_mut().unwrap().connect().unwrap();
    let ((kept, blob), (left, other)) = (layer(3, 1), layer(3, 2));
    let (name, _) = storage.get(&kept, &blob).unwrap();
    storage.get(&left, &other).unwrap();
    // Another pull has claimed a layer: nothing goes while it lives, and it is not waited for without end.
    assert!(matches!(pull.ask(claim_for(1, &left), None, &[]).unwrap().body, Answer::Present(_)));
    assert_eq!(storage.ask(Request::Collect).unwrap_err().code(), "IMAGE_STORE_BUSY");
    let image = Image {
        reference: "app:1".to_owned(),
        manifest: kept.digest.clone(),
        layers: vec![name.clone()],
        at: 1,
    };
    storage.ask(Request::Record(image)).unwrap();
    drop(pull);
    storage.ask(Request::Collect).unwrap();
    assert_eq!(names(&store.join("layers")), [name.to_string()]);
}

#[test]
fn set_id_bits_that_the_unpacker_may_not_set_are_an_error() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let archive = |kind: tar::EntryType| {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_mode(0o2755);
        header.set_gid(8);
        archive.append_data(&mut header, "mail", &[][..]).unwrap();
        described(archive.into_inner().unwrap())
    };
    let without = |what: &str| {
        let mut command = Command::new("setpriv");
        command.args([format!("--bounding-set={what}"), format!("--inh-caps={what}")]);
        command.arg(env!("CARGO_BIN_EXE_cdh-storage"));
        command
    };
    for kind in [tar::EntryType::Regular, tar::EntryType::Directory, tar::EntryType::Fifo] {
        let (layer, blob) = archive(kind);
        let store = folder.path().join("store");
        let mut storage = Storage::start_with(without("-fsetid"), &store);
        let error = storage.get(&layer, &blob).unwrap_err();
        assert_eq!(error.code(), "LAYER_STORAGE", "{kind:?}: {error}");
        assert!(error.to_string().contains("set-id bits"), "{kind:?}: {error}");
        assert!(names(&store.join("layers")).is_empty());
        drop(storage);
        let (name, _) = Storage::start(&store).get(&layer, &blob).unwrap();
        let made = fs::symlink_metadata(store.join(format!("layers/{name}/tree/mail"))).unwrap();
        assert_eq!((made.mode() & 0o7777, made.gid()), (0o2755, 8), "{kind:?}");
        fs::remove_dir_all(store).unwrap();
    }
}

/// A layer of bytes that do not shrink, in one frame with a window of 2^`log` bytes.
fn zstandard(seed: u8, log: u32) -> (Layer, Vec<u8>) {
    let mut state = u64::from(seed) + 1;
    // Xorshift.
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    let mut archive = tar::Builder::new(Vec::new());
    for number in 0..30 {
        let mut header = tar::Header::new_ustar();
        header.set_size(50_000);
        header.set_mode(0o644);
        let content: Vec<u8> = (0..50_000).map(|_| random()).collect();
        archive.append_data(&mut header, format!("file{number}"), &content[..]).unwrap();
    }
    let (plain, archive) = described(archive.into_inner().unwrap());
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(log).unwrap();
    encoder.include_contentsize(false).unwrap();
    encoder.write_all(&archive).unwrap();
    let (described, blob) = described(encoder.finish().unwrap());
    let media_type = "application/vnd.oci.image.layer.v1.tar+zstd".to_owned();
    (Layer { media_type, diff_id: plain.diff_id, ..described }, blob)
}

/// How long a layer may take that nothing keeps from going on.
const TIME_LIMIT: Duration = Duration::from_secs(60);
/// How long one is watched that has to wait.
const WHILE: Duration = Duration::from_millis(700);

/// A layer that is being filled.
struct Filling {
    answer: thread::JoinHandle<Option<Answer>>,
    /// Lets the registry say the rest.
    rest: mpsc::Sender<()>,
}

impl Filling {
    /// Claims the layer for `pull` and sends half of it, and the rest when it is told to. It is wanted for so long.
    fn begin(mut client: Client, pull: u8, (layer, blob): (Layer, Vec<u8>), wanted: Duration) -> Self {
        let claimed = client.ask(claim_for(pull, &layer), None, &[]).unwrap().body;
        assert_eq!(claimed, Answer::Wanted);
        let (read, mut write) = io::pipe().unwrap();
        let (rest, go_on) = mpsc::channel();
        thread::spawn(move || {
            let (half, other) = blob.split_at(blob.len() / 2);
            // It ends when the other end is gone.
            let _ = write.write_all(half).and_then(|()| {
                let _ = go_on.recv();
                write.write_all(other)
            });
        });
        let answer = thread::spawn(move || {
            let stop = Instant::now() + wanted;
            let wanted = || Instant::now() < stop;
            let answered =
                client.ask_while(Request::Fill(None), None, &[read.as_fd()], &wanted, Duration::ZERO);
            answered.unwrap().map(|answered| answered.body)
        });
        Self { answer, rest }
    }

    /// Sends the rest; the answer, if there is one in time.
    fn end(self) -> Option<Answer> {
        drop(self.rest);
        self.answer.join().unwrap()
    }
}

/// Waits until so many layers have got their decoder's memory, and the first files; fails if that does not stay so.
#[track_caller]
fn assert_begun(store: &Path, number: usize) {
    let begun = || {
        let layers = names(&store.join("layers"));
        let trees = layers.iter().map(|name| store.join("layers").join(name).join("tree"));
        trees.filter(|tree| fs::read_dir(tree).is_ok_and(|mut files| files.next().is_some())).count()
    };
    let start = Instant::now();
    while begun() < number {
        assert!(start.elapsed() < TIME_LIMIT, "{} of {number} have begun", begun());
        thread::sleep(Duration::from_millis(10));
    }
    thread::sleep(WHILE);
    assert_eq!(begun(), number);
}

#[test]
fn a_layer_that_comes_slowly_holds_up_nobody_else_and_waiting_ends_with_the_channel() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let mut storage = Storage::start(&store);
    let mut another = || storage.client.as_mut().unwrap().connect().unwrap();
    // One has begun, and its registry says no more.
    let slow = Filling::begin(another(), 0, zstandard(1, 27), TIME_LIMIT * 3);
    assert_begun(&store, 1);
    // One with a usual window goes on.
    let usual = Filling::begin(another(), 1, zstandard(2, 23), TIME_LIMIT).end();
    assert!(matches!(usual, Some(Answer::Present(_))), "{usual:?}");
    // One with a large window waits, although all of it is there, until nobody wants it any more.
    let large = zstandard(3, 26);
    assert_eq!(Filling::begin(another(), 2, large.clone(), WHILE).end(), None);
    // What is given up so is free for the next one, while the slow one is still there.
    let next = Filling::begin(another(), 3, large, TIME_LIMIT);
    assert!(!slow.answer.is_finished());
    assert!(matches!(slow.end(), Some(Answer::Present(_))));
    assert!(matches!(next.end(), Some(Answer::Present(_))));
}

#[test]
fn one_pull_does_not_take_all_memory_for_usual_windows() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let mut storage = Storage::start(&store);
    let mut another = || storage.client.as_mut().unwrap().connect().unwrap();
    let slow = (0..8).map(|number| Filling::begin(another(), 0, zstandard(number, 23), TIME_LIMIT * 3));
    let slow: Vec<_> = slow.collect();
    assert_begun(&store, 3);
    let usual = Filling::begin(another(), 1, zstandard(9, 23), TIME_LIMIT).end();
    assert!(matches!(usual, Some(Answer::Present(_))), "{usual:?}");
    // The others of the slow one have their turn when the first are through.
    let ends: Vec<_> = slow.into_iter().map(|Filling { answer, rest }| (drop(rest), answer).1).collect();
    for end in ends {
        assert!(matches!(end.join().unwrap(), Some(Answer::Present(_))));
    }
}

/// The program behind a socket as a unit has it. It does not end by itself.
struct Unit {
    child: Child,
    path: PathBuf,
}

impl Unit {
    fn start(mut command: Command, folder: &Path) -> Self {
        let path = folder.join("unpack.sock");
        let kind = SocketType::SEQPACKET;
        let socket = net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
        net::bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        net::listen(&socket, 1024).unwrap();
        command.args(["unpack", "--store"]).arg(folder.join("store")).stdin(Stdio::from(socket));
        Self { child: command.stderr(File::create(folder.join("log")).unwrap()).spawn().unwrap(), path }
    }

    fn connect(&self) -> Client {
        let kind = SocketType::SEQPACKET;
        let socket = net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
        net::connect(&socket, &SocketAddrUnix::new(&self.path).unwrap()).unwrap();
        Client::new(Channel::new(socket).unwrap())
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn who_is_too_many_is_told_and_a_lack_of_descriptors_passes() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let ask = |client: &mut Client| client.ask(Request::CommitBundle, None, &[]).unwrap_err();
    let served = |client: &mut Client| ask(client).code() == "STORAGE_REQUEST_REFUSED";
    let unit = Unit::start(Command::new(env!("CARGO_BIN_EXE_cdh-storage")), folder.path());
    let mut clients: Vec<_> = (0..256).map(|_| unit.connect()).collect();
    assert!(clients.iter_mut().all(served));
    assert_eq!(ask(&mut unit.connect()).code(), "STORAGE_BUSY");
    clients.pop();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !served(&mut unit.connect()) {
        assert!(Instant::now() < deadline, "the place is free again");
    }
    drop((clients, unit));

    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("prlimit");
    command.args(["--nofile=40:40", env!("CARGO_BIN_EXE_cdh-storage")]);
    let unit = Unit::start(command, folder.path());
    let clients: Vec<_> = (0..60).map(|_| unit.connect()).collect();
    while !fs::read_to_string(folder.path().join("log")).unwrap().contains("cannot accept connections") {
        assert!(Instant::now() < deadline, "there are too few descriptors");
        thread::sleep(Duration::from_millis(10));
    }
    drop(clients);
    assert!(served(&mut unit.connect()));
}

#[test]
fn the_layers_of_one_pull_share_the_bounds_of_an_image_over_all_channels() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let mut storage = Storage::start(&store);
    let layers: Vec<_> = (1..=3).map(|content| layer(3, content)).collect();
    for (layer, blob) in &layers[..2] {
        let (name, _) = storage.get(layer, blob).unwrap();
        // As if the archive had been of 200 GiB: two of them are more than an image may have.
        let note = store.join(format!("layers/{name}/layer.json"));
        let text = fs::read_to_string(&note).unwrap();
        let bytes = format!("\"bytes\":{}", blob.len());
        assert!(text.contains(&bytes), "{text}");
        fs::write(&note, text.replace(&bytes, &format!("\"bytes\":{}", 200u64 << 30))).unwrap();
    }
    let mut other = storage.client.as_mut().unwrap().connect().unwrap();
    let mut ask = |request| other.ask(request, None, &[]).map(|answered| answered.body);
    assert!(matches!(storage.ask(claim_for(1, &layers[0].0)).unwrap(), Answer::Present(_)));
    let error = ask(claim_for(1, &layers[1].0)).unwrap_err();
    assert_eq!(error.code(), "LAYER_LIMIT", "{error}");
    for words in [layers[1].0.digest.as_str(), &(256u64 << 30).to_string()] {
        assert!(error.to_string().contains(words), "{error}");
    }
    // Neither may a layer be filled that makes it more.
    assert_eq!(storage.ask(claim_for(1, &layers[2].0)).unwrap(), Answer::Wanted);
    let (read, mut write) = io::pipe().unwrap();
    write.write_all(&layers[2].1).unwrap();
    drop(write);
    let filled = storage.client.as_mut().unwrap().ask(Request::Fill(None), None, &[read.as_fd()]);
    assert_eq!(filled.unwrap_err().code(), "LAYER_LIMIT");
    assert_eq!(names(&store.join("layers")).len(), 2, "nothing of it stays");
    // Another pull has bounds of its own.
    assert!(matches!(ask(claim_for(2, &layers[1].0)).unwrap(), Answer::Present(_)));
    assert_eq!(ask(claim_for(2, &layers[2].0)).unwrap(), Answer::Wanted);
}

#[test]
fn the_unpacker_is_confined_and_says_so() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let mut storage = Storage::start(&store);
    let (layer, blob) = layer(1, 1);
    storage.get(&layer, &blob).unwrap();
    let log = fs::read_to_string(store.with_extension("log")).unwrap();
    if log.contains("no Landlock") {
        cc_vectors::skip("this kernel has no Landlock");
        return;
    }
    assert!(log.contains("confined to the store"), "{log}");
    // A store that leads out of itself is not followed.
    let outside = folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::remove_dir_all(store.join("images")).unwrap();
    std::os::unix::fs::symlink(&outside, store.join("images")).unwrap();
    let image = Image { reference: "a".to_owned(), manifest: layer.digest.clone(), layers: vec![], at: 1 };
    assert!(storage.ask(Request::Record(image)).is_err());
    assert!(names(&outside).is_empty());
    let status = fs::read_to_string(format!("/proc/{}/status", storage.child.id())).unwrap();
    assert!(status.lines().any(|line| line == "NoNewPrivs:\t1"), "{status}");
}

#[test]
fn a_store_is_sound_wherever_the_unpacker_is_killed() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let layers: Vec<_> = (0..4).map(|content| layer(60, content)).collect();
    // How long it takes undisturbed.
    let begun = Instant::now();
    {
        let mut storage = Storage::start(&folder.path().join("first"));
        layers.iter().for_each(|(layer, blob)| drop(storage.get(layer, blob).unwrap()));
    }
    let undisturbed = begun.elapsed();
    let mut whole = 0;
    for round in 0..100u32 {
        let mut storage = Storage::start(&store);
        // Spread evenly over the time it takes, and somewhat beyond.
        let moment = undisturbed * round / 80;
        let pid = rustix::process::Pid::from_child(&storage.child);
        let killer = thread::spawn(move || {
            thread::sleep(moment);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        });
        for (layer, blob) in &layers {
            match storage.get(layer, blob) {
                Ok(_) => {}
                Err(StorageError::Gone | StorageError::Socket { .. }) => break,
                Err(error) => panic!("round {round}: {error}"),
            }
        }
        killer.join().unwrap();
        storage.child.wait().unwrap();
        // Whatever has a name is whole, whether or not anybody has tidied up.
        if store.join("layers").exists() {
            for name in names(&store.join("layers")).iter().filter(|name| !name.starts_with('.')) {
                assert_eq!(files_of(&store, &name.parse().unwrap()), 60, "round {round}");
                whole += 1;
            }
        }
        if round % 10 == 9 {
            let mut storage = Storage::start(&store);
            for (layer, blob) in &layers {
                storage.get(layer, blob).unwrap_or_else(|error| panic!("round {round}: {error}"));
            }
            assert_eq!(
                names(&store.join("layers")).len(),
                layers.len(),
                "round {round}: nothing half is left"
            );
            drop(storage);
            fs::remove_dir_all(&store).unwrap();
        }
    }
    assert!(whole > 10, "some layers were whole when the unpacker was killed: {whole}");
}

#[test]
fn a_full_disk_leaves_nothing_of_the_layer() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let store = disk.join("store");
    let (layer, blob) = layer(100, 1);
    let (small, small_blob) = self::layer(2, 2);
    // From room for nothing to room for almost all of it, in a mount namespace of its own.
    for kilobytes in [4, 16, 40, 64, 200, 380] {
        let mut command = Command::new("unshare");
        let script = format!(
            "mount -t tmpfs -o size={kilobytes}k none {disk} && exec {program} \"$@\"",
            disk = disk.display(),
            program = env!("CARGO_BIN_EXE_cdh-storage"),
        );
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"]);
        let (ours, theirs) = Channel::pair().unwrap();
        let mut child = command
            .args(["unpack", "--store"])
            .arg(&store)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stderr(File::create(folder.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let inside =
            PathBuf::from(format!("/proc/{}/root", child.id())).join(store.strip_prefix("/").unwrap());
        let client = Client::new(ours);
        // What the program cannot even begin with, it says before it serves.
        let mut storage = Storage { client: Some(client), child: Command::new("true").spawn().unwrap() };
        match storage.get(&layer, &blob) {
            Err(StorageError::Gone) => {
                assert!(!child.wait().unwrap().success());
                assert!(kilobytes < 40, "{kilobytes}");
                continue;
            }
            other => {
                let error = other.unwrap_err();
                assert!(matches!(error.code(), "LAYER_STORAGE" | "IMAGE_STORAGE"), "{kilobytes}: {error}");
                assert!(error.hint().contains("space"), "{kilobytes}: {error}: {}", error.hint());
                assert!(names(&inside.join("layers")).is_empty(), "{kilobytes}");
            }
        }
        if kilobytes >= 64 {
            storage.get(&small, &small_blob).unwrap();
        }
        drop(storage);
        child.wait().unwrap();
    }
}

#[test]
fn one_download_serves_all_channels_and_processes() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let mut storages = [Storage::start(&store), Storage::start(&store)];
    let (layer, blob) = layer(50, 1);
    let mut clients = Vec::new();
    for storage in &mut storages {
        for _ in 0..4 {
            clients.push(Storage {
                client: Some(storage.client.as_mut().unwrap().connect().unwrap()),
                child: Command::new("true").spawn().unwrap(),
            });
        }
    }
    let fetched: usize = thread::scope(|scope| {
        let get = |client: &mut Storage| client.get(&layer, &blob).unwrap().1;
        let threads: Vec<_> = clients.iter_mut().map(|client| scope.spawn(move || get(client))).collect();
        threads.into_iter().map(|thread| usize::from(!thread.join().unwrap())).sum()
    });
    assert_eq!(fetched, 1);
    // One that goes away while it fills lets the next one fill.
    let (other, blob) = self::layer(50, 2);
    assert_eq!(clients[0].ask(claim(&other)).unwrap(), Answer::Wanted);
    let mut waiting = clients.pop().unwrap();
    let waiting = thread::spawn(move || waiting.get(&other, &blob).unwrap().1);
    thread::sleep(Duration::from_millis(50));
    drop(clients);
    assert!(!waiting.join().unwrap());
}
