"""stllava compare: two models on the same questions."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar as mcnemar_oracle
from statsmodels.stats.multitest import multipletests
from typer.testing import CliRunner

from stllava.cli import app
from stllava.errors import DataError, RunError
from stllava.metrics.folders import write_scored
from stllava.metrics.interval import paired_difference
from stllava.metrics.paired import compare_all, detectable, holm, mcnemar
from stllava.metrics.scores import score_sheet
from stllava.records import Item, Prediction, VQASample


def questions(num=120):
    """Four an image, half of them open."""
    return [
        VQASample(
            id=f"i{n // 4}/q{n}",
            image=f"i{n // 4}",
            question="Is it?" if n % 2 else "Where is it?",
            answer="yes" if n % 2 else "left lung",
            kind="closed" if n % 2 else "open",
        )
        for n in range(num)
    ]


def answers(samples, skill, seed):
    rng = random.Random(seed)
    return [
        Prediction(id=s.id, text=s.answer if rng.random() < skill else "no lung") for s in samples
    ]


def evaluate(folder, skill, seed, *, samples=None, mode="corrected", benchmark="rad"):
    samples = samples or questions()
    sheet = score_sheet(samples, answers(samples, skill, seed), {}, mode=mode, num_resamples=100)
    write_scored(folder, sheet.items, {"benchmark": benchmark, **sheet.scores})
    return sheet.items


def compare(*arguments):
    result = CliRunner().invoke(app, ["compare", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


@pytest.mark.parametrize("seed", range(5))
def test_holm_and_mcnemar_are_those_of_statsmodels(seed):
    rng = random.Random(seed)
    ps = [rng.choice([rng.random(), rng.random() / 50]) for _ in range(seed + 1)]
    assert holm(ps) == pytest.approx(multipletests(ps, method="holm")[1])
    wins, losses = rng.randrange(30), rng.randrange(30)
    oracle = mcnemar_oracle([[5, wins], [losses, 7]], exact=True).pvalue
    assert mcnemar(wins, losses) == pytest.approx(min(1.0, oracle))


def test_rows_give_the_paired_difference_of_every_metric(tmp_path):
    a, b = evaluate(tmp_path / "a", 0.5, 0), evaluate(tmp_path / "b", 0.7, 1)
    found = json.loads(compare(tmp_path / "a", tmp_path / "b", "--json", "--questions"))
    rows = {row["metric"]: row for row in found["changes"]}
    assert set(rows) == {"accuracy", "recall", "f1"}
    row = rows["accuracy"]
    expected = paired_difference(a, b, "accuracy", num_resamples=10_000)
    assert row["difference"] == pytest.approx(row["b"] - row["a"]) == expected.difference
    assert row["interval"] == list(expected.interval)
    assert (row["wins"], row["losses"]) == (expected.wins, expected.losses)
    assert row["p_mcnemar"] == mcnemar(row["wins"], row["losses"])
    assert rows["recall"]["p_mcnemar"] is None
    assert len(row["won"]) == row["wins"]
    ps = [r["p"] for r in found["changes"]]
    assert [r["p_holm"] for r in found["changes"]] == pytest.approx(holm(ps))


def test_the_printed_table_names_both_folders_and_every_row(tmp_path):
    evaluate(tmp_path / "a", 0.5, 0)
    evaluate(tmp_path / "b", 0.7, 1)
    printed = compare(tmp_path / "a", tmp_path / "b")
    for words in ("B minus A", "rad accuracy", "rad recall", "p McNemar", "detectable"):
        assert words in printed


def test_benchmarks_below_two_folders_are_matched_by_path(tmp_path):
    for model, skill in (("sft", 0.5), ("dpo", 0.6)):
        for benchmark in ("rad", "slake"):
            evaluate(tmp_path / model / benchmark / "image", skill, len(benchmark))
    evaluate(tmp_path / "dpo/extra/image", 0.5, 3)
    found = json.loads(compare(tmp_path / "sft", tmp_path / "dpo", "--json"))
    assert {row["benchmark"] for row in found["changes"]} == {"rad/image", "slake/image"}
    assert len(found["changes"]) == 6
    assert found["notes"] == ["only on one side, left out: extra/image"]


def test_every_further_folder_is_compared_with_the_first(tmp_path):
    for name, skill in (("a", 0.4), ("b", 0.5), ("c", 0.9)):
        evaluate(tmp_path / name, skill, 7)
    found = json.loads(compare(tmp_path / "a", tmp_path / "b", tmp_path / "c", "--json"))
    assert [result["b"] for result in found] == [str(tmp_path / "b"), str(tmp_path / "c")]


def test_different_questions_are_refused_unless_forced(tmp_path):
    evaluate(tmp_path / "a", 0.5, 0)
    evaluate(tmp_path / "b", 0.5, 1, samples=questions()[8:])
    with pytest.raises(RunError, match=r"112 in both, 8 only in .*--force compares"):
        compare(tmp_path / "a", tmp_path / "b")
    found = json.loads(compare(tmp_path / "a", tmp_path / "b", "--force", "--json"))
    assert found["changes"][0]["num_items"] == 56
    assert "forced" in found["notes"][0]


def test_other_references_modes_and_kinds_are_refused(tmp_path):
    evaluate(tmp_path / "a", 0.5, 0)
    other = [
        s.model_copy(update={"answer": "no"}) if n == 1 else s for n, s in enumerate(questions())
    ]
    evaluate(tmp_path / "answer", 0.5, 0, samples=other)
    with pytest.raises(RunError, match="other questions or reference answers"):
        compare(tmp_path / "a", tmp_path / "answer")
    evaluate(tmp_path / "mode", 0.5, 0, mode="llavamed")
    with pytest.raises(RunError, match="different modes: corrected and llavamed"):
        compare(tmp_path / "a", tmp_path / "mode")
    moved = [
        s.model_copy(update={"kind": "open"}) if n == 1 else s for n, s in enumerate(questions())
    ]
    evaluate(tmp_path / "kind", 0.5, 0, samples=moved)
    with pytest.raises(RunError, match="open in one and closed in the other"):
        compare(tmp_path / "a", tmp_path / "kind")


def test_folders_without_scores_get_one_clear_line(tmp_path):
    evaluate(tmp_path / "a/rad", 0.5, 0)
    evaluate(tmp_path / "b/slake", 0.5, 0)
    with pytest.raises(RunError, match="no such folder"):
        compare(tmp_path / "a", tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"no items\.jsonl in it"):
        compare(tmp_path / "a", tmp_path / "empty")
    with pytest.raises(DataError, match="no evaluation in common"):
        compare(tmp_path / "a", tmp_path / "b")


def test_a_missing_answer_is_left_out_of_the_pairs():
    items = [Item(id=n, image=n, group=n, kind="closed", metrics={"accuracy": 0.0}) for n in "abc"]
    gone = items[0].model_copy(update={"metrics": {}, "missing": True})
    (change,) = compare_all({"x": (items, [gone, *items[1:]])}, num_resamples=100)
    assert (change.num_items, change.num_unpaired, change.p) == (2, 1, 1)
    assert change.detectable is None
    with pytest.raises(DataError, match="nothing can be compared"):
        compare_all({"x": (items, [])})


def test_grouped_answers_make_p_larger_than_mcnemars():
    def items(right):
        return [
            Item(id=str(n), image="", group=str(n // 20), kind="closed",
                 metrics={"accuracy": 100.0 * r}) for n, r in enumerate(right)
        ]  # fmt: skip

    a = [False] * 200
    b = [(n // 20) < 5 for n in range(200)]  # whole groups get better
    (change,) = compare_all({"x": (items(a), items(b))}, num_resamples=2000)
    assert change.p_mcnemar < 1e-6 < 0.05 < change.p


def test_a_difference_of_the_detectable_size_is_found_four_times_in_five():
    rng = np.random.default_rng(0)
    error = 2.0
    found = np.abs(rng.normal(detectable(error), error, 20_000)) > 1.959964 * error
    assert found.mean() == pytest.approx(0.8, abs=0.01)


def test_the_clustered_error_is_the_spread_of_repeated_samples():
    rng = np.random.default_rng(1)

    def sample():
        effects = np.repeat(rng.normal(0, 20, 60), 5)
        noise = rng.normal(0, 10, 300)
        a = [Item(id=str(n), image="", group=str(n // 5), kind="open", metrics={"recall": 0.0})
             for n in range(300)]  # fmt: skip
        b = [
            item.model_copy(update={"metrics": {"recall": float(effects[n] + noise[n])}})
            for n, item in enumerate(a)
        ]
        return paired_difference(a, b, "recall", num_resamples=10)

    drawn = [sample() for _ in range(150)]
    spread = np.std([found.difference for found in drawn])
    assert np.mean([found.error for found in drawn]) == pytest.approx(spread, rel=0.15)
