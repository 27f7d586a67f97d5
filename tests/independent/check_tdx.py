#!/usr/bin/env python3
"""An independent check of TDX quotes and their collateral.

As check.py for SEV-SNP, this shares no code with the stack: it is written from the public
specifications (Intel TDX DCAP quoting library, quote version 4; SGX PCK certificate profile;
answers of Intel's provisioning certification service, version 4; Linux
Documentation/ABI/testing/configfs-tsm-report) on the Python package `cryptography` (see
requirements.txt; the one of Debian 12 is new enough).

    check_tdx.py --tsm-report-dir DIR --roots roots.pem --collateral DIR

Takes a quote over random report data from the configfs-tsm tree (real or emulated) and checks its
signature, the report of the quoting enclave, and the chain of the platform's certificate up to a
root in roots.pem; then the signatures of the collateral under the same root, and that its first
TCB level fits the platform. Prints one line per check, `ok: ...`; the first failure prints
`failed: ...` on standard error and exits 1.
"""

import argparse
import datetime
import hashlib
import json
import os
import secrets
import struct
import sys
import warnings
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.utils import CryptographyDeprecationWarning

HEADER, BODY, QE_REPORT = 48, 584, 384
REPORT_DATA = HEADER + 520
SGX_OID = bytes.fromhex("2a864886f84d010d01")


class Failed(Exception):
    """A check that did not hold; the text says which and why."""


def ok(text):
    print(f"ok: {text}", flush=True)


def need(condition, why):
    if not condition:
        raise Failed(why)


def holds(key, signature, message):
    """Whether r and s (32 bytes each, big endian) sign `message`: ECDSA P-256 with SHA-256."""
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    return der_holds(key, utils.encode_dss_signature(r, s), message)


def der_holds(key, signature, message):
    try:
        key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def load_certificates(data):
    end = b"-----END CERTIFICATE-----"
    return [x509.load_pem_x509_certificate(block.lstrip() + end + b"\n") for block in data.split(end)[:-1]]


def check_chain(certificates, roots, names):
    """Each certificate by the next, the last by itself and among the roots, all valid now."""
    need(len(certificates) == len(names), f"chain: {len(certificates)} certificates, not {len(names)}")
    need(certificates[-1] in roots, "chain: it does not end at a given root")
    now = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)
    for certificate, issuer, name in zip(certificates, certificates[1:] + certificates[-1:], names):
        found = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value
        need(found == name, f"chain: {found!r} stands where {name!r} is expected")
        signed = der_holds(issuer.public_key(), certificate.signature, certificate.tbs_certificate_bytes)
        need(certificate.issuer == issuer.subject and signed, f"chain: {name} is not signed by the next one")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            need(certificate.not_valid_before <= now <= certificate.not_valid_after, f"chain: {name} is outside its dates")


def elements(data):
    """The DER elements in `data`: tag and content."""
    while data:
        tag, length, at = data[0], data[1], 2
        if length & 0x80:
            at += length & 0x7F
            length = int.from_bytes(data[2:at], "big")
        need(at + length <= len(data), "pck: its extension is not DER")
        yield tag, data[at : at + length]
        data = data[at + length :]


def sgx_members(data, found=None):
    """What the SGX extension says, by the numbers after its own identifier, such as (2, 17)."""
    found = {} if found is None else found
    for _, member in elements(data):
        (_, oid), (tag, value) = elements(member)
        need(oid.startswith(SGX_OID), "pck: a member of its extension is not of SGX")
        found[tuple(oid[len(SGX_OID) :])] = value
        if tag == 0x30:
            sgx_members(value, found)
    return found


def take_quote(directory, report_data):
    entry = directory / f"check-{os.getpid()}-{secrets.token_hex(4)}"
    entry.mkdir()
    try:
        need((entry / "provider").read_text() == "tdx_guest\n", "tsm: the provider is not tdx_guest")
        for absent in ("privlevel", "privlevel_floor", "auxblob"):
            need(not (entry / absent).exists(), f"tsm: TDX has no {absent}")
        with open(entry / "inblob", "wb", buffering=0) as inblob:
            inblob.write(report_data)
        quote = (entry / "outblob").read_bytes()
        need((entry / "generation").read_text() == "1\n", "tsm: the generation is not the number of writes")
        return quote
    finally:
        entry.rmdir()


def check_quote(quote, report_data, roots):
    """Everything that makes a quote genuine; gives the platform's certificate and the quoting enclave's report."""
    version, key_type, tee_type = struct.unpack_from("<HHI", quote)
    need((version, key_type, tee_type) == (4, 2, 0x81), f"quote: {version}, {key_type}, {tee_type:#x}")
    need(quote[REPORT_DATA : REPORT_DATA + 64] == report_data, "quote: other report data than asked")
    (length,) = struct.unpack_from("<I", quote, HEADER + BODY)
    signature = quote[HEADER + BODY + 4 :][:length]
    need(len(signature) == length and not any(quote[HEADER + BODY + 4 + length :]), "quote: its length is wrong")
    attestation_key = signature[64:128]
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\4" + attestation_key)
    need(holds(key, signature[:64], quote[: HEADER + BODY]), "quote: the signature does not hold")
    ok(f"quote: version 4, {len(quote)} bytes, ECDSA P-256 signature by the attestation key")

    kind, size = struct.unpack_from("<HI", signature, 128)
    need(kind == 6 and size == length - 134, "quote: no report of the quoting enclave")
    report, rest = signature[134 : 134 + QE_REPORT], signature[134 + QE_REPORT :]
    (auth_length,) = struct.unpack_from("<H", rest, 64)
    auth, rest, report_signature = rest[66 : 66 + auth_length], rest[66 + auth_length :], rest[:64]
    bound = hashlib.sha256(attestation_key + auth).digest() + bytes(32)
    need(report[0x140:0x180] == bound, "enclave: its report does not name the attestation key")
    kind, size = struct.unpack_from("<HI", rest)
    need(kind == 5 and size == len(rest) - 6, "quote: no certificates")
    chain = load_certificates(rest[6:])
    need(holds(chain[0].public_key(), report_signature, report), "enclave: its report is not signed by the platform's key")
    ok("enclave: report signed by the platform's key, names the attestation key")
    names = ["Intel SGX PCK Certificate", "Intel SGX PCK Platform CA", "Intel SGX Root CA"]
    check_chain(chain, roots, names)
    ok(f"chain: {' by '.join(names)}, a given root")
    return chain[0], report


def check_collateral(directory, roots, pck, report, quote):
    signers = load_certificates((directory / "tcb-signing-chain.pem").read_bytes())
    check_chain(signers, roots, ["Intel SGX TCB Signing", "Intel SGX Root CA"])
    documents = {}
    for file, member in (("tcbInfo.json", "tcbInfo"), ("qeIdentity.json", "enclaveIdentity")):
        text = (directory / file).read_text()
        start, end = f'{{"{member}":', ',"signature":'
        need(text.startswith(start), f"collateral: {file} does not begin with {member}")
        body = text[len(start) : text.rindex(end)]
        signature = bytes.fromhex(json.loads(text)["signature"])
        need(holds(signers[0].public_key(), signature, body.encode()), f"collateral: the signature of {file} does not hold")
        documents[member] = json.loads(body)
        dates = [datetime.datetime.strptime(documents[member][d], "%Y-%m-%dT%H:%M:%SZ") for d in ("issueDate", "nextUpdate")]
        now = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)
        need(dates[0] <= now <= dates[1], f"collateral: {file} is outside its dates")
    ok("collateral: both signatures hold under the same root, dates are around now")

    extension = next(e.value.value for e in pck.extensions if e.oid.dotted_string == "1.2.840.113741.1.13.1")
    ((_, members),) = elements(extension)
    sgx = sgx_members(members)
    info, identity = documents["tcbInfo"], documents["enclaveIdentity"]
    need(info["fmspc"] == sgx[(4,)].hex().upper() and info["pceId"] == sgx[(3,)].hex().upper(), "collateral: another platform")
    number = lambda *oid: int.from_bytes(sgx[oid], "big")
    level = info["tcbLevels"][0]["tcb"]
    need(
        number(2, 17) >= level["pcesvn"]
        and all(number(2, n + 1) >= part["svn"] for n, part in enumerate(level["sgxtcbcomponents"]))
        and all(quote[HEADER + n] >= part["svn"] for n, part in enumerate(level["tdxtcbcomponents"])),
        "collateral: the first TCB level does not fit the platform",
    )
    need(info["tcbLevels"][0]["tcbStatus"] == "UpToDate", "collateral: the first TCB level is not up to date")
    masked = lambda value, mask: bytes(a & b for a, b in zip(value, bytes.fromhex(mask)))
    need(
        report[0x80:0xA0].hex().upper() == identity["mrsigner"]
        and struct.unpack_from("<HH", report, 0x100) >= (identity["isvprodid"], identity["tcbLevels"][0]["tcb"]["isvsvn"])
        and masked(report[0x30:0x40], identity["attributesMask"]).hex() == identity["attributes"].lower(),
        "collateral: another quoting enclave",
    )
    ok("collateral: platform and quoting enclave are up to date by it")


def main():
    parser = argparse.ArgumentParser(description="An independent check of TDX quotes and their collateral.")
    for name, what in (
        ("--tsm-report-dir", "configfs-tsm tree"),
        ("--roots", "PEM with trusted roots"),
        ("--collateral", "tcbInfo.json, qeIdentity.json, tcb-signing-chain.pem"),
    ):
        parser.add_argument(name, type=Path, required=True, help=what)
    given = parser.parse_args()
    try:
        roots = load_certificates(given.roots.read_bytes())
        report_data = secrets.token_bytes(64)
        quote = take_quote(given.tsm_report_dir, report_data)
        pck, report = check_quote(quote, report_data, roots)
        check_collateral(given.collateral, roots, pck, report, quote)
    except (Failed, OSError, ValueError, KeyError, IndexError, struct.error) as error:
        print(f"failed: {error or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
