//! One header block (POSIX.1-2017, pax, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format").

use super::{BLOCK, Kind, Rule, number};

/// A header block.
pub(super) type Block = [u8; BLOCK];

const MAGIC_USTAR: &[u8] = b"ustar\x0000";
const MAGIC_GNU: &[u8] = b"ustar  \0";
const MAX_MAJOR: u64 = 0xfff;
const MAX_MINOR: u64 = 0xf_ffff;

/// The fields of a header, before extended headers are applied.
#[derive(Debug)]
pub(super) struct Header {
    /// Name with prefix.
    pub(super) name: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) size: u64,
    pub(super) mtime: i64,
    /// Type flag; the old NUL for a regular file is `0` here.
    pub(super) kind: u8,
    pub(super) link: Vec<u8>,
    pub(super) format: Format,
    /// Size with holes of a file of type `S`, else 0.
    pub(super) real_size: u64,
    device: (u64, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Old,
    Ustar,
    Gnu,
}

impl Header {
    pub(super) fn parse(block: &Block) -> Result<Self, Rule> {
        check_sum(block)?;
        let format = format(block)?;
        let kind = match field(block, 156, 1).first() {
            Some(0) | None => b'0',
            Some(kind) => *kind,
        };
        let mode = number::unsigned("mode", field(block, 100, 8))?;
        let device = match kind {
            b'3' | b'4' => (
                number::unsigned("device major", field(block, 329, 8))?,
                number::unsigned("device minor", field(block, 337, 8))?,
            ),
            _ => (0, 0),
        };
        Ok(Self {
            name: whole_name(block, format)?,
            mode: u32::try_from(mode & 0o7777).map_err(|_| Rule::OutOfRange("mode"))?,
            uid: number::unsigned("uid", field(block, 108, 8))?,
            gid: number::unsigned("gid", field(block, 116, 8))?,
            size: number::unsigned("size", field(block, 124, 12))?,
            mtime: number::signed("mtime", field(block, 136, 12))?,
            kind,
            link: text(field(block, 157, 100)).to_vec(),
            format,
            real_size: match kind {
                b'S' => number::unsigned("real size", field(block, 483, 12))?,
                _ => 0,
            },
            device,
        })
    }

    pub(super) const fn is_directory(&self) -> bool {
        self.kind == b'5'
    }

    /// Whether the type is that of a regular file, sparse or not.
    pub(super) const fn is_file(&self) -> bool {
        matches!(self.kind, b'0' | b'S')
    }

    /// The entry's type, with what was found out about it.
    pub(super) fn kind_of_entry(&self, size: u64, target: Vec<u8>) -> Result<Kind, Rule> {
        let device = |number: u64, most: u64, what| match number {
            n if n <= most => u32::try_from(n).map_err(|_| Rule::OutOfRange(what)),
            _ => Err(Rule::OutOfRange(what)),
        };
        let major = device(self.device.0, MAX_MAJOR, "device major")?;
        let minor = device(self.device.1, MAX_MINOR, "device minor")?;
        Ok(match self.kind {
            b'0' | b'S' => Kind::File { size },
            b'1' => Kind::Link { target },
            b'2' => Kind::Symlink { target },
            b'3' => Kind::CharDevice { major, minor },
            b'4' => Kind::BlockDevice { major, minor },
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => return Err(Rule::Type(other)),
        })
    }
}

/// An owner's number that chown(2) takes for one.
pub(super) fn owner(what: &'static str, number: u64) -> Result<u32, Rule> {
    u32::try_from(number).ok().filter(|n| *n != u32::MAX).ok_or(Rule::OutOfRange(what))
}

pub(super) fn field(block: &[u8], at: usize, length: usize) -> &[u8] {
    block.get(at..at + length).unwrap_or_default()
}

/// Text up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

/// The sum of all bytes, its own field counted as spaces. Only the sum of unsigned bytes: some readers also take that
/// of signed ones.
fn check_sum(block: &Block) -> Result<(), Rule> {
    let stated = number::unsigned("checksum", field(block, 148, 8))?;
    let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
    let own: u64 = field(block, 148, 8).iter().map(|b| u64::from(*b)).sum();
    if stated == sum - own + 8 * u64::from(b' ') { Ok(()) } else { Err(Rule::Checksum) }
}

fn format(block: &Block) -> Result<Format, Rule> {
    match field(block, 257, 8) {
        // Star's own format has the same magic, a shorter prefix, and this at the end.
        MAGIC_USTAR if field(block, 508, 4) == b"tar\0" => Err(Rule::Magic),
        MAGIC_USTAR => Ok(Format::Ustar),
        MAGIC_GNU => {
            // Here ustar has its prefix and GNU two times. Writers exist that mix both, and readers that guess.
            number::signed("atime", field(block, 345, 12))
                .and_then(|_| number::signed("ctime", field(block, 357, 12)))
                .map_err(|_| Rule::Magic)?;
            Ok(Format::Gnu)
        }
        _ if block.iter().skip(257).all(|b| *b == 0) => Ok(Format::Old),
        _ => Err(Rule::Magic),
    }
}

fn whole_name(block: &Block, format: Format) -> Result<Vec<u8>, Rule> {
    let name = text(field(block, 0, 100));
    let prefix = match format {
        Format::Ustar => text(field(block, 345, 155)),
        Format::Old | Format::Gnu => &[],
    };
    match (prefix, name) {
        ([], name) => Ok(name.to_vec()),
        (_, []) => Err(Rule::EmptyName),
        (prefix, name) => Ok([prefix, b"/", name].concat()),
    }
}
