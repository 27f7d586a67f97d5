//! From the name of a server to a stream of bytes to it: name, address, proxy, TLS.
//!
//! TLS 1.2 and 1.3 by rustls, chains to the public authorities of the web (as compiled in) and to those configured. Names
//! are always checked. The system's trust store plays no part.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use cc_kbs::Names;
use http::Uri;
use hyper_util::{
    client::{legacy::connect::proxy::Tunnel, proxy::matcher::Matcher},
    rt::TokioIo,
};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tower::Service;
use url::{Host, Url};

use crate::{
    RegistryError,
    options::{Options, Proxy},
    reach::Reach,
};

/// Longest PEM text read, in bytes.
const MAX_PEM: usize = 1 << 20;

/// A stream that bytes go both ways on.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Scheme, host and port: who answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub(crate) https: bool,
    host: Host,
    port: u16,
}

impl Origin {
    /// That of `url`, which has to be http or https without user and password.
    pub(crate) fn of(url: &Url) -> Result<Self, &'static str> {
        let https = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err("neither http nor https"),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err("a URL with a user in it");
        }
        let host = url.host().ok_or("a URL without a host")?.to_owned();
        let port = url.port_or_known_default().ok_or("a URL without a port")?;
        Ok(Self { https, host, port })
    }

    /// Host, and port if it is not the scheme's own.
    pub(crate) fn authority(&self) -> String {
        match (self.https, self.port) {
            (true, 443) | (false, 80) => self.host.to_string(),
            (_, port) => format!("{}:{port}", self.host),
        }
    }

    /// How far it reaches, as far as its own text tells.
    pub(crate) fn literal_reach(&self) -> Option<Reach> {
        match &self.host {
            Host::Ipv4(address) => Some(Reach::of(IpAddr::V4(*address))),
            Host::Ipv6(address) => Some(Reach::of(IpAddr::V6(*address))),
            Host::Domain(name) => {
                let name = name.trim_end_matches('.');
                (name == "localhost" || name.ends_with(".localhost")).then_some(Reach::Loopback)
            }
        }
    }

    fn uri(&self) -> Result<Uri, http::Error> {
        let scheme = if self.https { "https" } else { "http" };
        Uri::builder()
            .scheme(scheme)
            .authority(format!("{}:{}", self.host, self.port))
            .path_and_query("/")
            .build()
    }
}

/// What connections are made with.
#[derive(Debug)]
pub(crate) struct Dialer {
    tls: Arc<ClientConfig>,
    proxies: Matcher,
    names: Option<Arc<dyn Names>>,
    /// For all addresses of a name together.
    limit: Duration,
}

/// A stream, how far its other end is, and how requests name it.
pub(crate) struct Dialed {
    pub(crate) stream: Box<dyn Stream>,
    /// Of the address; where a proxy stands between, what the name tells, else global.
    pub(crate) reach: Reach,
    /// For a proxy that reads requests: they carry the whole URL, and this with them.
    pub(crate) proxy: Option<ReadingProxy>,
}

/// A proxy for plain http.
#[derive(Clone, Debug)]
pub(crate) struct ReadingProxy {
    pub(crate) authorization: Option<http::HeaderValue>,
}

impl Dialer {
    pub(crate) fn new(options: &Options) -> Result<Self, RegistryError> {
        let tls = Arc::new(tls_config(&options.extra_roots)?);
        // The rest is for the name and for TLS.
        let limit = options.patience.connect * 3 / 4;
        Ok(Self { tls, proxies: matcher(&options.proxy)?, names: options.names.clone(), limit })
    }

    /// Connects to `origin`. Where `from` sends us there, it must be allowed to.
    pub(crate) async fn dial(&self, origin: &Origin, from: Option<Reach>) -> Result<Dialed, RegistryError> {
        let host = origin.authority();
        let unreachable = |why: &dyn std::fmt::Display| RegistryError::unreachable(&host, &why.to_string());
        let reach = origin.literal_reach();
        if let (Some(from), Some(to)) = (from, reach)
            && !from.may_lead_to(to)
        {
            return Err(refused(&host));
        }
        let uri = origin.uri().map_err(|e| unreachable(&e))?;
        let proxy = if reach == Some(Reach::Loopback) { None } else { self.proxies.intercept(&uri) };
        let Some(proxy) = proxy else {
            let (stream, reach) = self.connect(&origin.host, origin.port, from, &host).await?;
            let stream: Box<dyn Stream> =
                if origin.https { self.secure(origin, stream, &host).await? } else { Box::new(stream) };
            return Ok(Dialed { stream, reach, proxy: None });
        };
        let reach = reach.unwrap_or(Reach::Global);
        let stream = self.connect_proxy(proxy.uri(), &host).await?;
        if !origin.https {
            let proxy = ReadingProxy { authorization: proxy.basic_auth().cloned() };
            return Ok(Dialed { stream, reach, proxy: Some(proxy) });
        }
        let name = proxy.uri().authority().map(ToString::to_string).unwrap_or_default();
        let closed = |why: String| RegistryError::Proxy { proxy: name.clone(), host: host.clone(), why };
        let mut stream = Some(TokioIo::new(stream));
        let give = tower::service_fn(move |_: Uri| {
            std::future::ready(stream.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)))
        });
        let mut tunnel = Tunnel::new(proxy.uri().clone(), give);
        if let Some(authorization) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(authorization.clone());
        }
        let stream = tunnel.call(uri).await.map_err(|e| closed(e.to_string()))?.into_inner();
        Ok(Dialed { stream: self.secure(origin, stream, &host).await?, reach, proxy: None })
    }

    async fn connect_proxy(&self, proxy: &Uri, host: &str) -> Result<Box<dyn Stream>, RegistryError> {
        let name = proxy.authority().map(ToString::to_string).unwrap_or_default();
        let closed = |why: String| RegistryError::Proxy { proxy: name.clone(), host: host.to_owned(), why };
        let url = Url::parse(&proxy.to_string()).map_err(|e| closed(e.to_string()))?;
        let origin = Origin::of(&url).map_err(|why| closed(why.to_owned()))?;
        let connected = self.connect(&origin.host, origin.port, None, &name).await;
        let (stream, _) = connected.map_err(|e| closed(e.to_string()))?;
        if origin.https {
            return self.secure(&origin, stream, &name).await;
        }
        Ok(Box::new(stream))
    }

    async fn connect(
        &self,
        host: &Host,
        port: u16,
        from: Option<Reach>,
        name: &str,
    ) -> Result<(TcpStream, Reach), RegistryError> {
        let addresses = self.addresses(host).await;
        let addresses = addresses.map_err(|e| RegistryError::unreachable(name, &e.to_string()))?;
        let allowed = |address: &IpAddr| from.is_none_or(|from| from.may_lead_to(Reach::of(*address)));
        if !addresses.is_empty() && !addresses.iter().any(allowed) {
            return Err(refused(name));
        }
        let mut why = "its name has no address".to_owned();
        // An address where nobody answers leaves time for the others: IPv6 is often announced and not there.
        let share = self.limit / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
        for address in addresses.into_iter().filter(allowed) {
            match timeout(share, TcpStream::connect(SocketAddr::new(address, port))).await {
                Ok(Ok(stream)) => {
                    // Without it small requests wait for the acknowledgement of earlier ones; nothing else depends on it.
                    let _ = stream.set_nodelay(true);
                    return Ok((stream, Reach::of(address)));
                }
                Ok(Err(e)) => why = format!("{address}: {e}"),
                Err(_) => why = format!("{address} does not answer"),
            }
        }
        Err(RegistryError::unreachable(name, &why))
    }

    async fn addresses(&self, host: &Host) -> io::Result<Vec<IpAddr>> {
        match (host, &self.names) {
            (Host::Ipv4(address), _) => Ok(vec![IpAddr::V4(*address)]),
            (Host::Ipv6(address), _) => Ok(vec![IpAddr::V6(*address)]),
            (Host::Domain(name), Some(names)) => names.addresses(name).await,
            (Host::Domain(name), None) => {
                Ok(tokio::net::lookup_host((name.as_str(), 0)).await?.map(|address| address.ip()).collect())
            }
        }
    }

    async fn secure(
        &self,
        origin: &Origin,
        stream: impl Stream + 'static,
        name: &str,
    ) -> Result<Box<dyn Stream>, RegistryError> {
        let server = match &origin.host {
            Host::Domain(name) => ServerName::try_from(name.clone())
                .map_err(|_| RegistryError::unreachable(name, "its name cannot be in a certificate"))?,
            Host::Ipv4(address) => ServerName::IpAddress(IpAddr::V4(*address).into()),
            Host::Ipv6(address) => ServerName::IpAddress(IpAddr::V6(*address).into()),
        };
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        match connector.connect(server, stream).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(e) => Err(match e.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(rustls::Error::InvalidCertificate(why)) => {
                    RegistryError::UntrustedTls { host: name.to_owned(), why: why.to_string() }
                }
                Some(why) => RegistryError::bad(name, "the TLS handshake", &why.to_string()),
                None => RegistryError::unreachable(name, &format!("in the TLS handshake: {e}")),
            }),
        }
    }
}

fn refused(host: &str) -> RegistryError {
    RegistryError::redirect(host, "is in a network that a registry outside of it must not send us to")
}

fn tls_config(extra_roots: &[String]) -> Result<ClientConfig, RegistryError> {
    let mut roots = RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    for (i, pem) in extra_roots.iter().enumerate() {
        let bad = |why: String| RegistryError::config(format!("root certificate {}", i + 1), why);
        if pem.len() > MAX_PEM {
            return Err(bad(format!("longer than {MAX_PEM} bytes")));
        }
        let found = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
        let found = found.map_err(|e| bad(format!("the PEM text is malformed: {e}")))?;
        if found.is_empty() {
            return Err(bad("no certificate in it".to_owned()));
        }
        for certificate in found {
            roots.add(certificate).map_err(|e| bad(format!("it cannot be a root: {e}")))?;
        }
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|e| RegistryError::config("TLS", e.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// The proxy rules. A proxy that cannot be used is an error here, so that nothing goes past it unseen.
fn matcher(proxy: &Proxy) -> Result<Matcher, RegistryError> {
    let mut rules = Matcher::builder().no(proxy.except.clone());
    for (what, url) in [("https_proxy", &proxy.https), ("http_proxy", &proxy.http)] {
        let Some(text) = url.as_deref().filter(|text| !text.is_empty()) else { continue };
        // Curl's custom: a proxy without a scheme speaks http.
        let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let bad = || RegistryError::config(what, "not a URL http[s]://[user:password@]host[:port]");
        let url = Url::parse(&text).map_err(|_| bad())?;
        // Where a password has a slash, a question mark or a hash in it, the rest of it is read as a path, a query or a
        // fragment, and the user as the host.
        let is_bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() || !is_bare {
            return Err(bad());
        }
        // As the parser of URLs writes it: an at sign in the password does not end it any more.
        let text = url.to_string();
        if text.parse::<Uri>().is_err() {
            return Err(bad());
        }
        rules = if what == "https_proxy" { rules.https(text) } else { rules.http(text) };
    }
    Ok(rules.build())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(url: &str) -> Result<Origin, &'static str> {
        Origin::of(&Url::parse(url).unwrap())
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        assert_eq!(origin("https://a.example/x").unwrap().authority(), "a.example");
        assert_eq!(origin("https://a.example:443/x").unwrap(), origin("https://a.example/").unwrap());
        assert_ne!(origin("http://a.example:443/x").unwrap(), origin("https://a.example/").unwrap());
        assert_eq!(origin("http://[::1]:5000/x").unwrap().authority(), "[::1]:5000");
        for bad in ["ftp://a/", "file:///etc", "https://user@a/", "https://u:p@a/", "data:x"] {
            assert!(origin(bad).is_err(), "{bad}");
        }
        for (url, reach) in [
            ("https://127.1/", Some(Reach::Loopback)),
            ("https://0x7f000001/", Some(Reach::Loopback)),
            ("https://localhost./", Some(Reach::Loopback)),
            ("https://a.localhost/", Some(Reach::Loopback)),
            ("https://[::ffff:10.0.0.1]/", Some(Reach::Private)),
            ("https://a.example/", None),
        ] {
            assert_eq!(origin(url).unwrap().literal_reach(), reach, "{url}");
        }
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_an_error() {
        let with = |url: &str| matcher(&Proxy { https: Some(url.into()), ..Proxy::default() });
        for good in ["", "http://p:3128", "p:3128", "https://user:p%40ss@p.example/", "http://u:a b@p"] {
            assert!(with(good).is_ok(), "{good}");
        }
        for secret in ["http://user:hun@ter2@p.example:3128", "user:hun@ter2@p.example:3128"] {
            let uri = "https://registry.example/".parse().unwrap();
            let found = with(secret).unwrap().intercept(&uri).unwrap();
            assert_eq!(found.uri().authority().unwrap().as_str(), "p.example:3128", "{secret}");
            assert_eq!(found.basic_auth().unwrap().as_bytes(), b"Basic dXNlcjpodW5AdGVyMg==");
        }
        for bad in
            ["http://u:12#ter2@p:3128", "http://u:12/ter2@p:3128", "http://u:12?ter2@p", "http://p/path"]
        {
            let error = with(bad).unwrap_err();
            assert!(error.code() == "REGISTRY_CONFIG" && !error.to_string().contains("12"), "{error}");
        }
        for bad in ["socks5://p:1080", "http://", "http://p:99999", "ftp://p", "http://u:hunter2"] {
            let error = with(bad).unwrap_err();
            assert!(error.code() == "REGISTRY_CONFIG" && !error.to_string().contains("ter2"), "{error}");
        }
    }

    #[test]
    fn roots_have_to_be_certificates() {
        assert!(tls_config(&[]).is_ok());
        for bad in ["", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert_eq!(tls_config(&[bad.to_owned()]).unwrap_err().code(), "REGISTRY_CONFIG");
        }
    }
}
