"""A head is trained on features of a frozen body, computed once."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from support import TINY

from noisy_student_jax import config, models
from noisy_student_jax.cli.main import main
from noisy_student_jax.core import files
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.evaluation.predictor import Predictor, predict_source
from noisy_student_jax.generation import init_weights
from noisy_student_jax.generation import trainable as parts
from noisy_student_jax.models import bundle as bundles
from noisy_student_jax.models import concatenated
from noisy_student_jax.models.initialize import initialize
from noisy_student_jax.runs.run import Run


def flags(tiny_run):
    return [
        f"--config.init={tiny_run / 'generation_1' / 'model'}",
        "--config.train=head",
        "--config.train.optimizer=adamw",
    ]


@pytest.fixture(scope="module")
def head_run(tiny_run, tmp_path_factory):
    """A run of heads on the tiny run's body, and what it can be compared with."""
    workdir = tmp_path_factory.mktemp("head") / "run"
    line = ["run", f"--config={TINY}", f"--workdir={workdir}", *flags(tiny_run)]
    line += ["--config.probe.enabled=true", "--config.fine_tuning.enabled=true"]
    line += ["--config.model.views=2"]
    assert main(line) == 0
    return workdir


def student(workdir, tiny_run, number, *overrides):
    asked = config.load(TINY, [*flags(tiny_run), *overrides])
    return Run(
        init_weights.with_given(asked), workdir, interruption=Interruption()
    ).student(number)


@pytest.mark.parametrize("name", ["generation_0", "generation_1", "control", "probe"])
def test_only_the_head_has_changed(tiny_run, head_run, name):
    start = bundles.read(tiny_run / "generation_1" / "model").variables
    end = bundles.read(head_run / name / "model").variables

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


def test_fine_tuning_changes_the_body_too(tiny_run, head_run):
    start = bundles.read(tiny_run / "generation_1" / "model").variables
    end = bundles.read(head_run / "fine_tuning" / "model").variables

    kernel = ("params", "stem_conv", "kernel")
    before, after = (jax.tree.map(np.asarray, one) for one in (start, end))
    for name in kernel:
        before, after = before[name], after[name]
    assert not np.array_equal(before, after)


def test_the_bundle_predicts_of_images_what_its_head_does_of_features(head_run):
    bundle = bundles.read(head_run / "generation_1" / "model")
    run = Run(
        config.from_json(head_run / "config.json"),
        head_run,
        interruption=Interruption(),
    )
    whole = Predictor.from_bundle(bundle, run.task, batch=64)
    found = predict_source(whole, {"ema": bundle.variables}, run.dataset.test)

    evaluation = files.read_json(head_run / "generation_1" / "evaluation.json")
    ours = run.task.metrics(found.predictions["ema"], found.labels)
    theirs = evaluation["splits"]["test"]["ema"]
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_what_a_head_is_trained_on_is_what_the_body_makes(tiny_run, head_run):
    from noisy_student_jax.core import sharding
    from noisy_student_jax.generation import streams

    for resident in ("2.0", "0.0"):
        one = student(
            head_run, tiny_run, 1, f"--config.data.resident_gigabytes={resident}"
        )
        trained = parts.part(one)
        learned = streams.make(one).read_by(trained)
        mesh = sharding.make_mesh()
        pipeline = streams.open_pipeline(one, learned, mesh, trained.preprocessing)
        batch = pipeline(0)
        seen = np.asarray(batch["image"])[np.asarray(batch["stream"]) == 0]
        pipeline.close()

        source = learned.labeled.source
        whole = source.rows(np.arange(len(source)))
        assert seen.dtype == np.float32
        assert 0 < abs(whole).max() < 255
        for features in seen[:, 0, 0]:
            assert (abs(whole - features).max(axis=1) == 0).any()


@pytest.mark.parametrize("resident", ["2.0", "0.0"])
def test_a_labeled_image_without_features_is_never_drawn(
    tiny_run, head_run, monkeypatch, capsys, resident
):
    from noisy_student_jax.core import sharding
    from noisy_student_jax.generation import streams

    few = "--config.data.max_quarantined=0.2"
    one = student(
        head_run, tiny_run, 0, few, f"--config.data.resident_gigabytes={resident}"
    )
    trained = parts.part(one)
    learned = streams.make(one)
    source = trained.source(learned.labeled.source, "labeled")
    source.status[:5] = ["torn"] * 5
    monkeypatch.setattr(parts.HeadOnFeatures, "source", lambda *_: source)

    read = learned.read_by(trained)

    assert len(read.labeled.picks) == len(source) - 5
    said = capsys.readouterr().out
    assert "5 of 30 labeled images cannot be used and are left out, the first" in said
    source.status[:7] = ["torn"] * 7
    with pytest.raises(UserError, match="7 of 30 labeled images cannot be used"):
        learned.read_by(trained)
    source.status[5:7] = ["ok"] * 2
    mesh = sharding.make_mesh()
    pipeline = streams.open_pipeline(one, read, mesh, trained.preprocessing)
    drawn = {key for step in range(4) for key in pipeline.records(step)["labeled"]}
    assert not drawn & {source.key(n) for n in range(5)}
    assert np.isfinite(np.asarray(pipeline(0)["image"])).all()
    pipeline.close()


def test_features_are_computed_once_for_all_that_share_a_body(tiny_run, head_run):
    # Two generations, the control and the probe read those of one folder a view.
    folders = list((head_run / "prepared" / "features").iterdir())
    dataset = student(head_run, tiny_run, 1).run.dataset

    assert len(folders) == 2
    for folder in folders:
        chunks = [
            files.read_parquet(path)["content"].to_pylist()
            for path in folder.glob("*.parquet")
        ]
        stored = list(itertools.chain(*chunks))
        assert len(stored) == len(set(stored))
        assert len(stored) == sum(map(len, dataset.parts().values()))


def test_features_of_another_body_are_others(tiny_run, head_run):
    ours = parts.part(student(head_run, tiny_run, 1))
    teacher = tiny_run / "generation_0" / "model"
    theirs = parts.part(student(head_run, tiny_run, 1, f"--config.init={teacher}"))
    source = ours.student.run.dataset.validation

    one, other = (p.source(source, "validation").read([0]) for p in (ours, theirs))

    assert not np.allclose(one.images[0], other.images[0])


def test_several_networks_share_their_features_with_each_alone(tiny_run, tmp_path):
    body = bundles.read(tiny_run / "generation_1" / "model")
    members = (body.architecture, "efficientnet_tiny_s")
    beside = initialize(models.create(members[1], outputs=10), resolution=8, seed=0)
    joined = concatenated.joined({members[0]: body.variables, members[1]: beside})
    classifier = {"kernel": np.zeros((32 + 64, 10), "f"), "bias": np.zeros(10, "f")}
    mean, std = models.normalization(body.architecture)
    both = dataclasses.replace(
        body,
        architecture="concatenated",
        arguments={"outputs": 10, "members": members},
        preprocessing=dataclasses.replace(body.preprocessing, mean=mean, std=std),
        variables={**joined, "params": {**joined["params"], "classifier": classifier}},
    )
    bundles.write(both, tmp_path / "both")
    normal = [f"--config.model.mean={mean}", f"--config.model.std={std}"]
    several = [
        "--config.model.name=concatenated",
        f"--config.members={','.join(members)}",
        f"--config.init={tmp_path / 'both'}",
    ]
    whole, alone = (
        parts.part(student(tmp_path / "run", tiny_run, 1, *normal, *more))
        for more in (several, [])
    )
    source = whole.student.run.dataset.validation
    records = np.arange(len(source))

    features = whole.source(source, "validation").rows(records)
    folders = set((tmp_path / "run" / "prepared" / "features").iterdir())
    own = alone.source(source, "validation").rows(records)

    assert len(folders) == 2
    assert set((tmp_path / "run" / "prepared" / "features").iterdir()) == folders
    np.testing.assert_array_equal(features[:, :32], own)
    images = source.read(records).images
    predict = Predictor(_Pooled(), whole.student.spec.model.module, both.preprocessing)
    seen = predict(both.variables, both.preprocessing.apply_all(images))["pooled"]
    np.testing.assert_allclose(features, seen, rtol=1e-4, atol=1e-5)


def given(tiny_run, folder, architecture):
    """Flags for heads on a model of one's own, whose bundle is in a folder."""
    body = bundles.read(tiny_run / "generation_1" / "model")
    module = models.create(architecture, outputs=10)
    own = dataclasses.replace(
        body,
        architecture=architecture,
        arguments={"outputs": 10},
        variables={"batch_stats": {}} | initialize(module, resolution=8, seed=0),
    )
    bundles.write(own, folder)
    return [f"--config.model.name={architecture}", f"--config.init={folder}"]


@pytest.mark.parametrize("name", ["efficientnet_test", "outside.backbones:in_views"])
def test_each_view_is_kept_once_and_the_mean_is_what_the_model_sees(
    tiny_run, tmp_path, name
):
    more = []
    if name != "efficientnet_test":
        more = given(tiny_run, tmp_path / "own", name)
    one, three = (
        parts.part(
            student(
                tmp_path / "run", tiny_run, 1, *more, f"--config.model.views={count}"
            )
        )
        for count in (1, 3)
    )
    source = one.student.run.dataset.validation
    folders = tmp_path / "run" / "prepared" / "features"

    features = three.source(source, "validation").rows(np.arange(len(source)))
    kept = set(folders.iterdir())
    one.source(source, "validation")

    assert len(kept) == 3
    assert set(folders.iterdir()) == kept
    whole = three.student.spec.model
    predict = Predictor(_Pooled(), whole.module, whole.preprocessing)
    images = whole.preprocessing.apply_all(source.read(range(len(source))).images)
    seen = predict(init_weights.initial_variables(three.student), images)["pooled"]
    np.testing.assert_allclose(features, seen, rtol=1e-4, atol=1e-5)


def test_a_model_without_views_is_solved_and_its_bundle_predicts(
    tiny_run, tmp_path, capsys
):
    more = given(tiny_run, tmp_path / "own", "outside.backbones:in_one")
    line = ["run", f"--config={TINY}", f"--workdir={tmp_path / 'w'}", *more]
    line += ["--config.train=head", "--config.train.optimizer=lbfgs"]

    assert main([*line, "--config.model.views=2"]) == 2
    assert "'outside.backbones:in_one' takes no argument 'views'" in (
        capsys.readouterr().err
    )
    assert main([*line, "--config.control.enabled=false"]) == 0

    best = bundles.read(tmp_path / "w" / "best")
    assert best.arguments == {"outputs": 10}
    Predictor.from_bundle(best, _Pooled())
    with pytest.raises(UserError, match="knows no views"):
        best.in_views(2)


class _Pooled:
    def predict(self, outputs):
        return {"pooled": outputs["pooled"]}


def test_the_table_has_a_probe_and_fine_tuning(head_run):
    summary = files.read_json(head_run / "summary.json")
    assert [one["name"] for one in summary["baselines"]] == ["probe", "fine_tuning"]
    for one in summary["baselines"]:
        assert one["pseudo_labeled"] == 0
        assert 0 <= one["metrics"]["top1"] <= 1

    readme = (head_run / "README.md").read_text()
    report = (head_run / "report.html").read_text()
    for text in (readme, report):
        assert "probe" in text
        assert "fine-tuning" in text


def test_fine_tuning_draws_labeled_images_once_and_the_control_as_a_student(tiny_run):
    place = f"--config.init={tiny_run / 'generation_1' / 'model'}"
    asked = config.load(TINY, [place, "--config.fine_tuning.enabled=true"])
    run = Run(asked, tiny_run, interruption=Interruption())

    assert run.compared_with == ["control", "fine_tuning"]
    assert run.student("fine_tuning").spec.layout.pseudo == 0
    assert run.student("control").spec.layout == run.student(1).spec.layout


def test_the_probe_and_fine_tuning_stay_what_they_are():
    asked = config.load(
        TINY, ["--config.train=head", "--config.fine_tuning.train.part=head"]
    )
    assert asked.fine_tuning.train.part == "all"

    asked = config.load(TINY, ["--config.train=all", "--config.train.ratio=3"])
    assert (asked.probe.train.part, asked.probe.train.ratio) == ("head", 0)
    assert asked.generations[1].train.ratio == 3


def test_a_head_without_a_body_is_refused(tmp_path, capsys):
    line = ["run", f"--config={TINY}", f"--workdir={tmp_path / 'w'}"]

    assert main([*line, "--config.train=head"]) == 2

    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "generation 0" in told.replace("_", " ")
    assert (
        "config.model.init='random' gives generation_0 no weights to start from" in told
    )


def test_a_head_without_a_teacher_to_start_from_is_refused(tmp_path, capsys):
    line = ["run", f"--config={TINY}", f"--workdir={tmp_path / 'w'}"]

    assert main([*line, "--config.train=head", "--config.init=teacher"]) == 2

    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "init='teacher' gives generation_0 no weights to start from" in told


def test_heads_are_planned_and_measured(tiny_run, capsys):
    line = ["plan", f"--config={TINY}", "--measure", *flags(tiny_run)]

    assert main(line) == 0

    assert "the whole run, about" in capsys.readouterr().out


def test_features_are_prepared_as_the_type_that_is_told():
    pixel = parts.OnePixel(3)
    features = [np.ones((1, 1, 3), np.float32)] * 2

    assert pixel.apply_all(features).dtype == pixel.dtype == pixel.blank().dtype
    assert pixel.blank().shape == features[0].shape
