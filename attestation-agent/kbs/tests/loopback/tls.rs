//! TLS: which server is believed, over real handshakes.

use std::sync::Arc;

use cc_kbs::{Blame, CertificateMode, Error, KbsConfig, Session};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::server::{Kbs, Step, secret};
use crate::{soon, uri};

fn params(name: &str, ca: bool) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = if ca { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::ExplicitNoCa };
    params
}

struct Identity {
    pem: String,
    key: KeyPair,
}

fn self_signed(params: CertificateParams) -> Identity {
    let key = KeyPair::generate().unwrap();
    Identity { pem: params.self_signed(&key).unwrap().pem(), key }
}

async fn kbs(identity: &Identity) -> Kbs {
    let chain = vec![CertificateDer::from_pem_slice(identity.pem.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(identity.key.serialize_pem().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    Kbs::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), Some(TlsAcceptor::from(Arc::new(config))))
}

async fn fetch(url: &str, root: Option<&str>, mode: CertificateMode) -> Result<Vec<u8>, Error> {
    let config = KbsConfig {
        root_certificate: root.map(str::to_owned),
        certificate_mode: mode,
        ..KbsConfig::new(url)
    };
    let session = Session::new(config, Arc::new(crate::Machine::default())).unwrap();
    session.fetch(&uri(), soon()).await.map(cc_kbs::Secret::into_exposed)
}

async fn refused(kbs: &Kbs, root: Option<&str>, why: &str) {
    for mode in [CertificateMode::Only, CertificateMode::Add] {
        let e = fetch(&kbs.url(), root, mode).await.unwrap_err();
        assert_eq!((e.code(), e.blame()), ("KBS_TLS_UNTRUSTED", Blame::Misbehaved), "{e}");
        assert!(e.to_string().contains(why), "{e}");
    }
    assert_eq!(kbs.count(Step::Auth), 0, "nothing was sent to it");
}

#[tokio::test]
async fn a_pinned_certificate_is_believed_even_when_marked_as_ca() {
    for ca in [true, false] {
        let identity = self_signed(params("127.0.0.1", ca));
        let kbs = kbs(&identity).await;
        for mode in [CertificateMode::Only, CertificateMode::Add] {
            let found = fetch(&kbs.url(), Some(&identity.pem), mode).await.unwrap();
            assert_eq!(found, secret("/kbs/v0/resource/default/key/1"));
        }
    }
}

#[tokio::test]
async fn a_certificate_of_the_configured_ca_is_believed() {
    let ca = CertifiedIssuer::self_signed(params("Test CA", true), KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let pem = params("127.0.0.1", false).signed_by(&key, &ca).unwrap().pem();
    let kbs = kbs(&Identity { pem, key }).await;
    fetch(&kbs.url(), Some(&ca.pem()), CertificateMode::Only).await.unwrap();
    let other = self_signed(params("Test CA", true));
    drop(fetch(&kbs.url(), Some(&other.pem), CertificateMode::Only).await.unwrap_err());
}

#[tokio::test]
async fn another_ca_is_not_believed() {
    let ca = CertifiedIssuer::self_signed(params("Test CA", true), KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let pem = params("127.0.0.1", false).signed_by(&key, &ca).unwrap().pem();
    let kbs = kbs(&Identity { pem, key }).await;
    let other = self_signed(params("Other CA", true));
    refused(&kbs, Some(&other.pem), "").await;
    // A self-made certificate is not believed by the public authorities.
    refused(&kbs, None, "").await;
}

#[tokio::test]
async fn a_pin_of_another_name_is_not_believed() {
    let identity = self_signed(params("kbs.example.org", true));
    let kbs = kbs(&identity).await;
    refused(&kbs, Some(&identity.pem), "not valid for").await;
}

#[tokio::test]
async fn an_expired_pin_is_not_believed() {
    let mut old = params("127.0.0.1", true);
    old.not_before = rcgen::date_time_ymd(2020, 1, 1);
    old.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let identity = self_signed(old);
    let kbs = kbs(&identity).await;
    refused(&kbs, Some(&identity.pem), "expired").await;
}

#[tokio::test]
async fn a_twin_of_the_pin_with_another_key_is_not_believed() {
    let pinned = self_signed(params("127.0.0.1", true));
    let kbs = kbs(&self_signed(params("127.0.0.1", true))).await;
    refused(&kbs, Some(&pinned.pem), "").await;
}

#[tokio::test]
async fn a_stolen_certificate_without_its_key_is_not_believed() {
    // The pinned certificate, presented by a server that signs with another key. Rustls refuses to build such
    // a server from PEM, so the key is swapped behind its back.
    use rustls::server::{ClientHello, ResolvesServerCert};
    use rustls::sign::CertifiedKey;

    #[derive(Debug)]
    struct Thief(Arc<CertifiedKey>);
    impl ResolvesServerCert for Thief {
        fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
            Some(Arc::clone(&self.0))
        }
    }

    let victim = self_signed(params("127.0.0.1", true));
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let own_key =
        PrivateKeyDer::from_pem_slice(KeyPair::generate().unwrap().serialize_pem().as_bytes()).unwrap();
    let signer = provider.key_provider.load_private_key(own_key).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(victim.pem.as_bytes()).unwrap()];
    let config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Thief(Arc::new(CertifiedKey::new(chain, signer)))));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let kbs = Kbs::on(listener, Some(TlsAcceptor::from(Arc::new(config))));
    refused(&kbs, Some(&victim.pem), "").await;
}

#[tokio::test]
async fn a_server_without_tls_is_misbehaviour() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        }
    });
    let e = fetch(&url, None, CertificateMode::Only).await.unwrap_err();
    assert_eq!(e.code(), "KBS_BAD_RESPONSE", "{e}");
}
