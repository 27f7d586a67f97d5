//! One test per row of the interface: status, content type and body, to the letter where the letter counts.

use std::sync::atomic::Ordering;

use api_server_rest::door::PathPrefix;
use api_server_rest::routes::Features;
use http_body_util::{BodyExt as _, Full};

use crate::client::{Client, Reply, ask, exchange, get, post};
use crate::stand_in::{PRIVATE_KEY, SECRET, SetUp, StandIn, config};

const OCTETS: Option<&str> = Some("application/octet-stream");
const JSON: Option<&str> = Some("application/json");
const TEXT: Option<&str> = Some("text/plain; charset=utf-8");

fn assert_text(reply: &Reply, status: u16, text: &str) {
    assert_eq!((reply.status, reply.text()), (status, text));
    assert_eq!(reply.header("content-type"), TEXT);
}

#[tokio::test]
async fn resource() {
    let (rest, daemons) = SetUp::default().start().await;
    let reply = get(rest.addr, "/cdh/resource/default/key/1").await;
    assert_eq!((reply.status, reply.body.as_slice()), (200, SECRET));
    assert_eq!(reply.header("content-type"), OCTETS);
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(daemons.stand_in.last_call(), "GetResource kbs:///default/key/1");
}

#[tokio::test]
async fn resource_paths_and_queries_are_forwarded_as_written() {
    let (rest, daemons) = SetUp::default().start().await;
    for path in [
        "a",
        "a/b",
        "a/b/c/d/e/f",
        "a%20b/%C3%a9/c",
        "a/b/c?x=1&y=%41+z",
        "a/b/c?",
        "a/b/c?u=http://h//../%2f",
    ] {
        let reply = get(rest.addr, &format!("/cdh/resource/{path}")).await;
        assert_eq!((reply.status, reply.text()), (200, format!("kbs:///{path}").as_str()));
    }
    assert_eq!(daemons.stand_in.call_count(), 7);
}

#[tokio::test]
async fn resource_paths_that_can_be_read_in_two_ways_go_nowhere() {
    let (rest, daemons) = SetUp::default().start().await;
    for path in [
        "a/../b",
        "a/./b",
        "%2e%2e/b",
        "a//b",
        "a/",
        "a%2fb",
        "a%2Fb",
        "a%5Cb",
        "a%00",
        "a%",
        "a%zz",
        "a/b?x=%",
        "../../aa/token",
    ] {
        let reply = get(rest.addr, &format!("/cdh/resource/{path}")).await;
        assert_eq!(reply.status, 400, "{path}");
        assert!(reply.text().contains("[TARGET_MALFORMED]\n"), "{path}: {}", reply.text());
    }
    assert_eq!(daemons.stand_in.call_count(), 0);
}

#[tokio::test]
async fn resource_without_a_path_is_not_found() {
    let (rest, _daemons) = SetUp::default().start().await;
    for path in ["/cdh/resource", "/cdh/resource/", "/cdh/resource?x=1"] {
        assert_text(&get(rest.addr, path).await, 404, "URL NOT FOUND");
    }
}

#[tokio::test]
async fn denied_absent_and_outage_are_told_apart() {
    let (rest, _daemons) = SetUp::default().start().await;
    for (word, status) in [
        ("denied", 403),
        ("absent", 404),
        ("unavailable", 503),
        ("misbehaved", 502),
        ("misused", 400),
        ("platform", 500),
    ] {
        let reply = get(rest.addr, &format!("/cdh/resource/{word}/b/c")).await;
        let text = format!("fetching kbs:///{word}/b/c: refused [KBS_CODE]\nask the key broker");
        assert_text(&reply, status, &text);
        assert_eq!(reply.header("cache-control"), Some("no-store"));
    }
    let reply = get(rest.addr, "/cdh/resource/late/b/c").await;
    assert_text(&reply, 504, "fetching kbs:///late/b/c: refused [KBS_TIMEOUT]\nask the key broker");
    let reply = get(rest.addr, "/cdh/resource/old/b/c").await;
    assert_eq!(reply.status, 500);
    assert!(reply.text().contains("something [PEER_FAILED]"), "{}", reply.text());
}

#[tokio::test]
async fn errors_are_json_for_those_who_prefer_it() {
    let (rest, _daemons) = SetUp::default().start().await;
    let request = |target: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\r\n")
    };
    let reply = exchange(rest.addr, &request("/cdh/resource/denied/b/c")).await;
    assert_eq!((reply.status, reply.header("content-type")), (403, JSON));
    assert_eq!(
        reply.text(),
        r#"{"code":"KBS_CODE","message":"fetching kbs:///denied/b/c: refused","hint":"ask the key broker"}"#
    );
    let reply = exchange(rest.addr, &request("/nowhere")).await;
    assert_eq!((reply.status, reply.header("content-type")), (404, JSON));
    assert_eq!(
        reply.text(),
        r#"{"code":"URL_NOT_FOUND","message":"no such path","hint":"GET /openapi.json lists the paths"}"#
    );
}

#[tokio::test]
async fn token_comes_without_its_private_key() {
    let (rest, daemons) = SetUp::default().start().await;
    let reply = get(rest.addr, "/aa/token?token_type=kbs").await;
    assert_eq!((reply.status, reply.text()), (200, r#"{"token":"a.b.c"}"#));
    assert_eq!((reply.header("content-type"), reply.header("cache-control")), (OCTETS, Some("no-store")));
    let reply = get(rest.addr, "/aa/token?token_type=kbs&token_type=coco_as").await;
    assert_eq!((reply.status, reply.text()), (200, "x.y.z"));
    assert_eq!(daemons.stand_in.last_call(), "GetToken coco_as");
    let reply = get(rest.addr, "/aa/token?token_type=ear").await;
    assert_text(&reply, 500, "no token of the type \"ear\" [TOKEN_TYPE]\nuse kbs");
}

#[tokio::test]
async fn token_keeps_its_key_only_if_told_so() {
    let mut set_up = SetUp::default();
    set_up.policy.expose_token_key = true;
    let (rest, _daemons) = set_up.start().await;
    let reply = get(rest.addr, "/aa/token?token_type=kbs").await;
    assert!(reply.status == 200 && reply.text().contains(PRIVATE_KEY));
}

#[tokio::test]
async fn token_without_a_type_is_a_bad_request() {
    let (rest, daemons) = SetUp::default().start().await;
    for target in ["/aa/token", "/aa/token?", "/aa/token?type=kbs", "/aa/token?Token_Type=kbs"] {
        assert_text(&get(rest.addr, target).await, 400, "BAD REQUEST");
    }
    assert_eq!(daemons.stand_in.call_count(), 0);
}

#[tokio::test]
async fn evidence() {
    let (rest, daemons) = SetUp::default().start().await;
    let reply = get(rest.addr, "/aa/evidence?runtime_data=a+b%3D").await;
    assert_eq!((reply.status, reply.text()), (200, "evidence over a b="));
    assert_eq!(reply.header("content-type"), OCTETS);
    let reply = get(rest.addr, "/aa/evidence?encoding=base64&runtime_data=AP8").await;
    assert_eq!((reply.status, reply.body.as_slice()), (200, &b"evidence over \x00\xff"[..]));
    assert_eq!(daemons.stand_in.call_count(), 2);
}

#[tokio::test]
async fn evidence_refuses_what_it_cannot_bind() {
    let (rest, daemons) = SetUp::default().start().await;
    for route in ["/aa/evidence", "/aa/additional-evidence"] {
        for (query, code) in [
            ("?encoding=hex&runtime_data=00", "PARAMETER_MALFORMED"),
            ("?encoding=base64&runtime_data=AP8%3d", "PARAMETER_MALFORMED"),
            ("?encoding=base64&runtime_data=%2b%2b8", "PARAMETER_MALFORMED"),
            ("?runtime_data=%ff", "QUERY_MALFORMED"),
            ("?runtime_data=100%", "TARGET_MALFORMED"),
        ] {
            let reply = get(rest.addr, &format!("{route}{query}")).await;
            assert_eq!(reply.status, 400);
            assert!(reply.text().contains(code), "{query}: {}", reply.text());
        }
        assert_text(&get(rest.addr, route).await, 400, "BAD REQUEST");
        assert_text(&get(rest.addr, &format!("{route}?encoding=base64")).await, 400, "BAD REQUEST");
    }
    assert_eq!(daemons.stand_in.call_count(), 0);
}

#[tokio::test]
async fn additional_evidence_may_be_empty() {
    let (rest, _daemons) = SetUp::default().start().await;
    let reply = get(rest.addr, "/aa/additional-evidence?runtime_data=x").await;
    assert_eq!((reply.status, reply.body.len(), reply.header("content-type")), (200, 0, OCTETS));
    let devices = StandIn { devices: vec!["nvidia".to_owned()], ..StandIn::default() };
    let (rest, _daemons) = SetUp::default().start_with(devices).await;
    let reply = get(rest.addr, "/aa/additional-evidence?runtime_data=x").await;
    assert_eq!((reply.status, reply.text()), (200, "devices over x"));
}

#[tokio::test]
async fn event_answers_are_exact() {
    let (rest, daemons) = SetUp::default().start().await;
    for (outcome, body) in [
        (0, r#"{"success":"true"}"#),
        (1, r#"{"success":"false","message": "The platform does not support runtime measurement"}"#),
        (2, r#"{"success":"false","message": "Attestation Agent does not enable eventlog recording"}"#),
        (7, r#"{"success":"false","message": "Unknown runtime measurement result"}"#),
    ] {
        daemons.stand_in.outcome.store(outcome, Ordering::Relaxed);
        let reply =
            post(rest.addr, "/aa/aael", r#"{"domain":"d","operation":"o","content":"c","more":1}"#).await;
        assert_eq!((reply.status, reply.text(), reply.header("content-type")), (200, body, JSON));
    }
    assert_eq!(daemons.stand_in.last_call(), "Extend d|o|c|None");
}

#[tokio::test]
async fn event_bodies_that_are_no_events_are_refused() {
    let (rest, daemons) = SetUp::default().start().await;
    for body in [
        "",
        "{",
        "[]",
        "null",
        r#"{"domain":"d","operation":"o"}"#,
        r#"{"domain":"d","operation":"o","content":1}"#,
        r#"{"domain":"d","operation":"o","content":"c"} x"#,
        r#"{"domain":"d","domain":"e","operation":"o","content":"c"}"#,
        r#"{"domain":null,"operation":"o","content":"c"}"#,
    ] {
        let reply = post(rest.addr, "/aa/aael", body).await;
        assert_eq!(reply.status, 400, "{body}");
        assert!(reply.text().contains("[EVENT_MALFORMED]"), "{body}");
    }
    assert_eq!(daemons.stand_in.call_count(), 0);
}

#[tokio::test]
async fn events_that_come_too_fast_are_refused() {
    let (rest, daemons) = SetUp::default().start().await;
    let mut served = 0;
    let refused = loop {
        let reply = post(rest.addr, "/aa/aael", r#"{"domain":"d","operation":"o","content":"c"}"#).await;
        match reply.status {
            200 => served += 1,
            _ => break reply,
        }
        assert!(served < 2000, "nothing is refused");
    };
    assert!(served >= 100);
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")));
    assert!(refused.text().contains("[EVENT_RATE]\n"), "{}", refused.text());
    assert_eq!(daemons.stand_in.call_count(), served);
}

#[tokio::test]
async fn info() {
    let (rest, _daemons) = SetUp::default().start().await;
    let version = concat!("Guest Components Version: ", env!("CARGO_PKG_VERSION"));
    let reply = get(rest.addr, "/info").await;
    assert_eq!((reply.status, reply.header("content-type")), (200, JSON));
    assert_eq!(reply.text(), format!(r#"{{"version":"{version}","tee":"snp","feature":"all"}}"#));

    let devices = StandIn { devices: vec!["nvidia".to_owned(), "tpm".to_owned()], ..StandIn::default() };
    let (rest, _daemons) = SetUp::features(Features::Attestation).start_with(devices).await;
    let reply = get(rest.addr, "/info").await;
    let expected = format!(
        r#"{{"version":"{version}","tee":"snp","additional_tees":["nvidia","tpm"],"feature":"attestation"}}"#
    );
    assert_eq!(reply.text(), expected);

    // Without the feature the agent is not asked; here nobody would answer.
    let rest = SetUp::features(Features::Resource).start_alone().await;
    let reply = get(rest.addr, "/info").await;
    assert_eq!(
        (reply.status, reply.text()),
        (200, format!(r#"{{"version":"{version}","feature":"resource"}}"#).as_str())
    );
}

#[tokio::test]
async fn the_openapi_document_is_served() {
    let rest = SetUp::default().start_alone().await;
    let reply = get(rest.addr, "/openapi.json").await;
    assert_eq!((reply.status, reply.header("content-type")), (200, JSON));
    assert_eq!(reply.text(), api_server_rest::openapi::DOCUMENT);
}

#[tokio::test]
async fn switched_off_roots_say_which_feature() {
    let rest = SetUp::features(Features::Resource).start_alone().await;
    for path in ["/aa", "/aa/token?token_type=kbs", "/aa/nowhere"] {
        assert_text(&get(rest.addr, path).await, 404, "Attestation Feature Not Enabled");
    }
    let rest = SetUp::features(Features::Attestation).start_alone().await;
    for path in ["/cdh", "/cdh/resource/a/b/c", "/cdh/nowhere"] {
        assert_text(&get(rest.addr, path).await, 404, "Resource Feature Not Enabled");
    }
}

#[tokio::test]
async fn unknown_paths_are_not_found() {
    let rest = SetUp::default().start_alone().await;
    for path in [
        "/",
        "/aa",
        "/aa/",
        "/aa/nowhere",
        "/cdh",
        "/cdh/nowhere",
        "/nowhere",
        "/Info",
        "/info/",
        "/aa/token/",
    ] {
        assert_text(&get(rest.addr, path).await, 404, "URL NOT FOUND");
    }
}

#[tokio::test]
async fn wrong_methods_are_told_the_right_ones() {
    let (rest, daemons) = SetUp::default().start().await;
    for (path, allow, wrong) in [
        ("/info", "GET, HEAD", "POST"),
        ("/openapi.json", "GET, HEAD", "DELETE"),
        ("/aa/token?token_type=kbs", "GET, HEAD", "POST"),
        ("/aa/evidence?runtime_data=x", "GET, HEAD", "PUT"),
        ("/aa/additional-evidence?runtime_data=x", "GET, HEAD", "OPTIONS"),
        ("/aa/aael", "POST", "GET"),
        ("/aa/aael", "POST", "HEAD"),
        ("/cdh/resource/a/b/c", "GET, HEAD", "POST"),
        ("/cdh/resource/a/b/c", "GET, HEAD", "BREW"),
    ] {
        let reply = ask(rest.addr, wrong, path).await;
        assert_eq!((reply.status, reply.header("allow")), (405, Some(allow)), "{wrong} {path}");
        if wrong != "HEAD" {
            assert_text(&reply, 405, "Method Not Allowed");
        }
    }
    assert_eq!(daemons.stand_in.call_count(), 0);
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let (rest, _daemons) = SetUp::default().start().await;
    for path in [
        "/info",
        "/openapi.json",
        "/aa/token?token_type=kbs",
        "/aa/evidence?runtime_data=x",
        "/aa/additional-evidence?runtime_data=x",
        "/cdh/resource/default/key/1",
        "/cdh/resource/denied/b/c",
        "/nowhere",
    ] {
        // On one connection: a body after HEAD would be taken for the next answer.
        let mut client = Client::connect(rest.addr).await;
        client.send(format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await;
        let head = client.reply(true).await.unwrap();
        client.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await;
        let get = client.reply(false).await.unwrap();
        let comparable = |reply: &Reply| {
            let mut headers = reply.headers.clone();
            headers.retain(|(name, _)| name != "date");
            headers.sort();
            (reply.status, headers)
        };
        assert_eq!(comparable(&head), comparable(&get), "{path}");
        assert_eq!(get.header("content-length").unwrap().parse::<usize>().unwrap(), get.body.len());
    }
}

#[tokio::test]
async fn strict_mode_closes_attestation() {
    let mut set_up = SetUp::default();
    set_up.policy.strict = true;
    let (rest, daemons) = set_up.start().await;
    for path in [
        "/aa/token?token_type=kbs",
        "/aa/evidence?runtime_data=x",
        "/aa/additional-evidence?runtime_data=x",
        "/aa/aael",
        "/aa",
    ] {
        let reply = get(rest.addr, path).await;
        assert_eq!(reply.status, 403);
        assert!(reply.text().contains("[LOCAL_DOOR_STRICT]\n"), "{}", reply.text());
    }
    assert_eq!(post(rest.addr, "/aa/aael", "{}").await.status, 403);
    assert_eq!(daemons.stand_in.call_count(), 0);
    assert_eq!(get(rest.addr, "/cdh/resource/default/key/1").await.body, SECRET);
    assert_eq!(get(rest.addr, "/info").await.status, 200);
}

#[tokio::test]
async fn only_listed_paths_are_served() {
    let mut set_up = SetUp::default();
    set_up.policy.paths = vec![PathPrefix::parse("default/key").unwrap(), PathPrefix::parse("a").unwrap()];
    let (rest, daemons) = set_up.start().await;
    for path in ["default/key/1", "default/key", "a/b/c", "default/key/1?x=y"] {
        assert_eq!(get(rest.addr, &format!("/cdh/resource/{path}")).await.status, 200, "{path}");
    }
    let served = daemons.stand_in.call_count();
    for path in ["default/keys/1", "default", "%64efault/key/1", "b/a", "A/b"] {
        let reply = get(rest.addr, &format!("/cdh/resource/{path}")).await;
        assert_eq!(reply.status, 403, "{path}");
        assert!(reply.text().contains("[LOCAL_DOOR_PATH]\n"));
    }
    assert_eq!(get(rest.addr, "/cdh/resource/default/key/../../b").await.status, 400);
    assert_eq!(daemons.stand_in.call_count(), served);
}

#[tokio::test]
async fn foreign_peers_are_forbidden() {
    let door = SetUp::default().door("/nowhere.sock".as_ref());
    for peer in ["10.0.0.7", "0.0.0.0", "fe80::1", "::ffff:10.0.0.7"] {
        let request = http::Request::get("/info")
            .header("host", "localhost")
            .body(Full::new(bytes::Bytes::new()))
            .unwrap();
        let response = door.answer(peer.parse().unwrap(), request).await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()["connection"]),
            (403, &"close".parse().unwrap())
        );
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "Forbidden");
    }
    for peer in ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"] {
        let request = http::Request::get("/openapi.json")
            .header("host", "localhost")
            .body(Full::new(bytes::Bytes::new()))
            .unwrap();
        assert_eq!(door.answer(peer.parse().unwrap(), request).await.status(), 200, "{peer}");
    }
}

#[tokio::test]
async fn a_configuration_becomes_a_server() {
    let config = config(&["--bind", "127.0.0.1:0", "--allow-host", "gate.internal"]);
    let server = config.build().unwrap().bind(None).await.unwrap();
    let addr = server.local_addr().unwrap();
    let shutdown = cc_daemon::shutdown::Shutdown::new();
    let task = tokio::spawn(server.serve(shutdown.clone()));
    let reply = exchange(addr, "GET /info HTTP/1.1\r\nHost: gate.internal:1\r\n\r\n").await;
    assert_eq!(reply.status, 200);
    shutdown.trigger();
    task.await.unwrap();
}
