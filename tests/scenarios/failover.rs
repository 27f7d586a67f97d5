//! A key broker that is not there, and one that stands in for it.

use cc_tests::process::own_binary;
use cc_tests::stack::{DEAD_KBS, Options, Part, address};

use crate::{REST_PATH, SECRET, stack};

#[test]
fn a_dead_first_key_broker_is_survived_and_the_log_names_who_answered() {
    let options = Options { dead_first_kbs: true, log: Some("debug".to_owned()), ..Options::default() };
    let Some(mut stack) = stack(options) else { return };
    let answer = stack.rest_get(REST_PATH).unwrap();
    assert_eq!((answer.status, answer.body.as_slice()), (200, SECRET), "{}", answer.text());
    assert_eq!(stack.quotes().unwrap(), 1);
    let kbs = stack.kbs_url().to_owned();
    let hub = stack.part(Part::Hub).unwrap();
    hub.wait_for_log(&format!("the KBS asked first does not answer, asking the next url={kbs:?}")).unwrap();
    hub.wait_for_log(&format!("this KBS answered url={kbs:?}")).unwrap();
    for _ in 0..20 {
        assert_eq!(stack.rest_get(REST_PATH).unwrap().status, 200);
    }
    assert_eq!(stack.quotes().unwrap(), 1, "one session serves on");
}

#[test]
fn doctor_names_the_missing_one_and_the_one_that_stands_in() {
    let Some(stack) = stack(Options { dead_first_kbs: true, ..Options::default() }) else { return };
    let out = own_binary("guestctl")
        .unwrap()
        .args(["doctor", "--json", "--aa", &address(&stack.agent_socket())])
        .args([
            "--cdh",
            &address(&stack.hub_socket()),
            "--rest",
            stack.rest_url().trim_start_matches("http://"),
        ])
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(text.contains(&format!("{DEAD_KBS}: ")) && text.contains("another one stands in"), "{text}");
    assert!(text.contains(&format!("{} answers", stack.kbs_url())), "{text}");
}
