"""What every config resolves to is committed, so that a change of recipe is a diff."""

import pytest
from support import ROOT

from noisy_student_jax import config as configs
from noisy_student_jax import planning
from noisy_student_jax.interruption import Interruption
from noisy_student_jax.run import Run

# What people's own images are is not known here.
CONFIGS = [p for p in sorted((ROOT / "configs").glob("*.py")) if p.stem != "folder"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_recipe_is_the_committed_one(path, tmp_path):
    run = Run(configs.load(path), tmp_path, interruption=Interruption())
    recipe = planning.recipe(run) + "\n"
    committed = ROOT / "configs" / "recipes" / f"{path.stem}.txt"
    name, target = path.relative_to(ROOT), committed.relative_to(ROOT)
    renew = f"noisy-student plan --config={name} --recipe | tail -n +2 > {target}"
    before = committed.read_text(encoding="utf-8") if committed.is_file() else ""
    assert recipe == before, f"if that was meant, renew it:\n{renew}"


def test_no_recipe_is_left_of_a_config_that_went():
    recipes = {path.stem for path in (ROOT / "configs" / "recipes").glob("*.txt")}
    assert recipes <= {path.stem for path in CONFIGS}
