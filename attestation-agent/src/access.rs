//! Who may have evidence and tokens.
//!
//! Evidence over report data of the caller's choice is as strong as every secret that the machine may have:
//! whoever gets it can run a handshake with a key of their own. In strict mode only the named users get it.
//! Not here: who may have which secret (that is the data hub's table).

use std::collections::BTreeSet;

use cc_daemon::peer::Caller;

use crate::error::AgentError;

/// The rule that governs `GetEvidence`, `GetAdditionalEvidence` and `GetToken`.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Refuse everybody who is not named. `false` is the behaviour of the existing stack: any local process
    /// that can open the socket.
    pub strict: bool,
    /// User ids that are served in strict mode.
    pub evidence_uids: BTreeSet<u32>,
    /// Whether a token goes out with its private key over local HTTP too, as in the existing stack.
    pub token_key_over_http: bool,
}

impl Access {
    /// Checks that `caller` may have `what` (words for the error: "evidence", "a token").
    ///
    /// # Errors
    /// [`AgentError::Refused`] in strict mode for calls that come through the local HTTP door, for callers whose user
    /// the kernel does not tell (TCP, another PID name space) and for users that are not named.
    pub fn check(&self, caller: &Caller, what: &'static str) -> Result<(), AgentError> {
        if self.strict { self.check_named(caller, what) } else { Ok(()) }
    }

    /// The check of strict mode, whether or not that is on: for what no other caller has reason to ask for.
    ///
    /// # Errors
    /// As [`Access::check`] in strict mode.
    pub fn check_named(&self, caller: &Caller, what: &'static str) -> Result<(), AgentError> {
        let refuse = |why| Err(AgentError::Refused { what, caller: describe(caller), why });
        if caller.local_http {
            return refuse("nothing of the kind is given over local HTTP");
        }
        // Across PID name spaces the kernel reports pid 0: such a peer cannot be told from any other.
        match (caller.pid, caller.uid) {
            (Some(pid), Some(uid)) if pid != 0 && self.evidence_uids.contains(&uid) => Ok(()),
            (Some(pid), Some(_)) if pid != 0 => refuse("its user is not in access.evidence_uids"),
            _ => refuse("the kernel does not tell who it is"),
        }
    }
}

impl Access {
    /// Whether `caller` gets the private key with a token: root, over the Unix socket. Everybody else gets the
    /// token alone, which certifies a key they do not have and so opens nothing.
    pub fn gives_token_key(&self, caller: &Caller) -> bool {
        caller.uid == Some(0) && (!caller.local_http || self.token_key_over_http)
    }
}

/// Words for a caller, for errors and audit lines.
pub fn describe(caller: &Caller) -> String {
    let door = if caller.local_http { " over local HTTP" } else { "" };
    match (caller.uid, caller.pid) {
        (Some(uid), Some(pid)) => format!("uid {uid} (pid {pid}){door}"),
        (Some(uid), None) => format!("uid {uid}{door}"),
        _ => format!("an unidentified caller{door}"),
    }
}

#[cfg(test)]
mod tests {
    use cc_daemon::peer::Transport;

    use super::*;

    fn caller(uid: Option<u32>, pid: Option<u32>, local_http: bool) -> Caller {
        Caller { pid, uid, gid: uid, transport: Transport::Grpc, local_http, place: None }
    }

    #[test]
    fn compatible_mode_serves_everybody() {
        let access = Access::default();
        assert!(access.check(&caller(Some(1000), Some(7), true), "evidence").is_ok());
        assert!(access.check(&caller(None, None, false), "evidence").is_ok());
        // Nobody is named by default, so nobody is believed who must be.
        assert!(access.check_named(&caller(Some(0), Some(7), false), "it").is_err());
    }

    #[test]
    fn strict_mode_serves_named_users_only() {
        let access =
            Access { strict: true, evidence_uids: BTreeSet::from([0, 970]), token_key_over_http: true };
        assert!(access.check(&caller(Some(0), Some(7), false), "evidence").is_ok());
        assert!(access.check(&caller(Some(970), Some(7), false), "evidence").is_ok());
        for refused in [
            caller(Some(1000), Some(7), false),
            caller(Some(0), Some(0), false), // another PID name space
            caller(Some(0), None, false),
            caller(None, None, false),      // TCP
            caller(Some(0), Some(7), true), // the local HTTP door
        ] {
            let e = access.check(&refused, "evidence").unwrap_err();
            assert_eq!(e.code(), "AA_CALLER_REFUSED", "{refused:?}");
        }
    }

    #[test]
    fn the_token_key_is_for_root_on_the_socket() {
        let mut access = Access::default();
        assert!(access.gives_token_key(&caller(Some(0), Some(7), false)));
        for without in [
            caller(Some(0), Some(7), true),
            caller(Some(1000), Some(7), false),
            caller(Some(1000), Some(7), true), // a forged mark widens nothing
            caller(None, None, false),
            caller(None, None, true),
        ] {
            assert!(!access.gives_token_key(&without), "{without:?}");
        }
        access.token_key_over_http = true;
        assert!(access.gives_token_key(&caller(Some(0), Some(7), true)));
        assert!(!access.gives_token_key(&caller(None, None, true)));
    }
}
