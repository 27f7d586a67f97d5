//! Hands the commit and the target to the compiler.
//!
//! Nothing is asked of git here: the same sources give the same bytes, in a clone as in an unpacked archive. Who builds a
//! release says the commit (`SOURCE_COMMIT`, as `make build` does).

#![allow(clippy::print_stdout, reason = "how a build script speaks to cargo")]

/// Longest text that stands for a commit.
const MAX_LEN: usize = 80;

fn main() {
    println!("cargo::rerun-if-env-changed=SOURCE_COMMIT");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-env=BUILD_COMMIT={}", commit());
    println!("cargo::rustc-env=BUILD_TARGET={}", variable("TARGET"));
}

/// The commit as it was given, if it is one line of the characters that commits and tags are made of.
fn commit() -> String {
    let given = variable("SOURCE_COMMIT");
    let usual = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/' | '+');
    if given.is_empty() || given.len() > MAX_LEN || !given.chars().all(usual) {
        return "unknown".to_owned();
    }
    given
}

#[allow(clippy::disallowed_methods, reason = "a build script is told everything by the environment")]
fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}
