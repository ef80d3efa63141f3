"""What waits for a feature store that is away: events and labels, on disk first, applied when it is back.

Applying is idempotent, so whoever is not sure does it again. Knows nothing of scores or models.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from contextlib import asynccontextmanager

from serving.fraud.entries import Applied, Decided, Filed, Labelled, decode_entry, decode_filed, encode
from serving.fraud.history import pack_event
from serving.fraud.journal import Journal
from serving.fraud.store import FeatureStore, StoreUnavailable
from serving.fraud.types import Label, Transaction

_RETRY_S = 1.0
_MOST_WAITING = 200_000  # events kept in memory; all are on disk in any case


class Aside:
    """Events and labels of one scorer that its store has not got yet.

    recent: decisions that the scorer knows by heart. cents: an amount in the settlement currency. apply: gives a label to the store.
    """

    def __init__(
        self,
        store: FeatureStore,
        journal: Journal,
        clock: Callable[[], float],
        recent: MutableMapping[str, Filed],
        cents: Callable[[Transaction], int],
        apply: Callable[[Label, Filed], Awaitable[None]],
    ) -> None:
        self._store, self._journal, self._clock = store, journal, clock
        self._recent, self._cents, self._apply = recent, cents, apply
        self._events: dict[str, Transaction] = {}
        self._labels: dict[str, Label] = {}
        self._recovering: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def waiting(self) -> int:
        return len(self._events) + len(self._labels)

    @asynccontextmanager
    async def keep(self, filed: Filed, cents: int) -> AsyncIterator[None]:
        """Puts a decision's event on record before the block, and lets it go to the store after it."""
        await self._journal.append(encode(Decided(filed=filed, cents=cents, features=b"")))
        yield
        if len(self._events) < _MOST_WAITING:
            self._events[filed.transaction.transaction_id] = filed.transaction
        self._recover_later()

    async def keep_label(self, label: Label) -> None:
        await self._journal.append(encode(Labelled(label=label, at_s=self._clock())))
        self._labels[label.transaction_id] = label
        self._recover_later()

    def resume(self, entries: Sequence[bytes]) -> None:
        """Takes up what an earlier process had set aside and not applied."""
        for data in entries:
            entry = decode_entry(data)
            if isinstance(entry, Decided):
                transaction = entry.filed.transaction
                self._events[transaction.transaction_id] = transaction
                self._recent[transaction.transaction_id] = entry.filed
            elif isinstance(entry, Labelled):
                self._labels[entry.label.transaction_id] = entry.label
            elif isinstance(entry, Applied):
                self._events.pop(entry.transaction_id, None)
                self._labels.pop(entry.transaction_id.removeprefix("label:"), None)
        if self.waiting:
            self._recover_later()

    async def catch_up(self) -> None:
        """Applies every event and label that waits, oldest first.

        Raises:
            StoreUnavailable: the store is still away; the rest go on waiting.
        """
        for transaction_id, transaction in list(self._events.items()):
            event = pack_event(transaction.at_s, self._cents(transaction), transaction_id)
            filed = self._recent.get(transaction_id)
            await self._store.observe(transaction_id, transaction.customer_id, transaction.terminal_id, event)
            if filed is not None:
                await self._store.file([(transaction_id, encode(filed))])
            await self._store.trim([("customer", transaction.customer_id), ("terminal", transaction.terminal_id)])
            await self._journal.append(encode(Applied(transaction_id=transaction_id)))
            self._events.pop(transaction_id, None)
        for transaction_id, label in list(self._labels.items()):
            if (filed := await self._filed(transaction_id)) is not None:
                await self._apply(label, filed)
            await self._journal.append(encode(Applied(transaction_id=f"label:{transaction_id}")))
            self._labels.pop(transaction_id, None)

    async def aclose(self) -> None:
        """Stops trying; what waits stays on disk for the next process."""
        self._closed = True
        if self._recovering is not None:
            self._recovering.cancel()
            await asyncio.gather(self._recovering, return_exceptions=True)
        await self._journal.aclose()

    async def _filed(self, transaction_id: str) -> Filed | None:
        known = self._recent.get(transaction_id)
        if known is None and (stored := await self._store.recall(transaction_id)):
            return decode_filed(stored)
        return known

    def _recover_later(self) -> None:
        if not self._closed and (self._recovering is None or self._recovering.done()):
            self._recovering = asyncio.get_running_loop().create_task(self._recover(), name="fraud-recover")

    async def _recover(self) -> None:
        while self.waiting:
            try:
                await self.catch_up()
            except StoreUnavailable:
                await asyncio.sleep(_RETRY_S)
