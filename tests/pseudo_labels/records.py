"""Records on disk, and what selection has to make of them, for several tests."""

import collections

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from noisy_student_jax.core import files
from noisy_student_jax.pseudo_labels import sidecar
from noisy_student_jax.pseudo_labels.selection import load_picks, select

MASK = (1 << 64) - 1
METADATA = {"task": "toy", "model": "b0", "model_sha256": "ab" * 32}


def mix(x):
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


def reference_hash(key, seed):
    data = key.encode()
    state = mix(mix(seed & MASK) ^ len(data))
    for at in range(0, len(data), 8):
        state = mix(state ^ int.from_bytes(data[at : at + 8], "little"))
    return state


def write(directory, records, shards=1, classes=None, names=None):
    """Writes records, (key, label or None, score), as consecutive shards."""
    metadata = METADATA | ({} if classes is None else {"classes": str(classes)})
    for shard, numbers in enumerate(np.array_split(np.arange(len(records)), shards)):
        rows = [records[i] for i in numbers]
        name = names[shard] if names else f"{shard:03d}"
        sidecar.write_shard(
            directory / f"{name}.parquet",
            keys=[key for key, _, _ in rows],
            status=["ok" if label is not None else "truncated" for _, label, _ in rows],
            label=[label for _, label, _ in rows],
            score=[score for _, _, score in rows],
            columns={"double": pa.array([score * 2 for _, _, score in rows])},
            metadata=metadata,
        )
    return directory


def random_records(seed, n=600, classes=7, scores=None, skew=2.0):
    rng = np.random.default_rng(seed)
    p = np.arange(1, classes + 1.0) ** -skew
    label = rng.choice(classes, n, p=p / p.sum())
    if scores is None:
        score = rng.random(n, dtype=np.float32)
    else:
        score = rng.choice(np.array(scores, np.float32), n)
    bad = rng.random(n) < 0.05
    return [
        (f"{rng.integers(1 << 40):x}-{i}", None if bad[i] else int(label[i]), s)
        for i, s in enumerate(score.tolist())
    ]


def selected(directory):
    return pq.read_table(directory / "plan.parquet").to_pylist()


def as_multiset(rows):
    return collections.Counter(tuple(row.values()) for row in rows)


def check(tmp_path, records, options, copies, shards=3, classes=None):
    """Selects, compares all that there is with the copies wanted ({record number: how
    often}), returns the summary.
    """
    write(tmp_path / "labels", records, shards, classes)
    summary = select(tmp_path / "labels", tmp_path / "out", options)

    rows = selected(tmp_path / "out")
    order = sorted(copies)
    assert [tuple(row.values()) for row in rows] == [
        (records[i][0], records[i][1], float(np.float32(records[i][2])), copies[i])
        for i in order
    ]
    picks, targets = load_picks(tmp_path / "out")
    assert targets == {}
    assert picks.dtype == np.int64
    assert picks.tolist() == [
        [i, row] for row, i in enumerate(order) for _ in range(copies[i])
    ]

    counts = summary["counts"]
    assert counts["read"] == len(records)
    assert counts["quarantined"] == sum(label is None for _, label, _ in records)
    assert (
        counts["read"]
        == sum(counts[k] for k in ("selected", "quarantined", "below_threshold"))
        + counts["over_capacity"]
    )
    assert counts["selected"] == len(copies)
    assert counts["draws"] == sum(copies.values())
    per_class = summary["per_class"]
    for label in range(len(per_class["before"])):
        ours = [i for i in order if records[i][1] == label]
        assert per_class["before"][label] == sum(r[1] == label for r in records)
        assert per_class["selected"][label] == len(ours)
        assert per_class["draws"][label] == sum(copies[i] for i in ours)
        lowest = min((float(np.float32(records[i][2])) for i in ours), default=None)
        assert summary["thresholds"][label] == lowest
    histogram = summary["score_histogram"]
    assert len(histogram["edges"]) == 101
    assert sum(histogram["before"]) == counts["read"] - counts["quarantined"]
    assert sum(histogram["selected"]) == counts["selected"]
    assert files.read_json(tmp_path / "out" / "selection.json") == summary
    return summary
