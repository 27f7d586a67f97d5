//! Landlock (Linux, Documentation/userspace-api/landlock.rst): the server works with its listener and the sockets of the two daemons,
//! and needs no file and no connection by TCP. Whoever takes it over has no more than that.
//!
//! Sockets that have a path are no files to Landlock. It is a second wall: under systemd the unit is the first; kata-agent starts the
//! server without one. Where the kernel has no Landlock the log says so.

use cc_confinement::Landlock;
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, NetPort, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
};

/// The newest rules that are asked for; the kernel gives what it has.
const NEWEST: ABI = ABI::V6;

/// Gives up, for this thread and those that it starts, all files, connections by TCP, listening on other ports than `port`, and
/// signals to other processes. How far that went.
pub fn to_sockets(port: u16) -> Landlock {
    match restrict(port) {
        Ok(RulesetStatus::FullyEnforced) => {
            tracing::info!("confined to its sockets by Landlock, fully");
            Landlock::Fully
        }
        Ok(RulesetStatus::PartiallyEnforced) => {
            tracing::info!("confined to its sockets by Landlock, as far as this kernel can");
            Landlock::Partly
        }
        Ok(RulesetStatus::NotEnforced) => {
            tracing::warn!(
                "no Landlock in this kernel, or a filter of system calls is in its way: the server is not confined by itself"
            );
            Landlock::None
        }
        Err(error) => {
            tracing::warn!(%error, "this kernel's Landlock cannot confine the server");
            Landlock::None
        }
    }
}

fn restrict(port: u16) -> Result<RulesetStatus, RulesetError> {
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::Signal)?
        .create()?
        .add_rule(NetPort::new(port, AccessNet::BindTcp))?
        .restrict_self()?;
    Ok(status.ruleset)
}
