"""What a shard knows: the durable records of one __transaction_state partition, and the transactions made of them.

Invariant: a transaction's `value` is its durable record. One that is `is_new` has none, and shows to nobody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import structlog

from brokers.coordinators.snapshot import DurableMap
from brokers.coordinators.writer import Written
from brokers.transactions.records import decode_key, decode_value
from brokers.transactions.transaction import Transaction

log = structlog.get_logger(__name__)

BUILD_SLICE = 1_000
"""Records decoded before the event loop gets a turn: a few milliseconds."""


class TransactionState:
    def __init__(self, durable: DurableMap) -> None:
        self.durable = durable
        self.transactions: dict[str, Transaction] = {}

    def build(self, wall_ms: int) -> Iterator[None]:
        """From the durable map; yields after every slice. Raises Corrupt."""
        for index, (key, data) in enumerate(self.durable.entries.items()):
            transactional_id = decode_key(key)
            value = None if transactional_id is None else decode_value(data)
            if transactional_id is None or value is None:
                log.warning("record of an unknown type is kept and not used", key=key[:64].hex())
            else:
                txn = self.transactions[transactional_id] = Transaction(transactional_id, value)
                if value.status.preparing:
                    txn.unmarked = set(value.partitions)
            if index % BUILD_SLICE == BUILD_SLICE - 1:
                yield

    def apply(self, written: Written, wall_ms: int) -> None:
        """Records of our own became durable: what they said is so from now on."""
        for record in written.records:
            self.durable.apply(record.key, record.value)
            transactional_id = decode_key(record.key)
            assert transactional_id is not None
            if record.value is None:
                del self.transactions[transactional_id]
            else:
                self.transactions[transactional_id].settle(durable=True)
        self.durable.end = written.end

    def sizes(self) -> Mapping[str, int]:
        return {"transactional_ids": len(self.transactions)}
