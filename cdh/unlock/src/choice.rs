//! Which disk a volume is: of all that say its UUID, the one whose header keeps the rules and fits the tag.
//!
//! Disks appear in any order, and anybody who can attach one can give it any UUID: an old copy, a volume of somebody else, a header made
//! to be refused. So no disk decides by what it is not. Each is judged at each look until one is good or the time is up, and why it is
//! not good is told once.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep, timeout_at},
};

use crate::{
    config::Volume,
    disk::{Disk, Search},
    failure::Failure,
};

/// Pause between two looks at the machine's disks.
const GLANCE: Duration = Duration::from_millis(100);
/// The same where headers were read and refused: each is up to 16 MiB.
const PAUSE: Duration = Duration::from_secs(1);
/// Most disks that are named.
const MAX_NAMED: usize = 16;
/// Most refusals that are remembered: a host that plays with names of disks does not fill the memory.
const MAX_TOLD: usize = 1024;

/// The search for the disk of one volume.
#[derive(Debug)]
pub(crate) struct Choice<'a> {
    volume: &'a Volume,
    started: Instant,
    deadline: Instant,
    class: &'a Path,
    devices: &'a Path,
    /// Why disks are not it, as it was told.
    told: BTreeMap<PathBuf, String>,
}

impl<'a> Choice<'a> {
    /// Looks at the disks of this machine for `volume` until `deadline`.
    pub(crate) fn new(volume: &'a Volume, started: Instant, deadline: Instant) -> Self {
        let (class, devices) = (Path::new("/sys/class/block"), Path::new("/dev"));
        Self { volume, started, deadline, class, devices, told: BTreeMap::new() }
    }

    /// The first disk with a header that the policy admits and that is `good`.
    ///
    /// # Errors
    /// When the time is up: why the first of those that are there is not it, or [`Failure::DiskMissing`].
    pub(crate) async fn wait(
        &mut self,
        good: impl Fn(&Disk) -> Result<(), Failure>,
    ) -> Result<Disk, Failure> {
        loop {
            let Search { found, mut seen } = self.search().await?;
            let mut refused = None;
            for path in found {
                let read = self.read(&path).await?;
                match read.and_then(|disk| good(&disk).map(|()| disk)) {
                    Ok(disk) => return Ok(disk),
                    Err(failure) => {
                        self.tell(path, &failure);
                        refused.get_or_insert(failure);
                    }
                }
            }
            let pause = if refused.is_some() { PAUSE } else { GLANCE };
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                seen.truncate(MAX_NAMED);
                return Err(refused.unwrap_or_else(|| Failure::DiskMissing {
                    uuid: self.volume.uuid.clone(),
                    seconds: self.started.elapsed().as_secs(),
                    seen: if seen.is_empty() {
                        "nothing, there is no disk".to_owned()
                    } else {
                        seen.join(", ")
                    },
                }));
            }
            sleep(pause.min(left)).await;
        }
    }

    async fn search(&self) -> Result<Search, Failure> {
        let (class, devices) = (self.class.to_owned(), self.devices.to_owned());
        let (uuid, at) = (self.volume.uuid.clone(), Arc::new(Mutex::default()));
        let shown = Arc::clone(&at);
        let look = move || {
            Search::below(&class, &devices, &uuid, |path| {
                path.clone_into(&mut at.lock().unwrap_or_else(PoisonError::into_inner));
            })
        };
        self.in_time(look, || shown.lock().unwrap_or_else(PoisonError::into_inner).clone()).await
    }

    async fn read(&self, path: &Path) -> Result<Result<Disk, Failure>, Failure> {
        let (volume, disk) = (self.volume.clone(), path.to_owned());
        self.in_time(move || Disk::read(&disk, &volume.uuid, &volume.policy), || path.to_owned()).await
    }

    /// Does `work`, which reads a disk, on a thread of its own: whether a disk ever answers is the host's to say. `at` is the disk.
    async fn in_time<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
        at: impl FnOnce() -> PathBuf,
    ) -> Result<T, Failure> {
        // The first look is had even if the time is up.
        let deadline = self.deadline.max(Instant::now() + PAUSE);
        match timeout_at(deadline, spawn_blocking(work)).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(_)) => {
                Err(Failure::Start { step: "looking at disks", source: io::ErrorKind::Other.into() })
            }
            Err(_) => Err(Failure::DiskHangs { path: at(), seconds: self.started.elapsed().as_secs() }),
        }
    }

    /// Tells why a disk is not it, unless that was told.
    fn tell(&mut self, path: PathBuf, failure: &Failure) {
        let why = failure.to_string();
        if self.told.get(&path) != Some(&why) {
            tracing::warn!(
                volume = self.volume.name,
                device = %path.display(),
                code = failure.code(),
                "a disk with the UUID of the volume is not it, others are waited for: {why}"
            );
            if self.told.len() < MAX_TOLD {
                self.told.insert(path, why);
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{fs, process::Stdio};

    use cc_volume::luks2::{Header, HeaderKey};

    use super::*;
    use crate::{
        config::{Config, tests::good},
        key::Proof,
    };

    const CRYPTSETUP: &str = "/usr/sbin/cryptsetup";
    const UUID: &str = "6a2d7e1c-93f4-4a55-8f70-1d3b2c5e9a10";
    const KEY: [u8; 64] = [7; 64];

    /// The folders of a machine's disks.
    pub(crate) struct Machine {
        folder: tempfile::TempDir,
    }

    impl Machine {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            for name in ["class", "dev"] {
                fs::create_dir(folder.path().join(name)).unwrap();
            }
            Self { folder }
        }

        /// One where volumes can be made; nothing without cryptsetup.
        pub(crate) fn with_cryptsetup() -> Option<Self> {
            if Path::new(CRYPTSETUP).exists() {
                return Some(Self::new());
            }
            cc_vectors::skip("needs cryptsetup");
            None
        }

        pub(crate) fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        /// A disk with a volume that `key` opens and has signed.
        pub(crate) fn add(&self, name: &str, key: &[u8], change: impl FnOnce(&mut Vec<u8>)) {
            let file = self.path("new");
            fs::write(&file, "").unwrap();
            fs::File::options().write(true).open(&file).unwrap().set_len(17 << 20).unwrap();
            let path = file.to_str().unwrap();
            let format = format!(
                "luksFormat -q --type luks2 --sector-size 4096 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --uuid {UUID} \
                 --key-file - {path}"
            );
            cryptsetup(&format.split(' ').collect::<Vec<_>>(), key);
            let header = Header::read(&fs::read(&file).unwrap()).unwrap();
            let secret = cc_crypto::Secret::new(key.to_vec());
            let tag = HeaderKey::derive(&secret).unwrap().sign(&header).unwrap();
            cryptsetup(&["token", "import", "--json-file", "-", path], tag.to_token().to_string().as_bytes());
            let mut bytes = fs::read(&file).unwrap();
            change(&mut bytes);
            fs::write(self.path("dev").join(name), bytes).unwrap();
            fs::create_dir(self.path("class").join(name)).unwrap();
            fs::write(self.path("class").join(name).join("size"), "34816\n").unwrap();
        }
    }

    #[allow(clippy::disallowed_methods, reason = "cryptsetup makes the headers of tests")]
    fn cryptsetup(arguments: &[&str], input: &[u8]) {
        use std::io::Write as _;
        let mut child =
            std::process::Command::new(CRYPTSETUP).args(arguments).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        assert!(child.wait().unwrap().success(), "{arguments:?}");
    }

    fn proof() -> Proof {
        Proof::of_header("root", &cc_crypto::Secret::new(KEY.to_vec())).unwrap()
    }

    /// Whoever comes first does not decide: an older copy of another key, a header that breaks a rule, one that was damaged.
    #[tokio::test]
    async fn a_disk_is_the_volume_by_its_header_and_not_by_the_order_in_which_disks_appear() {
        let Some(machine) = Machine::with_cryptsetup() else { return };
        let config = Config::parse(&good()).unwrap();
        let (class, devices) = (machine.path("class"), machine.path("dev"));
        machine.add("vda", &[9; 64], |_| ());
        machine.add("vdb", &KEY, |bytes| {
            bytes[450] ^= 1;
            bytes[0x4000 + 450] ^= 1;
        });
        let started = Instant::now();
        let choice = |seconds| Choice {
            class: &class,
            devices: &devices,
            ..Choice::new(&config.volumes[0], started, Instant::now() + Duration::from_secs(seconds))
        };
        let proof = proof();

        // None of them is it: the first one's reason is the end, the others' are told.
        let mut both = choice(5);
        let failure = both.wait(|disk| proof.check(disk)).await.unwrap_err();
        assert_eq!((failure.code(), failure.status()), ("LUKS_TAG_MISMATCH", 3), "{failure}");
        assert!(failure.to_string().contains("vda"), "{failure}");
        let told: Vec<_> = both.told.iter().map(|(path, why)| (path.file_name().unwrap(), why)).collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[1].0 == "vdb" && told[1].1.contains("checksum"), "{told:?}");

        // Before there is a key, one whose header keeps the rules is enough.
        assert_eq!(choice(5).wait(|_| Ok(())).await.unwrap().path, devices.join("vda"));

        // It appears later than they do.
        let mut late = choice(60);
        let (found, ()) = tokio::join!(late.wait(|disk| proof.check(disk)), async {
            sleep(Duration::from_millis(300)).await;
            machine.add("vdc", &KEY, |_| ());
        });
        assert_eq!(found.unwrap().path, devices.join("vdc"));
        assert_eq!(late.told.len(), 2);
    }

    /// A header whose writing was cut off: the second copy counts, if it fits the tag.
    #[tokio::test]
    async fn a_first_copy_that_was_left_half_written_keeps_no_volume_closed() {
        let Some(machine) = Machine::with_cryptsetup() else { return };
        let config = Config::parse(&good()).unwrap();
        let (class, devices) = (machine.path("class"), machine.path("dev"));
        machine.add("vda", &[9; 64], |bytes| bytes[4200] ^= 1);
        machine.add("vdb", &KEY, |bytes| bytes[4200] ^= 1);
        let now = Instant::now();
        let mut choice = Choice {
            class: &class,
            devices: &devices,
            ..Choice::new(&config.volumes[0], now, now + Duration::from_secs(5))
        };
        let proof = proof();
        let disk = choice.wait(|disk| proof.check(disk)).await.unwrap();
        assert_eq!(disk.path, devices.join("vdb"));
        assert!(disk.notes.iter().any(|note| note.contains("first copy is damaged")), "{:?}", disk.notes);
        let opened_with = Header::read(&disk.header.canonical().to_bytes()).unwrap();
        assert_eq!((opened_with.damage(), opened_with.tag()), (None, disk.header.header().tag()));
    }

    #[tokio::test]
    async fn a_disk_that_never_answers_is_named_when_the_time_is_up() {
        let machine = Machine::new();
        let config = Config::parse(&good()).unwrap();
        let (class, devices) = (machine.path("class"), machine.path("dev"));
        let now = Instant::now();
        let choice = Choice { class: &class, devices: &devices, ..Choice::new(&config.volumes[0], now, now) };
        let (tell, told) = std::sync::mpsc::channel::<()>();
        let hangs = choice.in_time(move || told.recv().is_err(), || devices.join("vda")).await;
        let failure = hangs.unwrap_err();
        assert_eq!((failure.code(), failure.status()), ("VOLUME_DISK_HANGS", 5));
        assert!(failure.to_string().contains("vda"), "{failure}");
        drop(tell);
    }

    #[tokio::test]
    async fn a_machine_without_the_disk_says_what_it_has() {
        let machine = Machine::new();
        let config = Config::parse(&good()).unwrap();
        let (class, devices) = (machine.path("class"), machine.path("dev"));
        let now = Instant::now();
        let mut choice =
            Choice { class: &class, devices: &devices, ..Choice::new(&config.volumes[0], now, now) };
        let failure = choice.wait(|_| Ok(())).await.unwrap_err();
        assert_eq!(failure.code(), "VOLUME_DISK_MISSING");
        assert!(failure.to_string().contains("there is no disk"), "{failure}");
    }
}
