//! The copy that a volume is opened with.

use std::fs;

use cc_crypto::Secret;
use cc_volume::luks2::{
    Copies, DetachedHeader, Header, HeaderKey, NotRead, Policy, Rule, Secondary,
    format::{HEADER_SIZES, MAX_JSON_LEN},
};

use crate::{
    SECRET,
    craft::{Craft, First, SIZE, Second, sample, sized},
    cryptsetup, format, has_cryptsetup,
};

/// Whether cryptsetup opens the volume `data` by `header` with this secret.
fn opens(header: &str, data: &str, secret: &[u8]) -> bool {
    let test = ["open", "--test-passphrase", "--key-file", "-", "--header", header, data];
    cryptsetup(&test, secret).status.success()
}

#[test]
fn cryptsetup_opens_a_volume_with_the_canonical_copy_alone() {
    if !has_cryptsetup("cryptsetup_opens_a_volume_with_the_canonical_copy_alone") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for (name, options) in [
        ("usual", &[][..]),
        ("small", &["--luks2-metadata-size", "16k", "--luks2-keyslots-size", "256k"]),
        ("large", &["--luks2-metadata-size", "4m", "--luks2-keyslots-size", "4m"]),
    ] {
        let read = DetachedHeader::read(&format(folder.path(), name, options)).unwrap();
        let canonical = read.canonical().to_bytes();
        let again = Header::read(&canonical).unwrap();
        assert_eq!((again.binary(), again.metadata()), (read.header().binary(), read.header().metadata()));
        assert_eq!(again.secondary(), &Secondary::Same, "{name}");
        assert!(Policy::default().judge(&again).is_admitted(), "{name}");
        fs::write(path("header"), &canonical).unwrap();
        // Nothing is left of the header on the disk.
        let mut data = fs::read(path(name)).unwrap();
        data[..canonical.len()].fill(0xa5);
        fs::write(path(name), data).unwrap();
        assert!(opens(&path("header"), &path(name), SECRET), "{name}");
        assert!(!opens(&path("header"), &path(name), b"another"), "{name}");
        assert_eq!(fs::read(path("header")).unwrap(), canonical, "{name}: opening writes nothing");
    }
}

/// Whatever the second copy and the gaps hold does not come along.
#[test]
fn the_first_copy_alone_counts_and_the_gaps_are_empty() {
    let mut craft = sample();
    craft.set_seqid(First, 4);
    craft.rewrite(Second, |text| text.replace("aes-xts-plain64", "cipher_null-ecb"));
    let gap = craft.bytes.len() - 100;
    craft.bytes[gap] = 0xff;
    let bytes = craft.bytes.clone();
    let canonical = DetachedHeader::read(&bytes).unwrap().canonical().to_bytes();
    assert_eq!(canonical[gap], 0);
    let mut canonical = Craft::new(canonical);
    assert_eq!(canonical.text(First), canonical.text(Second));
    assert!(!canonical.text(Second).contains("cipher_null"));
    let twice = DetachedHeader::read(&canonical.bytes).unwrap().canonical().to_bytes();
    assert!(twice == canonical.bytes, "the canonical form of the canonical form");
}

#[test]
fn a_tag_fits_the_canonical_copy_and_the_copies_alone() {
    let key = HeaderKey::derive(&Secret::new(SECRET.to_vec())).unwrap();
    let read = DetachedHeader::read(&sample().bytes).unwrap();
    let tag = key.sign(read.header()).unwrap();
    key.verify(&Header::read(&read.canonical().to_bytes()).unwrap(), &tag).unwrap();
    let copies = Header::read_copies(read.copies(), read.given()).unwrap();
    key.verify(&copies, &tag).unwrap();
    assert_eq!(Policy::default().judge(&copies), Policy::default().judge(read.header()));
    // Who claims to have read less than the keyslots take is told so.
    let short = Header::read_copies(read.copies(), read.copies().len()).unwrap();
    assert!(!Policy::default().judge(&short).is_admitted());
}

#[test]
fn areas_outside_of_what_was_read_make_no_copy() {
    let place = |offset: &'static str, size: &'static str| {
        let mut craft = sample();
        craft.edit(move |json| {
            json["keyslots"]["0"]["area"]["offset"] = offset.into();
            json["keyslots"]["0"]["area"]["size"] = size.into();
        });
        DetachedHeader::read(&craft.bytes).is_ok()
    };
    assert!(place("32768", "258048"));
    for (offset, size) in
        [("0", "4096"), ("32767", "4096"), ("32768", "18446744073709551615"), ("294912", "4096")]
    {
        assert!(!place(offset, size), "{size} bytes from {offset}");
    }
    let mut huge = sample();
    huge.edit(|json| json["config"]["keyslots_size"] = "18446744073709551615".into());
    assert!(DetachedHeader::read(&huge.bytes).is_err());
    let mut cut = sized(0x4000, 2 * 0x4000 + 0x40000);
    cut.bytes.truncate(100_000);
    assert!(DetachedHeader::read(&cut.bytes).is_err());
    let mut shared = sample();
    shared.edit(|json| json["keyslots"]["1"] = json["keyslots"]["0"].clone());
    let error = DetachedHeader::read(&shared.bytes).unwrap_err();
    assert!(error.to_string().contains("overlap"), "{error}");
}

/// Who is asked, for what, in which order.
#[derive(Default)]
struct Disk {
    bytes: Vec<u8>,
    asked: Vec<(usize, usize)>,
}

impl Disk {
    fn read(&mut self, copies: Copies, refuse: bool) -> Result<DetachedHeader, NotRead<&'static str>> {
        let length = self.bytes.len() as u64;
        let fill = |at: usize, into: &mut [u8]| {
            self.asked.push((at, at + into.len()));
            into.copy_from_slice(self.bytes.get(at..at + into.len()).ok_or("behind the end")?);
            Ok(())
        };
        let refusal = cc_volume::Error::Refused { rules: "x".to_owned() };
        DetachedHeader::read_from(fill, length, copies, |_| if refuse { Err(refusal) } else { Ok(()) })
    }
}

/// The copies, then the keyslots that they name, each byte once and forwards; of a header that is refused no keyslot.
#[test]
fn of_a_disk_is_read_what_a_volume_is_opened_with_and_no_more() {
    for size in HEADER_SIZES.map(|size| usize::try_from(size).unwrap()) {
        let mut disk = Disk { bytes: sized(size, 20 << 20).bytes, ..Disk::default() };
        let read = disk.read(Copies::First, false).unwrap();
        assert_eq!(read.header(), DetachedHeader::read(&disk.bytes).unwrap().header());
        assert_eq!(read.given(), 16 << 20);
        assert!(disk.asked.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{:?}", disk.asked);
        let asked: usize = disk.asked.iter().map(|(start, end)| end - start).sum();
        assert_eq!(asked, 2 * size + 258_048, "{size}");
        let areas: Vec<_> = read.areas().map(|area| (area.start, area.end)).collect();
        assert_eq!(areas, [(2 * size, 2 * size + 258_048)]);
        let whole = DetachedHeader::read(&disk.bytes[..16 << 20]).unwrap();
        assert_eq!(read.canonical().to_bytes(), whole.canonical().to_bytes());

        disk.asked.clear();
        assert!(matches!(disk.read(Copies::First, true), Err(NotRead::Header(_))));
        assert_eq!(disk.asked.last().unwrap().1, 2 * size, "no keyslot of a header that is refused");
    }
    for length in [0, 1, 4096, 0x4000, 0x8000 - 1, 0x8000] {
        let mut disk = Disk { bytes: sample().bytes[..length].to_vec(), ..Disk::default() };
        assert!(matches!(disk.read(Copies::Either, false), Err(NotRead::Header(_))), "{length}");
    }
}

/// A first copy that was left half written: by default an error; else the second one is taken, and makes both of the canonical form.
#[test]
fn a_torn_first_copy_is_replaced_by_the_second_for_who_verifies_the_tag() {
    let key = HeaderKey::derive(&Secret::new(SECRET.to_vec())).unwrap();
    for size in [SIZE, 0x4_0000] {
        let old = sized(size, 2 * size + 0x40000);
        let mut new = sized(size, 2 * size + 0x40000);
        new.set_seqid(First, 9);
        new.edit_one(First, |json| json["keyslots"]["0"]["kdf"]["iterations"] = 2000.into());
        let tag = key.sign(&Header::read(&old.bytes).unwrap()).unwrap();
        // Behind the text both are zeros.
        for torn in (512..8192).step_by(512) {
            let mut disk = Disk { bytes: old.bytes.clone(), ..Disk::default() };
            disk.bytes[..torn].copy_from_slice(&new.bytes[..torn]);
            if disk.bytes[..size] == new.bytes[..size] {
                continue;
            }
            let Err(NotRead::Header(error)) = disk.read(Copies::First, false) else { panic!("{torn}") };
            assert!(error.to_string().contains("first copy"), "{error}");
            disk.asked.clear();
            let read = disk.read(Copies::Either, false).unwrap();
            assert!(disk.asked.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{:?}", disk.asked);
            key.verify(read.header(), &tag).unwrap();
            assert_eq!(read.header().damage().unwrap().rule, Rule::Checksum);
            let verdict = Policy::default().judge(read.header());
            assert!(
                verdict.is_admitted() && verdict.notes[0].contains("first copy is damaged"),
                "{verdict:?}"
            );
            let canonical = Header::read(&read.canonical().to_bytes()).unwrap();
            assert_eq!((canonical.damage(), canonical.secondary()), (None, &Secondary::Same));
            key.verify(&canonical, &tag).unwrap();
            // Elsewhere it is judged as here.
            let (first, second) = read.trimmed();
            let there = Header::read_trimmed(first, second, read.given(), Copies::Either).unwrap();
            assert_eq!(&there, read.header());
            assert!(Header::read_trimmed(first, second, read.given(), Copies::First).is_err());
        }
    }
    // Whoever has lost the first sector, or both copies, has no volume here.
    let broken = |change: fn(&mut Craft)| {
        let mut craft = sample();
        change(&mut craft);
        Header::read_by(&craft.bytes, craft.bytes.len(), Copies::Either).unwrap_err().to_string()
    };
    assert!(broken(|craft| craft.bytes[..512].fill(0)).contains("rule magic"));
    assert!(broken(|craft| craft.bytes[8..16].fill(0)).contains("rule header-size"));
    let both = broken(|craft| {
        craft.bytes[5000] ^= 1;
        craft.bytes[SIZE + 5000] ^= 1;
    });
    assert!(both.contains("first copy") && both.contains("rule checksum"), "{both}");
    // A second copy of another size is none.
    assert!(
        broken(|craft| {
            craft.bytes[5000] ^= 1;
            craft.poke(Second, 8, &0x8000_u64.to_be_bytes());
        })
        .contains("first copy")
    );
}

/// Whoever judges a header elsewhere gets what says something, of copies of any size, and judges the same.
#[test]
fn copies_of_every_size_travel_without_their_zeros() {
    for size in HEADER_SIZES.map(|size| usize::try_from(size).unwrap()) {
        let mut craft = sized(size, 2 * size + 0x40000);
        craft.set_seqid(First, 4);
        let read = DetachedHeader::read(&craft.bytes).unwrap();
        let (first, second) = read.trimmed();
        assert!(first.len() + second.len() < 2 * (4096 + (4 << 10)), "{size}: {} bytes", first.len());
        assert_eq!(
            &Header::read_trimmed(first, second, read.given(), Copies::First).unwrap(),
            read.header(),
            "{size}"
        );
        // A second copy full of anything is damaged here and there.
        craft.bytes[size..2 * size].fill(0xa5);
        let read = DetachedHeader::read(&craft.bytes).unwrap();
        let (first, second) = read.trimmed();
        assert!(second.len() <= 4096 + MAX_JSON_LEN, "{size}");
        let again = Header::read_trimmed(first, second, read.given(), Copies::First).unwrap();
        assert!(matches!(again.secondary(), Secondary::Damaged { .. }), "{size}");
        assert!(matches!(read.header().secondary(), Secondary::Damaged { .. }), "{size}");
        assert!(
            Header::read_trimmed(&first[..first.len() - 1], second, read.given(), Copies::First).is_err(),
            "{size}"
        );
    }
    assert!(Header::read_trimmed(b"", b"", 0, Copies::Either).is_err());
}
