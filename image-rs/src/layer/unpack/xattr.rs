//! Which extended attributes of an archive are set (xattr(7)).
//!
//! `user.`, file capabilities and access control lists are content. Labels of SELinux belong to the policy of the machine that made the image,
//! and are left to the one that runs it. Everything else means something to this kernel that an image has no business to
//! say; `trusted.overlay.` and `user.overlay.` could redirect a directory of the mounted image.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use super::acl;

/// File capabilities, capabilities(7).
pub(super) const CAPABILITY: &[u8] = b"security.capability";

/// What to do with an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Set it; the file system must take it.
    Set,
    /// Set it if the file system has such attributes.
    User,
    /// Set it if it is a list that says what the mode says; the file system must take it.
    AccessList,
    /// Set it on a directory, when nothing will be made in it any more; the file system must take it.
    DefaultList,
    /// Leave it out.
    Ignore,
    /// Refuse the entry.
    Refuse(&'static str),
}

/// The verdict for files and directories.
pub(super) fn judge(name: &[u8]) -> Verdict {
    match name {
        b"security.selinux" => Verdict::Ignore,
        CAPABILITY | b"security.ima" => Verdict::Set,
        acl::ACCESS => Verdict::AccessList,
        acl::DEFAULT => Verdict::DefaultList,
        _ if name.contains(&0) || name.len() > 255 => Verdict::Refuse("an attribute has no proper name"),
        _ if name.starts_with(b"user.overlay.") || name.starts_with(b"trusted.overlay.") => {
            Verdict::Refuse("an attribute of overlay file systems is no content of an image")
        }
        _ if name.starts_with(b"user.") && name != b"user." => Verdict::User,
        _ => Verdict::Refuse(
            "an attribute is neither in user. nor a file capability nor an access control list",
        ),
    }
}

/// Names of the attributes of a file or directory that archives set.
pub(crate) fn content_of(file: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let mut list = vec![0; 64 << 10];
    let length = match rustix::fs::flistxattr(file, &mut list) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(error),
    };
    list.truncate(length);
    Ok(list.split(|b| *b == 0).filter(|name| is_content(name)).map(<[u8]>::to_vec).collect())
}

fn is_content(name: &[u8]) -> bool {
    matches!(judge(name), Verdict::Set | Verdict::User | Verdict::AccessList | Verdict::DefaultList)
}

/// Why an attribute of a link, pipe or device is refused; the kernel gives them none of those that are set.
pub(super) fn judge_elsewhere(name: &[u8]) -> Option<&'static str> {
    match judge(name) {
        Verdict::Ignore => None,
        Verdict::Refuse(why) => Some(why),
        Verdict::Set | Verdict::User | Verdict::AccessList | Verdict::DefaultList => {
            Some("only files and directories can have attributes")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_set_and_instructions_to_the_kernel_are_not() {
        for (name, verdict) in [
            (&b"user.mime_type"[..], Some(Verdict::User)),
            (b"security.capability", Some(Verdict::Set)),
            (b"security.ima", Some(Verdict::Set)),
            (b"security.selinux", Some(Verdict::Ignore)),
            (b"trusted.overlay.opaque", None),
            (b"trusted.overlay.redirect", None),
            (b"user.overlay.opaque", None),
            (b"trusted.x", None),
            (b"security.evm", None),
            (b"system.posix_acl_access", Some(Verdict::AccessList)),
            (b"system.posix_acl_default", Some(Verdict::DefaultList)),
            (b"system.posix_acl", None),
            (b"system.nfs4_acl", None),
            (b"system.sockprotoname", None),
            (b"user.", None),
            (b"user.a\0b", None),
            (b"nonsense", None),
        ] {
            match verdict {
                Some(verdict) => assert_eq!(judge(name), verdict, "{name:?}"),
                None => assert!(matches!(judge(name), Verdict::Refuse(_)), "{name:?}"),
            }
        }
        assert!(judge_elsewhere(b"user.x").is_some() && judge_elsewhere(b"security.selinux").is_none());
    }
}
