"""Fit the compact colorizer: the recipe of the weights in the package.

    python -m concert.colorization.fit --cifar10 DIR --photos FILE --out DIR

Every step takes a batch of CIFAR-10 training images (DIR/train.parquet) and a batch of random crops
of photographs (seven eighths of FILE) and minimises the sum of their cross-entropies between the
predicted distribution and the soft encoding of the mean colour of every 4 x 4 block. About half of
the images reveal some of their colours as hints.

*Three fits.* The weights in the package come from three fits in a row, whose command lines stand
in results/colorizer/README.md. The first learns the colours of 700 photographs by heart. The other
two start from the weights before them (`--initial`), see fewer and smaller crops, and vary their
shape, their gamma and their noise, so that a photograph is not recognised.

*Rebalancing.* The loss of a cell is weighted by the rarity of its colour as in Zhang et al. (2016),
with a uniform share of 0.995 where they use 0.5: weights between 0.8 and 1.2 where theirs span a
factor of 95. Theirs serve vivid pictures, at the price of a distribution far from the natural one
(its marginal has 4.6 nats of entropy, the natural one 3.1). Here the distribution itself is what is
wanted: its entropy must rank how badly colours can be predicted, and its cross-entropy on natural
images must hold without weights. With `--natural-prior` the weights are taken out again at the end,
exactly, by the last layer's bias.

*Optimizers.* Muon for the hidden convolutions, AdamW for everything else, both with the same
schedule; forward and backward in bfloat16 where autocast allows, weights in float32.

Everything random of a step comes from a generator seeded by the seed and the step, so a run that
was killed continues from its last checkpoint to the same weights, bit by bit on one machine and
thread count. OUT receives compact.safetensors (float16), compact.json (the recipe and the SHA-256
of data and weights), fit.csv (the losses) and checkpoint.safetensors.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from dataclasses import asdict
from hashlib import sha256
from math import cos, pi
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from concert.colorization.compact import CompactColorizer, load_colorizer, save_colorizer
from concert.colorization.lab import rgb_to_lab
from concert.colorization.pictures import (
    cell_colors,
    color_counts,
    flip_some,
    held_out,
    random_crops,
    random_hints,
    read_pictures,
    rebalancing_weights,
    stack,
    vary_lightness,
)
from concert.colorization.progress import Recipe, save_checkpoint, start
from concert.errors import ConcertError
from concert.files import write_atomically

logger = logging.getLogger(__name__)


def fit(
    recipe: Recipe,
    images: Tensor,
    photos: list[Image.Image],
    out: Path,
    stop: int | None = None,
    initial: CompactColorizer | None = None,
) -> CompactColorizer:
    """Fit a colorizer, or continue the fit whose checkpoint stands in `out`.

    Args:
        images: uint8 (N, 3, H, W), H and W multiples of 4.
        photos: photographs of any size.
        out: folder for checkpoint.safetensors and fit.csv.
        stop: step after which to stop early with a checkpoint; None is the recipe's last.
        initial: colorizer to start from; None is random weights.

    Raises:
        ConcertError: if the checkpoint in `out` is damaged or belongs to another recipe.
    """
    out.mkdir(parents=True, exist_ok=True)
    weights = loss_weights(recipe, images, photos)
    progress = start(recipe, out, initial)
    last = recipe.steps if stop is None else min(stop, recipe.steps)
    since = time.perf_counter()
    losses: list[list[float]] = []
    while progress.step < last:
        peaks = (recipe.muon_learning_rate, recipe.learning_rate)
        for optimizer, peak in zip(progress.optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * schedule(recipe, progress.step)
        generator = torch.Generator().manual_seed(recipe.seed * 2**32 + progress.step + 1)
        chosen = torch.randint(len(images), (recipe.image_batch,), generator=generator)
        crops = random_crops(
            photos, recipe.photo_batch, recipe.crop, recipe.longest, generator, recipe.stretch
        )
        losses.append(
            [
                accumulate(progress.colorizer, batch, weights, recipe, generator, vary)
                for batch, vary in ((images[chosen], False), (crops, recipe.gamma > 1))
            ]
        )
        torch.nn.utils.clip_grad_norm_(progress.colorizer.parameters(), 1.0)
        for optimizer in progress.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        progress.step += 1
        if progress.step % recipe.log_every == 0:
            means = torch.tensor(losses).mean(dim=0).tolist()
            seconds = (time.perf_counter() - since) / len(losses)
            row = {"step": progress.step, "loss_images": means[0], "loss_photos": means[1]}
            progress.rows.append({**row, "seconds_per_step": seconds})
            logger.info("step %d: %.4f %.4f, %.2f s a step", progress.step, *means, seconds)
            losses, since = [], time.perf_counter()
        if progress.step % recipe.checkpoint_every == 0 or progress.step == last:
            save_checkpoint(progress, recipe, out)
    return progress.colorizer.eval()


def loss_weights(recipe: Recipe, images: Tensor, photos: list[Image.Image]) -> Tensor:
    """Rebalancing weights (529,) from the colours of both sources in equal shares."""
    generator = torch.Generator().manual_seed(recipe.seed)
    crops = random_crops(photos, recipe.statistics_crops, recipe.crop, recipe.longest, generator)
    shares = [counts / counts.sum() for counts in (color_counts(images), color_counts(crops, 50))]
    return rebalancing_weights((shares[0] + shares[1]) / 2, recipe.uniform_share)


@torch.no_grad()
def undo_rebalancing(colorizer: CompactColorizer, weights: Tensor) -> None:
    """Turn the distribution fitted under the loss weights (529,) into the natural one.

    Where p is the natural probability of a colour and w its weight, the weighted loss is least at
    w p, scaled to sum 1; subtracting log w from the logits gives p back. The last layer's bias
    takes it.
    """
    bias = colorizer.head[-1].bias
    assert isinstance(bias, Tensor)
    bias -= weights.log()


def accumulate(
    colorizer: CompactColorizer,
    images: Tensor,
    weights: Tensor,
    recipe: Recipe,
    generator: torch.Generator,
    vary: bool,
) -> float:
    """Add the gradient of one batch of uint8 images; the unweighted cross-entropy in nats."""
    lab = rgb_to_lab(flip_some(images, generator).float() / 255)
    hints, mask = random_hints(lab[:, 1:], recipe.hint_share, generator)
    lightness = lab[:, :1]
    if vary:
        lightness = vary_lightness(lightness, recipe.gamma, recipe.noise, generator)
    with torch.autocast(images.device.type, torch.bfloat16):
        logits = colorizer(lightness, hints, mask)
    bins, shares = cell_colors(lab[:, 1:])
    losses = cell_losses(logits.float(), bins, shares)
    rarity = (weights[bins] * shares).sum(dim=1)
    (rarity * losses).mean().backward()  # type: ignore[no-untyped-call]
    return losses.mean().item()


def cell_losses(logits: Tensor, bins: Tensor, shares: Tensor) -> Tensor:
    """Cross-entropy of every cell, (B, h, w), in nats.

    Args:
        logits: (B, 529, h, w).
        bins, shares: the soft encoding of the true colours, each (B, 4, h, w).
    """
    flat = logits.movedim(1, -1).flatten(0, 2)
    picked = flat.gather(1, bins.movedim(1, -1).flatten(0, 2))
    expected = (picked * shares.movedim(1, -1).flatten(0, 2)).sum(dim=1)
    losses: Tensor = flat.logsumexp(dim=1) - expected
    return losses.reshape(len(logits), *logits.shape[-2:])


def schedule(recipe: Recipe, step: int) -> float:
    """Factor of the learning rates: a linear warm-up times a half cosine to 0 at the last step."""
    return min(1.0, (step + 1) / recipe.warmup) * (1 + cos(pi * step / recipe.steps)) / 2


def main() -> None:
    """The command line of the fit."""
    parser = argparse.ArgumentParser(description="Fit the compact colorizer.", allow_abbrev=False)
    parser.add_argument("--cifar10", type=Path, required=True, help="folder with train.parquet")
    parser.add_argument("--photos", type=Path, required=True, help="Parquet file of photographs")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--initial", type=Path, help="weights file to start from")
    parser.add_argument(
        "--natural-prior", action="store_true", help="take the rebalancing out of the result"
    )
    parser.add_argument("--stop", type=int, help="step to end at, before the recipe's last")
    for name, value in asdict(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    arguments = vars(parser.parse_args())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    paths = {
        "cifar10": arguments.pop("cifar10") / "train.parquet",
        "photos": arguments.pop("photos"),
    }
    out: Path = arguments.pop("out")
    source: Path | None = arguments.pop("initial")
    natural_prior: bool = arguments.pop("natural_prior")
    stop: int | None = arguments.pop("stop")
    initial = None if source is None else load_colorizer(source)
    recipe = Recipe(**arguments)
    images = stack(read_pictures(paths["cifar10"]))
    photos, _ = held_out(read_pictures(paths["photos"]))
    colorizer = fit(recipe, images, photos, out, stop, initial)
    if natural_prior:
        undo_rebalancing(colorizer, loss_weights(recipe, images, photos))
    content = save_colorizer(colorizer)
    write_atomically(out / "compact.safetensors", content)
    card = {
        "sha256": sha256(content).hexdigest(),
        "initial": None if initial is None else initial.fingerprint,
        "natural_prior": natural_prior,
        **({} if stop is None else {"stop": stop}),
        "recipe": asdict(recipe),
        "data": {name: sha256(path.read_bytes()).hexdigest() for name, path in paths.items()},
    }
    write_atomically(out / "compact.json", (json.dumps(card, indent=2) + "\n").encode())


if __name__ == "__main__":
    try:
        main()
    except ConcertError as error:
        raise SystemExit(f"error: {error}") from error
