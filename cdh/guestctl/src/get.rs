//! `guestctl get`: one resource through the confidential data hub, raw.
//!
//! The hub attests when it must and opens the answer; this side only asks. The URI is that of the key broker service
//! protocol (`kbs:///<repository>/<type>/<tag>`, plugins as `kbs+<plugin>://…`).

use std::path::PathBuf;

use base64::{Engine, engine::general_purpose::STANDARD};
use cc_daemon::address::Address;
use cc_protos::api::GetResourceRequest;
use serde_json::json;

use crate::{
    connect::{HUB, Hub},
    failure::Failure,
    output::{Console, write_private_file},
};

/// What the operator gives.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  guestctl get kbs:///default/key/1 --output key.bin
  guestctl get default/key/1 | sha256sum")]
pub(crate) struct Args {
    /// `kbs:///repository/type/tag`, or the short form `repository/type/tag`
    uri: String,
    /// Write to this new file (mode 0600) instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write to a terminal even what is not plain text
    #[arg(long)]
    force: bool,
    /// Address of the confidential data hub
    #[arg(long, value_name = "ADDR", default_value = HUB)]
    cdh: Address,
}

/// Fetches the resource and writes it.
pub(crate) async fn run(args: &Args, json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    let uri = full_uri(&args.uri)?;
    let hub = Hub::at(&args.cdh);
    let request = GetResourceRequest { resource_path: uri.clone() };
    let resource = hub
        .resources()
        .get_resource(request)
        .await
        .map_err(|status| hub.failed(&format!("fetching {uri}"), &status))?
        .into_inner()
        .resource;
    if let Some(path) = &args.output {
        write_private_file(path, &resource)?;
        return if json {
            console.json(&json!({"uri": uri, "length": resource.len(), "output": path.display().to_string()}))
        } else {
            Ok(())
        };
    }
    if json {
        let text = STANDARD.encode(&resource);
        console.json(&json!({"uri": uri, "length": resource.len(), "base64": text}))
    } else {
        console.raw(&uri, &resource, args.force)
    }
}

/// The whole URI for what the operator wrote. The hub checks it fully; here only the short form is told from a
/// mistyped scheme.
pub(crate) fn full_uri(text: &str) -> Result<String, Failure> {
    let refused = |why: &str| Failure::Argument {
        argument: "URI".into(),
        why: why.to_owned(),
        hint: "write kbs:///repository/type/tag or repository/type/tag".into(),
    };
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(refused("has white space or control characters"));
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        let known = scheme == "kbs" || scheme.strip_prefix("kbs+").is_some_and(|plugin| !plugin.is_empty());
        return match (known, rest.is_empty()) {
            (true, false) => Ok(text.to_owned()),
            (true, true) => Err(refused("names no resource")),
            (false, _) => Err(refused("the scheme is neither kbs nor kbs+<plugin>")),
        };
    }
    let segments: Vec<&str> = text.split('/').collect();
    if segments.len() != 3 || segments.iter().any(|segment| segment.is_empty()) {
        return Err(refused("the short form has exactly three parts"));
    }
    Ok(format!("kbs:///{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_full_forms() {
        for (given, full) in [
            ("default/key/1", "kbs:///default/key/1"),
            ("kbs:///default/key/1", "kbs:///default/key/1"),
            ("kbs://host:8080/default/key/1", "kbs://host:8080/default/key/1"),
            ("kbs+pkcs11:///a/b/c?x=1", "kbs+pkcs11:///a/b/c?x=1"),
        ] {
            assert_eq!(full_uri(given).unwrap(), full);
        }
    }

    #[test]
    fn anything_else_is_refused_before_it_is_sent() {
        for given in
            ["", "a", "a/b", "a/b/c/d", "/a/b/c", "a//c", "http://a/b", "kbs+://a/b/c", "kbs://", "a/b/c\n"]
        {
            let error = full_uri(given).unwrap_err();
            assert_eq!(error.exit(), crate::Exit::Usage, "{given:?}");
        }
    }
}
