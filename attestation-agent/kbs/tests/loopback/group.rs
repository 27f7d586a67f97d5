//! Several KBS of one trust group.

use std::sync::Arc;
use std::time::Duration;

use cc_kbs::{Blame, EvidenceSource, Group, KbsConfig, SourceFault};
use tokio::time::Instant;

use crate::evidence::Machine;
use crate::server::{Kbs, Reply, Reserved, Step, secret, until};
use crate::{soon, uri};

const PATH: &str = "/kbs/v0/resource/default/key/1";
const HEAD_START: Duration = Duration::from_millis(200);

/// For tests in which the first one has to answer in time, on a machine that others use too.
const PATIENT: Duration = Duration::from_secs(1);

fn group(urls: &[String]) -> (Group, Arc<Machine>) {
    group_with(HEAD_START, urls)
}

fn group_with(head_start: Duration, urls: &[String]) -> (Group, Arc<Machine>) {
    let machine = Arc::new(Machine::default());
    let source: Arc<dyn EvidenceSource> = Arc::clone(&machine) as _;
    let configs = urls.iter().map(KbsConfig::new).collect();
    (Group::new(configs, head_start, &source).unwrap(), machine)
}

#[tokio::test]
async fn a_dead_first_kbs_costs_the_head_start_once() {
    let second = Kbs::start().await;
    let first = Reserved::new();
    let (group, machine) = group_with(PATIENT, &[first.url(), second.url()]);
    let began = Instant::now();
    assert_eq!(group.fetch(&uri(), soon()).await.unwrap().expose(), secret(PATH));
    let took = began.elapsed();
    assert!((PATIENT..PATIENT + Duration::from_secs(5)).contains(&took), "{took:?}");
    assert_eq!(machine.quotes(), 1);
    let began = Instant::now();
    group.fetch(&uri(), soon()).await.unwrap();
    assert!(began.elapsed() < PATIENT, "the second is asked first now: {:?}", began.elapsed());
    assert_eq!(machine.quotes(), 1, "over its warm session");
}

#[tokio::test]
async fn a_silent_first_kbs_is_not_waited_for() {
    let (first, second) = (Kbs::start().await, Kbs::start().await);
    for step in [Step::Auth, Step::Attest, Step::Resource] {
        first.behave();
        first.always(step, Reply::Hang);
        let (group, _) = group(&[first.url(), second.url()]);
        let began = Instant::now();
        assert_eq!(group.fetch(&uri(), soon()).await.unwrap().expose(), secret(PATH), "{step:?}");
        assert!(began.elapsed() < Duration::from_secs(2), "{step:?}");
        let states = group.status();
        assert!(states[1].attested, "{step:?}");
    }
}

#[tokio::test]
async fn slow_evidence_is_not_the_kbs_being_slow() {
    let (first, second) = (Kbs::start().await, Kbs::start().await);
    let (group, machine) = group_with(PATIENT, &[first.url(), second.url()]);
    *machine.delay.lock().unwrap() = PATIENT * 2;
    group.fetch(&uri(), soon()).await.unwrap();
    assert_eq!((machine.quotes(), second.count(Step::Auth)), (1, 0), "the second was not asked");
}

#[tokio::test]
async fn a_denial_is_final_for_the_group() {
    let (first, second) = (Kbs::start().await, Kbs::start().await);
    for step in [Step::Attest, Step::Resource] {
        first.behave();
        first.always(
            step,
            Reply::problem(if step == Step::Attest { 401 } else { 403 }, "PolicyDeny", "not you"),
        );
        let (group, _) = group_with(PATIENT, &[first.url(), second.url()]);
        let e = group.fetch(&uri(), soon()).await.unwrap_err();
        assert_eq!(e.blame(), Blame::Denied, "{step:?}: {e}");
    }
    first.behave();
    first.always(Step::Resource, Reply::problem(404, "ResourceNotFound", "none"));
    let (group, _) = group_with(PATIENT, &[first.url(), second.url()]);
    assert_eq!(group.fetch(&uri(), soon()).await.unwrap_err().blame(), Blame::Absent);
    assert_eq!(second.count(Step::Auth), 0, "the second was never asked");
}

#[tokio::test]
async fn a_first_kbs_at_work_is_not_overruled_by_another_ones_refusal() {
    let (first, second) = (Kbs::start().await, Kbs::start().await);
    for (status, kind) in [(404, "ResourceNotFound"), (403, "PolicyDeny")] {
        first.slow_down(Step::Resource, HEAD_START * 5);
        second.always(Step::Resource, Reply::problem(status, kind, "not here"));
        let (group, _) = group(&[first.url(), second.url()]);
        assert_eq!(group.fetch(&uri(), soon()).await.unwrap().expose(), secret(PATH), "{status}");
        // With the first one gone the refusal is the answer, without a wait.
        first.behave();
        first.always(Step::Resource, Reply::status(503, "busy"));
        let began = Instant::now();
        let e = group.fetch(&uri(), soon()).await.unwrap_err();
        assert!(matches!(e.blame(), Blame::Denied | Blame::Absent), "{status}: {e}");
        assert!(began.elapsed() < Duration::from_secs(2), "{status}: {:?}", began.elapsed());
        first.behave();
    }
}

#[tokio::test]
async fn a_refusal_is_told_when_the_first_kbs_stays_silent() {
    let (first, second) = (Kbs::start().await, Kbs::start().await);
    first.always(Step::Auth, Reply::Hang);
    second.always(Step::Resource, Reply::problem(404, "ResourceNotFound", "none"));
    let (group, _) = group_with(PATIENT, &[first.url(), second.url()]);
    let began = Instant::now();
    assert_eq!(group.fetch(&uri(), soon()).await.unwrap_err().blame(), Blame::Absent);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let began = Instant::now();
    assert_eq!(group.fetch(&uri(), soon()).await.unwrap_err().blame(), Blame::Absent);
    assert!(began.elapsed() < PATIENT, "the second is asked first now: {:?}", began.elapsed());
}

#[tokio::test]
async fn failing_evidence_is_no_kbs_that_failed() {
    let (first, second) = (Kbs::start().await, Kbs::start().await);
    for blame in [Blame::Unavailable, Blame::Misbehaved] {
        let (group, machine) = group_with(PATIENT, &[first.url(), second.url()]);
        let fault = SourceFault {
            blame,
            code: "AGENT_GONE".to_owned(),
            message: "the agent is gone".to_owned(),
            hint: String::new(),
        };
        machine.faults.lock().unwrap().extend(vec![fault.clone().into(); 99]);
        let e = group.fetch(&uri(), Instant::now() + Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(e.code(), "AGENT_GONE", "{e}");
        machine.faults.lock().unwrap().clear();
        let before = first.count(Step::Resource);
        group.fetch(&uri(), soon()).await.unwrap();
        assert_eq!(first.count(Step::Resource), before + 1, "the first is still asked first");
        assert_eq!(second.count(Step::Auth), 0, "the second would have got the same evidence");
    }
}

#[tokio::test]
async fn a_caller_in_a_hurry_makes_no_kbs_fail() {
    let (first, second) = (Kbs::start().await, Kbs::start().await);
    let (group, _) = group_with(PATIENT, &[first.url(), second.url()]);
    group.fetch(&uri(), soon()).await.unwrap();
    first.slow_down(Step::Resource, Duration::from_millis(100));
    let (uri, near) = (uri(), Duration::from_millis(25));
    for _ in 0..3 {
        // One that gives up, one whose deadline is too near, and a patient one beside it.
        tokio::time::timeout(near, group.fetch(&uri, soon())).await.unwrap_err();
        let (hurried, patient) =
            tokio::join!(group.fetch(&uri, Instant::now() + near), group.fetch(&uri, soon()));
        assert_eq!(hurried.unwrap_err().code(), "KBS_TIMEOUT");
        patient.unwrap();
    }
    tokio::time::sleep(PATIENT * 2).await;
    group.fetch(&uri, soon()).await.unwrap();
    assert_eq!(second.count(Step::Auth), 0, "the second was not asked");
}

#[tokio::test]
async fn a_busy_or_broken_first_kbs_is_passed_over() {
    let (first, second) = (Kbs::start().await, Kbs::start().await);
    for reply in [
        Reply::status(503, "busy"),
        Reply::status(307, "elsewhere"),
        Reply::Raw(b"nonsense\r\n\r\n".to_vec()),
    ] {
        first.behave();
        first.always(Step::Auth, reply.clone());
        let (group, _) = group(&[first.url(), second.url()]);
        assert_eq!(group.fetch(&uri(), soon()).await.unwrap().expose(), secret(PATH), "{reply:?}");
    }
}

#[tokio::test]
async fn with_nobody_there_the_first_ones_error_is_told() {
    let reserved = [Reserved::new(), Reserved::new()];
    let [a, b] = [reserved[0].url(), reserved[1].url()];
    let (group, machine) = group(&[a.clone(), b]);
    let e = group.fetch(&uri(), Instant::now() + Duration::from_secs(1)).await.unwrap_err();
    assert_eq!((e.code(), e.blame()), ("KBS_UNREACHABLE", Blame::Unavailable));
    assert!(e.to_string().contains(&a), "{e}");
    assert_eq!(machine.quotes(), 0);
}

#[tokio::test]
async fn a_first_kbs_that_comes_back_is_asked_first_again() {
    let second = Kbs::start().await;
    let reserved = Reserved::new();
    let (group, _) = group(&[reserved.url(), second.url()]);
    // What was asked of the first one is tried again until then, and not when it is back.
    let deadline = Instant::now() + Duration::from_secs(3);
    group.fetch(&uri(), deadline).await.unwrap();
    tokio::time::sleep_until(deadline + Duration::from_millis(500)).await;
    let first = Kbs::on(reserved.listen(), None);
    group.fetch(&uri(), soon()).await.unwrap();
    assert_eq!(first.count(Step::Auth), 0, "it is left alone");
    crate::evidence::jump_ahead(Duration::from_secs(31)).await;
    group.fetch(&uri(), soon()).await.unwrap();
    until("a probe", || first.count(Step::Auth) == 1).await;
    assert_eq!(first.count(Step::Attest), 0, "no caller waits for it yet");
    while first.count(Step::Resource) == 0 {
        group.fetch(&uri(), soon()).await.unwrap();
    }
}

#[test]
fn none_and_too_many_are_refused() {
    let source: Arc<dyn EvidenceSource> = Arc::new(Machine::default());
    for count in [0, 9] {
        let configs = vec![KbsConfig::new("http://127.0.0.1:1"); count];
        assert_eq!(Group::new(configs, HEAD_START, &source).unwrap_err().code(), "KBS_CONFIG");
    }
}
