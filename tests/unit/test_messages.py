"""kio's classes across versions: one handler shape serves them all."""

from __future__ import annotations

import struct
import subprocess
import sys
from dataclasses import fields
from random import Random
from typing import Any

import pytest
from kio.schema.errors import ErrorCode
from kio.serial import entity_reader

from brokers.protocol import messages
from brokers.protocol.apis import API_VERSIONS, APIS, NEVER
from brokers.protocol.primitives import MalformedRequest
from tests.support.kafka_wire import sample_message

EVERY_VERSION = [(api.key, version) for api in APIS.values() for version in range(api.min, api.max + 1)]


@pytest.mark.parametrize("api", APIS.values(), ids=lambda api: api.name)
def test_flexible_threshold_and_header_versions_are_kios(api) -> None:
    for version in range(api.min, api.max + 1):
        request = messages.request_class(api.key, version)
        response = messages.response_class(api.key, version)
        assert request.__flexible__ == (version >= api.flexible)
        assert request.__api_key__ == api.key
        assert api.request_header_version(version) == request.__header_schema__.__version__
        assert api.response_header_version(version) == response.__header_schema__.__version__


def test_api_versions_always_answers_with_header_0() -> None:
    api = APIS[API_VERSIONS]
    assert api.flexible < NEVER
    assert {api.response_header_version(version) for version in range(5)} == {0}


@pytest.mark.parametrize(("key", "version"), EVERY_VERSION)
def test_default_latest_response_is_written_and_read_in_every_version(key: int, version: int) -> None:
    latest = messages.response_class(key, APIS[key].max)
    values = {field.name: messages.default_of(field) for field in fields(latest)}
    if latest.__name__ == "JoinGroupResponse":
        values["protocol_name"] = ""  # nullable from version 7 only
    entity = latest(**values)
    cls = messages.response_class(key, version)
    data = messages.encode_response(key, version, entity)
    decoded, size = entity_reader(cls)(data, 0)
    assert size == len(data)
    assert messages.encode(cls, messages.convert(entity, cls)) == data
    assert messages.encode_response(key, version, decoded) == data


@pytest.mark.parametrize(("key", "version"), EVERY_VERSION)
def test_upgraded_request_keeps_shared_fields_and_defaults_the_rest(key: int, version: int) -> None:
    cls = messages.request_class(key, version)
    entity = cls(**{field.name: messages.default_of(field) for field in fields(cls)})
    upgraded = messages.decode_latest_request(key, version, messages.encode(cls, entity))
    assert upgraded.__class__ is messages.request_class(key, APIS[key].max)
    for field in fields(upgraded):
        if hasattr(entity, field.name):
            # Nested classes of two versions are equal in content, not in type.
            assert repr(getattr(upgraded, field.name)) == repr(getattr(entity, field.name))
        else:
            assert getattr(upgraded, field.name) == messages.default_of(field)


def test_nested_values_survive_both_ways() -> None:
    old = messages.request_class(2, 1)
    module = sys.modules[old.__module__]
    partition = module.ListOffsetsPartition(
        partition_index=3, timestamp=messages.default_of(fields(module.ListOffsetsPartition)[1])
    )
    request = old(replica_id=-1, topics=(module.ListOffsetsTopic(name="t", partitions=(partition,)),))
    latest = messages.decode_latest_request(2, 1, messages.encode(old, request))
    assert latest.topics[0].name == "t"
    assert latest.topics[0].partitions[0].partition_index == 3
    assert latest.topics[0].partitions[0].current_leader_epoch == -1
    assert latest.isolation_level == 0


def test_fields_that_only_old_versions_have_get_defaults_when_writing_them() -> None:
    latest = messages.response_class(3, 13)
    values = {field.name: messages.default_of(field) for field in fields(latest)}
    entity = latest(**values | {"error_code": ErrorCode.none})
    data = messages.encode_response(3, 10, entity)
    decoded, _ = entity_reader(messages.response_class(3, 10))(data, 0)
    assert decoded.cluster_authorized_operations == -(2**31)


def test_garbage_is_a_malformed_request() -> None:
    for data in (b"", b"\x00", b"\xff" * 40):
        with pytest.raises(MalformedRequest):
            messages.decode_request(2, 1, data)


def test_no_message_module_is_imported_before_it_is_needed() -> None:
    script = (
        "import sys, brokers.protocol.messages, brokers.handlers.table\n"
        "loaded = [m for m in sys.modules if m.startswith('kio.schema.') and m.endswith(('.request', '.response'))]\n"
        "handlers = [m for m in sys.modules if m.startswith('brokers.handlers.') and m[17:] != 'table']\n"
        "print(loaded, handlers)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] []"


@pytest.mark.parametrize(("key", "version"), EVERY_VERSION)
def test_decodes_what_kio_writes_and_reads(key: int, version: int) -> None:
    chance = Random(key * 100 + version)
    cls = messages.request_class(key, version)
    for _ in range(10):
        entity = sample_message(cls, chance)
        data = messages.encode(cls, entity)
        assert messages.decode_request(key, version, data) == entity == entity_reader(cls)(data, 0)[0]
        upgraded = messages.decode_latest_request(key, version, data)
        assert repr(upgraded) == repr(messages.convert(entity, messages.request_class(key, APIS[key].max)))


def test_unknown_tagged_fields_are_skipped() -> None:
    data = bytearray(messages.encode(messages.request_class(18, 3), api_versions_request()))
    assert data[-1] == 0
    data[-1:] = b"\x02\x64\x03abc\xff\x7f\x00"
    assert messages.decode_request(18, 3, bytes(data)) == api_versions_request()


def test_a_known_tagged_field_is_read_among_unknown_ones() -> None:
    cls = messages.request_class(1, 12)
    values = {field.name: messages.default_of(field) for field in fields(cls)}
    plain = bytearray(messages.encode(cls, cls(**values)))
    plain[-1:] = b"\x02\x00\x03\x03me\x09\x01x"
    assert messages.decode_request(1, 12, bytes(plain)).cluster_id == "me"


def api_versions_request() -> Any:
    return messages.request_class(18, 3)(client_software_name="a", client_software_version="b")


def test_lengths_that_promise_the_impossible_cost_nothing() -> None:
    with pytest.raises(MalformedRequest):
        messages.decode_request(3, 9, b"\xff\xff\xff\xff\x0f" + bytes(50))
    with pytest.raises(MalformedRequest):
        messages.decode_request(2, 1, struct.pack(">iii", -1, 1, 0x7FFFFFFF))
    crowd = struct.pack(">i", 600_000) + struct.pack(">h", 0) * 600_000
    with pytest.raises(MalformedRequest, match="elements"):
        messages.decode_request(3, 0, crowd)
