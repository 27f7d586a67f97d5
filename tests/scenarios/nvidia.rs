//! Machines with NVIDIA GPUs beside their TEE: released, denied as a whole, and what the agent says when a GPU cannot be
//! attested. The driver's library is a stand-in that the agent loads as it loads NVIDIA's.

use std::path::Path;
use std::time::{Duration, Instant};

use cc_evidence::nvidia::{NvidiaEvidence, Report};
use cc_protos::guest_services;
use cc_tests::curl::{self, Answer};
use cc_tests::machine::{Gpu, Machine, Nvidia};
use cc_tests::stack::{Options, Part, Stack, emulator_runs_here};

use crate::operator::guestctl;
use crate::rpc::{ttrpc, ttrpc_client};
use crate::{RESOURCE, REST_PATH, assert_refused, assert_released, code, stack};

mod driver;

/// What a workload gets from a data hub that has no session yet.
fn ask_afresh(stack: &mut Stack) -> Answer {
    stack.stop_part(Part::Hub).unwrap();
    stack.start_part(Part::Hub).unwrap();
    curl::curl(&["-H", "Accept: application/json"], &format!("{}{REST_PATH}", stack.rest_url())).unwrap()
}

fn options(machine: &Machine) -> Options {
    Options { machine: machine.clone(), ..Options::default() }
}

/// A change to the driver of a machine with one GPU.
fn with_driver(change: impl FnOnce(&mut Nvidia)) -> Machine {
    let mut machine = Machine::with_gpus([Gpu::number(1)]);
    change(&mut machine.nvidia);
    machine
}

/// The text that the agent gives as additional evidence.
fn additional(stack: &Stack, report_data: &str) -> String {
    let (status, out, error) =
        guestctl(stack, &["evidence", "--additional", "--raw", "--report-data", report_data]);
    assert_eq!(status, Some(0), "{error}");
    out
}

#[test]
fn a_machine_with_gpus_gets_its_secret() {
    for count in [1, 2, 9] {
        let Some(stack) = stack(options(&Machine::with_gpus((1..=count).map(Gpu::number)))) else { return };
        // The policy asks for the GPU: without one this machine would get nothing.
        stack.require_device(RESOURCE, "nvidia").unwrap();
        assert_released(&stack.rest_get(REST_PATH).unwrap(), &format!("{count} GPUs"));
        assert_eq!(stack.quotes().unwrap(), 1, "one attestation");

        let text = additional(&stack, &"ab".repeat(48));
        let members: serde_json::Value = serde_json::from_str(&text).unwrap();
        let evidence = NvidiaEvidence::from_json(&members["nvidia"].to_string()).unwrap();
        let uuids: Vec<_> = evidence.devices.iter().map(|device| device.uuid.clone()).collect();
        assert_eq!(uuids, (1..=count).map(|number| Gpu::number(number).uuid).collect::<Vec<_>>());
        for device in &evidence.devices {
            assert_eq!(Report::parse(&device.report).unwrap().nonce, [0xAB; 32]);
        }
        let (status, out, error) = guestctl(&stack, &["token"]);
        assert_eq!(status, Some(0), "{error}");
        assert!(out.contains(&format!("gpu{}", count - 1)), "every GPU has a verdict of its own: {out}");
    }
}

#[test]
fn a_machine_without_a_gpu_gets_nothing_that_needs_one() {
    let Some(mut stack) = stack(Options::default()) else { return };
    stack.require_device(RESOURCE, "nvidia").unwrap();
    let answer = ask_afresh(&mut stack);
    assert_refused(&answer, "no GPU", 403, "KBS_DENIED_POLICY", &["devices"]);
}

#[test]
fn one_bad_gpu_denies_the_whole_machine() {
    let honest = Machine::with_gpus([Gpu::number(1), Gpu::number(2)]);
    let Some(mut stack) = stack(options(&honest)) else { return };
    assert_released(&ask_afresh(&mut stack), "honest");
    let driver = Gpu { driver_version: "1.2.3".to_owned(), ..Gpu::number(2) };
    let cases = [
        (Gpu::faulty(2, "flip-byte"), "KBS_DENIED_ATTESTATION", "nvidia.signature"),
        (Gpu::faulty(2, "wrong-fwid"), "KBS_DENIED_ATTESTATION", "nvidia.fwid"),
        (Gpu::faulty(2, "expired"), "KBS_DENIED_ATTESTATION", "nvidia.validity"),
        (Gpu::faulty(2, "foreign-root"), "KBS_DENIED_ATTESTATION", "nvidia.chain"),
        (Gpu::faulty(2, "another-gpu"), "KBS_DENIED_ATTESTATION", "nvidia.duplicate"),
        (Gpu { architecture: 10, ..Gpu::number(2) }, "KBS_DENIED_ATTESTATION", "nvidia.arch"),
        (driver, "KBS_DENIED_POLICY", "config.driver_version 1.2.3"),
    ];
    for (gpu, expected, reason) in cases {
        stack.set_machine(&Machine::with_gpus([Gpu::number(1), gpu.clone()])).unwrap();
        let answer = ask_afresh(&mut stack);
        assert_refused(&answer, reason, 403, expected, &[reason, &gpu.uuid]);
    }
    stack.set_machine(&honest).unwrap();
    assert_released(&ask_afresh(&mut stack), "honest again");
}

#[test]
fn a_bad_cpu_is_not_made_good_by_a_gpu() {
    let honest = Machine::with_gpus([Gpu::number(1)]);
    let Some(mut stack) = stack(options(&honest)) else { return };
    stack.set_machine(&Machine { measurement: "66".repeat(48), ..honest }).unwrap();
    let answer = ask_afresh(&mut stack);
    assert_refused(&answer, "other code", 403, "KBS_DENIED_POLICY", &["measurement"]);
}

#[test]
fn a_gpu_that_cannot_be_attested_is_named_and_nothing_is_sent() {
    let honest = Machine::with_gpus([Gpu::number(1), Gpu::number(2)]);
    let Some(mut stack) = stack(options(&honest)) else { return };
    let seen = stack.part(Part::Kbs).unwrap().log().matches("attest").count();
    let mut modes = Vec::new();
    for (mode, says) in
        [("off", "is off"), ("devtools", "DEVTOOLS"), ("simulated", "production"), ("unsupported", "no conf")]
    {
        let mut machine = honest.clone();
        machine.nvidia.mode = mode.to_owned();
        modes.push((machine, "NVIDIA_NOT_CONFIDENTIAL", says, Gpu::number(2).uuid));
    }
    let one = |gpu: Gpu| (Machine::with_gpus([Gpu::number(1), gpu.clone()]), gpu.uuid);
    let (unsupported, uuid) = one(Gpu::faulty(2, "not-supported"));
    modes.push((unsupported, "NVIDIA_NOT_CONFIDENTIAL", "not in confidential computing mode", uuid));
    let (ampere, uuid) = one(Gpu { architecture: 7, ..Gpu::number(2) });
    modes.push((ampere, "NVIDIA_NOT_CONFIDENTIAL", "generation 7", uuid));
    let (unserved, _) = one(Gpu::faulty(2, "not-served"));
    modes.push((unserved, "NVIDIA_GPU_NOT_SERVED", "on the PCI bus", Gpu::number(2).address));
    let (other_nonce, uuid) = one(Gpu::faulty(2, "wrong-nonce"));
    modes.push((other_nonce, "EVIDENCE_MISMATCH", "does not contain the nonce", uuid));
    for (multi_gpu, says) in [("protected-pcie", "protected PCIe"), ("future", "unknown here")] {
        let mut machine = honest.clone();
        machine.nvidia.multi_gpu = multi_gpu.to_owned();
        modes.push((machine, "NVIDIA_SWITCHES_UNATTESTED", says, "switches".to_owned()));
    }
    for (machine, expected, says, named) in modes {
        stack.set_machine(&machine).unwrap();
        let answer = ask_afresh(&mut stack);
        assert_refused(&answer, says, 500, expected, &[says, &named]);
    }
    let log = stack.part(Part::Kbs).unwrap().log();
    assert_eq!(log.matches("attest").count(), seen, "the key broker saw none of it:\n{log}");
    for multi_gpu in ["nvlink", "unsupported"] {
        let mut machine = honest.clone();
        machine.nvidia.multi_gpu = multi_gpu.to_owned();
        stack.set_machine(&machine).unwrap();
        assert_released(&ask_afresh(&mut stack), multi_gpu);
    }
}

#[test]
fn gpus_are_required_as_the_configuration_says() {
    let bad = Machine::with_gpus([Gpu::number(1), Gpu::faulty(2, "not-supported")]);
    let with = |machine: &Machine, nvidia: &str| Options {
        agent_config: format!("[nvidia]\n{nvidia}"),
        ..options(machine)
    };
    let Some(mut one_left) = stack(with(&bad, "require = \"attestable\"")) else { return };
    assert_released(&one_left.rest_get(REST_PATH).unwrap(), "the GPU that can be attested");
    let text = additional(&one_left, "00");
    assert!(text.contains(&Gpu::number(1).uuid) && !text.contains(&Gpu::number(2).uuid), "{text}");
    let log = one_left.part(Part::Agent).unwrap().log();
    assert!(log.contains("left out of the evidence") && log.contains(&Gpu::number(2).uuid), "{log}");
    drop(one_left);

    let off = with_driver(|nvidia| "off".clone_into(&mut nvidia.mode));
    let mut nobody = stack(with(&off, "require = \"attestable\"")).unwrap();
    assert_released(&nobody.rest_get(REST_PATH).unwrap(), "no GPU that could be attested");
    let log = nobody.part(Part::Agent).unwrap().log();
    assert!(log.contains("NVIDIA_NOT_CONFIDENTIAL"), "{log}");
    drop(nobody);

    let mut none = stack(with(&off, "require = \"none\"")).unwrap();
    assert_released(&none.rest_get(REST_PATH).unwrap(), "none");
    assert!(!loaded_libraries(&mut none).contains("libnvidia-ml"), "the library was not even loaded");
}

/// The memory map of the agent, which names the libraries in it.
fn loaded_libraries(stack: &mut Stack) -> String {
    let pid = stack.part(Part::Agent).unwrap().pid();
    std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap()
}

#[test]
fn only_a_machine_with_a_gpu_loads_the_drivers_library() {
    let Some(mut with_gpu) = stack(options(&Machine::with_gpus([Gpu::number(1)]))) else { return };
    assert!(!loaded_libraries(&mut with_gpu).contains("libnvidia-ml"), "not at the start");
    assert_released(&with_gpu.rest_get(REST_PATH).unwrap(), "with");
    assert!(loaded_libraries(&mut with_gpu).contains("libnvidia-ml"));
    // The GPU goes: the machine that is left has nothing to attest with.
    with_gpu.set_machine(&Machine::default()).unwrap();
    let answer = ask_afresh(&mut with_gpu);
    assert_eq!(code(&answer.body), "NVIDIA_GPU_NOT_SERVED", "{}", answer.text());
    drop(with_gpu);
    let mut without = stack(Options::default()).unwrap();
    assert_released(&without.rest_get(REST_PATH).unwrap(), "without");
    assert!(!loaded_libraries(&mut without).contains("libnvidia-ml"));
}

#[test]
fn the_recorded_report_of_an_h100_goes_through_the_agent_unchanged() {
    let Some(folder) = cc_vectors::folder("nvidia-hopper") else { return };
    if !emulator_runs_here() {
        return;
    }
    let recorded = Gpu {
        recorded_report: Some(folder.join("report2.hex")),
        recorded_chain: Some(folder.join("report2-chain.pem")),
        ..Gpu::number(1)
    };
    let stack = Stack::start(options(&Machine::with_gpus([recorded]))).unwrap_or_else(|e| panic!("{e:#}"));
    // What the session bound in which it was recorded.
    let digest =
        "87d8e24ab336adafe228d49e83d745f6dba4ae505372b6a5704820856b343fece279b616efefc2aae21da80cf5581250";
    let text = additional(&stack, digest);
    let file = stack.folder().join("additional.json");
    std::fs::write(&file, &text).unwrap();
    // Under NVIDIA's root, without a word about test roots.
    let (status, out, error) = guestctl(&stack, &["inspect", &file.display().to_string()]);
    assert_eq!(status, Some(0), "{out}{error}");
    for says in ["NVIDIA's root", "580.95.05", "96.00.74.00.1a", "NVIDIA Device Identity CA"] {
        assert!(out.contains(says), "{says} is missing in {out}");
    }
    // Another question is not answered by a recording.
    let (status, _, error) =
        guestctl(&stack, &["evidence", "--additional", "--raw", "--report-data", &"00".repeat(48)]);
    assert_ne!(status, Some(0));
    assert!(error.contains("EVIDENCE_MISMATCH"), "{error}");
}

#[test]
fn a_driver_that_hangs_holds_up_nobody_for_long() {
    let machine = Machine::with_gpus([Gpu::number(1)]);
    let limited = Options {
        agent_config: String::new(),
        agent_platform_config: "quote_time_limit_seconds = 1".to_owned(),
        ..options(&machine)
    };
    let Some(mut stack) = stack(limited) else { return };
    assert_released(&stack.rest_get(REST_PATH).unwrap(), "before");
    stack.set_machine(&with_driver(|nvidia| "hang".clone_into(&mut nvidia.fault))).unwrap();
    let start = Instant::now();
    let answer = ask_afresh(&mut stack);
    assert_eq!(code(&answer.body), "NVIDIA_TIMEOUT", "{}", answer.text());
    let answer = ask_afresh(&mut stack);
    assert_eq!(code(&answer.body), "NVIDIA_STUCK", "{}", answer.text());
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    // The TEE itself is not behind that gate.
    let (status, _, error) = guestctl(&stack, &["evidence", "--report-data", "00"]);
    assert_eq!(status, Some(0), "{error}");
    stack.set_machine(&machine).unwrap();
    while start.elapsed() < Duration::from_secs(20) {
        let answer = ask_afresh(&mut stack);
        if answer.status == 200 {
            return;
        }
        assert_eq!(code(&answer.body), "NVIDIA_STUCK", "{}", answer.text());
    }
    panic!("not served again after the driver answered");
}

/// Waits until the driver was told that its GPUs may work: no secret waits for that.
fn wait_for(ready: &Path) {
    let start = Instant::now();
    while !std::fs::read_to_string(ready).is_ok_and(|state| state == "1") {
        assert!(start.elapsed() < Duration::from_secs(10), "the GPUs were not set ready");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn only_the_gpus_of_the_evidence_are_set_ready_and_once() {
    let machine = Machine::with_gpus([Gpu::number(1), Gpu::number(2)]);
    let with_ready = Options { agent_config: "[nvidia]\nset_ready = true".to_owned(), ..options(&machine) };
    let Some(stack) = stack(with_ready) else { return };
    let ready = stack.nvidia().join("ready");
    let accept = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let agent = ttrpc_client(&stack.agent_socket()).await;
            let request = guest_services::DevicesAcceptedRequest {};
            let service = "guest_services.v1.AgentInfoService";
            ttrpc::<_, guest_services::DevicesAcceptedResponse>(&agent, service, "DevicesAccepted", request)
                .await
                .map(drop)
                .map_err(|(_, message)| message)
        })
    };
    assert!(accept().unwrap_err().ends_with("[NVIDIA_NOTHING_ATTESTED]"));
    for other in [vec![Gpu::number(1), Gpu::number(3)], vec![Gpu::number(1)]] {
        additional(&stack, "00");
        stack.set_machine(&Machine::with_gpus(other)).unwrap();
        let message = accept().unwrap_err();
        assert!(message.ends_with("[NVIDIA_GPUS_CHANGED]"), "{message}");
        stack.set_machine(&machine).unwrap();
        assert!(accept().unwrap_err().ends_with("[NVIDIA_NOTHING_ATTESTED]"), "the evidence is used up");
        assert!(!ready.exists());
    }
    additional(&stack, "00");
    accept().unwrap();
    assert_eq!(std::fs::read_to_string(&ready).unwrap(), "1");
    assert!(accept().unwrap_err().ends_with("[NVIDIA_NOTHING_ATTESTED]"), "once");
}

#[test]
fn gpus_are_set_ready_when_the_key_broker_has_affirmed_them_and_never_before() {
    let honest = Machine::with_gpus([Gpu::number(1)]);
    let with = |set_ready: bool| Options {
        agent_config: format!("[nvidia]\nset_ready = {set_ready}"),
        ..options(&honest)
    };
    let Some(mut stack) = stack(with(true)) else { return };
    let ready = stack.nvidia().join("ready");
    // Evidence alone is nobody's word, and a driver that nobody approved is no reason either.
    additional(&stack, "00");
    assert!(!ready.exists());
    let unknown = Gpu { driver_version: "1.2.3".to_owned(), ..Gpu::number(1) };
    for refused in [unknown, Gpu::faulty(1, "flip-byte")] {
        stack.set_machine(&Machine::with_gpus([refused])).unwrap();
        assert_eq!(ask_afresh(&mut stack).status, 403);
        assert!(!ready.exists());
    }
    stack.set_machine(&honest).unwrap();
    assert_released(&ask_afresh(&mut stack), "honest");
    wait_for(&ready);

    // The agent's own session is as good.
    std::fs::remove_file(&ready).unwrap();
    let (status, _, error) = guestctl(&stack, &["token"]);
    assert_eq!(status, Some(0), "{error}");
    wait_for(&ready);
    drop(stack);

    let stack = crate::stack(with(false)).unwrap();
    assert_released(&stack.rest_get(REST_PATH).unwrap(), "switched off");
    assert!(!stack.nvidia().join("ready").exists());
}
