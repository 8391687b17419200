"""What a topology comes to with the topics that there are: counts, topics to be made, faults in Kafka's words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.groups.streams.configuration import ConfiguredTopology, configure, summarized
from brokers.groups.streams.messages import Status, StatusCode
from brokers.groups.streams.topology import CopartitionGroup, Subtopology, TopicInfo, Topology

MISSING, WRONG = StatusCode.MISSING_INTERNAL_TOPICS, StatusCode.INCORRECTLY_PARTITIONED_TOPICS


def configured(subtopologies: dict[str, Subtopology], topics: dict[str, int]) -> ConfiguredTopology:
    return configure(Topology(1, subtopologies), topics.get)


def fault(subtopologies: dict[str, Subtopology], topics: dict[str, int]) -> Status | None:
    return configured(subtopologies, topics).fault


def word_count(changelog: str = "counts") -> dict[str, Subtopology]:
    """Lines are split and sent on by word; words are counted."""
    return {
        "0": Subtopology(("lines", "more"), repartition_sink_topics=("words",)),
        "1": Subtopology(
            repartition_source_topics=(TopicInfo("words"),),
            changelog_topics=(TopicInfo(changelog, 0, 2, (("cleanup.policy", "compact"),)),),
        ),
    }


def test_internal_topics_have_as_many_partitions_as_their_sources() -> None:
    found = configured(word_count(), {"lines": 3, "more": 5})
    counts = TopicInfo("counts", 5, 2, (("cleanup.policy", "compact"),))
    assert found.to_create == (counts, TopicInfo("words", 5))
    assert found.task_counts == {"0": 5, "1": 5}
    assert found.topology.subtopologies["1"].changelog_topics == (counts,)
    assert found.fault == Status(MISSING, "Internal topics are missing: counts, words")
    assert not found.is_ready


def test_it_is_ready_when_all_topics_are_there() -> None:
    found = configured(word_count(), {"lines": 3, "more": 5, "words": 5, "counts": 5})
    assert found.is_ready and not found.to_create
    assert found.topology.subtopologies["1"].repartition_source_topics == (TopicInfo("words", 5),)
    assert found.topology.epoch == 1


def test_a_missing_source_is_told_before_all_else() -> None:
    topology = word_count()
    found = configured(topology, {"lines": 3})
    assert found.fault == Status(StatusCode.MISSING_SOURCE_TOPICS, "Source topics more are missing.")
    assert found.topology == Topology(1, topology) and not found.task_counts and not found.to_create


def test_an_existing_internal_topic_must_have_the_right_partitions() -> None:
    detail = "Existing topic counts has different number of partitions: expected 5, found 4"
    assert fault(word_count(), {"lines": 3, "more": 5, "words": 5, "counts": 4}) == Status(WRONG, detail)


def test_tasks_follow_the_topic_that_exists_until_the_fault_is_known() -> None:
    detail = "Existing topic words has different number of partitions: expected 5, found 7"
    assert fault(word_count(), {"lines": 3, "more": 5, "words": 7}) == Status(WRONG, detail)


def test_of_many_names_three_are_shown() -> None:
    assert summarized(list("ab")) == "a, b"
    assert summarized(list("abc")) == "a, b, c"
    assert summarized(list("abcde")) == "a, b, c and 2 additional topics"


def test_repartition_topics_follow_each_other() -> None:
    chain = {
        "0": Subtopology(repartition_source_topics=(TopicInfo("b"),), repartition_sink_topics=("c",)),
        "1": Subtopology(repartition_source_topics=(TopicInfo("a"),), repartition_sink_topics=("b",)),
        "2": Subtopology(("in",), repartition_sink_topics=("a",)),
        "3": Subtopology(repartition_source_topics=(TopicInfo("c"),)),
    }
    assert configured(chain, {"in": 4}).to_create == tuple(TopicInfo(name, 4) for name in "abc")
    fixed = {**chain, "1": chain["1"]._replace(repartition_source_topics=(TopicInfo("a", 9),))}
    assert [topic.partitions for topic in configured(fixed, {"in": 4}).to_create] == [9, 9, 9]


def joined(*topics: TopicInfo, sources: tuple[str, ...] = ()) -> dict[str, Subtopology]:
    """All in one copartition group; written by a subtopology each of whose sources has another count."""
    group = CopartitionGroup(tuple(range(len(sources))), (), tuple(range(len(topics))))
    writers = {
        f"w{place}": Subtopology((f"in{place}",), repartition_sink_topics=(topic.name,))
        for place, topic in enumerate(topics)
    }
    return {**writers, "j": Subtopology(sources, repartition_source_topics=topics, copartition_groups=(group,))}


def test_joined_repartition_topics_take_the_sources_count() -> None:
    topology = joined(TopicInfo("r0"), TopicInfo("r1"), sources=("s",))
    assert configured(topology, {"in0": 2, "in1": 3, "s": 6}).to_create == (TopicInfo("r0", 6), TopicInfo("r1", 6))
    detail = (
        "Number of partitions [4] of repartition topic [r1] doesn't match number of partitions [6] of the source topic."
    )
    wrong = joined(TopicInfo("r0"), TopicInfo("r1", 4), sources=("s",))
    assert fault(wrong, {"in0": 2, "in1": 3, "s": 6}) == Status(WRONG, detail)


def test_joined_sources_must_be_alike() -> None:
    detail = "Following topics do not have the same number of partitions: [{s=6, t=7}]"
    assert fault(joined(sources=("t", "s")), {"s": 6, "t": 7}) == Status(WRONG, detail)
    assert configured(joined(sources=("t", "s")), {"s": 6, "t": 6}).is_ready


def test_repartition_topics_alone_take_the_most_or_what_is_fixed() -> None:
    topics = {"in0": 2, "in1": 3}
    free = joined(TopicInfo("r0"), TopicInfo("r1"))
    assert configured(free, topics).to_create == (TopicInfo("r0", 3), TopicInfo("r1", 3))
    fixed = joined(TopicInfo("r0"), TopicInfo("r1", 5))
    assert configured(fixed, topics).to_create == (TopicInfo("r0", 5), TopicInfo("r1", 5))
    both = joined(TopicInfo("r0", 4), TopicInfo("r1", 5))
    detail = "Following topics do not have the same number of partitions: [{r0=4, r1=5}]"
    assert fault(both, topics) == Status(WRONG, detail)


def test_what_is_fixed_elsewhere_counts_too() -> None:
    """Kafka compares all fixed repartition topics of the topology, whichever group they are in."""
    apart = {"0": Subtopology(repartition_source_topics=(TopicInfo("far", 8),)), **joined(TopicInfo("r0", 5))}
    detail = "Following topics do not have the same number of partitions: [{r0=5}]"
    assert fault(apart, {"in0": 2}) == Status(WRONG, detail)


def test_a_fixed_topic_that_exists_is_held_to_its_count() -> None:
    detail = "Existing topic r0 has different number of partitions: expected 5, found 4"
    assert fault(joined(TopicInfo("r0", 5)), {"in0": 2, "r0": 4}) == Status(WRONG, detail)


def test_an_empty_copartition_group_asks_for_nothing() -> None:
    topology = {"0": Subtopology(("in",), copartition_groups=(CopartitionGroup(),))}
    assert configured(topology, {"in": 2}).task_counts == {"0": 2}


LOOP = {
    "0": Subtopology(repartition_source_topics=(TopicInfo("a"),), repartition_sink_topics=("b",)),
    "1": Subtopology(repartition_source_topics=(TopicInfo("b"),), repartition_sink_topics=("a",)),
}


@pytest.mark.parametrize(
    ("subtopologies", "words"),
    [
        (LOOP, "There may be loops in the topology that cannot be resolved."),
        ({"0": Subtopology(("in",), repartition_source_topics=(TopicInfo("r"),))}, "never used as a sink topic."),
        ({"0": Subtopology(("in",)), "x": Subtopology()}, "No source topics found for subtopology x"),
    ],
)  # fmt: skip
def test_what_no_topics_could_make_right_is_refused(subtopologies: dict[str, Subtopology], words: str) -> None:
    with pytest.raises(KafkaError) as refused:
        configured(subtopologies, {"in": 2})
    assert refused.value.code is ErrorCode.streams_invalid_topology
    assert (refused.value.message or "").endswith(words)


@pytest.mark.parametrize(
    "subtopology",
    [
        Subtopology(("in",), copartition_groups=(CopartitionGroup((1,)),)),
        Subtopology(("in",), copartition_groups=(CopartitionGroup((-1,)),)),
        Subtopology(("in",), repartition_source_topics=(TopicInfo("r", -3),)),
    ],
)
def test_what_kafka_breaks_over_is_an_unknown_error(subtopology: Subtopology) -> None:
    with pytest.raises(KafkaError) as refused:
        configured({"0": subtopology}, {"in": 2})
    assert refused.value.code is ErrorCode.unknown_server_error and refused.value.message is None


names = st.sampled_from([f"t{number}" for number in range(6)])
infos = st.builds(lambda name, parts: TopicInfo(f"r{name}", parts), names, st.sampled_from((0, 0, 2, 3)))
subtopologies = st.builds(
    lambda sources, changelogs, sinks, repartition: Subtopology(
        tuple(sources), (), tuple(TopicInfo(f"c{name}") for name in changelogs), tuple(f"r{name}" for name in sinks),
        tuple(repartition),
    ),
    st.sets(names, max_size=2), st.sets(names, max_size=1), st.sets(names, max_size=2),
    st.lists(infos, max_size=2, unique_by=lambda topic: topic.name),
)  # fmt: skip


@given(
    st.dictionaries(st.sampled_from("0123"), subtopologies, min_size=1),
    st.dictionaries(names, st.integers(1, 4), min_size=6),
)
def test_once_the_missing_topics_are_made_it_is_ready_and_stays_as_it_was(
    described: dict[str, Subtopology], sources: dict[str, int]
) -> None:
    try:
        found = configured(described, sources)
    except KafkaError as refused:
        assert refused.code is ErrorCode.streams_invalid_topology
        return
    if found.fault is not None and found.fault.code is not MISSING:
        return
    made = sources | {topic.name: topic.partitions for topic in found.to_create}
    assert made.keys() >= Topology(1, described).required_topics
    again = configured(described, made)
    changelogs = [topic.name for s in described.values() for topic in s.changelog_topics]
    fixed = [topic.name for s in described.values() for topic in s.repartition_source_topics]
    if len({*changelogs}) == len(changelogs) and len({*fixed}) == len(fixed):
        assert again.is_ready and again.task_counts == found.task_counts and again.topology == found.topology
