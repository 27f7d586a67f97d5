//! Signatures where registries keep them: referrers by page, lookaside folders, and the registry's own.

use image_registry::Login;
use image_rs::{Error, policy::Signatures};
use serde_json::{Value, json};

use crate::{
    assert_code, attempts, options,
    stand_in::{INDEX, Request, StandIn, Stream, reply, sha256},
};

fn ask<T>(
    server: &StandIn,
    login: Option<&Login>,
    ask: impl Fn(&mut dyn Signatures) -> Result<T, Error>,
) -> Result<T, Error> {
    let attempts = attempts(&options(Some(server)), &format!("{}/a/b:1", server.host()), login);
    let repository = attempts.iter().next().unwrap();
    let fetch = |location: &str| match location {
        "file:///there" => Ok(b"a file".to_vec()),
        _ => Err(Error::NotFound { what: location.to_owned() }),
    };
    ask(&mut repository.signatures(fetch))
}

fn page(names: &[usize]) -> Vec<u8> {
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": names}).to_string().into_bytes()
}

#[test]
fn referrers_come_page_by_page() {
    let subject = sha256(b"image");
    let server = StandIn::plain(|request, stream| match request.target.split_once('?') {
        None => reply(stream, "200 OK", &[("Link", "<?n=2>; rel=\"next\"")], &page(&[1, 2])),
        Some((_, "n=2")) => {
            reply(stream, "200 OK", &[("Link", "</v2/a/b/referrers/x?n=3>; rel=next")], &page(&[]))
        }
        Some(_) => reply(stream, "200 OK", &[], &page(&[3])),
    });
    let list = ask(&server, None, |signatures| signatures.referrers(&subject)).unwrap();
    let list: Value = serde_json::from_slice(&list).unwrap();
    assert_eq!(list["manifests"], json!([1, 2, 3]));
    assert_eq!(server.requests()[0].target, format!("/v2/a/b/referrers/{subject}"));
}

#[test]
fn lists_of_referrers_that_cannot_be_are_refused() {
    let subject = sha256(b"image");
    for (status, headers, body, code) in [
        ("404 Not Found", &[][..], page(&[]), "IMAGE_NOT_FOUND"),
        ("405 Method Not Allowed", &[], page(&[]), "IMAGE_NOT_FOUND"),
        ("403 Forbidden", &[], page(&[]), "REGISTRY_DENIED"),
        ("500 Oops", &[], page(&[]), "REGISTRY_BUSY"),
        ("200 OK", &[("Link", "<?n=2>; rel=next")], page(&[1]), "REGISTRY_BAD_ANSWER"),
        ("200 OK", &[("Link", "<https://elsewhere.example/>; rel=next")], page(&[1]), "REGISTRY_BAD_ANSWER"),
        ("200 OK", &[("Link", "nonsense")], page(&[1]), "REGISTRY_BAD_ANSWER"),
        ("200 OK", &[("Link", "<?n=2>; rel=next")], vec![b' '; 3 << 20], "REGISTRY_BAD_ANSWER"),
    ] {
        let server = StandIn::plain(move |_, stream| reply(stream, status, headers, &body));
        assert_code(ask(&server, None, |signatures| signatures.referrers(&subject)), code);
        assert!(server.requests().len() <= 32, "{status}");
    }
}

#[test]
fn lookaside_folders_are_on_the_web_or_here() {
    let server = StandIn::plain(|request, stream| match request.target.as_str() {
        "/sigs/signature-1" => reply(stream, "200 OK", &[], b"one"),
        "/sigs/long" => reply(stream, "200 OK", &[], &vec![0; (1 << 20) + 1]),
        "/sigs/broken" => reply(stream, "403 Forbidden", &[], b""),
        _ => reply(stream, "404 Not Found", &[], b""),
    });
    let get = |name: &str| {
        let url = format!("http://{}/sigs/{name}", server.host());
        ask(&server, None, |signatures| signatures.lookaside(&url))
    };
    assert_eq!(get("signature-1").unwrap(), b"one");
    assert_code(get("signature-2"), "IMAGE_NOT_FOUND");
    assert_code(get("long"), "REGISTRY_BAD_ANSWER");
    assert_code(get("broken"), "REGISTRY_DENIED");
    assert_eq!(ask(&server, None, |signatures| signatures.lookaside("file:///there")).unwrap(), b"a file");
    assert_code(ask(&server, None, |signatures| signatures.lookaside("file:///no")), "IMAGE_NOT_FOUND");
}

#[test]
fn a_registry_may_keep_signatures_itself() {
    let image = sha256(b"image");
    let kept = |request: &Request, stream: &mut dyn Stream, wanted: Option<&str>| {
        if request.target == "/v2/" {
            return reply(stream, "200 OK", &[("X-Registry-Supports-Signatures", "1")], b"{}");
        }
        if request.target.starts_with("/oauth/token?") {
            assert_eq!(
                request.target,
                "/oauth/token?account=user&scope=repository%3Aa%2Fb%3Apull&service=registry"
            );
            assert_eq!(request.header("authorization"), Some("Basic dXNlcjpodW50ZXIy"));
            return reply(stream, "200 OK", &[], b"{\"token\":\"t0k\"}");
        }
        assert_eq!(request.target, format!("/extensions/v2/a/b/signatures/{}", sha256(b"image")));
        if request.header("authorization") != wanted {
            return reply(stream, "403 Forbidden", &[], b"");
        }
        let entry = json!({"schemaVersion": 2, "name": "x", "type": "atomic", "content": "b25l"});
        reply(stream, "200 OK", &[], json!({"signatures": [entry]}).to_string().as_bytes())
    };
    let open = StandIn::plain(move |request, stream| kept(request, stream, None));
    assert_eq!(ask(&open, None, |signatures| signatures.kept_by_registry(&image)).unwrap(), [b"one"]);
    let closed = StandIn::plain(move |request, stream| kept(request, stream, Some("Bearer t0k")));
    let login = Login::parse(b"user:hunter2").unwrap();
    assert_eq!(
        ask(&closed, Some(&login), |signatures| signatures.kept_by_registry(&image)).unwrap(),
        [b"one"]
    );
    assert_code(ask(&closed, None, |signatures| signatures.kept_by_registry(&image)), "REGISTRY_DENIED");
    for status in
        ["401 Unauthorized", "403 Forbidden", "404 Not Found", "405 Method Not Allowed", "418 Teapot"]
    {
        let silent = StandIn::plain(move |_, stream| reply(stream, status, &[], b""));
        let kept = ask(&silent, None, |signatures| signatures.kept_by_registry(&image));
        assert!(kept.unwrap().is_empty(), "{status}");
    }
    let broken = StandIn::plain(move |_, stream| reply(stream, "500 Oops", &[], b""));
    assert_code(ask(&broken, None, |signatures| signatures.kept_by_registry(&image)), "REGISTRY_BUSY");
    let other = StandIn::plain(|_, stream| reply(stream, "200 OK", &[], b"{}"));
    assert!(ask(&other, None, |signatures| signatures.kept_by_registry(&image)).unwrap().is_empty());
    assert_eq!(other.requests().len(), 1);
}
