//! What confines a daemon, told in its log and to whoever asks for its state. What it gives up itself is [`forbid_core_dumps`] and
//! [`refuse_needless_calls`].

use cc_confinement::Confinement;
pub use cc_confinement::filter::{KERNEL_CRYPTO, Needs, OwnFilter, Seccomp, refuse_needless_calls};
pub use cc_confinement::{forbid_core_dumps, raise_descriptor_limit};
use cc_protos::guest_services;

/// Writes one line about it to the log; for the start of a daemon.
pub fn tell() {
    match Confinement::of_this_process() {
        Ok(confinement) => tell_of(&confinement),
        Err(error) => tracing::warn!(%error, "cannot tell what confines this process"),
    }
}

/// The same, for a program that confines itself further and knows how far.
pub fn tell_of(confinement: &Confinement) {
    tracing::info!("confinement: {confinement}");
    if confinement.own_filter == OwnFilter::Off {
        tracing::warn!(
            "--seccomp off: this process refuses itself no system call; that is for debugging alone"
        );
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
        own_filter: confinement.own_filter.to_string(),
    })
}
