//! Sealed secrets and wrapped image keys, made by a program that shares no line with ours.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use cc_protos::{api, keyprovider};
use cc_tests::process::{command, own_binary};
use cc_tests::stack::{Options, Stack, address};

use crate::rpc::{ttrpc, ttrpc_client};
use crate::{RESOURCE, SECRET, stack};

/// Where the public signing key is kept.
pub(crate) const SIGNER: &str = "default/sealed-signing/team-a";
const SERVICE: &str = "api.SealedSecretService";

/// What the independent program prints.
pub(crate) fn independent(arguments: &[&str]) -> String {
    let out = command("/usr/bin/python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/independent/check_sealed.py"))
        .args(arguments)
        .output()
        .unwrap();
    assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

pub(crate) async fn unseal(socket: &Path, text: &str) -> Result<Vec<u8>, String> {
    let hub = ttrpc_client(socket).await;
    let request = api::UnsealSecretInput { secret: text.as_bytes().to_vec() };
    let answer = ttrpc::<_, api::UnsealSecretOutput>(&hub, SERVICE, "UnsealSecret", request).await;
    answer.map(|output| output.plaintext).map_err(|(_, message)| message)
}

pub(crate) async fn unwrap(socket: &Path, request: &str) -> Result<serde_json::Value, String> {
    let hub = ttrpc_client(socket).await;
    let request = keyprovider::KeyProviderKeyWrapProtocolInput {
        key_provider_key_wrap_protocol_input: request.as_bytes().to_vec(),
    };
    let answer = ttrpc::<_, keyprovider::KeyProviderKeyWrapProtocolOutput>(
        &hub,
        "keyprovider.KeyProviderService",
        "UnWrapKey",
        request,
    )
    .await;
    answer
        .map(|a| serde_json::from_slice(&a.key_provider_key_wrap_protocol_output).unwrap())
        .map_err(|(_, message)| message)
}

fn run(options: Options, story: impl AsyncFnOnce(&Stack)) {
    let Some(stack) = stack(options) else { return };
    stack.put_resource(SIGNER, independent(&["jwk"]).as_bytes()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(story(&stack));
}

#[test]
fn a_sealed_secret_made_by_independent_code_unseals() {
    run(Options::default(), async |stack| {
        let hub = stack.hub_socket();
        let sealed = independent(&["vault", &format!("kbs:///{SIGNER}"), &format!("kbs:///{RESOURCE}")]);
        assert_eq!(unseal(&hub, &sealed).await.unwrap(), SECRET);
        assert_eq!(unseal(&hub, &format!("{sealed}\n")).await.unwrap(), SECRET, "as a mounted file has it");
        assert_eq!(stack.quotes().unwrap(), 1, "signing key and secret came over one session");
    });
}

#[test]
fn sealed_secrets_that_are_not_what_they_say_open_nothing() {
    run(Options::default(), async |stack| {
        let hub = stack.hub_socket();
        stack.put_resource("default/other/json", br#"{"kty": "c4n4ry"}"#).unwrap();
        let good = independent(&["vault", &format!("kbs:///{SIGNER}"), &format!("kbs:///{RESOURCE}")]);
        let parts: Vec<&str> = good.split('.').collect();
        let elsewhere = independent(&["vault", &format!("kbs:///{SIGNER}"), "kbs:///default/key/2"]);
        let other_payload = elsewhere.split('.').nth(2).unwrap();
        // {"alg":"none","kid":"x"}
        let none = format!("sealed.eyJhbGciOiJub25lIiwia2lkIjoieCJ9.{}.", parts[2]);
        for (what, text, code) in [
            (
                "another payload",
                format!("sealed.{}.{other_payload}.{}", parts[1], parts[3]),
                "SEALED_SIGNATURE",
            ),
            ("alg none", none, "SEALED_UNSUPPORTED"),
            ("a trailing dot", format!("{good}."), "SEALED_MALFORMED"),
            ("two signatures", format!("{good}.{}", parts[3]), "SEALED_MALFORMED"),
            ("no text at all", String::new(), "SEALED_MALFORMED"),
            (
                "a key that is not there",
                independent(&["vault", "kbs:///default/x/y", "kbs:///a/b/c"]),
                "KBS_NOT_FOUND",
            ),
            (
                "a key file that is not there",
                independent(&["vault", "nobody", "kbs:///a/b/c"]),
                "SIGNING_KEY_UNUSABLE",
            ),
            (
                "a key file outside",
                independent(&["vault", "../../aa.key", "kbs:///a/b/c"]),
                "SIGNING_KEY_UNUSABLE",
            ),
            (
                "a key that is none",
                independent(&["vault", &format!("kbs:///{RESOURCE}"), "kbs:///a/b/c"]),
                "SIGNING_KEY_UNUSABLE",
            ),
            (
                "another secret as key",
                independent(&["vault", "kbs:///default/other/json", "kbs:///a/b/c"]),
                "SIGNING_KEY_UNUSABLE",
            ),
            ("two megabytes", "a".repeat(2_000_000), "SEALED_TOO_LARGE"),
        ] {
            let message = unseal(&hub, &text).await.unwrap_err();
            assert!(
                message.starts_with("[CDH] [ERROR]: ") && message.ends_with(&format!("[{code}]")),
                "{what}: {message}"
            );
            assert!(!message.contains("c4n4ry"), "{what}: {message}");
        }
        assert_eq!(unseal(&hub, &good).await.unwrap(), SECRET, "the hub still serves");
    });
}

#[test]
fn only_keys_that_the_configuration_lists_may_sign() {
    let hub_config = "sealed_secrets = { signing_keys = [\"kbs:///default/sealed-signing/**\"] }".to_owned();
    run(Options { hub_config, ..Options::default() }, async |stack| {
        let hub = stack.hub_socket();
        let secret = format!("kbs:///{RESOURCE}");
        let listed = independent(&["vault", &format!("kbs:///{SIGNER}"), &secret]);
        assert_eq!(unseal(&hub, &listed).await.unwrap(), SECRET);
        // The same key, stored by another tenant under a name of his own.
        stack.put_resource("tenant-b/keys/mine", independent(&["jwk"]).as_bytes()).unwrap();
        let foreign = independent(&["vault", "kbs:///tenant-b/keys/mine", &secret]);
        let message = unseal(&hub, &foreign).await.unwrap_err();
        assert!(
            message.contains("kbs:///tenant-b/keys/mine") && message.ends_with("[SIGNING_KEY_REFUSED]"),
            "{message}"
        );
        // Nor does a detour through the listed place help.
        let detour = "kbs:///default/sealed-signing/../../tenant-b/keys/mine";
        let message = unseal(&hub, &independent(&["vault", detour, &secret])).await.unwrap_err();
        assert!(message.ends_with("[SIGNING_KEY_REFUSED]"), "{message}");
    });
}

#[test]
fn without_a_list_a_secret_makes_nobody_fetch_what_its_caller_may_not_have() {
    let rule = "{ unit = [\"db.service\"], resources = [\"kbs:///db/**\"] }";
    for (strict, readable) in [(false, true), (true, false)] {
        let hub_config = format!("access = {{ strict = {strict}, rules = [{rule}] }}");
        run(Options { hub_config, ..Options::default() }, async |stack| {
            let hub = stack.hub_socket();
            stack.put_resource("db/keys/1", independent(&["jwk"]).as_bytes()).unwrap();
            let secret = format!("kbs:///{RESOURCE}");
            let message =
                unseal(&hub, &independent(&["vault", "kbs:///db/keys/1", &secret])).await.unwrap_err();
            assert!(message.ends_with("[ACCESS_DENIED]"), "strict {strict}: {message}");
            assert_eq!(stack.quotes().unwrap(), 0, "nothing was fetched");
            let open = unseal(&hub, &independent(&["vault", &format!("kbs:///{SIGNER}"), &secret])).await;
            assert_eq!(open.is_ok(), readable, "strict {strict}: {open:?}");
        });
    }
}

#[test]
fn an_image_key_wrapped_by_independent_code_unwraps() {
    run(Options::default(), async |stack| {
        let hub = stack.hub_socket();
        let key = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
        stack.put_resource("default/image-kek/1", &hex::decode(key).unwrap()).unwrap();
        let options = r#"{"symkey":"a2V5"}"#;
        for kid in ["kbs:///default/image-kek/1", "/default/image-kek/1"] {
            let answer = unwrap(&hub, &independent(&["packet", key, kid, options])).await.unwrap();
            assert_eq!(
                answer["keyunwrapresults"]["optsdata"],
                serde_json::json!(options.as_bytes()),
                "{kid}"
            );
        }
        let other = key.replace("00", "01");
        let wrong = independent(&["packet", &other, "kbs:///default/image-kek/1", options]);
        assert!(unwrap(&hub, &wrong).await.unwrap_err().ends_with("[SEALED_KEY]"));
        assert!(unwrap(&hub, "{}").await.unwrap_err().ends_with("[SEALED_MALFORMED]"));
    });
}

/// The operator's tools, under either name.
fn tool(name: &str, stack: &Stack, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = own_binary("guestctl").unwrap();
    command.arg0(name).args(arguments).current_dir(stack.folder());
    let out = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.code(), text(&out.stdout), text(&out.stderr))
}

#[test]
fn what_the_tools_seal_opens_in_the_guest_and_by_independent_code() {
    run(Options::default(), async |stack| {
        let guestctl = |arguments: &[&str]| {
            let (status, out, error) = tool("guestctl", stack, arguments);
            assert_eq!(status, Some(0), "{arguments:?}: {error}");
            out
        };
        let kid = "kbs:///default/sealed-signing/team-b";
        guestctl(&["seal", "keygen", "--kid", kid]);
        assert_eq!(
            independent(&["check-jwk", stack.folder().join("team-b-private.json").to_str().unwrap()]),
            kid
        );
        let public = stack.folder().join("team-b-public.json");
        stack.put_resource("default/sealed-signing/team-b", &std::fs::read(&public).unwrap()).unwrap();
        guestctl(&["seal", "vault", "--uri", RESOURCE, "--key", "team-b-private.json", "--output", "sealed"]);
        let file = stack.folder().join("sealed");
        let payload = independent(&["verify", file.to_str().unwrap(), public.to_str().unwrap()]);
        assert!(payload.contains(&format!("kbs:///{RESOURCE}")), "{payload}");
        let hub = address(&stack.hub_socket());
        assert_eq!(guestctl(&["unseal", "sealed", "--cdh", &hub]).as_bytes(), SECRET);

        // By a process that attests itself, as the existing tool of that name does.
        let (root, certificate) = (stack.folder().join("root"), stack.kbs_certificate());
        let broker = format!("cc_kbc::{}", stack.kbs_url());
        let unseal = |file: &str| {
            let arguments = ["unseal", "--file-path", file, "--aa-kbc-params", &broker, "--cert-file"];
            let more = [certificate.to_str().unwrap(), "--sys-root", root.to_str().unwrap()];
            tool("secret", stack, &[&arguments[..], &more].concat())
        };
        let theirs = independent(&["vault", &format!("kbs:///{SIGNER}"), &format!("kbs:///{RESOURCE}")]);
        std::fs::write(stack.folder().join("theirs"), format!("\n {theirs}\n")).unwrap();
        for file in ["sealed", "theirs"] {
            let (status, out, error) = unseal(file);
            assert_eq!(status, Some(0), "{file}: {error}");
            assert!(
                !out.contains(std::str::from_utf8(SECRET).unwrap()),
                "the secret is in its file alone: {out}"
            );
            let unsealed = stack.folder().join(format!("{file}.unsealed"));
            assert_eq!(std::fs::read(&unsealed).unwrap(), SECRET);
            assert_eq!(std::fs::metadata(&unsealed).unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(unseal(file).0, Some(1), "what is there is not replaced");
        }
        assert_eq!(stack.quotes().unwrap(), 3, "the hub's attestation, and one for each process of its own");

        let key = stack.folder().join("signer.json");
        std::fs::write(&key, independent(&["jwk"])).unwrap();
        let verify = ["seal", "verify", "theirs", "--key"];
        assert!(guestctl(&[&verify[..], &["signer.json"]].concat()).contains(RESOURCE));
        let (status, _, error) = tool("guestctl", stack, &[&verify[..], &["team-b-public.json"]].concat());
        assert_eq!(status, Some(3), "{error}");

        // A secret that was altered opens nowhere.
        std::fs::write(stack.folder().join("altered"), theirs.replacen("sealed.e", "sealed.f", 1)).unwrap();
        let (status, _, error) = unseal("altered");
        assert!(status != Some(0) && error.contains("[SEALED_"), "{error}");
        assert!(!stack.folder().join("altered.unsealed").exists());
    });
}

#[test]
fn image_tools_of_the_guest_are_told_where_the_hub_is() {
    let Some(stack) = stack(Options { log: Some("debug".to_owned()), ..Options::default() }) else { return };
    let path = "/run/confidential-containers/cdh/ocicrypt_config.json";
    let told = std::fs::read_to_string(stack.folder().join("confidential-data-hub.log")).unwrap();
    assert!(told.contains("wrote the configuration for image tools") && told.contains(path), "{told}");
    // Other tests' hubs write it too, each the whole file.
    let config: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let address = config["key-providers"]["attestation-agent"]["ttrpc"].as_str().unwrap();
    assert!(address.starts_with("unix:///") && address.ends_with("/cdh.sock"), "{address}");
}
