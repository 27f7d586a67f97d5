//! A sealed secret of type `vault`: the name of a secret in a store, signed.

use std::path::PathBuf;

use cc_sealed::{Payload, Vault};
use serde_json::{Map, Value};

use super::Signer;
use crate::{failure::Failure, get, output::Console};

/// What the operator gives.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The secret itself stays where it is: upload it to the store on its own way.

Example:
  guestctl seal vault --uri kbs:///default/db/password --key team-a-private.json
  guestctl seal vault --provider aws --uri db-password --settings '{\"region\":\"eu-central-1\"}' --key k-private.json")]
pub(super) struct Args {
    /// Name of the secret in its store; for the key broker kbs:///repository/type/tag or repository/type/tag
    #[arg(long, value_name = "NAME", visible_alias = "name")]
    uri: String,
    /// The store: kbs, aliyun, aws, vault or pkcs11
    #[arg(long, value_name = "STORE", default_value = "kbs")]
    provider: String,
    #[command(flatten)]
    signer: Signer,
    /// Public settings of the store's client
    #[arg(long, value_name = "JSON", default_value = "{}", value_parser = parse_object)]
    settings: Map<String, Value>,
    /// What else the request to the store needs
    #[arg(long, value_name = "JSON", default_value = "{}", value_parser = parse_object)]
    annotations: Map<String, Value>,
    /// Write the sealed secret to this new file instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn run(args: &Args, json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    let name = match args.provider.eq_ignore_ascii_case("kbs") {
        true => get::full_uri(&args.uri)?,
        false => args.uri.clone(),
    };
    let vault = vault(&args.provider, &name, args.settings.clone(), args.annotations.clone())?;
    super::finish(&Payload::Vault(vault), &args.signer, args.output.as_deref(), json, console)
}

/// What names the secret `name` of the store `provider`, if such a store is known and could have that name.
pub(crate) fn vault(
    provider: &str,
    name: &str,
    provider_settings: Map<String, Value>,
    annotations: Map<String, Value>,
) -> Result<Vault, Failure> {
    let refused = |argument: &str, why: String, hint: &str| Failure::Argument {
        argument: argument.into(),
        why,
        hint: hint.into(),
    };
    let provider = provider.to_ascii_lowercase();
    if !cc_kms::SUPPORTED.split(", ").any(|known| known == provider) {
        let why = format!("no store {provider:?} is known");
        return Err(refused("--provider", why, "give kbs, aliyun, aws, vault or pkcs11"));
    }
    if provider == "kbs" {
        name.parse::<cc_kbs::ResourceUri>().map_err(|e| crate::failure::kbs(&e))?;
    } else if name.is_empty() || name.chars().any(char::is_control) {
        return Err(refused(
            "NAME",
            "it is empty or has control characters".into(),
            "give the secret's name",
        ));
    }
    Ok(Vault { provider, name: name.to_owned(), provider_settings, annotations })
}

/// Reads an argument that is a JSON object.
pub(crate) fn parse_object(text: &str) -> Result<Map<String, Value>, String> {
    match cc_crypto::unique_json::parse("argument", text.as_bytes()) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err("give a JSON object, for instance {\"region\":\"eu-central-1\"}".to_owned()),
        Err(e) => Err(e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_their_store() {
        let none = Map::new;
        assert_eq!(vault("KBS", "kbs:///a/b/c", none(), none()).unwrap().provider, "kbs");
        assert_eq!(vault("aws", "db password", none(), none()).unwrap().name, "db password");
        for (provider, name) in
            [("kbs", "a/b/c"), ("kbs", "kbs:///"), ("aws", ""), ("aws", "a\nb"), ("gcp", "x")]
        {
            let failure = vault(provider, name, none(), none()).unwrap_err();
            assert_eq!(failure.exit(), crate::Exit::Usage, "{provider} {name:?}");
        }
    }

    #[test]
    fn objects_are_objects_with_each_member_once() {
        assert_eq!(parse_object("{\"a\":1}").unwrap().len(), 1);
        for bad in ["", "[]", "{", "{\"a\":1,\"a\":2}", "null"] {
            assert!(parse_object(bad).is_err(), "{bad}");
        }
    }
}
