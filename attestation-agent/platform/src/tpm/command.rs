//! Commands as bytes, and the way to the parameters of their responses.
//!
//! TPM 2.0 Library, part 1 ("Command/response structure") and part 3. The only authorization here is the empty password
//! (TPM_RS_PW): it needs no session, so none can be left behind.

use cc_evidence::Error as FormatError;
use cc_evidence::read::Reader;

/// TPM_ST_NO_SESSIONS.
const NO_SESSIONS: u16 = 0x8001;
/// TPM_ST_SESSIONS.
const SESSIONS: u16 = 0x8002;

/// TPM_RS_PW with an empty nonce, no attributes and an empty password.
const EMPTY_PASSWORD: [u8; 9] = [0x40, 0, 0, 9, 0, 0, 0, 0, 0];

/// TPM_CC_NV_DefineSpace.
pub(super) const NV_DEFINE_SPACE: u32 = 0x12A;
/// TPM_CC_NV_Write.
pub(super) const NV_WRITE: u32 = 0x137;
/// TPM_CC_NV_Read.
pub(super) const NV_READ: u32 = 0x14E;
/// TPM_CC_Quote.
pub(super) const QUOTE: u32 = 0x158;
/// TPM_CC_NV_ReadPublic.
pub(super) const NV_READ_PUBLIC: u32 = 0x169;
/// TPM_CC_ReadPublic.
pub(super) const READ_PUBLIC: u32 = 0x173;
/// TPM_CC_GetCapability.
pub(super) const CAPABILITY: u32 = 0x17A;
/// TPM_CC_PCR_Read.
pub(super) const PCR_READ: u32 = 0x17E;
/// TPM_CC_PCR_Extend.
pub(super) const PCR_EXTEND: u32 = 0x182;

/// One command, ready to be sent.
#[derive(Debug)]
pub(super) struct Command {
    bytes: Vec<u8>,
    authorized: bool,
}

impl Command {
    /// A command without authorization.
    pub(super) fn plain(code: u32, handles: &[u32], parameters: &[u8]) -> Self {
        Self { bytes: frame(NO_SESSIONS, code, handles, &[], parameters), authorized: false }
    }

    /// A command whose first handle is authorized by the empty password.
    pub(super) fn authorized(code: u32, handles: &[u32], parameters: &[u8]) -> Self {
        let len = [0, 0, 0, EMPTY_PASSWORD.len().to_le_bytes()[0]];
        let area = [len.as_slice(), &EMPTY_PASSWORD].concat();
        Self { bytes: frame(SESSIONS, code, handles, &area, parameters), authorized: true }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The parameters of the successful `response` to this command, whose header `body` follows. No command here has
    /// handles in its response.
    pub(super) fn parameters(&self, response: &[u8], body: &[u8]) -> Result<Vec<u8>, String> {
        let text = |error: FormatError| error.to_string();
        let tag = Reader::new(response).u16_be("tag").map_err(text)?;
        let expected = if self.authorized { SESSIONS } else { NO_SESSIONS };
        if tag != expected {
            return Err(format!("it has the tag {tag:#06x} where {expected:#06x} belongs"));
        }
        if !self.authorized {
            return Ok(body.to_vec());
        }
        let mut r = Reader::new(body);
        let len = r.u32_be("response.parameter_size").map_err(text)?;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let parameters = r.take(len, "response.parameters").map_err(text)?;
        // An empty password is answered by an empty nonce, attributes and an empty acknowledgement.
        let [nonce_high, nonce_low, _attributes, hmac_high, hmac_low] =
            r.array::<5>("response.authorization").map_err(text)?;
        r.finish("the response").map_err(text)?;
        if [nonce_high, nonce_low, hmac_high, hmac_low] != [&0; 4] {
            return Err("its authorization is not that of an empty password".to_owned());
        }
        Ok(parameters.to_vec())
    }
}

fn frame(tag: u16, code: u32, handles: &[u32], authorization: &[u8], parameters: &[u8]) -> Vec<u8> {
    let handles: Vec<u8> = handles.iter().flat_map(|handle| handle.to_be_bytes()).collect();
    let body = [code.to_be_bytes().as_slice(), &handles, authorization, parameters].concat();
    // Bounded by the callers: the longest command writes one NV chunk of at most 2048 bytes.
    let size = u32::try_from(body.len() + 6).unwrap_or(u32::MAX);
    [tag.to_be_bytes().as_slice(), &size.to_be_bytes(), &body].concat()
}
