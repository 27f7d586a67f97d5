//! The copy that a volume is opened with.

use std::fs;

use cc_crypto::Secret;
use cc_volume::{
    dm_crypt::CryptTarget,
    luks2::{DetachedHeader, Header, HeaderKey, Policy, Secondary},
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

/// Each word of a mapping that differs from the header is told.
#[test]
fn a_mapping_is_compared_with_its_header() {
    let header = Header::read(&sample().bytes).unwrap();
    let good = "aes-xts-plain64 :64:logon:cryptsetup:x 0 254:16 2048 1 sector_size:4096";
    let check =
        |start, length, text: &str| CryptTarget::parse(start, length, text).unwrap().check(&header, false);
    check(0, 800, good).unwrap();
    for (change, by) in [
        ("aes-xts-plain64", "cipher_null-ecb"),
        ("aes-xts-plain64", "aes-cbc-plain64"),
        (":64:logon:cryptsetup:x", "0011"),
        ("x 0 254", "x 8 254"),
        (" 2048 ", " 0 "),
        ("1 sector_size:4096", "0"),
        ("sector_size:4096", "sector_size:512"),
        ("1 sector_size:4096", "2 sector_size:4096 allow_discards"),
        ("1 sector_size:4096", "2 sector_size:4096 integrity:32:aead"),
    ] {
        let error = check(0, 800, &good.replace(change, by)).unwrap_err();
        assert_eq!(error.code(), "LUKS_MAPPING_DIFFERS", "{by}");
    }
    assert!(check(8, 800, good).is_err() && check(0, 801, good).is_err() && check(0, 0, good).is_err());
    let discards = good.replace("1 sector", "2 allow_discards sector");
    CryptTarget::parse(0, 800, &discards).unwrap().check(&header, true).unwrap();
}
