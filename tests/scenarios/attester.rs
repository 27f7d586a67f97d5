//! `trustee-attester`: one process from evidence to resource, as first-boot scripts and the clevis pin call it.

use std::process::Output;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use cc_evidence::initdata::InitData;
use cc_tests::hostile_kbs::{HostileKbs, Identity};
use cc_tests::machine::{Gpu, Machine, sample_reference_values};
use cc_tests::process::own_binary;
use cc_tests::stack::{Options, Part, Stack, Tee, emulator_runs_here};

use crate::{RESOURCE, SECRET};

/// Emulated machine and key broker alone: neither agent nor hub runs.
fn ground(options: Options) -> Option<Stack> {
    if !emulator_runs_here() {
        return None;
    }
    let machine = options.machine.clone();
    let mut stack = Stack::prepare(options).unwrap();
    stack.start_part(Part::Emulator).unwrap();
    stack.start_part(Part::Kbs).unwrap();
    stack.set_reference_values(&machine.reference_values()).unwrap();
    stack.put_resource(RESOURCE, SECRET).unwrap();
    Some(stack)
}

/// Runs the tool against the key broker at `url`, on the machine of `stack`, as talkative as it gets. The environment
/// would silence it if it counted.
fn attest_at(stack: &Stack, url: &str, global: &[&str], command: &[&str]) -> Output {
    let mut attester = own_binary("trustee-attester").unwrap();
    attester.args(["--url", url, "--sys-root"]).arg(stack.folder().join("root"));
    attester.arg("--verbose").args(global).arg("get-resource").args(command).env("RUST_LOG", "off");
    attester.output().unwrap()
}

/// The same with the stack's own key broker and its certificate.
fn attest(stack: &Stack, command: &[&str]) -> Output {
    let certificate = stack.kbs_certificate();
    attest_at(stack, stack.kbs_url(), &["--cert-file", certificate.to_str().unwrap()], command)
}

/// What callers do with the output: one line of standard base64.
fn resource(output: &Output) -> Vec<u8> {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{err}");
    let line = out.strip_suffix('\n').unwrap();
    assert!(!line.contains('\n'), "one line: {out}");
    clean(output);
    STANDARD.decode(line).unwrap()
}

/// Asserts exit status, code and a part of the sentence, and that nothing is on standard output.
fn refused(output: &Output, name: &str, (status, code, says): (i32, &str, &str)) {
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{name}: {err}");
    assert_eq!(text(&output.stdout), "", "{name}");
    let told = err.lines().find(|line| line.starts_with("trustee-attester: ")).unwrap_or_default();
    assert!(told.ends_with(&format!("[{code}]")), "{name}: {err}");
    assert!(told.contains(says), "{name}: {says:?} is missing in {told}");
    assert!(err.contains("\nhint: "), "{name}: {err}");
    clean(output);
}

/// No secret, token, key or cookie on standard error, which has the log at its most talkative.
fn clean(output: &Output) {
    let canaries = [
        SECRET.to_vec(),
        STANDARD.encode(SECRET).into_bytes(),
        URL_SAFE_NO_PAD.encode(SECRET).into_bytes(),
        hex::encode(SECRET).into_bytes(),
        b"PRIVATE KEY".to_vec(),
        b".eyJ".to_vec(),
        b"eyJhbGciOi".to_vec(),
        b"eyJ0eXAiOi".to_vec(),
        b"kbs-session-id=".to_vec(),
    ];
    for canary in canaries {
        let found = output.stderr.windows(canary.len()).any(|w| w == canary);
        assert!(!found, "standard error holds {}", String::from_utf8_lossy(&canary));
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_resource_comes_as_one_line_of_base64_without_any_daemon() {
    for machine in [Machine::default(), Machine::tdx()] {
        let Some(stack) = ground(Options { machine, ..Options::default() }) else { return };
        let output = attest(&stack, &["--path", RESOURCE]);
        assert_eq!(resource(&output), SECRET);
        let log = text(&output.stderr);
        assert!(log.contains("INFO"), "the log is not at its default: {log}");
        assert_eq!(stack.quotes().unwrap(), 1, "one attestation");

        let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
        stack.put_resource("default/large/binary", &bytes).unwrap();
        for path in ["default/large/binary", "/default/large/binary", "kbs:///default/large/binary"] {
            assert_eq!(resource(&attest(&stack, &["--path", path])), bytes, "{path}");
        }
    }
}

#[test]
fn names_are_looked_up_without_the_c_library() {
    let Some(stack) = ground(Options::default()) else { return };
    let certificate = stack.kbs_certificate();
    let trusted = ["--cert-file", certificate.to_str().unwrap()];
    let by_name = stack.kbs_url().replace("127.0.0.1", "localhost");
    assert_eq!(resource(&attest_at(&stack, &by_name, &trusted, &["--path", RESOURCE])), SECRET);

    let unknown = attest_at(&stack, "https://kbs.invalid", &["--timeout", "2"], &["--path", RESOURCE]);
    refused(&unknown, "unknown name", (5, "KBS_UNREACHABLE", "kbs.invalid"));
}

#[test]
fn a_key_broker_that_is_not_believed_gets_nothing() {
    let Some(stack) = ground(Options::default()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other.pem");
    std::fs::write(&other, Identity::self_signed("127.0.0.1", false).unwrap().certificate).unwrap();
    let untrusted = (6, "KBS_TLS_UNTRUSTED", "127.0.0.1");
    let another =
        attest_at(&stack, stack.kbs_url(), &["--cert-file", other.to_str().unwrap()], &["--path", RESOURCE]);
    refused(&another, "another certificate", untrusted);
    refused(&attest_at(&stack, stack.kbs_url(), &[], &["--path", RESOURCE]), "no certificate", untrusted);

    std::fs::write(&other, "no PEM").unwrap();
    let no_pem =
        attest_at(&stack, stack.kbs_url(), &["--cert-file", other.to_str().unwrap()], &["--path", RESOURCE]);
    refused(&no_pem, "no PEM", (2, "KBS_CONFIG", "certificate"));
    let absent = folder.path().join("absent.pem");
    let absent =
        attest_at(&stack, stack.kbs_url(), &["--cert-file", absent.to_str().unwrap()], &["--path", RESOURCE]);
    refused(&absent, "absent file", (1, "INPUT_UNREADABLE", "absent.pem"));
    let plain = attest_at(&stack, "http://192.0.2.1:8080", &[], &["--path", RESOURCE]);
    refused(&plain, "plain http", (2, "KBS_PLAIN_HTTP", "192.0.2.1"));
    assert_eq!(stack.quotes().unwrap(), 0, "no evidence was made for any of them");
}

#[test]
fn a_tampered_machine_is_denied_with_the_reason() {
    let Some(stack) = ground(Options::default()) else { return };
    let other = Machine { measurement: "66".repeat(48), ..Machine::default() };
    stack.set_machine(&other).unwrap();
    let output = attest(&stack, &["--path", RESOURCE]);
    refused(&output, "other code", (3, "KBS_DENIED_POLICY", "measurement=666666"));
    stack.set_machine(&Machine { fault: "flip-bit".to_owned(), ..Machine::default() }).unwrap();
    refused(
        &attest(&stack, &["--path", RESOURCE]),
        "flipped bit",
        (3, "KBS_DENIED_ATTESTATION", "snp.signature"),
    );
    assert_eq!(stack.quotes().unwrap(), 2, "a denial is final");
}

#[test]
fn what_is_absent_or_no_path_is_told_apart() {
    let Some(stack) = ground(Options::default()) else { return };
    for path in ["a//b", "a/%2e%2e/b", "http://a/b", ""] {
        refused(&attest(&stack, &["--path", path]), path, (2, "RESOURCE_URI_INVALID", "resource URI"));
    }
    assert_eq!(stack.quotes().unwrap(), 0, "the hardware was not asked");
    let missing = attest(&stack, &["--path", "default/key/missing"]);
    refused(&missing, "missing", (4, "KBS_NOT_FOUND", "default/key/missing"));
}

#[test]
fn init_data_goes_along_if_the_hardware_holds_its_digest() {
    const DOCUMENT: &str =
        "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n\"a\" = \"one line of init-data\"\n";
    let host_data = hex::encode(InitData::parse(DOCUMENT).unwrap().digest());
    let machine = Machine { host_data, ..Machine::default() };
    let Some(stack) = ground(Options { machine: machine.clone(), ..Options::default() }) else { return };
    let file = stack.folder().join("initdata.toml");
    std::fs::write(&file, DOCUMENT).unwrap();
    let file = file.to_str().unwrap();
    for given in [["--initdata", DOCUMENT], ["--initdata-file", file]] {
        let output = attest(&stack, &["--path", RESOURCE, given[0], given[1]]);
        assert_eq!(resource(&output), SECRET);
        assert!(!text(&output.stderr).contains("one line of init-data"), "its entries are not logged");
    }
    assert_eq!(stack.quotes().unwrap(), 4, "a report to compare with and one to send, each time");

    let other = format!("{DOCUMENT}#\n");
    refused(
        &attest(&stack, &["--path", RESOURCE, "--initdata", &other]),
        "another document",
        (7, "INIT_DATA_MISMATCH", "init-data"),
    );
    refused(
        &attest(&stack, &["--path", RESOURCE, "--initdata", "version ="]),
        "no document",
        (2, "INIT_DATA_UNREADABLE", "init-data"),
    );
}

#[test]
fn sample_evidence_has_to_be_named() {
    let kbs_arguments = vec!["--allow-sample".to_owned()];
    let mut stack =
        Stack::prepare(Options { tee: Tee::Sample, kbs_arguments, ..Options::default() }).unwrap();
    stack.start_part(Part::Kbs).unwrap();
    stack.put_resource(RESOURCE, SECRET).unwrap();
    stack.set_reference_values(&sample_reference_values()).unwrap();
    let empty = stack.folder().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let run = |more: &[&str]| {
        let mut attester = own_binary("trustee-attester").unwrap();
        attester.args(["--url", stack.kbs_url(), "--cert-file"]).arg(stack.kbs_certificate());
        attester.arg("--sys-root").arg(&empty).args(more).args(["get-resource", "--path", RESOURCE]);
        attester.env("ENABLE_SAMPLE_DEVICE", "1").output().unwrap()
    };
    refused(&run(&[]), "no TEE", (7, "TEE_NOT_FOUND", "tsm/report"));
    let sample = run(&["--sample"]);
    assert_eq!(resource(&sample), SECRET);
    assert!(text(&sample.stderr).contains("SAMPLE EVIDENCE"), "it says so loudly");
}

#[test]
fn a_dead_key_broker_and_a_hanging_device_end_in_time() {
    let Some(stack) = ground(Options::default()) else { return };
    let began = std::time::Instant::now();
    let mut gone = HostileKbs::start(SECRET).unwrap();
    let url = gone.url();
    gone.close();
    let dead = attest_at(&stack, &url, &["--timeout", "2"], &["--path", RESOURCE]);
    refused(&dead, "dead key broker", (5, "KBS_UNREACHABLE", "127.0.0.1"));
    stack.set_machine(&Machine { fault: "hang".to_owned(), ..Machine::default() }).unwrap();
    let certificate = stack.kbs_certificate();
    let global = ["--cert-file", certificate.to_str().unwrap(), "--timeout", "2"];
    let hangs = std::thread::scope(|scope| {
        let asked = scope.spawn(|| attest_at(&stack, stack.kbs_url(), &global, &["--path", RESOURCE]));
        // Long after it gave up. A process with a thread in a system call that does not return cannot end before it.
        std::thread::sleep(std::time::Duration::from_secs(6));
        stack.set_machine(&Machine::default()).unwrap();
        asked.join().unwrap()
    });
    refused(&hangs, "hanging device", (7, "TSM_TIMEOUT", "no answer within 1 s"));
    assert!(began.elapsed().as_secs() < 15, "{:?}", began.elapsed());
}

#[test]
fn gpus_are_left_out_and_that_is_said() {
    let machine = Machine::with_gpus([Gpu::number(1), Gpu::number(2)]);
    let Some(stack) = ground(Options { machine, ..Options::default() }) else { return };
    let output = attest(&stack, &["--path", RESOURCE]);
    assert_eq!(resource(&output), SECRET);
    let log = text(&output.stderr);
    let warning = log.lines().find(|line| line.contains("GPUs are left out")).unwrap_or_default();
    assert!(warning.contains("WARN") && warning.contains(&Gpu::number(2).address), "{log}");
    // A key broker that asks for the GPU is not satisfied with the TEE.
    stack.require_device(RESOURCE, "nvidia").unwrap();
    let denied = attest(&stack, &["--path", RESOURCE]);
    refused(&denied, "GPU required", (3, "KBS_DENIED_POLICY", "devices"));
}
