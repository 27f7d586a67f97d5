//! A strict reader of tar archives, without I/O: bytes in, entries and their data out.
//!
//! Implements the ustar and pax interchange formats (POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header
//! Block"), GNU's long names, base-256 numbers and sparse files (GNU tar manual, "Basic Tar Format", "Sparse Formats"),
//! and the oldest headers without magic. One rule is above all others: **what two readers could read differently is
//! refused.** A layer is signed by its digest, and what one tool shows when it is audited must be what another unpacks.
//! So there is no recovery, no skipping of damaged headers, and no preference between two names for one entry.
//!
//! It does not interpret names beyond finding where they end: that an entry stays inside its target is the business of
//! [`unpack`](super::unpack). What follows the end marker is not looked at; whoever feeds the reader hashes it.

mod header;
mod number;
mod pax;
mod rule;
mod sparse;

use header::{Block, Header};
use pax::Pax;
use sparse::{DecimalMap, Piece};

use crate::{Limits, limits::counted};
pub use rule::{Refusal, Rule};

/// Length of a header, and what data is padded to.
const BLOCK: usize = 512;
/// Most bytes of a pax header: names, and extended attributes of up to 64 KiB each.
const MAX_PAX: u64 = 1 << 20;

/// One member of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name: any bytes but NUL, not empty.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with set-user-id, set-group-id and sticky bit; nothing above.
    pub mode: u32,
    /// Owner; never 2^32-1, which chown(2) takes for "leave it".
    pub uid: u32,
    /// Group; never 2^32-1.
    pub gid: u32,
    /// Time of the last change.
    pub mtime: Time,
    /// Extended attributes by name, each name once, as `SCHILY.xattr.` records have them.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Type of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Regular file; [`Event::Data`] and one [`Event::FileEnd`] follow.
    File {
        /// Its length with holes.
        size: u64,
    },
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink {
        /// Where it points, not empty.
        target: Vec<u8>,
    },
    /// Another name for an earlier entry.
    Link {
        /// That entry's name, not empty.
        target: Vec<u8>,
    },
    /// Character device.
    CharDevice {
        /// At most 12 bits.
        major: u32,
        /// At most 20 bits.
        minor: u32,
    },
    /// Block device.
    BlockDevice {
        /// At most 12 bits.
        major: u32,
        /// At most 20 bits.
        minor: u32,
    },
    /// Named pipe.
    Fifo,
}

impl Kind {
    /// Length of a file; of anything else 0.
    #[must_use]
    pub const fn size(&self) -> u64 {
        match self {
            Self::File { size } => *size,
            _ => 0,
        }
    }
}

/// A point in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// Seconds since 1970, also before.
    pub seconds: i64,
    /// 0 to 999,999,999, added to the seconds.
    pub nanoseconds: u32,
}

/// What the reader found.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The next entry.
    Entry(Entry),
    /// Some of the last file's data. Offsets ascend; what is between two pieces is a hole.
    Data {
        /// Where in the file.
        offset: u64,
        /// At least one byte.
        bytes: &'a [u8],
    },
    /// The last file is complete.
    FileEnd,
}

/// The state of reading one archive. After an error it must not be used again.
#[derive(Debug)]
pub struct Reader {
    limits: Limits,
    stage: Stage,
    block: Partial,
    ahead: Ahead,
    /// Bytes taken so far.
    position: u64,
    /// Where the header read last began.
    header_at: u64,
    entries: u64,
    /// Headers that say something about the entry that follows; each has three kinds of them at most.
    extended: u64,
    /// Sum of the sizes of all files.
    claimed: u64,
}

#[derive(Debug)]
enum Stage {
    /// Before a header.
    Header,
    /// After one block of zeros.
    LoneZero,
    /// In the data of an extended header of type `x`, `g`, `L` or `K`.
    Extended { kind: u8, left: u64, padding: u64, bytes: Vec<u8> },
    /// In the continuation blocks of a GNU sparse map.
    GnuMap { entry: Entry, stored: u64, map: Vec<Piece> },
    /// In the map at the start of the data of a pax 1.0 sparse file.
    PaxMap { entry: Entry, stored: u64, map: DecimalMap },
    /// In the data of a file.
    Data(Body),
    /// In the zeros after data.
    Padding(u64),
    /// After the end marker.
    End,
}

/// Where we are in the data of a file.
#[derive(Debug)]
struct Body {
    pieces: std::vec::IntoIter<Piece>,
    current: Piece,
    padding: u64,
}

/// Extended headers that wait for their entry.
#[derive(Debug, Default)]
struct Ahead {
    pax: Option<Pax>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl Ahead {
    const fn is_empty(&self) -> bool {
        self.pax.is_none() && self.long_name.is_none() && self.long_link.is_none()
    }
}

/// A header that has not come completely yet.
#[derive(Debug)]
struct Partial {
    bytes: Block,
    filled: usize,
}

impl Reader {
    /// A reader at the start of an archive. Of `limits` it uses `entries`, `bytes` and `name`.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            stage: Stage::Header,
            block: Partial { bytes: [0; BLOCK], filled: 0 },
            ahead: Ahead::default(),
            position: 0,
            header_at: 0,
            entries: 0,
            extended: 0,
            claimed: 0,
        }
    }

    /// Takes bytes off the front of `input` up to the next event. `None`: all were taken, and more are needed.
    ///
    /// # Errors
    /// The rule that the archive breaks.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, Refusal> {
        self.step(input).map_err(|rule| Refusal { rule, at: self.header_at })
    }

    /// To be called when the stream has ended.
    ///
    /// # Errors
    /// The stream ended inside an entry.
    pub fn finish(self) -> Result<(), Refusal> {
        let rule = match self.stage {
            Stage::End => return Ok(()),
            // Some writers (umoci insert) leave the zeros after the last file's data away. Readers agree on the file.
            Stage::Header | Stage::LoneZero | Stage::Padding(_) if self.block.filled == 0 => {
                match self.ahead.is_empty() {
                    true => return Ok(()),
                    false => Rule::ExtendedWithoutEntry,
                }
            }
            _ => Rule::Truncated,
        };
        Err(Refusal { rule, at: self.header_at })
    }

    fn step<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, Rule> {
        loop {
            match std::mem::replace(&mut self.stage, Stage::Header) {
                Stage::Header => {
                    let Some(block) = self.whole_block(input) else { return Ok(None) };
                    self.header_at = self.position - BLOCK as u64;
                    if let Some(entry) = self.read_header(&block)? {
                        return Ok(Some(Event::Entry(entry)));
                    }
                }
                Stage::LoneZero => {
                    self.stage = Stage::LoneZero;
                    let Some(block) = self.whole_block(input) else { return Ok(None) };
                    if block.iter().any(|b| *b != 0) {
                        return Err(Rule::LoneZeroBlock);
                    }
                    self.stage = Stage::End;
                }
                Stage::Extended { kind, mut left, padding, mut bytes } => {
                    let taken = self.take(input, left);
                    bytes.extend_from_slice(taken);
                    left -= taken.len() as u64;
                    if left > 0 {
                        self.stage = Stage::Extended { kind, left, padding, bytes };
                        return Ok(None);
                    }
                    self.read_extended(kind, bytes)?;
                    self.stage = Stage::Padding(padding);
                }
                Stage::GnuMap { entry, stored, mut map } => {
                    let Some(block) = self.whole_block(input) else {
                        self.stage = Stage::GnuMap { entry, stored, map };
                        return Ok(None);
                    };
                    if sparse::read_gnu_continuation(&block, &mut map)? {
                        self.stage = Stage::GnuMap { entry, stored, map };
                        continue;
                    }
                    return self.start_body(entry, stored, stored, map).map(Some);
                }
                Stage::PaxMap { entry, stored, mut map } => {
                    let Some(block) = self.whole_block(input) else {
                        self.stage = Stage::PaxMap { entry, stored, map };
                        return Ok(None);
                    };
                    let left = stored.checked_sub(BLOCK as u64).ok_or(Rule::SparseMap)?;
                    if map.read(&block)? {
                        return self.start_body(entry, left, left, map.into_pieces()).map(Some);
                    }
                    self.stage = Stage::PaxMap { entry, stored: left, map };
                }
                Stage::Data(mut body) => {
                    if body.current.length == 0 {
                        match body.pieces.next() {
                            Some(next) => body.current = next,
                            None => {
                                self.stage = Stage::Padding(body.padding);
                                return Ok(Some(Event::FileEnd));
                            }
                        }
                        self.stage = Stage::Data(body);
                        continue;
                    }
                    let bytes = self.take(input, body.current.length);
                    let offset = body.current.offset;
                    body.current.offset += bytes.len() as u64;
                    body.current.length -= bytes.len() as u64;
                    self.stage = Stage::Data(body);
                    return Ok((!bytes.is_empty()).then_some(Event::Data { offset, bytes }));
                }
                Stage::Padding(mut left) => {
                    left -= self.take(input, left).len() as u64;
                    if left > 0 {
                        self.stage = Stage::Padding(left);
                        return Ok(None);
                    }
                }
                Stage::End => {
                    self.stage = Stage::End;
                    self.take(input, u64::MAX);
                    return Ok(None);
                }
            }
        }
    }

    /// Reads a header block and sets the stage that follows it. Gives the entry if it needs no map first.
    fn read_header(&mut self, block: &Block) -> Result<Option<Entry>, Rule> {
        if block.iter().all(|b| *b == 0) {
            if !self.ahead.is_empty() {
                return Err(Rule::ExtendedWithoutEntry);
            }
            self.stage = Stage::LoneZero;
            return Ok(None);
        }
        let header = Header::parse(block)?;
        if matches!(header.kind, b'x' | b'g' | b'L' | b'K') {
            count(&mut self.extended, "extended headers", self.limits.entries.saturating_mul(3))?;
            return self.start_extended(&header).map(|()| None);
        }
        count(&mut self.entries, counted::ENTRIES, self.limits.entries)?;
        let ahead = std::mem::take(&mut self.ahead);
        let mut pax = ahead.pax.unwrap_or_default();
        let map = std::mem::take(&mut pax.sparse);
        let stored = pax.size.unwrap_or(header.size);
        let size = sparse::real_size(&header, &map, stored)?;
        let name = one_of(map.name.clone().or_else(|| pax.path.take()), ahead.long_name)?;
        let target = one_of(pax.linkpath.take(), ahead.long_link)?.unwrap_or_else(|| header.link.clone());
        let entry = Entry {
            name: self.check_name(name.unwrap_or_else(|| header.name.clone()), header.is_directory())?,
            kind: header.kind_of_entry(size, target)?,
            mode: header.mode,
            uid: header::owner("uid", pax.uid.unwrap_or(header.uid))?,
            gid: header::owner("gid", pax.gid.unwrap_or(header.gid))?,
            mtime: pax.mtime.unwrap_or(Time { seconds: header.mtime, nanoseconds: 0 }),
            xattrs: pax.xattrs,
        };
        match &entry.kind {
            Kind::File { .. } => {}
            _ if stored != 0 => return Err(Rule::SizeWithoutData),
            Kind::Symlink { target } | Kind::Link { target } if target.is_empty() => {
                return Err(Rule::EmptyTarget);
            }
            Kind::Symlink { target } | Kind::Link { target } if target.len() > self.limits.name => {
                return Err(self.name_limit());
            }
            _ => return Ok(Some(entry)),
        }
        self.claimed = self.claimed.saturating_add(size);
        if self.claimed > self.limits.bytes {
            return Err(Rule::Limit { what: counted::IN_FILES, limit: self.limits.bytes });
        }
        if header.kind == b'S' {
            let (pieces, more) = sparse::read_gnu_header(block)?;
            if more {
                self.stage = Stage::GnuMap { entry, stored, map: pieces };
                return Ok(None);
            }
            return self.start_pieces(size, stored, stored, pieces).map(|()| Some(entry));
        }
        if map.is_in_data() {
            self.stage = Stage::PaxMap { entry, stored, map: DecimalMap::default() };
            return Ok(None);
        }
        let pieces = map.into_pieces()?.unwrap_or_else(|| vec![Piece { offset: 0, length: stored }]);
        self.start_pieces(size, stored, stored, pieces).map(|()| Some(entry))
    }

    fn start_extended(&mut self, header: &Header) -> Result<(), Rule> {
        let taken = match header.kind {
            b'x' => self.ahead.pax.is_some(),
            b'L' => self.ahead.long_name.is_some(),
            b'K' => self.ahead.long_link.is_some(),
            _ => !self.ahead.is_empty(),
        };
        if taken {
            return Err(Rule::ExtendedTwice);
        }
        let most = match header.kind {
            b'x' | b'g' => MAX_PAX,
            _ => self.limits.name as u64 + 1,
        };
        if header.size > most {
            return Err(Rule::Limit { what: "bytes in an extended header", limit: most });
        }
        let padding = padding_after(header.size);
        self.stage = Stage::Extended { kind: header.kind, left: header.size, padding, bytes: Vec::new() };
        Ok(())
    }

    fn read_extended(&mut self, kind: u8, bytes: Vec<u8>) -> Result<(), Rule> {
        match kind {
            b'x' => self.ahead.pax = Some(Pax::parse(&bytes)?),
            b'L' => self.ahead.long_name = Some(without_end(bytes)?),
            b'K' => self.ahead.long_link = Some(without_end(bytes)?),
            _ => pax::check_global(&bytes)?,
        }
        Ok(())
    }

    /// A name that stands for one thing only.
    fn check_name(&self, name: Vec<u8>, directory: bool) -> Result<Vec<u8>, Rule> {
        if name.is_empty() {
            Err(Rule::EmptyName)
        } else if name.len() > self.limits.name {
            Err(self.name_limit())
        } else if name.ends_with(b"/") && !directory {
            Err(Rule::TrailingSlash)
        } else {
            Ok(name)
        }
    }

    const fn name_limit(&self) -> Rule {
        Rule::Limit { what: counted::NAME, limit: self.limits.name as u64 }
    }

    fn start_body<'a>(
        &mut self,
        entry: Entry,
        stored: u64,
        padded: u64,
        pieces: Vec<Piece>,
    ) -> Result<Event<'a>, Rule> {
        self.start_pieces(entry.kind.size(), stored, padded, pieces)?;
        Ok(Event::Entry(entry))
    }

    fn start_pieces(&mut self, size: u64, stored: u64, padded: u64, pieces: Vec<Piece>) -> Result<(), Rule> {
        sparse::check(&pieces, size, stored)?;
        let start = Piece { offset: 0, length: 0 };
        self.stage =
            Stage::Data(Body { pieces: pieces.into_iter(), current: start, padding: padding_after(padded) });
        Ok(())
    }

    /// The next block, once all of it is there.
    fn whole_block(&mut self, input: &mut &[u8]) -> Option<Block> {
        let wanted = BLOCK - self.block.filled;
        let taken = self.take(input, wanted as u64);
        let rest = self.block.bytes.get_mut(self.block.filled..)?;
        for (to, from) in rest.iter_mut().zip(taken) {
            *to = *from;
        }
        self.block.filled += taken.len();
        if self.block.filled < BLOCK {
            return None;
        }
        self.block.filled = 0;
        Some(self.block.bytes)
    }

    fn take<'a>(&mut self, input: &mut &'a [u8], most: u64) -> &'a [u8] {
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(input.len());
        let (taken, rest) = input.split_at(most);
        *input = rest;
        self.position += most as u64;
        taken
    }
}

/// The one name that was given, if any.
fn count(seen: &mut u64, what: &'static str, limit: u64) -> Result<(), Rule> {
    *seen += 1;
    if *seen > limit { Err(Rule::Limit { what, limit }) } else { Ok(()) }
}

fn one_of(pax: Option<Vec<u8>>, gnu: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, Rule> {
    match (pax, gnu) {
        (Some(_), Some(_)) => Err(Rule::NameTwice),
        (name, None) | (None, name) => Ok(name),
    }
}

/// A GNU long name without the NUL that ends it. A NUL elsewhere would cut it in some readers only.
fn without_end(mut bytes: Vec<u8>) -> Result<Vec<u8>, Rule> {
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    match bytes.contains(&0) {
        true => Err(Rule::NulInName),
        false if bytes.is_empty() => Err(Rule::EmptyName),
        false => Ok(bytes),
    }
}

const fn padding_after(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}
