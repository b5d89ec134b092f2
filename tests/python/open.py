"""The processor's side: opens cards that were sealed to its key, with nothing of ours at all.

    open.py KEY MERCHANT RECIPIENT

KEY is a private key (PKCS#8 in PEM). Reads sealed cards from standard input, a line each, and writes `number,expiry`.
"""

import hashlib
import json
import sys

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

import sealed

with open(sys.argv[1], "rb") as opened:
    key = load_pem_private_key(opened.read(), None)
merchant, recipient = (name.encode() for name in sys.argv[2:])
public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def named(name):
    return len(name).to_bytes(2, "big") + name


info = b"pv1/seal-out\0" + named(merchant) + named(recipient)
for text in sys.stdin:
    key_id, enc, ciphertext = sealed.parts(text)
    assert key_id == hashlib.sha256(public).hexdigest()[:16], "sealed to another key"
    card = json.loads(sealed.suite().decrypt(enc + ciphertext, key, info=info))
    assert card["v"] == 1 and set(card) <= {"v", "pan", "exp"}, "not as the format says"
    print(f"{card['pan']},{card.get('exp', '')}")
