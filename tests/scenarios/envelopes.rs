//! Envelopes that the operator's tools seal: real services wrap the data key, and unwrap it again.

use std::os::unix::process::CommandExt as _;
use std::path::Path;

use cc_tests::kms_peers::{Moto, OpenBao, REGION, run_here};
use cc_tests::process::own_binary;
use serde_json::Value;

use crate::sealed::independent;

const TEXT: &str = "what the envelope holds";

/// Runs the tool by either name in `folder`: status and both outputs.
fn tool(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let (name, arguments) = arguments.split_first().unwrap();
    let out =
        own_binary("guestctl").unwrap().arg0(name).args(arguments).current_dir(folder).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.code(), text(&out.stdout), text(&out.stderr))
}

#[test]
fn envelopes_open_with_the_service_that_wrapped_their_key() {
    if !run_here() {
        return;
    }
    let folder = tempfile::Builder::new().prefix("envelope-").tempdir().unwrap();
    let at = folder.path();
    let (moto, bao) = (Moto::start(at).unwrap(), OpenBao::start(at).unwrap());
    let config = format!(
        "[kms.aws]\nkms_endpoint = {aws:?}\nsecrets_manager_endpoint = {aws:?}\n\
         [kms.vault]\naddress = {vault:?}\ncertificate = {certificate:?}\n",
        aws = moto.url,
        vault = bao.url,
        certificate = bao.certificate().unwrap(),
    );
    for (name, content) in [
        ("kms.toml", config.as_str()),
        ("password", TEXT),
        ("aws/credential.json", &moto.account["role"].to_string()),
        ("vault/token", &bao.token),
        ("nobody/token", "not-a-token"),
    ] {
        std::fs::create_dir_all(at.join(name).parent().unwrap()).unwrap();
        std::fs::write(at.join(name), content).unwrap();
    }
    let run = |arguments: &[&str]| {
        let (status, out, error) = tool(at, arguments);
        assert_eq!(status, Some(0), "{arguments:?}: {error}");
        out
    };
    run(&["guestctl", "seal", "keygen", "--kid", "team-a"]);
    let key = moto.text("key_id");
    let settings = format!("{{\"region\":\"{REGION}\"}}");
    let signer = ["--key", "team-a-private.json"];
    let aws = ["--provider", "aws", "--key-id", key, "--settings", &settings, "--credentials", "aws"];
    let vault = ["--provider", "vault", "--key-id", "kek", "--credentials", "vault"];
    let seal = ["guestctl", "seal", "envelope", "password", "--config", "kms.toml"];
    let existing = ["secret", "seal", "--signing-kid", "team-a", "--signing-jwk-path", "team-a-private.json"];
    let existing_aws = ["envelope", "--key-id", key, "--file-path", "password", "aws", "--region", REGION];
    let existing_files = ["--credential-file-path", "aws/credential.json", "--config", "kms.toml"];
    for (name, command, provider) in [
        ("of-aws", [&seal[..], &aws, &signer].concat(), "aws"),
        ("of-vault", [&seal[..], &vault, &signer].concat(), "vault"),
        ("of-secret", [&existing[..], &existing_aws, &existing_files].concat(), "aws"),
    ] {
        let sealed = run(&command);
        std::fs::write(at.join(name), sealed.lines().last().unwrap()).unwrap();
        let path = |name: &str| at.join(name).display().to_string();
        let payload: Value =
            serde_json::from_str(&independent(&["verify", &path(name), &path("team-a-public.json")]))
                .unwrap();
        assert_eq!((&payload["type"], &payload["provider"]), (&"envelope".into(), &provider.into()));
        assert_eq!(payload["wrap_type"], "A256GCM");
        assert!(!sealed.contains(TEXT));

        let unseal = ["secret", "unseal", "--skip-verification", "--file-path", name];
        run(&[&unseal[..], &["--config", "kms.toml", "--key-path", provider]].concat());
        let unsealed = at.join(format!("{name}.unsealed"));
        assert_eq!(std::fs::read_to_string(&unsealed).unwrap(), TEXT, "{name}");
        std::fs::remove_file(&unsealed).unwrap();
    }
    let refused =
        ["secret", "unseal", "--skip-verification", "--file-path", "of-vault", "--config", "kms.toml"];
    let (status, _, error) = tool(at, &[&refused[..], &["--key-path", "nobody"]].concat());
    assert_eq!(status, Some(3), "{error}");
    assert!(!error.contains("not-a-token") && !at.join("of-vault.unsealed").exists(), "{error}");
}
