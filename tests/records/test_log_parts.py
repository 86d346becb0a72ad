"""A log that several processes write is the log that one process writes, whatever is killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from concert.certificates import Guarantee
from concert.errors import ConcertError
from concert.noise import IsotropicNoise
from concert.recipes.building import Description, build_base
from concert.records.parts import existing_parts, shared_log
from concert.records.reading import read_log
from concert.records.record import Certification
from concert.runs import save_model
from concert.team import Team, launch, team_fabric

IDENTITY = {"seed": 0, "weights": "w"}
IMAGES = [4, 0, 7, 2, 9, 5, 1]


@dataclass(frozen=True)
class Threads(Team):
    """A team whose processes are threads."""

    values: Any = None
    barrier: Any = None

    def gather(self, value: Any) -> list[Any]:
        self.values[self.rank] = value
        self.barrier.wait(timeout=20)
        everything = list(self.values)
        self.barrier.wait(timeout=20)
        return everything


def certification(index: int) -> Certification:
    return Certification(
        label=1,
        radius=0.5 + index,
        p_lower=0.9,
        guarantee=Guarantee.DEPLOYED,
        certificate="isotropic",
        axes=None,
        proxy_volume=0.5,
        log_volume=-1.0,
        n_used=10,
        votes=(0, 10),
        seed=0,
        index=index,
        candidate=1,
        sigma_min=0.25,
        sigma_geomean=0.25,
        sigma_max=0.25,
        reason="",
    )


class Killed(Exception):
    pass


def work(
    path: Path,
    team: Team,
    die_after: int | None = None,
    identity: Any = IDENTITY,
    images: list[int] = IMAGES,
) -> int:
    """Certify the images of this process; returns how many."""
    with shared_log(path, identity, {}, team, images) as (log, todo, _):
        for number, index in enumerate(todo):
            if number == die_after:
                raise Killed
            log.append(certification(index), 1, seconds=float(team.rank))
    return len(todo)


def together(
    path: Path, size: int, dies: dict[int, int] | None = None, identity: Any = IDENTITY
) -> list[int]:
    """As many processes as threads; `dies`: rank -> images after which it is killed."""
    values, barrier = [None] * size, threading.Barrier(size)
    teams = [Threads(rank, size, values=values, barrier=barrier) for rank in range(size)]
    dead: list[int] = []

    def run(team: Team) -> int:
        try:
            return work(path, team, (dies or {}).get(team.rank), identity)
        except Killed:
            dead.append(team.rank)
            # The last one to die has the others do what they can, and then wait in vain.
            while len(dead) == len(dies or {}) and barrier.n_waiting < size - len(dead):
                time.sleep(0.001)
            if len(dead) == len(dies or {}):
                barrier.abort()
            return -1
        except threading.BrokenBarrierError:
            return -1

    with ThreadPoolExecutor(size) as pool:
        counts = list(pool.map(run, teams))
    return counts


def content(path: Path) -> list[list[str]]:
    """Every column but time."""
    frame = read_log(path).frame.drop(columns="time")
    return [list(map(str, row)) for row in frame.itertuples(index=False)]


@pytest.fixture
def alone(tmp_path: Path) -> list[list[str]]:
    assert work(tmp_path / "alone.tsv", Team()) == len(IMAGES)
    return content(tmp_path / "alone.tsv")


@pytest.mark.parametrize("size", [2, 3, 8])
def test_the_log_of_many_is_the_log_of_one(
    size: int, tmp_path: Path, alone: list[list[str]]
) -> None:
    path = tmp_path / "many.tsv"
    counts = together(path, size)
    assert sum(counts) == len(IMAGES)
    assert max(counts) - min(counts) <= 1
    assert content(path) == alone
    # Every process wrote something, and no part is left.
    assert read_log(path).frame["time"].nunique() == min(size, len(IMAGES))
    assert sorted(tmp_path.iterdir()) == sorted(
        tmp_path / f"{name}.{kind}" for name in ("alone", "many") for kind in ("tsv", "json")
    )


@pytest.mark.parametrize("then", [1, 2, 5])
def test_killed_processes_lose_nothing_that_is_on_disk(
    then: int, tmp_path: Path, alone: list[list[str]]
) -> None:
    path = tmp_path / "log.tsv"
    # Four processes: ranks 0 to 2 have two images, the last one has one.
    assert together(path, 4, dies={1: 1, 3: 0})[1] == -1
    done = len(existing_parts(path))
    assert done >= 2
    left = together(path, then) if then > 1 else [work(path, Team())]
    # What was on disk is not done again: at most rank 1's second image and rank 3's only one.
    assert sum(left) <= 2
    assert content(path) == alone
    assert not existing_parts(path)


def test_an_unfinished_log_of_one_is_finished_by_many(
    tmp_path: Path, alone: list[list[str]]
) -> None:
    path = tmp_path / "log.tsv"
    with pytest.raises(Killed):
        work(path, Team(), die_after=3)
    assert sum(together(path, 2)) == len(IMAGES) - 3
    assert content(path) == alone


def test_a_part_killed_before_its_first_row(tmp_path: Path, alone: list[list[str]]) -> None:
    path = tmp_path / "log.tsv"
    (tmp_path / "log.part1of2.tsv").write_bytes(b"idx\tla")
    assert sum(together(path, 2)) == len(IMAGES)
    assert content(path) == alone
    assert not existing_parts(path)


def test_parts_of_another_run_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.tsv"
    together(path, 2, dies={0: 1, 1: 1})
    assert existing_parts(path)
    with pytest.raises(ConcertError, match="made with other settings"):
        work(path, Team(), identity={"seed": 1, "weights": "w"})


def test_a_refused_subset_leaves_the_log_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "log.tsv"
    together(path, 2, dies={0: 1, 1: 1}, identity={**IDENTITY, "subset": "all"})
    assert existing_parts(path)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(ConcertError, match="does not have"):
        work(path, Team(), identity={**IDENTITY, "subset": "few"}, images=IMAGES[-1:])
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_processes_that_differ_are_refused(tmp_path: Path) -> None:
    values, barrier = [None] * 2, threading.Barrier(2)

    def run(rank: int) -> str:
        team = Threads(rank, 2, values=values, barrier=barrier)
        try:
            work(tmp_path / "log.tsv", team, identity={"seed": rank})
        except ConcertError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(2) as pool:
        assert all("the processes differ" in text for text in pool.map(run, range(2)))
    assert not list(tmp_path.iterdir())


def test_numbers_of_processes_that_make_no_sense() -> None:
    for devices, nodes in ((0, 1), (1, 0)):
        with pytest.raises(ConcertError, match="must be at least 1"):
            team_fabric("cpu", devices, nodes)
    with launch(team_fabric("cpu", 1, 1)) as team:
        assert team == Team()


# ------------------------------------------------------------------------- real processes


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    classifier = {"name": "lenet", "init_args": {"image_size": 28}, "mean": None, "std": None}
    names = tuple(str(digit) for digit in range(10))
    noise = {"kind": "isotropic", "sigma": 0.25}
    description = Description(classifier, noise, 10, (1, 28, 28), names, "digits")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = build_base(description, trust=False)
    save_model(folder / "model", description, base, IsotropicNoise(0.25))
    return folder


def command(run: Path, log: Path, *arguments: str, images: int = 6, n: int = 1000) -> list[str]:
    flags = ["--subset", f"first:{images}", "--n", str(n), "--log", str(log)]
    flags += ["--accelerator", "cpu", "--workers", "1", *arguments]
    return [sys.executable, "-m", "concert", "certify", str(run), *flags]


@pytest.mark.slow
def test_two_processes_give_the_log_of_one(run_folder: Path, tmp_path: Path) -> None:
    for name, arguments in (("one", []), ("two", ["--devices", "2"])):
        done = subprocess.run(
            # Enough draws that batches mix images.
            command(run_folder, tmp_path / f"{name}.tsv", *arguments, images=24),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("log: ") == 1
    assert content(tmp_path / "two.tsv") == content(tmp_path / "one.tsv")
    assert not existing_parts(tmp_path / "two.tsv")


def descendants(pid: int) -> list[int]:
    """Processes whose parent is `pid`."""
    children = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            continue
        if parent == pid:
            children.append(int(folder.name))
    return children


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_worker_killed_in_the_middle(run_folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.tsv"
    # Far more images than are done before the kill.
    running = subprocess.Popen(
        command(run_folder, log, "--devices", "2", images=60, n=2048),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for_rows(running, tmp_path / "log.part1of2.tsv", 2)
        (worker,) = [
            pid
            for pid in descendants(running.pid)
            if b"certify" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        os.kill(worker, signal.SIGKILL)
        assert running.wait(timeout=120) != 0
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
    kept = sum(path.read_bytes().count(b"\n") - 1 for path in existing_parts(log))
    assert kept >= 4
    # Another number of processes does what is missing, and only that.
    done = subprocess.run(
        command(run_folder, log, images=60, n=2048), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert len(read_log(log).frame) == 60
    assert list(read_log(log).frame["idx"]) == list(range(60))
    assert not existing_parts(log)


def wait_for_rows(running: subprocess.Popen[bytes], part: Path, rows: int) -> None:
    deadline = time.monotonic() + 240
    while not (part.exists() and part.read_bytes().count(b"\n") > rows):
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_first(
    number: signal.Signals, run_folder: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log.tsv"
    with (tmp_path / "errors").open("wb") as errors:
        running = subprocess.Popen(
            command(run_folder, log, "--devices", "2", images=290, n=16384),
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
    try:
        wait_for_rows(running, tmp_path / "log.part1of2.tsv", 2)
        started = descendants(running.pid)
        assert started
        running.send_signal(number)
        code = running.wait(timeout=120)
        deadline = time.monotonic() + 60
        # One that was asked has waited for the others; nobody waits for one that was killed.
        while number == signal.SIGKILL and any(map(alive, started)):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert not any(map(alive, started))
    finally:
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
    if number == signal.SIGTERM:
        assert code == 130
        (line,) = (tmp_path / "errors").read_text().splitlines()
        assert "interrupted" in line
    # Nothing is held, and nothing is lost.
    images = sum(path.read_bytes().count(b"\n") - 1 for path in existing_parts(log))
    assert images >= 3
    with pytest.raises(ConcertError, match="other settings"):
        work(log, Team())


def alive(pid: int) -> bool:
    """Whether a process runs, and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.slow
def test_a_refused_log_is_said_once(run_folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.tsv"
    flags = ("--devices", "2")
    for alpha, code, errors in (("0.001", 0, 0), ("0.01", 2, 1)):
        done = subprocess.run(
            command(run_folder, log, *flags, "--alpha", alpha, images=2, n=1008),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == code, done.stderr
        assert len(done.stderr.splitlines()) == errors, done.stderr


def namespaces_work() -> bool:
    """Whether this process may make network namespaces, which stand for two machines."""
    if shutil.which("ip") is None:
        return False
    name = f"concert-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True)
    subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return made.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not namespaces_work(), reason="needs ip and the right to make namespaces")
def test_two_hosts_give_the_log_of_one(run_folder: Path, tmp_path: Path) -> None:
    """Two machines with a network between them and no disk in common."""
    done = subprocess.run(
        command(run_folder, tmp_path / "one.tsv"), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    hosts = [f"concert{os.getpid()}h{rank}" for rank in range(2)]
    cables = [f"ct{os.getpid()}x{rank}" for rank in range(2)]

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    try:
        for host in hosts:
            ip("netns", "add", host)
        ip("link", "add", cables[0], "type", "veth", "peer", "name", cables[1])
        for rank, (host, cable) in enumerate(zip(hosts, cables, strict=True)):
            ip("link", "set", cable, "netns", host)
            ip("-n", host, "addr", "add", f"10.77.0.{rank + 1}/24", "dev", cable)
            ip("-n", host, "link", "set", cable, "up")
            ip("-n", host, "link", "set", "lo", "up")
        running = []
        for rank, (host, cable) in enumerate(zip(hosts, cables, strict=True)):
            folder = tmp_path / host
            shutil.copytree(run_folder, folder)
            start = ["ip", "netns", "exec", host, sys.executable, "-m", "torch.distributed.run"]
            start += ["--nnodes", "2", "--node-rank", str(rank), "--nproc-per-node", "1"]
            start += ["--master-addr", "10.77.0.1", "--master-port", "29511", "-m", "--"]
            certify = command(folder, folder / "hosts.tsv", "--num-nodes", "2")[2:]
            environment = os.environ | {"GLOO_SOCKET_IFNAME": cable, "OMP_NUM_THREADS": "1"}
            running.append(
                subprocess.Popen(
                    [*start, *certify],
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        outputs = [process.communicate(timeout=300)[0] for process in running]
        assert [process.returncode for process in running] == [0, 0], outputs
    finally:
        for host in hosts:
            subprocess.run(["ip", "netns", "del", host], capture_output=True)
    assert content(tmp_path / hosts[0] / "hosts.tsv") == content(tmp_path / "one.tsv")
    for host in hosts:
        assert not existing_parts(tmp_path / host / "hosts.tsv")
    assert not (tmp_path / hosts[1] / "hosts.tsv").exists()
