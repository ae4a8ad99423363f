"""The report: its statistics, and the page that comes out of whole, partial and odd runs."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PILImage

from stllava.config import Recipe
from stllava.errors import RunError
from stllava.files import write_json
from stllava.metrics.interval import clustered_intervals, paired_difference
from stllava.metrics.scores import summarise
from stllava.phantom.draw import draw_phantom
from stllava.phantom.world import sample_phantoms
from stllava.records import (
    Draw,
    Dropped,
    Image,
    Item,
    Preference,
    Question,
    Record,
    Verdict,
)
from stllava.report import write_report
from stllava.report.compare import compare, estimates, gain
from stllava.report.load import dig
from stllava.run import Run

HOSTILE = '<script>alert("x")</script> & {{ 7 * 7 }}'


def items(
    num_groups: int = 40, *, skill: float = 0.6, seed: int = 0, words: int = 7, claims: bool = True
) -> list[Item]:
    """Three questions per group, one open and two closed; a skilful model makes fewer errors."""
    rng = random.Random(seed)
    made = []
    for number in range(3 * num_groups):
        is_open = number % 3 == 0
        right = rng.random() < skill
        names = ("recall", "f1", "precision", "exact") if is_open else ("accuracy",)
        metrics = dict.fromkeys(names, 100.0 * right)
        if claims:
            wrong = float(rng.random() > skill) + float(rng.random() > skill)
            correct = float(right) + float(rng.random() < skill)
            metrics.update(
                claims_correct=correct, claims_wrong=wrong, oracle_score=5 + 2 * correct - 2 * wrong
            )
        item = Item(
            id=f"q{number}",
            image=f"i{number // 3}",
            group=f"g{number // 3}",
            kind="open" if is_open else "closed",
            metrics=metrics,
            answer_words=max(1, round(rng.gauss(words, 2))),
            verdict=None if is_open else rng.choice(("yes", "no")),
        )
        made.append(item)
    return made


def shifted(before: Sequence[Item], **by: float) -> list[Item]:
    """The same items with the named metrics moved."""
    return [
        item.model_copy(
            update={"metrics": {k: v + by.get(k, 0.0) for k, v in item.metrics.items()}}
        )
        for item in before
    ]


def test_intervals_are_those_of_scores_json():
    scores, found = summarise(items(), seed=3), estimates(items(), seed=3)
    assert found["recall"].interval == pytest.approx(scores["open"]["ci95"]["recall"])
    assert found["accuracy"].interval == pytest.approx(scores["closed"]["ci95"]["accuracy"])
    assert found["yes_rate"].value == pytest.approx(scores["closed"]["yes_rate"])
    assert found["answer_words"].value == pytest.approx(scores["answer_words"]["mean"])


def test_a_paired_change_is_that_of_the_metrics_package():
    before, after = items(), items(skill=0.8, seed=1)
    change = compare(before, after, seed=5).changes["recall"]
    expected = paired_difference(before, after, "recall", seed=5)
    assert change.value == pytest.approx(expected.difference)
    assert change.interval == pytest.approx(expected.interval)


def test_share_of_wrong_claims_is_a_ratio_of_sums_not_a_mean_of_ratios():
    nine = {"claims_correct": 9.0, "claims_wrong": 1.0}
    none = {"claims_correct": 0.0, "claims_wrong": 2.0}
    two = [
        Item(id="a", image="a", group="a", kind="open", metrics=nine),
        Item(id="b", image="b", group="b", kind="open", metrics=none),
    ]
    assert estimates(two)["wrong_share"].value == pytest.approx(25.0)


def test_a_share_without_claims_has_no_value():
    silent = shifted(items(2), claims_correct=-99)
    silent = [i.model_copy(update={"metrics": dict.fromkeys(i.metrics, 0.0)}) for i in silent]
    assert "wrong_share" not in estimates(silent)


def test_clustering_widens_the_interval_of_equal_answers_in_a_group():
    rng = random.Random(0)
    answers = [rng.choice((0.0, 100.0)) for _ in range(30)]
    grouped = [
        Item(id=f"{g}/{k}", image="i", group=f"g{g}", kind="open", metrics={"recall": answers[g]})
        for g in range(30)
        for k in range(4)
    ]
    alone = [item.model_copy(update={"group": item.id}) for item in grouped]
    low, high = estimates(grouped)["recall"].interval or (0, 0)
    low_alone, high_alone = estimates(alone)["recall"].interval or (0, 0)
    assert high - low > 1.6 * (high_alone - low_alone)
    by_hand = clustered_intervals(
        [[item.metrics["recall"]] for item in grouped], [item.group for item in grouped]
    )
    assert by_hand is not None
    assert (low, high) == pytest.approx(by_hand[0])


def test_one_group_has_no_interval_and_is_no_gain():
    before = items(1)
    comparison = compare(before, shifted(before, recall=50, accuracy=50))
    assert comparison.changes["recall"].interval is None
    assert not gain(comparison)[0]


def test_missing_answers_are_left_out_on_both_sides():
    before, after = items(), items(skill=0.9, seed=2)
    after[0] = after[0].model_copy(update={"missing": True, "metrics": {}})
    comparison = compare(before, after)
    assert comparison.num_items == len(before) - 1
    assert comparison.num_unpaired == 1


def test_wins_count_ties_and_length_matching_drops_unequal_answers():
    before = items(10)
    after = shifted(before, oracle_score=1)
    after[0] = before[0]
    after[1] = after[1].model_copy(update={"answer_words": before[1].answer_words + 2})
    comparison = compare(before, after)
    assert comparison.wins is not None
    assert (comparison.wins.win, comparison.wins.tie, comparison.wins.lose) == (29, 1, 0)
    assert comparison.wins.rate is not None
    assert comparison.wins.rate.value == 100
    assert comparison.matched is not None
    assert comparison.matched.tie == 29
    assert comparison.matched.rate is None


@pytest.mark.parametrize(
    ("moves", "met"),
    [
        ({}, False),
        ({"recall": 5.0}, True),
        ({"accuracy": 5.0}, True),
        ({"claims_correct": 0.5}, True),
        ({"recall": 5.0, "accuracy": -5.0}, False),
        ({"recall": 5.0, "claims_correct": -0.5}, False),
        ({"recall": -5.0}, False),
    ],
)
def test_the_rule_of_a_gain(moves: dict[str, float], met: bool):
    before = items()
    assert gain(compare(before, shifted(before, **moves)))[0] is met


def test_fewer_wrong_claims_alone_are_a_gain():
    before = items(skill=0.3)
    halved = [{**i.metrics, "claims_wrong": i.metrics["claims_wrong"] / 2} for i in before]
    after = [i.model_copy(update={"metrics": m}) for i, m in zip(before, halved, strict=True)]
    met, why = gain(compare(before, after))
    assert met
    assert "share of wrong claims −" in why


def test_without_claims_the_rule_says_what_was_not_measured():
    before = items(claims=False)
    met, why = gain(compare(before, shifted(before, recall=9)))
    assert met
    assert "Not measured here: correct claims, share of wrong claims" in why


def test_statistics_repeat_with_their_seed():
    before, after = items(), items(seed=9)
    assert compare(before, after, seed=1) == compare(before, after, seed=1)
    assert compare(before, after, seed=1) != compare(before, after, seed=2)


CONTROLS: dict[str, tuple[str, ...]] = {
    "random-judge": ("phantom.judge_accuracy=0.5",),
    "judge-80": ("phantom.judge_accuracy=0.8",),
    "sft-on-chosen": ("dpo.dpo_weight=0", "dpo.nll_weight=1"),
}


def put(path: Path, records: Sequence[Record]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(r.model_dump_json() + "\n" for r in records), encoding="utf-8")


def finish(folder: Path, **counts: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    done = {"dropped": 0, **counts, "seconds": 12.3, "finished": "2026-01-01T00:00:00Z"}
    write_json(folder / "stage.json", done)


def write_metrics(folder: Path, num_steps: int) -> None:
    rng = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(1, num_steps + 1):
            done, noise = step / num_steps, rng.gauss(0, 0.06)
            line = {"step": step, "loss": 3 * (1 - done) + 0.8 + noise}
            if folder.name == "dpo":
                line |= {
                    "loss/dpo": 0.69 - 0.3 * done + noise,
                    "loss/nll": 0.9 - 0.2 * done + noise,
                }
                line |= {"rewards/margins": done + noise, "rewards/accuracies": 0.5 + 0.4 * done}
            else:
                line |= {"loss/answer": line["loss"] - 0.2, "loss/question": line["loss"] + 0.5}
            file.write(json.dumps(line) + "\n")


def write_training(folder: Path, num_steps: int) -> None:
    write_metrics(folder, num_steps)
    fields = ("group", "tensors", "parameters", "learning_rate", "checked", "with_gradient")
    rows = (("lora_llm", 42, 245760, 3e-3, 21, 21), ("projector", 12, 82562, 1e-3, 12, 12))
    groups = [dict(zip(fields, row, strict=True)) for row in rows]
    write_json(folder / "preflight.json", {"groups": groups})
    finish(folder, steps=num_steps, records=16 * num_steps, cut=0, merge_difference=9.5e-7)


def write_stage_two(root: Path, images: Sequence[Image]) -> None:
    """ask, answer, judge and prefer, with a text that tries to break out of the page."""
    rng = random.Random(1)
    asks = ("Is there a pleural effusion?", "Where is the nodule?", "What does the image show?")
    questions, verdicts, preferences = [], [], []
    for image in images:
        for q, text in enumerate(rng.sample(asks, 2)):
            name = f"{image.id}/q{q}"
            questions.append(Question(id=name, image=image.id, question=text, asked_by="sft"))
            good = Draw(request_id=name, index=0, text="Yes, a small effusion on the left.")
            bad = Draw(request_id=name, index=1, text=f"No. {HOSTILE}" if q else "No.")
            high, low = float(rng.randint(5, 10)), float(rng.randint(1, 5))
            state = "tie" if high == low else "ok"
            for order in ((0, 1), (1, 0)):
                verdict = Verdict(
                    id=f"{name}{order}",
                    answers_id=name,
                    pair=(0, 1),
                    order=order,
                    judge="phantom",
                    winner=None if state == "tie" else 0,
                    scores=(high, low),
                    state=state,
                    reply=f"{high:.0f} {low:.0f}\nAnswer 1 makes 2 correct claims, Answer 2 none.",
                )
                verdicts.append(verdict)
            if state == "ok":
                preferences.append(
                    Preference(
                        id=f"{name}/d0>d1",
                        answers_id=name,
                        image=image.id,
                        question=text,
                        chosen=good,
                        rejected=bad,
                        margin=high - low,
                        source="phantom",
                    )
                )
    put(root / "ask/questions.jsonl", questions)
    put(root / "ask/dropped.jsonl", [Dropped(id="x", stage="ask", reason="empty question")] * 3)
    figures = {"distinct": 3, "distinct_2": 21.4, "well_formed": 96.0, "answerable": 81.2}
    n = len(questions)
    finish(root / "ask", images=len(images), questions=n, dropped=3, **figures)
    finish(root / "answer", questions=n, draws=2 * n, cut_off=4)
    put(root / "judge/verdicts.jsonl", verdicts)
    decided = sum(v.state == "ok" for v in verdicts)
    states = {"ok": decided, "tie": len(verdicts) - decided}
    finish(root / "judge", pairs=n, verdicts=2 * n, states=states)
    put(root / "prefer/preferences.jsonl", preferences)
    kept = len(preferences)
    counts = {
        "verdicts": states,
        "judged": {"in": n, "out": n},
        "orders_must_agree": {"in": n, "out": n},
        "min_margin": {"in": n, "out": kept},
        "balance_yes_no": {"in": kept, "out": kept},
        "dropped": {"tie": n - kept},
    }
    write_json(root / "prefer/counts.json", counts)
    put(root / "prefer/dropped.jsonl", [Dropped(id="y", stage="prefer", reason="tie")] * (n - kept))
    finish(root / "prefer", preferences=kept)


def write_evaluation(folder: Path, scored: Sequence[Item]) -> None:
    put(folder / "items.jsonl", scored)
    finish(folder, questions=len(scored), missing=0)


def build_run(root: Path, *, source: str = "phantom") -> Path:
    """A run directory as the pipeline leaves it, small, with made-up figures."""
    sections: dict[str, Any] = {
        "data": {"source": source},
        "eval": {"benchmark": source},
        "controls": CONTROLS if source == "phantom" else {},
    }
    recipe = Recipe.model_validate({"name": "demo", **sections})
    with Run(root) as run:
        run.start(recipe.dump())
    folder = root / "prepare/images"
    folder.mkdir(parents=True)
    images = []
    for phantom in sample_phantoms(16, seed=0, prefix="pool-"):
        picture = PILImage.fromarray(draw_phantom(phantom))
        picture.save(folder / f"{phantom.id}.png")
        images.append(
            Image(
                id=phantom.id,
                path=f"{phantom.id}.png",
                sha256="0" * 64,
                width=96,
                height=96,
                group=phantom.patient,
                source=source,
            )
        )
    put(root / "prepare/images.jsonl", images)
    settings = {"image_roots": {"data": "prepare/images"}}
    write_json(root / "prepare/plan.json", {"settings": settings})
    finish(root / "prepare", images=len(images), conversations=8, turns=30, samples=120)
    write_training(root / "sft", 75)
    write_stage_two(root, images)
    write_training(root / "dpo", 120)
    claims = source == "phantom"
    place = "phantom-test/image" if claims else f"{source}/image"
    for number, (model, skill) in enumerate((("base", 0.1), ("sft", 0.6), ("dpo", 0.75))):
        scored = items(120, skill=skill, seed=number, words=5 + 2 * number, claims=claims)
        write_evaluation(root / "eval" / model / place, scored)
    for number, name in enumerate(recipe.controls):
        scored = items(120, skill=0.55 + 0.07 * number, seed=7 + number, claims=claims)
        write_evaluation(root / f"controls/{name}/eval/dpo" / place, scored)
        finish(root / f"controls/{name}/prefer", preferences=20)
        finish(root / f"controls/{name}/dpo", steps=60)
    closed = {"n": 240, "yes": 50.0, "no": 50.0, "yes_there_is_no": 50.0, "majority": 56.3}
    best = {"answer": "no", "accuracy": 50.0}
    usual = {"majority": {"recall": 21.0, "f1": 18.0, "exact": 9.0}}
    blind = {"closed": {**closed, "best_constant": best}, "open": {"n": 120, **usual}}
    write_json(root / "eval/blind.json", blind)
    return root


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = build_run(tmp_path_factory.mktemp("report") / "run")
    write_report(root)
    return root


def page_of(run: Path) -> str:
    return (run / "report.html").read_text(encoding="utf-8")


def test_a_whole_run_shows_every_section(whole_run: Path):
    page = page_of(whole_run)
    assert "not run yet" not in page
    for text in ("random-judge", "always “yes”", "share of wrong claims", "pleural effusion"):
        assert text in page
    assert "untouched test set of drawn pictures" in page
    assert "counts as a gain" in page
    assert "nothing here is medical advice" in page


def test_the_page_needs_nothing_but_itself(whole_run: Path):
    page = page_of(whole_run)
    assert not re.search(r"(?:src|href|srcset)=\"(?!data:|#)", page)
    assert "http" not in re.sub(r"data:[^\"]+", "", page)
    assert page.count("data:image/png") > 14


def test_figures_are_files_too(whole_run: Path):
    names = {file.stem for file in (whole_run / "figures").glob("*.png")}
    assert {"sft-loss", "dpo-margins", "metric-recall", "judge-states", "answer-length"} <= names
    with PILImage.open(whole_run / "figures/sft-loss.png") as picture:
        assert picture.width > 400


def test_model_text_is_escaped(whole_run: Path):
    page = page_of(whole_run)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "{{ 7 * 7 }}" in page


def test_a_real_benchmark_without_claims_or_controls(tmp_path: Path):
    page = page_of(write_report(build_run(tmp_path / "run", source="vqa-rad")).parent)
    assert "test questions of vqa-rad" in page
    assert "Win rate" not in page


@pytest.mark.parametrize(
    "kept", ["recipe.yaml", "prepare", "sft", "ask", "judge", "prefer", "eval"]
)
def test_a_partial_run_says_what_is_missing(kept: str, whole_run: Path, tmp_path: Path):
    (tmp_path / kept).symlink_to(whole_run / kept)
    page = page_of(write_report(tmp_path).parent)
    assert "not run yet" in page


def test_an_evaluation_that_is_not_complete_is_not_shown(whole_run: Path, tmp_path: Path):
    shutil.copytree(whole_run / "eval", tmp_path / "eval")
    (tmp_path / "eval/dpo/phantom-test/image/stage.json").unlink()
    page = page_of(write_report(tmp_path).parent)
    assert "dpo not evaluated" in page


def test_odd_data_never_stop_the_page(tmp_path: Path):
    run = build_run(tmp_path / "run")
    (run / "recipe.yaml").write_text("name: [1\n")
    (run / "environment.json").write_text('{"versions": ["x"]}')
    (run / "prefer/counts.json").write_text('{"judged": {"in": "many", "out": null}}')
    (run / "sft/preflight.json").write_text('{"groups": [{"group": "lora"}, 3]}')
    (run / "dpo/metrics.jsonl").write_text('{"step": 1, "loss": NaN}\n[]\n{"step": "x"}\n{"st')
    (run / "eval/blind.json").write_text('{"closed": 3}')
    (run / "controls/$x_y").mkdir()
    next((run / "prepare/images").glob("*.png")).write_bytes(b"no picture")
    with (run / "judge/verdicts.jsonl").open("a") as file:
        file.write('{"id": "torn')
    page = page_of(write_report(run).parent)
    for name in ("judge/verdicts.jsonl", "recipe.yaml", "dpo/metrics.jsonl"):
        assert f"<code>{name}</code>" in page


def test_a_figure_whose_data_are_gone_is_removed(tmp_path: Path):
    (tmp_path / "sft").mkdir()
    stale = tmp_path / "figures/sft-loss.png"
    stale.parent.mkdir()
    stale.write_bytes(b"old")
    write_report(tmp_path)
    assert not stale.exists()


def test_an_empty_folder_is_one_line(tmp_path: Path):
    with pytest.raises(RunError, match="neither recipe"):
        write_report(tmp_path)
    with pytest.raises(RunError, match="no such run directory"):
        write_report(tmp_path / "absent")


def test_dig_survives_any_shape():
    assert dig({"a": 3}, "a", "b") is None
    assert dig(None, "a") is None
