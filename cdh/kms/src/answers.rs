//! Every reader of answers, on any bytes: for fuzzing, which reaches no private function. Not for programs.

use cc_crypto::Secret;
use http::StatusCode;

use crate::error::KmsError;
use crate::{aliyun, aws, vault};

/// What each reader of each service that speaks HTTP makes of an answer with `status` and `body`, where the key or secret
/// `asked` was asked for.
#[must_use]
pub fn read(asked: &str, status: StatusCode, body: &Secret) -> Vec<Result<Secret, KmsError>> {
    const DOING: &str = "reading an answer";
    if !status.is_success() {
        return vec![
            Err(aliyun::answer::refusal(DOING, status, body)),
            Err(aliyun::instance::refusal(DOING, status, body)),
            Err(aws::answer::refusal(DOING, status, body)),
            Err(vault::answer::refusal(DOING, status, body)),
        ];
    }
    let mut results = aliyun::instance::read_all(DOING, asked, body);
    results.extend(aws::answer::read_all(DOING, asked, body));
    results.extend(vault::answer::read_all(DOING, asked, body));
    results
}
