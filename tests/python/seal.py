"""The shopper's side: fetches the vault's public key and seals cards to it, with nothing of ours but the .proto files.

    seal.py STUBS FOLDER ADDRESS PRINCIPAL

Reads cards from standard input, `number,expiry` a line, up to an empty one. Writes each sealed, as a line of JSON, then
an empty line; then it stays until standard input ends, so that its memory can be looked at.
"""

import json
import sys

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

import sealed

stubs, folder, address, principal = sys.argv[1:]
vault = sealed.service(stubs, folder, principal, address)

from vault.v1 import vault_pb2  # noqa: E402

key = vault.GetSealingKey(vault_pb2.GetSealingKeyRequest(merchant="vendor", channel="web")).key
assert key.suite == "0020-0001-0002" and len(key.public_key) == 32, key.suite
to, suite = X25519PublicKey.from_public_bytes(key.public_key), sealed.suite()

kept = []  # as a careless program would
for text in iter(sys.stdin.readline, "\n"):
    number, expiry = text.strip().split(",")
    kept.append(number)
    card = {"v": 1, "pan": number}
    if expiry:
        card["exp"] = expiry
    # Spaces behind it hide how long the number is.
    made = suite.encrypt(json.dumps(card).ljust(128).encode(), to, info=key.info)
    print(sealed.line(key.key_id, made[:32], made[32:]))
print(flush=True)
sys.stdin.read()
