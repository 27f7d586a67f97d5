//! Scenarios: the real binaries together, each test a story with one outcome.
//!
//! They need root and `/dev/fuse` for the emulated TEE and say so where they skip.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    missing_docs,
    reason = "tests fail loudly"
)]

mod access;
mod aliyun;
mod ansible;
mod attester;
mod audit;
mod azure;
mod booted;
mod canary;
mod cca;
mod credentials;
mod demo;
mod denial;
mod devices;
mod documents;
mod doors;
mod envelopes;
mod failover;
mod hostile;
mod image_keys;
mod image_pull;
mod independent;
mod init_data;
mod kata;
mod kms;
mod lifecycle;
mod local;
mod measurement;
mod missing;
mod mixed;
mod nvidia;
mod operator;
mod packages;
mod peer_pod;
mod platform;
mod quadlets;
mod release;
mod rpc;
mod sealed;
mod single_flight;
mod strict;
mod tdx;
mod tpm;
mod units;

use cc_tests::curl::Answer;
use cc_tests::stack::{Options, Stack};

/// A secret no log line contains by chance.
const SECRET: &[u8] = b"correct-horse-battery-staple-7f3a91c2";
/// Where it is kept.
const RESOURCE: &str = "default/key/1";
/// Where the REST server offers it.
const REST_PATH: &str = "/cdh/resource/default/key/1";

/// A running stack that holds [`SECRET`], or `None` where the emulator cannot run.
fn stack(options: Options) -> Option<Stack> {
    if !cc_tests::stack::emulator_runs_here() {
        return None;
    }
    let stack = Stack::start(options).unwrap_or_else(|e| panic!("{e:#}"));
    stack.put_resource(RESOURCE, SECRET).unwrap();
    Some(stack)
}

/// The answer is the secret.
#[track_caller]
fn assert_released(answer: &Answer, what: &str) {
    assert_eq!((answer.status, answer.body.as_slice()), (200, SECRET), "{what}: {}", answer.text());
}

/// The answer is a refusal with this status and code, whose text has all that is in `says`.
#[track_caller]
fn assert_refused(answer: &Answer, what: &str, status: u16, expected: &str, says: &[&str]) {
    assert_eq!((answer.status, code(&answer.body).as_str()), (status, expected), "{what}: {}", answer.text());
    for words in says {
        assert!(answer.text().contains(words), "{what}: {words} is missing in {}", answer.text());
    }
}

/// The member `code` of a JSON error body.
fn code(body: &[u8]) -> String {
    let value: serde_json::Value =
        serde_json::from_slice(body).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(body)));
    value["code"].as_str().unwrap_or_default().to_owned()
}
