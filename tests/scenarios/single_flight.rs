//! One attestation for a crowd.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Barrier;

use cc_tests::machine::Machine;
use cc_tests::stack::Options;

use crate::{REST_PATH, SECRET, stack};

/// How many applications ask at once after boot.
const CROWD: usize = 1000;

#[test]
fn a_thousand_parallel_first_requests_cost_one_quote() {
    // A quote that takes a while, so that everybody really waits for the same one.
    let machine = Machine { delay_ms: 500, ..Machine::default() };
    let Some(stack) = stack(Options { machine, ..Options::default() }) else { return };
    let address = stack.rest_url().trim_start_matches("http://").to_owned();
    let start = Barrier::new(CROWD);
    let answers: Vec<String> = std::thread::scope(|scope| {
        let ask = || {
            start.wait();
            let mut stream = TcpStream::connect(&address).unwrap();
            let request = format!("GET {REST_PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        };
        let threads: Vec<_> = (0..CROWD)
            .map(|_| std::thread::Builder::new().stack_size(128 * 1024).spawn_scoped(scope, ask).unwrap())
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let secret = std::str::from_utf8(SECRET).unwrap();
    let served = answers.iter().filter(|a| a.starts_with("HTTP/1.1 200") && a.ends_with(secret)).count();
    assert_eq!(served, CROWD, "somebody got: {:?}", answers.iter().find(|a| !a.ends_with(secret)));
    assert_eq!(stack.quotes().unwrap(), 1);
}
