"""Measure what the demo shows, over several seeds, and write docs/demo-results.md from it.

    python scripts/demo_results.py --runs runs/results --seeds 0 1 2

For every seed: the whole demo with its controls on the untouched test set, and the ablations of
stage 1. Runs are resumable and may be made in several processes (`--only seed`); the page is
written from whatever is complete.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, stdev

from stllava.files import read_json, read_records
from stllava.records import Item
from stllava.report.compare import Estimate, Wins, compare, estimates, gain
from stllava.report.measures import BY_KEY, show, show_interval

# name -> overrides; only stage 1 and its questions are run for these
ABLATIONS = {
    "no self-questioning": ["sft.question_ratio=0", "sft.learn_first_question=false"],
    "no ViT-LoRA": ["sft.lora.vit_rank=0"],
    "no prototype extractor": ["model.path=base-mlp"],
}
KEYS = ("recall", "f1", "accuracy", "claims_correct", "claims_wrong", "wrong_share", "yes_rate",
        "answer_words")  # fmt: skip
PLACE = "eval/{model}/phantom-test/image"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/results"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--page", type=Path, default=Path("docs/demo-results.md"))
    parser.add_argument("--page-only", action="store_true", help="run nothing")
    args = parser.parse_args()
    if not args.page_only:
        for seed in args.seeds:
            run_seed(args.runs, seed, args.overrides)
    args.page.write_text("\n".join(page(args.runs, args.seeds)) + "\n", encoding="utf-8")
    print(args.page)


def run_seed(runs: Path, seed: int, overrides: list[str]) -> None:
    """The demo and its ablations for one seed, each a process of its own."""
    stllava("run", runs / f"seed-{seed}", [f"seed={seed}", *overrides])
    for name, changes in ABLATIONS.items():
        run = runs / f"seed-{seed}-{slug(name)}"
        if not run.exists():  # the same pictures; drawing them again would give the same bytes
            shutil.copytree(runs / f"seed-{seed}" / "prepare", run / "prepare")
        settings = [f"seed={seed}", "eval.models=[sft]", *overrides, *changes]
        for verb in ("sft", "ask", "eval"):
            stllava(verb, run, settings)


def stllava(verb: str, run: Path, overrides: list[str]) -> None:
    sets = [part for setting in overrides for part in ("--set", setting)]
    command = [sys.executable, "-m", "stllava", verb, "demo", "--run", str(run), *sets]
    subprocess.run(command, check=True)


def slug(name: str) -> str:
    return name.replace(" ", "-").lower()


def items(run: Path, model: str, control: str | None = None) -> list[Item] | None:
    """The scored answers of one model; None if that evaluation is not complete."""
    place = (run / "controls" / control if control else run) / PLACE.format(model=model)
    if not (place / "stage.json").is_file():
        return None
    return list(read_records(place / "items.jsonl", Item))


def page(runs: Path, seeds: list[int]) -> Iterator[str]:
    done = [seed for seed in seeds if items(runs / f"seed-{seed}", "dpo")]
    yield "# What the demo shows, measured"
    yield ""
    yield from how(runs, done)
    for seed in done:
        yield from seed_tables(runs / f"seed-{seed}", seed)
    yield from over_seeds(runs, done)
    yield from judge_adds(runs, done)
    yield from questions(runs, done)
    yield from LIMITS


LIMITS = """## What this does not show

- Anything about real images or a model of useful size: the pictures are drawn, the grammar is
  small, the judge knows the truth.
- That the knowing judge causes the whole gain: read each change beside the random judge and the
  anchor alone.
- The paper's settings: its learning rates, ranks and temperatures are for a 7B model.
""".splitlines()


def how(runs: Path, seeds: list[int]) -> Iterator[str]:
    if not seeds:
        yield "Not yet measured; `make results` measures it."
        return
    environment = read_json(runs / f"seed-{seeds[0]}" / "environment.json")
    versions = ", ".join(f"{k} {v}" for k, v in environment["versions"].items() if v)
    yield (
        f"Made by `scripts/demo_results.py` from runs of {environment['started'][:10]}: recipe "
        f"`demo`, seeds {', '.join(map(str, seeds))}; {environment['cpu_count']} CPU cores, "
        f"Python {platform.python_version()}, {versions}."
    )
    yield ""
    yield (
        "All figures are from the untouched test set; recipe values were chosen on the "
        "development set. Brackets are 95 % intervals, bootstrapped over synthetic patients: "
        "they hold test sampling, not the luck of training, which the spread over seeds shows. "
        "Correct and wrong claims are counted from ground truth, not from the judge's score."
    )
    yield ""


def seed_tables(run: Path, seed: int) -> Iterator[str]:
    rows = {model: items(run, model) for model in ("base", "sft", "dpo")}
    controls = sorted(p.name for p in (run / "controls").glob("*"))
    rows |= {f"control: {name}": items(run, "dpo", name) for name in controls}
    rows = {name: found for name, found in rows.items() if found}
    blind = read_json(run / "eval/blind.json")
    constant = blind["closed"]["best_constant"]
    yield f"## Seed {seed}"
    yield ""
    yield "| | " + " | ".join(BY_KEY[key].label for key in KEYS) + " |"
    yield "|---" * (len(KEYS) + 1) + "|"
    for name, found in rows.items():
        yield (
            f"| {name} | " + " | ".join(cell(estimates(found).get(key), key) for key in KEYS) + " |"
        )
    yield (
        f"\nBlind: the best constant answer ({constant['answer']!r}) has "
        f"{constant['accuracy']:.1f} % closed accuracy; the most frequent training answer to "
        f"questions that open alike {blind['closed']['majority']:.1f} %, and "
        f"{blind['open']['majority']['recall']:.1f} % recall.\n"
    )
    before = rows["sft"]
    yield (
        "| change against sft | "
        + " | ".join(BY_KEY[key].label for key in KEYS)
        + (" | win : tie : lose | length-matched win : lose | counts as a gain |")
    )
    yield "|---" * (len(KEYS) + 4) + "|"
    for name, found in rows.items():
        if name in ("base", "sft"):
            continue
        change = compare(before, found)
        cells = [cell(change.changes.get(key), key, sign=True) for key in KEYS]
        verdict = "yes" if gain(change)[0] else "no"
        yield (
            f"| {name} | "
            + " | ".join([*cells, wins(change.wins), matched(change.matched), verdict])
            + " |"
        )
    yield ""


def cell(estimate: Estimate | None, key: str, *, sign: bool = False) -> str:
    if estimate is None:
        return "–"
    return f"{show(key, estimate.value, sign=sign)} {show_interval(key, estimate.interval)}".strip()


def wins(found: Wins | None) -> str:
    return "–" if found is None else f"{found.win} : {found.tie} : {found.lose}{rate(found)}"


def matched(found: Wins | None) -> str:
    return "–" if found is None else f"{found.win} : {found.lose}{rate(found)}"


def rate(found: Wins) -> str:
    if found.rate is None or found.rate.interval is None:
        return ""
    low, high = found.rate.interval
    return f" ({found.rate.value:.0f} % [{low:.0f}, {high:.0f}])"


def over_seeds(runs: Path, seeds: list[int]) -> Iterator[str]:
    """Mean and standard deviation over seeds of each change against sft."""
    if len(seeds) < 2:
        return
    controls = sorted(p.name for p in (runs / f"seed-{seeds[0]}" / "controls").glob("*"))
    names: list[str | None] = [None, *controls]
    yield "## Over seeds: change against sft, mean ± standard deviation"
    yield ""
    yield "| | " + " | ".join(BY_KEY[key].label for key in KEYS) + " | gains |"
    yield "|---" * (len(KEYS) + 2) + "|"
    for control in names:
        changes = []
        for seed in seeds:
            run = runs / f"seed-{seed}"
            before, after = items(run, "sft"), items(run, "dpo", control)
            if before and after:
                changes.append(compare(before, after))
        cells = []
        for key in KEYS:
            values = [c.changes[key].value for c in changes]
            cells.append(f"{show(key, fmean(values), sign=True)} ± {show(key, stdev(values))}")
        gains = sum(gain(c)[0] for c in changes)
        label = f"control: {control}" if control else "dpo"
        yield f"| {label} | " + " | ".join(cells) + f" | {gains} of {len(changes)} |"
    yield ""


def judge_adds(runs: Path, seeds: list[int]) -> Iterator[str]:
    """Stage 2 with the knowing judge minus each control: what the judge, and DPO, really add."""
    yield "## What the judge and the DPO term add: dpo minus each control"
    yield ""
    yield (
        "| seed | dpo minus | "
        + " | ".join(BY_KEY[key].label for key in KEYS)
        + (" | length-matched win : lose |")
    )
    yield "|---" * (len(KEYS) + 3) + "|"
    for seed in seeds:
        run = runs / f"seed-{seed}"
        after = items(run, "dpo")
        for control in sorted(p.name for p in (run / "controls").glob("*")):
            before = items(run, "dpo", control)
            if before and after:
                change = compare(before, after)
                cells = [cell(change.changes.get(key), key, sign=True) for key in KEYS]
                yield (
                    f"| {seed} | {control} | "
                    + " | ".join([*cells, matched(change.matched)])
                    + " |"
                )
    yield ""


def questions(runs: Path, seeds: list[int]) -> Iterator[str]:
    """Stage 1 with and without its parts: answers on the test set, and questions it asks."""
    if not seeds:
        return
    yield "## Stage 1 and its ablations: test scores, and the questions that the policy asks"
    yield ""
    recipe = "asked at the temperature of the recipe"
    yield f"Questions are {recipe}; well-formed: in the grammar; answerable: on that picture."
    yield ""
    yield (
        "| seed | stage 1 | recall | closed accuracy | well-formed | answerable | questions kept "
        "| distinct | distinct-2 |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for seed in seeds:
        for name in ("full", *ABLATIONS):
            run = runs / (f"seed-{seed}" if name == "full" else f"seed-{seed}-{slug(name)}")
            found = items(run, "sft")
            if not found or not (run / "ask/stage.json").is_file():
                continue
            scores = estimates(found)
            asked = json.loads((run / "ask/stage.json").read_text())
            yield (
                f"| {seed} | {name} | {cell(scores['recall'], 'recall')} | "
                f"{cell(scores['accuracy'], 'accuracy')} | {asked.get('well_formed', 0)} % | "
                f"{asked.get('answerable', 0)} % | {asked['questions']} | "
                f"{asked.get('distinct', 0)} | {asked.get('distinct_2', 0)} % |"
            )
    yield ""


if __name__ == "__main__":
    main()
