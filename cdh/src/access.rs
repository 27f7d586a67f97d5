//! Who may have which secret: the table `[access]` of the configuration.
//!
//! ```toml
//! [access]
//! strict = true                          # whoever no rule allows gets nothing
//! [[access.rules]]
//! unit = ["db.service"]                  # any of them; several selectors must all fit
//! resources = ["kbs:///db/**"]
//! [[access.rules]]
//! local = true                           # over local HTTP, where callers have no identity
//! resources = ["kbs:///public/*/*"]
//! ```
//!
//! A rule that covers a resource claims it: callers whom no rule allows do not get it, strict or not. What no rule covers is
//! open to everybody, as in the existing stack, unless `strict`. Selectors are user, group, systemd unit and container of
//! the caller, as the kernel gives them ([`cc_daemon::peer`]); a caller of unknown user, unit or container fits no selector
//! that asks for one. A request that came over local HTTP is nobody's: only rules with `local` allow it, whoever passed it on.
//!
//! The keys of `[[volumes]]` are claimed by the hub itself ([`AccessTable::keep`]): without a rule that covers one, it leaves
//! by the door of volumes alone. So is all that the key broker has below `disk-encryption`, where keys of disks are by convention:
//! a volume's next key and its former one, and that of a root disk, open the same data and stand in no table.
//!
//! Not here: the sockets' own modes, and who may have evidence (the agent's table).

use cc_daemon::peer::Caller;
use serde::Deserialize;

use crate::audit::Door;
use crate::error::HubError;
use crate::pattern::Pattern;

/// Covered by patterns that say nothing about a resource, such as `**` and `kbs:///**`: no resource has such a name.
const ANYTHING: &str = "kbs:///\u{1}/\u{1}/\u{1}";
/// Where the key broker has keys of disks, in the form `disk-encryption/<client id>/luks-key-<number>` that clients of the existing stack use.
const DISK_KEYS: &str = "/disk-encryption/";
/// Shortest part of a container's identifier that a rule may give, in digits.
const MIN_CONTAINER_LEN: usize = 12;

/// The table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct AccessTable {
    /// Whether whoever no rule allows gets nothing.
    pub strict: bool,
    rules: Vec<Rule>,
    /// What the hub claims for the door of volumes.
    #[serde(skip)]
    kept: Vec<String>,
}

/// One rule: who, and what.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RuleConfig")]
struct Rule {
    uid: Option<Vec<u32>>,
    gid: Option<Vec<u32>>,
    unit: Option<Vec<Pattern>>,
    container: Option<Vec<String>>,
    local: bool,
    resources: Vec<Pattern>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleConfig {
    uid: Option<Vec<u32>>,
    gid: Option<Vec<u32>>,
    unit: Option<Vec<Pattern>>,
    container: Option<Vec<String>>,
    #[serde(default)]
    local: bool,
    resources: Vec<Pattern>,
}

impl TryFrom<RuleConfig> for Rule {
    type Error = String;

    fn try_from(rule: RuleConfig) -> Result<Self, String> {
        let RuleConfig { uid, gid, unit, container, local, resources } = rule;
        let selects = uid.is_some() || gid.is_some() || unit.is_some() || container.is_some();
        if selects == local {
            return Err(
                "a rule of [access] has either selectors (uid, gid, unit, container) or local = true"
                    .to_owned(),
            );
        }
        if resources.is_empty() {
            return Err("a rule of [access] names at least one resource".to_owned());
        }
        let hex = |id: &String| {
            id.len() >= MIN_CONTAINER_LEN && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        if !container.iter().flatten().all(hex) {
            return Err(format!(
                "a container in a rule of [access] is at least {MIN_CONTAINER_LEN} lower-case hex digits"
            ));
        }
        Ok(Self { uid, gid, unit, container, local, resources })
    }
}

impl AccessTable {
    /// Claims what `reference` names, in the form of [`AccessTable::check`], for [`Door::Volume`]: at another door a rule has
    /// to allow it. Root of the machine itself, outside of any container, still gets it as a resource: its tools make and change
    /// volumes with it.
    pub fn keep(&mut self, reference: String) {
        self.kept.push(reference);
    }

    /// Whether a rule says that what `reference` names is for `caller`, and no rule gives it to everybody: one that is about all
    /// resources says nothing about this one, and what is open to local HTTP is no secret.
    #[must_use]
    pub fn vouches(&self, caller: &Caller, reference: &str) -> bool {
        let public = self.rules.iter().any(|rule| rule.local && rule.covers(reference));
        !public && self.rules.iter().any(|rule| rule.names(reference) && rule.fits(caller))
    }

    /// Decides whether `caller` may have what `reference` names, at `door`: a `kbs://` URI in its canonical form, or
    /// `<provider>:<name>` for another store.
    ///
    /// # Errors
    /// [`HubError::AccessDenied`].
    pub fn check(&self, door: Door, caller: &Caller, reference: &str) -> Result<(), HubError> {
        let tools = door == Door::GetResource && is_root_of_machine(caller);
        // Who has a device opened is root of the machine, and is given the volume, not its key.
        let by_name = door != Door::SecureMount && is_disk_key(reference);
        let kept = || by_name || self.kept.iter().any(|kept| same(kept, reference));
        let mut claimed = door != Door::Volume && !tools && kept();
        for rule in self.rules.iter().filter(|rule| rule.covers(reference)) {
            if rule.fits(caller) {
                return Ok(());
            }
            claimed = true;
        }
        if claimed || self.strict {
            return Err(HubError::AccessDenied {
                caller: caller.to_string(),
                reference: reference.to_owned(),
            });
        }
        Ok(())
    }
}

/// Whether it is known that a caller is root, and in no container.
fn is_root_of_machine(caller: &Caller) -> bool {
    let outside = caller.place.as_ref().is_some_and(|place| place.container.is_none());
    caller.uid == Some(0) && outside && !caller.local_http
}

/// Whether two references lead to one secret. Plugins of the key broker have names of their own, but in the offline store
/// there is one set for all of them.
fn same(kept: &str, reference: &str) -> bool {
    kept == reference || path(kept).is_some_and(|kept| path(reference) == Some(kept))
}

/// Whether this is, by its name, the key of a disk.
fn is_disk_key(reference: &str) -> bool {
    path(reference).is_some_and(|path| path.starts_with(DISK_KEYS))
}

/// The path of what is at the key broker, with the slash.
fn path(reference: &str) -> Option<&str> {
    reference.strip_prefix("kbs")?.split_once("://").map(|(_, path)| path)
}

impl Rule {
    fn covers(&self, reference: &str) -> bool {
        self.resources.iter().any(|resource| resource.covers(reference))
    }

    /// Whether it covers this, and not everything.
    fn names(&self, reference: &str) -> bool {
        self.resources.iter().any(|resource| resource.covers(reference) && !resource.covers(ANYTHING))
    }

    fn fits(&self, caller: &Caller) -> bool {
        if caller.local_http || self.local {
            return caller.local_http && self.local;
        }
        fn any<T, V>(selector: Option<&Vec<T>>, value: Option<V>, fits: impl Fn(&T, &V) -> bool) -> bool {
            selector
                .is_none_or(|wanted| value.is_some_and(|value| wanted.iter().any(|one| fits(one, &value))))
        }
        any(self.uid.as_ref(), caller.uid, |wanted, uid| wanted == uid)
            && any(self.gid.as_ref(), caller.gid, |wanted, gid| wanted == gid)
            && any(self.unit.as_ref(), caller.unit(), |wanted, unit| wanted.covers(unit))
            && any(self.container.as_ref(), caller.container(), |wanted, id| id.starts_with(wanted.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cc_daemon::peer::Place;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn table(text: &str) -> AccessTable {
        toml::from_str(text).unwrap()
    }

    fn caller(uid: u32, unit: Option<&str>) -> Caller {
        let place = Place { unit: unit.map(str::to_owned), container: None };
        Caller {
            uid: Some(uid),
            gid: Some(uid),
            pid: Some(7),
            place: Some(Arc::new(place)),
            ..Caller::UNKNOWN
        }
    }

    fn allows(table: &AccessTable, caller: &Caller, reference: &str) -> bool {
        table.check(Door::GetResource, caller, reference).is_ok()
    }

    #[test]
    fn without_a_table_everybody_gets_everything() {
        assert!(allows(&AccessTable::default(), &Caller::UNKNOWN, "kbs:///a/b/c"));
    }

    #[test]
    fn a_rule_claims_its_resources_and_strict_claims_all() {
        let text = "[[rules]]\nunit = [\"db.service\"]\nresources = [\"kbs:///db/**\"]\n";
        let (open, strict) = (table(text), table(&format!("strict = true\n{text}")));
        let (db, web) = (caller(70, Some("db.service")), caller(80, Some("web.service")));
        for table in [&open, &strict] {
            assert!(allows(table, &db, "kbs:///db/key/1"));
            assert!(!allows(table, &web, "kbs:///db/key/1"));
            assert!(!allows(table, &caller(0, None), "kbs:///db/key/1"), "root is no exception");
            assert!(!allows(table, &Caller::UNKNOWN, "kbs:///db/key/1"));
        }
        assert!(allows(&open, &web, "kbs:///web/key/1"));
        assert!(!allows(&strict, &web, "kbs:///web/key/1"));
    }

    #[test]
    fn what_the_hub_keeps_leaves_by_its_own_door_or_by_a_rule() {
        let mut open = AccessTable::default();
        open.keep("kbs:///disk/a/key".to_owned());
        open.keep("vault:disk/b".to_owned());
        let root = caller(0, None);
        let place = Place { unit: None, container: Some(ID.to_owned()) };
        let contained = Caller { place: Some(Arc::new(place)), ..root.clone() };
        let nowhere = Caller { place: None, ..root.clone() };
        let passed_on = Caller { local_http: true, ..root.clone() };
        for kept in ["kbs:///disk/a/key", "kbs+pkcs11:///disk/a/key", "vault:disk/b"] {
            for caller in [&caller(1000, None), &contained, &nowhere, &passed_on, &Caller::UNKNOWN] {
                assert!(!allows(&open, caller, kept), "{kept}");
            }
            assert!(allows(&open, &root, kept), "root's tools make volumes with {kept}");
            assert!(open.check(Door::UnitCredential, &root, kept).is_err(), "{kept}");
            assert!(open.check(Door::Volume, &root, kept).is_ok(), "{kept}");
        }
        assert!(allows(&open, &root, "kbs:///disk/a/tag") && allows(&open, &root, "aws:disk/b"));
        let mut ruled =
            table("[[rules]]\nunit = [\"backup.service\"]\nresources = [\"kbs:///disk/a/key\"]\n");
        ruled.keep("kbs:///disk/a/key".to_owned());
        assert!(allows(&ruled, &caller(0, Some("backup.service")), "kbs:///disk/a/key"));
        assert!(!allows(&ruled, &root, "kbs:///disk/a/key"));
    }

    #[test]
    fn keys_of_disks_that_no_table_names_are_claimed_by_their_name() {
        let (open, root) = (AccessTable::default(), caller(0, None));
        let passed_on = Caller { local_http: true, ..root.clone() };
        for key in ["kbs:///disk-encryption/db-1/luks-key-1", "kbs+pkcs11:///disk-encryption/db-1/luks-key-1"]
        {
            for caller in [&caller(1000, None), &passed_on, &Caller::UNKNOWN] {
                assert!(!allows(&open, caller, key), "{key}");
            }
            assert!(allows(&open, &root, key), "root's tools change keys");
            assert!(open.check(Door::Volume, &root, key).is_ok());
            assert!(open.check(Door::SecureMount, &root, key).is_ok());
        }
        let mut open = open;
        open.keep("kbs:///disk-encryption/db-1/luks-key-0".to_owned());
        let configured = open.check(Door::SecureMount, &root, "kbs:///disk-encryption/db-1/luks-key-0");
        assert!(configured.is_err(), "that of a configured volume");
        let ruled = table("[[rules]]\nuid = [70]\nresources = [\"kbs:///disk-encryption/db-1/public\"]\n");
        assert!(allows(&ruled, &caller(70, None), "kbs:///disk-encryption/db-1/public"));
        for other in ["kbs:///disk-encryptions/a/b", "kbs:///a/disk-encryption/b", "vault:/disk-encryption/a"]
        {
            assert!(allows(&open, &caller(1000, None), other), "{other}");
        }
    }

    #[test]
    fn several_selectors_must_all_fit() {
        let table = table(&format!(
            "strict = true\n[[rules]]\nuid = [70]\nunit = [\"db@*.service\"]\nresources = [\"**\"]\n\
             [[rules]]\ncontainer = [\"{}\"]\nresources = [\"**\"]\n",
            &ID[..12]
        ));
        assert!(allows(&table, &caller(70, Some("db@1.service")), "kbs:///a/b/c"));
        assert!(!allows(&table, &caller(71, Some("db@1.service")), "kbs:///a/b/c"));
        assert!(!allows(&table, &caller(70, Some("db.service")), "kbs:///a/b/c"));
        assert!(!allows(&table, &caller(70, None), "kbs:///a/b/c"));
        let place = Place { unit: None, container: Some(ID.to_owned()) };
        assert!(allows(&table, &Caller { place: Some(Arc::new(place)), ..Caller::UNKNOWN }, "aws:name"));
    }

    #[test]
    fn local_http_is_nobodys() {
        let table = table(
            "strict = true\n[[rules]]\nuid = [0]\nresources = [\"**\"]\n\
             [[rules]]\nlocal = true\nresources = [\"kbs:///public/**\"]\n",
        );
        let root = caller(0, None);
        let passed_on = Caller { local_http: true, ..root.clone() };
        assert!(allows(&table, &root, "kbs:///db/key/1"));
        assert!(!allows(&table, &passed_on, "kbs:///db/key/1"), "the door's own user does not count");
        assert!(allows(&table, &passed_on, "kbs:///public/key/1"));
        assert!(!allows(&table, &caller(1000, None), "kbs:///public/key/1"));
    }

    #[test]
    fn rules_that_would_not_do_what_they_seem_to_are_refused() {
        for bad in [
            "[[rules]]\nresources = [\"**\"]",
            "[[rules]]\nuid = [0]\nlocal = true\nresources = [\"**\"]",
            "[[rules]]\nuid = [0]\nresources = []",
            "[[rules]]\nuid = [0]",
            "[[rules]]\nuid = [0]\nresource = [\"**\"]\nresources = [\"a\"]",
            "[[rules]]\ncontainer = [\"web\"]\nresources = [\"**\"]",
            "[[rules]]\ncontainer = [\"0123\"]\nresources = [\"**\"]",
        ] {
            assert!(toml::from_str::<AccessTable>(bad).is_err(), "{bad}");
        }
    }
}
