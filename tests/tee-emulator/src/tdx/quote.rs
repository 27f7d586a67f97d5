//! Writes TDX quotes of version 4 with ECDSA P-256 signatures.

use aws_lc_rs::digest::{SHA256, digest};

use super::{IntelChain, platform};
use crate::Error;
use crate::machine::{Fault, Machine};

/// Length of the header, bytes.
pub const HEADER_LEN: usize = 48;
/// Length of the body, bytes.
pub const BODY_LEN: usize = 584;
/// A place in MRTD, for the fault [`Fault::FlipBit`].
const FLIPPED: usize = HEADER_LEN + 0x88;

const VERSION: u16 = 4;
/// ECDSA with P-256.
const KEY_TYPE: u16 = 2;
const TEE_TYPE: u32 = 0x81;
/// Who made the quoting enclave: in real quotes this too says Intel and proves nothing.
const VENDOR: [u8; 16] =
    [0x93, 0x9A, 0x72, 0x33, 0xF7, 0x9C, 0x4C, 0xA9, 0x94, 0x0A, 0x0D, 0xB3, 0x95, 0x7F, 0x06, 0x07];
/// Certification data: a signed report of the quoting enclave with what certifies its signer.
const QE_REPORT_CERTIFICATION: u16 = 6;
/// Certification data: a chain of certificates as PEM.
const PCK_CHAIN: u16 = 5;

/// A quote of `machine` over `report_data`, signed by the keys of `chain`, with the faults that concern its content
/// and the padding that the machine has.
///
/// # Errors
/// [`Error::Crypto`] and [`Error::Encoding`].
pub fn build(chain: &IntelChain, machine: &Machine, report_data: &[u8; 64]) -> Result<Vec<u8>, Error> {
    let mut data = *report_data;
    if machine.fault == Fault::WrongReportData {
        data.iter_mut().take(1).for_each(|byte| *byte ^= 1);
    }
    let mut quote = header();
    quote.extend(body(machine, &data));
    if machine.fault == Fault::OtherDomain {
        quote.iter_mut().skip(FLIPPED).take(1).for_each(|byte| *byte ^= 1);
    }
    let signature = chain.sign_quote(&quote)?;
    if machine.fault == Fault::FlipBit {
        quote.iter_mut().skip(FLIPPED).take(1).for_each(|byte| *byte ^= 1);
    }
    let key = chain.attestation_public_key()?;
    let mut signed = [signature, key].concat();
    signed.extend(QE_REPORT_CERTIFICATION.to_le_bytes());
    push_sized(&mut signed, &certification(chain, machine, &key)?)?;
    push_sized(&mut quote, &signed)?;
    quote.resize(quote.len() + usize::from(machine.td.padding), 0);
    Ok(quote)
}

fn header() -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_LEN + BODY_LEN);
    header.extend(VERSION.to_le_bytes());
    header.extend(KEY_TYPE.to_le_bytes());
    header.extend(TEE_TYPE.to_le_bytes());
    header.extend([0; 4]); // reserved
    header.extend(VENDOR);
    header.extend([0x1D; 16]); // the platform, as the quoting enclave names it
    header.extend([0; 4]);
    header
}

fn body(machine: &Machine, report_data: &[u8; 64]) -> Vec<u8> {
    let td = &machine.td;
    let none = [0; 48];
    [
        &td.tee_tcb_svn.0[..],
        &[0x5E; 48], // mrseam
        &none,       // mrsignerseam: zero for the manufacturer's own module
        &[0; 8],     // seam attributes
        &td.attributes.0,
        &td.xfam.0,
        &td.mrtd.0,
        &td.mrconfigid.0,
        &none, // mrowner
        &none, // mrownerconfig
        &td.rtmr0.0,
        &td.rtmr1.0,
        &td.rtmr2.0,
        &td.rtmr3.0,
        report_data,
    ]
    .concat()
}

/// The quoting enclave's report about the attestation key, signed by the platform's certified key.
fn certification(chain: &IntelChain, machine: &Machine, key: &[u8; 64]) -> Result<Vec<u8>, Error> {
    let auth_data: Vec<u8> = (0..32).collect();
    let bound = digest(&SHA256, &[&key[..], &auth_data].concat());
    let report = enclave_report(bound.as_ref());
    let mut all = report.to_vec();
    all.extend(chain.sign_enclave_report(&report)?);
    all.extend(32u16.to_le_bytes());
    all.extend(auth_data);
    all.extend(PCK_CHAIN.to_le_bytes());
    // Real chains end with a NUL, as C strings do.
    let pem = chain.pck_chain_pem(machine)? + "\0";
    push_sized(&mut all, pem.as_bytes())?;
    Ok(all)
}

/// A report of the quoting enclave with `bound` (32 bytes) as the first half of its report data.
fn enclave_report(bound: &[u8]) -> [u8; 384] {
    let mut report = [0; 384];
    let mut put = |offset, bytes: &[u8]| {
        report.iter_mut().skip(offset).zip(bytes).for_each(|(to, from)| *to = *from);
    };
    put(0x000, &platform::COMPONENTS);
    put(0x030, &platform::QE_ATTRIBUTES);
    put(0x040, &[0x9E; 32]); // mrenclave
    put(0x080, &platform::QE_SIGNER);
    put(0x100, &platform::QE_PRODUCT.to_le_bytes());
    put(0x102, &platform::QE_SVN.to_le_bytes());
    put(0x140, bound);
    report
}

/// Appends the length of `bytes` as four little endian bytes, and `bytes`.
fn push_sized(to: &mut Vec<u8>, bytes: &[u8]) -> Result<(), Error> {
    let length = u32::try_from(bytes.len()).map_err(|_| Error::Crypto { step: "writing a quote" })?;
    to.extend(length.to_le_bytes());
    to.extend(bytes);
    Ok(())
}
