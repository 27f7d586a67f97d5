//! The order of things: everything that needs no key first, then one attestation, then all tags, and only then the first volume is
//! opened. Whatever fails, the volumes that were opened before are closed again.

use std::{fs, path::Path};

use cc_crypto::Secret;
use cc_mapping::Mapping;
use tokio::time::Instant;

use crate::{
    choice::Choice,
    cli::Cli,
    command_line,
    config::{Config, Volume},
    cryptsetup,
    disk::Disk,
    failure::{Failure, Stopped},
    firmware,
    key::KeyBroker,
    report::{Opened, Report},
};

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
    go_on(cli, command_line::check(&text, &config))?;
    go_on(cli, firmware::check(Path::new("/")))?;

    let mut choices = Vec::new();
    for volume in &volumes {
        let at = |failure| Stopped::at(&volume.name, failure);
        match Mapping::is_there(&volume.name) {
            Ok(false) => {}
            Ok(true) => go_on(cli, Err(Failure::MappedAlready)).map_err(at)?,
            Err(error) => return Err(at(error.into())),
        }
        let mut choice = Choice::new(volume, started, deadline);
        // Without a disk that may be it nobody is asked for a key. Which one it is shows when the key is there.
        choice.wait(|_| Ok(())).await.map_err(at)?;
        choices.push(choice);
    }
    let disks = started.elapsed();

    let broker = KeyBroker::of(&config, deadline).await?;
    let mut ready = Vec::new();
    for (volume, mut choice) in volumes.iter().zip(choices) {
        let at = |failure| Stopped::at(&volume.name, failure);
        let key = broker.key(volume).await.map_err(at)?;
        let proof = broker.proof(volume, &key).await.map_err(at)?;
        let disk = choice.wait(|disk| proof.check(disk)).await.map_err(at)?;
        for note in &disk.notes {
            tracing::warn!(volume = volume.name, device = %disk.path.display(), "{note}");
        }
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

/// What stops a boot, and is a warning on a machine that is up: there the next boot is tried, and the volume may be open.
fn go_on(cli: &Cli, found: Result<(), Failure>) -> Result<(), Failure> {
    match found {
        Err(failure) if cli.dry_run => {
            tracing::warn!(code = failure.code(), "in an initramfs this would be the end: {failure}");
            Ok(())
        }
        found => found,
    }
}

/// The volumes by these names, or all.
fn chosen<'a>(config: &'a Config, names: &[String]) -> Result<Vec<&'a Volume>, Failure> {
    let known = |name: &&String| !config.volumes.iter().any(|volume| volume.name == **name);
    if let Some(name) = names.iter().find(known) {
        return Err(Failure::UnknownVolume { name: name.clone() });
    }
    Ok(config.volumes.iter().filter(|volume| names.is_empty() || names.contains(&volume.name)).collect())
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
    let header = disk.header.canonical();
    let discards = volume.policy.allow_discards;
    // Of a run that was ended while cryptsetup was at work.
    Mapping::clear_leftover(&volume.name, &volume.uuid)?;
    let opened = cryptsetup::open(&volume.name, &disk.path, &header, discards, key, deadline).await;
    let verified = opened.and_then(|()| verify(volume, disk));
    if verified.is_err() {
        close(volume);
    }
    verified
}

fn verify(volume: &Volume, disk: &Disk) -> Result<(), Failure> {
    let (header, discards) = (disk.header.header(), volume.policy.allow_discards);
    Mapping::open(&volume.name)?.verify_over(header, discards, Some(&disk.number))?;
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
