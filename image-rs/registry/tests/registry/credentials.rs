//! Credentials go to whom they are for, in the form that is asked for, and nowhere else.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use image_registry::{AuthFile, Login, Registries};
use serde_json::json;

use crate::{
    assert_code, attempts, options, pull, pull_as,
    stand_in::{Authority, Content, Request, StandIn, Stream, reply},
    trusting,
};

const BASIC: &str = "Basic dXNlcjpodW50ZXIy";

fn login() -> Login {
    Login::parse(b"user:hunter2").unwrap()
}

fn image() -> Content {
    Content::image(&[b"lower", b"upper"])
}

fn challenge(stream: &mut dyn Stream, challenge: &str) -> bool {
    reply(stream, "401 Unauthorized", &[("WWW-Authenticate", challenge)], b"{}")
}

/// A registry that wants tokens of the service at `realm`.
fn with_tokens(
    authority: &Authority,
    realm: String,
    content: Content,
    token: impl Fn() -> String + Send + Sync + 'static,
) -> StandIn {
    StandIn::tls(authority, move |request, stream| {
        if request.header("authorization") != Some(&format!("Bearer {}", token())) {
            return challenge(
                stream,
                &format!("Bearer realm=\"{realm}\",service=\"the registry\",scope=\"repository:x:push\""),
            );
        }
        content.answer(request, stream)
    })
}

#[test]
fn a_password_is_sent_when_it_is_asked_for() {
    let authority = Authority::new();
    let content = image();
    let server = StandIn::tls(&authority, move |request, stream| match request.header("authorization") {
        Some(BASIC) => content.answer(request, stream),
        _ => challenge(stream, "Basic realm=\"x\""),
    });
    let name = format!("localhost:{}/a/b:1", server.address.port());
    assert_eq!(pull_as(&trusting(&authority), &name, Some(&login())).unwrap().len(), 2);
    let requests = server.requests();
    assert_eq!(requests.len(), 5, "one without credentials, then all with them");
    assert!(requests[0].header("authorization").is_none());
    let error = assert_code(pull(&trusting(&authority), &name), "REGISTRY_DENIED");
    assert!(error.to_string().contains("none are given"), "{error}");
    let told = format!("{:?}", attempts(&trusting(&authority), &name, Some(&login())));
    assert!(told.contains("Login") && !told.contains("hunter2") && !told.contains("aHVudGVyM"), "{told}");
    let wrong = Login::parse(b"user:wrong-one").unwrap();
    let before = server.requests().len();
    let error = assert_code(pull_as(&trusting(&authority), &name, Some(&wrong)), "REGISTRY_DENIED");
    assert!(!format!("{error:?}").contains("wrong-one"));
    assert_eq!(server.requests().len() - before, 2, "a refusal is final");
}

#[test]
fn the_credentials_file_is_looked_up_by_the_rewritten_name() {
    let authority = Authority::new();
    let content = image();
    let server = StandIn::tls(&authority, move |request, stream| match request.header("authorization") {
        Some(BASIC) => content.answer(request, stream),
        _ => challenge(stream, "Basic"),
    });
    let host = format!("localhost:{}", server.address.port());
    let auth = json!({"auths": {format!("{host}/moved"): {"auth": BASE64_STANDARD.encode("user:hunter2")}}});
    let mut options = trusting(&authority);
    options.auth_file = AuthFile::parse(auth.to_string().as_bytes()).unwrap();
    options.registries =
        Registries::parse(&format!("[[registry]]\nprefix = 'origin.example'\nlocation = '{host}/moved'\n"))
            .unwrap();
    assert_eq!(pull(&options, "origin.example/a:1").unwrap().len(), 2);
    // The caller's own are for the registry that he named, which is another.
    let other = Login::parse(b"other:hunter3").unwrap();
    assert_eq!(pull_as(&options, "origin.example/a:1", Some(&other)).unwrap().len(), 2);
    assert_code(pull(&options, &format!("{host}/a:1")), "REGISTRY_DENIED");
}

#[test]
fn a_token_is_got_once_and_with_the_least_scope() {
    let authority = Authority::new();
    let service = StandIn::tls(&authority, |_, stream| {
        reply(stream, "200 OK", &[], b"{\"token\":\"t0k\",\"expires_in\":300}")
    });
    let realm = format!("https://localhost:{}/token?x=1", service.address.port());
    let server = with_tokens(&authority, realm, image(), || "t0k".to_owned());
    let name = format!("localhost:{}/a/b:1", server.address.port());
    assert_eq!(pull(&trusting(&authority), &name).unwrap().len(), 2);
    let asked = service.requests();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].target, "/token?x=1&scope=repository%3Aa%2Fb%3Apull&service=the+registry");
    assert!(asked[0].header("authorization").is_none());
    assert_eq!(pull_as(&trusting(&authority), &name, Some(&login())).unwrap().len(), 2);
    let asked = service.requests();
    assert_eq!(asked[1].header("authorization"), Some(BASIC));
    assert!(asked[1].target.contains("account=user&"));
    assert!(server.requests().iter().all(|request| request.header("authorization") != Some(BASIC)));
}

#[test]
fn a_token_that_ended_is_replaced_once() {
    let authority = Authority::new();
    let issued = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&issued);
    let service = StandIn::tls(&authority, move |_, stream| {
        let token = format!("{{\"access_token\":\"t{}\"}}", counted.fetch_add(1, Ordering::Relaxed) + 1);
        reply(stream, "200 OK", &[], token.as_bytes())
    });
    let realm = format!("https://localhost:{}/", service.address.port());
    // Each token is good for two requests.
    let uses = Arc::new(Mutex::new((0, 0)));
    let content = image();
    let server = StandIn::tls(&authority, move |request, stream| {
        let newest = issued.load(Ordering::Relaxed);
        let mut uses = uses.lock().unwrap();
        if uses.0 != newest {
            *uses = (newest, 0);
        }
        if request.header("authorization") == Some(&format!("Bearer t{newest}")) && uses.1 < 2 {
            uses.1 += 1;
            return content.answer(request, stream);
        }
        challenge(stream, &format!("Bearer realm=\"{realm}\""))
    });
    let name = format!("localhost:{}/a/b:1", server.address.port());
    assert_eq!(pull(&trusting(&authority), &name).unwrap().len(), 2);
    assert_eq!(service.requests().len(), 2);
}

#[test]
fn credentials_stay_with_their_origin() {
    let authority = Authority::new();
    let content = image();
    let kept = content.clone();
    let store = StandIn::tls(&authority, move |request, stream| match request.target.contains("again") {
        // Asks for the registry's credentials under its own name.
        true => challenge(stream, "Basic realm=\"gimme\""),
        false => kept.answer(request, stream),
    });
    let port = store.address.port();
    let greedy = Arc::new(AtomicUsize::new(0));
    let flag = Arc::clone(&greedy);
    let server = StandIn::tls(&authority, move |request, stream| {
        if request.header("authorization") != Some(BASIC) {
            return challenge(stream, "Basic");
        }
        if request.target.contains("/blobs/") {
            let again = if flag.load(Ordering::Relaxed) > 0 { "/again" } else { "" };
            let location = format!("https://localhost:{port}{again}{}", request.target);
            return reply(stream, "307 Temporary Redirect", &[("Location", &location)], b"");
        }
        content.answer(request, stream)
    });
    let name = format!("localhost:{}/a/b:1", server.address.port());
    assert_eq!(pull_as(&trusting(&authority), &name, Some(&login())).unwrap().len(), 2);
    greedy.store(1, Ordering::Relaxed);
    assert_code(pull_as(&trusting(&authority), &name, Some(&login())), "REGISTRY_DENIED");
    assert!(!store.requests().is_empty());
    assert!(store.requests().iter().all(|request| request.header("authorization").is_none()));
}

#[test]
fn the_callers_credentials_are_not_for_mirrors() {
    let authority = Authority::new();
    let mirror = StandIn::tls(&authority, |_, stream| challenge(stream, "Basic"));
    let content = image();
    let server = StandIn::tls(&authority, move |request, stream| match request.header("authorization") {
        Some(BASIC) => content.answer(request, stream),
        _ => challenge(stream, "Basic"),
    });
    let (host, other) =
        (format!("localhost:{}", server.address.port()), format!("127.0.0.1:{}", mirror.address.port()));
    let mut options = trusting(&authority);
    options.registries = Registries::parse(&format!(
        "[[registry]]\nlocation = '{host}'\n[[registry.mirror]]\nlocation = '{other}'\n"
    ))
    .unwrap();
    assert_eq!(pull_as(&options, &format!("{host}/a/b:1"), Some(&login())).unwrap().len(), 2);
    assert_eq!(mirror.requests().len(), 1);
    assert!(mirror.requests()[0].header("authorization").is_none());
}

#[test]
fn challenges_and_tokens_that_make_no_sense_are_refused() {
    let authority = Authority::new();
    let plain = StandIn::plain(|_, stream| reply(stream, "200 OK", &[], b"{\"token\":\"x\"}"));
    let http = format!("Bearer realm=\"http://{}/\"", plain.host());
    let long = format!("Bearer realm=\"https://localhost/{}\"", "a".repeat(5000));
    for (asked, code) in [
        (http.as_str(), "REGISTRY_BAD_ANSWER"),
        ("Bearer realm=\"https://169.254.169.254/token\"", "REGISTRY_REDIRECT"),
        ("Bearer realm=\"https://user:x@localhost/\"", "REGISTRY_REDIRECT"),
        ("Bearer realm=\"file:///etc/passwd\"", "REGISTRY_BAD_ANSWER"),
        ("Bearer realm=\"x", "REGISTRY_BAD_ANSWER"),
        ("Bearer", "REGISTRY_BAD_ANSWER"),
        ("Digest realm=\"x\"", "REGISTRY_BAD_ANSWER"),
        ("Bearer realm=\"a\", realm=\"b\"", "REGISTRY_BAD_ANSWER"),
        ("", "REGISTRY_BAD_ANSWER"),
        (long.as_str(), "REGISTRY_BAD_ANSWER"),
    ] {
        let text = asked.to_owned();
        let server = StandIn::tls(&authority, move |_, stream| challenge(stream, &text));
        let name = format!("localhost:{}/a/b:1", server.address.port());
        assert_code(pull_as(&trusting(&authority), &name, Some(&login())), code);
        assert_eq!(server.requests().len(), 1, "{asked}");
    }
    assert!(plain.requests().is_empty());
    let answers: [(&str, &[u8], &str); 7] = [
        ("200 OK", b"{}", "REGISTRY_BAD_ANSWER"),
        ("200 OK", b"{\"token\":\"a\\r\\nX: y\"}", "REGISTRY_BAD_ANSWER"),
        ("200 OK", &[b' '; 200_000], "REGISTRY_BAD_ANSWER"),
        ("401 Unauthorized", b"{\"errors\":[{\"message\":\"wrong password\"}]}", "REGISTRY_DENIED"),
        ("403 Forbidden", b"", "REGISTRY_DENIED"),
        ("503 Service Unavailable", b"", "REGISTRY_BUSY"),
        ("200 OK", b"{\"token\":\"not the right one\"}", "REGISTRY_BAD_ANSWER"),
    ];
    for (status, body, code) in answers {
        let service = StandIn::tls(&authority, move |_, stream| reply(stream, status, &[], body));
        let realm = format!("https://localhost:{}/", service.address.port());
        let server = with_tokens(&authority, realm, image(), || "t0k".to_owned());
        let name = format!("localhost:{}/a/b:1", server.address.port());
        assert_code(pull_as(&trusting(&authority), &name, Some(&login())), code);
    }
    // A token that the registry does not take either.
    let service =
        StandIn::tls(&authority, |_, stream| reply(stream, "200 OK", &[], b"{\"token\":\"other\"}"));
    let realm = format!("https://localhost:{}/", service.address.port());
    let server = with_tokens(&authority, realm, image(), || "t0k".to_owned());
    let name = format!("localhost:{}/a/b:1", server.address.port());
    assert_code(pull(&trusting(&authority), &name), "REGISTRY_DENIED");
    assert_eq!((server.requests().len(), service.requests().len()), (2, 1));
}

#[test]
fn a_registry_in_plain_http_by_configuration_may_use_a_service_in_plain_http() {
    let service = StandIn::plain(|_, stream| reply(stream, "200 OK", &[], b"{\"token\":\"t0k\"}"));
    let realm = format!("http://{}/", service.host());
    let content = image();
    let server = StandIn::plain(move |request: &Request, stream: &mut dyn Stream| {
        match request.header("authorization") {
            Some("Bearer t0k") => content.answer(request, stream),
            _ => challenge(stream, &format!("Bearer realm=\"{realm}\"")),
        }
    });
    assert_eq!(pull(&options(Some(&server)), &format!("{}/a/b:1", server.host())).unwrap().len(), 2);
}
