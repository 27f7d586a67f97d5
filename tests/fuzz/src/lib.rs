//! What several fuzz targets share.

use cc_evidence::summary::summarize;

/// Takes the next part off `input`: two little endian bytes of length, then as many bytes, or what there is.
pub fn part<'a>(input: &mut &'a [u8]) -> &'a [u8] {
    let (length, rest) = input.split_first_chunk().unwrap_or((&[0, 0], &[]));
    let (part, rest) = rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
    *input = rest;
    part
}

/// The first parts of an input; what it lacks is empty.
pub fn parts<const N: usize>(mut input: &[u8]) -> [&[u8]; N] {
    std::array::from_fn(|_| part(&mut input))
}

/// The time in the first eight bytes of `part`, seconds since 1970; 0 if it is shorter.
pub fn time(part: &[u8]) -> u64 {
    part.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Whether the summary of evidence says that it cannot be read. Its lines are for terminals and logs.
pub fn unreadable(tee: &str, evidence: &str) -> bool {
    let lines = summarize(tee, evidence);
    assert!(!lines.iter().any(|(_, value)| value.contains(char::is_control)), "{lines:?}");
    lines.iter().any(|(name, _)| name == "unreadable")
}
