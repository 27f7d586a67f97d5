//! `guestctl token`: an attestation token from the attestation agent, and what it says.
//!
//! The token is a secret like a password: its text is shown only with `--raw` and else written only to a private file.
//! The private key that belongs to it (answers of type `kbs`) leaves this process only with `--with-key` and a file.

use std::{borrow::Cow, path::PathBuf};

use cc_daemon::address::Address;
use cc_protos::attestation_agent::GetTokenRequest;

use crate::{
    connect::{AGENT, Agent},
    failure::Failure,
    inspect,
    output::{Console, write_private_file},
};

/// What the operator gives.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  guestctl token
  guestctl token --type coco_as --raw > token.jwt
  guestctl token --output answer.json --with-key")]
pub(crate) struct Args {
    /// Whose token
    #[arg(long = "type", value_name = "TYPE", value_enum, default_value_t = TokenType::Kbs)]
    token_type: TokenType,
    /// Print the token itself, which is a secret
    #[arg(long, conflicts_with_all = ["json", "output"])]
    raw: bool,
    /// Write the token to this new file (mode 0600)
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write the agent's whole answer, with the private key, to the file of --output
    #[arg(long, requires = "output", conflicts_with = "raw")]
    with_key: bool,
    /// Address of the attestation agent
    #[arg(long, value_name = "ADDR", default_value = AGENT)]
    aa: Address,
}

/// Who issues the token, by the names of the agent's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum TokenType {
    /// The key broker service
    #[value(name = "kbs")]
    Kbs,
    /// The attestation service
    #[value(name = "coco_as")]
    CocoAs,
}

impl TokenType {
    fn name(self) -> &'static str {
        match self {
            Self::Kbs => "kbs",
            Self::CocoAs => "coco_as",
        }
    }
}

/// Gets the token and shows its claims, or writes it where the operator said.
pub(crate) async fn run(args: &Args, json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    if args.with_key && args.token_type == TokenType::CocoAs {
        return Err(Failure::Argument {
            argument: "--with-key".into(),
            why: "a token of type coco_as comes without a key".into(),
            hint: "leave --with-key away or use --type kbs".into(),
        });
    }
    let agent = Agent::at(&args.aa);
    let doing = format!("getting a token of type {}", args.token_type.name());
    let request = GetTokenRequest { token_type: args.token_type.name().into() };
    let answer = agent
        .service()
        .get_token(request)
        .await
        .map_err(|status| agent.failed(&doing, &status))?
        .into_inner()
        .token;
    let token = token_in(&answer, args.token_type)
        .ok_or_else(|| Failure::Garbled { doing: doing.clone(), why: "holds no token".into() })?;
    if let Some(path) = &args.output {
        return write_private_file(path, if args.with_key { &answer } else { token.as_bytes() });
    }
    if args.raw {
        return console.text(&format!("{token}\n"));
    }
    inspect::fetched_token(&token)
        .map_err(|why| Failure::Garbled { doing, why: format!("holds a token that cannot be read: {why}") })?
        .show(json, console)
}

/// The token's text inside the agent's answer. The key beside it is skipped, not copied.
fn token_in(answer: &[u8], token_type: TokenType) -> Option<Cow<'_, str>> {
    #[derive(serde::Deserialize)]
    struct KbsAnswer<'a> {
        #[serde(borrow)]
        token: Cow<'a, str>,
    }
    let token = match token_type {
        TokenType::Kbs => serde_json::from_slice::<KbsAnswer<'_>>(answer).ok()?.token,
        TokenType::CocoAs => Cow::Borrowed(std::str::from_utf8(answer).ok()?.trim_ascii()),
    };
    // What is printed on a terminal must be a compact JWS and nothing else.
    let harmless = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (!token.is_empty() && token.bytes().all(harmless)).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_taken_out_of_either_answer() {
        let answer = br#"{"token":"a.b.c","tee_keypair":"-----BEGIN PRIVATE KEY-----\nx"}"#;
        assert_eq!(token_in(answer, TokenType::Kbs).unwrap(), "a.b.c");
        assert_eq!(token_in(b"a.b.c\n", TokenType::CocoAs).unwrap(), "a.b.c");
    }

    #[test]
    fn what_is_no_token_is_not_passed_on() {
        for answer in [&b"{}"[..], b"a.b.c", br#"{"token":""}"#, br#"{"token":"a\u001b[2J"}"#, b"\xff"] {
            assert!(token_in(answer, TokenType::Kbs).is_none());
        }
        assert!(token_in(b"<html>", TokenType::CocoAs).is_none());
    }
}
