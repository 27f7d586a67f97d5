//! The route table: every method and path that this server answers, in one place.
//!
//! Handlers live elsewhere; here is only what decides which of them runs. The OpenAPI document is checked
//! against [`ROUTES`] in both directions.
//!
//! Implements the REST interface of the Confidential Containers API server (`/aa`, `/cdh`, `/info`), plus
//! `/openapi.json`.

use std::fmt;
use std::str::FromStr;

use http::Method;

/// Which roots are served: the argument of `--features`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Features {
    /// `/cdh` alone.
    Resource,
    /// `/aa` alone.
    Attestation,
    /// Both.
    All,
}

/// The first segment of a path, which decides the feature it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// Always served.
    Open,
    /// `/aa`: the attestation agent, feature `attestation`.
    Aa,
    /// `/cdh`: the confidential data hub, feature `resource`.
    Cdh,
}

/// What a path must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// Exactly this path.
    Exact(&'static str),
    /// This path, a slash, and at least one character more.
    Below(&'static str),
}

/// The method of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// `GET`, which brings `HEAD` with it.
    Get,
    /// `POST`.
    Post,
}

/// The step that answers a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handler {
    /// Version, platform, features.
    Info,
    /// The OpenAPI document.
    OpenApi,
    /// `GetToken`.
    Token,
    /// `GetEvidence`.
    Evidence,
    /// `GetAdditionalEvidence`.
    AdditionalEvidence,
    /// `ExtendRuntimeMeasurement`.
    Event,
    /// `GetResource`.
    Resource,
}

/// A query parameter that a route reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter {
    /// Its key.
    pub name: &'static str,
    /// Whether a request without it is refused.
    pub required: bool,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// Its method; one path has one.
    pub verb: Verb,
    /// The paths it answers.
    pub pattern: Pattern,
    /// The feature it belongs to.
    pub root: Root,
    /// What answers it.
    pub handler: Handler,
    /// The query parameters it reads.
    pub query: &'static [Parameter],
    /// Its path in the OpenAPI document.
    pub documented: &'static str,
}

/// What the table says about a method and a path.
#[derive(Debug, Clone, Copy)]
pub enum Lookup {
    /// This row answers.
    Found(&'static Route),
    /// The path is known, the method is not; `allow` is the value of the `Allow` header.
    WrongMethod {
        /// The methods that the path has.
        allow: &'static str,
    },
    /// The path is not known.
    Unknown,
}

const RUNTIME_DATA: &[Parameter] =
    &[Parameter { name: "runtime_data", required: true }, Parameter { name: "encoding", required: false }];

/// Every route.
pub const ROUTES: &[Route] = &[
    Route {
        verb: Verb::Get,
        pattern: Pattern::Below("/cdh/resource"),
        root: Root::Cdh,
        handler: Handler::Resource,
        query: &[],
        documented: "/cdh/resource/{repository}/{type}/{tag}",
    },
    Route {
        verb: Verb::Get,
        pattern: Pattern::Exact("/aa/token"),
        root: Root::Aa,
        handler: Handler::Token,
        query: &[Parameter { name: "token_type", required: true }],
        documented: "/aa/token",
    },
    Route {
        verb: Verb::Get,
        pattern: Pattern::Exact("/aa/evidence"),
        root: Root::Aa,
        handler: Handler::Evidence,
        query: RUNTIME_DATA,
        documented: "/aa/evidence",
    },
    Route {
        verb: Verb::Get,
        pattern: Pattern::Exact("/aa/additional-evidence"),
        root: Root::Aa,
        handler: Handler::AdditionalEvidence,
        query: RUNTIME_DATA,
        documented: "/aa/additional-evidence",
    },
    Route {
        verb: Verb::Post,
        pattern: Pattern::Exact("/aa/aael"),
        root: Root::Aa,
        handler: Handler::Event,
        query: &[],
        documented: "/aa/aael",
    },
    Route {
        verb: Verb::Get,
        pattern: Pattern::Exact("/info"),
        root: Root::Open,
        handler: Handler::Info,
        query: &[],
        documented: "/info",
    },
    Route {
        verb: Verb::Get,
        pattern: Pattern::Exact("/openapi.json"),
        root: Root::Open,
        handler: Handler::OpenApi,
        query: &[],
        documented: "/openapi.json",
    },
];

/// Finds the row for a method and a path; `HEAD` is answered wherever `GET` is.
#[must_use]
pub fn lookup(method: &Method, path: &str) -> Lookup {
    let Some(route) = ROUTES.iter().find(|route| route.pattern.matches(path)) else { return Lookup::Unknown };
    match route.verb.accepts(method) {
        true => Lookup::Found(route),
        false => Lookup::WrongMethod { allow: route.verb.allow() },
    }
}

impl Verb {
    /// Whether a request with this method is answered.
    #[must_use]
    pub fn accepts(self, method: &Method) -> bool {
        match self {
            Self::Get => method == Method::GET || method == Method::HEAD,
            Self::Post => method == Method::POST,
        }
    }

    /// The value of the `Allow` header.
    #[must_use]
    pub fn allow(self) -> &'static str {
        match self {
            Self::Get => "GET, HEAD",
            Self::Post => "POST",
        }
    }
}

impl Pattern {
    /// Whether `path` is one of the paths meant.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == *exact,
            Self::Below(base) => {
                path.strip_prefix(base).is_some_and(|rest| rest.len() > 1 && rest.starts_with('/'))
            }
        }
    }
}

impl Root {
    /// The root that `path` lies under, whether or not a route answers it.
    #[must_use]
    pub fn of(path: &str) -> Self {
        match path.split('/').nth(1) {
            Some("aa") => Self::Aa,
            Some("cdh") => Self::Cdh,
            _ => Self::Open,
        }
    }
}

impl Features {
    /// Whether paths under `root` are served.
    #[must_use]
    pub fn serve(self, root: Root) -> bool {
        match root {
            Root::Open => true,
            Root::Aa => matches!(self, Self::Attestation | Self::All),
            Root::Cdh => matches!(self, Self::Resource | Self::All),
        }
    }

    /// The name on the command line and in `/info`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resource => "resource",
            Self::Attestation => "attestation",
            Self::All => "all",
        }
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Features {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "resource" => Ok(Self::Resource),
            "attestation" => Ok(Self::Attestation),
            "all" => Ok(Self::All),
            _ => Err("the features are resource, attestation or all"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn handler(method: Method, path: &str) -> Option<Handler> {
        match lookup(&method, path) {
            Lookup::Found(route) => Some(route.handler),
            _ => None,
        }
    }

    fn allowed(method: Method, path: &str) -> Option<&'static str> {
        match lookup(&method, path) {
            Lookup::WrongMethod { allow } => Some(allow),
            _ => None,
        }
    }

    #[test]
    fn every_row_is_found() {
        for (method, path, expected) in [
            (Method::GET, "/cdh/resource/a/b/c", Handler::Resource),
            (Method::GET, "/cdh/resource/a", Handler::Resource),
            (Method::GET, "/cdh/resource/a/b/c/d/e", Handler::Resource),
            (Method::HEAD, "/cdh/resource/a/b/c", Handler::Resource),
            (Method::GET, "/aa/token", Handler::Token),
            (Method::HEAD, "/aa/token", Handler::Token),
            (Method::GET, "/aa/evidence", Handler::Evidence),
            (Method::GET, "/aa/additional-evidence", Handler::AdditionalEvidence),
            (Method::POST, "/aa/aael", Handler::Event),
            (Method::GET, "/info", Handler::Info),
            (Method::HEAD, "/info", Handler::Info),
            (Method::GET, "/openapi.json", Handler::OpenApi),
        ] {
            assert_eq!(handler(method.clone(), path), Some(expected), "{method} {path}");
        }
    }

    #[test]
    fn wrong_methods_name_the_right_ones() {
        for method in
            [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS, Method::PATCH, Method::TRACE]
        {
            for path in ["/cdh/resource/a/b/c", "/aa/token", "/aa/evidence", "/info", "/openapi.json"] {
                assert_eq!(allowed(method.clone(), path), Some("GET, HEAD"), "{method} {path}");
            }
        }
        for method in [Method::GET, Method::HEAD, Method::PUT] {
            assert_eq!(allowed(method, "/aa/aael"), Some("POST"));
        }
    }

    #[test]
    fn other_paths_are_unknown() {
        for path in [
            "/",
            "/aa",
            "/aa/",
            "/aa/tokens",
            "/aa/token/",
            "/AA/token",
            "/cdh",
            "/cdh/resource",
            "/cdh/resource/",
            "/cdh/resources/a",
            "/cdh/resourcea/b",
            "/info/",
            "/infos",
            "/aa/%74oken",
            "/api.json",
        ] {
            assert!(matches!(lookup(&Method::GET, path), Lookup::Unknown), "{path}");
        }
    }

    #[test]
    fn roots_and_features() {
        for (path, root) in [
            ("/aa", Root::Aa),
            ("/aa/x", Root::Aa),
            ("/aab", Root::Open),
            ("/cdh/resource", Root::Cdh),
            ("/cdh", Root::Cdh),
            ("/info", Root::Open),
            ("/", Root::Open),
            ("", Root::Open),
        ] {
            assert_eq!(Root::of(path), root, "{path}");
        }
        for (name, aa, cdh) in [("resource", false, true), ("attestation", true, false), ("all", true, true)]
        {
            let features: Features = name.parse().unwrap();
            assert_eq!(features.to_string(), name);
            assert_eq!((features.serve(Root::Aa), features.serve(Root::Cdh)), (aa, cdh));
            assert!(features.serve(Root::Open));
        }
        for name in ["", "ALL", "none", "resource,attestation"] {
            assert!(name.parse::<Features>().is_err(), "{name}");
        }
    }

    #[test]
    fn each_path_has_one_row() {
        for route in ROUTES {
            let path = match route.pattern {
                Pattern::Exact(path) => path.to_owned(),
                Pattern::Below(base) => format!("{base}/x"),
            };
            assert_eq!(ROUTES.iter().filter(|other| other.pattern.matches(&path)).count(), 1, "{path}");
            assert_eq!(Root::of(&path), route.root, "{path}");
        }
    }

    proptest! {
        #[test]
        fn lookup_never_panics(path in ".{0,80}") {
            let _ = lookup(&Method::GET, &path);
            let _ = Root::of(&path);
        }
    }
}
