//! The way to the service: addresses, and services that answer badly or not at all.

use std::os::unix::net::UnixListener;
use std::thread;

use super::*;

#[test]
fn the_port_is_that_of_intels_configuration_file() {
    for (text, expected) in [
        ("", Ok(4050)),
        ("port=4051\n", Ok(4051)),
        ("  port =  1 \n", Ok(1)),
        ("# port = 9\nother = 5\nport = 77\nport = 78\n", Ok(77)),
        ("#port=4050", Ok(4050)),
        ("transport = 3\n", Ok(4050)),
    ] {
        assert_eq!(port(text), expected, "{text:?}");
    }
    for bad in ["port=", "port = x", "port = -1", "port = 0", "port = 4294967296", "port = 4050 # usual"] {
        assert!(port(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_configuration_that_cannot_be_read_is_an_error_and_its_absence_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tdx-attest.conf");
    assert_eq!(configured_port(&path).unwrap(), 4050);
    std::fs::write(&path, "port = none").unwrap();
    let error = configured_port(&path).unwrap_err();
    assert!(error.to_string().contains("tdx-attest.conf"), "{error}");
    std::fs::write(&path, [0xFF, 0xFE]).unwrap();
    assert_eq!(configured_port(&path).unwrap_err().code(), "TEE_DEVICE");
}

#[test]
fn only_the_real_root_has_a_vsock() {
    let Place::Vsock(address) = Place::of(&SysRoot::default()).unwrap() else { panic!("no vsock") };
    assert_eq!(address.context, 2);
    let root = SysRoot::new("/elsewhere".into());
    assert_eq!(Place::of(&root).unwrap().to_string(), "unix:/elsewhere/run/tdx-qgs/qgs.socket");
}

/// What [`exchange`] gives with a service that reads the request, sends `answer`, and closes or hangs.
fn asked(answer: Vec<u8>, hangs: bool) -> Result<Vec<u8>, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let service = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 7]).unwrap();
        let _ = stream.write_all(&answer);
        // The client's end is what ends the hanging.
        if hangs {
            let _ = stream.read(&mut [0]);
        }
    });
    let limit = if hangs { Duration::from_millis(100) } else { Duration::from_secs(20) };
    let result = exchange(&Place::Unix(path), b"request", limit, Instant::now() + limit);
    service.join().unwrap();
    result
}

#[test]
fn an_answer_comes_whole_or_is_an_error() {
    let answer = [&[0, 0, 0, 20][..], &[9; 20]].concat();
    assert_eq!(asked(answer.clone(), false).unwrap(), [9; 20]);
    for length in 0..answer.len() {
        let error = asked(answer[..length].to_vec(), false).unwrap_err();
        assert_eq!(error.code(), "TDX_QUOTE_SERVICE_UNREACHABLE", "{length}: {error}");
    }
    for length in [0, 3, 23] {
        assert_eq!(asked(answer[..length].to_vec(), true).unwrap_err().code(), "TSM_TIMEOUT", "{length}");
    }
    for prefix in [[0; 4], [0xFF; 4], [0, 0, 0, 15]] {
        assert_eq!(asked(prefix.to_vec(), false).unwrap_err().code(), "EVIDENCE_MALFORMED");
    }
}

#[test]
fn a_service_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::Unix(folder.path().join("socket"));
    let later = Duration::from_secs(5);
    let error = exchange(&place, b"", later, Instant::now() + later).unwrap_err();
    assert_eq!(error.code(), "TDX_QUOTE_SERVICE_UNREACHABLE");
    assert!(error.to_string().starts_with("connecting to the quote generation service at unix:"), "{error}");
}
