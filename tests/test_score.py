"""stllava score: anyone's answer files, joined by id, scored without a model."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stllava.cli import app
from stllava.errors import DataError
from stllava.files import read_records
from stllava.metrics.predictions.forms import read_answers
from stllava.metrics.predictions.join import join
from stllava.records import Item, VQASample

DOCS = Path(__file__).parent.parent / "docs"

QUESTIONS = [
    ("a/own-1", "Is there a mass?", "no", "closed"),
    ("a/own-2", "Which lung is affected?", "left lung", "open"),
    ("b/own-3", "Is the heart enlarged?", "yes", "closed"),
    ("b/own-4", "What plane is this?", "axial", "open"),
]
TEXTS = {"1": "No.", "2": "The left lung", "3": "It is large", "4": "axial"}


def samples(rows=QUESTIONS):
    return [
        VQASample(id=i, image=i.split("/")[0], question=q, answer=a, kind=k) for i, q, a, k in rows
    ]


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def gold(tmp_path):
    path = tmp_path / "gold.jsonl"
    path.write_text("".join(sample.model_dump_json() + "\n" for sample in samples()))
    return path


def score(gold, predictions, *options):
    command = ["score", str(gold), str(predictions), "--benchmark", "jsonl", *options]
    result = CliRunner().invoke(app, command)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


def scores_of(gold, predictions, *options):
    return json.loads(score(gold, predictions, "--json", *options))


def joined(rows, tmp_path, *, by="id", name="answers.jsonl", gold_rows=QUESTIONS):
    return join(samples(gold_rows), read_answers(write_lines(tmp_path / name, rows)), by=by)


LLAVA_MED = [
    {
        "question_id": number,
        "prompt": f"{question} Please choose from the following two options: [yes, no]",
        "text": f"Assistant: {TEXTS[str(number)]}",
        "answer_id": "x",
        "model_id": "m",
    }
    for number, (_, question, *_) in enumerate(QUESTIONS, start=1)
]


def test_scores_have_the_promised_form(gold, tmp_path):
    scores = scores_of(gold, write_lines(tmp_path / "p.jsonl", LLAVA_MED))
    assert (scores["benchmark"], scores["mode"], scores["missing"]) == ("gold", "corrected", 0)
    assert scores["open"]["n"] == 2
    assert scores["open"]["recall"] == scores["open"]["exact"] == 100
    assert set(scores["open"]["ci95"]) == {"recall", "f1", "precision", "exact"}
    closed = scores["closed"]
    assert (closed["n"], closed["correct"], closed["accuracy"], closed["abstained"]) == (
        2,
        1,
        50,
        1,
    )
    assert closed["image_macro"]["accuracy"] == 50
    assert scores["blind_baselines"]["closed"]["yes_there_is_no"] == 50
    assert scores["joined_by"] == "the data set's own id"


def test_out_holds_what_eval_writes(gold, tmp_path):
    score(gold, write_lines(tmp_path / "p.jsonl", LLAVA_MED), "--out", str(tmp_path / "out"))
    items = list(read_records(tmp_path / "out/items.jsonl", Item))
    assert [item.id for item in items] == [row[0] for row in QUESTIONS]
    assert set(items[1].metrics) > {"recall", "f1", "precision", "exact", "recall_at_5"}
    assert json.loads((tmp_path / "out/scores.json").read_text())["benchmark"] == "gold"


def test_all_modes_stand_side_by_side(gold, tmp_path):
    path = write_lines(tmp_path / "p.jsonl", LLAVA_MED)
    found = scores_of(gold, path, "--mode", "all", "--out", str(tmp_path / "out"))["modes"]
    accuracies = {mode: scores["closed"]["accuracy"] for mode, scores in found.items()}
    assert accuracies == {
        "corrected": 50,
        "llavamed": 50,
        "llavamed-batch": 50,
        "llavamed-prefix": 50,
    }
    assert found["llavamed"]["open"]["precision"] < found["corrected"]["open"]["precision"] == 100
    assert (tmp_path / "out/llavamed-prefix/scores.json").is_file()
    printed = score(gold, path, "--mode", "all", "--categories")
    assert "llavamed-prefix (wrong)" in printed


def test_the_printed_table_names_n_interval_both_denominators_and_blind_baselines(gold, tmp_path):
    printed = score(gold, write_lines(tmp_path / "p.jsonl", LLAVA_MED[:3]))
    for words in ("95 % interval", "n by answer", "1 missing", "Yes, there is no", "keywords"):
        assert words in printed
    assert "if the missing answers were all wrong or all right: open recall [50.00, 100.00]" in (
        " ".join(printed.split())
    )


FORMS = {
    "ours": [{"id": row[0], "text": TEXTS[row[0][-1]], "finish": "stop"} for row in QUESTIONS],
    "lmms-eval, old": [
        {
            "doc_id": n,
            "doc": {"qid": n + 1, "question": row[1], "answer": row[2]},
            "target": row[2],
            "resps": [[TEXTS[str(n + 1)]]],
            "filtered_resps": [TEXTS[str(n + 1)]],
        }
        for n, row in enumerate(QUESTIONS)
    ],
    "lmms-eval, flat": [
        {
            "doc_id": n + 1,
            "doc": {"question": row[1], "answer": row[2]},
            "input": f"{row[1]}\nAnswer the question using a single word or phrase.",
            "target": row[2],
            "resps": [TEXTS[str(n + 1)]],
            "filtered_resps": TEXTS[str(n + 1)],
        }
        for n, row in enumerate(QUESTIONS)
    ],
    "a plain dump": [{"qid": float(n), "pred": text} for n, text in TEXTS.items()],
}


@pytest.mark.parametrize("form", FORMS)
def test_answer_files_of_other_tools_are_read_as_they_are(form, tmp_path):
    found = joined(FORMS[form], tmp_path)
    assert {p.id[-1]: p.text for p in found.predictions} == TEXTS
    assert found.warnings == ()
    listed = tmp_path / "list.json"
    listed.write_text(json.dumps({"logs": FORMS[form]}, indent=1))
    assert [answer.text for answer in read_answers(listed)] == [*TEXTS.values()]


def test_vlmevalkit_tables_and_their_failures_are_read(tmp_path):
    lines = ["index\tquestion\tanswer\tprediction"]
    lines += [f"{n}\t{q}\t{a}\t{TEXTS[str(n)]}" for n, (_, q, a, _) in enumerate(QUESTIONS, 1)]
    lines[-1] = lines[-1].replace("\taxial\taxial", "\taxial\tFailed to obtain answer via API. ")
    path = tmp_path / "m_PathVQA.tsv"
    path.write_text("\n".join(lines) + "\n")
    found = join(samples(), read_answers(path))
    assert [p.finish for p in found.predictions] == ["unknown", "unknown", "unknown", "error"]


def test_medevalkits_files_without_ids_are_joined_by_question_and_reference(tmp_path):
    rows = [
        {"question": q, "answer": a, "response": TEXTS[i[-1]], "correct": True}
        for i, q, a, _ in reversed(QUESTIONS)
    ]
    with pytest.raises(DataError, match=r"4 of 4 predictions have no id .*--by question"):
        joined(rows, tmp_path)
    found = joined(rows, tmp_path, by="question")
    assert {p.id[-1]: p.text for p in found.predictions} == TEXTS
    assert found.by == "question text and reference answer"
    twins = [*QUESTIONS, ("c/own-5", "Is there a mass?", "no", "closed")]
    rows.append({"question": "is there a mass ?", "answer": "No", "response": "yes"})
    found = joined(rows, tmp_path, by="question", gold_rows=twins)
    assert sorted(p.id for p in found.predictions) == sorted(row[0] for row in twins)
    assert "2 answers share question and reference" in found.warnings[0]


def test_an_object_from_id_to_answer_is_read(tmp_path):
    (tmp_path / "p.json").write_text(json.dumps(TEXTS))
    assert {a.id: a.text for a in read_answers(tmp_path / "p.json")} == TEXTS


def changed(number, **fields):
    return [{**row, **(fields if n == number else {})} for n, row in enumerate(LLAVA_MED)]


BAD = {
    "strange ids": (changed(0, question_id=99), r"1 of 4 prediction ids are not in GOLD \(99\)"),
    "answered twice": (
        [*LLAVA_MED, LLAVA_MED[0]],
        r"1 questions are answered more than once \(1\)",
    ),
    "wrong benchmark": (
        changed(1, prompt="Is the liver cirrhotic?"),
        r"1 of 4 predictions answer another question .*'Is the liver cirrhotic\?'.*benchmark",
    ),
    "no answer field": ([{"question_id": 1, "said": "x"}], r"p\.jsonl:1: no answer .*--field"),
    "NaN text": (changed(2, text="nan"), r"p\.jsonl:3: text is NaN; write null"),
    "two answers": (changed(2, text=["a", "b"]), r"p\.jsonl:3: 2 answers in text"),
    "no text": (changed(2, text={"a": 1}), r"p\.jsonl:3: text is not text but dict"),
    "no id": ([{"text": "yes"}], r"1 of 1 predictions have no id"),
    "two languages": (
        changed(3, prompt="这是什么平面？"),
        r"1 of 4 predictions are to questions in another language .*--language",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_predictions_get_one_clear_line(case, gold, tmp_path):
    rows, message = BAD[case]
    with pytest.raises(DataError, match=message) as caught:
        score(gold, write_lines(tmp_path / "p.jsonl", rows))
    assert "\n" not in str(caught.value)


def test_empty_missing_and_nan_files_get_one_clear_line(gold, tmp_path):
    empty = write_lines(tmp_path / "empty.jsonl", [])
    with pytest.raises(DataError, match="no answer in it"):
        score(gold, empty)
    with pytest.raises(DataError, match="no such file"):
        score(gold, tmp_path / "absent.jsonl")
    (tmp_path / "nan.jsonl").write_text('{"question_id": 1, "text": NaN}\n')
    with pytest.raises(DataError, match=r"nan\.jsonl:1: NaN is not a JSON number"):
        score(gold, tmp_path / "nan.jsonl")


def test_answers_to_another_benchmark_are_refused_by_their_questions(data_root, tmp_path):
    rows = json.loads((data_root / "slake/validate.json").read_bytes())
    numbers = range(1, 200)
    said = [
        {"question_id": n, "question": row["question"], "answer": row["answer"], "pred": "yes"}
        for n, row in zip(numbers, (r for r in rows if r["q_lang"] == "en"), strict=False)
    ]
    rad = json.loads((data_root / "vqa_rad/VQA_RAD Dataset Public.json").read_bytes())
    test = {str(row["qid"]) for row in rad if row["phrase_type"].startswith("test")}
    path = write_lines(tmp_path / "p.jsonl", [r for r in said if str(r["question_id"]) in test])
    with pytest.raises(
        DataError, match=r"predictions answer another question .*benchmark or split"
    ):
        score(data_root / "vqa_rad", path, "--benchmark", "vqa-rad")


FILES_OF = {
    "slake": {"img_name": "a/source.jpg", "qid": 1, "q_lang": "en", "answer_type": "OPEN"},
    "path-vqa": {"img_id": "a", "sentf": {"pvqa": ["Left?"]}, "labelf": {"pvqa": [{"yes": 1}]}},
    "vqa-rad": {"qid": 1, "image_name": "a.jpg", "phrase_type": "test_freeform"},
    "jsonl": {"id": "a/own-1", "image": "a", "kind": "closed"},
}


OTHERS = [(c, f) for c in ("vqa-rad", "slake", "path-vqa") for f in FILES_OF if c != f]


@pytest.mark.parametrize(("claimed", "form"), OTHERS)
def test_the_file_of_another_benchmark_is_refused_by_its_form(claimed, form, tmp_path):
    row = {"question": "Is it there?", "answer": "yes", **FILES_OF[form]}
    for name in ("gold.jsonl", "validate.json"):
        write_lines(tmp_path / name, [row])
        with pytest.raises(DataError, match=f"its form is {form}, not {claimed}"):
            score(tmp_path / name, tmp_path / "p.jsonl", "--benchmark", claimed)


def test_hub_rows_as_many_as_another_benchmark_has_are_refused(tmp_path):
    row = {"image": "a.jpg", "question": "is it?", "answer": "yes"}
    gold = write_lines(tmp_path / "gold.jsonl", [row] * 6719)
    with pytest.raises(DataError, match=r"6719 rows are those of PathVQA .hub form. test"):
        score(gold, tmp_path / "p.jsonl", "--benchmark", "vqa-rad")


def test_gold_in_two_languages_is_refused(tmp_path):
    rows = [*QUESTIONS, ("c/own-5", "图中有肿块吗？", "没有", "closed")]
    with pytest.raises(DataError, match="GOLD mixes 1 Chinese and 4 other questions"):
        joined(LLAVA_MED, tmp_path, gold_rows=rows)


def test_an_id_that_names_two_questions_is_refused(tmp_path):
    rows = [*QUESTIONS, ("c/own-1", "Is there a mass?", "yes", "closed")]
    with pytest.raises(DataError, match=r"1 prediction ids name several questions .*full ids"):
        joined(LLAVA_MED, tmp_path, gold_rows=rows)


def test_the_language_asked_for_leaves_out_the_other(gold, tmp_path):
    rows = [*LLAVA_MED, {"question_id": 77, "prompt": "这是什么？", "text": "肝"}]
    path = write_lines(tmp_path / "p.jsonl", rows)
    scores = scores_of(gold, path, "--language", "en")
    assert "1 predictions in another language left out" in scores["warnings"]
    assert scores["missing"] == 0


def test_leaked_and_clean_questions_are_scored_apart(gold, tmp_path):
    path = write_lines(tmp_path / "p.jsonl", LLAVA_MED)
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"leaks": {"a/own-1": "question", "b/own-3": "image"}}))
    (tmp_path / "ids.txt").write_text("1\n")
    for leaks in (report, tmp_path / "ids.txt"):
        scores = scores_of(gold, path, "--leaks", str(leaks))
        assert scores["leaked"] == 1
        assert scores["by_leak"]["leaked"]["closed"] == {"n": 1, "accuracy": 100}
        assert scores["by_leak"]["clean"]["closed"] == {"n": 1, "accuracy": 0}
    (tmp_path / "ids.txt").write_text("other\n")
    with pytest.raises(DataError, match="none of its 1 ids is in the benchmark"):
        score(gold, path, "--leaks", str(tmp_path / "ids.txt"))


def test_null_is_missing_and_cut_or_repeated_answers_are_counted(gold, tmp_path):
    rows = changed(0, text=None)
    rows[1] |= {"text": "left left left left lung", "finish_reason": "length"}
    rows[3] |= {"text": "", "finish_reason": "stop"}
    scores = scores_of(gold, write_lines(tmp_path / "p.jsonl", rows))
    assert (scores["missing"], scores["closed"]["missing"]) == (1, 1)
    assert scores["closed"]["bounds"]["accuracy"] == [0, 50]
    shares = [scores[name] for name in ("empty", "truncated", "repetitive")]
    assert shares == pytest.approx([100 / 3, 50, 100 / 3])


def test_real_vqa_rad_answers_in_llava_meds_form_are_scored(data_root, tmp_path):
    rows = json.loads((data_root / "vqa_rad/VQA_RAD Dataset Public.json").read_bytes())
    test = [row for row in rows if row["phrase_type"].startswith("test")]
    said = [
        {"question_id": r["qid"], "prompt": f"{r['question']}\n<image>", "text": str(r["answer"])}
        for r in reversed(test)
    ]
    path = write_lines(tmp_path / "p.jsonl", said)
    scores = scores_of(data_root / "vqa_rad", path, "--benchmark", "vqa-rad", "--mode", "llavamed")
    assert (scores["open"]["n"], scores["closed"]["n"], scores["closed"]["correct"]) == (
        179,
        272,
        254,
    )
    assert scores["by_answer_text"]["closed"]["n"] == 251
    blind = scores["blind_baselines"]
    assert blind["closed"]["yes_there_is_no"] == pytest.approx(92.28, abs=0.005)
    assert 0 < blind["open"]["keywords"]["recall"] < blind["open"]["train_keywords"]["recall"]
    assert set(scores["categories"]) == {"question_type", "organ", "phrase_type"}


@pytest.mark.parametrize(
    ("folder", "name", "counts"),
    [
        ("slake", "slake", (631, 422)),
        pytest.param("pathvqa", "path-vqa", (3144, 3135), marks=pytest.mark.slow),
    ],
)
def test_real_slake_and_path_vqa_validation_sets_score(data_root, tmp_path, folder, name, counts):
    from stllava.benchmarks.open import read_benchmark
    from stllava.config import BenchmarkSection

    place = {"root": str(data_root / folder), "split": "validation"}
    section = BenchmarkSection.model_validate({"benchmark": name, **place})
    gold = read_benchmark(section, images=False).samples
    rows = [{"id": sample.id, "text": sample.answer} for sample in gold]
    path = write_lines(tmp_path / "p.jsonl", rows)
    options = ("--split", "validation", "--resamples", "100")
    scores = scores_of(data_root / folder, path, "--benchmark", name, *options)
    assert (scores["open"]["n"], scores["closed"]["n"]) == counts
    assert scores["closed"]["accuracy"] > 99
    assert scores["open"]["exact"] == 100
    assert scores["categories"]


def test_scoring_loads_neither_torch_nor_transformers(gold, tmp_path):
    path = write_lines(tmp_path / "p.jsonl", LLAVA_MED)
    code = (
        "import sys; from typer.testing import CliRunner; from stllava.cli import app\n"
        f"CliRunner().invoke(app, ['score', {str(gold)!r}, {str(path)!r}, '--benchmark', 'jsonl'],"
        " catch_exceptions=False)\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)), 'scipy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[] True"


def test_the_worked_example_of_the_documents_runs(tmp_path, monkeypatch, capsys):
    text = (DOCS / "scoring.md").read_text()
    blocks = re.findall(r"```(\w+) title=(\S+)\n(.*?)```", text, re.DOTALL)
    for _, name, content in blocks:
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [
        line for block in commands for line in block.splitlines() if line.startswith("stllava")
    ]
    assert {shlex.split(line)[1] for line in lines} == {"score", "compare"}
    for line in lines:
        result = CliRunner().invoke(app, shlex.split(line)[1:], catch_exceptions=False)
        assert result.exit_code == 0, line
    exec("".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), {})
    assert capsys.readouterr().out == "75.0 [100.0, 100.0]\n"
