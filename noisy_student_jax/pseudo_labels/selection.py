"""Selects the pseudo-labeled records that a student sees, and how often.

The paper (Xie et al., CVPR 2020, on the unlabeled dataset) keeps records that the
teacher scores above 0.3, takes at most the K most confident of each class, and repeats
records of smaller classes until they have K. Method ``paper`` takes exactly the K
highest scores, and gives every class that has a record exactly K draws. The authors'
code (``filter_unlabel.py``) sub-samples above the edge of a 1 % bin and has K draws in
expectation; it is available as method ``reference``. Method ``all`` takes records once,
whatever their class: all of them, or the surest share.

Selection reads only key, status, label and score, unless the task chooses within
records (`Task.chooser`). The plan depends on these and the seed, not on the shards or
their order; only record numbers follow the pool.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from noisy_student_jax.config import renamed
from noisy_student_jax.core import files
from noisy_student_jax.core.errors import (
    DamagedFileError,
    NothingSelectedError,
    UserError,
)
from noisy_student_jax.core.protocols import Chooser
from noisy_student_jax.pseudo_labels import sidecar, warnings, writing
from noisy_student_jax.pseudo_labels.chosen import Choose, RepeatedPlan, labeled_rows
from noisy_student_jax.pseudo_labels.plan import (
    BINS,
    EDGES,
    MOST_CLASSES,
    NaturalPlan,
    Plan,
    SelectionOptions,
    Survey,
    batches,
    fixed_point,
    histogram,
    mean,
)
from noisy_student_jax.pseudo_labels.reference import ReferencePlan
from noisy_student_jax.pseudo_labels.relabel import KeptPlan
from noisy_student_jax.pseudo_labels.warnings import Expected, Scores

PLAN = "plan.parquet"
PICKS = "picks.npy"
TARGETS = "targets"
SUMMARY = "selection.json"

Targets = Callable[[pa.RecordBatch], dict[str, np.ndarray]]
AnyPlan = Plan | NaturalPlan | ReferencePlan | KeptPlan | RepeatedPlan
_PLANS: dict[str, type[Plan] | type[NaturalPlan] | type[ReferencePlan]] = {
    "paper": Plan,
    "all": NaturalPlan,
    "reference": ReferencePlan,
}

_PICKS_AT_ONCE = 1 << 20
_PLAN_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("label", pa.int32()),
        ("score", pa.float32()),
        ("copies", pa.int32()),
    ]
)


def select(
    labels_directory: str | Path,
    output_directory: str | Path,
    options: SelectionOptions,
    *,
    targets: Targets | None = None,
    choose: Choose | None = None,
    classes: Sequence[str] = (),
    expected: Expected | None = None,
    kept: str | Path | None = None,
    made_for: str | None = None,
) -> dict[str, Any]:
    """Selects records, and writes the plan and the files that training reads.

    Writes to `output_directory`, atomically:

    - ``plan.parquet``: ``key``, ``label``, ``score``, ``copies``; one row per selected
      record, in pool order (shards by name, rows in order);
    - ``picks.npy``: int64 `[draws, 2]`, (record number in the pool, row of the plan),
      one line per copy, in pool order;
    - ``targets/NAME.npy``: `[selected, …]`, one row per row of the plan;
    - ``selection.json``: the returned summary.

    Args:
      labels_directory: sidecars of one model.
      output_directory: a new or empty directory.
      options: options of the selection.
      targets: a task's function from selected rows, with all columns, to arrays
        `[rows, …]` of constant width and dtype.
      choose: makes the task's `Chooser`, whose targets are then written and whose
        copies multiply the plan's. Every labeled record passes, whatever its score.
      classes: class names, for warnings.
      expected: statistics to compare the pool with, for warnings.
      kept: an earlier selection whose records and copies are kept (`KeptPlan`) with new
        labels. The options must be those of that selection.
      made_for: digest of what the selection depends on, for `finished`.

    Returns:
      ``schema``, ``method``, ``options``, ``counts``, ``per_class``, ``thresholds``,
      ``score_histogram``, ``confidence``, ``labels``, ``kept``, ``facts`` if there is a
      chooser, ``warnings``, ``made_for`` and the SHA-256 of the ``files``. In
      ``counts``, read = selected + quarantined + below_threshold + over_capacity
      (+ above_max_score, not_drawn where the options ask for them), or, for a kept
      plan, selected + quarantined + not_in_plan.

    Raises:
      NothingSelectedError: no record scores high enough.
      UserError: the labels are unreadable or inconsistent, no record is eligible, or
        the output exists or cannot be written.
      ValueError: `targets` returns arrays of other lengths, names or widths.
    """
    output = Path(output_directory)
    files.check_free(output)
    paths = sidecar.shards(labels_directory)
    metadata = sidecar.common_metadata(paths)
    # A chooser has its own threshold, within records.
    rule = dataclasses.replace(options, min_score=0.0) if choose else options
    survey = _survey(paths, _classes(paths[0], metadata), rule)
    if not (survey.ok if kept else survey.eligible).any():
        raise _nothing(Path(labels_directory), survey, rule)
    chooser = (
        choose(functools.partial(labeled_rows, paths, options=rule)) if choose else None
    )
    plan: AnyPlan
    if kept:
        plan = KeptPlan(survey, rule, Path(kept) / PLAN, load_picks(kept)[0])
    else:
        plan = _PLANS[options.method](survey, rule)
        if chooser:
            plan = RepeatedPlan(plan, chooser)
    _settle(paths, plan)
    if isinstance(plan, KeptPlan) and not plan.capacity.any():
        raise UserError(
            f"none of the {plan.lost:,} records of the plan in '{kept}' has a label in"
            f" {labels_directory}; see their status there, or select afresh"
        )
    if not plan.capacity.any():
        raise UserError(
            f"per_class {options.per_class} is so small that chance leaves none of the "
            f"{survey.eligible.sum():,} records in {labels_directory} that score "
            f"{rule.bar}; raise per_class or choose method 'paper'"
        )
    with files.atomic_directory(output) as temporary:
        described = _plan_metadata(options, metadata)
        tally = _write(
            paths, plan, temporary, described, chooser.targets if chooser else targets
        )
        summary = _summary(survey, plan, tally, metadata, len(paths), options)
        summary["kept"] = None
        if kept and isinstance(plan, KeptPlan):
            summary["kept"] = _origin(Path(kept), plan)
        if chooser:
            summary["facts"] = chooser.facts
        about = (survey, plan, tally, classes, chooser)
        summary["warnings"] = _warnings(*about, expected or Expected(), options)
        summary["made_for"] = made_for
        summary["files"] = files.tree_hashes(temporary, ["."])
        files.write_json(temporary / SUMMARY, summary, with_sum=True)
    return summary


def finished(directory: Path, made_for: str | None) -> dict[str, Any] | None:
    """Returns the summary of a finished selection, if it is whole and made for this.

    Args:
      directory: the output directory of `select`.
      made_for: what `select` was given; None for a stage that an older version began.
    """
    if not files.is_file(directory / SUMMARY):
        return None
    try:
        summary = files.read_json(directory / SUMMARY)
        hashes = files.tree_hashes(directory, ["."])
        hashes.pop(SUMMARY)
        if made_for is None and "files" not in summary:
            return summary  # by an older version
        ours = summary["made_for"] == made_for and summary["files"] == hashes
    except (DamagedFileError, KeyError, TypeError):
        return None
    return summary if ours else None


def load_picks(
    selection_directory: str | Path,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Opens the files that training reads, memory-mapped.

    Args:
      selection_directory: the output directory of `select`.

    Returns:
      The picks, int64 `[draws, 2]`, and the targets by name, `[selected, …]`; all
      memory-mapped and read-only.

    Raises:
      UserError: the selection is missing, unfinished or damaged.
    """
    directory = Path(selection_directory)
    if not files.is_file(directory / SUMMARY):
        raise UserError(
            f"there is no finished selection at {directory} (no {SUMMARY}); run the "
            "select stage first or correct the path"
        )
    picks = _load(directory / PICKS)
    paths = files.list_folder(directory / TARGETS, pattern="*.npy")
    return picks, {path.stem: _load(path) for path in paths}


class _Tally:
    """Counts of the written records."""

    def __init__(self, classes: int):
        self.selected = np.zeros(classes, np.int64)
        self.draws = np.zeros(classes, np.int64)
        self.thresholds = np.full(classes, np.inf, np.float32)
        self.scores = np.zeros(BINS, np.int64)
        self.confidence = 0  # each record counts once
        self.confidence_draws = 0

    def add(self, label: np.ndarray, score: np.ndarray, copies: np.ndarray) -> None:
        classes = len(self.selected)
        self.selected += np.bincount(label, minlength=classes)
        np.add.at(self.draws, label, copies)
        np.minimum.at(self.thresholds, label, score)
        self.scores += histogram(score)
        self.confidence += fixed_point(score, 1)
        self.confidence_draws += fixed_point(score, copies)


def _survey(
    paths: Sequence[Path], classes: int | None, options: SelectionOptions
) -> Survey:
    survey = Survey(classes, options)
    for path in paths:
        for batch in batches(path, options, list(sidecar.COLUMNS)):
            survey.add(path, batch)
    return survey


def kept_options(selection_directory: Path) -> SelectionOptions:
    """Returns the options of an earlier selection."""
    options = files.read_json(selection_directory / SUMMARY)["options"]
    return SelectionOptions(**renamed.settings(options, path="selection"))


def _origin(kept: Path, plan: KeptPlan) -> dict[str, Any]:
    """Returns the origin of a kept plan, and the number of records lost since."""
    earlier = files.read_json(kept / SUMMARY)
    first = earlier.get("kept") or {"filtered_by": earlier["labels"]["model_sha256"]}
    return {
        "filtered_by": first["filtered_by"],
        "records": earlier["counts"]["selected"],
        "lost": plan.lost,
    }


def _settle(paths: Sequence[Path], plan: AnyPlan) -> None:
    """Runs passes over all shards until the plan is settled."""
    while not plan.settled:
        counts = plan.counters()
        for path in paths:
            plan.histogram(path, counts)
        plan.advance(counts)


class _TargetFiles:
    """The targets of the selected records, one file per name."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        directory: Path,
        function: Targets,
        selected: int,
    ):
        self._stack = stack  # closes the files
        self._directory = directory
        self._function = function
        self._selected = selected
        self._files: dict[str, writing.ArrayFile] = {}

    def append(self, batch: pa.RecordBatch) -> None:
        arrays = {k: np.asarray(v) for k, v in self._function(batch).items()}
        if not self._files:
            for name, array in arrays.items():
                if not (
                    name.isidentifier() and array.ndim and array.dtype.kind in "biuf"
                ):
                    raise ValueError(
                        f"target {name!r} is no array of fixed width with a plain name"
                    )
                shape = (self._selected, *array.shape[1:])
                path = self._directory / f"{name}.npy"
                self._files[name] = _array_file(self._stack, path, shape, array.dtype)
        if arrays.keys() != self._files.keys():
            raise ValueError(
                f"targets are {sorted(arrays)} after {sorted(self._files)}"
            )
        for name, array in arrays.items():
            if len(array) != batch.num_rows:
                raise ValueError(
                    f"target {name!r} has {len(array)} rows for {batch.num_rows}"
                )
            self._files[name].append(array)


def _write(
    paths: Sequence[Path],
    plan: AnyPlan,
    directory: Path,
    metadata: dict[str, str],
    targets: Targets | None,
) -> _Tally:
    """Writes plan, picks and targets in one pass over the pool."""
    tally = _Tally(len(plan.draws))
    shape = (int(plan.draws.sum()), 2)
    schema = _PLAN_SCHEMA.with_metadata(metadata)
    record = row = 0
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(files.new_file(directory / PLAN))
        table = stack.enter_context(writing.TableFile(file, schema))
        picks = _array_file(stack, directory / PICKS, shape, np.dtype(np.int64))
        own = None
        if targets is not None:
            selected = int(plan.capacity.sum())
            own = _TargetFiles(stack, directory / TARGETS, targets, selected)
        columns = None if own else _PLAN_SCHEMA.names[:3]
        for path in paths:
            for batch in batches(path, plan.options, columns):
                rows, label, copies = plan.take(batch)
                if len(rows):
                    chosen = batch.take(pa.array(rows))
                    ours = [chosen[name] for name in _PLAN_SCHEMA.names[:3]]
                    table.append([*ours, pa.array(copies, pa.int32())])
                    _write_picks(picks, record + rows, row, copies)
                    tally.add(label, chosen["score"].to_numpy(), copies)
                    if own is not None:
                        own.append(chosen)
                record += batch.num_rows
                row += len(rows)
    return tally


def _array_file(
    stack: contextlib.ExitStack, path: Path, shape: tuple[int, ...], dtype: np.dtype
) -> writing.ArrayFile:
    """Opens a new array file, which the stack closes."""
    file = stack.enter_context(files.new_file(path))
    return stack.enter_context(writing.ArrayFile(file, shape, dtype))


def _write_picks(
    picks: writing.ArrayFile, records: np.ndarray, first_row: int, copies: np.ndarray
) -> None:
    ends = np.cumsum(copies)
    # In chunks: a few records may be repeated a hundred thousand times each.
    for start in range(0, int(ends[-1]), _PICKS_AT_ONCE):
        draws = np.arange(start, min(start + _PICKS_AT_ONCE, int(ends[-1])))
        at = np.searchsorted(ends, draws, side="right")
        picks.append(np.stack([records[at], first_row + at], axis=1))


def _summary(
    survey: Survey,
    plan: AnyPlan,
    tally: _Tally,
    metadata: dict[str, str],
    shards: int,
    options: SelectionOptions,
) -> dict[str, Any]:
    read, quarantined = survey.read, survey.quarantined
    above = int(survey.eligible.sum())
    selected = int(tally.selected.sum())
    draws = int(tally.draws.sum())
    left = {
        "below_threshold": int(survey.ok.sum()) - above - survey.too_sure,
        "over_capacity": int((survey.eligible - plan.capacity).sum()),
    }
    if options.max_score < 1:
        left["above_max_score"] = survey.too_sure
    if options.pool_fraction < 1:
        left["not_drawn"] = survey.not_drawn
    if isinstance(plan, KeptPlan):
        left = plan.left_out(survey)
    if read != selected + quarantined + sum(left.values()):
        raise AssertionError(
            f"{read} read ≠ {selected} selected + {quarantined} quarantined + {left}"
        )
    if (tally.selected != plan.capacity).any() or (tally.draws != plan.draws).any():
        raise AssertionError("what was written is not what was planned")
    return {
        "schema": 1,
        "method": options.method,
        "options": _told(options),
        "labels": {
            "shards": shards,
            "task": metadata.get("task"),
            "model": metadata.get("model"),
            "model_sha256": metadata.get("model_sha256"),
        },
        "counts": {
            "read": read,
            "quarantined": quarantined,
            **left,
            "selected": selected,
            "draws": draws,
        },
        "per_class": {
            "before": survey.ok.tolist(),
            "selected": tally.selected.tolist(),
            "draws": tally.draws.tolist(),
        },
        "thresholds": [
            score if math.isfinite(score) else None
            for score in tally.thresholds.tolist()
        ],
        "score_histogram": {
            "edges": EDGES.tolist(),
            "before": survey.scores.tolist(),
            "selected": tally.scores.tolist(),
        },
        "confidence": {  # means, of scores clipped to 0…1
            "before": mean(survey.confidence, int(survey.ok.sum())),
            "selected": mean(tally.confidence, selected),
            "draws": mean(tally.confidence_draws, draws),
        },
    }


def _warnings(
    survey: Survey,
    plan: AnyPlan,
    tally: _Tally,
    names: Sequence[str],
    chooser: Chooser | None,
    expected: Expected,
    options: SelectionOptions,
) -> list[str]:
    found: list[str | None] = list(chooser.warnings) if chooser else []
    if isinstance(plan, KeptPlan):
        found.append(plan.warning())
    elif not chooser:
        found += [
            warnings.empty_classes(
                survey.ok, survey.eligible, tally.selected, options=options, names=names
            ),
            warnings.capped_classes(survey.eligible, options=options, names=names),
        ]
    if expected.class_counts is not None and not chooser:
        found.append(
            warnings.uneven_classes(
                survey.ok, expected.class_counts, options=options, names=names
            )
        )
    if expected.scores is not None:
        pool = Scores(survey.scores, mean(survey.confidence, int(survey.ok.sum())))
        found.append(
            warnings.out_of_domain(
                pool, expected.scores, options=options, finds=chooser is not None
            )
        )
    return [warning for warning in found if warning]


def _nothing(directory: Path, survey: Survey, options: SelectionOptions) -> UserError:
    if not survey.read:
        return UserError(
            f"{directory} holds no records; label a pool that is not empty"
        )
    if survey.quarantined == survey.read:
        return UserError(
            f"all {survey.read} records of {directory} are quarantined; see their "
            "status, mend the pool and label it again"
        )
    return NothingSelectedError(
        f"none of {survey.read - survey.quarantined} labeled records in {directory} "
        f"scores {options.bar}, the best has {survey.best:.4g}; give a lower "
        "--config.selection.min_score=SCORE, or train a better teacher"
    )


def _told(options: SelectionOptions) -> dict[str, Any]:
    """Returns the options, but those that leave out nothing."""
    values = dataclasses.asdict(options)
    for name in ("share", "max_score", "pool_fraction"):
        if values[name] == 1:
            del values[name]
    return values


def _plan_metadata(
    options: SelectionOptions, metadata: dict[str, str]
) -> dict[str, str]:
    values = _told(options)
    values["model_sha256"] = metadata.get("model_sha256", "")
    return {
        sidecar.PREFIX + name: "" if value is None else str(value)
        for name, value in values.items()
    }


def _classes(path: Path, metadata: dict[str, str]) -> int | None:
    text = metadata.get("classes")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= MOST_CLASSES:
        raise UserError(
            f"{path} says in its metadata that there are {text!r} classes, which is "
            "not a number of classes; label again"
        )
    return int(text)


def _load(path: Path) -> np.ndarray:
    try:
        return files.map_array(path)
    except (DamagedFileError, OSError) as error:
        raise UserError(
            f"{path} cannot be read ({files.reason(error)}); move the selection away"
            " and select again"
        ) from error
