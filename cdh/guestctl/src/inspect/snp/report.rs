//! The fields of a report for programs and for people.
//!
//! Names in JSON follow the firmware specification; numbers that are bit fields are hexadecimal text, byte strings are
//! hexadecimal digits in the order of the report.

use cc_evidence::snp::{Product, Report, SigningKey, Tcb};
use serde_json::{Map, Value, json};

use crate::table::Table;

/// Every field of `report`, with the bits of policy and platform taken apart.
pub(super) fn report_json(report: &Report) -> Map<String, Value> {
    [fields(report), bits(report)]
        .into_iter()
        .filter_map(|value| value.as_object().cloned())
        .flatten()
        .collect()
}

fn fields(report: &Report) -> Value {
    json!({
        "version": report.version,
        "guest_svn": report.guest_svn,
        "policy": format!("{:#x}", report.policy.0),
        "family_id": hex::encode(report.family_id),
        "image_id": hex::encode(report.image_id),
        "vmpl": report.vmpl,
        "sig_algo": report.sig_algo,
        "current_tcb": tcb_json(&report.current_tcb),
        "platform_info": format!("{:#x}", report.platform_info.0),
        "key_info": format!("{:#x}", report.key_info.0),
        "author_key_en": u8::from(report.key_info.author_key_enabled()),
        "mask_chip_key": u8::from(report.mask_chip_key()),
        "signing_key": report.signing_key().to_string(),
        "report_data": hex::encode(report.report_data),
        "measurement": hex::encode(report.measurement),
        "host_data": hex::encode(report.host_data),
        "id_key_digest": hex::encode(report.id_key_digest),
        "author_key_digest": hex::encode(report.author_key_digest),
        "report_id": hex::encode(report.report_id),
        "report_id_ma": hex::encode(report.report_id_ma),
        "reported_tcb": tcb_json(&report.reported_tcb),
        "cpuid": report.cpuid.map(|cpuid| cpuid.to_string()),
        "product": report.product().map(Product::as_str),
        "chip_id": hex::encode(report.chip_id),
        "committed_tcb": tcb_json(&report.committed_tcb),
        "current_version": report.current_firmware.to_string(),
        "committed_version": report.committed_firmware.to_string(),
        "launch_tcb": tcb_json(&report.launch_tcb),
        "launch_mit_vector": report.launch_mit_vector.map(|vector| format!("{vector:#x}")),
        "current_mit_vector": report.current_mit_vector.map(|vector| format!("{vector:#x}")),
        "warnings": report.warnings(),
    })
}

fn bits(report: &Report) -> Value {
    let policy = report.policy;
    let platform = report.platform_info;
    json!({
        "policy_abi": format!("{}.{}", policy.abi_major(), policy.abi_minor()),
        "policy_smt": policy.smt_allowed(),
        "policy_migrate_ma": policy.migration_agent_allowed(),
        "policy_debug": policy.debug_allowed(),
        "policy_single_socket": policy.single_socket(),
        "policy_cxl": policy.cxl_allowed(),
        "policy_aes_256_xts": policy.aes_256_xts_required(),
        "policy_rapl_off": policy.rapl_must_be_off(),
        "policy_ciphertext_hiding": policy.ciphertext_hiding_required(),
        "policy_page_swap_disabled": policy.page_swap_disabled(),
        "platform_smt": platform.smt_enabled(),
        "platform_tsme": platform.tsme_enabled(),
        "platform_ecc": platform.ecc_enabled(),
        "platform_rapl_off": platform.rapl_disabled(),
        "platform_ciphertext_hiding": platform.ciphertext_hiding_enabled(),
        "platform_alias_check": platform.alias_check_complete(),
        "platform_tio": platform.tio_enabled(),
    })
}

/// The report as rows, most asked for first.
pub(super) fn show_report(report: &Report, table: &mut Table) {
    let platform = report.platform_info;
    table
        .section("AMD SEV-SNP attestation report")
        .row("version", report.version.to_string())
        .row("processor", processor(report))
        .bytes("measurement", &report.measurement)
        .bytes("report data", &report.report_data)
        .bytes("host data", &report.host_data)
        .row("policy", report.policy.to_string())
        .row("vmpl", vmpl(report.vmpl))
        .row("guest svn", report.guest_svn.to_string())
        .row("signing key", signing_key(report))
        .row("algorithm", algorithm(report.sig_algo))
        .bytes("chip id", &report.chip_id);
    for warning in report.warnings() {
        table.row("attention", warning);
    }

    table
        .section("firmware")
        .row("reported tcb", report.reported_tcb.to_string())
        .row("current tcb", report.current_tcb.to_string())
        .row("committed tcb", report.committed_tcb.to_string())
        .row("launch tcb", report.launch_tcb.to_string())
        .row("current version", report.current_firmware.to_string())
        .row("committed version", report.committed_firmware.to_string());
    for (label, vector) in
        [("launch mitigations", report.launch_mit_vector), ("current mitigations", report.current_mit_vector)]
    {
        if let Some(vector) = vector {
            table.row(label, format!("{vector:#x}"));
        }
    }
    let flags = [
        (platform.smt_enabled(), "SMT on"),
        (platform.tsme_enabled(), "TSME on"),
        (platform.ecc_enabled(), "ECC"),
        (platform.rapl_disabled(), "RAPL off"),
        (platform.ciphertext_hiding_enabled(), "ciphertext hiding on"),
        (platform.alias_check_complete(), "alias check done"),
        (platform.tio_enabled(), "TIO on"),
    ];
    let names: Vec<&str> = flags.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
    table.row("platform info", format!("{:#x} ({})", platform.0, names.join(", ")));

    table
        .section("identity")
        .bytes("family id", &report.family_id)
        .bytes("image id", &report.image_id)
        .bytes("id key digest", &report.id_key_digest)
        .bytes("author key digest", &report.author_key_digest)
        .bytes("report id", &report.report_id)
        .bytes("report id of ma", &report.report_id_ma);
}

/// Where AMD hands out the certificate of the chip that signed `report`; `None` where the report does not tell the
/// chip or its generation.
pub(super) fn kds_url(report: &Report) -> Option<String> {
    let product = report.product()?;
    if report.signing_key() != SigningKey::Vcek || report.chip_id.iter().all(|byte| *byte == 0) {
        return None;
    }
    let Tcb { fmc, bootloader, tee, snp, microcode, .. } = report.reported_tcb;
    // Turin fills eight bytes of the field only.
    let (id, fmc) = match product {
        Product::Turin => (report.chip_id.get(..8)?, format!("fmcSPL={:02}&", fmc.unwrap_or_default())),
        Product::Milan | Product::Genoa => (report.chip_id.as_slice(), String::new()),
    };
    Some(format!(
        "https://kdsintf.amd.com/vcek/v1/{product}/{}?{fmc}blSPL={bootloader:02}&teeSPL={tee:02}&snpSPL={snp:02}&ucodeSPL={microcode:02}",
        hex::encode(id)
    ))
}

fn tcb_json(tcb: &Tcb) -> Value {
    let mut parts = json!({
        "raw": hex::encode(tcb.raw),
        "bootloader": tcb.bootloader,
        "tee": tcb.tee,
        "snp": tcb.snp,
        "microcode": tcb.microcode,
    });
    if let (Some(fmc), Some(members)) = (tcb.fmc, parts.as_object_mut()) {
        members.insert("fmc".into(), fmc.into());
    }
    parts
}

fn processor(report: &Report) -> String {
    match (report.product(), report.cpuid) {
        (Some(product), Some(cpuid)) => format!("{product} ({cpuid})"),
        (None, Some(cpuid)) => format!("unknown ({cpuid})"),
        (_, None) => format!("not told by reports of version {}", report.version),
    }
}

fn vmpl(level: u32) -> String {
    if level == u32::MAX { "asked for by the host, not by the guest".into() } else { level.to_string() }
}

fn signing_key(report: &Report) -> String {
    let mut text = report.signing_key().to_string();
    if report.key_info.author_key_enabled() {
        text.push_str(", author key present");
    }
    if report.mask_chip_key() {
        text.push_str(", chip key masked");
    }
    text
}

fn algorithm(number: u32) -> String {
    match number {
        1 => "ECDSA P-384 with SHA-384".into(),
        other => format!("unknown ({other})"),
    }
}
