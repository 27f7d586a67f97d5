//! The text of a policy, `policy.json` of containers-policy.json(5).
//!
//! Strict as the format is there: every member of every object is known and appears once, lists of requirements are not
//! empty, and exactly one way of naming keys is used. One mistake makes the whole policy invalid, also where it would not
//! have been used. Keys are not read here: a path stays a path. Transports other than `docker` are checked and kept, but
//! images are only ever pulled by that one.
//!
//! One type of requirement is ours, [`BUNDLE_SIGNED`]; readers that do not know it refuse the policy, as they do with
//! every unknown type.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Map, Value};

use super::{
    identity::{self, Identity, Remap},
    requirement::{
        BundleSigned, BundleSigner, Fulcio, Material, Provenance, Requirement, SLSA_PROVENANCE, SignedBy,
        SigstoreSigned, SigstoreSigner, Subject,
    },
};
use crate::{Error, Reference, prefix_in_one_form};

/// Longest policy read, in bytes.
const MAX_LEN: usize = 1 << 20;
/// Most entries of any list in it.
const MAX_LIST: usize = 100;
/// The type of our own requirement.
pub(crate) const BUNDLE_SIGNED: &str = "guest-services/bundleSigned";
/// The transport of images from registries.
const DOCKER: &str = "docker";

/// A policy, checked but for its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Document {
    /// What must hold where no scope fits.
    pub(crate) default: Vec<Requirement>,
    /// What must hold for images of registries, by scope.
    pub(crate) docker: BTreeMap<String, Vec<Requirement>>,
}

impl Document {
    /// Reads a policy of at most 1 MiB.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, Error> {
        const WHAT: &str = "policy";
        if text.len() > MAX_LEN {
            return Err(invalid(WHAT, format!("it has more than {MAX_LEN} bytes")));
        }
        let value =
            cc_crypto::unique_json::parse(WHAT, text).map_err(|error| invalid(WHAT, error.to_string()))?;
        let members = Members::new(WHAT, &value, &["default", "transports"])?;
        let default = members.value("default").ok_or_else(|| invalid(WHAT, "default is missing"))?;
        let default = requirements("default", default)?;
        let mut docker = BTreeMap::new();
        if let Some(transports) = members.value("transports") {
            for (transport, scopes) in object("transports", transports)? {
                for (scope, list) in object(transport, scopes)? {
                    let list = requirements(&format!("{transport} {scope:?}"), list)?;
                    if transport == DOCKER && docker.insert(prefix_in_one_form(scope), list).is_some() {
                        return Err(invalid(transport, format!("{:?} is given twice", cut(scope))));
                    }
                }
            }
        }
        Ok(Self { default, docker })
    }
}

fn requirements(place: &str, value: &Value) -> Result<Vec<Requirement>, Error> {
    let Value::Array(values) = value else {
        return Err(invalid(place, "not a list of requirements"));
    };
    if values.is_empty() {
        return Err(invalid(
            place,
            "an empty list of requirements; write insecureAcceptAnything if that is meant",
        ));
    }
    if values.len() > MAX_LIST {
        return Err(invalid(place, format!("more than {MAX_LIST} requirements")));
    }
    values
        .iter()
        .enumerate()
        .map(|(i, value)| requirement(&format!("{place}, requirement {i}"), value))
        .collect()
}

fn requirement(place: &str, value: &Value) -> Result<Requirement, Error> {
    let kind = object(place, value)?.get("type").and_then(Value::as_str);
    match kind {
        Some("insecureAcceptAnything") => {
            Members::new(place, value, &["type"]).map(|_| Requirement::InsecureAcceptAnything)
        }
        Some("reject") => Members::new(place, value, &["type"]).map(|_| Requirement::Reject),
        Some("signedBy") => signed_by(place, value).map(Requirement::SignedBy),
        Some("sigstoreSigned") => sigstore_signed(place, value).map(Requirement::SigstoreSigned),
        Some(BUNDLE_SIGNED) => bundle_signed(place, value).map(Requirement::BundleSigned),
        Some(other) => Err(invalid(place, format!("unknown type {:?}", cut(other)))),
        None => Err(invalid(place, "type is missing or not a string")),
    }
}

fn signed_by(place: &str, value: &Value) -> Result<SignedBy, Error> {
    let members =
        Members::new(place, value, &["type", "keyType", "keyPath", "keyPaths", "keyData", "signedIdentity"])?;
    match members.required_text("keyType")? {
        "GPGKeys" => {}
        other => {
            return Err(invalid(place, format!("keyType {:?} cannot be used, only \"GPGKeys\"", cut(other))));
        }
    }
    let keys = members.material(["keyPath", "keyPaths", "keyData"], Encoding::Base64)?;
    let keys =
        keys.ok_or_else(|| invalid(place, "exactly one of keyPath, keyPaths and keyData must be there"))?;
    let identity = members.value("signedIdentity").map(|v| identity(place, v)).transpose()?;
    Ok(SignedBy { keys, identity: identity.unwrap_or(Identity::MatchRepoDigestOrExact) })
}

fn sigstore_signed(place: &str, value: &Value) -> Result<SigstoreSigned, Error> {
    const KEYS: [&str; 4] = ["keyPath", "keyPaths", "keyData", "keyDatas"];
    const REKOR: [&str; 4] =
        ["rekorPublicKeyPath", "rekorPublicKeyPaths", "rekorPublicKeyData", "rekorPublicKeyDatas"];
    let allowed = [&["type", "fulcio", "signedIdentity"], KEYS.as_slice(), REKOR.as_slice()].concat();
    let members = Members::new(place, value, &allowed)?;
    let keys = members.material(KEYS, Encoding::Base64OrPem)?;
    let fulcio = members.value("fulcio").map(|value| fulcio(place, value)).transpose()?;
    let rekor = members.material(REKOR, Encoding::Base64OrPem)?.unwrap_or_default();
    let signer = match (keys, fulcio) {
        (Some(keys), None) => SigstoreSigner::Keys(keys),
        (None, Some(_)) if rekor.is_empty() => {
            return Err(invalid(
                place,
                "fulcio needs the public key of the log that proves the time: rekorPublicKeyPath",
            ));
        }
        (None, Some(fulcio)) => SigstoreSigner::Fulcio(fulcio),
        _ => {
            return Err(invalid(
                place,
                "exactly one of keyPath, keyPaths, keyData, keyDatas and fulcio must be there",
            ));
        }
    };
    let identity = members.value("signedIdentity").map(|v| identity(place, v)).transpose()?;
    Ok(SigstoreSigned { signer, rekor, identity })
}

fn fulcio(place: &str, value: &Value) -> Result<Fulcio, Error> {
    let place = format!("{place}, fulcio");
    let members = Members::new(&place, value, &["caPath", "caData", "oidcIssuer", "subjectEmail"])?;
    let ca = members
        .material(["caPath", "caData"], Encoding::Base64OrPem)?
        .and_then(|list| list.into_iter().next());
    Ok(Fulcio {
        ca: ca.ok_or_else(|| invalid(&place, "exactly one of caPath and caData must be there"))?,
        issuer: members.required_text("oidcIssuer")?.to_owned(),
        email: members.required_text("subjectEmail")?.to_owned(),
    })
}

fn bundle_signed(place: &str, value: &Value) -> Result<BundleSigned, Error> {
    const KEYS: [&str; 4] = ["keyPath", "keyPaths", "keyData", "keyDatas"];
    const ROOT: [&str; 2] = ["trustedRootPath", "trustedRootData"];
    let allowed =
        [&["type", "identity", "transparencyLog", "provenance"], KEYS.as_slice(), ROOT.as_slice()].concat();
    let members = Members::new(place, value, &allowed)?;
    let keys = members.material(KEYS, Encoding::Base64OrPem)?;
    let signer = match (keys, members.value("identity")) {
        (Some(keys), None) => BundleSigner::Keys(keys),
        (None, Some(value)) => certificate_identity(place, value)?,
        _ => {
            return Err(invalid(
                place,
                "exactly one of keyPath, keyPaths, keyData, keyDatas and identity must be there",
            ));
        }
    };
    let root = members.material(ROOT, Encoding::Base64OrJson)?.and_then(|list| list.into_iter().next());
    let log_required = match (members.text("transparencyLog")?, &signer) {
        (None | Some("required"), _) => true,
        (Some("ignored"), BundleSigner::Keys(_)) if root.is_none() => false,
        (Some("ignored"), BundleSigner::Keys(_)) => {
            return Err(invalid(place, "a trusted root has no use where transparencyLog is \"ignored\""));
        }
        (Some("ignored"), BundleSigner::Identity { .. }) => {
            return Err(invalid(place, "an identity cannot be proved without the transparency log"));
        }
        (Some(_), _) => {
            return Err(invalid(place, "transparencyLog is neither \"required\" nor \"ignored\""));
        }
    };
    let provenance = members.value("provenance").map(|value| provenance(place, value)).transpose()?;
    Ok(BundleSigned { signer, root, log_required, provenance })
}

fn certificate_identity(place: &str, value: &Value) -> Result<BundleSigner, Error> {
    let place = format!("{place}, identity");
    let members = Members::new(&place, value, &["issuer", "subject", "subjectPrefix"])?;
    let subject = match (members.text("subject")?, members.text("subjectPrefix")?) {
        (Some(exact), None) => Subject::Exact(exact.to_owned()),
        // Without a border "https://example.com/team" would also admit "https://example.com/team-of-others".
        (None, Some(prefix)) if prefix.ends_with(['/', '@']) => Subject::Prefix(prefix.to_owned()),
        (None, Some(_)) => return Err(invalid(&place, "subjectPrefix must end with \"/\" or \"@\"")),
        _ => return Err(invalid(&place, "exactly one of subject and subjectPrefix must be there")),
    };
    Ok(BundleSigner::Identity { issuer: members.required_text("issuer")?.to_owned(), subject })
}

fn provenance(place: &str, value: &Value) -> Result<Provenance, Error> {
    let place = format!("{place}, provenance");
    let names = ["predicateType", "builderId", "sourceUri", "sourceRef", "workflow"];
    let members = Members::new(&place, value, &names)?;
    let text = |name| members.text(name).map(|text| text.map(str::to_owned));
    Ok(Provenance {
        predicate_type: text("predicateType")?.unwrap_or_else(|| SLSA_PROVENANCE.to_owned()),
        builder_id: text("builderId")?,
        source_uri: text("sourceUri")?,
        source_ref: text("sourceRef")?,
        workflow: text("workflow")?,
    })
}

fn identity(place: &str, value: &Value) -> Result<Identity, Error> {
    let place = format!("{place}, signedIdentity");
    let kind = object(&place, value)?.get("type").and_then(Value::as_str);
    let only = |names: &[&str]| Members::new(&place, value, names);
    match kind {
        Some("matchExact") => only(&["type"]).map(|_| Identity::MatchExact),
        Some("matchRepoDigestOrExact") => only(&["type"]).map(|_| Identity::MatchRepoDigestOrExact),
        Some("matchRepository") => only(&["type"]).map(|_| Identity::MatchRepository),
        Some("exactReference") => {
            let members = only(&["type", "dockerReference"])?;
            let text = members.required_text("dockerReference")?;
            let wrong = |why| invalid(&place, format!("dockerReference {:?}: {why}", cut(text)));
            let reference: Reference = text.parse().map_err(|error: Error| wrong(error.to_string()))?;
            // A reference without either would have been completed with a tag that the policy does not say.
            if identity::is_name_only(text) {
                return Err(wrong("it has neither a tag nor a digest".to_owned()));
            }
            Ok(Identity::ExactReference(Box::new(reference)))
        }
        Some("exactRepository") => {
            let members = only(&["type", "dockerRepository"])?;
            let text = members.required_text("dockerRepository")?;
            let wrong = |why| invalid(&place, format!("dockerRepository {:?}: {why}", cut(text)));
            if !identity::is_name_only(text) {
                return Err(wrong("it is no repository without tag and digest".to_owned()));
            }
            let reference: Reference = text.parse().map_err(|error: Error| wrong(error.to_string()))?;
            Ok(Identity::ExactRepository(identity::repository(&reference)))
        }
        Some("remapIdentity") => {
            let members = only(&["type", "prefix", "signedPrefix"])?;
            let remap = Remap::new(members.required_text("prefix")?, members.required_text("signedPrefix")?);
            remap.map(Identity::Remap).map_err(|why| invalid(&place, why))
        }
        Some(other) => Err(invalid(&place, format!("unknown type {:?}", cut(other)))),
        None => Err(invalid(&place, "type is missing or not a string")),
    }
}

/// An object whose members are all known.
struct Members<'a> {
    place: &'a str,
    members: &'a Map<String, Value>,
}

/// How key material stands in the text of a policy.
#[derive(Clone, Copy)]
enum Encoding {
    Base64,
    Base64OrPem,
    Base64OrJson,
}

impl<'a> Members<'a> {
    fn new(place: &'a str, value: &'a Value, allowed: &[&str]) -> Result<Self, Error> {
        let members = object(place, value)?;
        match members.keys().find(|name| !allowed.contains(&name.as_str())) {
            Some(name) => Err(invalid(place, format!("unknown member {:?}", cut(name)))),
            None => Ok(Self { place, members }),
        }
    }

    fn value(&self, name: &str) -> Option<&'a Value> {
        self.members.get(name)
    }

    /// A text that is not empty, if there.
    fn text(&self, name: &str) -> Result<Option<&'a str>, Error> {
        match self.members.get(name) {
            None => Ok(None),
            Some(Value::String(text)) if !text.is_empty() => Ok(Some(text)),
            Some(_) => Err(invalid(self.place, format!("{name} is not a text, or an empty one"))),
        }
    }

    fn required_text(&self, name: &str) -> Result<&'a str, Error> {
        self.text(name)?.ok_or_else(|| invalid(self.place, format!("{name} is missing")))
    }

    fn texts(&self, name: &str) -> Result<Vec<&'a str>, Error> {
        let wrong = || invalid(self.place, format!("{name} is no list of 1 to {MAX_LIST} texts"));
        match self.members.get(name) {
            Some(Value::Array(values)) if (1..=MAX_LIST).contains(&values.len()) => values
                .iter()
                .map(|value| value.as_str().filter(|text| !text.is_empty()).ok_or_else(wrong))
                .collect(),
            _ => Err(wrong()),
        }
    }

    /// The keys or certificates under the one of `names` that is there: a location where the name has "Path" in it, the
    /// thing itself where it has "Data", several of them with an "s" at the end.
    fn material<const N: usize>(
        &self,
        names: [&str; N],
        encoding: Encoding,
    ) -> Result<Option<Vec<Material>>, Error> {
        let mut present = names.into_iter().filter(|name| self.members.contains_key(*name));
        let Some(name) = present.next() else { return Ok(None) };
        if let Some(other) = present.next() {
            return Err(invalid(self.place, format!("{name} and {other} are both there")));
        }
        let texts = if name.ends_with('s') { self.texts(name)? } else { vec![self.required_text(name)?] };
        let one = |text: &str| {
            if name.contains("Data") {
                let bytes = encoding
                    .decode(text)
                    .ok_or_else(|| invalid(self.place, format!("{name} is not base64")))?;
                Ok(Material::Here(bytes))
            } else {
                Ok(Material::At(text.to_owned()))
            }
        };
        texts.into_iter().map(one).collect::<Result<_, _>>().map(Some)
    }
}

impl Encoding {
    fn decode(self, text: &str) -> Option<Vec<u8>> {
        let plain = match self {
            Self::Base64 => false,
            Self::Base64OrPem => text.trim_start().starts_with("-----BEGIN "),
            Self::Base64OrJson => text.trim_start().starts_with('{'),
        };
        if plain {
            return Some(text.as_bytes().to_vec());
        }
        let text: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        BASE64_STANDARD.decode(text).ok()
    }
}

fn object<'a>(place: &str, value: &'a Value) -> Result<&'a Map<String, Value>, Error> {
    value.as_object().ok_or_else(|| invalid(place, "not an object"))
}

fn invalid(place: &str, why: impl Into<String>) -> Error {
    Error::Policy { place: place.chars().take(200).collect(), why: why.into() }
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn parse(value: &Value) -> Result<Document, Error> {
        Document::parse(value.to_string().as_bytes())
    }

    fn one(requirement: Value) -> Result<Requirement, Error> {
        parse(&json!({"default": [requirement]})).map(|mut document| document.default.remove(0))
    }

    #[test]
    fn scopes_and_lists_are_read() {
        let document = parse(&json!({
            "default": [{"type": "reject"}],
            "transports": {
                "docker": {
                    "quay.io/ns": [{"type": "insecureAcceptAnything"}, {"type": "reject"}],
                    "": [{"type": "insecureAcceptAnything"}],
                },
                "docker-daemon": {"": [{"type": "insecureAcceptAnything"}]},
            },
        }))
        .unwrap();
        assert_eq!(document.default, [Requirement::Reject]);
        assert_eq!(document.docker.keys().collect::<Vec<_>>(), ["", "quay.io/ns"]);
        assert_eq!(document.docker["quay.io/ns"].len(), 2);
        assert!(parse(&json!({"default": [{"type": "reject"}]})).unwrap().docker.is_empty());
    }

    #[test]
    fn hosts_of_scopes_have_no_case() {
        let any = json!([{"type": "insecureAcceptAnything"}]);
        let policy = |scopes: Value| {
            parse(&json!({"default": [{"type": "reject"}], "transports": {"docker": scopes}}))
        };
        let document = policy(json!({"QUAY.io/ns": any, "*.Example.com": any})).unwrap();
        assert_eq!(document.docker.keys().collect::<Vec<_>>(), ["*.example.com", "quay.io/ns"]);
        for twice in
            [json!({"QUAY.io/ns": any, "quay.io/ns": any}), json!({"quay.io:443": any, "quay.io": any})]
        {
            assert!(policy(twice).is_err());
        }
    }

    #[test]
    fn keys_have_one_form_each() {
        let Requirement::SignedBy(by) =
            one(json!({"type": "signedBy", "keyType": "GPGKeys", "keyPaths": ["/a", "kbs:///b/c/d"]}))
                .unwrap()
        else {
            panic!()
        };
        assert_eq!(by.keys, [Material::At("/a".into()), Material::At("kbs:///b/c/d".into())]);
        assert_eq!(by.identity, Identity::MatchRepoDigestOrExact);
        let pem = "-----BEGIN PUBLIC KEY-----\nAQID\n-----END PUBLIC KEY-----\n";
        for data in [pem.to_owned(), BASE64_STANDARD.encode(pem)] {
            let Requirement::SigstoreSigned(signed) =
                one(json!({"type": "sigstoreSigned", "keyData": data})).unwrap()
            else {
                panic!()
            };
            assert_eq!(signed.signer, SigstoreSigner::Keys(vec![Material::Here(pem.into())]));
            assert_eq!(signed.identity, None);
        }
    }

    #[test]
    fn mistakes_make_the_policy_invalid_and_are_named() {
        let gpg = |more: Value| {
            let mut value = json!({"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"});
            value.as_object_mut().unwrap().append(&mut more.as_object().unwrap().clone());
            json!({"default": [value]})
        };
        let requirement = |value: Value| json!({"default": [value]});
        let fulcio = json!({"caPath": "/ca", "oidcIssuer": "https://i", "subjectEmail": "a@b"});
        let identity = json!({"issuer": "https://i", "subject": "s"});
        for (expected, value) in [
            ("default is missing", json!({})),
            ("unknown member \"defaults\"", json!({"default": [{"type": "reject"}], "defaults": []})),
            ("empty list", json!({"default": []})),
            ("empty list", json!({"default": [{"type": "reject"}], "transports": {"docker": {"a": []}}})),
            (
                "atomic \"x\", requirement 0: unknown type",
                json!({"default": [{"type": "reject"}],
                "transports": {"atomic": {"x": [{"type": "what"}]}}}),
            ),
            ("not an object", json!({"default": [{"type": "reject"}], "transports": {"docker": []}})),
            ("type is missing", requirement(json!({}))),
            ("unknown member \"keyPath\"", requirement(json!({"type": "reject", "keyPath": "/"}))),
            ("unknown type \"signedBaseLayer\"", requirement(json!({"type": "signedBaseLayer"}))),
            ("keyType", requirement(json!({"type": "signedBy", "keyPath": "/k"}))),
            ("cannot be used", gpg(json!({"keyType": "X509Certificates"}))),
            ("both there", gpg(json!({"keyData": "AAAA"}))),
            ("exactly one of", requirement(json!({"type": "signedBy", "keyType": "GPGKeys"}))),
            ("list of 1 to", requirement(json!({"type": "signedBy", "keyType": "GPGKeys", "keyPaths": []}))),
            (
                "not base64",
                requirement(json!({"type": "signedBy", "keyType": "GPGKeys", "keyData": "-----BEGIN"})),
            ),
            ("unknown member \"keyDatas\"", gpg(json!({"keyDatas": ["AAAA"]}))),
            ("unknown type", gpg(json!({"signedIdentity": {"type": "anything"}}))),
            (
                "unknown member",
                gpg(json!({"signedIdentity": {"type": "matchExact", "dockerReference": "a"}})),
            ),
            (
                "neither a tag nor",
                gpg(json!({"signedIdentity": {"type": "exactReference", "dockerReference": "a/b"}})),
            ),
            (
                "no repository",
                gpg(json!({"signedIdentity":
                {"type": "exactRepository", "dockerRepository": "a.io/b:c"}})),
            ),
            (
                "signedPrefix is missing",
                gpg(json!({"signedIdentity": {"type": "remapIdentity", "prefix": "a.io"}})),
            ),
            ("exactly one of", requirement(json!({"type": "sigstoreSigned"}))),
            (
                "exactly one of",
                requirement(json!({"type": "sigstoreSigned", "keyPath": "/k", "fulcio": fulcio,
                "rekorPublicKeyPath": "/r"})),
            ),
            ("rekorPublicKeyPath", requirement(json!({"type": "sigstoreSigned", "fulcio": fulcio}))),
            ("unknown member \"pki\"", requirement(json!({"type": "sigstoreSigned", "pki": {}}))),
            ("not a text", requirement(json!({"type": "sigstoreSigned", "keyPath": Value::Null}))),
            (
                "exactly one of",
                requirement(json!({"type": BUNDLE_SIGNED, "keyPath": "/k", "identity": identity})),
            ),
            (
                "cannot be proved",
                requirement(json!({"type": BUNDLE_SIGNED, "identity": identity,
                "transparencyLog": "ignored"})),
            ),
            (
                "neither",
                requirement(json!({"type": BUNDLE_SIGNED, "keyPath": "/k", "transparencyLog": "no"})),
            ),
            (
                "must end with",
                requirement(json!({"type": BUNDLE_SIGNED,
                "identity": {"issuer": "i", "subjectPrefix": "https://example.com/team"}})),
            ),
            (
                "exactly one of subject",
                requirement(json!({"type": BUNDLE_SIGNED, "identity": {"issuer": "i"}})),
            ),
            (
                "unknown member",
                requirement(json!({"type": BUNDLE_SIGNED, "keyPath": "/k",
                "provenance": {"builder": "x"}})),
            ),
        ] {
            let error = parse(&value).unwrap_err();
            assert_eq!(error.code(), "IMAGE_POLICY_INVALID");
            assert!(error.to_string().contains(expected), "{value}: {error}");
        }
        let twice = r#"{"default":[{"type":"insecureAcceptAnything"}],"default":[{"type":"reject"}]}"#;
        assert!(Document::parse(twice.as_bytes()).is_err());
        assert!(Document::parse(&[b' '; MAX_LEN + 1]).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Document::parse(&bytes);
        }
    }
}
