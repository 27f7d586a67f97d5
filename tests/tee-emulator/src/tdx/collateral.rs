//! What Intel's provisioning certification service (version 4) answers about a platform: which security versions are
//! up to date, and what the quoting enclave must look like. Signed under the emulator's own root.

use std::fs;
use std::path::Path;
use std::time::Duration;

use der::DateTime;
use serde_json::{Value, json};

use super::{IntelChain, platform};
use crate::Error;
use crate::clock::{DAY, now};
use crate::machine::UP_TO_DATE_SVN;

/// File names in a collateral directory.
pub const TCB_INFO_FILE: &str = "tcbInfo.json";
/// See [`TCB_INFO_FILE`].
pub const QE_IDENTITY_FILE: &str = "qeIdentity.json";
/// See [`TCB_INFO_FILE`].
pub const SIGNING_CHAIN_FILE: &str = "tcb-signing-chain.pem";
/// See [`TCB_INFO_FILE`].
pub const ROOT_LIST_FILE: &str = "root-ca.crl";
/// See [`TCB_INFO_FILE`].
pub const PLATFORM_LIST_FILE: &str = "pck-platform-ca.crl";

/// How old the collateral says it is, and how long it is valid from then on: 30 days, as Intel's.
const AGE: u64 = DAY;
const VALIDITY: u64 = 30 * DAY;
/// Number of the evaluation in both documents.
const EVALUATION: u32 = 17;

/// The documents, as they are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collateral {
    /// `{"tcbInfo":{…},"signature":"<hex>"}`.
    pub tcb_info: String,
    /// `{"enclaveIdentity":{…},"signature":"<hex>"}`.
    pub qe_identity: String,
    /// PEM: the signer, then the root.
    pub signing_chain: String,
    /// Revocation lists, DER: of the root, then of the authority for platforms.
    pub revocation_lists: [Vec<u8>; 2],
}

impl Collateral {
    /// Collateral for the platform of `chain`, valid around now.
    ///
    /// # Errors
    /// [`Error::Crypto`] and [`Error::Encoding`].
    pub fn issue(chain: &IntelChain) -> Result<Self, Error> {
        let issued = now().saturating_sub(AGE);
        let dates = (date(issued)?, date(issued + VALIDITY)?);
        Ok(Self {
            tcb_info: signed(chain, "tcbInfo", &tcb_info(&dates))?,
            qe_identity: signed(chain, "enclaveIdentity", &qe_identity(&dates))?,
            signing_chain: chain.signing_chain_pem()?,
            revocation_lists: chain.revocation_lists().clone(),
        })
    }

    /// Writes its files into `directory`, which is made if it does not exist.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn write(&self, directory: &Path) -> Result<(), Error> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::File { step: "writing collateral", path, source }
        };
        fs::create_dir_all(directory).map_err(failed(directory))?;
        let [root_list, platform_list] = &self.revocation_lists;
        for (name, content) in [
            (TCB_INFO_FILE, self.tcb_info.as_bytes()),
            (QE_IDENTITY_FILE, self.qe_identity.as_bytes()),
            (SIGNING_CHAIN_FILE, self.signing_chain.as_bytes()),
            (ROOT_LIST_FILE, root_list),
            (PLATFORM_LIST_FILE, platform_list),
        ] {
            let path = directory.join(name);
            fs::write(&path, content).map_err(failed(&path))?;
        }
        Ok(())
    }
}

fn tcb_info((issued, next): &(String, String)) -> Value {
    let module = json!({ "mrsigner": "00".repeat(48), "attributes": "00".repeat(8), "attributesMask": "FF".repeat(8) });
    let mut identity = module.clone();
    if let Some(members) = identity.as_object_mut() {
        let [svn, major, ..] = UP_TO_DATE_SVN;
        members.insert("id".into(), format!("TDX_{major:02X}").into());
        members.insert(
            "tcbLevels".into(),
            json!([
                { "tcb": { "isvsvn": svn }, "tcbDate": "2024-03-13T00:00:00Z", "tcbStatus": "UpToDate" },
                { "tcb": { "isvsvn": 1 }, "tcbDate": "2023-08-09T00:00:00Z", "tcbStatus": "OutOfDate" },
            ]),
        );
    }
    let level = |pce_svn, date, status| {
        json!({
            "tcb": {
                "sgxtcbcomponents": components(&platform::COMPONENTS),
                "pcesvn": pce_svn,
                "tdxtcbcomponents": components(&UP_TO_DATE_SVN),
            },
            "tcbDate": date,
            "tcbStatus": status,
        })
    };
    let [up_to_date, out_of_date, revoked] = platform::PCE_SVN;
    json!({
        "id": "TDX",
        "version": 3,
        "issueDate": issued,
        "nextUpdate": next,
        "fmspc": hex::encode_upper(platform::FMSPC),
        "pceId": hex::encode_upper(platform::PCE_ID),
        "tcbType": 0,
        "tcbEvaluationDataNumber": EVALUATION,
        "tdxModule": module,
        "tdxModuleIdentities": [identity],
        "tcbLevels": [
            level(up_to_date, "2024-03-13T00:00:00Z", "UpToDate"),
            level(out_of_date, "2023-08-09T00:00:00Z", "OutOfDate"),
            level(revoked, "2018-01-04T00:00:00Z", "Revoked"),
        ],
    })
}

fn qe_identity((issued, next): &(String, String)) -> Value {
    json!({
        "id": "TD_QE",
        "version": 2,
        "issueDate": issued,
        "nextUpdate": next,
        "tcbEvaluationDataNumber": EVALUATION,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": hex::encode_upper(platform::QE_SIGNER),
        "isvprodid": platform::QE_PRODUCT,
        "tcbLevels": [{
            "tcb": { "isvsvn": platform::QE_SVN },
            "tcbDate": "2024-03-13T00:00:00Z",
            "tcbStatus": "UpToDate",
        }],
    })
}

fn components(versions: &[u8; 16]) -> Value {
    versions.iter().map(|svn| json!({ "svn": svn })).collect()
}

/// The answer with `body` as its member `name`: the signature is over exactly the bytes of that member.
fn signed(chain: &IntelChain, name: &str, body: &Value) -> Result<String, Error> {
    let body = body.to_string();
    let signature = hex::encode(chain.sign_collateral(body.as_bytes())?);
    Ok(format!("{{\"{name}\":{body},\"signature\":\"{signature}\"}}"))
}

/// Seconds since 1970 as RFC 3339.
fn date(seconds: u64) -> Result<String, Error> {
    DateTime::from_unix_duration(Duration::from_secs(seconds))
        .map(|date| date.to_string())
        .map_err(|source| Error::Encoding { what: "a date of the collateral", source })
}
