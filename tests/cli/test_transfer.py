"""`noisy-student transfer`: mistakes are told in one sentence."""

import pytest
from made_up_bundles import make_target, write_bundle
from support import mistake


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("model") / "tiny")


@pytest.mark.parametrize(
    ("given", "missing"),
    [("--target=digits", "--models=A,B"), ("--models=a", "--target=DIR")],
)
def test_models_and_target_are_needed(capsys, given, missing):
    assert mistake(capsys, "transfer", given).endswith(f"needs {missing}")


@pytest.mark.parametrize("shots", ["0", "1,-5", "five", "1,,5", ""])
def test_shots_are_numbers_from_one_on(capsys, bundle, shots):
    told = mistake(
        capsys,
        "transfer",
        f"--models={bundle}",
        "--target=digits",
        f"--shots={shots}",
    )

    assert told.startswith(f"--shots is '{shots}', but must be numbers")


def test_a_file_is_not_written_over(capsys, bundle, tmp_path):
    (tmp_path / "there.json").write_text("{}")
    told = mistake(
        capsys,
        "transfer",
        f"--models={bundle}",
        "--target=digits",
        f"--output={tmp_path / 'there.json'}",
    )

    assert "exists: give another, or remove it" in told


def test_a_class_with_fewer_images_than_shots_is_named(capsys, bundle, tmp_path):
    target = make_target(tmp_path / "target", images=6)
    told = mistake(
        capsys,
        "transfer",
        f"--models={bundle}",
        f"--target={target}",
        f"--workdir={tmp_path / 'work'}",
    )

    assert told.startswith("--shots has 25, but class 'blue' of ")


def test_a_model_that_has_learned_from_test_images_is_refused(capsys, tmp_path):
    from noisy_student_jax.core.console import Progress
    from noisy_student_jax.core.preemption import Interruption
    from noisy_student_jax.data.sources import key_hashes
    from noisy_student_jax.studies.transfer import target

    data = target.section("digits", tmp_path, side=8)
    helpers = {"interruption": Interruption(), "progress": Progress()}
    seen = key_hashes(target.opened(data, **helpers).test, [3, 5])
    place = write_bundle(tmp_path / "knowing", trained_on=seen)
    told = mistake(
        capsys,
        "transfer",
        f"--models={place}",
        "--target=digits",
        f"--workdir={tmp_path / 'work'}",
    )

    assert told.startswith(
        "knowing: 2 of 500 test images are among those that this model"
    )
