//! Messages between the data hub and cdh-storage, in both directions.
#![no_main]

use cc_storage::{Answer, Packet, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(packet) = Packet::<Request>::parse(bytes) {
        let written = packet.encode().expect("what was read can be written");
        assert_eq!(Packet::<Request>::parse(&written).expect("and read").body, packet.body);
    }
    let _ = Packet::<Answer>::parse(bytes);
});
