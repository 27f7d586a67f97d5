//! A volume while it is being opened: whose it is, and until when it is waited for.
//!
//! An [`Opening`] is the volume's owner. It goes by value from the thread that opens to whoever waits, so at each moment one of the two
//! has it, however they race; if the waiting one is gone, or nothing came in time, it is dropped, and dropping it closes the volume.
//! What is closed is what this request has opened, not what else is at that place by then.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use cc_crypto::Secret;
use cc_evidence::blame::Blame;
use cc_storage::{Answer, Client, Fault, Name, Request, StorageError, Volume};

use crate::error::HubError;
use crate::image::storage::{Mode, Storage};

/// How long the closing of a volume that nobody wants is waited for; `cdh-storage` does it also if it takes longer.
const CLOSING: Duration = Duration::from_secs(600);

/// The owner of a volume that was asked for.
#[derive(Debug)]
#[must_use = "a volume that nobody keeps is closed"]
pub(super) struct Opening {
    storage: Arc<Storage>,
    mount_point: String,
    name: Name,
    kept: bool,
}

impl Opening {
    /// The volume stays open, or never was.
    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let (storage, mount_point) = (Arc::clone(&self.storage), self.mount_point.clone());
        let request =
            Request::CloseVolume { mount_point: mount_point.clone(), opening: Some(self.name.clone()) };
        // Where it is dropped nobody may wait.
        let closing = thread::Builder::new().spawn(move || {
            match ask(&storage, request, Instant::now() + CLOSING) {
                Ok(_) => {
                    tracing::warn!(mount_point, "nobody waits for a volume any more: it is closed again")
                }
                // cdh-storage has noticed itself, or was ended and has tidied up.
                Err(error) if error.code() == "VOLUME_NOT_OPEN" => {}
                Err(error) => tracing::error!(
                    mount_point,
                    code = error.code(),
                    "a volume that nobody waits for: {error}"
                ),
            }
        });
        if let Err(error) = closing {
            tracing::error!(mount_point = self.mount_point, %error, "a volume that nobody waits for stays open");
        }
    }
}

/// Has a volume opened, and waits for it until `deadline`. Blocks.
///
/// # Errors
/// Why it is not open, `STORAGE_TIMEOUT` among it; then nothing of it is left, or will be.
pub(super) fn open(
    storage: &Arc<Storage>,
    volume: Volume,
    key: Secret,
    deadline: Instant,
) -> Result<(Answer, Opening), HubError> {
    let client = storage.channel(Mode::Disk)?;
    let (mount_point, name) = (volume.mount_point.clone(), volume.opening.clone());
    let opening = Opening { storage: Arc::clone(storage), mount_point, name, kept: false };
    match ask_over(client, Request::OpenVolume(volume), Some(key), deadline) {
        Ok(Some(answer)) => Ok((answer, opening)),
        Ok(None) => Err(late()),
        Err(error) => {
            // Whoever tells why it did not do it has left nothing.
            if matches!(error, StorageError::Fault(_)) {
                opening.keep();
            }
            Err(told(error))
        }
    }
}

/// Asks, and waits for the answer until `deadline`. Blocks.
///
/// # Errors
/// What `cdh-storage` tells; `STORAGE_TIMEOUT`; that it cannot be reached.
pub(super) fn ask(storage: &Storage, request: Request, deadline: Instant) -> Result<Answer, HubError> {
    let client = storage.channel(Mode::Disk)?;
    ask_over(client, request, None, deadline).map_err(told)?.ok_or_else(late)
}

/// None if nothing came in time: with the channel `cdh-storage` sees that nobody waits.
fn ask_over(
    mut client: Client,
    request: Request,
    key: Option<Secret>,
    deadline: Instant,
) -> Result<Option<Answer>, StorageError> {
    let answered = client.ask_while(request, key, &[], &|| Instant::now() < deadline, Duration::ZERO)?;
    Ok(answered.map(|answered| answered.body))
}

fn late() -> HubError {
    Fault::new(
        Blame::Unavailable,
        "STORAGE_TIMEOUT",
        "cdh-storage did not answer in time; what it was opening is closed again",
        "look at the kernel's log for a device that hangs; give the request more time if the device is large",
    )
    .into()
}

fn told(error: StorageError) -> HubError {
    match error {
        // It ends at once where it does not know the mode.
        StorageError::Gone => Fault::new(
            Blame::Platform,
            "STORAGE_HELPER",
            "cdh-storage ended, or was built without the feature luks",
            "install cdh-storage built with the feature luks, and libcryptsetup; its log says more",
        )
        .into(),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::mpsc::{Receiver, channel};

    use cc_storage::{Channel, Content, Device, Packet};
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

    use super::*;

    /// `cdh-storage` at the socket `path`: each request is told, and answered unless it is to hang.
    fn helper(path: &Path, hangs: bool) -> Receiver<Request> {
        let flags = SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        rustix::net::bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
        rustix::net::listen(&socket, 64).unwrap();
        let (tell, told) = channel();
        thread::spawn(move || {
            while let Ok(peer) = rustix::net::accept_with(&socket, flags) {
                let (tell, peer) = (tell.clone(), Channel::new(peer).unwrap());
                thread::spawn(move || {
                    while let Ok(Some(received)) = peer.receive() {
                        let request = Packet::<Request>::parse(&received.bytes).unwrap().body;
                        let opens = matches!(request, Request::OpenVolume(_));
                        tell.send(request).unwrap();
                        if opens && hangs {
                            continue;
                        }
                        let body = if opens { Answer::Open { authentic: true } } else { Answer::Done };
                        let _ = peer.send(&Packet { body, secret: None }.encode().unwrap(), &[]);
                    }
                });
            }
        });
        told
    }

    fn volume(number: u8) -> Volume {
        Volume {
            opening: [number; 32].into(),
            device: Device::Number(0, 0),
            name: "x".to_owned(),
            content: Content::Fresh { integrity: false },
            mount_point: "/srv/x".to_owned(),
            below: None,
            link: false,
            mkfs: Vec::new(),
        }
    }

    fn closing(number: u8) -> Request {
        Request::CloseVolume { mount_point: "/srv/x".to_owned(), opening: Some([number; 32].into()) }
    }

    const SOON: Duration = Duration::from_secs(30);

    fn next(told: &Receiver<Request>) -> Request {
        told.recv_timeout(SOON).unwrap()
    }

    #[test]
    fn what_is_kept_stays_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.sock");
        let told = helper(&path, false);
        let storage = Arc::new(Storage::with_disks_at(&path));
        let (answer, opening) =
            open(&storage, volume(1), Secret::new(vec![1]), Instant::now() + SOON).unwrap();
        assert_eq!(answer, Answer::Open { authentic: true });
        opening.keep();
        ask(&storage, Request::ListVolumes, Instant::now() + SOON).unwrap();
        assert_eq!(next(&told), Request::OpenVolume(volume(1)));
        assert_eq!(next(&told), Request::ListVolumes, "nothing was closed");
    }

    /// Whoever waits goes away before the volume is open, when it is, or after: it is closed, whichever comes first.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_volume_that_nobody_waits_for_is_closed_whoever_is_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.sock");
        let told = helper(&path, false);
        let storage = Arc::new(Storage::with_disks_at(&path));
        for number in 0..60 {
            let storage = Arc::clone(&storage);
            let task = tokio::task::spawn_blocking(move || {
                open(&storage, volume(number), Secret::new(vec![1]), Instant::now() + SOON)
            });
            if number % 3 == 0 {
                while !task.is_finished() {
                    tokio::task::yield_now().await;
                }
            } else if number % 3 == 1 {
                tokio::time::sleep(Duration::from_micros(u64::from(number) * 20)).await;
            }
            drop(task);
            assert_eq!(next(&told), Request::OpenVolume(volume(number)));
            assert_eq!(next(&told), closing(number), "{number}");
        }
    }

    #[test]
    fn a_device_that_hangs_is_waited_for_until_the_deadline_and_then_closed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.sock");
        let told = helper(&path, true);
        let storage = Arc::new(Storage::with_disks_at(&path));
        let soon = Instant::now() + Duration::from_millis(200);
        let error = open(&storage, volume(7), Secret::new(vec![1]), soon).unwrap_err();
        assert_eq!((error.code(), error.blame()), ("STORAGE_TIMEOUT", Blame::Unavailable));
        assert!(Instant::now() >= soon);
        assert_eq!(next(&told), Request::OpenVolume(volume(7)));
        assert_eq!(next(&told), closing(7));
    }
}
