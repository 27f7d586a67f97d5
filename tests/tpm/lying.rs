//! Responses that no TPM gives, refusals that every TPM may give, and TPMs that cannot be reached.

use std::time::{Duration, Instant};

use cc_evidence::HashAlgorithm::Sha256;
use cc_platform::Error;
use cc_platform::tpm::{DEFAULT_AK_HANDLE, Device};

use crate::liar::{Liar, Reply, between, code_of, response};
use crate::{LIMIT, Room};

/// TPM_CC_Quote and TPM_CC_PCR_Read.
const QUOTE: u32 = 0x158;
const PCR_READ: u32 = 0x17E;

/// Code and text of the error of a PCR read, and how long it took.
fn read_pcr(liar: &Liar, limit: Duration) -> (&'static str, String, Duration) {
    let device = Device::open(&liar.path(), limit).unwrap();
    let begun = Instant::now();
    let error = device.pcr_values(Sha256, &[0]).unwrap_err();
    assert!(!error.hint().is_empty());
    (error.code(), error.to_string(), begun.elapsed())
}

#[test]
fn responses_of_no_tpm_are_refused_by_name() {
    let pcr_read = |body: &[u8]| response(0x8001, 0, body);
    let long = |size: u32| [&[0x80, 0x01], size.to_be_bytes().as_slice(), &[0; 4]].concat();
    let digests = |count: u32| {
        let selection = [0, 0, 0, 1, 0, 0x0B, 3, 1, 0, 0];
        [&[0, 0, 0, 1], selection.as_slice(), &count.to_be_bytes(), &[0, 32], &[0; 32]].concat()
    };
    let cases: [(Vec<u8>, &str); 12] = [
        (response(0x8002, 0, &[]), "tag"),
        (response(0x00C4, 0, &[]), "tag"),
        (long(u32::MAX), "announces 4294967295 bytes"),
        (long(4097), "announces 4097 bytes"),
        (long(9), "announces 9 bytes"),
        (long(0), "announces 0 bytes"),
        ([pcr_read(&[]), vec![0; 5]].concat(), "15 bytes, of which 10 were announced"),
        (vec![0xFF; 5000], "announces"),
        (pcr_read(&[]), "pcr.update_counter"),
        (pcr_read(&digests(9)), "9 values"),
        (pcr_read(&[digests(1), vec![0]].concat()), "followed by 1 bytes"),
        (response(0x8001, 0x922, &[1]), "followed by 1 bytes"),
    ];
    for (bytes, why) in cases {
        let liar = Liar::new(move |_, _| Reply::Bytes(bytes.clone()));
        let (code, text, _) = read_pcr(&liar, LIMIT);
        assert_eq!(code, "TPM_MALFORMED", "{text}");
        assert!(text.contains(why), "{why}: {text}");
    }
}

#[test]
fn values_that_were_not_asked_for_are_refused() {
    let with = |bank: u8, bitmap: u8, len: u8| {
        let selection = [0, 0, 0, 1, 0, bank, 3, bitmap, 0, 0];
        let value = vec![0; usize::from(len)];
        let body = [&[0, 0, 0, 1], selection.as_slice(), &[0, 0, 0, 1, 0, len], &value].concat();
        let liar = Liar::new(move |_, _| Reply::Bytes(response(0x8001, 0, &body)));
        read_pcr(&liar, LIMIT).0
    };
    assert_eq!(with(0x0B, 2, 32), "TPM_MALFORMED", "another PCR");
    assert_eq!(with(0x0B, 3, 32), "TPM_MALFORMED", "two PCRs, one value");
    assert_eq!(with(0x0B, 1, 20), "TPM_MALFORMED", "a value of another length");
    assert_eq!(with(0x04, 1, 20), "TPM_NO_BANK", "another bank");
    assert_eq!(with(0x0B, 0, 32), "TPM_NO_BANK", "nothing");
}

#[test]
fn a_tpm_that_goes_away_is_told() {
    for sent in [0, 1, 9, 10, 20] {
        let liar = Liar::new(move |_, _| match sent {
            0 => Reply::Close,
            _ => Reply::Last(response(0x8001, 0, &[0; 30])[..sent].to_vec()),
        });
        let (code, text, _) = read_pcr(&liar, LIMIT);
        assert_eq!(code, "TPM_MALFORMED", "{text}");
        assert!(text.contains(&format!("ended after {sent} bytes")), "{text}");
    }
}

#[test]
fn a_silent_tpm_costs_the_time_limit_and_no_more() {
    let limit = Duration::from_millis(300);
    for part in [0, 12] {
        let liar = Liar::new(move |_, count| match (part, count) {
            (12, 0) => Reply::Bytes(response(0x8001, 0, &[0; 30])[..12].to_vec()),
            _ => Reply::Silence,
        });
        let (code, text, took) = read_pcr(&liar, limit);
        assert_eq!(code, "TPM_TIMEOUT", "{text}");
        assert!(took >= limit && took < limit * 10, "{took:?}");
    }
}

#[test]
fn a_tpm_that_asks_for_patience_gets_it_within_the_limit() {
    // RETRY, YIELDED and TESTING twice each, then the truth.
    let Some(room) = Room::with_key() else { return };
    let patience = [0x922, 0x908, 0x90A, 0x922, 0x908, 0x90A];
    let socket = room.tpm.socket();
    let mut left = patience.into_iter();
    let liar = between(socket, move |_, truth| left.next().map_or(truth, |code| response(0x8001, code, &[])));
    let device = Device::open(&liar.path(), LIMIT).unwrap();
    assert_eq!(device.pcr_values(Sha256, &[0]).unwrap(), [vec![0; 32]]);

    let limit = Duration::from_millis(500);
    let liar = Liar::new(|_, _| Reply::Bytes(response(0x8001, 0x90A, &[])));
    let (code, text, took) = read_pcr(&liar, limit);
    assert_eq!(code, "TPM_TIMEOUT");
    assert!(text.contains("TPM_RC_TESTING"), "{text}");
    assert!(took < limit * 4, "{took:?}");
}

#[test]
fn refusals_say_what_to_do() {
    for (rc, code, words) in [
        (0x921, "TPM_LOCKED_OUT", "tpm2_dictionarylockout"),
        (0x903, "TPM_EXHAUSTED", "tpm2_flushcontext"),
        (0x902, "TPM_EXHAUSTED", "tpm2_flushcontext"),
        (0x905, "TPM_EXHAUSTED", "/dev/tpmrm0"),
        (0x100, "TPM_OUT_OF_SERVICE", "reboot"),
        (0x101, "TPM_OUT_OF_SERVICE", "reboot"),
        (0x98E, "TPM_AUTHORIZATION", "empty password"),
        (0x1D5, "TPM_REFUSED", "TPM_RC"),
    ] {
        let liar = Liar::new(move |_, _| Reply::Bytes(response(0x8001, rc, &[])));
        let device = Device::open(&liar.path(), LIMIT).unwrap();
        let error = device.pcr_values(Sha256, &[0]).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.hint().contains(words), "{rc:#x}: {}", error.hint());
        assert!(error.to_string().contains(&format!("{rc:#x}")), "{error}");
    }
}

#[test]
fn a_pcr_that_changes_between_read_and_quote_is_read_again() {
    let Some(room) = Room::with_key() else { return };
    // Between the values and the quote somebody extends PCR 7, once.
    let socket = room.tpm.socket();
    let extend = room.device();
    let mut done = false;
    let liar = between(socket, move |command, truth| {
        if code_of(command) == PCR_READ && !done {
            done = true;
            extend.pcr_extend(7, Sha256, &[1; 32]).unwrap();
        }
        truth
    });
    let device = Device::open(&liar.path(), LIMIT).unwrap();
    let quote = device.quote(DEFAULT_AK_HANDLE, b"n", Sha256, &[7]).unwrap();
    assert_eq!(quote.pcrs, [Sha256.digest(&[[0; 32], [1; 32]].concat())], "the value that was quoted");
}

#[test]
fn pcrs_that_never_rest_are_told() {
    let Some(room) = Room::with_key() else { return };
    let extend = room.device();
    let liar = between(room.tpm.socket(), move |command, truth| {
        if code_of(command) == PCR_READ {
            extend.pcr_extend(7, Sha256, &[1; 32]).unwrap();
        }
        truth
    });
    let device = Device::open(&liar.path(), LIMIT).unwrap();
    let error = device.quote(DEFAULT_AK_HANDLE, b"n", Sha256, &[7]).unwrap_err();
    assert_eq!(error.code(), "TPM_PCRS_UNSTEADY", "{error}");
    let many: Vec<u32> = (0..24).collect();
    let error = device.pcr_values(Sha256, &many).unwrap_err();
    assert_eq!(error.code(), "TPM_PCRS_UNSTEADY", "{error}");
}

#[test]
fn a_quote_for_another_request_is_not_given_out() {
    let Some(room) = Room::with_key() else { return };
    // A quote that the TPM made for somebody else, replayed.
    let socket = room.tpm.socket();
    let mut first = None;
    let liar = between(socket, move |command, truth| match code_of(command) {
        QUOTE => first.get_or_insert(truth).clone(),
        _ => truth,
    });
    let device = Device::open(&liar.path(), LIMIT).unwrap();
    device.quote(DEFAULT_AK_HANDLE, b"one", Sha256, &[0, 1]).unwrap();
    let error = device.quote(DEFAULT_AK_HANDLE, b"two", Sha256, &[0, 1]).unwrap_err();
    assert_eq!(error.code(), "EVIDENCE_MISMATCH", "{error}");
    let error = device.quote(DEFAULT_AK_HANDLE, b"one", Sha256, &[0]).unwrap_err();
    assert!(error.to_string().contains("other PCRs"), "{error}");
}

#[test]
fn paths_without_a_tpm_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let open = |path: &std::path::Path| Device::open(path, Duration::from_millis(300)).unwrap_err();
    assert_eq!(open(&folder.path().join("none")).code(), "TPM_OPEN");
    assert_eq!(open(folder.path()).code(), "TPM_OPEN", "a folder");
    std::fs::write(folder.path().join("file"), "").unwrap();
    assert!(open(&folder.path().join("file")).to_string().contains("neither a character device nor"));
    let dead = folder.path().join("dead");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    assert!(open(&dead).to_string().contains("refused"), "nobody listens");
    let long = folder.path().join("x".repeat(200));
    std::fs::write(&long, "").unwrap();
    assert_eq!(open(&long).code(), "TPM_OPEN");
    // A character device that is no TPM: what comes back is no response.
    let zero = Device::open(std::path::Path::new("/dev/zero"), LIMIT).unwrap();
    assert_eq!(zero.pcr_values(Sha256, &[0]).unwrap_err().code(), "TPM_MALFORMED");
}

#[test]
fn a_tpm_in_use_is_waited_for() {
    let Some(room) = Room::with_key() else { return };
    let held = std::os::unix::net::UnixStream::connect(room.tpm.socket()).unwrap();
    // swtpm serves one client at a time: the second one gets no answer while the first is there.
    let short = Device::open(&room.tpm.socket(), Duration::from_millis(300)).unwrap();
    let error = short.pcr_values(Sha256, &[0]).unwrap_err();
    assert_eq!(error.code(), "TPM_TIMEOUT", "{error}");
    assert!(error.hint().contains("one client at a time"), "{}", error.hint());
    let socket = room.tpm.socket();
    let waiting = std::thread::spawn(move || {
        Device::open(&socket, LIMIT).and_then(|device| device.pcr_values(Sha256, &[0]))
    });
    std::thread::sleep(Duration::from_millis(200));
    drop(held);
    assert_eq!(waiting.join().unwrap().unwrap(), [vec![0; 32]]);
}

#[test]
fn a_tpm_with_a_full_queue_is_busy() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tpm");
    let listener = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    // Room for one that waits; nobody takes it.
    listen(&listener, 0).unwrap();
    let _first = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let limit = Duration::from_millis(300);
    let begun = Instant::now();
    let error = Device::open(&path, limit).unwrap_err();
    assert_eq!(error.code(), "TPM_BUSY", "{error}");
    assert!(error.hint().contains("/dev/tpmrm0") && begun.elapsed() < limit * 10, "{}", error.hint());
}

#[test]
fn requests_that_make_no_sense_are_not_sent() {
    let liar = Liar::new(|_, _| Reply::Close);
    let device = Device::open(&liar.path(), LIMIT).unwrap();
    let calls: [Result<(), Error>; 5] = [
        device.pcr_values(Sha256, &[24]).map(drop),
        device.pcr_extend(24, Sha256, &[0; 32]),
        device.pcr_extend(0, Sha256, &[0; 31]),
        device.quote(DEFAULT_AK_HANDLE, &[0; 65], Sha256, &[]).map(drop),
        device.quote(DEFAULT_AK_HANDLE, &[0; 32], Sha256, &[77]).map(drop),
    ];
    for call in calls {
        assert_eq!(call.unwrap_err().code(), "TPM_REQUEST_INVALID");
    }
}
