//! Who an image's program runs as: the member `User` of its configuration (OCI image specification, config.md), looked up in the
//! files `etc/passwd` and `etc/group` of the image itself (passwd(5), group(5)).
//!
//! Pure: takes the text of the files. What stands in them is the image's affair; lines that are none are passed over, as libraries of
//! C do it.

/// Longest `etc/passwd` and `etc/group` that are looked at, in bytes.
pub const MAX_USER_FILE: u64 = 4 << 20;
/// Most further groups of a user (limits.h, `NGROUPS_MAX`).
const MAX_GROUPS: usize = 65536;

/// A user with its groups, as numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// The user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Further groups, without that one, each once and in ascending order.
    pub additional: Vec<u32>,
}

/// A name that none of the files has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the image names the {kind} {name:?}, which its {file} does not have")]
pub struct UserUnknown {
    /// What it is the name of.
    pub kind: &'static str,
    /// The name, cut.
    pub name: String,
    /// Where it was looked for.
    pub file: &'static str,
}

impl User {
    /// The user that `text` names: `USER`, `USER:GROUP`, each by number or name; empty for the superuser. `passwd` and `group` are the
    /// texts of the files, empty where the image has none.
    ///
    /// A name beats a number, and a number need not be in the files. Where no group is named, it is that of the user's line, and the groups
    /// are added that list the user; else there are no further ones.
    ///
    /// # Errors
    /// A name that is in none of the files.
    pub fn find(text: &str, passwd: &[u8], group: &[u8]) -> Result<Self, UserUnknown> {
        let (user, own_group) =
            text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let user = if user.is_empty() { "0" } else { user };
        let line = lines(passwd).find(|fields| is(fields, 0, user));
        let line = line.or_else(|| {
            let number = number(user.as_bytes())?;
            lines(passwd).find(|fields| field(fields, 2).and_then(self::number) == Some(number))
        });
        let numbers =
            line.as_deref().and_then(|fields| Some((number(field(fields, 2)?)?, number(field(fields, 3)?)?)));
        let (uid, gid) = match (numbers, number(user.as_bytes())) {
            (Some(numbers), _) => numbers,
            (None, Some(uid)) => (uid, 0),
            (None, None) => return Err(unknown("user", user, "etc/passwd")),
        };
        if let Some(own) = own_group.filter(|own| !own.is_empty()) {
            let named = lines(group).find(|fields| is(fields, 0, own));
            let gid = named.and_then(|fields| number(field(&fields, 2)?)).or_else(|| number(own.as_bytes()));
            let gid = gid.ok_or_else(|| unknown("group", own, "etc/group"))?;
            return Ok(Self { uid, gid, additional: Vec::new() });
        }
        let name = line.as_deref().and_then(|fields| field(fields, 0)).filter(|name| !name.is_empty());
        let lists = |fields: &[&[u8]]| {
            let members = field(fields, 3).unwrap_or_default();
            name.is_some_and(|name| members.split(|b| *b == b',').any(|member| member.trim_ascii() == name))
        };
        let groups = lines(group).filter(|fields| lists(fields));
        let mut additional: Vec<u32> = groups
            .filter_map(|fields| number(field(&fields, 2)?))
            .filter(|further| *further != gid)
            .collect();
        additional.sort_unstable();
        additional.dedup();
        additional.truncate(MAX_GROUPS);
        Ok(Self { uid, gid, additional })
    }
}

fn unknown(kind: &'static str, name: &str, file: &'static str) -> UserUnknown {
    UserUnknown { kind, name: name.chars().take(64).collect(), file }
}

/// The lines of such a file, each as its fields.
fn lines(text: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    text.split(|b| *b == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty() && !line.starts_with(b"#"))
        .map(
            // Seven fields at most; a hostile line has as many as it likes.
            |line| line.splitn(8, |b| *b == b':').collect(),
        )
}

fn field<'a>(fields: &[&'a [u8]], number: usize) -> Option<&'a [u8]> {
    fields.get(number).copied()
}

fn is(fields: &[&[u8]], number: usize, text: &str) -> bool {
    field(fields, number).is_some_and(|field| field == text.as_bytes())
}

/// A user's or group's number. That of all bits stands for none (chown(2)).
fn number(text: &[u8]) -> Option<u32> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let number = digits.then(|| str::from_utf8(text).ok()?.parse().ok()).flatten();
    number.filter(|number| *number != u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PASSWD: &[u8] = b"# who\nroot:x:0:0:root:/root:/bin/sh\napp:x:1000:50::/srv:\n\nbroken\nhalf:x:7\n1000:x:5:6::/:\nbig:x:4294967296:1::/:\n";
    const GROUP: &[u8] =
        b"root:x:0:\nwheel:x:10:app,root\nusers:x:50:app\nbackup:x:34: app \nwheel2:x:10:app\nempty:x::app\n";

    #[test]
    fn names_and_numbers_are_looked_up_in_the_image() {
        for (text, expected) in [
            ("", Ok((0, 0, &[10][..]))),
            ("root", Ok((0, 0, &[10]))),
            ("app", Ok((1000, 50, &[10, 34]))),
            ("app:users", Ok((1000, 50, &[]))),
            ("app:7", Ok((1000, 7, &[]))),
            ("app:", Ok((1000, 50, &[10, 34]))),
            // A name beats a number.
            ("1000", Ok((5, 6, &[]))),
            ("7", Ok((7, 0, &[]))),
            ("4294967294:1", Ok((4_294_967_294, 1, &[]))),
            ("65534", Ok((65534, 0, &[]))),
            (":users", Ok((0, 50, &[]))),
            ("nobody", Err("user")),
            ("half", Err("user")),
            ("big", Err("user")),
            ("broken", Err("user")),
            ("4294967295", Err("user")),
            ("+1", Err("user")),
            ("app:nobody", Err("group")),
            ("app:empty", Err("group")),
        ] {
            let found = User::find(text, PASSWD, GROUP);
            let expected = expected.map(|(uid, gid, groups)| User { uid, gid, additional: groups.to_vec() });
            assert_eq!(found.map_err(|unknown| unknown.kind), expected, "{text:?}");
        }
        assert_eq!(User::find("1:2", b"", b"").unwrap(), User { uid: 1, gid: 2, additional: vec![] });
        let told = User::find("nobody", b"", b"").unwrap_err().to_string();
        assert_eq!(told, "the image names the user \"nobody\", which its etc/passwd does not have");
    }

    proptest! {
        #[test]
        fn any_files_are_read(text in ".{0,20}", passwd in any::<Vec<u8>>(), group in any::<Vec<u8>>()) {
            let _ = User::find(&text, &passwd, &group);
        }

        #[test]
        fn numbers_need_no_files(uid in 0..u32::MAX, gid in 0..u32::MAX) {
            let found = User::find(&format!("{uid}:{gid}"), b"", b"");
            prop_assert_eq!(found, Ok(User { uid, gid, additional: Vec::new() }));
        }
    }
}
