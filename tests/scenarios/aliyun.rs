//! Sealed secrets of Alibaba Cloud KMS: a stand-in that recomputes every signature, with code that shares nothing with ours, plays
//! a region, an instance behind TLS, and the metadata service.

use std::io::Write;
use std::process::{Output, Stdio};

use cc_tests::process::{Process, command, own_binary};
use cc_tests::stack::{Options, Part, Stack};
use serde_json::{Value, json};

use crate::sealed::{SIGNER, independent, unseal};
use crate::stack;

const ACCESS_KEY: &str = "default/kms/aliyun";
const CLIENT_KEY: &str = "default/kms/client-key";
const PASSWORD: &str = "default/kms/client-key-password";
const AUTHORITY: &str = "default/kms/instance-ca";
const TEXT: &str = "what the envelope holds";

/// The stand-in, and a stack whose hub asks it.
struct World {
    announced: Value,
    folder: tempfile::TempDir,
    stack: Stack,
    _process: Process,
}

impl World {
    fn start() -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("aliyun-").tempdir().unwrap();
        let mut server = command("/usr/bin/python3");
        server.args(["-W", "ignore", concat!(env!("CARGO_MANIFEST_DIR"), "/independent/aliyun_kms.py")]);
        let (process, announced) = Process::start_announced("aliyun", server, folder.path()).unwrap();
        let text = |name: &str| announced[name].as_str().unwrap().to_owned();
        let credentials = [
            ("credential", ACCESS_KEY, announced["access_key"].to_string()),
            ("client_key", CLIENT_KEY, text("client_key")),
            ("client_key_password", PASSWORD, text("password") + "\n"),
            ("instance_certificate", AUTHORITY, text("authority")),
        ];
        let servers = format!(
            "endpoint = {0:?}, metadata_endpoint = {0:?}, instance_endpoint = {1:?}, regions = [\"cn-hangzhou\"]",
            text("region_url"),
            text("instance_url"),
        );
        let table = |place: &dyn Fn(&str, &str) -> String| {
            let places: String = credentials
                .iter()
                .map(|(key, name, _)| format!("{key} = {:?}, ", place(key, name)))
                .collect();
            format!("{{ {places}{servers} }}")
        };
        let file = |key: &str, _: &str| folder.path().join(key).display().to_string();
        std::fs::write(folder.path().join("kms.toml"), format!("aliyun = {}\n", table(&file))).unwrap();
        std::fs::write(folder.path().join("hub.toml"), format!("[kms]\naliyun = {{ {servers} }}\n")).unwrap();
        std::fs::write(folder.path().join("sts"), text("sts") + "\n").unwrap();
        std::fs::write(folder.path().join("ecsRamRole.json"), announced["role"].to_string()).unwrap();
        let hub_config = format!("kms = {{ aliyun = {} }}", table(&|_, name| format!("kbs:///{name}")));
        let hub_environment =
            vec![("ALIYUN_IN_GUEST_KEY_PATH".to_owned(), folder.path().display().to_string())];
        let stack = stack(Options { hub_config, hub_environment, ..Options::default() })?;
        stack.put_resource(SIGNER, independent(&["jwk"]).as_bytes()).unwrap();
        for (key, name, content) in &credentials {
            stack.put_resource(name, content.as_bytes()).unwrap();
            std::fs::write(folder.path().join(key), content).unwrap();
        }
        Some(Self { announced, folder, stack, _process: process })
    }

    fn text(&self, name: &str) -> &str {
        self.announced[name].as_str().unwrap()
    }

    async fn open(&self, key: &str, wrapped: &str, settings: &Value, annotations: &Value) -> Opened {
        let (kid, data_key) = (format!("kbs:///{SIGNER}"), self.text("data_key"));
        let (settings, annotations) = (settings.to_string(), annotations.to_string());
        let text =
            independent(&["envelope", &kid, "Aliyun", key, wrapped, data_key, &settings, &annotations, TEXT]);
        Opened(unseal(&self.stack.hub_socket(), &text).await)
    }

    async fn read(&self, name: &str, settings: &Value, annotations: &Value) -> Opened {
        let kid = format!("kbs:///{SIGNER}");
        let (settings, annotations) = (settings.to_string(), annotations.to_string());
        let text = independent(&["vault-of", &kid, "aliyun", name, &settings, &annotations]);
        Opened(unseal(&self.stack.hub_socket(), &text).await)
    }

    /// Wraps the data key with the library that the sealing tools use: the wrapped key in base64, and the annotations.
    fn wrap(&self, settings: &Value, annotations: &Value) -> (String, Value) {
        let mut command = own_binary("kms-wrap").unwrap();
        command
            .arg(self.folder.path().join("kms.toml"))
            .args(["aliyun", "alias/kek", &settings.to_string(), &annotations.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(&hex::decode(self.text("data_key")).unwrap()).unwrap();
        let wrapped: Value = serde_json::from_slice(&checked(child.wait_with_output().unwrap())).unwrap();
        (wrapped["ciphertext"].as_str().unwrap().to_owned(), wrapped["annotations"].clone())
    }

    /// Seals with the tool of the existing stack by its command line.
    fn seal_with_secret(&self) -> String {
        let at = |name: &str| self.folder.path().join(name);
        std::fs::write(at("signer.json"), independent(&["private-jwk"])).unwrap();
        std::fs::write(at("plain"), TEXT).unwrap();
        std::os::unix::fs::symlink(own_binary("guestctl").unwrap().get_program(), at("secret")).unwrap();
        let mut tool = command(at("secret"));
        tool.args(["seal", "--signing-kid", &format!("kbs:///{SIGNER}"), "--signing-jwk-path"])
            .arg(at("signer.json"))
            .args(["envelope", "--key-id", self.text("key_id"), "--file-path"])
            .arg(at("plain"))
            .args(["ali", "--kms-instance-id", "kst-1", "--password-file-path"])
            .arg(at("client_key_password"))
            .arg("--cert-path")
            .arg(at("instance_certificate"))
            .arg("--client-key-file-path")
            .arg(at("client_key"))
            .arg("--config")
            .arg(at("hub.toml"));
        String::from_utf8(checked(tool.output().unwrap())).unwrap().lines().last().unwrap().to_owned()
    }
}

fn checked(out: Output) -> Vec<u8> {
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

/// What came of a sealed secret.
struct Opened(Result<Vec<u8>, String>);

impl Opened {
    #[track_caller]
    fn gives(&self, expected: &str) {
        assert_eq!(self.0.as_deref().map(String::from_utf8_lossy), Ok(expected.into()));
    }

    #[track_caller]
    fn fails(&self, code: &str) {
        let message = self.0.as_ref().unwrap_err();
        assert!(message.ends_with(&format!("[{code}]")), "{code}: {message}");
    }
}

#[test]
fn secrets_of_alibaba_cloud_unseal() {
    let Some(mut world) = World::start() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        of_a_region(&world).await;
        of_an_instance(&world).await;
    });
    let log = world.stack.part(Part::Hub).unwrap().log();
    for secret in ["secret/of+guest", "secret-of-", "token-of-", "token+/of", "a pass:w", "second p"] {
        assert!(!log.contains(secret), "{secret} in a log");
    }
}

async fn of_a_region(world: &World) {
    let region = |kind: &str| json!({"client_type": kind, "region_id": "cn-hangzhou", "token_path": "sts"});
    let context = json!({"encryption_context": {"team": "a"}});
    let (key, wrapped, none) = (world.text("key_id"), world.text("region_wrapped"), json!({}));
    for kind in ["access_key", "sts_token", "ecs_ram_role"] {
        let settings = region(kind);
        world.open(key, wrapped, &settings, &context).await.gives(TEXT);
        world.read("app/db", &settings, &none).await.gives("second päss");
    }
    let settings = region("access_key");
    let (ours, annotations) = world.wrap(&settings, &context);
    world.open("alias/kek", &ours, &settings, &annotations).await.gives(TEXT);
    let other = json!({"encryption_context": {"team": "b"}});
    world.open(key, &ours, &settings, &other).await.fails("KMS_CANNOT_DECRYPT");
    world.open("key-another", &ours, &settings, &context).await.fails("KMS_OTHER_SUBJECT");
    world.read("app/db", &settings, &json!({"version_stage": "ACSPrevious"})).await.gives("first päss");
    world.read("app/db", &settings, &json!({"version_id": "v1"})).await.gives("first päss");
    world.read("app/absent", &settings, &none).await.fails("KMS_NOT_FOUND");
    let elsewhere = json!({"client_type": "access_key", "region_id": "cn-beijing"});
    world.read("app/db", &elsewhere, &none).await.fails("KMS_DOCUMENT_REFUSED");

    let mut wrong = world.announced["access_key"].clone();
    wrong["access_key_secret"] = json!("wrong");
    for (credential, code) in [
        (world.announced["nobody"].to_string(), "KMS_DENIED"),
        (wrong.to_string(), "KMS_DENIED"),
        ("no JSON".to_owned(), "KMS_CREDENTIAL_MALFORMED"),
    ] {
        world.stack.put_resource(ACCESS_KEY, credential.as_bytes()).unwrap();
        world.open(key, wrapped, &settings, &context).await.fails(code);
    }
    std::fs::write(world.folder.path().join("sts"), "STS.temporary:secret-of-sts:another").unwrap();
    world.read("app/db", &region("sts_token"), &none).await.fails("KMS_DENIED");
}

async fn of_an_instance(world: &World) {
    let settings = json!({"client_type": "client_key", "kms_instance_id": "kst-1",
        "client_key_id": world.text("client_key_id")});
    let iv = json!({"iv": world.text("instance_iv")});
    let (key, wrapped, none) = (world.text("key_id"), world.text("instance_wrapped"), json!({}));
    world.open(key, wrapped, &settings, &iv).await.gives(TEXT);
    world.read("app/db", &settings, &none).await.gives("second päss");
    world.read("app/db", &settings, &json!({"version_stage": "ACSPrevious"})).await.gives("first päss");
    world.read("app/absent", &settings, &none).await.fails("KMS_NOT_FOUND");
    let (ours, annotations) = world.wrap(&settings, &none);
    world.open(key, &ours, &settings, &annotations).await.gives(TEXT);
    world.open(key, &ours, &settings, &iv).await.fails("KMS_CANNOT_DECRYPT");
    world.open("key-absent", &ours, &settings, &annotations).await.fails("KMS_NOT_FOUND");
    world.open(key, &ours, &settings, &none).await.fails("KMS_DOCUMENT_REFUSED");
    let sealed = world.seal_with_secret();
    Opened(unseal(&world.stack.hub_socket(), &sealed).await).gives(TEXT);

    // Another authority than the one that signed the instance's certificate.
    let other = std::fs::read(world.stack.kbs_certificate()).unwrap();
    world.stack.put_resource(AUTHORITY, &other).unwrap();
    world.read("app/db", &settings, &none).await.fails("KMS_TLS_UNTRUSTED");
    world.stack.put_resource(AUTHORITY, world.text("authority").as_bytes()).unwrap();
    world.stack.put_resource(PASSWORD, b"another").unwrap();
    world.read("app/db", &settings, &none).await.fails("KMS_CREDENTIAL_MALFORMED");
}
