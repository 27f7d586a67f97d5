//! What programs take from their environment and which files they read and write, for the sections ENVIRONMENT and FILES of their
//! pages. Their command lines know nothing of it; a test compares the names with those that the programs ask for.

/// What a program takes and leaves, besides its command line.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings {
    /// Names of variables, and what each is for. None: the program reads none.
    pub environment: &'static [(&'static str, &'static str)],
    /// Paths, and what is there.
    pub files: &'static [(&'static str, &'static str)],
}

const LOG: (&str, &str) =
    ("RUST_LOG", "filter of the log, such as debug or warn,cc_kbs=debug; beats what is configured");
const MANAGER: (&str, &str) = (
    "NOTIFY_SOCKET, WATCHDOG_USEC, LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES",
    "set by the service manager: where the state is told, how often, and which sockets are passed",
);
const AGENT_SOCKET: (&str, &str) = (
    "/run/confidential-containers/attestation-agent/attestation-agent.sock",
    "socket of the attestation agent",
);
const HUB_SOCKET: (&str, &str) =
    ("/run/confidential-containers/cdh.sock", "socket of the confidential data hub");

/// Of attestation-agent.
pub const AGENT: Surroundings = Surroundings {
    environment: &[
        LOG,
        ("AA_KBC_PARAMS", "NAME::URL of the key broker, for where no file names one"),
        ("AAEL_PATH", "another place for the log of measured events"),
        (
            "AA_TPM_DEVICE, AA_TPM_AK_HANDLE",
            "the TPM and its attestation key; beat [tpm] of the configuration",
        ),
        MANAGER,
    ],
    files: &[
        ("/etc/confidential-containers/attestation-agent.toml", "configuration that the units name with -c"),
        AGENT_SOCKET,
        ("/run/attestation-agent/eventlog", "log of measured events"),
        (
            "/run/peerpod/initdata, /run/peerpod/initdata.digest",
            "init-data of a peer pod, where none is named",
        ),
        ("/sys/kernel/config/tsm/report", "where quotes are asked for; before Linux 6.7 the devices below"),
        ("/dev/sev-guest, /dev/tdx_guest, /dev/tpmrm0", "drivers of SEV-SNP and TDX, and the TPM"),
    ],
};

/// Of confidential-data-hub.
pub const HUB: Surroundings = Surroundings {
    environment: &[
        LOG,
        ("AA_KBC_PARAMS", "NAME::URL; beats name and url of [kbc]"),
        ("AA_SOCKET", "address of the attestation agent; beats [aa] of the configuration"),
        ("KBS_CERT", "PEM text of the key broker's certificate, where the configuration has none"),
        ("OFFLINE_FS_KBC_EXTRA_FILE_PATH", "further files of the offline store, parted by commas"),
        ("SKIP_SEALED_SECRET_VERIFICATION", "true: signatures of sealed secrets are not verified"),
        (
            "CDH_DEFAULT_IMAGE_AUTHENTICATED_REGISTRY_CREDENTIALS",
            "URI of the credentials for registries; beats the configuration",
        ),
        (
            "ALIYUN_IN_GUEST_KEY_PATH, AWS_IN_GUEST_KEY_PATH, VAULT_IN_GUEST_KEY_PATH, PKCS11_IN_GUEST_KEY_PATH",
            "folders of the credentials for key management services",
        ),
        ("OCICRYPT_KEYPROVIDER_CONFIG", "where it is set the hub writes no such file of its own"),
        (
            "CDH_STORAGE_SECCOMP, LD_LIBRARY_PATH",
            "handed on to cdh-storage, where the hub starts that itself",
        ),
        MANAGER,
    ],
    files: &[
        (
            "/etc/confidential-containers/confidential-data-hub.toml",
            "configuration that the units name with -c",
        ),
        HUB_SOCKET,
        (
            "/run/confidential-containers/credentials.sock",
            "for LoadCredential= of units (socket of its own unit)",
        ),
        ("/run/confidential-containers/cryptsetup.sock", "for keys of volumes in crypttab(5)"),
        (
            "/run/confidential-containers/cdh-storage/{mount,unpack,disk}.sock",
            "the units that work for it with privileges; where they are not there it starts cdh-storage itself",
        ),
        (
            "/run/confidential-containers/cdh/kbs, /run/confidential-containers/cdh/sealed-secret",
            "where [[credentials]] go",
        ),
        (
            "/run/confidential-containers/cdh/ocicrypt_config.json",
            "tells image tools of this machine of the hub",
        ),
        ("/run/kata-containers/image", "store of pulled images"),
        (
            "/etc/aa-offline_fs_kbc-keys.json, /etc/aa-offline_fs_kbc-resources.json",
            "the offline store, where the key broker is offline_fs_kbc",
        ),
    ],
};

/// Of cdh-storage.
pub const STORAGE: Surroundings = Surroundings {
    environment: &[LOG, ("CDH_STORAGE_SECCOMP", "the same as --seccomp")],
    files: &[
        ("/run/kata-containers/image", "the store that the units name with --store"),
        ("/run/confidential-containers/cdh-storage/open", "what volumes are open, in memory"),
        ("/run/confidential-containers/cdh-storage/{mount,unpack,disk}.sock", "sockets of its units"),
        ("/usr/sbin/mkfs.ext4", "makes file systems on new volumes"),
    ],
};

/// Of api-server-rest.
pub const REST: Surroundings =
    Surroundings { environment: &[LOG, MANAGER], files: &[HUB_SOCKET, AGENT_SOCKET] };

/// Of initrd-unlock.
pub const UNLOCK: Surroundings = Surroundings {
    environment: &[],
    files: &[
        ("/etc/confidential-containers/unlock.toml", "the configuration"),
        ("/etc/resolv.conf, /etc/hosts", "where the key broker has a name"),
        ("/proc/cmdline", "the kernel's command line, in which root= has to be the configured one"),
    ],
};
