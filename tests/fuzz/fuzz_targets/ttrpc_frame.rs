//! What a ttrpc peer sends: frames from any bytes in any pieces, and the envelopes inside them.
#![no_main]

use bytes::BytesMut;
use cc_daemon::ttrpc::envelope::{Request, Response};
use cc_daemon::ttrpc::frame::{self, Decoder, Event};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((piece, bytes)) = data.split_first() else { return };
    let (mut whole, mut cut) = (Decoder::default(), Decoder::default());

    let mut buffer = BytesMut::from(bytes);
    let mut events = Vec::new();
    while let Ok(Some(event)) = whole.next(&mut buffer) {
        events.push(event);
    }

    // However the bytes are cut, they are the same frames.
    let mut buffer = BytesMut::new();
    let mut again = Vec::new();
    'pieces: for piece in bytes.chunks(usize::from(*piece).max(1)) {
        buffer.extend_from_slice(piece);
        loop {
            match cut.next(&mut buffer) {
                Ok(Some(event)) => again.push(event),
                Ok(None) => break,
                Err(_) => break 'pieces,
            }
        }
    }
    assert_eq!(events, again);

    for event in events {
        let Event::Frame(frame) = event else { continue };
        let mut out = BytesMut::new();
        frame::encode(&frame, &mut out).expect("a frame that was read can be written");
        assert_eq!(Decoder::default().next(&mut out), Ok(Some(Event::Frame(frame.clone()))));
        let _ = Response::from_wire(frame.payload.clone());
        if let Ok(request) = Request::decode(frame.payload) {
            assert_eq!(Request::decode(request.encode().into()), Ok(request));
        }
    }
});
