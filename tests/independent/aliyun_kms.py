#!/usr/bin/env python3
"""A stand-in for Alibaba Cloud KMS: the OpenAPI of a region, an instance behind TLS, and the metadata service of a machine.

Written from the public documentation, on the Python package `cryptography`; it shares no code with the guest components. It
recomputes each request's signature (HMAC-SHA1 of the RPC style, RSA with SHA-256 of an instance), refuses nonces that were seen
and clocks that are wrong, and wraps keys with AES-GCM. Listens on ports of its own choice and prints one line of JSON: both
URLs, the instance's authority, credentials, and a data key wrapped by both.

    aliyun_kms.py
"""

import base64
import datetime
import email.utils
import hashlib
import hmac
import http.server
import ipaddress
import json
import os
import ssl
import sys
import tempfile
import threading
import urllib.parse

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import pkcs12

DATA_KEY = bytes(range(32))
KEY_ID = "key-hzz630494463ejqjx1234"
KEK = AESGCM(bytes([9] * 32))
SECRETS = {"app/db": {"v1": ("first p\u00e4ss", ["ACSPrevious"]), "v2": ("second p\u00e4ss", ["ACSCurrent"])}}
# id: (secret, security token, whether it may do anything)
ACCESS_KEYS = {
    "LTAI5guest": ("secret/of+guest=", None, True),
    "STS.temporary": ("secret-of-sts", "token+/of=sts", True),
    "STS.role": ("secret-of-role", "token-of-role", True),
    "LTAI5nobody": ("secret-of-nobody", None, False),
}
CLIENT_KEY = rsa.generate_private_key(65537, 2048)
CLIENT_KEY_ID = "KAAP.1d3a0b6c"
PASSWORD = "a pass:w\u00f6rd"
NONCES = set()


class Refused(Exception):
    def __init__(self, status, code):
        self.status, self.code = status, code


def encode(text):
    return urllib.parse.quote(text, safe="-_.~")


def secret_value(name, version, stage):
    versions = SECRETS.get(name)
    if versions is None:
        raise Refused(404, "Forbidden.ResourceNotFound")
    for found, (data, stages) in versions.items():
        if (not version or version == found) and (stage in stages if stage else version or "ACSCurrent" in stages):
            return found, data, stages
    raise Refused(404, "Forbidden.ResourceNotFound")


def known(key_id):
    if key_id not in (KEY_ID, "alias/kek"):
        raise Refused(404, "Forbidden.KeyNotFound")


def unwrap(iv, blob, context):
    try:
        return KEK.decrypt(iv, blob, context)
    except Exception:
        raise Refused(400, "InvalidCiphertext")


def rpc(method, query, body):
    parameters = dict(urllib.parse.parse_qsl(query, keep_blank_values=True, strict_parsing=True))
    form = dict(urllib.parse.parse_qsl(body, keep_blank_values=True, strict_parsing=True)) if body else {}
    if set(form) & set(parameters) or "SecretData" in query:
        raise Refused(400, "InvalidParameter")
    parameters.update(form)
    signature = parameters.pop("Signature")
    canonical = "&".join(f"{encode(name)}={encode(parameters[name])}" for name in sorted(parameters))
    to_sign = f"{method}&{encode('/')}&{encode(canonical)}"
    secret, token, allowed = ACCESS_KEYS.get(parameters["AccessKeyId"]) or (None, None, False)
    if secret is None:
        raise Refused(404, "InvalidAccessKeyId")
    expected = base64.b64encode(hmac.new(f"{secret}&".encode(), to_sign.encode(), hashlib.sha1).digest()).decode()
    if signature != expected:
        raise Refused(400, "SignatureDoesNotMatch")
    if parameters.get("SecurityToken") != token:
        raise Refused(400, "InvalidSecurityToken.Mismatch")
    constants = {"SignatureMethod": "HMAC-SHA1", "SignatureVersion": "1.0", "Version": "2016-01-20", "Format": "json"}
    if any(parameters.get(name) != value for name, value in constants.items()):
        raise Refused(400, "InvalidParameter")
    time = datetime.datetime.strptime(parameters["Timestamp"], "%Y-%m-%dT%H:%M:%SZ")
    if abs((datetime.datetime.utcnow() - time).total_seconds()) > 900:
        raise Refused(400, "InvalidTimeStamp.Expired")
    if parameters["SignatureNonce"] in NONCES:
        raise Refused(400, "SignatureNonceUsed")
    NONCES.add(parameters["SignatureNonce"])
    if not allowed:
        raise Refused(403, "Forbidden.NoPermission")
    context = json.dumps(json.loads(parameters.get("EncryptionContext", "{}")), sort_keys=True).encode()
    action = parameters["Action"]
    if action == "GetSecretValue":
        version, data, stages = secret_value(
            parameters["SecretName"], parameters.get("VersionId"), parameters.get("VersionStage")
        )
        return {
            "SecretName": parameters["SecretName"],
            "VersionId": version,
            "SecretData": data,
            "SecretDataType": "text",
            "VersionStages": {"VersionStage": stages},
            "RequestId": "1",
        }
    if action == "Encrypt":
        known(parameters["KeyId"])
        return {"KeyId": KEY_ID, "CiphertextBlob": region_blob(base64.b64decode(parameters["Plaintext"]), context)}
    if action == "Decrypt":
        blob = base64.b64decode(parameters["CiphertextBlob"].removeprefix("kms:"))
        plaintext = unwrap(blob[:12], blob[12:], context)
        return {"KeyId": KEY_ID, "Plaintext": base64.b64encode(plaintext).decode(), "RequestId": "1"}
    raise Refused(400, "InvalidParameter")


def region_blob(plaintext, context):
    iv = os.urandom(12)
    return "kms:" + base64.b64encode(iv + KEK.encrypt(iv, plaintext, context)).decode()


def read_fields(message):
    """Fields of a message of Protocol Buffers by number; only those of the wire types 0 and 2."""
    fields, place = {}, 0

    def varint():
        nonlocal place
        value, shift = 0, 0
        while True:
            byte = message[place]
            place += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while place < len(message):
        tag = varint()
        if tag & 7 == 0:
            fields[tag >> 3] = varint()
        else:
            assert tag & 7 == 2
            length = varint()
            fields[tag >> 3] = message[place : place + length]
            place += length
    return fields


def written(fields):
    def varint(value):
        out = bytearray()
        while value >= 0x80:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        return bytes(out) + bytes([value])

    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def instance(headers, body):
    digest = hashlib.sha256(body).hexdigest().upper()
    if headers["Content-Sha256"] != digest:
        raise Refused(400, "InvalidParam")
    own = sorted((name.lower(), value) for name, value in headers.items() if name.lower().startswith("x-kms-"))
    lines = "".join(f"{name}:{value}\n" for name, value in own)
    to_sign = f"POST\n{digest}\n{headers['Content-Type']}\n{headers['Date']}\n{lines}/"
    own = dict(own)
    if own["x-kms-apiversion"] != "dkms-gcs-0.2" or own["x-kms-signaturemethod"] != "RSA_PKCS1_SHA_256":
        raise Refused(400, "InvalidApiVersion")
    if own["x-kms-acccesskeyid"] != CLIENT_KEY_ID or headers["Content-Type"] != "application/x-protobuf":
        raise Refused(403, "Forbidden.ClientKeyNotFound")
    signature = base64.b64decode(headers["Authorization"].removeprefix("Bearer "))
    try:
        CLIENT_KEY.public_key().verify(signature, to_sign.encode(), padding.PKCS1v15(), hashes.SHA256())
    except Exception:
        raise Refused(403, "Forbidden.SignatureNotMatch")
    date = email.utils.parsedate_to_datetime(headers["Date"])
    if abs((datetime.datetime.now(datetime.timezone.utc) - date).total_seconds()) > 900:
        raise Refused(400, "RequestTimeTooSkewed")
    fields = read_fields(body)
    text = {number: value.decode() for number, value in fields.items() if number != 1 and isinstance(value, bytes)} \
        if own["x-kms-apiname"] == "GetSecretValue" else {}
    if own["x-kms-apiname"] == "Encrypt":
        known(fields[1].decode())
        assert fields[3] == b"AES_GCM" and not set(fields) - {1, 2, 3}
        iv = os.urandom(12)
        return written([(1, KEY_ID), (2, KEK.encrypt(iv, fields[2], None)), (3, iv), (4, "request"), (5, "AES_GCM")])
    if own["x-kms-apiname"] == "Decrypt":
        known(fields[2].decode())
        assert fields[3] == b"AES_GCM" and not set(fields) - {1, 2, 3, 5}
        return written([(1, KEY_ID), (2, unwrap(fields[5], fields[1], None)), (3, "request"), (4, "AES_GCM")])
    if own["x-kms-apiname"] == "GetSecretValue":
        assert fields[4] == 1
        name = fields[1].decode()
        version, data, stages = secret_value(name, text.get(3), text.get(2))
        answer = [(1, name), (2, "Generic"), (3, data), (4, "text")] + [(5, stage) for stage in stages]
        return written(answer + [(6, version), (8, "request"), (11, "{}")])
    raise Refused(400, "InvalidApiName")


class Server(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body, kind):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path != "/latest/meta-data/ram/security-credentials/guest-role":
            return self.answer(404, b"<html>", "text/html")
        secret, token, _ = ACCESS_KEYS["STS.role"]
        key = {"AccessKeyId": "STS.role", "AccessKeySecret": secret, "SecurityToken": token, "Code": "Success"}
        self.answer(200, json.dumps(key).encode(), "application/json")

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        is_instance = isinstance(self.connection, ssl.SSLSocket)
        path, _, query = self.path.partition("?")
        try:
            if path != "/":
                raise Refused(404, "InvalidAction.NotFound")
            if is_instance:
                return self.answer(200, instance(self.headers, body), "application/x-protobuf")
            action = self.headers["x-acs-action"]
            if f"Action={action}&" not in query or self.headers["x-acs-version"] != "2016-01-20":
                raise Refused(400, "InvalidParameter")
            self.answer(200, json.dumps(rpc("POST", query, body.decode())).encode(), "application/json")
        except Refused as refused:
            if is_instance:
                body = written([(1, refused.status), (2, refused.code), (3, "told"), (4, "request")])
                return self.answer(refused.status, body, "application/x-protobuf")
            body = json.dumps({"Code": refused.code, "Message": "told", "RequestId": "1", "HostId": "kms"})
            self.answer(refused.status, body.encode(), "application/json")


def certificates():
    """An authority, and the certificate and key of 127.0.0.1 that it signed, PEM."""
    now = datetime.datetime.now(datetime.timezone.utc)
    authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def certificate(name, public, is_authority):
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "PrivateKmsCA")]))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), True)
            .add_extension(address, False)
            .sign(authority, hashes.SHA256())
            .public_bytes(serialization.Encoding.PEM)
        )

    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    root = certificate("PrivateKmsCA", authority.public_key(), True)
    return root, certificate("instance", key.public_key(), False), key_pem


def client_key():
    # The older encryption, as consoles give it.
    encryption = (
        serialization.PrivateFormat.PKCS12.encryption_builder()
        .kdf_rounds(2048)
        .key_cert_algorithm(pkcs12.PBES.PBESv1SHA1And3KeyTripleDESCBC)
        .hmac_hash(hashes.SHA1())
        .build(PASSWORD.encode())
    )
    container = pkcs12.serialize_key_and_certificates(b"client", CLIENT_KEY, None, None, encryption)
    return json.dumps({"KeyId": CLIENT_KEY_ID, "PrivateKeyData": base64.b64encode(container).decode()})


def main():
    authority, certificate, key = certificates()
    region = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    own = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        for name, text in [("cert", certificate), ("key", key)]:
            with open(f"{folder}/{name}", "wb") as file:
                file.write(text)
        context.load_cert_chain(f"{folder}/cert", f"{folder}/key")
    own.socket = context.wrap_socket(own.socket, server_side=True)
    threading.Thread(target=own.serve_forever, daemon=True).start()
    iv = os.urandom(12)
    announced = {
        "region_url": f"http://127.0.0.1:{region.server_address[1]}",
        "instance_url": f"https://127.0.0.1:{own.server_address[1]}",
        "authority": authority.decode(),
        "client_key": client_key(),
        "client_key_id": CLIENT_KEY_ID,
        "password": PASSWORD,
        "key_id": KEY_ID,
        "data_key": DATA_KEY.hex(),
        "region_wrapped": base64.b64encode(region_blob(DATA_KEY, b'{"team": "a"}').encode()).decode(),
        "instance_wrapped": base64.b64encode(KEK.encrypt(iv, DATA_KEY, None)).decode(),
        "instance_iv": base64.b64encode(iv).decode(),
        "sts": ":".join(["STS.temporary", *ACCESS_KEYS["STS.temporary"][:2]]),
        "access_key": {"access_key_id": "LTAI5guest", "access_key_secret": ACCESS_KEYS["LTAI5guest"][0]},
        "nobody": {"access_key_id": "LTAI5nobody", "access_key_secret": ACCESS_KEYS["LTAI5nobody"][0]},
        "role": {"ecs_ram_role_name": "guest-role", "region_id": "cn-hangzhou"},
    }
    print(json.dumps(announced), flush=True)
    region.serve_forever()


if __name__ == "__main__":
    sys.exit(main())
