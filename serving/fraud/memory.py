"""The feature store in a dictionary: for scoring a file, replaying history and running without Redis.

The same records and the same results as `store.RedisStore` (one conformance test drives both). It forgets everything
when the process ends and is seen by this process alone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence

from serving.fraud.history import EVENT, KEPT_EVENTS
from serving.fraud.store import Entity, Observation


class MemoryStore:
    """A FeatureStore for one process."""

    def __init__(self) -> None:
        self._records: dict[Entity, bytearray] = {}
        self._filed: dict[str, bytes] = {}
        self._risks: dict[str, bytes] = {}

    async def observe(self, transaction_id: str, customer_id: str, terminal_id: str, event: bytes) -> Observation:
        customer = self._records.setdefault(("customer", customer_id), bytearray())
        terminal = self._records.setdefault(("terminal", terminal_id), bytearray())
        seen = Observation(bytes(customer), bytes(terminal), self._filed.get(transaction_id))
        customer += event
        terminal += event
        return seen

    async def file(self, decisions: Sequence[tuple[str, bytes]]) -> None:
        for transaction_id, decision in decisions:
            self._filed.setdefault(transaction_id, decision)

    async def recall(self, transaction_id: str) -> bytes | None:
        return self._filed.get(transaction_id)

    async def note(self, risks: Sequence[tuple[str, bytes, bool]]) -> None:
        for subject, value, replaces in risks:
            if replaces or subject not in self._risks:
                self._risks[subject] = value

    async def risk(self, subject: str) -> bytes | None:
        return self._risks.get(subject)

    async def mark(self, entity: Entity, digest: int, label: int) -> bool:
        record, wanted, found = self._records.get(entity, bytearray()), digest.to_bytes(8, "little"), False
        for start in range(0, len(record), EVENT.size):
            if record[start + 12 : start + 20] == wanted:
                record[start + 8 : start + 12] = label.to_bytes(4, "little")
                found = True
        return found

    async def trim(self, entities: Iterable[Entity]) -> None:
        for entity in entities:
            record = self._records.get(entity, bytearray())
            del record[: max(0, len(record) - KEPT_EVENTS * EVENT.size)]

    async def load(self, records: Sequence[tuple[Entity, bytes]]) -> None:
        for entity, record in records:
            self._records[entity] = bytearray(record) + self._records.get(entity, bytearray())

    async def export(self) -> AsyncIterator[list[tuple[str, str, bytes]]]:
        yield [(kind[0], name, bytes(record)) for (kind, name), record in self._records.items() if record]
        yield [("d", name, decision) for name, decision in self._filed.items()]
        yield [("r", subject, value) for subject, value in self._risks.items()]
