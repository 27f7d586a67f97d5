//! Server certificates, good and bad.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A certificate with its key.
#[derive(Debug)]
pub struct Identity {
    /// PEM of the certificate that the server presents.
    pub certificate: String,
    key: String,
}

impl Identity {
    /// A self-signed certificate for `name` (an address or a DNS name), marked as CA or not.
    ///
    /// # Errors
    /// The name cannot be in a certificate.
    pub fn self_signed(name: &str, ca: bool) -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        Ok(Self { certificate: params(name, ca)?.self_signed(&key)?.pem(), key: key.serialize_pem() })
    }

    /// A self-signed certificate whose time is over.
    ///
    /// # Errors
    /// As [`Identity::self_signed`].
    pub fn expired(name: &str) -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = params(name, false)?;
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        Ok(Self { certificate: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
    }

    /// A certificate for `name` by a CA, and the CA's own certificate as PEM.
    ///
    /// # Errors
    /// As [`Identity::self_signed`].
    pub fn by_ca(name: &str) -> anyhow::Result<(Self, String)> {
        let ca = CertifiedIssuer::self_signed(params("a test CA", true)?, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let certificate = params(name, false)?.signed_by(&key, &ca)?.pem();
        Ok((Self { certificate, key: key.serialize_pem() }, ca.pem()))
    }

    pub(super) fn acceptor(&self) -> anyhow::Result<TlsAcceptor> {
        let chain = vec![CertificateDer::from_pem_slice(self.certificate.as_bytes())?];
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())?;
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

fn params(name: &str, ca: bool) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(if name.contains(' ') { vec![] } else { vec![name.to_owned()] })?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = if ca { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::ExplicitNoCa };
    Ok(params)
}
