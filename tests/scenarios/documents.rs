//! The documents name tests as proof; here every such name is looked up in the sources, so that no table rots.
//!
//! Looked at: the tables that have a column `Test` in the README and in the two documents on bad input, and in those
//! two also what is named in running text. It is not checked here that a test proves what the row says.
//!
//! The other way round for error codes: each one in the sources must be in their table.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const DOCUMENTS: [&str; 3] = ["README.md", "docs/bad-input.md", "docs/bad-input-local.md"];

/// Names of all test functions, with the stems of the files that hold one of that name.
type Tests = BTreeMap<String, Vec<String>>;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The functions below `#[test]` or `#[tokio::test]` in `source`.
fn test_functions(source: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut marked = false;
    for line in source.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            marked = true;
        } else if let Some((_, rest)) = line.split_once("fn ").filter(|_| marked) {
            names.push(rest.split('(').next().unwrap_or_default());
            marked = false;
        }
    }
    names
}

fn collect(folder: &Path, tests: &mut Tests) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                collect(&path, tests);
            }
        } else if let Some(stem) = name.strip_suffix(".rs") {
            for function in test_functions(&std::fs::read_to_string(&path).unwrap()) {
                tests.entry(function.to_owned()).or_default().push(stem.to_owned());
            }
        }
    }
}

fn all_tests() -> Tests {
    let mut tests = Tests::new();
    collect(&workspace(), &mut tests);
    tests
}

/// What stands between back ticks and looks like a path of Rust functions: `name`, `file::name`.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let path = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | ':');
    text.split('`').skip(1).step_by(2).filter(move |name| !name.is_empty() && name.chars().all(path))
}

fn exists(tests: &Tests, name: &str) -> bool {
    let mut parts = name.rsplit("::");
    let function = parts.next().unwrap_or_default();
    let Some(files) = tests.get(function) else { return false };
    parts.next().is_none_or(|file| files.iter().any(|stem| stem == file))
}

/// The cells of a table row, without the bars at both ends.
fn cells(line: &str) -> Option<Vec<&str>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(inner.split('|').map(str::trim).collect())
}

/// What is wrong with the names in `text`, a line each, and how many names were looked up.
fn defects(document: &str, text: &str, tests: &Tests) -> (Vec<String>, usize) {
    let mut defects = Vec::new();
    let mut looked_up = 0;
    let mut column = None;
    let mut check = |line: &str, name: &str| {
        looked_up += 1;
        if !exists(tests, name) {
            defects.push(format!("{document}: no test {name}: {line}"));
        }
    };
    for line in text.lines() {
        match cells(line) {
            None => {
                column = None;
                if document != "README.md" {
                    // Two segments are a module of tests as a whole, three a path of a crate: not looked at.
                    names(line).filter(|n| n.contains("::") && n.contains('_')).for_each(|n| check(line, n));
                }
            }
            Some(row) => match column {
                None => column = Some(row.iter().position(|cell| *cell == "Test")),
                Some(Some(at)) => {
                    let cell = row.get(at).copied().unwrap_or_default();
                    names(cell).for_each(|name| check(line, name));
                }
                Some(None) => names(line).filter(|n| n.contains("::")).for_each(|n| check(line, n)),
            },
        }
    }
    (defects, looked_up)
}

#[test]
fn every_test_that_the_documents_name_exists() {
    let tests = all_tests();
    assert!(tests.len() > 300, "only {} tests were found in the sources", tests.len());
    for document in DOCUMENTS {
        let text = std::fs::read_to_string(workspace().join(document)).unwrap();
        let (defects, looked_up) = defects(document, &text, &tests);
        assert!(defects.is_empty(), "{}", defects.join("\n"));
        assert!(looked_up > 15, "{document}: only {looked_up} names were looked up");
    }
}

#[test]
fn every_row_of_a_table_with_tests_names_one() {
    for document in DOCUMENTS {
        let text = std::fs::read_to_string(workspace().join(document)).unwrap();
        let mut column = None;
        for line in text.lines() {
            let Some(row) = cells(line) else {
                column = None;
                continue;
            };
            let Some(column) = column else {
                column = Some(row.iter().position(|cell| *cell == "Test"));
                continue;
            };
            let cell = column.and_then(|at| row.get(at).copied());
            if let Some(cell) = cell.filter(|cell| !cell.starts_with("---")) {
                assert!(
                    cell == "same" || cell.contains('`') || cell.contains("docs/"),
                    "{document}: a row without a test: {line}"
                );
            }
        }
    }
}

#[test]
fn a_name_that_does_not_exist_is_found() {
    let tests = Tests::from([("it_works".to_owned(), vec!["release".to_owned()])]);
    let table = |name: &str| format!("| Row | Test |\n|---|---|\n| one | `{name}` |\n");
    for (name, wrong) in
        [("it_works", 0), ("release::it_works", 0), ("denial::it_works", 1), ("it_worked", 1)]
    {
        assert_eq!(defects("docs/x.md", &table(name), &tests).0.len(), wrong, "{name}");
    }
    assert_eq!(defects("docs/x.md", "text (`release::it_broke`)\n", &tests).0.len(), 1);
    assert_eq!(
        test_functions("#[test]\nfn a_b() {}\nfn c() {}\n#[tokio::test]\nasync fn d() {}"),
        ["a_b", "d"]
    );
}

/// Programs whose codes people see.
const WITH_CODES: [&str; 6] =
    ["attestation-agent", "cdh", "api-server-rest", "protos/daemon", "image-rs", "tests/dev-kbs"];

/// How names in capitals of other kinds begin: types of firmware events, a TPM's response codes, Intel's quoting enclave,
/// variables that are read in a loop or with a default, names of algorithms in Sigstore's documents, capabilities and limits of containers.
const OTHER_NAMES: [&str; 20] = [
    "EV_",
    "TPM_RC",
    "TD_QE",
    "AES_256_CTR_HMAC_SHA256",
    "AES_GCM",
    "RSA_PKCS1_SHA_256",
    "ALIYUN_IN_GUEST_",
    "AWS_IN_GUEST_",
    "VAULT_IN_GUEST_",
    "PKCS11_IN_GUEST_",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "SHA2_",
    "PUBLIC_KEY_DETAILS_",
    "CAP_",
    "RLIMIT_",
    "REGISTRY_AUTH_FILE",
    "CONTAINERS_REGISTRIES_CONF",
    "LD_LIBRARY_PATH",
];

/// The texts of `source` that look like codes, each with what stands before it; tests and comments aside.
fn names_in_capitals(source: &str) -> Vec<(&str, &str)> {
    let source = source.split("#[cfg(test)]\nmod").next().unwrap_or_default();
    let capital = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let texts = source.lines().filter(|line| !line.trim_start().starts_with("//")).flat_map(|line| {
        let at: Vec<usize> = line.match_indices('"').map(|(at, _)| at).collect();
        let pairs: Vec<_> =
            at.windows(2).map(|pair| (&line[..pair[0]], &line[pair[0] + 1..pair[1]])).collect();
        pairs
    });
    let is_name =
        |text: &str| text.trim_matches('_') == text && text.contains('_') && text.chars().all(capital);
    texts.filter(|(_, text)| is_name(text)).collect()
}

/// Every source below `folder` that goes into a program.
fn sources(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "tests" && name != "target" {
                sources(&path, found);
            }
        } else if name.ends_with(".rs") && name != "tests.rs" {
            found.push(std::fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_code_is_in_the_table_of_codes() {
    let mut texts = Vec::new();
    WITH_CODES.iter().for_each(|program| sources(&workspace().join(program), &mut texts));
    let (mut codes, mut variables) = (BTreeSet::new(), BTreeSet::new());
    for (before, name) in texts.iter().flat_map(|text| names_in_capitals(text)) {
        let variable = ["environment(", "env!(", "var_os(", "env = ", "value_name = "]
            .iter()
            .any(|call| before.ends_with(call));
        if variable {
            variables.insert(name)
        } else {
            codes.insert(name)
        };
    }
    let document = std::fs::read_to_string(workspace().join("docs/codes.md")).unwrap();
    let told: BTreeSet<&str> = document.split('`').skip(1).step_by(2).collect();
    let families: Vec<&str> = told.iter().filter_map(|name| name.strip_suffix('…')).collect();
    let missing: Vec<_> = codes
        .iter()
        .filter(|code| !variables.contains(*code) && !OTHER_NAMES.iter().any(|other| code.starts_with(other)))
        .filter(|code| !told.contains(*code) && !families.iter().any(|family| code.starts_with(family)))
        .collect();
    assert!(missing.is_empty(), "docs/codes.md does not tell of {missing:?}");
    assert!(codes.len() > 150, "only {} codes were found in the sources", codes.len());
}

#[test]
fn codes_are_found_in_sources() {
    let source = "x => \"A_CODE\", // \n    // \"NOT_THIS\"\nenvironment(\"A_NAME\") \"Not_one\" \"NOR\"\n\
                  #[cfg(test)]\nmod tests { \"NOT_THAT\" }";
    assert_eq!(names_in_capitals(source), [("x => ", "A_CODE"), ("environment(", "A_NAME")]);
}
