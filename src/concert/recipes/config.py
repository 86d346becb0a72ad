"""What a recipe says: the dataclasses behind a YAML file and the command-line flags.

One recipe is one YAML in configs/. A field that is None means "the published default", which the
code that uses it states.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from concert.errors import ConcertError


@dataclass(frozen=True)
class DataSettings:
    """Which images.

    Args:
        name: digits, mnist, cifar10, imagenet, or any name for a folder of your own.
        path: folder with Parquet files or class folders; without it the Hugging Face hub.
        subset: training images: all, first:N, every:K or random:N:SEED.
        size: resize the shorter side to this many pixels and crop the centre; default: as is.
    """

    name: str = "digits"
    path: Path | None = None
    subset: str = "all"
    size: int | None = None


@dataclass(frozen=True)
class ClassifierSettings:
    """The base classifier.

    Args:
        name: lenet, resnet20, resnet110, resnet50, or the import path of any torch module.
        init_args: further constructor arguments (all of them for an import path).
        mean: of the normalisation layer, per channel; default: as in `init`, else the data set's
            usual values (none for MNIST, digits and a module given by import path).
        std: as mean.
        denoiser: dncnn, or the import path of any torch module, before the classifier, which is
            then not trained: give its run by `init`.
        denoiser_args: constructor arguments of the denoiser.
    """

    name: str = "lenet"
    init_args: dict[str, Any] = field(default_factory=dict)
    mean: list[float] | None = None
    std: list[float] | None = None
    denoiser: str | None = None
    denoiser_args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class NoiseSettings:
    """The noise model.

    Args:
        kind: isotropic, banded (colour, smooth brightness and detail each at a level of its own),
            static, generated (the paper's; guarantee: frozen-noise) or queried (deployed).
        sigma: standard deviation of isotropic noise; of banded noise in detail.
        chroma_sigma: of banded noise in colour; default: sigma.
        smooth_sigma: of banded noise in brightness that is constant in blocks; default: sigma.
        block: side of such a block in pixels; default: 8.
        grid: isotropic noise only: images are multiples of 1/grid (255 for 8-bit images), and the
            noise is drawn and added as integers.
        low: lower end of the sigma map's box (a of Eq. 14).
        high: b of Eq. 14; the box ends at omega * high.
        omega: share of high that the box reaches up to.
        query_sigma: standard deviation of the query (queried noise); default: high.
        generator: coarse, codebook, bounded or paper (see concert.generator); default: coarse for
            queried noise, paper for generated noise.
        generator_args: further constructor arguments of the generator.
    """

    kind: Literal["isotropic", "banded", "static", "generated", "queried"] = "queried"
    sigma: float = 0.25
    chroma_sigma: float | None = None
    smooth_sigma: float | None = None
    block: int | None = None
    grid: int | None = None
    low: float = 0.25
    high: float = 0.5
    omega: float = 0.95
    query_sigma: float | None = None
    generator: Literal["coarse", "codebook", "bounded", "paper"] | None = None
    generator_args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ObjectiveSettings:
    """The training objective; what is not given has the method's published default.

    Args:
        name: gaussian (Cohen et al. 2019), smoothadv (Salman et al. 2019), macer (Zhai et al.
            2020), consistency (Jeong and Shin 2020), denoise (Salman et al. 2020), concert, or the
            import path of a class of your own, derived from concert.objectives.Objective.
        init_args: constructor arguments of a class of your own, beside the settings given below.
        m: noisy copies per image.
        mse: weight of the squared distance to the image (denoise).
        agreement: weight of the stability objective (denoise).
        alpha: weight of the robustness loss (Concert, Eq. 13).
        beta: weight of the entropy penalty (Concert, Eq. 13).
        kappa: where the hinge on the proxy volume ends (Concert, Eq. 13).
        start_epoch: first epoch of the terms beside the classification loss, counted from 0
            (Concert, T of Algorithm 1; MACER).
        classification: average over copies in the classification loss (Concert).
        hinge: which images enter the robustness loss (Concert).
        early_generator: whether the generator is trained before start_epoch (Concert).
        softmax_scale: multiplies the logits in the robustness loss (Concert; MACER's beta).
        share_query: for queried noise, one query serves an image's copies (Concert).
        stability: weight of the map's change between two queries (Concert, queried noise).
        lambda_weight: lambda, weight of the robustness loss (MACER) or of the divergence
            (consistency).
        gamma: where the hinge on the gap of two quantiles ends (MACER).
        eta: weight of the mean prediction's entropy (consistency).
        epsilon: l2 radius of the attack, for pixels in [0, 1] (SmoothAdv).
        steps: of the attack (SmoothAdv).
        attack: how images are attacked (SmoothAdv).
        warmup_epochs: epochs over which the attack's radius grows to epsilon (SmoothAdv).
        train_copies: train on all copies of an attacked image, or on the first (SmoothAdv).
        ddn_gamma: by which share DDN changes its norm in a step (SmoothAdv).
        ddn_levels: grey levels that DDN rounds to (SmoothAdv).
    """

    name: str = "concert"
    init_args: dict[str, Any] | None = None
    m: int | None = None
    mse: float | None = None
    agreement: float | None = None
    alpha: float | None = None
    beta: float | None = None
    kappa: float | None = None
    start_epoch: int | None = None
    classification: Literal["mean_of_log", "log_of_mean"] | None = None
    hinge: Literal["correct", "all"] | None = None
    early_generator: Literal["frozen", "trained"] | None = None
    softmax_scale: float | None = None
    share_query: bool | None = None
    stability: float | None = None
    lambda_weight: float | None = None
    gamma: float | None = None
    eta: float | None = None
    epsilon: float | None = None
    steps: int | None = None
    attack: Literal["pgd", "ddn"] | None = None
    warmup_epochs: int | None = None
    train_copies: Literal["all", "first"] | None = None
    ddn_gamma: float | None = None
    ddn_levels: int | None = None


@dataclass(frozen=True)
class TrainingSettings:
    """The training loop: stochastic gradient descent with step decay.

    Args:
        epochs: passes over the training images.
        batch_size: images per step.
        lr: learning rate.
        momentum: of stochastic gradient descent.
        nesterov: whether the momentum is Nesterov's, which looks ahead, or plain.
        weight_decay: of stochastic gradient descent.
        milestones: epochs at which lr is multiplied by lr_decay, in rising order.
        lr_decay: see milestones.
        generator_lr_scale: multiplies the generator's learning rate.
        seed: of the weights, the order of the images and the noise.
        checkpoint_seconds: time between checkpoints within an epoch.
        accelerator: as in Lightning Fabric: auto, cpu, gpu, ...
        devices: processes on this machine, one a device.
        num_nodes: machines.
        precision: as in Lightning Fabric: 32-true, bf16-mixed, ...
        compile: compile the classifier with torch.compile. It pays for ResNets with many copies an
            image, after a first step of up to a minute; not for LeNet on a processor.
    """

    epochs: int = 90
    batch_size: int = 128
    lr: float = 0.01
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    milestones: list[int] = field(default_factory=list)
    lr_decay: float = 0.1
    generator_lr_scale: float = 1.0
    seed: int = 0
    checkpoint_seconds: float = 60.0
    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    precision: str = "32-true"
    compile: bool | None = None

    def __post_init__(self) -> None:
        whole = {"epochs": self.epochs, "batch_size": self.batch_size, "devices": self.devices}
        for name, count in whole.items():
            if count < 1:
                raise ConcertError(f"training.{name} must be at least 1, got {count}")
        for name in ("lr", "lr_decay", "generator_lr_scale"):
            if not getattr(self, name) > 0:
                raise ConcertError(f"training.{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.momentum < 1 or self.weight_decay < 0:
            raise ConcertError(
                "training.momentum must lie in [0, 1) and training.weight_decay must not be "
                f"negative, got {self.momentum} and {self.weight_decay}"
            )
        if self.nesterov and self.momentum == 0:
            raise ConcertError("training.nesterov needs a training.momentum above 0, got 0")
        if not 0 <= self.seed < 2**63:
            raise ConcertError(f"training.seed must lie in [0, 2^63), got {self.seed}")
        # They may lie beyond the last epoch: a quick trial of a recipe changes its epochs only.
        if sorted(self.milestones) != self.milestones or min(self.milestones, default=1) < 1:
            raise ConcertError(
                "training.milestones must be positive and in rising order, got "
                f"{self.milestones}: sort them, and leave out those below 1"
            )


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what `concert train` trains.

    Args:
        data: which images.
        classifier: the base classifier.
        noise: the noise model.
        objective: the training objective.
        training: the training loop.
        colorizer: gives the entropy maps: compact (shipped), siggraph17 or eccv16 (downloaded), a
            weights file of one of these, or the import path of a torch module of your own.
        colorizer_args: mask_center of siggraph17, or the constructor arguments of your own module.
        init: run or model folder whose weights the training starts from; default: random ones. Its
            classifier takes the place of the recipe's; one given by flags must be the same.
    """

    data: DataSettings = field(default_factory=DataSettings)
    classifier: ClassifierSettings = field(default_factory=ClassifierSettings)
    noise: NoiseSettings = field(default_factory=NoiseSettings)
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    colorizer: str = "compact"
    colorizer_args: dict[str, Any] | None = None
    init: Path | None = None
