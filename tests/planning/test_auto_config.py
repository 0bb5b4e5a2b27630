"""What a config leaves open is decided from data and machine, and stays decided."""

import dataclasses
import itertools
import json
import re

import numpy as np
import pytest
from PIL import Image
from support import ROOT

from noisy_student_jax import config as configs
from noisy_student_jax import models
from noisy_student_jax.cli.main import main
from noisy_student_jax.config import decisions
from noisy_student_jax.config.load import _execute
from noisy_student_jax.core import summed
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.planning import auto_config
from noisy_student_jax.planning.auto_config import Facts

FOLDER = ROOT / "configs" / "folder.py"
PHOTOGRAPHS = Facts(
    "cpu", shorter_side=480, labeled=600, pool=4000, classes=6, median_class=100
)
ICONS = dataclasses.replace(PHOTOGRAPHS, shorter_side=30)
LITE = auto_config.PRETRAINED_LADDER
WITH_WEIGHTS = dataclasses.replace(PHOTOGRAPHS, pretrained=LITE)


def decided(facts, *overrides):
    """The config of folders, with what follows from facts; it is checked, too."""
    return configs.load(
        FOLDER,
        overrides,
        decide=lambda open_: decisions.apply(open_, auto_config.decide(open_, facts)),
    )


@pytest.fixture
def places(tmp_path):
    for name in ("cat", "dog"):
        for number in range(8):
            path = tmp_path / "labeled" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            level = 10 * number + (name == "dog")
            Image.fromarray(np.full((40, 64, 3), level, np.uint8)).save(path)
    (tmp_path / "pool").mkdir()
    for number in range(50):
        image = Image.fromarray(np.full((40, 64, 3), number, np.uint8))
        image.save(tmp_path / "pool" / f"{number}.png")
    return tmp_path


def overrides(places):
    return [
        f"--config.labeled={places / 'labeled'}",
        f"--config.unlabeled={places / 'pool'}",
    ]


@pytest.mark.parametrize("machine", ["cpu", "accelerator"])
@pytest.mark.parametrize("side", [16, 30, 48, 49, 130, 480, 4000])
def test_whatever_the_images_the_config_is_whole(machine, side):
    facts = dataclasses.replace(PHOTOGRAPHS, machine=machine, shorter_side=side)

    config = decided(facts)

    assert not auto_config.is_open(config)
    for one in (*config.generations, config.control):
        assert 16 <= one.model.resolution <= max(64, min(side, 224))
        for noise in one.noise.values():
            assert noise.crop_padding < one.model.resolution
            # One way of cropping, not both, and not none.
            assert (noise.crop_padding > 0) != (noise.crop_area > 0)


def test_students_are_larger_than_their_teacher():
    for machine, kind in auto_config.LADDERS:
        side = 32 if kind == "small" else 224
        facts = dataclasses.replace(ICONS, machine=machine, shorter_side=side)
        config = decided(facts)
        names = [one.model.name for one in config.generations]
        assert tuple(names) == (
            *auto_config.LADDERS[machine, kind],
            auto_config.LADDERS[machine, kind][1],
        )
        assert config.control.model.name == names[-1]
        assert set(names) <= set(models.names())


def test_what_is_given_stays():
    config = decided(
        ICONS,
        "--config.model.name=efficientnet_b0",
        "--config.model.resolution=96",
        "--config.train.steps=77",
        "--config.selection.per_class=5",
        "--config.noise.pseudo.crop_padding=3",
    )

    for one in (*config.generations, config.control):
        assert one.model.name == "efficientnet_b0"
        assert one.model.resolution == 96
        assert one.train.steps == 77
        assert one.selection.per_class == 5
        assert one.noise.pseudo.crop_padding == 3


def validation(facts, *overrides):
    """The fraction that is split off, and what is said of it."""
    open_config = configs.complete(_execute(FOLDER), overrides=overrides)
    (one,) = [
        one
        for one in auto_config.decide(open_config, facts)
        if one.field == "data.validation_fraction"
    ]
    return one.value, one.why


def test_models_learn_from_all_labels_where_each_can_be_left_out_in_turn():
    assert validation(WITH_WEIGHTS) == (
        0,
        "validation: each labeled image is left out in turn; models learn from all of"
        " them (--config.data.validation_fraction=0.1 splits a tenth off)",
    )


@pytest.mark.parametrize(
    ("facts", "given"),
    [
        ({"pretrained": ()}, ()),
        ({"machine": "accelerator"}, ()),
        ({"median_class": 1.6}, ()),
        ({"pool": 1_000_000, "classes": 60}, ()),
        ({}, ("--config.train=all",)),
        ({}, ("--config.train.optimizer=adamw",)),
        ({}, ("--config.selection.method=paper",)),
        ({}, ("--config.teacher=bundle",)),
        ({}, ("--config.init=bundle",)),
        ({}, ("--config.generations[2].model.init=bundle",)),
        ({}, ("--config.control.model.init=bundle",)),
        ({}, ("--config.fine_tuning.enabled=true",)),
    ],
)
def test_elsewhere_a_tenth_is_split_off(facts, given):
    facts = dataclasses.replace(WITH_WEIGHTS, **facts)

    assert validation(facts, *given) == (
        0.1,
        "validation: a tenth of the labeled images",
    )


def test_nothing_is_said_of_validation_images_that_are_given():
    assert validation(WITH_WEIGHTS, "--config.validation=folder") == (0.1, "")
    kept = decided(WITH_WEIGHTS, "--config.data.validation_fraction=0.2")
    assert kept.data.validation_fraction == 0.2


def test_heads_on_a_cpu_are_solved_in_views():
    config = decided(dataclasses.replace(PHOTOGRAPHS, pretrained=LITE))

    for one in (*config.generations, config.control):
        assert (one.train.part, one.train.optimizer) == ("head", "lbfgs")
        assert (one.model.views, one.train.targets) == (4, "hard")
    # The control is the probe.
    assert config.probe.enabled is False


def test_a_model_that_takes_no_views_is_given_one(tmp_path):
    asked = [
        "--config.model.name=outside.backbones:in_one",
        "--config.train=head",
        "--config.model.init=bundle",
    ]
    assert decided(WITH_WEIGHTS, *asked).control.model.views == 1
    assert not any("views" in one for one in told(WITH_WEIGHTS, *asked))


def test_who_asks_for_steps_gets_them():
    facts = dataclasses.replace(PHOTOGRAPHS, pretrained=LITE)
    for flag in ("train.steps=9", "train.epochs=9", "train.learning_rate=0.1"):
        config = decided(facts, f"--config.{flag}")

        assert config.control.train.optimizer == "adamw"
        assert config.control.model.views == 1
        assert config.control.noise.pseudo.randaugment_layers == 2
        assert config.probe.enabled


def test_whole_models_take_steps_on_noised_images():
    facts = dataclasses.replace(PHOTOGRAPHS, pretrained=LITE, machine="accelerator")
    config = decided(facts)

    assert config.control.train.optimizer == "adamw"
    assert config.control.model.views == 1
    assert config.control.noise.pseudo.randaugment_layers == 2
    # Its rival, the head alone, is solved.
    assert config.probe.enabled
    assert config.probe.train.optimizer == "lbfgs"


def told(facts, *overrides):
    """What is said of the decisions on the config of folders."""
    open_config = configs.complete(_execute(FOLDER), overrides=overrides)
    return decisions.reasons(auto_config.decide(open_config, facts))


def test_rivals_that_are_asked_for_are_there_if_they_can_be():
    asked = ("--config.probe.enabled=true", "--config.fine_tuning.enabled=true")
    config = decided(WITH_WEIGHTS, *asked)
    assert config.probe.enabled and config.fine_tuning.enabled

    config = decided(PHOTOGRAPHS, *asked)

    assert not (config.probe.enabled or config.fine_tuning.enabled)
    said = [one for one in told(PHOTOGRAPHS, *asked) if "asked for" in one]
    assert [one.split(",")[0] for one in said] == ["no probe", "no fine-tuning"]


def test_fine_tuning_is_for_those_who_ask():
    for machine in ("cpu", "accelerator"):
        facts = dataclasses.replace(WITH_WEIGHTS, machine=machine)
        assert not decided(facts).fine_tuning.enabled


@pytest.mark.parametrize("facts", [PHOTOGRAPHS, ICONS, WITH_WEIGHTS])
def test_nothing_is_told_of_what_is_off(facts):
    said = told(facts)

    assert not any(re.search("probe|fine-tuning|shared|no ", one) for one in said)


def test_heads_are_told_as_what_they_are():
    said = told(WITH_WEIGHTS)

    assert not any("steps" in one for one in said)
    assert any("heads are solved" in one for one in said)
    assert any("views: up to 4 of an image" in one for one in said)
    assert [one for one in said if one.startswith("selection")] == [
        "selection: the surest 20 % of the pool, each image once (student 1)",
        "selection: the surest 50 % of the pool, each image once (student 2)",
        "selection: the surest 80 % of the pool, each image once (student 3)",
        "selection: all of the pool, each image once (student 4)",
    ]


def test_each_model_is_told_with_those_that_have_it_and_no_other():
    one, two = (line for line in told(WITH_WEIGHTS) if line.startswith("model:"))
    assert "efficientnet_lite0 + efficientnet_lite1 + efficientnet_lite2" in one
    assert one.endswith("(teacher, students 1, 2, 3)")
    assert "efficientnet_lite2," in two and two.endswith("(student 4, control)")

    named = told(WITH_WEIGHTS, "--config.generations[4].model.name=efficientnet_lite0")

    (line,) = (line for line in named if line.startswith("model:"))
    assert line.endswith("(teacher, students 1, 2, 3)")


def test_what_is_decided_of_one_field_stands_together():
    said = [one.split(":")[0] for one in told(PHOTOGRAPHS)]

    assert [key for key, _ in itertools.groupby(said)] == list(dict.fromkeys(said))


def test_several_networks_start_from_published_weights_where_all_are_installed():
    lite = models.MEMBERS
    installed = dataclasses.replace(PHOTOGRAPHS, pretrained=lite)
    members = f"--config.model.members={','.join(lite[:2])}"

    with_all = decided(installed, members)
    with_some = decided(dataclasses.replace(installed, pretrained=lite[:1]), members)

    for one in (*with_all.generations, with_all.control):
        model = one.model
        assert model.members == lite[:2]
        assert (model.init, one.train.part) == ("pretrained", "head")
        assert model.resolution == 160
    *names, last = [one.model.name for one in with_all.generations]
    assert set(names) == {"concatenated"} and last == lite[2]
    assert {one.model.init for one in with_some.generations} == {"random"}


def test_heads_are_taught_by_heads_on_all_networks_from_growing_shares():
    config = decided(WITH_WEIGHTS)

    found = [(one.model.name, one.selection.share) for one in config.generations]

    assert found == [
        ("concatenated", 1.0),  # the teacher, who is taught by nobody
        ("concatenated", 0.2),
        ("concatenated", 0.5),
        ("concatenated", 0.8),
        ("efficientnet_lite2", 1.0),
    ]
    for one in config.generations:
        assert (one.train.part, one.train.optimizer) == ("head", "lbfgs")
        assert (one.selection.method, one.selection.min_score) == ("all", 0.0)
    assert config.control.model.name == "efficientnet_lite2"


@pytest.mark.parametrize(
    ("facts", "given"),
    [
        (PHOTOGRAPHS, ()),
        (dataclasses.replace(WITH_WEIGHTS, machine="accelerator"), ()),
        (WITH_WEIGHTS, ("--config.train=all",)),
        (WITH_WEIGHTS, ("--config.init=random",)),
        (WITH_WEIGHTS, ("--config.train.optimizer=adamw",)),
    ],
)
def test_what_is_trained_in_steps_has_two_students_at_natural_shares(facts, given):
    config = decided(facts, *given)

    assert len(config.generations) == 3
    for one in config.generations:
        assert one.selection.method == "all"
        assert (one.selection.share, one.selection.min_score) == (1.0, 0.5)
    assert len(decided(facts, *given, "--config.selection.share=1").generations) == 5


def test_a_generation_that_is_left_out_is_not_left_out_with_its_settings():
    given = "--config.generations[3].train.steps=5"

    with pytest.raises(UserError, match=r"generations\[3\] has settings of its own"):
        decided(PHOTOGRAPHS, given)

    kept = decided(PHOTOGRAPHS, given, "--config.selection.share=0.5")
    assert kept.generations[3].train.steps == 5
    assert len(decided(PHOTOGRAPHS, given.replace("3", "2")).generations) == 3


def test_draws_are_balanced_for_those_who_ask():
    config = decided(WITH_WEIGHTS, "--config.selection.method=paper")

    for one in config.generations[1:]:
        assert (one.selection.per_class, one.selection.min_score) == (666, 0.5)
        assert one.selection.share == 1


@pytest.mark.parametrize("machine", ["cpu", "accelerator"])
@pytest.mark.parametrize("init", [(), ("--config.init=random",)])
@pytest.mark.parametrize(
    "name", ["efficientnet_lite0", "efficientnet_b0", "efficientnet_mini_m"]
)
def test_the_resolution_of_a_model_that_is_named_is_told(name, init, machine):
    facts = dataclasses.replace(WITH_WEIGHTS, machine=machine)
    own, usual = models.resolution(name), decided(facts, *init).control.model.resolution
    flag = f"--config.model.name={name}"

    (said,) = (one for one in told(facts, flag, *init) if "resolution" in one)

    assert decided(facts, flag, *init).control.model.resolution == own
    assert said.startswith(f"resolution: {own} px, that of '{name}'")
    if machine == "cpu" and not init and name == "efficientnet_lite0":
        assert (own, usual) == (224, 160)
        assert said.endswith(
            "(for these images 160 px would be chosen: --config.model.resolution=160)"
        )


def test_steps_follow_the_number_of_labels_within_limits():
    steps = [
        decided(dataclasses.replace(ICONS, labeled=labeled)).generations[0].train.steps
        for labeled in (10, 3000, 10**6)
    ]

    assert steps == [1000, 2344, 6000]


def test_decisions_are_told_with_whom_they_are_for():
    said = told(PHOTOGRAPHS)

    assert any("480 px" in one and "a CPU" in one for one in said)
    assert "selection: pool images that score above 0.5, each once (students)" in said
    assert "steps: 1,000 of 128 labeled images each (teacher)" in said
    assert "steps: 1,875 of 32 labeled images each (students, control)" in said
    assert "trained: the whole model" in said
    assert not any("views" in one or "draws per class" in one for one in said)


@pytest.mark.parametrize(
    ("installed", "says"),
    [((), "pip install 'noisy-student-jax[pretrained]'"), (LITE, "are installed: lea")],
)
def test_from_nothing_on_a_cpu_it_is_said_before_anything_is_computed(
    installed, says, places, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(auto_config.published, "available", lambda: installed)
    before = []

    def measured(run, hours):
        before.append(capsys.readouterr().out)
        return []

    monkeypatch.setattr(auto_config.budget, "fit", measured)
    given = [*overrides(places), "--config.budget_hours=1"]
    given += ["--config.init=random"] * bool(installed)
    open_config = configs.complete(_execute(FOLDER), overrides=given)

    auto_config.decided(open_config, tmp_path / "run", Interruption())

    (warning,) = (one for one in before[0].splitlines() if "WARNING" in one)
    assert "on a CPU" in warning and "no better" in warning and says in warning


@pytest.mark.parametrize(
    "change",
    [
        lambda config: setattr(config, "teacher", "bundle"),
        lambda config: setattr(config.generations[2].model, "init", "pretrained"),
    ],
)
def test_who_starts_from_something_is_not_warned(change):
    config = decided(PHOTOGRAPHS)
    assert auto_config.from_nothing(config)

    change(config)

    assert auto_config.from_nothing(config) is None


def test_a_config_that_leaves_nothing_open_is_left_alone(tmp_path):
    config = configs.load(ROOT / "tests" / "configs" / "tiny.py")

    assert not auto_config.is_open(config)
    assert auto_config.decided(config, tmp_path, Interruption()) == []


def test_facts_are_found_in_folders(places, tmp_path):
    open_config = configs.complete(_execute(FOLDER), overrides=overrides(places))

    facts = auto_config.look(open_config, tmp_path / "run")

    assert (facts.machine, facts.shorter_side, facts.classes) == ("cpu", 40, 2)
    assert facts.pool == 50
    assert facts.labeled == round(0.7 * 16)
    assert facts.median_class == pytest.approx(0.8 * 8)


def test_what_was_decided_stays_when_folders_grow(places, tmp_path):
    balanced = [*overrides(places), "--config.selection.method=paper"]
    open_config = configs.complete(_execute(FOLDER), overrides=balanced)
    workdir = tmp_path / "run"
    workdir.mkdir()
    made = auto_config.decided(open_config, workdir, Interruption())
    auto_config.files.write_json(
        workdir / auto_config.DECISIONS, auto_config.record(open_config, made)
    )
    for number in range(50, 200):
        image = Image.fromarray(np.full((40, 64, 3), number, np.uint8))
        image.save(places / "pool" / f"{number}.png")

    assert auto_config.decided(open_config, workdir, Interruption()) == made
    open_config.generations[0].train.batch = 16
    assert auto_config.decided(open_config, workdir, Interruption()) != made


def test_decisions_stay_where_less_was_open(places, tmp_path):
    asked = [*overrides(places), "--config.data.validation_fraction=0.1"]
    asked.append("--config.probe.enabled=true")
    earlier = configs.complete(_execute(FOLDER), overrides=asked)
    made = auto_config.decided(earlier, tmp_path, Interruption())
    assert "data.validation_fraction" not in {one.field for one in made}
    made = [*made, decisions.Decision("probe.enabled", False, "")]
    auto_config.files.write_json(
        tmp_path / auto_config.DECISIONS, auto_config.record(earlier, made)
    )

    today = configs.complete(_execute(FOLDER), overrides=overrides(places))
    kept = auto_config.decided(today, tmp_path, Interruption())

    assert kept[-len(made) :] == made
    config = decisions.apply(today, kept)
    assert (config.data.validation_fraction, config.probe.enabled) == (0.1, False)


def test_a_folder_in_which_nothing_can_be_read_is_refused(places, tmp_path):
    for path in (places / "labeled").rglob("*.png"):
        path.write_bytes(b"<html>not found</html>")
    open_config = configs.complete(_execute(FOLDER), overrides=overrides(places))

    told = r"none of the 16 files .* the first being .labeled/.*png. \(.+\): is it the"
    with pytest.raises(UserError, match=told):
        auto_config.look(open_config, tmp_path / "run")


def test_that_nothing_had_to_be_given_up_is_kept_too(tmp_path, monkeypatch):
    tiny = ROOT / "tests" / "configs" / "tiny.py"
    monkeypatch.setattr(auto_config.budget, "fit", lambda run, hours: [])
    line = ["run", f"--config={tiny}", f"--workdir={tmp_path / 'run'}"]
    line += ["--config.budget_hours=1", "--config.control.enabled=false"]
    assert main(line) == 0

    def again(run, hours):
        raise AssertionError("it was measured again")

    monkeypatch.setattr(auto_config.budget, "fit", again)
    assert main(line) == 0
    # How the result is judged has nothing to do with it.
    assert main([*line, "--config.evaluation.confidence=0.9", "--again"]) == 0


def test_another_start_is_decided_anew(places, tmp_path):
    asked = [
        configs.complete(_execute(FOLDER), overrides=[*overrides(places), flag])
        for flag in ("--config.init=none", "--config.init=random", "--config.init=out")
    ]

    records = [auto_config.record(one, [])["asked"] for one in asked]

    assert len(set(records)) == 3


STEPS = {"field": "generations[0].train.steps", "value": 5, "why": "so"}


@pytest.mark.parametrize(
    "change",
    [
        lambda record: {"decisions": [1]},
        lambda record: [record],
        lambda record: record | {"decisions": 1},
        lambda record: record | {"decisions": [1]},
        lambda record: record | {"decisions": [STEPS | {"field": 5}]},
        lambda record: record | {"decisions": [STEPS | {"field": "no.such"}]},
        lambda record: record | {"decisions": [STEPS | {"field": "generations[9].x"}]},
        lambda record: record | {summed.KEY: "0"},
    ],
)
def test_damaged_decisions_are_named(change, places, tmp_path):
    open_config = configs.complete(_execute(FOLDER), overrides=overrides(places))
    record = auto_config.record(open_config, [])
    (tmp_path / auto_config.DECISIONS).write_text(json.dumps(change(record)))

    with pytest.raises(UserError, match="damaged"):
        auto_config.decided(open_config, tmp_path, Interruption())
