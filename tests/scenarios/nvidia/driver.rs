//! Drivers that are missing, too old, or lie. Each gets its own code, and the agent goes on.

use cc_tests::machine::{Gpu, Machine};
use cc_tests::stack::{Options, Part};

use super::{ask_afresh, options, with_driver};
use crate::operator::guestctl;
use crate::{assert_refused, assert_released, stack};

#[test]
fn a_missing_library_is_an_error_on_a_machine_with_a_gpu() {
    let machine = Machine::with_gpus([Gpu::number(1)]);
    let Some(mut stack) = stack(Options { no_nvidia_library: true, ..options(&machine) }) else { return };
    let answer = ask_afresh(&mut stack);
    let gpu = Gpu::number(1);
    let says = [gpu.address.as_str(), "libnvidia-ml.so.1", "nvidia.require"];
    assert_refused(&answer, "no library", 500, "NVIDIA_LIBRARY_MISSING", &says);
    let (_, out, _) = guestctl(&stack, &["doctor"]);
    assert!(out.contains("with nvidia"), "the officer sees that there is a GPU: {out}");
}

#[test]
fn a_driver_from_before_confidential_computing_is_told_by_the_function_it_lacks() {
    let machine = with_driver(|nvidia| nvidia.old_library = true);
    let Some(mut stack) = stack(options(&machine)) else { return };
    let answer = ask_afresh(&mut stack);
    let says = ["nvmlSystemGetConfComputeState"];
    assert_refused(&answer, "old driver", 500, "NVIDIA_DRIVER_TOO_OLD", &says);
}

#[test]
fn a_driver_that_lies_or_fails_is_answered_by_name() {
    let honest = Machine::with_gpus([Gpu::number(1)]);
    let Some(mut stack) = stack(options(&honest)) else { return };
    assert_released(&ask_afresh(&mut stack), "before");
    let driver = |fault: &str| with_driver(|nvidia| fault.clone_into(&mut nvidia.fault));
    let gpu = |fault: &str| Machine::with_gpus([Gpu::faulty(1, fault)]);
    let rows = [
        (driver("not-loaded"), "NVIDIA_DRIVER_FAILED", "the driver is not loaded (NVML 9)"),
        (driver("count-lies"), "NVIDIA_MALFORMED", "4294967295 GPUs"),
        (gpu("report-size-lies"), "NVIDIA_MALFORMED", "4294967295 bytes by the driver's word, 1 to 8192"),
        (gpu("empty-report"), "NVIDIA_MALFORMED", "0 bytes by the driver's word"),
        (gpu("chain-size-lies"), "NVIDIA_MALFORMED", "5121 bytes by the driver's word, 1 to 5120"),
        (gpu("no-pem"), "NVIDIA_MALFORMED", "not PEM text"),
        (gpu("truncated"), "NVIDIA_MALFORMED", "nvidia.signature"),
        (gpu("unknown-error"), "NVIDIA_DRIVER_FAILED", "unknown code (NVML 777)"),
        (gpu("lost"), "NVIDIA_DRIVER_FAILED", "the GPU is lost (NVML 15)"),
    ];
    for (machine, expected, says) in rows {
        stack.set_machine(&machine).unwrap();
        let answer = ask_afresh(&mut stack);
        assert_refused(&answer, says, 500, expected, &[says]);
        stack.set_machine(&honest).unwrap();
        assert_released(&ask_afresh(&mut stack), says);
    }
    // Names are for people: without one the GPU is attested all the same.
    stack.set_machine(&gpu("endless-name")).unwrap();
    assert_released(&ask_afresh(&mut stack), "endless name");
    let log = stack.part(Part::Agent).unwrap().log();
    assert!(!log.contains("panicked"), "{log}");
}
