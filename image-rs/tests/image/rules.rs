//! The rules of the tar reader: each broken once, each kept once, and the recorded archives.

use image_rs::{
    Limits,
    layer::tar::{Entry, Event, Kind, Reader, Refusal, Rule, Time},
};
use proptest::prelude::*;

use crate::archive::{Archive, Header, record};

/// An entry and the bytes of its file; holes are zeros.
pub type Member = (Entry, Vec<u8>);

/// Reads an archive given in pieces of the lengths in `cuts`, again and again.
pub fn read_in(archive: &[u8], cuts: &[usize]) -> Result<Vec<Member>, Refusal> {
    let mut reader = Reader::new(Limits { bytes: 1 << 24, ..Limits::default() });
    let mut members: Vec<Member> = Vec::new();
    let mut open = false;
    let mut rest = archive;
    let mut cuts = cuts.iter().cycle();
    while !rest.is_empty() {
        let (mut piece, others) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
        rest = others;
        while let Some(event) = reader.next(&mut piece)? {
            match event {
                Event::Entry(entry) => {
                    assert!(!open, "a file has an end");
                    open = matches!(entry.kind, Kind::File { .. });
                    members.push((entry, Vec::new()));
                }
                Event::Data { offset, bytes } => {
                    let data = &mut members.last_mut().unwrap().1;
                    let offset = usize::try_from(offset).unwrap();
                    assert!(open && offset >= data.len() && !bytes.is_empty());
                    data.resize(offset, 0);
                    data.extend(bytes);
                }
                Event::FileEnd => {
                    assert!(std::mem::take(&mut open));
                    let (entry, data) = members.last_mut().unwrap();
                    let Kind::File { size } = entry.kind else { panic!("{entry:?}") };
                    assert!(data.len() as u64 <= size);
                    data.resize(usize::try_from(size).unwrap(), 0);
                }
            }
        }
        assert!(piece.is_empty(), "everything is taken");
    }
    reader.finish()?;
    assert!(!open);
    Ok(members)
}

pub fn read(archive: &[u8]) -> Result<Vec<Member>, Refusal> {
    read_in(archive, &[usize::MAX])
}

fn rule(archive: &[u8]) -> Rule {
    read(archive).unwrap_err().rule
}

fn names(archive: &[u8]) -> Vec<String> {
    read(archive).unwrap().into_iter().map(|(entry, _)| String::from_utf8(entry.name).unwrap()).collect()
}

fn one(archive: &[u8]) -> Member {
    let [member] = <[Member; 1]>::try_from(read(archive).unwrap()).unwrap();
    member
}

fn start() -> Archive {
    Archive::default()
}

fn header(name: &str, kind: u8) -> Header {
    Header::new(name.as_bytes(), kind, 0)
}

#[test]
fn the_recorded_archives_are_read_or_refused_as_their_table_says() {
    let Some(folder) = cc_vectors::folder("tar") else { return };
    let read = |name: &str| read(&std::fs::read(folder.join(format!("{name}.tar"))).unwrap());
    let accepted: [(&str, &[(&str, usize)]); 7] = [
        ("ok_plain", &[("a", 5), ("b", 1)]),
        ("base256_size", &[("outer", 4), ("after", 1)]),
        ("pax_size_overrides_zero", &[("outer", 1024), ("after", 1)]),
        ("pax_size_overrides_nonzero", &[("outer", 1024), ("after", 1)]),
        ("pax_size_then_gnu_longname", &[("longname", 1024), ("after", 1)]),
        ("no_end_marker", &[("a", 1)]),
        ("entry_after_end", &[("a", 1)]),
    ];
    for (name, expected) in accepted {
        let members = read(name).unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
        let seen: Vec<_> = members
            .iter()
            .map(|(entry, data)| (std::str::from_utf8(&entry.name).unwrap(), data.len()))
            .collect();
        assert_eq!(seen, expected, "{name}");
    }
    let value = |key: &str| Rule::PaxValue(key.into());
    let table = [
        ("single_zero_block_then_entry", Rule::LoneZeroBlock),
        ("pax_bad_record_length", Rule::PaxRecord),
        ("pax_size_non_decimal", value("size")),
        ("pax_duplicate_path", Rule::PaxDuplicate("path".into())),
        ("pax_two_x_headers", Rule::ExtendedTwice),
        ("pax_nul_in_path", Rule::NulInName),
        ("gnu_longname_then_pax", Rule::NameTwice),
        ("global_pax_path", Rule::GlobalPax("path".into())),
        ("empty_name", Rule::EmptyName),
        ("bad_checksum", Rule::Checksum),
        ("size_octal_trailing_garbage", Rule::Number("size")),
        ("base256_negative_size", Rule::Negative("size")),
        ("dir_with_size", Rule::SizeWithoutData),
        ("symlink_with_size", Rule::SizeWithoutData),
        ("hardlink_with_size", Rule::SizeWithoutData),
        ("truncated_data", Rule::Truncated),
    ];
    for (name, expected) in table {
        assert_eq!(read(name).unwrap_err().rule, expected, "{name}");
    }
}

#[test]
fn each_rule_about_headers() {
    let gnu = |h: &mut Header| h.set(257, b"ustar  \0").clone();
    let cases: Vec<(&str, Archive, Rule)> = vec![
        (
            "no magic but a prefix",
            start().member(header("a", b'0').set(257, b"\0\0\0\0\0\0\0\0").set(345, b"p"), b""),
            Rule::Magic,
        ),
        ("another magic", start().member(header("a", b'0').set(257, b"ustar\x0001"), b""), Rule::Magic),
        ("the format of star", start().member(header("a", b'0').set(508, b"tar\0"), b""), Rule::Magic),
        (
            "GNU's magic with a prefix",
            start().member(&gnu(header("a", b'0').set(345, b"prefix")), b""),
            Rule::Magic,
        ),
        ("a multi-volume entry", start().member(&header("a", b'M'), b""), Rule::Type(b'M')),
        ("a contiguous file", start().member(&header("a", b'7'), b""), Rule::Type(b'7')),
        ("a file that ends in a slash", start().file("a/", b""), Rule::TrailingSlash),
        ("a link that ends in a slash", start().symlink("a/", "b"), Rule::TrailingSlash),
        ("a link to nowhere", start().symlink("a", ""), Rule::EmptyTarget),
        ("a prefix alone", start().member(header("", b'0').set(345, b"p"), b""), Rule::EmptyName),
        (
            "an owner of 32 ones",
            start().member(header("a", b'0').set(108, b"\x80\0\0\0\xff\xff\xff\xff"), b""),
            Rule::OutOfRange("uid"),
        ),
        (
            "a group of 33 bits",
            start().member(header("a", b'0').set(116, b"\x80\0\0\x01\0\0\0\0"), b""),
            Rule::OutOfRange("gid"),
        ),
        (
            "a device of 13 bits",
            start().member(header("a", b'3').device(0x1000, 0), b""),
            Rule::OutOfRange("device major"),
        ),
        (
            "a fifo with data",
            start().member(header("a", b'6').octal(124, 12, 4), b"data"),
            Rule::SizeWithoutData,
        ),
        (
            "a device with pax data",
            start().pax(&[("size", b"4")]).member(&header("a", b'4'), b"data"),
            Rule::SizeWithoutData,
        ),
    ];
    for (what, archive, expected) in cases {
        assert_eq!(rule(&archive.end()), expected, "{what}");
    }
}

#[test]
fn each_rule_about_extended_headers() {
    let x = |records: &[(&str, &[u8])]| start().pax(records).file("a", b"");
    let value = |key: &str| Rule::PaxValue(key.into());
    let duplicate = Rule::PaxDuplicate("mtime".into());
    let cases: Vec<(&str, Archive, Rule)> = vec![
        ("an empty path", x(&[("path", b"")]), Rule::EmptyName),
        ("an empty size", x(&[("size", b"")]), value("size")),
        ("a signed owner", x(&[("uid", b"+1")]), value("uid")),
        ("a time with an exponent", x(&[("mtime", b"1e9")]), value("mtime")),
        ("a time twice", x(&[("mtime", b"1"), ("mtime", b"1")]), duplicate),
        ("an unknown character set", x(&[("hdrcharset", b"KOI8-R")]), value("hdrcharset")),
        ("an attribute without a name", x(&[("SCHILY.xattr.", b"x")]), value("SCHILY.xattr.")),
        ("an attribute without a value", x(&[("SCHILY.xattr.user.a", b"")]), value("SCHILY.xattr.user.a")),
        ("the size of star", x(&[("SCHILY.realsize", b"9")]), Rule::PaxKeyword("SCHILY.realsize".into())),
        ("an unknown sparse keyword", x(&[("GNU.sparse.x", b"9")]), value("GNU.sparse.x")),
        (
            "a sparse version without a map",
            x(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0")]),
            Rule::SparseMap,
        ),
        ("a record without a line feed", start().extended(b'x', b"8 path=b").file("a", b""), Rule::PaxRecord),
        ("NULs after the records", start().extended(b'x', b"9 path=b\n\0").file("a", b""), Rule::PaxRecord),
        (
            "a GNU name twice",
            start().extended(b'L', b"n\0").extended(b'L', b"m\0").file("a", b""),
            Rule::ExtendedTwice,
        ),
        ("a GNU name with a NUL", start().extended(b'L', b"n\0m\0").file("a", b""), Rule::NulInName),
        ("an empty GNU name", start().extended(b'L', b"\0").file("a", b""), Rule::EmptyName),
        (
            "a GNU target and a pax one",
            start().extended(b'K', b"n\0").pax(&[("linkpath", b"m")]).symlink("a", "b"),
            Rule::NameTwice,
        ),
        (
            "a global header before the entry",
            start().extended(b'L', b"n\0").extended(b'g', b"").file("a", b""),
            Rule::ExtendedTwice,
        ),
        (
            "global attributes",
            start().extended(b'g', &record("SCHILY.xattr.user.a", b"b")).file("a", b""),
            Rule::GlobalPax("SCHILY.xattr.user.a".into()),
        ),
        ("a header for nothing", start().pax(&[("path", b"b")]), Rule::ExtendedWithoutEntry),
        (
            "a long header",
            start().extended(b'x', &record("comment", &vec![b'a'; 1 << 20])).file("a", b""),
            Rule::Limit { what: "bytes in an extended header", limit: 1 << 20 },
        ),
        ("a long name", x(&[("path", &[b'a'; 4096])]), Rule::Limit { what: "bytes in a name", limit: 4095 }),
        (
            "a long GNU name",
            start().extended(b'L', &[b'a'; 4097]).file("a", b""),
            Rule::Limit { what: "bytes in an extended header", limit: 4096 },
        ),
        (
            "a long target",
            start().pax(&[("linkpath", &[b'a'; 4096])]).symlink("a", "b"),
            Rule::Limit { what: "bytes in a name", limit: 4095 },
        ),
    ];
    for (what, archive, expected) in cases {
        assert_eq!(rule(&archive.clone().end()), expected, "{what}");
    }
    assert_eq!(
        rule(&start().pax(&[("path", b"b")]).0),
        Rule::ExtendedWithoutEntry,
        "also without an end marker"
    );
}

#[test]
fn what_extended_headers_say_holds_for_the_next_entry_alone() {
    let archive = start()
        .extended(b'g', &record("comment", b"made by git"))
        .pax(&[
            ("path", b"one"),
            ("uid", b"4000000000"),
            ("gid", b"7"),
            ("mtime", b"-1.25"),
            ("atime", b"x"),
            ("SCHILY.xattr.user.k", b"v\0w"),
            ("LIBARCHIVE.xattr.user.k", b"dgB3"),
            ("comment", b""),
        ])
        .member(header("short", b'0').mode(0o104_755), b"")
        .extended(b'K', b"target\0")
        .extended(b'L', b"two")
        .symlink("short", "short")
        .file("three", b"3")
        .end();
    let members = read(&archive).unwrap();
    let entry = &members[0].0;
    assert_eq!(
        (entry.name.as_slice(), entry.uid, entry.gid, entry.mode),
        (&b"one"[..], 4_000_000_000, 7, 0o4755)
    );
    assert_eq!(entry.mtime, Time { seconds: -2, nanoseconds: 750_000_000 });
    assert_eq!(entry.xattrs, [(b"user.k".to_vec(), b"v\0w".to_vec())]);
    let entry = &members[1].0;
    assert_eq!(
        (entry.name.as_slice(), &entry.kind),
        (&b"two"[..], &Kind::Symlink { target: b"target".to_vec() })
    );
    let (entry, data) = &members[2];
    assert_eq!((entry.name.as_slice(), data.as_slice(), entry.uid), (&b"three"[..], &b"3"[..], 0));
}

#[test]
fn names_have_prefixes_in_ustar_and_any_bytes() {
    let archive = start().member(header("name", b'0').set(345, b"some/where"), b"").end();
    assert_eq!(names(&archive), ["some/where/name"]);
    let full = "x".repeat(100);
    assert_eq!(names(&start().file(&full, b"").end()), [full]);
    let (entry, _) = one(&start().member(&Header::new(b"\xff\xfe\n", b'0', 0), b"").end());
    assert_eq!(entry.name, b"\xff\xfe\n");
    let old = start().member(header("a", b'\0').set(257, &[0; 8]), b"").end();
    assert_eq!(names(&old), ["a"]);
}

#[test]
fn the_end_is_two_blocks_of_zeros_or_the_end_of_the_stream() {
    let file = start().file("a", b"data");
    for (archive, what) in [
        (file.clone().0, "no marker"),
        (file.clone().blocks(1).0, "half a marker"),
        (file.clone().end(), "a marker"),
        (file.clone().blocks(7).0, "a long marker"),
        ([file.clone().end(), b"anything".to_vec()].concat(), "something behind it"),
        (file.clone().blocks(2).file("b", b"").0, "an entry behind it"),
    ] {
        assert_eq!(names(&archive), ["a"], "{what}");
    }
    assert_eq!(read(b"").unwrap(), []);
    let data = 512 + b"data".len();
    for cut in 1..data {
        assert_eq!(rule(&file.0[..cut]), Rule::Truncated, "cut at {cut}");
    }
    for cut in data..file.0.len() {
        assert_eq!(names(&file.0[..cut]), ["a"], "the zeros behind the data, cut at {cut}");
    }
    let long_name = start().extended(b'L', b"name\0");
    assert_eq!(rule(&long_name.0[..512 + 5]), Rule::ExtendedWithoutEntry);
}

fn gnu_sparse(pieces: &[(u64, u64)], extended: bool, real: u64, stored: u64) -> Header {
    let mut header = Header::new(b"sparse", b'S', stored);
    header.set(257, b"ustar  \0").octal(483, 12, real).set(482, &[u8::from(extended)]);
    for (i, (offset, length)) in pieces.iter().enumerate() {
        header.octal(386 + 24 * i, 12, *offset).octal(398 + 24 * i, 12, *length);
    }
    header
}

#[test]
fn sparse_files_have_holes_in_every_form() {
    let expected = [&[0; 512][..], b"one", &[0; 509], b"two", &[0; 997]].concat();
    let pieces = [(512, 3), (1024, 3), (2024, 0)];
    let map = "512,3,1024,3,2024,0";
    let data = b"onetwo";
    let in_data = |count: u64| {
        let text = format!("{count}\n512\n3\n1024\n3\n2024\n0\n");
        [text.as_bytes(), &vec![0; 512 - text.len()], data].concat()
    };
    let version_0_0 = [
        ("GNU.sparse.size", &b"2024"[..]),
        ("GNU.sparse.numblocks", b"3"),
        ("GNU.sparse.offset", b"512"),
        ("GNU.sparse.numbytes", b"3"),
        ("GNU.sparse.offset", b"1024"),
        ("GNU.sparse.numbytes", b"3"),
        ("GNU.sparse.offset", b"2024"),
        ("GNU.sparse.numbytes", b"0"),
    ];
    let version_0_1 = [
        ("GNU.sparse.size", &b"2024"[..]),
        ("GNU.sparse.numblocks", b"3"),
        ("GNU.sparse.map", map.as_bytes()),
        ("GNU.sparse.name", b"sparse"),
    ];
    let version_1_0 = [
        ("GNU.sparse.major", &b"1"[..]),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"sparse"),
        ("GNU.sparse.realsize", b"2024"),
    ];
    let mut continuation = [0; 512];
    continuation[..24].copy_from_slice(b"00000003750\x0000000000000\0");
    let mut continued = Archive::default().member(&gnu_sparse(&pieces[..2], true, 2024, 6), b"");
    continued.0.extend(continuation);
    continued.0.extend(data);
    continued.0.resize(continued.0.len().next_multiple_of(512), 0);
    for (form, archive) in [
        ("GNU", start().member(&gnu_sparse(&pieces, false, 2024, 6), data)),
        ("GNU, continued", continued),
        ("0.0", start().pax(&version_0_0).file("sparse", data)),
        ("0.1", start().pax(&version_0_1).file("ignored", data)),
        ("1.0", start().pax(&version_1_0).file("ignored", &in_data(3))),
    ] {
        let archive = archive.file("next", b"!").end();
        for cut in [usize::MAX, 1, 7, 512] {
            let members = read_in(&archive, &[cut]).unwrap_or_else(|refusal| panic!("{form}: {refusal}"));
            assert_eq!(members[0].0.name, b"sparse", "{form}");
            assert_eq!(members[0].1, expected, "{form}");
            assert_eq!(members[1].1, b"!", "{form}");
        }
    }
    let mut twice = version_1_0.to_vec();
    twice.push(("GNU.sparse.map", b"0,1"));
    for (what, archive) in [
        ("pieces out of order", start().member(&gnu_sparse(&[(1024, 3), (512, 3)], false, 2024, 6), data)),
        (
            "pieces one over the other",
            start().member(&gnu_sparse(&[(512, 3), (514, 3)], false, 2024, 6), data),
        ),
        ("pieces beyond the end", start().member(&gnu_sparse(&[(512, 3), (2022, 3)], false, 2024, 6), data)),
        ("more data than pieces", start().member(&gnu_sparse(&[(512, 3)], false, 2024, 6), data)),
        ("less data than pieces", start().member(&gnu_sparse(&[(512, 9)], false, 2024, 6), data)),
        ("a hole in the map", start().member(gnu_sparse(&[(512, 6)], false, 2024, 6).set(434, b"1"), data)),
        ("no GNU magic", start().member(gnu_sparse(&pieces, false, 2024, 6).set(257, b"ustar\x0000"), data)),
        ("two maps", start().pax(&twice).file("a", &in_data(3))),
        ("a count that is too small", start().pax(&version_1_0).file("a", &in_data(2))),
        ("a count that is too large", start().pax(&version_1_0).file("a", &in_data(4))),
        (
            "a wrong number of blocks",
            start()
                .pax(&[
                    ("GNU.sparse.size", b"2024"),
                    ("GNU.sparse.numblocks", b"2"),
                    ("GNU.sparse.map", map.as_bytes()),
                ])
                .file("a", data),
        ),
        ("a directory", start().pax(&version_0_1).directory("a/")),
        (
            "a length left empty, where readers differ on whether the map ends",
            start().member(
                gnu_sparse(&[(0, 512), (512, 0), (1024, 512)], false, 1536, 1024).set(398 + 24, &[0; 12]),
                &[b'x'; 1024],
            ),
        ),
    ] {
        assert_eq!(rule(&archive.end()), Rule::SparseMap, "{what}");
    }
}

#[test]
fn entries_and_bytes_are_bounded() {
    let archive = start().file("a", b"1234").file("b", b"1234").end();
    let limited = |limits: Limits| {
        let mut reader = Reader::new(limits);
        let mut rest = archive.as_slice();
        loop {
            match reader.next(&mut rest) {
                Ok(Some(_)) => {}
                Ok(None) => return reader.finish().err(),
                Err(refusal) => return Some(refusal),
            }
        }
    };
    assert_eq!(limited(Limits { entries: 2, bytes: 8, name: 1, ..Limits::default() }), None);
    let refusal = |rule| Some(Refusal { rule, at: 1024 });
    let entries = Limits { entries: 1, ..Limits::default() };
    assert_eq!(limited(entries), refusal(Rule::Limit { what: "entries", limit: 1 }));
    let bytes = Limits { bytes: 7, ..Limits::default() };
    assert_eq!(limited(bytes), refusal(Rule::Limit { what: "bytes in its files", limit: 7 }));
}

#[test]
fn what_stands_before_an_entry_is_none() {
    let comment = |archive: Archive, kind| archive.extended(kind, &record("comment", b"x"));
    let reading = |archive: Archive, entries| {
        let mut reader = Reader::new(Limits { entries, ..Limits::default() });
        let (archive, mut read) = (archive.end(), 0);
        let mut rest = archive.as_slice();
        loop {
            match reader.next(&mut rest) {
                Ok(Some(event)) => read += usize::from(matches!(event, Event::Entry(_))),
                Ok(None) => return Ok(read),
                Err(refusal) => return Err(refusal.rule),
            }
        }
    };
    let both = (0..2).fold(start(), |all, number| comment(all, b'x').file(&number.to_string(), b""));
    assert_eq!(reading(both.clone(), 2), Ok(2));
    assert_eq!(reading(both, 1), Err(Rule::Limit { what: "entries", limit: 1 }));
    // A header for all entries needs none, and there may not be any number of them.
    let global = |number| (0..number).fold(start(), |all, _| comment(all, b'g')).file("f", b"");
    assert_eq!(reading(global(6), 2), Ok(1));
    assert_eq!(reading(global(7), 2), Err(Rule::Limit { what: "extended headers", limit: 6 }));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let _ = read(&bytes);
    }

    #[test]
    fn how_the_stream_is_cut_makes_no_difference(
        archive in crate::oracles::any_archive(),
        cuts in proptest::collection::vec(1usize..1500, 1..6),
    ) {
        prop_assert_eq!(read_in(&archive, &cuts), read(&archive));
    }
}
