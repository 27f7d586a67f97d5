//! What the machine lacks, under the real service manager: the status line says it, the daemon comes back by itself when it is
//! there, and nobody's question is lost.

mod virtual_machine;

use std::path::Path;

use cc_tests::container::Tree;
use cc_tests::stack::Part;

use crate::units::Installed;
use crate::{REST_PATH, SECRET};

const AGENT: &str = "attestation-agent.service";
const HUB: &str = "confidential-data-hub.service";
const REST: &str = "api-server-rest.service";
/// What is allowed below a path that is not refused.
const ACCESSES: &str =
    "execute,write-file,read-file,read-dir,remove-dir,remove-file,make-dir,make-reg,make-sock";

impl Installed {
    fn shell(&self, script: &str) -> String {
        self.machine.must(&["sh", "-ec", script]).unwrap_or_else(|e| panic!("{e:#}"))
    }

    fn drop_in(&self, unit: &str, text: &str) {
        self.shell(&format!(
            "mkdir -p /run/systemd/system/{unit}.d; printf '{text}' >/run/systemd/system/{unit}.d/test.conf; systemctl daemon-reload"
        ));
    }

    /// The line that `systemctl status` shows.
    fn status(&self, unit: &str) -> String {
        self.machine.must(&["systemctl", "show", "--property=StatusText", "--value", unit]).unwrap()
    }

    /// Waits until the status of `unit` has all of these words.
    fn wait_for_status(&self, unit: &str, words: &[&str]) {
        let says = || {
            let status = self.status(unit);
            Ok(words.iter().all(|word| status.contains(word)))
        };
        self.machine.wait_for(&format!("{words:?} in the status of {unit}"), says).unwrap_or_else(|e| {
            panic!("{}\n{e:#}", self.status(unit));
        });
    }

    fn restart(&self, unit: &str) {
        // Whether it comes up is what the status is asked about.
        self.machine.run(&["systemctl", "restart", "--no-block", unit]).unwrap();
    }

    fn serves(&self, when: &str) {
        let answer = self.ask(REST_PATH);
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.as_bytes().ends_with(SECRET),
            "{when}: {answer}"
        );
    }

    /// Nobody but the service manager has to do anything.
    fn comes_back(&self, unit: &str) {
        self.wait_for_status(unit, &["serving"]);
        let says_serving = || Ok(self.status(unit).starts_with("serving"));
        self.machine.wait_for(&format!("{unit} that serves"), says_serving).unwrap();
    }
}

#[test]
fn an_agent_without_hardware_or_files_says_what_is_missing_and_comes_back() {
    let Some(installed) = Installed::boot(Tree::Bookworm) else { return };
    installed.serves("before");
    let status = installed.status(AGENT);
    for words in ["serving: TEE snp", "no init-data", "configuration unmeasured"] {
        assert!(status.contains(words), "{words} is missing in {status}");
    }
    let log = installed.machine.journal(AGENT).unwrap();
    assert!(log.contains("confinement: core dumps: forbidden, system calls: filtered"), "{log}");
    assert!(
        log.contains("the configuration is unmeasured") && log.contains("token_configs.kbs.url"),
        "{log}"
    );
    installed.wait_for_status(HUB, &["serving secrets from", "configuration unmeasured"]);
    let log = installed.machine.journal(HUB).unwrap();
    assert!(
        log.contains("the configuration is unmeasured") && log.contains("kbc.url, kbc.kbs_cert"),
        "{log}"
    );
    let log = installed.machine.journal(REST).unwrap();
    assert!(log.contains("confined to its sockets by Landlock"), "{log}");

    // Another mount over the emulated hardware, and away again, as a driver that is loaded late.
    let hardware = installed.stack.folder().join("root").display().to_string();
    installed.shell(&format!("mkdir /run/none; mount --bind /run/none {hardware}"));
    installed.restart(AGENT);
    installed.wait_for_status(
        AGENT,
        &[
            "not serving: no usable TEE found",
            "tsm/report does not exist",
            "sev-guest",
            "[TEE_NOT_FOUND]",
            "mount configfs",
        ],
    );
    // configfs is there and nothing in it: no driver has registered.
    installed.shell("mkdir -p /run/none/sys/kernel/config");
    installed.restart(AGENT);
    installed.wait_for_status(
        AGENT,
        &["not serving", "sys/kernel/config/tsm/report does not exist, only", "[TEE_NOT_FOUND]"],
    );
    // The hub has a token: who asks has an answer all the same.
    installed.serves("without an agent");
    installed.shell(&format!("umount --lazy {hardware}"));
    installed.comes_back(AGENT);

    // A read-only file system where the socket goes.
    let folder = "/run/confidential-containers/attestation-agent";
    installed.shell(&format!("mount --bind {folder} {folder}; mount -o remount,bind,ro {folder}"));
    installed.restart(AGENT);
    installed.wait_for_status(
        AGENT,
        &["not serving: cannot listen on", "Read-only file system", "[SOCKET_REFUSED]"],
    );
    installed.shell(&format!("umount --lazy {folder}"));
    installed.comes_back(AGENT);
    installed.serves("at the end");
}

/// Landlock refuses with EACCES to root too, as SELinux does.
#[test]
fn a_path_that_is_refused_is_named() {
    let Some(installed) = Installed::boot(Tree::Trixie) else { return };
    let hardware = installed.stack.folder().join("root").display().to_string();
    let agent = "/usr/local/bin/attestation-agent -c /etc/confidential-containers/attestation-agent.toml";
    let hub =
        "/usr/local/bin/confidential-data-hub -c /etc/confidential-containers/confidential-data-hub.toml";
    let (run, etc) = ("/run/confidential-containers/attestation-agent", "/etc/confidential-containers");
    installed.shell("echo 'version = \"0.1.0\"' >/srv/initdata.toml");
    let launched = format!("{agent} --initdata-toml /srv/initdata.toml");
    for (unit, program, allowed, says) in [
        (
            AGENT,
            agent,
            &["/run", hardware.as_str()][..],
            &["cannot read the configuration file", etc, "Permission denied"][..],
        ),
        (AGENT, agent, &["/run", "/etc"], &["sys/kernel/config/tsm/report", "ermission denied"]),
        (
            AGENT,
            agent,
            &["/etc", hardware.as_str()],
            &["cannot listen on", run, "Permission denied", "[SOCKET_REFUSED]"],
        ),
        (
            AGENT,
            &launched,
            &["/run", "/etc", hardware.as_str()],
            &["the init-data document /srv/initdata.toml", "Permission denied", "[INIT_DATA_UNREADABLE]"],
        ),
        (HUB, hub, &["/run"], &["cannot read the configuration file", etc, "Permission denied"]),
    ] {
        let rules: Vec<String> = ["/usr", "/proc", "/dev", "/sys"]
            .iter()
            .chain(allowed)
            .map(|path| format!("--landlock-rule path-beneath:{ACCESSES}:{path}"))
            .collect();
        installed.drop_in(
            unit,
            &format!(
                "[Service]\\nSystemCallFilter=capset landlock_create_ruleset landlock_add_rule landlock_restrict_self\\nExecStart=\\nExecStart=/usr/bin/setpriv --landlock-access fs {} {program}\\n",
                rules.join(" ")
            ),
        );
        installed.restart(unit);
        installed.wait_for_status(unit, says);
        assert!(installed.status(unit).starts_with("not serving"), "{}", installed.status(unit));
        installed.shell(&format!("rm /run/systemd/system/{unit}.d/test.conf; systemctl daemon-reload"));
        installed.comes_back(unit);
    }
    installed.serves("at the end");
}

/// Without CAP_DAC_OVERRIDE a file mode refuses root too. What is refused is a path that a running service comes to: each has the
/// sockets of the others.
#[test]
fn a_socket_or_a_store_that_is_refused_is_named_and_used_again() {
    let Some(installed) = Installed::boot(Tree::Trixie) else { return };
    installed.shell(crate::units::IMAGE);
    installed.drop_in(
        HUB,
        "[Service]\\nCapabilityBoundingSet=\\nCapabilityBoundingSet=CAP_CHOWN CAP_FOWNER CAP_KILL\\n",
    );
    let sockets = "/run/confidential-containers";
    let mode = |mode: &str, path: &str| installed.shell(&format!("chmod {mode} {sockets}/{path}"));

    // The hub and the agent's socket, without a token.
    let agent = "attestation-agent/attestation-agent.sock";
    mode("0", agent);
    installed.restart(HUB);
    installed.wait_for_status(HUB, &["serving secrets from"]);
    let answer = installed.ask(REST_PATH);
    assert!(answer.starts_with("HTTP/1.1 50") && answer.contains("ermission denied"), "{answer}");
    installed.wait_for_status(HUB, &[agent, "ermission denied", "serving secrets from"]);
    mode("600", agent);
    installed.serves("when the agent's socket may be used again");
    installed.comes_back(HUB);

    // The hub and the sockets of its privileged half.
    let pull = |bundle: &str| {
        let out =
            installed.machine.run(&["guestctl", "pull", "oci:/srv/app:1.0", "--bundle", bundle]).unwrap();
        (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    for (socket, bundle) in
        [("cdh-storage/unpack.sock", "/run/unpacked"), ("cdh-storage/mount.sock", "/run/mounted")]
    {
        mode("0", socket);
        let (done, said) = pull(bundle);
        assert!(!done && said.contains(socket) && said.contains("[STORAGE_CONNECT]"), "{said}");
        installed.wait_for_status(HUB, &["no images: ", socket, "ermission denied", "serving secrets from"]);
        installed.serves("secrets go on");
        assert!(installed.status(HUB).starts_with("no images: "), "{}", installed.status(HUB));
        mode("600", socket);
        let (done, said) = pull(bundle);
        assert!(done, "{said}");
        installed.comes_back(HUB);
    }

    // A store that cannot be written to; nothing of the pull is left.
    let store = "/run/kata-containers/image";
    installed.shell(&format!("mount --bind {store} {store}; mount -o remount,bind,ro {store}; systemctl restart cdh-storage-unpack.service"));
    installed.shell("cd /srv; umoci config --image app:1.0 --tag 2.0 --config.workingdir /tmp; echo second >tree/etc/app; umoci insert --image app:2.0 tree/etc /opt");
    let second = ["guestctl", "pull", "oci:/srv/app:2.0", "--bundle", "/run/second"];
    let out = installed.machine.run(&second).unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && said.contains("the log of cdh-storage says why"), "{said}");
    installed
        .wait_for_status(HUB, &["no images: ", "cdh-storage has ended", "the log of cdh-storage says why"]);
    let log = installed.machine.journal("cdh-storage-unpack.service").unwrap();
    assert!(log.contains(store) && log.contains("ead-only file system"), "{log}");
    installed.shell(&format!("umount --lazy {store}; systemctl restart cdh-storage-unpack.service"));
    installed.machine.must(&second).unwrap();
    installed.comes_back(HUB);

    // The folder of one of [[files]], which is named while it is refused, and the file written when it is not.
    installed.shell(
        "printf '[[files]]\\npath = \"/run/app/key\"\\nsecret = \"kbs:///default/key/1\"\\nrefresh_seconds = 1\\n' \
         >>/etc/confidential-containers/confidential-data-hub.toml; mkdir --mode=0 /run/app",
    );
    installed.restart(HUB);
    installed.wait_for_status(HUB, &["/run/app/key", "ermission denied", "[FILE_", "serving secrets from"]);
    installed.serves("without the file");
    installed.shell("chmod 755 /run/app");
    installed.comes_back(HUB);
    assert_eq!(installed.shell("cat /run/app/key").as_bytes(), SECRET);
    installed.shell(
        "systemctl stop confidential-data-hub.service; rm -f /run/app/key; mount --bind /run/app /run/app; mount -o remount,bind,ro /run/app",
    );
    installed.restart(HUB);
    installed.wait_for_status(HUB, &["/run/app/key", "ead-only file system", "serving secrets from"]);
    installed.shell("umount --lazy /run/app");
    installed.comes_back(HUB);
    assert_eq!(installed.shell("cat /run/app/key").as_bytes(), SECRET);

    // The REST server, which is nobody, and the hub's socket; without a connection from before.
    mode("600", "cdh.sock");
    installed.machine.must(&["systemctl", "restart", REST]).unwrap();
    let answer = installed.ask(REST_PATH);
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("CDH_UNREACHABLE"), "{answer}");
    installed.wait_for_status(REST, &["cdh.sock", "ermission denied"]);
    mode("660", "cdh.sock");
    installed.serves("at the end");
    installed.comes_back(REST);
}

#[test]
fn a_key_broker_or_a_clock_that_comes_late_is_waited_for() {
    let Some(mut installed) = Installed::boot(Tree::Trixie) else { return };
    // No network at boot: nobody answers at the key broker's address.
    installed.stack.stop_part(Part::Kbs).unwrap();
    installed.wait_for_status(HUB, &["serving secrets from https://127.0.0.1:", "configuration unmeasured"]);
    let question = installed.question(REST_PATH);
    installed.shell(&format!("(setsid bash -c '{}' >/run/answer 2>&1 &)", question.replace('\'', "'\\''")));
    installed.wait_for_status(HUB, &["[KBS_UNREACHABLE]", "serving secrets from"]);
    installed.stack.start_part(Part::Kbs).unwrap();
    let secret = std::str::from_utf8(SECRET).unwrap();
    let answered = || Ok(installed.shell("cat /run/answer").ends_with(secret));
    installed.machine.wait_for("the answer to the question from before", answered).unwrap();
    installed.comes_back(HUB);

    // A clock of 1970, and the right one later.
    let Some(library) = crate::local::clock::faketime() else { return };
    let library = library.with_file_name("libfaketimeMT.so.1");
    installed.shell("echo '@1970-01-02 00:00:00' >/run/clock");
    let copy = std::fs::read(&library).unwrap();
    let target = format!("/proc/{}/root/run/faketime.so", installed.machine.leader());
    std::fs::write(Path::new(&target), copy).unwrap();
    installed.drop_in(
        HUB,
        "[Service]\\nEnvironment=LD_PRELOAD=/run/faketime.so FAKETIME_TIMESTAMP_FILE=/run/clock FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1\\n",
    );
    installed.restart(HUB);
    installed.wait_for_status(HUB, &["serving secrets from", "configuration"]);
    let answer = installed.ask(REST_PATH);
    assert!(answer.starts_with("HTTP/1.1 50") && answer.contains("KBS_TLS_UNTRUSTED"), "{answer}");
    installed.wait_for_status(
        HUB,
        &["certificate not valid yet", "check the clock of this machine", "[KBS_TLS_UNTRUSTED]"],
    );
    installed.shell("echo '+0' >/run/clock");
    installed.serves("with the right clock");
    installed.comes_back(HUB);

    // The hub is killed; who asks meanwhile is answered when it is back: its socket stays.
    for _ in 0..3 {
        installed.machine.must(&["systemctl", "kill", "--signal=SIGKILL", HUB]).unwrap();
        installed.serves("while the hub is started again");
    }

    // The agent is killed each time that a hub without a token needs it.
    for _ in 0..5 {
        installed.machine.must(&["systemctl", "restart", HUB]).unwrap();
        installed.machine.must(&["systemctl", "kill", "--signal=SIGKILL", AGENT]).unwrap();
        installed.serves("while the agent is started again");
    }
    installed.comes_back(AGENT);
}
