//! Registries behind a proxy, and a registry outside that sends us into our own network.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    sync::Arc,
};

use cc_kbs::{BoxFuture, Names};
use image_registry::{Options, Proxy, Registries};

use crate::{
    assert_code, pull,
    stand_in::{Authority, Content, Request, StandIn, Stream, reply},
    trusting,
};

/// A proxy that takes every CONNECT to `target`.
fn tunnel(target: SocketAddr) -> StandIn {
    StandIn::plain(move |request, stream| {
        if request.method != "CONNECT" || request.header("proxy-authorization") != Some("Basic dTpw") {
            return reply(stream, "407 Proxy Authentication Required", &[], b"");
        }
        stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").unwrap();
        relay(stream, &TcpStream::connect(target).unwrap());
        false
    })
}

/// Passes bytes both ways in turns: what the client sends, then what the server answers until it waits again.
fn relay(client: &mut dyn Stream, mut server: &TcpStream) {
    server.set_read_timeout(Some(std::time::Duration::from_millis(50))).unwrap();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match client.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(read) => server.write_all(&buffer[..read]).unwrap(),
        }
        let mut answered = false;
        loop {
            match server.read(&mut buffer) {
                Ok(0) => return,
                Ok(read) => {
                    answered = true;
                    if client.write_all(&buffer[..read]).is_err() {
                        return;
                    }
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    // Part of a request, such as the last flight of a handshake, has no answer.
                    if answered || server.peek(&mut [0]).is_err() {
                        break;
                    }
                }
                Err(_) => return,
            }
        }
    }
}

fn behind(authority: &Authority, proxy: &StandIn, user: &str) -> Options {
    let https = Some(format!("http://{user}@{}", proxy.host()));
    Options { proxy: Proxy { https, ..Proxy::default() }, ..trusting(authority) }
}

#[test]
fn https_goes_through_a_tunnel() {
    let authority = Authority::new();
    let content = Content::image(&[b"layer"]);
    let server = StandIn::tls(&authority, move |request, stream| content.answer(request, stream));
    let proxy = tunnel(server.address);
    assert_eq!(pull(&behind(&authority, &proxy, "u:p"), "registry.example/a:1").unwrap(), [b"layer"]);
    let asked = proxy.requests();
    assert_eq!(asked[0].target, "registry.example:443");
    assert!(asked[0].header("authorization").is_none());
    assert!(server.requests().iter().all(|request| request.header("proxy-authorization").is_none()));
    let error = assert_code(
        pull(&behind(&authority, &proxy, "u:wrong-one"), "registry.example/a:1"),
        "REGISTRY_PROXY",
    );
    assert!(!error.to_string().contains("wrong-one"), "{error}");
    // This machine is asked directly.
    assert_eq!(
        pull(&behind(&authority, &proxy, "u:p"), &format!("localhost:{}/a:1", server.address.port()))
            .unwrap()
            .len(),
        1
    );
    let mut except = behind(&authority, &proxy, "u:p");
    except.proxy.except = "other.example, .invalid".to_owned();
    assert_code(pull(&except, "registry.invalid/a:1"), "REGISTRY_UNREACHABLE");
    drop(proxy);
    let nobody = StandIn::plain(|_, _| false);
    assert_code(pull(&behind(&authority, &nobody, "u:p"), "registry.example/a:1"), "REGISTRY_PROXY");
}

#[test]
fn plain_http_is_read_by_the_proxy() {
    let content = Content::image(&[b"layer"]);
    let proxy = StandIn::plain(move |request: &Request, stream: &mut dyn Stream| {
        assert!(request.target.starts_with("http://registry.example/v2/a/"), "{}", request.target);
        assert_eq!(request.header("host"), Some("registry.example"));
        assert_eq!(request.header("proxy-authorization"), Some("Basic dTpw"));
        content.answer(request, stream)
    });
    let proxied = Options {
        registries: Registries::default().with_plain_http("registry.example"),
        proxy: Proxy { http: Some(format!("u:p@{}", proxy.host())), ..Proxy::default() },
        ..crate::options(None)
    };
    assert_eq!(pull(&proxied, "registry.example/a:1").unwrap(), [b"layer"]);
}

/// Says of every name that it is this machine's, at an address where nobody listens and at one where somebody may.
#[derive(Debug)]
struct Here;

impl Names for Here {
    fn addresses<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async {
            Ok(vec![IpAddr::V4(Ipv4Addr::new(127, 0, 0, 99)), IpAddr::V4(Ipv4Addr::LOCALHOST)])
        })
    }
}

#[test]
fn the_next_address_is_tried() {
    let authority = Authority::new();
    let content = Content::image(&[b"layer"]);
    let server = StandIn::tls(&authority, move |request, stream| content.answer(request, stream));
    let options = Options { names: Some(Arc::new(Here)), ..trusting(&authority) };
    assert_eq!(
        pull(&options, &format!("registry.example:{}/a:1", server.address.port())).unwrap(),
        [b"layer"]
    );
}

#[test]
fn a_registry_outside_cannot_send_us_inside() {
    let authority = Authority::new();
    let inside = StandIn::tls(&authority, |_, stream| reply(stream, "200 OK", &[], b"secret"));
    for host in ["127.0.0.1", "localhost", "[::1]", "10.1.2.3", "cdn.example"] {
        let location = format!("https://{host}:{}/x", inside.address.port());
        for challenge in [false, true] {
            let location = location.clone();
            let server = StandIn::tls(&authority, move |_, stream| match challenge {
                true => {
                    let bearer = format!("Bearer realm=\"{location}\"");
                    reply(stream, "401 Unauthorized", &[("WWW-Authenticate", &bearer)], b"")
                }
                false => reply(stream, "307 Temporary Redirect", &[("Location", &location)], b""),
            });
            let proxy = tunnel(server.address);
            // The registry is outside, as far as anybody can tell; the other name is ours and resolves to this machine.
            let mut options = behind(&authority, &proxy, "u:p");
            options.proxy.except = "cdn.example".to_owned();
            options.names = Some(Arc::new(Here));
            assert_code(pull(&options, "registry.example/a:1"), "REGISTRY_REDIRECT");
        }
    }
    assert!(inside.requests().is_empty());
}
