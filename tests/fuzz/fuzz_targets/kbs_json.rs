//! Answers of a KBS to every step of the protocol, with any status and any body.
#![no_main]

use cc_kbs::handshake::Start;
use cc_kbs::http::{HeaderValue, Response};
use cc_kbs::{ResourceUri, Secret, resource};
use libfuzzer_sys::fuzz_target;
use serde_json::json;

fn answer(status: u16, body: &[u8]) -> Response<Secret> {
    with_cookie(HeaderValue::from_static("kbs-session-id=0123"), status, body)
}

fn with_cookie(cookie: HeaderValue, status: u16, body: &[u8]) -> Response<Secret> {
    let response = Response::builder().status(status).header("set-cookie", cookie);
    response.body(Secret::new(body.to_vec())).expect("a response")
}

fuzz_target!(|input: (u8, u16, &[u8])| {
    let (step, status, body) = input;
    let status = 200 + status % 400;
    let (start, _) = Start::new("sample", json!({})).expect("a request");
    match step % 4 {
        0 => {
            if let Ok(challenged) = start.on_answer(&answer(status, body)) {
                let _ = challenged.device_report_data();
            }
        }
        1 => {
            let challenged = start.on_answer(&answer(200, br#"{"nonce":"n"}"#)).expect("a challenge");
            let (attesting, _) =
                challenged.with_devices(String::new()).attest("{}", None).expect("a request");
            let _ = attesting.on_answer(&answer(status, body), &[]);
        }
        2 => {
            let uri: ResourceUri = "kbs:///a/b/c".parse().expect("a URI");
            let _ = resource::on_answer(&uri, &answer(status, body), &[]);
        }
        _ => {
            let Ok(cookie) = HeaderValue::from_bytes(body) else { return };
            let _ = start.on_answer(&with_cookie(cookie, 200, br#"{"nonce":"n"}"#));
        }
    }
});
