"""What answers that never look at the image would score; printed beside every model.

A model below these has shown nothing. On PathVQA the paper's closed accuracy (52.90) is under the
constant "yes" (54.38).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from stllava.metrics.closed import YES_NO, is_yes_no
from stllava.metrics.modes import OPEN_METRICS, Mode, measure
from stllava.metrics.tables import mean
from stllava.metrics.text import normalise, words
from stllava.records import JSONObject, VQASample

YES_THERE_IS_NO = "Yes, there is no"  # 92 % on VQA-RAD for scorers that search for substrings
# Written by hand from what such questions ask about: what recall gives to a list of likely words.
KEYWORDS = (
    "left right both lung brain liver heart kidney chest abdomen axial ct mri x-ray t2 "
    "cardiomegaly mass"
)
NUM_TRAIN_WORDS = 40


def blind_baselines(
    samples: Sequence[VQASample],
    train_pairs: Iterable[tuple[str, str]] = (),
    *,
    mode: Mode = "corrected",
) -> JSONObject:
    """Score constant answers and, given training (question, answer) pairs, the usual answer.

    "best_constant" is the option with the highest accuracy on these very samples: an upper bound.
    "keywords" answers every open question with KEYWORDS, "train_keywords" with the most frequent
    words of the training answers. "majority" answers each question with the most frequent training
    answer to questions that open with the same two words, else the same word, else to all of them.
    None where n is 0.
    """
    closed = [sample for sample in samples if sample.kind == "closed"]
    is_open = [sample for sample in samples if sample.kind == "open"]
    constants = {"yes", "no"} | {normalise(o) for s in closed for o in (*s.options, s.answer)}
    scores = {answer: _accuracy(closed, [answer], mode) for answer in constants - {""}}
    best = max(scores, key=lambda answer: (scores[answer] or 0.0, answer))
    result: JSONObject = {
        "closed": {
            "n": len(closed),
            **{answer: scores[answer] for answer in YES_NO},
            "yes_there_is_no": _accuracy(closed, [YES_THERE_IS_NO], mode),
            "best_constant": {"answer": best, "accuracy": scores[best]},
        },
        "open": {"n": len(is_open), "keywords": _shares(is_open, [KEYWORDS], mode)},
    }
    pairs = list(train_pairs)
    if pairs:
        usual = _usual_answers(pairs)
        result["closed"]["majority"] = _accuracy(
            closed, [_usual_answer(usual, sample.question) for sample in closed], mode
        )
        result["open"]["majority"] = _shares(
            is_open, [_usual_answer(usual, sample.question) for sample in is_open], mode
        )
        result["open"]["train_keywords"] = _shares(is_open, [_usual_words(pairs)], mode)
    return result


def opening(question: str, num_words: int) -> str:
    """The question's type as its first words: "is there", "what", "" for none."""
    return " ".join(words(question)[:num_words])


def _usual_words(pairs: Iterable[tuple[str, str]]) -> str:
    """The most frequent words of answers other than yes and no."""
    counts = Counter(w for _, answer in pairs if not is_yes_no(answer) for w in words(answer))
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return " ".join(ranked[:NUM_TRAIN_WORDS])


def _usual_answers(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Map every one- and two-word opening, and "" for all, to its most frequent answer."""
    counts: dict[str, Counter[str]] = {}
    for question, answer in pairs:
        for key in {opening(question, num_words) for num_words in (0, 1, 2)}:
            counts.setdefault(key, Counter())[normalise(answer)] += 1
    return {
        key: max(counter, key=lambda answer: (counter[answer], answer))
        for key, counter in counts.items()
    }


def _usual_answer(usual: dict[str, str], question: str) -> str:
    keys = (opening(question, num_words) for num_words in (2, 1, 0))
    return next(usual[key] for key in keys if key in usual)


def _accuracy(samples: Sequence[VQASample], answers: Sequence[str], mode: Mode) -> float | None:
    """Of one answer for all, or of one for each; questions the mode leaves out do not count."""
    measured = _measured(samples, answers, mode)
    return mean([metrics["accuracy"] for metrics in measured if metrics])


def _shares(samples: Sequence[VQASample], answers: Sequence[str], mode: Mode) -> JSONObject:
    measured = _measured(samples, answers, mode)
    return {name: mean([metrics[name] for metrics in measured]) for name in OPEN_METRICS}


def _measured(
    samples: Sequence[VQASample], answers: Sequence[str], mode: Mode
) -> list[dict[str, float]]:
    answers = list(answers) * len(samples) if len(answers) == 1 else answers
    return [measure(s, answer, mode).metrics for s, answer in zip(samples, answers, strict=True)]
