//! The one copy of a header that a volume is opened with.
//!
//! Whatever opens a volume reads its header again, and a host may answer the second time with another one. So the header area
//! is read once, and from those bytes comes a file in canonical form: the first copy as it was checked, the second made from
//! it, the areas of the keyslots that the metadata names, and zeros wherever nothing has a meaning. cryptsetup takes that file
//! as its detached header (`--header`, crypttab(5) `header=`) and never looks at the one on the disk. It is NOT a verdict: that
//! the header is admitted and authentic is for [`super::Policy`] and [`super::HeaderKey`] to say.

use std::{convert::Infallible, ops::Range};

use super::{
    Copies, Header, Rule,
    format::{BINARY_LEN, MAX_AREA_LEN, MAX_JSON_LEN},
    read::{CHECKSUM_FIELD, FIRST_MAGIC, SECOND_MAGIC, checksum_of, size_of},
};
use crate::Error;

/// Where the binary header says at which byte it begins: `hdr_offset`, 8 bytes, big-endian.
const OFFSET_FIELD: Range<usize> = 256..264;

/// Bytes that are read before anything is known: two copies of the size that cryptsetup gives them.
const FIRST_LOOK: usize = 2 * 0x4000;

/// A header and the bytes that it was read from: both copies and the areas of its keyslots, and nothing else.
#[derive(Debug)]
pub struct DetachedHeader {
    header: Header,
    /// Both copies, as the volume has them.
    copies: Vec<u8>,
    /// Where an area of a keyslot begins, and what is in it; in the order of the disk.
    areas: Vec<(usize, Vec<u8>)>,
    /// Bytes of both copies and the keyslots area.
    length: usize,
}

/// Why no header came from a disk.
#[derive(Debug)]
pub enum NotRead<E> {
    /// The disk was not read.
    Disk(E),
    /// What was read is no header, or not one that is admitted.
    Header(Error),
}

impl DetachedHeader {
    /// Reads what a volume is opened with from the start of its disk of `length` bytes: the two copies, and then, if `admit` says
    /// nothing against the header, the areas of its keyslots. `disk` fills a slice with what begins at a byte. It is asked for each
    /// byte once at most, forwards, for none behind 16 MiB, and not for what lies between: that is some 300 KiB of the 16 MiB.
    ///
    /// # Errors
    /// [`NotRead::Disk`] with what `disk` says; [`NotRead::Header`] as [`Header::read`], with what `admit` says, or for areas that
    /// lie outside of the keyslots area or the disk, which the policy refuses as well.
    pub fn read_from<E>(
        mut disk: impl FnMut(usize, &mut [u8]) -> Result<(), E>,
        length: u64,
        copies: Copies,
        admit: impl FnOnce(&Header) -> Result<(), Error>,
    ) -> Result<Self, NotRead<E>> {
        let given = usize::try_from(length).unwrap_or(MAX_AREA_LEN).min(MAX_AREA_LEN);
        let mut read = |range: Range<usize>| {
            let mut bytes = vec![0; range.len()];
            disk(range.start, &mut bytes).map(|()| bytes).map_err(NotRead::Disk)
        };
        let mut both = read(0..FIRST_LOOK.min(given))?;
        let size = size_of(&both).unwrap_or_default();
        if 2 * size > both.len() {
            let more = read(both.len()..(2 * size).min(given))?;
            both.extend(more);
        }
        let header = Header::read_by(&both, given, copies).map_err(NotRead::Header)?;
        admit(&header).map_err(NotRead::Header)?;
        let (length, places) = places(&header, given).map_err(NotRead::Header)?;
        let areas = places.into_iter().map(|place| Ok((place.start, read(place)?)));
        let areas = areas.collect::<Result<_, _>>()?;
        both.truncate(2 * size);
        Ok(Self { header, copies: both, areas, length })
    }

    /// The same from a header area that is in memory, with its first copy.
    ///
    /// # Errors
    /// As [`Header::read`], or for areas that lie outside of `area`.
    pub fn read(area: &[u8]) -> Result<Self, Error> {
        let copy = |at: usize, into: &mut [u8]| {
            // Within its length.
            into.copy_from_slice(area.get(at..at + into.len()).unwrap_or_default());
            Ok::<_, Infallible>(())
        };
        Self::read_from(copy, area.len() as u64, Copies::First, |_| Ok(())).map_err(|error| match error {
            NotRead::Header(error) => error,
            NotRead::Disk(never) => match never {},
        })
    }

    /// The header, as the volume has it.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Both copies, as the volume has them.
    #[must_use]
    pub fn copies(&self) -> &[u8] {
        &self.copies
    }

    /// Both copies without the zeros at their ends, for whoever judges them elsewhere: what says something takes little, whatever
    /// the size of the copies. One that holds more than any good one does is cut: it is damaged either way.
    #[must_use]
    pub fn trimmed(&self) -> (&[u8], &[u8]) {
        let (first, second) = self.copies.split_at_checked(self.copies.len() / 2).unwrap_or_default();
        (trimmed(first), trimmed(second))
    }

    /// How many bytes of the header area there are, at most 16 MiB.
    #[must_use]
    pub fn given(&self) -> usize {
        self.header.given()
    }

    /// Where the areas of its keyslots lie, in the order of the disk.
    pub fn areas(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.areas.iter().map(|(start, bytes)| *start..start + bytes.len())
    }

    /// The canonical form.
    #[must_use]
    pub fn canonical(&self) -> Canonical<'_> {
        let (first, second) = self.copies.split_at_checked(self.copies.len() / 2).unwrap_or_default();
        let source = if self.header.damage().is_none() { first } else { second };
        let copy = |magic, at: usize| (at, copy(source, magic, at));
        let copies = [copy(FIRST_MAGIC, 0), copy(SECOND_MAGIC, source.len())];
        Canonical { copies, areas: &self.areas, length: self.length }
    }
}

/// The canonical form of a header area: as many bytes as copies and keyslots area take, and zeros wherever none of the pieces lies.
///
/// Nothing is lost with what was there: whoever opens the volume reads the copies, and of the rest the areas that they name.
#[derive(Debug)]
pub struct Canonical<'a> {
    copies: [(usize, Vec<u8>); 2],
    areas: &'a [(usize, Vec<u8>)],
    length: usize,
}

impl Canonical<'_> {
    /// Its bytes, zeros included: a file for it is made that long, and the pieces are written into it.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// Where a piece begins, and what it is, in the order of the file.
    pub fn pieces(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.copies.iter().chain(self.areas).map(|(at, bytes)| (*at as u64, bytes.as_slice()))
    }

    /// All of it.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.length];
        for (at, piece) in self.copies.iter().chain(self.areas) {
            copy_to(&mut bytes, *at, piece);
        }
        bytes
    }
}

/// How long copies and keyslots area are, and where in them the keyslots lie, in the order of the disk.
fn places(header: &Header, given: usize) -> Result<(usize, Vec<Range<usize>>), Error> {
    let outside = |place: String| Error::Malformed {
        rule: Rule::KeyslotArea,
        place,
        why: "lies outside of what was read".to_owned(),
    };
    let metadata = header.metadata();
    let copies = usize::try_from(header.binary().size).ok().map_or(usize::MAX, |size| 2 * size);
    let length = usize::try_from(metadata.config.keyslots_size)
        .ok()
        .and_then(|keyslots| keyslots.checked_add(copies))
        .filter(|length| *length <= MAX_AREA_LEN)
        .ok_or_else(|| outside("config.keyslots_size".to_owned()))?;
    let mut places = Vec::new();
    for (number, keyslot) in &metadata.keyslots {
        let Some(slot) = &keyslot.slot else { continue };
        let place = usize::try_from(slot.area.offset)
            .ok()
            .and_then(|start| Some(start..start.checked_add(usize::try_from(slot.area.size).ok()?)?))
            .filter(|place| place.start >= copies && place.end <= length.min(given));
        places.push(place.ok_or_else(|| outside(format!("keyslots.{number}.area")))?);
    }
    places.sort_by_key(|place| place.start);
    // What lies in two areas would be read twice.
    if let Some(pair) = places.windows(2).find(|pair| matches!(pair, [one, next] if one.end > next.start)) {
        return Err(Error::Malformed {
            rule: Rule::KeyslotArea,
            place: "keyslots".to_owned(),
            why: format!("two areas overlap, {pair:?}"),
        });
    }
    Ok((length, places))
}

/// The copy with this magic that begins at byte `at` and says what `source` says.
fn copy(source: &[u8], magic: &[u8], at: usize) -> Vec<u8> {
    let mut copy = source.to_vec();
    copy_to(&mut copy, 0, magic);
    copy_to(&mut copy, OFFSET_FIELD.start, &(at as u64).to_be_bytes());
    let checksum = checksum_of(&copy);
    copy_to(&mut copy, CHECKSUM_FIELD.start, &checksum);
    copy
}

fn trimmed(copy: &[u8]) -> &[u8] {
    let end = copy.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    copy.get(..end.min(BINARY_LEN + MAX_JSON_LEN)).unwrap_or_default()
}

fn copy_to(bytes: &mut [u8], at: usize, part: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + part.len()) {
        place.copy_from_slice(part);
    }
}
