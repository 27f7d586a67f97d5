//! Who gets which resource: a rule document in TOML, and the decision.
//!
//! This takes the place of the Rego policies of Trustee, for which a small test server has no engine. What cannot be
//! written down here at all: a guest whose token has no `cpu0`, or any `contraindicated` device, gets nothing, and a
//! sample TEE gets nothing unless the server was started for it. A TPM alone gets what a rule with `tee = "tpm"` gives it, and
//! nothing else: no TEE stands behind it, and on a virtual machine the host can make its quotes say what it likes.
//!
//! ```toml
//! default = "affirming"          # what no rule names: "deny", or "affirming" = a TEE, and every device affirming
//!
//! [[allow]]
//! resource = "default/key/*"     # '*' is any one segment, or the rest of one ("key-*")
//! status = "warning"             # worst status that is good enough: "affirming" (if left out) or "warning"
//! tee = "snp"                    # optional: only for this kind of cpu0; "tpm" has to be named to be meant
//! device = "nvidia"              # optional: only with such a device in the evidence as well
//!
//! [[deny]]                       # a deny rule wins over every allow rule
//! resource = "default/key/retired"
//! ```

use cc_evidence::Tee;
use cc_verify::appraisal::Status;
use serde::Deserialize;

use crate::Error;
use crate::ear::Module;
use crate::resource::ResourcePath;
use crate::token::Vouched;

/// Longest policy document, in bytes.
const LIMIT: usize = 256 * 1024;

/// Shown with every refusal of an upload.
const FORM: &str = r#"this server takes a rule document in TOML, not Rego: default = "deny" or "affirming", then [[allow]] tables with resource = "repository/type/tag" ('*' for any segment) and optionally status = "affirming" or "warning", tee = "snp" and device = "nvidia", and [[deny]] tables with resource and optionally tee"#;

/// A parsed rule document.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    #[serde(default)]
    default: Fallback,
    #[serde(default)]
    allow: Vec<Allow>,
    #[serde(default)]
    deny: Vec<Deny>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Fallback {
    #[default]
    Deny,
    Affirming,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Floor {
    #[default]
    Affirming,
    Warning,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Allow {
    resource: Pattern,
    #[serde(default)]
    status: Floor,
    tee: Option<String>,
    device: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Deny {
    resource: Pattern,
    tee: Option<String>,
}

impl Policy {
    /// The policy of a new server: a TEE, and every device must be affirming.
    #[must_use]
    pub fn built_in() -> Self {
        Self { default: Fallback::Affirming, allow: Vec::new(), deny: Vec::new() }
    }

    /// Reads a rule document.
    ///
    /// # Errors
    /// [`Error::PolicyUnreadable`], which says what is wrong and what a document looks like.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.len() > LIMIT {
            return Err(Error::PolicyUnreadable(format!("the policy is longer than {LIMIT} bytes")));
        }
        toml::from_str(text).map_err(|error| {
            // The parser's own text spans lines and quotes the document; the message alone is for one line.
            Error::PolicyUnreadable(format!("{}; {FORM}", error.message()))
        })
    }

    /// Decides whether the guest behind `vouched` gets the resource `path`. With `sample` the sample TEE counts.
    ///
    /// # Errors
    /// [`Error::PolicyDenied`] with the reasons of the appraisal.
    pub fn decide(&self, path: &ResourcePath, vouched: &Vouched, sample: bool) -> Result<(), Error> {
        let denied =
            |why: &str| Err(Error::PolicyDenied(format!("resource {path} is not for this guest: {why}")));
        let Some(cpu) = vouched.modules.iter().find(|module| module.name == "cpu0") else {
            return denied("its token has no submodule cpu0");
        };
        if !sample && vouched.modules.iter().any(|module| module.tee.starts_with("sample")) {
            return denied("its TEE is a sample, and this server runs without --allow-sample");
        }
        let worst =
            vouched.modules.iter().map(|module| module.status).max().unwrap_or(Status::Contraindicated);
        let silent = vouched.modules.iter().any(|module| module.status == Status::None);
        if worst == Status::Contraindicated {
            return denied(&verdict(&vouched.modules));
        }
        let meant = |pattern: &Pattern, tee: &Option<String>| {
            pattern.matches(path) && tee.as_ref().is_none_or(|tee| *tee == cpu.tee)
        };
        if self.deny.iter().any(|rule| meant(&rule.resource, &rule.tee)) {
            return denied("a deny rule of the resource policy names it");
        }
        let equipped = |device: &Option<String>| {
            device.as_ref().is_none_or(|device| vouched.modules.iter().any(|module| module.tee == *device))
        };
        let tpm_alone = cpu.tee == Tee::Tpm.as_str();
        let mut rules = self
            .allow
            .iter()
            .filter(|rule| meant(&rule.resource, &rule.tee) && equipped(&rule.device))
            .filter(|rule| !tpm_alone || rule.tee.is_some())
            .peekable();
        let named = rules.peek().is_some();
        let affirming = worst == Status::Affirming && !silent;
        let allowed = rules.any(|rule| match rule.status {
            Floor::Affirming => affirming,
            Floor::Warning => !silent,
        });
        if allowed || (affirming && self.default == Fallback::Affirming && !tpm_alone) {
            return Ok(());
        }
        if tpm_alone && !named {
            return denied(
                "its platform is a TPM that no TEE vouches for, and no allow rule of the resource policy names this resource \
                 with tee = \"tpm\"",
            );
        }
        if affirming {
            return denied("no allow rule of the resource policy names it for this TEE and its devices");
        }
        let verdict = verdict(&vouched.modules);
        if named || self.default == Fallback::Affirming {
            return denied(&verdict);
        }
        denied(&format!(
            "no allow rule of the resource policy names it for this TEE and its devices, and {verdict}"
        ))
    }
}

/// Status and reasons of every device that is not affirming, one sentence.
pub(crate) fn verdict(modules: &[Module]) -> String {
    let shown: Vec<String> = modules
        .iter()
        .filter(|module| module.status != Status::Affirming)
        .map(|module| {
            let reasons =
                if module.reasons.is_empty() { "no reason given".into() } else { module.reasons.join("; ") };
            format!("{} ({}) is {}: {reasons}", module.name, module.tee, module.status.as_str())
        })
        .collect();
    shown.join("; ")
}

/// Three segments; `*` at the end of one stands for anything within it.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
struct Pattern([String; 3]);

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        // What is legal in a path, with the star aside, is legal here: a pattern that can never match is a mistake.
        let stand_in = text.replace('*', "x");
        let segments: Vec<String> = text.split('/').map(str::to_owned).collect();
        let stars_last =
            segments.iter().all(|segment| !segment.strip_suffix('*').unwrap_or(segment).contains('*'));
        match <[String; 3]>::try_from(segments) {
            Ok(segments) if stars_last && stand_in.parse::<ResourcePath>().is_ok() => Ok(Self(segments)),
            _ => Err(format!(
                "resource pattern {text:?} is not repository/type/tag with '*' at the end of segments"
            )),
        }
    }
}

impl Pattern {
    fn matches(&self, path: &ResourcePath) -> bool {
        self.0.iter().zip(path.as_str().split('/')).all(|(pattern, segment)| {
            match pattern.strip_suffix('*') {
                Some(beginning) => segment.starts_with(beginning),
                None => segment == pattern,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn module(name: &str, tee: &str, status: Status) -> Module {
        let reasons = if status == Status::Affirming { vec![] } else { vec![format!("{tee} is wrong")] };
        Module { name: name.into(), tee: tee.into(), status, measurement: None, reasons }
    }

    fn guest(modules: Vec<Module>) -> Vouched {
        Vouched { expires: 0, tee_pubkey: json!({}), modules }
    }

    fn snp(status: Status) -> Vouched {
        guest(vec![module("cpu0", "snp", status)])
    }

    /// The denial's text, or "ok".
    fn ask(policy: &str, path: &str, guest: &Vouched) -> String {
        let policy = Policy::parse(policy).unwrap();
        match policy.decide(&path.parse().unwrap(), guest, false) {
            Ok(()) => "ok".into(),
            Err(denied) => denied.to_string(),
        }
    }

    #[test]
    fn the_built_in_policy_wants_every_device_affirming() {
        use Status::{Affirming, Contraindicated, None, Warning};
        let decide = |modules, sample| {
            let path = "default/key/1".parse().unwrap();
            Policy::built_in().decide(&path, &guest(modules), sample).map_err(|denied| denied.to_string())
        };
        assert_eq!(decide(vec![module("cpu0", "snp", Affirming)], false), Ok(()));
        assert_eq!(decide(vec![module("cpu0", "sample", Affirming)], true), Ok(()));
        for (modules, why) in [
            (vec![], "no submodule cpu0"),
            (vec![module("gpu0", "nvidia", Affirming)], "no submodule cpu0"),
            (vec![module("cpu0", "sample", Affirming)], "--allow-sample"),
            (
                vec![module("cpu0", "snp", Affirming), module("gpu0", "sampledevice", Affirming)],
                "--allow-sample",
            ),
            (vec![module("cpu0", "snp", None)], "cpu0 (snp) is none: snp is wrong"),
            (vec![module("cpu0", "snp", Warning)], "cpu0 (snp) is warning: snp is wrong"),
            (vec![module("cpu0", "snp", Contraindicated)], "cpu0 (snp) is contraindicated: snp is wrong"),
            (
                vec![module("cpu0", "snp", Affirming), module("gpu0", "nvidia", Warning)],
                "gpu0 (nvidia) is warning: nvidia is wrong",
            ),
        ] {
            let denied = decide(modules, false).unwrap_err();
            assert!(denied.starts_with("resource default/key/1 is not for this guest: "), "{denied}");
            assert!(denied.contains(why), "{denied} / {why}");
        }
    }

    #[test]
    fn rules_are_followed_and_deny_wins() {
        let rules = r#"
            [[allow]]
            resource = "default/key/*"
            [[allow]]
            resource = "default/soft/*"
            status = "warning"
            [[allow]]
            resource = "default/tdx/1"
            tee = "tdx"
            [[allow]]
            resource = "default/model/*"
            device = "nvidia"
            [[deny]]
            resource = "default/key/old-*"
        "#;
        let (good, soft) = (snp(Status::Affirming), snp(Status::Warning));
        assert_eq!(ask(rules, "default/key/1", &good), "ok");
        assert_eq!(ask(rules, "default/soft/1", &good), "ok");
        assert_eq!(ask(rules, "default/soft/1", &soft), "ok");
        assert!(ask(rules, "default/key/1", &soft).contains("cpu0 (snp) is warning"));
        assert!(ask(rules, "default/key/old-1", &good).contains("deny rule"));
        assert!(ask(rules, "default/tdx/1", &good).contains("no allow rule"));
        assert!(ask(rules, "other/key/1", &good).contains("no allow rule"));
        assert!(ask(rules, "default/model/1", &good).contains("and its devices"));
        let with_gpu =
            |status| guest(vec![module("cpu0", "snp", Status::Affirming), module("gpu0", "nvidia", status)]);
        assert_eq!(ask(rules, "default/model/1", &with_gpu(Status::Affirming)), "ok");
        assert!(
            ask(rules, "default/model/1", &with_gpu(Status::Warning)).contains("gpu0 (nvidia) is warning")
        );
        assert!(ask("", "default/key/1", &good).contains("no allow rule"));
        let silent = snp(Status::None);
        assert!(ask(rules, "default/soft/1", &silent).contains("is none"));
    }

    #[test]
    fn a_tpm_alone_gets_only_what_a_rule_for_tpms_names() {
        let tpm = |status| guest(vec![module("cpu0", "tpm", status)]);
        let good = tpm(Status::Affirming);
        for policy in ["default = \"affirming\"", "[[allow]]\nresource = \"*/*/*\"", ""] {
            let denied = ask(policy, "default/key/1", &good);
            assert!(denied.contains("no TEE vouches for") && denied.contains("tee = \"tpm\""), "{denied}");
        }
        let rule = "default = \"affirming\"\n[[allow]]\nresource = \"default/key/*\"\ntee = \"tpm\"";
        assert_eq!(ask(rule, "default/key/1", &good), "ok");
        assert!(ask(rule, "default/other/1", &good).contains("no TEE vouches for"));
        assert!(ask(rule, "default/key/1", &tpm(Status::Warning)).contains("cpu0 (tpm) is warning"));
        // Behind these stands a TEE.
        let azure = guest(vec![module("cpu0", "az-snp-vtpm", Status::Affirming)]);
        assert_eq!(ask("default = \"affirming\"", "default/key/1", &azure), "ok");
    }

    #[test]
    fn no_document_opens_anything_to_a_contraindicated_guest() {
        let widest = "default = \"affirming\"\n[[allow]]\nresource = \"*/*/*\"\nstatus = \"warning\"";
        assert!(ask(widest, "a/b/c", &snp(Status::Contraindicated)).contains("contraindicated"));
        assert!(Policy::parse("[[allow]]\nresource = \"*/*/*\"\nstatus = \"contraindicated\"").is_err());
    }

    #[test]
    fn other_documents_are_refused_with_the_form_of_ours() {
        for text in [
            "package policy\n\ndefault allow = true",
            "default = \"allow\"",
            "[[allow]]\nresource = \"a/b\"",
            "[[allow]]\nresource = \"a/*b/c\"",
            "[[allow]]\nresource = \"a/**/c\"",
            "[[allow]]\nresource = \"a/b/.c\"",
            "[[allow]]\nresource = \"a/b/c\"\nstatsu = \"warning\"",
            "[[deny]]\nresource = \"a/b/c\"\nstatus = \"warning\"",
        ] {
            let refused = Policy::parse(text).unwrap_err();
            assert!(matches!(refused, Error::PolicyUnreadable(_)));
            let shown = refused.to_string();
            assert!(shown.contains("rule document in TOML") && !shown.contains('\n'), "{shown}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_refused(text in ".{0,200}") {
            let _ = Policy::parse(&text);
        }
    }
}
