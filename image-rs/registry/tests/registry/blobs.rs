//! Blobs over connections that break, and in pieces.

use std::{
    io::{self, Read},
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use cc_kbs::{BoxFuture, Names};
use image_registry::{Options, Ranges};
use image_rs::{Image, Platform, Source};

use crate::{
    assert_code, attempts, noise, options, pull,
    stand_in::{Content, Request, StandIn, Stream, reply, sha256},
};

/// The part of `blob` that is asked for, of which only so much is sent as `cut` says.
fn send_cut(request: &Request, stream: &mut dyn Stream, blob: &[u8], cut: impl Fn(usize) -> usize) -> bool {
    let (status, first, last) = match request.range() {
        None => ("200 OK", 0, blob.len() - 1),
        Some((first, last)) => ("206 Partial Content", first, last.unwrap_or(blob.len() - 1)),
    };
    let part = &blob[first..=last];
    let head = format!(
        "HTTP/1.1 {status}\r\nAccept-Ranges: bytes\r\nContent-Length: {}\r\nContent-Range: bytes {first}-{last}/{}\r\n\r\n",
        part.len(),
        blob.len()
    );
    let sent = cut(part.len()).min(part.len());
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&part[..sent])).is_ok()
        && sent == part.len()
}

fn server(
    layer: Vec<u8>,
    answer: impl Fn(&Request, &mut dyn Stream, &[u8]) -> bool + Send + Sync + 'static,
) -> StandIn {
    let content = Content::image(&[&layer]);
    let name = sha256(&layer).to_string();
    StandIn::plain(move |request, stream| {
        if request.target.ends_with(&name) {
            answer(request, stream, &layer)
        } else {
            content.answer(request, stream)
        }
    })
}

fn name(server: &StandIn) -> String {
    format!("{}/a/b:1", server.host())
}

#[test]
fn every_transfer_is_cut_at_70_percent() {
    for length in [1, 2, 1000, 3_000_000] {
        let layer = noise(length);
        let server = server(layer.clone(), |request, stream, blob| {
            send_cut(request, stream, blob, |n| (n * 7).div_ceil(10))
        });
        assert!(pull(&options(Some(&server)), &name(&server)).unwrap() == [layer]);
    }
}

#[test]
fn a_registry_without_ranges_is_read_again_from_the_beginning() {
    let layer = noise(300_000);
    let cuts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&cuts);
    let once = server(layer.clone(), move |_, stream, blob| {
        let sent = if counted.fetch_add(1, Ordering::Relaxed) < 2 { 100_000 } else { blob.len() };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", blob.len());
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&blob[..sent])).is_ok()
            && sent == blob.len()
    });
    assert!(pull(&options(Some(&once)), &name(&once)).unwrap() == [layer.clone()]);
    let always = server(layer, |_, stream, blob| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", blob.len());
        let _ =
            stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&blob[..blob.len() * 7 / 10]));
        false
    });
    assert_code(pull(&options(Some(&always)), &name(&always)), "REGISTRY_UNREACHABLE");
    assert!(always.requests().len() <= 2 + 2 * 3, "{}", always.requests().len());
}

#[test]
fn a_byte_at_a_time_is_no_progress() {
    let server = server(noise(100_000), |request, stream, blob| send_cut(request, stream, blob, |_| 1));
    assert_code(pull(&options(Some(&server)), &name(&server)), "REGISTRY_UNREACHABLE");
    assert!(server.requests().len() < 10);
}

#[test]
fn the_end_of_a_connection_is_not_the_end_of_a_blob() {
    let layer = noise(10_000);
    // Neither length nor chunks: HTTP/1.0 manners.
    let unframed = server(layer.clone(), |request, stream, blob| {
        let first = request.range().map_or(0, |(first, _)| first);
        let status = if first == 0 {
            "200 OK".to_owned()
        } else {
            format!("206 Partial Content\r\nContent-Range: bytes {first}-{}/{}", blob.len() - 1, blob.len())
        };
        let end = blob.len().min(first + 6000);
        let _ = stream.write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes());
        let _ = stream.write_all(&blob[first..end]);
        false
    });
    assert!(pull(&options(Some(&unframed)), &name(&unframed)).unwrap() == [layer.clone()]);
    // In chunks the end is told: it is too early, and whoever compares lengths will say so.
    let early = server(layer.clone(), |_, stream, blob| {
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n";
        stream
            .write_all(head)
            .and_then(|()| stream.write_all(&blob[..5]))
            .and_then(|()| stream.write_all(b"\r\n0\r\n\r\n"))
            .is_ok()
    });
    assert!(pull(&options(Some(&early)), &name(&early)).unwrap() == [layer[..5].to_vec()]);
    assert_eq!(early.requests().len(), 3);
}

#[test]
fn lengths_and_ranges_that_lie_are_refused() {
    let layer = noise(10_000);
    let part = |status: &'static str, range: &'static str, length: usize| {
        let first_cut = move |request: &Request, stream: &mut dyn Stream, blob: &[u8]| {
            if request.range().is_none() {
                return send_cut(request, stream, blob, |_| 5000);
            }
            reply(stream, status, &[("Content-Range", range)], &blob[..length])
        };
        let server = server(noise(10_000), first_cut);
        pull(&options(Some(&server)), &name(&server))
    };
    for (status, range, length, code) in [
        ("206 Partial Content", "bytes 5000-9999/20000", 5000, "IMAGE_LENGTH"),
        ("206 Partial Content", "bytes 0-9999/10000", 10_000, "REGISTRY_BAD_ANSWER"),
        ("206 Partial Content", "bytes 5000-9998/10000", 4999, "REGISTRY_BAD_ANSWER"),
        ("206 Partial Content", "bytes 5000-18446744073709551615/*", 5000, "REGISTRY_BAD_ANSWER"),
        ("206 Partial Content", "bytes 5000-", 5000, "REGISTRY_BAD_ANSWER"),
        ("206 Partial Content", "", 5000, "REGISTRY_BAD_ANSWER"),
        ("416 Range Not Satisfiable", "bytes */10000", 0, "REGISTRY_BAD_ANSWER"),
        ("200 OK", "", 5000, "IMAGE_LENGTH"),
    ] {
        assert_code(part(status, range, length), code);
    }
    for length in [9_999, 10_001] {
        let server = server(layer.clone(), move |_, stream, _| reply(stream, "200 OK", &[], &noise(length)));
        assert_code(pull(&options(Some(&server)), &name(&server)), "IMAGE_LENGTH");
    }
    let encoded =
        server(layer, |_, stream, blob| reply(stream, "200 OK", &[("Content-Encoding", "gzip")], blob));
    assert_code(pull(&options(Some(&encoded)), &name(&encoded)), "REGISTRY_BAD_ANSWER");
}

fn in_pieces(server: &StandIn) -> Options {
    Options {
        ranges: Ranges { from: 0, below: u64::MAX, piece: 64 << 10, buffers: 4, connections: 3 },
        ..options(Some(server))
    }
}

#[test]
fn pieces_come_together_in_order() {
    for length in [300_000, 5 << 16, (5 << 16) + 1, 1_000_003] {
        let layer = noise(length);
        let delayed = server(layer.clone(), |request, stream, blob| {
            // The first of three is the last to come.
            if request.range().is_some_and(|(first, _)| (first >> 16) % 3 == 0) {
                std::thread::sleep(Duration::from_millis(30));
            }
            send_cut(request, stream, blob, |n| n)
        });
        assert!(pull(&in_pieces(&delayed), &name(&delayed)).unwrap() == [layer]);
        let mut ranges: Vec<_> = delayed.requests().iter().filter_map(Request::range).collect();
        ranges.sort_unstable();
        // The stream came so far; each byte after it was asked for once.
        let mut next = ranges[0].0;
        assert!((2 << 16..4 << 16).contains(&next), "{next}");
        for (first, last) in ranges {
            assert_eq!(first, next);
            next = last.unwrap() + 1;
        }
        assert_eq!(next, length);
    }
}

#[test]
fn pieces_survive_cuts_and_tell_what_does_not_pass() {
    let layer = noise(1_000_000);
    let cut = server(layer.clone(), |request, stream, blob| {
        send_cut(request, stream, blob, |n| (n * 7).div_ceil(10))
    });
    assert!(pull(&in_pieces(&cut), &name(&cut)).unwrap() == [layer.clone()]);
    let gone = server(layer.clone(), |request, stream, blob| match request.range() {
        Some((first, _)) if first >= 500_000 => reply(stream, "404 Not Found", &[], b""),
        _ => send_cut(request, stream, blob, |n| n),
    });
    assert_code(pull(&in_pieces(&gone), &name(&gone)), "IMAGE_NOT_FOUND");
    let liar = server(layer.clone(), |request, stream, blob| match request.range() {
        Some(_) => reply(stream, "200 OK", &[], blob),
        None => send_cut(request, stream, blob, |n| n),
    });
    assert_code(pull(&in_pieces(&liar), &name(&liar)), "REGISTRY_BAD_ANSWER");
    let none = server(layer.clone(), |_, stream, blob| reply(stream, "200 OK", &[], blob));
    assert!(pull(&in_pieces(&none), &name(&none)).unwrap() == [layer.clone()]);
    assert_eq!(
        none.requests().len(),
        3,
        "a registry that does not say that it knows ranges is read as one stream"
    );
    let fast = server(layer.clone(), |request, stream, blob| send_cut(request, stream, blob, |n| n));
    let mut only_when_slow = in_pieces(&fast);
    only_when_slow.ranges.below = 1;
    assert!(pull(&only_when_slow, &name(&fast)).unwrap() == [layer]);
    assert_eq!(fast.requests().len(), 3);
}

#[test]
fn pieces_end_when_nobody_reads_them() {
    let layer = noise(4 << 20);
    let server = server(layer, |request, stream, blob| send_cut(request, stream, blob, |n| n));
    let platform = Platform { os: "linux".into(), architecture: "amd64".into(), variant: None };
    let attempts = attempts(&in_pieces(&server), &name(&server), None);
    let repository = attempts.iter().next().unwrap();
    let image = Image::resolve(repository, &repository.reference().pointer(), &platform).unwrap();
    let start = Instant::now();
    let mut blob = repository.blob(&image.layers()[0].descriptor).unwrap();
    blob.read_exact(&mut vec![0; 500_000]).unwrap();
    drop(blob);
    assert!(start.elapsed() < Duration::from_secs(10));
    let asked = server.requests().len();
    assert!((4..20).contains(&asked), "{asked} requests for the beginning of a blob");
}

#[test]
fn pieces_help_where_each_connection_is_slow() {
    let layer = noise(3 << 20);
    let most = Arc::new(Mutex::new((0, 0)));
    let counted = Arc::clone(&most);
    let server = server(layer.clone(), move |request, stream, blob| {
        let now = |by: i32| {
            let mut counts = counted.lock().unwrap();
            counts.0 += by;
            counts.1 = counts.1.max(counts.0);
        };
        now(1);
        std::thread::sleep(Duration::from_millis(20));
        // Before the last byte: whoever has it may be quicker with the next request than this thread.
        now(-1);
        send_cut(request, stream, blob, |n| n)
    });
    assert!(pull(&in_pieces(&server), &name(&server)).unwrap() == [layer]);
    let most = most.lock().unwrap().1;
    assert!((2..=4).contains(&most), "{most} at a time");
}

/// The part that is asked for in chunks, of which only so much is sent as `cut` says; the end is told all the same.
fn send_early(request: &Request, stream: &mut dyn Stream, blob: &[u8], cut: impl Fn(usize) -> usize) -> bool {
    let Some((first, last)) = request.range() else { return send_cut(request, stream, blob, |n| n / 2) };
    let last = last.unwrap_or(blob.len() - 1);
    let sent = &blob[first..first + cut(last + 1 - first)];
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\nAccept-Ranges: bytes\r\nTransfer-Encoding: chunked\r\nContent-Range: bytes {first}-{last}/{}\r\n\r\n",
        blob.len()
    );
    let mut written = stream.write_all(head.as_bytes());
    if !sent.is_empty() {
        written = written
            .and_then(|()| stream.write_all(format!("{:x}\r\n", sent.len()).as_bytes()))
            .and_then(|()| stream.write_all(sent))
            .and_then(|()| stream.write_all(b"\r\n"));
    }
    written.and_then(|()| stream.write_all(b"0\r\n\r\n")).is_ok()
}

#[test]
fn a_part_that_ends_early_is_read_on_and_told_as_the_registrys_fault() {
    let layer = noise(1_000_000);
    for pieces in [false, true] {
        let with = |server: &StandIn| if pieces { in_pieces(server) } else { options(Some(server)) };
        let early = server(layer.clone(), |request, stream, blob| {
            send_early(request, stream, blob, |n| (n * 7).div_ceil(10))
        });
        assert!(pull(&with(&early), &name(&early)).unwrap() == [layer.clone()]);
        let empty = server(layer.clone(), |request, stream, blob| send_early(request, stream, blob, |_| 0));
        assert_code(pull(&with(&empty), &name(&empty)), "REGISTRY_BAD_ANSWER");
    }
}

/// Looks a name up, and panics when it is asked for the second time.
#[derive(Debug, Default)]
struct PanicsOnce(AtomicUsize);

impl Names for PanicsOnce {
    fn addresses<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        assert_ne!(self.0.fetch_add(1, Ordering::Relaxed), 1, "the fault that the test makes");
        Box::pin(async { Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]) })
    }
}

#[test]
fn a_panic_while_a_piece_is_fetched_is_the_readers() {
    let server = server(noise(1_000_000), |request, stream, blob| send_cut(request, stream, blob, |n| n));
    let name = format!("registry.example:{}", server.address.port());
    let mut options = in_pieces(&server);
    options.registries = options.registries.with_plain_http(&name);
    options.names = Some(Arc::new(PanicsOnce::default()));
    let (ended, end) = std::sync::mpsc::channel::<()>();
    let pulling = std::thread::spawn(move || {
        // Goes with the thread, however that ends.
        let _ended = ended;
        pull(&options, &format!("{name}/a/b:1"))
    });
    let end = end.recv_timeout(Duration::from_secs(60));
    assert_eq!(end, Err(std::sync::mpsc::RecvTimeoutError::Disconnected), "the pull hangs");
    assert!(pulling.join().is_err());
}
