//! A token that another process got, used when the source of evidence has nothing else to give.
//!
//! It is the last resort: the private key has passed through another process, and nothing here knows what
//! evidence the token stands for. Everything else about the session is as with a token of its own.

use cc_evidence::blame::Blame;
use tokio::time::Instant;

use crate::error::KbsError;
use crate::handshake::Token;
use crate::source::SourceFault;

use super::{Attested, Core, within};

/// What the token is called in errors.
const BORROWED: &str = "the token of the evidence source";

impl Core {
    /// The token that the source holds for itself, if it failed with `why` for want of evidence methods; else
    /// `why`.
    pub(super) async fn borrow_token(
        &self,
        why: Box<SourceFault>,
        deadline: Instant,
    ) -> Result<Attested, KbsError> {
        if why.blame == Blame::Unavailable {
            return Err(KbsError::Source(why));
        }
        // The token may be older than this moment, and lives no longer than it would from now on; if it ends
        // early, the KBS refuses it and the next handshake asks again.
        let received = Instant::now();
        let borrowed = within(deadline, "asking for a token", self.source.token(&why)).await?;
        let Some(borrowed) = borrowed else { return Err(KbsError::Source(why)) };
        tracing::warn!(%why, "no evidence to be had; using a token and a key that the source made");
        let token = Token::read(borrowed.text, BORROWED)?;
        Attested::new(token, borrowed.key, Vec::new(), received)
    }
}
