//! The order of things: everything that needs no key first, then one attestation, then all tags, and only then the first volume is
//! opened. Whatever fails, the volumes that were opened before are closed again.

use std::{fs, time::Duration};

use cc_crypto::Secret;
use cc_mapping::Mapping;
use tokio::time::{Instant, sleep};

use crate::{
    cli::Cli,
    command_line,
    config::{Config, Volume},
    cryptsetup,
    disk::{Disk, Search},
    failure::{Failure, Stopped},
    key::KeyBroker,
    report::{Opened, Report},
};

/// Pause between two looks at the machine's disks.
const GLANCE: Duration = Duration::from_millis(100);

/// Opens the volumes that `cli` names.
///
/// # Errors
/// The first failure; no volume is open then.
pub(crate) async fn run(cli: &Cli, config: Config) -> Result<Report, Stopped> {
    let started = Instant::now();
    let deadline = started + config.time_limit();
    let volumes = chosen(&config, &cli.names)?;
    let text = fs::read_to_string("/proc/cmdline")
        .map_err(|e| Failure::Unreadable { path: "/proc/cmdline".into(), why: e.to_string() })?;
    command_line::check(&text, &config)?;

    let mut candidates = Vec::new();
    for volume in &volumes {
        let at = |failure| Stopped::at(&volume.name, failure);
        match Mapping::is_there(&volume.name) {
            Ok(false) => {}
            Ok(true) => return Err(at(Failure::MappedAlready)),
            Err(error) => return Err(at(error.into())),
        }
        candidates.push(wait_for(volume, started, deadline).await.map_err(at)?);
    }
    let disks = started.elapsed();

    let broker = KeyBroker::of(&config, deadline).await?;
    let mut ready = Vec::new();
    for (volume, candidates) in volumes.iter().zip(candidates) {
        let at = |failure| Stopped::at(&volume.name, failure);
        let key = broker.key(volume).await.map_err(at)?;
        let disk = broker.authentic(volume, candidates, &key).await.map_err(at)?;
        ready.push((*volume, disk, key));
    }
    let keys = started.elapsed() - disks;

    if !cli.dry_run {
        open_all(&ready, deadline).await?;
    }
    let opening = started.elapsed() - disks - keys;
    let volumes = ready
        .into_iter()
        .map(|(volume, disk, _)| Opened {
            name: volume.name.clone(),
            uuid: volume.uuid.clone(),
            device: disk.path.display().to_string(),
        })
        .collect();
    Ok(Report { volumes, disks, keys, opening })
}

/// The volumes by these names, or all.
fn chosen<'a>(config: &'a Config, names: &[String]) -> Result<Vec<&'a Volume>, Failure> {
    let known = |name: &&String| !config.volumes.iter().any(|volume| volume.name == **name);
    if let Some(name) = names.iter().find(known) {
        return Err(Failure::UnknownVolume { name: name.clone() });
    }
    Ok(config.volumes.iter().filter(|volume| names.is_empty() || names.contains(&volume.name)).collect())
}

/// The disks that say they are this volume, with headers that its policy admits. At least one.
async fn wait_for(volume: &Volume, started: Instant, deadline: Instant) -> Result<Vec<Disk>, Failure> {
    loop {
        let search = Search::of_machine(&volume.uuid);
        let read = search.found.iter().map(|path| Disk::read(path, &volume.uuid, &volume.policy));
        let (admitted, refused): (Vec<_>, Vec<_>) = read.partition(Result::is_ok);
        if !admitted.is_empty() {
            return Ok(admitted.into_iter().flatten().collect());
        }
        if let Some(Err(failure)) = refused.into_iter().next() {
            return Err(failure);
        }
        if Instant::now() >= deadline {
            let mut seen = search.seen;
            seen.truncate(16);
            return Err(Failure::DiskMissing {
                uuid: volume.uuid.clone(),
                seconds: started.elapsed().as_secs(),
                seen: if seen.is_empty() { "nothing, there is no disk".to_owned() } else { seen.join(", ") },
            });
        }
        sleep(GLANCE).await;
    }
}

async fn open_all(ready: &[(&Volume, Disk, Secret)], deadline: Instant) -> Result<(), Stopped> {
    for (number, (volume, disk, key)) in ready.iter().enumerate() {
        if let Err(failure) = open(volume, disk, key, deadline).await {
            for (earlier, ..) in ready.iter().take(number) {
                close(earlier);
            }
            return Err(Stopped::at(&volume.name, failure));
        }
        tracing::debug!(volume = volume.name, device = %disk.path.display(), "open");
    }
    Ok(())
}

/// Opens a volume, and compares what the kernel then has with its header; closes it if that differs.
async fn open(volume: &Volume, disk: &Disk, key: &Secret, deadline: Instant) -> Result<(), Failure> {
    let header =
        disk.header.canonical().map_err(|error| Failure::Header { path: disk.path.clone(), error })?;
    let discards = volume.policy.allow_discards;
    let opened = cryptsetup::open(&volume.name, &disk.path, &header, discards, key, deadline).await;
    let verified = opened.and_then(|()| verify(volume, disk));
    if verified.is_err() {
        close(volume);
    }
    verified
}

fn verify(volume: &Volume, disk: &Disk) -> Result<(), Failure> {
    let header = disk.header.header();
    let target = Mapping::open(&volume.name)?.verify(header, volume.policy.allow_discards)?;
    let segment = header.metadata().segments.get(&0).and_then(|segment| segment.crypt.as_ref());
    // With integrity, dm-integrity lies between.
    let direct = segment.is_some_and(|segment| segment.integrity.is_none());
    if direct && target.device != disk.number {
        return Err(Failure::OtherDisk { found: target.device, expected: disk.number.clone() });
    }
    Ok(())
}

/// Closes the mapping of a volume, if it is there and that volume's.
fn close(volume: &Volume) {
    let closed = Mapping::open(&volume.name).and_then(|mapping| mapping.close(&volume.uuid));
    if let Err(why) = closed
        && !why.is_absent()
    {
        tracing::error!(volume = volume.name, %why, "the mapping could not be closed");
    }
}
