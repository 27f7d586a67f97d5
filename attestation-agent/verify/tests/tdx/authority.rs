//! A test authority with the names of Intel's: certificates, revocation lists, signatures.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
};
use base64::Engine as _;

use crate::der_writer::{bit_string, extension, integer, name, oid, sequence, tlv, utc_time};

/// The time of verification in these tests: 2026-01-01.
pub(crate) const NOW: u64 = 1_767_225_600;
pub(crate) const YEAR: u64 = 365 * 86_400;

const SGX: &str = "1.2.840.113741.1.13.1";

/// A P-256 key that signs certificates (DER signatures) and data (fixed signatures).
pub(crate) struct Key {
    der: EcdsaKeyPair,
    fixed: EcdsaKeyPair,
}

impl Key {
    pub(crate) fn new() -> Self {
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        Key {
            der: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref()).unwrap(),
            fixed: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).unwrap(),
        }
    }

    /// Uncompressed point, 65 bytes.
    pub(crate) fn point(&self) -> &[u8] {
        self.fixed.public_key().as_ref()
    }

    /// x‖y.
    pub(crate) fn coordinates(&self) -> [u8; 64] {
        self.point()[1..].try_into().unwrap()
    }

    /// r‖s.
    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.fixed.sign(&SystemRandom::new(), message).unwrap().as_ref().try_into().unwrap()
    }

    /// Appends algorithm and signature to the signed part of a certificate or list.
    fn seal(&self, signed: &[u8]) -> Vec<u8> {
        let signature = self.der.sign(&SystemRandom::new(), signed).unwrap();
        sequence(&[signed.to_vec(), algorithm(), bit_string(signature.as_ref())])
    }

    /// A revocation list in the name of `issuer`.
    pub(crate) fn revocation_list(&self, issuer: &str, issued: u64, serials: &[u8]) -> Vec<u8> {
        let mut content =
            vec![integer(1), algorithm(), name(issuer), utc_time(issued), utc_time(issued + YEAR)];
        if !serials.is_empty() {
            let entries: Vec<_> =
                serials.iter().map(|serial| sequence(&[integer(*serial), utc_time(issued)])).collect();
            content.push(sequence(&entries));
        }
        content.push(tlv(0xA0, &sequence(&[extension("2.5.29.20", false, &integer(0x2A))])));
        self.seal(&sequence(&content))
    }
}

/// A certificate, before it is signed.
#[derive(Clone)]
pub(crate) struct CertSpec {
    pub(crate) serial: u8,
    pub(crate) issuer: &'static str,
    pub(crate) subject: &'static str,
    pub(crate) ca: bool,
    pub(crate) not_before: u64,
    pub(crate) not_after: u64,
    /// More extensions, complete.
    pub(crate) more: Vec<Vec<u8>>,
}

impl CertSpec {
    pub(crate) fn new(serial: u8, issuer: &'static str, subject: &'static str, ca: bool) -> Self {
        let (not_before, not_after) = (NOW - 5 * YEAR, NOW + 5 * YEAR);
        CertSpec { serial, issuer, subject, ca, not_before, not_after, more: Vec::new() }
    }

    /// The certificate over `point`, signed by `signer` whatever the issuer's name says.
    pub(crate) fn sign(&self, signer: &Key, point: &[u8]) -> Vec<u8> {
        let constraints = if self.ca { vec![tlv(0x01, &[0xFF])] } else { Vec::new() };
        // keyCertSign and cRLSign (bits 5, 6), or digitalSignature and nonRepudiation (bits 0, 1).
        let usage = if self.ca { [1, 0x06] } else { [6, 0xC0] };
        let mut extensions = vec![
            extension("2.5.29.15", true, &tlv(0x03, &usage)),
            extension("2.5.29.19", true, &sequence(&constraints)),
        ];
        extensions.extend(self.more.clone());
        let curve = sequence(&[oid("1.2.840.10045.2.1"), oid("1.2.840.10045.3.1.7")]);
        let signed = sequence(&[
            tlv(0xA0, &integer(2)),
            integer(self.serial),
            algorithm(),
            name(self.issuer),
            sequence(&[utc_time(self.not_before), utc_time(self.not_after)]),
            name(self.subject),
            sequence(&[curve, bit_string(point)]),
            tlv(0xA3, &sequence(&extensions)),
        ]);
        signer.seal(&signed)
    }
}

/// What a PCK certificate says.
#[derive(Clone)]
pub(crate) struct PckSpec {
    pub(crate) components: [u8; 16],
    pub(crate) pce_svn: u8,
    pub(crate) pce_id: [u8; 2],
    pub(crate) fmspc: Vec<u8>,
    /// More members, complete.
    pub(crate) more: Vec<Vec<u8>>,
}

impl PckSpec {
    pub(crate) fn extension(&self) -> Vec<u8> {
        let mut tcb: Vec<_> = (1..)
            .zip(self.components)
            .map(|(number, svn)| member(&format!("2.{number}"), integer(svn)))
            .collect();
        tcb.push(member("2.17", integer(self.pce_svn)));
        tcb.push(member("2.18", tlv(0x04, &self.components)));
        let flags = [("7.1", 0xFF), ("7.2", 0), ("7.3", 0xFF)];
        let flags: Vec<_> = flags.into_iter().map(|(id, flag)| member(id, tlv(0x01, &[flag]))).collect();
        let members = [
            member("1", tlv(0x04, &[0x99; 16])),
            member("2", sequence(&tcb)),
            member("3", tlv(0x04, &self.pce_id)),
            member("4", tlv(0x04, &self.fmspc)),
            member("5", tlv(0x0A, &[1])),
            member("6", tlv(0x04, &(0..16).collect::<Vec<u8>>())),
            member("7", sequence(&flags)),
        ];
        extension(SGX, false, &sequence(&[members.as_slice(), &self.more].concat()))
    }
}

pub(crate) fn member(suffix: &str, value: Vec<u8>) -> Vec<u8> {
    sequence(&[oid(&format!("{SGX}.{suffix}")), value])
}

/// ecdsa-with-SHA256.
fn algorithm() -> Vec<u8> {
    sequence(&[oid("1.2.840.10045.4.3.2")])
}

pub(crate) fn pem(der: &[u8]) -> String {
    let text = base64::prelude::BASE64_STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}
