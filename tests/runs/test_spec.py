"""What a run trains, as its config says."""

import pytest
from support import TINY

from noisy_student_jax import config
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.runs import spec


def resolved(*overrides: str):
    given = [f"--config.model.{override}" for override in overrides]
    loaded = config.load(TINY, given)
    facts = spec.DataFacts(tuple("abcd"), 40)
    return loaded, spec.resolve(loaded, facts, outputs=4)


def test_every_model_of_a_letterbox_sees_whole_images():
    _, specs = resolved("framing=letterbox")
    assert {one.model.preprocessing.framing for one in specs} == {"letterbox"}
    _, usual = resolved()
    assert {one.model.preprocessing.framing for one in usual} == {"center_crop"}


def test_images_of_a_letterbox_need_no_border():
    cropped, _ = resolved("resolution=16", "crop_padding=4")
    boxed, _ = resolved("resolution=16", "crop_padding=0", "framing=letterbox")
    assert spec.largest_side(cropped) == 20
    assert spec.largest_side(boxed) == 16


def test_a_border_of_a_letterbox_is_refused_with_the_models_name():
    with pytest.raises(UserError, match="generation_0: framing 'letterbox' shows"):
        resolved("crop_padding=4", "framing=letterbox")
