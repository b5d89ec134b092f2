"""A payment service that was written in another language, from the .proto files alone.

It stores 10,000 distinct cards of every length from 12 to 19 digits, each in every keep that its length allows: by
batch, by stream and by single call. It reads all of them back the same three ways, and judges every answer by its own
arithmetic: nothing here comes from the vault's code but the stubs that grpcio-tools makes of proto/.

    client.py STUBS FOLDER ADDRESS

STUBS is where the stubs are, FOLDER has `servers.pem` and for each merchant `<merchant>.pem` and `<merchant>.key`,
ADDRESS is `host:port`. Prints one JSON object of what it did. Ends with a traceback at the first thing that is not right.
"""

import asyncio
import json
import random
import sys
import uuid

sys.path.insert(0, sys.argv[1])

import grpc  # noqa: E402
from vault.v1 import types_pb2, vault_pb2, vault_pb2_grpc  # noqa: E402

CARDS_OF_A_LENGTH = 1_250
LENGTHS = range(12, 20)
BATCH = 1_000
IN_FLIGHT = 64

# PCI SSC FAQ 1091, as design and docs have it: which first and last digits may stay readable at which length.
KEEPS = {length: [(0, 0), (0, 4), (6, 0)] for length in LENGTHS}
for length in range(15, 20):
    KEEPS[length] += [(6, 4), (8, 0)]
KEEPS[16] += [(8, 4)]

SCHEMES = ["random", "random", "mixed", "random", "opaque"]
WAYS = ["batch", "batch", "batch", "stream", "single"]
BASE62 = frozenset("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


def luhn(digits):
    """The sum of ISO/IEC 7812-1 annex B, modulo ten: nought for a card number."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit)
        if place % 2:
            value = value * 2 - 9 if value > 4 else value * 2
        total += value
    return total % 10


def cards():
    """Distinct card numbers, as many of each length, the same in every run."""
    dice = random.Random(7812)
    for length in LENGTHS:
        seen = set()
        while len(seen) < CARDS_OF_A_LENGTH:
            body = "".join(dice.choice("0123456789") for _ in range(length - 1))
            check = (10 - luhn(body + "0")) % 10
            seen.add(f"{body}{check}")
        # A set's order differs from run to run; the cards shall not.
        yield from sorted(seen)


class Wish:
    """One card that is to be kept in one way, and what became of it."""

    def __init__(self, number, pan, keep):
        self.number, self.pan, self.keep = number, pan, keep
        self.scheme = SCHEMES[number % len(SCHEMES)]
        self.stored_by = WAYS[number // len(SCHEMES) % len(WAYS)]
        # Other ways than it was stored by, so that each way meets what each other one wrote.
        self.read_by = WAYS[(number // len(SCHEMES) + 2) % len(WAYS)]
        self.expiry = types_pb2.CardExpiry(month=number % 12 + 1, year=2000 + number % 100)
        self.token = None

    def judge(self, result):
        """Takes an answer to a tokenize, if it keeps what was promised."""
        token, (first, last), pan = result.token, self.keep, self.pan
        assert luhn(pan) == 0 and result.format == self.scheme
        if self.scheme == "opaque":
            assert len(token) == 26 and token.startswith("tok_") and BASE62.issuperset(token[4:])
        else:
            assert len(token) == len(pan), f"{len(token)} characters for {len(pan)} digits"
            assert token[:first] == pan[:first] and token[len(pan) - last :] == pan[len(pan) - last :]
            hidden = token[first : len(pan) - last]
            if self.scheme == "random":
                assert token.isascii() and token.isdigit() and luhn(token) != 0
            else:
                assert all(c in "0123456789abcdefghijklmnopqrstuvwxyz" for c in hidden)
                assert any(c.isalpha() for c in hidden)
        mask = pan[:first] + "*" * (len(pan) - first - last) + pan[len(pan) - last :]
        assert result.card.masked_pan == mask, "the mask shows something else"
        assert result.card.last_four == (pan[-4:] if last else "")
        assert result.card.card_expiry == self.expiry
        assert result.novelty == vault_pb2.NOVELTY_CREATED
        self.token = token

    def compare(self, result):
        """Takes an answer to a detokenize: the card, exactly."""
        assert result.WhichOneof("reveal") == "plain"
        assert result.plain.pan == self.pan.encode(), "another card came back"
        assert result.plain.card_expiry == self.expiry

    def item(self):
        plain = types_pb2.PlainCard(pan=self.pan.encode(), card_expiry=self.expiry)
        return vault_pb2.TokenizeItem(reference=str(self.number), plain=plain, format=self.scheme)

    def question(self):
        form = types_pb2.REVEAL_FORM_PLAIN
        return vault_pb2.DetokenizeItem(reference=str(self.number), token=self.token, form=form)


class Receipts:
    """Every answer has a receipt of its own, and every receipt a signed head."""

    def __init__(self):
        self.leaves, self.heads = set(), set()

    def note(self, receipt, heads=None):
        assert len(receipt.leaf_hash) == 32 and receipt.leaf_index < receipt.tree_size
        leaf = (receipt.log, receipt.leaf_index)
        assert leaf not in self.leaves, "two answers have one receipt"
        self.leaves.add(leaf)
        head = (receipt.log, receipt.tree_size)
        if heads is None:
            assert (receipt.checkpoint.log, receipt.checkpoint.tree_size) == head
            assert receipt.checkpoint.note.startswith(f"{receipt.log}\n{receipt.tree_size}\n")
        else:
            assert head in {(h.log, h.tree_size) for h in heads}, "a receipt without its signed head"
        self.heads.add(head)


class Merchant:
    """One merchant of the vault, as its own payment service sees it."""

    def __init__(self, folder, address, keep, receipts):
        self.name = f"keep-{keep[0]}{keep[1]}"
        self.receipts = receipts

        def read(name):
            with open(f"{folder}/{name}", "rb") as file:
                return file.read()

        mine = (read(f"{self.name}.key"), read(f"{self.name}.pem"))
        credentials = grpc.ssl_channel_credentials(read("servers.pem"), *mine)
        self.channel = grpc.aio.secure_channel(address, credentials)
        self.vault = vault_pb2_grpc.VaultStub(self.channel)

    def header(self):
        return types_pb2.RequestHeader(
            merchant=self.name,
            channel="web",
            request_id=str(uuid.uuid4()),
            purpose=types_pb2.PURPOSE_AUTHORIZATION,
            initiator=types_pb2.INITIATOR_CARDHOLDER,
            context=types_pb2.Context(session="python"),
        )

    async def batches(self, wishes, call, request, item, take):
        for at in range(0, len(wishes), BATCH):
            asked = wishes[at : at + BATCH]
            answer = await call(request(header=self.header(), items=[item(w) for w in asked]), timeout=60)
            assert len(answer.outcomes) == len(asked)
            for wish, outcome in zip(asked, answer.outcomes):
                assert outcome.reference == str(wish.number) and outcome.WhichOneof("outcome") == "result", outcome.error
                self.receipts.note(outcome.result.receipt, answer.checkpoints)
                take(wish, outcome.result)

    async def stream(self, wishes, call, request, item, take):
        async def ask():
            for wish in wishes:
                yield request(header=self.header(), item=item(wish))

        unanswered = {str(w.number): w for w in wishes}
        async for outcome in call(ask(), timeout=120):
            wish = unanswered.pop(outcome.reference)
            assert outcome.WhichOneof("outcome") == "result", outcome.error
            self.receipts.note(outcome.result.receipt)
            take(wish, outcome.result)
        assert not unanswered, f"{len(unanswered)} messages were never answered"

    async def singles(self, wishes, call, request, item, take):
        places = asyncio.Semaphore(IN_FLIGHT)

        async def ask(wish):
            async with places:
                answer = await call(request(header=self.header(), item=item(wish)), timeout=30)
            self.receipts.note(answer.result.receipt)
            take(wish, answer.result)

        await asyncio.gather(*(ask(wish) for wish in wishes))

    async def store(self, wishes):
        vault, item, take = self.vault, Wish.item, Wish.judge
        by = {way: [w for w in wishes if w.stored_by == way] for way in WAYS}
        await asyncio.gather(
            self.batches(by["batch"], vault.BatchTokenize, vault_pb2.BatchTokenizeRequest, item, take),
            self.stream(by["stream"], vault.StreamTokenize, vault_pb2.StreamTokenizeRequest, item, take),
            self.singles(by["single"], vault.Tokenize, vault_pb2.TokenizeRequest, item, take),
        )

    async def read(self, wishes):
        vault, item, take = self.vault, Wish.question, Wish.compare
        by = {way: [w for w in wishes if w.read_by == way] for way in WAYS}
        await asyncio.gather(
            self.batches(by["batch"], vault.BatchDetokenize, vault_pb2.BatchDetokenizeRequest, item, take),
            self.stream(by["stream"], vault.StreamDetokenize, vault_pb2.StreamDetokenizeRequest, item, take),
            self.singles(by["single"], vault.Detokenize, vault_pb2.DetokenizeRequest, item, take),
        )


async def main():
    _, _, folder, address = sys.argv
    receipts, families, ways = Receipts(), {}, set()
    pans = list(cards())
    for number, pan in enumerate(pans):
        for keep in KEEPS[len(pan)]:
            families.setdefault(keep, []).append(Wish(number, pan, keep))
    tokens = 0
    for keep, wishes in families.items():
        merchant = Merchant(folder, address, keep, receipts)
        await merchant.store(wishes)
        found = {wish.token for wish in wishes}
        assert len(found) == len(wishes), "a token was given twice"
        assert found.isdisjoint(pans), "a token is somebody's card number"
        await merchant.read(wishes)
        await merchant.channel.close()
        tokens += len(found)
        ways |= {(len(w.pan), keep, w.scheme, w.stored_by, w.read_by) for w in wishes}
    told = {
        "cards": len(set(pans)),
        "tokens": tokens,
        "kinds": sorted({f"{length} {keep[0]}+{keep[1]} {scheme}" for length, keep, scheme, _, _ in ways}),
        "stored_by": sorted({way for *_, way, _ in ways}),
        "read_by": sorted({way for *_, way in ways}),
        "receipts": len(receipts.leaves),
    }
    print(json.dumps(told))


asyncio.run(main())
