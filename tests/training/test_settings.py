import math
from dataclasses import fields, replace

import pytest
from segue_training.errors import ConfigurationError
from segue_training.models import ModelConfig
from segue_training.recipes import RECIPES, check_resumable, quick, recipe
from segue_training.settings import override


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_made_and_asks_for_a_modest_text(name: str) -> None:
    assert recipe(name).least_training_symbols < 10_000


def test_settings_are_read_by_the_type_of_their_field() -> None:
    changed = override(quick(), ["hidden=12", "learning_rate=1e-4", "optimizer=sgd", "hidden=13"])
    assert (changed.hidden, changed.learning_rate, changed.optimizer) == (13, 1e-4, "sgd")
    same = [f.name for f in fields(changed) if getattr(changed, f.name) == getattr(quick(), f.name)]
    assert len(same) == len(fields(changed)) - 3


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("hiden=3", r"no setting is called 'hiden'; did you mean hidden\? \(settings: hidden, embedding, "),
        ("hidden", "'hidden' is not a setting; write key=value"),
        ("hidden=many", "hidden is 'many'; it must be a whole number"),
        ("hidden=1.5", "hidden is '1.5'; it must be a whole number"),
        ("hidden=0", "hidden is 0; it must be from 1 to 16384"),
        ("learning_rate=fast", "learning_rate is 'fast'; it must be a number"),
        ("learning_rate=nan", "learning_rate is nan; it must be from"),
        ("output_dropout=1", "output_dropout is 1.0; it must be from 0 to 0.99"),
        ("optimizer=adam", "optimizer is 'adam'; it must be adamw or sgd"),
        ("seed=-1", "seed is -1; it must be from 0 to"),
    ],
)
def test_a_wrong_setting_is_named_with_its_remedy(assignment: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        override(quick(), [assignment])


def test_an_unknown_recipe_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"'quik'; did you mean quick\? \(recipes: quick, small, best, .*d2l-"):
        recipe("quik")


def test_the_preparations_of_d2l_need_their_normalization() -> None:
    with pytest.raises(ConfigurationError, match="'d2l-zh', which needs normalization 'letters', not 'line-feeds'"):
        replace(quick(), preparation="d2l-zh")


def test_a_run_can_continue_with_another_rate_but_not_with_another_model_or_text() -> None:
    check_resumable(quick(), replace(quick(), learning_rate=1e-3, steps=10, output_dropout=0.5, patience=3))
    for assignment in ("hidden=8", "batch=2", "alphabet=bytes", "seed=1", "optimizer=sgd"):
        name, _, value = assignment.partition("=")
        with pytest.raises(ConfigurationError, match=f"began with {name}=.*, which cannot become {value}: leave it"):
            check_resumable(quick(), override(quick(), [assignment]))


def test_a_model_must_have_a_shape() -> None:
    with pytest.raises(ConfigurationError, match="layers is 0"):
        ModelConfig(vocabulary_size=3, embedding=1, hidden=1, layers=0)
    with pytest.raises(ConfigurationError, match="hidden is nan"):
        ModelConfig(vocabulary_size=3, embedding=1, hidden=math.nan, layers=1)  # type: ignore[arg-type]
