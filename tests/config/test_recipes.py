"""What every config resolves to is committed, so that a change of recipe is a diff."""

import pytest
from support import CONFIGS, ROOT, planned

from noisy_student_jax.planning import plan


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_recipe_is_the_committed_one(path):
    recipe = plan.recipe(planned(path)) + "\n"
    committed = ROOT / "configs" / "recipes" / f"{path.stem}.txt"
    name, target = path.relative_to(ROOT), committed.relative_to(ROOT)
    renew = f"noisy-student plan --config={name} --recipe | tail -n +2 > {target}"
    before = committed.read_text(encoding="utf-8") if committed.is_file() else ""
    assert recipe == before, f"if that was meant, renew it:\n{renew}"


def test_no_recipe_is_left_of_a_config_that_went():
    recipes = {path.stem for path in (ROOT / "configs" / "recipes").glob("*.txt")}
    assert recipes <= {path.stem for path in CONFIGS}
