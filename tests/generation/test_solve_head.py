"""A head is solved on features: the same bundles, without steps."""

import shutil

import jax
import numpy as np
import pytest
from support import TINY, mistake

from noisy_student_jax import config
from noisy_student_jax.cli.main import main
from noisy_student_jax.core import files
from noisy_student_jax.core.preemption import Interrupted, Interruption
from noisy_student_jax.evaluation.predictor import Predictor, predict_source
from noisy_student_jax.features.reduction import Reduction
from noisy_student_jax.generation import init_weights, solve_head
from noisy_student_jax.generation.left_out import expected_precision
from noisy_student_jax.generation.trainable import part
from noisy_student_jax.models import bundle as bundles
from noisy_student_jax.runs.run import Run

MODELS = ("generation_0", "generation_1", "control")


def line(tiny_run, workdir, *more, command="run"):
    return [
        command,
        f"--config={TINY}",
        f"--workdir={workdir}",
        f"--config.init={tiny_run / 'generation_1' / 'model'}",
        "--config.train=head",
        "--config.train.optimizer=lbfgs",
        "--config.model.views=2",
        "--config.train.targets=hard",
        "--config.selection.method=all",
        *more,
    ]


@pytest.fixture(scope="module")
def solved(tiny_run, tmp_path_factory):
    """A run of solved heads on the tiny run's backbone. Do not change it."""
    workdir = tmp_path_factory.mktemp("solved") / "run"
    assert main(line(tiny_run, workdir)) == 0
    return workdir


def opened(workdir):
    asked = config.from_json(workdir / "config.json")
    return Run(asked, workdir, interruption=Interruption())


def opened_for(tiny_run, workdir):
    asked = line(tiny_run, workdir)[3:]
    given = init_weights.with_given(config.load(TINY, asked))
    return Run(given, workdir, interruption=Interruption())


@pytest.mark.parametrize("name", MODELS)
def test_only_the_head_has_changed(tiny_run, solved, name):
    start = bundles.read(tiny_run / "generation_1" / "model").variables
    end = bundles.read(solved / name / "model").variables

    changed = [
        jax.tree_util.keystr(path)
        for (path, before), after in zip(
            jax.tree_util.tree_leaves_with_path(start),
            jax.tree.leaves(end),
            strict=True,
        )
        if not np.array_equal(before, after)
    ]
    assert changed == [
        "['params']['classifier']['bias']",
        "['params']['classifier']['kernel']",
    ]


def test_the_bundle_predicts_of_images_what_its_head_does_of_features(solved):
    run, bundle = opened(solved), bundles.read(solved / "generation_1" / "model")
    whole = Predictor.from_bundle(bundle, run.task, batch=64)
    found = predict_source(whole, {"ema": bundle.variables}, run.dataset.test)

    evaluation = files.read_json(solved / "generation_1" / "evaluation.json")
    ours = run.task.metrics(found.predictions["ema"], found.labels)
    assert ours == pytest.approx(evaluation["splits"]["test"]["ema"], rel=1e-5)


def test_no_small_change_of_the_head_does_better(solved):
    run = opened(solved)
    student = run.student(1)
    trained = part(student)
    labeled, pseudo = (
        solve_head._Examples(trained, stream, name)
        for stream, name in zip(
            solve_head.streams.make(student).both, ("labeled", "pool"), strict=True
        )
    )
    counts = run.ledger.finished("generation_1/train")["counts"]
    by = solve_head._reduction(labeled, pseudo)
    assert by.directions is None  # the tiny backbone has few channels
    whole = Reduction(np.ones_like(by.scales), None)
    both = [
        one.first(counts["views"]).reduced(whole).rows() for one in (labeled, pseudo)
    ]
    features, targets, weights = (
        np.concatenate([getattr(rows, name) for rows in both])
        for name in ("features", "targets", "weights")
    )
    found = bundles.read(solved / "generation_1" / "model").variables
    head = found["params"]["classifier"]
    kernel, bias = (np.asarray(head[name], float) for name in ("kernel", "bias"))
    scales = by.scales[:, None]

    def objective(kernel, bias):
        logits = features @ kernel + bias
        logits -= logits.max(axis=1, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        loss = -(weights * (targets * log_p).sum(axis=1)).sum()
        return loss + ((scales * kernel) ** 2).sum() / (2 * counts["strength"])

    best = objective(kernel, bias)
    random = np.random.default_rng(0)
    for _ in range(20):
        step = 0.3 * random.standard_normal(kernel.shape) * abs(kernel).mean()
        assert objective(kernel + step, bias) > best
        assert objective(kernel, bias + 0.3 * random.standard_normal(len(bias))) > best


def test_counts_and_files_say_what_was_solved(solved):
    run = opened(solved)
    counts = {n: run.ledger.finished(f"{n}/train")["counts"] for n in MODELS}
    teacher, student, control = counts.values()

    assert student["strength"] == teacher["strength"] == control["strength"]
    assert (teacher["labeled"], teacher["pseudo_labeled"]) == (30, 0)
    taken = run.ledger.finished("generation_0/select")["counts"]["selected"]
    assert student["pseudo_labeled"] == taken > 0
    assert student["images_drawn"] == student["views"] * (30 + taken)
    assert teacher["sha256"] == control["sha256"] != student["sha256"]
    report = (solved / "report.html").read_text()
    assert "generation 1" in report


@pytest.mark.parametrize("name", MODELS)
def test_each_labeled_record_has_a_prediction_that_did_not_learn_from_it(solved, name):
    run = opened(solved)
    table = files.read_parquet(solved / name / "train" / "out_of_fold.parquet")

    labeled = run.dataset.labeled
    truth = dict(
        zip(map(labeled.key, range(len(labeled))), labeled.labels, strict=True)
    )
    assert sorted(table["key"].to_pylist()) == sorted(truth)
    assert table["truth"].to_pylist() == [
        truth[key] for key in table["key"].to_pylist()
    ]
    assert sorted(set(table["fold"].to_pylist())) == [0, 1, 2]
    probabilities = np.stack(table["probabilities"].to_pylist())
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(30))


def test_the_model_to_use_is_chosen_on_labeled_images_too(solved):
    summary = files.read_json(solved / "summary.json")
    splits = summary["splits"]
    left_out = len(files.read_parquet(solved / "control/train/out_of_fold.parquet"))

    assert left_out == splits["train"]
    assert summary["choice"]["leads"]
    for lead in summary["choice"]["leads"]:
        assert lead["paired"]
        assert lead["images"] == splits["validation"] + left_out


def test_what_to_expect_of_pseudo_labels_is_known_before_a_student(solved):
    run = opened(solved)
    selection = files.read_json(solved / "generation_0/selection/selection.json")
    table = files.read_parquet(solved / "generation_0/train/out_of_fold.parquet")
    found = np.array(table["probabilities"].to_pylist())
    lowest = min(one for one in selection["thresholds"] if one is not None)
    sure = found.max(axis=1) >= lowest
    right = (found.argmax(axis=1) == table["truth"].to_numpy())[sure].mean()

    found = expected_precision(run.student(0), selection)

    assert (found.images, found.taken.sum()) == (len(table), sure.sum())
    assert found.overall == right
    assert f'<td class="n">{found.taken[0]}</td>' in (
        (solved / "report.html").read_text(encoding="utf-8")
    )


def test_the_same_command_gives_the_same_bits(tiny_run, solved, tmp_path):
    assert main(line(tiny_run, tmp_path / "again")) == 0

    for name in MODELS:
        one, other = (
            bundles.read(place / name / "model").sha256
            for place in (solved, tmp_path / "again")
        )
        assert one == other


def test_a_stop_while_solving_changes_no_bit(tiny_run, solved, tmp_path, monkeypatch):
    whole, calls = solve_head.heads.fit, []

    def fit(*arguments, **options):
        calls.append(1)
        if len(calls) == 7:
            raise Interrupted
        return whole(*arguments, **options)

    monkeypatch.setattr(solve_head.heads, "fit", fit)
    assert main(line(tiny_run, tmp_path / "w")) == 75
    assert main(line(tiny_run, tmp_path / "w")) == 0

    for name in MODELS:
        one, other = (
            bundles.read(place / name / "model").sha256
            for place in (solved, tmp_path / "w")
        )
        assert one == other


def test_a_cache_is_shared_by_runs_of_other_seeds(tiny_run, tmp_path, monkeypatch):
    from noisy_student_jax.features import store

    shared = f"--config.data.cache={tmp_path / 'cache'}"
    assert main(line(tiny_run, tmp_path / "one", shared)) == 0
    written = []
    whole = store._write
    monkeypatch.setattr(
        store, "_write", lambda *a: (written.append(len(a[1])), whole(*a))
    )

    assert main(line(tiny_run, tmp_path / "other", shared, "--config.seed=1")) == 0

    # Another seed deals the same digits to other parts; few were in no view yet.
    assert sum(written) < 300


def test_labels_of_other_folds_teach_no_one(solved, tmp_path):
    shutil.copytree(solved, tmp_path / "w")
    teacher = opened(tmp_path / "w").student(0)
    table = files.read_parquet(teacher.paths.training / "out_of_fold.parquet")
    folds = dict(zip(table["key"].to_pylist(), table["fold"].to_pylist(), strict=True))
    shape = 3, len(teacher.run.dataset.pool), 10
    assert solve_head._fold_labels(teacher, {**folds, "no fold": -1}, shape) is not None

    dealt = {key: (fold + 1) % 3 for key, fold in folds.items()}

    assert solve_head._fold_labels(teacher, dealt, shape) is None


def test_a_record_that_is_not_seen_in_every_view_is_not_used(
    tiny_run, tmp_path, monkeypatch
):
    run = opened_for(tiny_run, tmp_path)
    student = run.student(0)
    trained, stream = part(student), solve_head.streams.make(student).labeled
    views = trained.views(stream.source, "labeled", 2)
    views[1].status[4] = "torn"
    monkeypatch.setattr(trained, "views", lambda *_: views)

    found = solve_head._Examples(trained, stream, "labeled")

    assert len(found) == 29 and 4 not in found.records
    assert found.left_out == 1


def test_soft_targets_and_balanced_draws_are_solved_too(tiny_run, tmp_path):
    soft = ["--config.train.targets=soft", "--config.model.views=1"]
    balanced = ["--config.selection.method=paper"]
    assert main(line(tiny_run, tmp_path / "w", *soft, *balanced)) == 0

    counts = opened(tmp_path / "w").ledger.finished("generation_1/train")["counts"]
    assert counts["views"] == 1
    # Cross-fitting does not know balanced draws, and claims nothing.
    assert not (tmp_path / "w/generation_1/train/out_of_fold.parquet").exists()


def test_a_whole_model_is_not_solved(tiny_run, tmp_path, capsys):
    whole = ["--config.train=all", "--config.model.views=1"]
    told = mistake(capsys, *line(tiny_run, tmp_path / "w", *whole))

    assert (
        "generation_0: config.train.optimizer is 'lbfgs', which solves a head" in told
    )


def test_solved_heads_are_planned_and_measured(tiny_run, tmp_path, capsys):
    assert main([*line(tiny_run, tmp_path / "w", command="plan"), "--measure"]) == 0

    said = capsys.readouterr().out
    assert "the whole run, about" in said
    assert "head solved" in said
