//! Key management services to ask: a server of AWS' interfaces (moto), an OpenBao server, and a PKCS#11 token in software
//! (SoftHSM). `.ci/setup` installs them; the Python packages lie in `target/kms-peers`.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::port;
use crate::process::{Process, binary_folder, command};
use crate::stack::skip;

/// Region in which the account of [`Moto`] keeps its key and secrets.
pub const REGION: &str = "eu-central-1";
/// Root token of [`OpenBao`].
const ROOT_TOKEN: &str = "root";
/// PIN of the user of [`SoftHsm`].
pub const PIN: &str = "1234-guest";
/// Label of the token of [`SoftHsm`].
pub const TOKEN_LABEL: &str = "guest";
/// SoftHSM's module, where Debian has it, and Fedora.
const MODULES: [&str; 2] = ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so"];

/// Whether all of them are installed; tells which is not.
#[allow(clippy::disallowed_methods, reason = "a test looks for the programs that it needs")]
pub fn run_here() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = |program: &&str| std::env::split_paths(&path).any(|folder| folder.join(program).exists());
    let missing = ["softhsm2-util", "pkcs11-tool"]
        .into_iter()
        .find(|program| !on_path(program))
        .map(str::to_owned)
        .or_else(|| {
            programs().map_or_else(
                |e| Some(e.to_string()),
                |folder| {
                    let server = folder.join("moto_server");
                    (!server.exists()).then(|| server.display().to_string())
                },
            )
        });
    if let Some(program) = &missing {
        skip(&format!("{program} is not installed: .ci/setup does it"));
    }
    missing.is_none()
}

/// The programs of the Python packages.
fn programs() -> anyhow::Result<PathBuf> {
    let target = binary_folder()?;
    Ok(target.parent().context("the build folder has no parent")?.join("kms-peers/bin"))
}

/// What a program printed.
fn output(mut program: std::process::Command) -> anyhow::Result<String> {
    let out = program.output().with_context(|| format!("starting {program:?}"))?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    ensure!(out.status.success(), "{program:?}: {text}{}", String::from_utf8_lossy(&out.stderr));
    Ok(text)
}

/// A server of AWS' interfaces with one account that checks signatures and policies. Dropping it stops it.
#[derive(Debug)]
pub struct Moto {
    /// Where it listens, for all services.
    pub url: String,
    /// What the account holds, as `tests/independent/aws_account.py` tells it.
    pub account: Value,
    _process: Process,
}

impl Moto {
    /// Starts the server, with its log in `folder`, and fills the account.
    ///
    /// # Errors
    /// It does not start, or does not take what it should hold.
    pub fn start(folder: &Path) -> anyhow::Result<Self> {
        let programs = programs()?;
        let port = port::claim()?;
        let mut server = command(programs.join("moto_server"));
        server.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        let mut process = Process::start("moto", server, folder)?;
        process.wait_for_port(port)?;
        let url = format!("http://127.0.0.1:{port}");
        let mut fill = command(programs.join("python"));
        fill.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/independent/aws_account.py")).args([&url, REGION]);
        let account = serde_json::from_str(&output(fill)?)?;
        Ok(Self { url, account, _process: process })
    }

    /// A text of the account.
    pub fn text(&self, name: &str) -> &str {
        self.account.get(name).and_then(Value::as_str).unwrap_or_default()
    }
}

/// An OpenBao server behind TLS with a transit key `kek`, secrets in both versions of the key-value engine, and a token that may
/// use them. Dropping it stops it.
#[derive(Debug)]
pub struct OpenBao {
    /// `https://127.0.0.1:<port>`
    pub url: String,
    /// The token of the guest.
    pub token: String,
    folder: PathBuf,
    _process: Process,
}

/// What the guest's token may do.
const POLICY: &str = r#"
path "transit/decrypt/kek" { capabilities = ["update"] }
path "transit/encrypt/kek" { capabilities = ["update"] }
path "secret/data/app/*" { capabilities = ["read"] }
path "kv/app/*" { capabilities = ["read"] }
"#;

impl OpenBao {
    /// Starts the server in development mode, with its files in `folder`, and fills it.
    ///
    /// # Errors
    /// It does not start, or does not take what it should hold.
    pub fn start(folder: &Path) -> anyhow::Result<Self> {
        let port = port::claim()?;
        let mut server = command(programs()?.join("bao"));
        server
            .args(["server", "-dev", "-dev-tls", "-dev-no-store-token"])
            .arg(format!("-dev-tls-cert-dir={}", folder.display()))
            .arg(format!("-dev-root-token-id={ROOT_TOKEN}"))
            .arg(format!("-dev-listen-address=127.0.0.1:{port}"))
            .env("HOME", folder);
        let mut process = Process::start("openbao", server, folder)?;
        process.wait_for_port(port)?;
        process.wait_for_log("Development mode should NOT be used")?;
        let url = format!("https://127.0.0.1:{port}");
        let mut bao = Self { url, token: String::new(), folder: folder.to_owned(), _process: process };
        bao.run("secrets enable transit")?;
        bao.run("secrets enable -version=1 -path=kv kv")?;
        bao.run("write -f transit/keys/kek")?;
        bao.run("write -f transit/keys/other")?;
        bao.run("kv put -mount=secret app/db user=app password=first")?;
        bao.run("kv put -mount=secret app/db user=app password=second")?;
        bao.run("kv put -mount=secret other/db password=x")?;
        bao.run("kv put -mount=kv app/db password=of-version-1")?;
        std::fs::write(folder.join("guest.hcl"), POLICY)?;
        bao.run(&format!("policy write guest {}", folder.join("guest.hcl").display()))?;
        bao.token = bao.run("token create -policy=guest -field=token")?;
        Ok(bao)
    }

    /// The certificate of its authority, PEM.
    ///
    /// # Errors
    /// The file is not there.
    pub fn certificate(&self) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(self.folder.join("vault-ca.pem"))?)
    }

    /// Runs the service's own client as its administrator.
    ///
    /// # Errors
    /// The client fails.
    pub fn run(&self, arguments: &str) -> anyhow::Result<String> {
        let mut bao = command(programs()?.join("bao"));
        bao.args(arguments.split_whitespace())
            .env("BAO_ADDR", &self.url)
            .env("BAO_TOKEN", ROOT_TOKEN)
            .env("BAO_CACERT", self.folder.join("vault-ca.pem"))
            .env("HOME", &self.folder);
        output(bao)
    }
}

/// A PKCS#11 token in software, with the AES key `kek-aes`, the RSA key `kek-rsa` and the data object `app/db`.
#[derive(Debug)]
pub struct SoftHsm {
    folder: PathBuf,
}

impl SoftHsm {
    /// Makes a token below `folder` with `aes_key` (32 bytes) and `secret` in it.
    ///
    /// # Errors
    /// A tool fails.
    pub fn make(folder: &Path, aes_key: &[u8], secret: &[u8]) -> anyhow::Result<Self> {
        let hsm = Self { folder: folder.to_owned() };
        let tokens = folder.join("tokens");
        std::fs::create_dir_all(&tokens)?;
        let config = format!("directories.tokendir = {}\nobjectstore.backend = file\n", tokens.display());
        std::fs::write(hsm.config(), config)?;
        std::fs::write(folder.join("aes"), aes_key)?;
        std::fs::write(folder.join("secret"), secret)?;
        let at = |name: &str| folder.join(name).display().to_string();
        hsm.util(&["--init-token", "--free", "--label", TOKEN_LABEL, "--so-pin", "so-5678"])?;
        hsm.util(&[
            "--import",
            &at("aes"),
            "--aes",
            "--label",
            "kek-aes",
            "--id",
            "01",
            "--token",
            TOKEN_LABEL,
        ])?;
        hsm.tool(&[
            "--keypairgen",
            "--key-type",
            "rsa:2048",
            "--label",
            "kek-rsa",
            "--id",
            "02",
            "--usage-decrypt",
        ])?;
        hsm.tool(&["--write-object", &at("secret"), "--type", "data", "--label", "app/db", "--private"])?;
        hsm.tool(&[
            "--read-object",
            "--type",
            "pubkey",
            "--label",
            "kek-rsa",
            "--output-file",
            &at("rsa.der"),
        ])?;
        let mut pem = command("openssl");
        pem.args(["pkey", "-pubin", "-inform", "DER", "-in", &at("rsa.der"), "-out", &at("rsa.pem")]);
        output(pem)?;
        Ok(hsm)
    }

    /// The module's configuration file; its path belongs in the variable `SOFTHSM2_CONF`.
    pub fn config(&self) -> PathBuf {
        self.folder.join("softhsm2.conf")
    }

    /// The module.
    pub fn module() -> &'static str {
        MODULES.into_iter().find(|module| Path::new(module).exists()).unwrap_or(MODULES[0])
    }

    /// The public half of `kek-rsa`, a PEM file.
    pub fn rsa_public_key(&self) -> PathBuf {
        self.folder.join("rsa.pem")
    }

    fn util(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut util = command("softhsm2-util");
        util.args(arguments).args(["--pin", PIN]).env("SOFTHSM2_CONF", self.config());
        output(util)
    }

    fn tool(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut tool = command("pkcs11-tool");
        tool.args(["--module", Self::module(), "--token-label", TOKEN_LABEL, "--login", "--pin", PIN])
            .args(arguments)
            .env("SOFTHSM2_CONF", self.config());
        output(tool)
    }
}
