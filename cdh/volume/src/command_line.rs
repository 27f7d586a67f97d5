//! The kernel's command line, as far as it says how volumes are opened.
//!
//! systemd-cryptsetup-generator(8) and dracut.cmdline(7) prefer what `luks.*` and `rd.luks.*` say to a line of crypttab(5). The host writes
//! the command line, so a volume whose header is checked must not be named there. Pure: the text comes from whoever read it. It is NOT
//! a verdict on the whole line: what else may be on it is for the key broker's policy, which sees it measured.

/// The words of the command line (Linux `Documentation/admin-guide/kernel-parameters.rst`). Quotes and backslashes only hold words together:
/// without them there are more words to look at, none less.
pub fn words(text: &str) -> Vec<String> {
    let plain: String = text.chars().filter(|char| !matches!(char, '"' | '\'' | '\\')).collect();
    plain.split_ascii_whitespace().map(str::to_owned).collect()
}

/// The first parameter that says something about the volume `name` with this UUID, or about all volumes.
#[must_use]
pub fn concerning(text: &str, name: &str, uuid: &str) -> Option<String> {
    words(text).into_iter().find(|word| {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let key = key.to_ascii_lowercase();
        let Some(key) = key.strip_prefix("rd.").unwrap_or(&key).strip_prefix("luks.") else { return false };
        // Whether crypttab is read at all: without it nothing is opened.
        key != "crypttab" && !is_of_another(value, name, uuid)
    })
}

/// Whether a value begins with the UUID of another volume, and does not give that one the name of this.
fn is_of_another(value: &str, name: &str, uuid: &str) -> bool {
    let value = value.strip_prefix("luks-").unwrap_or(value);
    let (theirs, rest) = value.split_at_checked(uuid.len()).unwrap_or(("", ""));
    let is_uuid = theirs.split('-').map(str::len).eq([8, 4, 4, 4, 12])
        && theirs.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
    is_uuid && !theirs.eq_ignore_ascii_case(uuid) && rest.strip_prefix('=') != Some(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UUID: &str = "6a2d7e1c-93f4-4a55-8f70-1d3b2c5e9a10";
    const OTHER: &str = "7a2d7e1c-93f4-4a55-8f70-1d3b2c5e9a10";

    #[test]
    fn parameters_about_the_volume_or_about_all_are_found() {
        for text in [
            format!("quiet luks.options={UUID}=luks"),
            format!("rd.luks.options={UUID}=luks"),
            format!("RD.luks.options={}=luks", UUID.to_uppercase()),
            format!("\"luks.options={UUID}=luks x\""),
            "luks.options=luks".to_owned(),
            "luks.key=/key".to_owned(),
            format!("luks.uuid=luks-{UUID}"),
            format!("luks.uuid={UUID}"),
            format!("luks.name={UUID}=x"),
            format!("luks.name={OTHER}=data"),
            format!("luks.data={UUID}=/dev/vdz"),
            format!("luks.key={UUID}=/key"),
            "rd.luks.new=1".to_owned(),
            "luks.options".to_owned(),
        ] {
            assert!(concerning(&text, "data", UUID).is_some(), "{text}");
        }
        for text in [
            "".to_owned(),
            "quiet luks=no rd.luks=0 luks.crypttab=no rd.luks.crypttab=no".to_owned(),
            format!("luks.options={OTHER}=luks luks.name={OTHER}=other luks.uuid=luks-{OTHER}"),
        ] {
            assert_eq!(concerning(&text, "data", UUID), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,200}") {
            let _ = concerning(&text, "data", UUID);
        }
    }
}
