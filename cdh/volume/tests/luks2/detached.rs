//! The copy that a volume is opened with.

use std::fs;

use cc_crypto::Secret;
use cc_volume::luks2::{
    DetachedHeader, Header, HeaderKey, Policy, Secondary,
    format::{HEADER_SIZES, MAX_JSON_LEN},
};

use crate::{
    SECRET,
    craft::{Craft, First, Second, sample, sized},
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
        let read = DetachedHeader::read(format(folder.path(), name, options)).unwrap();
        let canonical = read.canonical().unwrap();
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
    let canonical = DetachedHeader::read(bytes).unwrap().canonical().unwrap();
    assert_eq!(canonical[gap], 0);
    let mut canonical = Craft::new(canonical);
    assert_eq!(canonical.text(First), canonical.text(Second));
    assert!(!canonical.text(Second).contains("cipher_null"));
    let twice = DetachedHeader::read(canonical.bytes.clone()).unwrap().canonical().unwrap();
    assert!(twice == canonical.bytes, "the canonical form of the canonical form");
}

#[test]
fn a_tag_fits_the_canonical_copy_and_the_copies_alone() {
    let key = HeaderKey::derive(&Secret::new(SECRET.to_vec())).unwrap();
    let read = DetachedHeader::read(sample().bytes).unwrap();
    let tag = key.sign(read.header()).unwrap();
    key.verify(&Header::read(&read.canonical().unwrap()).unwrap(), &tag).unwrap();
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
        DetachedHeader::read(craft.bytes).unwrap().canonical().is_ok()
    };
    assert!(place("32768", "258048"));
    for (offset, size) in
        [("0", "4096"), ("32767", "4096"), ("32768", "18446744073709551615"), ("294912", "4096")]
    {
        assert!(!place(offset, size), "{size} bytes from {offset}");
    }
    let mut huge = sample();
    huge.edit(|json| json["config"]["keyslots_size"] = "18446744073709551615".into());
    assert!(DetachedHeader::read(huge.bytes).unwrap().canonical().is_err());
    let mut cut = sized(0x4000, 2 * 0x4000 + 0x40000);
    cut.bytes.truncate(100_000);
    assert!(DetachedHeader::read(cut.bytes).unwrap().canonical().is_err());
}

/// Whoever judges a header elsewhere gets what says something, of copies of any size, and judges the same.
#[test]
fn copies_of_every_size_travel_without_their_zeros() {
    for size in HEADER_SIZES.map(|size| usize::try_from(size).unwrap()) {
        let mut craft = sized(size, 2 * size + 0x40000);
        craft.set_seqid(First, 4);
        let read = DetachedHeader::read(craft.bytes.clone()).unwrap();
        let (first, second) = read.trimmed();
        assert!(first.len() + second.len() < 2 * (4096 + (4 << 10)), "{size}: {} bytes", first.len());
        assert_eq!(&Header::read_trimmed(first, second, read.given()).unwrap(), read.header(), "{size}");
        // A second copy full of anything is damaged here and there.
        craft.bytes[size..2 * size].fill(0xa5);
        let read = DetachedHeader::read(craft.bytes).unwrap();
        let (first, second) = read.trimmed();
        assert!(second.len() <= 4096 + MAX_JSON_LEN, "{size}");
        let again = Header::read_trimmed(first, second, read.given()).unwrap();
        assert!(matches!(again.secondary(), Secondary::Damaged { .. }), "{size}");
        assert!(matches!(read.header().secondary(), Secondary::Damaged { .. }), "{size}");
        assert!(Header::read_trimmed(&first[..first.len() - 1], second, read.given()).is_err(), "{size}");
    }
    assert!(Header::read_trimmed(b"", b"", 0).is_err());
}
