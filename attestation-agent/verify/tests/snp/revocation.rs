//! Revocation lists, supplied by the host or by an offline store.

use cc_evidence::snp::{CertEntry, CertKind};
use cc_verify::snp;

use crate::authority::{Authority, NOW};
use crate::machine::{Machine, expectation, roots};

const ASK_SERIAL: u8 = 2;

#[test]
fn lists_count_when_the_root_signed_them() {
    let authority = Authority::new("Milan");
    let ark = &authority.ark;
    let evidence = Machine::new(&authority).evidence(&authority);
    let check = |list: Vec<u8>| {
        let mut evidence = evidence.clone();
        evidence.certs.push(CertEntry { kind: CertKind::Crl, data: list });
        snp::verify(&evidence, &roots(&authority), &expectation()).map(|_| ()).map_err(|r| r.check())
    };
    let yesterday = NOW - 86_400;
    assert_eq!(check(ark.revocation_list(&ark.name, yesterday, &[])), Ok(()));
    assert_eq!(check(ark.revocation_list(&ark.name, yesterday, &[3, 9])), Ok(()), "others are revoked");
    assert_eq!(check(ark.revocation_list(&ark.name, yesterday, &[9, ASK_SERIAL])), Err("snp.revoked"));
    let old = NOW - 400 * 86_400;
    assert_eq!(check(ark.revocation_list(&ark.name, old, &[ASK_SERIAL])), Err("snp.revoked"), "past its end");
    assert_eq!(check(ark.revocation_list(&ark.name, NOW + 1, &[])), Err("snp.crl"), "from the future");
    assert_eq!(check(authority.ask.revocation_list(&ark.name, yesterday, &[])), Err("snp.crl"), "wrong key");
    assert_eq!(check(ark.revocation_list("ARK-Genoa", yesterday, &[ASK_SERIAL])), Ok(()), "another root's");
    assert_eq!(check(vec![0x30, 0]), Err("snp.crl"));
    let mut changed = ark.revocation_list(&ark.name, yesterday, &[9]);
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    assert_eq!(check(changed), Err("snp.crl"));
}
