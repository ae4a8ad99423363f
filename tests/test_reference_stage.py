"""Which reference the dpo stage settles on, what it says about it and what it keeps on disk."""

import json
from dataclasses import replace

import pytest
import stages
import toy
from notes import Notes
from stages import sampled_preferences, with_chosen

from stllava.config import Recipe
from stllava.errors import PolicyError
from stllava.files import read_records
from stllava.pipeline.job import Job
from stllava.pipeline.reference import CHECKED, FILE, fix_reference
from stllava.records import Image
from stllava.run import Run
from stllava.training import dpo, reference
from stllava.training.dpo import DpoObjective
from stllava.training.reference import ReferenceLogProbs

PAIRS = sampled_preferences()
IDS = [pair.id for pair in PAIRS]
IMAGES = {pair.image: f"sha of {pair.image}" for pair in PAIRS}


def objective_of(pairs=PAIRS, **fields):
    settings = stages.dpo_settings(**fields)
    return DpoObjective(toy.adapted(settings), pairs, toy.open_image, settings)


@pytest.fixture
def dpo_stage(tmp_path):
    """(job, stage) of a run whose answers come from the checkpoint that stage 2 starts from."""
    checkpoint = tmp_path / "sft" / "checkpoint"
    checkpoint.mkdir(parents=True)
    (checkpoint / "weights").write_text("weights")
    recipe = Recipe.model_validate({"dpo": {**toy.TRAINING}, "model": {"precision": "fp32"}})
    with Run(tmp_path) as run:
        job = Job(run, recipe, Notes())
        prepared = job.stage("prepare")
        prepared.begin(inputs=[], settings={})
        for name, digest in IMAGES.items():
            fields = {"width": 32, "height": 32, "group": name, "source": "toy"}
            prepared.append("images.jsonl", Image(id=name, path=name, sha256=digest, **fields))
        prepared.finish()
        job.stage("answer").begin(inputs=[checkpoint], settings={})
        stage = job.stage("dpo")
        stage.begin(inputs=[checkpoint], settings={}, by_id=True)
        yield job, stage


def fix(dpo_stage, objective):
    """Run fix_reference. Returns what was noted; the file then holds what the objective has."""
    job, stage = dpo_stage
    section = job.recipe.dpo.model_copy(update={"reference": objective.settings.reference})
    job = replace(job, recipe=job.recipe.model_copy(update={"dpo": section}))
    job.reporter.lines.clear()
    fix_reference(job, stage, objective, toy.scorer_of(objective.policy))
    if objective.reference:
        kept = {r.id: r for r in read_records(stage.path / FILE, ReferenceLogProbs)}
        assert kept == objective.reference
        assert [*kept] == IDS
    return job.reporter.lines


def sums(pairs):
    return [(sum(pair.chosen.logprobs), sum(pair.rejected.logprobs)) for pair in pairs]


def held(objective):
    return [(known.chosen, known.rejected) for known in objective.reference.values()]


@pytest.mark.parametrize("wanted", ["auto", "recorded"])
def test_what_was_recorded_is_used_if_it_agrees_with_the_policy(wanted, dpo_stage):
    objective = objective_of(reference=wanted)
    (note,) = fix(dpo_stage, objective)
    assert note.startswith("reference recorded while sampling; step 0: ")
    assert held(objective) == sums(PAIRS)


@pytest.mark.parametrize("wanted", ["computed", "online"])
def test_the_recipe_can_ask_for_another_reference(wanted, dpo_stage):
    objective = objective_of(reference=wanted)
    (note,) = fix(dpo_stage, objective)
    assert note.startswith(f"reference {wanted}")
    assert bool(objective.reference) == (wanted == "computed")


WRONG = with_chosen(PAIRS, logprobs=tuple(x + 0.1 for x in PAIRS[2].chosen.logprobs))


def test_wrong_recorded_values_are_replaced_by_computed_ones_and_that_is_said(dpo_stage):
    objective = objective_of(WRONG)
    fallback, check = fix(dpo_stage, objective)
    assert "recorded while sampling is not used" in fallback
    assert "computed anew" in fallback
    assert check.startswith("reference computed in one pass")
    right = [pytest.approx(pair, abs=1e-3) for pair in sums(PAIRS)]
    assert held(objective) == right


def test_wrong_recorded_values_are_an_error_if_the_recipe_insists(dpo_stage):
    with pytest.raises(PolicyError, match="at step 0"):
        fix(dpo_stage, objective_of(WRONG, reference="recorded"))


def test_missing_recorded_values_are_computed_or_an_error_if_the_recipe_insists(dpo_stage):
    missing = with_chosen(PAIRS, logprobs=None)
    (note,) = fix(dpo_stage, objective_of(missing))
    assert note.startswith("reference computed in one pass")
    with pytest.raises(PolicyError, match="not every answer carries log-probabilities"):
        fix(dpo_stage, objective_of(missing, reference="recorded"))


def test_answers_of_another_checkpoint_have_no_recorded_reference(dpo_stage):
    job, _ = dpo_stage
    plan = job.stage("answer").path / "plan.json"
    plan.write_text(json.dumps({"inputs": {"sft/checkpoint": "another"}}))
    (note,) = fix(dpo_stage, objective_of())
    assert note.startswith("reference computed in one pass")


@pytest.mark.parametrize("name", ["base-mlp", "models--owner--name"])
def test_without_stage_one_the_base_is_the_checkpoint_whatever_its_folder_is_called(
    name, dpo_stage
):
    job, stage = dpo_stage
    for made in (job.stage("answer"), stage):
        inputs = {"prefer/preferences.jsonl": "pairs", f"assets/{name}": "weights"}
        (made.path / "plan.json").write_text(json.dumps({"inputs": inputs}))
    (note,) = fix(dpo_stage, objective_of())
    assert note.startswith("reference recorded while sampling; step 0: ")


def test_a_killed_pass_goes_on_and_forgets_what_is_out_of_date(dpo_stage, monkeypatch):
    monkeypatch.setattr(reference, "WINDOW", 2)
    job, stage = dpo_stage
    whole = objective_of(reference="computed")
    fix(dpo_stage, whole)
    records = [whole.reference[record_id] for record_id in IDS]
    records[3] = records[3].model_copy(update={"key": "of other data", "chosen": -999.0})
    text = "".join(record.model_dump_json() + "\n" for record in records[:4])
    (stage.path / FILE).write_text(text)
    stage.close()
    asked = []
    monkeypatch.setattr(job.reporter, "advance", lambda done, total, **_: asked.append(done))
    again = objective_of(reference="computed")
    fix(dpo_stage, again)
    assert again.reference == whole.reference
    assert asked == [3, 4, 5, 6]


def test_step_0_looks_at_pairs_from_all_over_the_data(dpo_stage, monkeypatch):
    looked_at = []

    def check(objective, scorer, micros, *, bf16):
        looked_at.extend(record_id for micro in micros for record_id in micro.ids)
        return 0.0, 0.0

    monkeypatch.setattr(dpo, "check_first_step", check)
    objective = objective_of(toy.preferences(63), reference="online")
    fix(dpo_stage, objective)
    places = sorted(map(sorted(objective.ids, key=objective.image_of).index, looked_at))
    assert len(places) <= CHECKED
    assert places[0] == 0
    assert places[-1] > 60
