//! Modules that are none or never answer, and documents that reach no module. Keys of a real token are in the scenarios.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::stand_in::{credentials, directories, members};

fn provider(module: &Path, folder: &Path) -> Pkcs11 {
    let config = Pkcs11Config { module: module.to_owned(), token_label: "guest".to_owned(), pin: None };
    Pkcs11::new(&config, &directories(folder), None).unwrap()
}

fn after(milliseconds: u64) -> Instant {
    Instant::now() + Duration::from_millis(milliseconds)
}

#[tokio::test]
async fn modules_that_are_none_are_named() {
    let folder = credentials(&[("pin", "1234\n"), ("text.so", "no library")]);
    for module in ["/nonexistent/module.so".into(), folder.path().join("text.so")] {
        let kms = provider(&module, folder.path());
        let error = kms.secret("db", &Members::new(), after(10_000)).await.unwrap_err();
        assert_eq!(error.code(), "PKCS11_MODULE");
        assert!(error.to_string().contains(&module.display().to_string()), "{error}");
    }
    let config = Pkcs11Config { module: "module.so".into(), token_label: "guest".to_owned(), pin: None };
    let relative = Pkcs11::new(&config, &directories(folder.path()), None);
    assert_eq!(relative.unwrap_err().code(), "KMS_CONFIG", "the loader would search for it");
}

#[tokio::test]
async fn documents_that_cannot_be_used_reach_no_module() {
    let folder = credentials(&[]);
    let kms = provider("/nonexistent/module.so".as_ref(), folder.path());
    for (key_id, ciphertext, annotations) in [
        ("", &b"x"[..], json!({})),
        ("a\u{1b}b", b"x", json!({})),
        (&"k".repeat(256), b"x", json!({})),
        ("k", b"", json!({})),
        ("k", &[0; 4113], json!({})),
        ("k", b"x", json!({"iv": "AAAA"})),
        ("k", b"x", json!({"iv": 12})),
        ("k", b"x", json!({"oaep_hash": "MD5"})),
    ] {
        let result = kms.decrypt(key_id, ciphertext, &members(annotations), after(10_000)).await;
        assert_eq!(result.unwrap_err().code(), "KMS_DOCUMENT_REFUSED", "{key_id:?}");
    }
    let result = kms.decrypt("k", b"x", &Members::new(), after(10_000)).await;
    assert_eq!(
        result.unwrap_err().code(),
        "KMS_CREDENTIAL_MISSING",
        "the PIN is read before the module is loaded"
    );
}

#[test]
#[allow(clippy::disallowed_methods, reason = "the module that never answers is compiled here")]
fn a_module_that_never_answers_holds_up_one_thread_and_no_caller() {
    let folder = credentials(&[("pin", "1234")]);
    let (source, module) = (folder.path().join("stuck.c"), folder.path().join("stuck.so"));
    std::fs::write(
        &source,
        "#include <unistd.h>\nunsigned long C_GetFunctionList(void *l) { for (;;) pause(); }\n",
    )
    .unwrap();
    let compiled =
        std::process::Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&module).arg(&source).status();
    assert!(compiled.unwrap().success());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let kms = provider(&module, folder.path());
        for _ in 0..3 {
            let result = kms.secret("db", &Members::new(), after(200)).await;
            assert_eq!(result.unwrap_err().code(), "KMS_TIMEOUT");
        }
    });
    // Dropping it would wait for the thread that is stuck, as the hub does not.
    runtime.shutdown_background();
}
