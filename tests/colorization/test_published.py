"""siggraph17 and eccv16: the published layout, both conventions, and files that are refused."""

from __future__ import annotations

import hashlib
import pickle
from math import log
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch.nn import functional as F

from concert.colorization import (
    Eccv16,
    Siggraph17,
    build_colorizer,
    color_entropy,
    entropy_map,
    published,
)
from concert.colorization.published import RELEASES, load_published
from concert.errors import ConcertError

# Key, then output and input channels and the kernel's side; "up": a transposed convolution, whose
# weight has the input channels first; one number alone: a batch norm; "bare": no bias.
TABLES = {
    "siggraph17": """
        model1.0 64 4 3      model1.2 64 64 3     model1.4 64
        model2.0 128 64 3    model2.2 128 128 3   model2.4 128
        model3.0 256 128 3   model3.2 256 256 3   model3.4 256 256 3   model3.6 256
        model4.0 512 256 3   model4.2 512 512 3   model4.4 512 512 3   model4.6 512
        model5.0 512 512 3   model5.2 512 512 3   model5.4 512 512 3   model5.6 512
        model6.0 512 512 3   model6.2 512 512 3   model6.4 512 512 3   model6.6 512
        model7.0 512 512 3   model7.2 512 512 3   model7.4 512 512 3   model7.6 512
        model8up.0 256 512 4 up    model3short8.0 256 256 3
        model8.1 256 256 3   model8.3 256 256 3   model8.5 256
        model9up.0 128 256 4 up    model2short9.0 128 128 3
        model9.1 128 128 3   model9.3 128
        model10up.0 128 128 4 up   model1short10.0 128 64 3
        model10.1 128 128 3  model_class.0 529 256 1    model_out.0 2 128 1
    """,
    "eccv16": """
        model1.0 64 1 3      model1.2 64 64 3     model1.4 64
        model2.0 128 64 3    model2.2 128 128 3   model2.4 128
        model3.0 256 128 3   model3.2 256 256 3   model3.4 256 256 3   model3.6 256
        model4.0 512 256 3   model4.2 512 512 3   model4.4 512 512 3   model4.6 512
        model5.0 512 512 3   model5.2 512 512 3   model5.4 512 512 3   model5.6 512
        model6.0 512 512 3   model6.2 512 512 3   model6.4 512 512 3   model6.6 512
        model7.0 512 512 3   model7.2 512 512 3   model7.4 512 512 3   model7.6 512
        model8.0 256 512 4 up      model8.2 256 256 3   model8.4 256 256 3   model8.6 313 256 1
        model_out 2 313 1 bare
    """,
}
TENSORS = {"siggraph17": 107, "eccv16": 82}
PARAMETERS = {"siggraph17": 34_187_027, "eccv16": 32_236_011}
CLASSES = {"siggraph17": Siggraph17, "eccv16": Eccv16}
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def published_shapes(name: str) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    words = TABLES[name].split()
    while words:
        key, *rest = words
        numbers = []
        while rest and rest[0].isdigit():
            numbers.append(int(rest.pop(0)))
        mark = rest.pop(0) if rest and rest[0] in ("up", "bare") else ""
        words = rest
        if len(numbers) == 1:
            shapes |= {f"{key}.{part}": (numbers[0],) for part in ("weight", "bias", *BUFFERS[:2])}
            shapes[f"{key}.{BUFFERS[2]}"] = ()
            continue
        out_channels, in_channels, side = numbers
        ends = (in_channels, out_channels) if mark == "up" else (out_channels, in_channels)
        shapes[f"{key}.weight"] = (*ends, side, side)
        if mark != "bare":
            shapes[f"{key}.bias"] = (out_channels,)
    return shapes


def random_state(name: str) -> dict[str, torch.Tensor]:
    """Tensors of the published names and shapes; the head is loud, so that entropies vary."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, shape in published_shapes(name).items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(7)
        elif key.endswith("running_var") or (len(shape) == 1 and key.endswith("weight")):
            state[key] = 0.5 + torch.rand(shape, generator=generator)
        else:
            fan_in = max(1, torch.Size(shape[1:]).numel()) if len(shape) > 1 else 100
            loud = 4.0 if key.startswith(("model_class", "model8.6")) else 1.4
            state[key] = torch.randn(shape, generator=generator) * loud / fan_in**0.5
    return state


@pytest.fixture(scope="module")
def states() -> dict[str, dict[str, torch.Tensor]]:
    return {name: random_state(name) for name in TABLES}


@pytest.fixture(scope="module")
def files(states, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("published")
    for name, state in states.items():
        torch.save(state, folder / f"{name}.pth")
    return {name: folder / f"{name}.pth" for name in states}


@pytest.fixture(scope="module")
def networks(files) -> dict[str, torch.nn.Module]:
    return {name: load_published(file) for name, file in files.items()}


def inputs(height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lightness = 100 * torch.rand(2, 1, height, width, generator=generator)
    mask = (torch.rand(2, 1, height, width, generator=generator) < 0.1).float()
    hints = mask * (220 * torch.rand(2, 2, height, width, generator=generator) - 110)
    return lightness, hints, mask


@pytest.mark.parametrize("name", TABLES)
def test_names_and_shapes_are_the_published_ones(name) -> None:
    network = CLASSES[name]()
    expected = published_shapes(name)
    assert {key: tuple(value.shape) for key, value in network.state_dict().items()} == expected
    assert len(expected) == TENSORS[name]
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[name]
    counted = [torch.Size(s).numel() for k, s in expected.items() if not k.endswith(BUFFERS)]
    assert sum(counted) == PARAMETERS[name]


@pytest.mark.parametrize("name", TABLES)
def test_published_files_load(name, files, states, networks) -> None:
    network = networks[name]
    assert isinstance(network, CLASSES[name])
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert network.fingerprint == hashlib.sha256(files[name].read_bytes()).hexdigest()
    for key, value in network.state_dict().items():
        assert torch.equal(value, states[name][key]), key


class Reference:
    """The published computation, written with functions on the tensors of a state dict."""

    def __init__(self, state) -> None:
        self.state = state

    def conv(self, x, key, **options):
        return F.conv2d(x, self.state[f"{key}.weight"], self.state.get(f"{key}.bias"), **options)

    def up(self, x, key):
        weight, bias = self.state[f"{key}.weight"], self.state[f"{key}.bias"]
        return F.conv_transpose2d(x, weight, bias, stride=2, padding=1)

    def norm(self, x, key):
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(self.state[f"{key}.{name}"] for name in names), eps=1e-5)

    def run(self, x, key, indices, dilation=1, last_stride=1):
        for index in indices[:-1]:
            stride = last_stride if index == indices[-2] else 1
            x = self.conv(
                x, f"{key}.{index}", padding=dilation, dilation=dilation, stride=stride
            ).relu()
        return self.norm(x, f"{key}.{indices[-1]}")

    def siggraph17(self, lightness, ab, mask):
        """Logits and ab of inputs as the network sees them."""
        one = self.run(torch.cat([lightness, ab, mask], 1), "model1", [0, 2, 4])
        two = self.run(one[:, :, ::2, ::2], "model2", [0, 2, 4])
        three = self.run(two[:, :, ::2, ::2], "model3", [0, 2, 4, 6])
        x = self.run(three[:, :, ::2, ::2], "model4", [0, 2, 4, 6])
        x = self.run(x, "model5", [0, 2, 4, 6], dilation=2)
        x = self.run(x, "model6", [0, 2, 4, 6], dilation=2)
        x = self.run(x, "model7", [0, 2, 4, 6])
        x = self.up(x, "model8up.0") + self.conv(three, "model3short8.0", padding=1)
        eight = self.run(x.relu(), "model8", [1, 3, 5])
        x = self.up(eight, "model9up.0") + self.conv(two, "model2short9.0", padding=1)
        nine = self.run(x.relu(), "model9", [1, 3])
        x = self.up(nine, "model10up.0") + self.conv(one, "model1short10.0", padding=1)
        ten = F.leaky_relu(self.conv(x.relu(), "model10.1", padding=1), 0.2)
        return self.conv(eight, "model_class.0"), 110 * self.conv(ten, "model_out.0").tanh()

    def eccv16(self, lightness):
        x = self.run(lightness, "model1", [0, 2, 4], last_stride=2)
        x = self.run(x, "model2", [0, 2, 4], last_stride=2)
        x = self.run(x, "model3", [0, 2, 4, 6], last_stride=2)
        x = self.run(x, "model4", [0, 2, 4, 6])
        x = self.run(x, "model5", [0, 2, 4, 6], dilation=2)
        x = self.run(x, "model6", [0, 2, 4, 6], dilation=2)
        x = self.run(x, "model7", [0, 2, 4, 6])
        x = self.up(x, "model8.0").relu()
        x = self.conv(self.conv(x, "model8.2", padding=1).relu(), "model8.4", padding=1).relu()
        logits = self.conv(x, "model8.6")
        ab = 110 * self.conv(logits.softmax(1), "model_out")
        return logits, F.interpolate(ab, scale_factor=4, mode="bilinear")


@pytest.mark.parametrize("mask_center", [0.0, 0.5])
def test_siggraph17_sees_the_inputs_of_both_conventions(states, mask_center) -> None:
    network = Siggraph17(mask_center).eval()
    network.load_state_dict(states["siggraph17"])
    lightness, hints, mask = inputs(32, 40)
    seen = ((lightness - 50) / 100, hints / 110, mask - mask_center)
    with torch.no_grad():
        logits, ab = Reference(states["siggraph17"]).siggraph17(*seen)
        torch.testing.assert_close(network(lightness, hints, mask), logits, rtol=1e-4, atol=1e-4)
        colors = network.colors(lightness, hints, mask)
    torch.testing.assert_close(colors, ab, rtol=1e-4, atol=1e-2)
    assert colors.std() > 1


def test_eccv16_computes_what_is_published(states, networks) -> None:
    lightness, hints, mask = inputs(32, 40)
    none = torch.zeros_like(mask)
    with torch.no_grad():
        logits, ab = Reference(states["eccv16"]).eccv16((lightness - 50) / 100)
        found = networks["eccv16"](lightness, hints, none)
        colors = networks["eccv16"].colors(lightness, hints, none)
    torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(colors, ab, rtol=1e-4, atol=1e-2)


def test_eccv16_refuses_hints(networks) -> None:
    with pytest.raises(ConcertError, match="takes no colour hints"):
        networks["eccv16"](*inputs(8, 8))


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("size", [(28, 28), (20, 20), (5, 3)])
def test_sizes_that_are_no_multiples_of_eight_are_padded(networks, name, size) -> None:
    network = networks[name]
    values = [value * (name == "siggraph17" or i == 0) for i, value in enumerate(inputs(*size))]
    amounts = (0, -size[1] % 8, 0, -size[0] % 8)
    padded = [F.pad(value, amounts, mode="replicate") for value in values]
    cells = (-(-size[0] // 4), -(-size[1] // 4))
    logits = network(*values)
    assert logits.shape == (2, network.bins, *cells)
    torch.testing.assert_close(logits, network(*padded)[..., : cells[0], : cells[1]])
    assert network.colors(*values).shape == (2, 2, *size)


def test_gradients_reach_hints_and_mask_of_siggraph17(networks) -> None:
    values = [value.requires_grad_() for value in inputs(16, 16)]
    network = networks["siggraph17"]
    (network(*values).square().mean() + network.colors(*values).mean()).backward()
    assert all((value.grad != 0).any() and value.grad.isfinite().all() for value in values)


@pytest.mark.parametrize("name", TABLES)
def test_entropy_maps_are_those_of_their_distributions(networks, name) -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    maps = entropy_map(images, networks[name])
    assert maps.shape == (2, 1, 32, 32)
    assert maps.amin(dim=(1, 2, 3)).tolist() == [0, 0]
    assert maps.amax(dim=(1, 2, 3)).tolist() == [1, 1]
    lightness = inputs(32, 32)[0]
    zeros = torch.zeros_like(lightness)
    entropies = color_entropy(networks[name](lightness, zeros.expand(-1, 2, -1, -1), zeros))
    assert 0 < entropies.min() < entropies.max() < log(networks[name].bins)


def test_the_setting_reaches_the_network(files, networks, caplog) -> None:
    path = str(files["siggraph17"])
    plain = build_colorizer(path)
    centered = build_colorizer(path, {"mask_center": 0.5})
    assert caplog.text == ""
    assert (plain.mask_center, centered.mask_center) == (0, 0.5)
    assert plain.fingerprint == networks["siggraph17"].fingerprint
    # Other maps, so another name in the cache.
    assert len(centered.fingerprint) == 64
    assert centered.fingerprint[:24] != plain.fingerprint[:24]
    with pytest.raises(ConcertError, match=r"mask_center must be 0 or 0\.5"):
        build_colorizer(path, {"mask_center": 1})
    with pytest.raises(ConcertError, match="no argument mask"):
        build_colorizer(path, {"mask": 1})
    with pytest.raises(ConcertError, match="eccv16 has no mask"):
        build_colorizer(str(files["eccv16"]), {"mask_center": 0.5})


def test_a_head_that_was_never_trained_is_warned_of(states, tmp_path, caplog) -> None:
    state = dict(states["siggraph17"])
    for part in ("weight", "bias"):
        state[f"model_class.0.{part}"] = torch.zeros_like(state[f"model_class.0.{part}"])
    # A converted file may also lack the counters of batch norm.
    state = {key: value for key, value in state.items() if not key.endswith("tracked")}
    torch.save(state, tmp_path / "caffe.pth")
    build_colorizer(str(tmp_path / "caffe.pth"))
    assert "looks untrained" in caplog.text
    assert "6.2710 to 6.2710 nats" in caplog.text


def test_a_safetensors_copy_loads_too(states, tmp_path) -> None:
    safetensors.torch.save_file(states["eccv16"], tmp_path / "copy.safetensors")
    assert isinstance(build_colorizer(str(tmp_path / "copy.safetensors")), Eccv16)


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def saved(value, path: Path) -> bytes:
    torch.save(value, path)
    return path.read_bytes()


def test_files_that_hold_anything_else_are_refused_in_one_line(files, states, tmp_path) -> None:
    good = files["eccv16"].read_bytes()
    trap = tmp_path / "code-was-run"
    scratch = tmp_path / "scratch.pth"
    head = {"model8up.0.weight": torch.zeros(512, 256, 4, 4)}
    spoiled = states["eccv16"] | {"model_out.weight": torch.full((2, 313, 1, 1), torch.nan)}
    bad = {
        "truncated": (good[:-1000], "damaged"),
        "half": (good[: len(good) // 2], "damaged"),
        "empty": (b"", "damaged"),
        "text": (b"<html>404: the weights have moved</html>", "damaged"),
        "code": (saved({"model8up.0.weight": Malicious(trap)}, scratch), "code in a file is never"),
        "pickle": (pickle.dumps(Malicious(trap), protocol=2), "code in a file is never"),
        "network": (saved(torch.nn.Linear(1, 1), scratch), "code in a file is never"),
        "list": (saved([torch.zeros(1)], scratch), "damaged"),
        "another": (saved(torch.nn.Linear(1, 1).state_dict(), scratch), "neither siggraph17 nor"),
        "part": (saved(head, scratch), "does not fit siggraph17: it has none for model1.0.bias"),
        "not finite": (saved(spoiled, scratch), "not finite"),
    }
    for name, (content, message) in bad.items():
        path = tmp_path / f"{name}.pth"
        path.write_bytes(content)
        with pytest.raises(ConcertError, match=message) as error:
            build_colorizer(str(path))
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
    assert not trap.exists()
    with pytest.raises(ConcertError, match="No such file"):
        build_colorizer(str(tmp_path / "gone.pth"))


def test_a_download_must_have_the_published_hash(files, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CONCERT_CACHE", str(tmp_path))
    source = files["eccv16"]
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    mark = RELEASES["eccv16"].mark
    cached = tmp_path / "colorizers" / source.name

    def offered(hash_prefix):
        return {"eccv16": published.Release(source.as_uri(), hash_prefix, Eccv16, mark)}

    monkeypatch.setattr(published, "RELEASES", RELEASES | offered("00000000"))
    with pytest.raises(ConcertError, match=r"cannot download .*hash.*give the path") as error:
        load_published("eccv16")
    assert "\n" not in str(error.value)
    assert not cached.exists()

    monkeypatch.setattr(published, "RELEASES", RELEASES | offered(digest[:8]))
    assert load_published("eccv16").fingerprint == digest
    assert cached.is_file()

    cached.write_bytes(cached.read_bytes()[:-1])
    with pytest.raises(ConcertError, match="do not have the published hash"):
        load_published("eccv16")


def test_without_a_network_the_path_is_asked_for(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CONCERT_CACHE", str(tmp_path))
    gone = published.Release((tmp_path / "gone.pth").as_uri(), "00000000", Siggraph17, "")
    monkeypatch.setattr(published, "RELEASES", {"siggraph17": gone})
    with pytest.raises(ConcertError, match="cannot download the weights of siggraph17") as error:
        load_published("siggraph17")
    assert "\n" not in str(error.value)


def test_the_releases_are_named_after_their_hashes() -> None:
    for name, release in RELEASES.items():
        assert release.url.endswith(f"-{release.hash_prefix}.pth")
        assert release.url.startswith("https://")
        assert release.mark in published_shapes(name)
        assert all(release.mark not in published_shapes(other) for other in TABLES if other != name)
