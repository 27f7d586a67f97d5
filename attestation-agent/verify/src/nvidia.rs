//! Verification of NVIDIA GPU evidence.
//!
//! Per device: the certificate chain up to NVIDIA's root of device identities, the ECDSA P-384 signature over request
//! and response (DMTF DSP0274 1.1), the firmware identity (FWID) that certificate and report must share, and the nonce,
//! which is the beginning of the session's digest. The evidence is refused as a whole when one device fails. Claim names
//! are those of Trustee's local NVIDIA verifier.
//!
//! Reports of the Hopper generation alone are verified: of no other were there recorded reports to check against.
//! Measurements are NOT compared with NVIDIA's reference manifests (RIM), and no certificate is looked up in a revocation
//! list: both need NVIDIA's services. The names `arch` and `uuid` come from the driver; the first is compared with the
//! certificate, the second nothing vouches for.

use std::collections::BTreeSet;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use cc_evidence::Tee;
use cc_evidence::initdata::fit;
use cc_evidence::nvidia::{Architecture, Device, NONCE_LEN, NvidiaEvidence, Report};

use crate::{Rejection, TrustRoots};

mod chain;
mod claims;

pub use chain::GpuChain;
pub use claims::NvidiaClaims;

/// What the evidence has to match.
#[derive(Clone, Copy, Debug)]
pub struct Expectation<'a> {
    /// Digest that the session binds for devices, not empty; its first 32 bytes are the nonce, a shorter one is padded
    /// with zeros.
    pub report_data: &'a [u8],
    /// Time of verification, seconds since 1970.
    pub now: u64,
}

/// Runs all checks on all devices and gives the claims of each, in the order of the evidence.
///
/// # Errors
/// A [`Rejection`] that names the first failed check and the device.
pub fn verify(
    evidence: &NvidiaEvidence,
    roots: &TrustRoots,
    x: &Expectation<'_>,
) -> Result<Vec<NvidiaClaims>, Rejection> {
    if x.report_data.is_empty() {
        return Err(Rejection::NothingExpected { tee: Tee::Nvidia, what: "report data" });
    }
    let nonce = fit(x.report_data, NONCE_LEN);
    let mut keys = BTreeSet::new();
    let claims = evidence.devices.iter().map(|device| {
        let refuse = |check, why| refused(check, device, why);
        let report = read(device)?;
        let chain = verify_device(device, &report, roots, x.now)?;
        if verify_slices_are_equal(&nonce, &report.nonce).is_err() {
            return Err(refuse(
                "nvidia.report_data",
                format!("its nonce is {}, expected {}", hex::encode(report.nonce), hex::encode(&nonce)),
            ));
        }
        // One device shown twice would pass for two, also with another certificate for its key.
        if !keys.insert(chain.public_key().to_vec()) {
            return Err(refuse("nvidia.duplicate", "the same device is in the evidence twice".to_owned()));
        }
        Ok(NvidiaClaims::new(device, &report))
    });
    let claims: Vec<_> = claims.collect::<Result<_, _>>()?;
    if claims.is_empty() {
        return Err(Rejection::Format { tee: Tee::Nvidia, why: "there is no device in it".to_owned() });
    }
    Ok(claims)
}

/// Whether devices of this generation are verified here.
#[must_use]
pub const fn is_served(architecture: Architecture) -> bool {
    matches!(architecture, Architecture::Hopper)
}

/// Verifies that a device with a trusted certificate made this report with the firmware that the certificate names.
/// What the report was made for, the nonce, stays open. `now` is in seconds since 1970.
///
/// # Errors
/// [`Rejection::Gpu`].
pub fn verify_device(
    device: &Device,
    report: &Report,
    roots: &TrustRoots,
    now: u64,
) -> Result<GpuChain, Rejection> {
    let refuse = |check, why| refused(check, device, why);
    if !is_served(device.architecture) {
        let why = format!("{} devices are not verified here, only HOPPER", device.architecture.as_str());
        return Err(refuse("nvidia.arch", why));
    }
    let chain =
        GpuChain::read(&device.certificate_chain, roots).map_err(|why| refuse("nvidia.chain", why))?;
    chain.check_dates(now).map_err(|why| refuse("nvidia.validity", why))?;
    if !chain.is_of(device.architecture) {
        let why = format!("the certificate is that of {:?}, not of a HOPPER device", chain.leaf_name());
        return Err(refuse("nvidia.arch", why));
    }
    UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, chain.public_key())
        .verify(report.signed(), report.signature())
        .map_err(|_| {
            refuse("nvidia.signature", "the report was not signed by its device over these bytes".to_owned())
        })?;
    match report.opaque.fwid() {
        Some(found) if found == chain.fwid() => Ok(chain),
        found => {
            let found = found.map_or_else(|| "none".to_owned(), hex::encode);
            let named = hex::encode(chain.fwid());
            Err(refuse(
                "nvidia.fwid",
                format!("the certificate is for firmware {named}, the report names {found}"),
            ))
        }
    }
}

/// Reads the report of a device.
///
/// # Errors
/// [`Rejection::Gpu`] with the parser's message.
pub fn read(device: &Device) -> Result<Report, Rejection> {
    Report::parse(&device.report).map_err(|error| refused("nvidia.report", device, error.to_string()))
}

fn refused(check: &'static str, device: &Device, why: String) -> Rejection {
    Rejection::Gpu { check, gpu: device.uuid.clone(), why }
}
