"""Tables 8 and 9 against hand-made logs."""

from __future__ import annotations

from collections.abc import Callable

from concert.evaluation.paper_appendix import table_8, table_9
from concert.records.reading import LoadedLog

QUERIED = {"noise": {"kind": "queried"}}
OUTCOMES = [(0, 0, 0.6), (1, 1, 0.3), (2, 3, 0.9), (3, -1, 0.0)]


def test_table_8(make_log: Callable[..., LoadedLog]) -> None:
    logs = [
        make_log(OUTCOMES, method="Concert (generated)", box="0.25-0.475", noise="generated"),
        make_log(OUTCOMES, "b", identity=QUERIED, method="Concert", data="mnist"),
        make_log(OUTCOMES, "c", method="Cohen", sigma="0.25", noise="isotropic"),
        make_log(OUTCOMES, "d", method="Concert (static)", box="0.25-0.475", noise="static"),
        make_log(OUTCOMES, "e", method="of another project"),
    ]
    table = table_8(logs)
    assert list(table["source"]) == ["paper"] * 3 + ["here"] * 2
    assert list(table["data"]) == ["cifar10"] * 3 + ["mnist"] * 2
    assert list(table["method"]) == ["Concert"] * 3 + ["Concert (generated)", "Concert"]
    assert table.loc[1, ["sigma", "min", "median", "max"]].tolist() == [
        "0.5-1",
        0.5,
        0.5017,
        0.5302,
    ]
    assert table.loc[3, "min"] == 0.25


def test_table_9(make_log: Callable[..., LoadedLog]) -> None:
    identity = {"n": 1000, "engine": "torch-eager", "stopping": "grid:0,1"}
    versions = {"versions": {"torch": "2.0"}}
    logs = [
        make_log(OUTCOMES, "a", data="mnist", method="Cohen", sigma="0.25"),
        make_log(
            OUTCOMES,
            "b",
            identity=identity,
            data="mnist",
            method="Concert (queried)",
            box="0.5-0.95",
            **versions,
        ),
        make_log(OUTCOMES, "c", data="mnist", method="Concert (generated)", box="0.5-0.95"),
    ]
    predicted = {"n": 2000, "images": 5, "seconds": 0.25, "engine": "e", "torch": "2.1"}
    table = table_9(logs, [(1.0, 10), (2.0, 20), (3.0, 30)], [predicted, predicted, {}])
    assert table[["item", "source", "method"]].to_numpy().tolist() == [
        ["Single prediction", "paper", "Concert"],
        ["Single prediction", "here", "Concert (queried)"],
        ["Single Certification", "paper", "Concert"],
        ["Single Certification", "here", "Concert (queried)"],
        ["Single Certification", "here", "Concert (generated)"],
        ["Training epoch", "paper", "Concert"],
        ["Training epoch", "here", "Concert (queried)"],
        ["Training epoch", "here", "Concert (generated)"],
    ]
    here = table[table["source"] == "here"]
    assert set(here["data"]) == {"mnist"}
    assert set(table.loc[table["source"] == "paper", "data"]) == {"not stated"}
    assert list(here["n"]) == ["2000", "1000", "1000", "", ""]
    # The rows of the logs take 0.5, 1, 1.5 and 2 seconds.
    assert list(here["seconds"]) == [0.25, 1.25, 1.25, 2.0, 3.0]
    assert list(table.loc[table["source"] == "paper", "seconds"]) == [3.85, 14.62, 593.26]
    assert list(here["images"]) == ["5", "4", "4", "20", "30"]
    used = [str(round(log.frame["n_used"].mean())) for log in logs[1:]]
    assert list(here["draws"]) == ["2000", *used, "", ""]
    assert table.loc[0, "machine"] == "two P100 GPUs"
    assert list(here["machine"][:3]) == ["e, torch 2.1", "torch-eager, torch 2.0", ""]
