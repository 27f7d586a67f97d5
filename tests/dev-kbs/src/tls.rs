//! The server's TLS identity: a self-signed certificate made at the first start.
//!
//! Clients are given `tls.crt` as their one trust anchor; it is no certificate authority. TLS 1.2 and 1.3 with the
//! aws-lc provider, named explicitly.

use std::net::IpAddr;
use std::sync::Arc;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::Error;
use crate::state::StateDir;

/// File of the certificate in the state directory, PEM.
pub const CERTIFICATE_FILE: &str = "tls.crt";
/// File of its private key, PKCS#8 PEM, mode 0600.
const KEY_FILE: &str = "tls.key";
/// Names every certificate holds.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// The acceptor for the certificate in the state directory. A missing certificate is made, for `localhost`, the
/// loopback addresses, `address` and `more_names`.
///
/// # Errors
/// [`Error::State`] or [`Error::KeyFile`] when the files cannot be used, [`Error::Options`] for an illegal name.
pub fn acceptor(state: &StateDir, address: IpAddr, more_names: &[String]) -> Result<TlsAcceptor, Error> {
    let key_file = state.file(KEY_FILE);
    let unusable = |reason: String| Error::KeyFile { path: key_file.clone(), reason };
    let key_pem = state.load_or_create(KEY_FILE, || {
        KeyPair::generate()
            .map(|pair| pair.serialize_pem())
            .map_err(|_| Error::Internal("no TLS key could be made"))
    })?;
    let certificate_pem = match state.load(CERTIFICATE_FILE)? {
        Some(pem) => pem,
        None => {
            let pair = KeyPair::from_pem(&key_pem).map_err(|error| unusable(error.to_string()))?;
            let pem = certificate(&pair, address, more_names)?;
            state.create(CERTIFICATE_FILE, &pem, 0o644)?;
            pem
        }
    };
    let chain = CertificateDer::pem_slice_iter(certificate_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Error::KeyFile { path: state.file(CERTIFICATE_FILE), reason: error.to_string() })?;
    let key =
        PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|error| unusable(error.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| Error::Internal("the TLS provider has no protocol versions"))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| unusable(error.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificate(pair: &KeyPair, address: IpAddr, more_names: &[String]) -> Result<String, Error> {
    let mut names: Vec<String> = NAMES.map(str::to_owned).into();
    if !address.is_unspecified() && !address.is_loopback() {
        names.push(address.to_string());
    }
    names.extend_from_slice(more_names);
    let mut params = CertificateParams::new(names)
        .map_err(|_| Error::Options("--tls-name must be a DNS name or an IP address".into()))?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "dev-kbs (development only)");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let made = params.self_signed(pair).map_err(|_| Error::Internal("no TLS certificate could be made"))?;
    Ok(made.pem())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn the_certificate_is_made_once() {
        let place = tempfile::tempdir().unwrap();
        let state = StateDir::open(place.path()).unwrap();
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        acceptor(&state, loopback, &["10.0.2.2".into()]).unwrap();
        let first = state.load(CERTIFICATE_FILE).unwrap().unwrap();
        acceptor(&state, loopback, &[]).unwrap();
        assert_eq!(state.load(CERTIFICATE_FILE).unwrap().unwrap(), first);
    }

    #[test]
    fn a_certificate_of_another_key_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let state = StateDir::open(place.path()).unwrap();
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        acceptor(&state, loopback, &[]).unwrap();
        std::fs::remove_file(state.file(KEY_FILE)).unwrap();
        let refused = acceptor(&state, loopback, &[]).map(|_| ()).unwrap_err();
        assert!(matches!(refused, Error::KeyFile { .. }), "{refused}");
    }
}
