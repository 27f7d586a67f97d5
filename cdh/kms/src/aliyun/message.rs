//! Messages of the protocol of a KMS instance (KMS Instance API Reference), in Protocol Buffers.
//!
//! Written out rather than generated: seven messages, of which those with secrets must not print them.

use std::fmt;

use zeroize::Zeroize;

/// Asks to encrypt. Empty members are not sent; without `iv` the instance chooses one.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(super) struct EncryptRequest {
    #[prost(string, tag = "1")]
    pub(super) key_id: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) plaintext: Vec<u8>,
    #[prost(string, tag = "3")]
    pub(super) algorithm: String,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) aad: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    pub(super) iv: Vec<u8>,
    #[prost(string, tag = "6")]
    pub(super) padding_mode: String,
}

impl fmt::Debug for EncryptRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EncryptRequest {{ key_id: {:?}, .. }}", self.key_id)
    }
}

impl Drop for EncryptRequest {
    fn drop(&mut self) {
        self.plaintext.zeroize();
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct EncryptResponse {
    #[prost(string, tag = "1")]
    pub(super) key_id: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) ciphertext_blob: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) iv: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DecryptRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) ciphertext_blob: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(super) key_id: String,
    #[prost(string, tag = "3")]
    pub(super) algorithm: String,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) aad: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    pub(super) iv: Vec<u8>,
    #[prost(string, tag = "6")]
    pub(super) padding_mode: String,
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(super) struct DecryptResponse {
    #[prost(string, tag = "1")]
    pub(super) key_id: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) plaintext: Vec<u8>,
}

impl fmt::Debug for DecryptResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DecryptResponse {{ key_id: {:?}, .. }}", self.key_id)
    }
}

impl Drop for DecryptResponse {
    fn drop(&mut self) {
        self.plaintext.zeroize();
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct GetSecretValueRequest {
    #[prost(string, tag = "1")]
    pub(super) secret_name: String,
    #[prost(string, tag = "2")]
    pub(super) version_stage: String,
    #[prost(string, tag = "3")]
    pub(super) version_id: String,
    #[prost(bool, tag = "4")]
    pub(super) fetch_extended_config: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(super) struct GetSecretValueResponse {
    #[prost(string, tag = "1")]
    pub(super) secret_name: String,
    #[prost(string, tag = "3")]
    pub(super) secret_data: String,
    #[prost(string, repeated, tag = "5")]
    pub(super) version_stages: Vec<String>,
    #[prost(string, tag = "6")]
    pub(super) version_id: String,
}

impl fmt::Debug for GetSecretValueResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GetSecretValueResponse {{ secret_name: {:?}, .. }}", self.secret_name)
    }
}

impl Drop for GetSecretValueResponse {
    fn drop(&mut self) {
        self.secret_data.zeroize();
    }
}

/// The body of an answer that is not a success.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Error {
    #[prost(int32, tag = "1")]
    pub(super) status_code: i32,
    #[prost(string, tag = "2")]
    pub(super) error_code: String,
    #[prost(string, tag = "3")]
    pub(super) error_message: String,
}
