#!/usr/bin/env python3
"""An independent check of the guest stack and the development key broker.

Client and server of one hand can agree on the same mistake. This program shares no code with
either: it is written from the public specifications (AMD 56860 and 57230, RFC 7516, 7518, 8785,
Linux Documentation/ABI/testing/configfs-tsm-report, the key broker protocol of Trustee 0.4.0)
on the Python packages `cryptography` and `jwcrypto`. Python 3.11; packages in requirements.txt.

    python3 -m venv DIR && DIR/bin/pip install -r requirements.txt

What it checks depends on what it is given; every part that has its inputs is run:

    check.py --evidence evidence.json --roots roots.pem
        Rebuilds the 1184 bytes of an SEV-SNP report from its JSON form and checks the ECDSA
        P-384 signature, the RSA-PSS chain up to a root in roots.pem, and the TCB and chip in
        the leaf certificate.
        With --nonce TEXT --tee-pubkey jwk.json [--additional TEXT] [--hash sha384] also that
        the report data is the digest that binds nonce and key.

    check.py --kbs https://127.0.0.1:8080 --ca tls.crt --tsm-report-dir DIR --roots roots.pem \
             --admin-token-file FILE
        Plays a whole guest against a running key broker: takes a report from the configfs-tsm
        tree DIR (real or emulated), checks it as above, attests, fetches a resource and opens
        it with its own key. As the administrator it first stores a random resource and sets
        reference values that match the report (they replace the stored ones). It also checks
        that the broker refuses a used session, replayed evidence, an altered token, and
        admin requests without a token. The key broker may speak plain HTTP (--kbs http://...).
        In place of --admin-token-file: --resource default/key/1 --expect FILE fetches what is
        there already, under the reference values that are there already.

    check.py --open-command 'PROGRAM ARG...'
        Makes encrypted resources as a key broker does and has PROGRAM open them: it gets one
        JSON object on standard input, {"private_key_pem": TEXT, "jwe": OBJECT}, and must write
        the plaintext to standard output. An altered one must make it fail.

The canonical JSON and encryption code of this program is checked first, in every run. Prints one
line per check, `ok: ...`; the first failure prints `failed: ...` on standard error and exits 1.
"""

import argparse
import base64
import datetime
import hashlib
import json
import os
import secrets
import shlex
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.utils import CryptographyDeprecationWarning
from jwcrypto import jwe as jose_jwe
from jwcrypto import jwk as jose_jwk

REPORT_LEN = 0x4A0
SIGNED_LEN = 0x2A0
VERSION = "0.4.0"
COOKIE = "kbs-session-id"
LIMIT = 8 << 20


class Failed(Exception):
    """A check that did not hold; the text says which and why."""


def ok(text):
    print(f"ok: {text}", flush=True)


def need(condition, why):
    if not condition:
        raise Failed(why)


def b64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64url(text):
    need("=" not in text and "+" not in text and "/" not in text, "base64url: padding or another alphabet")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


# --- canonical JSON (RFC 8785) and the binding digest ---------------------------------------------


def canonical(value):
    """RFC 8785 for the shapes of the binding: objects with ASCII names, and strings."""

    def plain(part):
        if isinstance(part, dict):
            need(all(isinstance(name, str) and name.isascii() for name in part), "canonical: a name is not ASCII")
            return all(plain(member) for member in part.values())
        return isinstance(part, str)

    need(plain(value), "canonical: only objects and strings are in these shapes")
    # For ASCII names the order of code points is the order of UTF-16 units, and the escapes that
    # json writes without ensure_ascii are those of RFC 8785 section 3.2.2.2.
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def binding_digest(nonce, tee_pubkey, additional, hash_name):
    bound = {"nonce": nonce, "tee-pubkey": tee_pubkey, "additional-evidence": additional}
    return hashlib.new(hash_name, canonical(bound)).digest()


def check_canonical():
    # A fixed point of the protocol's documents, made by hand: no devices, SHA-384.
    key = {
        "kty": "EC", "crv": "P-256", "alg": "ECDH-ES+A256KW",
        "x": "ba6dhVZMQpM00nfC05nss0_5OQofKMQ8QgiXx3qU_1U",
        "y": "4cLtTuwNiGopbVTbE1oaUyNXPWmRpweTs7DTUdxS6yE",
    }  # fmt: skip
    expected = (
        "e91cbd30655ccae73957607bb3c3f3e7c70897873a176c84c3b61588ee7d337a"
        "c33a16d4cdced5ba589bea50290609d6"
    )
    found = binding_digest("bm9uY2U=", key, "", "sha384").hex()
    need(found == expected, f"canonical: the binding digest of the fixed point is {found}")
    text = canonical({"b": '\u20ac"\\\n\x0f', "a": {}}).decode()
    need(text == '{"a":{},"b":"\u20ac\\"\\\\\\n\\u000f"}', f"canonical: {text}")
    ok("canonical JSON and binding digest give the known values")


# --- the SEV-SNP report (AMD 56860) ----------------------------------------------------------------

# name in JSON, offset, length: byte strings
BYTES = [
    ("family_id", 0x010, 16), ("image_id", 0x020, 16), ("report_data", 0x050, 64),
    ("measurement", 0x090, 48), ("host_data", 0x0C0, 32), ("id_key_digest", 0x0E0, 48),
    ("author_key_digest", 0x110, 48), ("report_id", 0x140, 32), ("report_id_ma", 0x160, 32),
    ("chip_id", 0x1A0, 64),
]  # fmt: skip
# little-endian numbers
NUMBERS = [
    ("version", 0x000, 4), ("guest_svn", 0x004, 4), ("policy", 0x008, 8), ("vmpl", 0x030, 4),
    ("sig_algo", 0x034, 4), ("plat_info", 0x040, 8), ("key_info", 0x048, 4),
]  # fmt: skip
TCBS = [("current_tcb", 0x038), ("reported_tcb", 0x180), ("committed_tcb", 0x1E0), ("launch_tcb", 0x1F0)]
VERSIONS = [("current", 0x1E8), ("committed", 0x1EC)]
CPUID = [("cpuid_fam_id", 0x188), ("cpuid_mod_id", 0x189), ("cpuid_step", 0x18A)]
MIT_VECTORS = [("launch_mit_vector", 0x1F8), ("current_mit_vector", 0x200)]
SIGNATURE = [("r", 0x2A0), ("s", 0x2E8)]
# place of each part in the 8 bytes of a TCB version
TCB_OLD = {"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7}
TCB_TURIN = {"fmc": 0, "bootloader": 1, "tee": 2, "snp": 3, "microcode": 7}


def tcb_layout(family):
    return TCB_TURIN if family is not None and family >= 0x1A else TCB_OLD


def report_from_json(report):
    """The 1184 bytes that the firmware signed, from the JSON form; reserved bytes are zero."""
    raw = bytearray(REPORT_LEN)

    def put(offset, data):
        raw[offset : offset + len(data)] = data

    def octets(name, value, length):
        need(isinstance(value, list) and len(value) == length, f"report: {name} is not {length} numbers")
        return bytes(value)

    for name, offset, length in BYTES:
        put(offset, octets(name, report[name], length))
    for name, offset, length in NUMBERS:
        put(offset, report[name].to_bytes(length, "little"))
    layout = tcb_layout(report.get("cpuid_fam_id"))
    for name, offset in TCBS:
        for part, place in layout.items():
            raw[offset + place] = report[name][part]
    for name, offset in VERSIONS:
        put(offset, bytes(report[name][part] for part in ("build", "minor", "major")))
    for name, offset in CPUID:
        raw[offset] = report.get(name) or 0
    for name, offset in MIT_VECTORS:
        put(offset, (report.get(name) or 0).to_bytes(8, "little"))
    for name, offset in SIGNATURE:
        put(offset, octets(f"signature.{name}", report["signature"][name], 72))
    return bytes(raw)


def report_to_json(raw):
    """The JSON form of a report of 1184 bytes."""
    need(len(raw) == REPORT_LEN, f"report: {len(raw)} bytes, not {REPORT_LEN}")

    def number(offset, length):
        return int.from_bytes(raw[offset : offset + length], "little")

    report = {name: list(raw[offset : offset + length]) for name, offset, length in BYTES}
    report |= {name: number(offset, length) for name, offset, length in NUMBERS}
    version = report["version"]
    report |= {name: raw[offset] if version >= 3 else None for name, offset in CPUID}
    report |= {name: number(offset, 8) if version >= 5 else None for name, offset in MIT_VECTORS}
    layout = tcb_layout(report["cpuid_fam_id"])
    for name, offset in TCBS:
        report[name] = {"fmc": None} | {part: raw[offset + place] for part, place in layout.items()}
    for name, offset in VERSIONS:
        report[name] = {"build": raw[offset], "minor": raw[offset + 1], "major": raw[offset + 2]}
    report["signature"] = {name: list(raw[offset : offset + 72]) for name, offset in SIGNATURE}
    return report


# --- its signature and certificates (AMD 57230) ----------------------------------------------------

AMD = "1.3.6.1.4.1.3704.1"
TCB_OIDS = {
    "bootloader": f"{AMD}.3.1", "tee": f"{AMD}.3.2", "snp": f"{AMD}.3.3", "microcode": f"{AMD}.3.8",
    "fmc": f"{AMD}.3.9",
}  # fmt: skip
HWID_OID = f"{AMD}.4"


def load_certificate(data):
    return x509.load_pem_x509_certificate(data) if data[:1] == b"-" else x509.load_der_x509_certificate(data)


def signed_by(certificate, issuer):
    """Whether `issuer` made `certificate`: RSA-PSS with SHA-384 throughout, salt as long as the hash."""
    key = issuer.public_key()
    if certificate.issuer != issuer.subject or not isinstance(key, rsa.RSAPublicKey):
        return False
    try:
        pss = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)
        key.verify(certificate.signature, certificate.tbs_certificate_bytes, pss, hashes.SHA384())
    except InvalidSignature:
        return False
    return True


def load_certificates(path):
    """All certificates of a PEM file, in its order."""
    end = b"-----END CERTIFICATE-----"
    blocks = path.read_bytes().split(end)[:-1]
    return [x509.load_pem_x509_certificate(block.lstrip() + end + b"\n") for block in blocks]


def valid_now(certificate):
    # Naive times in UTC: the attributes with a time zone are newer than the package of Debian 12.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        begin, end = certificate.not_valid_before, certificate.not_valid_after
    utc = datetime.timezone.utc
    return begin.replace(tzinfo=utc) <= datetime.datetime.now(utc) <= end.replace(tzinfo=utc)


def extension(certificate, oid):
    for found in certificate.extensions:
        if found.oid.dotted_string == oid:
            return found.value.value
    return None


def der_integer(data):
    need(data is not None and len(data) >= 3 and data[0] == 2 and data[1] == len(data) - 2, "leaf: not a DER INTEGER")
    return int.from_bytes(data[2:], "big", signed=True)


def check_report(evidence, roots):
    """Everything that makes a report genuine; gives its 1184 bytes."""
    report = evidence["attestation_report"]
    raw = report_from_json(report)
    again = report_to_json(raw)
    # Members with no value may be left out, so compare without them.
    thin = {name: value for name, value in report.items() if value is not None}
    need(thin == {name: again[name] for name in thin}, "report: the JSON form does not survive the way through bytes")
    need(report["version"] in (3, 4, 5), f"report: version {report['version']}")
    need(report["sig_algo"] == 1, "report: the signature algorithm is not ECDSA P-384 with SHA-384")
    need(report["vmpl"] == 0, f"report: VMPL {report['vmpl']}")
    ok(f"report: version {report['version']}, {REPORT_LEN} bytes rebuilt from JSON")

    entries = [
        (entry["cert_type"], load_certificate(bytes(entry["data"])))
        for entry in evidence["cert_chain"] or []
        if entry["cert_type"] in ("VCEK", "VLEK", "ASK", "ARK")
    ]
    leaves = [(kind, certificate) for kind, certificate in entries if kind in ("VCEK", "VLEK")]
    need(len(leaves) == 1, f"chain: {len(leaves)} leaf certificates in the evidence")
    kind, leaf = leaves[0]
    key = leaf.public_key()
    need(isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp384r1", "leaf: not a P-384 key")
    # Little-endian numbers of 72 bytes, 48 of them used.
    r, s = (int.from_bytes(raw[offset : offset + 72], "little") for _, offset in SIGNATURE)
    try:
        key.verify(utils.encode_dss_signature(r, s), raw[:SIGNED_LEN], ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        raise Failed("report: the signature does not hold under the leaf certificate") from None
    ok(f"report: ECDSA P-384 signature by the {kind}")

    known = roots + [certificate for _, certificate in entries if certificate not in roots]
    chain = [
        (issuer, root)
        for issuer in known
        if signed_by(leaf, issuer)
        for root in roots
        if signed_by(root, root) and signed_by(issuer, root)
    ]
    need(chain, "chain: no intermediate of the evidence or the roots leads from the leaf to a given root")
    issuer, root = chain[0]
    for certificate in (leaf, issuer, root):
        need(valid_now(certificate), f"chain: {certificate.subject.rfc4514_string()} is outside its dates")
    fingerprint = root.fingerprint(hashes.SHA256()).hex()
    ok(f"chain: RSA-PSS, leaf by {issuer.subject.rfc4514_string()} by the root {fingerprint[:16]}...")

    for part in tcb_layout(report.get("cpuid_fam_id")):
        certified = der_integer(extension(leaf, TCB_OIDS[part]))
        reported = report["reported_tcb"][part]
        need(certified == reported, f"leaf: {part} is {certified}, the report says {reported}")
    masked = report["key_info"] & 2
    if kind == "VCEK" and not masked:
        hwid = extension(leaf, HWID_OID) or b""
        if hwid[:1] == b"\x04" and len(hwid) == hwid[1] + 2:
            hwid = hwid[2:]
        chip = bytes(report["chip_id"])
        need(len(hwid) in (8, 64) and chip == hwid.ljust(64, b"\0"), "leaf: its chip is not the report's")
    ok(f"leaf: TCB{'' if kind == 'VLEK' or masked else ' and chip'} as in the report")
    return raw


def check_binding(raw, nonce, tee_pubkey, additional, hash_name):
    digest = binding_digest(nonce, tee_pubkey, additional, hash_name)
    found = raw[0x50:0x90]
    need(found == digest.ljust(64, b"\0"), f"binding: expected report data {digest.hex()}, found {found.hex()}")
    ok(f"binding: report data is the {hash_name} digest over nonce and key")


# --- the guest's device: configfs-tsm (Linux ABI) --------------------------------------------------


def tsm_evidence(directory, report_data):
    """SNP evidence for 64 bytes of report data, through one entry of a configfs-tsm report tree."""
    entry = Path(directory) / f"independent-{os.getpid()}-{secrets.token_hex(8)}"
    entry.mkdir()
    try:
        provider = (entry / "provider").read_text().strip()
        need(provider == "sev_guest", f"configfs-tsm: the provider is {provider}, not sev_guest")
        with open(entry / "inblob", "wb", buffering=0) as blob:
            need(blob.write(report_data) == 64, "configfs-tsm: inblob took less than 64 bytes")
        raw, table = (entry / "outblob").read_bytes(), (entry / "auxblob").read_bytes()
        need((entry / "generation").read_text().strip() == "1", "configfs-tsm: another process used the entry")
    finally:
        entry.rmdir()
    need(raw[0x50:0x90] == report_data, "configfs-tsm: the report is not for the report data that was written")
    chain = [{"cert_type": kind, "data": list(data)} for kind, data in certificate_table(table)]
    return {"attestation_report": report_to_json(raw), "cert_chain": chain or None}


GUIDS = {
    "c0b406a4a803495297433fb6014cd0ae": "ARK", "4ab7b379bbac4fe4a02f05aef327c782": "ASK",
    "63da758de6644564adc5f4b93be8accd": "VCEK", "a8074bc2a25a483eaae639c045a0b8a1": "VLEK",
    "92f81bc358114d3d97ffd19f88dc67ea": "CRL",
}  # fmt: skip


def certificate_table(table):
    """The entries of the host's certificate table: GUID, offset, length, closed by zeros."""
    found = []
    for at in range(0, len(table) - 23, 24):
        guid, offset, length = table[at : at + 16], *(
            int.from_bytes(table[at + place : at + place + 4], "little") for place in (16, 20)
        )
        if not any(guid):
            return found
        need(offset + length <= len(table), "certificate table: an entry is outside")
        other = "-".join(guid.hex()[a:b] for a, b in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32)))
        found.append((GUIDS.get(guid.hex(), {"OTHER": other}), table[offset : offset + length]))
    need(not table, "certificate table: no closing entry")
    return found


# --- encrypted resources (RFC 7516, 7518) ----------------------------------------------------------

RECIPIENTS = ["P-256", "P-521", "RSA"]


def make_key(kind):
    """A private key, and the JWK members that the protocol has for its public half."""
    if kind == "RSA":
        private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        names, alg = ("kty", "n", "e"), "RSA-OAEP-256"
    else:
        private = ec.generate_private_key({"P-256": ec.SECP256R1(), "P-521": ec.SECP521R1()}[kind])
        names, alg = ("kty", "crv", "x", "y"), "ECDH-ES+A256KW"
    public = json.loads(jose_jwk.JWK.from_pyca(private.public_key()).export_public())
    return private, {name: public[name] for name in names} | {"alg": alg}


def private_pem(private):
    form = serialization.PrivateFormat
    encoding = form.TraditionalOpenSSL if isinstance(private, rsa.RSAPrivateKey) else form.PKCS8
    return private.private_bytes(serialization.Encoding.PEM, encoding, serialization.NoEncryption()).decode()


def seal(public_jwk, plaintext):
    """A flattened JWE as a key broker answers it."""
    header = {"alg": public_jwk["alg"], "enc": "A256GCM"}
    sealed = jose_jwe.JWE(plaintext, json.dumps(header, separators=(",", ":")), algs=[header["alg"], "A256GCM"])
    sealed.add_recipient(jose_jwk.JWK(**public_jwk))
    # The compact form has every header member under protection, as key brokers do it.
    parts = sealed.serialize(compact=True).split(".")
    return dict(zip(("protected", "encrypted_key", "iv", "ciphertext", "tag"), parts, strict=True))


def unseal(private, text):
    """The plaintext of a key broker's answer; its form is checked too."""
    answer = json.loads(text)
    need(
        sorted(answer) == ["ciphertext", "encrypted_key", "iv", "protected", "tag"],
        f"resource: the answer has the members {sorted(answer)}",
    )
    need(len(unb64url(answer["iv"])) == 12 and len(unb64url(answer["tag"])) == 16, "resource: length of iv or tag")
    header_text = unb64url(answer["protected"]).decode()
    header = json.loads(header_text)
    need(header["enc"] == "A256GCM", f"resource: enc is {header['enc']}")
    # Existing clients print the parsed header again to get the additional data, so its text is fixed.
    order = {"alg": header["alg"], "enc": header["enc"]}
    if "epk" in header:
        order["epk"] = dict(sorted(header["epk"].items()))
    need(header_text == json.dumps(order, separators=(",", ":")), f"resource: the header is written as {header_text}")
    opened = jose_jwe.JWE(algs=[header["alg"], "A256GCM"])
    opened.deserialize(text, jose_jwk.JWK.from_pyca(private))
    return opened.payload


def check_jose():
    for kind in RECIPIENTS:
        private, public = make_key(kind)
        opened = unseal(private, json.dumps(seal(public, b"round trip")))
        need(opened == b"round trip", f"jose: {kind}")
    ok(f"jose: what this program seals it opens ({', '.join(RECIPIENTS)})")


def check_opener(command):
    def run(private, sealed):
        given = json.dumps({"private_key_pem": private_pem(private), "jwe": sealed})
        return subprocess.run(
            shlex.split(command), input=given.encode(), capture_output=True, timeout=60, check=False
        )

    for kind in RECIPIENTS:
        private, public = make_key(kind)
        plaintext = secrets.token_bytes(1000)
        sealed = seal(public, plaintext)
        done = run(private, sealed)
        need(done.returncode == 0, f"opener: {kind}: exit {done.returncode}: {done.stderr[:300].decode(errors='replace')}")
        need(done.stdout == plaintext, f"opener: {kind}: another plaintext came out")
        altered = bytearray(unb64url(sealed["ciphertext"]))
        altered[0] ^= 1
        done = run(private, sealed | {"ciphertext": b64url(bytes(altered))})
        need(done.returncode != 0 and plaintext not in done.stdout, f"opener: {kind}: opened an altered resource")
        ok(f"opener: opens what this program seals to {kind}, and refuses it altered")


# --- the key broker as a guest sees it -------------------------------------------------------------


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


class Broker:
    """HTTP to one key broker: its certificate is the only root, no proxy, no redirect."""

    def __init__(self, url, ca):
        need(url.startswith("http://") or ca, "--ca is needed for an https key broker")
        self.base = url.rstrip("/")
        handlers = [urllib.request.ProxyHandler({}), NoRedirect()]
        if ca:
            handlers.append(urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=ca)))
        self.opener = urllib.request.build_opener(*handlers)

    def send(self, method, path, body=None, cookie=None, bearer=None):
        """Status, headers and body of the answer."""
        if isinstance(body, dict):
            body = json.dumps(body).encode()
        request = urllib.request.Request(f"{self.base}/kbs/v0/{path}", data=body, method=method)
        request.add_header("Content-Type", "application/json")
        if cookie:
            request.add_header("Cookie", f"{COOKIE}={cookie}")
        if bearer:
            request.add_header("Authorization", f"Bearer {bearer}")
        try:
            with self.opener.open(request, timeout=60) as answer:
                return answer.status, answer.headers, answer.read(LIMIT)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read(LIMIT)
        except OSError as error:
            raise Failed(f"key broker: {method} {path}: {error}") from None

    def expect(self, status, method, path, **more):
        found, headers, body = self.send(method, path, **more)
        need(found == status, f"key broker: {method} {path}: status {found}, not {status}: {body[:600]!r}")
        return headers, body

    def refused(self, method, path, kind, **more):
        """A refusal must be an error body of the given type."""
        status, _, body = self.send(method, path, **more)
        need(status >= 400, f"key broker: {method} {path}: was not refused")
        problem = json.loads(body)
        need(problem["type"].endswith(f"/{kind}"), f"key broker: {method} {path}: refused with {problem}")
        return problem["detail"]

    def auth(self):
        """Opens a session: nonce, hash name, session id."""
        offer = {"supported-hash-algorithms": ["sha256", "sha384", "sha512"]}
        headers, body = self.expect(
            200, "POST", "auth", body={"version": VERSION, "tee": "snp", "extra-params": offer}
        )
        cookie = headers["Set-Cookie"].split(";")[0]
        name, _, session = cookie.partition("=")
        need(name == COOKIE and len(session) == 32, f"auth: the cookie is {name}, {len(session)} characters")
        challenge = json.loads(body)
        need(len(base64.b64decode(challenge["nonce"], validate=True)) == 32, "auth: the nonce is not 32 bytes")
        extra = challenge["extra-params"] or {}
        return challenge["nonce"], extra.get("selected-hash-algorithm", "sha384").lower(), session


def check_token(token, public, raw):
    """The token as any reader of Trustee's tokens sees it."""
    header_part, payload_part, signature = token.split(".")
    header, payload = json.loads(unb64url(header_part)), json.loads(unb64url(payload_part))
    jwk = header["jwk"]
    need((header["alg"], jwk["kty"], jwk["crv"]) == ("ES256", "EC", "P-256"), f"token: the header is {header}")
    x, y = (int.from_bytes(unb64url(jwk[name]), "big") for name in ("x", "y"))
    signature = unb64url(signature)
    need(len(signature) == 64, f"token: the signature has {len(signature)} bytes")
    r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
    ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key().verify(
        utils.encode_dss_signature(r, s), f"{header_part}.{payload_part}".encode(), ec.ECDSA(hashes.SHA256())
    )
    cpu = payload["submods"]["cpu0"]
    evidence = cpu["ear.veraison.annotated-evidence"]
    need(evidence["runtime_data_claims"]["tee-pubkey"] == public, "token: it holds another key")
    need(evidence["report_data"] == raw[0x50:0x90].hex(), "token: it holds other report data")
    need(evidence["snp"]["measurement"] == raw[0x90:0xC0].hex(), "token: it holds another measurement")
    need(payload["iat"] <= time.time() + 60 and payload["exp"] > payload["iat"], "token: its times")
    ok(f"token: ES256 signature and claims, {cpu['ear.status']}, {payload['exp'] - payload['iat']} s")
    return cpu["ear.status"]


def matching_reference_values(raw):
    report = report_to_json(raw)
    policy, platform, tcb = report["policy"], report["plat_info"], report["reported_tcb"]
    return {
        "snp_launch_measurement": [bytes(report["measurement"]).hex()],
        "snp_bootloader": [tcb["bootloader"]], "snp_microcode": [tcb["microcode"]],
        "snp_snp_svn": [tcb["snp"]], "snp_tee_svn": [tcb["tee"]],
        "snp_smt_enabled": bool(platform & 1), "snp_tsme_enabled": bool(platform & 2),
        "snp_guest_abi_major": policy >> 8 & 0xFF, "snp_guest_abi_minor": policy & 0xFF,
        "snp_single_socket": bool(policy >> 20 & 1), "snp_smt_allowed": bool(policy >> 16 & 1),
    }  # fmt: skip


def prepare(broker, admin, raw):
    """As the administrator: reference values that match the report, and a random resource."""
    payload = base64.b64encode(json.dumps(matching_reference_values(raw)).encode()).decode()
    message = {"version": "0.1.0", "type": "sample", "payload": payload}
    for method, path, body in (
        ("POST", "reference-value", message), ("POST", "resource/independent/check/1", b"x"),
        ("DELETE", "resource/independent/check/1", None), ("GET", "resource-policy", None),
    ):  # fmt: skip
        broker.refused(method, path, "AdminAuthAccess", body=body)
    ok("admin: writes without a token are refused")
    broker.expect(200, "POST", "reference-value", body=message, bearer=admin)
    _, stored = broker.expect(200, "GET", "reference-value/snp_launch_measurement", bearer=admin)
    need(json.loads(stored) == [raw[0x90:0xC0].hex()], "admin: the reference value is not what was set")
    resource, plaintext = f"independent/check/{secrets.token_hex(8)}", secrets.token_bytes(3000)
    broker.expect(200, "POST", f"resource/{resource}", body=plaintext, bearer=admin)
    ok("admin: reference values and a resource are set")
    return resource, plaintext


def attest_body(nonce, public, evidence):
    return {
        "init-data": None,
        "runtime-data": {"nonce": nonce, "tee-pubkey": public},
        "tee-evidence": {"primary_evidence": evidence, "additional_evidence": ""},
    }


def check_guest(options, roots):
    broker = Broker(options.kbs, options.ca)
    detail = broker.refused("POST", "auth", "AttestationError", body={"version": "0.3.0", "tee": "snp", "extra-params": ""})
    need(VERSION in detail and "0.3.0" in detail, f"auth: the refusal of another version says {detail!r}")
    ok("auth: another protocol version is refused, both are named")

    private, public = make_key("P-256")
    nonce, hash_name, session = broker.auth()
    digest = binding_digest(nonce, public, "", hash_name)
    evidence = tsm_evidence(options.tsm_report_dir, digest.ljust(64, b"\0"))
    raw = check_report(evidence, roots)
    check_binding(raw, nonce, public, "", hash_name)

    admin = Path(options.admin_token_file).read_text().strip() if options.admin_token_file else None
    if admin:
        resource, plaintext = prepare(broker, admin, raw)
    else:
        resource, plaintext = options.resource, Path(options.expect).read_bytes()
    try:
        _, answer = broker.expect(200, "POST", "attest", body=attest_body(nonce, public, evidence), cookie=session)
        token = json.loads(answer)["token"]
        ok("attest: the evidence is accepted")
        need(check_token(token, public, raw) == "affirming", "token: not affirming")
        for how, credentials in (("session", {"cookie": session}), ("token", {"bearer": token})):
            _, answer = broker.expect(200, "GET", f"resource/{resource}", **credentials)
            need(unseal(private, answer.decode()) == plaintext, f"resource: with the {how}: another plaintext")
        ok("resource: opened with our own key, fetched with the session and with the token")

        body = attest_body(nonce, public, evidence)
        broker.refused("POST", "attest", "AttestationError", body=body, cookie=session)
        ok("attest: a used session is refused")
        fresh, _, other_session = broker.auth()
        body = attest_body(fresh, public, evidence)
        detail = broker.refused("POST", "attest", "AttestationError", body=body, cookie=other_session)
        ok(f"attest: evidence of another session is refused: {detail[:60]}...")
        head, payload, signature = token.split(".")
        claims = json.loads(unb64url(payload)) | {"exp": 1 << 33}
        forged = f"{head}.{b64url(json.dumps(claims).encode())}.{signature}"
        broker.refused("GET", f"resource/{resource}", "TokenVerifierError", bearer=forged)
        broker.refused("GET", f"resource/{resource}", "TokenNotFound")
        ok("resource: an altered token and no token are refused")
    finally:
        if admin:
            broker.expect(200, "DELETE", f"resource/{resource}", bearer=admin)


# --- the program -----------------------------------------------------------------------------------


def options():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--evidence", metavar="FILE", help="SNP evidence, JSON")
    parser.add_argument("--roots", metavar="FILE", help="trusted AMD or test roots, PEM")
    parser.add_argument("--nonce", metavar="TEXT", help="nonce the evidence is bound to")
    parser.add_argument("--tee-pubkey", metavar="FILE", help="key the evidence is bound to, a JWK")
    parser.add_argument("--additional", metavar="TEXT", default="", help="additional evidence, exact text")
    parser.add_argument("--hash", metavar="NAME", default="sha384", choices=["sha256", "sha384", "sha512"])
    parser.add_argument("--kbs", metavar="URL", help="key broker to play a guest against")
    parser.add_argument("--ca", metavar="FILE", help="certificate of the key broker, PEM: the only root")
    parser.add_argument("--tsm-report-dir", metavar="DIR", help="configfs-tsm report directory")
    parser.add_argument("--admin-token-file", metavar="FILE", help="admin token of the key broker")
    parser.add_argument("--resource", metavar="PATH", help="resource to fetch, repository/type/tag")
    parser.add_argument("--expect", metavar="FILE", help="what --resource must hold")
    parser.add_argument("--open-command", metavar="COMMAND", help="program that opens a JWE")
    given = parser.parse_args()
    if not (given.evidence or given.kbs or given.open_command):
        parser.error("nothing to check: give --evidence, --kbs or --open-command")
    if (given.evidence or given.kbs) and not given.roots:
        parser.error("--roots is needed to check evidence")
    if (given.nonce is None) != (given.tee_pubkey is None):
        parser.error("--nonce and --tee-pubkey go together")
    if given.kbs and not given.tsm_report_dir:
        parser.error("--kbs needs --tsm-report-dir")
    if given.kbs and not given.admin_token_file and not (given.resource and given.expect):
        parser.error("--kbs needs --admin-token-file, or --resource and --expect")
    return given


def run(given):
    check_canonical()
    check_jose()
    roots = load_certificates(Path(given.roots)) if given.roots else []
    if given.evidence:
        raw = check_report(json.loads(Path(given.evidence).read_text()), roots)
        if given.nonce is not None:
            key = json.loads(Path(given.tee_pubkey).read_text())
            check_binding(raw, given.nonce, key, given.additional, given.hash)
    if given.kbs:
        check_guest(given, roots)
    if given.open_command:
        check_opener(given.open_command)


def main():
    # AMD gives its chip certificates the serial number 0, which the library warns about.
    warnings.filterwarnings("ignore", "Parsed a serial number", CryptographyDeprecationWarning)
    try:
        run(options())
    except Failed as failure:
        print(f"failed: {failure}", file=sys.stderr)
        return 1
    except Exception as failure:  # whatever a library refuses is a failed check, with its name
        print(f"failed: {type(failure).__name__}: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
