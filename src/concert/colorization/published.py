"""The published weights of the two networks of Zhang et al.: from a file, or downloaded.

They are pickles, so they are read with `weights_only`, which builds tensors and runs no code. Their
authors name each file after the first eight hexadecimal digits of its SHA-256, and a download must
begin with these.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from concert.colorization.eccv16 import Eccv16
from concert.colorization.siggraph17 import Siggraph17
from concert.data.cache import cache_folder
from concert.errors import ConcertError
from concert.import_paths import one_line


@dataclass(frozen=True)
class Release:
    """One of the files that the authors publish, its network, and a tensor that only that has."""

    url: str
    hash_prefix: str
    network: type[Siggraph17 | Eccv16]
    mark: str


_BUCKET = "https://colorizers.s3.us-east-2.amazonaws.com"
RELEASES = {
    "siggraph17": Release(
        f"{_BUCKET}/siggraph17-df00044c.pth", "df00044c", Siggraph17, "model8up.0.weight"
    ),
    "eccv16": Release(
        f"{_BUCKET}/colorization_release_v2-9b330a0b.pth", "9b330a0b", Eccv16, "model8.6.weight"
    ),
}


def load_published(name_or_path: str | Path, mask_center: float = 0.0) -> Siggraph17 | Eccv16:
    """siggraph17 or eccv16 in evaluation mode, its parameters frozen, in float32.

    Args:
        name_or_path: "siggraph17" or "eccv16", whose weights are downloaded once into the cache
            folder; or the path of a file of either, which its tensors tell apart.
        mask_center: of siggraph17, see `Siggraph17`.

    Raises:
        ConcertError: if the file is missing, damaged, of another network, or holds code; or if
            the download fails or does not have the published hash.
    """
    name = str(name_or_path)
    content = _download(name) if name in RELEASES else _read(Path(name))
    state = read_state(content, name)
    colorizer: Siggraph17 | Eccv16
    # On the meta device no time goes into random weights.
    with torch.device("meta"):
        if RELEASES["siggraph17"].mark in state:
            colorizer = Siggraph17(mask_center)
        elif RELEASES["eccv16"].mark in state:
            colorizer = Eccv16()
        else:
            raise ConcertError(
                f"'{name}' holds the weights of neither siggraph17 nor eccv16: "
                "give a file of one of them"
            )
    if mask_center and isinstance(colorizer, Eccv16):
        raise ConcertError("eccv16 has no mask: leave out mask_center")
    fill(colorizer, state, name)
    digest = hashlib.sha256(content).hexdigest()
    # Another centre gives other maps, so it must not share a cache.
    centered = f"{digest} mask_center {mask_center!r}".encode()
    colorizer.fingerprint = hashlib.sha256(centered).hexdigest() if mask_center else digest
    return colorizer.eval().requires_grad_(False)


def read_state(content: bytes, name: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a PyTorch file without any code in it."""
    damaged = (
        f"'{name}' is damaged, or no file of weights alone (code in a file is never run): "
        "fetch it again"
    )
    try:
        if content[:2] == b"PK" or content[:1] == b"\x80":
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        else:
            state = safetensors.torch.load(content)
    # Bytes that are no such file can fail anywhere in either reader.
    except Exception as error:
        raise ConcertError(damaged) from error
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise ConcertError(damaged)
    return state


def fill(colorizer: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Make `state`, in float32, the tensors of `colorizer`: its names and shapes must be these."""
    expected = colorizer.state_dict()
    # Files from before PyTorch 0.4.1 lack these counters, which evaluation does not use.
    counters = {key: torch.tensor(0) for key in expected if key.endswith("num_batches_tracked")}
    state = {**counters, **state}
    for key in sorted(expected.keys() | state.keys()):
        sizes = [
            list(tensors[key].shape) if key in tensors else "none" for tensors in (state, expected)
        ]
        if sizes[0] != sizes[1]:
            kind = type(colorizer).__name__.lower()
            raise ConcertError(
                f"'{name}' does not fit {kind}: it has {sizes[0]} for {key}, the network has "
                f"{sizes[1]}: give the published file"
            )
        if not bool(state[key].isfinite().all()):
            raise ConcertError(f"'{name}' holds weights that are not finite: fetch it again")
    floats = {k: v if k in counters else v.float() for k, v in state.items()}
    colorizer.load_state_dict(floats, assign=True)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConcertError(
            f"cannot read the colorizer '{path}' ({error.strerror}): give the path of its weights"
        ) from error


def _download(name: str) -> bytes:
    """The content of a release, from the cache folder or, the first time, from its authors."""
    release = RELEASES[name]
    path = cache_folder() / "colorizers" / release.url.rpartition("/")[2]
    by_hand = f"download {release.url} and give the path of the file"
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(release.url, str(path), release.hash_prefix, False)
        # RuntimeError: the hash is another one.
        except (OSError, RuntimeError) as error:
            raise ConcertError(
                f"cannot download the weights of {name} ({one_line(error)}): {by_hand}"
            ) from error
    content = _read(path)
    if not hashlib.sha256(content).hexdigest().startswith(release.hash_prefix):
        raise ConcertError(
            f"the weights in {path} do not have the published hash {release.hash_prefix}: "
            "remove the file"
        )
    return content
