//! Whom the real hub believes that it is the broker.

use std::time::Duration;

use cc_tests::hostile_kbs::{HostileKbs, Identity, Step};
use cc_tests::stack::{ForeignKbs, Options, Stack, Tee};

use super::{Ground, expect, leaves_nothing};
use crate::SECRET;

const HERE: &str = "127.0.0.1";

#[test]
fn only_the_configured_certificate_or_its_ca_is_believed() {
    let pin = Identity::self_signed(HERE, true).unwrap();
    let mut ground = Ground::over_tls(&pin);
    ground.serves("a self-signed certificate marked as CA, as pin");

    let untrusted = |says| (502, "KBS_TLS_UNTRUSTED", says);
    let (by_ca, ca) = Identity::by_ca(HERE).unwrap();
    let (_, other_ca) = Identity::by_ca(HERE).unwrap();
    let (elsewhere, its_ca) = Identity::by_ca("elsewhere.example").unwrap();
    let expired = Identity::expired(HERE).unwrap();
    let twin = Identity::self_signed(HERE, true).unwrap();
    let named = Identity::self_signed("elsewhere.example", true).unwrap();
    for (name, presented, trusted, says) in [
        // Both CAs have the same name, so the chain is found and its signature is wrong.
        ("another CA of the same name", &by_ca, &other_ca, "BadSignature"),
        ("another CA", &by_ca, &twin.certificate, "UnknownIssuer"),
        ("another name under the right CA", &elsewhere, &its_ca, "elsewhere.example"),
        ("another name in the pin", &named, &named.certificate, "elsewhere.example"),
        ("an expired pin", &expired, &expired.certificate, "expired"),
        ("a twin of the pin", &twin, &pin.certificate, ""),
    ] {
        ground.kbs.behave();
        ground.kbs.present(Some(presented)).unwrap();
        ground.trust(trusted);
        expect(&ground.ask(), name, untrusted(says));
        let steps: usize = Step::ALL.into_iter().map(|step| ground.kbs.asked(step)).sum();
        assert_eq!(steps, 0, "{name}: nothing was said to it");
    }
    leaves_nothing(&mut ground.stack, "untrusted certificates", false);

    ground.kbs.present(Some(&by_ca)).unwrap();
    ground.trust(&ca);
    ground.serves("the right CA");
    ground.kbs.present(Some(&pin)).unwrap();
    ground.trust(&pin.certificate);
    ground.serves("the pin again");

    // A live hub follows the certificate, not the connection: the same process refuses and serves again.
    ground.trust(&pin.certificate);
    ground.kbs.present(Some(&twin)).unwrap();
    expect(&ground.ask(), "changed under way", untrusted(""));
    ground.kbs.present(Some(&pin)).unwrap();
    ground.serves("a changed certificate");
}

#[test]
fn a_broker_without_tls_gets_nothing_over_https() {
    let mut ground = Ground::over_tls(&Identity::self_signed(HERE, true).unwrap());
    ground.kbs.present(None).unwrap();
    let answer = ground.ask();
    expect(&answer, "plain HTTP behind https", (502, "KBS_BAD_RESPONSE", "the TLS handshake"));
    leaves_nothing(&mut ground.stack, "plain HTTP behind https", false);
}

#[test]
fn plain_http_to_another_machine_is_refused_before_anything_is_sent() {
    for url in ["http://192.0.2.1:8080", "http://kbs.example:8080", "http://localhost.example"] {
        let foreign_kbs = Some(ForeignKbs { url: url.to_owned(), certificate: None });
        let options = Options { foreign_kbs, tee: Tee::Sample, ..Options::default() };
        let stack = Stack::prepare(options).unwrap();
        let mut hub = stack.spawn_hub().unwrap();
        assert_eq!(hub.wait().unwrap(), Some(64), "{url}: {}", hub.log());
        assert!(hub.log().contains(&format!("refusing plain http to {url}")), "{url}: {}", hub.log());
        assert!(!stack.hub_socket().exists(), "{url}: nothing was bound");
        let mut agent = stack.spawn_agent().unwrap();
        assert_eq!(agent.wait().unwrap(), Some(64), "{url}: {}", agent.log());
        assert!(agent.log().contains(&format!("refusing plain http to {url}")), "{url}: {}", agent.log());
        assert!(!stack.agent_socket().exists(), "{url}: nothing was bound");
    }
}

#[test]
fn a_broker_that_never_greets_is_survived() {
    let pin = Identity::self_signed(HERE, true).unwrap();
    let mut ground = Ground::over_tls(&pin);
    let address = ground.kbs.address();
    drop(std::mem::replace(&mut ground.kbs, HostileKbs::start(SECRET).unwrap()));
    // Takes connections and says nothing; gone after a while, and the broker is back at its address.
    let silent = std::net::TcpListener::bind(address).unwrap();
    let answer = std::thread::scope(|scope| {
        let stack = &ground.stack;
        let asked = scope.spawn(move || super::ask(stack));
        let (held, _) = silent.accept().unwrap();
        std::thread::sleep(Duration::from_secs(2));
        drop((held, silent));
        let kbs = HostileKbs::start_at(address, SECRET).unwrap();
        kbs.present(Some(&pin)).unwrap();
        ground.kbs = kbs;
        asked.join().unwrap()
    });
    assert_eq!((answer.status, answer.body.as_slice()), (200, SECRET), "{}", answer.text());
}
