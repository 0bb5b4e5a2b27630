"""Fine-tuning on a target: ordinary runs, whose learning rate validation chooses."""

import pytest
from made_up_bundles import make_target, write_bundle

from noisy_student_jax.core import files
from noisy_student_jax.core.console import Progress
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.models import bundle as bundles
from noisy_student_jax.runs.run import with_places
from noisy_student_jax.studies.transfer import checkpoints, fine_tuning, target


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """Returns a function that fine-tunes in a few steps, and where it does."""
    place = tmp_path_factory.mktemp("tuned")
    given = f"tiny={write_bundle(place / 'tiny')}"
    (one,) = checkpoints.read(given, trust=False)
    data = target.section(str(make_target(place / "target")), place / "work", side=8)
    whole = target.opened(
        with_places(data, place / "work", side=8),
        interruption=Interruption(),
        progress=Progress(),
    )

    def tune():
        return fine_tuning.fine_tune(
            one, data, whole, place / "work", interruption=Interruption()
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fine_tuning, "STEPS", 10)
        patch.setattr(fine_tuning, "BATCH", 8)
        patch.setattr(fine_tuning, "RATES", (1e-6, 0.1))
        found = tune()
        (folder,) = (place / "work" / "fine_tuning").iterdir()
        assert folder.name.startswith("tiny_")
        yield tune, folder, found


def test_the_rate_that_is_better_on_validation_images_is_taken(tuned):
    _, _, found = tuned

    assert found.validation.keys() == {1e-6, 0.1}
    assert found.validation[found.rate] == max(found.validation.values())
    assert found.rate == 0.1


def test_each_test_image_is_judged(tuned):
    _, folder, found = tuned

    evaluation = files.read_json(folder / "all" / "generation_0" / "evaluation.json")
    assert found.right.shape == (1, 12)
    assert found.right.mean() == pytest.approx(
        evaluation["splits"]["test"]["ema"]["top1"]
    )


def test_the_last_training_has_all_images_but_two(tuned):
    _, folder, _ = tuned

    counts = {
        name: files.read_json(folder / name / "data" / "dataset.json")["splits"]
        for name in ("rate_0.1", "all")
    }
    assert counts["rate_0.1"]["labeled"] == 29
    assert counts["all"]["labeled"] == 34


def test_trainings_start_from_the_model_with_a_new_head(tuned):
    _, folder, _ = tuned

    made = bundles.read(folder / "all" / "generation_0" / "model")
    assert made.classes == ("blue", "green", "red")
    assert made.origin["started_from"]
    assert made.origin["steps"] == 10


def test_what_is_finished_is_not_trained_again(tuned, capsys):
    tune, _, found = tuned

    again = tune()
    assert again.validation == found.validation
    assert (again.right == found.right).all()
    assert capsys.readouterr().out.count("generation_0/train: finished already") == 3
