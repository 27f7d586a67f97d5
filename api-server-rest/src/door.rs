//! The door: what happens to one request, from the peer's address to the answer.
//!
//! The order of the checks is fixed: peer, `Host` and `Origin`, target, feature, strict mode, path, method,
//! required parameters; only then is a daemon asked. Connections and their limits are the server's business.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cc_confinement::Confinement;
use http::Request;
use http::request::Parts;
use hyper::body::Body;

use crate::answer::{Answer, ErrorForm, HttpResponse};
use crate::error::RequestError;
use crate::handlers;
use crate::host::AllowedHosts;
use crate::pace::Pace;
use crate::routes::{Features, Handler, Lookup, Root, Route, lookup};
use crate::target::Target;
use crate::upstream::Upstream;

/// What the operator lets through.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Which roots are served.
    pub features: Features,
    /// Whether `/aa` is closed although its feature is on.
    pub strict: bool,
    /// Resource paths that may be fetched; empty means all. See [`PathPrefix`].
    pub paths: Vec<PathPrefix>,
    /// Whether `/aa/token` keeps the private key of the token in its answer.
    pub expose_token_key: bool,
}

/// The first segments of resource paths, `repository/type` for example; it covers whole segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPrefix(String);

/// Everything that is needed to answer requests.
#[derive(Debug)]
pub struct Door {
    policy: Policy,
    hosts: AllowedHosts,
    upstream: Upstream,
    events: Pace,
    confinement: Option<Confinement>,
}

/// Events that `/aa/aael` passes on after a pause; from then on, one each [`EVENT_INTERVAL`].
const EVENT_BURST: u32 = 100;

/// The steady pace of events.
const EVENT_INTERVAL: Duration = Duration::from_millis(100);

impl Door {
    /// Whether strict mode is on.
    pub(crate) fn is_strict(&self) -> bool {
        self.policy.strict
    }

    /// Puts a door together.
    #[must_use]
    pub fn new(policy: Policy, hosts: AllowedHosts, upstream: Upstream) -> Self {
        Self { policy, hosts, upstream, events: Pace::new(EVENT_INTERVAL, EVENT_BURST), confinement: None }
    }

    /// The same door, which tells what confines its process.
    #[must_use]
    pub fn confined(self, confinement: Confinement) -> Self {
        Self { confinement: Some(confinement), ..self }
    }

    /// Answers one request of the peer at `peer`. It never fails: an error becomes an answer too.
    pub async fn answer<B>(&self, peer: IpAddr, request: Request<B>) -> HttpResponse
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let (head, body) = request.into_parts();
        let began = Instant::now();
        let (method, path) = (&head.method, head.uri.path());
        match self.pass(peer, &head, body).await {
            Ok(answer) => {
                tracing::debug!(%method, path, elapsed = ?began.elapsed(), "answered");
                answer.into_response()
            }
            Err(error) => {
                let (status, code) = (error.status().as_u16(), error.code());
                tracing::info!(%method, path, %peer, status, code, %error, elapsed = ?began.elapsed(), "refused or failed");
                error.into_response(ErrorForm::preferred(&head.headers))
            }
        }
    }

    async fn pass<B>(&self, peer: IpAddr, head: &Parts, body: B) -> Result<Answer, RequestError>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let (target, route) = self.admit(peer, head)?;
        match route.handler {
            Handler::Resource => handlers::resource(&self.upstream, &target).await,
            Handler::Token => handlers::token(&self.upstream, &target, self.policy.expose_token_key).await,
            Handler::Evidence => handlers::evidence(&self.upstream, &target).await,
            Handler::AdditionalEvidence => handlers::additional_evidence(&self.upstream, &target).await,
            Handler::Event => handlers::event(&self.upstream, &self.events, &head.headers, body).await,
            Handler::Info => {
                handlers::info(&self.upstream, self.policy.features, self.confinement.as_ref()).await
            }
            Handler::OpenApi => Ok(handlers::openapi()),
        }
    }

    /// Every check that needs no daemon.
    fn admit<'a>(&self, peer: IpAddr, head: &'a Parts) -> Result<(Target<'a>, &'static Route), RequestError> {
        if !peer.to_canonical().is_loopback() {
            return Err(RequestError::ForeignPeer(peer));
        }
        // Without a scheme it is the authority form, which is no path and fails below.
        let authority = head.uri.scheme().and_then(|_| head.uri.authority());
        self.hosts.check(&head.headers, authority.map(|authority| authority.as_str()))?;
        let target = Target::parse(head.uri.path_and_query().map_or("", |target| target.as_str()))?;
        let root = Root::of(target.path());
        if !self.policy.features.serve(root) {
            return Err(RequestError::FeatureOff(root));
        }
        if root == Root::Aa && self.policy.strict {
            return Err(RequestError::Strict);
        }
        let route = match lookup(&head.method, target.path()) {
            Lookup::Found(route) => route,
            Lookup::WrongMethod { allow } => return Err(RequestError::WrongMethod { allow }),
            Lookup::Unknown => return Err(RequestError::UnknownPath),
        };
        if route.handler == Handler::Resource {
            let path = handlers::resource_path(&target)?;
            if !self.policy.paths.is_empty() && !self.policy.paths.iter().any(|prefix| prefix.covers(path)) {
                return Err(RequestError::PathNotAllowed);
            }
        }
        for parameter in route.query.iter().filter(|parameter| parameter.required) {
            if target.parameter(parameter.name)?.is_none() {
                return Err(RequestError::ParameterMissing(parameter.name));
            }
        }
        Ok((target, route))
    }
}

impl PathPrefix {
    /// Parses a prefix such as `default/key`; slashes at its ends do not matter.
    ///
    /// # Errors
    ///
    /// A sentence, if the prefix is empty or could not be the beginning of a path that the server accepts.
    pub fn parse(text: &str) -> Result<Self, String> {
        let prefix = text.trim_matches('/');
        if prefix.is_empty() || prefix.contains('?') {
            return Err(format!("{text:?} is not the beginning of a resource path"));
        }
        match Target::parse(&format!("/{prefix}")) {
            Ok(_) => Ok(Self(prefix.to_owned())),
            Err(error) => Err(format!("{text:?} is not the beginning of a resource path: {error}")),
        }
    }

    /// Whether `path` (`a/b/c`) is this prefix or lies below it. Both are compared as written: another spelling
    /// of the same path is not covered.
    #[must_use]
    pub fn covers(&self, path: &str) -> bool {
        path.strip_prefix(self.0.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prefixes_cover_whole_segments() {
        let prefix = PathPrefix::parse("/default/key/").unwrap();
        for (path, covered) in [
            ("default/key", true),
            ("default/key/1", true),
            ("default/key/1/2", true),
            ("default/keys/1", false),
            ("default", false),
            ("Default/key/1", false),
            ("%64efault/key/1", false),
            ("x/default/key/1", false),
        ] {
            assert_eq!(prefix.covers(path), covered, "{path}");
        }
    }

    #[test]
    fn prefixes_that_no_path_can_have_are_refused() {
        for text in ["", "/", "///", "a/../b", "a//b", "a%2fb", "a b", "a?b", "a%"] {
            assert!(PathPrefix::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_covered_path_begins_with_the_prefix(path in "[a-c/]{0,12}", prefix in "[a-c/]{1,6}") {
            if let Ok(prefix) = PathPrefix::parse(&prefix)
                && prefix.covers(&path)
            {
                let wanted: Vec<_> = prefix.0.split('/').collect();
                let got: Vec<_> = path.split('/').take(wanted.len()).collect();
                prop_assert_eq!(got, wanted);
            }
        }
    }
}
