import math
from dataclasses import fields

import pytest
from charlm_training.errors import ConfigurationError
from charlm_training.models import ModelConfig
from charlm_training.recipes import RECIPES, quick, recipe
from charlm_training.settings import override


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_made_and_asks_for_a_modest_text(name: str) -> None:
    assert recipe(name).least_training_characters < 10_000


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
        ("dropout=1", "dropout is 1.0; it must be from 0 to 0.99"),
        ("optimizer=adam", "optimizer is 'adam'; it must be adamw or sgd"),
        ("seed=-1", "seed is -1; it must be from 0 to"),
    ],
)
def test_a_wrong_setting_is_named_with_its_remedy(assignment: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        override(quick(), [assignment])


def test_an_unknown_recipe_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"'quik'; did you mean quick\? \(recipes: quick, small, d2l-lstm\)"):
        recipe("quik")


def test_a_model_must_have_a_shape() -> None:
    with pytest.raises(ConfigurationError, match="layers is 0"):
        ModelConfig(vocabulary_size=3, embedding=1, hidden=1, layers=0)
    with pytest.raises(ConfigurationError, match="hidden is nan"):
        ModelConfig(vocabulary_size=3, embedding=1, hidden=math.nan, layers=1)  # type: ignore[arg-type]
