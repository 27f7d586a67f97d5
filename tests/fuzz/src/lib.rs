//! What several fuzz targets share.

use cc_evidence::summary::summarize;

/// The parts of an input: each begins with its length, two little endian bytes; what an input lacks is empty.
pub fn parts<const N: usize>(mut input: &[u8]) -> [&[u8]; N] {
    std::array::from_fn(|_| {
        let Some((length, rest)) = input.split_first_chunk() else { return &input[..0] };
        let (part, rest) = rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
        input = rest;
        part
    })
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
