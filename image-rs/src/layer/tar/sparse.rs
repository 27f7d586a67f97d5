//! Maps of sparse files: GNU's old headers, and the three pax forms 0.0, 0.1 and 1.0 (GNU tar manual, "Sparse Formats").

use super::{
    BLOCK, Block, Rule,
    header::{Format, Header, field},
    number,
    pax::decimal,
};

/// Most pieces of one file.
const MAX_PIECES: usize = 1 << 16;

/// A stretch of a file that has data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// What the `GNU.sparse.` keywords of a pax header say.
#[derive(Debug, Default)]
pub(super) struct PaxSparse {
    /// The file's name; that in the header is one for readers without support.
    pub(super) name: Option<Vec<u8>>,
    version: (Option<u64>, Option<u64>),
    real_size: Option<u64>,
    pieces: Option<Vec<Piece>>,
    /// An offset of form 0.0 that waits for its length.
    offset: Option<u64>,
    count: Option<u64>,
}

impl PaxSparse {
    /// Takes the value of the keyword `GNU.sparse.<keyword>`; `None` if it is malformed or unknown.
    pub(super) fn take(&mut self, keyword: &[u8], value: &[u8]) -> Option<()> {
        match keyword {
            b"major" => self.version.0 = Some(decimal(value)?),
            b"minor" => self.version.1 = Some(decimal(value)?),
            b"realsize" | b"size" => {
                let size = decimal(value)?;
                match self.real_size.replace(size) {
                    Some(other) if other != size => return None,
                    _ => {}
                }
            }
            b"numblocks" => self.count = Some(decimal(value)?),
            b"offset" => match self.offset.replace(decimal(value)?) {
                None => {}
                Some(_) => return None,
            },
            b"numbytes" => {
                let offset = self.offset.take()?;
                self.push(Piece { offset, length: decimal(value)? })?;
            }
            b"map" => {
                if self.pieces.is_some() {
                    return None;
                }
                self.pieces = Some(Vec::new());
                let mut numbers =
                    value.split(|b| *b == b',').filter(|text| !(value.is_empty() && text.is_empty()));
                while let Some(offset) = numbers.next() {
                    self.push(Piece { offset: decimal(offset)?, length: decimal(numbers.next()?)? })?;
                }
            }
            _ => return None,
        }
        Some(())
    }

    fn push(&mut self, piece: Piece) -> Option<()> {
        let pieces = self.pieces.get_or_insert_default();
        pieces.push(piece);
        (pieces.len() <= MAX_PIECES).then_some(())
    }

    const fn is_used(&self) -> bool {
        self.name.is_some()
            || self.version.0.is_some()
            || self.version.1.is_some()
            || self.real_size.is_some()
            || self.pieces.is_some()
            || self.offset.is_some()
            || self.count.is_some()
    }

    /// Whether the map is at the start of the file's data (form 1.0).
    pub(super) fn is_in_data(&self) -> bool {
        self.version == (Some(1), Some(0))
    }

    /// The map of forms 0.0 and 0.1; `None` if the file is not sparse.
    pub(super) fn into_pieces(self) -> Result<Option<Vec<Piece>>, Rule> {
        match (self.pieces, self.count) {
            (None, None) => Ok(None),
            (Some(pieces), Some(count)) if pieces.len() as u64 == count => Ok(Some(pieces)),
            _ => Err(Rule::SparseMap),
        }
    }
}

/// The size of a file with its holes. `stored` is the size of its data in the archive.
pub(super) fn real_size(header: &Header, sparse: &PaxSparse, stored: u64) -> Result<u64, Rule> {
    let pax = sparse.is_used();
    match header.kind {
        b'S' if pax || header.format != Format::Gnu => Err(Rule::SparseMap),
        b'S' => Ok(header.real_size),
        _ if !pax => Ok(stored),
        _ if !header.is_file() => Err(Rule::SparseMap),
        _ => {
            let known = matches!(sparse.version, (None, None) | (Some(0), Some(0 | 1)) | (Some(1), Some(0)));
            let has_map = sparse.pieces.is_some() != sparse.is_in_data();
            match sparse.real_size {
                Some(size) if known && has_map && sparse.offset.is_none() => Ok(size),
                _ => Err(Rule::SparseMap),
            }
        }
    }
}

/// The part of the map in a header of type `S`, and whether continuation blocks follow.
pub(super) fn read_gnu_header(block: &Block) -> Result<(Vec<Piece>, bool), Rule> {
    let mut map = Vec::new();
    read_gnu_pieces(field(block, 386, 96), &mut map)?;
    Ok((map, more_follow(block, 482)?))
}

/// Adds the pieces of a continuation block; true if another one follows.
pub(super) fn read_gnu_continuation(block: &Block, map: &mut Vec<Piece>) -> Result<bool, Rule> {
    read_gnu_pieces(field(block, 0, 504), map)?;
    more_follow(block, 504)
}

fn more_follow(block: &Block, at: usize) -> Result<bool, Rule> {
    match field(block, at, 1) {
        [0] => Ok(false),
        [1] => Ok(true),
        _ => Err(Rule::SparseMap),
    }
}

/// Pairs of twelve-byte numbers, up to the first pair of NULs.
fn read_gnu_pieces(fields: &[u8], map: &mut Vec<Piece>) -> Result<(), Rule> {
    let mut ended = false;
    for pair in fields.chunks_exact(24) {
        if pair.iter().all(|b| *b == 0) {
            ended = true;
            continue;
        }
        if ended || map.len() >= MAX_PIECES {
            return Err(Rule::SparseMap);
        }
        let (offset, length) = pair.split_at(12);
        // Some readers end the map at a field that is empty, others take it for zero and go on.
        if offset.starts_with(&[0]) || length.starts_with(&[0]) {
            return Err(Rule::SparseMap);
        }
        let offset = number::unsigned("sparse offset", offset)?;
        map.push(Piece { offset, length: number::unsigned("sparse length", length)? });
    }
    Ok(())
}

/// Whether the pieces are in order, inside the file, and as long together as the data that is stored.
pub(super) fn check(pieces: &[Piece], size: u64, stored: u64) -> Result<(), Rule> {
    let (mut end, mut sum) = (0u64, 0u64);
    for piece in pieces {
        if piece.offset < end {
            return Err(Rule::SparseMap);
        }
        end = piece.offset.checked_add(piece.length).ok_or(Rule::SparseMap)?;
        sum = sum.checked_add(piece.length).ok_or(Rule::SparseMap)?;
    }
    if end <= size && sum == stored { Ok(()) } else { Err(Rule::SparseMap) }
}

/// The map of form 1.0: decimal numbers, each ended by a line feed, padded with NULs to a block.
#[derive(Debug, Default)]
pub(super) struct DecimalMap {
    digits: Vec<u8>,
    /// How many pieces there are, once read.
    count: Option<u64>,
    offset: Option<u64>,
    pieces: Vec<Piece>,
}

impl DecimalMap {
    /// Takes the next block; true when the map is complete.
    pub(super) fn read(&mut self, block: &Block) -> Result<bool, Rule> {
        for byte in block.iter().take(BLOCK) {
            match (self.is_complete(), byte) {
                (true, 0) => {}
                (false, b'0'..=b'9') if self.digits.len() < 19 => self.digits.push(*byte),
                (false, b'\n') => {
                    let number = decimal(&self.digits).ok_or(Rule::SparseMap)?;
                    self.digits.clear();
                    self.push(number)?;
                }
                _ => return Err(Rule::SparseMap),
            }
        }
        Ok(self.is_complete())
    }

    fn push(&mut self, number: u64) -> Result<(), Rule> {
        match (self.count, self.offset.take()) {
            (None, _) if number > MAX_PIECES as u64 => return Err(Rule::SparseMap),
            (None, _) => self.count = Some(number),
            (Some(_), None) => self.offset = Some(number),
            (Some(_), Some(offset)) => self.pieces.push(Piece { offset, length: number }),
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.count == Some(self.pieces.len() as u64)
    }

    pub(super) fn into_pieces(self) -> Vec<Piece> {
        self.pieces
    }
}
