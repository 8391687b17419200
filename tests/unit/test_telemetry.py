"""Client metrics (KIP-714): the rules of Kafka's ClientMetricsManager, bounds, and what /metrics shows."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kio.schema.errors import ErrorCode

from brokers.config_def import ConfigError
from brokers.config_def.group import parse_match, validate_client_metrics_configs
from brokers.errors import KafkaError
from brokers.handlers import get_telemetry_subscriptions, push_telemetry
from brokers.http.exposition import client_exposition
from brokers.protocol.primitives import uuid_text
from brokers.records.batch import Compression
from brokers.records.compression import compress
from brokers.telemetry import series as series_module
from brokers.telemetry import service as service_module
from brokers.telemetry.otlp import Point, points
from brokers.telemetry.series import LABELS_MAX, SeriesStore
from brokers.telemetry.service import MAX_BYTES, Telemetry
from s3stream.errors import Corrupt, Unavailable
from s3stream.metrics import Metrics
from tests.support.partitions import FixedClock

A, B = UUID(int=77), UUID(int=78)


# --- OTLP, written by hand ------------------------------------------------------------------------


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def part(number: int, data: bytes | str) -> bytes:
    data = data.encode() if isinstance(data, str) else data
    return varint(number << 3 | 2) + varint(len(data)) + data


def whole(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value)


def double(number: int, value: float) -> bytes:
    return varint(number << 3 | 1) + struct.pack("<d", value)


def integer(number: int, value: int) -> bytes:
    return varint(number << 3 | 1) + struct.pack("<q", value)


def attribute(number: int, key: str, value: bytes) -> bytes:
    return part(number, part(1, key) + part(2, value))


def text(key: str, value: str, number: int = 7) -> bytes:
    return attribute(number, key, part(1, value))


def gauge(name: str, *data_points: bytes) -> bytes:
    return part(1, name) + part(5, b"".join(part(1, each) for each in data_points))


def total(name: str, *data_points: bytes, temporality: int = 1) -> bytes:
    return part(1, name) + part(7, b"".join(part(1, e) for e in data_points) + whole(2, temporality) + whole(3, 1))


def pushed(*metrics: bytes, resource: bytes = b"") -> bytes:
    scope = b"".join(part(2, metric) for metric in metrics)
    return part(1, part(1, resource) + part(2, scope))


def read(data: bytes) -> list[Point]:
    return list(points(memoryview(data)))


def test_gauges_sums_and_histograms_are_read() -> None:
    histogram = part(1, "h") + part(
        9, part(1, integer(4, 3) + double(5, 1.5) + text("x", "y", number=9)) + whole(2, 2)
    )  # fmt: skip
    data = pushed(
        gauge("g", double(4, 2.5) + text("topic", "t"), integer(6, -3)), total("s", double(4, 1.0)), histogram,
        resource=text("group_id", "grp", number=1),
    )  # fmt: skip
    of_resource = {"group_id": "grp"}
    assert read(data) == [
        Point("g", of_resource | {"topic": "t"}, 2.5, False, False),
        Point("g", of_resource, -3.0, False, False),
        Point("s", of_resource, 1.0, True, True),
        Point("h.count", of_resource | {"x": "y"}, 3.0, True, False),
        Point("h.sum", of_resource | {"x": "y"}, 1.5, True, False),
    ]


def test_attributes_of_every_kind_that_clients_write() -> None:
    values = (
        attribute(7, "yes", whole(2, 1)) + attribute(7, "no", whole(2, 0)) + attribute(7, "int", whole(3, 5))
        + attribute(7, "minus", whole(3, (1 << 64) - 5)) + attribute(7, "double", double(4, 0.5))
        + attribute(7, "list", part(5, b""))
    )  # fmt: skip
    (point,) = read(pushed(gauge("g", values)))
    assert point.attributes == {"yes": "true", "no": "false", "int": "5", "minus": "-5", "double": "0.5"}


BROKEN = {
    "an end inside a field": b"\x0a\x05abc",
    "an end inside a number": b"\x80",
    "a number without end": b"\x08" + b"\x80" * 11,
    "a wire type that is none": b"\x0b\x00",
    "a number for a message": whole(1, 5),
    "text that is none": pushed(part(1, b"\xff\xfe") + part(5, part(1, b""))),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_does_not_decode_is_corrupt(name: str) -> None:
    with pytest.raises(Corrupt):
        read(BROKEN[name])


GOOD = pushed(gauge("g", double(4, 2.5) + text("topic", "t")), total("s", double(4, 1.0)))


@settings(max_examples=300)
@given(position=st.integers(0, len(GOOD) - 1), byte=st.integers(0, 255), cut=st.integers(0, 10), noise=st.binary())
def test_no_bytes_raise_anything_else(position: int, byte: int, cut: int, noise: bytes) -> None:
    changed = bytearray(GOOD)
    changed[position] = byte
    for data in (bytes(changed[: len(changed) - cut]), noise):
        try:
            read(data)
        except Corrupt:
            pass


# --- the rules ------------------------------------------------------------------------------------


class Bench:
    def __init__(self, **subscriptions: dict[str, str]) -> None:
        self.stored: dict[str, dict[str, str]] = dict(subscriptions)
        self.version = 1
        self.reads = 0
        self.away = False
        self.clock: Any = FixedClock(0)
        ids = iter(range(1000, 10_000))
        self.telemetry = Telemetry(self, lambda: self.version, self.clock, Metrics(), lambda: UUID(int=next(ids)))
        self.ctx = self.context()

    def context(self, connection: int = 1, client_id: str | None = "c") -> Any:
        services = SimpleNamespace(telemetry=self.telemetry)
        return SimpleNamespace(
            connection_id=connection, client_id=client_id, client_host="10.0.0.1", client_port=9000 + connection,
            services=services,
        )  # fmt: skip

    async def configs_by_name(self, kind: str) -> dict[str, dict[str, str]]:
        assert kind == "client-metrics"
        self.reads += 1
        if self.away:
            raise Unavailable("away")
        return {name: dict(configs) for name, configs in self.stored.items()}

    def change(self, name: str, **configs: str) -> None:
        self.stored[name] = {key.replace("_", "."): value for key, value in configs.items()}
        self.version += 1
        self.pass_time(1.0)

    def pass_time(self, seconds: float) -> None:
        self.clock.ms += round(1000 * seconds)

    async def subscribe(self, instance: UUID | None = A, ctx: Any = None) -> Any:
        request = SimpleNamespace(client_instance_id=instance)
        try:
            return await get_telemetry_subscriptions.handle(ctx or self.ctx, request)
        except KafkaError as error:
            return get_telemetry_subscriptions.error_response(request, error.code, 0)

    async def push(
        self, data: bytes = b"", subscription: int | None = None, instance: UUID | None = A, codec: int = 0,
        terminating: bool = False,
    ) -> ErrorCode:  # fmt: skip
        known = self.telemetry._instances.get(instance) if instance is not None else None
        if subscription is None:
            subscription = known.wanted.subscription_id if known else 0
        request = SimpleNamespace(
            client_instance_id=instance, subscription_id=subscription, terminating=terminating, compression_type=codec,
            metrics=data,
        )  # fmt: skip
        try:
            answer = await push_telemetry.handle(self.ctx, request)
        except KafkaError as error:
            answer = push_telemetry.error_response(request, error.code, 0)
        return answer.error_code

    def shown(self) -> str:
        return client_exposition(self.telemetry.series.samples())


EVERYTHING = {"metrics": "*", "interval.ms": "1000"}


async def test_without_a_subscription_nothing_is_asked_for() -> None:
    bench = Bench()
    answer = await bench.subscribe(None)
    assert (answer.error_code, answer.requested_metrics) == (ErrorCode.none, ())
    assert answer.client_instance_id.int == 1000 and answer.push_interval.total_seconds() == 300
    assert answer.accepted_compression_types == (4, 3, 1, 2) and answer.telemetry_max_bytes == MAX_BYTES


async def test_subscriptions_that_match_are_put_together() -> None:
    bench = Bench(
        one={"metrics": "b,a", "interval.ms": "5000", "match": "client_id=c.*"},
        two={"metrics": "b,c", "interval.ms": "2000", "match": "client_software_name=java,client_id=c"},
        other={"metrics": "d", "interval.ms": "1000", "match": "client_id=x"},
        odd={"metrics": "e", "interval.ms": "no number"},
        elsewhere={"metrics": "f", "match": "client_source_port=9092"},
        itself={"metrics": "g", "match": "client_instance_id=AAAAAAAAAAAAAAAAAAAATg,client_source_port=9002"},
    )
    bench.telemetry.introduced(1, "java", "4.3")
    answer = await bench.subscribe()
    assert answer.requested_metrics == ("a", "b", "c") and answer.push_interval.total_seconds() == 2
    answer = await bench.subscribe(B, bench.context(connection=2))
    assert answer.requested_metrics == ("a", "b", "g"), "nobody knows what that client is, but which and whence"
    bench.change("all", metrics="*")
    bench.pass_time(300)
    assert (await bench.subscribe()).requested_metrics == ("*",)


async def test_pushes_are_shown_and_deltas_added_up() -> None:
    bench = Bench(all=EVERYTHING)
    bench.telemetry.introduced(1, "librdkafka", "2.6")
    await bench.subscribe()
    name = "org.apache.kafka.producer.record.send.total"
    for codec in Compression:
        data = bytes(compress(codec, pushed(total(name, double(4, 2.0)), gauge("g", double(4, 7.0)))))
        assert await bench.push(data, codec=codec) is ErrorCode.none
        bench.pass_time(1)
    labels = (
        f'client_id="c",client_instance_id="{uuid_text(A)}",client_software_name="librdkafka",client_software_version="2.6",'
        'client_source_address="10.0.0.1"'
    )
    assert bench.shown() == (
        f"# TYPE ponor_client_g gauge\nponor_client_g{{{labels}}} 7\n"
        "# TYPE ponor_client_producer_record_send_total counter\n"
        f"ponor_client_producer_record_send_total{{{labels}}} {2 * len(Compression)}\n"
    )


async def test_a_client_is_forgotten_with_the_connection_it_was_last_heard_on() -> None:
    bench = Bench(all=EVERYTHING)
    telemetry = bench.telemetry
    await bench.subscribe()
    await bench.push(pushed(gauge("g", double(4, 7.0))))
    await bench.subscribe(B, bench.context(connection=2))
    telemetry.connection_gone(2)
    telemetry.connection_gone(2)
    assert set(telemetry._instances) == {A} and bench.shown() != ""
    bench.pass_time(1)
    first, bench.ctx = bench.ctx, bench.context(connection=3)
    bench.change("more", metrics="x")  # it begins anew, on another connection
    assert await bench.push(subscription=0) is ErrorCode.unknown_subscription_id
    telemetry.connection_gone(first.connection_id)
    assert set(telemetry._instances) == {A} and bench.shown() != "", "it has moved"
    telemetry.connection_gone(3)
    assert not telemetry._instances and not telemetry._of_connection and bench.shown() == ""
    assert (await bench.subscribe()).error_code is ErrorCode.none, "at once, as one that nobody knows"


async def test_a_client_may_move_between_connections_and_share_them() -> None:
    bench = Bench(all=EVERYTHING)
    telemetry = bench.telemetry
    telemetry.introduced(1, "java", "4.3")
    for instance in (A, B):
        await bench.subscribe(instance)
    bench.pass_time(1)
    await bench.subscribe(A, bench.context(connection=2))
    telemetry.connection_gone(1)
    assert set(telemetry._instances) == {A} and not telemetry._software, "B was there alone by then"
    bench.pass_time(1)
    await bench.subscribe(A, bench.context(connection=3))
    telemetry.connection_gone(2)
    assert set(telemetry._instances) == {A}


async def test_what_is_known_of_connections_is_bounded_by_the_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "INSTANCES_MAX", 3)
    bench = Bench(all=EVERYTHING)
    for number in range(10):
        await bench.subscribe(UUID(int=100 + number), bench.context(connection=number % 5))
    assert len(bench.telemetry._of_connection) <= 3
    bench.pass_time(service_module.EXPIRY_S + 1)
    await bench.subscribe()
    assert bench.telemetry._of_connection == {1: A}


async def test_what_was_not_asked_for_is_not_kept() -> None:
    bench = Bench(some={"metrics": "org.apache.kafka.producer.,g", "interval.ms": "1000"})
    await bench.subscribe()
    await bench.push(pushed(gauge("org.apache.kafka.consumer.x", double(4, 1)), gauge("good", double(4, 1))))
    assert "consumer" not in bench.shown() and "ponor_client_good" in bench.shown()


async def test_kafkas_rules_of_time() -> None:
    bench = Bench(all=EVERYTHING)
    assert (await bench.subscribe()).error_code is ErrorCode.none
    assert (await bench.subscribe()).error_code is ErrorCode.throttling_quota_exceeded
    bench.pass_time(0.1)
    assert await bench.push() is ErrorCode.none, "the first one comes when the client likes"
    assert await bench.push() is ErrorCode.throttling_quota_exceeded
    bench.pass_time(1)
    assert await bench.push() is ErrorCode.none
    assert (await bench.subscribe()).error_code is ErrorCode.throttling_quota_exceeded, "a push counts too"
    assert await bench.push(terminating=True) is ErrorCode.none, "whoever goes may push at once"
    bench.pass_time(5)
    assert await bench.push() is ErrorCode.invalid_request, "and no more"


async def test_a_changed_subscription_is_fetched_at_once() -> None:
    bench = Bench(all=EVERYTHING)
    first = await bench.subscribe()
    await bench.push()
    bench.change("all", metrics="a", interval_ms="1000")
    assert await bench.push(subscription=first.subscription_id) is ErrorCode.unknown_subscription_id
    second = await bench.subscribe()
    assert second.error_code is ErrorCode.none and second.subscription_id != first.subscription_id
    assert (await bench.subscribe()).error_code is ErrorCode.throttling_quota_exceeded, "once"
    assert await bench.push() is ErrorCode.throttling_quota_exceeded, "that was its push of this interval"
    bench.pass_time(1)
    assert await bench.push() is ErrorCode.none
    bench.change("other", metrics="b", match="client_id=x")
    assert (await bench.subscribe()).subscription_id == second.subscription_id, "nothing changed for this one"


async def test_pushes_that_are_refused() -> None:
    bench = Bench(all=EVERYTHING)
    for nobody in (None, UUID(int=0), UUID(int=1)):
        assert await bench.push(instance=nobody) is ErrorCode.invalid_request
    await bench.subscribe()
    assert await bench.push(codec=9) is ErrorCode.unsupported_compression_type
    assert (await bench.subscribe()).error_code is ErrorCode.none, "to choose another codec"
    bench.pass_time(1)
    assert await bench.push(bytes(MAX_BYTES + 1)) is ErrorCode.telemetry_too_large
    bench.pass_time(1)
    assert await bench.push(b"\x0a\x05abc") is ErrorCode.invalid_record
    bench.pass_time(1)
    assert await bench.push(b"no gzip", codec=1) is ErrorCode.invalid_record
    bench.pass_time(1)
    bomb = bytes(compress(Compression.ZSTD, bytes(9 * MAX_BYTES)))
    assert await bench.push(bomb, codec=4) is ErrorCode.invalid_record


async def test_a_silent_client_is_forgotten_with_its_series() -> None:
    bench = Bench(all=EVERYTHING)
    await bench.subscribe()
    await bench.push(pushed(gauge("g", double(4, 1))))
    bench.pass_time(60)
    await bench.subscribe(B)
    assert bench.telemetry.series.count == 1
    bench.pass_time(1)
    await bench.subscribe(B)
    assert bench.telemetry.series.count == 0 and bench.shown() == ""


async def test_the_number_of_clients_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "INSTANCES_MAX", 3)
    bench = Bench(all=EVERYTHING)
    for number in range(2, 12):
        bench.telemetry.introduced(number, "x", "1")
        await bench.subscribe(UUID(int=number))
        assert await bench.push(pushed(gauge("g", double(4, 1))), instance=UUID(int=number)) is ErrorCode.none
    assert list(bench.telemetry._instances) == [UUID(int=number) for number in (9, 10, 11)]
    assert bench.telemetry.series.count == 3 and len(bench.telemetry._software) == 3


async def test_a_client_that_is_pushed_out_while_it_is_read_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "POINTS_PER_TURN", 2)
    bench = Bench(all=EVERYTHING)
    await bench.subscribe()
    data = pushed(*(gauge(f"g{number}", double(4, 1)) for number in range(5)))

    async def away(_: float) -> None:
        bench.telemetry._forget(A)

    monkeypatch.setattr(service_module.asyncio, "sleep", away)
    assert await bench.push(data) is ErrorCode.none
    assert bench.telemetry.series.count == 0


def test_series_are_bounded_by_client_and_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series_module, "SERIES_PER_CLIENT_MAX", 4)
    monkeypatch.setattr(series_module, "SERIES_MAX", 6)
    store = SeriesStore()
    for instance in (A, B):
        for number in range(10):
            store.take(instance, {}, Point(f"m{number}", {}, 1.0, False, False))
    assert (store.count, store.refused) == (6, 14)
    store.take(A, {}, Point("m0", {}, 5.0, False, False))
    assert (store.count, store.refused) == (6, 14), "what is known is still told"
    store.forget(A)
    store.forget(A)
    assert store.count == 2


def test_labels_are_bounded_and_the_clients_own_stay() -> None:
    store = SeriesStore()
    many = {f"a{number}": "v" for number in range(50)} | {"": "x", "9": "x", "__name__": "x"}
    store.take(A, {"client_id": "mine"}, Point("m", many | {"client_id": "yours", "b-c": "y" * 900}, 1, False, False))
    (sample,) = store.samples()
    labels = dict(sample.labels)
    assert len(labels) == LABELS_MAX and labels["client_id"] == "mine" and not {"", "9", "__name__"} & set(labels)
    store.take(B, {}, Point("m", {"b-c": "y" * 900}, 1, False, False))
    assert any(len(dict(found.labels).get("b_c", "")) == 200 for found in store.samples())


async def test_subscriptions_are_read_once_a_change_and_survive_an_outage() -> None:
    bench = Bench(all=EVERYTHING)
    for number in range(5, 10):
        await bench.subscribe(UUID(int=number))
    assert bench.reads == 1
    bench.away = True
    bench.change("all", metrics="a")
    assert (await bench.subscribe(A)).requested_metrics == ("*",)
    await bench.subscribe(B)
    assert bench.reads == 2, "and not asked again at once"
    bench.away = False
    bench.pass_time(1)
    assert (await bench.subscribe(UUID(int=50))).requested_metrics == ("a",)


@pytest.mark.parametrize(
    "pattern", ["x", "client_id", "client_id=", "=a", "client_color=blue", "client_id=(", "client_id=a=b"]
)
def test_patterns_that_are_none(pattern: str) -> None:
    with pytest.raises(ConfigError, match="Illegal client matching pattern"):
        validate_client_metrics_configs({"match": pattern})


def test_a_pattern_is_about_the_whole_value() -> None:
    pattern = parse_match(["client_id = a.c"])["client_id"]
    assert pattern.fullmatch("abc") and not pattern.fullmatch("abcd")
    assert parse_match(["client_id=a="])["client_id"].fullmatch("a"), "as Java splits it"
