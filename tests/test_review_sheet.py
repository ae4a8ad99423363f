"""Pairs out to an expert and votes back in: through a spreadsheet's hands and into preferences."""

import csv
import io
import json
from dataclasses import replace

import pytest
from PIL import Image as PILImage
from typer.testing import CliRunner

from stllava.cli import app
from stllava.config import PreferSection
from stllava.errors import DataError, RunError
from stllava.files import read_records
from stllava.judging.experts.sheet import BOM, COLUMNS, escaped, shown_pairs, unescaped
from stllava.judging.experts.votes import with_votes
from stllava.judging.prefer import prefer as make_preferences
from stllava.pipeline import review
from stllava.pipeline.job import Job
from stllava.pipeline.judging.stage import judge
from stllava.pipeline.preferred import prefer
from stllava.recipe import load_recipe
from stllava.records import Answers, Draw, Image, Preference, Split, Verdict
from stllava.run import Run

QUESTION = 'Where is the mass; and is it "large"?\nSay both, please.'
FORMULA = '=HYPERLINK("http://evil.example.org")'
TEXTS = [("It is left.", "It is right."), (FORMULA, "3"), ("Ünklar µm ≥ 5", "No, there is none.")]


def item(number, texts):
    name = f"img{number}/q0"
    draws = tuple(Draw(request_id=name, index=i, text=text) for i, text in enumerate(texts))
    return Answers(id=name, image=f"img{number}", question=QUESTION, draws=draws)


@pytest.fixture
def run(tmp_path):
    """A run whose answers wait for an expert, its lock free again."""
    path, pictures = tmp_path / "run", tmp_path / "pictures"
    pictures.mkdir()
    sets = ["judge.kind=expert", "model.path=x", "prefer.balance_length=false"]
    recipe = load_recipe("improved", sets)
    with Run(path) as opened:
        opened.start(recipe.dump())
        stage = opened.stage("prepare")
        stage.begin(inputs=[], settings={"image_roots": {"data": str(pictures)}})
        for n in range(len(TEXTS)):
            PILImage.new("L", (9, 7), 40 * n).save(pictures / f"{n}.png")
            fields = {"sha256": "0", "width": 9, "height": 7, "group": "g", "source": "toy"}
            stage.append("images.jsonl", Image(id=f"img{n}", path=f"{n}.png", **fields))
            stage.append("splits.jsonl", Split(image=f"img{n}", group="g", split="train"))
        stage.finish()
        stage = opened.stage("answer")
        stage.begin(inputs=[], settings={})
        for n, texts in enumerate(TEXTS):
            stage.append("answers.jsonl", item(n, texts))
        stage.finish()
        judge(Job(opened, recipe))
    return path


def job_of(run):
    return Job(Run(run), load_recipe(str(run / "recipe.yaml")))


def exported(run):
    """The sheet as rows of cells by column name."""
    review.export_sheet(job_of(run))
    return read_sheet(run / "review/sheet.csv")


def read_sheet(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith(BOM)
    return list(csv.DictReader(io.StringIO(text.removeprefix(BOM), newline="")))


def saved(
    path, rows, *, delimiter=",", encoding="utf-8-sig", columns=COLUMNS, line="\r\n", **style
):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(
        text, columns, delimiter=delimiter, lineterminator=line, extrasaction="ignore", **style
    )
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(text.getvalue().encode(encoding))
    return path


def shown_of(run):
    return {row.id: row for row in read_records(run / "review/pairs.jsonl", review.Shown)}


def letter_of(run, row, text):
    """Under which letter a text stands."""
    return "AB"[shown_of(run)[row["id"]].texts.index(text)]


def votes_of(run):
    return list(read_records(run / "review/verdicts.jsonl", Verdict))


def import_(run, sheet, expert="Dr. Ada"):
    return review.import_sheet(job_of(run), sheet, expert, clock=lambda: "now")


# --- out


def test_the_sheet_names_no_model_no_judge_and_no_image(run):
    rows = exported(run)
    text = (run / "review/sheet.csv").read_text(encoding="utf-8")
    assert len(rows) == 3
    assert list(rows[0]) == list(COLUMNS)
    assert not [word for word in ("img", "q0", "sft", "gpt", "draw") if word in text]
    for row in rows:
        with PILImage.open(run / "review" / row["image"]) as picture:
            assert (picture.size, picture.mode, picture.info) == ((9, 7), "RGB", {})
        assert (row["choice"], row["note"], row["edited answer"]) == ("", "", "")


def test_a_formula_in_an_answer_is_text_to_a_spreadsheet_and_comes_back_unchanged(run):
    rows = exported(run)
    cells = [cell for row in rows for cell in row.values()]
    assert not [cell for cell in cells if cell[:1] in ("=", "+", "-", "@", "\t", "\r")]
    for row in rows:
        row["choice"] = "A"
    assert import_(run, saved(run / "back.csv", rows)).new == 3


@pytest.mark.parametrize(
    "text",
    ["=1", "+a", "-5 mm", "@x", "\t=1", " =1", "＝1", "3/4", "1-2", "007", "5.0", "Mar 4", "TRUE",
     "'=1", "''+", "(3)", "1e5"],
)  # fmt: skip
def test_what_a_spreadsheet_would_compute_is_escaped_and_read_back(text):
    assert escaped(text).startswith("'")
    assert unescaped(escaped(text)) == text


@pytest.mark.parametrize("text", ["It's left.", "'quoted' word", "left - right", "", "a=b", "May"])
def test_ordinary_text_is_left_alone(text):
    assert escaped(text) == text == unescaped(text)


def test_position_carries_no_information_and_depends_on_the_seed_alone():
    items = [(item(n, ("left", f"right {n}")), (0, 1)) for n in range(2000)]
    first = [row.order[0] for row in shown_pairs(items, seed=1)]
    assert 900 < sum(first) < 1100
    assert first == [row.order[0] for row in shown_pairs([(a, (1, 0)) for a, _ in items], seed=1)]
    other = [row.order[0] for row in shown_pairs(items, seed=2)]
    assert 900 < sum(a != b for a, b in zip(first, other, strict=True)) < 1100


def test_cut_and_identical_answers_are_not_shown():
    cut = item(0, ("left", "right"))
    draws = (cut.draws[0], cut.draws[1].model_copy(update={"finish": "length"}))
    same = item(1, ("Left.", "left"))
    pairs = [(cut.model_copy(update={"draws": draws}), (0, 1)), (same, (0, 1))]
    assert list(shown_pairs(pairs, seed=0)) == []


def test_a_sheet_with_choices_in_it_is_not_overwritten(run):
    rows = exported(run)
    review.export_sheet(job_of(run))  # empty: fine
    rows[0]["choice"] = "A"
    saved(run / "review/sheet.csv", rows)
    with pytest.raises(RunError, match="has choices in it; import it, or write to another"):
        review.export_sheet(job_of(run))


# --- back in


@pytest.mark.parametrize(
    ("written", "state"),
    [("A", "ok"), (" b ", "ok"), ("Tie", "tie"), ("both bad", "both_bad"),
     ("Both-Bad.", "both_bad"), ("cannot judge", "cannot_judge"), ("can't judge", "cannot_judge")],
)  # fmt: skip
def test_choices_are_read_as_people_write_them(run, written, state):
    rows = exported(run)
    rows[0]["choice"] = written
    assert import_(run, saved(run / "back.csv", rows)).states == {state: 1}


@pytest.mark.parametrize(
    "how",
    [
        {"delimiter": ";"},
        {"delimiter": "\t", "encoding": "utf-16"},
        {"encoding": "utf-8", "line": "\n", "quoting": csv.QUOTE_ALL},
        {"columns": (*reversed(COLUMNS), "done by")},
    ],
    ids=["semicolons", "utf-16", "quotes", "columns"],
)
def test_a_resaved_sheet_is_read(run, how):
    rows = exported(run)
    for row in rows:
        row["choice"] = letter_of(run, row, TEXTS[int(rows.index(row))][0])
        row["question"] = row["question"].replace("\n", "\r\n")
    done = import_(run, saved(run / "back.csv", rows, **how))
    assert (done.new, done.states) == (3, {"ok": 3})
    assert [vote.winner for vote in votes_of(run)] == [0, 0, 0]
    assert {vote.judge for vote in votes_of(run)} == {"expert:Dr. Ada"}


def test_excels_plain_csv_in_its_local_code_page_is_read(run):
    rows = [row for row in exported(run) if "≥" not in row["answer A"] + row["answer B"]]
    rows[0] |= {"choice": "A", "note": "Größe unklar"}
    text = saved(run / "back.csv", rows, encoding="cp1252", delimiter=";")
    text.write_bytes(b"sep=;\r\n" + text.read_bytes())
    import_(run, text)
    assert [vote.reply for vote in votes_of(run)] == ["Größe unklar"]


def test_cells_that_miss_at_the_end_of_a_row_are_empty(run):
    exported(run)
    lines = (run / "review/sheet.csv").read_bytes().replace(b",,,\r\n", b",A\r\n")
    (run / "back.csv").write_bytes(lines)
    assert import_(run, run / "back.csv").new == 3


def test_a_partly_filled_sheet_takes_what_is_there_and_the_rest_later(run):
    rows = exported(run)
    rows[1]["choice"] = "tie"
    sheet = saved(run / "back.csv", rows)
    assert import_(run, sheet)[:3] == (1, 0, 0)
    before = (run / "review/verdicts.jsonl").read_bytes()
    assert import_(run, sheet)[:3] == (0, 0, 1)
    assert (run / "review/verdicts.jsonl").read_bytes() == before
    rows[0]["choice"], rows[1]["choice"] = "A", "B"
    assert import_(run, saved(sheet, rows))[:3] == (1, 1, 0)
    assert (run / "review/verdicts.jsonl").read_bytes().startswith(before)  # nothing is lost
    assert import_(run, sheet, "Dr. Bob")[:3] == (2, 0, 0)


def changed(rows, number, column, text):
    rows[number][column] = text
    return rows


@pytest.mark.parametrize(
    ("number", "column", "text", "says"),
    [
        (1, "id", "pair-unknown", "row 3: unknown id 'pair-unknown'"),
        (0, "question", "Where is it?", "row 2: the text under 'question' was changed; undo it"),
        (2, "answer A", "Better.", "row 4: .* 'answer A' was changed; a better answer goes into"),
        (1, "choice", "C", "row 3: choice 'C' is none of A, B, tie, both_bad, cannot_judge"),
        (1, "edited answer", "No mass.", "row 3: an edited answer needs a choice"),
    ],
)
def test_what_does_not_belong_is_one_line_with_its_row_and_nothing_is_taken(
    run, number, column, text, says
):
    rows = exported(run)
    rows[0]["choice"] = "A"
    with pytest.raises(DataError, match=says) as error:
        import_(run, saved(run / "back.csv", changed(rows, number, column, text)))
    assert "\n" not in str(error.value)
    assert not (run / "review/verdicts.jsonl").exists()


def test_a_row_twice_with_two_choices_is_refused(run):
    rows = exported(run)
    rows[0]["choice"] = "A"
    twice = [rows[0], {**rows[0], "choice": "B"}]
    with pytest.raises(DataError, match=r"row 3: pair-.* again, with another choice"):
        import_(run, saved(run / "back.csv", twice))
    done = import_(run, saved(run / "back.csv", [rows[0], rows[0]]))
    assert (done.new, done.repeated) == (1, 0)


def test_of_a_row_twice_with_two_notes_the_later_note_counts_and_that_is_said(run):
    rows = exported(run)
    rows[0] |= {"choice": "A", "note": "sharp"}
    sheet = saved(run / "back.csv", [rows[0], {**rows[0], "note": "blurred"}])
    done = CliRunner().invoke(app, ["review", "import", str(run), str(sheet), "--expert", "Ada"])
    assert "1 rows again with another note: the later note counts" in done.stdout
    assert [vote.reply for vote in votes_of(run)] == ["blurred"]


def test_a_sheet_without_a_needed_column_or_of_bytes_is_refused(run):
    rows = exported(run)
    sheet = saved(run / "back.csv", rows, columns=("id", "question", "answer A", "answer B"))
    with pytest.raises(DataError, match="column 'choice' is missing; it needs id, question"):
        import_(run, sheet)
    sheet.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not text; save the sheet as CSV UTF-8"):
        import_(run, sheet)
    with pytest.raises(DataError, match="--expert 'a/b': use letters"):
        import_(run, saved(sheet, rows), "a/b")


# --- into preferences


def preferences_of(run):
    return list(read_records(run / "prefer/preferences.jsonl", Preference))


def test_an_expert_alone_is_waited_for_and_then_decides(run):
    with pytest.raises(RunError, match="the expert has not voted yet: `stllava review export"):
        prefer(job_of(run))
    assert not (run / "prefer").exists()
    rows = exported(run)
    rows[0]["choice"] = letter_of(run, rows[0], "It is right.")
    rows[1]["choice"] = "cannot_judge"
    rows[2] |= {"choice": "both_bad", "edited answer": "It is in the left lobe."}
    import_(run, saved(run / "back.csv", rows))
    prefer(job_of(run))
    made = preferences_of(run)
    assert [(p.chosen.text, p.edited, p.source) for p in made] == [
        ("It is right.", False, "expert:Dr. Ada"),
        ("It is in the left lobe.", True, "expert:Dr. Ada"),
    ]
    assert made[0].rejected.text == "It is left."
    assert made[1].rejected.text in TEXTS[2]
    dropped = (run / "prefer/dropped.jsonl").read_text()
    assert "verdict cannot_judge" in dropped


def test_new_votes_make_the_preferences_stale(run):
    rows = exported(run)
    rows[0]["choice"] = "A"
    import_(run, saved(run / "back.csv", rows))
    prefer(job_of(run))
    prefer(job_of(run))  # unchanged: nothing to do
    rows[1]["choice"] = "B"
    import_(run, saved(run / "back.csv", rows))
    with pytest.raises(RunError, match=r"made from other inputs \(review/verdicts.jsonl.*--redo"):
        prefer(job_of(run))


def test_a_control_with_a_judge_of_its_own_uses_no_votes_and_one_that_shares_the_judge_does(run):
    vote_on(run, "It is right.")
    job = job_of(run)
    assert len(review.votes(replace(job, control="shares", own=("prefer", "dpo", "eval")))) == 1
    assert review.votes(replace(job, control="sampled")) == []


def judged(winner, state="ok", answers_id="img0/q0"):
    scores = {"scores": (9, 2) if winner == 0 else (2, 9)} if state == "ok" else {}
    return [
        Verdict(id=f"{answers_id}{order}", answers_id=answers_id, pair=(0, 1), order=order,
                judge="m", state=state, winner=winner, **scores)
        for order in ((0, 1), (1, 0))
    ]  # fmt: skip


def vote_on(run, text, **cells):
    rows = exported(run)
    rows[0] |= {"choice": letter_of(run, rows[0], text) if text in TEXTS[0] else text, **cells}
    import_(run, saved(run / "back.csv", rows))
    return votes_of(run)


@pytest.mark.parametrize("choice", ["It is right.", "tie", "both_bad", "cannot_judge"])
def test_a_vote_stands_in_the_place_of_the_judges_verdicts_on_its_pair_only(run, choice):
    votes = vote_on(run, choice)
    others = judged(1, answers_id="img1/q0")
    answers = [item(n, texts) for n, texts in enumerate(TEXTS)]
    merged = with_votes(answers, [*judged(0), *others], votes)
    assert merged.undecided == others
    assert [v.judge for v in merged.verdicts if v.answers_id == "img0/q0"] == ["expert:Dr. Ada"]
    assert (merged.used, merged.outdated) == (1, 0)


def test_an_edited_answer_beats_the_one_that_lost_and_not_the_one_it_improves(run):
    votes = vote_on(run, "It is left.", **{"edited answer": "It is in the left upper lobe."})
    merged = with_votes([item(0, TEXTS[0])], judged(1), votes)
    assert [(v.pair, v.winner) for v in merged.verdicts] == [((2, 1), 2)]
    assert merged.answers[0].draws[2].text == "It is in the left upper lobe."


def votes_by(run, **choices):
    """Experts by name, each with the text they chose or a word for neither, on the first pair."""
    for name, said in choices.items():
        text, edited = said if isinstance(said, tuple) else (said, "")
        rows = read_sheet(run / "review/sheet.csv") if (run / "review").exists() else exported(run)
        choice = letter_of(run, rows[0], text) if text in TEXTS[0] else text
        rows[0] |= {"choice": choice, "edited answer": edited}
        import_(run, saved(run / "back.csv", rows), name)
    return votes_of(run)


@pytest.mark.parametrize(
    ("ada", "bob", "state"),
    [
        ("It is left.", "It is right.", "inconsistent"),
        ("It is left.", "both_bad", "inconsistent"),
        ("It is left.", "tie", "inconsistent"),
        ("tie", "both_bad", "inconsistent"),
        ("both_bad", "both_bad", "both_bad"),
        ("It is left.", "cannot_judge", "ok"),
        (("It is left.", "It is in the left lobe."), "It is right.", "inconsistent"),
    ],
)
def test_experts_that_disagree_make_no_preference_and_are_told_apart_from_a_tie(
    run, ada, bob, state
):
    votes = votes_by(run, Ada=ada, Bob=bob)
    merged = with_votes([item(0, TEXTS[0])], judged(0), votes)
    result = make_preferences(merged.answers, merged.verdicts, PreferSection(), seed=0)
    assert result.counts["pairs"] == {state: 1}
    told = [dropped.reason for dropped in result.dropped]
    assert told == ([] if state == "ok" else [f"verdict {state}"])
    loose = PreferSection(orders_must_agree=False)
    again = make_preferences(merged.answers, merged.verdicts, loose, seed=0)
    assert again.preferences == result.preferences
    assert len(result.preferences) == (state == "ok")


def test_more_than_half_of_the_experts_decide(run):
    votes = votes_by(run, Ada="It is left.", Bob="It is left.", Eve="both_bad")
    merged = with_votes([item(0, TEXTS[0])], judged(1), votes)
    result = make_preferences(merged.answers, merged.verdicts, PreferSection(), seed=0)
    (preference,) = result.preferences
    assert (preference.chosen.text, preference.margin) == ("It is left.", 9)
    assert preference.source == "expert:Ada,expert:Bob"


@pytest.mark.parametrize("first", ["Ada", "Bob"])
def test_an_edited_answer_is_chosen_before_the_one_that_it_improves(run, first):
    better = "It is in the left lobe."
    said = {"Ada": ("It is left.", better), "Bob": "It is left."}
    order = [first, *({*said} - {first})]
    votes = votes_by(run, **{name: said[name] for name in order})
    merged = with_votes([item(0, TEXTS[0])], [], votes)
    result = make_preferences(merged.answers, merged.verdicts, PreferSection(), seed=0)
    assert [p.chosen.text for p in result.preferences] == [better]


def test_an_edit_that_changes_nothing_is_no_edit(run):
    (vote,) = vote_on(run, "It is left.", **{"edited answer": "it is left"})
    assert vote.edited == ""


def test_votes_on_texts_that_were_sampled_anew_do_not_count(run):
    votes = vote_on(run, "It is right.")
    merged = with_votes([item(0, ("It is left.", "It is central."))], judged(0), votes)
    assert (merged.used, merged.outdated) == (0, 1)
    assert merged.verdicts == judged(0)


def test_the_queue_of_prefer_is_what_is_exported_unless_all_are_asked_for(run):
    asked = {"id": "x", "answers_id": "img1/q0", "image": "img1", "question": QUESTION,
             "pair": [0, 1], "answers": TEXTS[1], "reason": "tie", "state": "tie"}  # fmt: skip
    (run / "prefer").mkdir()
    (run / "prefer/review.jsonl").write_text(json.dumps(asked) + "\n")
    recipe = load_recipe(str(run / "recipe.yaml"), ["judge.kind=openai"])
    job = Job(Run(run), recipe)
    assert review.export_sheet(job).pairs == 1
    assert review.export_sheet(job, every=True).pairs == 3
    vote_on(run, "tie")
    (run / "review/sheet.csv").unlink()
    assert review.export_sheet(job, every=True, unvoted=True).pairs == 2
    (run / "prefer/review.jsonl").write_text("")
    with pytest.raises(RunError, match="no pair to review"):
        review.export_sheet(job)


def test_the_verbs_say_what_they_did(run, monkeypatch):
    monkeypatch.chdir(run.parent)
    done = CliRunner().invoke(app, ["review", "export", "run"])
    assert "run/review/sheet.csv: 3 pairs, 3 images" in done.stdout
    rows = read_sheet(run / "review/sheet.csv")
    rows[0]["choice"] = "A"
    saved(run / "back.csv", rows)
    done = CliRunner().invoke(app, ["review", "import", "run", "run/back.csv", "--expert", "Ada"])
    assert done.stdout.strip() == "1 new votes, 0 changed, 0 known (1 ok)"
