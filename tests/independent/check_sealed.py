#!/usr/bin/env python3
"""An independent maker and reader of sealed secrets and wrapped image keys.

Shares no code with the guest components: written from RFC 7515, 7517 and 7518 and the public description of the
sealed-secret and key-provider formats, on the Python package `cryptography`. The keys are fixed, so that every run makes
the same documents but for their signatures.

    check_sealed.py jwk                        the public signing key as a JWK
    check_sealed.py private-jwk                the signing key as a JWK
    check_sealed.py vault KID NAME             a sealed secret that refers to NAME, without a line feed
    check_sealed.py packet KEK_HEX KID TEXT    a key-provider request to unwrap TEXT, wrapped under KEK_HEX
    check_sealed.py verify FILE                verifies the sealed secret in FILE and prints its payload
"""

import base64
import json
import sys
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
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


def vault(kid, name):
    payload = {
        "version": "0.1.0",
        "type": "vault",
        "provider": "kbs",
        "name": name,
        "provider_settings": {},
        "annotations": {},
    }
    signed = ".".join(b64url(json.dumps(part).encode()) for part in ({"alg": "ES256", "kid": kid}, payload))
    return f"sealed.{signed}.{b64url(sign(signed.encode()))}"


def packet(kek, kid, text):
    wrapped = AESGCM(bytes.fromhex(kek)).encrypt(IV, text.encode(), None)
    annotation = {
        "kid": kid,
        "wrapped_data": base64.b64encode(wrapped).decode(),
        "iv": base64.b64encode(IV).decode(),
        "wrap_type": "A256GCM",
    }
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


def verify(file):
    prefix, header, payload, signature = Path(file).read_text().strip().split(".")
    assert prefix == "sealed"
    assert json.loads(from_b64url(header))["alg"] == "ES256"
    signature = from_b64url(signature)
    assert len(signature) == 64
    dss = encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
    KEY.public_key().verify(dss, f"{header}.{payload}".encode(), ec.ECDSA(hashes.SHA256()))
    return from_b64url(payload).decode()


def main():
    command, *arguments = sys.argv[1:]
    commands = {
        "jwk": lambda: jwk(False),
        "private-jwk": lambda: jwk(True),
        "vault": vault,
        "packet": packet,
        "verify": verify,
    }
    sys.stdout.write(commands[command](*arguments))


if __name__ == "__main__":
    main()
