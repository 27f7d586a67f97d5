//! The sample platform: evidence that anybody can write, for development on machines without hardware.
//!
//! It is made only when the configuration names it, says so at every start, and proves nothing.

use cc_evidence::{ReportData, Tee};

use crate::{Error, InitDataBinding, Platform};

/// The sample platform.
#[derive(Debug)]
pub(crate) struct Sample(());

impl Sample {
    /// Makes it, and says loudly what it is.
    pub(crate) fn new() -> Self {
        tracing::warn!(
            "SAMPLE EVIDENCE IN USE: this machine proves nothing about itself. Anybody can write such evidence. \
             For development only; take the sample platform out of the configuration before real secrets are near"
        );
        Self(())
    }
}

impl Platform for Sample {
    fn tee(&self) -> Tee {
        Tee::Sample
    }

    fn evidence(&self, data: &ReportData) -> Result<String, Error> {
        Ok(cc_evidence::sample::evidence_json(data.as_bytes()))
    }

    fn bind_init_data(&self, _digest: &[u8]) -> Result<InitDataBinding, Error> {
        Ok(InitDataBinding::Unsupported)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_data_goes_in_as_it_is() {
        let sample = Sample::new();
        let json = sample.evidence(&ReportData::new(&[7; 48]).unwrap()).unwrap();
        assert_eq!(cc_evidence::sample::parse(&json).unwrap().report_data, [7; 48]);
        assert_eq!(sample.bind_init_data(&[1; 32]).unwrap(), InitDataBinding::Unsupported);
    }
}
