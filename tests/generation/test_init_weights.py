"""What a model starts from: given teachers, given weights, its own teacher."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from support import TINY

from noisy_student_jax import config, models, self_training
from noisy_student_jax.cli.main import main
from noisy_student_jax.core import files
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.generation import init_weights
from noisy_student_jax.interop import published
from noisy_student_jax.models import bundle as bundles
from noisy_student_jax.models import concatenated
from noisy_student_jax.models.initialize import initialize
from noisy_student_jax.models.parts import parts
from noisy_student_jax.runs.run import Run


def student(workdir, number, *overrides):
    return Run(
        init_weights.with_given(config.load(TINY, overrides)),
        workdir,
        interruption=Interruption(),
    ).student(number)


def equal(one, other):
    return all(
        jax.tree.leaves(jax.tree.map(lambda a, b: np.array_equal(a, b), one, other))
    )


@pytest.fixture(scope="module")
def bundle(tiny_run):
    return bundles.read(tiny_run / "generation_1" / "model")


@pytest.fixture
def other_classes(tmp_path, bundle):
    """The same weights, said to be of classes that nobody else has."""
    names = tuple(f"other {number}" for number in range(len(bundle.classes)))
    place = tmp_path / "other"
    bundles.write(dataclasses.replace(bundle, classes=names), place)
    return place


def test_a_model_starts_from_all_of_a_bundle_of_its_classes(tiny_run, bundle):
    flag = f"--config.init={tiny_run / 'generation_1' / 'model'}"

    start = init_weights.initial_variables(student(tiny_run, 1, flag))

    assert equal(start, bundle.variables)


def test_of_a_bundle_of_other_classes_the_head_is_new_and_zero(
    tiny_run, bundle, other_classes
):
    one = student(tiny_run, 1, f"--config.init={other_classes}")

    start = init_weights.initial_variables(one)

    head = start["params"].pop("classifier")
    assert head["kernel"].shape == (32, 10)
    assert not head["kernel"].any() and not head["bias"].any()
    body = dict(bundle.variables["params"])
    del body["classifier"]
    assert equal(start["params"], body)
    assert equal(start["batch_stats"], bundle.variables["batch_stats"])


def test_no_random_values_are_drawn_where_weights_are_given(tiny_run, monkeypatch):
    flag = f"--config.init={tiny_run / 'generation_1' / 'model'}"
    monkeypatch.delattr(init_weights, "initialize")

    assert init_weights.initial_variables(student(tiny_run, 1, flag))
    with pytest.raises(NameError):
        init_weights.initial_variables(student(tiny_run, 1))


def test_several_networks_start_from_the_published_weights_of_each(tiny_run):
    members = models.MEMBERS[:2]
    if not set(members) <= set(published.available()):
        pytest.skip("published weights are not installed")
    one = student(
        tiny_run,
        1,
        "--config.model.name=concatenated",
        f"--config.model.members={','.join(members)}",
        "--config.init=pretrained",
    )

    start = init_weights.initial_variables(one)

    assert one.spec.model.module.members == members
    assert start["params"]["classifier"]["kernel"].shape == (2560, 10)
    assert not start["params"]["classifier"]["kernel"].any()
    for member in members:
        alone = published.lite_bundle(member).variables
        del alone["params"]["classifier"]
        assert equal(concatenated.separate(start, member)["params"], alone["params"])
        assert equal(start["batch_stats"][member], alone["batch_stats"])


def test_a_detector_starts_from_a_classifiers_backbone(tiny_run, bundle):
    place = tiny_run / "generation_1" / "model"
    detector = student(
        tiny_run, 1, f"--config.init={place}", "--config.model.name=fcos_test"
    )

    start = init_weights.initial_variables(detector)

    drawn = initialize(
        detector.spec.model.module,
        resolution=8,
        seed=detector.run.config.seed,
        generation=1,
    )
    for name, own in start["params"].items():
        new = name in ("neck", "detector")
        given = drawn if new else bundle.variables
        assert equal(own, given["params"][name]), name
    assert start["params"].keys() == drawn["params"].keys()
    assert start["batch_stats"].keys() == drawn["batch_stats"].keys()
    for name, own in start["batch_stats"].items():
        assert equal(own, bundle.variables["batch_stats"][name])


@pytest.mark.parametrize("same_classes", [True, False])
def test_a_detector_of_other_classes_keeps_all_but_their_logits(same_classes):
    given, drawn = (
        initialize(models.create("fcos_test", outputs=count), resolution=8, seed=seed)
        for count, seed in ((3, 1), (3 if same_classes else 2, 2))
    )

    start = init_weights.merged_variables(
        drawn,
        given,
        parts=parts(models.create("fcos_test", outputs=2)),
        draw=lambda: drawn,
        same_classes=same_classes,
        what="a bundle",
        model="fcos_test",
    )

    logits = start["params"]["detector"].pop("logits")
    source = given if same_classes else drawn
    assert equal(logits, source["params"]["detector"]["logits"])
    del given["params"]["detector"]["logits"]
    assert equal(start, given)


def test_a_classifier_does_not_start_from_a_detector():
    given, drawn = (
        initialize(models.create(name, outputs=3), resolution=8, seed=0)
        for name in ("fcos_test", "efficientnet_test")
    )

    with pytest.raises(
        UserError, match=r"does not fit.*first being batch_stats/head_bn"
    ):
        init_weights.merged_variables(
            drawn,
            given,
            parts=parts(models.create("efficientnet_test", outputs=3)),
            draw=lambda: drawn,
            same_classes=True,
            what="a bundle",
            model="efficientnet_test",
        )


def test_a_detector_starts_from_published_weights_of_its_backbone(tiny_run):
    if "efficientnet_lite0" not in published.available():
        pytest.skip("published weights are not installed")
    one = student(
        tiny_run, 1, "--config.init=pretrained", "--config.model.name=fcos_lite0"
    )

    start = init_weights.initial_variables(one)

    alone = published.lite_bundle("efficientnet_lite0").variables
    assert equal(start["params"]["blocks_7"], alone["params"]["blocks_7"])
    assert start["params"]["detector"]["conv_0"]["kernel"].any()
    assert "head_conv" not in start["params"]


def test_a_student_starts_from_its_teacher_and_the_first_from_nothing(tiny_run):
    flag = "--config.init=teacher"
    teacher = bundles.read(tiny_run / "generation_0" / "model")

    start = init_weights.initial_variables(student(tiny_run, 1, flag))

    assert equal(start, teacher.variables)
    assert init_weights.given(student(tiny_run, 0, flag)) is None


def test_models_on_labels_alone_start_from_the_first_teacher_then(tiny_run):
    flag = "--config.init=teacher"
    control = student(tiny_run, "control", flag)

    (stage,) = self_training.training(control.run, "control")
    assert "generation_0/train" in stage.needs
    assert stage.inputs == {"init": "teacher"}
    assert init_weights.given(control).sha256 == (
        bundles.read(tiny_run / "generation_0" / "model").sha256
    )
    run = student(tiny_run, "control").run
    (from_nothing,) = self_training.training(run, "control")
    assert from_nothing.needs == ("data",)


def test_weights_of_another_architecture_are_refused_by_name(tiny_run):
    flag = f"--config.init={tiny_run / 'generation_1' / 'model'}"
    one = student(tiny_run, 1, flag, "--config.model.name=efficientnet_tiny_s")

    with pytest.raises(UserError, match=r"'efficientnet_test'\) does not fit model"):
        init_weights.initial_variables(one)


def test_the_mean_that_given_weights_know_is_taken_with_them(tiny_run):
    place = tiny_run / "generation_1" / "model"
    asked = config.load(TINY, [f"--config.init={place}", "--config.model.mean=none"])

    filled = init_weights.with_given(asked)

    assert filled.generations[1].model.mean == (0.3, 0.3, 0.3)
    assert filled.control.model.mean == (0.3, 0.3, 0.3)


@pytest.fixture(scope="module")
def taught(tiny_run, tmp_path_factory):
    """A run that was given the first run's teacher."""
    workdir = tmp_path_factory.mktemp("taught") / "run"
    teacher = tiny_run / "generation_0" / "model"
    line = ["run", f"--config={TINY}", f"--workdir={workdir}"]
    line += [f"--config.teacher={teacher}", "--config.control.enabled=false"]
    # What the config says of the first model is the bundle's to say.
    line += ["--config.generations[0].model.name=efficientnet_tiny_s"]
    assert main(line) == 0
    return workdir


def test_a_given_teacher_labels_the_pool_and_is_not_trained(tiny_run, taught):
    ours, theirs = (run / "generation_0" for run in (taught, tiny_run))

    assert not (ours / "train").exists()
    own, given = (bundles.read(one / "model") for one in (ours, theirs))
    assert own.sha256 == given.sha256
    assert own.trained_on.tolist() == given.trained_on.tolist()
    for path in sorted((theirs / "labels").glob("shard_*.parquet")):
        labels = ours / "labels" / path.name
        assert files.sha256(labels) == files.sha256(path)
    summary = files.read_json(taught / "summary.json")
    assert summary["generations"][0]["model"] == "efficientnet_test"
    assert summary["generations"][0]["images_drawn"] == 0


def test_its_student_is_the_one_that_a_trained_teacher_would_have(tiny_run, taught):
    own, other = (
        bundles.read(run / "generation_1" / "model") for run in (taught, tiny_run)
    )

    assert own.sha256 == other.sha256


def refusal(capsys, *flags):
    assert main(["run", f"--config={TINY}", *flags]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    return told


def test_a_teacher_of_other_classes_is_refused(tmp_path, other_classes, capsys):
    told = refusal(
        capsys, f"--workdir={tmp_path / 'w'}", f"--config.teacher={other_classes}"
    )

    assert "has 10 classes, which are not the data's 10 ('0' is in one only)" in told
    assert "--config.init" in told


@pytest.mark.parametrize("field", ["teacher", "init"])
def test_a_bundle_that_is_not_there_is_named(tmp_path, capsys, field):
    told = refusal(capsys, f"--workdir={tmp_path / 'w'}", f"--config.{field}=/no/where")

    assert "'/no/where', but nothing is there" in told


def test_another_teacher_makes_the_run_stale(tiny_run, taught, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(taught, workdir)
    line = ["run", f"--config={TINY}", f"--workdir={workdir}"]
    line += [f"--config.teacher={tiny_run / 'generation_1' / 'model'}"]
    line += ["--config.control.enabled=false"]

    assert main(line) == 2
    assert "generation_0/train (input 'teacher')" in capsys.readouterr().err


def test_a_start_from_the_teacher_is_not_one_from_nothing(tiny_run):
    random, warm = (
        self_training.training(student(tiny_run, 1, flag).run, 1)[0]
        for flag in ("--config.init=random", "--config.init=teacher")
    )

    assert random.inputs != warm.inputs


def test_a_teacher_with_another_card_is_another_teacher(tiny_run, tmp_path):
    given = bundles.read(tiny_run / "generation_0" / "model")
    prepared = dataclasses.replace(given.preprocessing, resolution=12)
    bundles.write(
        dataclasses.replace(given, preprocessing=prepared), tmp_path / "other"
    )

    one, other = (
        init_weights.digests(student(tiny_run, 0, f"--config.teacher={place}"))
        for place in (tiny_run / "generation_0" / "model", tmp_path / "other")
    )

    assert one.keys() == other.keys() == {"teacher"}
    assert one != other


def test_a_teacher_that_was_taken_away_still_is_the_one_that_was_noted(
    tiny_run, tmp_path, capsys
):
    teacher, workdir = tmp_path / "teacher", tmp_path / "run"
    shutil.copytree(tiny_run / "generation_0" / "model", teacher)
    line = ["run", f"--config={TINY}", f"--workdir={workdir}"]
    line += [f"--config.teacher={teacher}", "--config.control.enabled=false"]
    assert main(line) == 0
    shutil.rmtree(teacher)

    assert main(["status", f"--workdir={workdir}", "--json"]) == 0

    assert '"finished": true' in capsys.readouterr().out


def test_a_start_from_a_teacher_of_another_architecture_is_refused(tmp_path, capsys):
    told = refusal(
        capsys,
        f"--workdir={tmp_path / 'w'}",
        "--config.init=teacher",
        "--config.generations[1].model.name=efficientnet_tiny_s",
    )

    assert "'efficientnet_tiny_s' is not the teacher's, 'efficientnet_test'" in told


@pytest.mark.parametrize("field", ["teacher", "init"])
def test_weights_that_know_the_test_images_are_refused(
    tiny_run, tmp_path, capsys, field
):
    known = bundles.read(tiny_run / "generation_0" / "model")
    run = student(tiny_run, 0).run
    seen = np.sort(init_weights.key_hashes(run.dataset.test)[:3])
    bundles.write(dataclasses.replace(known, trained_on=seen), tmp_path / "seen")

    told = refusal(
        capsys, f"--workdir={tmp_path / 'w'}", f"--config.{field}={tmp_path / 'seen'}"
    )

    assert "3 of 100 test images are among those that the weights given to" in told


def test_a_given_teacher_brings_no_code_from_outside(tiny_run, tmp_path, capsys):
    given = bundles.read(tiny_run / "generation_0" / "model")
    stranger = dataclasses.replace(given, architecture="stranger:make")
    bundles.write(stranger, tmp_path / "stranger")

    told = refusal(
        capsys,
        f"--workdir={tmp_path / 'w'}",
        f"--config.teacher={tmp_path / 'stranger'}",
    )

    assert "needs code from outside this package, 'stranger:make'" in told


def test_a_given_teacher_keeps_its_size_where_a_budget_is_short(tiny_run):
    from noisy_student_jax.planning import budget
    from noisy_student_jax.planning.throughput import Speed

    place = tiny_run / "generation_0" / "model"
    run = student(tiny_run, 0, f"--config.teacher={place}").run

    given_up = budget.fit(run, hours=1e-4, speeds=lambda one: Speed(2e3, 1e5))

    assert given_up
    assert not any(one.field.startswith("generations[0]") for one in given_up)


def test_what_given_weights_learned_from_is_remembered(tiny_run):
    from noisy_student_jax.generation import streams

    place = tiny_run / "generation_1" / "model"
    one = student(tiny_run, 0, f"--config.init={place}")

    learned = streams.make(one)

    known = bundles.read(place).trained_on
    assert np.isin(known, learned.trained_on).all()
    assert len(known) > len(one.run.dataset.labeled)
