//! Parameters of images that are being encrypted, and the key ids in them.
#![no_main]

use cc_sealed::WrapParameters;
use coco_keyprovider::key_id;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = key_id::parse(text);
    let Ok(parameters) = WrapParameters::parse(Some(text)) else { return };
    let WrapParameters { key_id: id, key_path: path, algorithm, sample, overwrite } = parameters.clone();
    assert!(!sample || (id.is_none() && path.is_none()));
    assert!(!overwrite || (id.is_some() && path.is_none()));
    let mut written = vec![format!("algorithm={algorithm}"), format!("sample={sample}")];
    if overwrite {
        written.push("overwrite=true".to_owned());
    }
    written.extend(path.map(|path| format!("keypath={path}")));
    if let Some(id) = id {
        if let Ok(uri) = key_id::parse(&id) {
            assert_eq!(uri.segments().len(), 3);
            assert_eq!(key_id::parse(&uri.to_string()).expect("what was written is read"), uri);
        }
        written.push(format!("keyid={id}"));
    }
    assert_eq!(WrapParameters::parse(Some(&written.join("::"))), Ok(parameters));
});
