"""What eval pays for: a ledger for each endpoint of its section, agreed to before it is asked.

A file for each, because a cap holds for all that its ledger has ever paid, and every endpoint has a
cap of its own. A run and its controls share them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from stllava.config import PaidSection, Recipe
from stllava.generation.protocol import Generator
from stllava.images import encode_jpeg_base64, pixels_sha256
from stllava.judging.calls.budget import Plan, budget, called
from stllava.judging.calls.ledger import Ledger
from stllava.pipeline import paid
from stllava.pipeline.evaluate.questions import Exam
from stllava.pipeline.evaluate.views import View, opener, requests, views
from stllava.pipeline.job import Job, Quiet
from stllava.pipeline.speak import GREEDY

JUDGE = "eval.judge"
TEXTS_ONLY = paid.Shown(uri=lambda _: "")
PlanOfJudge = Callable[[Ledger | None], Plan]


def endpoints(recipe: Recipe) -> dict[str, PaidSection]:
    """The models behind an API, by their place in the recipe."""
    return {f"eval.endpoints.{name}": one for name, one in recipe.eval.endpoints.items()}


def ledger_path(job: Job, section: PaidSection, where: str) -> Path:
    """eval/endpoints.NAME.sqlite or eval/judge.sqlite of the run, or the recipe's own file."""
    file = f"{where.removeprefix('eval.')}.sqlite"
    return Path(section.ledger) if section.ledger else job.run.path / "eval" / file


@contextmanager
def paid_generator(
    job: Job, section: PaidSection, where: str, shown: paid.Shown
) -> Iterator[Generator]:
    """The endpoint, paid from its ledger. It raises BudgetStopped where its cap is reached."""
    with Ledger(ledger_path(job, section, where), budget(section, where)) as book:
        generator = paid.endpoint(section, shown, book, where=where)
        with closing(paid.UpToTheCap(generator, section, where)) as capped:
            yield capped


def shown_in(job: Job, view: View) -> paid.Shown:
    """What is sent for an image id in this view, and the hash of its pixels."""
    open_image = opener(job, view)

    def uri(name: str) -> str:
        return "data:image/jpeg;base64," + encode_jpeg_base64(open_image(name))

    return paid.Shown(uri=uri, pixels=pixels_in(job, view))


def pixels_in(job: Job, view: View) -> Callable[[str], str]:
    """Image id to the hash of the pixels that this view shows in its place."""
    open_image = opener(job, view)

    def pixels(name: str) -> str:
        drawn = view.name == "blank"
        known = "" if drawn else job.images[view.shown.get(name, name)].pixels_sha256
        return known or pixels_sha256(open_image(name))

    return pixels


def agree(job: Job, exams: Sequence[Exam], plan_of_judge: PlanOfJudge) -> None:
    """Ask once, before the first model answers, for all that goes to a remote host."""
    for where, section, count in _counts(job, exams, plan_of_judge):
        paid.agree_to_pay(job.agree, section, count, where=where)


def lines(job: Job, exams: Sequence[Exam], plan_of_judge: PlanOfJudge) -> list[str]:
    """What every endpoint would still be sent, and at what price."""
    return [
        f"{called(section, where)}: {line}"
        for where, section, count in _counts(job, exams, plan_of_judge)
        for line in count().lines(where)
    ]


def _counts(
    job: Job, exams: Sequence[Exam], plan_of_judge: PlanOfJudge
) -> Iterator[tuple[str, PaidSection, Callable[[], Plan]]]:
    if job.control is None:  # a control asks no endpoint but the judge
        for where, section in endpoints(job.recipe).items():
            yield where, section, partial(_plan, job, exams, where, section)
    if (judge := job.recipe.eval.judge) is not None:

        def plan() -> Plan:
            with book_to_read(job, judge, JUDGE) as book:
                return plan_of_judge(book)

        yield JUDGE, judge, plan


def book_to_read(
    job: Job, section: PaidSection, where: str
) -> AbstractContextManager[Ledger | None]:
    """The ledger if there is one yet; counting writes nothing."""
    path = ledger_path(job, section, where)
    return Ledger(path, budget(section, where)) if path.is_file() else nullcontext()


def _plan(job: Job, exams: Sequence[Exam], where: str, section: PaidSection) -> Plan:
    """What one model would still be asked, in all views of all benchmarks."""
    quiet = replace(job, reporter=Quiet())
    name = where.removeprefix("eval.endpoints.")
    of_view: list[Callable[[str], str]] = []

    def pixels(image: str) -> str:
        number, _, own = image.partition("/")
        return of_view[int(number)](own)

    with book_to_read(job, section, where) as book:
        counting = paid.counting(section, paid.Shown(pixels=pixels), book, where=where)
        for exam in exams:
            for view in views(quiet, exam):
                if job.stage(f"eval/{name}/{exam.name}/{view.name}").complete:
                    continue
                number = len(of_view)  # so that equal calls of several views count once
                of_view.append(pixels_in(quiet, view))
                asked = requests(exam, view.samples, job.recipe.eval.max_tokens)
                there = [r.model_copy(update={"image": f"{number}/{r.image}"}) for r in asked]
                for _ in counting.generate(there, GREEDY):
                    pass
    return counting.plan
