//! The committed code under `src/gen` is what `proto/*.proto` generates.
//!
//! `UPDATE_PROTOS=1 cargo test -p cc-protos --test generated` writes the files anew.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::path::Path;

use prost::Message as _;
use protox::Compiler;

/// The sources, in the order of the descriptor set.
const PROTOS: [&str; 4] =
    ["attestation_agent.proto", "confidential_data_hub.proto", "keyprovider.proto", "guest_services.proto"];

/// Messages that carry secrets: their `Debug` is written by hand, in `src/redacted.rs`.
const SECRET: [&str; 7] = [
    ".attestation_agent.GetTokenResponse",
    ".api.UnsealSecretInput",
    ".api.UnsealSecretOutput",
    ".api.GetResourceResponse",
    ".guest_services.v1.GetVolumeKeyResponse",
    ".keyprovider.KeyProviderKeyWrapProtocolInput",
    ".keyprovider.KeyProviderKeyWrapProtocolOutput",
];

/// Name and content of every generated file.
fn generate() -> BTreeMap<String, Vec<u8>> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let mut compiler = Compiler::new([sources]).unwrap();
    compiler.include_source_info(true).include_imports(true).open_files(PROTOS).unwrap();
    let mut set = compiler.file_descriptor_set();

    let out = tempfile::tempdir().unwrap();
    tonic_prost_build::configure()
        .out_dir(out.path())
        .emit_rerun_if_changed(false)
        .skip_debug(SECRET)
        .compile_fds(set.clone())
        .unwrap();
    let mut files: BTreeMap<_, _> = std::fs::read_dir(out.path())
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect();

    // Reflection needs names and numbers; comments and positions would treble the size.
    for file in &mut set.file {
        file.source_code_info = None;
    }
    files.insert("descriptors.bin".to_owned(), set.encode_to_vec());
    files
}

#[test]
fn committed_code_is_what_the_sources_generate() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gen");
    let expected = generate();
    if std::env::var_os("UPDATE_PROTOS").is_some() {
        std::fs::create_dir_all(&folder).unwrap();
        for (name, content) in &expected {
            std::fs::write(folder.join(name), content).unwrap();
        }
    }
    let found: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    for name in &found {
        assert!(expected.contains_key(name), "src/gen/{name} comes from no source; delete it");
    }
    for (name, content) in &expected {
        let committed = std::fs::read(folder.join(name)).unwrap_or_default();
        assert!(
            committed == *content,
            "src/gen/{name} differs from what proto/ generates; \
             run: UPDATE_PROTOS=1 cargo test -p cc-protos --test generated"
        );
    }
}
