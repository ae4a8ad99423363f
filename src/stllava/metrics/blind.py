"""What answers that never look at the image would score; printed beside every model.

A model below these has shown nothing. On PathVQA the paper's closed accuracy (52.90) is under the
constant "yes" (54.38).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from stllava.metrics.closed import YES_NO, closed_correct
from stllava.metrics.text import normalise, overlap, words
from stllava.records import JSONObject, VQASample

YES_THERE_IS_NO = "Yes, there is no"  # 92 % on VQA-RAD for scorers that search for substrings


def blind_baselines(
    samples: Sequence[VQASample], train_pairs: Iterable[tuple[str, str]] = ()
) -> JSONObject:
    """Score constant answers and, given training (question, answer) pairs, the usual answer.

    "best_constant" is the option with the highest accuracy on these very samples: an upper bound.
    "majority" answers each question with the most frequent training answer to questions that open
    with the same two words, else the same word, else to all of them. None where n is 0.
    """
    closed = [sample for sample in samples if sample.kind == "closed"]
    is_open = [sample for sample in samples if sample.kind == "open"]
    constants = {"yes", "no"} | {normalise(o) for s in closed for o in (*s.options, s.answer)}
    accuracies = {answer: _accuracy(closed, [answer] * len(closed)) for answer in constants - {""}}
    best = max(accuracies, key=lambda answer: (accuracies[answer] or 0.0, answer))
    result: JSONObject = {
        "closed": {
            "n": len(closed),
            **{answer: accuracies[answer] for answer in YES_NO},
            "yes_there_is_no": _accuracy(closed, [YES_THERE_IS_NO] * len(closed)),
            "best_constant": {"answer": best, "accuracy": accuracies[best]},
        },
        "open": {"n": len(is_open)},
    }
    usual = _usual_answers(train_pairs)
    if usual:
        guesses = [_usual_answer(usual, sample.question) for sample in is_open]
        overlaps = [overlap(g, s.answer) for g, s in zip(guesses, is_open, strict=True)]
        result["closed"]["majority"] = _accuracy(
            closed, [_usual_answer(usual, sample.question) for sample in closed]
        )
        result["open"]["majority"] = {
            "recall": _mean([found.recall for found in overlaps]),
            "f1": _mean([found.f1 for found in overlaps]),
            "exact": _mean([found.exact for found in overlaps]),
        }
    return result


def opening(question: str, num_words: int) -> str:
    """The question's type as its first words: "is there", "what", "" for none."""
    return " ".join(words(question)[:num_words])


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


def _accuracy(samples: Sequence[VQASample], answers: Sequence[str]) -> float | None:
    return _mean(
        [
            100.0 * closed_correct(answer, sample.answer, sample.options)
            for sample, answer in zip(samples, answers, strict=True)
        ]
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
