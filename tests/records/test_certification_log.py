"""The certification log on disk: created, appended to, killed and resumed."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sample_certification import certification

from concert.certificates import Guarantee
from concert.errors import ConcertError
from concert.records.log import CertificationLog
from concert.records.reading import read_log
from concert.records.record import Certification, format_row

DATA = Path(__file__).parents[1] / "data_files"


# The records of data_files/certify.tsv with their true labels and seconds. Files that users have
# must stay readable: change neither these values nor the files.
GOLDEN: list[tuple[Certification, int, float]] = [
    (
        certification(
            0,
            radius=0.6739459817231213,
            p_lower=0.9964894321,
            proxy_volume=0.6739459817231213,
            log_volume=-2890.5,
            n_used=10000,
            votes=(0, 0, 0, 9990, 0, 0, 0, 0, 10, 0),
        ),
        3,
        1.25,
    ),
    (
        certification(
            20,
            label=1,
            candidate=1,
            radius=0.1 + 0.2,
            p_lower=0.7257468822499265,
            guarantee=Guarantee.FROZEN,
            certificate="frozen",
            proxy_volume=0.35,
            log_volume=-3012.0625,
            n_used=10000,
            votes=(3, 7400, 0, 0, 0, 0, 0, 0, 0, 2597),
            sigma_geomean=0.2916666666666667,
            sigma_max=0.5,
        ),
        8,
        0.9,
    ),
    (
        certification(
            40,
            label=-1,
            candidate=4,
            radius=0.0,
            p_lower=0.4903,
            certificate="queried-ball",
            proxy_volume=0.0,
            log_volume=-math.inf,
            n_used=10000,
            votes=(4912, 0, 0, 0, 5088, 0, 0, 0, 0, 0),
            sigma_max=0.475,
            reason="p_lower 0.4903 is at most 1/2 with n = 10000; \u03c3 too large?",
        ),
        0,
        1e-5,
    ),
    (
        certification(
            60,
            label=9,
            candidate=9,
            radius=5e-324,
            p_lower=math.nextafter(0.5, 1),
            guarantee=Guarantee.NONE,
            certificate="input-dependent",
            proxy_volume=sys.float_info.max,
            log_volume=math.inf,
            n_used=1024,
            votes=(0, 0, 0, 0, 0, 0, 0, 0, 0, 1024),
            sigma_min=0.1,
            sigma_geomean=0.1,
            sigma_max=0.1,
        ),
        9,
        12345.678,
    ),
    (
        certification(
            80,
            label=-1,
            candidate=0,
            radius=0.0,
            p_lower=0.0,
            certificate="queried-ball",
            proxy_volume=0.0,
            log_volume=-math.inf,
            n_used=16,
            votes=(0,) * 10,
            reason="no draw was decided",
        ),
        2,
        0.0,
    ),
]
GOLDEN_RUN: dict[str, Any] = {
    "identity": {
        "weights": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "noise": {"kind": "queried", "low": 0.25, "high": 0.5},
        "num_classes": 10,
        "n0": 100,
        "n": 10000,
        "alpha": 0.001,
        "seed": 7,
    },
    "info": {
        "method": "Concert (queried)",
        "sigma": "0.25\u20130.5",
        "data": "cifar10",
        "data_notes": "",
        "versions": {"concert": "0.1.0"},
    },
}


def write(path: Path, rows: list[tuple[Certification, int, float]], **run: Any) -> None:
    with CertificationLog.open(path, **{**GOLDEN_RUN, **run}) as log:
        for row in rows:
            log.append(*row)


def test_writing_the_golden_records_gives_the_golden_files(tmp_path: Path) -> None:
    write(tmp_path / "certify.tsv", GOLDEN)
    assert (tmp_path / "certify.tsv").read_bytes() == (DATA / "certify.tsv").read_bytes()
    assert (tmp_path / "certify.json").read_bytes() == (DATA / "certify.json").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["certify.json", "certify.tsv"]


def test_writing_in_two_runs_gives_the_golden_files_too(tmp_path: Path) -> None:
    path = tmp_path / "new" / "certify.tsv"
    write(path, GOLDEN[:2])
    with CertificationLog.open(path, info={"other": True}, identity=GOLDEN_RUN["identity"]) as log:
        assert log.done == {0, 20}
        assert log.run["info"] == GOLDEN_RUN["info"]
        for row in GOLDEN[2:]:
            log.append(*row)
        assert log.done == {0, 20, 40, 60, 80}
    assert path.read_bytes() == (DATA / "certify.tsv").read_bytes()
    assert path.with_suffix(".json").read_bytes() == (DATA / "certify.json").read_bytes()


def test_reading_the_golden_file_gives_the_golden_values() -> None:
    log = read_log(DATA / "certify.tsv")
    assert log.run == {"schema": 1, **GOLDEN_RUN}
    assert log.path == DATA / "certify.tsv"
    assert len(log.frame) == len(GOLDEN)
    for (_, row), (record, true_label, seconds) in zip(log.frame.iterrows(), GOLDEN, strict=True):
        assert (row["idx"], row["label"], row["time"]) == (record.index, true_label, seconds)
        assert (row["predict"], row["radius"]) == (record.label, record.radius)
        assert row["correct"] == (record.label == true_label)
        for name in ("candidate", "p_lower", "n_used", "guarantee", "certificate", "proxy_volume"):
            assert row[name] == getattr(record, name)
        for name in ("log_volume", "sigma_min", "sigma_geomean", "sigma_max", "reason"):
            assert row[name] == getattr(record, name)
    assert list(log.frame["votes"])[:2] == ["3:9990,8:10", "0:3,1:7400,9:2597"]


def test_a_line_torn_at_any_byte_is_cut_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "certify.tsv"
    write(path, GOLDEN[:3])
    whole = path.read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1
    for end in range(start, len(whole)):
        path.write_bytes(whole[:end])
        caplog.clear()
        if end > start:
            with pytest.raises(ConcertError, match="ends within a line"):
                read_log(path)
        with (
            caplog.at_level(logging.WARNING),
            CertificationLog.open(path, **GOLDEN_RUN) as log,
        ):
            assert log.done == {0, 20}
            assert ("torn" in caplog.text) == (end > start)
            assert path.read_bytes() == whole[:start]
            log.append(*GOLDEN[2])
        assert path.read_bytes() == whole


def test_a_torn_header_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "certify.tsv"
    write(path, [])
    header = path.read_bytes()
    for end in (0, 1, 40, len(header) - 2, len(header) - 1):
        path.write_bytes(header[:end])
        write(path, [], identity={"end": end})
        assert path.read_bytes() == header
        assert json.loads(path.with_suffix(".json").read_text())["identity"] == {"end": end}


def test_a_last_line_with_too_few_columns_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "certify.tsv"
    write(path, GOLDEN[:2])
    whole = path.read_bytes()
    path.write_bytes(whole + b"40\t0\t-1\n")
    with CertificationLog.open(path, **GOLDEN_RUN) as log:
        assert log.done == {0, 20}
    assert path.read_bytes() == whole


def spoil(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"0.30000000000000004", b"0,3", r"certify.tsv, line 3: radius '0,3' is not a number"),
        (b"\n20\t", b"\n", r"line 3: 17 columns instead of 18"),
        (b"\n20\t", b"\n0\t", r"line 3: image 0 already stands in line 2: delete one"),
        (b"\n20\t", b"\n\xff\t", r"line 3: .*utf-8"),
    ],
)
def test_a_damaged_line_in_the_middle_is_named(
    tmp_path: Path, old: bytes, new: bytes, message: str
) -> None:
    path = tmp_path / "certify.tsv"
    write(path, GOLDEN)
    spoil(path, old, new)
    damaged = path.read_bytes()
    with pytest.raises(ConcertError, match=message) as caught:
        CertificationLog.open(path, **GOLDEN_RUN)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConcertError, match=message):
        read_log(path)
    assert path.read_bytes() == damaged


def test_another_identity_is_refused_and_named(tmp_path: Path) -> None:
    path = tmp_path / "certify.tsv"
    write(path, GOLDEN[:2])
    before = path.read_bytes()
    identity = {
        **GOLDEN_RUN["identity"],
        "noise": {"kind": "queried", "low": 0.125, "high": 0.5},
        "n": 1000,
        "engine": "torch",
    }
    with pytest.raises(ConcertError) as caught:
        CertificationLog.open(path, identity, {})
    assert str(caught.value) == (
        f"{path} was made with other settings (noise.low was 0.25, is 0.125; n was 10000, is 1000; "
        f"engine was absent, is torch): give another --log, or delete {path}"
    )
    identity |= {"alpha": 0.01, "seed": 8}
    with pytest.raises(ConcertError, match=r"is 0.01; and 2 more\)"):
        CertificationLog.open(path, identity, {})
    assert path.read_bytes() == before
    with CertificationLog.open(path, **GOLDEN_RUN) as log:  # the lock is free again
        assert log.done == {0, 20}


def test_identities_are_compared_as_json(tmp_path: Path) -> None:
    path = tmp_path / "certify.tsv"
    write(path, GOLDEN[:1], identity={"shape": (3, 32, 32)})
    with CertificationLog.open(path, {"shape": [3, 32, 32]}, {}) as log:
        assert log.done == {0}


def test_without_the_json_rows_are_not_resumed(tmp_path: Path) -> None:
    path = tmp_path / "certify.tsv"
    write(path, GOLDEN[:1])
    path.with_suffix(".json").unlink()
    with pytest.raises(
        ConcertError, match=r"cannot be resumed without certify\.json: give another"
    ):
        CertificationLog.open(path, **GOLDEN_RUN)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}', '{"identity": 1, "info": {}}'])
def test_a_broken_json_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "certify.tsv"
    write(path, GOLDEN[:1])
    path.with_suffix(".json").write_text(text)
    for action in (lambda: CertificationLog.open(path, **GOLDEN_RUN), lambda: read_log(path)):
        with pytest.raises(ConcertError, match=r"certify.json does not describe"):
            action()


def test_a_later_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "certify.tsv"
    write(path, GOLDEN[:1])
    spoil(path.with_suffix(".json"), b'"schema": 1', b'"schema": 2')
    with pytest.raises(ConcertError, match="schema 2, this version reads 1"):
        CertificationLog.open(path, **GOLDEN_RUN)


def test_a_json_without_rows_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "certify.tsv"
    write(path, GOLDEN[:1], identity={"seed": 1})
    path.unlink()
    write(path, GOLDEN[:1])
    assert read_log(path).run["identity"] == GOLDEN_RUN["identity"]


def test_files_that_are_no_log_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "certify.tsv"
    path.write_bytes((DATA / "cohen_seconds.tsv").read_bytes())
    with pytest.raises(ConcertError, match="is not a certification log of this version"):
        CertificationLog.open(path, **GOLDEN_RUN)
    assert path.read_bytes() == (DATA / "cohen_seconds.tsv").read_bytes()
    with pytest.raises(ConcertError, match=r"cannot write .*directory"):
        CertificationLog.open(tmp_path, **GOLDEN_RUN)
    with pytest.raises(ConcertError, match="cannot write"):
        CertificationLog.open(path / "certify.tsv", **GOLDEN_RUN)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "certify.tsv"
    with CertificationLog.open(path, **GOLDEN_RUN) as log:
        with pytest.raises(ConcertError, match="in use by another process: wait for it"):
            CertificationLog.open(path, **GOLDEN_RUN)
        log.append(*GOLDEN[0])
    with CertificationLog.open(path, **GOLDEN_RUN) as log:
        assert log.done == {0}


def test_an_image_is_logged_once(tmp_path: Path) -> None:
    with CertificationLog.open(tmp_path / "certify.tsv", **GOLDEN_RUN) as log:
        log.append(*GOLDEN[0])
        with pytest.raises(ValueError, match="already has a row for image 0"):
            log.append(*GOLDEN[0])


def test_a_full_disk_leaves_no_half_line() -> None:
    # Linux's own device of a disk that is always full.
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    log = CertificationLog(Path("/dev/full"), open("/dev/full", "ab", buffering=0), {}, set())  # noqa: SIM115
    with log, pytest.raises(ConcertError, match=os.strerror(errno.ENOSPC)):
        log.append(*GOLDEN[0])
    assert log.done == set()


APPEND_FOREVER = """
import sys
from concert.certificates import Guarantee
from concert.records.log import CertificationLog
from concert.records.record import Certification

with CertificationLog.open(sys.argv[1], {"seed": 7}, {}) as log:
    for index in range(10**9):
        log.append(
            Certification(
                3, 0.1 * index, 0.9, Guarantee.DEPLOYED, "isotropic", None, 1.0, 1.0, 9, (9,), 7,
                index, 3, 0.25, 0.25, 0.25, "x" * 5000,
            ),
            3,
            0.5,
        )
        print(index, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
@pytest.mark.parametrize("reported", [1, 40])
def test_a_killed_process_loses_no_row_that_it_reported(tmp_path: Path, reported: int) -> None:
    path = tmp_path / "certify.tsv"
    with subprocess.Popen(
        [sys.executable, "-c", APPEND_FOREVER, str(path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdout is not None
        seen = [int(process.stdout.readline()) for _ in range(reported)]
        process.send_signal(signal.SIGKILL)
        seen += [int(line) for line in process.stdout if line.endswith(b"\n")]
    with CertificationLog.open(path, {"seed": 7}, {}) as log:
        assert log.done.issuperset(seen)
        following = max(log.done) + 1
        assert log.done == set(range(following))
        log.append(certification(following), 3, 1.0)
    lines = path.read_text().splitlines()
    assert len(lines) == following + 2
    assert lines[-1] == format_row(certification(following), 3, 1.0)
