"""librdkafka of another day, through its C functions, in a process of its own (two of them do not go into one).

    python -m tests.support.old_librdkafka LIBRARY BOOTSTRAP TOPIC COUNT

Produces COUNT records as an idempotent producer, reads them in a group, commits, and prints what it saw as JSON.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from ctypes import (
    POINTER,
    Structure,
    c_char_p,
    c_int,
    c_int32,
    c_int64,
    c_size_t,
    c_void_p,
    create_string_buffer,
)
from pathlib import Path
from typing import Any, Final

PRODUCER, CONSUMER = 0, 1
ANY_PARTITION: Final = -1
COPY: Final = 2
ERROR_BYTES: Final = 512
PATIENCE_MS: Final = 60_000


class Message(Structure):
    _fields_ = [
        ("err", c_int), ("topic", c_void_p), ("partition", c_int32), ("payload", c_void_p), ("len", c_size_t),
        ("key", c_void_p), ("key_len", c_size_t), ("offset", c_int64), ("private", c_void_p),
    ]  # fmt: skip


def load(library: Path) -> Any:
    found = ctypes.CDLL(str(library))
    for name in ("conf_new", "new", "topic_new", "topic_partition_list_new", "topic_partition_list_add"):
        getattr(found, f"rd_kafka_{name}").restype = c_void_p
    found.rd_kafka_consumer_poll.restype = POINTER(Message)
    found.rd_kafka_version_str.restype = c_char_p
    return found


class Client:
    def __init__(self, library: Any, kind: int, settings: dict[str, str], delivered: Any = None) -> None:
        self.lib = library
        error = create_string_buffer(ERROR_BYTES)
        conf = c_void_p(library.rd_kafka_conf_new())
        for name, value in settings.items():
            if library.rd_kafka_conf_set(conf, name.encode(), value.encode(), error, c_size_t(ERROR_BYTES)):
                raise RuntimeError(error.value.decode())
        if delivered is not None:
            library.rd_kafka_conf_set_dr_msg_cb(conf, delivered)
        self.handle = c_void_p(library.rd_kafka_new(kind, conf, error, c_size_t(ERROR_BYTES)))
        if not self.handle:
            raise RuntimeError(error.value.decode())


def produce(library: Any, bootstrap: str, topic: str, count: int) -> list[int]:
    """The error of each record."""
    errors: list[int] = []

    @ctypes.CFUNCTYPE(None, c_void_p, POINTER(Message), c_void_p)
    def delivered(_: int, message: Any, __: int) -> None:
        errors.append(message.contents.err)

    settings = {"bootstrap.servers": bootstrap, "enable.idempotence": "true", "compression.codec": "lz4"}
    client = Client(library, PRODUCER, settings, delivered)
    made = c_void_p(library.rd_kafka_topic_new(client.handle, topic.encode(), None))
    for number in range(count):
        value = b"%d" % number
        library.rd_kafka_produce(made, ANY_PARTITION, COPY, value, c_size_t(len(value)), None, c_size_t(0), None)
    library.rd_kafka_flush(client.handle, PATIENCE_MS)
    return errors


def consume(library: Any, bootstrap: str, topic: str, count: int) -> tuple[list[int], int]:
    """The values, and the error of the commit."""
    settings = {"bootstrap.servers": bootstrap, "group.id": "old", "auto.offset.reset": "earliest"}
    client = Client(library, CONSUMER, settings | {"enable.auto.commit": "false"})
    library.rd_kafka_poll_set_consumer(client.handle)
    topics = c_void_p(library.rd_kafka_topic_partition_list_new(1))
    library.rd_kafka_topic_partition_list_add(topics, topic.encode(), ANY_PARTITION)
    library.rd_kafka_subscribe(client.handle, topics)
    values: list[int] = []
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while len(values) < count and time.monotonic() < deadline:
        message = library.rd_kafka_consumer_poll(client.handle, 500)
        if message:
            if not message.contents.err:
                values.append(int(ctypes.string_at(message.contents.payload, message.contents.len)))
            library.rd_kafka_message_destroy(message)
    error = library.rd_kafka_commit(client.handle, None, 0)
    library.rd_kafka_consumer_close(client.handle)
    return values, error


def main(path: str, bootstrap: str, topic: str, count: str) -> None:
    library = load(Path(path))
    errors = produce(library, bootstrap, topic, int(count))
    values, commit = consume(library, bootstrap, topic, int(count))
    version = library.rd_kafka_version_str().decode()
    print(json.dumps({"version": version, "errors": errors, "values": values, "commit": commit}))


if __name__ == "__main__":
    main(*sys.argv[1:])
