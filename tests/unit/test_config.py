"""Settings: parsing in Kafka's words, what follows from them, and where they come from."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokers.cli.sources import VARIABLES, check_shared, from_assignments, from_environment, from_toml, own_rack
from brokers.component_settings import group_config
from brokers.config import broker_config, log_config, topic_defaults
from brokers.config_def import BROKER_CONFIGS, GROUP_CONFIGS, TOPIC_CONFIGS, ConfigError, ConfigType, render
from brokers.partitions.log_config import LogConfig
from s3stream.errors import BadSetting


def test_every_default_passes_its_own_check() -> None:
    for table in (BROKER_CONFIGS, TOPIC_CONFIGS, GROUP_CONFIGS):
        for key in table.values():
            text = render(key.default)
            if text is not None:
                assert key.parse(text) == key.default, key.name


def test_topic_defaults_are_those_of_the_broker_and_of_a_log() -> None:
    defaults = topic_defaults(broker_config().values)
    assert defaults == {name: key.default for name, key in TOPIC_CONFIGS.items()}
    assert log_config({}, defaults) == LogConfig()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("num.partitions", "0", "Invalid value 0 for configuration num.partitions: Value must be at least 1"),
        ("num.partitions", "2147483648", "Not a number of type INT"),
        ("num.partitions", "1.0", "Not a number of type INT"),
        ("auto.create.topics.enable", "yes", "Expected value to be either true or false"),
        ("ponor.block.compression", "lz4", "String must be one of: none, zstd"),
        ("log.cleanup.policy", "compact,,delete", "values must not be empty"),
        ("log.cleanup.policy", "delete,delete", "values must not be duplicated"),
        ("listeners", "", "must not be empty. Valid values include: any non-empty value"),
        ("log.cleaner.min.cleanable.ratio", "1.5", "Value must be no more than 1"),
        ("log.cleaner.min.cleanable.ratio", "half", "Not a number of type DOUBLE"),
        ("log.cleaner.min.cleanable.ratio", "0_1", "Not a number of type DOUBLE"),
        ("compression.gzip.level", "0", "Value must be between 1 and 9 or equal to -1"),
        ("compression.gzip.level", "10", "Value must be between 1 and 9 or equal to -1"),
        ("ponor.memory.bytes", "1", "Value must be at least 67108864"),
    ],
)
def test_a_bad_value_is_named_with_what_is_wrong(name: str, text: str, words: str) -> None:
    with pytest.raises(BadSetting) as fault:
        broker_config({name: text})
    assert name in str(fault.value)
    assert words in str(fault.value)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"session.timeout.ms": "44999"},
            "session.timeout.ms must be greater than or equal to group.consumer.min.session",
        ),
        ({"heartbeat.interval.ms": "15001"}, "heartbeat.interval.ms must be less than or equal to group.consumer.max."),
        ({"min.assignment.interval.ms": "15001"}, "max.assignment.interval.ms must be greater than or equal to group."),
        (
            {"min.session.timeout.ms": "5000", "session.timeout.ms": "5000"},
            "heartbeat.interval.ms must be less than group.consumer.session.timeout.ms",
        ),
    ],
)
def test_what_a_broker_is_told_of_consumer_groups_fits_together(settings: dict[str, str], words: str) -> None:
    with pytest.raises(BadSetting, match=f"group.consumer.{words}"):
        broker_config({f"group.consumer.{name}": value for name, value in settings.items()})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"session.timeout.ms": "44999"},
            "session.timeout.ms must be greater than or equal to group.share.min.session",
        ),
        (
            {"record.lock.duration.ms": "60001"},
            "record.lock.duration.ms must be less than or equal to group.share.max.",
        ),
        ({"delivery.count.limit": "10", "max.delivery.count.limit": "9"}, "delivery.count.limit must be less than"),
        ({"partition.max.record.locks": "4001"}, "partition.max.record.locks must be less than or equal to group."),
        ({"max.share.sessions": "199"}, "max.share.sessions must be greater than or equal to group.share.max.size"),
    ],
)
def test_what_a_broker_is_told_of_share_groups_fits_together(settings: dict[str, str], words: str) -> None:
    with pytest.raises(BadSetting, match=f"group.share.{words}"):
        broker_config({f"group.share.{name}": value for name, value in settings.items()})


def test_a_groups_own_config_that_the_broker_allows_no_more_counts_as_the_bound() -> None:
    config = group_config(broker_config({"group.consumer.min.session.timeout.ms": "40000"})).consumer

    def of(session: int, interval: int) -> tuple[int, int]:
        own = config.with_group({"session.timeout.ms": session, "assignment.interval.ms": interval})
        return own.session_timeout_ms, own.assignment_interval_ms

    assert of(39_999, 15_001) == (40_000, 15_000)
    assert of(41_000, 0) == (41_000, 0)
    assert of(60_001, 1) == (60_000, 1)
    assert config.with_group({}) == config


def test_a_lease_has_room_for_heartbeats_that_come_late() -> None:
    assert broker_config({"ponor.lease.ms": "3000", "ponor.heartbeat.ms": "1000"})
    with pytest.raises(BadSetting, match=r"ponor\.lease\.ms \(2999\) must be at least 3 times ponor\.heartbeat\.ms"):
        broker_config({"ponor.lease.ms": "2999", "ponor.heartbeat.ms": "1000"})


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("ponor.object.store.url", "memory:"), ("ponor.metadata.url", "memory:"), ("ponor.metadata.url", "sqlite://"),
        ("ponor.metadata.url", "sqlite:///:memory:"),
    ],
)  # fmt: skip
def test_several_brokers_share_no_store_that_is_one_process_own(name: str, url: str) -> None:
    check_shared({"ponor.object.store.url": "s3://bucket", "ponor.metadata.url": "sqlite:////data/metadata.db"})
    with pytest.raises(BadSetting, match=f"{name}: .* is one process's own"):
        check_shared({name: url})


def test_racks_are_names_joined_by_commas() -> None:
    assert [own_rack({}, number, "a, b").get("broker.rack") for number in range(3)] == ["a", "b", "a"]
    assert own_rack({"x": "1"}, 0, None) == {"x": "1"}
    for racks in ("", "a,", ",a", "a,,b"):
        with pytest.raises(BadSetting, match=r"--racks .*: write it as NAME,NAME"):
            own_rack({}, 0, racks)


def test_an_unknown_setting_is_answered_with_the_nearest() -> None:
    with pytest.raises(BadSetting, match=r"'num.partition': the nearest is 'num.partitions'"):
        broker_config({"num.partition": "3"})


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        (" TRUE ", ConfigType.BOOLEAN, True),
        (" a , b,c ", ConfigType.LIST, ("a", "b", "c")),
        ("", ConfigType.LIST, ()),
        ("-1", ConfigType.LONG, -1),
        ("+7", ConfigType.SHORT, 7),
        (".5", ConfigType.DOUBLE, 0.5),
    ],
)
def test_values_are_read_as_kafka_reads_them(text: str, kind: ConfigType, value: object) -> None:
    from brokers.config_def.types import parse

    assert parse("x", text, kind) == value


@given(st.text(max_size=20), st.sampled_from(sorted(TOPIC_CONFIGS)))
def test_any_text_is_taken_or_refused_and_what_is_taken_renders_to_itself(text: str, name: str) -> None:
    key = TOPIC_CONFIGS[name]
    try:
        value = key.parse(text)
    except ConfigError:
        return
    shown = render(value)
    assert shown is not None
    assert key.parse(shown) == value


# --- what follows --------------------------------------------------------------------------------


def test_stores_are_in_the_data_folder_unless_told_otherwise(tmp_path: Path) -> None:
    config = broker_config({"ponor.data.dir": str(tmp_path), "node.id": "3", "ponor.wal.url": "memory:"})
    assert config.object_store_url == f"file://{tmp_path}/objects"
    assert config.metadata_url == f"sqlite:///{tmp_path}/metadata.db"
    assert config.wal_url == "memory:"
    assert config.broker_dir == tmp_path / "broker-3"
    assert broker_config({"ponor.data.dir": str(tmp_path)}).wal_url == f"file://{tmp_path}/broker-0/wal"


def test_the_memory_budget_is_a_quarter_of_the_machine_at_most_four_gib() -> None:
    assert 64 << 20 <= broker_config().memory_bytes <= 4 << 30
    assert broker_config({"ponor.memory.bytes": str(1 << 29)}).memory_bytes == 1 << 29


def test_the_older_name_of_the_node_id_counts_when_the_newer_is_not_given() -> None:
    assert broker_config({"broker.id": "4"}).node_id == 4
    assert broker_config({"broker.id": "4", "node.id": "5"}).node_id == 5


@pytest.mark.parametrize(
    ("settings", "listener", "advertised"),
    [
        ({}, "PLAINTEXT://127.0.0.1:9092", "PLAINTEXT://127.0.0.1:9092"),
        ({"listeners": "PLAINTEXT://[::1]:1"}, "PLAINTEXT://[::1]:1", "PLAINTEXT://[::1]:1"),
        (
            {"listeners": "PLAINTEXT://:2", "advertised.listeners": "PLAINTEXT://kafka.example:9"},
            "PLAINTEXT://:2",
            "PLAINTEXT://kafka.example:9",
        ),
    ],
)
def test_listeners(settings: dict[str, str], listener: str, advertised: str) -> None:
    config = broker_config(settings)
    assert (str(config.listener), str(config.advertised)) == (listener, advertised)


def test_a_wildcard_listener_advertises_the_hosts_name() -> None:
    config = broker_config({"listeners": "PLAINTEXT://0.0.0.0:1"})
    assert config.advertised.host not in ("", "0.0.0.0")
    assert config.advertised.port == 1


@pytest.mark.parametrize(
    "text", ["127.0.0.1:9092", "PLAINTEXT://x", "SSL://x:1", "PLAINTEXT://x:99999", "A://x:1,B://y:2"]
)
def test_listeners_that_make_no_sense(text: str) -> None:
    with pytest.raises(BadSetting, match="listeners"):
        broker_config({"listeners": text})


@pytest.mark.parametrize(
    ("settings", "retention_ms"),
    [
        ({"log.retention.hours": "2"}, 7_200_000),
        ({"log.retention.hours": "2", "log.retention.minutes": "3"}, 180_000),
        ({"log.retention.hours": "2", "log.retention.ms": "4"}, 4),
        ({"log.retention.hours": "-1"}, -1),
    ],
)
def test_the_finest_retention_wins(settings: dict[str, str], retention_ms: int) -> None:
    assert log_config({}, topic_defaults(broker_config(settings).values)).retention_ms == retention_ms


def test_a_topics_own_configs_go_before_the_brokers() -> None:
    defaults = topic_defaults(broker_config({"message.max.bytes": "10", "log.cleanup.policy": "compact"}).values)
    found = log_config({"max.message.bytes": "20"}, defaults)
    assert (found.max_message_bytes, found.cleanup_policy) == (20, ("compact",))


# --- sources -------------------------------------------------------------------------------------


def test_every_setting_has_a_variable_of_its_own() -> None:
    assert VARIABLES["PONOR_FLUSH_BYTES"] == "ponor.flush.bytes"
    assert VARIABLES["PONOR_NUM_PARTITIONS"] == "num.partitions"
    assert set(VARIABLES.values()) == set(BROKER_CONFIGS)


def test_variables_are_read_and_unknown_ones_refused() -> None:
    assert from_environment({"PONOR_NUM_PARTITIONS": "3", "HOME": "/"}) == {"num.partitions": "3"}
    with pytest.raises(BadSetting, match="PONOR_NUM_PARTITION: the nearest is PONOR_NUM_PARTITIONS"):
        from_environment({"PONOR_NUM_PARTITION": "3"})


def test_toml_by_dotted_names_and_tables(tmp_path: Path) -> None:
    file = tmp_path / "ponor.toml"
    file.write_text(
        '"num.partitions" = 3\nlog.retention.hours = 5\nlog.cleanup.policy = ["compact", "delete"]\n'
        "auto.create.topics.enable = false\n[ponor.flush]\nbytes = 1048576\n"
    )
    assert from_toml(file) == {
        "num.partitions": "3",
        "log.retention.hours": "5",
        "log.cleanup.policy": "compact,delete",
        "auto.create.topics.enable": "false",
        "ponor.flush.bytes": "1048576",
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("num = ", "not TOML"),
        ("num.partition = 3", "the nearest is 'num.partitions'"),
        ("num.partitions = 2020-01-01", "date"),
    ],
)
def test_toml_faults_name_the_file(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "ponor.toml"
    file.write_text(text)
    with pytest.raises(BadSetting) as fault:
        from_toml(file)
    assert str(file) in str(fault.value)
    assert words in str(fault.value)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match=r"--config: cannot read .*No such file"):
        from_toml(tmp_path / "nope.toml")


@pytest.mark.parametrize(("text", "words"), [("num.partitions", "NAME=VALUE"), ("x=1", "unknown setting 'x'")])
def test_assignments_that_are_none(text: str, words: str) -> None:
    with pytest.raises(BadSetting, match=words):
        from_assignments([text])


def test_an_assignment_may_hold_an_equals_sign() -> None:
    assert from_assignments(["ponor.object.store.url=s3://b?endpoint=x"]) == {
        "ponor.object.store.url": "s3://b?endpoint=x"
    }


def test_racks_are_given_out_in_turn() -> None:
    given = {"node.id": "1"}
    assert own_rack(given, 1, None) == given
    assert [own_rack(given, number, "a, b")["broker.rack"] for number in range(3)] == ["a", "b", "a"]
    with pytest.raises(BadSetting, match="NAME,NAME"):
        own_rack(given, 0, "a,,b")


def test_consumers_are_sent_to_their_racks_only_where_kafkas_switch_says_so() -> None:
    name = "replica.selector.class"
    assert not broker_config().rack_aware
    assert broker_config({name: "org.apache.kafka.common.replica.RackAwareReplicaSelector"}).rack_aware
    with pytest.raises(BadSetting, match="must be one of"):
        broker_config({name: "my.own.Selector"})
