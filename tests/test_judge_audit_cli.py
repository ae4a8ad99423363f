"""`stllava judge audit` on a terminal and its figures: complete, and safe with anybody's names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from judged_pairs import RuleJudge, items
from PIL import Image as PILImage
from test_report_judge import ANSWERS, BIDI, coin, judged_run, jury_of, put, said_by
from typer.testing import CliRunner

from stllava.cli import app
from stllava.judging.experts.reading import vote_id
from stllava.judging.experts.sheet import row_id_of
from stllava.records import Answers, Usage, Verdict


def audited(run: Path) -> str:
    done = CliRunner().invoke(app, ["judge", "audit", str(run)])
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


def voted(name: str, answers: Sequence[Answers]) -> list[Verdict]:
    """An expert's votes on these texts, as `review import` writes them."""
    said = RuleJudge(coin, name, "one").judge(items(answers))
    return [
        vote.model_copy(update={"id": vote_id(row_id_of(item, (0, 1)), name)})
        for item, vote in zip(answers, said, strict=True)
    ]


def test_one_judge_shows_states_position_length_sources_and_cost(tmp_path):
    usage = Usage(prompt_tokens=1000, completion_tokens=20)
    said = said_by(coin, "m", usage=usage, model_returned="m-1", time="2026-11-23T00:00:00Z")
    text = audited(judged_run(tmp_path, said))
    for words in (
        "pairs: refused 0.0", "pairs: tie 0.0", "pairs: inconsistent 0.0", "same in both orders",
        "first shown wins (both orders)", "at equal length (model)", "longer answer wins",
        "slope", "by source", "by kind", "ct ", "xray ", "faithful 2", "asked for m-asked",
        "answered by m-1", "120 calls, 120,000 tokens read, 2,400 written; price unknown",
    ):  # fmt: skip
        assert words in text
    drawn = {file.stem for file in (tmp_path / "judge/figures").glob("*.png")}
    assert drawn == {"judge-states", "judge-scores", "judge-margins", "judge-habits"}
    with PILImage.open(tmp_path / "judge/figures/judge-scores.png") as picture:
        assert len(set(picture.convert("L").tobytes())) > 8


def test_a_jury_and_experts_show_members_kappas_each_left_out_and_thresholds(tmp_path):
    run = jury_of(tmp_path, 3)
    votes = [*voted("expert:ann", ANSWERS), *voted("expert:bob", ANSWERS)]
    put(run / "review/verdicts.jsonl", votes)
    text = audited(run)
    for words in (
        "member juror 1", "juror 0 and juror 2", "Krippendorff's alpha", "independent votes of 3",
        "members of the jury: each left out", "kappa with the others", "experts: agreement",
        "juror 0 against the experts", "right where both name a winner 100.0",
        "margin 3 or more, chosen on: right", "margin 3 or more, reported on: right",
    ):  # fmt: skip
        assert words in text


def test_without_enough_labels_the_audit_says_why_there_is_no_margin(tmp_path):
    run = judged_run(tmp_path, said_by(coin, "m"))
    put(run / "review/verdicts.jsonl", voted("expert:ann", ANSWERS[:4]))
    assert "no margin: needs scores and 20 decided pairs in either half" in audited(run)


@pytest.mark.parametrize("name", ["[/b][bold]m", "\x1b[2J\x1b]0;title\x07m", f"m{BIDI}"])
def test_a_name_is_no_markup_and_moves_no_cursor(name, tmp_path):
    text = audited(judged_run(tmp_path, said_by(coin, name, model_returned=name)))
    assert "\x1b" not in text
    assert "\u202e" not in text
    if name.startswith("["):
        assert f"{name}: 60 pairs" in text
