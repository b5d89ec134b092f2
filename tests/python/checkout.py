"""The shop's side: passes on cards that it cannot read, in and out.

    checkout.py STUBS FOLDER ADDRESS PRINCIPAL RECIPIENT KEPT

Reads sealed cards from standard input, a line each, up to an empty one. Has them tokenized by batch, by stream and by
single call in turn, asks for each card sealed to RECIPIENT, by the same ways in another order, and keeps all that it
was given in the folder KEPT. Writes the cards for the recipient, in the order in which they came, then an empty line; then
it stays until standard input ends, so that its memory can be looked at.
"""

import sys
import uuid

import sealed

stubs, folder, address, principal, recipient, kept = sys.argv[1:]
vault = sealed.service(stubs, folder, principal, address)

from vault.v1 import types_pb2, vault_pb2  # noqa: E402


def header():
    return types_pb2.RequestHeader(
        merchant="vendor",
        channel="web",
        request_id=str(uuid.uuid4()),
        purpose=types_pb2.PURPOSE_AUTHORIZATION,
        initiator=types_pb2.INITIATOR_CARDHOLDER,
    )


def ask(way, items, single, batch, stream, one, many, message):
    """The results of all items, asked for one way."""
    if way == "single":
        return [single(one(header=header(), item=item)).result for item in items]
    if way == "batch":
        outcomes = batch(many(header=header(), items=items)).outcomes
    else:
        outcomes = list(stream(message(header=header(), item=item) for item in items))
        places = {outcome.reference: outcome for outcome in outcomes}
        outcomes = [places[item.reference] for item in items]
    for outcome in outcomes:
        assert outcome.WhichOneof("outcome") == "result", outcome.error
    return [outcome.result for outcome in outcomes]


def tokenize(way, items):
    return ask(
        way, items, vault.Tokenize, vault.BatchTokenize, vault.StreamTokenize,
        vault_pb2.TokenizeRequest, vault_pb2.BatchTokenizeRequest, vault_pb2.StreamTokenizeRequest,
    )  # fmt: skip


def detokenize(way, items):
    return ask(
        way, items, vault.Detokenize, vault.BatchDetokenize, vault.StreamDetokenize,
        vault_pb2.DetokenizeRequest, vault_pb2.BatchDetokenizeRequest, vault_pb2.StreamDetokenizeRequest,
    )  # fmt: skip


cards = []
for place, text in enumerate(iter(sys.stdin.readline, "\n")):
    key_id, enc, ciphertext = sealed.parts(text)
    card = types_pb2.SealedCard(key_id=key_id, enc=enc, ciphertext=ciphertext)
    cards.append(vault_pb2.TokenizeItem(reference=str(place), sealed=card))

WAYS = ["batch", "stream", "single"]
given = [None] * len(cards)
for turn, way in enumerate(WAYS):
    mine = list(range(turn, len(cards), len(WAYS)))
    tokens = [result.token for result in tokenize(way, [cards[place] for place in mine])]
    with open(f"{kept}/tokens-{way}", "w") as opened:
        opened.write("\n".join(tokens))
    form = types_pb2.REVEAL_FORM_SEALED_TO_RECIPIENT
    wanted = [
        vault_pb2.DetokenizeItem(reference=str(place), token=token, form=form, recipient=recipient)
        for place, token in zip(mine, tokens)
    ]
    for place, result in zip(mine, detokenize(WAYS[(turn + 1) % len(WAYS)], wanted)):
        assert result.WhichOneof("reveal") == "sealed_to_recipient"
        card = result.sealed_to_recipient
        assert len(card.ciphertext) == 144, "its length tells of the card"
        given[place] = sealed.line(card.key_id, card.enc, card.ciphertext)
with open(f"{kept}/sealed", "w") as opened:
    opened.write("\n".join(given))
print("\n".join(given))
print(flush=True)
sys.stdin.read()
