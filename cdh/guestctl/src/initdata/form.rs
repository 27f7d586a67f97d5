//! The forms in which an init-data document comes, told by their first bytes.

use cc_evidence::initdata::{InitData, carrier};

/// How a document was wrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Not at all.
    Toml,
    /// gzip alone.
    Gzip,
    /// base64 of gzip, as in the annotation of a pod.
    Annotation,
    /// gzip with magic and length, as on a block device.
    Device,
}

impl Form {
    /// The form in words.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Toml => "TOML",
            Self::Gzip => "gzip",
            Self::Annotation => "annotation (base64 of gzip)",
            Self::Device => "device image",
        }
    }

    /// The form that `bytes` begin like; TOML if they begin like no other.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        if bytes.starts_with(b"initdata") && bytes.get(8..).is_some_and(|rest| rest.contains(&0)) {
            Self::Device
        } else if bytes.starts_with(b"\x1f\x8b") {
            Self::Gzip
        } else if bytes.trim_ascii_start().starts_with(b"H4sI") {
            // The first three bytes of every gzip that is used, in base64.
            Self::Annotation
        } else {
            Self::Toml
        }
    }
}

/// Takes the wrapping off and reads the document.
pub(crate) fn open(bytes: &[u8]) -> Result<(Form, InitData), String> {
    let form = Form::of(bytes);
    let text = |bytes| std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned());
    let body = match form {
        Form::Toml => text(bytes)?.to_owned(),
        Form::Gzip => carrier::expand(bytes).map_err(|e| e.to_string())?,
        Form::Annotation => carrier::from_annotation(text(bytes)?).map_err(|e| e.to_string())?,
        Form::Device => {
            carrier::from_device(bytes).map_err(|e| e.to_string())?.ok_or("it is no init-data device")?
        }
    };
    InitData::parse(&body).map(|document| (form, document)).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BODY: &str = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n\"aa.toml\" = ''\n";

    #[test]
    fn every_form_holds_the_same_document() {
        let annotation = carrier::to_annotation(BODY).unwrap();
        let forms = [
            (Form::Toml, BODY.as_bytes().to_vec()),
            (Form::Gzip, carrier::compress(BODY).unwrap()),
            (Form::Annotation, annotation.clone().into_bytes()),
            (Form::Annotation, format!("\n{annotation}\n").into_bytes()),
            (Form::Device, carrier::to_device(BODY).unwrap()),
        ];
        for (form, bytes) in forms {
            let (found, document) = open(&bytes).unwrap();
            assert_eq!((found, document.body()), (form, BODY));
        }
    }

    #[test]
    fn a_document_may_begin_with_a_key_of_any_name() {
        let body = format!("initdata = 1\n{BODY}");
        assert_eq!(open(body.as_bytes()).unwrap().0, Form::Toml);
        assert!(open(b"initdata").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_opened_or_refused(
            start in prop::sample::select(vec![&b""[..], b"initdata", b"\x1f\x8b\x08\x00", b"H4sI"]),
            rest in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let _ = open(&[start, &rest].concat());
        }
    }
}
