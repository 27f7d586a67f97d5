//! What can go wrong at a key management service, by blame. No variant holds a credential, a key or a byte of a secret; text
//! of the service is cleaned and cut before it enters.

use cc_evidence::blame::Blame;
use cc_kbs::foreign::clean;

use crate::providers::SUPPORTED;

/// Longest text of a service in a message, in bytes.
const MAX_TOLD: usize = 300;

/// Failure of an operation of a key management service.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KmsError {
    /// A document names a provider that this program does not have.
    #[error("the provider is {provider}, known are {SUPPORTED}")]
    UnknownProvider {
        /// Its name, quoted and cut.
        provider: String,
    },
    /// The provider needs configuration that is not there.
    #[error("the provider {provider} is not configured: {needs} is missing")]
    NotConfigured {
        /// The provider.
        provider: &'static str,
        /// The configuration key.
        needs: &'static str,
    },
    /// The provider cannot do this.
    #[error("the provider {provider} does not {what}")]
    Unsupported {
        /// The provider.
        provider: &'static str,
        /// What it cannot do.
        what: &'static str,
    },
    /// A name, setting or annotation of the document that is not acceptable.
    #[error("{what} of a document for the provider {provider}: {why}")]
    Document {
        /// The provider.
        provider: &'static str,
        /// The member.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A configuration value that cannot be used.
    #[error("{key}: {why}")]
    Config {
        /// The configuration key.
        key: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The credential's file is not there or cannot be read.
    #[error("reading the credential of the provider {provider} from {place}: {why}")]
    CredentialMissing {
        /// The provider.
        provider: &'static str,
        /// The file.
        place: String,
        /// What the system said.
        why: String,
    },
    /// The credential does not have the shape that the provider needs.
    #[error("the credential of the provider {provider} in {place}: {why}")]
    CredentialMalformed {
        /// The provider.
        provider: &'static str,
        /// The file or resource.
        place: String,
        /// What is wrong with it.
        why: String,
    },
    /// The key broker did not give a secret.
    #[error(transparent)]
    KeyBroker(#[from] cc_kbs::Error),
    /// The key broker did not give a credential.
    #[error("fetching the credential of the provider {provider}: {source}")]
    CredentialRefused {
        /// The provider.
        provider: &'static str,
        /// What the key broker or the way to it says.
        source: cc_kbs::Error,
    },
    /// No answer: name not resolved, connection refused or lost.
    #[error("cannot reach {server}: {why}")]
    Unreachable {
        /// Base URL of the service.
        server: String,
        /// The chain of causes.
        why: String,
    },
    /// The deadline passed first.
    #[error("time ran out while {doing}")]
    Timeout {
        /// What was being waited for.
        doing: String,
    },
    /// The service says that it cannot answer now.
    #[error("{doing}: the service cannot answer now: {told}")]
    Busy {
        /// The request.
        doing: String,
        /// What the service told.
        told: String,
    },
    /// The service's certificate is not one that the configuration trusts.
    #[error("the certificate of {server} is not trusted: {why}")]
    UntrustedTls {
        /// Base URL of the service.
        server: String,
        /// The verifier's reason.
        why: String,
    },
    /// The service said no.
    #[error("{doing}: the service refused: {told}")]
    Denied {
        /// The request.
        doing: String,
        /// What the service told.
        told: String,
    },
    /// The service has no such key or secret.
    #[error("{doing}: there is no such thing: {told}")]
    Absent {
        /// The request.
        doing: String,
        /// What the service told.
        told: String,
    },
    /// The service finds the request itself wrong.
    #[error("{doing}: the service does not accept the request: {told}")]
    RequestRefused {
        /// The request.
        doing: String,
        /// What the service told.
        told: String,
    },
    /// The wrapped key does not open under the key that the document names.
    #[error("{doing}: the wrapped key does not open: {told}")]
    CannotDecrypt {
        /// The request.
        doing: String,
        /// What the service told.
        told: String,
    },
    /// An answer that the service's interface does not allow.
    #[error("{doing}: the answer makes no sense: {why}")]
    BadAnswer {
        /// The request.
        doing: String,
        /// What is wrong with the answer.
        why: String,
    },
    /// An answer longer than we read.
    #[error("{doing}: the answer is longer than {limit} bytes")]
    AnswerTooLarge {
        /// The request.
        doing: String,
        /// The limit in bytes.
        limit: usize,
    },
    /// An answer about something that was not asked for.
    #[error("{doing}: the answer is about {answered}")]
    OtherSubject {
        /// The request.
        doing: String,
        /// What the answer names, quoted and cut.
        answered: String,
    },
    /// The PKCS#11 module cannot be used.
    #[error("the PKCS#11 module {module}: {why}")]
    Pkcs11Module {
        /// Its path.
        module: String,
        /// Why.
        why: String,
    },
    /// A PKCS#11 call failed.
    #[error("{doing}: the PKCS#11 token answered {why}")]
    Pkcs11 {
        /// What was being done.
        doing: String,
        /// The call and its return value.
        why: String,
    },
    /// The token takes no PIN, or might not take another one after this.
    #[error("nobody logs in to the PKCS#11 token {token}: {why}")]
    Pkcs11Locked {
        /// Label of the token, quoted.
        token: String,
        /// The state of its PIN.
        why: String,
    },
    /// The token does not take the PIN.
    #[error("the PKCS#11 token {token} does not take the PIN: {why}")]
    Pkcs11Pin {
        /// Label of the token, quoted.
        token: String,
        /// The return value.
        why: String,
    },
}

impl KmsError {
    /// Who is to blame.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            Self::KeyBroker(source) | Self::CredentialRefused { source, .. } => source.blame(),
            Self::CredentialMissing { .. }
            | Self::Unreachable { .. }
            | Self::Timeout { .. }
            | Self::Busy { .. } => Blame::Unavailable,
            Self::Denied { .. }
            | Self::CannotDecrypt { .. }
            | Self::Pkcs11Pin { .. }
            | Self::Pkcs11Locked { .. } => Blame::Denied,
            Self::Absent { .. } => Blame::Absent,
            Self::UntrustedTls { .. }
            | Self::BadAnswer { .. }
            | Self::AnswerTooLarge { .. }
            | Self::OtherSubject { .. } => Blame::Misbehaved,
            Self::UnknownProvider { .. }
            | Self::NotConfigured { .. }
            | Self::Unsupported { .. }
            | Self::Document { .. }
            | Self::Config { .. }
            | Self::CredentialMalformed { .. }
            | Self::RequestRefused { .. } => Blame::Misused,
            Self::Pkcs11Module { .. } | Self::Pkcs11 { .. } => Blame::Platform,
        }
    }

    /// The stable code, for programs.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::UnknownProvider { .. } => "PROVIDER_UNKNOWN",
            Self::NotConfigured { .. } => "KMS_NOT_CONFIGURED",
            Self::Unsupported { .. } => "KMS_UNSUPPORTED",
            Self::Document { .. } => "KMS_DOCUMENT_REFUSED",
            Self::Config { .. } => "KMS_CONFIG",
            Self::CredentialMissing { .. } => "KMS_CREDENTIAL_MISSING",
            Self::CredentialMalformed { .. } => "KMS_CREDENTIAL_MALFORMED",
            Self::KeyBroker(source) | Self::CredentialRefused { source, .. } => source.code(),
            Self::Unreachable { .. } => "KMS_UNREACHABLE",
            Self::Timeout { .. } => "KMS_TIMEOUT",
            Self::Busy { .. } => "KMS_BUSY",
            Self::UntrustedTls { .. } => "KMS_TLS_UNTRUSTED",
            Self::Denied { .. } => "KMS_DENIED",
            Self::Absent { .. } => "KMS_NOT_FOUND",
            Self::RequestRefused { .. } => "KMS_REQUEST_REFUSED",
            Self::CannotDecrypt { .. } => "KMS_CANNOT_DECRYPT",
            Self::BadAnswer { .. } => "KMS_BAD_ANSWER",
            Self::AnswerTooLarge { .. } => "KMS_ANSWER_TOO_LARGE",
            Self::OtherSubject { .. } => "KMS_OTHER_SUBJECT",
            Self::Pkcs11Module { .. } => "PKCS11_MODULE",
            Self::Pkcs11 { .. } => "PKCS11_FAILED",
            Self::Pkcs11Pin { .. } => "PKCS11_PIN",
            Self::Pkcs11Locked { .. } => "PKCS11_PIN_LOCKED",
        }
    }

    /// The next step for the operator, or for whoever made the document.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::KeyBroker(source) | Self::CredentialRefused { source, .. } => return source.hint(),
            Self::UnknownProvider { .. } => "make the secret again for a provider that this version knows",
            Self::NotConfigured { needs, .. } => {
                return format!("set {needs} in the data hub's configuration");
            }
            Self::Unsupported { .. } => {
                "make the secret again for another provider, or with the provider kbs as type vault"
            }
            Self::Document { .. } => "correct that member and seal the secret again",
            Self::Config { .. } => "correct it in the data hub's configuration",
            Self::CredentialMissing { .. } => {
                "fill that file with a [[credentials]] entry, or name a kbs:// resource in [kms] instead"
            }
            Self::CredentialMalformed { .. } => "store the credential again in the form that docs/kms.md shows",
            Self::Unreachable { .. } | Self::Timeout { .. } => {
                "check that the service can be reached from this machine, then try again"
            }
            Self::Busy { .. } => "try again later",
            Self::UntrustedTls { .. } => {
                "configure the certificate of the service's authority, or find out who answers in its place"
            }
            Self::Denied { .. } => {
                "give the credential the right to use this key or secret; a wrong clock of this machine makes signatures invalid too"
            }
            Self::Absent { .. } => "check the name, the region and the state of the key or secret",
            Self::RequestRefused { .. } => {
                "check the key id or name and the annotations, then seal the secret again"
            }
            Self::CannotDecrypt { .. } => {
                "check that key id and annotations are those that the key was wrapped with"
            }
            Self::BadAnswer { .. } | Self::AnswerTooLarge { .. } | Self::OtherSubject { .. } => {
                "check that the address is that of the service, and that nothing in between rewrites answers"
            }
            Self::Pkcs11Module { .. } => "check kms.pkcs11.module and kms.pkcs11.token_label",
            Self::Pkcs11 { .. } => {
                "check that the token is there, that the key may be used for this, and that the wrapped key was made with it"
            }
            Self::Pkcs11Locked { .. } => {
                "log in once with the right PIN by the token's own tools, or let its security officer set a new one"
            }
            Self::Pkcs11Pin { .. } => {
                "store the right PIN; the refused one is not tried again, as failures lock a token"
            }
        }
        .to_owned()
    }
}

/// Quotes a name out of a document or an answer: at most 100 bytes, cleaned.
pub(crate) fn quoted(text: &str) -> String {
    format!("{:?}", clean(text, 100))
}

/// What a service told, fit for a message.
pub(crate) fn told(text: &str) -> String {
    clean(text, MAX_TOLD)
}
