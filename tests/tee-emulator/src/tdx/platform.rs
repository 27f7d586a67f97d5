//! The platform that PCK certificate, quoting enclave and collateral are about.

/// Family, model, stepping, platform type, custom SKU.
pub(crate) const FMSPC: [u8; 6] = [0x7E, 0x57, 0x6F, 0, 0, 0];
/// Identity of the provisioning certification enclave.
pub(crate) const PCE_ID: [u8; 2] = [0, 0];
/// Security versions of the components that the collateral calls up to date.
pub(crate) const COMPONENTS: [u8; 16] = [2, 2, 2, 2, 4, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0];
/// Security versions of that enclave: up to date, out of date, revoked.
pub(crate) const PCE_SVN: [u8; 3] = [13, 11, 5];
/// Who signed the quoting enclave: nobody, this is an emulator.
pub(crate) const QE_SIGNER: [u8; 32] = [0x7E; 32];
/// Product and security version of the quoting enclave.
pub(crate) const QE_PRODUCT: u16 = 2;
/// See [`QE_PRODUCT`].
pub(crate) const QE_SVN: u16 = 7;
/// Attributes of the quoting enclave: initialised, 64 bit, provisioning key, attestation key.
pub(crate) const QE_ATTRIBUTES: [u8; 16] = [0x15, 0, 0, 0, 0, 0, 0, 0, 0xE7, 0, 0, 0, 0, 0, 0, 0];
