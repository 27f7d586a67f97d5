//! The generator against servers whose behaviour is known.

use std::convert::Infallible;

use http::Response;
use http_body_util::Full;
use hyper::service::service_fn;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::*;

/// What the server did.
#[derive(Default)]
struct Seen {
    connections: AtomicU64,
    requests: AtomicU64,
}

/// Answers `/ok` with a body, `/hang` never, all else with 404; closes after `per_connection` requests.
async fn serve<T>(stream: T, seen: Arc<Seen>, per_connection: u64)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    seen.connections.fetch_add(1, Ordering::Relaxed);
    let served = AtomicU64::new(0);
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        seen.requests.fetch_add(1, Ordering::Relaxed);
        let last = served.fetch_add(1, Ordering::Relaxed) + 1 == per_connection;
        async move {
            assert!(request.headers().contains_key(HOST));
            let mut response = match request.uri().path() {
                "/ok" => Response::new(Full::new(Bytes::from_static(b"body"))),
                "/hang" => std::future::pending().await,
                _ => Response::builder().status(404).body(Full::default()).unwrap(),
            };
            if last {
                response.headers_mut().insert("connection", HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn server(per_connection: u64, tls: Option<TlsAcceptor>) -> (SocketAddr, Arc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let seen = Arc::new(Seen::default());
    let shared = Arc::clone(&seen);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (seen, tls) = (Arc::clone(&shared), tls.clone());
            tokio::spawn(async move {
                match tls {
                    None => serve(stream, seen, per_connection).await,
                    Some(acceptor) => {
                        if let Ok(stream) = acceptor.accept(stream).await {
                            serve(stream, seen, per_connection).await;
                        }
                    }
                }
            });
        }
    });
    (addr, seen)
}

fn target(addr: SocketAddr, path: &str) -> Target {
    Target { addr, path: path.to_owned(), headers: HeaderMap::new(), tls: None }
}

const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn sends_exactly_the_requests_over_kept_connections() {
    let (addr, seen) = server(u64::MAX, None).await;
    let summary = run(target(addr, "/ok"), 4, 500, LONG).await.unwrap();
    assert_eq!((summary.requests, summary.errors), (500, 0), "{summary}");
    assert_eq!(seen.requests.load(Ordering::Relaxed), 500);
    assert_eq!(seen.connections.load(Ordering::Relaxed), 4);
    assert!(summary.p50_us <= summary.p99_us && summary.p99_us <= summary.max_us && summary.max_us > 0);
    assert!((summary.rps - 500.0 / summary.seconds).abs() < 1e-6);
}

#[tokio::test]
async fn other_statuses_are_errors() {
    let (addr, _) = server(u64::MAX, None).await;
    let summary = run(target(addr, "/missing"), 2, 20, LONG).await.unwrap();
    assert_eq!((summary.requests, summary.errors, summary.max_us), (0, 20, 0));
    assert_eq!(summary.statuses, [(404, 20)].into());
}

#[tokio::test]
async fn bodies_go_through_the_hook() {
    let (addr, _) = server(u64::MAX, None).await;
    let calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&calls);
    let open: Open =
        Arc::new(move |body| body == b"body" && counted.fetch_add(1, Ordering::Relaxed).is_multiple_of(2));
    let summary = run_with(target(addr, "/ok"), 1, 10, LONG, open).await.unwrap();
    assert_eq!((summary.requests, summary.errors), (5, 5));
    assert_eq!(calls.load(Ordering::Relaxed), 10);
}

#[tokio::test]
async fn connections_that_close_are_opened_again() {
    let (addr, seen) = server(10, None).await;
    let summary = run(target(addr, "/ok"), 1, 100, LONG).await.unwrap();
    assert_eq!(summary.requests + summary.errors, 100);
    assert!(summary.requests >= 90, "{summary}");
    assert!(seen.connections.load(Ordering::Relaxed) >= 10);
}

#[tokio::test]
async fn time_ends_a_run() {
    let (addr, _) = server(u64::MAX, None).await;
    let began = Instant::now();
    let summary = run(target(addr, "/ok"), 2, u64::MAX, Duration::from_millis(200)).await.unwrap();
    assert!(summary.requests > 0 && summary.errors == 0, "{summary}");
    assert!(began.elapsed() < GRACE);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_is_given_up() {
    let (addr, _) = server(u64::MAX, None).await;
    let summary = run(target(addr, "/hang"), 2, 100, Duration::from_secs(1)).await.unwrap();
    assert_eq!((summary.requests, summary.errors), (0, 2));
}

#[tokio::test]
async fn what_cannot_be_asked_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = listener.local_addr().unwrap();
    drop(listener);
    for (target, connections) in [
        (target(closed, "/ok"), 1),
        (target(closed, "ok"), 1),
        (target(closed, "/o k"), 1),
        (target(closed, "/ok"), 0),
        (Target { tls: Some("no certificate".to_owned()), ..target(closed, "/ok") }, 1),
    ] {
        assert!(run(target, connections, 1, LONG).await.is_err());
    }
}

/// A self-signed certificate (PEM) and an acceptor that presents it.
fn identity() -> (String, TlsAcceptor) {
    let signed = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signed.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![signed.cert.der().clone()], key)
        .unwrap();
    (signed.cert.pem(), TlsAcceptor::from(Arc::new(config)))
}

#[tokio::test]
async fn tls_with_the_pinned_certificate_only() {
    let (pem, acceptor) = identity();
    let (other, _) = identity();
    let (addr, _) = server(u64::MAX, Some(acceptor)).await;
    let with = |pem: String| Target { tls: Some(pem), ..target(addr, "/ok") };
    let summary = run(with(pem), 2, 50, LONG).await.unwrap();
    assert_eq!((summary.requests, summary.errors), (50, 0));
    assert!(run(with(other), 1, 1, LONG).await.is_err());
}

#[test]
fn percentiles_are_nearest_ranks() {
    let tally = |count: u64| Tally {
        latencies: (1..=count).map(Duration::from_micros).collect(),
        ..Tally::default()
    };
    let all = |count| [50, 99, 100].map(|percent| tally(count).percentile(percent));
    assert_eq!(all(0), [0, 0, 0]);
    assert_eq!(all(1), [1, 1, 1]);
    assert_eq!(all(100), [50, 99, 100]);
    assert_eq!(all(1000), [500, 990, 1000]);
}
