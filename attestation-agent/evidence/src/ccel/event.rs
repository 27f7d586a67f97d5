//! The records of a log, one after the other.
//!
//! TCG PC Client Platform Firmware Profile 1.06: `TCG_PCClientPCREvent` for the first record, which declares
//! the algorithms, and `TCG_PCR_EVENT2` for all others; little endian. Nothing is interpreted beyond that.

use std::iter::FusedIterator;

use super::{EV_NO_ACTION, MAX_EVENTS, check_len};
use crate::read::Reader;
use crate::{Error, HashAlgorithm};

/// Most algorithms that a log declares, and most digests of one record.
const MAX_ALGORITHMS: u32 = 16;

/// Longest digest of an algorithm that is not known here, in bytes.
const MAX_DIGEST_LEN: u16 = 64;

/// Signature of the first record.
const SPEC_ID: &[u8; 16] = b"Spec ID Event03\0";

/// One digest of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest<'a> {
    /// TPM algorithm identifier, for example 0x000C for SHA-384.
    pub algorithm: u16,
    /// The digest.
    pub bytes: &'a [u8],
}

impl Digest<'_> {
    /// The algorithm, when it is one that is known here.
    #[must_use]
    pub fn hash(&self) -> Option<HashAlgorithm> {
        HashAlgorithm::from_tcg_id(self.algorithm)
    }
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// Register that was extended. In logs of TDX: 0 MRTD (never extended), 1 to 4 for RTMR 0 to 3.
    pub register: u32,
    /// Type of the event, see [`type_name`].
    pub event_type: u32,
    /// Digests, one for each algorithm.
    pub digests: Vec<Digest<'a>>,
    /// What the record says; it need not be what was measured.
    pub data: &'a [u8],
}

impl Event<'_> {
    /// Whether the record was measured at all.
    #[must_use]
    pub const fn is_measured(&self) -> bool {
        self.event_type != EV_NO_ACTION
    }
}

/// What the first record of a log says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declaration {
    /// Register that it names, which means nothing.
    pub register: u32,
    /// Whether it is signed `Spec ID Event03`; the agents' has 16 zeros instead.
    pub signed: bool,
    /// Declared algorithms: TPM identifier and length of the digests in bytes.
    pub algorithms: Vec<(u16, u16)>,
}

/// Walks over the records after the first one, up to the end mark or the end of the bytes.
///
/// After an error there is nothing more. Records borrow from the log.
#[derive(Clone, Debug)]
pub struct Events<'a> {
    rest: Reader<'a>,
    total: usize,
    declared: Declaration,
    seen: usize,
    done: bool,
}

impl<'a> Events<'a> {
    /// Reads the first record of a log of at most [`super::MAX_LOG_LEN`] bytes.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Truncated`], and [`Error::Invalid`] when the first record is not one
    /// that declares algorithms: signed `Spec ID Event03`, or with 16 zeros as agents write it.
    pub fn new(log: &'a [u8]) -> Result<Self, Error> {
        let mut events = Self::bare(log)?;
        events.declared = read_declaration(&mut events.rest)?;
        Ok(events)
    }

    /// Walks over records without a declaration before them: a part of a log.
    pub(super) fn bare(records: &'a [u8]) -> Result<Self, Error> {
        check_len(records)?;
        Ok(Events {
            rest: Reader::new(records),
            total: records.len(),
            declared: Declaration::default(),
            seen: 0,
            done: false,
        })
    }

    /// What the first record said.
    #[must_use]
    pub const fn declaration(&self) -> &Declaration {
        &self.declared
    }

    /// Number of bytes before the next record or, after the last one, before the end mark.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.total - self.rest.left()
    }

    fn at_end(&self) -> bool {
        let mut ahead = self.rest.clone();
        match ahead.array::<8>("eventlog.end") {
            Ok(mark) => matches!(u64::from_le_bytes(*mark), 0 | u64::MAX),
            Err(_) => self.rest.left() == 0,
        }
    }

    fn read(&mut self) -> Result<Event<'a>, Error> {
        if self.seen == MAX_EVENTS {
            return Err(Error::TooLarge {
                what: "the number of records in an event log",
                size: self.seen + 1,
                limit: MAX_EVENTS,
            });
        }
        // A record that cannot be read is not consumed, so that the offset stays meaningful.
        let mut r = self.rest.clone();
        let register = r.u32_le("eventlog.register")?;
        let event_type = r.u32_le("eventlog.type")?;
        let count = r.u32_le("eventlog.digest_count")?;
        if count > MAX_ALGORITHMS {
            return Err(too_many(count));
        }
        let mut digests = Vec::new();
        for _ in 0..count {
            let algorithm = r.u16_le("eventlog.algorithm")?;
            let len = self.digest_len(algorithm)?;
            digests.push(Digest { algorithm, bytes: r.take(len, "eventlog.digest")? });
        }
        let data = sized(&mut r, "eventlog.data")?;
        self.rest = r;
        self.seen += 1;
        Ok(Event { register, event_type, digests, data })
    }

    fn digest_len(&self, algorithm: u16) -> Result<usize, Error> {
        let declared = self
            .declared
            .algorithms
            .iter()
            .find(|(id, _)| *id == algorithm)
            .map(|(_, len)| usize::from(*len));
        declared.or_else(|| HashAlgorithm::from_tcg_id(algorithm).map(HashAlgorithm::digest_len)).ok_or_else(
            || Error::Invalid {
                field: "eventlog.algorithm",
                why: format!("{algorithm:#06x} is neither known nor declared by the first record"),
            },
        )
    }
}

impl<'a> Iterator for Events<'a> {
    type Item = Result<Event<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done || self.at_end() {
            self.done = true;
            return None;
        }
        let event = self.read();
        self.done = event.is_err();
        Some(event)
    }
}

impl FusedIterator for Events<'_> {}

/// The first record: in the old format, with one SHA-1 digest that means nothing.
fn read_declaration(r: &mut Reader<'_>) -> Result<Declaration, Error> {
    let register = r.u32_le("eventlog.first.register")?;
    let event_type = r.u32_le("eventlog.first.type")?;
    if event_type != EV_NO_ACTION {
        return Err(Error::Invalid {
            field: "eventlog.first.type",
            why: format!("{event_type:#x} was found, 3 (EV_NO_ACTION) is expected of the first record"),
        });
    }
    r.take(20, "eventlog.first.digest")?;
    let mut r = Reader::new(sized(r, "eventlog.first.data")?);
    let signature = r.array::<16>("eventlog.first.signature")?;
    if signature != SPEC_ID && signature != &[0; 16] {
        return Err(Error::Invalid {
            field: "eventlog.first.signature",
            why: "it is not \"Spec ID Event03\", so that the log is of another format".to_owned(),
        });
    }
    r.take(4, "eventlog.first.platform_class")?;
    r.take(4, "eventlog.first.version")?;
    let count = r.u32_le("eventlog.first.algorithm_count")?;
    if count > MAX_ALGORITHMS {
        return Err(too_many(count));
    }
    let mut algorithms = Vec::new();
    for _ in 0..count {
        let algorithm = r.u16_le("eventlog.first.algorithm")?;
        let len = r.u16_le("eventlog.first.digest_size")?;
        let fits = match HashAlgorithm::from_tcg_id(algorithm) {
            Some(hash) => usize::from(len) == hash.digest_len(),
            None => len <= MAX_DIGEST_LEN,
        };
        if !fits {
            return Err(Error::Invalid {
                field: "eventlog.first.digest_size",
                why: format!("algorithm {algorithm:#06x} does not have digests of {len} bytes"),
            });
        }
        algorithms.push((algorithm, len));
    }
    let vendor_len = r.u8("eventlog.first.vendor_size")?;
    r.take(usize::from(vendor_len), "eventlog.first.vendor")?;
    r.finish("the first record of an event log")?;
    Ok(Declaration { register, signed: signature == SPEC_ID, algorithms })
}

fn sized<'a>(r: &mut Reader<'a>, field: &'static str) -> Result<&'a [u8], Error> {
    let len = r.u32_le(field)?;
    r.take(usize::try_from(len).unwrap_or(usize::MAX), field)
}

fn too_many(count: u32) -> Error {
    Error::Invalid {
        field: "eventlog.algorithm_count",
        why: format!("{count} algorithms, at most {MAX_ALGORITHMS} are read"),
    }
}

/// Name of an event type in the TCG profile; `None` for one that is not in it.
#[must_use]
pub const fn type_name(event_type: u32) -> Option<&'static str> {
    Some(match event_type {
        0x0 => "EV_PREBOOT_CERT",
        0x1 => "EV_POST_CODE",
        EV_NO_ACTION => "EV_NO_ACTION",
        0x4 => "EV_SEPARATOR",
        0x5 => "EV_ACTION",
        super::EV_EVENT_TAG => "EV_EVENT_TAG",
        0x7 => "EV_S_CRTM_CONTENTS",
        0x8 => "EV_S_CRTM_VERSION",
        0x9 => "EV_CPU_MICROCODE",
        0xA => "EV_PLATFORM_CONFIG_FLAGS",
        0xB => "EV_TABLE_OF_DEVICES",
        0xC => "EV_COMPACT_HASH",
        0xD => "EV_IPL",
        0xE => "EV_IPL_PARTITION_DATA",
        0xF => "EV_NONHOST_CODE",
        0x10 => "EV_NONHOST_CONFIG",
        0x11 => "EV_NONHOST_INFO",
        0x12 => "EV_OMIT_BOOT_DEVICE_EVENTS",
        0x8000_0001 => "EV_EFI_VARIABLE_DRIVER_CONFIG",
        0x8000_0002 => "EV_EFI_VARIABLE_BOOT",
        0x8000_0003 => "EV_EFI_BOOT_SERVICES_APPLICATION",
        0x8000_0004 => "EV_EFI_BOOT_SERVICES_DRIVER",
        0x8000_0005 => "EV_EFI_RUNTIME_SERVICES_DRIVER",
        0x8000_0006 => "EV_EFI_GPT_EVENT",
        0x8000_0007 => "EV_EFI_ACTION",
        0x8000_0008 => "EV_EFI_PLATFORM_FIRMWARE_BLOB",
        0x8000_0009 => "EV_EFI_HANDOFF_TABLES",
        0x8000_000A => "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
        0x8000_000B => "EV_EFI_HANDOFF_TABLES2",
        0x8000_000C => "EV_EFI_VARIABLE_BOOT2",
        0x8000_0010 => "EV_EFI_HCRTM_EVENT",
        0x8000_00E0 => "EV_EFI_VARIABLE_AUTHORITY",
        0x8000_00E1 => "EV_EFI_SPDM_FIRMWARE_BLOB",
        0x8000_00E2 => "EV_EFI_SPDM_FIRMWARE_CONFIG",
        _ => return None,
    })
}
