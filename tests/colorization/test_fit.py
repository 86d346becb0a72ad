import io
import json
import sys
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from concert.colorization import fit as module
from concert.colorization import load_colorizer
from concert.colorization.compact import CompactColorizer
from concert.colorization.fit import cell_losses, fit, schedule, undo_rebalancing
from concert.colorization.lab import AB_BINS
from concert.colorization.progress import Recipe
from concert.errors import ConcertError

TINY = Recipe(
    steps=6,
    image_batch=4,
    photo_batch=2,
    crop=16,
    longest=32,
    warmup=2,
    statistics_crops=8,
    log_every=2,
    checkpoint_every=2,
    stretch=1.2,
    gamma=1.2,
    noise=1.0,
    seed=3,
)


def pictures(count, size=16, seed=0):
    """Dark blue and bright orange halves: the lightness tells the colour."""
    draws = np.random.default_rng(seed).integers(0, 40, (count, 2))
    images = []
    for left, noise in draws:
        pixels = np.zeros((size, size, 3), dtype=np.uint8)
        pixels[:] = (20, 20, 120 + noise)
        pixels[:, size // 4 + left % (size // 2) :] = (250, 170 + noise, 60)
        images.append(Image.fromarray(pixels))
    return images


@pytest.fixture
def data():
    images = np.stack([np.asarray(picture) for picture in pictures(20)])
    return torch.from_numpy(images).movedim(-1, 1), pictures(4, size=40, seed=1)


def test_an_interrupted_fit_continues_to_the_same_weights(tmp_path, data, monkeypatch) -> None:
    whole = fit(TINY, *data, tmp_path / "whole").state_dict()

    class PowerCut(Exception):
        pass

    steps = []

    def cut(*arguments):
        steps.append(arguments)
        if len(steps) == 10:  # the second batch of step 5; the last checkpoint is of step 4
            raise PowerCut
        return accumulate(*arguments)

    accumulate = module.accumulate
    monkeypatch.setattr(module, "accumulate", cut)
    with pytest.raises(PowerCut):
        fit(TINY, *data, tmp_path / "cut")
    monkeypatch.undo()
    resumed = fit(TINY, *data, tmp_path / "cut").state_dict()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    logs = [
        [row.rsplit(",", 1)[0] for row in (tmp_path / name / "fit.csv").read_text().splitlines()]
        for name in ("whole", "cut")
    ]
    assert logs[0] == logs[1]
    assert len(logs[0]) == 4
    other = fit(replace(TINY, seed=4), *data, tmp_path / "other").state_dict()
    assert not torch.equal(whole["head.2.weight"], other["head.2.weight"])


def test_stopping_early_and_continuing_is_the_same_fit(tmp_path, data) -> None:
    whole = fit(TINY, *data, tmp_path / "whole").state_dict()
    early = fit(TINY, *data, tmp_path / "cut", stop=3).state_dict()
    assert not torch.equal(whole["head.2.weight"], early["head.2.weight"])
    resumed = fit(TINY, *data, tmp_path / "cut").state_dict()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_a_fit_can_start_from_other_weights(tmp_path, data) -> None:
    first = fit(TINY, *data, tmp_path / "first")
    still = replace(TINY, steps=1, learning_rate=0.0, muon_learning_rate=0.0)
    second = fit(still, *data, tmp_path / "second", initial=first).state_dict()
    assert all(torch.equal(value, second[key]) for key, value in first.state_dict().items())


def test_the_global_generator_is_left_alone(tmp_path, data) -> None:
    before = torch.random.get_rng_state()
    fit(replace(TINY, steps=1), *data, tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_fit_learns(tmp_path, data) -> None:
    recipe = replace(TINY, steps=40, log_every=10, checkpoint_every=40, warmup=5)
    fit(recipe, *data, tmp_path)
    rows = (tmp_path / "fit.csv").read_text().splitlines()
    losses = [[float(cell) for cell in row.split(",")[1:3]] for row in rows[1:]]
    assert len(losses) == 4
    assert losses[-1][0] < 0.7 * losses[0][0]
    assert losses[-1][1] < 0.7 * losses[0][1]


def test_other_settings_do_not_continue_a_checkpoint(tmp_path, data) -> None:
    fit(TINY, *data, tmp_path, stop=2)
    with pytest.raises(ConcertError, match="other settings") as error:
        fit(replace(TINY, weight_decay=0.5), *data, tmp_path)
    assert "\n" not in str(error.value)


def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path, data) -> None:
    for content in (b"", b"nothing of the kind", None):
        if content is None:
            fit(TINY, *data, tmp_path / "good", stop=2)
            content = (tmp_path / "good" / "checkpoint.safetensors").read_bytes()[:-9]
        (tmp_path / "checkpoint.safetensors").write_bytes(content)
        with pytest.raises(ConcertError, match="damaged") as error:
            fit(TINY, *data, tmp_path)
        assert "\n" not in str(error.value)


def test_learning_rate_rises_then_falls_to_zero() -> None:
    recipe = Recipe(steps=100, warmup=10)
    rates = [schedule(recipe, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9]
    assert rates[50] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0)


def test_cell_losses_are_the_cross_entropy_with_soft_targets() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, AB_BINS, 3, 4, generator=generator)
    bins = torch.stack([torch.randperm(AB_BINS, generator=generator)[:4] for _ in range(24)])
    bins = bins.reshape(2, 3, 4, 4).movedim(-1, 1)
    shares = torch.rand(2, 4, 3, 4, generator=generator)
    shares = shares / shares.sum(dim=1, keepdim=True)
    target = torch.zeros_like(logits).scatter_(1, bins, shares)
    expected = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    torch.testing.assert_close(cell_losses(logits, bins, shares), expected)


def test_the_command_writes_weights_that_load(tmp_path, monkeypatch) -> None:
    for name, column, size, count in (("train", "img", 16, 12), ("photos", "image", 40, 9)):
        rows = []
        for picture in pictures(count, size):
            file = io.BytesIO()
            picture.save(file, "PNG")
            rows.append({"bytes": file.getvalue(), "path": ""})
        pq.write_table(pa.table({column: rows}), tmp_path / f"{name}.parquet")
    out = tmp_path / "out"
    command = f"fit --cifar10 {tmp_path} --photos {tmp_path / 'photos.parquet'} --out {out}"
    settings = "--steps 2 --image-batch 2 --photo-batch 1 --crop 16 --longest 32"
    monkeypatch.setattr(sys, "argv", f"{command} {settings} --statistics-crops 4".split())
    module.main()
    card = json.loads((out / "compact.json").read_text())
    assert card["sha256"] == sha256((out / "compact.safetensors").read_bytes()).hexdigest()
    assert card["recipe"]["steps"] == 2
    assert card["data"]["cifar10"] == sha256((tmp_path / "train.parquet").read_bytes()).hexdigest()
    assert card["initial"] is None
    assert load_colorizer(out / "compact.safetensors").fingerprint == card["sha256"]
    again = f"{command}-2 {settings} --initial {out / 'compact.safetensors'} --statistics-crops 4"
    monkeypatch.setattr(sys, "argv", [*again.split(), "--stop", "1", "--log-every", "1"])
    module.main()
    second = json.loads((tmp_path / "out-2" / "compact.json").read_text())
    assert (second["initial"], second["stop"]) == (card["sha256"], 1)
    assert len((tmp_path / "out-2" / "fit.csv").read_text().splitlines()) == 2


def test_undoing_the_rebalancing_gives_the_natural_distribution_back() -> None:
    """Where the weighted loss is least the prediction is w p; the correction must return p."""
    generator = torch.Generator().manual_seed(0)
    natural = torch.rand(AB_BINS, generator=generator)
    natural /= natural.sum()
    weights = 0.5 + torch.rand(AB_BINS, generator=generator)
    colorizer = CompactColorizer()
    head = colorizer.head[-1]
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_((weights * natural).log())
    undo_rebalancing(colorizer, weights)
    zeros = torch.zeros(1, 3, 8, 8)
    logits = colorizer(zeros[:, :1], zeros[:, 1:], zeros[:, :1])
    torch.testing.assert_close(logits.softmax(dim=1)[0, :, 0, 0], natural)
