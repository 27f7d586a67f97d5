//! Sealed secrets and image keys of key management services, each a real peer: a server of AWS' interfaces that checks
//! signatures and policies, OpenBao behind TLS, and a PKCS#11 token in software. Documents are made by programs that share no line
//! with ours; the hub gets the credentials from the key broker.

use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cc_tests::kms_peers::{Moto, OpenBao, PIN, REGION, SoftHsm, TOKEN_LABEL, run_here};
use cc_tests::process::own_binary;
use cc_tests::stack::{Options, Part, Stack};
use serde_json::{Value, json};

use crate::sealed::{SIGNER, independent, unseal, unwrap};
use crate::stack;

/// Where the hub fetches the credential of each provider.
const AWS_KEY: &str = "default/kms/aws";
const VAULT_TOKEN: &str = "default/kms/vault-token";
const TOKEN_PIN: &str = "default/kms/pin";
/// The data key of all envelopes.
const DATA_KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const TEXT: &str = "what the envelope holds";

/// All services, and a stack whose hub asks them.
struct World {
    moto: Moto,
    bao: OpenBao,
    hsm: SoftHsm,
    stack: Stack,
    /// The folder that `[[credentials]]` fills with Vault's token.
    filled: PathBuf,
    _folder: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.filled);
    }
}

impl World {
    fn start() -> Option<Self> {
        if !run_here() {
            return None;
        }
        let folder = tempfile::Builder::new().prefix("kms-").tempdir().unwrap();
        let moto = Moto::start(folder.path()).unwrap();
        let bao = OpenBao::start(folder.path()).unwrap();
        let hsm = SoftHsm::make(folder.path(), &[7; 32], b"value of the data object").unwrap();
        let filled = PathBuf::from(format!(
            "/run/confidential-containers/cdh/kbs/kms-scenario-{}",
            std::process::id()
        ));
        let kms = |credentials: bool| {
            let credential = |key: &str, place: &str| match credentials {
                true => format!("{key} = \"kbs:///{place}\""),
                false => format!("{key} = {:?}", folder.path().join(place.replace('/', "-"))),
            };
            // The hub finds Vault's token in the file that it fills itself.
            let token = if credentials { String::new() } else { credential("token", VAULT_TOKEN) + ", " };
            format!(
                "aws = {{ kms_endpoint = {aws:?}, secrets_manager_endpoint = {aws:?}, {aws_key} }}\n\
                 vault = {{ address = {vault:?}, {token}certificate = {certificate:?} }}\n\
                 pkcs11 = {{ module = {module:?}, token_label = {TOKEN_LABEL:?}, {pin} }}\n",
                aws = moto.url,
                aws_key = credential("credential", AWS_KEY),
                vault = bao.url,
                certificate = bao.certificate().unwrap(),
                module = SoftHsm::module(),
                pin = credential("pin", TOKEN_PIN),
            )
        };
        std::fs::write(folder.path().join("kms.toml"), kms(false)).unwrap();
        let hub_config = format!(
            "credentials = [{{ path = {:?}, resource_uri = \"kbs:///{VAULT_TOKEN}\" }}]\n\
             access = {{ rules = [{{ uid = [4242], resources = [\"vault:kept-for-another\", \"aws:kept/*\"] }}] }}\n\
             kms = {{ {} }}",
            filled.join("token"),
            kms(true).trim_end().replace('\n', ", "),
        );
        let hub_environment = vec![
            ("SOFTHSM2_CONF".to_owned(), hsm.config().display().to_string()),
            ("VAULT_IN_GUEST_KEY_PATH".to_owned(), filled.display().to_string()),
        ];
        let mut stack = stack(Options { hub_config, hub_environment, ..Options::default() })?;
        stack.put_resource(SIGNER, independent(&["jwk"]).as_bytes()).unwrap();
        let credentials = [
            (AWS_KEY, moto.account["role"].to_string()),
            (VAULT_TOKEN, bao.token.clone()),
            (TOKEN_PIN, PIN.to_owned()),
        ];
        for (place, credential) in credentials {
            stack.put_resource(place, credential.as_bytes()).unwrap();
            std::fs::write(folder.path().join(place.replace('/', "-")), credential).unwrap();
        }
        // A hub that starts before the key broker has the token is told so once and for all.
        stack.stop_part(Part::Hub).unwrap();
        stack.start_part(Part::Hub).unwrap();
        stack.part(Part::Hub).unwrap().wait_for_log("wrote a credential").unwrap();
        Some(Self { moto, bao, hsm, stack, filled, _folder: folder })
    }

    fn folder(&self) -> &std::path::Path {
        self._folder.path()
    }

    /// Wraps the data key with the library that the sealing tools use: the wrapped key in base64, and the annotations.
    fn wrap(&self, provider: &str, key_id: &str, settings: &Value, annotations: &Value) -> (String, Value) {
        let mut command = own_binary("kms-wrap").unwrap();
        command
            .arg(self.folder().join("kms.toml"))
            .args([provider, key_id, &settings.to_string(), &annotations.to_string()])
            .env("SOFTHSM2_CONF", self.hsm.config())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(&hex::decode(DATA_KEY).unwrap()).unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{provider}: {}", String::from_utf8_lossy(&out.stderr));
        let wrapped: Value = serde_json::from_slice(&out.stdout).unwrap();
        (wrapped["ciphertext"].as_str().unwrap().to_owned(), wrapped["annotations"].clone())
    }

    /// Unseals an envelope whose data key the provider unwraps.
    async fn open(
        &self,
        provider: &str,
        key: &str,
        wrapped: &str,
        settings: &Value,
        annotations: &Value,
    ) -> Opened {
        let kid = format!("kbs:///{SIGNER}");
        let (settings, annotations) = (settings.to_string(), annotations.to_string());
        let text =
            independent(&["envelope", &kid, provider, key, wrapped, DATA_KEY, &settings, &annotations, TEXT]);
        Opened(unseal(&self.stack.hub_socket(), &text).await)
    }

    /// Unseals a reference to a secret that the provider keeps.
    async fn read(&self, provider: &str, name: &str, settings: &Value, annotations: &Value) -> Opened {
        let kid = format!("kbs:///{SIGNER}");
        let text =
            independent(&["vault-of", &kid, provider, name, &settings.to_string(), &annotations.to_string()]);
        Opened(unseal(&self.stack.hub_socket(), &text).await)
    }
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
fn secrets_of_key_management_services_unseal() {
    let Some(world) = World::start() else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let quotes = world.stack.quotes().unwrap();
    runtime.block_on(async {
        of_aws(&world).await;
        of_vault(&world).await;
        of_pkcs11(&world).await;
        of_nobody(&world).await;
    });
    assert_eq!(world.stack.quotes().unwrap(), quotes, "signing keys and credentials came over one session");
}

async fn of_aws(world: &World) {
    let moto = &world.moto;
    let region = json!({ "region": REGION });
    let context = json!({ "encryption_context": moto.account["context"] });
    // Wrapped by AWS' own client, by the key's id, its ARN and its alias.
    assert_eq!(moto.text("data_key"), DATA_KEY);
    for key in [moto.text("key_id"), moto.text("key_arn"), "alias/kek"] {
        world.open("aws", key, moto.text("wrapped"), &region, &context).await.gives(TEXT);
    }
    // Wrapped by ours.
    let (wrapped, annotations) = world.wrap("aws", "alias/kek", &region, &context);
    world.open("AWS", "alias/kek", &wrapped, &region, &annotations).await.gives(TEXT);

    let other = json!({ "encryption_context": { "team": "b" } });
    world.open("aws", "alias/kek", &wrapped, &region, &other).await.fails("KMS_CANNOT_DECRYPT");
    world.open("aws", "alias/absent", &wrapped, &region, &context).await.fails("KMS_NOT_FOUND");
    world.open("aws", "alias/kek", &wrapped, &json!({}), &context).await.fails("KMS_DOCUMENT_REFUSED");
    let elsewhere = json!({ "region": "x.evil.example#-a-1" });
    world.open("aws", "alias/kek", &wrapped, &elsewhere, &context).await.fails("KMS_DOCUMENT_REFUSED");

    let none = json!({});
    world.read("aws", "app/db", &region, &none).await.gives("second päss");
    world.read("aws", moto.text("secret_arn"), &region, &none).await.gives("second päss");
    let first = json!({ "version_id": moto.account["versions"][0], "version_stage": "" });
    world.read("aws", "app/db", &region, &first).await.gives("first päss");
    let previous = json!({ "version_stage": "AWSPREVIOUS" });
    world.read("aws", "app/db", &region, &previous).await.gives("first päss");
    world.read("aws", "app/binary", &region, &none).await.gives("\0\u{1}binary");
    world.read("aws", "app/absent", &region, &none).await.fails("KMS_NOT_FOUND");
    world.read("aws", "kept/db", &region, &none).await.fails("ACCESS_DENIED");

    // An image key, whose packet says provider and key.
    let packet = independent(&[
        "packet-of",
        "aws",
        "alias/kek",
        moto.text("wrapped"),
        &region.to_string(),
        &context.to_string(),
    ]);
    let answer = unwrap(&world.stack.hub_socket(), &packet).await.unwrap();
    assert_eq!(answer["keyunwrapresults"]["optsdata"], json!(hex::decode(DATA_KEY).unwrap()));

    // A new credential counts at once: that of a user without rights, one with a wrong signature, and none.
    let mut wrong = moto.account["role"].clone();
    wrong["secret_access_key"] = json!("wrong");
    for (credential, code) in [
        (moto.account["nobody"].to_string(), "KMS_DENIED"),
        (wrong.to_string(), "KMS_DENIED"),
        ("no JSON".to_owned(), "KMS_CREDENTIAL_MALFORMED"),
    ] {
        world.stack.put_resource(AWS_KEY, credential.as_bytes()).unwrap();
        world.open("aws", "alias/kek", &wrapped, &region, &context).await.fails(code);
        world.read("aws", "app/db", &region, &none).await.fails(code);
    }
    world.stack.put_resource(AWS_KEY, moto.account["role"].to_string().as_bytes()).unwrap();
    world.open("aws", "alias/kek", &wrapped, &region, &context).await.gives(TEXT);
}

async fn of_vault(world: &World) {
    let none = json!({});
    let plaintext = STANDARD.encode(hex::decode(DATA_KEY).unwrap());
    // Wrapped by the service's own client.
    let by_client = |key: &str| {
        let text = format!("write -field=ciphertext transit/encrypt/{key} plaintext={plaintext}");
        STANDARD.encode(world.bao.run(&text).unwrap().trim())
    };
    let wrapped = by_client("kek");
    world.open("vault", "kek", &wrapped, &none, &none).await.gives(TEXT);
    let packet = independent(&["packet-of", "vault", "kek", &wrapped, "{}", "{}"]);
    let answer = unwrap(&world.stack.hub_socket(), &packet).await.unwrap();
    assert_eq!(answer["keyunwrapresults"]["optsdata"], json!(hex::decode(DATA_KEY).unwrap()));
    // Wrapped by ours, bound to other data.
    let bound = json!({ "associated_data": "dGVhbSBh" });
    let (wrapped, annotations) = world.wrap("vault", "kek", &none, &bound);
    world.open("vault", "kek", &wrapped, &none, &annotations).await.gives(TEXT);
    world.open("vault", "kek", &wrapped, &none, &none).await.fails("KMS_CANNOT_DECRYPT");

    world.open("vault", "other", &by_client("other"), &none, &none).await.fails("KMS_DENIED");
    world.open("vault", "kept-for-another", &wrapped, &none, &none).await.fails("ACCESS_DENIED");
    world.open("vault", "../../sys", &wrapped, &none, &none).await.fails("KMS_DOCUMENT_REFUSED");

    let password = json!({ "field": "password" });
    world.read("vault", "app/db", &none, &password).await.gives("second");
    let first = json!({ "field": "password", "version": "1" });
    world.read("vault", "app/db", &none, &first).await.gives("first");
    world.read("vault", "app/db", &none, &none).await.fails("KMS_REQUEST_REFUSED");
    world.read("vault", "app/absent", &none, &none).await.fails("KMS_NOT_FOUND");
    world.read("vault", "other/db", &none, &none).await.fails("KMS_DENIED");
    world.bao.run("kv delete -mount=secret app/db").unwrap();
    world.read("vault", "app/db", &none, &password).await.fails("KMS_NOT_FOUND");
    // The token is withdrawn while the hub runs.
    world.bao.run(&format!("token revoke {}", world.bao.token)).unwrap();
    world.read("vault", "app/db", &none, &first).await.fails("KMS_DENIED");
}

async fn of_pkcs11(world: &World) {
    let none = json!({});
    // Wrapped outside of the token: by its RSA key's public half.
    let pem = world.hsm.rsa_public_key().display().to_string();
    let sha1 = json!({ "oaep_hash": "SHA-1" });
    let wrapped = independent(&["oaep", &pem, "SHA-1", DATA_KEY]);
    world.open("pkcs11", "kek-rsa", &wrapped, &none, &sha1).await.gives(TEXT);
    // Wrapped by ours, with both kinds of key.
    for (key, annotations) in [("kek-rsa", &sha1), ("kek-aes", &none)] {
        let (wrapped, annotations) = world.wrap("pkcs11", key, &none, annotations);
        world.open("pkcs11", key, &wrapped, &none, &annotations).await.gives(TEXT);
        if key == "kek-aes" {
            // What is wrapped is AES-GCM as everybody knows it.
            let iv = STANDARD.decode(annotations["iv"].as_str().unwrap()).unwrap();
            let key = cc_crypto::Secret::new(vec![7; 32]);
            let cipher = cc_crypto::cipher::ContentCipher::A256Gcm;
            let plain = cipher.open(&key, &iv, &STANDARD.decode(&wrapped).unwrap()).unwrap();
            assert_eq!(hex::encode(plain.expose()), DATA_KEY);
            let damaged =
                wrapped.replacen(&wrapped[..2], if wrapped.starts_with("AA") { "BB" } else { "AA" }, 1);
            // SoftHSM calls it a general error.
            world.open("pkcs11", "kek-aes", &damaged, &none, &annotations).await.fails("PKCS11_FAILED");
        }
    }
    world.open("pkcs11", "kek-aes", &wrapped, &none, &none).await.fails("KMS_DOCUMENT_REFUSED");
    world.open("pkcs11", "kek-absent", &wrapped, &none, &none).await.fails("KMS_NOT_FOUND");
    world.read("pkcs11", "app/db", &none, &none).await.gives("value of the data object");
    world.read("pkcs11", "kek-aes", &none, &none).await.fails("KMS_NOT_FOUND");

    // A wrong PIN is tried once; the right one counts at once.
    world.stack.put_resource(TOKEN_PIN, b"0000-wrong").unwrap();
    let first = world.read("pkcs11", "app/db", &none, &none).await;
    first.fails("PKCS11_PIN");
    let again = world.read("pkcs11", "app/db", &none, &none).await;
    again.fails("PKCS11_PIN");
    assert!(!first.0.unwrap_err().contains("not tried again"));
    assert!(again.0.unwrap_err().contains("not tried again"));
    world.stack.put_resource(TOKEN_PIN, PIN.as_bytes()).unwrap();
    world.read("pkcs11", "app/db", &none, &none).await.gives("value of the data object");
}

async fn of_nobody(world: &World) {
    let none = json!({});
    world.open("ehsm", "k", "eA==", &none, &none).await.fails("PROVIDER_UNKNOWN");
    world.read("gcp", "k", &none, &none).await.fails("PROVIDER_UNKNOWN");
    world.open("kbs", "kbs:///default/key/1", "eA==", &none, &none).await.fails("KMS_UNSUPPORTED");
}
