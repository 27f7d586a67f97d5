//! The id of a client in the name of its key: one measured configuration for many machines.
//!
//! A key may be named `kbs:///disk-encryption/%u/luks-key-0`; then each machine asks for its own. `%m` stands for the machine ID
//! (machine-id(5), as in systemd.unit(5)), `%u` for the UUID of the product that firmware or hypervisor tells (SMBIOS, DMTF DSP0134
//! section 7.2.1), in lower case. In an initramfs there is no machine ID.
//!
//! The host writes the one and can change the other, and neither needs trust: an id only says which key is asked for. Whether this
//! machine gets that key is decided by the key broker, from evidence, and whether it is the key of this disk by the tag of the header. So an
//! id has to mean one thing and nothing more: its characters are few and its length is fixed, and it can neither lead out of its
//! segment of the name nor carry an encoding. Pure: the texts come from whoever read them. It is NOT an identity: a policy that has to
//! tell machines apart has to look at what their evidence proves.

/// Where systems have the machine ID.
pub const MACHINE_ID: &str = "/etc/machine-id";
/// Where Linux has the product's UUID; for root alone.
pub const PRODUCT_UUID: &str = "/sys/class/dmi/id/product_uuid";

/// The ids of this machine, or why there is none, as half a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientIds {
    machine_id: Result<String, String>,
    product_uuid: Result<String, String>,
}

impl Default for ClientIds {
    /// None: nobody has looked.
    fn default() -> Self {
        let unread = || Err("it was not read".to_owned());
        Self { machine_id: unread(), product_uuid: unread() }
    }
}

impl ClientIds {
    /// The ids that stand in the two files, as somebody has read them; else why not.
    #[must_use]
    pub fn new(machine_id: Result<String, String>, product_uuid: Result<String, String>) -> Self {
        let checked = |text: Result<String, String>, groups: &[usize]| {
            let id = text?.trim_ascii().to_ascii_lowercase();
            if is_id(&id, groups) {
                return Ok(id);
            }
            let shown: String = id.chars().take(40).collect();
            Err(format!("it is {shown:?}"))
        };
        Self {
            machine_id: checked(machine_id, &[32]),
            product_uuid: checked(product_uuid, &[8, 4, 4, 4, 12]),
        }
    }

    /// `name` with the ids in place of `%m` and `%u`. Everything else stays, other percent signs too: two hexadecimal digits follow
    /// the one of an encoding.
    ///
    /// # Errors
    /// Half a sentence: which id is needed, and why there is none.
    pub fn expand(&self, name: &str) -> Result<String, String> {
        let mut expanded = name.to_owned();
        for (specifier, id, what, path) in [
            ("%m", &self.machine_id, "machine ID", MACHINE_ID),
            ("%u", &self.product_uuid, "product's UUID", PRODUCT_UUID),
        ] {
            if expanded.contains(specifier) {
                let id = id.as_ref().map_err(|why| {
                    format!("has {specifier}, the {what}, which cannot be had from {path}: {why}")
                })?;
                expanded = expanded.replace(specifier, id);
            }
        }
        Ok(expanded)
    }
}

/// Groups of lower-case hexadecimal digits, of these lengths; not the values that say that none was set.
fn is_id(id: &str, groups: &[usize]) -> bool {
    let digits = |byte: u8| matches!(byte, b'-' | b'0'..=b'9' | b'a'..=b'f');
    let set = |unset: char| id.chars().any(|char| char != '-' && char != unset);
    id.split('-').map(str::len).eq(groups.iter().copied()) && id.bytes().all(digits) && set('0') && set('f')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MACHINE: &str = "0123456789abcdef0123456789abcdef\n";
    const PRODUCT: &str = "6A2D7E1C-93f4-4a55-8f70-1d3b2c5e9a10\n";

    fn ids(machine: &str, product: &str) -> ClientIds {
        ClientIds::new(Ok(machine.to_owned()), Ok(product.to_owned()))
    }

    #[test]
    fn ids_stand_where_their_specifiers_stood() {
        let ids = ids(MACHINE, PRODUCT);
        for (name, expanded) in [
            ("kbs:///a/%m/k", "kbs:///a/0123456789abcdef0123456789abcdef/k"),
            ("kbs:///a/vm-%u/k", "kbs:///a/vm-6a2d7e1c-93f4-4a55-8f70-1d3b2c5e9a10/k"),
            ("kbs:///a/b%20%c3%bc/k?m", "kbs:///a/b%20%c3%bc/k?m"),
            ("kbs:///a/%M%U/k", "kbs:///a/%M%U/k"),
        ] {
            assert_eq!(ids.expand(name).unwrap(), expanded);
        }
    }

    #[test]
    fn what_is_no_id_is_put_nowhere() {
        for machine in [
            "",
            "uninitialized\n",
            "00000000000000000000000000000000",
            "ffffffffffffffffffffffffffffffff",
            "0123456789abcdef0123456789abcdeg",
            "0123456789abcdef0123456789abcde",
            "0123456789abcdef/../456789abcdef",
            "0123456789abcdef0123456789abcdef\n0",
            PRODUCT,
        ] {
            let why = ids(machine, PRODUCT).expand("kbs:///a/%m/k").unwrap_err();
            assert!(why.contains("%m") && why.contains(MACHINE_ID), "{why}");
            assert!(ids(machine, PRODUCT).expand("kbs:///a/%u/k").is_ok());
        }
        for product in [
            "Not Settable",
            "00000000-0000-0000-0000-000000000000",
            "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
            "6a2d7e1c-93f4-4a55-8f70-1d3b2c5e9a1",
            "6a2d7e1c-93f4-4a55-8f70-%2e%2e%2f9a10",
            MACHINE,
        ] {
            assert!(ids(MACHINE, product).expand("kbs:///a/%u/k").is_err(), "{product}");
        }
        let none = ClientIds::new(Err("no such file".to_owned()), Err("no such file".to_owned()));
        assert!(none.expand("kbs:///a/%m/k").unwrap_err().contains("no such file"));
        assert_eq!(none.expand("kbs:///a/b/k").unwrap(), "kbs:///a/b/k");
    }

    proptest! {
        /// Whatever the host tells, a name has as many segments and encodings as its template.
        #[test]
        fn an_id_stays_in_its_segment(machine in ".{0,80}", product in "[-0-9a-fA-F/%.]{0,40}") {
            let bytes = |text: &str, byte: char| text.matches(byte).count();
            for specifier in ["%m", "%u"] {
                if let Ok(name) = ids(&machine, &product).expand(&format!("kbs:///a/{specifier}/k")) {
                    prop_assert!(bytes(&name, '/') == 5 && bytes(&name, '%') == 0 && name.len() <= 50, "{}", name);
                }
            }
        }
    }
}
