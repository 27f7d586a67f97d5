//! Users and groups of this machine by name (passwd(5), group(5)).
//!
//! The files are read, no name service is asked: a hub that loads modules of one would hold its secrets beside them.

/// The number of a user, given as number or name; the name that is unknown otherwise.
pub(super) fn user(name: &str) -> Result<u32, String> {
    find(name, "/etc/passwd")
}

/// The number of a group, given as number or name; the name that is unknown otherwise.
pub(super) fn group(name: &str) -> Result<u32, String> {
    find(name, "/etc/group")
}

fn find(name: &str, file: &str) -> Result<u32, String> {
    if let Ok(number) = name.parse() {
        // chown(2) takes the last number for "as it is".
        return if number == u32::MAX { Err(name.to_owned()) } else { Ok(number) };
    }
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().find_map(|line| number(line, name)).ok_or_else(|| name.to_owned())
}

/// The number in a line `name:password:number:…` of that name.
fn number(line: &str, name: &str) -> Option<u32> {
    let mut fields = line.split(':');
    if fields.next() != Some(name) {
        return None;
    }
    fields.nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_found() {
        assert_eq!(user("root"), Ok(0));
        assert_eq!(group("root"), Ok(0));
        assert_eq!(user("70"), Ok(70));
        assert_eq!(user("4294967295"), Err("4294967295".to_owned()), "chown(2) would change nothing");
        assert_eq!(user("no-such-user"), Err("no-such-user".to_owned()));
        assert_eq!(number("db:x:70:71::/:/bin/sh", "db"), Some(70));
        for line in ["", "db", "db:x", "db:x:many:", "dbx:x:70:71"] {
            assert_eq!(number(line, "db"), None, "{line}");
        }
    }
}
