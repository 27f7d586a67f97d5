//! The one copy of a header that a volume is opened with.
//!
//! Whatever opens a volume reads its header again, and a host may answer the second time with another one. So the header area
//! is read once, and from those bytes comes a file in canonical form: the first copy as it was checked, the second made from
//! it, the areas of the keyslots that the metadata names, and zeros wherever nothing has a meaning. cryptsetup takes that file
//! as its detached header (`--header`, crypttab(5) `header=`) and never looks at the one on the disk. It is NOT a verdict: that
//! the header is admitted and authentic is for [`super::Policy`] and [`super::HeaderKey`] to say.

use super::{
    Header, Rule,
    format::{BINARY_LEN, MAX_AREA_LEN, MAX_JSON_LEN},
    read::{CHECKSUM_FIELD, SECOND_MAGIC, checksum_of},
};
use crate::Error;

/// Where the binary header says at which byte it begins: `hdr_offset`, 8 bytes, big-endian.
const OFFSET_FIELD: std::ops::Range<usize> = 256..264;

/// A header and the bytes that it was read from.
#[derive(Debug)]
pub struct DetachedHeader {
    header: Header,
    /// What was read: at most [`MAX_AREA_LEN`] bytes.
    area: Vec<u8>,
}

impl DetachedHeader {
    /// Reads the header at the start of `area`, the first bytes of a volume: its whole header area, at most 16 MiB.
    ///
    /// # Errors
    /// As [`Header::read`].
    pub fn read(mut area: Vec<u8>) -> Result<Self, Error> {
        area.truncate(MAX_AREA_LEN);
        Ok(Self { header: Header::read(&area)?, area })
    }

    /// The header, as the volume has it.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Both copies, as the volume has them.
    #[must_use]
    pub fn copies(&self) -> &[u8] {
        self.area.get(..2 * self.size()).unwrap_or_default()
    }

    /// Both copies without the zeros at their ends, for whoever judges them elsewhere: what says something takes little, whatever
    /// the size of the copies. A second copy that holds more than any good one does is cut: it is damaged either way.
    #[must_use]
    pub fn trimmed(&self) -> (&[u8], &[u8]) {
        let (first, second) = self.copies().split_at_checked(self.size()).unwrap_or_default();
        let second = without_zeros(second);
        (without_zeros(first), second.get(..BINARY_LEN + MAX_JSON_LEN).unwrap_or(second))
    }

    /// How many bytes of the header area were read.
    #[must_use]
    pub fn given(&self) -> usize {
        self.area.len()
    }

    /// The canonical form: as many bytes as copies and keyslots area take, mostly zeros.
    ///
    /// # Errors
    /// [`Error::Malformed`] for areas that lie outside of what was read; the policy refuses them as well.
    pub fn canonical(&self) -> Result<Vec<u8>, Error> {
        let size = self.size();
        let metadata = self.header.metadata();
        let outside = |place: String| Error::Malformed {
            rule: Rule::KeyslotArea,
            place,
            why: "lies outside of what was read".to_owned(),
        };
        let keyslots = usize::try_from(metadata.config.keyslots_size).ok();
        let length = keyslots
            .and_then(|keyslots| keyslots.checked_add(2 * size))
            .filter(|length| *length <= MAX_AREA_LEN)
            .ok_or_else(|| outside("config.keyslots_size".to_owned()))?;
        let mut bytes = vec![0; length];
        let first = self.area.get(..size).unwrap_or_default();
        copy_to(&mut bytes, 0, first);
        copy_to(&mut bytes, size, &second(first));
        for (number, keyslot) in &metadata.keyslots {
            let Some(slot) = &keyslot.slot else { continue };
            let place = || outside(format!("keyslots.{number}.area"));
            let start = usize::try_from(slot.area.offset).map_err(|_| place())?;
            let end = usize::try_from(slot.area.size)
                .ok()
                .and_then(|size| start.checked_add(size))
                .filter(|end| start >= 2 * size && *end <= length)
                .ok_or_else(place)?;
            copy_to(&mut bytes, start, self.area.get(start..end).ok_or_else(place)?);
        }
        Ok(bytes)
    }

    /// Bytes of one copy; the reader has seen two of them.
    fn size(&self) -> usize {
        usize::try_from(self.header.binary().size).unwrap_or_default()
    }
}

/// The second copy that belongs to `first`.
fn second(first: &[u8]) -> Vec<u8> {
    let mut copy = first.to_vec();
    copy_to(&mut copy, 0, SECOND_MAGIC);
    copy_to(&mut copy, OFFSET_FIELD.start, &(first.len() as u64).to_be_bytes());
    let checksum = checksum_of(&copy);
    copy_to(&mut copy, CHECKSUM_FIELD.start, &checksum);
    copy
}

fn without_zeros(copy: &[u8]) -> &[u8] {
    let end = copy.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    copy.get(..end).unwrap_or_default()
}

fn copy_to(bytes: &mut [u8], at: usize, part: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + part.len()) {
        place.copy_from_slice(part);
    }
}
