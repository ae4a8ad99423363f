"""Who judged is known wherever it matters: in the model card, and before its pupil is rated."""

from typing import get_args

import pytest

from stllava.config import SourceSection
from stllava.errors import RecipeError
from stllava.pipeline.evaluate.models import check_endpoints
from stllava.pipeline.export.card import SOURCES
from stllava.pipeline.judging.judges import models_asked
from stllava.recipe import load_recipe

MARKER = "eval.judge={model: marker, base_url: 'http://127.0.0.1:1/v1'}"
JUROR = "base_url: 'http://127.0.0.1:1/v1'"


def test_a_model_card_names_every_source():
    assert set(SOURCES) == set(get_args(SourceSection.model_fields["source"].annotation))


def test_models_that_judge_are_those_of_a_jury_where_there_is_one():
    jury = [f"judge.jury.a={{model: x, {JUROR}}}", "judge.jury.b={kind: reference}"]
    assert models_asked(load_recipe("improved", ["judge.model=m"]).judge) == ["m"]
    assert models_asked(load_recipe("improved", ["judge.model=m", *jury]).judge) == ["x"]
    assert models_asked(load_recipe("demo").judge) == []


@pytest.mark.parametrize(
    "overrides",
    [
        ["judge.kind=openai", "judge.model=marker"],
        [f"judge.jury.a={{model: marker, {JUROR}}}", f"judge.jury.b={{model: x, {JUROR}}}"],
    ],
    ids=["judge", "member of a jury"],
)
def test_who_labelled_the_preferences_does_not_rate_their_result(overrides):
    with pytest.raises(RecipeError, match="marker labelled the preferences of this run"):
        check_endpoints(load_recipe("improved", [*overrides, MARKER]))


def test_another_model_may_rate():
    check_endpoints(load_recipe("improved", ["judge.model=m", MARKER]))
