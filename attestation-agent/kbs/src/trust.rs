//! Whom to believe that it is the KBS.
//!
//! Three cases, by configuration:
//!
//! * no certificate: the public certification authorities of the web, as compiled in;
//! * certificates, mode `only`: nothing but them;
//! * certificates, mode `add`: them and the public authorities.
//!
//! A configured certificate is a root for chains, and it is a pin: a server that presents exactly its bytes is
//! believed even where chain building would refuse it (self-signed server certificates are commonly marked as
//! CA). A pin does not switch off the rest: its name must be that of the URL, its validity must hold, and the
//! handshake's signature proves that the server has its key. Revocation is not checked. The system's trust
//! store and proxy settings play no part.
//!
//! Chains: RFC 5280 section 6 by rustls-webpki. Names: RFC 6125. TLS 1.2 and 1.3, AWS-LC.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_cert::Certificate;
use x509_cert::der::Decode;

use crate::config::{CertificateMode, KbsConfig};
use crate::error::KbsError;

/// Longest PEM text read, in bytes.
const MAX_PEM_LEN: usize = 1024 * 1024;

/// The TLS configuration that `config` asks for.
///
/// # Errors
/// [`KbsError::Config`] if the configured PEM text holds no certificate, or one that is malformed.
pub(crate) fn client_config(config: &KbsConfig) -> Result<ClientConfig, KbsError> {
    let verifier = PinOrChain::new(config)?;
    Ok(ClientConfig::builder_with_provider(Arc::clone(&verifier.provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| unusable(e.to_string()))?
        .dangerous() // rustls' name for a verifier of one's own
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, KbsError> {
    if pem.len() > MAX_PEM_LEN {
        return Err(unusable(format!("the PEM text is longer than {MAX_PEM_LEN} bytes")));
    }
    let found = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| unusable(format!("the PEM text is malformed: {e}")))?;
    if found.is_empty() {
        return Err(unusable("the PEM text holds no certificate".to_owned()));
    }
    Ok(found)
}

fn unusable(why: String) -> KbsError {
    KbsError::Config { what: "certificate", why }
}

/// Believes a pinned certificate, else a chain to a root.
#[derive(Debug)]
struct PinOrChain {
    pins: Vec<CertificateDer<'static>>,
    chains: Arc<WebPkiServerVerifier>,
    provider: Arc<CryptoProvider>,
}

impl PinOrChain {
    fn new(config: &KbsConfig) -> Result<Self, KbsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let pins = match &config.root_certificate {
            Some(pem) => certificates(pem)?,
            None => Vec::new(),
        };
        let mut roots = RootCertStore::empty();
        if pins.is_empty() || config.certificate_mode == CertificateMode::Add {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        for (i, pin) in pins.iter().enumerate() {
            roots
                .add(pin.clone())
                .map_err(|e| unusable(format!("number {} in the PEM text cannot be a root: {e}", i + 1)))?;
        }
        let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|e| unusable(e.to_string()))?;
        Ok(Self { pins, chains, provider })
    }
}

impl ServerCertVerifier for PinOrChain {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        if self.pins.iter().any(|pin| pin == end_entity) {
            check_validity(end_entity, now)?;
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            return Ok(ServerCertVerified::assertion());
        }
        self.chains.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The validity period, which webpki checks only while building a chain.
fn check_validity(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), CertificateError> {
    let parsed = Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let validity = parsed.tbs_certificate().validity();
    let [not_before, not_after] =
        [validity.not_before, validity.not_after].map(|t| UnixTime::since_unix_epoch(t.to_unix_duration()));
    if now < not_before {
        return Err(CertificateError::NotValidYetContext { time: now, not_before });
    }
    if now > not_after {
        return Err(CertificateError::ExpiredContext { time: now, not_after });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
