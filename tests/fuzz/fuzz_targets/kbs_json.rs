//! Answers of a KBS to every step of the protocol, with any status and any body.
#![no_main]

use cc_kbs::handshake::Start;
use cc_kbs::http::{HeaderValue, Response};
use cc_kbs::{Error, ResourceUri, Secret, resource};
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
        0 => match start.on_answer(&answer(status, body)) {
            Ok(challenged) => drop(challenged.device_report_data()),
            Err(error) => told(&error),
        },
        1 => {
            let challenged = start.on_answer(&answer(200, br#"{"nonce":"n"}"#)).expect("a challenge");
            let (attesting, _) =
                challenged.with_devices(String::new()).attest("{}", None).expect("a request");
            if let Err(error) = attesting.on_answer(&answer(status, body), &[]) {
                told(&error);
            }
        }
        2 => {
            let uri: ResourceUri = "kbs:///a/b/c".parse().expect("a URI");
            if let Err(rejection) = resource::on_answer(&uri, &answer(status, body), &[]) {
                told(&rejection.error);
            }
        }
        _ => {
            let Ok(cookie) = HeaderValue::from_bytes(body) else { return };
            if let Err(error) = start.on_answer(&with_cookie(cookie, 200, br#"{"nonce":"n"}"#)) {
                told(&error);
            }
        }
    }
});

/// What the other side says goes into logs: on one line, and not without end.
fn told(error: &Error) {
    let text = error.to_string();
    assert!(!text.contains(char::is_control) && text.len() < 4096, "{text:?}");
    assert!(!error.code().is_empty() && !error.hint().is_empty());
}
