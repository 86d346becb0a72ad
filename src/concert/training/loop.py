"""The one training loop, on Lightning Fabric.

Everything random is addressed by (seed, epoch, step), and a checkpoint holds all the rest, so a run
that is interrupted anywhere and started again ends with the weights of one that was not.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from concert.data import load_images, subset_indices
from concert.engines.inference import check_classifier
from concert.errors import ConcertError
from concert.files import write_atomically
from concert.generator import multiply_adds
from concert.import_paths import source_hash
from concert.memory import channels_last
from concert.noise import NoiseModel
from concert.objectives import LossTerms
from concert.recipes.building import build_base, build_noise, build_objective, describe
from concert.recipes.config import Recipe
from concert.runs import save_model, source_of
from concert.streams import Domain, keyed_generator
from concert.team import launch, make_fabric
from concert.training.entropy_source import EntropySource
from concert.training.initial_weights import check_denoiser, settle_classifier, take_weights
from concert.training.run_claim import claim_folder
from concert.training.sharing import any_of, check_precision, distributed, seeded, share_of
from concert.training.state import EpochMetrics, TrainingState, learning_rate, make_optimizer
from concert.training.subnormals import flushed_subnormals

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepProgress:
    """Where training is, for a progress bar."""

    epoch: int
    epochs: int
    step: int
    steps: int
    metrics: EpochMetrics


class Watcher:
    """What a caller may see and do while training runs; every method may be overridden."""

    def start(self, facts: dict[str, Any]) -> None:
        """Once, before the first step: images, steps per epoch, device, cost in multiply-adds."""

    def step(self, progress: StepProgress) -> None:
        """After every step."""

    def epoch(self, metrics: EpochMetrics) -> None:
        """After every epoch, once its checkpoint is safe."""

    def should_stop(self) -> bool:
        """True saves the state and ends the run early."""
        return False


def train(recipe: Recipe, out: Path, watcher: Watcher | None = None) -> bool:
    """Train `recipe` into the run folder `out`, or go on with what is there (Algorithm 1).

    Returns True once the model is complete, False if the watcher of one of the processes ended the
    run early (its state is saved). Raises ConcertError if `out` holds a run of another recipe.
    """
    recipe = settle_classifier(recipe)
    settings = recipe.training
    fabric = make_fabric(
        settings.accelerator, settings.devices, settings.num_nodes, settings.precision
    )
    with flushed_subnormals(), launch(fabric):
        return _train(recipe, out, watcher or Watcher(), fabric)


def _train(recipe: Recipe, out: Path, watcher: Watcher, fabric: Fabric) -> bool:
    settings = recipe.training
    images = load_images(recipe.data.name, "train", recipe.data.path, recipe.data.size)
    if images.num_classes < 2:
        raise ConcertError(
            f"the images of {images.source} are all of one class: there is nothing to learn, give "
            "images of at least 2"
        )
    chosen = torch.tensor(subset_indices(len(images), recipe.data.subset))
    objective = build_objective(recipe.objective)
    description = describe(recipe, images.shape, images.num_classes, images.class_names)
    entropies = EntropySource(recipe, images, objective.needs_entropy, fabric.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        classifier = build_base(description, trust=True)
        noise = build_noise(description.noise, images.shape, entropies.static_map(recipe, chosen))
    initial = {}
    if recipe.init is not None:
        initial["initial weights"] = take_weights(recipe.init, description, classifier, noise)
    check_denoiser(recipe, objective, classifier)
    noise.accept(images.images(chosen[:1].tolist()))
    check_classifier(classifier.eval(), torch.zeros((2, *images.shape)), images.num_classes)
    objective.check(noise)
    check_precision(settings, noise, fabric.world_size)
    if objective.start_epoch >= settings.epochs:
        log.warning(
            "only the classification loss is trained: objective.start_epoch %d is not reached in "
            "%d epochs",
            objective.start_epoch,
            settings.epochs,
        )
    if fabric.is_global_zero:
        claim_folder(recipe, out)
    costs = multiply_add_costs(classifier, noise, images.shape)

    classifier = channels_last(classifier)
    if settings.compile:
        classifier.compile()
    optimizer = make_optimizer(settings, classifier, noise)
    f, g = distributed(fabric, classifier, noise)
    fabric_optimizer: Any = fabric.setup_optimizers(optimizer)
    inputs = {"training images": images.fingerprint, **entropies.inputs, **initial}
    code = {
        "code of the objective": source_hash([type(objective)]),
        "code of the classifier": source_of(classifier, noise).get("classifier_source"),
    }
    inputs |= {name: digest for name, digest in code.items() if digest is not None}
    state = TrainingState(classifier, noise, optimizer, inputs=inputs)
    if state.resume(out / "checkpoints"):
        log.info("going on at epoch %d, step %d", state.epoch, state.step)
    steps = -(-len(chosen) // settings.batch_size)
    facts = {"images": len(chosen), "steps": steps, "epoch": state.epoch, "multiply_adds": costs}
    if fabric.is_global_zero:
        watcher.start({**facts, "device": str(fabric.device)})

    saved = time.monotonic()
    while state.epoch < settings.epochs:
        f.train()
        g.train()
        rate = learning_rate(settings, state.epoch)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        shuffle = keyed_generator(settings.seed, Domain.TRAIN, state.epoch)
        order = chosen[torch.randperm(len(chosen), generator=shuffle)]
        state.current = state.current or EpochMetrics(state.epoch, rate)
        while state.step < steps:
            began = time.perf_counter()
            batch = order[state.step * settings.batch_size :][: settings.batch_size]
            mine = share_of(batch, fabric)
            address = (settings.seed, Domain.TRAIN, state.epoch, state.step, fabric.global_rank)
            x, maps = entropies.batch(mine, keyed_generator(*address, 0))
            y = fabric.to_device(images.labels[mine])
            draws = keyed_generator(*address, 1, device=fabric.device)
            with seeded(fabric.device, *address, 2):
                terms = objective(f, g, x, y, maps, state.epoch, draws)
            check_terms(terms, recipe.objective.name, state.epoch, state.step)
            fabric_optimizer.zero_grad()
            fabric.backward(terms.total)
            fabric_optimizer.step()

            state.step += 1
            state.current.add(terms, len(mine), time.perf_counter() - began)
            if fabric.is_global_zero:
                watcher.step(
                    StepProgress(state.epoch, settings.epochs, state.step, steps, state.current)
                )
            stop = any_of(fabric, watcher.should_stop())
            due = time.monotonic() - saved > settings.checkpoint_seconds
            if state.step < steps and (stop or due):
                if fabric.is_global_zero:
                    state.save(out / "checkpoints")
                saved = time.monotonic()
                if stop:
                    return False

        finished, state.current = state.current, None
        state.rows.append(asdict(finished))
        state.epoch, state.step = state.epoch + 1, 0
        if fabric.is_global_zero:
            # Saved before it is reported, so that nothing reported can be lost.
            state.save(out / "checkpoints")
            write_atomically(out / "metrics.csv", state.table())
            watcher.epoch(finished)
        saved = time.monotonic()
        if state.epoch < settings.epochs and any_of(fabric, watcher.should_stop()):
            return False
    if fabric.is_global_zero:
        write_atomically(out / "metrics.csv", state.table())
        save_model(out / "model", description, classifier, noise, inputs)
    fabric.barrier()
    return True


def check_terms(terms: object, name: str, epoch: int, step: int) -> None:
    """Refuse what an objective returns, if the step cannot be made from it."""
    if not isinstance(terms, LossTerms):
        raise ConcertError(
            f"objective '{name}' must return concert.objectives.LossTerms, not "
            f"{type(terms).__name__}"
        )
    total: object = terms.total
    if not (isinstance(total, Tensor) and total.ndim == 0 and total.requires_grad):
        given = type(total).__name__
        if isinstance(total, Tensor):
            given = f"one of shape {tuple(total.shape)}, requires_grad={total.requires_grad}"
        raise ConcertError(
            f"objective '{name}' must return a scalar tensor with a gradient as total, not {given}"
        )
    if not bool(total.isfinite()):
        raise ConcertError(
            f"the loss is not finite in epoch {epoch + 1}, step {step + 1}: lower training.lr, or "
            f"look at objective '{name}' if it is the first step"
        )


def multiply_add_costs(
    classifier: nn.Module, noise: NoiseModel, shape: tuple[int, int, int]
) -> dict[str, int]:
    """Multiply-adds of one forward pass of each network, for one image."""
    costs = {"classifier": multiply_adds(classifier, shape)}
    generator = getattr(noise, "generator", None)
    if isinstance(generator, nn.Module):
        costs["generator"] = multiply_adds(generator, shape)
    return costs
