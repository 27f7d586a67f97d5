//! A lying TPM at the other end of a socket: the operation, then its responses, each framed as the command wants it or
//! as raw bytes. Whatever it says, an operation ends in time, and what it gives fits what was asked.
#![no_main]

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use cc_evidence::HashAlgorithm::Sha256;
use cc_evidence::tpm::{Attest, digest_of_values};
use cc_fuzz::part;
use cc_platform::tpm::Device;
use libfuzzer_sys::fuzz_target;
use signal_hook::consts::SIGPIPE;

/// TPM_ST_SESSIONS: the command has an authorization, and so must the response have.
const SESSIONS: [u8; 2] = [0x80, 0x02];
const INDEX: u32 = 0x0140_0001;

static RESPONSES: Mutex<VecDeque<Vec<u8>>> = Mutex::new(VecDeque::new());

static SOCKET: LazyLock<PathBuf> = LazyLock::new(|| {
    // A Rust program starts with this signal ignored, a fuzzer's does not.
    signal_hook::flag::register(SIGPIPE, Arc::default()).expect("a handler");
    let path = std::env::temp_dir().join(format!("fuzz-tpm-{}", std::process::id()));
    let listener = UnixListener::bind(&path).expect("a socket");
    std::thread::spawn(move || listener.incoming().for_each(|peer| serve(peer.expect("a peer"))));
    path
});

fuzz_target!(|input: &[u8]| {
    let Some((operation, mut rest)) = input.split_first() else { return };
    let mut responses = VecDeque::new();
    while !rest.is_empty() {
        responses.push_back(part(&mut rest).to_vec());
    }
    *RESPONSES.lock().unwrap_or_else(PoisonError::into_inner) = responses;
    let device = Device::open(&SOCKET, Duration::from_millis(40)).expect("it listens");
    match operation % 6 {
        0 => {
            if let Ok(values) = device.pcr_values(Sha256, &[7, 0, 23, 7]) {
                assert!(values.len() == 4 && values.iter().all(|value| value.len() == 32));
                assert_eq!(values[0], values[3]);
            }
        }
        1 => {
            if let Ok(quote) = device.quote(0x8101_0001, &[5; 32], Sha256, &[8, 0]) {
                let said = Attest::parse(&quote.attest).expect("a quote");
                let [eight, zero] = quote.pcrs.try_into().expect("two values");
                assert_eq!(said.pcr_digest, digest_of_values(Sha256, &[zero, eight]));
                assert_eq!(said.extra_data, [5; 32]);
            }
        }
        2 => {
            if let Ok(public) = device.public(0x8101_0001) {
                assert!(public.to_bytes().is_ok());
            }
        }
        3 => {
            if let Ok(content) = device.nv_read(INDEX, 3000) {
                assert!(content.len() <= 3000);
            }
        }
        4 => drop(device.nv_define_write(INDEX, &[1; 700])),
        _ => drop(device.pcr_extend(16, Sha256, &[2; 32])),
    }
});

/// Answers commands for as long as there are responses; raw ones are the last of their connection.
fn serve(mut peer: UnixStream) {
    let mut header = [0; 10];
    while peer.read_exact(&mut header).is_ok() {
        let size = u32::from_be_bytes([header[2], header[3], header[4], header[5]]);
        let mut parameters = vec![0; size as usize - header.len()];
        if peer.read_exact(&mut parameters).is_err() {
            return;
        }
        let next = RESPONSES.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some((kind, bytes)) = next.as_deref().and_then(<[u8]>::split_first) else { return };
        let framed = kind % 2 == 0;
        let response = if framed { frame([header[0], header[1]], bytes) } else { bytes.to_vec() };
        if peer.write_all(&response).is_err() || !framed {
            return;
        }
    }
}

/// The response of a TPM that did what it was asked, with these parameters.
fn frame(tag: [u8; 2], parameters: &[u8]) -> Vec<u8> {
    let body = match tag {
        SESSIONS => [&(parameters.len() as u32).to_be_bytes(), parameters, &[0, 0, 1, 0, 0]].concat(),
        _ => parameters.to_vec(),
    };
    let size = body.len() as u32 + 10;
    [&tag[..], &size.to_be_bytes(), &[0; 4], &body].concat()
}
