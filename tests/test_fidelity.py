"""The tests, config fields and traps named in docs/fidelity.md exist.

The config of SVHN keeps its special settings.
"""

import re

from support import ROOT

from noisy_student_jax.config import base_config, flatten, load, plain
from noisy_student_jax.config.schema import field

PAGE = (ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8")
# Traps 19 to 21 concern published figures, not code.
TRAPS = {*range(1, 19), *range(22, 26)}


def test_every_test_that_it_names_exists():
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) > 100
    for file, test in named:
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert f"\ndef {test}(" in text, f"{file}::{test}"


def test_every_config_field_that_it_names_exists_and_may_be_so():
    known = flatten(plain(base_config()))
    sections = {name.split(".")[0] for name in known}
    found = re.findall(r"`(\w+)\.([\w.*]+)(?:=([^`]+))?`", PAGE)
    fields = [(f"{s}.{rest}", v) for s, rest, v in found if s in sections]
    assert len(fields) > 30
    for name, value in fields:
        name = name.replace("*", "pseudo")
        assert name in known, name
        one = field(name)
        if value == "none":
            assert one.none, name
        elif value.startswith('"') and one and one.choices:
            assert value.strip('"') in one.choices, name
        elif value and one and one.limits:
            assert one.limits[0] <= float(value) <= one.limits[1], name


def test_every_trap_of_code_is_on_it():
    rows = re.findall(r"^\| (\d+) \|.*::test_", PAGE, re.MULTILINE)
    assert {int(number) for number in rows} == TRAPS


def test_svhn_is_never_mirrored_and_always_cut_out():
    config = load(ROOT / "configs" / "svhn.py")
    for owner in (*config.generations, config.control):
        for noise in owner.noise.values():
            # A mirrored 2 is not a 2.
            assert not noise.flip
            assert (noise.cutout_size, noise.crop_padding, noise.crop_area) == (
                16,
                4,
                0,
            )
            assert (noise.randaugment_layers, noise.randaugment_magnitude) == (2, 5)
            assert (noise.randaugment_translate, noise.randaugment_cutout) == (4, 4)
        assert (owner.train.weight_decay, owner.train.warmup_epochs) == (1e-4, 5)
        assert owner.model.crop_padding == 0
