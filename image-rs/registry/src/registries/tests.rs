use proptest::prelude::*;

use super::*;

const FILE: &str = r#"
unqualified-search-registries = ["docker.io", "example1.com"]
short-name-mode = "permissive"

[[registry]]
location = "example.com/banned"
blocked = true

[[registry]]
prefix = "example.com/foo"
location = "internal-registry-for-example.com/bar"
[[registry.mirror]]
location = "example-mirror-0.local/mirror-for-foo"
[[registry.mirror]]
location = "example-mirror-1.local/mirrors/foo"
insecure = true

[[registry]]
location = "docker.io"
[[registry.mirror]]
location = "123456.mirror.aliyuncs.com"
"#;

fn attempts(file: &str, name: &str) -> Result<Vec<String>, RegistryError> {
    let attempts = Registries::parse(file)?.attempts(&name.parse().unwrap())?;
    let text = |a: Attempt| format!("{}{}", if a.plain_http { "http " } else { "" }, a.reference);
    Ok(attempts.into_iter().map(text).collect())
}

#[test]
fn a_blocked_digest_is_blocked_with_any_tag_before_it() {
    let digest = format!("sha256:{}", "0".repeat(64));
    for rules in ["", "[[registry]]\nprefix = 'a.b/c'\nlocation = 'd.e/f'\n"] {
        let file = format!("{rules}[[registry]]\nprefix = 'a.b/c@{digest}'\nblocked = true\n");
        for name in [format!("a.b/c@{digest}"), format!("a.b/c:x@{digest}")] {
            assert_eq!(attempts(&file, &name).unwrap_err().code(), "REGISTRY_BLOCKED", "{rules}{name}");
        }
        let other = format!("sha256:{}", "1".repeat(64));
        for name in [format!("a.b/c:x@{other}"), "a.b/c:x".to_owned(), format!("a.b/d@{digest}")] {
            assert_eq!(attempts(&file, &name).unwrap().len(), 1, "{rules}{name}");
        }
    }
}

#[test]
fn names_become_attempts() {
    for (name, expected) in [
        (
            "bar:tag",
            &[
                "123456.mirror.aliyuncs.com/library/bar:tag",
                "docker.io/library/bar:tag",
                "example1.com/bar:tag",
            ][..],
        ),
        (
            "ns/bar:tag",
            &["123456.mirror.aliyuncs.com/ns/bar:tag", "docker.io/ns/bar:tag", "example1.com/ns/bar:tag"],
        ),
        ("docker.io/bar:tag", &["123456.mirror.aliyuncs.com/library/bar:tag", "docker.io/library/bar:tag"]),
        ("example.com/banned-suffix:x", &["example.com/banned-suffix:x"]),
        ("example.com/foobar:x", &["example.com/foobar:x"]),
        (
            "example.com/foo/img:t",
            &[
                "example-mirror-0.local/mirror-for-foo/img:t",
                "http example-mirror-1.local/mirrors/foo/img:t",
                "internal-registry-for-example.com/bar/img:t",
            ],
        ),
        ("evil.com/docker.io/x:1", &["evil.com/docker.io/x:1"]),
        ("evil.com/example.com/banned:x", &["evil.com/example.com/banned:x"]),
        ("quay.io/a/b", &["quay.io/a/b:latest"]),
    ] {
        assert_eq!(attempts(FILE, name).unwrap(), expected, "{name}");
    }
    for banned in ["example.com/banned:x", "example.com/banned/y", "example.com/banned"] {
        assert_eq!(attempts(FILE, banned).unwrap_err().code(), "REGISTRY_BLOCKED", "{banned}");
    }
}

#[test]
fn hosts_have_no_case() {
    let file = "[[registry]]\nprefix='Quay.io'\nblocked=true\n";
    for name in ["quay.io/team/app", "QUAY.IO/team/app", "quay.io:443/team/app"] {
        assert_eq!(attempts(file, name).unwrap_err().code(), "REGISTRY_BLOCKED", "{name}");
    }
    let file = "[[registry]]\nprefix='quay.io:443/team'\nblocked=true\n";
    assert_eq!(attempts(file, "quay.io/team/app").unwrap_err().code(), "REGISTRY_BLOCKED");
    assert_eq!(attempts(file, "quay.io:4430/team/app").unwrap(), ["quay.io:4430/team/app:latest"]);
}

#[test]
fn digests_go_along() {
    let name = format!("example.com/foo@sha256:{}", "ab".repeat(32));
    let expected = name.replace("example.com/foo", "internal-registry-for-example.com/bar");
    assert_eq!(attempts(FILE, &name).unwrap()[2], expected);
}

#[test]
fn a_digest_is_never_replaced() {
    let name = format!("a.b/c@sha256:{}", "ab".repeat(32));
    let file = format!("[[registry]]\nprefix = '{name}'\nlocation = 'd.e/f:1'\n");
    assert_eq!(attempts(&file, &name).unwrap_err().code(), "REGISTRY_CONFIG");
    assert_eq!(attempts(&file, "a.b/c:1").unwrap(), ["a.b/c:1"]);
}

#[test]
fn a_name_stands_for_all_that_may_be_read_for_it() {
    let registries = Registries::parse(FILE).unwrap();
    let names = |name: &str| {
        let names = registries.candidates(&name.parse().unwrap()).unwrap();
        names.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(names("bar:tag"), ["docker.io/library/bar:tag", "example1.com/bar:tag"]);
    assert_eq!(names("docker.io/bar:tag"), ["docker.io/library/bar:tag"]);
}

#[test]
fn without_a_file_there_is_one_place() {
    assert_eq!(attempts("", "bar").unwrap(), ["docker.io/library/bar:latest"]);
    let places = Registries::default().attempts(&"a.b/c".parse().unwrap()).unwrap();
    assert_eq!(places, [Attempt { reference: "a.b/c".parse().unwrap(), plain_http: false }]);
    assert_eq!(attempts("unqualified-search-registries = []", "bar").unwrap_err().code(), "REGISTRY_BLOCKED");
}

#[test]
fn the_longest_match_wins_and_of_equal_ones_the_last() {
    let file = "[[registry]]\nprefix='a.b/c'\nlocation='long.example'\n[[registry]]\nprefix='a.b'\nlocation='short.example'\n\
                [[registry]]\nprefix='a.b/c'\nlocation='last.example'\n";
    assert_eq!(attempts(file, "a.b/c/d:1").unwrap(), ["last.example/d:1"]);
    assert_eq!(attempts(file, "a.b/cd:1").unwrap(), ["short.example/cd:1"]);
    let file =
        "[[registry]]\nprefix='*.b.c'\nlocation='wild.example/x'\n[[registry]]\nprefix='b.c'\nblocked=true\n";
    assert_eq!(attempts(file, "a.b.c/d:1").unwrap(), ["wild.example/x/d:1"]);
    assert_eq!(
        attempts(file, "a.b.c:5000/d:1").unwrap_err().code(),
        "REGISTRY_CONFIG",
        "no name is made of a port"
    );
    assert_eq!(attempts(file, "x.b.cc/d:1").unwrap(), ["x.b.cc/d:1"]);
    assert_eq!(attempts(file, "x.example/a.b.c/d:1").unwrap(), ["x.example/a.b.c/d:1"]);
    assert!(attempts(file, "b.c/d").is_err());
}

#[test]
fn plain_http_is_taken_from_the_rule_that_applies() {
    assert_eq!(attempts("[[registry]]\nprefix='a.b'\ninsecure=true\n", "a.b/c:1").unwrap(), ["http a.b/c:1"]);
    assert_eq!(
        attempts("[[registry]]\nlocation='a.b'\ninsecure=true\n", "a.b/c:1").unwrap(),
        ["http a.b/c:1"]
    );
    let file = "[[registry]]\nlocation='a.b'\ninsecure=true\n[[registry.mirror]]\nlocation='m.example'\n";
    assert_eq!(attempts(file, "a.b/c:1").unwrap(), ["m.example/c:1", "http a.b/c:1"]);
}

#[test]
fn plain_http_for_one_pull_is_no_way_around_the_rules() {
    let attempts = |file: &str, name: &str| {
        let registries = Registries::parse(file).unwrap().with_plain_http("A.b:5000");
        let attempts = registries.attempts(&name.parse().unwrap())?;
        let text = |a: Attempt| format!("{}{}", if a.plain_http { "http " } else { "" }, a.reference);
        Ok::<Vec<String>, RegistryError>(attempts.into_iter().map(text).collect())
    };
    for blocked in ["a.b:5000", "a.b:5000/c"] {
        let file = format!("[[registry]]\nlocation='{blocked}'\nblocked=true\n");
        assert_eq!(attempts(&file, "a.b:5000/c:1").unwrap_err().code(), "REGISTRY_BLOCKED", "{blocked}");
    }
    let file = "[[registry]]\nlocation='a.b:5000'\n[[registry.mirror]]\nlocation='m.example'\n";
    assert_eq!(attempts(file, "a.b:5000/c:1").unwrap(), ["m.example/c:1", "http a.b:5000/c:1"]);
    assert_eq!(attempts("", "a.b:5000/c:1").unwrap(), ["http a.b:5000/c:1"]);
    assert_eq!(attempts("", "a.b:5001/c:1").unwrap(), ["a.b:5001/c:1"]);
}

#[test]
fn some_mirrors_are_for_digests_only() {
    let digest = format!("sha256:{}", "ab".repeat(32));
    let file = "[[registry]]\nlocation='a.b'\n[[registry.mirror]]\nlocation='d.example'\npull-from-mirror='digest-only'\n\
                [[registry.mirror]]\nlocation='t.example'\npull-from-mirror='tag-only'\n";
    assert_eq!(attempts(file, "a.b/c:1").unwrap(), ["t.example/c:1", "a.b/c:1"]);
    assert_eq!(attempts(file, &format!("a.b/c@{digest}")).unwrap()[0], format!("d.example/c@{digest}"));
    let file = "[[registry]]\nlocation='a.b'\nmirror-by-digest-only=true\n[[registry.mirror]]\nlocation='d.example'\n";
    assert_eq!(attempts(file, "a.b/c:1").unwrap(), ["a.b/c:1"]);
}

#[test]
fn rules_that_cannot_be_are_refused_when_the_file_is_read() {
    for bad in [
        "[[registry]]\n",
        "[[registry]]\nblocked = true\n",
        "[[registry]]\nprefix = '*.example.com'\n",
        "[[registry]]\nprefix = 'a*.example.com'\nlocation='x'\n",
        "[[registry]]\nprefix = '*.example.com/x'\nlocation='x'\n",
        "[[registry]]\nlocation = 'a'\n[[registry.mirror]]\n",
        "[[registry]]\nlocation = 'a'\n[[registry.mirror]]\nlocation='b'\npull-from-mirror='never'\n",
        "[[registry]]\nlocation = 1\n",
        "unqualified-search-registries = 'x'\n",
        "[registries.search]\nregistry = [[\n",
    ] {
        assert_eq!(Registries::parse(bad).unwrap_err().code(), "REGISTRY_CONFIG", "{bad}");
    }
    assert!(Registries::parse(&" ".repeat(MAX_LEN + 1)).is_err());
}

proptest! {
    #[test]
    fn never_panics(text in "\\PC{0,60}", name in "([a-z]{1,3}(\\.[a-z]{1,3}){1,2}/)?[a-z]{1,3}(/[a-z]{1,3})?(:[a-z]{1,3})?") {
        let _ = Registries::parse(&text);
        let file = format!("[[registry]]\nprefix = {text:?}\nlocation = {text:?}\n");
        if let (Ok(registries), Ok(reference)) = (Registries::parse(&file), name.parse()) {
            let _ = registries.attempts(&reference);
        }
    }

    #[test]
    fn only_a_start_that_ends_a_part_is_replaced(prefix in "[a-c]\\.[a-c](/[a-c]){0,2}", name in "[a-c]\\.[a-c](/[a-c]{1,2}){1,3}") {
        let file = format!("[[registry]]\nprefix = '{prefix}'\nlocation = 'moved.example/x'\n");
        let text = format!("{name}:t");
        let matches = text.strip_prefix(&prefix).filter(|rest| rest.starts_with(['/', ':']));
        let expected = matches.map_or_else(|| text.clone(), |rest| format!("moved.example/x{rest}"));
        prop_assert_eq!(attempts(&file, &text).unwrap(), [expected]);
    }
}
