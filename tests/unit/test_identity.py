"""A broker's folder says whose it is, and is refused to everybody else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from brokers.identity import Identity, check_cluster, read_identity, write_identity
from s3stream.errors import BadSetting


def test_a_new_folder_is_nobodys_and_a_written_one_reads_back(tmp_path: Path) -> None:
    folder = tmp_path / "broker-3"
    assert read_identity(folder, 3) is None
    assert not folder.exists()
    write_identity(folder, Identity(3, "cluster"))
    write_identity(folder, Identity(3, "cluster"))
    assert read_identity(folder, 3) == Identity(3, "cluster")
    assert [path.name for path in folder.iterdir()] == ["meta.json"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"format": 2, "node_id": 3, "cluster_id": "c"}, "newer Ponor"),
        ({"format": 1, "node_id": 4, "cluster_id": "c"}, "belongs to node 4"),
        ({"format": 1, "node_id": 3}, "damaged"),
        ([], "damaged"),
    ],
)
def test_what_is_not_ours_is_refused(tmp_path: Path, content: object, words: str) -> None:
    (tmp_path / "meta.json").write_text(json.dumps(content))
    with pytest.raises(BadSetting, match=words):
        read_identity(tmp_path, 3)


def test_another_cluster_is_refused(tmp_path: Path) -> None:
    check_cluster(tmp_path, None, "b", "sqlite:///x")
    check_cluster(tmp_path, Identity(1, "b"), "b", "sqlite:///x")
    with pytest.raises(BadSetting, match=r"belongs to cluster a, but ponor.metadata.url sqlite:///x is cluster b"):
        check_cluster(tmp_path, Identity(1, "a"), "b", "sqlite:///x")
