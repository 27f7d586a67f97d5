//! Non-volatile indices: read whole, written whole.
//!
//! TPM2_NV_ReadPublic, TPM2_NV_Read, TPM2_NV_DefineSpace and TPM2_NV_Write of the TPM 2.0 Library, part 3; TPMS_NV_PUBLIC
//! and TPMA_NV of part 2.

use cc_evidence::Error as FormatError;
use cc_evidence::HashAlgorithm;
use cc_evidence::read::Reader;

use super::TpmError;
use super::command::{CAPABILITY, Command, NV_DEFINE_SPACE, NV_READ, NV_READ_PUBLIC, NV_WRITE};
use super::link::Link;

/// TPM_RH_OWNER.
const OWNER: u32 = 0x4000_0001;

const OWNER_WRITE: u32 = 1 << 1;
const AUTH_WRITE: u32 = 1 << 2;
const OWNER_READ: u32 = 1 << 17;
const AUTH_READ: u32 = 1 << 18;

/// Bytes of one read or write when the TPM does not tell its limit: every TPM does 512.
const SAFE_CHUNK: usize = 512;

/// Most bytes of one read or write, whatever the TPM tells: the command has to fit into the kernel's buffer.
const MAX_CHUNK: usize = 2048;

/// What an index says of itself.
#[derive(Debug)]
struct Index {
    attributes: u32,
    size: usize,
}

impl Index {
    /// Who may use the index: the owner if both may, as the index's own password may be any.
    fn authority(&self, index: u32, owner: u32, own: u32, doing: &str) -> Result<u32, TpmError> {
        if self.attributes & owner != 0 {
            Ok(OWNER)
        } else if self.attributes & own != 0 {
            Ok(index)
        } else {
            Err(TpmError::NvForbidden { index, doing: doing.to_owned() })
        }
    }
}

pub(super) fn read(link: &mut Link, index: u32, limit: usize) -> Result<Vec<u8>, TpmError> {
    let public = public(link, index)?;
    if public.size > limit {
        return Err(TpmError::NvTooLarge { index, size: public.size, limit });
    }
    let authority = public.authority(index, OWNER_READ, AUTH_READ, "read")?;
    let step = format!("reading the NV index {index:#010x}");
    let chunk = chunk(link)?;
    let mut content = Vec::new();
    while content.len() < public.size {
        let size = chunk.min(public.size - content.len());
        let parameters = [number(size)?, number(content.len())?].concat();
        let command = Command::authorized(NV_READ, &[authority, index], &parameters);
        let response = link.call(&step, &command).map_err(|error| error.at_nv(index))?;
        let mut r = Reader::new(&response);
        let mut take = || {
            let len = r.u16_be("nv.data")?;
            r.take(usize::from(len), "nv.data").map(<[u8]>::to_vec)
        };
        let malformed = |why: String| TpmError::Malformed { step: step.clone(), why };
        let data = take().map_err(|e: FormatError| malformed(e.to_string()))?;
        r.finish("the NV data").map_err(|e| malformed(e.to_string()))?;
        if data.len() != size {
            return Err(malformed(format!("{} bytes, {size} were asked for", data.len())));
        }
        content.extend(data);
    }
    Ok(content)
}

pub(super) fn define_write(link: &mut Link, index: u32, data: &[u8]) -> Result<(), TpmError> {
    let public = match public(link, index) {
        Err(TpmError::NvAbsent { .. }) => define(link, index, data.len())?,
        other => other?,
    };
    if public.size != data.len() {
        return Err(TpmError::NvOtherSize { index, size: public.size, wanted: data.len() });
    }
    let authority = public.authority(index, OWNER_WRITE, AUTH_WRITE, "written")?;
    let step = format!("writing the NV index {index:#010x}");
    let mut offset = 0;
    for part in data.chunks(chunk(link)?) {
        let parameters = [number(part.len())?.as_slice(), part, &number(offset)?].concat();
        let command = Command::authorized(NV_WRITE, &[authority, index], &parameters);
        link.call(&step, &command).map_err(|error| error.at_nv(index))?;
        offset += part.len();
    }
    Ok(())
}

fn define(link: &mut Link, index: u32, size: usize) -> Result<Index, TpmError> {
    let attributes = OWNER_WRITE | AUTH_WRITE | OWNER_READ | AUTH_READ;
    let public = [
        index.to_be_bytes().as_slice(),
        &HashAlgorithm::Sha256.tcg_id().to_be_bytes(),
        &attributes.to_be_bytes(),
        &[0, 0], // no policy
        &number(size)?,
    ]
    .concat();
    // An empty password for the index, then the description.
    let parameters = [[0, 0].as_slice(), &number(public.len())?, &public].concat();
    let step = format!("defining the NV index {index:#010x}");
    link.call(&step, &Command::authorized(NV_DEFINE_SPACE, &[OWNER], &parameters))?;
    Ok(Index { attributes, size })
}

fn public(link: &mut Link, index: u32) -> Result<Index, TpmError> {
    let step = format!("looking at the NV index {index:#010x}");
    let response = link
        .call(&step, &Command::plain(NV_READ_PUBLIC, &[index], &[]))
        .map_err(|error| error.at_nv(index))?;
    let read = || -> Result<(u32, Index), FormatError> {
        let mut r = Reader::new(&response);
        let len = r.u16_be("nv.public")?;
        let mut inner = Reader::new(r.take(usize::from(len), "nv.public")?);
        let number = inner.u32_be("nv.index")?;
        inner.u16_be("nv.name_hash")?;
        let attributes = inner.u32_be("nv.attributes")?;
        let policy = inner.u16_be("nv.policy")?;
        inner.take(usize::from(policy), "nv.policy")?;
        let size = usize::from(inner.u16_be("nv.size")?);
        inner.finish("the description of the NV index")?;
        let name = r.u16_be("nv.name")?;
        r.take(usize::from(name), "nv.name")?;
        r.finish("the answer")?;
        Ok((number, Index { attributes, size }))
    };
    match read() {
        Ok((number, public)) if number == index => Ok(public),
        Ok((number, _)) => {
            Err(TpmError::Malformed { step, why: format!("it is about the index {number:#010x}") })
        }
        Err(error) => Err(TpmError::Malformed { step, why: error.to_string() }),
    }
}

/// How many bytes one read or write may have.
fn chunk(link: &mut Link) -> Result<usize, TpmError> {
    /// TPM_CAP_TPM_PROPERTIES.
    const PROPERTIES: u32 = 6;
    /// TPM_PT_NV_BUFFER_MAX.
    const NV_BUFFER_MAX: u32 = 0x12C;
    let step = "asking the TPM for its limits";
    let parameters: Vec<u8> = [PROPERTIES, NV_BUFFER_MAX, 1].iter().flat_map(|n| n.to_be_bytes()).collect();
    let response = link.call(step, &Command::plain(CAPABILITY, &[], &parameters))?;
    let read = || -> Result<Option<u32>, FormatError> {
        let mut r = Reader::new(&response);
        r.u8("capability.more")?;
        r.u32_be("capability.kind")?;
        if r.u32_be("capability.count")? == 0 {
            return Ok(None);
        }
        let property = r.u32_be("capability.property")?;
        let value = r.u32_be("capability.value")?;
        Ok((property == NV_BUFFER_MAX).then_some(value))
    };
    let told = read().map_err(|e| TpmError::Malformed { step: step.to_owned(), why: e.to_string() })?;
    let told = told.map_or(SAFE_CHUNK, |max| usize::try_from(max).unwrap_or(MAX_CHUNK));
    Ok(told.clamp(1, MAX_CHUNK))
}

/// A size or offset in a command.
fn number(n: usize) -> Result<[u8; 2], TpmError> {
    u16::try_from(n)
        .map(u16::to_be_bytes)
        .map_err(|_| TpmError::BadRequest { why: format!("{n} bytes; an NV index has {} at most", u16::MAX) })
}
