//! The tag of a header that was just made, for whoever keeps it at the key broker (`tag = "kbs://…"` of `[[volumes]]`).
//!
//! It is told before the header is written: whenever the writing is cut off, the operator has the tag of what was there, and that of what
//! is there then.

use cc_protos::guest_services::Volume;
use cc_volume::luks2::{DetachedHeader, Tag};
use serde_json::json;

use crate::{failure::Failure, output::Console};

/// The tag of a header, and where it has to be kept.
#[derive(Debug, Default)]
pub(super) struct Told {
    name: String,
    tag: Option<Tag>,
    /// Empty for nowhere: the header has it in a token.
    kept_at: String,
}

impl Told {
    /// That of `header`, of the configured `volume`.
    pub(super) fn of(header: &DetachedHeader, volume: &Volume) -> Self {
        let (name, kept_at) = (volume.name.clone(), volume.tag_uri.clone());
        Self { name, tag: header.header().tag().copied(), kept_at }
    }

    /// The tag as text.
    pub(super) fn tag(&self) -> Option<String> {
        self.tag.map(|tag| tag.to_string())
    }

    /// Says it before the header is written, if it is kept elsewhere; to programs as a document of its own, ahead of the result.
    pub(super) fn before(&self, as_json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
        let Some(tag) = self.tag.filter(|_| !self.kept_at.is_empty()) else { return Ok(()) };
        if as_json {
            let tag = tag.to_string();
            return console.json(&json!({
                "volume": self.name, "tag": tag, "keep_at": self.kept_at, "written": false,
            }));
        }
        console.text(&format!("the tag of the new header of {} is {tag}\n", self.name))
    }

    /// What is left to do once the header is written.
    pub(super) fn after(&self) -> String {
        match self.tag {
            Some(tag) if !self.kept_at.is_empty() => {
                format!(
                    "store the tag {tag} at the key broker as {}: until then {} stays closed\n",
                    self.kept_at, self.name
                )
            }
            _ => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(kept_at: &str) -> Told {
        let tag = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".parse().unwrap();
        Told { name: "data".to_owned(), tag: Some(tag), kept_at: kept_at.to_owned() }
    }

    fn before(told: &Told, as_json: bool) -> String {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        told.before(as_json, &mut Console::new(&mut out, &mut err)).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_tag_that_is_kept_elsewhere_is_told_before_and_after() {
        let kept = told("kbs:///disk/a/tag");
        assert!(before(&kept, false).contains("AAAA="));
        let document: serde_json::Value = serde_json::from_str(&before(&kept, true)).unwrap();
        assert_eq!(
            (&document["written"], &document["keep_at"]),
            (&false.into(), &"kbs:///disk/a/tag".into())
        );
        assert_eq!(document["tag"], kept.tag().unwrap());
        assert!(kept.after().contains("AAAA=") && kept.after().contains("kbs:///disk/a/tag"));
        // Of one in the header nobody has to do anything.
        let own = told("");
        assert_eq!((before(&own, false), before(&own, true), own.after()), Default::default());
        assert_eq!((before(&Told::default(), false), Told::default().tag()), (String::new(), None));
    }
}
