//! The verifier of relying parties over emulated GPUs: accepted under the test root, and each fault refused by the check
//! that is there for it. Needs no file system and no driver.

use std::time::{SystemTime, UNIX_EPOCH};

use cc_evidence::nvidia::{Architecture, Device, NvidiaEvidence};
use cc_verify::TrustRoots;
use cc_verify::nvidia::{Expectation, verify};
use tee_emulator::machine::{Gpu, GpuFault};
use tee_emulator::nvidia::{GpuChain, GpuKey, build};

/// A digest as the handshake has it; its first 32 bytes are the nonce.
const DIGEST: [u8; 48] = [0x42; 48];

fn device(chain: &GpuChain, key: &GpuKey, gpu: &Gpu) -> Device {
    Device {
        architecture: Architecture::Hopper,
        uuid: gpu.uuid.clone(),
        report: build(gpu, key, DIGEST.first_chunk().unwrap()).unwrap(),
        certificate_chain: chain.pem(gpu, key).unwrap().into_bytes(),
    }
}

/// The check that refuses, none if the evidence is accepted.
fn refused_by(devices: &[Device], roots: &TrustRoots) -> Option<&'static str> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let evidence = NvidiaEvidence { devices: devices.to_vec() };
    let read = NvidiaEvidence::from_json(&evidence.to_json().unwrap()).unwrap();
    let expected = Expectation { report_data: &DIGEST, now };
    verify(&read, roots, &expected).err().map(|rejection| rejection.check())
}

fn roots(chain: &GpuChain) -> TrustRoots {
    let roots = TrustRoots::vendor().with_test_roots(&chain.roots_pem().unwrap()).unwrap();
    assert!(roots.has_test_roots());
    roots
}

#[test]
fn every_fault_of_a_gpu_is_refused_by_its_check() {
    let (chain, key) = (GpuChain::generate().unwrap(), GpuKey::generate().unwrap());
    let trusted = roots(&chain);
    let good = device(&chain, &key, &Gpu::default());
    assert_eq!(refused_by(std::slice::from_ref(&good), &trusted), None);
    for (fault, check) in [
        (GpuFault::FlipByte, "nvidia.signature"),
        (GpuFault::WrongNonce, "nvidia.report_data"),
        (GpuFault::WrongFwid, "nvidia.fwid"),
        (GpuFault::Expired, "nvidia.validity"),
        (GpuFault::Truncated, "nvidia.report"),
    ] {
        let bad = device(&chain, &key, &Gpu { fault, ..Gpu::default() });
        assert_eq!(refused_by(std::slice::from_ref(&bad), &trusted), Some(check), "{fault:?}");
        let other = device(&chain, &GpuKey::generate().unwrap(), &Gpu::default());
        assert_eq!(refused_by(&[other, bad], &trusted), Some(check), "{fault:?} beside a good one");
    }
    assert_eq!(refused_by(&[good.clone(), good.clone()], &trusted), Some("nvidia.duplicate"));
    assert_eq!(
        refused_by(std::slice::from_ref(&good), &TrustRoots::vendor()),
        Some("nvidia.chain"),
        "not NVIDIA's"
    );
    let other = GpuChain::generate().unwrap();
    assert_eq!(
        refused_by(std::slice::from_ref(&good), &roots(&other)),
        Some("nvidia.chain"),
        "nor another emulator's"
    );
    // A key that is certified by nobody under a chain that is.
    let forged = device(&chain, &GpuKey::generate().unwrap(), &Gpu::default());
    let forged = Device { certificate_chain: good.certificate_chain, ..forged };
    assert_eq!(refused_by(&[forged], &trusted), Some("nvidia.signature"));
}

#[test]
fn every_byte_of_an_emulated_report_counts() {
    let (chain, key) = (GpuChain::generate().unwrap(), GpuKey::generate().unwrap());
    let trusted = roots(&chain);
    let good = device(&chain, &key, &Gpu::default());
    for index in (0..good.report.len()).step_by(29) {
        let mut changed = good.clone();
        changed.report[index] ^= 0x10;
        assert!(refused_by(&[changed], &trusted).is_some(), "byte {index}");
    }
}

#[test]
fn links_of_a_chain_cannot_be_left_out_doubled_or_swapped() {
    let (chain, key) = (GpuChain::generate().unwrap(), GpuKey::generate().unwrap());
    let trusted = roots(&chain);
    let good = device(&chain, &key, &Gpu::default());
    let text = String::from_utf8(good.certificate_chain.clone()).unwrap();
    let certs: Vec<&str> = text.split_inclusive("-----END CERTIFICATE-----\n").collect();
    assert_eq!(certs.len(), 5);
    let with = |certs: &[&str]| {
        let changed = Device { certificate_chain: certs.concat().into_bytes(), ..good.clone() };
        refused_by(&[changed], &trusted)
    };
    assert_eq!(with(&certs), None);
    for index in 0..certs.len() {
        let mut short = certs.clone();
        short.remove(index);
        assert_eq!(with(&short), Some("nvidia.chain"), "without {index}");
        let mut long = certs.clone();
        long.insert(index, certs[index]);
        // The root signs itself, so that showing it twice changes nothing.
        let expected = if index + 1 == certs.len() { None } else { Some("nvidia.chain") };
        assert_eq!(with(&long), expected, "{index} twice");
        let mut swapped = certs.clone();
        swapped.swap(index, (index + 1) % certs.len());
        assert_eq!(with(&swapped), Some("nvidia.chain"), "{index} swapped");
    }
}
