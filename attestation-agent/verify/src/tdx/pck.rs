//! What a PCK certificate says about its platform: the extension 1.2.840.113741.1.13.1.
//!
//! Intel SGX PCK certificate and CRL profile, section 1.3.5: a sequence of pairs of identifier and value.
//! Unknown members are skipped, repeated ones refused.

use std::collections::BTreeMap;

use der::asn1::{AnyRef, ObjectIdentifier, OctetStringRef};
use der::{Decode, Reader as _, SliceReader, Tag, Tagged};

use crate::certificate::Cert;

const EXTENSION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1");
const TCB: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1.2");
const CONFIGURATION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1.7");

/// Most members of a sequence that are read: the profile has 18.
const MAX_MEMBERS: usize = 64;

/// The platform that a PCK certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PckInfo {
    /// Identifier of the processor package for provisioning.
    pub ppid: [u8; 16],
    /// Security versions of the sixteen components.
    pub components: [u8; 16],
    /// Security version of the provisioning certification enclave.
    pub pce_svn: u16,
    /// The same components as the processor reports them.
    pub cpu_svn: [u8; 16],
    /// Identifier of the provisioning certification enclave.
    pub pce_id: [u8; 2],
    /// Family, model, stepping, platform type and custom SKU: which TCB info applies.
    pub fmspc: [u8; 6],
    /// 0 standard, 1 scalable, 2 scalable with integrity.
    pub sgx_type: u8,
    /// Identifier of this platform, for platforms of several packages.
    pub platform_instance_id: Option<[u8; 16]>,
    /// The platform can be changed after registration.
    pub dynamic_platform: Option<bool>,
    /// The platform's keys are kept at Intel.
    pub cached_keys: Option<bool>,
    /// Simultaneous multithreading is on.
    pub smt_enabled: Option<bool>,
}

/// Members by the last number of their identifier.
type Members<'a> = BTreeMap<u32, AnyRef<'a>>;

impl PckInfo {
    /// Reads the extension of a certificate. The error is a sentence.
    pub(super) fn read(cert: &Cert) -> Result<Self, String> {
        let content = cert
            .extension(EXTENSION)
            .ok_or_else(|| format!("the PCK certificate has no extension {EXTENSION}"))?;
        Self::parse(content).map_err(|why| format!("the extension of the PCK certificate is invalid: {why}"))
    }

    fn parse(content: &[u8]) -> Result<Self, String> {
        let outer = AnyRef::from_der(content).map_err(|e| e.to_string())?;
        let all = members(outer, EXTENSION)?;
        let tcb = members(value(&all, 2, "TCB")?, TCB)?;
        let configuration =
            all.get(&7).map(|value| members(*value, CONFIGURATION)).transpose()?.unwrap_or_default();
        let mut components = [0; 16];
        for (number, svn) in (1..).zip(&mut components) {
            *svn = decode(&tcb, number, "TCB component")?;
        }
        let flag = |number| configuration.get(&number).map(|value| bool_of(*value)).transpose();
        Ok(PckInfo {
            ppid: octets(&all, 1, "PPID")?,
            components,
            pce_svn: decode(&tcb, 17, "PCESVN")?,
            cpu_svn: octets(&tcb, 18, "CPUSVN")?,
            pce_id: octets(&all, 3, "PCEID")?,
            fmspc: octets(&all, 4, "FMSPC")?,
            sgx_type: enumerated(value(&all, 5, "SGX type")?)?,
            platform_instance_id: all
                .contains_key(&6)
                .then(|| octets(&all, 6, "platform instance id"))
                .transpose()?,
            dynamic_platform: flag(1)?,
            cached_keys: flag(2)?,
            smt_enabled: flag(3)?,
        })
    }
}

/// Splits a sequence of pairs of identifier and value; the identifiers are those below `arc`.
fn members(sequence: AnyRef<'_>, arc: ObjectIdentifier) -> Result<Members<'_>, String> {
    if sequence.tag() != Tag::Sequence {
        return Err("a sequence of members is expected".to_owned());
    }
    let mut found = Members::new();
    let mut reader = SliceReader::new(sequence.value()).map_err(|e| e.to_string())?;
    while !reader.is_finished() {
        let (id, value): (ObjectIdentifier, AnyRef<'_>) = reader
            .sequence(|pair| Ok::<_, der::Error>((ObjectIdentifier::decode(pair)?, AnyRef::decode(pair)?)))
            .map_err(|e| e.to_string())?;
        let number = id.arcs().last().filter(|_| id.parent() == Some(arc));
        let number = number.ok_or_else(|| format!("member {id} does not belong below {arc}"))?;
        if found.insert(number, value).is_some() || found.len() > MAX_MEMBERS {
            return Err(format!("member {id} is repeated or one too many"));
        }
    }
    Ok(found)
}

fn value<'a>(members: &Members<'a>, number: u32, name: &str) -> Result<AnyRef<'a>, String> {
    members.get(&number).copied().ok_or_else(|| format!("{name} is missing"))
}

fn decode<'a, T: der::DecodeValue<'a, Error = der::Error> + der::FixedTag + 'a>(
    members: &Members<'a>,
    number: u32,
    name: &str,
) -> Result<T, String> {
    value(members, number, name)?.decode_as::<T>().map_err(|e| format!("{name} {number}: {e}"))
}

fn octets<const N: usize>(members: &Members<'_>, number: u32, name: &str) -> Result<[u8; N], String> {
    let octets = decode::<&OctetStringRef>(members, number, name)?;
    octets.as_bytes().try_into().map_err(|_| format!("{name} does not have {N} bytes"))
}

fn enumerated(value: AnyRef<'_>) -> Result<u8, String> {
    match (value.tag(), value.value()) {
        (Tag::Enumerated, [kind]) => Ok(*kind),
        _ => Err("SGX type is not an enumerated value of one byte".to_owned()),
    }
}

fn bool_of(value: AnyRef<'_>) -> Result<bool, String> {
    value.decode_as::<bool>().map_err(|e| format!("configuration: {e}"))
}
