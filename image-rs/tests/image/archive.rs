//! Writes tar archives byte by byte, also wrong ones.

/// An archive being written.
#[derive(Clone, Default)]
pub struct Archive(pub Vec<u8>);

/// Names, kinds and targets of what looks like headers.
impl std::fmt::Debug for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let headers = self.0.chunks_exact(512).filter(|block| block[257..262] == *b"ustar");
        let text = |field: &[u8]| String::from_utf8_lossy(field).trim_end_matches('\0').to_owned();
        let shown = headers.map(|h| (text(&h[..100]), char::from(h[156]), text(&h[157..257])));
        f.debug_list().entries(shown).finish()
    }
}

/// A header being written: ustar, mode 0644, owner 0:0, time 0.
#[derive(Clone)]
pub struct Header(pub [u8; 512]);

impl Header {
    pub fn new(name: &[u8], kind: u8, size: u64) -> Self {
        let mut header = Self([0; 512]);
        header.set(0, &name[..name.len().min(100)]);
        header.set(257, b"ustar\x0000");
        header.set(156, &[kind]);
        header.octal(100, 8, 0o644).octal(108, 8, 0).octal(116, 8, 0).octal(124, 12, size).octal(136, 12, 0);
        header
    }

    pub fn set(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub fn octal(&mut self, at: usize, length: usize, value: u64) -> &mut Self {
        let text = format!("{value:0width$o}\0", width = length - 1);
        self.set(at, text.as_bytes())
    }

    pub fn mode(&mut self, mode: u64) -> &mut Self {
        self.octal(100, 8, mode)
    }

    pub fn owner(&mut self, uid: u64, gid: u64) -> &mut Self {
        self.octal(108, 8, uid).octal(116, 8, gid)
    }

    pub fn mtime(&mut self, seconds: u64) -> &mut Self {
        self.octal(136, 12, seconds)
    }

    pub fn link(&mut self, target: &[u8]) -> &mut Self {
        self.set(157, target)
    }

    pub fn device(&mut self, major: u64, minor: u64) -> &mut Self {
        self.octal(329, 8, major).octal(337, 8, minor)
    }

    /// The header with its checksum.
    pub fn sealed(&self) -> [u8; 512] {
        let mut bytes = self.0;
        bytes[148..156].fill(b' ');
        let sum: u32 = bytes.iter().map(|b| u32::from(*b)).sum();
        bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        bytes
    }
}

impl Archive {
    /// A header and its data, padded.
    pub fn member(mut self, header: &Header, data: &[u8]) -> Self {
        self.0.extend(header.sealed());
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, name: &str, data: &[u8]) -> Self {
        self.member(&Header::new(name.as_bytes(), b'0', data.len() as u64), data)
    }

    pub fn directory(self, name: &str) -> Self {
        self.member(Header::new(name.as_bytes(), b'5', 0).mode(0o755), b"")
    }

    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.member(Header::new(name.as_bytes(), b'2', 0).link(target.as_bytes()), b"")
    }

    pub fn link(self, name: &str, target: &str) -> Self {
        self.member(Header::new(name.as_bytes(), b'1', 0).link(target.as_bytes()), b"")
    }

    /// A pax header for the member that follows.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        self.extended(b'x', &records.iter().flat_map(|(key, value)| record(key, value)).collect::<Vec<_>>())
    }

    /// An extended header of type `kind` with any data.
    pub fn extended(self, kind: u8, data: &[u8]) -> Self {
        self.member(&Header::new(b"extended", kind, data.len() as u64), data)
    }

    pub fn blocks(mut self, count: usize) -> Self {
        self.0.resize(self.0.len() + 512 * count, 0);
        self
    }

    /// The archive with its end marker.
    pub fn end(self) -> Vec<u8> {
        self.blocks(2).0
    }
}

/// `length keyword=value` and a line feed; the length counts itself.
pub fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (rest + 1..).find(|n| n.to_string().len() + rest == *n).unwrap();
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}
