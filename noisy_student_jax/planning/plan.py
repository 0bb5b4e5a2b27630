"""Plans: the cost of a model or a run, and the recipe that a config resolves to."""

import dataclasses
import os
from collections.abc import Iterable
from typing import Any

import jax

from noisy_student_jax import models
from noisy_student_jax.config import ConfigDict, decisions, identity
from noisy_student_jax.config.accelerators import CHIPS
from noisy_student_jax.config.decisions import Decision
from noisy_student_jax.core import console, devices, files
from noisy_student_jax.core.protocols import Task
from noisy_student_jax.core.types import PyTree
from noisy_student_jax.data.expected import ASSUMED
from noisy_student_jax.data.open import FOLDERS, STREAMED
from noisy_student_jax.features.heads import FOLDS
from noisy_student_jax.features.reduction import SAMPLE, directions_for
from noisy_student_jax.generation import streams
from noisy_student_jax.generation.left_out import is_too_much
from noisy_student_jax.generation.trainable import width
from noisy_student_jax.models import cost, onnx_backbone, overview
from noisy_student_jax.models.initialize import abstract_variables
from noisy_student_jax.models.overview import Row
from noisy_student_jax.planning import budget, flops, memory, throughput
from noisy_student_jax.planning.memory import FLOAT32, STATE_COPIES
from noisy_student_jax.planning.speeds import of_machine
from noisy_student_jax.planning.throughput import Speed, Speeds
from noisy_student_jax.runs.run import Generation, Run
from noisy_student_jax.runs.spec import GenerationSpec, Role, largest_side
from noisy_student_jax.self_training import noisy_student
from noisy_student_jax.training.optimizer import decayed

HALF = 2
KEY_BYTES = 64
PICK = 16
"""Bytes of a draw: the record, and the row of the selection's plan."""


def model_facts(name: str, *, resolution: int = 0, outputs: int = 1000) -> dict:
    """Returns parameters, FLOPs and activation memory of a model of the table.

    Args:
      name: name of the model.
      resolution: resolution in pixels; 0 for the model's own.
      outputs: number of classes.

    Returns:
      ``model``, ``resolution``, ``outputs``, ``parameters``, ``flops`` (2 ×
      multiply–adds, forward, one image), ``activation_bytes`` (kept for the backward
      pass, one image) and ``blocks`` (`overview.rows`).

    Raises:
      UserError: there is no model with this name.
    """
    module = models.create(name, outputs=outputs)
    side = resolution or models.resolution(name)
    shapes = abstract_variables(module, resolution=side)
    return {
        "model": name,
        "resolution": side,
        "outputs": outputs,
        "parameters": cost.parameter_count(module, resolution=side),
        "flops": cost.forward_flops(module, resolution=side),
        "activation_bytes": cost.activation_bytes(module, resolution=side),
        "blocks": _blocks(shapes),
    }


def model_text(facts: dict[str, Any]) -> str:
    """Formats `model_facts` as text."""
    return (
        f"{facts['model']} at {facts['resolution']} px, {facts['outputs']} classes:"
        f" {facts['parameters']:,} parameters, {facts['flops'] / 1e9:,.3f} GFLOPs"
        f" forward an image, {_bytes(facts['activation_bytes'])} of activations an"
        " image in training"
    )


def run_facts(run: Run, *, speeds: Speeds | None = None) -> dict[str, Any]:
    """Returns the predicted cost of each generation and baseline.

    Args:
      run: the run.
      speeds: measures this machine's speed with a student; adds ``hours``.

    Returns:
      Facts about the data, each generation and each baseline, with ``chip_hours`` if
      ``config.plan.chip`` is given.
    """
    generations = [
        {"generation": k, **_student_facts(run.student(k), speeds)}
        for k in range(run.last + 1)
    ]
    rivals = {
        name: _student_facts(run.student(name), speeds) for name in run.compared_with
    }
    return {
        "dataset": run.dataset.name,
        "splits": {name: len(part) for name, part in run.dataset.parts().items()},
        "sizes": run.dataset.facts.get(ASSUMED, "counted"),
        "devices": _devices(run),
        "chip": _chip_facts(run),
        "prepared_bytes": _prepared_bytes(run),
        "stages": [stage.name for stage in noisy_student(run)],
        "generations": generations,
        "control": rivals.pop(Role.CONTROL, None),
        "baselines": [{"name": name, **facts} for name, facts in rivals.items()],
    }


def measured_facts(run: Run, *, speeds: Speeds | None = None) -> dict[str, Any]:
    """Returns `run_facts` with measured hours, fitted to the run's budget if any.

    Args:
      run: the run as configured.
      speeds: measures this machine's speed with a student; None for `of_machine`.

    Returns:
      `run_facts` of the fitted run, and ``device``, ``hours`` of the whole run,
      ``budget_hours`` (None for no budget) and ``decisions``, the reductions.

    Raises:
      UserError: not even the smallest run fits the budget.
    """
    given_up, limit = [], run.config.budget_hours
    speeds = throughput.remembered(speeds or of_machine(hours=limit))
    if limit:
        given_up = budget.fit(run, hours=limit, speeds=speeds)
        config = decisions.apply(run.config, given_up)
        run = run.reconfigured(config)
    facts = run_facts(run, speeds=speeds)
    rivals = [*filter(None, [facts["control"]]), *facts["baselines"]]
    every = [*facts["generations"], *rivals]
    return {
        **facts,
        "device": devices.line().removeprefix("device: "),
        "hours": {
            part: sum(one["hours"][part] for one in every) for part in every[0]["hours"]
        },
        "budget_hours": limit,
        "decisions": [dataclasses.asdict(decision) for decision in given_up],
    }


def run_text(facts: dict[str, Any]) -> str:
    """Formats `run_facts` as text."""
    splits = ", ".join(f"{count:,} {name}" for name, count in facts["splits"].items())
    lines = [f"{facts['dataset']}: {splits}"]
    if facts["sizes"] != "counted":
        lines.append(f"sizes: {facts['sizes']}")
    if facts["prepared_bytes"]:
        most = _bytes(facts["prepared_bytes"])
        lines.append(f"prepared images: at most about {most} on disk")
    entries = [(f"generation {g['generation']}", g) for g in facts["generations"]]
    if facts["control"]:
        entries.append(("control", facts["control"]))
    entries += [(entry["name"], entry) for entry in facts["baselines"]]
    entries = [
        (f"{name}{told}", one)
        for name, entry in entries
        for told, one in (("", entry), (", FixRes", entry["fixres"]))
        if one
    ]
    for name, entry in entries:
        lines.append(f"{name}: {_entry_text(entry)}")
        if facts["chip"] and entry["memory_per_device"] > facts["chip"]["memory"]:
            lines.append(
                f"  that is more than the {_bytes(facts['chip']['memory'])} of a"
                f" {facts['chip']['name']}: spread the batch over more devices"
                " (config.plan.devices), or use model.remat, train.microbatches or"
                " train.shard_state"
            )
    if facts["chip"]:
        lines.append(_chip_text(facts, [entry for _, entry in entries]))
    if "hours" in facts:
        parts = ", ".join(
            f"{part} {_duration(facts['hours'][part])}"
            for part in ("train", "label", "evaluate")
        )
        lines.append(
            f"the whole run{_time(facts)} ({parts}), on {facts['device']}; not counted:"
            " reading, compiling, saving"
        )
    if facts.get("budget_hours"):
        lines += _fitted(facts)
    return "\n".join(lines)


def blocks_text(entries: Iterable[dict[str, Any]]) -> str:
    """Formats the parameters of each model as a table, once for each.

    Args:
      entries: facts with ``model`` and ``blocks``.
    """
    found = {entry["model"]: entry["blocks"] for entry in entries}
    return "\n".join(
        f"{name}:\n{overview.table([Row(**row) for row in blocks])}"
        for name, blocks in found.items()
    )


def _blocks(shapes: PyTree) -> list[dict[str, Any]]:
    return [dataclasses.asdict(row) for row in overview.rows(shapes["params"])]


def recipe(run: Run) -> str:
    """Formats the resolved recipe of a run, one fact per line, for use with diff."""
    lines = [f"data: {run.dataset.name}"]
    lines += [f"  {name}: {len(part)}" for name, part in run.dataset.parts().items()]
    for student in run.students:
        lines += ["", *_student_recipe(student)]
        if student.spec.refined:
            lines += _fixres_recipe(student.final.spec)
    return "\n".join(lines)


def _entry_text(entry: dict[str, Any]) -> str:
    passes, hours = entry["passes"], entry.get("chip_hours")
    # Without a teacher both streams are of labeled images.
    labeled = passes["labeled"]
    if not entry["pseudo_labeled"]:
        labeled = sum(passes.values())
    through = f"{_short(labeled)} passes over the labeled images"
    if entry["pseudo_labeled"]:
        through += f", {_short(passes['pseudo'])} over the others"
    computed = ", ".join(
        f"{entry[f'{part}_flops']:.2e} FLOPs to {part}"
        for part in ("train", "label", "evaluate")
        if entry[f"{part}_flops"]
    )
    told = f"{entry['images_drawn']:,} draws: {through}"
    steps = (
        f"{entry['steps']:,} steps of"
        f" {entry['batch']['labeled']} + {entry['batch']['pseudo']} images"
    )
    if entry["solved"]:
        told, steps = "", f"its head solved on {entry['labeled']:,} labeled"
        if entry["pseudo_labeled"]:
            steps += f" and at most {entry['pseudo_labeled']:,} pseudo-labeled"
        steps += f" images in {entry['views']} views"
        computed = computed or "features known from earlier models"
    told = "; ".join(filter(None, (told, computed)))
    steps += f" ({told})," if told else ","
    return (
        f"{entry['model']} at {entry['resolution']} px,"
        f" {entry['parameters']:,} parameters, {steps}"
        f" {_memory_text(entry)} and"
        f" {_bytes(entry['disk'])} on disk{_time(entry)}"
        + (f", {_short(hours)} chip-hours" if hours is not None else "")
    )


def _memory_text(entry: dict[str, Any]) -> str:
    found = f"{_bytes(entry['memory_per_device'])} per device"
    if entry["memory_from"] == "compiled":
        return f"{found} (as compiled)"
    return f"about {found}"


def _chip_text(facts: dict[str, Any], entries: list[dict[str, Any]]) -> str:
    """Formats the total chip-hours, their assumptions and the wall time."""
    chip, devices = facts["chip"], facts["devices"]
    total = sum(entry["chip_hours"] for entry in entries)
    return (
        f"{_short(total)} chip-hours in all, of a {chip['name']} (peak"
        f" {chip['peak_flops'] / 1e12:g} TFLOP/s in bfloat16) if"
        f" {100 * chip['utilization']:g} % of its peak is used:"
        f" {_duration(total / devices)} on {devices:,} of them"
    )


def _time(entry: dict[str, Any]) -> str:
    if "hours" not in entry:
        return ""
    return f", about {_duration(entry['hours']['total'])} here"


def _duration(hours: float) -> str:
    return console.duration(3600 * hours)


def _fitted(facts: dict[str, Any]) -> list[str]:
    given_up = [Decision(**fields) for fields in facts["decisions"]]
    return decisions.reasons(given_up) or [
        f"fits {facts['budget_hours']:g} h: nothing is given up"
    ]


def _student_facts(student: Generation, speeds: Speeds | None) -> dict[str, Any]:
    spec, cost = student.spec, student.cost
    layout, steps = spec.layout, spec.schedule.steps
    floats = sum(leaf.size for leaf in jax.tree.leaves(cost.shapes))
    speed = speeds(student) if speeds else None
    spent = flops.flops(student)
    data, plan = student.run.dataset, student.run.config.plan
    # The device-resident pipeline holds every image that a stream may draw.
    second = data.pool if spec.teacher else data.labeled
    sources = [data.labeled, second] if layout.pseudo else [data.labeled]
    resident = sum(len(source) for source in sources)
    pseudo = flops.draws_per_epoch(student) if spec.teacher else 0
    views, drawn = spec.model.views, steps * layout.total
    if spec.solves:
        drawn = views * (len(data.labeled) + pseudo)
    if not streams.is_resident(student, sources, resident):
        resident = 0
    return {
        "model": spec.model.name,
        "resolution": spec.model.resolution,
        "parameters": cost.parameters,
        "flops": cost.flops,
        "blocks": _blocks(cost.shapes),
        "dtype": spec.config.model.dtype,
        "steps": steps,
        "solved": spec.solves,
        "batch": {"labeled": layout.labeled, "pseudo": layout.pseudo},
        "labeled": len(data.labeled),
        "pseudo_labeled": pseudo,
        "views": views,
        "images_drawn": drawn,
        "passes": flops.passes(student),
        **{f"{part}_flops": count for part, count in spent.items()},
        **_chip_hours(sum(spent.values()), plan),
        **_memory(student, speed, resident=resident),
        "disk": _disk(student, floats=floats),
        **({"hours": throughput.hours(student, speed)} if speed else {}),
        # The student's hours include its fine-tuning.
        "fixres": _student_facts(student.final, None) if spec.refined else None,
    }


def _memory(
    student: Generation, speed: Speed | None, *, resident: int
) -> dict[str, Any]:
    """Returns the memory of training per device, and the source of the figure."""
    devices = _devices(student.run)
    compiled = speed.memory if speed else None
    if student.spec.solves:
        channels, labeled = width(student), len(student.run.dataset.labeled)
        # The directions are found in whole features, which are scaled.
        found_in = labeled * student.spec.model.views + SAMPLE
        # Once for each fold that is solved at a time, and once for all.
        copies = 1 + len(os.sched_getaffinity(0))
        kept = min(channels, directions_for(labeled))
        features = max(
            2 * found_in * channels, copies * flops.solved_rows(student) * kept
        )
        floats = sum(leaf.size for leaf in jax.tree.leaves(student.cost.shapes))
        return {
            "memory_per_device": (features + floats) * FLOAT32,
            "memory_from": "estimated",
        }
    if compiled:
        step = compiled.at(student, devices=devices)
    else:
        step = memory.estimated(student, devices=devices)
    image = 3 * student.spec.model.resolution**2
    # Prefetched batches add to the resident images.
    ahead = student.run.config.data.prefetch * -(-student.spec.layout.total // devices)
    taught = _taught_bytes(student, resident=resident)
    return {
        "memory_per_device": step + (resident + ahead) * image + taught,
        "memory_from": "compiled" if compiled else "estimated",
    }


def _taught_bytes(student: Generation, *, resident: int) -> int:
    """Returns the bytes per device of a teacher that labels within the step.

    Its activations are not counted: none are stored for a backward pass.
    """
    shown = student.spec.taught_by
    if shown is None:
        return 0
    images = min(resident, len(student.run.dataset.pool))
    images += -(-student.spec.layout.pseudo // _devices(student.run))
    weights = jax.tree.leaves(student.run.costs.of(shown).shapes)
    floats = sum(leaf.size for leaf in weights)
    return floats * FLOAT32 + images * 3 * shown.resolution**2


def _prepared_bytes(run: Run) -> int:
    """Returns the bytes of a user's own images once prepared, at aspect ratio 4:3."""
    data = run.config.data
    if data.name not in FOLDERS or data.pipeline != "prepared":
        return 0
    learned = (data.sources.labeled, data.sources.unlabeled)
    if any(place and place.startswith(STREAMED) for place in learned):
        return 0
    images = sum(len(part) for part in run.dataset.parts().values())
    return images * (data.side or largest_side(run.config)) ** 2 * 4


def _disk(student: Generation, *, floats: int) -> int:
    """Returns the bytes of a model's checkpoints, bundles, features and labels.

    Features that an earlier model computes are counted there. Heads that are solved
    have no checkpoints; others one more than are kept, while it is saved.
    """
    run, spec = student.run, student.spec
    state_copies = STATE_COPIES[spec.config.train.optimizer] * (not spec.solves)
    checkpoints = (run.config.checkpoint.keep + 1) * state_copies * floats * FLOAT32
    outside = getattr(student.spec.model.module, "outside", ())
    copied = sum(files.size(onnx_backbone.path_of(member)) for member in outside)
    bundles = 2 * (floats * FLOAT32 + copied)
    if spec.fine_tunes:
        return checkpoints + bundles
    features = 0
    if spec.config.train.part == "head":
        computed = sum(flops.feature_images(student).values())
        features = computed * width(student) * FLOAT32
    record = KEY_BYTES + record_bytes(run.task, top_k=spec.config.labels.top_k)
    labels = len(run.dataset.test) * record
    if isinstance(spec.generation, int) and spec.generation < run.last:
        # The sidecar; the plan and targets of selected records; and the picks.
        draws = flops.draws_per_epoch(run.student(spec.generation + 1))
        pool = len(run.dataset.pool)
        labels += (pool + min(pool, draws)) * record + draws * PICK
        if spec.solves and not is_too_much(pool, run.task.outputs):
            labels += FOLDS * pool * run.task.outputs * FLOAT32
    return checkpoints + bundles + features + labels


def record_bytes(task: Task, *, top_k: int | None) -> int:
    """Returns the bytes of a record in a sidecar, without its key.

    Args:
      task: the task that defines the sidecar's columns.
      top_k: see `Task.columns`.
    """
    if hasattr(task, "record_bytes"):
        return task.record_bytes(top_k=top_k)
    return HALF * len(task.classes)


def _devices(run: Run) -> int:
    """Returns the number of devices that would share a batch."""
    return run.config.plan.devices or jax.device_count()


def _chip_facts(run: Run) -> dict[str, Any] | None:
    plan = run.config.plan
    if plan.chip is None:
        return None
    return {**dataclasses.asdict(CHIPS[plan.chip]), "utilization": plan.utilization}


def _chip_hours(operations: float, plan: ConfigDict) -> dict[str, float]:
    if plan.chip is None:
        return {}
    return {"chip_hours": flops.chip_hours(operations, plan)}


def _student_recipe(student: Generation) -> list[str]:
    spec = student.spec
    config, layout, model = spec.config, spec.layout, spec.model
    preprocessing = model.preprocessing.to_json()
    lines = [
        f"{spec.name}: {model.name} at {model.resolution} px",
        f"  parameters: {student.cost.parameters}",
        f"  arguments: {_fields(model.arguments)}",
        f"  preprocessing: {_fields(preprocessing)}",
        *(_solution_recipe(spec) if spec.solves else _steps_recipe(student)),
    ]
    for stream in ("labeled", "pseudo") if layout.pseudo else ("labeled",):
        noise = identity(config.noise[stream].to_dict(), f"noise.{stream}")
        lines.append(f"  noise on {stream}: {_fields(noise)}")
    if spec.teacher:
        fields = identity(config.selection.to_dict(), "selection")
        del fields["relabel"]
        kept = f"that of {spec.teacher}, labeled anew"
        lines.append(f"  selection: {kept if spec.relabels else _fields(fields)}")
    return lines


def _solution_recipe(spec: GenerationSpec) -> list[str]:
    train = spec.config.train
    lines = [
        "  head: solved (logistic regression; C by cross-validation), each image in"
        f" up to {spec.model.views} views"
    ]
    if spec.teacher:
        lines.append(
            f"  {train.targets} pseudo-labels, temperature {train.temperature:g}"
        )
    return lines


def _steps_recipe(student: Generation) -> list[str]:
    spec = student.spec
    train, layout, length = spec.config.train, spec.layout, spec.schedule
    decays = decayed(student.cost.shapes["params"])
    flat = jax.tree_util.tree_leaves_with_path(decays)
    off = [path for path, on in flat if not on]
    peak = train.learning_rate * train.batch / 256
    second = (
        f", streams by '{train.loss_normalization}' at ratio {train.ratio:g}"
        if layout.pseudo
        else ""
    )
    if spec.teacher:
        made = "made in the step, " if spec.taught_by else ""
        second += (
            f", {made}{train.targets} pseudo-labels, temperature {train.temperature:g}"
        )
    warmup = train.warmup_epochs * length.steps_per_epoch
    lines = [
        f"  steps: {length.steps}, of {layout.labeled} labeled + {layout.pseudo}"
        " others",
        f"  optimizer: {train.optimizer}"
        + ("" if train.optimizer == "adamw" else f", momentum {train.momentum:g}"),
        f"  learning rate: peak {peak:g}, {train.schedule}, warm-up {warmup:g} steps",
    ]
    if train.schedule == "exponential":
        stair = train.decay_epochs * length.steps_per_epoch
        lines.append(f"  stairs: × {train.decay_factor:g} every {stair:g} steps")
    if spec.frozen_blocks is not None:
        lines.append(f"  frozen: {_frozen(spec)}")
    return [
        *lines,
        f"  loss: label smoothing {train.label_smoothing:g}{second}",
        f"  weight decay: {train.weight_decay:g} on {len(flat) - len(off)} of"
        f" {len(flat)} arrays; not on"
        f" {', '.join(sorted({_kind(path) for path in off})) or 'none'}",
        f"  EMA decay: {train.ema_decay:g}",
    ]


def _fixres_recipe(spec: GenerationSpec) -> list[str]:
    return [
        f"  FixRes: at {spec.model.resolution} px, {spec.schedule.steps} steps of"
        f" {spec.layout.labeled} labeled, the last of the schedule; frozen:"
        f" {_frozen(spec)}"
    ]


def _frozen(spec: GenerationSpec) -> str:
    blocks = spec.frozen_blocks
    return "nothing" if blocks is None else f"the stem and {blocks} blocks"


def _kind(path: tuple) -> str:
    """Returns a parameter's name without the number of its block."""
    return ".".join(str(part.key) for part in path[-2:])


def _fields(fields: dict[str, Any]) -> str:
    return ", ".join(
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in sorted(fields.items())
    )


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"
