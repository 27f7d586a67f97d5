//! The measured event of a pull: which image, by which digest, in the log and the registers of this machine.

use cc_protos::attestation_agent::ExtendRuntimeMeasurementRequest;
use image_rs::Digest;

/// Domain and operation, as the existing stack has them.
const DOMAIN: &str = "github.com/confidential-containers";
const OPERATION: &str = "PullImage";

/// The event of pulling `image`, the name as it was asked for.
pub(super) fn of_pull(image: &str, manifest: &Digest) -> ExtendRuntimeMeasurementRequest {
    // Key brokers compare the text: one space, behind the comma. Whatever the name holds, it stays one line and one member.
    let image = serde_json::Value::from(image);
    ExtendRuntimeMeasurementRequest {
        domain: DOMAIN.to_owned(),
        operation: OPERATION.to_owned(),
        content: format!(r#"{{"image":{image}, "digest":"{manifest}"}}"#),
        register_index: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_exact_and_stays_one_line() {
        let hex = "ab".repeat(32);
        let digest = format!("sha256:{hex}").parse().unwrap();
        let event = of_pull("quay.io/team/app:1.0", &digest);
        assert_eq!(event.content, format!(r#"{{"image":"quay.io/team/app:1.0", "digest":"sha256:{hex}"}}"#));
        assert_eq!((event.domain.as_str(), event.operation.as_str()), (DOMAIN, "PullImage"));
        let event = of_pull("a\", \"digest\":\"x\n\u{1}é", &digest);
        assert!(!event.content.contains('\n'));
        let value: serde_json::Value = serde_json::from_str(&event.content).unwrap();
        assert_eq!(value["image"], "a\", \"digest\":\"x\n\u{1}é");
        assert_eq!(value["digest"], format!("sha256:{hex}"));
    }
}
