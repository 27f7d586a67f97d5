//! Init-data: bound by the hardware, sent with the evidence, checked by the key broker.

use cc_evidence::initdata::InitData;
use cc_tests::machine::Machine;
use cc_tests::process::Process;
use cc_tests::stack::{Options, Part, Stack, emulator_runs_here};

use crate::{RESOURCE, REST_PATH, SECRET};

const DOCUMENT: &str =
    "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n\"aa.toml\" = '''\n[log]\nlevel = \"info\"\n'''\n";

fn options(folder: &std::path::Path, host_data: &[u8]) -> Options {
    let path = folder.join("initdata.toml");
    std::fs::write(&path, DOCUMENT).unwrap();
    Options {
        machine: Machine { host_data: hex::encode(host_data), ..Machine::default() },
        agent_arguments: vec!["--initdata-toml".to_owned(), path.display().to_string()],
        ..Options::default()
    }
}

#[test]
fn init_data_that_the_hardware_holds_is_accepted_everywhere() {
    if !emulator_runs_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let digest = InitData::parse(DOCUMENT).unwrap().digest();
    let mut stack = Stack::start(options(folder.path(), &digest)).unwrap_or_else(|e| panic!("{e:#}"));
    stack.put_resource(RESOURCE, SECRET).unwrap();
    let answer = stack.rest_get(REST_PATH).unwrap();
    assert_eq!((answer.status, answer.body.as_slice()), (200, SECRET), "{}", answer.text());
    assert!(stack.part(Part::Agent).unwrap().log().contains("init-data is bound"));
}

#[test]
fn init_data_that_the_hardware_does_not_hold_stops_the_agent() {
    if !emulator_runs_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut stack = Stack::prepare(options(folder.path(), &[7; 32])).unwrap();
    stack.start_part(Part::Emulator).unwrap();
    stack.start_part(Part::Kbs).unwrap();
    let mut agent: Process = stack.spawn_agent().unwrap();
    assert_eq!(agent.wait().unwrap(), Some(69), "{}", agent.log());
    assert!(agent.log().contains("init-data"), "{}", agent.log());
    assert!(!stack.agent_socket().exists());
}
