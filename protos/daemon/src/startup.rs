//! What a daemon that cannot start says on standard error: what it was doing, why it failed, the stable code of
//! the cause and the next step. Not for failures of requests; those are [`crate::fault`]s.

use std::error::Error;
use std::fmt::Write as _;

use crate::address::AddressError;
use crate::config::ConfigError;
use crate::listen::ListenError;

/// Code and next step of an error that has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// Stable code in capitals.
    pub code: String,
    /// The next step for the operator; may be empty.
    pub hint: String,
}

impl Advice {
    /// The advice of the outermost error of this crate in the chain of `error`.
    #[must_use]
    pub fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        std::iter::successors(Some(error), |error| (*error).source()).find_map(|error| {
            if let Some(error) = error.downcast_ref::<ConfigError>() {
                return Some(Self { code: error.code().to_owned(), hint: error.hint() });
            }
            if let Some(error) = error.downcast_ref::<ListenError>() {
                return Some(Self { code: error.code().to_owned(), hint: error.hint() });
            }
            let error = error.downcast_ref::<AddressError>()?;
            Some(Self { code: error.code().to_owned(), hint: error.hint() })
        })
    }
}

/// `<program>: <doing>: <error>: <its causes> [CODE]`, and on a line of its own the next step.
#[must_use]
pub fn report(program: &str, doing: &str, error: &(dyn Error + 'static), advice: Option<&Advice>) -> String {
    let mut text = format!("{program}: {doing}");
    for error in std::iter::successors(Some(error), |error| (*error).source()) {
        let sentence = error.to_string();
        // A transparent error repeats its source.
        if !text.ends_with(&sentence) {
            let _ = write!(text, ": {sentence}");
        }
    }
    if let Some(advice) = advice {
        let _ = write!(text, " [{}]", advice.code);
        if !advice.hint.is_empty() {
            let _ = write!(text, "\nnext step: {}", advice.hint);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cause_code_and_next_step_are_told() {
        let error = crate::config::load::<String>(std::path::Path::new("/nonexistent.toml")).unwrap_err();
        let advice = Advice::of(&error).unwrap();
        let text = report("program", "configuration", &error, Some(&advice));
        assert!(text.starts_with("program: configuration: "), "{text}");
        assert!(text.contains("/nonexistent.toml") && text.contains("No such file"), "{text}");
        assert!(text.contains("[CONFIG_UNREADABLE]\nnext step: check the path"), "{text}");
        let plain = std::io::Error::other("x");
        assert_eq!(Advice::of(&plain), None);
        assert_eq!(report("p", "d", &plain, None), "p: d: x");
    }
}
