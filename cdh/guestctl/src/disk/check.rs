//! `guestctl disk check`: whether a header keeps every rule, and fits its tag.

use cc_volume::{
    Error,
    luks2::{Copies, Header, HeaderKey, Rule, Tag},
};
use serde_json::{Value, json};

use super::{CheckArgs, add_verdict, header_area, header_key, violations, volume};
use crate::{
    failure::Failure,
    output::Console,
    table::{Mark, Table},
};

pub(super) fn run(args: &CheckArgs, as_json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    let failed = |error| volume(&args.file, error);
    let given: Option<Tag> = args.tag.as_deref().map(str::parse).transpose().map_err(|error: Error| {
        Failure::Argument { argument: "--tag".into(), why: error.to_string(), hint: error.hint().into() }
    })?;
    let key = args.key.as_deref().map(header_key).transpose()?;
    let area = header_area(&args.file)?;
    // Without a tag nothing says that a second copy is the volume's.
    let copies = if key.is_some() { Copies::Either } else { Copies::First };
    let header = match Header::read_by(&area, area.len(), copies) {
        Ok(header) => header,
        Err(error) => {
            let second = Header::read_by(&area, area.len(), Copies::Either).ok();
            show_malformed(&error, second.as_ref(), as_json, console)?;
            return Err(failed(error));
        }
    };
    let verdict = args.policy.policy().judge(&header);
    let tag = key.map(|key| authenticate(&key, &header, given.as_ref()));

    if as_json {
        let admitted = verdict.is_admitted() && !matches!(tag, Some(Err(_)));
        let authentic = tag.as_ref().map_or(Value::Null, |outcome| outcome.is_ok().into());
        console.json(&json!({
            "verdict": if admitted { "admitted" } else { "refused" },
            "uuid": header.binary().uuid,
            "violations": violations(&verdict),
            "notes": verdict.notes,
            "authentic": authentic,
        }))?;
    } else {
        let mut table = Table::new();
        table.section("policy");
        if verdict.is_admitted() {
            let all =
                format!("the header of volume {} keeps all {}", header.binary().uuid, Rule::POLICY.len());
            table.verdict(Mark::Ok, "rules", all);
        }
        add_verdict(&verdict, &mut table);
        table.section("authentication");
        match &tag {
            None => table.verdict(Mark::Open, "tag", "not verified: --key was not given"),
            Some(Ok(())) => {
                table.verdict(Mark::Ok, "tag", "the header is the one that was signed with this secret")
            }
            Some(Err(error)) => table.verdict(Mark::Fail, "tag", error.to_string()),
        };
        console.table(&table)?;
    }
    verdict.into_result().map_err(failed)?;
    tag.unwrap_or(Ok(())).map_err(failed)
}

fn authenticate(key: &HeaderKey, header: &Header, given: Option<&Tag>) -> Result<(), Error> {
    let tag = given.or_else(|| header.tag()).ok_or(Error::TagMissing)?;
    key.verify(header, tag)
}

/// A header that cannot be read breaks a rule as well. `second` is what its second copy says, if that is whole.
pub(super) fn show_malformed(
    error: &Error,
    second: Option<&Header>,
    as_json: bool,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let Error::Malformed { rule, place, why } = error else { return Ok(()) };
    let note = second.map(|second| {
        format!(
            "the second copy is whole, of write {}: with --key FILE it is checked in place of the first",
            second.binary().seqid
        )
    });
    if as_json {
        let violation = json!({"rule": rule.name(), "place": place, "found": why, "why": rule.why()});
        return console.json(&json!({
            "verdict": "refused", "uuid": null, "violations": [violation], "notes": Vec::from_iter(note), "authentic": null,
        }));
    }
    let mut table = Table::new();
    table.section("format").verdict(Mark::Fail, rule.name(), format!("{place}: {why}\n{}", rule.why()));
    if let Some(note) = note {
        table.verdict(Mark::Warn, "note", note);
    }
    console.table(&table)
}
