"""What was measured, as tables of the documents: from the files in `docs/data` that runs wrote."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
SECOND = "exact-gemma3-270m"
LEAST = (0.02, 0.1, 0.5)
"""Sizes of effects, in logits, beyond which edges are counted."""


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Write a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    cells = (" | ".join(str(cell).replace("|", "\\|") for cell in row) for row in lines)
    return "".join(f"| {line} |\n" for line in cells)


def code(text: object) -> str:
    """Mark up as code; nothing stays nothing."""
    return f"`{text}`" if text not in (None, "") else ""


MEASURED = {
    "CPR": ("CPR", "CPR low", "CPR high"),
    "CMD": ("CMD", "CMD low", "CMD high"),
    "Pearson": ("Pearson",),
    "rest": ("rest", "rest low", "rest high"),
    "Spearman": ("Spearman", "Spearman low", "Spearman high"),
    "top 100": ("top",),
    "alike": ("alike",),
    "passes": ("passes",),
    "MB": ("MB",),
}
"""The columns of what methods are worth, and the keys of their rows: a value, an interval."""


def measured_methods() -> str:
    """Show what every method was worth on each task whose comparison is kept here."""
    from edgewise.graphs.files.tables.methods import read_methods

    parts = []
    for path in sorted((FOLDER / "data").glob("methods-*.json")):
        file = read_methods(path)
        task, how = file.task["name"], file.comparison
        rows = [
            (code(row["method"]), *(figure(row, keys) for keys in MEASURED.values()))
            for row in file.methods
        ]
        sizes = {(row["method"], row["edges"]): row for row in file.sizes}
        kept = [
            (code(row["method"]), *(
                figure(sizes[row["method"], size], (key, f"{key}_low", f"{key}_high"))
                if (row["method"], size) in sizes else ""
                for size in how["sizes"] for key in ("signed", "absolute")),
             "" if row["edges"] is None else row["edges"], figure(row, ("f", "low", "high")))
            for row in file.methods
        ]  # fmt: skip
        heads = [f"{size:,}, {key}" for size in how["sizes"] for key in ("signed", "absolute")]
        asked = how["asked"]
        what = how.get("level", "edge")
        said = "" if asked is None else (
            f" Exact effects of all {asked['certain']} nodes; top is of the {asked['top']} "
            f"largest; rest is without {code(asked['largest'])}." if what == "node" else
            f" Exact effects of {asked['certain'] + asked['drawn']:,} edges, all that a method has "
            f"among its strongest {asked['top']} and {asked['drawn']} random ones; "
            f"rest is without {code(asked['largest'])}."
        )  # fmt: skip
        parts.append(
            f"### On {task}{', nodes' * (what == 'node')}\n\n"
            f"{file.task['examples']} pairs, {how['examples']} others held out; "
            f"{code(how['metric'])}, {how['ablation']} ablation.{said}\n\n"
            + table(["method", *MEASURED], rows)
            + f"\n![Faithfulness by size on {task}](data/{path.stem}.svg)\n\n"
            f"Faithfulness of so many strongest {what}s, and of circuits that searches chose "
            "themselves, held out:\n\n" + table(["method", *heads, "own", "f of own"], kept)
        )
    return "\n".join(parts)


def figure(row: Any, keys: Sequence[str]) -> str:
    """Write a value, with its interval where there are its ends; nothing of none."""
    value, *ends = (row[key] for key in keys)
    if value is None:
        return ""
    digits = 2 if abs(value) < 100 else 0
    text = f"{value:.{digits}f}" if abs(value) < 10 else f"{value:.0f}"
    if ends and None not in ends:
        text += f" [{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]"
    return text


def scored_methods() -> str:
    """Show what every method found on each kind of known circuit, in the mean."""
    file = known_scores()
    if file is None:
        return ""
    kind_of = {row["case"]: row["kind"] for row in file.cases}
    rows = []
    for method in file.methods:
        for kind in dict.fromkeys(kind_of.values()):
            own = [
                row
                for row in file.scored
                if row["method"] == method and kind_of[row["case"]] == kind
                and row["refused"] is None
            ]  # fmt: skip
            if own:
                first = sum((row["AUC"] or 0) > 1 - 1e-9 for row in own)
                means = (
                    mean(own, key) for key in ("AUC", "precision", "recall", "f", "CPR", "CMD")
                )
                seconds = sum(row["seconds"] or 0 for row in own)
                auc, *others = means
                of = " (nodes)" * (own[0].get("level") == "node")
                rows.append(
                    (
                        code(method) + of,
                        kind,
                        auc,
                        f"{first} of {len(own)}",
                        *others,
                        f"{seconds:.0f}",
                    )
                )
    heads = ["method", "kind", "AUC", "AUC 1", "precision", "recall", "f", "CPR", "CMD", "s"]
    return table(heads, rows)


def failures() -> str:
    """Show, of every method, the cases on which it missed edges, and what tells why."""
    file = known_scores()
    if file is None:
        return ""
    true = {case["case"]: case["true"] for case in file.cases}
    rows = []
    for method in file.methods:
        every = (row for row in file.scored if row["method"] == method)
        own = [row for row in every if row["recall"] is not None and row["recall"] < 1]
        if not own:
            continue
        lacking = (round((1 - (row["recall"] or 0)) * true[row["case"]]) for row in own)
        told = [row.get("missed") for row in own]
        missed = sum(lacking) if None in told else sum(one or 0 for one in told)
        flats = [row.get("flat") for row in own]
        flat = "" if None in flats else sum(one or 0 for one in flats)
        same = sum((row["f"] or 0) > 0.99 for row in own)
        worst = sorted(own, key=lambda row: row["f"] or 0)[0]
        rows.append(
            (code(method), len(own), missed, flat, same, f"{worst['case']} {worst['f'] or 0:.2f}")
        )
    heads = ["method", "cases", "edges missed", "of them without a score", "f > .99", "least f"]
    return table(heads, rows)


def scored_cases() -> str:
    """Show the area of every method on every known circuit."""
    file = known_scores()
    if file is None:
        return ""
    rows = []
    for number, case in enumerate(file.cases, 1):
        found = [file.row(method, case["case"]) for method in file.methods]
        areas = (row["AUC"] if row else None for row in found)
        shown = ("" if area is None else f"{area:.2f}" for area in areas)
        rows.append((number, case["case"], f"{case['true']} of {case['edges']:,}", *shown))
    return table(["", "case", "true edges", *map(code, file.methods)], rows)


def known_scores() -> Any:
    """Return the scores on known circuits that are kept here; None if there are none."""
    from edgewise.graphs.files.tables.known import read_known

    path = FOLDER / "data" / "known.json"
    return read_known(path) if path.exists() else None


def mean(rows: Sequence[Any], key: str) -> str:
    """Write the mean of what there is under a key."""
    values = [row[key] for row in rows if row[key] is not None]
    return f"{sum(values) / len(values):.3f}" if values else ""


def exact_effects() -> str:
    """Show the exact effects of all edges of a model, and how scores agree with them, by task."""
    import csv

    import numpy as np
    from scipy.stats import spearmanr

    shares, largest, agreement = [], [], []
    for path in sorted((FOLDER / "data").glob(f"{SECOND}-*.csv")):
        task = path.stem.removeprefix(f"{SECOND}-")
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        effects, half = (np.array([float(row[key]) for row in rows]) for key in ("effect", "half"))
        size = np.abs(effects)
        shares.append((
            code(task), f"{len(rows):,}",
            *(f"{(size > least).sum():,} ({(effects < -least).sum():,})" for least in LEAST),
            f"{((size > LEAST[0]) & (size > half)).sum():,}",
        ))  # fmt: skip
        first = np.argsort(-size, kind="stable")[:8]
        named = (f"{code(rows[i]['edge'])} {effects[i]:+.2f} ± {half[i]:.2f}" for i in first)
        largest.append((code(task), ", ".join(named)))
        for method in [key for key in rows[0] if key not in ("edge", "effect", "half")]:
            scores = np.array([float(row[method]) for row in rows])
            rest = np.arange(len(size)) != size.argmax()
            found = np.argsort(-np.abs(scores), kind="stable")
            exact = np.argsort(-size, kind="stable")
            tops = (len({*found[:n]} & {*exact[:n]}) / n for n in (20, 50, 200))
            agreement.append((
                code(task), code(method), f"{np.corrcoef(scores, effects)[0, 1]:.3f}",
                f"{np.corrcoef(scores[rest], effects[rest])[0, 1]:.3f}",
                f"{spearmanr(scores, effects)[0]:.3f}", *(f"{top:.2f}" for top in tops),
            ))  # fmt: skip
    sizes = [f"beyond {least} (negative)" for least in LEAST]
    heads = ["task", "method", "Pearson", "rest", "Spearman", "top 20", "top 50", "top 200"]
    return (
        table(["task", "edges", *sizes, f"beyond {LEAST[0]}, 0 outside the interval"], shares)
        + "\n" + table(["task", "largest, with 95% intervals over pairs"], largest)
        + "\n" + table(heads, agreement)
    )  # fmt: skip
