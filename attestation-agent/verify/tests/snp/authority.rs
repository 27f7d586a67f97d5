//! A test authority with the names of AMD's, and the leaf certificates and lists it signs.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair as _, RSA_PSS_SHA384, RsaKeyPair};
use base64::Engine as _;

use crate::der_writer::{bit_string, extension, integer, name, oid, sequence, tlv, utc_time};

/// The time of verification in these tests: 2026-01-01.
pub(crate) const NOW: u64 = 1_767_225_600;
const YEAR: u64 = 365 * 86_400;

/// Keys and certificates of one product.
pub(crate) struct Authority {
    pub(crate) product: &'static str,
    pub(crate) ark: Signer,
    pub(crate) ask: Signer,
    pub(crate) asvk: Signer,
}

/// A key with its certificate.
pub(crate) struct Signer {
    pub(crate) name: String,
    pub(crate) cert: Vec<u8>,
    key: RsaKeyPair,
}

impl Authority {
    pub(crate) fn new(product: &'static str) -> Self {
        let ark_key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let ark_name = format!("ARK-{product}");
        let make = |name: String, key: RsaKeyPair, serial| {
            let cert = ca_certificate(serial, &ark_name, &ark_key, &name, &key, true);
            Signer { name, cert, key }
        };
        let ask = make(format!("SEV-{product}"), RsaKeyPair::generate(KeySize::Rsa2048).unwrap(), 2);
        let asvk = make(format!("SEV-VLEK-{product}"), RsaKeyPair::generate(KeySize::Rsa2048).unwrap(), 3);
        let cert = ca_certificate(1, &ark_name, &ark_key, &ark_name, &ark_key, true);
        Authority { product, ark: Signer { name: ark_name, cert, key: ark_key }, ask, asvk }
    }

    /// ASK, ARK, ASVK as the emulator hands them over.
    pub(crate) fn pem(&self) -> String {
        [&self.ask, &self.ark, &self.asvk].map(|signer| pem(&signer.cert)).concat()
    }

    /// An ARK that is its own issuer but not marked as an authority.
    pub(crate) fn ark_without_ca_mark(&self) -> Vec<u8> {
        ca_certificate(1, &self.ark.name, &self.ark.key, &self.ark.name, &self.ark.key, false)
    }
}

/// What a leaf certificate says; the default is a good VCEK.
#[derive(Clone)]
pub(crate) struct LeafSpec {
    pub(crate) issuer: String,
    pub(crate) subject: &'static str,
    pub(crate) not_before: u64,
    pub(crate) not_after: u64,
    pub(crate) product_name: &'static str,
    pub(crate) fmc: Option<u8>,
    /// Bootloader, TEE, SNP, microcode.
    pub(crate) levels: [Option<u8>; 4],
    /// The content of the hwID extension.
    pub(crate) hw_id: Option<Vec<u8>>,
    /// More extensions, complete.
    pub(crate) more: Vec<Vec<u8>>,
    /// Curve of the key.
    pub(crate) curve: &'static str,
}

impl LeafSpec {
    /// The certificate over `point`, signed by `signer` whatever the issuer's name says.
    pub(crate) fn sign(&self, signer: &Signer, point: &[u8]) -> Vec<u8> {
        const AMD: &str = "1.3.6.1.4.1.3704.1";
        let mut extensions = vec![
            extension(&format!("{AMD}.1"), false, &integer(0)),
            extension(&format!("{AMD}.2"), false, &tlv(0x16, self.product_name.as_bytes())),
        ];
        for (suffix, level) in ["3.1", "3.2", "3.3", "3.8"].into_iter().zip(self.levels) {
            extensions
                .extend(level.map(|level| extension(&format!("{AMD}.{suffix}"), false, &integer(level))));
        }
        extensions.extend(self.fmc.map(|level| extension(&format!("{AMD}.3.9"), false, &integer(level))));
        extensions.extend(self.hw_id.as_ref().map(|id| extension(&format!("{AMD}.4"), false, id)));
        extensions.extend(self.more.clone());
        let key = sequence(&[sequence(&[oid("1.2.840.10045.2.1"), oid(self.curve)]), bit_string(point)]);
        // AMD's leaves have the serial number 0.
        let tbs = [
            tlv(0xA0, &integer(2)),
            integer(0),
            pss(),
            name(&self.issuer),
            sequence(&[utc_time(self.not_before), utc_time(self.not_after)]),
            name(self.subject),
            key,
            tlv(0xA3, &sequence(&extensions)),
        ];
        signer.seal(&sequence(&tbs))
    }
}

impl Signer {
    /// A revocation list with the given serial numbers, in the name of `issuer`.
    pub(crate) fn revocation_list(&self, issuer: &str, issued: u64, serials: &[u8]) -> Vec<u8> {
        let mut content = vec![integer(1), pss(), name(issuer), utc_time(issued), utc_time(issued + 86_400)];
        if !serials.is_empty() {
            let entries: Vec<_> =
                serials.iter().map(|serial| sequence(&[integer(*serial), utc_time(issued)])).collect();
            content.push(sequence(&entries));
        }
        self.seal(&sequence(&content))
    }

    /// Appends algorithm and signature to the signed part.
    fn seal(&self, tbs: &[u8]) -> Vec<u8> {
        sequence(&[tbs.to_vec(), pss(), bit_string(&rsa_sign(&self.key, tbs))])
    }
}

pub(crate) fn pem(der: &[u8]) -> String {
    let text = base64::prelude::BASE64_STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

fn ca_certificate(
    serial: u8,
    issuer: &str,
    issuer_key: &RsaKeyPair,
    subject: &str,
    key: &RsaKeyPair,
    ca: bool,
) -> Vec<u8> {
    let mut constraints = Vec::new();
    if ca {
        constraints.push(tlv(0x01, &[0xFF]));
    }
    let extensions = [
        extension("2.5.29.19", true, &sequence(&constraints)),
        // keyCertSign and cRLSign, bits 5 and 6.
        extension("2.5.29.15", true, &tlv(0x03, &[1, 0x06])),
    ];
    let spki = sequence(&[
        sequence(&[oid("1.2.840.113549.1.1.1"), tlv(0x05, &[])]),
        bit_string(key.public_key().as_ref()),
    ]);
    let tbs = sequence(&[
        tlv(0xA0, &integer(2)),
        integer(serial),
        pss(),
        name(issuer),
        sequence(&[utc_time(NOW - 5 * YEAR), utc_time(NOW + 5 * YEAR)]),
        name(subject),
        spki,
        tlv(0xA3, &sequence(&extensions)),
    ]);
    sequence(&[tbs.clone(), pss(), bit_string(&rsa_sign(issuer_key, &tbs))])
}

fn rsa_sign(key: &RsaKeyPair, message: &[u8]) -> Vec<u8> {
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PSS_SHA384, &SystemRandom::new(), message, &mut signature).unwrap();
    signature
}

/// RSASSA-PSS with SHA-384, MGF1 with SHA-384, salt of 48 bytes.
fn pss() -> Vec<u8> {
    let sha384 = sequence(&[oid("2.16.840.1.101.3.4.2.2"), tlv(0x05, &[])]);
    let mgf1 = sequence(&[oid("1.2.840.113549.1.1.8"), sha384.clone()]);
    sequence(&[
        oid("1.2.840.113549.1.1.10"),
        sequence(&[tlv(0xA0, &sha384), tlv(0xA1, &mgf1), tlv(0xA2, &integer(48))]),
    ])
}

/// A leaf valid for a year around [`NOW`].
pub(crate) fn good_leaf(authority: &Authority, chip_id: &[u8; 64]) -> LeafSpec {
    LeafSpec {
        issuer: authority.ask.name.clone(),
        subject: "SEV-VCEK",
        not_before: NOW - YEAR / 2,
        not_after: NOW + YEAR / 2,
        product_name: authority.product,
        fmc: None,
        levels: [Some(10), Some(0), Some(23), Some(206)],
        hw_id: Some(chip_id.to_vec()),
        more: Vec::new(),
        curve: "1.3.132.0.34",
    }
}
