#!/usr/bin/env python3
"""An independent maker and reader of sealed secrets and wrapped image keys.

Shares no code with the guest components: written from RFC 7515, 7517 and 7518 and the public description of the
sealed-secret and key-provider formats, on the Python package `cryptography`. The keys are fixed, so that every run makes
the same documents but for their signatures.

    check_sealed.py jwk                        the public signing key as a JWK
    check_sealed.py private-jwk                the signing key as a JWK
    check_sealed.py vault KID NAME             a sealed secret that refers to NAME, without a line feed
    check_sealed.py vault-of KID PROVIDER NAME SETTINGS ANNOTATIONS
                                               the same of another provider; the last two are JSON
    check_sealed.py envelope KID PROVIDER KEY_ID WRAPPED DATA_KEY_HEX SETTINGS ANNOTATIONS TEXT
                                               a sealed TEXT under a data key that the provider unwraps from WRAPPED (base64)
    check_sealed.py oaep PEM HASH HEX          HEX encrypted to an RSA public key by OAEP with SHA-1 or SHA-256, in base64
    check_sealed.py packet-of PROVIDER KID WRAPPED SETTINGS ANNOTATIONS
                                               a key-provider request whose WRAPPED (base64) the provider unwraps
    check_sealed.py packet KEK_HEX KID TEXT    a key-provider request to unwrap TEXT, wrapped under KEK_HEX
    check_sealed.py verify FILE [JWK_FILE]     verifies the sealed secret in FILE, with the key above or the one in JWK_FILE,
                                               and prints its payload
    check_sealed.py check-jwk FILE             checks that the private JWK in FILE is one key with all its members
    check_sealed.py open-packet KEK_HEX JSON   opens the annotation packet JSON with KEK_HEX and prints what is inside
"""

import base64
import json
import sys
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY = ec.derive_private_key(0x1F2E3D4C5B6A79880123456789ABCDEF0FEDCBA9876543211122334455667788, ec.SECP256R1())
IV = bytes(range(12))


def b64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def from_b64url(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def jwk(private):
    numbers = KEY.private_numbers()
    members = {
        "kty": "EC",
        "crv": "P-256",
        "alg": "ES256",
        "use": "sig",
        "kid": "independent",
        "x": b64url(numbers.public_numbers.x.to_bytes(32, "big")),
        "y": b64url(numbers.public_numbers.y.to_bytes(32, "big")),
    }
    if private:
        members["d"] = b64url(numbers.private_value.to_bytes(32, "big"))
    return json.dumps(members)


def sign(message):
    r, s = decode_dss_signature(KEY.sign(message, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def sealed(kid, payload):
    signed = ".".join(b64url(json.dumps(part).encode()) for part in ({"alg": "ES256", "kid": kid}, payload))
    return f"sealed.{signed}.{b64url(sign(signed.encode()))}"


def vault(kid, name):
    return vault_of(kid, "kbs", name, "{}", "{}")


def vault_of(kid, provider, name, settings, annotations):
    payload = {
        "version": "0.1.0",
        "type": "vault",
        "provider": provider,
        "name": name,
        "provider_settings": json.loads(settings),
        "annotations": json.loads(annotations),
    }
    return sealed(kid, payload)


def envelope(kid, provider, key_id, wrapped, data_key, settings, annotations, text):
    content = AESGCM(bytes.fromhex(data_key)).encrypt(IV, text.encode(), None)
    payload = {
        "version": "0.1.0",
        "type": "envelope",
        "provider": provider,
        "key_id": key_id,
        "encrypted_key": wrapped,
        "encrypted_data": base64.b64encode(content).decode(),
        "wrap_type": "A256GCM",
        "iv": base64.b64encode(IV).decode(),
        "provider_settings": json.loads(settings),
        "annotations": json.loads(annotations),
    }
    return sealed(kid, payload)


def oaep(pem, name, data):
    algorithm = {"SHA-1": hashes.SHA1, "SHA-256": hashes.SHA256}[name]
    scheme = padding.OAEP(mgf=padding.MGF1(algorithm()), algorithm=algorithm(), label=None)
    key = serialization.load_pem_public_key(Path(pem).read_bytes())
    return base64.b64encode(key.encrypt(bytes.fromhex(data), scheme)).decode()


def packet(kek, kid, text):
    wrapped = AESGCM(bytes.fromhex(kek)).encrypt(IV, text.encode(), None)
    annotation = {
        "kid": kid,
        "wrapped_data": base64.b64encode(wrapped).decode(),
        "iv": base64.b64encode(IV).decode(),
        "wrap_type": "A256GCM",
    }
    return unwrap_request(annotation)


def packet_of(provider, kid, wrapped, settings, annotations):
    annotation = {
        "version": "0.1.0",
        "kid": kid,
        "wrapped_data": wrapped,
        "provider": provider,
        "provider_settings": json.loads(settings),
        "annotations": json.loads(annotations),
    }
    return unwrap_request(annotation)


def unwrap_request(annotation):
    return json.dumps(
        {
            "op": "keyunwrap",
            "keywrapparams": {"ec": None, "optsdata": None},
            "keyunwrapparams": {
                "dc": {"Parameters": {"attestation-agent": [base64.b64encode(b"attestation-agent").decode()]}},
                "annotation": base64.b64encode(json.dumps(annotation).encode()).decode(),
            },
        }
    )


def open_packet(kek, text):
    packet = json.loads(text)
    assert packet["kid"].startswith("kbs:///"), packet["kid"]
    kek, iv = bytes.fromhex(kek), base64.b64decode(packet["iv"])
    wrapped = base64.b64decode(packet["wrapped_data"])
    if packet["wrap_type"] == "A256GCM":
        assert len(iv) == 12
        return AESGCM(kek).decrypt(iv, wrapped, None).decode()
    assert packet["wrap_type"] == "A256CTR" and len(iv) == 16
    return Cipher(algorithms.AES(kek), modes.CTR(iv)).decryptor().update(wrapped).decode()


def number(jwk, member):
    data = from_b64url(jwk[member])
    assert len(data) == 32, member
    return int.from_bytes(data, "big")


def public_key(file):
    jwk = json.loads(Path(file).read_text())
    assert (jwk["kty"], jwk["crv"], jwk["alg"], jwk["use"]) == ("EC", "P-256", "ES256", "sig")
    return ec.EllipticCurvePublicNumbers(number(jwk, "x"), number(jwk, "y"), ec.SECP256R1()).public_key()


def check_jwk(file):
    jwk = json.loads(Path(file).read_text())
    assert sorted(jwk) == ["alg", "crv", "d", "kid", "kty", "use", "x", "y"], sorted(jwk)
    private = ec.derive_private_key(number(jwk, "d"), ec.SECP256R1())
    assert private.public_key().public_numbers() == public_key(file).public_numbers()
    return jwk["kid"]


def verify(file, jwk_file=None):
    prefix, header, payload, signature = Path(file).read_text().strip().split(".")
    assert prefix == "sealed"
    assert json.loads(from_b64url(header))["alg"] == "ES256"
    signature = from_b64url(signature)
    assert len(signature) == 64
    dss = encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
    key = public_key(jwk_file) if jwk_file else KEY.public_key()
    key.verify(dss, f"{header}.{payload}".encode(), ec.ECDSA(hashes.SHA256()))
    return from_b64url(payload).decode()


def main():
    command, *arguments = sys.argv[1:]
    commands = {
        "jwk": lambda: jwk(False),
        "private-jwk": lambda: jwk(True),
        "vault": vault,
        "vault-of": vault_of,
        "envelope": envelope,
        "oaep": oaep,
        "packet-of": packet_of,
        "packet": packet,
        "verify": verify,
        "check-jwk": check_jwk,
        "open-packet": open_packet,
    }
    sys.stdout.write(commands[command](*arguments))


if __name__ == "__main__":
    main()
