//! The fields of quotes and reports for programs and for people.
//!
//! Byte strings are hexadecimal digits in the order of the quote, also where they are little-endian numbers.

use cc_evidence::{
    dcap::{EnclaveFields, Header, SignatureData},
    tdx::{Quote, TdAttributes, TdBody, TdReport},
};
use cc_verify::tdx::{EventClaim, PckInfo};
use serde_json::{Value, json};

use crate::table::Table;

/// Everything but the signatures: `body` is that of the domain or the enclave.
pub(super) fn quote_json(header: &Header, body: Value, signature: &SignatureData, trailing: usize) -> Value {
    json!({
        "version": header.version,
        "att_key_type": header.key_type,
        "tee_type": format!("{:#x}", header.tee_type),
        "qe_vendor_id": hex::encode(header.vendor_id),
        "user_data": hex::encode(header.user_data),
        "body": body,
        "qe_report": enclave_json(&signature.qe_report),
        "qe_auth_len": signature.qe_auth_data.len(),
        "trailing_bytes": trailing,
    })
}

/// The body of a TDX quote.
pub(super) fn body_json(body: &TdBody) -> Value {
    let [rtmr0, rtmr1, rtmr2, rtmr3] = body.rtmr.map(hex::encode);
    let mut json = json!({
        "tee_tcb_svn": hex::encode(body.tee_tcb_svn),
        "mr_seam": hex::encode(body.mr_seam),
        "mrsigner_seam": hex::encode(body.mrsigner_seam),
        "seam_attributes": hex::encode(body.seam_attributes.to_le_bytes()),
        "td_attributes": hex::encode(body.td_attributes.0.to_le_bytes()),
        "td_attributes_debug": body.td_attributes.debug(),
        "xfam": hex::encode(body.xfam.to_le_bytes()),
        "mr_td": hex::encode(body.mr_td),
        "mr_config_id": hex::encode(body.mr_config_id),
        "mr_owner": hex::encode(body.mr_owner),
        "mr_owner_config": hex::encode(body.mr_owner_config),
        "rtmr0": rtmr0, "rtmr1": rtmr1, "rtmr2": rtmr2, "rtmr3": rtmr3,
        "report_data": hex::encode(body.report_data),
    });
    if let (Some(added), Some(members)) = (&body.tdx15, json.as_object_mut()) {
        members.insert("tee_tcb_svn2".into(), hex::encode(added.tee_tcb_svn2).into());
        members.insert("mr_servicetd".into(), hex::encode(added.mr_servicetd).into());
    }
    json
}

/// The report of an enclave.
pub(super) fn enclave_json(enclave: &EnclaveFields) -> Value {
    json!({
        "cpu_svn": hex::encode(enclave.cpu_svn),
        "misc_select": hex::encode(enclave.misc_select),
        "attributes": hex::encode(enclave.attributes),
        "mr_enclave": hex::encode(enclave.mr_enclave),
        "mr_signer": hex::encode(enclave.mr_signer),
        "config_id": hex::encode(enclave.config_id),
        "isv_prod_id": enclave.isv_prod_id,
        "isv_svn": enclave.isv_svn,
        "report_data": hex::encode(enclave.report_data),
    })
}

/// What the platform's certificate says.
pub(super) fn platform_json(pck: &PckInfo) -> Value {
    json!({
        "fmspc": hex::encode(pck.fmspc),
        "pceid": hex::encode(pck.pce_id),
        "ppid": hex::encode(pck.ppid),
        "pcesvn": pck.pce_svn,
        "sgx_tcb_comp_svns": pck.components,
        "sgx_type": pck.sgx_type,
        "platform_instance_id": pck.platform_instance_id.map(hex::encode),
        "dynamic_platform": pck.dynamic_platform,
        "cached_keys": pck.cached_keys,
        "smt_enabled": pck.smt_enabled,
    })
}

/// A TDREPORT.
pub(super) fn report_json(report: &TdReport) -> Value {
    let (module, domain) = (&report.tcb_info, &report.td_info);
    json!({
        "type": 0x81,
        "subtype": report.subtype,
        "version": report.version,
        "cpusvn": hex::encode(report.cpu_svn),
        "tee_tcb_info_hash": hex::encode(report.tee_tcb_info_hash),
        "tee_info_hash": hex::encode(report.tee_info_hash),
        "report_data": hex::encode(report.report_data),
        "mac": hex::encode(report.mac),
        "tee_tcb_info_valid": hex::encode(module.valid.to_le_bytes()),
        "tee_tcb_svn": hex::encode(module.tee_tcb_svn),
        "mrseam": hex::encode(module.mr_seam),
        "mrsignerseam": hex::encode(module.mrsigner_seam),
        "seam_attributes": hex::encode(module.attributes.to_le_bytes()),
        "tee_tcb_svn2": hex::encode(module.tee_tcb_svn2),
        "tdinfo": {
            "attributes": hex::encode(domain.attributes.0.to_le_bytes()),
            "xfam": hex::encode(domain.xfam.to_le_bytes()),
            "mrtd": hex::encode(domain.mr_td),
            "mrconfigid": hex::encode(domain.mr_config_id),
            "mrowner": hex::encode(domain.mr_owner),
            "mrownerconfig": hex::encode(domain.mr_owner_config),
            "rtmr": domain.rtmr.map(hex::encode),
            "servtd_hash": hex::encode(domain.servtd_hash),
        },
    })
}

/// A TDX quote as rows, most asked for first.
pub(super) fn show_quote(quote: &Quote, table: &mut Table) {
    let body = &quote.body;
    table.section("Intel TDX quote").row("version", quote.header.version.to_string());
    show_domain(table, &body.mr_td, &body.report_data, &body.mr_config_id, body.td_attributes, body.xfam);
    show_registers(table, &body.rtmr);
    table
        .row("bytes behind it", quote.trailing.to_string())
        .section("TDX module")
        .row("tee tcb svn", hex::encode(body.tee_tcb_svn))
        .bytes("mrseam", &body.mr_seam)
        .bytes("mrsignerseam", &body.mrsigner_seam)
        .row("seam attributes", format!("{:#x}", body.seam_attributes));
    if let Some(added) = &body.tdx15 {
        table
            .row("tee tcb svn now", hex::encode(added.tee_tcb_svn2))
            .bytes("service td", &added.mr_servicetd);
    }
    table.section("owner").bytes("mrowner", &body.mr_owner).bytes("mrownerconfig", &body.mr_owner_config);
}

/// A TDREPORT as rows.
pub(super) fn show_report(report: &TdReport, table: &mut Table) {
    let domain = &report.td_info;
    table.section("Intel TDREPORT").row("version", report.version.to_string());
    show_domain(
        table,
        &domain.mr_td,
        &report.report_data,
        &domain.mr_config_id,
        domain.attributes,
        domain.xfam,
    );
    show_registers(table, &domain.rtmr);
    table
        .section("TDX module")
        .row("tee tcb svn", hex::encode(report.tcb_info.tee_tcb_svn))
        .bytes("mrseam", &report.tcb_info.mr_seam)
        .bytes("mrsignerseam", &report.tcb_info.mrsigner_seam)
        .row("cpu svn", hex::encode(report.cpu_svn))
        .section("owner")
        .bytes("mrowner", &domain.mr_owner)
        .bytes("mrownerconfig", &domain.mr_owner_config);
}

fn show_domain(
    table: &mut Table,
    mr_td: &[u8],
    report_data: &[u8],
    mr_config_id: &[u8],
    attributes: TdAttributes,
    xfam: u64,
) {
    table
        .bytes("mrtd", mr_td)
        .bytes("report data", report_data)
        .bytes("mrconfigid", mr_config_id)
        .row("td attributes", attributes.to_string())
        .row("xfam", format!("{xfam:#x}"));
    if attributes.under_observation() {
        table.row("attention", "the host may debug or profile this domain: it keeps no secrets");
    }
}

fn show_registers(table: &mut Table, rtmr: &[[u8; 48]; 4]) {
    for (number, value) in rtmr.iter().enumerate() {
        table.bytes(&format!("rtmr{number}"), value);
    }
}

/// An enclave as rows.
pub(super) fn show_enclave(title: &str, enclave: &EnclaveFields, table: &mut Table) {
    table
        .section(title)
        .bytes("mrenclave", &enclave.mr_enclave)
        .bytes("mrsigner", &enclave.mr_signer)
        .row("product", enclave.isv_prod_id.to_string())
        .row("security version", enclave.isv_svn.to_string())
        .row("attributes", hex::encode(enclave.attributes))
        .bytes("config id", &enclave.config_id)
        .bytes("report data", &enclave.report_data);
}

/// The platform as rows.
pub(super) fn show_platform(pck: &PckInfo, table: &mut Table) {
    table
        .section("platform (from its certificate)")
        .row("fmspc", hex::encode(pck.fmspc))
        .row("pce", format!("id {}, security version {}", hex::encode(pck.pce_id), pck.pce_svn))
        .row("components", pck.components.map(|svn| svn.to_string()).join(" "));
    if let Some(id) = pck.platform_instance_id {
        table.row("instance id", hex::encode(id));
    }
}

/// What a record says, in one line.
pub(in crate::inspect) fn event_text(event: &EventClaim) -> String {
    let told = match (event.details.get("string"), event.details.get("device_paths")) {
        (Some(Value::String(text)), _) => text.clone(),
        (_, Some(Value::Array(path))) => path.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("/"),
        _ => String::new(),
    };
    let note = if event.digest_matches_event || told.is_empty() { "" } else { " (text not measured)" };
    format!("{told}{note}")
}
