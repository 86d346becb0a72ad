"""Auditing a log: what is counted, what is written, and going on after an interruption."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from counterexamples import HalfSpace
from PIL import Image
from safetensors.torch import load_file

from concert.auditing import AuditSettings
from concert.auditing.record import COLUMNS
from concert.auditing.run import AuditProgress, AuditResult, audit_log, find_log, summarize
from concert.certificates import Guarantee
from concert.data import ImageSet
from concert.errors import ConcertError
from concert.noise import IsotropicNoise
from concert.records.log import CertificationLog
from concert.records.reading import LoadedLog, read_log
from concert.runs import weights_file
from concert.sampling.sampler import SamplingSettings
from concert.smoothing import SmoothedClassifier

SHAPE = (1, 4, 4)
QUICK = AuditSettings(starts=3, steps=6, draws=32, n0=128, n=1000)
SEED = 0


@pytest.fixture(scope="module")
def images() -> ImageSet:
    pixels = torch.rand(12, *SHAPE, generator=torch.Generator().manual_seed(0))
    return ImageSet("noise", "test", pixels, torch.arange(12) % 2, ["a", "b"])


@pytest.fixture(scope="module")
def smoothed() -> SmoothedClassifier:
    weight = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    classifier = HalfSpace(weight, 0.5 * float(weight.sum()))
    return SmoothedClassifier(
        classifier, IsotropicNoise(0.25), 2, SHAPE, SamplingSettings(batch_size=128, workers=1)
    )


def write_log(
    smoothed: SmoothedClassifier, images: ImageSet, folder: Path, inflate: float = 1.0
) -> LoadedLog:
    """A log as `concert certify` writes it, with radii multiplied by `inflate`."""
    content = weights_file(smoothed.classifier, smoothed.noise)
    identity: dict[str, Any] = {
        "weights": hashlib.sha256(content).hexdigest(),
        "noise": smoothed.noise.settings(),
        "data": {"name": images.name, "split": "test", "fingerprint": images.fingerprint},
        "n0": 100,
        "n": 1000,
        "alpha": 0.001,
        "seed": SEED,
        "batch_size": 128,
        "noise_source": "philox4x64-ziggurat",
    }
    path = folder / "certify-n1000.tsv"
    with CertificationLog.open(path, identity, {}) as log:
        for index in range(len(images)):
            (claim,) = smoothed.certify(images.images([index]), n=1000, indices=[index])
            log.append(claim, int(images.labels[index]), 0.1)
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    for cells in lines[1:]:
        for column in (lines[0].index("radius"), lines[0].index("proxy_volume")):
            cells[column] = str(inflate * float(cells[column]))
    path.write_text("".join("\t".join(cells) + "\n" for cells in lines))
    return read_log(path)


@pytest.fixture(scope="module")
def honest(
    smoothed: SmoothedClassifier, images: ImageSet, tmp_path_factory: pytest.TempPathFactory
) -> LoadedLog:
    return write_log(smoothed, images, tmp_path_factory.mktemp("honest"))


@pytest.fixture(scope="module")
def inflated(
    smoothed: SmoothedClassifier, images: ImageSet, tmp_path_factory: pytest.TempPathFactory
) -> LoadedLog:
    return write_log(smoothed, images, tmp_path_factory.mktemp("inflated"), 3.0)


def rows_of(folder: Path) -> list[dict[str, str]]:
    header, *lines = (folder / "audit.tsv").read_text().splitlines()
    assert header.split("\t") == list(COLUMNS)
    return [dict(zip(COLUMNS, line.split("\t"), strict=True)) for line in lines]


def test_an_honest_log_passes(
    smoothed: SmoothedClassifier, images: ImageSet, honest: LoadedLog, tmp_path: Path
) -> None:
    result = audit_log(smoothed, images, honest, 4, QUICK, tmp_path / "audit")
    certified = honest.frame[honest.frame.radius > 0]
    assert result.passed
    assert (result.tried, result.broken) == (4, 0)
    assert len(honest.frame) - len(certified) > 0, "some images must abstain"
    # Errors are counted over all images that certification was tried on, abstentions included.
    assert result.rows == int(certified.index[3]) + 1
    assert result.expected == pytest.approx(0.001 * result.rows)
    rows = rows_of(tmp_path / "audit")
    assert [int(row["idx"]) for row in rows] == certified.idx.head(4).tolist()
    for row in rows:
        assert float(row["l2_norm"]) < float(row["radius"])
        assert float(row["region_norm"]) < 1
        assert row["broken"] == "0"
    assert result.closest_margin == min(float(row["margin"]) for row in rows)
    names = {path.name for path in (tmp_path / "audit").iterdir()}
    assert names == {"audit.tsv", "audit.json"}
    written = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert written["result"]["tried"] == 4
    assert written["identity"]["settings"]["starts"] == 3
    assert Guarantee.DEPLOYED.sentence in written["result"]["sentences"]


def test_claims_beyond_the_truth_fail_and_their_images_are_written(
    smoothed: SmoothedClassifier, images: ImageSet, inflated: LoadedLog, tmp_path: Path
) -> None:
    result = audit_log(smoothed, images, inflated, 4, QUICK, tmp_path / "audit")
    assert not result.passed
    assert result.broken == 4
    assert result.allowed == 0
    assert "more than alpha explains" in " ".join(result.sentences)
    broken = load_file(tmp_path / "audit" / "broken.safetensors")
    for row in rows_of(tmp_path / "audit"):
        index, label = int(row["idx"]), int(row["predict"])
        clean, perturbed = broken[f"{index}.clean"], broken[f"{index}.perturbed"]
        assert torch.equal(clean, images.images([index])[0])
        norm = float((perturbed.double() - clean.double()).norm())
        assert norm == pytest.approx(float(row["l2_norm"]), rel=1e-12)
        if row["box"] == "[0, 1]":
            assert int(smoothed.predict(perturbed, n=2000, seed=5)) == int(row["rival"]) != label
        picture = np.asarray(Image.open(tmp_path / "audit" / f"{index}-perturbed.png")) / 255.0
        assert np.abs(picture - perturbed[0].clamp(0, 1).numpy()).max() <= 0.5 / 255 + 1e-6


class Stop(Exception):
    pass


def stop_after(count: int) -> Any:
    seen: Iterator[int] = iter(range(count - 1))

    def on_image(progress: AuditProgress) -> None:
        if next(seen, None) is None:
            raise Stop

    return on_image


def test_an_interrupted_audit_goes_on(
    smoothed: SmoothedClassifier, images: ImageSet, inflated: LoadedLog, tmp_path: Path
) -> None:
    whole = audit_log(smoothed, images, inflated, 4, QUICK, tmp_path / "whole")
    out = tmp_path / "parts"
    with pytest.raises(Stop):
        audit_log(smoothed, images, inflated, 4, QUICK, out, stop_after(2))
    assert len(rows_of(out)) == 2
    with (out / "audit.tsv").open("a") as file:
        file.write("7\t1\t")  # torn by a kill
    calls: list[AuditProgress] = []
    result = audit_log(smoothed, images, inflated, 4, QUICK, out, calls.append)
    assert [(call.done, call.total) for call in calls] == [(3, 4), (4, 4)]
    assert result == whole

    def without_time(folder: Path) -> list[dict[str, str]]:
        return [row | {"time": ""} for row in rows_of(folder)]

    assert without_time(out) == without_time(tmp_path / "whole")
    parts, all_of = (load_file(f / "broken.safetensors") for f in (out, tmp_path / "whole"))
    assert parts.keys() == all_of.keys()
    assert all(torch.equal(parts[name], all_of[name]) for name in parts)


def test_more_images_go_on_and_other_settings_do_not(
    smoothed: SmoothedClassifier, images: ImageSet, honest: LoadedLog, tmp_path: Path
) -> None:
    out = tmp_path / "audit"
    audit_log(smoothed, images, honest, 1, QUICK, out)
    assert audit_log(smoothed, images, honest, 2, QUICK, out).tried == 2
    assert len(rows_of(out)) == 2
    with pytest.raises(ConcertError, match="other settings"):
        audit_log(smoothed, images, honest, 2, AuditSettings(n=1000), out)


def test_wrong_logs_are_refused_before_anything_is_written(
    smoothed: SmoothedClassifier, images: ImageSet, honest: LoadedLog, tmp_path: Path
) -> None:
    out = tmp_path / "audit"
    other = SmoothedClassifier(HalfSpace(torch.ones(SHAPE), 8.0), IsotropicNoise(0.25), 2, SHAPE)
    with pytest.raises(ConcertError, match="other weights"):
        audit_log(other, images, honest, 2, QUICK, out)
    shuffled = ImageSet("noise", "test", images.images(range(11)), images.labels[:11], ["a", "b"])
    with pytest.raises(ConcertError, match="other images"):
        audit_log(smoothed, shuffled, honest, 2, QUICK, out)
    foreign = LoadedLog(honest.frame, {"identity": {}, "info": {}}, honest.path)
    with pytest.raises(ConcertError, match="does not say weights"):
        audit_log(smoothed, images, foreign, 2, QUICK, out)
    abstained = LoadedLog(honest.frame.assign(predict=-1, radius=0.0), honest.run, honest.path)
    with pytest.raises(ConcertError, match="no certified image"):
        audit_log(smoothed, images, abstained, 2, QUICK, out)
    with pytest.raises(ConcertError, match="images must be at least 1"):
        audit_log(smoothed, images, honest, 0, QUICK, out)
    with pytest.raises(ConcertError, match="seed"):
        audit_log(smoothed, images, honest, 2, AuditSettings(seed=-1), out)
    assert not out.exists()


def test_the_only_log_of_a_run_is_found(tmp_path: Path) -> None:
    with pytest.raises(ConcertError, match="concert certify"):
        find_log(tmp_path)
    (tmp_path / "certify-n1000.tsv").touch()
    assert find_log(tmp_path).name == "certify-n1000.tsv"
    (tmp_path / "certify-n500.tsv").touch()
    with pytest.raises(ConcertError, match=r"certify-n1000.tsv, certify-n500.tsv"):
        find_log(tmp_path)


def summary_of(broken: int, rows: int, guarantee: Guarantee) -> AuditResult:
    cells = [
        {"idx": str(k), "margin": str(0.1 * k), "broken": str(int(k < broken))} for k in range(50)
    ]
    return summarize(cells, rows, 0.001, guarantee, guarantee.sentence)


def test_one_break_in_fifty_is_explained_by_alpha_and_two_are_not() -> None:
    assert summary_of(1, 50, Guarantee.DEPLOYED).passed
    assert not summary_of(2, 50, Guarantee.DEPLOYED).passed
    assert summary_of(2, 500, Guarantee.DEPLOYED).passed
    result = summary_of(0, 50, Guarantee.FROZEN)
    assert (result.closest_margin, result.closest_index) == (0.0, 0)
    assert "frozen-noise" in result.sentences[-1]
    assert len(summary_of(0, 50, Guarantee.DEPLOYED).sentences) == len(result.sentences) - 1


def test_a_log_of_other_noise_or_of_another_engine_is_refused(
    smoothed: SmoothedClassifier, images: ImageSet, honest: LoadedLog, tmp_path: Path
) -> None:
    """The weights are the same, but it is another classifier: its breaks would say nothing."""
    wider = SmoothedClassifier(smoothed.classifier, IsotropicNoise(0.8), 2, SHAPE)
    with pytest.raises(ConcertError, match=r"certified with sigma 0\.25, the model given has 0\.8"):
        audit_log(wider, images, honest, 1, QUICK, tmp_path / "audit")
    identity = {**honest.run["identity"], "engine_sha256": "another"}
    other = LoadedLog(honest.frame, {**honest.run, "identity": identity}, honest.path)
    with pytest.raises(ConcertError, match="engine file another, the run"):
        audit_log(smoothed, images, other, 1, QUICK, tmp_path / "audit")
    assert not (tmp_path / "audit").exists()
