//! What the data of a record says, for the types that attestation policies look at.
//!
//! Tagged records (TCG PC Client Platform Firmware Profile, section 10.4.2.4, and the agent's own records),
//! images that firmware loaded with their device path (UEFI 2.10, section 10.3), and plain texts. Anything else,
//! and anything malformed, is an empty object: it is nobody's proof of anything.

use cc_evidence::aael::{Fields, TAG};
use cc_evidence::ccel::{EV_EVENT_TAG, Event};
use cc_evidence::read::Reader;
use serde_json::{Map, Value, json};

const EV_IPL: u32 = 0xD;
const EV_EFI_BOOT_SERVICES_APPLICATION: u32 = 0x8000_0003;
const EV_EFI_ACTION: u32 = 0x8000_0007;

/// Most nodes of a device path that are read.
const MAX_NODES: usize = 64;

/// The details of a record.
pub(super) fn describe(event: &Event<'_>) -> Value {
    let details = match event.event_type {
        EV_EVENT_TAG => tagged(event.data),
        EV_IPL => loaded(event.data).map(|text| json!({ "string": text })),
        EV_EFI_ACTION => text(event.data).map(|text| json!({ "string": text })),
        EV_EFI_BOOT_SERVICES_APPLICATION => image(event.data),
        _ => None,
    };
    details.unwrap_or_else(|| Value::Object(Map::new()))
}

/// Tag, length and text: the agent's records, and those of others with their text.
fn tagged(data: &[u8]) -> Option<Value> {
    if let Some(Fields { domain, operation, content }) = Fields::of_data(data) {
        let told = serde_json::from_str(content).unwrap_or_else(|_| Value::from(content));
        return Some(json!({
            "unicode_name": "AAEL",
            "string": format!("{domain} {operation} {content}"),
            "data": { "domain": domain, "operation": operation, "content": told },
        }));
    }
    let mut r = Reader::new(data);
    let tag = r.u32_le("tag").ok()?;
    let len = r.u32_le("length").ok()?;
    let text = text(r.take(usize::try_from(len).ok()?, "text").ok()?)?;
    (tag != TAG).then(|| json!({ "string": text }))
}

/// What a boot loader says that it loaded or did: grub in UTF-8; the stub of a unified kernel image in UTF-16, as
/// the names of the image's sections, whose dot Trustee leaves out.
fn loaded(data: &[u8]) -> Option<String> {
    match data {
        [_, 0, ..] => utf16(data).map(|name| name.trim_start_matches('.').to_owned()),
        _ => text(data),
    }
}

/// Text in UTF-16, little endian, up to its first NUL.
fn utf16(data: &[u8]) -> Option<String> {
    let units = data.chunks_exact(2).filter_map(|unit| unit.try_into().ok().map(u16::from_le_bytes));
    let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
    String::from_utf16(&units).ok()
}

/// Text in UTF-8, up to its first NUL.
fn text(data: &[u8]) -> Option<String> {
    let end = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    String::from_utf8(data.get(..end)?.to_vec()).ok()
}

/// `UEFI_IMAGE_LOAD_EVENT`: location, length, link-time address, then the device path.
fn image(data: &[u8]) -> Option<Value> {
    let mut r = Reader::new(data);
    r.take(24, "location").ok()?;
    let len = usize::try_from(r.u64_le("path length").ok()?).ok()?;
    let nodes = device_path(r.take(len, "path").ok()?)?;
    (!nodes.is_empty()).then(|| json!({ "device_paths": nodes }))
}

fn device_path(bytes: &[u8]) -> Option<Vec<String>> {
    let mut r = Reader::new(bytes);
    let mut nodes = Vec::new();
    while r.left() > 0 {
        let kind = r.u8("type").ok()?;
        let subtype = r.u8("subtype").ok()?;
        let len = usize::from(r.u16_le("length").ok()?);
        let content = r.take(len.checked_sub(4)?, "node").ok()?;
        // Type 0x7F ends the path.
        if kind == 0x7F {
            break;
        }
        if nodes.len() == MAX_NODES {
            return None;
        }
        nodes.push(
            known_node(kind, subtype, content)
                .unwrap_or_else(|| format!("Path({kind},{subtype},{})", hex::encode_upper(content))),
        );
    }
    Some(nodes)
}

/// Nodes with a text form of their own.
fn known_node(kind: u8, subtype: u8, content: &[u8]) -> Option<String> {
    let mut r = Reader::new(content);
    let node = match (kind, subtype) {
        // Hardware, PCI: function and device.
        (1, 1) => format!("Pci({},{})", r.u8("function").ok()?, r.u8("device").ok()?),
        // ACPI: compressed EISA identifier of a PNP device, unique id.
        (2, 1) => {
            let hid = r.u32_le("hid").ok()?;
            if hid & 0xFFFF != 0x41D0 {
                return None;
            }
            format!("ACPI(PNP{:04X},{})", hid >> 16, r.u32_le("uid").ok()?)
        }
        // Media, hard drive with a GPT.
        (4, 1) => {
            let number = r.u32_le("partition").ok()?;
            let (start, size) = (r.u64_le("start").ok()?, r.u64_le("size").ok()?);
            let signature = r.array::<16>("signature").ok()?;
            if r.array("format").ok()? != &[2, 2] {
                return None;
            }
            format!("HD({number},GPT,{},{start:#x},{size:#x})", guid(signature))
        }
        // Media, vendor's own.
        (4, 3) => {
            let vendor = guid(r.array("vendor").ok()?);
            let left = r.left();
            format!("VenMedia({vendor},{})", hex::encode_upper(r.take(left, "data").ok()?))
        }
        // Media, file path.
        (4, 4) => return Some(format!("File({})", utf16(content)?)),
        _ => return None,
    };
    (r.left() == 0).then_some(node)
}

/// A GUID in UEFI's mixed order, upper case.
fn guid(bytes: &[u8; 16]) -> String {
    let [a0, a1, a2, a3, b0, b1, c0, c1, d0, d1, rest @ ..] = *bytes;
    format!(
        "{:08X}-{:04X}-{:04X}-{:02X}{:02X}-{}",
        u32::from_le_bytes([a0, a1, a2, a3]),
        u16::from_le_bytes([b0, b1]),
        u16::from_le_bytes([c0, c1]),
        d0,
        d1,
        hex::encode_upper(rest)
    )
}
