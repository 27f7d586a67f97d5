//! The tar reader beside two others: GNU tar and the crate `tar`.
//!
//! What is well formed all three read alike. What is not, ours may refuse; what it accepts, the others must read the same.

use std::{
    fs,
    io::{Read, Seek, Write},
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Stdio},
};

use image_rs::layer::tar::Kind;
use proptest::prelude::*;

use crate::{
    archive::{Archive, Header},
    rules::{Member, read},
};

/// Name, type flag, target or nothing, data.
type Seen = (Vec<u8>, char, Vec<u8>, Vec<u8>);

fn ours(members: &[Member]) -> Vec<Seen> {
    let seen = |(entry, data): &Member| {
        let (kind, target) = match &entry.kind {
            Kind::File { .. } => ('f', Vec::new()),
            Kind::Directory => ('d', Vec::new()),
            Kind::Symlink { target } => ('s', target.clone()),
            Kind::Link { target } => ('l', target.clone()),
            Kind::CharDevice { .. } => ('c', Vec::new()),
            Kind::BlockDevice { .. } => ('b', Vec::new()),
            Kind::Fifo => ('p', Vec::new()),
        };
        (entry.name.clone(), kind, target, data.clone())
    };
    members.iter().map(seen).collect()
}

fn theirs(archive: &[u8]) -> std::io::Result<Vec<Seen>> {
    let mut all = Vec::new();
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        let kind = match entry.header().entry_type() {
            tar::EntryType::Regular | tar::EntryType::GNUSparse => 'f',
            tar::EntryType::Directory => 'd',
            tar::EntryType::Symlink => 's',
            tar::EntryType::Link => 'l',
            tar::EntryType::Char => 'c',
            tar::EntryType::Block => 'b',
            tar::EntryType::Fifo => 'p',
            tar::EntryType::XGlobalHeader => continue,
            other => panic!("{other:?}"),
        };
        let target = match kind {
            's' | 'l' => entry.link_name_bytes().map(Vec::from).unwrap_or_default(),
            _ => Vec::new(),
        };
        let mut data = Vec::new();
        entry.read_to_end(&mut data)?;
        all.push((entry.path_bytes().to_vec(), kind, target, data));
    }
    Ok(all)
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[a-c]{1,3}(/[a-c]{1,3}){0,2}", 1 => "[d-f]{90,160}", 1 => "[a-z]{40}/[a-z]{60}/[a-z]{60}"]
}

/// One member as a writer of today makes it, the way for long names chosen by `gnu`.
fn member() -> impl Strategy<Value = Archive> {
    let data = proptest::collection::vec(any::<u8>(), 0..700);
    (name(), prop::sample::select(b"0512346gx".to_vec()), name(), data, any::<bool>()).prop_map(
        |(name, kind, target, data, gnu)| {
            let mut archive = Archive::default();
            let named = match kind {
                b'5' => format!("{name}/"),
                _ => name,
            };
            match kind {
                b'g' => return archive.extended(b'g', b"13 comment=x\n"),
                b'x' => {
                    return archive
                        .pax(&[("size", data.len().to_string().as_bytes()), ("mtime", b"1.5")])
                        .member(&Header::new(&named.as_bytes()[..named.len().min(100)], b'0', 0), &data);
                }
                _ => {}
            }
            let is_link = matches!(kind, b'1' | b'2');
            if gnu {
                if named.len() > 100 {
                    archive = archive.extended(b'L', format!("{named}\0").as_bytes());
                }
                if is_link && target.len() > 100 {
                    archive = archive.extended(b'K', format!("{target}\0").as_bytes());
                }
            } else if named.len() > 100 || (is_link && target.len() > 100) {
                let mut records = vec![("path", named.as_bytes())];
                if is_link {
                    records.push(("linkpath", target.as_bytes()));
                }
                archive = archive.pax(&records);
            }
            let data = if kind == b'0' { data } else { Vec::new() };
            let mut header = Header::new(named.as_bytes(), kind, data.len() as u64);
            if is_link {
                header.link(&target.as_bytes()[..target.len().min(100)]);
            }
            if matches!(kind, b'3' | b'4') {
                header.device(1, 3);
            }
            archive.member(&header, &data)
        },
    )
}

fn well_formed() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(member(), 0..5).prop_map(|members| {
        let members: Vec<u8> = members.into_iter().flat_map(|archive| archive.0).collect();
        Archive(members).end()
    })
}

/// A well-formed archive with some bytes of its headers changed and their checksums put right.
pub fn any_archive() -> impl Strategy<Value = Vec<u8>> {
    let edit = (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>());
    (well_formed(), proptest::collection::vec(edit, 0..3)).prop_map(|(mut archive, edits)| {
        for (block, at, byte) in edits {
            let block = 512 * block.index(archive.len() / 512);
            let mut header = Header(archive[block..block + 512].try_into().unwrap());
            let is_header = header.sealed()[148..156] == header.0[148..156];
            header.0[at.index(512)] = byte;
            let changed = if is_header { header.sealed() } else { header.0 };
            archive[block..block + 512].copy_from_slice(&changed);
        }
        archive
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn well_formed_archives_are_read_like_the_crate_does(archive in well_formed()) {
        prop_assert_eq!(ours(&read(&archive).unwrap()), theirs(&archive).unwrap());
    }

    #[test]
    fn what_is_accepted_the_crate_reads_the_same(archive in any_archive()) {
        if let Ok(members) = read(&archive) {
            prop_assert_eq!(ours(&members), theirs(&archive).unwrap());
        }
    }
}

/// What GNU tar lists, and all contents together: names as C writes them, without slashes at the end.
fn of_gnu_tar(archive: &[u8]) -> Result<(Vec<String>, Vec<u8>), String> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(archive).unwrap();
    let mut run = |arguments: &[&str]| {
        file.rewind().unwrap();
        let mut tar = Command::new("tar");
        // Its zone and language are not this test's.
        tar.args(arguments).env("LC_ALL", "C").env("TZ", "UTC").stdin(Stdio::from(file.try_clone().unwrap()));
        let out = tar.output().unwrap();
        match out.status.success() {
            true => Ok(out.stdout),
            false => Err(String::from_utf8_lossy(&out.stderr).into_owned()),
        }
    };
    let list = run(&["-tvf", "-", "--numeric-owner", "--full-time", "--quoting-style=c"])?;
    let content = run(&["-xOf", "-"])?;
    let line = |line: &str| {
        // -rw-r--r-- 0/0   12 1970-01-01 00:00:00 "name" -> "target"
        let (front, names) = line.split_once(" \"").unwrap_or_else(|| panic!("{line}"));
        let kind = front.chars().next().unwrap();
        let size = match kind {
            '-' => front.split_whitespace().nth(2).unwrap(),
            _ => "",
        };
        let mut names = names.to_owned();
        while names.contains("/\"") {
            names = names.replace("/\"", "\"");
        }
        format!("{kind} {size} \"{names}")
    };
    Ok((String::from_utf8(list).unwrap().lines().map(line).collect(), content))
}

fn as_gnu_tar_says(members: &[Member]) -> (Vec<String>, Vec<u8>) {
    let quoted = |name: &[u8]| {
        let end = name.iter().rposition(|b| *b != b'/').map_or(0, |last| last + 1);
        let escaped = name[..end].iter().map(|byte| match byte {
            b'"' | b'\\' => format!("\\{}", char::from(*byte)),
            7 => "\\a".to_owned(),
            8 => "\\b".to_owned(),
            9 => "\\t".to_owned(),
            10 => "\\n".to_owned(),
            11 => "\\v".to_owned(),
            12 => "\\f".to_owned(),
            13 => "\\r".to_owned(),
            b' '..=b'~' => char::from(*byte).to_string(),
            _ => format!("\\{byte:03o}"),
        });
        format!("\"{}\"", escaped.collect::<String>())
    };
    let line = |(entry, _): &Member| {
        let name = quoted(&entry.name);
        match &entry.kind {
            Kind::File { size } => format!("- {size} {name}"),
            Kind::Directory => format!("d  {name}"),
            Kind::Symlink { target } => format!("l  {name} -> {}", quoted(target)),
            Kind::Link { target } => format!("h  {name} link to {}", quoted(target)),
            Kind::CharDevice { .. } => format!("c  {name}"),
            Kind::BlockDevice { .. } => format!("b  {name}"),
            Kind::Fifo => format!("p  {name}"),
        }
    };
    (members.iter().map(line).collect(), members.iter().flat_map(|(_, data)| data.clone()).collect())
}

proptest! {
    // Two programs are started for each.
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn well_formed_archives_are_read_like_gnu_tar_does(archive in well_formed()) {
        prop_assert_eq!(Ok(as_gnu_tar_says(&read(&archive).unwrap())), of_gnu_tar(&archive));
    }

    #[test]
    fn what_is_accepted_gnu_tar_reads_the_same(archive in any_archive()) {
        if let Ok(members) = read(&archive) {
            prop_assert_eq!(Ok(as_gnu_tar_says(&members)), of_gnu_tar(&archive));
        }
    }
}

/// A folder with everything that GNU tar has a form for, and no device.
fn make_tree(root: &Path) {
    let long = "long".repeat(40);
    fs::create_dir_all(root.join("a/b").join(&long)).unwrap();
    fs::write(root.join("a/empty"), b"").unwrap();
    fs::write(root.join("a/file"), vec![7; 10_000]).unwrap();
    fs::write(root.join("a/b").join(&long).join(&long), b"deep").unwrap();
    fs::hard_link(root.join("a/file"), root.join("a/hard")).unwrap();
    symlink(&long, root.join("a/symbolic")).unwrap();
    symlink("file", root.join("a/short")).unwrap();
    fs::write(root.join("a/\u{e9}t\u{e9}"), b"utf-8").unwrap();
    let sparse = fs::File::create(root.join("a/sparse")).unwrap();
    for i in 0..40u64 {
        std::os::unix::fs::FileExt::write_all_at(
            &sparse,
            &[b'0' + u8::try_from(i % 10).unwrap(); 4096],
            i * 65536,
        )
        .unwrap();
    }
    sparse.set_len(40 * 65536 + 9).unwrap();
    let hollow = fs::File::create(root.join("a/hollow")).unwrap();
    hollow.set_len(100_000).unwrap();
}

#[test]
fn archives_of_gnu_tar_are_read_in_each_of_its_formats() {
    let folder = tempfile::tempdir().unwrap();
    make_tree(folder.path());
    for arguments in [
        &["--format=gnu"][..],
        &["--format=oldgnu"],
        &["--format=posix"],
        &["--format=gnu", "--sparse"],
        &["--format=posix", "--sparse", "--sparse-version=0.0"],
        &["--format=posix", "--sparse", "--sparse-version=0.1"],
        &["--format=posix", "--sparse", "--sparse-version=1.0"],
        &["--format=posix", "--pax-option=globexthdr.name=x,comment=made here"],
        &["--format=gnu", "--label=x", "--exclude=*"],
    ] {
        let run =
            Command::new("tar").args(arguments).arg("-cC").arg(folder.path()).arg("a").output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        if arguments.contains(&"--label=x") {
            assert!(read(&run.stdout).is_err(), "a volume header is not an entry to every reader");
            continue;
        }
        let members = read(&run.stdout).unwrap_or_else(|refusal| panic!("{arguments:?}: {refusal}"));
        assert_eq!(members.len(), 12, "{arguments:?}");
        for (entry, data) in &members {
            let path = folder.path().join(std::str::from_utf8(&entry.name).unwrap());
            let is = fs::symlink_metadata(&path).unwrap();
            match &entry.kind {
                Kind::File { size } => {
                    assert_eq!(*size, is.len());
                    assert!(fs::read(&path).unwrap() == *data, "{arguments:?}: {path:?}");
                }
                Kind::Directory => assert!(is.is_dir()),
                Kind::Symlink { target } => {
                    assert_eq!(fs::read_link(&path).unwrap().as_os_str().as_encoded_bytes(), target)
                }
                Kind::Link { target } => assert!(matches!(target.as_slice(), b"a/file" | b"a/hard")),
                other => panic!("{other:?}"),
            }
        }
    }
}
