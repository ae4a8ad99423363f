"""The judge on the report's page: every state, every member, every price, whatever the names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from judged_pairs import (
    RuleJudge,
    careless_coin,
    coin,
    first,
    images_of,
    items,
    longer,
    makes_answers,
)

from stllava.files import write_json
from stllava.judging.audit.pairs import decisions
from stllava.judging.jury.combine import jury_verdicts
from stllava.judging.jury.panel import panel
from stllava.judging.routing import blank_counts, blank_items
from stllava.judging.states import pair_states
from stllava.records import (
    Answers,
    Dropped,
    Preference,
    Record,
    Usage,
    Verdict,
)
from stllava.report import judge, write_report
from stllava.report.grid import HIDDEN, MAX_NAME, signed
from stllava.report.judge_figures import figures
from stllava.report.known import benches
from stllava.report.load import open_run

ANSWERS = makes_answers(60)
RULES = (coin, longer, careless_coin, first)
BIDI = "\u202egpj.exe\u2066\u200b"
BREAKOUT = "<img src=x onerror=alert(1)>\"'&"


def said_by(rule: Any, name: str, **update: Any) -> list[Verdict]:
    asked = {"rubric": "faithful", "rubric_version": 2, "model": f"{name}-asked", **update}
    said = RuleJudge(rule, name).judge(items(ANSWERS))
    return [verdict.model_copy(update=asked) for verdict in said]


def judged_run(
    root: Path,
    verdicts: Sequence[Verdict],
    *,
    answers: Sequence[Answers] = ANSWERS,
    votes: Sequence[Verdict] = (),
    summary: dict[str, Any] | None = None,
) -> Path:
    """A run as the judge stage leaves it."""
    put(root / "prepare/images.jsonl", images_of(ANSWERS))
    put(root / "answer/answers.jsonl", answers)
    put(root / "judge/verdicts.jsonl", verdicts)
    if votes:
        put(root / "judge/votes.jsonl", votes)
    states = Counter(pair_states(verdicts).values())
    done = {"pairs": len(answers), "pair_states": dict(states), "cost_usd": None, "seconds": 1.0}
    write_json(root / "judge/stage.json", {**done, **(summary or {})})
    return root


def put(path: Path, records: Iterable[Record]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(r.model_dump_json() + "\n" for r in records), encoding="utf-8")


def section_of(run: Path) -> str:
    """What the template is given about the judge, as one text."""
    reader = open_run(run)
    found = judge.section(reader, judge.audited(reader), benches(reader), reader.recipe())
    words = [f"{label}: {value}" for label, value in found["judge_facts"]]
    for grid in found["judge_grids"]:
        words += [grid.title, *grid.head]
        for name, note, cells in grid.lines:
            words += [name, note, *(part for cell in cells for part in cell)]
        words.append(grid.caption)
    return " ".join(" ".join(words).split())


def test_every_pair_is_in_one_state_and_they_sum_to_the_pairs(tmp_path):
    said = said_by(coin, "m")
    gone = {"winner": None, "scores": None}
    said[0] = said[0].model_copy(update={"state": "refused", **gone})
    said[2] = said[2].model_copy(update={"state": "unparsed", **gone})
    text = section_of(judged_run(tmp_path, said))
    assert "ok 58 96.7 %" in text
    assert "refused 1 1.7 %" in text
    assert "unparsed 1 1.7 %" in text
    assert "all states 60" in text
    assert "They sum to the 60 pairs" in text


def test_pairs_without_a_verdict_are_told(tmp_path):
    text = section_of(judged_run(tmp_path, said_by(coin, "m")[:20]))
    assert "10 of the 60 pairs of the stage have a verdict" in text


def test_a_stage_that_is_not_complete_shows_the_verdicts_so_far(tmp_path):
    run = judged_run(tmp_path, said_by(coin, "m")[:20])
    (run / "judge/stage.json").unlink()
    text = section_of(run)
    assert "all states 10" in text
    assert "not complete" in text


def test_the_page_names_model_rubric_orders_and_options_left_out(tmp_path):
    said = said_by(coin, "m", model_returned="m-2026-11")
    run = judged_run(tmp_path, said, summary={"left_out": ["json_schema", "seed"]})
    text = section_of(run)
    for words in ("asked for m-asked; answered by m-2026-11", "faithful 2", "json_schema, seed"):
        assert words in text
    assert "60 of 60 pairs judged in both" in text


def test_a_price_that_is_not_known_is_not_zero(tmp_path):
    usage = Usage(prompt_tokens=1000, completion_tokens=20)
    free = section_of(judged_run(tmp_path / "a", said_by(coin, "m", usage=usage)))
    assert "120 120 120,000 2,400 price unknown" in free
    paid = said_by(coin, "m", usage=usage, cost_usd=0.01)
    assert "120,000 2,400 1.2000" in section_of(judged_run(tmp_path / "b", paid))


def test_repairs_are_calls(tmp_path):
    said = said_by(coin, "m")
    said[:5] = [v.model_copy(update={"repair": "8 7"}) for v in said[:5]]
    assert "120 125 " in section_of(judged_run(tmp_path, said))


def test_the_blank_image_audit_is_counted_and_says_where_its_pairs_are(tmp_path):
    said = said_by(coin, "m")
    blank = [v.model_copy(update={"id": f"b{v.id}", "view": "blank"}) for v in said[:24]]
    both = [*said, *blank]
    run = judged_run(tmp_path, both, summary={"blank": blank_counts(both)})
    put(run / "judge/blank.jsonl", blank_items(ANSWERS, both))
    text = section_of(run)
    assert "12 pairs judged again without the image, 12 of them with a winner" in text
    assert "12 kept it: 100.0 %" in text
    assert "judge/blank.jsonl" in text


def jury_of(root: Path, number: int, name: str = "juror {}") -> Path:
    votes = [
        v
        for n in range(number)
        for v in said_by(RULES[n % len(RULES)], name.format(n), cost_usd=0.001)
    ]
    counts = {
        who: dict(Counter(pair_states(v for v in votes if v.judge == who).values()))
        for who in dict.fromkeys(v.judge for v in votes)
    }
    verdicts = jury_verdicts(votes, clock=lambda: "")
    return judged_run(root, verdicts, votes=votes, summary={"votes": counts})


def test_a_jury_shows_votes_kappas_alpha_and_each_left_out(tmp_path):
    run = jury_of(tmp_path, 3)
    text = section_of(run)
    found = panel(decisions(v for n in range(3) for v in said_by(RULES[n], f"juror {n}")), {})
    known = [row for row in found["kappas"] if row["kappa"] is not None]
    assert known
    for row in known:
        assert signed(row["kappa"]) in text
    assert f"alpha {signed(found['alpha_nominal'])}" in text
    assert f"worth {found['n_eff']:.1f} independent votes of 3" in text
    assert "Each of the jury's members left out" in text
    assert "Votes of the jury's members" in text
    without = found["left_out"]["juror 2"]["alpha_nominal"]
    assert signed(without) in text


def test_bench_accuracy_stands_by_category_with_its_interval(tmp_path):
    run = judged_run(tmp_path, said_by(coin, "m"))
    share = {"percent": 75.0, "clustered": [60.0, 86.0], "n": 40, "num_groups": 20}
    measured = {"judge": "m", "rubric": "paper", "orders": "both", "accuracy": share}
    measured["by_category"] = {"side": {**share, "percent": 50.0}, "presence": share}
    (run / "judge/bench/x").mkdir(parents=True)
    write_json(run / "judge/bench/x/bench.json", measured)
    text = section_of(run)
    assert "all presence side" in text
    assert "75.0 % [60.0, 86.0], n = 40 75.0 % [60.0, 86.0], n = 40 50.0 %" in text


def test_twelve_judges_have_a_row_each_and_no_pair_of_them_is_left_out(tmp_path):
    run = jury_of(tmp_path, 12)
    reader = open_run(run)
    audit = judge.audited(reader)
    found = judge.section(reader, audit, [], {})
    grids = {grid.title: grid for grid in found["judge_grids"]}
    kappas = grids["Agreement of the jury's members, beyond chance"]
    assert len(kappas.lines) == 12
    assert {len(line.cells) for line in kappas.lines} == {11}
    for title in ("Who was asked, and what it cost", "Habits of the jury's members"):
        assert len(grids[title].lines) == 12
    drawn = {f.name: f.height for f in figures(audit, []) if f.draw is not None}
    assert {"judge-scores", "judge-margins", "judge-consistent", "judge-first-wins"} <= drawn.keys()
    assert "judge-habits" not in drawn
    assert max(drawn.values()) < 5


@pytest.fixture(scope="module")
def odd_page(tmp_path_factory) -> str:
    """A jury whose names and texts try to break out, or go on for 10 kB."""
    run = jury_of(tmp_path_factory.mktemp("odd"), 4, name=BREAKOUT + BIDI + "w" * 10_000 + "{}")
    texts = {"question": BREAKOUT + BIDI, "draws": ANSWERS[0].draws}
    long = ANSWERS[0].draws[0].model_copy(update={"text": (BREAKOUT + BIDI) * 300})
    odd = [
        a.model_copy(update={**texts, "draws": (long, a.draws[1]) if n else a.draws})
        for n, a in enumerate(ANSWERS)
    ]
    put(run / "answer/answers.jsonl", odd)
    put(
        run / "prefer/preferences.jsonl",
        [
            Preference(
                id="p", answers_id=odd[1].id, image=odd[1].image, question=odd[1].question,
                chosen=odd[1].draws[0], rejected=odd[1].draws[1], margin=1, source=BREAKOUT + BIDI,
            )
        ],
    )  # fmt: skip
    put(
        run / "prefer/dropped.jsonl",
        [Dropped(id="x", stage="prefer", reason=BREAKOUT + BIDI + "r" * 10_000)],
    )
    (run / "recipe.yaml").write_text(f"name: '{BIDI}{'n' * 9000}'\n", encoding="utf-8")
    return write_report(run).read_text(encoding="utf-8")


def test_no_text_of_a_run_becomes_a_tag_or_turns_the_page_round(odd_page):
    assert "onerror=alert" in odd_page
    assert not re.search(r"<img[^>]*onerror", odd_page)
    assert not {chr(n) for n in HIDDEN} & set(odd_page)


def test_no_name_is_longer_than_a_line_and_no_text_than_a_paragraph(odd_page):
    names = [th.split("<small>")[0] for th in re.findall(r"<th>(.*?)</th>", odd_page)]
    assert any("wwwww" in name for name in names)
    assert max(len(unescape(name)) for name in names) <= MAX_NAME + len("12 ")
    assert not re.search(r"[wnr]{601}", re.sub(r"data:[^\"]+", "", odd_page))


def test_a_judge_without_pairs_is_no_table_of_nothing(tmp_path):
    text = section_of(judged_run(tmp_path, [], answers=[]))
    assert "They sum to the 0 pairs" in text
    assert "Habits" not in text


def test_a_judge_that_always_failed_has_states_and_no_habits(tmp_path):
    failed = {"winner": None, "scores": None, "state": "transport_failed"}
    said = [v.model_copy(update=failed) for v in said_by(coin, "m")]
    run = judged_run(tmp_path, said)
    text = section_of(run)
    assert "transport failed 60 100.0 %" in text
    assert "first shown wins" not in text
    assert (write_report(run).parent / "figures/judge-states.png").is_file()


@pytest.mark.parametrize(
    "name",
    ["answer/answers.jsonl", "judge/verdicts.jsonl", "judge/votes.jsonl", "judge/stage.json"],
)
def test_a_missing_or_torn_file_of_the_judge_never_stops_the_section(name, tmp_path):
    run = jury_of(tmp_path, 3)
    (run / name).write_bytes(b'{"torn": "fi\xff')
    assert section_of(run)
    (run / name).unlink()
    assert section_of(run)


def test_odd_values_in_the_stages_file_are_left_out(tmp_path):
    odd = {
        "pair_states": {"ok": "many", "tie": None},
        "blank": 3,
        "votes": [1],
        "left_out": {"a": 1},
    }
    assert "a: 1" in section_of(judged_run(tmp_path, said_by(coin, "m"), summary=odd))
