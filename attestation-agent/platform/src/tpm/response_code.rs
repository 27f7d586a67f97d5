//! What the response codes of a TPM ask for.
//!
//! TPM 2.0 Library, part 2, TPM_RC: codes with bit 7 concern one handle, session or parameter, whose number they hold;
//! those with bit 11 are warnings, most of which pass. Codes of a layer above the TPM (bits 16 to 23) come from the kernel.

/// What to do about a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Success,
    /// Ask again in a moment.
    Later,
    Refused(Refusal),
}

/// Why a command was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Too many failed authorizations.
    LockedOut,
    /// No room for objects or sessions.
    Exhausted,
    /// The empty password is not the right one.
    Authorization,
    /// The TPM is in failure mode, or was not started by the firmware.
    Failed,
    /// A PCR that software may not extend.
    Locality,
    /// A handle that leads nowhere.
    Handle,
    /// All else.
    Other,
}

/// Bits of a code that are the same whichever handle, session or parameter it concerns.
const CONCERNS_ONE: u32 = 0x80;

pub(super) fn kind(code: u32) -> Kind {
    if code == 0 {
        return Kind::Success;
    }
    let refusal = match base(code) {
        // NV_RATE, YIELDED, TESTING, RETRY
        0x920 | 0x908 | 0x90A | 0x922 => return Kind::Later,
        0x921 => Refusal::LockedOut,
        0x901..=0x906 => Refusal::Exhausted,
        0x100 | 0x101 => Refusal::Failed,
        // AUTH_FAIL, BAD_AUTH; AUTH_TYPE, AUTH_MISSING and AUTH_UNAVAILABLE ask for another kind
        0x8E | 0xA2 | 0x124 | 0x125 | 0x12F => Refusal::Authorization,
        0x907 => Refusal::Locality,
        // HANDLE, REFERENCE_H0
        0x8B | 0x910 => Refusal::Handle,
        _ => Refusal::Other,
    };
    Kind::Refused(refusal)
}

/// The code without the layer, and without the number of what it concerns.
fn base(code: u32) -> u32 {
    let code = code & 0xFFFF;
    if code & CONCERNS_ONE == 0 { code } else { code & 0xBF }
}

/// The name of a code and what it concerns, for people.
pub(super) fn name(code: u32) -> String {
    let name = match base(code) {
        0x100 => "TPM_RC_INITIALIZE",
        0x101 => "TPM_RC_FAILURE",
        0x01E => "TPM_RC_BAD_TAG",
        0x124 => "TPM_RC_AUTH_TYPE",
        0x125 => "TPM_RC_AUTH_MISSING",
        0x12F => "TPM_RC_AUTH_UNAVAILABLE",
        0x143 => "TPM_RC_COMMAND_CODE",
        0x146 => "TPM_RC_NV_RANGE",
        0x147 => "TPM_RC_NV_SIZE",
        0x148 => "TPM_RC_NV_LOCKED",
        0x149 => "TPM_RC_NV_AUTHORIZATION",
        0x14A => "TPM_RC_NV_UNINITIALIZED",
        0x14B => "TPM_RC_NV_SPACE",
        0x14C => "TPM_RC_NV_DEFINED",
        0x81 => "TPM_RC_ASYMMETRIC",
        0x82 => "TPM_RC_ATTRIBUTES",
        0x83 => "TPM_RC_HASH",
        0x84 => "TPM_RC_VALUE",
        0x85 => "TPM_RC_HIERARCHY",
        0x87 => "TPM_RC_KEY_SIZE",
        0x8A => "TPM_RC_TYPE",
        0x8B => "TPM_RC_HANDLE",
        0x8E => "TPM_RC_AUTH_FAIL",
        0x92 => "TPM_RC_SCHEME",
        0x95 => "TPM_RC_SIZE",
        0x9C => "TPM_RC_KEY",
        0xA2 => "TPM_RC_BAD_AUTH",
        0x901 => "TPM_RC_CONTEXT_GAP",
        0x902 => "TPM_RC_OBJECT_MEMORY",
        0x903 => "TPM_RC_SESSION_MEMORY",
        0x904 => "TPM_RC_MEMORY",
        0x905 => "TPM_RC_SESSION_HANDLES",
        0x906 => "TPM_RC_OBJECT_HANDLES",
        0x907 => "TPM_RC_LOCALITY",
        0x908 => "TPM_RC_YIELDED",
        0x909 => "TPM_RC_CANCELED",
        0x90A => "TPM_RC_TESTING",
        0x910 => "TPM_RC_REFERENCE_H0",
        0x920 => "TPM_RC_NV_RATE",
        0x921 => "TPM_RC_LOCKOUT",
        0x922 => "TPM_RC_RETRY",
        0x923 => "TPM_RC_NV_UNAVAILABLE",
        _ => "TPM_RC",
    };
    let mut text = format!("{name} ({code:#x}");
    let number = code >> 8 & 0xF;
    match (code & CONCERNS_ONE != 0, code & 0x40 != 0, number) {
        (true, true, _) => text.push_str(&format!(", parameter {number}")),
        (true, false, 8..) => text.push_str(&format!(", session {}", number & 7)),
        (true, false, _) => text.push_str(&format!(", handle {number}")),
        (false, ..) => {}
    }
    text.push(')');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_ask_for_the_right_thing() {
        let refused = |code| match kind(code) {
            Kind::Refused(why) => why,
            other => panic!("{code:#x}: {other:?}"),
        };
        assert_eq!(kind(0), Kind::Success);
        for code in [0x908, 0x90A, 0x920, 0x922] {
            assert_eq!(kind(code), Kind::Later, "{code:#x}");
        }
        assert_eq!(refused(0x921), Refusal::LockedOut);
        for code in [0x902, 0x903, 0x904, 0x905, 0x906] {
            assert_eq!(refused(code), Refusal::Exhausted, "{code:#x}");
        }
        for code in [0x98E, 0x9A2, 0x125] {
            assert_eq!(refused(code), Refusal::Authorization, "{code:#x}");
        }
        for code in [0x18B, 0x28B, 0x910] {
            assert_eq!(refused(code), Refusal::Handle, "{code:#x}");
        }
        assert_eq!(refused(0x101), Refusal::Failed);
        assert_eq!(refused(0x000B_0143), Refusal::Other);
    }

    #[test]
    fn names_say_what_a_code_concerns() {
        assert_eq!(name(0x921), "TPM_RC_LOCKOUT (0x921)");
        assert_eq!(name(0x18B), "TPM_RC_HANDLE (0x18b, handle 1)");
        assert_eq!(name(0x2D2), "TPM_RC_SCHEME (0x2d2, parameter 2)");
        assert_eq!(name(0x98E), "TPM_RC_AUTH_FAIL (0x98e, session 1)");
        assert_eq!(name(0x1FF), "TPM_RC (0x1ff, parameter 1)");
    }
}
