//! The certificate table that a host hands to the guest beside a report.
//!
//! AMD publication 56421 (GHCB), "SNP Extended Guest Request": entries `{guid[16], offset u32,
//! length u32}`, little-endian, ended by a zero GUID; offsets count from the start of the table. GUIDs
//! stand in text order. The table comes from the host and is NOT trusted: certificates in it
//! count only after their chain was verified.

use std::fmt;

use crate::Error;
use crate::read::Reader;

/// Most entries that a table may have.
pub const MAX_ENTRIES: usize = 16;

/// Longest table that is read or written, in bytes.
pub const MAX_TABLE_LEN: usize = 64 * 1024;

const ENTRY_LEN: usize = 24;
const END: [u8; 16] = [0; 16];

/// One certificate or list of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertEntry {
    /// What the entry claims to be.
    pub kind: CertKind,
    /// Its bytes, normally DER; PEM has been seen.
    pub data: Vec<u8>,
}

/// What an entry of the table is, by its GUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CertKind {
    /// AMD root key.
    Ark,
    /// AMD intermediate key for chips.
    Ask,
    /// Chip key.
    Vcek,
    /// Cloud provider's key.
    Vlek,
    /// Revocation list.
    Crl,
    /// Anything else, by its GUID in text order.
    Other([u8; 16]),
}

impl CertKind {
    const NAMED: [(CertKind, [u8; 16], &'static str); 5] = [
        (CertKind::Ark, 0xc0b406a4_a803_4952_9743_3fb6014cd0ae_u128.to_be_bytes(), "ARK"),
        (CertKind::Ask, 0x4ab7b379_bbac_4fe4_a02f_05aef327c782_u128.to_be_bytes(), "ASK"),
        (CertKind::Vcek, 0x63da758d_e664_4564_adc5_f4b93be8accd_u128.to_be_bytes(), "VCEK"),
        (CertKind::Vlek, 0xa8074bc2_a25a_483e_aae6_39c045a0b8a1_u128.to_be_bytes(), "VLEK"),
        (CertKind::Crl, 0x92f81bc3_5811_4d3d_97ff_d19f88dc67ea_u128.to_be_bytes(), "CRL"),
    ];

    /// The kind that a GUID (16 bytes, text order) stands for.
    #[must_use]
    pub fn from_guid(guid: [u8; 16]) -> Self {
        Self::NAMED
            .into_iter()
            .find(|(_, known, _)| *known == guid)
            .map_or(CertKind::Other(guid), |(kind, _, _)| kind)
    }

    /// The GUID, 16 bytes in text order.
    #[must_use]
    pub fn guid(self) -> [u8; 16] {
        match self {
            CertKind::Other(guid) => guid,
            named => {
                Self::NAMED.into_iter().find(|(kind, _, _)| *kind == named).map_or(END, |(_, guid, _)| guid)
            }
        }
    }

    /// The short name of a named kind, `None` for [`CertKind::Other`].
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        Self::NAMED.into_iter().find(|(kind, _, _)| *kind == self).map(|(_, _, name)| name)
    }

    /// The kind with a short name such as `VCEK`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMED.into_iter().find(|(_, _, known)| *known == name).map(|(kind, _, _)| kind)
    }
}

impl fmt::Display for CertKind {
    /// The short name, or the GUID as text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => f.write_str(&guid_text(self.guid())),
        }
    }
}

/// Reads a table. Empty input is a host without certificates and gives an empty list.
///
/// Bytes after the end mark that no entry refers to are ignored: hosts pad to pages.
///
/// # Errors
/// [`Error::TooLarge`] above [`MAX_TABLE_LEN`] or [`MAX_ENTRIES`]; [`Error::Truncated`] without an end
/// mark; [`Error::Invalid`] when an entry points outside the table.
pub fn parse(blob: &[u8]) -> Result<Vec<CertEntry>, Error> {
    if blob.len() > MAX_TABLE_LEN {
        return Err(too_large("the certificate table", blob.len(), MAX_TABLE_LEN));
    }
    let mut entries = Vec::new();
    if blob.is_empty() {
        return Ok(entries);
    }
    let mut r = Reader::new(blob);
    loop {
        let guid = *r.array("cert_table.guid")?;
        if guid == END {
            return Ok(entries);
        }
        let offset = r.u32_le("cert_table.offset")?;
        let length = r.u32_le("cert_table.length")?;
        if entries.len() == MAX_ENTRIES {
            return Err(too_large("the number of certificate entries", MAX_ENTRIES + 1, MAX_ENTRIES));
        }
        let kind = CertKind::from_guid(guid);
        let data = slice(blob, offset, length).ok_or_else(|| Error::Invalid {
            field: "cert_table.offset",
            why: format!("{kind} at {offset} with {length} bytes is outside the {} bytes", blob.len()),
        })?;
        entries.push(CertEntry { kind, data: data.to_vec() });
    }
}

/// Writes a table: entries in the given order, end mark, then the certificates.
///
/// # Errors
/// [`Error::TooLarge`] for what [`parse`] would refuse; [`Error::Invalid`] for an entry with the zero
/// GUID, which would end the table early.
pub fn encode(entries: &[CertEntry]) -> Result<Vec<u8>, Error> {
    if entries.len() > MAX_ENTRIES {
        return Err(too_large("the number of certificate entries", entries.len(), MAX_ENTRIES));
    }
    let header_len = ENTRY_LEN * (entries.len() + 1);
    let total = entries.iter().fold(header_len, |sum, entry| sum.saturating_add(entry.data.len()));
    if total > MAX_TABLE_LEN {
        return Err(too_large("the certificate table", total, MAX_TABLE_LEN));
    }
    let as_u32 =
        |n: usize| u32::try_from(n).map_err(|_| too_large("the certificate table", n, MAX_TABLE_LEN));
    let mut header = Vec::with_capacity(total);
    let mut body = Vec::with_capacity(total - header_len);
    for entry in entries {
        let guid = entry.kind.guid();
        if guid == END {
            return Err(Error::Invalid { field: "cert_table.guid", why: "it is zero".to_owned() });
        }
        header.extend_from_slice(&guid);
        header.extend_from_slice(&as_u32(header_len + body.len())?.to_le_bytes());
        header.extend_from_slice(&as_u32(entry.data.len())?.to_le_bytes());
        body.extend_from_slice(&entry.data);
    }
    header.resize(header_len, 0);
    header.append(&mut body);
    Ok(header)
}

/// A GUID as text, `c0b406a4-a803-4952-9743-3fb6014cd0ae`.
pub(super) fn guid_text(guid: [u8; 16]) -> String {
    let mut text = hex::encode(guid);
    for position in [20, 16, 12, 8] {
        text.insert(position, '-');
    }
    text
}

/// Reads a GUID from text with or without hyphens.
pub(super) fn guid_from_text(text: &str) -> Option<[u8; 16]> {
    let mut guid = [0; 16];
    hex::decode_to_slice(text.replace('-', ""), &mut guid).ok()?;
    Some(guid)
}

fn slice(blob: &[u8], offset: u32, length: u32) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(length).ok()?)?;
    blob.get(start..end)
}

fn too_large(what: &'static str, size: usize, limit: usize) -> Error {
    Error::TooLarge { what, size, limit }
}

#[cfg(test)]
mod tests;
