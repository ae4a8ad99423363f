"""Which answer belongs to which question: by id, checked by the question's text, never by line."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

from stllava.errors import DataError
from stllava.metrics.predictions.forms import Answer
from stllava.metrics.text import normalise, words
from stllava.records import Prediction, VQASample

By = Literal["id", "question"]
NUM_SHOWN = 3  # examples in a message
SAME = 0.85  # similarity from which two wordings are one question, repaired here or there
_CHINESE = re.compile(r"[\u3400-\u9fff]")
_OWN_ID = re.compile(r"[^-/]*$")


class Joined(NamedTuple):
    """Predictions by our ids; `by` says what joined them."""

    predictions: list[Prediction]
    by: str
    warnings: tuple[str, ...]


def join(
    samples: Sequence[VQASample], answers: Sequence[Answer], *, form: str = "", by: By = "id"
) -> Joined:
    """Give every answer the id of its question. An unanswered question stays without one.

    Ids are ours (IMAGE/vqa-rad-45) or the data set's own (45), which ours hold behind `form`. By
    question, for files without ids: text and, where the file repeats it, reference answer. Raises
    DataError if an answer finds no question or another one's, and if two answers find the same.
    """
    check_languages(samples, answers)
    if by == "question":
        found, how, warnings = _by_question(samples, answers)
    else:
        found, how, warnings = _by_id(samples, answers, form)
        _refuse_duplicates(found, answers)
        _check_questions(found, answers)
    warnings += _warnings(found, answers)
    predictions = [_prediction(s, a) for s, a in zip(found, answers, strict=True)]
    return Joined(predictions, how, tuple(warnings))


def check_languages(samples: Iterable[VQASample], answers: Sequence[Answer] = ()) -> None:
    """Refuse two languages under one number. Raises DataError."""
    gold = [is_chinese(sample.question) for sample in samples]
    if any(gold) and not all(gold):
        raise DataError(
            f"GOLD mixes {sum(gold)} Chinese and {len(gold) - sum(gold)} other questions; "
            "score each language by itself with --language"
        )
    asked = [is_chinese(answer.question) for answer in answers if answer.question]
    num_other = sum(language != any(gold) for language in asked)
    if num_other:
        raise DataError(
            f"{num_other} of {len(asked)} predictions are to questions in another language than "
            "GOLD's; choose it with --language, which also leaves out the other's predictions"
        )


def is_chinese(text: str) -> bool:
    """True when a Chinese character is in it."""
    return _CHINESE.search(text) is not None


def _by_id(
    samples: Sequence[VQASample], answers: Sequence[Answer], form: str
) -> tuple[list[VQASample], str, list[str]]:
    without = [answer.place for answer in answers if answer.id is None]
    if without:
        raise DataError(
            f"{len(without)} of {len(answers)} predictions have no id ({_shown(without)}); add "
            "question_id, or join by question text with --by question"
        )
    full = {sample.id: sample for sample in samples}
    own: dict[str, list[VQASample]] = {}
    for sample in samples:
        own.setdefault(own_id(sample.id, form), []).append(sample)
    ids = [str(answer.id) for answer in answers]
    if all(name in full for name in ids):
        return [full[name] for name in ids], "full id", []
    strangers = [name for name in ids if name not in own]
    if strangers:
        either = [name for name in ids if name not in own and name not in full]
        either = either or strangers
        raise DataError(
            f"{len(either)} of {len(ids)} prediction ids are not in GOLD ({_shown(either)}); "
            f"GOLD's are like {samples[0].id} or {own_id(samples[0].id, form)}: another benchmark, "
            "split or language?"
        )
    double = [name for name in ids if len(own[name]) > 1]
    if double:
        raise DataError(
            f"{len(double)} prediction ids name several questions of GOLD ({_shown(double)}: "
            f"{_shown([s.id for s in own[double[0]]])}); use the full ids"
        )
    return [own[name][0] for name in ids], "the data set's own id", []


def own_id(name: str, form: str = "") -> str:
    """What the data set calls it: 45 of synpic123/vqa-rad-45, where "vqa-rad" is the form."""
    if form and f"/{form}-" in name:
        return name.rpartition(f"/{form}-")[2]
    found = _OWN_ID.search(name)
    return found[0] if found else name


def _refuse_duplicates(found: Sequence[VQASample], answers: Sequence[Answer]) -> None:
    counts = Counter(sample.id for sample in found)
    twice = [answer.id or "" for s, answer in zip(found, answers, strict=True) if counts[s.id] > 1]
    if twice:
        raise DataError(
            f"{len(set(twice))} questions are answered more than once ({_shown(twice)}); "
            "keep one answer for each"
        )


def _check_questions(found: Sequence[VQASample], answers: Sequence[Answer]) -> None:
    pairs = [(s, a) for s, a in zip(found, answers, strict=True) if a.question]
    wrong = [(sample, answer) for sample, answer in pairs if not _asks(answer.question, sample)]
    if wrong:
        sample, answer = wrong[0]
        raise DataError(
            f"{len(wrong)} of {len(pairs)} predictions answer another question than GOLD's of the "
            f"same id ({answer.place}: {answer.question[:60]!r}, GOLD: {sample.question[:60]!r}): "
            "another benchmark or split?"
        )


def _asks(prompt: str, sample: VQASample) -> bool:
    """Whether the prompt is the question, whatever instructions or options surround it."""
    prompt = prompt.replace("<image>", " ")
    asked = _squeezed(prompt)
    wordings = (sample.question, *sample.aliases)
    if any(_squeezed(wording) in asked for wording in wordings):
        return True
    return SequenceMatcher(None, words(prompt), words(sample.question)).ratio() >= SAME


def _by_question(
    samples: Sequence[VQASample], answers: Sequence[Answer]
) -> tuple[list[VQASample], str, list[str]]:
    """Answers that share question and reference are interchangeable: their mean is the same."""
    with_gold = all(answer.gold is not None for answer in answers)
    waiting: dict[tuple[str, str], list[VQASample]] = {}
    for sample in samples:
        key = (_squeezed(sample.question), _squeezed(sample.answer) if with_gold else "")
        waiting.setdefault(key, []).append(sample)
    shared = {key for key, members in waiting.items() if len(members) > 1}
    keys = [(_squeezed(a.question), _squeezed(a.gold or "") if with_gold else "") for a in answers]
    unclear = [a.question for a, key in zip(answers, keys, strict=True) if key in shared]
    if unclear and not with_gold:
        raise DataError(
            f"{len(unclear)} predictions answer a question that GOLD asks of several images "
            f"({_shown(unclear)}); add question_id, or each question's reference answer"
        )
    found, strangers = [], []
    for answer, key in zip(answers, keys, strict=True):
        if waiting.get(key):
            found.append(waiting[key].pop(0))
        else:
            strangers.append(f"{answer.place}: {answer.question[:60]!r}")
    if strangers:
        raise DataError(
            f"{len(strangers)} of {len(answers)} predictions find no question left in GOLD "
            f"({_shown(strangers)}): another benchmark or split, or answered twice?"
        )
    warning = (
        f"{len(unclear)} answers share question and reference with another image's and were dealt "
        "out among these: means are exact; intervals, categories and image means are not"
    )
    how = "question text and reference answer" if with_gold else "question text"
    return found, how, [warning] if unclear else []


def _warnings(found: Sequence[VQASample], answers: Sequence[Answer]) -> list[str]:
    pairs = [(s, a) for s, a in zip(found, answers, strict=True) if a.gold is not None]
    other = [a.place for s, a in pairs if normalise(a.gold or "") != normalise(s.answer)]
    warnings = []
    if other:
        warnings.append(
            f"{len(other)} of {len(pairs)} predictions come with another reference answer than "
            f"GOLD's ({_shown(other)}); GOLD's is used"
        )
    num_other = sum(is_chinese(a.text or "") for a in answers)
    if num_other and not any(is_chinese(sample.question) for sample in found):
        warnings.append(f"{num_other} answers are in Chinese, the questions are not")
    return warnings


def _prediction(sample: VQASample, answer: Answer) -> Prediction:
    finish = "error" if answer.text is None else answer.finish
    return Prediction(id=sample.id, text=answer.text or "", finish=finish)


def _squeezed(text: str) -> str:
    return "".join(words(text))


def _shown(values: Sequence[str]) -> str:
    shown = ", ".join(dict.fromkeys(values[: 2 * NUM_SHOWN]))
    return f"{shown}, …" if len(values) > 2 * NUM_SHOWN else shown
