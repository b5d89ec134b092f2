"""What the three programs of the sealed card's way share: reaching a vault, and sealed cards as lines of JSON."""

import base64
import json
import sys


def service(stubs, folder, name, address):
    """The vault's data plane, asked with `<name>.pem` and `<name>.key`."""
    sys.path.insert(0, stubs)
    import grpc
    from vault.v1 import vault_pb2_grpc

    def read(file):
        with open(f"{folder}/{file}", "rb") as opened:
            return opened.read()

    papers = grpc.ssl_channel_credentials(read("servers.pem"), read(f"{name}.key"), read(f"{name}.pem"))
    # The certificate's name, whatever the address.
    channel = grpc.secure_channel(address, papers, [("grpc.ssl_target_name_override", "localhost")])
    return vault_pb2_grpc.VaultStub(channel)


def line(key_id, enc, ciphertext):
    """A sealed card as a line, as `vaultctl token tokenize --sealed` reads it too."""
    text = {name: base64.b64encode(raw).decode() for name, raw in (("enc", enc), ("ciphertext", ciphertext))}
    return json.dumps({"key_id": key_id, **text})


def parts(text):
    """The key's name, the encapsulated key and the ciphertext of such a line."""
    told = json.loads(text)
    return told["key_id"], base64.b64decode(told["enc"]), base64.b64decode(told["ciphertext"])


def suite():
    """HPKE with the numbers 0020-0001-0002 (RFC 9180, section 7)."""
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
