//! No TEE, a TEE that is named only, and a device that misbehaves.

use cc_tests::machine::Machine;
use cc_tests::process::{Process, own_binary};
use cc_tests::stack::{Options, Part, Stack, Tee, address, emulator_runs_here};

use crate::{RESOURCE, REST_PATH, SECRET, code};

#[test]
fn no_tee_is_a_start_up_error_that_lists_what_was_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("aa.toml");
    let root = folder.path().join("root");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(&config, format!("[platform]\nsys_root = {root:?}\n")).unwrap();
    let socket = folder.path().join("aa.sock");
    let mut command = own_binary("attestation-agent").unwrap();
    command.arg("-c").arg(&config).arg("-a").arg(address(&socket));
    let mut agent = Process::start("attestation-agent", command, folder.path()).unwrap();
    assert_eq!(agent.wait().unwrap(), Some(69), "{}", agent.log());
    let log = agent.log();
    assert!(log.contains("sys/kernel/config/tsm/report") && log.contains("sample"), "{log}");
    assert!(!socket.exists());
}

#[test]
fn a_machine_without_a_provider_is_no_tee() {
    if !emulator_runs_here() {
        return;
    }
    let machine = Machine { provider: "none".to_owned(), ..Machine::default() };
    let mut stack = Stack::prepare(Options { machine, ..Options::default() }).unwrap();
    stack.start_part(Part::Emulator).unwrap();
    stack.start_part(Part::Kbs).unwrap();
    let mut agent = stack.spawn_agent().unwrap();
    assert_eq!(agent.wait().unwrap(), Some(69), "{}", agent.log());
}

#[test]
fn the_sample_platform_opens_nothing_unless_both_sides_name_it() {
    for allowed in [false, true] {
        let kbs_arguments = if allowed { vec!["--allow-sample".to_owned()] } else { Vec::new() };
        let options = Options { tee: Tee::Sample, kbs_arguments, ..Options::default() };
        let mut stack = Stack::start(options).unwrap_or_else(|e| panic!("{e:#}"));
        stack.put_resource(RESOURCE, SECRET).unwrap();
        let answer = stack.rest_get(REST_PATH).unwrap();
        assert_eq!(answer.status, if allowed { 200 } else { 403 }, "{}", answer.text());
        assert!(
            stack.part(Part::Agent).unwrap().log().to_lowercase().contains("sample"),
            "it is logged loudly"
        );
    }
}

#[test]
fn a_device_that_hangs_is_a_timeout_and_recovers() {
    if !emulator_runs_here() {
        return;
    }
    let options = Options { agent_config: "quote_time_limit_seconds = 1\n".to_owned(), ..Options::default() };
    let honest = options.machine.clone();
    let stack = Stack::start(options).unwrap_or_else(|e| panic!("{e:#}"));
    stack.put_resource(RESOURCE, SECRET).unwrap();
    stack.set_machine(&Machine { fault: "hang".to_owned(), ..honest.clone() }).unwrap();
    let url = format!("{}{REST_PATH}", stack.rest_url());
    let answer = cc_tests::curl::curl(&["-H", "Accept: application/json"], &url).unwrap();
    assert!((500..=504).contains(&answer.status), "{} {}", answer.status, answer.text());
    assert!(code(&answer.body).starts_with("TSM_"), "{}", answer.text());
    stack.set_machine(&honest).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while stack.rest_get(REST_PATH).unwrap().status != 200 {
        assert!(std::time::Instant::now() < deadline, "the device answers again, the agent does not");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}
