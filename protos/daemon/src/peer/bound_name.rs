//! The name that systemd binds before it asks for a secret: NUL, random hexadecimal digits, then `/unit/`, the unit, `/`, the
//! credential (systemd.exec(5), "LoadCredential="), or `/cryptsetup/` and the volume (crypttab(5), "AF_UNIX key files").
//!
//! Pure. It says what is wanted and proves nothing: any process may bind any name. Who it is, [`super::Place`] says.

/// Most bytes of the name: what `sun_path` holds (unix(7)).
const MAX_LEN: usize = 108;
/// What stands between the digits and the unit.
const UNIT: &str = "/unit/";
/// What stands between the digits and the volume.
const VOLUME: &str = "/cryptsetup/";

/// Which unit wants which credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundName {
    /// The unit, with its instance: `worker@1.service`.
    pub unit: String,
    /// The credential's name.
    pub credential: String,
}

impl BoundName {
    /// Reads an abstract socket name, without its leading NUL. `None` if it is not one that systemd binds for a unit.
    #[must_use]
    pub fn parse(name: &[u8]) -> Option<Self> {
        let rest = behind_digits(name, UNIT)?;
        let (unit, credential) = rest.split_once('/')?;
        let (stem, kind) = unit.rsplit_once('.')?;
        // The kinds of unit that execute something (systemd.exec(5)).
        let executes = ["service", "socket", "mount", "swap"].contains(&kind);
        let named = !credential.contains(['/', ':']) && !matches!(credential, "" | "." | "..");
        (executes && !stem.is_empty() && named)
            .then(|| Self { unit: unit.to_owned(), credential: credential.to_owned() })
    }
}

/// The volume of an abstract socket name that systemd binds for the key of one, without its leading NUL.
pub(super) fn volume(name: &[u8]) -> Option<&str> {
    let volume = behind_digits(name, VOLUME)?;
    (!volume.contains('/') && !matches!(volume, "" | "." | "..")).then_some(volume)
}

/// What stands behind the digits and `kind`.
fn behind_digits<'a>(name: &'a [u8], kind: &str) -> Option<&'a str> {
    if name.len() >= MAX_LEN || !name.iter().all(u8::is_ascii_graphic) {
        return None;
    }
    let (random, rest) = std::str::from_utf8(name).ok()?.split_once(kind)?;
    // Upper-case digits and longer numbers would be somebody else's format.
    let digits = random.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (digits && (1..=16).contains(&random.len())).then_some(rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_systemd_binds_are_read() {
        for (name, unit, credential) in [
            ("68992cd4aa92673e/unit/good.service/pw", "good.service", "pw"),
            ("8201da7f045118a/unit/worker@1.service/db-password", "worker@1.service", "db-password"),
            ("1/unit/dev-disk\\x2dby.swap/key.pem", "dev-disk\\x2dby.swap", "key.pem"),
        ] {
            let expected = BoundName { unit: unit.to_owned(), credential: credential.to_owned() };
            assert_eq!(BoundName::parse(name.as_bytes()), Some(expected), "{name}");
        }
    }

    #[test]
    fn nothing_else_is() {
        let long = format!("1/unit/{}.service/pw", "a".repeat(100));
        for name in [
            "",
            "68992cd4aa92673e",
            "/unit/a.service/pw",
            "68992cd4aa92673e1/unit/a.service/pw",
            "68992CD4/unit/a.service/pw",
            "1/cryptsetup/vola",
            "1/unit/a.service",
            "1/unit/a.service/",
            "1/unit/a.service/..",
            "1/unit/a.service/x/y",
            "1/unit/a.service/x:y",
            "1/unit/.service/pw",
            "1/unit/a/pw",
            "1/unit/a.slice/pw",
            "1/unit/a b.service/pw",
            "1/unit/\u{e4}.service/pw",
            "1/unit/a.service/p\0w",
            long.as_str(),
        ] {
            assert_eq!(BoundName::parse(name.as_bytes()), None, "{name}");
        }
    }

    #[test]
    fn the_name_for_a_volume_is_no_name_for_a_unit() {
        for (name, expected) in [
            ("8c8a6514140822/cryptsetup/data", Some("data")),
            ("1/cryptsetup/my\\x2ddata", Some("my\\x2ddata")),
            ("1/cryptsetup/", None),
            ("1/cryptsetup/..", None),
            ("1/cryptsetup/a/b", None),
            ("1/cryptsetup-tpm2/data", None),
            ("X/cryptsetup/data", None),
            ("/cryptsetup/data", None),
            ("1/unit/a.service/cryptsetup/data", None),
        ] {
            assert_eq!(volume(name.as_bytes()), expected, "{name}");
            assert!(!name.contains("cryptsetup") || BoundName::parse(name.as_bytes()).is_none(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes in any::<Vec<u8>>()) {
            let _ = volume(&bytes);
            let _ = volume(&[b"1/cryptsetup/", bytes.as_slice()].concat());
            let _ = BoundName::parse(&bytes);
            let _ = BoundName::parse(&[b"1/unit/", bytes.as_slice()].concat());
        }

        #[test]
        fn what_is_written_is_read(random in any::<u64>(), stem in "[a-z@_.-]{1,30}", credential in "[a-z_-]{1,20}") {
            let name = format!("{random:x}/unit/{stem}.service/{credential}");
            let read = BoundName::parse(name.as_bytes()).unwrap();
            prop_assert_eq!((read.unit, read.credential), (format!("{stem}.service"), credential));
        }
    }
}
