"""One transaction's score, from the event to the durable decision; the file to read first.

Knows nothing of HTTP, of callers or of the gateway. What fails how: a store that is slow or down degrades to the declared
outcome within the deadline (the event waits in a journal and reaches the store later); a log that cannot be written
fails the score, since no decision may be answered that is not on record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from serving.fraud.aside import Aside
from serving.fraud.assess import decide
from serving.fraud.entries import Decided, Filed, Labelled, decode_filed, encode, pack_features, read_risk, risks_of
from serving.fraud.features import ONE_EVENT, derive, feature_names, is_surprising
from serving.fraud.gauges import Counts, Gauge
from serving.fraud.history import (
    DAY_S,
    EVENT,
    FRAUD,
    GENUINE,
    KEPT_EVENTS,
    UNEXPLAINED_FRAUD,
    aggregate,
    aggregate_customer,
    digest_of,
    pack_event,
)
from serving.fraud.journal import Journal
from serving.fraud.settings import FraudSettings
from serving.fraud.shadow import Rivals
from serving.fraud.store import Entity, FeatureStore, Observation, StoreUnavailable
from serving.fraud.types import Decision, InvalidTransaction, Label, Transaction, UnknownTransaction

Clock = Callable[[], float]

_AT_ONCE = 64  # of a batch; more only wait for each other
_GATHER_S = 0.02  # decisions of this long are filed together, behind their answers
REMEMBERED = 10_000  # decisions this process knows by heart: repeats and labels while the store is away


class FraudScorer:
    """Scores transactions against a model and a feature store. Use one per event loop."""

    def __init__(
        self,
        settings: FraudSettings,
        rivals: Rivals,
        store: FeatureStore,
        journal: Journal,
        waiting: Journal,
        clock: Clock,
    ) -> None:
        self._settings, self.rivals, self._store, self._clock = settings, rivals, store, clock
        self._journal = journal
        self._policy = settings.policy_digest()
        self._names = feature_names()
        self._recent: dict[str, Filed] = {}
        self._running: dict[str, asyncio.Future[Decision]] = {}
        self._aside = Aside(store, waiting, clock, self._recent, self._cents, self._apply)
        self._background: set[asyncio.Task[None]] = set()
        self._counts = Counts()
        self._unfiled: list[Filed] = []
        self._uncompared: list[tuple[Filed, int, list[float]]] = []
        self._untidy: set[Entity] = set()
        self._filing = False

    # --- the path ---

    async def score(self, transaction: Transaction) -> Decision:
        """The decision, durable before it is returned. The same transaction again gets the same decision. Two processes that are asked at
        once each decide, from the same history, and put it on record; the payment counts once, and the first decision filed stays.

        Raises:
            InvalidTransaction: its time, currency or id cannot be served here; nothing was written.
            JournalUnavailable: the decision could not be put on record.
        """
        self._admit(transaction)
        while (running := self._running.get(transaction.transaction_id)) is not None:
            await asyncio.wait([running])
        filed = self._recent.get(transaction.transaction_id)
        if filed is not None:
            return _same(filed, transaction)
        done: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        self._running[transaction.transaction_id] = done
        try:
            return await self._score(transaction)
        finally:
            del self._running[transaction.transaction_id]
            done.cancel()

    async def _score(self, transaction: Transaction) -> Decision:
        cents = self._cents(transaction)
        observation = await self._observe(transaction, cents)
        if observation is None:
            return await self._degrade(transaction, cents)
        if observation.filed is not None:
            return _same(decode_filed(observation.filed), transaction)
        features = self._features(transaction, cents, observation)
        row = list(features.values())
        decision = self._decide(transaction, cents, features, row)
        filed = Filed(transaction=transaction, decision=decision, surprising=bool(is_surprising(features)))
        await self._record(filed, cents, row)
        if self.rivals.challenger is not None:
            self._uncompared.append((filed, cents, row))
        self._keep_house(filed, observation)
        return decision

    async def score_batch(self, transactions: Sequence[Transaction]) -> list[Decision]:
        """Decisions in the order given. All are admitted before the first is written; events of one batch do not
        wait for each other, so put dependent ones in time order into separate requests.

        Raises:
            InvalidTransaction: with the path of the first that cannot be served.
        """
        for index, transaction in enumerate(transactions):
            try:
                self._admit(transaction)
            except InvalidTransaction as error:
                raise InvalidTransaction(f"transactions[{index}].{error.path}", error.message) from None
        decisions: list[Decision] = []
        for start in range(0, len(transactions), _AT_ONCE):
            some = transactions[start : start + _AT_ONCE]
            decisions += await asyncio.gather(*(self.score(one) for one in some))
        return decisions

    async def label(self, label: Label) -> None:
        """Takes what became of a transaction into account, durably; features use it from seven days after the event.

        Raises:
            UnknownTransaction: no decision is on file for it.
            JournalUnavailable: it could not be put on record.
        """
        await self.label_batch([label])

    async def label_batch(self, labels: Sequence[Label]) -> None:
        """The same for many. All are known before the first is written.

        Raises:
            UnknownTransaction: with the path of the first that is not.
            JournalUnavailable.
        """
        found: list[Filed | None] = []
        for index, label in enumerate(labels):
            try:
                filed = await self._filed(label.transaction_id)
            except StoreUnavailable:
                found.append(None)
                continue
            if filed is None:
                raise UnknownTransaction(f"labels[{index}].transaction_id" if len(labels) > 1 else "transaction_id")
            found.append(filed)
        for label, filed in zip(labels, found, strict=True):
            await self._label(label, filed)

    async def _label(self, label: Label, filed: Filed | None) -> None:
        """filed: None where the store, which alone may know, is away."""
        if filed is None:
            await self._aside.keep_label(label)
        await self._journal.append(encode(Labelled(label=label, at_s=self._clock())))
        self._counts.labels += 1
        if filed is None:
            return
        try:
            await self._apply(label, filed)
        except StoreUnavailable:
            await self._aside.keep_label(label)

    async def find(self, transaction_id: str) -> Decision | None:
        """A decision made before, while it is on file.

        Raises:
            StoreUnavailable: this process does not remember it and the store cannot be asked.
        """
        filed = await self._filed(transaction_id)
        return filed.decision if filed else None

    async def risk_of(self, subject: str) -> tuple[float | None, str] | None:
        """Probability and outcome of the riskiest decision of the last day for `customer:ID` or `call:ID`; None if there is none.
        It may be 20 ms behind. Raises: StoreUnavailable."""
        noted = await self._store.risk(subject)
        return read_risk(noted) if noted else None

    async def aclose(self) -> None:
        """Finishes what runs behind the answers and closes the logs. The store's client is the caller's."""
        await self.settle()
        await self._aside.aclose()
        await self._journal.aclose()
        self.rivals.close()

    async def settle(self) -> None:
        """Waits for what runs behind the answers: filing, risks, the shadow."""
        await asyncio.gather(*self._background, return_exceptions=True)

    @property
    def waiting(self) -> int:
        """Events and labels that the store has not got yet."""
        return self._aside.waiting

    def gauges(self) -> list[Gauge]:
        """What this process has counted, for a monitoring system."""
        return self._counts.gauges(self.waiting, self.rivals.compared, self.rivals.disagreed)

    def follow(self, rivals: Rivals) -> None:
        """Scores with other models from now on; every score is made by the models of one moment."""
        before, self.rivals = self.rivals, rivals
        before.close()

    # --- its steps ---

    def _admit(self, transaction: Transaction) -> None:
        now_s = self._clock()
        if transaction.at_s > now_s + self._settings.future_tolerance_s:
            raise InvalidTransaction("timestamp", "lies in the future")
        if transaction.at_s < now_s - self._settings.oldest_s:
            raise InvalidTransaction("timestamp", f"is older than {self._settings.oldest_s} seconds: too late to score")
        if transaction.currency not in self._settings.currencies:
            served = ", ".join(sorted(self._settings.currencies))
            raise InvalidTransaction("currency", f"is not served here; one of {served}")
        if self._cents(transaction) > 0xFFFF_FFFF:
            raise InvalidTransaction("amount", "is too large in the settlement currency")

    def _cents(self, transaction: Transaction) -> int:
        return transaction.cents(self._settings.currencies[transaction.currency])

    async def _observe(self, transaction: Transaction, cents: int) -> Observation | None:
        event = pack_event(transaction.at_s, cents, transaction.transaction_id)
        try:
            async with asyncio.timeout(self._settings.deadline_ms / 1000):
                return await self._store.observe(
                    transaction.transaction_id, transaction.customer_id, transaction.terminal_id, event
                )
        except TimeoutError:
            self._counts.deadline_missed += 1
            return None
        except StoreUnavailable:
            return None

    def _features(self, transaction: Transaction, cents: int, seen: Observation) -> dict[str, float]:
        at_s = transaction.at_s
        return derive(ONE_EVENT, at_s, cents, aggregate_customer(seen.customer, at_s), aggregate(seen.terminal, at_s))

    def _decide(self, transaction: Transaction, cents: int, features: dict[str, float], row: list[float]) -> Decision:
        return decide(
            self.rivals.choose(transaction.customer_id),
            self._settings,
            self._policy,
            transaction.transaction_id,
            cents,
            features,
            row,
            self._clock(),
        )

    async def _record(self, filed: Filed, cents: int, row: list[float]) -> None:
        await self._journal.append(encode(Decided(filed=filed, cents=cents, features=pack_features(row))))
        self._counts.decided[filed.decision.outcome] += 1
        self._recent[filed.transaction.transaction_id] = filed
        if len(self._recent) > REMEMBERED:
            del self._recent[next(iter(self._recent))]

    async def _degrade(self, transaction: Transaction, cents: int) -> Decision:
        """The declared outcome, on record, with the event set aside for the store."""
        decision = Decision(
            transaction_id=transaction.transaction_id,
            outcome=self._settings.degraded_outcome,
            probability=None,
            reasons=(),
            degraded=True,
            model=self.rivals.champion.digest,
            policy=self._policy,
            decided_s=self._clock(),
        )
        filed = Filed(transaction=transaction, decision=decision, surprising=False)
        self._counts.degraded += 1
        async with self._aside.keep(filed, cents):
            await self._record(filed, cents, [])
        return decision

    # --- behind the answer ---

    def _keep_house(self, filed: Filed, seen: Observation) -> None:
        """Files the decision, and bounds or renews the histories that need it, after the answer."""
        at_s = filed.transaction.at_s
        entities: list[Entity] = []
        for kind, name, record in (
            ("customer", filed.transaction.customer_id, seen.customer),
            ("terminal", filed.transaction.terminal_id, seen.terminal),
        ):
            stale = not record or EVENT.unpack_from(record, len(record) - EVENT.size)[0] < at_s - DAY_S
            if stale or len(record) > (KEPT_EVENTS + 64) * EVENT.size:
                entities.append((kind, name))  # type: ignore[arg-type]  # one of the two literals above
        self._unfiled.append(filed)
        self._untidy.update(entities)
        if not self._filing:
            self._filing = True
            self._spawn(self._file(), "fraud-file")

    async def _file(self) -> None:
        """Files what was decided meanwhile, in one round trip: half the CPU of a score was in filing each alone."""
        try:
            while self._unfiled or self._untidy:
                await asyncio.sleep(_GATHER_S)
                decided, entities = self._unfiled, self._untidy
                self._unfiled, self._untidy = [], set()
                try:
                    await self._store.file([(one.transaction.transaction_id, encode(one)) for one in decided])
                    await self._store.note([risk for one in decided for risk in risks_of(one)])
                    await self._store.trim(entities)
                except StoreUnavailable:
                    await self._file_later(decided)
                await self._compare()
        finally:
            self._filing = False

    async def _compare(self) -> None:
        """Puts on record what the other model says. Telemetry: a log that fails here fails the next decision, not this."""
        some, self._uncompared = self._uncompared, []
        said = [found for one in some if (found := self.rivals.compare(*one)) is not None]
        await asyncio.gather(*(self._journal.append(encode(one)) for one in said), return_exceptions=True)

    async def _file_later(self, decided: list[Filed]) -> None:
        for filed in decided:
            async with self._aside.keep(filed, self._cents(filed.transaction)):
                continue

    async def _filed(self, transaction_id: str) -> Filed | None:
        known = self._recent.get(transaction_id)
        if known is not None:
            return known
        stored = await self._store.recall(transaction_id)
        return decode_filed(stored) if stored else None

    async def _apply(self, label: Label, filed: Filed) -> None:
        code = (FRAUD if filed.surprising else UNEXPLAINED_FRAUD) if label.fraud else GENUINE
        digest = digest_of(label.transaction_id)
        await self._store.mark(("customer", filed.transaction.customer_id), digest, code)
        await self._store.mark(("terminal", filed.transaction.terminal_id), digest, code)

    async def catch_up(self) -> None:
        """Applies every event and label that waits for the store. Raises: StoreUnavailable."""
        await self._aside.catch_up()

    def remember(self, filed: Sequence[Filed]) -> None:
        """Knows decisions of an earlier process by heart."""
        self._recent |= {one.transaction.transaction_id: one for one in filed}

    def resume(self, entries: Sequence[bytes]) -> None:
        """Takes up what an earlier process had set aside and not applied."""
        self._aside.resume(entries)

    def _spawn(self, work: object, name: str) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work, name=name)  # type: ignore[arg-type]
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _same(filed: Filed, transaction: Transaction) -> Decision:
    if filed.transaction != transaction:
        raise InvalidTransaction("transaction_id", "was already used for a different transaction")
    return filed.decision
