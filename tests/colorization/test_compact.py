import hashlib
import json
import shutil
import socket
from importlib import resources

import pytest
import safetensors.torch
import torch

from concert.colorization import compact, decode_ab
from concert.colorization.compact import CompactColorizer, load_colorizer, save_colorizer
from concert.errors import ConcertError


def inputs(batch, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lightness = 100 * torch.rand(batch, 1, height, width, generator=generator)
    mask = (torch.rand(batch, 1, height, width, generator=generator) < 0.1).float()
    hints = mask * (220 * torch.rand(batch, 2, height, width, generator=generator) - 110)
    return lightness, hints, mask


@pytest.mark.parametrize("size", [(28, 28), (32, 32), (33, 45), (20, 20), (5, 3), (1, 1)])
def test_any_size_gives_a_quarter_of_the_resolution(colorizer, size) -> None:
    logits = colorizer(*inputs(2, *size))
    assert logits.shape == (2, 529, -(-size[0] // 4), -(-size[1] // 4))
    assert logits.isfinite().all()


def test_padding_replicates_the_border(colorizer) -> None:
    odd = inputs(1, 33, 45)
    padded = [torch.nn.functional.pad(value, (0, 3, 0, 3), mode="replicate") for value in odd]
    torch.testing.assert_close(colorizer(*odd), colorizer(*padded))


def test_size_of_the_model() -> None:
    count = sum(parameter.numel() for parameter in CompactColorizer().parameters())
    assert 400_000 < count < 800_000


def test_every_output_sees_all_of_a_32_by_32_image() -> None:
    torch.manual_seed(0)
    model = CompactColorizer()
    for sequence in model.modules():
        if isinstance(sequence, torch.nn.Sequential):
            for index, module in enumerate(sequence):
                # Group norm sees the whole image anyway; here the convolutions alone must reach.
                if isinstance(module, torch.nn.GroupNorm | torch.nn.ReLU):
                    sequence[index] = torch.nn.Identity()
    values = [value.requires_grad_() for value in inputs(1, 32, 32)]
    logits = model(*values)
    for row, column in [(0, 0), (0, 7), (7, 0), (4, 3)]:
        gradients = torch.autograd.grad(logits[0, :, row, column].sum(), values, retain_graph=True)
        assert all((gradient != 0).all() for gradient in gradients)


def test_an_image_does_not_depend_on_its_batch(colorizer) -> None:
    batch = inputs(5, 28, 28)
    single = torch.cat([colorizer(*(value[i : i + 1] for value in batch)) for i in range(5)])
    torch.testing.assert_close(colorizer(*batch), single, rtol=1e-5, atol=1e-4)


def test_a_constant_image_has_constant_logits(colorizer) -> None:
    lightness = torch.full((1, 1, 32, 32), 40.0)
    logits = colorizer(lightness, torch.zeros(1, 2, 32, 32), torch.zeros(1, 1, 32, 32))
    torch.testing.assert_close(logits, logits[..., :1, :1].expand_as(logits), rtol=0, atol=1e-3)


def test_a_hint_moves_the_colours_towards_it(colorizer) -> None:
    lightness = torch.full((1, 1, 32, 32), 50.0)
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 14:18, 14:18] = 1
    means = []
    for a in (-40.0, 40.0):
        hints = torch.cat([a * mask, torch.zeros_like(mask)], dim=1)
        means.append(decode_ab(colorizer(lightness, hints, mask).softmax(dim=1))[0, 0, 4, 4])
    assert means[1] - means[0] > 10


def test_colours_are_the_means_of_the_distributions(colorizer) -> None:
    values = inputs(2, 33, 45)
    ab = colorizer.colors(*values)
    assert ab.shape == (2, 2, 33, 45)
    means = decode_ab(colorizer(*values).softmax(dim=1))
    # The pixels 5/8 and 7/8 of the way from one cell's middle to the next, and the corner.
    torch.testing.assert_close(ab[..., 0, 0], means[..., 0, 0])
    torch.testing.assert_close(ab[..., 0, 4], (3 * means[..., 0, 0] + 5 * means[..., 0, 1]) / 8)
    torch.testing.assert_close(ab[..., 5, 0], (means[..., 0, 0] + 7 * means[..., 1, 0]) / 8)


def test_gradients_reach_hints_and_mask(colorizer) -> None:
    lightness, hints, mask = (value.requires_grad_() for value in inputs(1, 16, 16))
    colorizer(lightness, hints, mask).square().mean().backward()
    assert all((value.grad != 0).any() for value in (lightness, hints, mask))


def test_shipped_weights_load_without_network(monkeypatch) -> None:
    def refuse(*_args, **_kwargs):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "socket", refuse)
    colorizer = load_colorizer("compact")
    content = resources.files("concert.colorization").joinpath("compact.safetensors").read_bytes()
    assert len(content) < 3_500_000
    assert colorizer.fingerprint == hashlib.sha256(content).hexdigest()
    assert not colorizer.training
    for parameter in colorizer.parameters():
        assert parameter.dtype == torch.float32
        assert not parameter.requires_grad


def test_saved_weights_load_again(tmp_path, colorizer) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(save_colorizer(colorizer))
    again = load_colorizer(path)
    assert again.fingerprint == colorizer.fingerprint
    batch = inputs(1, 12, 12)
    assert torch.equal(again(*batch), colorizer(*batch))


def rewritten(content, change):
    state = safetensors.torch.load(content)
    change(state)
    return safetensors.torch.save(state, metadata={"architecture": compact.ARCHITECTURE})


def spoil(state):
    state["head.2.weight"][0] = float("nan")


def shrink(state):
    state["head.2.bias"] = state["head.2.bias"][:313].clone()


def test_bad_files_are_refused_in_one_line(tmp_path, colorizer) -> None:
    good = save_colorizer(colorizer)
    bad = {
        "truncated": (good[:-100], "damaged"),
        "empty": (b"", "damaged"),
        "text": (b"these are not weights, but long enough for a header", "damaged"),
        "other model": (safetensors.torch.save({"x": torch.zeros(1)}), "does not hold"),
        "renamed": (rewritten(good, lambda s: s.pop("stem.weight")), "does not hold"),
        "other grid": (rewritten(good, shrink), "does not hold"),
        "not finite": (rewritten(good, spoil), "not finite"),
    }
    for name, (content, message) in bad.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        with pytest.raises(ConcertError, match=message) as error:
            load_colorizer(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["no/such/file.safetensors", "gone.safetensors"])
def test_a_missing_file_is_named(name) -> None:
    with pytest.raises(ConcertError, match=f"'{name}'.*No such file") as error:
        load_colorizer(name)
    assert "\n" not in str(error.value)


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(ConcertError, match="did you mean 'compact'"):
        load_colorizer("compct")


def test_a_damaged_package_is_noticed(tmp_path, monkeypatch, colorizer) -> None:
    folder = resources.files("concert.colorization")
    for name in ("compact.safetensors", "compact.json"):
        shutil.copy(str(folder.joinpath(name)), tmp_path)
    card = json.loads((tmp_path / "compact.json").read_text())
    assert card["sha256"] == colorizer.fingerprint
    content = bytearray((tmp_path / "compact.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "compact.safetensors").write_bytes(content)
    monkeypatch.setattr(compact.resources, "files", lambda _package: tmp_path)
    with pytest.raises(ConcertError, match="install concert again"):
        load_colorizer()
