//! Where an overlay is mounted, by the kernel's own list (proc_pid_mountinfo(5)).

use std::{collections::BTreeSet, ffi::OsString, os::unix::ffi::OsStringExt, path::PathBuf};

use cc_storage::Name;

use crate::Failure;

/// The mount points of every overlay whose `upperdir` ends with `upper`, in this process's view, the last mounted first.
pub(super) fn points(upper: &str) -> Result<Vec<PathBuf>, Failure> {
    Ok(list()?.split(|b| *b == b'\n').rev().filter_map(|line| point(line, upper)).collect())
}

/// The names of all overlays of the store that are mounted.
pub(super) fn names() -> Result<BTreeSet<Name>, Failure> {
    Ok(list()?.split(|b| *b == b'\n').filter_map(name).collect())
}

fn list() -> Result<Vec<u8>, Failure> {
    std::fs::read("/proc/self/mountinfo").map_err(Failure::storage("read the list of mounts"))
}

/// `…/overlay/<name>/upper` of an overlay.
fn name(line: &[u8]) -> Option<Name> {
    let (_, upper) = overlay(line)?;
    let mut parts = std::str::from_utf8(upper).ok()?.rsplit('/');
    let (last, name, folder) = (parts.next()?, parts.next()?, parts.next()?);
    ((folder, last) == ("overlay", "upper")).then(|| name.parse().ok()).flatten()
}

fn point(line: &[u8], upper: &str) -> Option<PathBuf> {
    let (front, found) = overlay(line)?;
    if !found.ends_with(upper.as_bytes()) {
        return None;
    }
    let point = front.split(|b| *b == b' ').nth(4)?;
    Some(OsString::from_vec(unescape(point)).into())
}

/// What stands before the kind of file system, and the upper directory, if it is an overlay.
fn overlay(line: &[u8]) -> Option<(&[u8], &[u8])> {
    // 36 35 98:0 /root /point options … - type source options
    let at = line.windows(3).position(|w| w == b" - ")?;
    let (front, back) = line.split_at_checked(at)?;
    let mut back = back.get(3..)?.split(|b| *b == b' ');
    let (kind, options) = (back.next()?, back.nth(1)?);
    let upper = options.split(|b| *b == b',').find_map(|option| option.strip_prefix(b"upperdir="))?;
    (kind == b"overlay").then_some((front, upper))
}

/// Space, tab, line feed and backslash are written as three octal digits.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, more)) = rest.split_first() {
        let code = (*first == b'\\').then(|| more.get(..3)).flatten();
        let code = code.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = more.get(3..).unwrap_or_default();
            }
            None => {
                plain.push(*first);
                rest = more;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_overlay_with_that_upper_directory_counts() {
        let line = b"40 28 0:35 / /run/a\\040b/rootfs rw shared:1 - overlay overlay rw,lowerdir+=l/0,upperdir=overlay/77/upper,workdir=overlay/77/work";
        assert_eq!(point(line, "overlay/77/upper"), Some(PathBuf::from("/run/a b/rootfs")));
        assert_eq!(point(line, "overlay/78/upper"), None);
        let other = b"40 28 0:35 / /x rw - tmpfs x rw,upperdir=overlay/77/upper";
        assert_eq!(point(other, "overlay/77/upper"), None);
        for bad in ["", " - ", "1 2 - overlay", "\\", "a - overlay x upperdir=overlay/77/upper"] {
            assert_eq!(point(bad.as_bytes(), "overlay/77/upper"), None, "{bad}");
        }
        assert_eq!(unescape(b"\\134\\9"), b"\\\\9");
        let own = "7".repeat(64);
        let of = |upper: &str| {
            name(format!("40 28 0:35 / /x rw - overlay overlay rw,upperdir={upper}").as_bytes())
        };
        assert_eq!(of(&format!("/s/overlay/{own}/upper")).unwrap().as_str(), own);
        assert_eq!(of(&format!("overlay/{own}/upper")).unwrap().as_str(), own);
        for other in [format!("x/{own}/upper"), format!("overlay/{own}/work"), "overlay/7/upper".to_owned()] {
            assert_eq!(of(&other), None, "{other}");
        }
    }
}
