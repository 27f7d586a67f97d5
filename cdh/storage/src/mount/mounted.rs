//! Where an overlay is mounted, by the kernel's own list (proc_pid_mountinfo(5)).

use std::{ffi::OsString, os::unix::ffi::OsStringExt, path::PathBuf};

use crate::Failure;

/// The mount points of every overlay whose `upperdir` ends with `upper`, in this process's view, the last mounted first.
pub(super) fn points(upper: &str) -> Result<Vec<PathBuf>, Failure> {
    let list = std::fs::read("/proc/self/mountinfo").map_err(Failure::storage("read the list of mounts"))?;
    Ok(list.split(|b| *b == b'\n').rev().filter_map(|line| point(line, upper)).collect())
}

fn point(line: &[u8], upper: &str) -> Option<PathBuf> {
    // 36 35 98:0 /root /point options … - type source options
    let at = line.windows(3).position(|w| w == b" - ")?;
    let (front, back) = line.split_at_checked(at)?;
    let mut back = back.get(3..)?.split(|b| *b == b' ');
    let (kind, options) = (back.next()?, back.nth(1)?);
    let is_ours = |option: &[u8]| {
        option.strip_prefix(b"upperdir=").is_some_and(|path| path.ends_with(upper.as_bytes()))
    };
    if kind != b"overlay" || !options.split(|b| *b == b',').any(is_ours) {
        return None;
    }
    let point = front.split(|b| *b == b' ').nth(4)?;
    Some(OsString::from_vec(unescape(point)).into())
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
    }
}
