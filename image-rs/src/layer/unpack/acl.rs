//! POSIX access control lists in the form of their extended attributes (acl(5); Linux, include/uapi/linux/posix_acl_xattr.h),
//! read strictly.
//!
//! Pure. Four bytes of version, then eight for each entry: tag, permissions, and the number of a user or group, all little-endian.
//! Accepted is what the kernel itself gives out, so that it takes a list as it is or not at all. Its decision stays its own:
//! nothing here judges who should have access.

/// The list of a file or directory itself.
pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
/// The list that what is made in a directory begins with.
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: [u8; 4] = 2u32.to_le_bytes();
/// Most bytes: what fits into the block that file systems give the attributes of a file.
const MOST: usize = 4096;
/// The number in entries that name nobody.
const NOBODY: u32 = u32::MAX;

const OWNER: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OWNER: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// Reads a list. Gives the nine permission bits that it comes to for those who know only these: owner; mask, or group where
/// there is none; others.
///
/// # Errors
/// Which rule the list breaks.
pub(super) fn permissions(list: &[u8]) -> Result<u32, &'static str> {
    if list.len() > MOST {
        return Err("its access control list is longer than 4096 bytes");
    }
    let entries = list.strip_prefix(&VERSION).ok_or("its access control list is not of version 2")?;
    let (entries, rest) = entries.as_chunks::<8>();
    if !rest.is_empty() {
        return Err("its access control list ends inside an entry");
    }
    let mut last = (0, None);
    let (mut owner, mut group, mut mask, mut other) = (None, None, None, None);
    let mut names_somebody = false;
    for [t0, t1, p0, p1, id @ ..] in entries {
        let tag = u16::from_le_bytes([*t0, *t1]);
        let bits = u32::from(u16::from_le_bytes([*p0, *p1]));
        let id = u32::from_le_bytes(*id);
        if bits > 0o7 {
            return Err("an entry of its access control list has unknown permissions");
        }
        match tag {
            OWNER => owner = Some(bits),
            GROUP_OWNER => group = Some(bits),
            MASK => mask = Some(bits),
            OTHER => other = Some(bits),
            USER | GROUP => names_somebody = true,
            _ => return Err("an entry of its access control list has an unknown tag"),
        }
        if matches!(tag, USER | GROUP) == (id == NOBODY) {
            return Err("an entry of its access control list names nobody, or somebody where it must not");
        }
        let place = (tag, Some(id));
        if place <= last {
            return Err("its access control list is not in order, or has an entry twice");
        }
        last = place;
    }
    let (Some(owner), Some(group), Some(other)) = (owner, group, other) else {
        return Err("its access control list lacks the entry of the owner, the group or the others");
    };
    if names_somebody && mask.is_none() {
        return Err("its access control list names somebody and has no mask");
    }
    Ok(owner << 6 | mask.unwrap_or(group) << 3 | other)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustix::{
        fs::{XattrFlags, fgetxattr, fsetxattr, fstat},
        io::Errno,
    };

    use super::*;

    fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let entry = |(tag, bits, id): &(u16, u16, u32)| {
            [&tag.to_le_bytes()[..], &bits.to_le_bytes(), &id.to_le_bytes()].concat()
        };
        [VERSION.to_vec(), entries.iter().flat_map(entry).collect()].concat()
    }

    const LEAST: [(u16, u16, u32); 3] = [(OWNER, 7, NOBODY), (GROUP_OWNER, 5, NOBODY), (OTHER, 0, NOBODY)];

    #[test]
    fn lists_come_to_the_bits_that_a_mode_has() {
        assert_eq!(permissions(&list(&LEAST)), Ok(0o750));
        // As journald has it: the group adm may read.
        let journal = [LEAST[0], LEAST[1], (GROUP, 5, 4), (MASK, 7, NOBODY), (OTHER, 5, NOBODY)];
        assert_eq!(permissions(&list(&journal)), Ok(0o775));
        let users = [LEAST[0], (USER, 6, 0), (USER, 7, 1000), LEAST[1], (MASK, 4, NOBODY), LEAST[2]];
        assert_eq!(permissions(&list(&users)), Ok(0o740));
    }

    #[test]
    fn each_rule() {
        let [owner, group, other] = LEAST;
        let mask = (MASK, 7, NOBODY);
        let many: Vec<_> = (0..512).map(|id| (USER, 4, id)).collect();
        for (bad, why) in [
            (vec![], "version"),
            (list(&LEAST)[..3].to_vec(), "version"),
            ([&1u32.to_le_bytes()[..], &list(&LEAST)[4..]].concat(), "version"),
            (list(&LEAST)[..27].to_vec(), "ends inside"),
            ([list(&LEAST), vec![0]].concat(), "ends inside"),
            (list(&[]), "lacks"),
            (list(&[owner, group]), "lacks"),
            (list(&[owner, other]), "lacks"),
            (list(&[group, other]), "lacks"),
            (list(&[(OWNER, 8, NOBODY), group, other]), "permissions"),
            (list(&[owner, group, (OTHER, 0x100, NOBODY)]), "permissions"),
            (list(&[owner, group, other, (0x40, 7, NOBODY)]), "tag"),
            (list(&[(0, 7, NOBODY), owner, group, other]), "tag"),
            (list(&[owner, (USER | GROUP, 7, 1), group, mask, other]), "tag"),
            (list(&[owner, (USER, 7, NOBODY), group, mask, other]), "names nobody"),
            (list(&[(OWNER, 7, 0), group, other]), "names nobody"),
            (list(&[owner, group, (MASK, 7, 5), other]), "names nobody"),
            (list(&[owner, owner, group, other]), "order"),
            (list(&[group, owner, other]), "order"),
            (list(&[owner, (USER, 7, 2), (USER, 7, 1), group, mask, other]), "order"),
            (list(&[owner, (USER, 7, 1), (USER, 7, 1), group, mask, other]), "order"),
            (list(&[owner, group, mask, (GROUP, 7, 1), other]), "order"),
            (list(&[owner, (USER, 7, 1), group, other]), "no mask"),
            (list(&[&[owner], &many[..], &[group, mask, other]].concat()), "4096"),
        ] {
            assert!(
                permissions(&bad).is_err_and(|said| said.contains(why)),
                "{why}: {:?}",
                permissions(&bad)
            );
        }
        let most = &many[..507];
        assert_eq!(permissions(&list(&[&[owner], most, &[group, mask, other]].concat())), Ok(0o770));
    }

    /// A list that is nearly right, often wholly.
    fn nearly() -> impl Strategy<Value = Vec<u8>> {
        let tag = prop::sample::select(vec![OWNER, USER, USER, GROUP_OWNER, GROUP, GROUP, MASK, OTHER, 0x40]);
        let id = prop::sample::select(vec![0, 1, 4, 1000, u32::MAX - 1, NOBODY]);
        let entry = (tag, prop::sample::select(vec![0, 4, 5, 6, 7, 8]), id);
        (proptest::collection::vec(entry, 0..9), any::<bool>(), 0..8usize).prop_map(
            |(mut all, whole, cut)| {
                if whole {
                    all.retain(|(tag, bits, _)| *tag != 0x40 && *bits < 8);
                    all.extend([(OWNER, 6, 0), (GROUP_OWNER, 4, 0), (MASK, 5, 0), (OTHER, 1, 0)]);
                    for (tag, _, id) in &mut all {
                        *id = match *tag {
                            USER | GROUP => (*id).min(NOBODY - 1),
                            _ => NOBODY,
                        };
                    }
                    all.sort_by_key(|(tag, _, id)| (*tag, *id));
                    all.dedup_by_key(|(tag, _, id)| (*tag, *id));
                    return list(&all);
                }
                let mut bytes = list(&all);
                bytes.truncate(bytes.len().saturating_sub(cut));
                bytes
            },
        )
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = permissions(&bytes);
        }

        /// The other reader is the kernel.
        #[test]
        fn what_is_accepted_the_kernel_takes_and_gives_back(bytes in nearly()) {
            let file = tempfile::tempfile().unwrap();
            let Ok(bits) = permissions(&bytes) else { return Ok(()) };
            let name = std::str::from_utf8(ACCESS).unwrap();
            match fsetxattr(&file, name, &bytes, XattrFlags::empty()) {
                Err(Errno::OPNOTSUPP) => return Ok(()),
                set => prop_assert_eq!(set, Ok(())),
            }
            prop_assert_eq!(fstat(&file).unwrap().st_mode & 0o777, bits);
            let mut back = vec![0; 8192];
            match fgetxattr(&file, name, &mut back) {
                Ok(length) => prop_assert_eq!(&back[..length], &bytes),
                // One that says no more than a mode is none.
                Err(error) => prop_assert_eq!((error, bytes.len()), (Errno::NODATA, 4 + 3 * 8)),
            }
        }
    }
}
