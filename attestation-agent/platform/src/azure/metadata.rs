//! The metadata service of an Azure machine: the certificate of the chip, and quotes over a TDREPORT.
//!
//! Azure Instance Metadata Service, at a link-local address that the host answers itself: `GET
//! /metadata/THIM/amd/certification` (Trusted Hardware Identity Management) and `POST /acc/tdquote`. What it says is
//! the host's word like everything else here; the relying party verifies it. It is NOT reached through a proxy.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde::Deserialize;

use super::AzureError;
use super::http::{self, Failure};

/// The service's own address.
pub const DEFAULT_URL: &str = "http://169.254.169.254";

const CERTIFICATION: &str = "/metadata/THIM/amd/certification";
const TD_QUOTE: &str = "/acc/tdquote";

/// How often something is asked before it counts as failed.
const ATTEMPTS: u32 = 3;

/// Time limit of one attempt: a quote takes the host a second or two.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(10);

/// Pause before the second attempt; it doubles.
const PAUSE: Duration = Duration::from_millis(400);

/// Where the metadata service is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataUrl {
    address: SocketAddr,
    /// Path before the service's own, without a slash at its end.
    prefix: String,
}

impl MetadataUrl {
    /// Reads `http://ADDRESS[:PORT][/PATH]`, the address a literal one.
    ///
    /// The service speaks for this machine alone, so the address has to be link-local or of the loopback, unless
    /// `anywhere`.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn parse(text: &str, anywhere: bool) -> Result<Self, String> {
        let rest = text.strip_prefix("http://").ok_or("it must begin with http://")?;
        let (authority, prefix) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let literal = |text: &str| text.trim_matches(['[', ']']).parse::<IpAddr>().ok();
        let address = authority
            .parse::<SocketAddr>()
            .ok()
            .or_else(|| Some(SocketAddr::new(literal(authority)?, 80)))
            .ok_or("its host must be an IP address, with a port if it is not 80")?;
        if !anywhere && !is_of_this_machine(address.ip()) {
            return Err("its address is neither link-local nor of the loopback".to_owned());
        }
        if prefix.bytes().any(|byte| !byte.is_ascii_graphic() || matches!(byte, b'?' | b'#')) {
            return Err("its path has characters that it must not have".to_owned());
        }
        Ok(Self { address, prefix: prefix.trim_end_matches('/').to_owned() })
    }
}

impl Default for MetadataUrl {
    fn default() -> Self {
        Self { address: SocketAddr::from(([169, 254, 169, 254], 80)), prefix: String::new() }
    }
}

impl fmt::Display for MetadataUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.address, self.prefix)
    }
}

fn is_of_this_machine(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local(),
    }
}

/// The VCEK certificate (DER) of the chip at its present firmware level. Over at `deadline`.
///
/// # Errors
/// [`AzureError::MetadataUnreachable`], [`AzureError::MetadataRefused`], [`AzureError::MetadataMalformed`].
pub(super) fn vcek(url: &MetadataUrl, deadline: Instant) -> Result<Vec<u8>, AzureError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Certification {
        vcek_cert: String,
    }
    let service = Service { url, path: CERTIFICATION, deadline };
    let answer: Certification = service.ask(None)?;
    first_certificate(&answer.vcek_cert)
        .ok_or_else(|| service.malformed("vcekCert is no PEM certificate".to_owned()))
}

/// A quote over `td_report` (1024 bytes). Over at `deadline`.
///
/// # Errors
/// As [`vcek`].
pub(super) fn td_quote(
    url: &MetadataUrl,
    td_report: &[u8],
    deadline: Instant,
) -> Result<Vec<u8>, AzureError> {
    #[derive(Deserialize)]
    struct Quoted {
        quote: String,
    }
    let service = Service { url, path: TD_QUOTE, deadline };
    let body = format!(r#"{{"report":"{}"}}"#, BASE64_URL_SAFE_NO_PAD.encode(td_report));
    let answer: Quoted = service.ask(Some(&body))?;
    BASE64_URL_SAFE_NO_PAD
        .decode(answer.quote.trim_end_matches('='))
        .map_err(|error| service.malformed(format!("quote is not base64url: {error}")))
}

struct Service<'a> {
    url: &'a MetadataUrl,
    path: &'static str,
    deadline: Instant,
}

impl Service<'_> {
    fn ask<T: for<'de> Deserialize<'de>>(&self, body: Option<&str>) -> Result<T, AzureError> {
        let path = format!("{}{}", self.url.prefix, self.path);
        let mut pause = PAUSE;
        for attempt in 1.. {
            let now = Instant::now();
            let request = http::Request {
                address: self.url.address,
                path: &path,
                body,
                deadline: self.deadline.min(now + ATTEMPT_LIMIT),
            };
            let failure = match http::ask(&request) {
                // The reader's own message has line and column, and quotes nothing.
                Ok(answer) => {
                    return serde_json::from_slice(&answer)
                        .map_err(|error| self.malformed(format!("it is not the expected JSON: {error}")));
                }
                Err(failure) => failure,
            };
            if attempt == ATTEMPTS || !is_passing(&failure) || Instant::now() + pause >= self.deadline {
                return Err(self.failed(failure, now.elapsed()));
            }
            tracing::debug!(url = %self.url, path = self.path, ?failure, "asking the metadata service again");
            wait(pause);
            pause *= 2;
        }
        Err(self.failed(Failure::Timeout, Duration::ZERO))
    }

    fn failed(&self, failure: Failure, waited: Duration) -> AzureError {
        let url = format!("{}{}", self.url, self.path);
        match failure {
            Failure::Connection(source) => AzureError::MetadataUnreachable { url, why: source.to_string() },
            Failure::Timeout => AzureError::MetadataUnreachable {
                url,
                why: format!("no answer within {} s", waited.as_secs_f32().ceil()),
            },
            Failure::Status(status) => AzureError::MetadataRefused { url, status },
            Failure::Malformed(why) => AzureError::MetadataMalformed { url, why },
        }
    }

    fn malformed(&self, why: String) -> AzureError {
        self.failed(Failure::Malformed(why), Duration::ZERO)
    }
}

/// Whether it may be better a moment later: the service is asked by all of a machine and limits the rate.
fn is_passing(failure: &Failure) -> bool {
    match failure {
        Failure::Connection(_) | Failure::Timeout => true,
        Failure::Status(status) => matches!(status, 408 | 410 | 429 | 500..=599),
        Failure::Malformed(_) => false,
    }
}

#[allow(clippy::disallowed_methods, reason = "a device thread waits for the host")]
fn wait(pause: Duration) {
    std::thread::sleep(pause);
}

/// The first certificate of a PEM text (RFC 7468) as DER.
fn first_certificate(pem: &str) -> Option<Vec<u8>> {
    let (_, from) = pem.split_once("-----BEGIN CERTIFICATE-----")?;
    let (inside, _) = from.split_once("-----END CERTIFICATE-----")?;
    let text: String = inside.split_ascii_whitespace().collect();
    BASE64_STANDARD.decode(text).ok().filter(|der| !der.is_empty())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    /// A service that gives `answers` one after the other, and what it was asked.
    fn service(answers: Vec<String>) -> (MetadataUrl, thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url =
            MetadataUrl::parse(&format!("http://{}/x/", listener.local_addr().unwrap()), false).unwrap();
        let served = thread::spawn(move || {
            let serve = |answer: String| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut asked = vec![0; 4096];
                let length = stream.read(&mut asked).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
                String::from_utf8_lossy(&asked[..length]).into_owned()
            };
            answers.into_iter().map(serve).collect()
        });
        (url, served)
    }

    fn ok(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn the_first_certificate_of_the_answer_counts() {
        let pem = "-----BEGIN CERTIFICATE-----\\nAQID\\nBA==\\n-----END CERTIFICATE-----\\n";
        let body = format!("{{\"vcekCert\":\"{pem}{pem}\",\"tcbm\":\"DB18\",\"certificateChain\":\"\"}}");
        let (url, served) = service(vec![ok(&body)]);
        assert_eq!(vcek(&url, soon()).unwrap(), [1, 2, 3, 4]);
        assert!(served.join().unwrap()[0].starts_with("GET /x/metadata/THIM/amd/certification HTTP/1.1\r\n"));
    }

    #[test]
    fn a_busy_service_is_asked_again() {
        let busy = "HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n".to_owned();
        let (url, served) = service(vec![busy, ok(r#"{"quote":"-_8="}"#)]);
        assert_eq!(td_quote(&url, &[0xFB, 0xFF], soon()).unwrap(), [0xFB, 0xFF]);
        let asked = served.join().unwrap();
        assert_eq!(asked.len(), 2);
        assert!(asked[1].ends_with("\r\n\r\n{\"report\":\"-_8\"}"), "{}", asked[1]);
    }

    #[test]
    fn other_answers_are_told_by_their_kind() {
        let code = |answer: String| {
            let (url, served) = service(vec![answer]);
            let error = vcek(&url, soon()).unwrap_err();
            served.join().unwrap();
            assert!(error.to_string().contains("/x/metadata/THIM"), "{error}");
            error.code()
        };
        assert_eq!(code("HTTP/1.1 404 Not Found\r\n\r\n".to_owned()), "AZURE_METADATA_REFUSED");
        let moved = "HTTP/1.1 301 Moved\r\nLocation: http://10.0.0.1/\r\n\r\n";
        assert_eq!(code(moved.to_owned()), "AZURE_METADATA_REFUSED");
        for body in
            ["", "{}", "[]", "garbage", r#"{"vcekCert":""}"#, r#"{"vcekCert":"-----BEGIN CERTIFICATE-----"}"#]
        {
            assert_eq!(code(ok(body)), "AZURE_METADATA_MALFORMED", "{body}");
        }
        let nobody = MetadataUrl::parse("http://127.0.0.1:1", false).unwrap();
        let error = vcek(&nobody, Instant::now() + Duration::from_millis(300)).unwrap_err();
        assert_eq!(error.code(), "AZURE_METADATA_UNREACHABLE");
    }

    #[test]
    fn only_addresses_of_this_machine_unless_it_is_said() {
        for (text, shown) in [
            (DEFAULT_URL, "http://169.254.169.254:80"),
            ("http://127.0.0.1:8080/a/", "http://127.0.0.1:8080/a"),
            ("http://[::1]", "http://[::1]:80"),
            ("http://[fe80::1]:81", "http://[fe80::1]:81"),
        ] {
            assert_eq!(MetadataUrl::parse(text, false).unwrap().to_string(), shown);
        }
        assert_eq!(MetadataUrl::parse(DEFAULT_URL, false), Ok(MetadataUrl::default()));
        for text in [
            "",
            "https://127.0.0.1",
            "http://localhost",
            "http://",
            "http://10.0.0.1",
            "http://[::ffff:10.0.0.1]",
            "http://127.0.0.1:99999",
            "http://user@127.0.0.1",
            "http://127.0.0.1/a b",
            "http://127.0.0.1/?x",
            "http://127.0.0.1/\r\nX: y",
        ] {
            assert!(MetadataUrl::parse(text, false).is_err(), "{text}");
        }
        assert!(MetadataUrl::parse("http://10.0.0.1", true).is_ok());
    }

    proptest! {
        #[test]
        fn any_text_is_an_address_or_refused(text in "(http://)?\\PC{0,40}", pem in "(-----BEGIN CERTIFICATE-----)?\\PC{0,40}") {
            let _ = MetadataUrl::parse(&text, true);
            let _ = first_certificate(&pem);
        }
    }
}
