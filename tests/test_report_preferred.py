"""What `prefer` did, on the report's page: its rules, and what is beside them."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

from judged_pairs import RuleJudge, coin, items
from judged_runs import two_answers
from test_report_judge import put

from stllava.config import PreferSection
from stllava.files import write_json
from stllava.judging.prefer import prefer
from stllava.records import Preference, ReviewItem
from stllava.report.load import open_run
from stllava.report.preferred import RULES, facts


def switched_on() -> dict[str, Any]:
    """Every setting of the section away from "off", by its type, whatever settings there are."""
    on: dict[str, Any] = {}
    for name, field in PreferSection.model_fields.items():
        kinds = get_args(field.annotation) or (field.annotation,)
        if get_origin(field.annotation) is tuple:
            on[name] = get_args(kinds[0])
        elif get_origin(field.annotation) is Literal:
            on[name] = kinds[-1]
        else:
            on[name] = True if bool in kinds else 1 if int in kinds else 0.0
    return on


def test_every_rule_that_prefer_can_write_is_explained():
    answers = [two_answers(f"i/q{n}") for n in range(4)]
    said = list(RuleJudge(coin).judge(items(answers)))
    settings = PreferSection.model_validate(switched_on())
    counts = prefer(answers, said, settings, seed=0).counts
    written = {name for name, count in counts.items() if {"in", "out"} <= count.keys()}
    assert written == set(RULES)


def test_no_setting_of_prefer_goes_unsaid_on_the_page():
    beside = {"select", "weight", "review", "review_margin"}  # said elsewhere, or no rule
    assert PreferSection.model_fields.keys() - beside <= RULES.keys()


def test_votes_weights_and_the_experts_queue_are_shown(tmp_path):
    reasons = get_args(ReviewItem.model_fields["reason"].annotation)
    put(
        tmp_path / "prefer/review.jsonl",
        [
            ReviewItem(
                id=reason, answers_id="a", image="i", question="q", pair=(0, 1),
                answers=("a", "b"), reason=reason, state="tie",
            )
            for reason in reasons
        ],
    )  # fmt: skip
    draws = two_answers("q").draws
    put(
        tmp_path / "prefer/preferences.jsonl",
        [
            Preference(
                id=str(w), answers_id="a", image="i", question="q", chosen=draws[0],
                rejected=draws[1], margin=1, weight=w, source="m",
            )
            for w in (0.5, 1.5)
        ],
    )  # fmt: skip
    done = {"for_review": 5, "votes": {"used": 7, "outdated": 2}, "preferences": 2}
    write_json(tmp_path / "prefer/stage.json", done)
    found = dict(facts(open_run(tmp_path), {"prefer": {"weight": "margin"}}))
    assert found["weights"] == "by margin: 0.50 to 1.50, mean 1 (n = 2 pairs)"
    assert found["votes of experts"].startswith("7 in the place")
    assert "2 about texts" in found["votes of experts"]
    assert found["for the expert"].startswith("5 pairs in prefer/review.jsonl: 1 ties")
    assert "1 same winner without the image" in found["for the expert"]
