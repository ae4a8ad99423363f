"""Run directories: what a kill, a second process, a full disk or a changed recipe can do."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap

import pytest

from stllava.errors import DataError, RunError
from stllava.files import read_json, read_records, write_json, write_text
from stllava.records import Answers, Draw, Dropped, Question
from stllava.run import Run

SETTINGS = {"temperature": 1.2, "lora": {"rank": 4}}


def question(number, text="What is it?"):
    return Question(id=f"p{number}/q0", image=f"p{number}", question=text, asked_by="sft")


def begin(stage, tmp_path, *, settings=SETTINGS, num_units=3, **fields):
    source = tmp_path / "images.jsonl"
    if not source.exists():
        source.write_text('{"id": "a"}\n')
    return stage.begin(inputs=[source], settings=settings, num_units=num_units, **fields)


def write_unit(stage, unit, *, finish=True):
    for number in (2 * unit, 2 * unit + 1):
        stage.append("questions.jsonl", question(number))
    stage.drop(Dropped(id=f"u{unit}", stage="ask", reason="empty"))
    if finish:
        stage.finish_unit(unit)


def killed(stage):
    """What is left of a stage whose process died after the operating system had its bytes."""
    for file in stage._files.values():
        file.close()


def files_of(folder):
    return {
        file.name: file.read_bytes()
        for file in folder.iterdir()
        if file.name not in ("stage.json", "plan.json")
    }


def python(code, *args, **kwargs):
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **kwargs)


# Plans


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"temperature": 0.7}, "settings (temperature: 1.2 before, 0.7 now)"),
        ({"lora": {"rank": 8}}, "settings (lora.rank: 4 before, 8 now)"),
        ({"top_k": 5}, "settings (top_k: null before, 5 now)"),
    ],
)
def test_changed_settings_are_refused_in_one_line_that_names_them(change, named, tmp_path):
    stage = Run(tmp_path / "run").stage("ask")
    assert begin(stage, tmp_path)
    with pytest.raises(RunError) as refusal:
        begin(Run(tmp_path / "run").stage("ask"), tmp_path, settings={**SETTINGS, **change})
    message = str(refusal.value)
    assert named in message
    assert "--redo ask" in message
    assert "\n" not in message


def test_changed_input_is_refused_and_named_also_when_the_stage_is_complete(tmp_path):
    stage = Run(tmp_path / "run").stage("ask")
    begin(stage, tmp_path)
    stage.finish(questions=0)
    assert not begin(Run(tmp_path / "run").stage("ask"), tmp_path)
    (tmp_path / "images.jsonl").write_text('{"id": "b"}\n')
    with pytest.raises(RunError, match=r"made from other inputs \(.*images\.jsonl"):
        begin(Run(tmp_path / "run").stage("ask"), tmp_path)


def test_changed_units_and_schema_are_refused(tmp_path):
    stage = Run(tmp_path).stage("ask")
    begin(stage, tmp_path)
    with pytest.raises(RunError, match=r"num_units \(3 before, 4 now\)"):
        begin(stage, tmp_path, num_units=4)
    plan = read_json(stage.path / "plan.json")
    write_json(stage.path / "plan.json", {**plan, "schema": 0})
    with pytest.raises(RunError, match="record schema 0, this version writes"):
        begin(stage, tmp_path)


@pytest.mark.parametrize(
    ("name", "verb"),
    [("eval/dpo/phantom-test/image", "eval"), ("controls/random/judge", "judge")],
)
def test_the_remedy_names_a_stage_that_can_be_redone(name, verb, tmp_path):
    begin(Run(tmp_path).stage(name), tmp_path)
    with pytest.raises(RunError, match=f"--redo {verb},"):
        begin(Run(tmp_path).stage(name), tmp_path, settings={})


# Resume


@pytest.mark.parametrize("finished", [0, 1, 2])
@pytest.mark.parametrize("torn", [b"", b'{"id": "p9/q0", "ima'])
def test_resume_cuts_torn_lines_and_the_unfinished_unit(finished, torn, tmp_path):
    whole = Run(tmp_path / "whole").stage("ask")
    begin(whole, tmp_path)
    for unit in range(3):
        write_unit(whole, unit)
    whole.finish(questions=6)

    stage = Run(tmp_path / "run").stage("ask")
    begin(stage, tmp_path)
    for unit in range(finished):
        write_unit(stage, unit)
    write_unit(stage, finished, finish=False)
    killed(stage)
    with (stage.path / "questions.jsonl").open("ab") as file:
        file.write(torn)

    again = Run(tmp_path / "run").stage("ask")
    assert begin(again, tmp_path)
    assert again.next_unit == finished
    for unit in range(again.next_unit, 3):
        write_unit(again, unit)
    again.finish(questions=6)
    assert files_of(again.path) == files_of(whole.path)
    assert again.summary["dropped"] == whole.summary["dropped"] == 3


def test_a_torn_line_of_progress_repeats_its_unit_only(tmp_path):
    stage = Run(tmp_path / "run").stage("ask")
    begin(stage, tmp_path)
    for unit in range(2):
        write_unit(stage, unit)
    killed(stage)
    progress = stage.path / "progress.jsonl"
    progress.write_bytes(progress.read_bytes()[:-9])
    again = Run(tmp_path / "run").stage("ask")
    begin(again, tmp_path)
    assert again.next_unit == 1
    assert [q.id for q in again.read("questions.jsonl", Question)] == ["p0/q0", "p1/q0"]
    write_unit(again, 1)
    killed(again)
    last = Run(tmp_path / "run").stage("ask")
    begin(last, tmp_path)
    assert last.next_unit == 2
    assert len(last.read("questions.jsonl", Question)) == 4


def test_resume_by_id_keeps_every_whole_line(tmp_path):
    stage = Run(tmp_path / "run").stage("judge")
    begin(stage, tmp_path, by_id=True)
    write_unit(stage, 0, finish=False)
    killed(stage)
    with (stage.path / "questions.jsonl").open("ab") as file:
        file.write(b'{"id": "p9')
    again = Run(tmp_path / "run").stage("judge")
    assert begin(again, tmp_path, by_id=True)
    assert [q.id for q in again.read("questions.jsonl", Question)] == ["p0/q0", "p1/q0"]
    assert again.num_dropped == 1


def test_a_killed_process_loses_no_finished_unit(tmp_path):
    code = """
        import os, signal, sys
        from pathlib import Path
        from stllava.records import Question
        from stllava.run import Run
        stage = Run(sys.argv[1]).stage("ask")
        stage.begin(inputs=[], settings={}, num_units=3)
        for unit in range(3):
            stage.append("questions.jsonl", Question(id=f"u{unit}", image="a", question="?",
                                                     asked_by="sft"))
            if unit == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            stage.finish_unit(unit)
    """
    assert python(code, tmp_path).returncode == -signal.SIGKILL
    stage = Run(tmp_path).stage("ask")
    assert stage.begin(inputs=[], settings={}, num_units=3)
    assert stage.next_unit == 2
    assert [q.id for q in stage.read("questions.jsonl", Question)] == ["u0", "u1"]


def test_reading_an_incomplete_stage_is_refused(tmp_path):
    stage = Run(tmp_path).stage("ask")
    begin(stage, tmp_path)
    assert not stage.complete
    with pytest.raises(RunError, match="not complete; run it first"):
        _ = stage.summary
    with pytest.raises(DataError, match=r"questions\.jsonl: no such file; run the stage"):
        stage.read("questions.jsonl", Question)


# Two processes


def test_a_second_process_is_refused_with_the_pid_of_the_first(tmp_path):
    code = """
        import sys
        from stllava.errors import RunError
        from stllava.run import Run
        try:
            with Run(sys.argv[1]):
                print("in")
        except RunError as error:
            print(error)
    """
    with Run(tmp_path):
        refused = python(code, tmp_path)
    assert refused.stdout == (
        f"{tmp_path}: in use by process {os.getpid()}; wait for it or choose another --run\n"
    )
    assert refused.stderr == ""
    assert python(code, tmp_path).stdout == "in\n"


def test_a_refused_run_leaves_no_file_open_and_the_first_one_locked(tmp_path):
    with Run(tmp_path):
        for _ in range(2):
            with pytest.raises(RunError, match="in use by process"), Run(tmp_path):
                pass


def test_a_lock_dies_with_its_process(tmp_path):
    code = """
        import os, signal, sys
        from stllava.run import Run
        with Run(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)
    """
    assert python(code, tmp_path).returncode == -signal.SIGKILL
    with Run(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_a_run_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(RunError, match="cannot be written: Not a directory"),
        Run(tmp_path / "file" / "run"),
    ):
        pass


# Superseding


def test_supersede_keeps_the_old_and_frees_the_name(tmp_path):
    run = Run(tmp_path / "run")
    stage = run.stage("ask")
    begin(stage, tmp_path)
    write_unit(stage, 0)
    stage.finish(questions=2)
    old = files_of(stage.path)
    assert run.supersede(["ask", "answer"]) == ["ask"]
    [kept] = (run.path / "superseded").iterdir()
    assert kept.name.startswith("ask-")
    assert files_of(kept) == old
    fresh = run.stage("ask")
    assert begin(fresh, tmp_path, settings={"other": 1})
    assert fresh.next_unit == 0


def test_superseding_twice_within_a_second_keeps_both(tmp_path):
    run = Run(tmp_path / "run")
    for _ in range(3):
        begin(run.stage("ask"), tmp_path)
        run.supersede(["ask"])
    assert len(list((run.path / "superseded").iterdir())) == 3


# Files


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path):
    file = tmp_path / "scores.json"
    write_json(file, {"n": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(file, {"n": float("nan")})
    with pytest.raises(UnicodeEncodeError):
        write_text(file, "\ud800")
    assert read_json(file) == {"n": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["scores.json"]


@pytest.mark.parametrize(
    "text", ["a\u2028b\u2029c", "a\x85b\x0bc\x1cd", "a\nb\r\nc", "é 漢 🫀\x00"]
)
def test_line_separators_inside_a_text_survive(text, tmp_path):
    stage = Run(tmp_path / "run").stage("ask")
    begin(stage, tmp_path)
    draw = Draw(request_id="q", index=0, text=text, token_ids=(1, 2), logprobs=(-0.5, -1e-9))
    record = Answers(id="q", image="i", question=text, draws=(draw,))
    for unit in range(2):
        stage.append("answers.jsonl", record)
        stage.finish_unit(unit)
    killed(stage)
    again = Run(tmp_path / "run").stage("ask")
    begin(again, tmp_path)
    assert again.read("answers.jsonl", Answers) == [record, record]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"id": "a", "image": "i", "asked_by": "sft"}', "question: Field required"),
        (b'{"id": "a", "image": "i", "question": "?", "asked_by": "m", "extr": 1}', "extr: Extra"),
        (b'{"id": "a", "image"', "line: Invalid JSON"),
        (b'["a"]', "line: Input should be an object"),
        (b"\xff\xfe", "line: Invalid JSON"),
    ],
)
def test_a_malformed_line_is_named_by_file_and_line(line, reason, tmp_path):
    file = tmp_path / "questions.jsonl"
    good = question(1).model_dump_json().encode()
    file.write_bytes(good + b"\n\n" + line + b"\n" + good + b"\n")
    records = read_records(file, Question)
    assert next(records).id == "p1/q0"
    with pytest.raises(DataError, match=re.escape(f"{file}:3: not a Question: {reason}")):
        next(records)


def test_unreadable_json_is_a_data_error_that_names_the_file(tmp_path):
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(DataError, match=r"plan\.json: cannot be read as JSON"):
        read_json(tmp_path / "plan.json")


FULL_DISK = """
    import resource, sys
    from pathlib import Path
    from stllava.errors import StllavaError
    from stllava.records import Question
    from stllava.files import disk_errors
    from stllava.run import Run
    folder, limit = sys.argv[1], int(sys.argv[2])
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        with Run(folder) as run, disk_errors(Path(folder)):
            stage = run.stage("ask")
            stage.begin(inputs=[], settings={}, num_units=20)
            for unit in range(stage.next_unit, 20):
                for i in range(5):
                    stage.append("questions.jsonl", Question(
                        id=f"u{unit}/{i}", image="a", question="?" * 100, asked_by="sft"))
                stage.finish_unit(unit)
            stage.finish(questions=100)
    except StllavaError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
"""


def test_a_full_disk_is_one_line_and_the_run_goes_on_afterwards(tmp_path):
    code = FULL_DISK
    assert python(code, tmp_path / "whole", 0).returncode == 0
    full = python(code, tmp_path / "run", 6000)
    assert full.returncode == 2
    assert full.stderr.count("\n") == 1
    assert re.search(r"run/ask.*: File too large; free space or fix it, then repeat", full.stderr)
    resumed = python(code, tmp_path / "run", 0)
    assert (resumed.returncode, resumed.stderr) == (0, "")
    assert files_of(tmp_path / "run/ask") == files_of(tmp_path / "whole/ask")
    assert json.loads((tmp_path / "run/ask/stage.json").read_text())["questions"] == 100
