"""Would the simulation of whole brokers notice? Each test takes one rule out and runs seeds until one fails.

The seed in the table is where the search begins: the first that found it when the table was made.
"""

from __future__ import annotations

import pytest

from tests.simulation import broken_rules as rules
from tests.simulation import broken_transactions as transactions
from tests.simulation.mutations import Break, found_out
from tests.support.sim.cluster import FILES, OBJECTS
from tests.support.sim.course import run_seed

SEEDS = 40
MUTATIONS: list[tuple[Break, str, int]] = [
    (rules.the_end_is_looked_for_and_no_seal_written, OBJECTS, 8),
    (rules.exists_already_is_taken_for_ones_own, OBJECTS, 2),
    (rules.a_stream_that_is_open_elsewhere_is_opened, OBJECTS, 4),
    (rules.a_restart_does_not_read_its_wal, FILES, 3),
    (rules.flushes_commit_in_any_order, FILES, 0),
    (rules.what_is_committed_is_committed_again, OBJECTS, 8),
    (rules.the_wal_is_trimmed_past_what_waits_for_its_commit, FILES, 3),
    (rules.groups_are_acknowledged_as_their_puts_end, OBJECTS, 8),
    (rules.a_put_is_durable_when_it_is_sent, OBJECTS, 1),
    (rules.streams_are_opened_before_what_was_read_is_committed, FILES, 1),
    (rules.groups_are_written_and_not_synced, FILES, 3),
    (rules.a_stream_is_closed_and_its_tail_not_written_down, FILES, 0),
    (rules.a_source_forgets_the_tails_that_it_closed_with, OBJECTS, 3),
    (rules.a_coordinator_loads_without_its_log, FILES, 16),
    (transactions.one_partition_of_several_gets_no_marker, FILES, 0),
    (transactions.whoever_ends_a_transaction_is_its_producer, FILES, 3),
    (transactions.a_decision_is_answered_and_sent_and_not_written_down, FILES, 5),
    (transactions.a_decision_that_is_loaded_sends_no_markers, OBJECTS, 6),
    (transactions.readers_of_committed_records_read_to_the_high_watermark, OBJECTS, 0),
    (transactions.aborted_transactions_are_not_told, OBJECTS, 0),
    (transactions.a_batch_is_appended_whatever_its_coordinator_says, OBJECTS, 0),
    (transactions.a_marker_ends_whatever_transaction_is_open, FILES, 8),
    (transactions.offsets_of_a_transaction_count_whatever_becomes_of_it, OBJECTS, 0),
    (transactions.offsets_are_read_while_a_transaction_is_open_on_them, FILES, 5),
]


@pytest.mark.parametrize(("broken", "kind", "first"), MUTATIONS, ids=[broken.__name__ for broken, _, _ in MUTATIONS])
def test_a_broken_cluster_is_found_out(broken: Break, kind: str, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    found_out(lambda seed: run_seed(seed, kind), [*range(first, SEEDS), *range(first)])
