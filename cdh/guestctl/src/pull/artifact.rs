//! `guestctl pull --artifact`: the files of an artifact, such as a model, in a new folder or a mount point.

use std::{path::Path, sync::Arc};

use image_registry::Stop;
use image_rs::{Artifact, ArtifactOrder, LayerKeys, Part, PartForm, Pulled, pull_artifact};
use serde_json::{Value, json};

use super::{
    Args, Judged, Progress, admission, failed, into_target, judged,
    place::{Found, Place},
    platform,
    progress::stages,
    resumed, watch,
};
use crate::{failure::Failure, output::Console, table::printable};

/// Pulls into `folder`, and shows how far it is.
pub(super) async fn run(
    args: &Args,
    folder: &Path,
    json: bool,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let (admission, keys) = (args.admission.read()?, args.keys.service()?);
    if args.admission.policy().is_none() {
        console.complain("warning: no --policy: whatever artifact this is, it is taken\n");
    }
    let progress = Arc::new(Progress::default());
    let place = Place::new(&args.from, &args.registry, progress.network())?;
    let work = {
        let (progress, target, options) = (Arc::clone(&progress), folder.to_owned(), args.options());
        let (platform, restart) = (platform(args), args.restart);
        move || {
            into_target(&place, (&target, restart), &progress, |found, target| {
                let artifact = Artifact::resolve(found.source, found.pointer, &platform)?;
                let digests = (artifact.manifest_digest(), artifact.index_digest());
                let admitted = admission.decide(found, digests).admitted()?;
                let parts = artifact.parts().iter();
                progress.expect(parts.map(|part| (part.title.to_string(), part.descriptor.size)));
                let keys: Arc<dyn LayerKeys> = Arc::clone(&keys);
                let order =
                    ArtifactOrder { source: found.source, artifact: &artifact, admitted: &admitted, keys };
                let pulled = pull_artifact(&order, target, &options, progress.as_ref())?;
                Ok((artifact, pulled))
            })
        }
    };
    let pulled = watch(work, &progress, (json, args.quiet), console).await?;
    let (artifact, pulled) = pulled.map_err(failed(args))?;
    report(args, (folder, progress.bytes_kept()), &artifact, &pulled, json, console)
}

/// Judges the artifact and says how, and what is in it, without fetching that.
pub(super) async fn explain(args: &Args, json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    let admission = args.admission.read()?;
    let place = Place::new(&args.from, &args.registry, &Stop::default())?;
    let platform = platform(args);
    let judge = move |found: &Found<'_>| {
        let artifact = Artifact::resolve(found.source, found.pointer, &platform)?;
        let digests = (artifact.manifest_digest(), artifact.index_digest());
        Ok((admission.decide(found, digests), artifact))
    };
    let Judged { verdict, what: artifact, place, end } = judged(place, judge).await?.map_err(failed(args))?;
    if json {
        let mut told = verdict.explain();
        if let Value::Object(members) = &mut told {
            members.insert("place".to_owned(), json!(place));
            members.insert("artifact_type".to_owned(), json!(artifact.kind()));
            members.insert("files".to_owned(), files(&artifact));
        }
        console.json(&told)?;
    } else if end.is_ok() {
        admission::show(&verdict, console)?;
        console.text(&listing(&artifact))?;
    }
    end.map_err(failed(args))
}

fn report(
    args: &Args,
    (folder, kept): (&Path, u64),
    artifact: &Artifact,
    pulled: &Pulled,
    json: bool,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let untitled: Vec<String> = artifact.untitled().iter().map(ToString::to_string).collect();
    if json {
        return console.json_line(&json!({
            "event": "done", "image": args.from.to_string(), "artifact_type": artifact.kind(),
            "manifest_digest": artifact.manifest_digest().to_string(),
            "index_digest": artifact.index_digest().map(|digest| digest.to_string()),
            "folder": folder.display().to_string(), "files": files(artifact), "entries": pulled.entries,
            "bytes": pulled.bytes, "bytes_resumed": kept, "untitled": untitled, "policy": args.admission.policy(),
            "stages": stages(&pulled.stages),
        }));
    }
    let (folder, layers, entries) = (folder.display(), artifact.parts().len(), pulled.entries);
    let mut text =
        format!("{folder}: {layers} layers, {entries} entries\nmanifest {}\n", artifact.manifest_digest());
    for digest in untitled {
        text.push_str(&format!("note: layer {digest} has no title, it is left out\n"));
    }
    text.push_str(&resumed(kept));
    console.text(&text)
}

fn files(artifact: &Artifact) -> Value {
    let file = |part: &Part| {
        json!({
            "title": part.title.to_string(), "digest": part.descriptor.digest.to_string(), "size": part.descriptor.size,
            "encrypted": part.encryption.is_some(), "unpacked": part.form != PartForm::File,
        })
    };
    artifact.parts().iter().map(file).collect()
}

fn listing(artifact: &Artifact) -> String {
    let mut text = format!("{}, {} layers:\n", printable(artifact.kind()), artifact.parts().len());
    for part in artifact.parts() {
        let slash = if part.form == PartForm::File { "" } else { "/" };
        let encrypted = if part.encryption.is_some() { ", encrypted" } else { "" };
        let (title, size) = (printable(&part.title.to_string()), part.descriptor.size);
        text.push_str(&format!("  {title}{slash}: {size} bytes{encrypted}\n"));
    }
    text
}
