"""What applications do, through every client library, on Ponor and on Apache Kafka 4.3: a test that Kafka would fail
says nothing of Ponor."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from tests.compatibility.drivers.aio import AioDriver
from tests.compatibility.drivers.confluent import ConfluentDriver
from tests.compatibility.drivers.driver import PATIENCE_S, Driver, Found, Member, Place, Record, Refused
from tests.compatibility.drivers.java_clients import JavaDriver
from tests.compatibility.drivers.kafka_python import KafkaPythonDriver

COMPRESSIONS = ("none", "gzip", "snappy", "lz4", "zstd")
FIRST = Record().timestamp
RECORDS = [
    Record(b"key", b"value"),
    Record(None, b"without a key"),
    Record(b"tombstone", None, timestamp=FIRST + 1),
    Record(b"headers", b"", (("trace", b"\x00\xff"), ("trace", b"twice"), ("empty", b"")), FIRST + 1),
    Record("ключ".encode(), "значение ✓".encode(), timestamp=FIRST + 5),
    Record(b"large", b"x" * 100_000, timestamp=FIRST + 9),
]
CLIENTS: dict[str, Callable[[str], Driver]] = {
    "confluent-kafka": ConfluentDriver,
    "aiokafka": AioDriver,
    "kafka-python": KafkaPythonDriver,
    "java": JavaDriver,
}
MEMBERS = [*((client, "classic") for client in CLIENTS), ("confluent-kafka", "consumer"), ("java", "consumer")]


class Drivers:
    """Of one system, each made when it is first asked for."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._made: dict[str, Driver] = {}

    def __getitem__(self, client: str) -> Driver:
        if client not in self._made:
            self._made[client] = CLIENTS[client](self._bootstrap)
        return self._made[client]

    def close(self) -> None:
        for driver in self._made.values():
            driver.close()


@pytest.fixture(scope="module", params=["Ponor", "Kafka"])
def drivers(request: pytest.FixtureRequest, ponor_port: int, kafka_port: int | None) -> Iterator[Drivers]:
    port = ponor_port if request.param == "Ponor" else kafka_port
    if port is None:
        pytest.skip("Apache Kafka is not installed, or not to be asked: python3 tools/install.py kafka")
    made = Drivers(f"127.0.0.1:{port}")
    yield made
    made.close()


@pytest.fixture(params=CLIENTS)
def driver(request: pytest.FixtureRequest, drivers: Drivers) -> Driver:
    return drivers[request.param]


@pytest.fixture
def name() -> str:
    return f"clients-{os.urandom(4).hex()}"


@pytest.fixture
def place(driver: Driver, name: str) -> Place:
    return topic(driver, name)


def topic(driver: Driver, name: str, partitions: int = 1, configs: Mapping[str, str] | None = None) -> Place:
    """Its first partition. Kafka's broker knows of a topic a moment after the answer."""
    driver.create_topic(name, partitions, configs)
    eventually(lambda: empty(driver, Place(name, partitions - 1)), True)
    return Place(name)


def empty(driver: Driver, place: Place) -> bool:
    try:
        return driver.ends(place) == (0, 0)
    except Refused:
        return False


def refused(code: ErrorCode, what: Callable[..., object], *arguments: Any) -> None:
    with pytest.raises(Refused) as caught:
        what(*arguments)
    assert ErrorCode(caught.value.code) is code


def eventually(read: Callable[[], object], wanted: object) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while (found := read()) != wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    assert found == wanted


def polled(member: Member, count: int) -> list[tuple[Place, Found]]:
    found: list[tuple[Place, Found]] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(found) < count and time.monotonic() < deadline:
        found += member.poll()
    return found


def values(found: list[Found]) -> list[bytes | None]:
    return [item.record.value for item in found]


def numbered(first: int, last: int) -> list[Record]:
    return [Record(None, str(number).encode()) for number in range(first, last)]


# --- records -------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_records_come_back_as_they_were_sent(driver: Driver, place: Place, compression: str) -> None:
    assert driver.produce(place, RECORDS, compression) == [*range(len(RECORDS))]
    assert driver.read(place, 0, len(RECORDS)) == [Found(offset, record) for offset, record in enumerate(RECORDS)]
    assert driver.read(place, 3, 2) == [Found(3, RECORDS[3]), Found(4, RECORDS[4])]


def test_offsets_are_found_by_time(driver: Driver, place: Place) -> None:
    driver.produce(place, RECORDS)
    assert driver.ends(place) == (0, len(RECORDS))
    asked = (0, FIRST, FIRST + 1, FIRST + 2, FIRST + 9, FIRST + 10)
    assert [driver.offset_at(place, timestamp) for timestamp in asked] == [0, 0, 2, 4, 5, None]


def test_what_is_deleted_is_not_read(driver: Driver, place: Place) -> None:
    driver.produce(place, numbered(0, 5))
    driver.delete_records(place, 3)
    assert driver.ends(place) == (3, 5)
    assert values(driver.read(place, 3, 10)) == [b"3", b"4"]
    refused(ErrorCode.offset_out_of_range, driver.delete_records, place, 6)


def test_a_record_larger_than_the_topic_takes_is_refused(driver: Driver, name: str) -> None:
    topic(driver, name, 1, {"max.message.bytes": "1000"})
    refused(ErrorCode.message_too_large, driver.produce, Place(name), [Record(None, os.urandom(2000))])
    assert driver.produce(Place(name), numbered(0, 1)) == [0]


# --- topics --------------------------------------------------------------------------------------


def test_topics_live_and_die(driver: Driver, name: str) -> None:
    topic(driver, name, 2, {"retention.ms": "7200000", "cleanup.policy": "compact"})
    refused(ErrorCode.topic_already_exists, driver.create_topic, name)
    assert driver.topic_config(name, "retention.ms") == "7200000"
    assert driver.topic_config(name, "cleanup.policy") == "compact"
    driver.add_partitions(name, 4)
    refused(ErrorCode.invalid_partitions, driver.add_partitions, name, 3)
    eventually(lambda: empty(driver, Place(name, 3)), True)
    driver.delete_topic(name)
    refused(ErrorCode.unknown_topic_or_partition, driver.delete_topic, name)
    refused(ErrorCode.unknown_topic_or_partition, driver.add_partitions, name, 9)


def test_what_cannot_be_a_topic_is_refused(driver: Driver, name: str) -> None:
    refused(ErrorCode.invalid_topic_exception, driver.create_topic, f"{name} with blanks")
    refused(ErrorCode.invalid_partitions, driver.create_topic, name, 0)
    refused(ErrorCode.invalid_config, driver.create_topic, name, 1, {"retention.ms": "soon"})
    refused(ErrorCode.invalid_config, driver.create_topic, name, 1, {"no.such.config": "1"})


# --- groups --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("client", "protocol"), MEMBERS)
def test_the_next_member_goes_on_where_the_last_one_committed(
    drivers: Drivers, client: str, protocol: str, name: str
) -> None:
    driver = drivers[client]
    place = topic(driver, name)
    driver.produce(place, numbered(0, 5))
    member = driver.join(name, name, protocol)
    assert values([found for _, found in polled(member, 5)]) == [b"0", b"1", b"2", b"3", b"4"]
    assert member.committed(place) is None
    member.commit(place, 3, "so far")
    offset, metadata = member.committed(place) or (None, "")
    assert offset == 3 and metadata in ("so far", "aiokafka does not tell")
    member.close()
    assert driver.group_offset(name, place) == 3
    member = driver.join(name, name, protocol)
    assert values([found for _, found in polled(member, 2)]) == [b"3", b"4"]
    member.close()
    eventually(lambda: driver.group_state(name).upper(), "EMPTY")


@pytest.mark.parametrize(("client", "protocol"), MEMBERS)
def test_members_share_partitions_and_take_over(drivers: Drivers, client: str, protocol: str, name: str) -> None:
    driver = drivers[client]
    topic(driver, name, 4)
    every = {Place(name, partition) for partition in range(4)}
    one = driver.join(name, name, protocol)
    members = [one]

    def assigned() -> list[int]:
        for member in members:
            member.poll()
        held = [member.assigned() for member in members]
        whole = set().union(*held) == every and sum(map(len, held)) == len(every)
        return sorted(map(len, held)) if whole else []

    eventually(assigned, [4])
    two = driver.join(name, name, protocol)
    members.append(two)
    eventually(assigned, [2, 2])
    one.close()
    members.remove(one)
    eventually(assigned, [4])
    two.close()


# --- transactions --------------------------------------------------------------------------------


def test_committed_records_are_read_and_aborted_ones_are_not(driver: Driver, place: Place, name: str) -> None:
    producer = driver.transactional(name)
    for value, end in ((b"kept", producer.commit), (b"dropped", producer.abort), (b"kept too", producer.commit)):
        producer.begin()
        producer.send(place, value)
        end()
    eventually(lambda: values(driver.read(place, 0, 9, "read_committed")), [b"kept", b"kept too"])
    assert values(driver.read(place, 0, 3)) == [b"kept", b"dropped", b"kept too"]
    producer.begin()
    producer.send(place, b"undecided")
    assert values(driver.read(place, 0, 9, "read_committed")) == [b"kept", b"kept too"]
    producer.abort()
    producer.close()


def test_offsets_are_committed_with_the_transaction_or_not_at_all(driver: Driver, place: Place, name: str) -> None:
    producer = driver.transactional(name)
    for offset, end in ((7, producer.commit), (9, producer.abort)):
        producer.begin()
        producer.send(place, b"derived")
        producer.send_offsets(name, place, offset)
        end()
        eventually(lambda: driver.group_offset(name, place), 7)
    producer.close()


def test_a_producer_is_fenced_by_the_next_of_its_name(driver: Driver, place: Place, name: str) -> None:
    zombie = driver.transactional(name)
    zombie.begin()
    zombie.send(place, b"of the zombie")
    successor = driver.transactional(name)
    with pytest.raises(Refused) as caught:
        zombie.commit()
    assert ErrorCode(caught.value.code) in (ErrorCode.invalid_producer_epoch, ErrorCode.producer_fenced)
    successor.begin()
    successor.send(place, b"of its successor")
    successor.commit()
    eventually(lambda: values(driver.read(place, 0, 9, "read_committed")), [b"of its successor"])
    zombie.close()
    successor.close()
