"""A run that takes too long gives up as little as it can, in a fixed order."""

import pytest
from support import ROOT, TINY

from noisy_student_jax import config
from noisy_student_jax.config import decisions
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.planning import budget, plan, throughput
from noisy_student_jax.planning.throughput import Speed
from noisy_student_jax.runs.run import Run
from noisy_student_jax.runs.spec import Role

SIDES = [224, 192, 160, 128, 112, 96, 80, 64, 56, 48, 40, 32]
LARGE = ("model.name=efficientnet_b0", "model.resolution=224", "train.steps=2000")
# Nearly all of the time is training: it can be told what is left of it.
LARGE += ("data.pool_shards=1", "log.validate_every_steps=1000000")


@pytest.fixture
def a_run(tmp_path):
    def run(*overrides, path=TINY):
        given = [f"--config.{override}" for override in overrides]
        loaded = config.load(path, given)
        return Run(loaded, tmp_path, interruption=Interruption())

    return run


def by_area(student):
    """As fast as images are small."""
    pixels = student.spec.model.resolution**2
    return Speed(1e5 / pixels, 1e7 / pixels)


def hours_of(run, speeds=by_area):
    return sum(throughput.hours(one, speeds(one))["total"] for one in run.students)


def fitted(run, hours, speeds=by_area):
    found = budget.fit(run, hours=hours, speeds=speeds)
    changed = decisions.apply(run.config, found)
    config.check(changed)
    return Run(changed, run.workdir, interruption=run.interruption)


def scale(run):
    (side,) = {one.spec.model.resolution for one in run.students}
    (steps,) = {one.spec.schedule.steps for one in run.students}
    return side, steps


def test_what_fits_gives_up_nothing(a_run):
    run = a_run(*LARGE)
    needed = hours_of(run)
    assert budget.fit(run, hours=needed / 0.9 * 1.001, speeds=by_area) == []
    assert budget.fit(run, hours=needed / 0.9 * 0.999, speeds=by_area) != []


@pytest.mark.parametrize("share", [0.99, 0.7, 0.45])
def test_steps_are_cut_by_the_least_that_fits(share, a_run):
    run = a_run(*LARGE, "generations[0].train.steps=3000")
    limit = share * hours_of(run) / 0.9
    after = fitted(run, limit)

    assert hours_of(after) <= 0.9 * limit
    steps = [one.spec.schedule.steps for one in after.students]
    percent = steps[1] // 20
    assert steps == [30 * percent, 20 * percent, 20 * percent]
    assert 40 <= percent < 100
    one_more = a_run(
        *LARGE,
        f"train.steps={20 * (percent + 1)}",
        f"generations[0].train.steps={30 * (percent + 1)}",
    )
    assert hours_of(one_more) > 0.9 * limit
    assert {one.spec.model.resolution for one in after.students} == {224}


def test_solved_heads_give_up_views_before_images_get_smaller(a_run):
    heads = ("train.part=head", "train.optimizer=lbfgs", "model.views=4")
    run = a_run(*LARGE, *heads, "model.init=pretrained")
    whole = hours_of(run)
    found = []
    for share in (1.0, 0.8, 0.6, 0.35, 0.1):
        after = fitted(run, share * whole / 0.9)
        assert hours_of(after) <= share * whole * 1.001
        (views,) = {one.spec.config.model.views for one in after.students}
        found.append((scale(after)[0], views))

    assert found == sorted(found, reverse=True)
    assert found[0] == (224, 4)
    assert found[2][0] == 224 and 1 < found[2][1] < 4
    assert found[-1][0] < 224 and found[-1][1] <= 4


def test_images_get_smaller_where_two_fifths_of_the_steps_are_too_many(a_run):
    run = a_run(*LARGE)
    whole = hours_of(run)
    # Less than 40 % of the steps; 128 px would leave 96 %, 160 px leave 61 %.
    side, steps = scale(fitted(run, 0.32 * whole / 0.9))
    assert side == 192
    assert steps == pytest.approx(2000 * 0.32 / (192 / 224) ** 2, abs=20 + 20)
    side, steps = scale(fitted(run, 0.11 * whole / 0.9))
    assert side == 112
    assert 800 <= steps <= 2000


def test_sides_go_down_by_strides_that_suit_the_models(a_run):
    student = a_run(*LARGE).student(1)
    found = [budget._side(student, strides) for strides in range(12)]
    assert found == SIDES
    assert budget._side(student, 13) == budget._side(student, 50) == 32
    for asked, least in ((300, 32), (130, 32), (36, 32), (32, 32), (24, 24)):
        student = a_run(*LARGE, f"model.resolution={asked}").student(1)
        sides = [budget._side(student, strides) for strides in range(20)]
        assert sides == sorted(sides, reverse=True)
        assert (sides[0], sides[-1]) == (asked, least)
        assert all(side % (16 if side > 128 else 8) == 0 for side in sides[1:])


def test_a_larger_budget_never_gives_less(a_run):
    run = a_run(*LARGE)
    whole = hours_of(run)
    shares = [0.004, 0.008, 0.01, 0.02, 0.04, 0.08, 0.15, 0.2, 0.3, 0.39, 0.41, 0.8, 1]
    found = [scale(fitted(run, share * whole)) for share in shares]
    assert found == sorted(found)
    assert found[0][0] == 32 and found[-1][0] == 224
    assert len({side for side, _ in found}) > 5


def test_the_last_resort_is_told(a_run):
    run = a_run(*LARGE)
    limit = 0.2 * hours_of(run) * (32 / 224) ** 2
    found = budget.fit(run, hours=limit, speeds=by_area)
    side, steps = scale(fitted(run, limit))

    assert side == 32
    assert steps < 800
    poor = "too little to learn from: expect a poor result"
    told = decisions.reasons(found)
    assert f"fitted to {limit:g} h: steps 2,000 → {steps}, {poor}" in told
    assert not any(poor in one.why for one in budget.fit(run, hours=3, speeds=by_area))


def test_images_that_are_small_already_stay(a_run):
    run = a_run("train.steps=2000", "log.validate_every_steps=1000000")
    side, steps = scale(fitted(run, 0.2 * hours_of(run)))
    assert side == 8
    assert 0 < steps < 400


def test_what_cannot_fit_at_all_is_refused_with_what_would_fit(a_run):
    run = a_run(*LARGE)
    with pytest.raises(UserError, match="budget_hours is 1e-05, but") as error:
        budget.fit(run, hours=1e-5, speeds=by_area)
    needed = float(str(error.value).split("budget of ")[1].split(":")[0])
    assert {one.spec.schedule.steps for one in fitted(run, needed).students} == {20}
    with pytest.raises(UserError):
        budget.fit(run, hours=0.85 * needed, speeds=by_area)


def test_the_size_that_is_chosen_is_measured(a_run):
    run, asked = a_run(*LARGE), []

    def speeds(student):
        asked.append((student.spec.layout.pseudo > 0, student.spec.model.resolution))
        return by_area(student)

    fitted(run, 0.11 * hours_of(run) / 0.9, speeds)
    # Nothing between the two, and the control as the student that it is like.
    assert asked == [(False, 224), (True, 224), (False, 112), (True, 112)]


def test_a_size_that_is_slower_than_thought_makes_room_for_the_next(a_run):
    def by_side(student):
        return Speed(
            1e3 / student.spec.model.resolution, 1e5 / student.spec.model.resolution
        )

    run = a_run(*LARGE)
    limit = 0.11 * hours_of(run, by_side) / 0.9
    after = fitted(run, limit, by_side)
    assert hours_of(after, by_side) <= 0.9 * limit
    side, steps = scale(after)
    assert side == 56, "the largest at which 40 % of the steps fit"
    assert steps >= 800


def test_epochs_become_steps(a_run):
    overrides = ("train.steps=none", "train.epochs=1000.0")
    run = a_run(*LARGE[:2], *overrides)
    assert run.student(1).spec.schedule.steps == 1875
    after = fitted(run, 0.5 * hours_of(run))

    for one in after.students:
        assert one.spec.config.train.epochs is None
        assert 750 <= one.spec.schedule.steps < 1875


def test_the_schedule_keeps_its_shape(a_run):
    run = a_run(*LARGE, "train.warmup_epochs=5.0", "generations[0].train.steps=333")
    after = fitted(run, 0.6 * hours_of(run))
    for asked, got in zip(run.students, after.students, strict=True):
        assert got.spec.schedule.steps < asked.spec.schedule.steps
        for name in ("warmup_epochs", "decay_epochs"):
            share = asked.spec.config.train[name] / asked.spec.schedule.steps
            assert got.spec.config.train[
                name
            ] / got.spec.schedule.steps == pytest.approx(share)


def test_pixels_follow_the_images(a_run):
    run = a_run(
        *LARGE,
        "model.crop_padding=32",
        "noise.labeled.randaugment_translate=100.0",
        "noise.labeled.randaugment_cutout=40.0",
        "noise.labeled.cutout_size=0",
        "noise.labeled.crop_padding=1",
        "noise.pseudo.cutout_size=16",
    )
    after = fitted(run, 0.11 * hours_of(run) / 0.9)
    assert scale(after)[0] == 112
    for section in (*after.config.generations, after.config.control):
        assert section.model.crop_padding == 16
        labeled, pseudo = section.noise.labeled, section.noise.pseudo
        assert labeled.randaugment_translate == 50.0
        assert labeled.randaugment_cutout == 20.0
        assert type(labeled.randaugment_cutout) is float
        assert labeled.cutout_size == 0, "off stays off"
        assert labeled.crop_padding == 1, "never rounded off to none"
        assert (pseudo.cutout_size, pseudo.crop_padding) == (8, 1)


def test_models_from_outside_keep_their_size(a_run):
    run = a_run(
        "model.resolution=40",
        "generations[0].model.name=efficientnet_b0",
        path=ROOT / "tests" / "configs" / "bright_square.py",
    )
    after = fitted(run, 0.2 * hours_of(run))
    assert [one.spec.model.resolution for one in after.students] == [32, 40, 40]


def test_a_control_that_is_not_wanted_is_not_counted(a_run):
    run = a_run(*LARGE)
    without = a_run(*LARGE, "control.enabled=false")
    limit = hours_of(without) / 0.9 * 1.001
    assert budget.fit(without, hours=limit, speeds=by_area) == []
    found = budget.fit(run, hours=limit, speeds=by_area)
    assert any(one.field == f"{Role.CONTROL}.train.steps" for one in found)


def test_every_decision_is_of_a_field_and_says_why(a_run):
    run = a_run(*LARGE)
    found = budget.fit(run, hours=4, speeds=by_area)
    fields = config.flatten(config.plain(run.config))
    assert len({one.field for one in found}) == len(found)
    for one in found:
        assert type(one.value) is type(fields[one.field])
        assert one.value != fields[one.field]
        assert one.why.startswith("fitted to 4 h: ")
    side, steps = scale(fitted(run, 4))
    assert decisions.reasons(found) == [
        f"fitted to 4 h: images 224 → {side} px",
        "fitted to 4 h: crops and noise in pixels scaled with the images",
        f"fitted to 4 h: steps 2,000 → {steps:,}",
        "fitted to 4 h: warm-up and decay of the learning rate shortened with the"
        " steps",
    ]


def test_decisions_are_applied_to_a_copy(a_run, tmp_path):
    run = a_run(*LARGE)
    before = config.to_json(run.config)
    changed = decisions.apply(run.config, budget.fit(run, hours=4, speeds=by_area))
    assert config.to_json(run.config) == before != config.to_json(changed)
    (tmp_path / "config.json").write_text(config.to_json(changed))
    again = config.from_json(tmp_path / "config.json")
    assert config.plain(again) == config.plain(changed)


# ---- plan --measure, of a config with a budget


SMALL = ("model.resolution=48", *LARGE[2:])


def test_plan_tells_what_a_budget_costs(a_run):
    run = a_run(*SMALL, "budget_hours=0.4")
    facts = plan.measured_facts(run, speeds=by_area)
    lines = plan.run_text(facts).splitlines()

    side, steps = scale(fitted(run, 0.4))
    assert (side, facts["budget_hours"]) == (40, 0.4)
    assert 0.35 < facts["hours"]["total"] <= 0.9 * 0.4
    assert {one["steps"] for one in facts["generations"]} == {steps}
    assert "efficientnet_test at 40 px" in lines[1]
    assert f"fitted to 0.4 h: steps 2,000 → {steps:,}" in lines
    fields = {one["field"]: one["value"] for one in facts["decisions"]}
    assert fields["generations[1].train.steps"] == steps


def test_plan_tells_when_a_budget_costs_nothing(a_run):
    facts = plan.measured_facts(a_run("budget_hours=2.5"), speeds=by_area)
    assert facts["decisions"] == []
    lines = plan.run_text(facts).splitlines()
    assert lines[-1] == "fits 2.5 h: nothing is given up"
