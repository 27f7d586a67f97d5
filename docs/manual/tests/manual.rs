//! What is written, as its readers take it: groff the pages, shells the completions.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test fails loudly, starts groff and shells and says what it skips"
)]

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output};

use manual::page;

/// Pages of others that are named.
const FOREIGN: [&str; 3] = ["crypttab(5)", "dracut(8)", "skopeo-copy(1)"];

/// Whether a program is here; tells if not.
fn is_here(program: &str) -> bool {
    if Command::new(program).arg("--version").output().is_ok() {
        return true;
    }
    let note = format!("skipped: the manual: needs {program}\n");
    eprint!("{note}");
    if let Some(path) = std::env::var_os("SKIPPED_TESTS") {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all(note.as_bytes()).unwrap();
    }
    false
}

fn written() -> (tempfile::TempDir, Vec<std::path::PathBuf>) {
    let share = tempfile::tempdir().unwrap();
    let files = manual::write(share.path()).unwrap();
    (share, files)
}

/// A page as a terminal shows it, wide and without any form.
fn plain(share: &Path, page: &Path) -> String {
    let Output { status, stdout, stderr } = Command::new("groff")
        .current_dir(share.join("man"))
        .args(["-Kutf8", "-man", "-Tutf8", "-P-cbou", "-ww", "-rLL=400n", "-rHY=0"])
        .arg(share.join(page))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&stderr);
    assert!(status.success() && said.is_empty(), "{}: {said}", page.display());
    // Hyphens and dashes are set as such.
    String::from_utf8(stdout).unwrap().replace(['\u{2010}', '\u{2212}'], "-")
}

#[test]
fn every_page_is_set_without_a_warning() {
    if !is_here("groff") {
        return;
    }
    let (share, files) = written();
    let pages: Vec<_> = files.iter().filter(|file| file.starts_with("man")).collect();
    assert!(pages.len() > 40, "only {} pages", pages.len());
    for page in pages {
        let source = std::fs::read_to_string(share.path().join(page)).unwrap();
        if let Some(other) = source.strip_prefix(".so ") {
            assert!(share.path().join("man").join(other.trim_end()).exists(), "{other}");
            continue;
        }
        let text = plain(share.path(), page);
        assert!(text.contains("NAME"), "{}: {text}", page.display());
    }
}

/// The words of a text that are options, sub-commands aside.
fn options(text: &str) -> BTreeSet<&str> {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    text.split(|c| !word(c)).filter(|w| w.starts_with('-') && w.trim_start_matches('-').len() > 1).collect()
}

/// Compares each page with the help of its command, and goes down to its sub-commands.
fn compare(command: &mut clap::Command, share: &Path, section: u8) -> usize {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let page = plain(share, format!("man/man{section}/{name}.{section}").as_ref());
    let help = command.render_long_help().to_string();
    let missing: Vec<_> = options(&help).difference(&options(&page)).copied().map(str::to_owned).collect();
    assert!(missing.is_empty(), "{name}: {missing:?} of --help are not in the page:\n{page}");
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<BTreeSet<_>>();
    for line in command.get_after_help().map(ToString::to_string).unwrap_or_default().lines() {
        let lost: Vec<_> = words(line).difference(&words(&page)).cloned().collect();
        let heading = !line.starts_with(' ') && line.contains(':');
        assert!(lost.is_empty() || heading, "{name}: {lost:?} of {line:?} are not in the page:\n{page}");
    }
    let mut compared = 1;
    for below in command.get_subcommands_mut().filter(|below| !below.is_hide_set()) {
        compared += compare(below, share, section);
    }
    compared
}

#[test]
fn every_page_has_what_help_shows() {
    if !is_here("groff") {
        return;
    }
    let (share, files) = written();
    let mut compared = 0;
    for program in manual::programs() {
        let mut command = program.command.clone().disable_help_subcommand(true);
        command.build();
        compared += compare(&mut command, share.path(), program.section);
    }
    let sources =
        files.iter().filter(|file| file.starts_with("man") && !file.starts_with("man/man5")).count();
    assert_eq!(compared, sources);
}

/// Every program says how it is used and how it ends, and daemons what they read besides.
#[test]
fn every_program_has_its_sections() {
    for program in manual::programs() {
        let pages = page::of_program(&program);
        let text = &pages[0].text;
        let daemon = program.section == 8;
        assert_eq!(program.surroundings.is_some(), daemon, "{}", pages[0].name);
        for (heading, needed) in [
            ("EXAMPLES", true),
            ("\"EXIT STATUS\"", true),
            ("\"SEE ALSO\"", true),
            ("ENVIRONMENT", daemon),
            ("FILES", daemon),
        ] {
            let found = text.matches(&format!(".SH {heading}\n")).count();
            assert_eq!(found, usize::from(needed), "{}: {heading}", pages[0].name);
        }
        for page in &pages {
            let (_, examples) = page.text.split_once(".SH EXAMPLES\n").unwrap_or_default();
            assert!(!examples.starts_with("Example"), "{}: the word is there twice", page.name);
        }
    }
}

/// The names of variables that the sources of a daemon ask for.
fn asked_for(folder: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            names.extend(asked_for(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            // The hub's folders of credentials are in a table.
            for (before, ending) in [("environment(\"", ""), ("env = \"", ""), ("(\"", "_IN_GUEST_KEY_PATH")]
            {
                let found = text.split(before).skip(1).filter_map(|rest| rest.split('"').next());
                names.extend(found.filter(|name| name.ends_with(ending)).map(str::to_owned));
            }
        }
    }
    names
}

#[test]
fn daemons_name_every_variable_that_they_read() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    for (name, sources, some) in [
        ("attestation-agent", "attestation-agent/src", "AA_TPM_DEVICE"),
        ("confidential-data-hub", "cdh/src", "VAULT_IN_GUEST_KEY_PATH"),
        ("cdh-storage", "cdh/storage/src", "CDH_STORAGE_SECCOMP"),
        ("api-server-rest", "api-server-rest/src", ""),
    ] {
        let programs = manual::programs();
        let program = programs.iter().find(|program| program.command.get_name() == name).unwrap();
        let told = program.surroundings.unwrap().environment.iter().flat_map(|(names, _)| names.split(", "));
        let told: BTreeSet<String> = told.map(str::to_owned).collect();
        let asked = asked_for(&root.join(sources));
        assert!(asked.contains(some) || some.is_empty(), "{name}: {asked:?}");
        let missing: Vec<_> = asked.difference(&told).collect();
        assert!(missing.is_empty(), "{name}(8) does not tell of {missing:?}");
        assert!(told.contains("RUST_LOG"), "{name}");
    }
}

#[test]
fn every_page_that_a_page_names_exists() {
    let pages = manual::pages().unwrap();
    let names: BTreeSet<String> =
        pages.iter().map(|page| format!("{}({})", page.name, page.section)).collect();
    for program in manual::programs() {
        for other in program.see_also {
            assert!(names.contains(*other) || FOREIGN.contains(other), "{other}");
        }
    }
    assert_eq!(names.len(), pages.len());
    assert_eq!(page::of_program(&manual::programs()[0]).len(), 1);
}

#[test]
fn every_program_says_what_it_was_built_from() {
    for program in manual::programs() {
        let text = program.command.render_long_version();
        let lines: Vec<&str> = text.lines().collect();
        let name = program.command.get_name();
        assert_eq!(lines.len(), 4, "{text}");
        assert_eq!(lines[0], format!("{name} {}", env!("CARGO_PKG_VERSION")));
        assert!(lines[3] == "features: none" || name == "cdh-storage", "{text}");
        assert_eq!(program.command.render_version().lines().count(), 1, "{name} -V");
    }
}

#[test]
fn completions_load_in_their_shells() {
    let (share, files) = written();
    let programs = manual::programs().len();
    for (shell, folder, arguments) in [
        ("bash", "bash-completion", &["-uec", ". \"$1\"; complete -p | grep -q ' '", "bash"][..]),
        ("zsh", "zsh", &["-n"]),
        ("fish", "fish", &["--no-execute"]),
    ] {
        let scripts: Vec<_> = files.iter().filter(|file| file.starts_with(folder)).collect();
        assert_eq!(scripts.len(), programs, "{shell}");
        // Of these only bash is on every machine.
        if shell != "bash" && Command::new(shell).arg("--version").output().is_err() {
            continue;
        }
        for script in scripts {
            let out = Command::new(shell).args(arguments).arg(share.path().join(script)).output().unwrap();
            assert!(out.status.success() && out.stderr.is_empty(), "{script:?}: {out:?}");
        }
    }
}

#[test]
fn bash_completes_sub_commands_and_options() {
    let (share, _) = written();
    let script = share.path().join("bash-completion/completions/guestctl");
    let ask = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let ask = format!(
            ". {}; COMP_WORDS=({line}); [[ '{line}' != *' ' ]] || COMP_WORDS+=(''); COMP_CWORD={}; _guestctl guestctl \
             \"${{COMP_WORDS[COMP_CWORD]}}\" x; echo \"${{COMPREPLY[@]}}\"",
            script.display(),
            words.len() - 1,
        );
        let out = Command::new("bash").args(["-c", &ask]).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    assert_eq!(ask("guestctl doc").trim(), "doctor");
    assert!(ask("guestctl disk ").contains("format"), "{}", ask("guestctl disk "));
    assert!(ask("guestctl disk check --re").contains("--require-integrity"));
}
