"""The races of `draws.py` and `training.py` from their records, all networks in one table.

    python benchmarks/summary.py benchmarks/records

Nothing is measured: the tables of docs/performance.md come from here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from draws import KEPT, PRODUCTS, PUBLISHED, SHAPES
from interleave import Rates, times
from jsonargparse import auto_cli

Record = dict[str, Any]


def read(file: Path) -> Record:
    """A record with its rates as `Rates`; a contestant that could not run is left out."""
    record: Record = json.loads(file.read_text())
    found = record["rates"].items()
    record["rates"] = {name: Rates(tuple(of)) for name, of in found if not isinstance(of, str)}
    return record


def loops(record: Record) -> tuple[str, str]:
    """The published loop at its own batch size, and at the one that suits it best."""
    rates = record["rates"]
    plain = [name for name in rates if name.startswith(PUBLISHED) and not name.endswith(KEPT)]
    return plain[0], max(plain, key=lambda name: rates[name].median)


def table(
    records: dict[str, Record],
    title: str,
    cell: Callable[[Record, str], str],
    wanted: Callable[[str], bool] = lambda name: True,
) -> list[str]:
    """A Markdown table: a row for each contestant wanted, a column for each network."""
    names = dict.fromkeys(name for record in records.values() for name in record["rates"])
    lines = [
        f"| {title} | " + " | ".join(records) + " |",
        "| :-- |" + " --: |" * len(records),
    ]
    for name in names:
        if name != PRODUCTS and wanted(name):
            cells = (cell(r, name) if name in r["rates"] else "" for r in records.values())
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def against(record: Record, name: str) -> str:
    """Ratios to the published loop at both batch sizes, and the share of the matrix products."""
    rates = record["rates"]
    first, best = (rates[name].over(rates[loop]) for loop in loops(record))
    share = rates[name].over(rates[PRODUCTS]) * record["flops"] / 1e6
    return f"{times(first)}, {times(best)}, {share:.0%}"


def cost_of_queries(record: Record, name: str) -> str:
    """How many times longer a draw of queried noise takes than one of isotropic noise."""
    rates = record["rates"]
    return times(rates[name.replace("queried", "isotropic")].over(rates[name]), up=True)


def against_step(record: Record, name: str) -> str:
    """Ratios to the published step, without its blocks kept and with them."""
    rates = record["rates"]
    plain, kept = rates["published MACER"], rates[f"published MACER{KEPT}"]
    return f"{times(rates[name].over(plain))}, {times(rates[name].over(kept))}"


def main(folder: Path) -> str:
    """Every table that the records in `folder` give."""
    files = ((network, folder / f"draws-{network}.json") for network in SHAPES)
    draws = {network: read(file) for network, file in files if file.is_file()}
    lines = []
    for network, record in draws.items():
        first, best = loops(record)
        lines.append(f"{network}: against {first}, {best}; {record['machine']}")
    lines += ["", *table(draws, "isotropic noise", against, lambda name: "queried" not in name)]
    pairs = {network: r for network, r in draws.items() if any("queried" in n for n in r["rates"])}
    lines += table(pairs, "queried noise", cost_of_queries, lambda name: "queried" in name)
    steps = {
        f"{record['network']}, batch {record['batch']}": record
        for record in map(read, sorted(folder.glob("training-*.json")))
    }
    return "\n".join([*lines, *table(steps, "training step", against_step)])


if __name__ == "__main__":
    print(auto_cli(main))
