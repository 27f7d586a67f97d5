//! URLs with credentials in them, which are refused and never repeated.

use cc_tests::process::own_binary;

use super::run;

/// What must show nowhere.
const PASSWORD: &str = "hunter2-4c1f";

#[test]
fn credentials_in_a_key_brokers_url() {
    let folder = tempfile::tempdir().unwrap();
    for url in [
        format!("https://admin:{PASSWORD}@kbs.example:8080"),
        format!("https://{PASSWORD}@kbs.example"),
        format!("http://admin:{PASSWORD}@kbs.example"),
        format!("https://admin:{PASSWORD}@kbs.example:99999"),
        format!("https://admin:{PASSWORD}@[kbs"),
        format!("https//admin:{PASSWORD}@kbs"),
        format!("https://kbs.example/?key={PASSWORD}"),
        format!("ftp://admin:{PASSWORD}@kbs.example"),
    ] {
        let cdh = folder.path().join("cdh.toml");
        let socket = folder.path().join("cdh.sock");
        let text =
            format!("socket = \"unix://{}\"\n[kbc]\nname = \"cc_kbc\"\nurl = {url:?}\n", socket.display());
        std::fs::write(&cdh, text).unwrap();
        let mut hub = own_binary("confidential-data-hub").unwrap();
        hub.arg("-c").arg(&cdh);
        let aa = folder.path().join("aa.toml");
        std::fs::write(&aa, format!("[platform]\nsample = true\n[token_configs.kbs]\nurl = {url:?}\n"))
            .unwrap();
        let mut agent = own_binary("attestation-agent").unwrap();
        agent.arg("-c").arg(&aa).arg("-a").arg(format!("unix://{}", folder.path().join("aa.sock").display()));
        let mut by_environment = own_binary("confidential-data-hub").unwrap();
        by_environment.env("AA_KBC_PARAMS", format!("cc_kbc::{url}")).arg("-c").arg(&cdh);
        for command in [hub, agent, by_environment] {
            let (code, told) = run(command);
            assert!(matches!(code, Some(1 | 64 | 69)), "{url}: {code:?} {told}");
            assert!(!told.contains(PASSWORD), "{told}");
            assert!(told.contains("URL") || told.contains("url"), "{told}");
        }
    }
    // A malformed value that is quoted elsewhere: the parameter's own text.
    let mut command = own_binary("confidential-data-hub").unwrap();
    command.env("AA_KBC_PARAMS", format!("cc_kbc::https://admin:{PASSWORD}@kbs::x"));
    let (code, told) = run(command);
    assert_eq!(code, Some(64), "{told}");
    assert!(!told.contains(PASSWORD), "{told}");
}
