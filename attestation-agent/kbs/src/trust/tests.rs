//! Who is believed to be the KBS: roots, pins, names, dates.

use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::client::danger::ServerCertVerifier;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{PinOrChain, client_config};
use crate::{CertificateMode, KbsConfig};

/// Middle of the validity that `params` gives.
const NOW: u64 = 1_800_000_000;

fn params(name: &str, ca: bool) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = if ca { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::ExplicitNoCa };
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2040, 1, 1);
    params
}

fn self_signed(params: CertificateParams) -> (String, CertificateDer<'static>) {
    let cert = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    (cert.pem(), cert.der().clone())
}

fn verifier(pem: &str, mode: CertificateMode) -> PinOrChain {
    PinOrChain::new(&KbsConfig {
        root_certificate: Some(pem.to_owned()),
        certificate_mode: mode,
        ..KbsConfig::new("https://kbs.example.org")
    })
    .unwrap()
}

fn check(
    verifier: &PinOrChain,
    presented: &CertificateDer<'_>,
    name: &str,
    now: u64,
) -> Result<(), rustls::Error> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
    verifier.verify_server_cert(presented, &[], &name, &[], now).map(|_| ())
}

#[test]
fn a_pin_holds_for_its_bytes_its_name_and_its_time() {
    for ca in [true, false] {
        let (pem, der) = self_signed(params("kbs.example.org", ca));
        let verifier = verifier(&pem, CertificateMode::Only);
        check(&verifier, &der, "kbs.example.org", NOW).unwrap();
        for (name, now, why) in [
            ("other.example.org", NOW, "NotValidForName"),
            ("kbs.example.org", 2_300_000_000, "Expired"),
            ("kbs.example.org", 1_000_000_000, "NotValidYet"),
        ] {
            let e = format!("{:?}", check(&verifier, &der, name, now).unwrap_err());
            assert!(e.contains(why), "ca={ca}: {e}");
        }
        // The same name and fields, but another key.
        let (_, twin) = self_signed(params("kbs.example.org", ca));
        check(&verifier, &twin, "kbs.example.org", NOW).unwrap_err();
    }
}

#[test]
fn a_configured_ca_vouches_for_what_it_signed() {
    let ca = CertifiedIssuer::self_signed(params("Test CA", true), KeyPair::generate().unwrap()).unwrap();
    let other = CertifiedIssuer::self_signed(params("Test CA", true), KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let good = params("kbs.example.org", false).signed_by(&key, &ca).unwrap();
    let foreign = params("kbs.example.org", false).signed_by(&key, &other).unwrap();
    let mut late = params("kbs.example.org", false);
    late.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let late = late.signed_by(&key, &ca).unwrap();
    let verifier = verifier(&ca.pem(), CertificateMode::Only);
    check(&verifier, good.der(), "kbs.example.org", NOW).unwrap();
    check(&verifier, good.der(), "other.example.org", NOW).unwrap_err();
    check(&verifier, foreign.der(), "kbs.example.org", NOW).unwrap_err();
    check(&verifier, late.der(), "kbs.example.org", NOW).unwrap_err();
}

#[test]
fn several_certificates_are_all_pins() {
    let (first_pem, first) = self_signed(params("a.example.org", true));
    let (second_pem, second) = self_signed(params("b.example.org", true));
    let verifier = verifier(&format!("{first_pem}\n{second_pem}"), CertificateMode::Add);
    check(&verifier, &first, "a.example.org", NOW).unwrap();
    check(&verifier, &second, "b.example.org", NOW).unwrap();
    check(&verifier, &second, "a.example.org", NOW).unwrap_err();
}

#[test]
fn unusable_certificates_are_configuration_errors() {
    let key = KeyPair::generate().unwrap().serialize_pem();
    for pem in [
        "",
        "not PEM",
        "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\nMAA=\n",
        key.as_str(),
        " ".repeat(2 << 20).as_str(),
    ] {
        let config = KbsConfig { root_certificate: Some(pem.to_owned()), ..KbsConfig::new("https://h") };
        assert_eq!(client_config(&config).unwrap_err().code(), "KBS_CONFIG");
    }
    client_config(&KbsConfig::new("https://h")).unwrap();
}
