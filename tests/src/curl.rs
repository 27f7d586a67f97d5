//! HTTP by `curl`: the client that users have.

use std::path::Path;

use anyhow::{Context, bail};

use crate::process::command;

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Body bytes.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text, for messages and comparisons.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Runs `curl` with `arguments` on `url`.
///
/// # Errors
/// `curl` is missing or got no HTTP answer; its own words are in the error.
pub fn curl(arguments: &[&str], url: &str) -> anyhow::Result<Answer> {
    let out = command("curl")
        .args(["--silent", "--show-error", "--max-time", "55", "--write-out", "\n%{http_code}"])
        .args(arguments)
        .arg(url)
        .output()
        .context("running curl (is it installed?)")?;
    if !out.status.success() {
        bail!("curl {url}: {}", String::from_utf8_lossy(&out.stderr).trim());
    }
    let cut = out.stdout.iter().rposition(|b| *b == b'\n').context("curl printed no status")?;
    let (body, status) = out.stdout.split_at(cut);
    let status = String::from_utf8_lossy(status).trim().parse().context("curl printed no status")?;
    Ok(Answer { status, body: body.to_vec() })
}

/// GET over plain HTTP.
///
/// # Errors
/// As [`curl`].
pub fn get(url: &str) -> anyhow::Result<Answer> {
    curl(&[], url)
}

/// POST of a file's bytes to a server whose certificate is `certificate`, with the header lines of `headers`
/// (a file, so that tokens never show in an argument list).
///
/// # Errors
/// As [`curl`].
pub fn post_file(url: &str, body: &Path, headers: &Path, certificate: &Path) -> anyhow::Result<Answer> {
    let body = format!("@{}", body.display());
    let headers = format!("@{}", headers.display());
    let certificate = certificate.display().to_string();
    curl(&["--cacert", &certificate, "--header", &headers, "--data-binary", &body], url)
}
