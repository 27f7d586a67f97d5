//! One entry of `[[volumes]]`, checked in its form.

use cc_volume::client_id::ClientIds;
use cc_volume::luks2::Policy;
use serde::Deserialize;

use crate::reference::SecretRef;

/// Longest name of a volume: with what systemd puts around it, it has to fit into the name that a socket is bound to.
const MAX_NAME_LEN: usize = 48;

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name, and that of its mapping: at most 48 letters, digits, `.`, `_` and `-`, the first one a letter or digit.
    pub name: String,
    /// The UUID of its header, in lower case.
    pub uuid: String,
    /// Its key.
    pub key: SecretRef,
    /// Whether the header must carry a tag made with the key.
    pub signed: bool,
    /// Where the tag is, if not in the header.
    pub tag: Option<SecretRef>,
    /// What the header may say.
    pub policy: Policy,
}

/// The entry as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntryConfig {
    name: String,
    uuid: String,
    key: String,
    #[serde(default)]
    header: HeaderRule,
    tag: Option<String>,
    #[serde(default)]
    require_integrity: bool,
    #[serde(default)]
    allow_discards: bool,
    max_keyslots: Option<u8>,
}

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum HeaderRule {
    #[default]
    Signed,
    AllowList,
}

impl EntryConfig {
    /// The volume on the machine with these ids.
    ///
    /// # Errors
    /// A sentence that names the volume.
    pub fn on(self, ids: &ClientIds) -> Result<Entry, String> {
        let Self { name, uuid, key, header, tag, require_integrity, allow_discards, max_keyslots } = self;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let starts = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if !starts || name.len() > MAX_NAME_LEN || !name.bytes().all(plain) {
            return Err(format!(
                "a volume is called {name:?}; a name has at most {MAX_NAME_LEN} letters, digits, '.', '_' and '-'"
            ));
        }
        if !is_uuid(&uuid) {
            return Err(format!(
                "the uuid of the volume {name} is {uuid:?}, not five groups of lower-case hex digits"
            ));
        }
        let secret = |what: &str, text: String| {
            let named = ids.expand(&text).map_err(|why| format!("the {what} of the volume {name} {why}"))?;
            SecretRef::try_from(named).map_err(|why| format!("the {what} of the volume {name}: {why}"))
        };
        let key = secret("key", key)?;
        let tag = tag.map(|tag| secret("tag", tag)).transpose()?;
        // Whoever makes the volume is told where to store it, which nobody can in a sealed secret.
        if matches!(tag, Some(SecretRef::Sealed(_))) {
            return Err(format!("the tag of the volume {name} is a sealed secret; name a kbs:// URI"));
        }
        let signed = header == HeaderRule::Signed;
        if tag.is_some() && !signed {
            return Err(format!(
                "the volume {name} has a tag, which header = \"allow-list\" does not look at"
            ));
        }
        let max_keyslots = match max_keyslots.unwrap_or(1) {
            number @ 1..=32 => usize::from(number),
            number => return Err(format!("max_keyslots of the volume {name} is {number}; give 1 to 32")),
        };
        let policy = Policy { max_keyslots, require_integrity, allow_discards, ..Policy::default() };
        Ok(Entry { name, uuid, key, signed, tag, policy })
    }
}

/// Five groups of 8, 4, 4, 4 and 12 lower-case hexadecimal digits (RFC 9562 section 4).
fn is_uuid(text: &str) -> bool {
    text.split('-').map(str::len).eq([8, 4, 4, 4, 12])
        && text.bytes().all(|byte| matches!(byte, b'-' | b'0'..=b'9' | b'a'..=b'f'))
}

/// The entries, if no two of them have one name or UUID.
///
/// # Errors
/// What two of them share, and what to do about it.
pub fn distinct(entries: Vec<Entry>) -> Result<Vec<Entry>, (String, &'static str)> {
    for (number, entry) in entries.iter().enumerate() {
        let earlier = entries.iter().take(number);
        if let Some(other) =
            earlier.into_iter().find(|other| other.name == entry.name || other.uuid == entry.uuid)
        {
            let problem = format!(
                "two entries of [[volumes]], {} and {}, share a name or UUID",
                other.name, entry.name
            );
            return Err((
                problem,
                "a name is one volume's, and so is a UUID; copies of a disk need UUIDs of their own",
            ));
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The volume on a machine with a product's UUID and without a machine ID.
    fn read(text: &str) -> Result<Entry, String> {
        let product = "00112233-4455-6677-8899-aabbccddeeff".to_owned();
        let ids = ClientIds::new(Err("there is none".to_owned()), Ok(product));
        toml::from_str::<EntryConfig>(text).map_err(|e| e.to_string())?.on(&ids)
    }

    const GOOD: &str =
        "name = \"data-1\"\nuuid = \"6a2d7e1c-93f4-4a55-8f70-1d3b2c5e9a10\"\nkey = \"kbs:///a/b/c\"\n";

    #[test]
    fn an_entry_demands_a_signed_header_unless_told_otherwise() {
        let entry = read(GOOD).unwrap();
        assert!(entry.signed && entry.tag.is_none());
        assert_eq!(entry.policy, Policy::default());
        let more =
            "header = \"allow-list\"\nrequire_integrity = true\nallow_discards = true\nmax_keyslots = 2\n";
        let entry = read(&format!("{GOOD}{more}")).unwrap();
        assert!(!entry.signed && entry.policy.require_integrity && entry.policy.allow_discards);
        assert_eq!(entry.policy.max_keyslots, 2);
    }

    #[test]
    fn each_machine_has_a_key_and_a_tag_of_its_own() {
        let text = GOOD.replace("/b/c", "/%u/luks-key-0") + "tag = \"kbs:///a/%u/tag\"\n";
        let entry = read(&text).unwrap();
        assert_eq!(entry.key.to_string(), "kbs:///a/00112233-4455-6677-8899-aabbccddeeff/luks-key-0");
        assert_eq!(entry.tag.unwrap().to_string(), "kbs:///a/00112233-4455-6677-8899-aabbccddeeff/tag");
        let why = read(&GOOD.replace("/b/", "/%m/")).unwrap_err();
        assert!(
            why.starts_with("the key of the volume data-1 has %m") && why.contains("there is none"),
            "{why}"
        );
    }

    #[test]
    fn what_is_not_well_formed_is_refused() {
        for (from, to) in [
            ("data-1", ""),
            ("data-1", "-data"),
            ("data-1", "a/b"),
            ("data-1", "a b"),
            ("data-1", &"a".repeat(49)),
            ("6a2d7e1c", "6A2D7E1C"),
            ("6a2d7e1c-", "6a2d7e1c"),
            ("kbs:///a/b/c", "file:///key"),
            ("kbs:///a/b/c", "kbs:///a/%m/c"),
            ("kbs:///a/b/c", "kbs:///a/%x/c"),
            ("name =", "nmae ="),
            ("uuid =", "header = \"none\"\nuuid ="),
            ("uuid =", "max_keyslots = 0\nuuid ="),
            ("uuid =", "tag = \"sealed.e30.e30.e30\"\nuuid ="),
            ("uuid =", "header = \"allow-list\"\ntag = \"kbs:///a/b/d\"\nuuid ="),
        ] {
            assert!(read(&GOOD.replace(from, to)).is_err(), "{from} -> {to}");
        }
    }

    #[test]
    fn names_and_uuids_are_of_one_volume_each() {
        let read = |text: &str| read(text).unwrap();
        let other = GOOD.replace("data-1", "data-2");
        let apart = other.replace("6a2d", "6a2e");
        assert!(distinct(vec![read(GOOD), read(&apart)]).is_ok());
        assert!(distinct(vec![read(GOOD), read(&other)]).is_err());
        assert!(distinct(vec![read(GOOD), read(&GOOD.replace("6a2d", "6a2e"))]).is_err());
    }
}
