//! The store: layers once each, whoever wants them, whatever happens in between.

use std::{
    fs,
    io::{self, Read},
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, PermissionsExt},
    },
    path::Path,
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use image_rs::{
    Compression, Error, Layer, Limits, Silent,
    layer::{Input, Options, Run},
    store::{Claim, Record, Reservation, Store, Stored, below::Below, implied, marks::Marks},
};
use tempfile::TempDir;

use crate::{
    archive::Archive,
    is_root,
    layout::{layer, sha256},
};

const BOOT: &str = "this boot";

fn open(folder: &TempDir, boot: &str, limit: Option<u64>) -> Result<Arc<Store>, Error> {
    Store::open(&folder.path().join("store"), boot, limit).map(Arc::new)
}

fn pause() -> bool {
    thread::sleep(Duration::from_millis(2));
    true
}

fn input<'a>(layer: &'a Layer, blob: Box<dyn Read + Send>) -> Input<'a> {
    Input { number: 0, layer, blob, key: None }
}

/// The layer of `archive`, filled if it is not there, and whether it was there.
fn get(store: &Arc<Store>, layer: &Layer, blob: &[u8]) -> Result<(Stored, bool), Error> {
    let hold = store.hold()?;
    let options = Options::default();
    match store.claim(&hold, layer, &options, pause)? {
        Claim::Present(stored) => Ok((stored, true)),
        Claim::Wanted(reservation) => {
            let blob = Box::new(io::Cursor::new(blob.to_vec()));
            Ok((reservation.fill(input(layer, blob), &Run::new(options.clone()), &Silent)?, false))
        }
    }
}

fn archive(text: &str) -> Vec<u8> {
    Archive::default().directory("d/").file("d/file", text.as_bytes()).file("d/.wh.gone", b"").end()
}

/// Bytes that such an archive takes up in the store: a block for what is in its file, and something for each entry.
const TAKEN: u64 = 4096 + 3 * 1024;

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_layer_is_unpacked_once_and_found_by_all_that_was_checked() {
    if !is_root("a_layer_is_unpacked_once_and_found_by_all_that_was_checked") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, BOOT, None).unwrap();
    let (plain, blob) = layer(Compression::None, &archive("1"));
    let (stored, present) = get(&store, &plain, &blob).unwrap();
    assert!(!present);
    assert_eq!((stored.entries, stored.bytes), (3, blob.len() as u64));
    let tree = folder.path().join("store/layers").join(stored.name.as_str()).join("tree");
    assert_eq!(fs::read_to_string(tree.join("d/file")).unwrap(), "1");
    let gone = fs::symlink_metadata(tree.join("d/gone")).unwrap();
    assert!(std::os::unix::fs::FileTypeExt::is_char_device(&gone.file_type()), "as an overlay wants it");

    let (again, present) = get(&open(&folder, BOOT, None).unwrap(), &plain, b"not read").unwrap();
    assert_eq!((again, present), (stored.clone(), true));
    // The same archive, compressed: another blob was checked.
    let (gzip, blob) = layer(Compression::Gzip, &archive("1"));
    assert_ne!(get(&store, &gzip, &blob).unwrap().0.name, stored.name);
    // The same blob that should unpack to something else.
    let other = Layer { diff_id: sha256(b"other"), ..gzip.clone() };
    assert_eq!(get(&store, &other, &blob).unwrap_err().code(), "LAYER_DIGEST_MISMATCH");
    assert_eq!(names(&folder.path().join("store/layers")).len(), 2, "and nothing of it stays");
    let mut options = Options::default();
    options.policy.refuse_devices = true;
    let claim = store.claim(&store.hold().unwrap(), &gzip, &options, pause).unwrap();
    assert!(matches!(claim, Claim::Wanted(_)), "what was unpacked by another policy does not count");
}

#[test]
fn many_that_want_a_layer_get_it_by_one_download() {
    if !is_root("many_that_want_a_layer_get_it_by_one_download") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (layer, blob) = layer(Compression::Zstd, &archive("1"));
    let (downloads, barrier) = (AtomicUsize::new(0), Barrier::new(6));
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                // As several processes would: each has opened the store for itself.
                let store = open(&folder, BOOT, None).unwrap();
                let hold = store.hold().unwrap();
                barrier.wait();
                let options = Options::default();
                let Claim::Wanted(reservation) = store.claim(&hold, &layer, &options, pause).unwrap() else {
                    return;
                };
                // The first one fails, another takes over.
                if downloads.fetch_add(1, Ordering::SeqCst) == 0 {
                    return;
                }
                let blob = Box::new(io::Cursor::new(blob.clone()));
                reservation.fill(input(&layer, blob), &Run::new(options.clone()), &Silent).unwrap();
            });
        }
    });
    assert_eq!(downloads.into_inner(), 2);
    assert_eq!(names(&folder.path().join("store/layers")).len(), 1);
    let store = open(&folder, BOOT, None).unwrap();
    let hold = store.hold().unwrap();
    let (other, _) = crate::layout::layer(Compression::None, &archive("2"));
    let _filling = store.claim(&hold, &other, &Options::default(), pause).unwrap();
    let waiting = store.claim(&hold, &other, &Options::default(), || false);
    assert_eq!(waiting.unwrap_err().code(), "IMAGE_INTERRUPTED");
}

/// So much in each hundredth of a second, in pieces that cannot be compressed away; the end when it is told to.
struct Flow {
    each: usize,
    archive: io::Cursor<Vec<u8>>,
    ended: mpsc::Receiver<()>,
}

impl Read for Flow {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let over = match self.ended.recv_timeout(Duration::from_millis(10)) {
            Err(mpsc::RecvTimeoutError::Timeout) => false,
            Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => true,
        };
        let most = if over { into.len() } else { self.each.min(into.len()) };
        self.archive.read(&mut into[..most])
    }
}

#[test]
fn who_goes_on_steadily_is_waited_for_and_who_drips_is_joined() {
    if !is_root("who_goes_on_steadily_is_waited_for_and_who_drips_is_joined") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let content = vec![7; 64 << 20];
    let (layer, blob) = layer(Compression::None, &Archive::default().file("model", &content).end());
    let store = Store::open(&folder.path().join("store"), BOOT, None).unwrap();
    let store = Arc::new(store.with_patience(Duration::from_secs(2)));
    let options = Options::default();
    let hold = store.hold().unwrap();
    let wanted = |claim| match claim {
        Claim::Wanted(reservation) => reservation,
        Claim::Present(_) => panic!("it is there"),
    };
    let fill = |reservation: Reservation, each, ended| {
        let archive = io::Cursor::new(blob.clone());
        let input = input(&layer, Box::new(Flow { each, archive, ended }));
        reservation.fill(input, &Run::new(Options::default()), &Silent).unwrap()
    };
    // Four megabytes a second and more, on a slow machine too; and two kilobytes.
    for (each, steady) in [(96 << 10, true), (20, false)] {
        let first = wanted(store.claim(&hold, &layer, &options, pause).unwrap());
        thread::scope(|scope| {
            let (end, ended) = mpsc::channel();
            let first = scope.spawn(move || fill(first, each, ended));
            let begun = Instant::now();
            let claim = store.claim(&hold, &layer, &options, || {
                pause() && (!steady || begun.elapsed() < Duration::from_secs(5))
            });
            if steady {
                assert_eq!(claim.unwrap_err().code(), "IMAGE_INTERRUPTED", "still waiting");
                drop(end);
                first.join().unwrap();
                return;
            }
            let second = wanted(claim.unwrap());
            assert!(second.is_beside());
            let (now, ended) = mpsc::channel();
            drop(now);
            let stored = fill(second, 0, ended);
            // The first one sees it, and does not go on for hours.
            assert_eq!(first.join().unwrap(), stored);
            drop(end);
        });
        fs::remove_dir_all(folder.path().join("store/layers")).unwrap();
        fs::create_dir(folder.path().join("store/layers")).unwrap();
    }
}

/// Gives all that it has, and its end when it is told to.
struct Held(io::Cursor<Vec<u8>>, mpsc::Receiver<()>);

impl Read for Held {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(into)?;
        if read == 0 {
            let _ = self.1.recv();
        }
        Ok(read)
    }
}

#[test]
fn who_waits_for_too_long_fills_the_layer_beside_the_first() {
    if !is_root("who_waits_for_too_long_fills_the_layer_beside_the_first") {
        return;
    }
    // Longer than any test.
    const LONG: Duration = Duration::from_secs(3600);
    let folder = tempfile::tempdir().unwrap();
    let (layer, blob) = layer(Compression::Gzip, &archive("1"));
    let with_patience = |patience| {
        let store = Store::open(&folder.path().join("store"), BOOT, Some(1 << 20)).unwrap();
        Arc::new(store.with_patience(patience))
    };
    let (patient, hasty) = (with_patience(LONG), with_patience(Duration::from_millis(50)));
    let claim = |store: &Arc<Store>| {
        let begun = Instant::now();
        store.claim(&store.hold().unwrap(), &layer, &Options::default(), || {
            pause() && begun.elapsed() < Duration::from_secs(30)
        })
    };
    let wanted = |store| match claim(store).unwrap() {
        Claim::Wanted(reservation) => reservation,
        Claim::Present(_) => panic!("it is there"),
    };
    // Whichever comes to its end first gives the layer its name, and the other one finds that.
    for first_wins in [false, true] {
        let hold = hasty.hold().unwrap();
        thread::scope(|scope| {
            let fill = |reservation: Reservation| {
                let (end, held) = mpsc::channel();
                let source = Box::new(Held(io::Cursor::new(blob.clone()), held));
                let input = input(&layer, source);
                let run = Run::new(Options::default());
                (end, scope.spawn(move || reservation.fill(input, &run, &Silent).unwrap()))
            };
            let first = wanted(&patient);
            assert!(!first.is_beside());
            let first = fill(first);
            let begun = Instant::now();
            let (second, third) = (wanted(&hasty), wanted(&hasty));
            assert!(second.is_beside() && third.is_beside());
            assert!(begun.elapsed() >= Duration::from_millis(100), "each has waited");
            // One of them gives up, and leaves nothing.
            drop(third);
            let second = fill(second);
            let waiting = scope.spawn(|| claim(&patient).unwrap());
            let order = if first_wins { [first, second] } else { [second, first] };
            let stored = order.map(|(end, filling)| {
                drop(end);
                let stored = filling.join().unwrap();
                let tree = folder.path().join("store/layers").join(stored.name.as_str()).join("tree");
                (stored, fs::metadata(tree).unwrap().ino())
            });
            assert_eq!(stored[0], stored[1], "what has its name stays");
            let [(stored, _), _] = stored;
            // Who has patience has it from whoever was first.
            let Claim::Present(found) = waiting.join().unwrap() else { panic!("it is there") };
            assert_eq!(found, stored);
            assert_eq!(names(&folder.path().join("store/layers")), [found.name.as_str()]);
            assert_eq!(hasty.used().unwrap(), TAKEN);
        });
        drop(hold);
        hasty.collect().unwrap();
        assert_eq!(names(&folder.path().join("store/layers")), [""; 0]);
    }
}

#[test]
fn what_fails_and_what_was_killed_leaves_nothing() {
    if !is_root("what_fails_and_what_was_killed_leaves_nothing") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, BOOT, None).unwrap();
    let (layer, blob) = layer(Compression::Gzip, &archive(&"x".repeat(5000)));
    let layers = folder.path().join("store/layers");
    for cut in [0, 1, blob.len() / 2, blob.len() - 1] {
        assert_eq!(get(&store, &layer, &blob[..cut]).unwrap_err().code(), "LAYER_LENGTH", "cut at {cut}");
        assert!(names(&layers).is_empty());
    }
    let mut wrong = blob.clone();
    wrong[blob.len() / 2] ^= 1;
    assert_eq!(get(&store, &layer, &wrong).unwrap_err().code(), "LAYER_DIGEST_MISMATCH");
    assert!(names(&layers).is_empty());

    // As a killed process leaves it.
    let (stored, _) = get(&store, &layer, &blob).unwrap();
    let whole = layers.join(stored.name.as_str());
    fs::rename(&whole, layers.join(format!(".{}.partial", stored.name))).unwrap();
    assert!(!get(&store, &layer, &blob).unwrap().1, "half a layer is none");
    fs::create_dir_all(layers.join(".0.partial/tree/x")).unwrap();
    fs::write(folder.path().join("store/images/.x.partial"), "").unwrap();
    let store = open(&folder, BOOT, None).unwrap();
    assert_eq!(names(&layers), [stored.name.to_string()]);
    assert!(names(&folder.path().join("store/images")).is_empty());

    // A damaged note: the layer is made anew.
    fs::write(whole.join("layer.json"), "{}").unwrap();
    assert_eq!(get(&store, &layer, &blob).unwrap(), (stored.clone(), false));
    assert_eq!(get(&store, &layer, &blob).unwrap(), (stored, true));
}

#[test]
fn a_store_of_another_boot_and_a_damaged_one_are_empty() {
    if !is_root("a_store_of_another_boot_and_a_damaged_one_are_empty") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let note = folder.path().join("store/store.json");
    let (layer, blob) = layer(Compression::None, &archive("1"));
    let record = |stored: &Stored| Record {
        reference: "app:1".to_owned(),
        manifest: sha256(b"manifest"),
        layers: vec![stored.name.clone()],
        at: 7,
    };
    let damage: [&dyn Fn(); 4] = [
        &|| fs::write(&note, "").unwrap(),
        &|| fs::write(&note, r#"{"version":1}"#).unwrap(),
        &|| {
            let (text, own) = (fs::read_to_string(&note).unwrap(), r#""version":2"#);
            assert!(text.contains(own), "{text}");
            fs::write(&note, text.replace(own, r#""version":1"#)).unwrap();
        },
        &|| fs::remove_file(&note).unwrap(),
    ];
    for (number, damage) in damage.iter().enumerate() {
        let store = open(&folder, BOOT, None).unwrap();
        let (stored, present) = get(&store, &layer, &blob).unwrap();
        assert!(!present, "{number}");
        store.record(&record(&stored)).unwrap();
        damage();
        let store = open(&folder, BOOT, None).unwrap();
        assert!(store.images().unwrap().is_empty() && store.used().unwrap() == 0, "{number}");
    }
    let store = open(&folder, BOOT, None).unwrap();
    get(&store, &layer, &blob).unwrap();
    let hold = store.hold().unwrap();
    assert_eq!(open(&folder, "the next boot", None).unwrap_err().code(), "IMAGE_STORE_BUSY");
    drop(hold);
    // Between two boots the host can write: a layer of its own, and a note that it is mounted.
    let layers = folder.path().join("store/layers");
    let planted = folder.path().join("store/overlay").join("0".repeat(64));
    fs::create_dir_all(&planted).unwrap();
    fs::write(planted.join("layers"), names(&layers).join("\n")).unwrap();
    fs::write(layers.join(&names(&layers)[0]).join("tree/planted"), "").unwrap();
    for boot in [None, Some(BOOT)] {
        boot.iter().for_each(|boot| fs::write(planted.join("boot"), boot).unwrap());
        let store = open(&folder, "the next boot", None).unwrap();
        assert_eq!(store.used().unwrap(), 0, "{boot:?}");
    }
    let store = open(&folder, "the next boot", None).unwrap();
    assert!(!get(&store, &layer, &blob).unwrap().1);
    assert!(!layers.join(&names(&layers)[0]).join("tree/planted").exists());
}

#[test]
fn images_keep_their_layers_and_so_do_mounts() {
    if !is_root("images_keep_their_layers_and_so_do_mounts") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, BOOT, None).unwrap();
    let stored: Vec<Stored> = ["1", "2", "3"]
        .iter()
        .map(|text| {
            let (layer, blob) = layer(Compression::None, &archive(text));
            get(&store, &layer, &blob).unwrap().0
        })
        .collect();
    let manifest = sha256(b"manifest");
    let record = Record {
        reference: "app:1".to_owned(),
        manifest,
        layers: vec![stored[0].name.clone(), stored[1].name.clone()],
        at: 7,
    };
    store.record(&record).unwrap();
    fs::write(folder.path().join("store/images/garbage"), "{").unwrap();
    assert_eq!(store.images().unwrap(), [record]);
    let hold = store.hold().unwrap();
    assert_eq!(store.collect().unwrap_err().code(), "IMAGE_STORE_BUSY");
    drop(hold);
    let mounted = folder.path().join("store/overlay/one");
    fs::create_dir_all(&mounted).unwrap();
    fs::write(mounted.join("layers"), format!("{}\n", stored[1].name)).unwrap();
    fs::write(mounted.join("boot"), BOOT).unwrap();
    let collected = store.collect().unwrap();
    assert_eq!((collected.layers, collected.bytes), (1, stored[2].bytes));
    assert!(store.forget(&manifest).unwrap() && !store.forget(&manifest).unwrap());
    assert_eq!(store.collect().unwrap().layers, 1);
    assert_eq!(names(&folder.path().join("store/layers")), [stored[1].name.to_string()]);
    // The note is gone, the mount is not.
    fs::remove_file(folder.path().join("store/store.json")).unwrap();
    assert_eq!(open(&folder, BOOT, None).unwrap().used().unwrap(), TAKEN);
    fs::remove_dir_all(&mounted).unwrap();
    assert_eq!(store.collect().unwrap().layers, 1);
    assert_eq!(store.used().unwrap(), 0);
}

#[test]
fn the_limit_is_named_with_what_is_needed() {
    if !is_root("the_limit_is_named_with_what_is_needed") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (first, blob) = layer(Compression::Gzip, &archive("1"));
    let store = open(&folder, BOOT, Some(10_000)).unwrap();
    get(&store, &first, &blob).unwrap();
    // Its archive has less than what it takes up.
    let used = store.used().unwrap();
    assert_eq!(used, TAKEN);
    let (second, blob) = layer(Compression::Gzip, &archive(&"x".repeat(4096)));
    let error = get(&store, &second, &blob).unwrap_err();
    assert_eq!(error.code(), "IMAGE_STORE_FULL");
    for words in [
        "10000",
        &used.to_string(),
        &second.descriptor.digest.to_string(),
        &format!("more than {}", 10_000 - used),
    ] {
        assert!(error.to_string().contains(words), "{words}: {error}");
    }
    assert_eq!(names(&folder.path().join("store/layers")).len(), 1);
    let store = open(&folder, BOOT, Some(600_000)).unwrap();
    get(&store, &second, &blob).unwrap();
}

/// Ends when it is told to, so that two are under way at the same time.
struct Slow<'a>(io::Cursor<Vec<u8>>, &'a Barrier);

impl Read for Slow<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(into)?;
        if read == 0 {
            self.1.wait();
        }
        Ok(read)
    }
}

#[test]
fn two_layers_do_not_pass_the_limit_together() {
    if !is_root("two_layers_do_not_pass_the_limit_together") {
        return;
    }
    static BARRIER: Barrier = Barrier::new(2);
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, BOOT, Some(TAKEN + TAKEN / 2)).unwrap();
    let results: Vec<_> = thread::scope(|scope| {
        let fill = |text: &'static str| {
            let store = &store;
            scope.spawn(move || {
                let (layer, blob) = layer(Compression::None, &archive(text));
                let hold = store.hold().unwrap();
                let options = Options::default();
                let Claim::Wanted(reservation) = store.claim(&hold, &layer, &options, pause).unwrap() else {
                    panic!("it is there")
                };
                let blob = Box::new(Slow(io::Cursor::new(blob), &BARRIER));
                reservation
                    .fill(input(&layer, blob), &Run::new(options.clone()), &Silent)
                    .map(|stored| stored.bytes)
            })
        };
        let both = [fill("1"), fill("2")];
        both.map(|thread| thread.join().unwrap()).into_iter().collect()
    });
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
    let error = results.into_iter().find_map(Result::err).unwrap();
    assert_eq!(error.code(), "IMAGE_STORE_FULL");
    assert_eq!(store.used().unwrap(), TAKEN);
}

#[test]
fn what_is_being_filled_counts_against_the_limit_too() {
    if !is_root("what_is_being_filled_counts_against_the_limit_too") {
        return;
    }
    static BARRIER: Barrier = Barrier::new(2);
    let folder = tempfile::tempdir().unwrap();
    let (small, small_blob) = layer(Compression::None, &archive("1"));
    let (large, large_blob) = layer(Compression::None, &archive(&"x".repeat(1 << 20)));
    let most = (1 << 20) + 3 * 1024;
    let store = open(&folder, BOOT, Some(most)).unwrap();
    let hold = store.hold().unwrap();
    let options = Options::default();
    let claim = |layer| match store.claim(&hold, layer, &options, pause).unwrap() {
        Claim::Wanted(reservation) => reservation,
        Claim::Present(_) => panic!("it is there"),
    };
    let run = Run::new(options.clone());
    let (first, second) = (claim(&large), claim(&small));
    thread::scope(|scope| {
        let blob = Box::new(Slow(io::Cursor::new(large_blob), &BARRIER));
        let filling = scope.spawn(|| first.fill(input(&large, blob), &run, &Silent));
        // All but its end has come, of which it goes on in pieces of 256 KiB.
        let tree = || fs::read_dir(folder.path().join("store/layers")).unwrap().next();
        let length =
            |entry: fs::DirEntry| fs::metadata(entry.path().join("tree/d/file")).map_or(0, |m| m.len());
        while tree().is_none_or(|entry| length(entry.unwrap()) <= (1 << 20) - 4096) {
            pause();
        }
        let error = second.fill(input(&small, Box::new(io::Cursor::new(small_blob))), &run, &Silent);
        let error = error.unwrap_err();
        assert_eq!(error.code(), "IMAGE_STORE_FULL");
        assert!(error.to_string().contains(&format!("and {} of them are used", most - 1024)), "{error}");
        BARRIER.wait();
        filling.join().unwrap().unwrap();
    });
    assert_eq!(store.used().unwrap(), most);
    // What was refused is not counted any more.
    let (other, blob) = layer(Compression::None, &archive("2"));
    assert_eq!(get(&store, &other, &blob).unwrap_err().code(), "IMAGE_STORE_FULL");
    store.collect().unwrap_err();
    drop(hold);
    store.collect().unwrap();
    get(&store, &other, &blob).unwrap();
}

#[test]
fn the_bounds_of_an_image_hold_for_all_its_layers() {
    if !is_root("the_bounds_of_an_image_hold_for_all_its_layers") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, BOOT, None).unwrap();
    let hold = store.hold().unwrap();
    let size = archive("1").len() as u64;
    let limits = |bytes, entries, ledger| Limits { bytes, entries, ledger, ..Limits::default() };
    // What is in the store already counts as if it were unpacked now.
    for (limits, what) in [
        (limits(3 * size - 1, 100, 1 << 20), "bytes"),
        (limits(1 << 20, 8, 1 << 20), "entries"),
        (limits(1 << 20, 100, 450), "names of directories"),
    ] {
        let run = Run::new(Options { limits, ..Options::default() });
        let fault = ["1", "2", "3"].iter().find_map(|text| {
            let (layer, blob) = layer(Compression::None, &archive(text));
            match store.claim(&hold, &layer, run.options(), pause).unwrap() {
                Claim::Present(stored) => run.take_layer(&stored).err().map(|fault| {
                    assert_eq!(fault.code(), "LAYER_LIMIT");
                    fault.to_string()
                }),
                Claim::Wanted(reservation) => {
                    let filled =
                        reservation.fill(input(&layer, Box::new(io::Cursor::new(blob))), &run, &Silent);
                    filled.err().map(|error| {
                        assert_eq!((error.code(), *text), ("LAYER_LIMIT", "3"));
                        error.to_string()
                    })
                }
            }
        });
        assert!(fault.as_ref().is_some_and(|fault| fault.contains(what)), "{what}: {fault:?}");
    }
    assert_eq!(names(&folder.path().join("store/layers")).len(), 2);
}

#[test]
fn directories_that_no_archive_names_are_noted() {
    if !is_root("directories_that_no_archive_names_are_noted") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, BOOT, None).unwrap();
    let (layer, blob) =
        layer(Compression::None, &Archive::default().directory("a/").file("a/b/c", b"").end());
    let (stored, _) = get(&store, &layer, &blob).unwrap();
    let list = folder.path().join("store/layers").join(stored.name.as_str()).join("implied");
    let implied: Vec<Vec<u8>> = implied::read(&fs::read(list).unwrap()).into_iter().collect();
    assert_eq!(implied, [b"".to_vec(), b"a/b".to_vec()]);
}

#[test]
fn directories_get_what_the_layers_below_say_of_them() {
    if !is_root("directories_get_what_the_layers_below_say_of_them") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let make = |path: &str, (owner, mode): (u32, u32), opaque: bool| {
        let path = folder.path().join(path);
        fs::create_dir(&path).unwrap();
        std::os::unix::fs::chown(&path, Some(owner), Some(owner)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        if opaque {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(&path, "trusted.overlay.opaque", b"y", flags).unwrap();
        }
    };
    const MADE: (u32, u32) = (0, 0o755);
    let (root, tmp, deep) = ((5, 0o711), (6, 0o1777), (7, 0o700));
    // The lower layer names all that it has; the upper one names its root only, and clears what is in two directories.
    for (path, status) in [
        ("lower", (9, 0o700)),
        ("lower/tmp", tmp),
        ("lower/d", deep),
        ("lower/d/e", deep),
        ("lower/d/e/f", deep),
    ] {
        make(path, status, false);
    }
    make("middle", MADE, false);
    for (path, status) in [("upper", root), ("upper/tmp", MADE), ("upper/d", MADE), ("upper/d/e", MADE)] {
        make(path, status, path != "upper" && path != "upper/d/e");
    }
    make("upper/new", MADE, false);
    for path in ["merged", "merged/tmp", "merged/d", "merged/d/e", "merged/new"] {
        make(path, MADE, false);
    }
    let below = |name: &str, implied: &[&str]| Below {
        tree: fs::File::open(folder.path().join(name)).unwrap().into(),
        implied: implied.iter().map(|path| path.as_bytes().to_vec()).collect(),
        marks: Marks::default(),
    };
    let layers = [below("lower", &[]), below("middle", &[]), below("upper", &["tmp", "d", "d/e", "new"])];
    let merged = fs::File::open(folder.path().join("merged")).unwrap();
    let restore = || implied::restore(&layers.each_ref(), 0, merged.as_fd(), &|| true).unwrap();
    let seen = |path: &str| {
        let status = fs::metadata(folder.path().join("merged").join(path)).unwrap();
        ((status.uid(), status.mode() & 0o7777), (status.ctime(), status.ctime_nsec()))
    };
    restore();
    let expected = [("", root), ("tmp", tmp), ("d", deep), ("d/e", MADE), ("new", MADE)];
    for (path, status) in expected {
        assert_eq!(seen(path).0, status, "{path:?}");
    }
    // What is like it already is not touched: it would be copied up, in each container anew.
    let changed: Vec<_> = expected.map(|(path, _)| seen(path).1).into();
    restore();
    assert_eq!(changed, expected.map(|(path, _)| seen(path).1));
}
