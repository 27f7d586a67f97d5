//! Writes the few items of CBOR (RFC 8949) that tokens of Arm CCA consist of, apart from the reader that is tested with
//! them.

/// An unsigned number.
#[must_use]
pub fn number(number: u64) -> Vec<u8> {
    head(0, number)
}

/// A byte string.
#[must_use]
pub fn bytes(content: &[u8]) -> Vec<u8> {
    [head(2, length(content.len())), content.to_vec()].concat()
}

/// A text.
#[must_use]
pub fn text(content: &str) -> Vec<u8> {
    [head(3, length(content.len())), content.as_bytes().to_vec()].concat()
}

/// An array of encoded items.
#[must_use]
pub fn array(items: &[Vec<u8>]) -> Vec<u8> {
    [head(4, length(items.len())), items.concat()].concat()
}

/// A map from numbers to encoded items.
#[must_use]
pub fn map(entries: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut all = head(5, length(entries.len()));
    for (key, value) in entries {
        all.extend(number(*key));
        all.extend(value);
    }
    all
}

/// An encoded item with a tag.
#[must_use]
pub fn tagged(tag: u64, item: &[u8]) -> Vec<u8> {
    [head(6, tag), item.to_vec()].concat()
}

fn length(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// Major type and number, in the shortest form.
fn head(kind: u8, number: u64) -> Vec<u8> {
    let [a, b, c, d, e, f, g, h] = number.to_be_bytes();
    let kind = kind << 5;
    match number {
        0..=23 => vec![kind | h],
        24..=0xFF => vec![kind | 24, h],
        0x100..=0xFFFF => vec![kind | 25, g, h],
        0x1_0000..=0xFFFF_FFFF => vec![kind | 26, e, f, g, h],
        _ => vec![kind | 27, a, b, c, d, e, f, g, h],
    }
}
