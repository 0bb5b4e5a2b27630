"""Configs: how they are read, completed and overridden, and what they identify."""

import dataclasses
import json

import pytest

from noisy_student_jax import config as configs
from noisy_student_jax.config import (
    base_config,
    complete,
    flatten,
    identity,
    plain,
    renamed,
    schema,
)
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.model_arguments import ModelArguments

EPOCHS_NONE = "--config.train.epochs=none"

FILE = """
from noisy_student_jax.config import base_config

def get_config():
    config = base_config()
    config.train.batch = 64
    config.generations = (
        {"model": {"name": "efficientnet_b7"}},
        {"train": {"ratio": 28.0}, "noise": {"pseudo": {"flip": False}}},
    )
    config.control.train = {"steps": 7, "epochs": None}
    return config
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def owners(config):
    """Every generation, and the control."""
    return [*config.generations, config.control]


def test_every_generation_and_the_control_get_whole_sections(file):
    config = configs.load(file)

    base = plain(base_config())
    assert len(config.generations) == 2
    for owner in owners(config):
        for section in configs.GENERATION_SECTIONS:
            assert flatten(plain(owner[section])).keys() == (
                flatten(base[section]).keys()
            )


def test_a_generation_says_only_what_is_its_own(file):
    first, second = configs.load(file).generations

    assert (first.model.name, second.model.name) == (
        "efficientnet_b7",
        "efficientnet_b0",
    )
    assert (first.train.ratio, second.train.ratio) == (14.0, 28.0)
    assert (first.train.batch, second.train.batch) == (64, 64)
    # A part of a part leaves its neighbors alone.
    assert not second.noise.pseudo.flip
    assert second.noise.labeled.flip
    assert second.noise.pseudo.randaugment_magnitude == 27.0


def test_the_control_is_the_last_student_but_for_what_it_says_itself(file):
    config = configs.load(file)

    said = ("train.steps", "train.epochs")
    control = flatten(plain(config.control))
    last = flatten(plain(config.generations[-1]))
    assert control.pop("enabled") is True
    assert {key for key in last if last[key] != control[key]} == set(said)
    assert (config.control.train.steps, config.control.train.epochs) == (7, None)


def test_a_control_that_is_switched_off_is_complete_all_the_same(file):
    config = configs.load(file, ["--config.control.enabled=false"])

    assert config.control.enabled is False
    assert config.control.train.batch == 64


def test_completing_twice_changes_nothing(file):
    config = configs.load(file)

    assert plain(complete(config)) == plain(config)


def test_generations_do_not_share_what_they_were_given():
    config = base_config()
    config.generations = ({}, {})
    config = complete(config)

    config.generations[0].train.batch = 1

    assert config.generations[1].train.batch == 2048
    assert config.train.batch == 2048


def test_a_complete_config_is_locked(file):
    config = configs.load(file)

    with pytest.raises((AttributeError, KeyError)):
        config.trian = 1


def test_an_override_of_a_section_reaches_all_who_own_one(file):
    config = configs.load(file, ["--config.train.batch=32"])

    assert [owner.train.batch for owner in owners(config)] == [32, 32, 32]


def test_an_override_may_name_one_generation_or_the_control(file):
    config = configs.load(
        file,
        [
            "--config.generations[1].train.batch=16",
            "--config.control.train.batch=8",
        ],
    )

    assert [owner.train.batch for owner in owners(config)] == [64, 16, 8]


def test_the_control_follows_the_last_generation_where_that_is_overridden(file):
    config = configs.load(
        file,
        [
            "--config.generations[1].train.ratio=7",
            "--config.generations[1].train.steps=9",
            "--config.generations[1].train.epochs=none",
            "--config.generations[0].train.batch=16",
        ],
    )

    assert config.control.train.ratio == 7.0
    assert config.control.train.steps == 7, "the file says so of the control itself"
    assert config.control.train.batch == 64


def test_the_last_of_two_overrides_of_one_field_wins(file):
    config = configs.load(file, ["--config.train.batch=16", "--config.train.batch=32"])

    assert [owner.train.batch for owner in owners(config)] == [32, 32, 32]


@pytest.mark.parametrize("turned", [1, -1])
def test_an_override_of_one_owner_beats_one_of_all_in_any_order(file, turned):
    overrides = ["--config.generations[1].train.batch=16", "--config.train.batch=32"]

    config = configs.load(file, overrides[::turned])

    # The control follows the last generation.
    assert [owner.train.batch for owner in owners(config)] == [32, 16, 16]


def test_an_override_of_all_beats_what_the_file_says_of_one(file):
    config = configs.load(
        file, ["--config.train.ratio=3", "--config.train.steps=9", EPOCHS_NONE]
    )

    assert [owner.train.ratio for owner in owners(config)] == [3.0, 3.0, 3.0]
    assert [owner.train.steps for owner in owners(config)] == [9, 9, 9]


def test_what_defines_the_probe_is_above_every_override(file):
    config = configs.load(
        file, ["--config.probe.train.part=all", "--config.probe.train.batch=4"]
    )

    assert (config.probe.train.part, config.probe.train.batch) == ("head", 4)
    assert config.probe.train.ratio == 0.0
    assert config.probe.fixres.resolution is None


def test_a_field_may_be_none_where_the_table_says_what_fills_it(file):
    config = configs.load(file, ["--config.model.resolution=none"])
    assert config.model.resolution is None

    for path, field in schema.FIELDS.items():
        assert field.none is None or field.none in schema.RULES, path
        assert field.default is not None or field.none, path


def test_no_default_is_a_value_that_stood_for_none():
    for path, field in schema.FIELDS.items():
        assert renamed.value(path, field.default) == field.default, path
    assert renamed.NONE.keys() <= schema.FIELDS.keys()


def test_a_key_of_before_is_understood(file):
    config = configs.load(file, ["--config.noise.labelled.flip=false"])

    assert not any(owner.noise.labeled.flip for owner in owners(config))


def test_what_is_up_to_date_stays_as_it_is():
    config = plain(base_config())
    config["data"]["options"] = {"labelled": "", "steps": 0}

    assert renamed.settings(config) == {**config, "generations": []}


def test_what_was_written_before_and_back_is_the_same():
    config = plain(base_config())

    before = renamed.before(config)

    assert before["noise"].keys() == {"labelled", "pseudo"}
    assert before["model"]["dropout_rate"] == -1.0
    assert before["model"]["init"] == ""
    assert renamed.settings(before) == {**config, "generations": []}


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("seed=3", 3),
        ("train.ratio=7", 7.0),
        ("train.ratio=0.5", 0.5),
        ("train.learning_rate=1e-2", 0.01),
        ("train.targets=hard", "hard"),
        ("model.remat=true", True),
        ("model.remat=False", False),
        ("model.mean=(0.1,0.2,0.3)", (0.1, 0.2, 0.3)),
        ("model.mean=[0.1,0.2,0.3]", (0.1, 0.2, 0.3)),
        ("model.mean=none", None),
        ("model.members=a", ("a",)),
        ("model.members=a, b", ("a", "b")),
        ("model.members=none", None),
        ("teacher=none", None),
        ("budget_hours=2", 2.0),
        ("budget_hours=none", None),
        ("noise.pseudo.flip=false", False),
        ("log.every_seconds=5", 5.0),
    ],
)
def test_a_value_gets_the_type_of_its_field(file, override, value):
    config = configs.load(file, [f"--config.{override}"])

    got = flatten(plain(config))[override.split("=")[0]]
    assert got == value
    assert type(got) is type(value)


def test_a_field_that_older_runs_lack_identifies_only_what_does_otherwise(file):
    members = "efficientnet_b0,efficientnet_b1"
    config = configs.load(file, [f"--config.generations[0].model.members={members}"])

    kept = [identity(plain(one)) for one in config.generations]

    assert kept[0]["model"]["members"] == tuple(members.split(","))
    assert all("members" not in one["model"] for one in kept[1:])


def test_a_run_reads_back_what_it_wrote(file, tmp_path):
    config = configs.load(file, ["--config.seed=5"])
    path = tmp_path / "config.json"
    path.write_text(configs.to_json(config))

    again = configs.from_json(path)

    assert json.loads(configs.to_json(again)) == json.loads(path.read_text())
    assert again.seed == 5
    assert again.generations[0].model.name == "efficientnet_b7"


def test_a_run_of_before_is_read_with_the_fields_of_today(file, tmp_path):
    config = configs.load(file)
    stored = plain(config)
    del stored["log"]["profile_steps"]
    for owner in (stored, *stored["generations"], stored["control"]):
        owner["train"]["reuse_program"] = True
    stored["evaluation"]["in_pieces"] = True
    stored["checkpoint"]["asynchronous"] = False
    (tmp_path / "config.json").write_text(json.dumps(stored))

    assert configs.from_json(tmp_path / "config.json") == config


def test_commands_without_a_run_get_the_base_with_their_overrides():
    config = configs.defaults(["--config.selection.per_class=7"])

    assert config.selection.per_class == 7
    assert len(config.generations) == 1


def test_operational_fields_identify_nothing():
    config = plain(base_config())

    kept = flatten(identity(config))

    dropped = flatten(config).keys() - kept.keys()
    assert dropped == {
        "data.scale",  # new, and off, as the next
        "model.members",
        "model.init",
        "train.frozen_blocks",
        "train.shard_state",
        "labels.batch",
        "evaluation.batch",
        "checkpoint.every_steps",
        "checkpoint.keep",
        "log.every_steps",
        "log.validate_every_steps",
        "log.every_seconds",
        "log.profile_steps",
        "data.sources.labeled",
        "data.sources.unlabeled",
        "data.sources.validation",
        "data.sources.test",
        "data.cache",
        "data.side",
        "data.workers",
        "data.max_quarantined",
        "data.max_pixels",
        "data.near_duplicates",
        "data.prefetch",
        "data.resident_gigabytes",
        "noise.labeled.randaugment_form",
        "noise.pseudo.randaugment_form",
        "data.augment",
        "data.expected.labeled",
        "data.expected.pool",
        "data.expected.validation",
        "data.expected.test",
        "data.expected.classes",
        "plan.chip",
        "plan.devices",
        "plan.utilization",
        # These are dropped while they do what was done before there were any.
        "selection.share",
        "selection.max_score",
        "selection.pool_fraction",
        "model.views",
        "model.framing",
        "noise.labeled.zoom",
        "noise.labeled.turns",
        "noise.pseudo.zoom",
        "noise.pseudo.turns",
    }


def test_a_part_of_the_config_drops_its_own_operational_fields():
    config = plain(base_config())

    assert identity(config["labels"], "labels") == {"mode": "stored", "top_k": None}
    kept = identity(config["train"], "train")
    assert config["train"].keys() - kept.keys() == {"frozen_blocks", "shard_state"}
    assert identity({**config["model"], "views": 2}, "model")["views"] == 2
    # A field of the same name elsewhere is another field.
    assert "batch" in identity(config["train"], "train")


def test_layers_left_open_are_those_that_older_runs_had():
    layers = {
        value: identity({"layers": value}, "model")["layers"]
        for value in schema.FIELDS["model.layers"].choices
    }

    assert layers == {"auto": "own", "own": "own", "flax": "flax"}


def test_the_base_is_the_papers_recipe():
    train = base_config().train

    assert train.batch * train.learning_rate / 256 == pytest.approx(0.128)
    assert (train.decay_epochs, train.decay_factor) == (2.4, 0.97)
    assert (train.epochs, train.warmup_epochs) == (350, 5)
    assert (train.weight_decay, train.label_smoothing) == (1e-5, 0.1)
    assert (train.ema_decay, train.momentum) == (0.9999, 0.9)
    assert (train.targets, train.temperature) == ("soft", 1.0)
    assert train.loss_normalization == "code"
    model = base_config().model
    assert (model.batch_norm_momentum, model.batch_norm_epsilon) == (0.99, 1e-3)
    assert (model.stochastic_depth, model.dropout_rate) == (0.2, None)
    assert model.crop_padding == 32
    selection = base_config().selection
    assert (selection.min_score, selection.per_class) == (0.3, 130_000)
    for stream in base_config().noise.values():
        assert stream.randaugment_layers == 2
        assert stream.randaugment_magnitude == 27
        assert stream.randaugment_behavior == "reference"
        assert (stream.randaugment_translate, stream.randaugment_cutout) == (100, 40)
        assert stream.flip and stream.dropout and stream.stochastic_depth


def test_leaves_are_named_as_overrides_name_them():
    tree = {"a": {"b": 1}, "many": ({"c": 2}, {"c": 3}), "numbers": (1, 2)}

    assert flatten(tree) == {
        "a.b": 1,
        "many[0].c": 2,
        "many[1].c": 3,
        "numbers": (1, 2),
    }


def test_the_model_section_has_the_defaults_that_models_have():
    section = base_config().model
    own = dataclasses.asdict(ModelArguments())
    # None is the whole batch here.
    own["batch_norm_group"] = own["batch_norm_group"] or None

    assert {name: section[name] for name in own} == own


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_number_of_generations_may_be_given(file, count):
    config = configs.load(file, [f"--config.generations={count}"])

    whole = configs.load(file).generations
    assert len(config.generations) == count
    for number, one in enumerate(config.generations):
        assert plain(one) == plain(whole[min(number, 1)])


@pytest.mark.parametrize("said", ["0", "-1", "two", "1.5", "101"])
def test_what_is_no_number_of_generations_is_refused(file, said):
    with pytest.raises(UserError, match=f"config.generations is '{said}', but must be"):
        configs.load(file, [f"--config.generations={said}"])
