"""Tables of judges against one another and against people, for a terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from stllava.cli.judge.cells import empty, interval, number, plain, table
from stllava.cli.tables import Part
from stllava.records import JSONObject


def panel_parts(title: str, panel: JSONObject) -> list[Part]:
    """Kappas of every two, alphas, and what is left without each."""
    grid = empty(f"{title}: agreement beyond chance", ("kappa", "interval", "pairs"))
    for row in panel["kappas"]:
        cells = number(row["kappa"]), interval(row["interval"], 2), str(row["num_items"])
        grid.add_row(plain(f"{row['a']} and {row['b']}"), *cells)
    return [
        grid,
        Text(
            f"Krippendorff's alpha {number(panel['alpha_nominal'])} (nominal), "
            f"{number(panel['alpha_interval'])} (interval); Fleiss' kappa "
            f"{number(panel['fleiss_kappa'])} on {panel['fleiss_pairs']} pairs that all voted on\n"
            f"worth {number(panel['n_eff'])} independent votes of {len(panel['judges'])}"
        ),
        _left_out(title, panel),
    ]


def _left_out(title: str, panel: JSONObject) -> Table:
    columns = ("votes", "kappa with the others", "interval", "pairs", "alpha without", "n_eff")
    grid = empty(f"{title}: each left out", columns)
    for name, row in panel["left_out"].items():
        kappa = row["kappa_with_the_others"]
        grid.add_row(
            plain(name),
            f"{panel['votes'][name]:,}",
            number(kappa["kappa"]),
            interval(kappa["interval"], 2),
            f"{kappa['num_items']:,}",
            number(row["alpha_nominal"]),
            number(row["n_eff"]),
        )
    return grid


def calibration_parts(name: str, found: JSONObject) -> list[Part]:
    """One judge against the experts; the margin of one half as it does on the other."""
    kappa = found["kappa"]
    shares: list[tuple[str, Any]] = [
        ("right where both name a winner", found["accuracy"]),
        ("right of all that the experts decided", found["accuracy_of_all"]),
    ]
    threshold = found["threshold"]
    if threshold is not None:
        margin = f"margin {threshold['margin']:g} or more"
        for half in ("chosen_on", "reported_on"):
            where = half.replace("_", " ")
            shares.append((f"{margin}, {where}: right", threshold[half]["accuracy"]))
            shares.append((f"{margin}, {where}: kept", threshold[half]["kept"]))
    title = f"{name} against the experts, percent"
    confusion = "; ".join(
        f"experts {row}: " + ", ".join(f"{n} {said}" for said, n in cells.items())
        for row, cells in found["confusion"].items()
    )
    if threshold is None:
        from stllava.judging.audit.calibration import FEWEST  # needs scipy, which takes its time

        confusion += f"\nno margin: needs scores and {FEWEST} decided pairs in either half"
    elif not threshold["reached"]:
        confusion += f"\nno margin reaches {threshold['target']:g} %; shown is the best there is"
    agreed = f"kappa {number(kappa['kappa'])} ({interval(kappa['interval'], 2)})"
    return [table(title, shares), Text(f"{agreed} on {kappa['num_items']} pairs; {confusion}")]
