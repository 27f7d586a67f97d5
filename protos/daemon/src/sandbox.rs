//! What confines a daemon, told in its log and to whoever asks for its state. What it gives up itself is [`forbid_core_dumps`].

use cc_confinement::Confinement;
pub use cc_confinement::{forbid_core_dumps, raise_descriptor_limit};
use cc_protos::guest_services;

/// Writes one line about it to the log; for the start of a daemon.
pub fn tell() {
    match Confinement::of_this_process() {
        Ok(confinement) => tracing::info!("confinement: {confinement}"),
        Err(error) => tracing::warn!(%error, "cannot tell what confines this process"),
    }
}

/// What confines this process, which does not confine itself, as a message. None without `/proc`.
#[must_use]
pub fn confinement() -> Option<guest_services::Confinement> {
    Confinement::of_this_process().ok().map(|confinement| guest_services::Confinement {
        system_call_filters: confinement.system_call_filters,
        no_new_privileges: confinement.no_new_privileges,
        capabilities: confinement.capabilities,
        landlock: confinement.landlock.as_str().to_owned(),
        label: confinement.label,
    })
}
