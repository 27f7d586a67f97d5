//! `guestctl pull --bundle`: the data hub pulls, as it does for kata-agent.
//!
//! The hub's configuration says which policy, credentials, mirrors and store; this side only asks and tells.

use std::{path::Path, time::Duration};

use cc_daemon::address::Address;
use cc_protos::api::ImagePullRequest;
use serde_json::json;

use super::place::From;
use crate::{connect::Hub, failure::Failure, output::Console};

/// An image of any size may come over a slow line; Ctrl-C gives the pull up, and the hub undoes it.
const PATIENCE: Duration = Duration::from_secs(4 * 3600);

/// Has the hub at `hub` pull `from` into the bundle `bundle`.
pub(super) async fn run(
    from: &From,
    bundle: &Path,
    hub: &Address,
    json: bool,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let from = match from {
        // The hub has a working directory of its own.
        From::Layout { form, path, name } => {
            From::Layout { form: *form, path: absolute(path), name: name.clone() }
        }
        other => other.clone(),
    };
    let bundle = absolute(bundle).display().to_string();
    let image = match &from {
        From::Registry { given, .. } => given.clone(),
        layout @ From::Layout { .. } => layout.to_string(),
    };
    let request = ImagePullRequest { image_url: image.clone(), bundle_path: bundle.clone() };
    let hub = Hub::at(hub);
    let answer = hub.images(PATIENCE).pull_image(request).await;
    let answer = answer.map_err(|status| hub.failed(&format!("pulling {image}"), &status))?.into_inner();
    let manifest = answer.manifest_digest;
    if json {
        let event = "done";
        return console.json_line(&json!({
            "event": event, "image": image, "manifest_digest": manifest, "bundle": bundle,
        }));
    }
    console.text(&format!("{bundle}: rootfs and config.json\nmanifest {manifest}\n"))
}
