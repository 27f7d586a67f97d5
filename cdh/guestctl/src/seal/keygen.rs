//! A new key that signs sealed secrets: two JWK files, the private one for its owner alone.

use std::path::{Path, PathBuf};

use cc_crypto::es256::SigningKey;
use cc_evidence::initdata::is_file_name;
use serde_json::json;

use crate::{
    failure::Failure,
    output::{Console, write_private_file},
};

/// What the operator gives.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Writes NAME-private.json (mode 0600; keep it offline) and NAME-public.json, where NAME is the last part of the kid.
Existing files are never replaced.

Example:
  guestctl seal keygen --kid kbs:///default/sealed-signing/team-a --to keys")]
pub(super) struct Args {
    /// Name by which guests find the public key: a kbs:// URI, or a file name
    #[arg(long, default_value = "sealed-signing")]
    kid: String,
    /// Folder for the two files; it must exist
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    to: PathBuf,
}

/// The files of a key.
#[derive(Debug)]
pub(crate) struct KeyFiles {
    pub(crate) private: PathBuf,
    pub(crate) public: PathBuf,
}

pub(super) fn run(args: &Args, json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    let files = make_key(&args.kid, &args.to)?;
    let (private, public) = (files.private.display().to_string(), files.public.display().to_string());
    if json {
        return console.json(&json!({"kid": args.kid, "private": private, "public": public}));
    }
    let next = match args.kid.split_once("://") {
        Some(_) => format!("upload it to the key broker as {}", args.kid),
        None => {
            format!("put it into the guest as /run/confidential-containers/cdh/sealed-secret/{}", args.kid)
        }
    };
    console.text(&format!("{private}: signs; keep it to yourself\n{public}: verifies; {next}\n"))
}

/// Makes a key called `kid` and writes it into `folder`, both files or none.
pub(crate) fn make_key(kid: &str, folder: &Path) -> Result<KeyFiles, Failure> {
    let stem = kid.rsplit('/').next().unwrap_or_default();
    if !is_file_name(stem) || kid.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(Failure::Argument {
            argument: "--kid".into(),
            why: format!("{kid:?} does not end with a plain name"),
            hint: "write a name such as sealed-signing, or kbs:///default/sealed-signing/team-a".into(),
        });
    }
    let files = KeyFiles {
        private: folder.join(format!("{stem}-private.json")),
        public: folder.join(format!("{stem}-public.json")),
    };
    let made = |e: cc_crypto::Error| crate::failure::crypto("making a signing key", &e);
    let key = SigningKey::generate().map_err(made)?;
    let public = format!("{:#}\n", key.public_jwk(kid).map_err(made)?);
    write_private_file(&files.private, key.private_jwk(kid).map_err(made)?.expose())?;
    if let Err(failure) = write_private_file(&files.public, public.as_bytes()) {
        // A private key whose public half was not written is of no use to anybody. The first error is the one to report.
        let _ = std::fs::remove_file(&files.private);
        return Err(failure);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn both_files_or_none_and_never_over_existing_ones() {
        let folder = tempfile::tempdir().unwrap();
        let files = make_key("kbs:///default/signing/team-a", folder.path()).unwrap();
        assert_eq!(files.private, folder.path().join("team-a-private.json"));
        assert_eq!(std::fs::metadata(&files.private).unwrap().permissions().mode() & 0o777, 0o600);
        let private = std::fs::read(&files.private).unwrap();
        let key = super::super::signing_key(&files.private).unwrap();
        assert_eq!(key.kid.as_deref(), Some("kbs:///default/signing/team-a"));
        assert_eq!(make_key("team-a", folder.path()).unwrap_err().code(), "OUTPUT_FILE");
        assert_eq!(std::fs::read(&files.private).unwrap(), private);

        std::fs::write(folder.path().join("b-public.json"), "x").unwrap();
        assert_eq!(make_key("b", folder.path()).unwrap_err().code(), "OUTPUT_FILE");
        assert!(!folder.path().join("b-private.json").exists());
    }

    #[test]
    fn names_that_are_no_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        for kid in ["", "a/", "..", "a/..", "a b", "a\n"] {
            assert_eq!(make_key(kid, folder.path()).unwrap_err().code(), "ARGUMENT_REFUSED", "{kid:?}");
        }
    }
}
