//! Registries that mean harm, or are broken: each has its code, and none keeps a pull waiting.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use image_registry::{Client, Options, Stop};
use image_rs::{Error, Image, Platform, Source};
use serde_json::json;

use crate::{
    assert_code, attempts, options, pull,
    stand_in::{
        Authority, Content, INDEX, MANIFEST, Request, StandIn, Stream, descriptor, hang, reply, sha256,
    },
    trusting,
};

/// A chunk of 64 bytes.
const CHUNK: &[u8] = b"40\r\n................................................................\r\n";

fn image() -> Content {
    Content::image(&[b"lower", b"upper"])
}

/// Pulls from a registry that answers everything but requests with `part` in them as it should.
fn pull_from(
    part: &'static str,
    answer: impl Fn(&Request, &mut dyn Stream) -> bool + Send + Sync + 'static,
) -> Result<Vec<Vec<u8>>, Error> {
    let content = image();
    let server = StandIn::plain(move |request, stream| {
        if request.target.contains(part) { answer(request, stream) } else { content.answer(request, stream) }
    });
    pull(&options(Some(&server)), &format!("{}/a/b:1", server.host()))
}

fn quick(mut options: Options) -> Options {
    options.patience.idle = Duration::from_millis(300);
    options.patience.connect = Duration::from_secs(1);
    options
}

#[test]
fn an_honest_registry_gives_the_image() {
    let content = image();
    let server = StandIn::plain(move |request, stream| content.answer(request, stream));
    let layers = pull(&options(Some(&server)), &format!("{}/a/b:1", server.host())).unwrap();
    assert_eq!(layers, [b"lower", b"upper"]);
    let requests = server.requests();
    assert_eq!(requests.len(), 4, "manifest, configuration and two layers: {requests:?}");
    assert!(requests.iter().all(|request| request.header("accept-encoding") == Some("identity")));
}

#[test]
fn documents_that_are_not_what_they_are_called_are_refused() {
    let good = image().manifests["1"].1.clone();
    for (code, media_type, digest, body) in [
        ("IMAGE_DIGEST_MISMATCH", MANIFEST, Some(sha256(b"x").to_string()), good.clone()),
        ("IMAGE_DOCUMENT_INVALID", INDEX, None, good.clone()),
        ("IMAGE_MEDIA_TYPE", "text/html", None, b"{}".to_vec()),
        ("IMAGE_DOCUMENT_INVALID", MANIFEST, None, b"<html>".to_vec()),
        ("IMAGE_DOCUMENT_INVALID", MANIFEST, None, {
            let layer = descriptor("application/vnd.oci.image.layer.v1.tar", b"x");
            let config = descriptor("application/vnd.oci.image.config.v1+json", b"x");
            let layers = vec![layer; 10_000];
            json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers})
                .to_string()
                .into_bytes()
        }),
    ] {
        let result = pull_from("/manifests/", move |_, stream| {
            let mut headers = vec![("Content-Type", media_type)];
            headers.extend(digest.as_deref().map(|digest| ("Docker-Content-Digest", digest)));
            reply(stream, "200 OK", &headers, &body)
        });
        assert_code(result, code);
    }
    assert_code(pull_from("/manifests/", |_, s| reply(s, "404 Not Found", &[], b"")), "IMAGE_NOT_FOUND");
    // What says nothing of images leaves it to the document.
    for general in ["application/json; charset=utf-8", "application/octet-stream"] {
        let good = good.clone();
        pull_from("/manifests/", move |_, s| reply(s, "200 OK", &[("Content-Type", general)], &good))
            .unwrap();
    }
}

#[test]
fn a_digest_that_was_asked_for_is_compared() {
    let server = StandIn::plain(|_, stream| reply(stream, "200 OK", &[("Content-Type", MANIFEST)], b"{}"));
    let name = format!("{}/a/b@{}", server.host(), sha256(b"x"));
    assert_code(pull(&options(Some(&server)), &name), "IMAGE_DIGEST_MISMATCH");
}

#[test]
fn of_two_entries_for_the_platform_the_first_counts() {
    let mut content = image();
    let platform = json!({"os": "linux", "architecture": "amd64"});
    let entry = |bytes: &[u8]| {
        let mut entry = descriptor(MANIFEST, bytes);
        entry["platform"] = platform.clone();
        entry
    };
    let first = content.manifests["1"].1.clone();
    let index =
        json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry(&first), entry(b"other")]});
    content.tag("both", INDEX, index.to_string().as_bytes());
    let server = StandIn::plain(move |request, stream| content.answer(request, stream));
    assert_eq!(pull(&options(Some(&server)), &format!("{}/a/b:both", server.host())).unwrap().len(), 2);
    assert!(!server.requests().iter().any(|request| request.target.contains(&sha256(b"other").to_string())));
}

#[test]
fn nothing_is_endless() {
    let endless = |head: &'static [u8], more: &'static [u8]| {
        move |_: &Request, stream: &mut dyn Stream| {
            let (mut written, more) = (stream.write_all(head), more.repeat(2000));
            while written.is_ok() {
                written = stream.write_all(&more);
            }
            false
        }
    };
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: application/vnd.oci.image.manifest.v1+json\r\n\r\n";
    for (part, head, more, code) in [
        ("/manifests/", &chunked[..], CHUNK, "REGISTRY_BAD_ANSWER"),
        ("/manifests/", b"HTTP/1.1 200 OK\r\n\r\n", b"hello", "REGISTRY_BAD_ANSWER"),
        ("/manifests/", b"HTTP/1.1 200 OK\r\n", b"A: b\r\n", "REGISTRY_BAD_ANSWER"),
        ("/manifests/", b"HTTP/1.1 200 OK\r\nA: ", b"aaaaaaaa", "REGISTRY_BAD_ANSWER"),
        ("/manifests/", b"", b"hello", "REGISTRY_BAD_ANSWER"),
        ("/manifests/", b"HTTP/1.1 404 Not Found\r\n\r\n", b"hello", "IMAGE_NOT_FOUND"),
        ("/manifests/", b"HTTP/1.1 403 Forbidden\r\n\r\n", b"hello", "REGISTRY_DENIED"),
        ("/blobs/", chunked, CHUNK, "IMAGE_LENGTH"),
        ("/blobs/", b"HTTP/1.1 200 OK\r\n\r\n", b"hello", "IMAGE_LENGTH"),
    ] {
        assert_code(pull_from(part, endless(head, more)), code);
    }
    let long = pull_from("/manifests/", |_, s| {
        s.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n").is_ok()
    });
    assert_code(long, "REGISTRY_BAD_ANSWER");
}

#[test]
fn silence_ends_at_the_limit() {
    let slow = move |_: &Request, stream: &mut dyn Stream| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {MANIFEST}\r\nContent-Length: 4000\r\n\r\n");
        let mut written = stream.write_all(head.as_bytes());
        while written.is_ok() {
            std::thread::sleep(Duration::from_millis(20));
            written = stream.write_all(b"{").and_then(|()| stream.flush());
        }
        false
    };
    let start = Instant::now();
    for answer in [
        Box::new(|_: &Request, stream: &mut dyn Stream| hang(stream))
            as Box<dyn Fn(&Request, &mut dyn Stream) -> bool + Send + Sync>,
        Box::new(|_, stream| stream.write_all(b"HTTP/1.1 200 OK\r\n").is_ok() && hang(stream)),
        Box::new(|_, stream| {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc").is_ok() && hang(stream)
        }),
        Box::new(slow),
        // The length of a chunk that never ends.
        Box::new(|_, stream| {
            let mut written = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            while written.is_ok() {
                written = stream.write_all(b"000000");
            }
            false
        }),
    ] {
        let server = StandIn::plain(move |request, stream| answer(request, stream));
        let result = pull(&quick(options(Some(&server))), &format!("{}/a/b:1", server.host()));
        assert_code(result, "REGISTRY_TIMEOUT");
    }
    assert!(start.elapsed() < Duration::from_secs(30), "five servers, three tries, a third of a second each");
    // One that never speaks TLS.
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let name = format!("{}/a/b:1", server.local_addr().unwrap());
    assert_code(pull(&quick(options(None)), &name), "REGISTRY_TIMEOUT");
}

#[test]
fn a_blob_that_drips_is_given_up() {
    let content = Content::image(&[&[7; 100_000]]);
    let layer = sha256(&[7; 100_000]).to_string();
    let server = StandIn::plain(move |request, stream| {
        if !request.target.ends_with(&layer) {
            return content.answer(request, stream);
        }
        let (first, _) = request.range().unwrap_or((0, None));
        let head = format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {first}-99999/100000\r\nContent-Length: {}\r\n\r\n",
            100_000 - first
        );
        let mut written = stream.write_all(if first == 0 {
            b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"
        } else {
            head.as_bytes()
        });
        while written.is_ok() {
            std::thread::sleep(Duration::from_millis(10));
            written = stream.write_all(&[7; 10]).and_then(|()| stream.flush());
        }
        false
    });
    assert_code(
        pull(&quick(options(Some(&server))), &format!("{}/a/b:1", server.host())),
        "REGISTRY_TIMEOUT",
    );
    let requests = server.requests();
    let tries: Vec<_> = requests.iter().filter(|request| request.target.contains("/blobs/")).collect();
    // What has come is not asked for again. A try that was cut before anything came leaves nothing to go on from.
    let further = tries.iter().filter(|request| request.header("range").is_some()).count();
    assert!((1..=2).contains(&further), "{further}");
}

#[test]
fn waiting_ends_when_stopped() {
    let server = StandIn::plain(|_, stream| hang(stream));
    let (client, stop) = (Client::new(&options(Some(&server))).unwrap(), Stop::default());
    let name = format!("{}/a/b:1", server.host()).parse().unwrap();
    let attempts = client.attempts(&name, None, &stop).unwrap();
    let start = Instant::now();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| attempts.first(|r| r.document(&r.reference().pointer()).map(drop)));
        while server.requests().is_empty() {
            std::thread::sleep(Duration::from_millis(5));
        }
        stop.stop();
        assert_code(waiting.join().unwrap(), "IMAGE_INTERRUPTED");
    });
    assert!(start.elapsed() < Duration::from_secs(10));
}

/// A registry that always sends a little keeps nobody who has given up.
#[test]
fn dripping_ends_when_stopped() {
    let content = Content::image(&[&[7; 100_000]]);
    let layer = sha256(&[7; 100_000]).to_string();
    let dripping = Arc::new(AtomicBool::new(false));
    let begun = Arc::clone(&dripping);
    let server = StandIn::plain(move |request, stream| {
        if !request.target.ends_with(&layer) {
            return content.answer(request, stream);
        }
        // The first half, and then, whatever part is asked for, all of it from the start, which is read past.
        let again = request.header("range").is_some();
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n");
        let mut written = if again { Ok(()) } else { stream.write_all(&[7; 50_000]) };
        begun.fetch_or(again, Ordering::Relaxed);
        while again && written.is_ok() {
            std::thread::sleep(Duration::from_millis(20));
            written = stream.write_all(&[7; 10]).and_then(|()| stream.flush());
        }
        false
    });
    // Patient: nothing but giving up ends it.
    let (client, stop) = (Client::new(&options(Some(&server))).unwrap(), Stop::default());
    let name = format!("{}/a/b:1", server.host()).parse().unwrap();
    let attempts = client.attempts(&name, None, &stop).unwrap();
    let platform = Platform { os: "linux".into(), architecture: "amd64".into(), variant: None };
    std::thread::scope(|scope| {
        let pulling = scope.spawn(|| {
            attempts.first(|repository| {
                let image = Image::resolve(repository, &repository.reference().pointer(), &platform)?;
                let mut blob = repository.blob(&image.layers()[0].descriptor)?;
                std::io::copy(&mut blob, &mut std::io::sink()).map_err(|_| Error::Interrupted)
            })
        });
        while !dripping.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let start = Instant::now();
        stop.stop();
        assert_code(pulling.join().unwrap(), "IMAGE_INTERRUPTED");
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    });
}

#[test]
fn redirects_that_lead_astray_are_not_followed() {
    let authority = Authority::new();
    for location in [
        "http://127.0.0.1:1/x",
        "http://localhost/x",
        "https://169.254.169.254/latest/meta-data/",
        "https://[::ffff:169.254.169.254]/",
        "https://user:password@127.0.0.1/x",
        "ftp://127.0.0.1/x",
        "https://",
        "/v2/a/b/manifests/1",
    ] {
        let server = StandIn::tls(&authority, move |_, s| {
            reply(s, "307 Temporary Redirect", &[("Location", location)], b"")
        });
        let name = format!("localhost:{}/a/b:1", server.address.port());
        let error = assert_code(pull(&trusting(&authority), &name), "REGISTRY_REDIRECT");
        assert!(server.requests().len() <= 6, "{location}: {error}");
    }
    for headers in [&[][..], &[("Location", "/a"), ("Location", "/b")]] {
        let server = StandIn::tls(&authority, move |_, s| reply(s, "302 Found", headers, b""));
        let name = format!("localhost:{}/a/b:1", server.address.port());
        assert_code(pull(&trusting(&authority), &name), "REGISTRY_REDIRECT");
    }
}

#[test]
fn redirects_to_where_blobs_are_kept_are_followed() {
    let authority = Authority::new();
    let content = image();
    let kept = content.clone();
    let store = StandIn::tls(&authority, move |request, stream| kept.answer(request, stream));
    let elsewhere = format!("https://localhost:{}", store.address.port());
    let server = StandIn::tls(&authority, move |request, stream| {
        if request.target.contains("/blobs/") {
            let location = format!("{elsewhere}{}", request.target);
            return reply(stream, "307 Temporary Redirect", &[("Location", &location)], b"moved");
        }
        content.answer(request, stream)
    });
    let layers = pull(&trusting(&authority), &format!("127.0.0.1:{}/a/b:1", server.address.port())).unwrap();
    assert_eq!(layers, [b"lower", b"upper"]);
    assert_eq!(store.requests().len(), 3);
}

#[test]
fn a_server_that_nobody_vouches_for_is_not_believed() {
    let (authority, other) = (Authority::new(), Authority::new());
    let content = image();
    let server = StandIn::tls(&authority, move |request, stream| content.answer(request, stream));
    let name = format!("localhost:{}/a/b:1", server.address.port());
    for believed in [options(None), trusting(&other)] {
        assert_code(pull(&believed, &name), "REGISTRY_TLS_UNTRUSTED");
    }
    assert!(server.requests().is_empty());
    assert_eq!(pull(&trusting(&authority), &name).unwrap().len(), 2);
    let plain = StandIn::plain(|_, stream| hang(stream));
    assert_code(pull(&options(None), &format!("{}/a/b:1", plain.host())), "REGISTRY_UNREACHABLE");
}

#[test]
fn a_busy_registry_is_asked_again() {
    let count = Arc::new(AtomicUsize::new(0));
    let content = image();
    let (counted, kept) = (Arc::clone(&count), content.clone());
    let server = StandIn::plain(move |request, stream| match counted.fetch_add(1, Ordering::Relaxed) {
        0 => reply(stream, "429 Too Many Requests", &[("Retry-After", "0")], b"{}"),
        1 => reply(stream, "503 Service Unavailable", &[], b""),
        _ => kept.answer(request, stream),
    });
    assert_eq!(pull(&options(Some(&server)), &format!("{}/a/b:1", server.host())).unwrap().len(), 2);
    for (status, code, tries) in [
        ("503 Service Unavailable", "REGISTRY_BUSY", 3),
        ("429 Too Many Requests", "REGISTRY_BUSY", 3),
        ("403 Forbidden", "REGISTRY_DENIED", 1),
        ("418 Teapot", "REGISTRY_BAD_ANSWER", 1),
        ("204 No Content", "REGISTRY_BAD_ANSWER", 1),
    ] {
        let body = b"{\"errors\":[{\"code\":\"X\",\"message\":\"go\\u001b[2J away\"}]}";
        let server = StandIn::plain(move |_, stream| reply(stream, status, &[], body));
        let error = assert_code(pull(&options(Some(&server)), &format!("{}/a/b:1", server.host())), code);
        assert_eq!(server.requests().len(), tries, "{status}");
        assert!(!error.to_string().contains('\u{1b}'));
    }
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_code(pull(&options(None), &format!("{nobody}/a/b:1")), "REGISTRY_UNREACHABLE");
    assert_code(pull(&options(None), "nobody.invalid/a/b:1"), "REGISTRY_UNREACHABLE");
}

#[test]
fn every_place_is_tried_and_told() {
    let content = image();
    let empty = StandIn::plain(|_, stream| reply(stream, "404 Not Found", &[], b""));
    let server = StandIn::plain(move |request, stream| content.answer(request, stream));
    let conf = format!(
        "[[registry]]\nlocation = 'origin.example'\nblocked = false\n[[registry.mirror]]\nlocation = '{}'\ninsecure = true\n\
         [[registry.mirror]]\nlocation = '{}/moved'\ninsecure = true\n",
        empty.host(),
        server.host()
    );
    let mut with_mirrors = options(None);
    with_mirrors.registries = image_registry::Registries::parse(&conf).unwrap();
    assert_eq!(pull(&with_mirrors, "origin.example/a/b:1").unwrap().len(), 2);
    assert!(server.requests()[0].target.starts_with("/v2/moved/a/b/"));
    drop(server);
    let error = pull(&with_mirrors, "origin.example/a/b:1").unwrap_err();
    assert_eq!(error.code(), "REGISTRY_UNREACHABLE", "that of the last place: {error}");
    for part in [&empty.host(), "/moved/a/b:1", "origin.example/a/b:1", "there is no manifest"] {
        assert!(error.to_string().contains(part), "{part} in {error}");
    }
}

#[test]
fn connections_are_kept_and_replaced_when_closed() {
    for (kept_open, connections) in [(true, 1), (false, 4)] {
        let content = image();
        // After `false` a connection is closed without a word.
        let server = StandIn::plain(move |request, stream| content.answer(request, stream) && kept_open);
        assert_eq!(pull(&options(Some(&server)), &format!("{}/a/b:1", server.host())).unwrap().len(), 2);
        assert_eq!((server.requests().len(), server.connections()), (4, connections));
    }
}

#[test]
fn a_denial_counts_more_than_a_place_that_is_not_reached() {
    let denied = StandIn::plain(|_, stream| reply(stream, "403 Forbidden", &[], b""));
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let conf = format!(
        "[[registry]]\nprefix = 'origin.example'\nlocation = '{nobody}'\n[[registry.mirror]]\nlocation = '{}'\ninsecure = true\n",
        denied.host()
    );
    let mut with_mirror = options(None);
    with_mirror.registries = image_registry::Registries::parse(&conf).unwrap();
    let error = assert_code(pull(&with_mirror, "origin.example/a/b:1"), "REGISTRY_DENIED");
    assert_eq!(error.hint(), "check the name, and the credentials for this registry");
    for part in [&denied.host(), "[REGISTRY_DENIED]", &nobody.to_string(), "[REGISTRY_UNREACHABLE]"] {
        assert!(error.to_string().contains(part), "{part} in {error}");
    }
}

/// Sends an answer in 400 pieces of so many bytes, longer than the test waits, but fast enough for each piece.
fn drip(stream: &mut dyn Stream, piece: usize) -> bool {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 400 * piece);
    let mut written = stream.write_all(head.as_bytes());
    for _ in 0..400 {
        written = written.and_then(|()| stream.write_all(&vec![b' '; piece])).and_then(|()| stream.flush());
        if written.is_err() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    true
}

fn hasty(mut options: Options) -> Options {
    options.patience.document = Duration::from_secs(1);
    options
}

#[test]
fn documents_that_drip_are_given_up_as_a_whole() {
    let start = Instant::now();
    // A configuration.
    let mut content = Content::default();
    let config = vec![b' '; 4_000_000];
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
    });
    content.tag("1", MANIFEST, manifest.to_string().as_bytes());
    let server = StandIn::plain(move |request, stream| match request.target.contains("/blobs/") {
        true => drip(stream, 10_000),
        false => content.answer(request, stream),
    });
    let name = format!("{}/a/b:1", server.host());
    assert_code(pull(&hasty(options(Some(&server))), &name), "REGISTRY_TIMEOUT");
    // A signature.
    let attempts = attempts(&hasty(options(Some(&server))), &name, None);
    let repository = attempts.iter().next().unwrap();
    let signature = image_rs::Descriptor {
        media_type: "application/vnd.dev.cosign.simplesigning.v1+json".to_owned(),
        digest: sha256(&config),
        size: 4_000_000,
        annotations: Default::default(),
        platform: None,
    };
    let fetch = |what: &str| Err(Error::NotFound { what: what.to_owned() });
    let read = image_rs::policy::Signatures::blob(&mut repository.signatures(fetch), &signature);
    assert_code(read, "REGISTRY_TIMEOUT");
    // A token that only a layer needs, which has no limit itself.
    let content = image();
    let layer = sha256(b"lower").to_string();
    let service = StandIn::plain(|_, stream| drip(stream, 10));
    let realm = format!("Bearer realm=\"http://{}/token\"", service.host());
    let server = StandIn::plain(move |request, stream| match request.target.ends_with(&layer) {
        true => reply(stream, "401 Unauthorized", &[("WWW-Authenticate", &realm)], b""),
        false => content.answer(request, stream),
    });
    let mut hasty = hasty(options(Some(&server)));
    hasty.patience.document = Duration::from_millis(300);
    assert_code(pull(&hasty, &format!("{}/a/b:1", server.host())), "REGISTRY_TIMEOUT");
    assert!(start.elapsed() < Duration::from_secs(18), "{:?}", start.elapsed());
}

#[test]
fn when_one_blob_is_wrong_nobody_waits_for_the_others() {
    let (wrong, slow) = (b"wrong".to_vec(), vec![7; 100_000]);
    let title = |title: &str, blob: &[u8]| {
        let mut layer = descriptor("application/vnd.example", blob);
        layer["annotations"] = json!({"org.opencontainers.image.title": title});
        layer
    };
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor("application/vnd.oci.empty.v1+json", b"{}"),
        "layers": [title("wrong", &wrong), title("slow", &slow)],
    });
    let mut content = Content::default();
    content.tag("1", MANIFEST, manifest.to_string().as_bytes());
    let (wrong, slow) = (sha256(&wrong).to_string(), sha256(&slow).to_string());
    let waiting = Arc::new(AtomicUsize::new(0));
    let server = StandIn::plain(move |request, stream| {
        if request.target.ends_with(&slow) {
            let head = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n");
            waiting.store(1, Ordering::Relaxed);
            return head.is_ok() && hang(stream);
        }
        if request.target.ends_with(&wrong) {
            while waiting.load(Ordering::Relaxed) == 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
            return reply(stream, "200 OK", &[], b"WRONG");
        }
        content.answer(request, stream)
    });
    let platform = Platform { os: "linux".into(), architecture: "amd64".into(), variant: None };
    let folder = tempfile::tempdir().unwrap();
    let at = std::fs::File::open(folder.path()).unwrap();
    let start = Instant::now();
    let attempts = attempts(&options(Some(&server)), &format!("{}/a/b:1", server.host()), None);
    let pulled = attempts.first(|repository| {
        let artifact = image_rs::Artifact::resolve(repository, &repository.reference().pointer(), &platform)?;
        let subject =
            image_rs::policy::Subject { reference: None, manifest: artifact.manifest_digest(), index: None };
        let mut signatures = repository.signatures(|what| Err(Error::NotFound { what: what.to_owned() }));
        let now = std::time::SystemTime::now();
        let verdict = image_rs::policy::Policy::admit_all().decide(&subject, now, &mut signatures);
        let (admitted, keys) = (verdict.admitted()?, Arc::new(image_rs::NoKeys));
        let order =
            image_rs::ArtifactOrder { source: repository, artifact: &artifact, admitted: &admitted, keys };
        let options = image_rs::layer::Options { parallel: 2, ..Default::default() };
        let name = std::ffi::OsStr::new("out");
        let target = image_rs::Target::new(std::os::fd::AsFd::as_fd(&at), name);
        image_rs::pull_artifact(&order, &target, &options, &image_rs::Silent)
    });
    assert_code(pulled, "LAYER_DIGEST_MISMATCH");
    assert!(start.elapsed() < Duration::from_secs(10), "the limit for silence is 20 s");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_client_may_be_dropped_inside_a_runtime() {
    let content = image();
    let server = StandIn::plain(move |request, stream| content.answer(request, stream));
    let attempts = attempts(&options(Some(&server)), &format!("{}/a/b:1", server.host()), None);
    attempts.first(|r| r.document(&r.reference().pointer()).map(drop)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async move { drop(attempts) });
}
