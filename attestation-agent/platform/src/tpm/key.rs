//! The attestation key: what it is, and quotes by it.
//!
//! TPM2_ReadPublic and TPM2_Quote of the TPM 2.0 Library, part 3.

use cc_evidence::read::Reader;
use cc_evidence::tpm::{ALG_RSASSA, Attest, PcrSelection, Public, digest_of_values, write_selections};
use cc_evidence::{Error as FormatError, HashAlgorithm};

use super::TpmError;
use super::command::{Command, QUOTE, READ_PUBLIC};
use super::link::Link;
use super::pcr;

/// Hash of the signature scheme, and so of the PCR digest in a quote.
const SCHEME_HASH: HashAlgorithm = HashAlgorithm::Sha256;

/// A quote with the values that it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    /// What the TPM signed, TPMS_ATTEST.
    pub attest: Vec<u8>,
    /// TPMT_SIGNATURE.
    pub signature: Vec<u8>,
    /// Values of the PCRs in the order asked; their digest is the one in the quote.
    pub pcrs: Vec<Vec<u8>>,
}

/// A public area with its qualified name: what quotes name their signer by.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub(super) public: Public,
    pub(super) qualified_name: Vec<u8>,
}

/// Reads the public area of the key at `handle`; its name must be the one the TPM gives.
pub(super) fn public(link: &mut Link, handle: u32) -> Result<Named, TpmError> {
    let step = format!("reading the public key at {handle:#010x}");
    let response = link
        .call(&step, &Command::plain(READ_PUBLIC, &[handle], &[]))
        .map_err(|error| error.at_handle(handle))?;
    let malformed = |why: String| TpmError::Malformed { step: step.clone(), why };
    let mut r = Reader::new(&response);
    let mut next = |field| -> Result<Vec<u8>, FormatError> {
        let len = r.u16_be(field)?;
        r.take(usize::from(len), field).map(<[u8]>::to_vec)
    };
    let mut read = || Ok((next("key.public")?, next("key.name")?, next("key.qualified_name")?));
    let (area, name, qualified_name) = read().map_err(|e: FormatError| malformed(e.to_string()))?;
    r.finish("the public key").map_err(|e| malformed(e.to_string()))?;
    let public = Public::parse(&area).map_err(|e| malformed(e.to_string()))?;
    if public.name().is_some_and(|ours| ours != name) {
        return Err(malformed("its name is not that of the public area".to_owned()));
    }
    Ok(Named { public, qualified_name })
}

/// A quote whose PCR digest is that of the values beside it.
pub(super) fn quote(
    link: &mut Link,
    ak: u32,
    qualifying: &[u8],
    hash: HashAlgorithm,
    pcrs: &[u32],
) -> Result<Quote, TpmError> {
    let mut rising = pcrs.to_vec();
    rising.sort_unstable();
    rising.dedup();
    let selection =
        PcrSelection::new(hash, &rising).map_err(|e| TpmError::BadRequest { why: e.to_string() })?;
    for _ in 0..pcr::TRIES {
        let values = pcr::values(link, hash, &rising)?;
        let (attest, signature) = ask(link, ak, qualifying, &selection)?;
        let said = check(&attest, ak, qualifying, &selection)?;
        if said.pcr_digest == digest_of_values(SCHEME_HASH, &values) {
            let value =
                |pcr: &u32| rising.iter().position(|number| number == pcr).and_then(|at| values.get(at));
            let pcrs = pcrs.iter().filter_map(value).cloned().collect();
            return Ok(Quote { attest, signature, pcrs });
        }
    }
    Err(TpmError::Unsteady { tries: pcr::TRIES })
}

fn ask(
    link: &mut Link,
    ak: u32,
    qualifying: &[u8],
    selection: &PcrSelection,
) -> Result<(Vec<u8>, Vec<u8>), TpmError> {
    let step = step(ak);
    let bad = |why: String| TpmError::BadRequest { why };
    let len = u16::try_from(qualifying.len()).ok().filter(|len| *len <= 64);
    let len = len.ok_or_else(|| bad(format!("{} bytes of report data, at most 64 fit", qualifying.len())))?;
    let mut parameters = [len.to_be_bytes().as_slice(), qualifying].concat();
    parameters.extend([ALG_RSASSA, SCHEME_HASH.tcg_id()].iter().flat_map(|id| id.to_be_bytes()));
    write_selections(&mut parameters, std::slice::from_ref(selection)).map_err(|e| bad(e.to_string()))?;
    let response = link
        .call(&step, &Command::authorized(QUOTE, &[ak], &parameters))
        .map_err(|error| error.at_handle(ak))?;
    let mut r = Reader::new(&response);
    let mut read = || {
        let len = r.u16_be("quote.attest")?;
        let attest = r.take(usize::from(len), "quote.attest")?.to_vec();
        Ok((attest, r.take(r.left(), "quote.signature")?.to_vec()))
    };
    read().map_err(|e: FormatError| TpmError::Malformed { step, why: e.to_string() })
}

/// That the answer is one to this question; whether the PCR digest fits is left to the caller.
fn check(attest: &[u8], ak: u32, qualifying: &[u8], selection: &PcrSelection) -> Result<Attest, TpmError> {
    let said =
        Attest::parse(attest).map_err(|e| TpmError::Malformed { step: step(ak), why: e.to_string() })?;
    if said.extra_data != qualifying {
        return Err(TpmError::OtherAnswer { what: "other report data" });
    }
    let same = |bank: &PcrSelection| bank.hash == selection.hash && bank.pcrs() == selection.pcrs();
    match said.selection.as_slice() {
        [bank] if same(bank) => Ok(said),
        _ => Err(TpmError::OtherAnswer { what: "other PCRs" }),
    }
}

fn step(ak: u32) -> String {
    format!("quoting with the key at {ak:#010x}")
}

impl Quote {
    /// That the quote names `key` as its signer.
    pub(super) fn check_signer(&self, key: &Named) -> Result<(), TpmError> {
        match Attest::parse(&self.attest) {
            Ok(said) if said.qualified_signer == key.qualified_name => Ok(()),
            _ => Err(TpmError::OtherAnswer { what: "another key's name" }),
        }
    }
}
