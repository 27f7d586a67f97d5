//! Two keys as the one secret that a request carries: the length of the first in four bytes, big-endian, then both.

use cc_crypto::Secret;

use crate::StorageError;

/// Puts two keys together.
///
/// # Errors
/// `STORAGE_PROTOCOL` for a first key of 4 GiB or more.
pub fn join_keys(first: &Secret, second: &Secret) -> Result<Secret, StorageError> {
    let length = u32::try_from(first.len()).map_err(|_| malformed("a key is too long"))?;
    Ok(Secret::new([&length.to_be_bytes(), first.expose(), second.expose()].concat()))
}

/// Takes them apart again.
///
/// # Errors
/// `STORAGE_PROTOCOL` for anything that [`join_keys`] does not make.
pub fn split_keys(both: &Secret) -> Result<(Secret, Secret), StorageError> {
    let (length, keys) = both.expose().split_first_chunk().ok_or_else(|| malformed("two keys are cut"))?;
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    let (first, second) = keys.split_at_checked(length).ok_or_else(|| malformed("two keys are cut"))?;
    Ok((Secret::new(first.to_vec()), Secret::new(second.to_vec())))
}

fn malformed(why: &str) -> StorageError {
    StorageError::Protocol { why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_joined_is_split(first: Vec<u8>, second: Vec<u8>) {
            let both = join_keys(&Secret::new(first.clone()), &Secret::new(second.clone())).unwrap();
            let (one, other) = split_keys(&both).unwrap();
            prop_assert_eq!((one.expose(), other.expose()), (&first[..], &second[..]));
        }

        #[test]
        fn never_panics(bytes: Vec<u8>) {
            let _ = split_keys(&Secret::new(bytes));
        }
    }
}
