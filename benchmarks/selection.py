"""Selection from many pseudo-labels, against sorting each class.

    python benchmarks/selection.py
    python benchmarks/selection.py --records=1000000,10000000,100000000

The sidecars are synthetic, a file for every million records: skewed classes, a key and
ten probabilities a record. Ours is `pseudo_labels.selection.select` with the paper's
rule, as the loop calls it: a radix selection in streaming passes, then plan, picks and
targets. The peer is the usual way: read key, label and score with pyarrow, sort
everything by class and score (`numpy.lexsort`), cut, repeat, read the targets of the
selected records, and write the same files. Each turn runs in a separate process, so
that its peak memory is its own; the time is of the work alone, without imports. Both
must select equally many records and draws, and the same thresholds, or the script
fails.
"""

import json
import multiprocessing
import pathlib
import statistics
import tempfile
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import side_by_side

SHARD = 1_000_000
TOP = 10
MIN_SCORE = 0.3


def main() -> None:
    parser = side_by_side.parser(__doc__)
    parser.set_defaults(repeats=3)
    parser.add_argument("--records", default="1000000,10000000")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--folder", type=pathlib.Path, help="for synthetic sidecars")
    options = parser.parse_args()
    cases = []
    for records in map(int, options.records.split(",")):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            labels = pathlib.Path(folder) / "labels"
            make_sidecars(labels, records, options.classes)
            cases.append(compare(labels, records, options.classes, options.repeats))
    side_by_side.show(
        cases, unit="records/s", peers=("pyarrow", "numpy"), as_json=options.json
    )


def make_sidecars(folder: pathlib.Path, records: int, classes: int) -> None:
    from noisy_student_jax.pseudo_labels import sidecar

    folder.mkdir()
    rng = np.random.default_rng(0)
    # Some classes are a hundred times as frequent as others.
    share = np.geomspace(1, 100, classes)
    cumulative = np.cumsum(share / share.sum())
    for number, start in enumerate(range(0, records, SHARD)):
        count = min(SHARD, records - start)
        label = np.searchsorted(cumulative, rng.random(count)).clip(max=classes - 1)
        score = rng.beta(2, 1.5, count).astype(np.float32)
        ids = rng.integers(0, classes, (count, TOP), np.int32)
        ids[:, 0] = label
        rest = rng.random((count, TOP), np.float32) * (1 - score[:, None]) / TOP
        rest[:, 0] = score
        offsets = np.arange(0, TOP * (count + 1), TOP, dtype=np.int32)
        sidecar.write_shard(
            folder / f"shard_{number:06d}.parquet",
            keys=[f"pool/{start + row:012d}.jpg" for row in range(count)],
            status=["ok"] * count,
            label=label.astype(np.int32),
            score=score,
            columns={
                "top_ids": pa.ListArray.from_arrays(offsets, ids.ravel()),
                "top_probabilities": pa.ListArray.from_arrays(
                    offsets, rest.astype(np.float16).ravel()
                ),
            },
            metadata={
                "task": "classification",
                "model": "made-up",
                "model_sha256": "0" * 64,
                "classes": str(classes),
            },
        )


def compare(labels: pathlib.Path, records: int, classes: int, repeats: int) -> dict:
    # The paper's: some classes have more than K records, others are repeated.
    per_class = max(1, records // classes // 2)
    turns: dict[str, list[dict]] = {"ours": [], "peer": []}
    for turn in range(repeats):
        for name, work in (("ours", ours), ("peer", peer)):
            output = labels.parent / f"{name}_{turn}"
            turns[name].append(alone(work, labels, output, classes, per_class))
    told = {name: {one["told"] for one in own} for name, own in turns.items()}
    if len(told["ours"] | told["peer"]) != 1:
        raise SystemExit(f"ours and the peer did not select the same: {told}")

    def median(name: str, what: str) -> float:
        return statistics.median(one[what] for one in turns[name])

    return side_by_side.case(
        f"{records:,} records, {classes:,} classes",
        records / median("ours", "seconds"),
        records / median("peer", "seconds"),
        **{
            f"{name}_{what}": round(median(name, what), 2)
            for name in turns
            for what in ("seconds", "peak_mb")
        },
    )


def alone(work, *arguments) -> dict:
    """Runs a turn in a separate process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measured, (work, arguments))


def measured(work, arguments) -> dict:
    # Imports are not part of the work.
    import noisy_student_jax.pseudo_labels.selection
    import noisy_student_jax.tasks.classification  # noqa: F401

    before = side_by_side.forget_peak()
    told, seconds = work(*arguments)
    return {
        "seconds": seconds,
        "peak_mb": (side_by_side.peak() - before) / 1e6,
        "told": json.dumps(told, sort_keys=True),
    }


def ours(labels, output, classes, per_class) -> tuple[dict, float]:
    from noisy_student_jax.pseudo_labels.plan import SelectionOptions
    from noisy_student_jax.pseudo_labels.selection import select
    from noisy_student_jax.tasks.classification import Classification

    task = Classification(tuple(map(str, range(classes))))
    options = SelectionOptions(min_score=MIN_SCORE, per_class=per_class)
    started = time.perf_counter()
    summary = select(labels, output, options, targets=task.stored_targets)
    seconds = time.perf_counter() - started
    return {
        "selected": summary["counts"]["selected"],
        "draws": summary["counts"]["draws"],
        "thresholds": [round(one, 6) for one in summary["thresholds"]],
    }, seconds


def peer(labels, output, classes, per_class) -> tuple[dict, float]:
    started = time.perf_counter()
    output.mkdir()
    paths = sorted(labels.glob("shard_*.parquet"))
    table = pq.read_table(paths, columns=["key", "status", "label", "score"])
    ok = np.asarray(table["status"].to_numpy() == "ok")
    label = table["label"].to_numpy(zero_copy_only=False)
    score = table["score"].to_numpy(zero_copy_only=False)
    eligible = np.flatnonzero(ok & (score > np.float32(MIN_SCORE)))
    order = eligible[np.lexsort((-score[eligible], label[eligible]))]
    ordered = label[order]
    starts = np.searchsorted(ordered, np.arange(classes))
    rank = np.arange(len(order)) - starts[ordered]
    chosen = order[rank < per_class]
    chosen.sort()
    own = label[chosen]
    have = np.bincount(own, minlength=classes)
    # Every record equally often, and the first of each class once more, up to K.
    whole, more = np.divmod(per_class, np.maximum(have, 1))
    by_class = np.argsort(own, kind="stable")
    place = np.empty(len(own), np.int64)
    place[by_class] = np.arange(len(own)) - (np.cumsum(have) - have)[own[by_class]]
    copies = whole[own] + (place < more[own])
    rows = np.arange(len(chosen))
    picks = np.stack([np.repeat(chosen, copies), np.repeat(rows, copies)], axis=1)
    np.save(output / "picks.npy", picks)
    plan = table.select(["key", "label", "score"]).take(chosen)
    plan = plan.append_column("copies", pa.array(copies.astype(np.int32)))
    pq.write_table(plan, output / "plan.parquet", compression="zstd")
    (output / "targets").mkdir()
    for name in ("top_ids", "top_probabilities"):
        column = pq.read_table(paths, columns=[name])[name].take(chosen)
        values = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
        np.save(output / "targets" / f"{name}.npy", values.reshape(len(chosen), -1))
    seconds = time.perf_counter() - started
    lowest = np.full(classes, np.inf)
    np.minimum.at(lowest, own, score[chosen])
    return {
        "selected": len(chosen),
        "draws": len(picks),
        "thresholds": [round(float(one), 6) for one in lowest],
    }, seconds


if __name__ == "__main__":
    main()
