//! Unpacking one layer: everything that it can have, and everything that it must not do.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::Path,
};

use image_rs::{
    Compression, LayerFault, Limits, Silent,
    layer::{
        self, Input, Options, Run,
        unpack::{Applied, Form, Policy},
    },
};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::{
    archive::{Archive, Header},
    is_root, layout, snapshot,
};

/// Where an archive was unpacked, and what came of it. Beside it is a folder that nothing may touch.
struct Unpacking {
    folder: TempDir,
    result: Result<Applied, LayerFault>,
}

impl Unpacking {
    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("target")
    }

    fn stat(&self, name: &str) -> fs::Metadata {
        fs::symlink_metadata(self.path().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn refusal(&self) -> String {
        let fault = self.result.as_ref().unwrap_err();
        assert_eq!(fault.code(), "LAYER_ENTRY_REFUSED", "{fault}");
        fault.to_string()
    }
}

fn unpack_with(archive: &[u8], form: Form, options: &Options) -> Unpacking {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("target");
    fs::create_dir(&target).unwrap();
    fs::create_dir(folder.path().join("outside")).unwrap();
    fs::write(folder.path().join("outside/file"), "untouched").unwrap();
    let outside = snapshot::of(&folder.path().join("outside"));
    let (layer, blob) = layout::layer(Compression::None, archive);
    let target = OwnedFd::from(File::open(target).unwrap());
    let input = Input { number: 0, layer: &layer, blob: Box::new(std::io::Cursor::new(blob)), key: None };
    let result = layer::unpack_layer(input, target, form, &Run::new(options.clone()), &Silent);
    assert_eq!(snapshot::of(&folder.path().join("outside")), outside);
    let mut beside: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    beside.sort();
    assert_eq!(beside, ["outside", "target"]);
    Unpacking { folder, result }
}

fn unpack(archive: Archive, form: Form) -> Unpacking {
    unpack_with(&archive.end(), form, &Options::default())
}

fn start() -> Archive {
    Archive::default()
}

/// `security.capability` with cap_net_raw, as `setcap` writes it: revision 2, effective.
const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn all_kinds_of_entries_come_out_as_they_are() {
    if !is_root("all_kinds_of_entries_come_out_as_they_are") {
        return;
    }
    let header = |name: &str, kind, size| Header::new(name.as_bytes(), kind, size);
    let done = unpack(
        start()
            .member(header("./", b'5', 0).mode(0o711).owner(1, 2).mtime(1000), b"")
            .member(header("d/", b'5', 0).mode(0o3777).owner(3, 4).mtime(2000), b"")
            .pax(&[
                ("SCHILY.xattr.security.capability", CAPABILITY),
                ("SCHILY.xattr.user.k", b"v"),
                ("mtime", b"3000.123456789"),
            ])
            .member(header("d/tool", b'0', 4).mode(0o6755).owner(5, 6), b"data")
            .pax(&[("mtime", b"-5.5")])
            .member(header("d/old", b'2', 0).link(b"../../anywhere").owner(7, 8), b"")
            .pax(&[("SCHILY.xattr.user.k", b"v"), ("SCHILY.xattr.security.selinux", b"left out")])
            .member(header("again", b'1', 0).link(b"/d/tool").mode(0o6755).owner(5, 6), b"")
            .member(header("null", b'3', 0).mode(0o666).device(1, 3).mtime(5), b"")
            .member(header("disk", b'4', 0).mode(0o660).device(8, 1), b"")
            .member(header("pipe", b'6', 0).mode(0o622).owner(9, 10), b"")
            .file("implied/x/file", b"")
            .pax(&[("SCHILY.xattr.user.on", b"directory"), ("SCHILY.xattr.security.selinux", b"left out")])
            .member(header("last/", b'5', 0).mode(0o500).mtime(77), b""),
        Form::Listed,
    );
    let applied = done.result.as_ref().unwrap();
    let root = fs::metadata(done.path()).unwrap();
    assert_eq!((root.mode() & 0o7777, root.uid(), root.gid(), root.mtime()), (0o711, 1, 2, 1000));
    let is = done.stat("d");
    assert_eq!((is.mode() & 0o7777, is.uid(), is.gid(), is.mtime()), (0o3777, 3, 4, 2000), "set at the end");
    let is = done.stat("d/tool");
    assert_eq!((is.mode() & 0o7777, is.uid(), is.gid(), is.size(), is.nlink()), (0o6755, 5, 6, 4, 2));
    assert_eq!((is.mtime(), is.mtime_nsec()), (3000, 123_456_789));
    let attributes = snapshot::attributes(&done.path().join("d/tool"));
    assert_eq!(attributes["security.capability"], CAPABILITY);
    if applied.attributes_left_out == 0 {
        assert_eq!(attributes["user.k"], b"v");
        assert_eq!(snapshot::attributes(&done.path().join("last")).keys().collect::<Vec<_>>(), ["user.on"]);
    }
    let is = done.stat("d/old");
    assert_eq!(
        (is.is_symlink(), is.uid(), is.gid(), is.mtime(), is.mtime_nsec()),
        (true, 7, 8, -6, 500_000_000)
    );
    assert_eq!(fs::read_link(done.path().join("d/old")).unwrap(), Path::new("../../anywhere"));
    assert_eq!(done.stat("again").ino(), done.stat("d/tool").ino());
    let is = done.stat("null");
    assert_eq!((is.mode(), is.rdev(), is.mtime()), (0o020_666, rustix::fs::makedev(1, 3), 5));
    assert_eq!(done.stat("disk").mode(), 0o060_660);
    assert!(done.stat("pipe").file_type().is_fifo() && done.stat("pipe").mode() & 0o777 == 0o622);
    assert_eq!((done.stat("implied").mode() & 0o7777, done.stat("last").mode() & 0o7777), (0o755, 0o500));
    let implied: Vec<&[u8]> = applied.deletions.implied.iter().map(Vec::as_slice).collect();
    assert_eq!((implied, applied.entries), (vec![&b"implied"[..], b"implied/x"], 10));
}

#[test]
fn a_later_entry_takes_the_place_of_an_earlier_one_unless_that_is_a_directory() {
    let done = unpack(
        start()
            .file("a", b"first")
            .symlink("b", "a")
            .link("c", "a")
            .file("a", b"second")
            .file("b", b"file")
            .directory("d/")
            .directory("d/"),
        Form::Listed,
    );
    done.result.as_ref().unwrap();
    for (name, content) in [("a", "second"), ("b", "file"), ("c", "first")] {
        assert_eq!(fs::read_to_string(done.path().join(name)).unwrap(), content);
    }
    for (archive, why) in [
        (start().directory("d/").file("d", b""), "replace a directory"),
        (start().file("d/x", b"").symlink("d", "x"), "replace a directory"),
        (start().file("d", b"").directory("d/"), "something else"),
        (start().file("d", b"").file("d/x", b""), "something else"),
    ] {
        assert!(unpack(archive, Form::Listed).refusal().contains(why), "{why}");
    }
}

#[test]
fn nothing_leads_out_of_the_target() {
    let outside = "../outside";
    for (archive, why) in [
        (start().file("../outside/file", b"x"), "\"..\""),
        (start().file("a/../../outside/file", b"x"), "\"..\""),
        (start().file("/outside/file", b"x"), "absolute"),
        (start().symlink("s", outside).file("s/file", b"x"), "symbolic link"),
        (start().symlink("s", outside).directory("s/new/"), "symbolic link"),
        (start().symlink("s", outside).directory("s/"), "symbolic link"),
        (start().symlink("s", "..").symlink("t", "s/outside").file("t/file", b"x"), "symbolic link"),
        (start().directory("d/").symlink("d/s", ".").file("d/s/file", b"x"), "symbolic link"),
        (start().symlink("s", outside).file("s/.wh.file", b""), "symbolic link"),
        (start().symlink("s", outside).file("s/.wh..wh..opq", b""), "symbolic link"),
        (start().link("l", "../outside/file"), "\"..\""),
        (start().symlink("s", outside).link("l", "s/file"), "symbolic link"),
        (start().link("l", "/nowhere"), "not in this layer"),
        (start().link("l", "no/where"), "not in this layer"),
        (start().directory("d/").link("l", "d"), "cannot be linked to"),
        (start().link("l", "."), "cannot be linked to"),
        (start().file("l", b"").link("l", "l"), "itself"),
        (start().file("x/.wh.y/z", b""), "prefix"),
        (start().file(".wh.", b""), "names nothing"),
        (start().file("x/.wh...", b""), "names nothing"),
        (start().file(".wh..wh.plnk", b""), "unknown kind"),
        (start().file(".wh.x", b"content"), "empty file"),
        (start().symlink(".wh.x", "y"), "empty file"),
        (start().member(Header::new(b"x", b'3', 0).device(0, 0), b""), "0/0"),
        (start().member(&Header::new(b"./", b'0', 0), b""), ""),
    ] {
        for form in [Form::Listed, Form::Overlay] {
            let done = unpack(archive.clone(), form);
            if why.is_empty() {
                assert_eq!(done.result.as_ref().unwrap_err().code(), "LAYER_ARCHIVE_REFUSED");
            } else {
                assert!(done.refusal().contains(why), "{why}: {}", done.refusal());
            }
        }
    }
}

#[test]
fn attributes_that_steer_the_kernel_are_refused() {
    for name in [
        "trusted.overlay.redirect",
        "trusted.overlay.opaque",
        "user.overlay.whiteout",
        "trusted.x",
        "security.evm",
        "system.nfs4_acl",
    ] {
        let key = format!("SCHILY.xattr.{name}");
        let done = unpack(start().pax(&[(&key, b"y")]).file("a", b""), Form::Overlay);
        assert!(done.refusal().contains("attribute"), "{name}");
    }
    let done = unpack(start().pax(&[("SCHILY.xattr.user.a", b"y")]).symlink("a", "b"), Form::Overlay);
    assert!(done.refusal().contains("only files and directories"));
}

/// An access control list: tag, permissions and number of each entry (Linux, include/uapi/linux/posix_acl_xattr.h).
pub fn access_list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let entry = |(tag, bits, id): &(u16, u16, u32)| {
        [&tag.to_le_bytes()[..], &bits.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    [vec![2, 0, 0, 0], entries.iter().flat_map(entry).collect()].concat()
}

/// What journald's folder has: the group 4 may read.
pub fn journal(others: u16) -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    access_list(&[(1, 7, NOBODY), (4, 5, NOBODY), (8, 5, 4), (0x10, 5, NOBODY), (0x20, others, NOBODY)])
}

pub const ACCESS: &str = "SCHILY.xattr.system.posix_acl_access";
pub const DEFAULT: &str = "SCHILY.xattr.system.posix_acl_default";

#[test]
fn access_control_lists_are_kept_and_not_handed_down() {
    if !is_root("access_control_lists_are_kept_and_not_handed_down") {
        return;
    }
    let (five, four) = (journal(5), journal(4));
    let folder = |name: &str| Header::new(name.as_bytes(), b'5', 0).mode(0o2755).clone();
    let archive = start()
        .pax(&[(ACCESS, &five), (DEFAULT, &four)])
        .member(&folder("d/"), b"")
        .file("d/plain", b"p")
        .directory("d/sub/")
        .pax(&[(ACCESS, &four)])
        .member(Header::new(b"d/listed", b'0', 1).mode(0o4754), b"l")
        .pax(&[(ACCESS, &four)])
        .member(Header::new(b"d/again", b'1', 0).mode(0o4754).link(b"d/listed"), b"")
        // What a directory's last entry says counts.
        .pax(&[(DEFAULT, &four)])
        .member(&folder("e/"), b"")
        .member(&folder("e/"), b"");
    for form in [Form::Listed, Form::Overlay] {
        let done = unpack(archive.clone(), form);
        done.result.as_ref().unwrap();
        let seen = |name: &str| {
            let attributes = snapshot::attributes(&done.path().join(name));
            let get = |name: &str| attributes.get(name).cloned();
            (done.stat(name).mode() & 0o7777, get("system.posix_acl_access"), get("system.posix_acl_default"))
        };
        assert_eq!(seen("d"), (0o2755, Some(five.clone()), Some(four.clone())));
        assert_eq!(seen("d/plain"), (0o644, None, None));
        assert_eq!(seen("d/sub"), (0o755, None, None));
        assert_eq!(seen("d/listed"), (0o4754, Some(four.clone()), None));
        assert_eq!(seen("e"), (0o2755, None, None));
        assert_eq!((done.stat("d").mtime(), done.stat("d/listed").nlink()), (0, 2));
    }
    let damaged = &five[..five.len() - 1];
    let mode = |mode| Header::new(b"f", b'0', 0).mode(mode).clone();
    for (archive, why) in [
        (start().pax(&[(ACCESS, &five)]).member(&mode(0o754), b""), "list and its mode differ"),
        (start().pax(&[(ACCESS, &five)]).member(&mode(0o700), b""), "list and its mode differ"),
        (start().pax(&[(ACCESS, damaged)]).member(&mode(0o755), b""), "ends inside an entry"),
        (start().pax(&[(DEFAULT, &five)]).member(&mode(0o755), b""), "only a directory"),
        (start().pax(&[(DEFAULT, damaged)]).directory("d/"), "ends inside an entry"),
        (start().pax(&[(ACCESS, &five)]).symlink("s", "t"), "only files and directories"),
        (
            start()
                .file("f", b"")
                .pax(&[(ACCESS, &five)])
                .member(Header::new(b"l", b'1', 0).mode(0o644).link(b"f"), b""),
            "attribute than its target",
        ),
    ] {
        assert!(unpack(archive.clone(), Form::Listed).refusal().contains(why), "{why}");
    }
    // They are remembered until the end, in bounded memory.
    let many =
        (0..40).fold(start(), |all, number| all.pax(&[(DEFAULT, &five)]).directory(&format!("{number}/")));
    let limits = Limits { ledger: 4000, ..Limits::default() };
    let done = unpack_with(&many.end(), Form::Listed, &Options { limits, ..Options::default() });
    assert_eq!(done.result.unwrap_err().code(), "LAYER_LIMIT");
}

#[test]
fn what_the_last_entry_of_a_directory_says_is_all_that_counts() {
    if !is_root("what_the_last_entry_of_a_directory_says_is_all_that_counts") {
        return;
    }
    let (five, four) = (journal(5), journal(4));
    let folder = |name: &str, mode| Header::new(name.as_bytes(), b'5', 0).mode(mode).owner(3, 4).clone();
    let listed =
        |archive: Archive| archive.pax(&[(ACCESS, &five), (DEFAULT, &five), ("SCHILY.xattr.user.one", b"1")]);
    let archive = listed(Archive::default()).member(&folder("./", 0o755), b"");
    let archive = listed(archive).member(&folder("d/", 0o755), b"").file("d/.wh..wh..opq", b"");
    let archive = listed(archive).member(&folder("e/", 0o755), b"");
    // One has nothing any more, one another list, one what it had.
    let archive = archive
        .file("d/file", b"")
        .member(&folder("d/", 0o2700), b"")
        .pax(&[(ACCESS, &four)])
        .member(&folder("e/", 0o754), b"")
        .pax(&[("SCHILY.xattr.user.two", b"2")])
        .member(&folder("./", 0o711), b"");
    for form in [Form::Listed, Form::Overlay] {
        let done = unpack(archive.clone(), form);
        let left_out = done.result.as_ref().unwrap().attributes_left_out;
        let seen =
            |name: &str| (done.stat(name).mode() & 0o7777, snapshot::attributes(&done.path().join(name)));
        let is = |all: &[(&str, &[u8])]| {
            all.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect::<BTreeMap<_, _>>()
        };
        // What is said of the layers below is no attribute of the archive's.
        let opaque: &[(&str, &[u8])] = match form {
            Form::Listed => &[],
            Form::Overlay => &[("trusted.overlay.opaque", b"y")],
        };
        assert_eq!(seen("d"), (0o2700, is(opaque)), "{form:?}");
        assert_eq!(seen("e"), (0o754, is(&[("system.posix_acl_access", &four)])), "{form:?}");
        let two: &[(&str, &[u8])] = if left_out == 0 { &[("user.two", b"2")] } else { &[] };
        assert_eq!(seen(""), (0o711, is(two)), "{form:?}");
        assert!(done.path().join("d/file").exists());
    }
}

#[test]
fn what_is_deleted_below_a_replaced_directory_is_gone_already() {
    if !is_root("what_is_deleted_below_a_replaced_directory_is_gone_already") {
        return;
    }
    for form in [Form::Listed, Form::Overlay] {
        // umoci repack writes this where a file has taken the place of a directory.
        let archive = start().file("f", b"new").file("f/.wh.x", b"").file("f/sub/.wh.y", b"");
        let done = unpack(archive, form);
        assert!(done.result.as_ref().unwrap().deletions.whiteouts.is_empty());
        assert_eq!(snapshot::names(&done.path()), ["f"]);
        // And this where a link has: umoci unpack then deletes what the link points at.
        let done = unpack(start().symlink("l", "elsewhere").file("l/.wh.x", b""), form);
        assert!(done.refusal().contains("symbolic link"), "{}", done.refusal());
        // The other way round the file takes the place of what is deleted from.
        let done = unpack(start().file("f/.wh.x", b"").file("f/.wh..wh..opq", b"").file("f", b""), form);
        done.result.as_ref().unwrap();
        assert_eq!(snapshot::names(&done.path()), ["f"]);
        for archive in
            [start().file("f", b"").file("f/x", b""), start().file("f", b"").file("f/.wh..wh..opq", b"")]
        {
            unpack(archive, form).refusal();
        }
    }
}

#[test]
fn deletions_are_listed_or_written_as_overlays_read_them() {
    if !is_root("deletions_are_listed_or_written_as_overlays_read_them") {
        return;
    }
    let archive = start()
        .file("d/.wh.gone", b"")
        .file("e/.wh..wh..opq", b"")
        .file(".wh.again", b"")
        .file("again/x", b"")
        .file("again/.wh.said-twice", b"")
        .file(".wh.kept", b"")
        .file("kept", b"k")
        .file(".wh.twice", b"")
        .file(".wh.twice", b"")
        .file("late/.wh.x", b"")
        .file("late/.wh.directory", b"")
        .file("late/directory/.wh.y", b"")
        .file("late/directory/file", b"")
        .file("cleared/.wh.said-twice", b"")
        .file("cleared/below/.wh.said-twice", b"")
        .file("cleared/.wh..wh..opq", b"")
        .file("cleared/below/file", b"");
    let done = unpack(archive.clone(), Form::Listed);
    let deletions = &done.result.as_ref().unwrap().deletions;
    let all = "d/gone again again/said-twice kept twice twice late/x late/directory late/directory/y cleared/said-twice \
               cleared/below/said-twice";
    let listed = |paths: &[Vec<u8>]| paths.join(&b' ');
    assert_eq!(listed(&deletions.whiteouts), all.as_bytes());
    assert_eq!(deletions.opaque, [&b"e"[..], b"cleared"]);
    // A deletion alone makes no directory.
    let made = [
        "again",
        "again/x",
        "cleared",
        "cleared/below",
        "cleared/below/file",
        "kept",
        "late",
        "late/directory",
        "late/directory/file",
    ];
    assert_eq!(snapshot::names(&done.path()), made);

    let done = unpack(archive, Form::Overlay);
    let deletions = &done.result.as_ref().unwrap().deletions;
    assert_eq!(
        (listed(&deletions.whiteouts), listed(&deletions.opaque)),
        (b"d/gone".to_vec(), b"e".to_vec())
    );
    assert_eq!(deletions.marked.iter().collect::<Vec<_>>(), [b"late"]);
    let mut names = snapshot::names(&done.path());
    for name in ["late/x", "twice"] {
        assert!(done.stat(name).file_type().is_char_device() && done.stat(name).rdev() == 0, "{name}");
        names.retain(|made| made != name);
    }
    assert_eq!(names, made);
    for name in ["again", "late/directory", "cleared"] {
        let attributes = snapshot::attributes(&done.path().join(name));
        assert_eq!(attributes["trusted.overlay.opaque"], b"y", "{name}");
    }
    assert_eq!(fs::read(done.path().join("kept")).unwrap(), b"k");
    let made = [
        start().file("x", b""),
        start().directory("x/"),
        start().symlink("x", "y"),
        start().file("x/y", b""),
    ];
    for (archive, form) in made.iter().flat_map(|made| [(made, Form::Listed), (made, Form::Overlay)]) {
        let done = unpack(archive.clone().file(".wh.x", b""), form);
        assert!(done.refusal().contains("made before"), "{form:?}");
    }
    let done = unpack(start().file(".wh.x", b"").link("l", "x"), Form::Overlay);
    assert!(done.refusal().contains("cannot be linked to"));
}

/// Readers that take a hard link's header over, and those that do not, would see another file.
#[test]
fn a_hard_link_says_what_its_target_is() {
    if !is_root("a_hard_link_says_what_its_target_is") {
        return;
    }
    let file = || {
        start()
            .pax(&[("SCHILY.xattr.user.k", b"v")])
            .member(Header::new(b"file", b'0', 0).mode(0o640).owner(1, 2), b"")
            .symlink("symlink", "file")
    };
    let link = |edit: fn(&mut Header) -> &mut Header, attributes: &[(&str, &[u8])]| {
        let mut header = Header::new(b"link", b'1', 0);
        edit(header.mode(0o640).owner(1, 2).link(b"file"));
        let file = if attributes.is_empty() { file() } else { file().pax(attributes) };
        unpack(file.member(&header, b""), Form::Listed)
    };
    for attributes in [&[][..], &[("SCHILY.xattr.user.k", &b"v"[..])]] {
        link(|header| header, attributes).result.unwrap();
    }
    link(|header| header.set(157, b"symlink").owner(0, 0).mode(0o777), &[]).result.unwrap();
    for (edit, attributes) in [
        ((|header| header.mode(0o4640)) as fn(&mut Header) -> &mut Header, &[][..]),
        (|header| header.owner(0, 2), &[]),
        (|header| header.owner(1, 0), &[]),
        (|header| header.set(157, b"symlink").mode(0o777), &[]),
        (|header| header, &[("SCHILY.xattr.user.k", &b"w"[..])]),
        (|header| header, &[("SCHILY.xattr.security.capability", CAPABILITY)]),
        (|header| header, &[("SCHILY.xattr.trusted.overlay.opaque", b"y")]),
    ] {
        assert!(link(edit, attributes).refusal().contains("another owner, mode or attribute"));
    }
}

#[test]
fn the_policy_takes_privileges_away() {
    if !is_root("the_policy_takes_privileges_away") {
        return;
    }
    let device = start().member(Header::new(b"null", b'3', 0).device(1, 3), b"").end();
    let refuse =
        Options { policy: Policy { refuse_devices: true, ..Policy::default() }, ..Options::default() };
    assert!(unpack_with(&device, Form::Listed, &refuse).refusal().contains("device nodes"));
    let drop =
        Options { policy: Policy { drop_privileges: true, ..Policy::default() }, ..Options::default() };
    let tool = start()
        .pax(&[("SCHILY.xattr.security.capability", CAPABILITY)])
        .member(Header::new(b"tool", b'0', 0).mode(0o7755), b"")
        .end();
    let done = unpack_with(&tool, Form::Listed, &drop);
    assert_eq!(done.stat("tool").mode() & 0o7777, 0o1755);
    assert!(snapshot::attributes(&done.path().join("tool")).is_empty());
}

#[test]
fn every_bound_is_named_when_it_is_reached() {
    let deep = (0..9).map(|i| i.to_string()).collect::<Vec<_>>().join("/");
    let long = ["directory0"; 8].join("/");
    let limits = Limits { depth: 8, ledger: 1000, entries: 60, bytes: 50_000, ..Limits::default() };
    let options = Options { limits, ..Options::default() };
    unpack_with(&start().file(&deep, b"").end(), Form::Listed, &options).result.unwrap();
    let deeper = start().file(&format!("{deep}/x"), b"").end();
    let fault = unpack_with(&deeper, Form::Listed, &options).result.unwrap_err();
    let told = (fault.code(), fault.to_string(), fault.hint().contains("image.max_depth"));
    assert_eq!(told, ("LAYER_LIMIT", "more than 8 directories around an entry".to_owned(), true));
    let many = |what: &dyn Fn(u32) -> Archive, count| (0..count).flat_map(|i| what(i).0).collect::<Vec<u8>>();
    for (archive, what) in [
        (
            many(&|i| start().directory(&format!("directory{i}/")), 50),
            "bytes of names of directories and deletions",
        ),
        (
            many(&|i| start().file(&format!(".wh.a-name-that-is-gone-{i}"), b""), 50),
            "bytes of names of directories and deletions",
        ),
        (start().file(&format!("{long}/x"), b"").end(), "bytes of names of directories and deletions"),
        (many(&|_| start().file("a", b""), 61), "entries"),
        (start().file("a", &[0; 50_000]).0, "bytes when uncompressed"),
    ] {
        let done = unpack_with(&archive, Form::Listed, &options);
        let fault = done.result.unwrap_err();
        assert_eq!(fault.code(), "LAYER_LIMIT", "{fault}");
        assert!(fault.to_string().ends_with(what), "{fault}");
    }
}

/// Names and targets that meet each other and lead astray.
fn hostile_name() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "a",
        "b",
        "c",
        "..",
        ".",
        ".wh.a",
        ".wh..wh..opq",
        "outside",
        "target",
        "file",
    ]);
    proptest::collection::vec(part, 1..4).prop_map(|parts| parts.join("/"))
}

fn hostile_archive() -> impl Strategy<Value = Archive> {
    let member = (hostile_name(), hostile_name(), prop::sample::select(b"0012255".to_vec()), any::<bool>());
    proptest::collection::vec(member, 1..9).prop_map(|members| {
        members.into_iter().fold(Archive::default(), |archive, (name, target, kind, up)| {
            let target = if up { format!("../{target}") } else { target };
            match kind {
                b'0' => archive.file(&name, if name.contains(".wh.") { b"" } else { b"hostile" }),
                b'1' => archive.link(&name, &target),
                b'2' => archive.symlink(&name, &target),
                _ => archive.directory(&format!("{name}/")),
            }
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// What is outside is compared in [`unpack_with`].
    #[test]
    fn no_archive_touches_what_is_outside(archive in hostile_archive(), overlay in any::<bool>()) {
        let form = if overlay { Form::Overlay } else { Form::Listed };
        if let Err(fault) = unpack(archive, form).result {
            prop_assert_eq!(fault.code(), "LAYER_ENTRY_REFUSED", "{}", fault);
        }
    }
}
