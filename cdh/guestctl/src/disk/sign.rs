//! `guestctl disk sign`: the tag of a header that keeps every rule.

use serde_json::json;

use super::{SignArgs, header_area, header_key, read, volume};
use crate::{failure::Failure, output::Console};

pub(super) fn run(args: &SignArgs, as_json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    let failed = |error| volume(&args.file, error);
    let key = header_key(&args.key)?;
    let header = read(&args.file, &header_area(&args.file)?)?;
    args.policy.policy().judge(&header).into_result().map_err(failed)?;
    let tag = key.sign(&header).map_err(failed)?;
    if args.tag_only {
        console.text(&format!("{tag}\n"))
    } else if as_json {
        let uuid = &header.binary().uuid;
        console.json(&json!({"uuid": uuid, "tag": tag.to_string(), "token": tag.to_token()}))
    } else {
        console.text(&format!("{}\n", tag.to_token()))
    }
}
