"""The codebook: a choice that noise does not change, exact maps, and draws that must not vote."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from concert.certification.selection import map_dips
from concert.errors import ConcertError
from concert.generator import CodebookGenerator
from concert.generator.codebook import CHOICE_MARGIN
from concert.noise import QueriedNoise
from concert.sampling.sampler import Sampler, SamplingSettings
from concert.sampling.votes import Request
from concert.streams import Domain, Stream

LOW, HIGH, QUERY = 0.25, 0.475, 0.5


def codebook(codes: int = 5, channels: int = 1, seed: int = 0, **settings: object) -> nn.Module:
    torch.manual_seed(seed)
    generator = CodebookGenerator(channels, LOW, HIGH, codes, **settings)  # type: ignore[arg-type]
    nn.init.normal_(generator.codes, std=0.2)
    nn.init.normal_(generator.head.weight)
    return generator


def test_in_evaluation_the_map_is_one_of_the_codebook() -> None:
    generator = codebook(channels=3).eval()
    patches = torch.rand(32, 3, 4, 4).repeat_interleave(9, dim=3).repeat_interleave(7, dim=2)
    images = patches.square()
    with torch.no_grad():
        maps, chosen = generator.maps(28, 36), generator.scores(images).argmax(dim=1)
        assert len(chosen.unique()) > 1
        assert torch.equal(generator(images), maps[chosen])


def test_one_image_alone_is_normalised_by_what_is_known() -> None:
    """As the last batch of an epoch may be; nothing is learnt of the features from it."""
    generator, image = codebook().train(), torch.rand(1, 1, 28, 28)
    generator(torch.rand(8, 1, 28, 28))
    before = generator.norm.running_mean.clone()  # type: ignore[union-attr, operator]
    scores = generator.scores(image)  # type: ignore[operator]
    assert torch.equal(generator.norm.running_mean, before)  # type: ignore[union-attr, arg-type]
    assert torch.allclose(scores, generator.eval().scores(image), atol=1e-6)


@pytest.mark.parametrize("choice", ["straight_through", "soft"])
def test_in_training_codes_and_choice_get_gradients(choice: str) -> None:
    generator = codebook(choice=choice).train()
    images = torch.rand(16, 1, 28, 28)
    weight = torch.rand(28, 28)
    (generator(images) * weight).sum().backward()
    for gradient in (generator.codes.grad, generator.head.weight.grad):
        assert gradient is not None
        assert bool((gradient != 0).any())


def test_straight_through_shows_the_chosen_map_and_the_gradient_of_the_mixture() -> None:
    hard, soft = codebook(choice="straight_through"), codebook(choice="soft")
    images, weight = torch.rand(8, 1, 28, 28), torch.rand(28, 28)
    torch.testing.assert_close(
        hard.train()(images), hard.maps(28, 28)[hard.scores(images).argmax(1)]
    )
    gradients = []
    for generator in (hard, soft):
        (generator.train()(images) * weight).sum().backward()
        gradients.append(generator.head.weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_nearest_map_finds_every_map_of_the_book() -> None:
    generator = codebook()
    with torch.no_grad():
        for sigma_map in generator.maps(28, 28):
            disturbed = sigma_map + 1e-3 * torch.randn(sigma_map.shape)
            assert torch.equal(generator.nearest_map(disturbed), sigma_map)


def test_a_tied_choice_is_no_map() -> None:
    generator = codebook(codes=2).eval()
    with torch.no_grad():
        generator.head.weight.zero_()
        generator.head.bias.copy_(torch.tensor([0.0, 0.5 * CHOICE_MARGIN]))
        assert bool(generator(torch.rand(3, 1, 28, 28)).isnan().all())
        generator.head.bias.copy_(torch.tensor([0.0, 2.0 * CHOICE_MARGIN]))
        assert bool(generator(torch.rand(3, 1, 28, 28)).isfinite().all())


class Sure(nn.Module):
    """Always class 0, whatever it sees, even where it is not a number."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([3.0, 0.0]))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.expand(len(images), 2)


def test_a_draw_with_a_tied_choice_does_not_vote() -> None:
    generator = codebook(codes=2).eval()
    noise = QueriedNoise(generator, QUERY, LOW, HIGH)
    shape, n = (1, 28, 28), 512
    image, stream = torch.rand(shape), Stream(0, Domain.CERTIFY, 0)
    request = Request(stream, n, mean_map=True, floor=torch.full(shape, LOW))
    for bias, votes in ((0.5 * CHOICE_MARGIN, 0), (2.0 * CHOICE_MARGIN, n)):
        with torch.no_grad():
            generator.head.weight.zero_()
            generator.head.bias.copy_(torch.tensor([0.0, bias]))
        sampler = Sampler(Sure(), noise, 2, shape, torch.device("cpu"), SamplingSettings())
        (result,) = sampler.sample(image, [request])
        sampler.close()
        assert result.joint is not None
        assert result.sigma_map is not None
        assert result.counts[0] == result.joint[0] == votes
        assert bool(result.sigma_map.isfinite().all())


def test_floor_of_a_clear_choice_is_its_map() -> None:
    """Dips are measured below the nearest map of the book, so those of the chosen map are zero."""
    generator = codebook(codes=3).eval()
    with torch.no_grad():
        generator.head.weight.zero_()
        generator.head.bias.copy_(torch.tensor([0.0, 5.0, 0.0]))
    noise = QueriedNoise(generator, QUERY, LOW, HIGH)
    shape = (1, 28, 28)
    sampler = Sampler(Sure(), noise, 2, shape, torch.device("cpu"), SamplingSettings())
    mean, dips = sampler.run(
        torch.rand(shape), map_dips(sampler.noise, Stream(0, Domain.SELECT, 0), 300)
    )
    sampler.close()
    with torch.no_grad():
        assert torch.equal(noise.reference(mean), generator.maps(28, 28)[1])
    assert bool((dips == 0).all())


@pytest.mark.parametrize("settings", [{"codes": 0}, {"cells": 0}, {"choice": "hard"}])
def test_wrong_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConcertError):
        CodebookGenerator(1, LOW, HIGH, **settings)  # type: ignore[arg-type]
