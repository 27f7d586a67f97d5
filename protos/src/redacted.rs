//! `Debug` of the messages that carry secrets: field names and lengths, never content.
//!
//! The list is the one that `tests/generated.rs` excludes from derived `Debug`.

use std::fmt;

use crate::api::{GetResourceResponse, UnsealSecretInput, UnsealSecretOutput};
use crate::attestation_agent::GetTokenResponse;
use crate::guest_services::GetVolumeKeyResponse;
use crate::keyprovider::{KeyProviderKeyWrapProtocolInput, KeyProviderKeyWrapProtocolOutput};

/// Shows `Message { field: (N bytes) }`.
macro_rules! show_length {
    ($($message:ident.$field:ident),+ $(,)?) => {$(
        impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($message))
                    .field(stringify!($field), &format_args!("({} bytes)", self.$field.len()))
                    .finish()
            }
        }
    )+};
}

show_length! {
    GetTokenResponse.token,
    UnsealSecretInput.secret,
    UnsealSecretOutput.plaintext,
    GetResourceResponse.resource,
    GetVolumeKeyResponse.key,
    KeyProviderKeyWrapProtocolInput.key_provider_key_wrap_protocol_input,
    KeyProviderKeyWrapProtocolOutput.key_provider_key_wrap_protocol_output,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_lengths_only() {
        let resource = GetResourceResponse { resource: b"canary".to_vec() };
        assert_eq!(format!("{resource:?}"), "GetResourceResponse { resource: (6 bytes) }");
        let token = GetTokenResponse { token: b"canary".to_vec() };
        assert!(!format!("{token:#?}").contains("canary") && !format!("{token:?}").contains("99, 97"));
    }
}
