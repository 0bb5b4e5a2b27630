"""FixRes: fine-tuned at the test resolution, shallow blocks frozen, not augmented."""

import hashlib
import json
import shutil

import jax
import numpy as np
import pytest
from support import TINY, command

from noisy_student_jax.cli.main import main
from noisy_student_jax.core import sharding
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.generation import streams
from noisy_student_jax.generation.preconditions import check
from noisy_student_jax.generation.train import step_and_state
from noisy_student_jax.generation.trainable import part
from noisy_student_jax.models import bundle as bundles
from noisy_student_jax.models import create
from noisy_student_jax.models.initialize import initialize
from noisy_student_jax.training.optimizer import OptimizerOptions, make_schedule

ON = (
    "--config.generations[1].fixres.resolution=12",
    "--config.generations[1].fixres.steps=6",
    "--config.generations[1].fixres.frozen_blocks=1",
)
REFINED = ("generation_1", "control")
FROZEN = ("stem_conv", "stem_bn", "blocks_0")


def line(workdir, *more):
    return ["run", f"--config={TINY}", f"--workdir={workdir}", *more]


def performed(out):
    stages = [row for row in out.splitlines() if row.startswith("[")]
    return [row.split()[1] for row in stages if not row.endswith("skipped")]


def weights(folder):
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def refined(tiny_run, tmp_path_factory):
    """The finished run, and then FixRes was turned on. Do not change it."""
    workdir = shutil.copytree(tiny_run, tmp_path_factory.mktemp("fixres") / "run")
    assert main(line(workdir, *ON, "--again")) == 0
    return workdir


def test_turned_on_later_it_trains_nothing_again(refined, tiny_run):
    for name in REFINED:
        kept = weights(refined / name / "before_fixres")
        assert kept == weights(tiny_run / name / "model")
        assert kept != weights(refined / name / "model")
    assert not (refined / "superseded/1/generation_1/train").exists()
    assert not (refined / "generation_0/before_fixres").exists()


def test_turned_off_again_it_gives_back_what_was_trained(
    refined, tiny_run, tmp_path, capsys
):
    workdir = shutil.copytree(refined, tmp_path / "run")
    assert main(line(workdir)) == 2  # not without leave
    capsys.readouterr()
    assert main(line(workdir, "--again")) == 0

    assert performed(capsys.readouterr().out) == [
        "generation_1/evaluate",
        "control/evaluate",
        "report",
    ]
    for name in REFINED:
        assert weights(workdir / name / "model") == weights(tiny_run / name / "model")
        was = workdir / "superseded" / "1" / name
        assert weights(was / "model") == weights(refined / name / "model")
        assert (was / "fixres" / "checkpoints").is_dir()


def test_its_bundle_reads_images_at_the_new_resolution_and_says_so(refined):
    before = bundles.read(refined / "generation_1/before_fixres")
    after = bundles.read(refined / "generation_1/model")

    assert (before.preprocessing.resolution, after.preprocessing.resolution) == (8, 12)
    assert after.arguments == before.arguments
    assert after.origin["fixres"] == {
        "resolution": 12,
        "from": 8,
        "frozen_blocks": 1,
        "steps": 6,
        "model": before.sha256,
    }
    assert "fixres" not in before.origin
    np.testing.assert_array_equal(after.trained_on, before.trained_on)


def test_the_summary_tells_both_resolutions(refined, capsys):
    summary = json.loads((refined / "summary.json").read_text())
    last, control = summary["generations"][1], summary["control"]
    assert (last["trained_at"], last["resolution"]) == (8, 12)
    assert (control["trained_at"], control["resolution"]) == (8, 12)
    assert last["images_drawn"] == 12 * 32 + 6 * 16
    assert "8 → 12" in (refined / "README.md").read_text()
    assert "8 → 12" in (refined / "report.html").read_text()


@pytest.mark.parametrize("which", ["model", "fixres/raw_model"])
def test_shallow_blocks_stay_as_they_were_to_the_bit(refined, which):
    before = bundles.read(refined / "generation_1/before_fixres").variables
    after = bundles.read(refined / "generation_1" / which).variables

    for collection in ("params", "batch_stats"):
        for module, was in before[collection].items():
            same = jax.tree.map(np.array_equal, was, after[collection][module])
            expected = module in FROZEN
            assert all(jax.tree.leaves(same)) == expected, (collection, module)


def test_it_starts_from_averaged_weights_and_the_ramp_of_their_average_again(
    refined, tiny_student
):
    student = tiny_student(1, *ON)
    student.run.workdir = refined
    _, state = step_and_state(part(student.final))

    before = bundles.read(refined / "generation_1/before_fixres").variables
    for found in (state.raw_variables, state.ema_variables):
        jax.tree.map(np.testing.assert_array_equal, found, dict(before))
    assert state.step == 0


def test_images_are_cropped_as_in_evaluation_and_not_noised(refined, tiny_student):
    student = tiny_student(1, *ON, "--config.noise.labeled.flip=true")
    student.run.workdir = refined
    final = student.final
    pipeline = streams.open_pipeline(
        final, streams.make(final), sharding.make_mesh(), final.spec.model.preprocessing
    )
    batch = pipeline(3)

    source = student.run.dataset.labeled
    index = {source.key(n): n for n in range(len(source))}
    drawn = [index[key] for key in pipeline.records(3)["labeled"]]
    expected = final.spec.model.preprocessing.apply_all(source.read(drawn).images)
    np.testing.assert_array_equal(batch["image"], expected)
    assert len(expected) == 16
    # The model's own noise stays on, as remove_aug of the authors leaves it.
    assert all(np.all(flag == 1) for flag in batch["noise"].values())


def test_the_learning_rate_is_that_of_the_end_of_the_schedule(tiny_student):
    student = tiny_student(1, *ON)
    options = OptimizerOptions.from_config(student.spec.config.train)
    numbers = {"batch": 16, "steps": 12, "steps_per_epoch": 30 / 16}
    whole = make_schedule(options, **numbers)
    tail = make_schedule(options, **numbers, start=student.final.spec.schedule.start)

    assert student.final.spec.schedule.start == 12 - 6
    assert [float(tail(n)) for n in range(6)] == [float(whole(n)) for n in range(6, 12)]
    # Epochs are counted in its own batches.
    own = tiny_student(1, *ON, "--config.fixres.batch=8").final
    assert own.spec.schedule.start == 24 - 6


def test_it_draws_in_an_order_of_its_own(tiny_student):
    student = tiny_student(1, *ON)
    control = tiny_student("control", *ON)
    numbers = {one.spec.number for s in (student, control) for one in (s, s.final)}
    assert len(numbers) == 4


def test_what_is_frozen_has_no_gradient_and_no_batch_statistics():
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    frozen = create("efficientnet_test", outputs=3, batch_norm_group=2, frozen_blocks=1)
    variables = initialize(frozen, resolution=8, seed=0, generation=0)
    rngs = {"dropout": jax.random.key(1), "stochastic_depth": jax.random.key(2)}

    def loss(params):
        found, changed = frozen.apply(
            {**variables, "params": params},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs=rngs,
        )
        return (found["logits"] ** 2).sum(), changed["batch_stats"]

    find = jax.jit(jax.grad(loss, has_aux=True))
    gradients, stats = find(variables["params"])
    assert frozen.frozen == FROZEN
    for module, gradient in gradients.items():
        still = not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))
        assert still == (module in FROZEN), module
    for module, own in stats.items():
        was = variables["batch_stats"][module]
        same = jax.tree.leaves(jax.tree.map(np.array_equal, was, own))
        assert all(same) == (module in FROZEN), module


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("generations[1].fixres.steps=99", "more than the training itself has"),
        (
            "generations[1].fixres.frozen_blocks=99",
            "config.fixres.frozen_blocks=99 is invalid",
        ),
        ("fixres.batch=0.5", "config.fixres.batch takes a value of type int"),
        ("fixres.epochs=none", "has to be given"),
        ("model.name=outside.gray:averages", "takes no argument 'frozen_blocks'"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(tiny_student, override, says):
    on = [o for o in ON if "epochs" not in override or "steps" not in o]
    with pytest.raises(UserError, match=r"fixres|averages") as refusal:
        check(tiny_student(1, *on, f"--config.{override}").run)
    assert says in str(refusal.value)


def test_killed_it_goes_on_to_the_same_bits(refined, tiny_run, tmp_path, capsys):
    workdir = shutil.copytree(tiny_run, tmp_path / "run")
    process = command(*line(workdir, *ON, "--again"))
    try:
        while process.poll() is None:
            if any(workdir.glob("generation_1/fixres/checkpoints/step_00000004.json")):
                break
    finally:
        process.kill()
        process.communicate()
    assert main(line(workdir, *ON, "--again")) == 0

    assert "continues from the checkpoint of step 4" in capsys.readouterr().out
    for name in REFINED:
        for folder in ("model", "before_fixres", "fixres/raw_model"):
            one, other = workdir / name / folder, refined / name / folder
            assert weights(one) == weights(other), (name, folder)
