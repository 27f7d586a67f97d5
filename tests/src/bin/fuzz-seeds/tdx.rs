//! Seeds of what Intel's machines say: quotes, reports of the module, collateral.

use anyhow::Result;
use cc_evidence::HashAlgorithm;
use cc_evidence::tdx::{Quote, TdxEvidence};
use cc_tests::eventlog::EventLog;
use tee_emulator::machine::{Hex, Td, Tee};
use tee_emulator::{Collateral, IntelChain, Machine};

use super::{REPORT_DATA, Seed, now, parts};

/// Quotes of all versions that are read, reports of the module, evidence and collateral.
pub(super) fn seeds() -> Result<Vec<Seed>> {
    let chain = IntelChain::generate()?;
    let machine = Machine { tee: Tee::Tdx, ..Machine::default() };
    let quote_4 = tee_emulator::tdx::quote::build(&chain, &machine, &REPORT_DATA)?;
    let quote = Quote::parse(&quote_4)?;
    let mut signature = quote.signature.clone();
    // The parser of quotes does not look into the certificates.
    signature.pck_chain.truncate(40);
    let short = cc_evidence::tdx::assemble(quote.signed(), &signature)?;
    let mut body = quote.body;
    body.tdx15 = Some(cc_evidence::tdx::Tdx15 { tee_tcb_svn2: [3; 16], mr_servicetd: [4; 48] });
    let signed = cc_evidence::tdx::to_be_signed([1; 20], &body);
    let quote_5 = cc_evidence::tdx::assemble(&signed, &signature)?;
    let evidence = TdxEvidence { quote: short.clone(), cc_eventlog: Some(EventLog::of_a_boot().records()) };
    let roots = chain.roots_pem()?;
    let Collateral { tcb_info, qe_identity, signing_chain, revocation_lists: [root_list, platform_list] } =
        Collateral::issue(&chain)?;
    let documents = [&tcb_info, &qe_identity, &signing_chain].map(String::as_bytes);
    let [info, identity, signers] = documents;
    let log = EventLog::of_a_boot();
    let measured = Machine { td: log_registers(&log, machine.td)?, ..machine };
    let quote = tee_emulator::tdx::quote::build(&chain, &measured, &REPORT_DATA)?;
    let log = log.records();
    let all = [&now()?, roots.as_bytes(), &quote, info, identity, signers, &root_list, &platform_list, &log];
    Ok(vec![
        ("tdx_quote", "4".into(), short.clone()),
        ("tdx_quote", "4-padded".into(), [short.as_slice(), &[0; 100]].concat()),
        ("tdx_quote", "5".into(), quote_5),
        ("tdx_quote", "sgx-3".into(), sgx_quote(&short)),
        ("tdx_quote", "json".into(), evidence.to_json()?.into_bytes()),
        ("tdreport", "1.5".into(), td_report(&body.encode(), &REPORT_DATA)),
        ("tdx_verify", "all".into(), parts(&all)),
        ("collateral", "all".into(), documents.join(&0)),
        ("collateral", "roots".into(), ["", "", &roots].join("\0").into_bytes()),
    ])
}

/// A trust domain whose registers are those of `log`.
fn log_registers(log: &EventLog, td: Td) -> Result<Td> {
    let register = |number| -> Result<_> {
        let mut bytes = [0; 48];
        hex::decode_to_slice(log.register(number), &mut bytes)?;
        Ok(Hex(bytes))
    };
    Ok(Td { rtmr0: register(0)?, rtmr1: register(1)?, rtmr2: register(2)?, rtmr3: register(3)?, ..td })
}

/// An SGX quote of version 3 with the signatures of a TDX quote: there they stand in a wrapping of six bytes.
fn sgx_quote(tdx: &[u8]) -> Vec<u8> {
    let signature = tdx.get(48 + 584 + 4..).unwrap_or_default();
    let (keys, rest) = signature.split_at(128);
    let bare = [keys, rest.get(6..).unwrap_or_default()].concat();
    let header = [&[3, 0, 2, 0, 0, 0, 0, 0][..], &[0; 40]].concat();
    let length = u32::try_from(bare.len()).unwrap_or_default().to_le_bytes();
    [&header[..], &[0x5C; 384], &length, &bare].concat()
}

/// A TDREPORT whose digests fit, around the body of a quote.
pub(super) fn td_report(body: &[u8], report_data: &[u8; 64]) -> Vec<u8> {
    let (seam, domain) = body.split_at(120);
    // Valid fields, the module's part of the body, then zeros; the domain's part without the report data.
    let tcb_info = [&[0xFF, 1, 0, 0, 0, 0, 0, 0][..], seam, &[0; 111]].concat();
    let td_info = [domain.get(..400).unwrap_or_default(), &[0; 112]].concat();
    let hash = |part: &[u8]| HashAlgorithm::Sha384.digest(part);
    let mac_part = [
        &[0x81, 0, 1, 0][..],
        &[0; 12],
        &[6; 16],
        &hash(&tcb_info),
        &hash(&td_info),
        report_data,
        &[0; 32],
        &[8; 32],
    ];
    [&mac_part.concat()[..], &tcb_info, &[0; 17], &td_info].concat()
}
