"""What each component is told, from the one configuration of the broker."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from brokers import preflight
from brokers.config import BrokerConfig
from brokers.config_def import protocol_bounds
from brokers.controller.balancer import Bounds
from brokers.controller.balancing import BalancingSettings
from brokers.controller.controller import ControllerSettings
from brokers.groups.config import ConsumerConfig, GroupConfig, MigrationPolicy, ShareConfig, StreamsConfig
from brokers.partitions.settings import PartitionSettings
from brokers.server.settings import ServerSettings
from brokers.shares.config import ShareCoordinatorConfig
from brokers.shares.settings import ShareDefaults
from brokers.transactions.config import TransactionConfig
from wal import ObjectWalSettings

IDLE_PER_MOVE: Final = 10
"""Partitions without load that count as one move: a thousand at a time, where a hundred with load may be under way.
Their movement is three transactions of half a second on a busy machine."""


def with_ports(config: BrokerConfig) -> BrokerConfig:
    """Ports of 0 become free ones: a broker registers its address before it listens."""
    listener, advertised, http_port = config.listener, config.advertised, config.http_port
    if listener.port == 0:
        listener = replace(listener, port=preflight.free_port(listener.host))
        if advertised.port == 0:
            advertised = replace(advertised, port=listener.port)
    if http_port == 0:
        http_port = preflight.free_port(config.http_host)
    return replace(config, listener=listener, advertised=advertised, http_port=http_port)


def server_settings(config: BrokerConfig) -> ServerSettings:
    return ServerSettings(
        host=config.listener.host,
        port=config.listener.port,
        listener=config.listener.name,
        request_bytes_max=config.socket_request_max_bytes,
        idle_max_ms=config.connections_max_idle_ms,
        connections_max=config.max_connections,
        backlog=config.socket_listen_backlog_size,
    )


def object_wal_settings(config: BrokerConfig) -> ObjectWalSettings:
    return ObjectWalSettings(
        bytes_max=config.wal_bytes_max,
        linger_ms=config.wal_linger_ms,
        puts_per_second_max=config.wal_puts_per_second_max,
    )


def group_config(config: BrokerConfig) -> GroupConfig:
    return GroupConfig(
        offsets_topic_partitions=config.offsets_topic_num_partitions,
        offset_metadata_max=config.offset_metadata_max_bytes,
        commit_timeout_ms=config.offsets_commit_timeout_ms,
        offsets_retention_ms=config.offsets_retention_minutes * 60_000,
        offsets_retention_check_interval_ms=config.offsets_retention_check_interval_ms,
        session_timeout_min_ms=config.group_min_session_timeout_ms,
        session_timeout_max_ms=config.group_max_session_timeout_ms,
        initial_rebalance_delay_ms=config.group_initial_rebalance_delay_ms,
        group_max_size=config.group_max_size,
        share=ShareConfig(
            bounds=protocol_bounds("share", config.values),
            session_timeout_ms=config.group_share_session_timeout_ms,
            heartbeat_interval_ms=config.group_share_heartbeat_interval_ms,
            assignment_interval_ms=config.group_share_assignment_interval_ms,
            max_size=config.group_share_max_size,
            initialize_retry_ms=config.group_share_initialize_retry_interval_ms,
        ),
        streams=StreamsConfig(
            bounds=protocol_bounds("streams", config.values),
            session_timeout_ms=config.group_streams_session_timeout_ms,
            heartbeat_interval_ms=config.group_streams_heartbeat_interval_ms,
            assignment_interval_ms=config.group_streams_assignment_interval_ms,
            max_size=config.group_streams_max_size,
            num_standby_replicas=config.group_streams_num_standby_replicas,
            initial_rebalance_delay_ms=config.group_streams_initial_rebalance_delay_ms,
        ),
        consumer=ConsumerConfig(
            bounds=protocol_bounds("consumer", config.values),
            session_timeout_ms=config.group_consumer_session_timeout_ms,
            heartbeat_interval_ms=config.group_consumer_heartbeat_interval_ms,
            assignment_interval_ms=config.group_consumer_assignment_interval_ms,
            max_size=config.group_consumer_max_size,
            assignors=config.group_consumer_assignors,
            migration_policy=MigrationPolicy(config.group_consumer_migration_policy.lower()),
            regex_refresh_interval_ms=config.group_consumer_regex_refresh_interval_ms,
            classic_size_max=config.group_max_size,
        ),
    )


def transaction_config(config: BrokerConfig) -> TransactionConfig:
    return TransactionConfig(
        topic_partitions=config.transaction_state_log_num_partitions,
        timeout_max_ms=config.transaction_max_timeout_ms,
        id_expiration_ms=config.transactional_id_expiration_ms,
        abort_interval_ms=config.transaction_abort_timed_out_transaction_cleanup_interval_ms,
        expire_interval_ms=config.transaction_remove_expired_transaction_cleanup_interval_ms,
    )


def share_coordinator_config(config: BrokerConfig) -> ShareCoordinatorConfig:
    return ShareCoordinatorConfig(
        topic_partitions=config.share_coordinator_state_topic_num_partitions,
        updates_per_snapshot=config.share_coordinator_snapshot_update_records_per_snapshot,
        write_timeout_ms=config.share_coordinator_write_timeout_ms,
    )


def share_defaults(config: BrokerConfig) -> ShareDefaults:
    return ShareDefaults(
        deliveries=config.group_share_delivery_count_limit,
        records=config.group_share_partition_max_record_locks,
        lock_ms=config.group_share_record_lock_duration_ms,
        bounds=protocol_bounds("share", config.values),
    )


def partition_settings(config: BrokerConfig) -> PartitionSettings:
    return PartitionSettings(
        retention_check_interval_ms=config.log_retention_check_interval_ms,
        producer_id_expiration_ms=config.producer_id_expiration_ms,
    )


def controller_settings(config: BrokerConfig) -> ControllerSettings:
    return ControllerSettings(config.lease_ms / 1000, config.heartbeat_ms / 1000)


def balancing_settings(config: BrokerConfig) -> BalancingSettings:
    most = config.balancer_moves_max
    # A broker that comes or goes has a part in every move; the others are to keep room for theirs.
    bounds = Bounds(
        moves_max=most, moves_per_node_max=min(most, Bounds().moves_per_node_max), idle_per_move=IDLE_PER_MOVE
    )
    return BalancingSettings(config.balancer_enable, bounds)
