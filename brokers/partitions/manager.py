"""The partitions that this broker serves.

Owns: which streams are open here (following the cluster image: what is assigned here is opened, what is assigned
elsewhere closed), lookups, topic configs in force, upkeep in the background. Does not own: where partitions belong
(the controller says), what a partition does (partition_log.py), the tails of dead brokers (takeovers.py).
Invariant: a log found here is the open stream's only one; a topic gone from the image is unknown at once, and
whatever waited on its partitions has been answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TypeAlias
from uuid import UUID

import structlog
from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.partitions import retention
from brokers.partitions.log_config import LogConfig
from brokers.partitions.opener import Opener, Placed, Told
from brokers.partitions.partition_log import PartitionLog
from brokers.partitions.settings import PartitionSettings
from brokers.partitions.successors import Place, Successors
from brokers.partitions.takeovers import Takeovers
from brokers.partitions.unsettled import Seen, Unsettled
from brokers.partitions.waiters import call
from brokers.partitions.words import Closed, Opened, Others, Teller, Words, place_of, with_closed, with_opened
from metadata.image import NO_LEADER, ClusterImage, PartitionImage, TopicImage
from s3stream.errors import Corrupt, PonorError, Unavailable
from s3stream.metrics import Metrics
from s3stream.seams import Clock, MetadataStore
from s3stream.storage import Storage
from s3stream.tasks import Tasks
from s3stream.types import NodeId, StreamId

log = structlog.get_logger(__name__)

ConfigSource: TypeAlias = Callable[[TopicImage, ClusterImage], LogConfig]
LogListener: TypeAlias = Callable[[PartitionLog], None]
_EMPTY_IMAGE = ClusterImage(version=-1, cluster_id="", topics={}, topics_by_id={}, nodes={}, broker_configs={})


class PartitionManager:
    def __init__(
        self,
        storage: Storage,
        metadata: MetadataStore,
        node_id: NodeId,
        config_source: ConfigSource,
        clock: Clock,
        tasks: Tasks,
        metrics: Metrics,
        settings: PartitionSettings | None = None,
        others: Others | None = None,
    ) -> None:
        """`others` None: everything is flushed before it is handed over."""
        self._storage = storage
        self._metadata = metadata
        self._node_id = node_id
        self._config_source = config_source
        self._clock = clock
        self._tasks = tasks
        self._words = None if others is None else Words(others, storage.tail_batches, tasks)
        self._settings = settings or PartitionSettings()
        self._opener = Opener(storage, clock, self._settings)
        self._takeovers = Takeovers(storage, tasks, self._recovered)
        self.successors = Successors(node_id, clock, tasks)
        self.image: ClusterImage = _EMPTY_IMAGE
        """The cluster as this broker acts on it."""
        self._logs: dict[UUID, dict[int, PartitionLog]] = {}
        self._by_name: dict[str, dict[int, PartitionLog]] = {}
        """The same inner dictionaries, by the name of the topic that has it now."""
        self._configs: dict[LogConfig, LogConfig] = {}
        """One instance for all topics with the same configs."""
        self._on_open: list[LogListener] = []
        self._on_close: list[LogListener] = []
        self._turn = asyncio.Lock()
        self._retry: asyncio.Task[None] | None = None
        self._unsettled = Unsettled()
        self._leaving: set[StreamId] = set()
        """On their way to another broker: flushed while they still serve, then closed."""
        self._closed = False
        self._background: list[asyncio.Task[None]] = []
        self._trimmed = metrics.counter("ponor_retention_records_total", "Offsets that retention removed")
        metrics.gauge("ponor_partitions_open", "Partitions that this broker serves", lambda: float(self.open_count))
        metrics.gauge(
            "ponor_partitions_offline", "Partitions placed here that could not be opened",
            lambda: float(len(self._opener.offline)),
        )  # fmt: skip
        metrics.gauge(
            "ponor_partitions_given_up", "Intervals of offsets that were given up with lost WALs, in the whole cluster",
            lambda: float(len(self.image.losses)),
        )  # fmt: skip

    # --- life ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin retention and producer expiry."""
        self._background = [
            self._tasks.spawn(self._retention_loop(), "retention"),
            self._tasks.spawn(self._expiry_loop(), "producer expiry"),
        ]

    async def close(self) -> None:
        """Stop serving: what is pending becomes durable and is answered, then the streams are closed."""
        self._closed = True
        tasks = [*self._background, *([self._retry] if self._retry else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with self._turn:
            await self._close(list(self.logs()), for_good=True)

    def on_open(self, listener: LogListener) -> None:
        """`listener(log)` is called when a log begins to serve, before any request finds it."""
        self._on_open.append(listener)

    def on_close(self, listener: LogListener) -> None:
        """`listener(log)` is called when a log is about to serve no more."""
        self._on_close.append(listener)

    # --- lookups -------------------------------------------------------------------------------

    def log(self, topic: str, partition: int) -> PartitionLog:
        """Raises KafkaError: UNKNOWN_TOPIC_OR_PARTITION, NOT_LEADER_OR_FOLLOWER, KAFKA_STORAGE_ERROR."""
        logs = self._by_name.get(topic)
        found = None if logs is None else logs.get(partition)
        if found is None:
            raise self._missing(self.image.topics.get(topic), partition)
        return found

    def log_by_id(self, topic_id: UUID, partition: int) -> PartitionLog:
        """As `log`; UNKNOWN_TOPIC_ID for an id that no topic has."""
        logs = self._logs.get(topic_id)
        found = None if logs is None else logs.get(partition)
        if found is None:
            topic = self.image.topics_by_id.get(topic_id)
            if topic is None:
                raise KafkaError(ErrorCode.unknown_topic_id)
            raise self._missing(topic, partition)
        return found

    def _missing(self, topic: TopicImage | None, partition: int) -> KafkaError:
        if topic is None or not 0 <= partition < len(topic.partitions):
            return KafkaError(ErrorCode.unknown_topic_or_partition)
        error = self._opener.offline.get(topic.partitions[partition].stream_id)
        if error is not None:
            return KafkaError(ErrorCode.kafka_storage_error, str(error))
        return KafkaError(ErrorCode.not_leader_or_follower)

    def logs(self) -> Iterator[PartitionLog]:
        """Every log that is open here."""
        for logs in list(self._logs.values()):
            yield from list(logs.values())

    @property
    def open_count(self) -> int:
        return sum(len(logs) for logs in self._logs.values())

    @property
    def handing_over(self) -> int:
        """Partitions on their way to others: being flushed and closed, or not known to be open there."""
        return len(self._leaving) + self.successors.unnamed

    def offline(self) -> Mapping[int, PonorError]:
        """Streams placed here that could not be opened, and why (health)."""
        return self._opener.offline

    # --- following the image -------------------------------------------------------------------

    async def apply_image(self, image: ClusterImage) -> None:
        """Serve what `image` assigns here, and nothing else. An image older than the current one is passed over.

        Returns when every partition that can be opened now is open. Those that cannot are tried again by
        themselves where that may help; they never keep the others waiting for more than this call. What is assigned
        elsewhere serves until its flush is done, and is closed then.
        """
        self.show(image)
        await self.follow()

    def show(self, image: ClusterImage) -> None:
        """From now on clients are answered by `image`; it is acted on by `follow`. Plain code: who leads what is told
        while partitions are still being opened for an image before it."""
        if image.version < self.image.version or self._closed:
            return
        before, self.image = self.image, image
        self._drop_deleted(image)
        changed = self._unsettled.show(before, image, self._logs)
        # Who is alive, and which topics there are, says of any partition whether it is led.
        of_any = before.nodes != image.nodes or any(gone not in image.topics_by_id for gone in before.topics_by_id)
        self.successors.look(image, None if of_any else changed)

    def hear_closed(self, teller: Teller, told: Sequence[Closed]) -> None:
        """Another broker has closed these. What is to be opened here now is, without waiting for the image of it."""
        image, ours = with_closed(self.image, self._node_id, teller, told)
        if not ours or self._words is None or self._closed:
            return
        self._words.expect(teller, ours)
        self._storage.hear_closed([(one.row(teller), one.tail) for one in ours])
        self._opener.hear_states({one.stream_id: Told(one.epoch, one.state) for one in ours if one.state})
        self.show(image)
        self._tasks.spawn(self.follow(), "open what was handed over")

    def hear_opened(self, teller: Teller, told: Sequence[Opened]) -> None:
        """Another broker has opened these: clients are told so."""
        self.show(with_opened(self.image, teller, told))

    async def settled(self) -> None:
        """Whatever was begun for images shown before this call has ended."""
        async with self._turn:
            pass

    async def follow(self) -> None:
        """Act on the newest image shown; see `apply_image`."""
        if self._closed:
            return
        async with self._turn:
            image = self.image
            self._drop_deleted(image)
            self._configure(image)
            looked_at = self._shut_lost(self._unsettled.take(image, self._logs, self._is_settled))
            self._let_go(
                [seen.log for seen in looked_at if seen.log is not None and seen.part.assigned != self._node_id]
            )
            await self._open(image, [seen for seen in looked_at if seen.log is None])

    def _drop_deleted(self, image: ClusterImage) -> None:
        """Plain code: from the moment the image is known, a deleted topic answers that it is unknown."""
        for topic_id in [topic_id for topic_id in self._logs if topic_id not in image.topics_by_id]:
            for found in list(self._logs[topic_id].values()):
                self._forget(found)
                found.shut(ErrorCode.unknown_topic_or_partition)
                self._storage.drop_stream(found.stream.stream_id)
        if not self._opener.has_unopened:
            return
        streams = {part.stream_id for topic in image.topics.values() for part in topic.partitions}
        for stream_id in self._opener.forget_others(streams):
            self._storage.drop_stream(stream_id)

    def _configure(self, image: ClusterImage) -> None:
        topics = self._unsettled.take_topics(image)
        for topic in topics:
            config = self._config(topic, image)
            for found in self._logs.get(topic.topic_id, {}).values():
                if found.config is not config:
                    found.configure(config)
        if topics:
            in_use = {id(found.config) for found in self.logs()}
            self._configs = {config: config for config in self._configs if id(config) in in_use}

    def _is_settled(self, seen: Seen) -> bool:
        is_open, belongs = seen.log is not None, seen.part.assigned == self._node_id
        return is_open == belongs and (is_open or not self._stuck_here(seen.part))

    def _shut_lost(self, looked_at: Sequence[Seen]) -> list[Seen]:
        """Another owner has opened the stream at a higher epoch: nothing here is acknowledged any more. Returns what
        was looked at, as it is then."""
        left = []
        for seen in looked_at:
            part, found = seen.part, seen.log
            if (
                found is not None
                and part.leader_epoch > found.leader_epoch
                and part.leader not in (self._node_id, NO_LEADER)
            ):
                log.warning("partition lost to another broker", partition=found.name, leader=part.leader)
                self._forget(found)
                found.shut(ErrorCode.not_leader_or_follower)
                self._storage.drop_stream(found.stream.stream_id)
                seen = seen._replace(log=None)
            left.append(seen)
        return left

    def _assigned_here(self, found: PartitionLog, image: ClusterImage) -> bool:
        topic = image.topics_by_id.get(found.topic_id)
        return topic is not None and topic.partitions[found.partition].assigned == self._node_id

    def _let_go(self, logs: list[PartitionLog]) -> None:
        """Hand over to others, without keeping what is to be opened here waiting."""
        going = [found for found in logs if found.stream.stream_id not in self._leaving]
        if going:
            self._leaving.update(found.stream.stream_id for found in going)
            self._tasks.spawn(self._hand_over(going), "hand partitions over")

    async def _hand_over(self, logs: list[PartitionLog]) -> None:
        try:
            from_memory = await self._take_from_memory(logs)
            quick = set(from_memory)
            flushed = [found for found in logs if found not in quick]
            if flushed:
                # First while appends go on: what is left to upload when they are refused is what came meanwhile.
                await self._storage.flush_streams([found.stream for found in flushed])
            for group, hand_over in ((from_memory, True), (flushed, False)):
                still = [found for found in group if self._is_open(found)]
                going = [found for found in still if not self._assigned_here(found, self.image)]
                self.successors.left([place_of(found) for found in going])
                closed = await self._close(going, hand_over=hand_over)
                if self._words is not None:
                    self._words.say_closed(closed, self._target)
        except PonorError as error:
            log.warning("partitions are not handed over yet", partitions=len(logs), error=str(error))
        finally:
            self._leaving.difference_update(found.stream.stream_id for found in logs)
        # Some may stay after all, or are to come back already.
        self._retry_later()

    async def _take_from_memory(self, logs: Sequence[PartitionLog]) -> list[PartitionLog]:
        """Those whose next brokers answer: they can ask for what is not committed when these are closed."""
        if self._words is None:
            return []
        targets = {found: self._target(found) for found in logs}
        nodes = sorted(set(targets.values()) - {NO_LEADER, self._node_id})
        answers = await asyncio.gather(*(self._words.reachable(node_id) for node_id in nodes))
        there = {node_id for node_id, answer in zip(nodes, answers, strict=True) if answer}
        return [found for found in logs if targets[found] in there]

    def _target(self, found: PartitionLog) -> NodeId:
        topic = self.image.topics_by_id.get(found.topic_id)
        return NO_LEADER if topic is None else topic.partitions[found.partition].assigned

    def _is_open(self, found: PartitionLog) -> bool:
        return self._logs.get(found.topic_id, {}).get(found.partition) is found

    async def _close(
        self, logs: list[PartitionLog], for_good: bool = False, hand_over: bool = False
    ) -> list[PartitionLog]:
        """Stop serving, close the streams; returns those that were. Those that could not be closed in time are served
        again, unless `for_good`; a closing whose outcome is unknown is asked for until it is known."""
        if not logs:
            return []
        for found in logs:
            self._forget(found)
            found.retire(ErrorCode.not_leader_or_follower)
        try:
            return await self._close_streams(logs, for_good, hand_over)
        except PonorError as error:
            log.error("streams not closed", streams=len(logs), error=str(error))
            return []
        finally:
            for found in logs:
                if not self._is_open(found):
                    found.shut(ErrorCode.not_leader_or_follower)

    async def _close_streams(self, logs: list[PartitionLog], for_good: bool, hand_over: bool) -> list[PartitionLog]:
        if not for_good:
            try:
                await self._storage.close_streams([found.stream for found in logs], hand_over=hand_over)
                return logs
            except Unavailable as error:
                log.warning("partitions stay here for now", partitions=len(logs), error=str(error))
            for found in logs:
                if found.stream.refusal is None:
                    found.resume()
                    self._opened(found)
            logs = [found for found in logs if not self._is_open(found)]
        await self._storage.close_streams([found.stream for found in logs], timeout_s=None, pause_max_s=None)
        return logs

    def _forget(self, found: PartitionLog) -> None:
        for listener in self._on_close:
            call(listener, found)
        self._unsettled.add(place_of(found))
        logs = self._logs[found.topic_id]
        del logs[found.partition]
        if not logs:
            del self._logs[found.topic_id]
            if self._by_name.get(found.topic) is logs:
                del self._by_name[found.topic]

    # --- opening -------------------------------------------------------------------------------

    async def _open(self, image: ClusterImage, closed: Sequence[Seen]) -> None:
        fenced = {(wal.node_id, wal.node_epoch) for wal in image.fenced_wals}
        wanted: list[Placed] = []
        orphans: list[PartitionImage] = []
        for topic, part, _ in closed:
            if part.assigned != self._node_id and not self._stuck_here(part):
                continue
            if part.stream_id in self._leaving:
                continue  # on its way out; looked at again when it is closed
            if self._to_be_recovered(part, fenced):
                orphans.append(part)
            elif self._openable(part, fenced):
                wanted.append(Placed(topic, part, self._config(topic, image)))
        self._takeovers.follow(image, orphans)
        # Others name this broker as soon as the streams are open, which is before their logs are.
        self.successors.expect([Place(placed.topic.topic_id, placed.part.partition) for placed in wanted])
        again_s = await self._opener.open(wanted, self._opened) if wanted else None
        if again_s is not None or any(placed.part.assigned != self._node_id for placed in wanted):
            self._retry_later(again_s)

    def _to_be_recovered(self, part: PartitionImage, fenced: Collection[tuple[NodeId, int]]) -> bool:
        """Whether a fenced broker's WAL holds what comes before it can be opened: its tail, or what was open there."""
        if part.tail_owner in fenced and not self._takeovers.tail_ready(part):
            return True
        return (part.leader, part.owner_epoch) in fenced and not self._takeovers.ready(part)

    def _stuck_here(self, part: PartitionImage) -> bool:
        """Another's to be, and that one waits for this node to close it: it is opened here once more for that."""
        owed = self._storage.owes(part.stream_id) or self._opener.is_half_open(part.stream_id)
        return part.leader == self._node_id and owed

    def _openable(self, part: PartitionImage, fenced: Collection[tuple[NodeId, int]]) -> bool:
        """Closed, this node's own from before a restart, or recovered from a fenced owner (CORRECTNESS 1)."""
        return part.leader in (NO_LEADER, self._node_id) or (part.leader, part.owner_epoch) in fenced

    def _recovered(self, broken: dict[StreamId, Corrupt], failure: PonorError | None) -> None:
        self._opener.offline.update(broken)
        if failure is not None:
            self._retry_later()
        else:
            self._tasks.spawn(self.apply_image(self.image), "open recovered partitions")

    def _config(self, topic: TopicImage, image: ClusterImage) -> LogConfig:
        config = self._config_source(topic, image)
        return self._configs.setdefault(config, config)

    def _opened(self, found: PartitionLog) -> None:
        """A log is ready, unless its topic was deleted meanwhile."""
        if found.topic_id not in self.image.topics_by_id:
            found.shut(ErrorCode.unknown_topic_or_partition)
            self._storage.drop_stream(found.stream.stream_id)
            return
        logs = self._logs.setdefault(found.topic_id, {})
        logs[found.partition] = found
        self._unsettled.add(place_of(found))
        self._by_name[found.topic] = logs
        self.successors.found([place_of(found)])
        if self._words is not None:
            self._words.opened(found)
        for listener in self._on_open:
            call(listener, found)

    def _retry_later(self, seconds: float | None = None) -> None:
        if self._retry is None:
            delay = self._settings.open_retry_ms / 1000 if seconds is None else seconds
            self._retry = self._tasks.spawn(self._open_later(delay), "open partitions again")

    async def _open_later(self, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self._retry = None
        await self.apply_image(self.image)

    # --- upkeep --------------------------------------------------------------------------------

    async def _retention_loop(self) -> None:
        while True:
            await self._clock.sleep(self._settings.retention_check_interval_ms / 1000)
            await self.enforce_retention()

    async def enforce_retention(self) -> None:
        """One check of every log. A log that cannot be checked now is checked at the next one."""
        for found in self.logs():
            if found.refusal is not None:
                continue
            try:
                self._trimmed.inc(await retention.enforce(found, self._metadata, self._clock.now_ms()))
            except (KafkaError, PonorError) as error:
                log.warning("retention not enforced", partition=found.name, error=str(error))

    async def _expiry_loop(self) -> None:
        while True:
            await self._clock.sleep(self._settings.producer_id_expiration_check_interval_ms / 1000)
            now_ms = self._clock.now_ms()
            for found in self.logs():
                found.expire_producers(now_ms, self._settings.producer_id_expiration_ms)
