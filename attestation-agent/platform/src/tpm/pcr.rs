//! Platform configuration registers: read and extend.
//!
//! TPM2_PCR_Read and TPM2_PCR_Extend of the TPM 2.0 Library, part 3.

use cc_evidence::HashAlgorithm;
use cc_evidence::read::Reader;
use cc_evidence::tpm::{PCRS, PcrSelection, read_selections, write_selections};

use super::TpmError;
use super::command::{Command, PCR_EXTEND, PCR_READ};
use super::link::Link;

/// How often PCRs that change while they are read are read again.
pub(super) const TRIES: usize = 8;

/// Most values in one response (TPML_DIGEST).
const MAX_DIGESTS: u32 = 8;

/// Number and value of one PCR.
type Value = (u32, Vec<u8>);

/// The values of `pcrs`, in that order. A TPM gives eight at most in one response, so that several belong together
/// only while the update counter stays.
pub(super) fn values(link: &mut Link, hash: HashAlgorithm, pcrs: &[u32]) -> Result<Vec<Vec<u8>>, TpmError> {
    check_numbers(pcrs)?;
    for _ in 0..TRIES {
        if let Some(found) = read_all(link, hash, pcrs)? {
            let value =
                |pcr: &u32| found.iter().find(|(number, _)| number == pcr).map(|(_, value)| value.clone());
            return pcrs.iter().map(|pcr| value(pcr).ok_or(TpmError::NoBank { hash })).collect();
        }
    }
    Err(TpmError::Unsteady { tries: TRIES })
}

/// All of `pcrs` once, with their numbers; none if the update counter moved meanwhile.
fn read_all(link: &mut Link, hash: HashAlgorithm, pcrs: &[u32]) -> Result<Option<Vec<Value>>, TpmError> {
    let mut wanted: Vec<u32> = pcrs.to_vec();
    wanted.sort_unstable();
    wanted.dedup();
    let mut found = Vec::new();
    let mut counter = None;
    while !wanted.is_empty() {
        let (now, values) = read_some(link, hash, &wanted)?;
        if *counter.get_or_insert(now) != now {
            return Ok(None);
        }
        wanted.retain(|pcr| !values.iter().any(|(number, _)| number == pcr));
        found.extend(values);
    }
    Ok(Some(found))
}

/// One read: the update counter and as many of `wanted` (rising) as the TPM gives, one at least.
fn read_some(link: &mut Link, hash: HashAlgorithm, wanted: &[u32]) -> Result<(u32, Vec<Value>), TpmError> {
    let step = "reading PCRs";
    let malformed = |why: String| TpmError::Malformed { step: step.to_owned(), why };
    let selection =
        PcrSelection::new(hash, wanted).map_err(|e| TpmError::BadRequest { why: e.to_string() })?;
    let mut parameters = Vec::new();
    write_selections(&mut parameters, &[selection]).map_err(|e| malformed(e.to_string()))?;
    let response = link.call(step, &Command::plain(PCR_READ, &[], &parameters))?;
    let (counter, selections, values) = read_response(&response).map_err(|e| malformed(e.to_string()))?;
    let given: Vec<u32> =
        selections.iter().filter(|bank| bank.hash == hash.tcg_id()).flat_map(PcrSelection::pcrs).collect();
    if given.is_empty() {
        return Err(TpmError::NoBank { hash });
    }
    let fits = selections.len() == 1
        && given.len() == values.len()
        && given.iter().all(|pcr| wanted.contains(pcr))
        && values.iter().all(|value| value.len() == hash.digest_len());
    if !fits {
        return Err(malformed("values and their selection do not fit what was asked for".to_owned()));
    }
    Ok((counter, given.into_iter().zip(values).collect()))
}

/// Update counter, selection and values.
type ReadResponse = (u32, Vec<PcrSelection>, Vec<Vec<u8>>);

fn read_response(bytes: &[u8]) -> Result<ReadResponse, cc_evidence::Error> {
    let mut r = Reader::new(bytes);
    let counter = r.u32_be("pcr.update_counter")?;
    let selections = read_selections(&mut r)?;
    let count = r.u32_be("pcr.count")?;
    if count > MAX_DIGESTS {
        let why = format!("{count} values, one response has {MAX_DIGESTS} at most");
        return Err(cc_evidence::Error::Invalid { field: "pcr.count", why });
    }
    let mut values = Vec::new();
    for _ in 0..count {
        let len = r.u16_be("pcr.value")?;
        values.push(r.take(usize::from(len), "pcr.value")?.to_vec());
    }
    r.finish("the PCR values")?;
    Ok((counter, selections, values))
}

/// Extends one PCR in the bank of `hash`.
pub(super) fn extend(link: &mut Link, pcr: u32, hash: HashAlgorithm, digest: &[u8]) -> Result<(), TpmError> {
    check_numbers(&[pcr])?;
    if digest.len() != hash.digest_len() {
        let why = format!("a digest of {} bytes; {hash} has {}", digest.len(), hash.digest_len());
        return Err(TpmError::BadRequest { why });
    }
    let parameters = [1_u32.to_be_bytes().as_slice(), &hash.tcg_id().to_be_bytes(), digest].concat();
    let step = format!("extending PCR {pcr}");
    let response = link.call(&step, &Command::authorized(PCR_EXTEND, &[pcr], &parameters))?;
    if response.is_empty() {
        Ok(())
    } else {
        Err(TpmError::Malformed { step, why: format!("{} bytes where none belong", response.len()) })
    }
}

fn check_numbers(pcrs: &[u32]) -> Result<(), TpmError> {
    match pcrs.iter().find(|pcr| **pcr >= PCRS) {
        Some(pcr) => Err(TpmError::BadRequest { why: format!("there is no PCR {pcr}, the last one is 23") }),
        None => Ok(()),
    }
}
