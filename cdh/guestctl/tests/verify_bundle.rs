//! `guestctl verify-bundle` as the Sigstore conformance suite calls it: arguments in its order, judged by the exit status.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::{fs, path::Path};

use guestctl::{Console, Exit};

const IDENTITY: &str = "https://github.com/sigstore-conformance/extremely-dangerous-public-oidc-beacon/.github/workflows/extremely-dangerous-oidc-beacon.yml@refs/heads/main";
const ISSUER: &str = "https://token.actions.githubusercontent.com";

async fn verify(arguments: &[String]) -> (Exit, String, String) {
    let arguments =
        ["guestctl", "verify-bundle"].into_iter().map(str::to_owned).chain(arguments.iter().cloned());
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let exit = guestctl::run(arguments, &mut Console::new(&mut out, &mut err)).await;
    (exit, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

fn arguments(folder: &Path, artifact: &str) -> Vec<String> {
    let file = |name: &str| folder.join(name).display().to_string();
    let text = |name: &str, default: &str| {
        fs::read_to_string(folder.join(name))
            .map_or_else(|_| default.to_owned(), |text| text.trim().to_owned())
    };
    let mut all = vec!["--bundle".to_owned(), file("bundle.sigstore.json")];
    if folder.join("key.pub").exists() {
        all.extend(["--key".to_owned(), file("key.pub")]);
    } else {
        all.extend(["--certificate-identity".to_owned(), text("identity", IDENTITY)]);
        all.extend(["--certificate-oidc-issuer".to_owned(), text("issuer", ISSUER)]);
    }
    if folder.join("trusted_root.json").exists() {
        all.extend(["--trusted-root".to_owned(), file("trusted_root.json")]);
    }
    all.push(artifact.to_owned());
    all
}

#[tokio::test]
async fn the_exit_status_is_what_the_name_of_the_case_says() {
    let Some(vectors) = cc_vectors::folder("sigstore") else { return };
    let mut cases = 0;
    for entry in fs::read_dir(&vectors).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.is_dir() {
            continue;
        }
        cases += 1;
        let own = folder.join("artifact");
        let artifact = if own.exists() { own } else { vectors.join("a.txt") };
        let digest =
            image_rs::Digest::of(image_rs::Algorithm::Sha256, &fs::read(&artifact).unwrap()).to_string();
        let must_fail = folder.to_str().unwrap().ends_with("_fail");
        for artifact in [artifact.display().to_string(), digest] {
            let (exit, out, err) = verify(&arguments(&folder, &artifact)).await;
            let expected = if must_fail { Exit::Failed } else { Exit::Success };
            assert_eq!(exit, expected, "{}: {out}{err}", folder.display());
            assert_eq!(out.is_empty(), must_fail, "{out}");
            assert_eq!(err.contains("[BUNDLE_REFUSED]\nhint: "), must_fail, "{err}");
        }
    }
    assert!(cases >= 38, "only {cases} cases");
}

#[tokio::test]
async fn staging_is_another_trust_root_and_json_names_the_signer() {
    let Some(vectors) = cc_vectors::folder("sigstore") else { return };
    let artifact = vectors.join("a.txt").display().to_string();
    let mut arguments = arguments(&vectors.join("happy-path-v0.3"), &artifact);
    let (exit, out, _) = verify(&[arguments.clone(), vec!["--json".to_owned()]].concat()).await;
    assert_eq!(exit, Exit::Success);
    let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(answer["verified"], true);
    assert!(answer["signer"].as_str().unwrap().starts_with(IDENTITY), "{answer}");
    arguments.insert(0, "--staging".to_owned());
    let (exit, _, err) = verify(&arguments).await;
    assert_eq!(exit, Exit::Failed, "{err}");
}
