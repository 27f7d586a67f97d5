//! Mappings of the device mapper, with what is wrong with them as failures of this tool.

pub(super) use cc_mapping::Mapping;

use super::volume;
use crate::failure::{self, Failure};

impl From<cc_mapping::Error> for Failure {
    fn from(error: cc_mapping::Error) -> Self {
        match error {
            cc_mapping::Error::Differs { path, error } => volume(&path, error),
            other => failure::of(other.blame(), other.code(), &other, other.hint()),
        }
    }
}
