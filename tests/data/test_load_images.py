"""Loading by name and from folders: contents, the cache, and every mistake in one line."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from written_images import encoded, random_image, write_folder, write_parquet

from concert.data import MEAN_STD, load_images
from concert.data.known import KNOWN
from concert.errors import ConcertError

TEN = [str(digit) for digit in range(10)]


def as_float(image: Image.Image) -> torch.Tensor:
    array = np.asarray(image)
    array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return torch.from_numpy(array.astype(np.float32) / 255)


def refused(*arguments, **keywords) -> str:
    with pytest.raises(ConcertError) as caught:
        load_images(*arguments, **keywords)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_parquet_gives_the_very_pixels_and_labels(tmp_path: Path) -> None:
    images = [random_image(seed) for seed in range(5)]
    write_parquet(tmp_path / "test.parquet", images, [2, 0, 1, 1, 0], names=["a", "b", "c"])
    loaded = load_images("mine", "test", tmp_path)
    assert torch.equal(loaded.images([3, 0]), torch.stack([as_float(images[i]) for i in (3, 0)]))
    assert loaded.labels.tolist() == [2, 0, 1, 1, 0]
    assert loaded.class_names == ("a", "b", "c")
    assert (loaded.name, loaded.split, loaded.num_classes) == ("mine", "test", 3)
    assert (loaded.shape, len(loaded)) == ((3, 7, 9), 5)
    assert loaded.source == f"test.parquet (sha256 {loaded.fingerprint[:12]})"
    assert loaded.notes == ""


def test_parquet_shards_below_data_are_read_in_order(tmp_path: Path) -> None:
    images = [random_image(seed, mode="L") for seed in range(4)]
    for shard in (0, 1):
        file = tmp_path / "data" / f"train-0000{shard}-of-00002.parquet"
        write_parquet(file, images[2 * shard : 2 * shard + 2], [shard, 1], image="img")
    loaded = load_images("mine", "train", tmp_path)
    assert torch.equal(loaded.images(range(4)), torch.stack([as_float(i) for i in images]))
    assert loaded.labels.tolist() == [0, 1, 1, 1]
    assert loaded.source.startswith("train-00000-of-00002.parquet .. train-00001-of-00002.parquet")


def test_unnamed_classes_are_counted_over_all_splits(tmp_path: Path) -> None:
    images = [random_image(seed) for seed in range(3)]
    write_parquet(tmp_path / "train.parquet", images, [0, 1, 4])
    write_parquet(tmp_path / "validation.parquet", images, [0, 1, 1])
    assert load_images("mine", "test", tmp_path).num_classes == 5


def test_string_labels_are_numbered_over_all_splits(tmp_path: Path) -> None:
    images = [random_image(seed) for seed in range(3)]
    write_parquet(tmp_path / "train.parquet", images, ["cat", "ant", "bee"])
    write_parquet(tmp_path / "test.parquet", images, ["cat", "cat", "bee"])
    loaded = load_images("mine", "test", tmp_path)
    assert loaded.class_names == ("ant", "bee", "cat")
    assert loaded.labels.tolist() == [2, 2, 1]


def test_class_names_may_repeat(tmp_path: Path) -> None:
    """ImageNet has two classes "crane", which the `datasets` library refuses to read."""
    import pyarrow.parquet

    file = tmp_path / "test.parquet"
    write_parquet(file, [random_image(0), random_image(1)], [0, 1], names=["crane", "CRANE"])
    table = pyarrow.parquet.read_table(file)
    schema = {k: v.replace(b"CRANE", b"crane") for k, v in table.schema.metadata.items()}
    pyarrow.parquet.write_table(table.replace_schema_metadata(schema), file)
    assert load_images("mine", "test", tmp_path).class_names == ("crane", "crane")


def test_folder_names_with_wildcards_are_taken_literally(tmp_path: Path) -> None:
    folder = tmp_path / "run[1]*"
    write_parquet(folder / "test.parquet", [random_image(0)], [0])
    assert len(load_images("mine", "test", folder)) == 1


def test_image_folder(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train/ant": 2, "train/bee": 1, "train/cat": 2, "val/cat": 2})
    train, test = load_images("mine", "train", tmp_path), load_images("mine", "test", tmp_path)
    assert train.class_names == test.class_names == ("ant", "bee", "cat")
    assert train.labels.tolist() == [0, 0, 1, 2, 2]
    assert test.labels.tolist() == [2, 2]
    assert torch.equal(test.images([1])[0], as_float(random_image(301)))
    assert train.source.startswith("image folder train (sha256 ")
    assert (train.notes, test.notes) == ("ordered by class", "")


def test_grey_images_among_coloured_ones_become_coloured(tmp_path: Path) -> None:
    write_folder(tmp_path, {"test/a": 1})
    (tmp_path / "test" / "b").mkdir()
    grey = random_image(5, mode="L")
    grey.save(tmp_path / "test" / "b" / "0.png")
    loaded = load_images("mine", "test", tmp_path)
    assert torch.equal(loaded.images([1])[0], as_float(grey).expand(3, -1, -1))


def test_sizes_that_differ_need_a_size(tmp_path: Path) -> None:
    write_folder(tmp_path, {"test/a": 1}, size=(12, 8))
    write_folder(tmp_path, {"test/b": 1}, size=(6, 9))
    assert "2 sizes, 8x12 to 9x6" in refused("mine", "test", tmp_path)
    loaded = load_images("mine", "test", tmp_path, size=6)
    assert loaded.shape == (3, 6, 6)
    assert "centre cropped to 6x6" in loaded.notes
    # The second image has the right width already: only the centre crop is left to do.
    assert torch.equal(loaded.images([1])[0], as_float(random_image(0, (6, 9)))[:, 2:8])


def test_imagenet_is_resized_and_cropped(tmp_path: Path) -> None:
    image = random_image(0, (300, 256))
    write_parquet(tmp_path / "validation.parquet", [image], [999], names=[*map(str, range(1000))])
    test = load_images("imagenet", "test", tmp_path)
    assert torch.equal(test.images([0])[0], as_float(image)[:, 16:240, 38:262])
    assert (test.num_classes, test.notes) == (1000, "1 of the usual 50000 test images")


def test_known_data_must_agree_with_their_name(tmp_path: Path) -> None:
    write_parquet(tmp_path / "test.parquet", [random_image(0)], [0], names=TEN)
    assert "are 3x7x9, those of cifar10 3x32x32" in refused("cifar10", "test", tmp_path)
    assert "1x28x28" in refused("mnist", "test", tmp_path, size=28)
    write_folder(tmp_path / "two", {"test/a": 1, "test/b": 1}, size=(32, 32))
    assert "has 2 classes, cifar10 has 10" in refused("cifar10", "test", tmp_path / "two")


@pytest.mark.parametrize(("kind", "reencoded"), [("PNG", False), ("JPEG", True)])
def test_reencoded_images_are_noted(tmp_path: Path, kind: str, reencoded: bool) -> None:
    images = [random_image(seed, (32, 32)) for seed in range(2)]
    write_parquet(tmp_path / "test.parquet", images, [8, 3], names=TEN, image="img", kind=kind)
    notes = load_images("cifar10", "test", tmp_path).notes
    assert notes.startswith("2 of the usual 10000 test images")
    assert ("JPEG" in notes) == reencoded


def test_decoded_images_are_taken_from_the_cache(tmp_path: Path, cache: Path) -> None:
    write_folder(tmp_path, {"test/a": 2})
    first = load_images("mine", "test", tmp_path)
    (stored,) = (cache / "images").iterdir()
    changed = stored.stat().st_mtime_ns
    # Damaged, but of the same name, size and time: only the cache can still give the image.
    file = tmp_path / "test" / "a" / "000.png"
    times = file.stat()
    file.write_bytes(b"x" * times.st_size)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    second = load_images("mine", "test", tmp_path)
    assert torch.equal(first.images([0, 1]), second.images([0, 1]))
    assert first.fingerprint == second.fingerprint
    assert stored.stat().st_mtime_ns == changed


def test_two_folders_of_files_with_the_same_names_sizes_and_times(tmp_path: Path) -> None:
    """As archives make them that give every file the same time."""
    for name, grey in (("dark", 10), ("bright", 200)):
        file = tmp_path / name / "test" / "a" / "0.bmp"
        file.parent.mkdir(parents=True)
        Image.new("L", (8, 8), grey).save(file)
        os.utime(file, (1, 1))
    shades = [
        float(load_images("mine", "test", tmp_path / name).images([0]).mean())
        for name in ("dark", "bright")
    ]
    assert shades == pytest.approx([10 / 255, 200 / 255])


def test_labels_of_a_cached_set_may_be_written_to(tmp_path: Path) -> None:
    write_folder(tmp_path, {"test/a": 1, "test/b": 1})
    load_images("mine", "test", tmp_path)
    load_images("mine", "test", tmp_path).labels.zero_()
    assert load_images("mine", "test", tmp_path).labels.tolist() == [0, 1]


def test_changed_files_are_decoded_again(tmp_path: Path) -> None:
    write_parquet(tmp_path / "test.parquet", [random_image(0)], [0])
    first = load_images("mine", "test", tmp_path)
    write_parquet(tmp_path / "test.parquet", [random_image(1)], [0])
    second = load_images("mine", "test", tmp_path)
    assert torch.equal(second.images([0])[0], as_float(random_image(1)))
    assert first.fingerprint != second.fingerprint


@pytest.mark.parametrize("damage", ["truncated", "one bit", "another file"])
def test_damaged_cache_is_rebuilt(
    tmp_path: Path, cache: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_folder(tmp_path, {"test/a": 2})
    first = load_images("mine", "test", tmp_path)
    expected = first.images([0, 1])
    del first
    (stored,) = (cache / "images").iterdir()
    content = bytearray(stored.read_bytes())
    if damage == "truncated":
        content = content[:-5]
    elif damage == "one bit":
        content[-1] ^= 1
    else:
        content = bytearray(b"not safetensors")
    stored.unlink()
    stored.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(load_images("mine", "test", tmp_path).images([0, 1]), expected)
    assert "rebuilding" in caplog.text
    caplog.clear()
    load_images("mine", "test", tmp_path)
    assert "rebuilding" not in caplog.text


def test_data_too_large_for_memory_are_decoded_on_demand(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path, {"train/a": 2, "train/b": 2})
    eager = load_images("mine", "train", tmp_path)
    (stored,) = (cache / "images").iterdir()
    stored.unlink()
    monkeypatch.setattr("concert.data.decode.IN_MEMORY_LIMIT", 4 * 3 * 7 * 9 - 1)
    lazy = load_images("mine", "train", tmp_path)
    assert not list((cache / "images").iterdir())
    assert torch.equal(lazy.images([3, 1, 1]), eager.images([3, 1, 1]))
    assert len(lazy.fingerprint) == 64


def test_training_photographs_are_cropped_from_the_original(tmp_path: Path) -> None:
    """A picture that is dark outside its centre crop: only crops of the original are dark."""
    pixels = np.zeros((256, 1024, 3), dtype=np.uint8)
    pixels[:, 384:640] = 255
    image = Image.fromarray(pixels)
    write_parquet(tmp_path / "train.parquet", [image], [0], names=[*map(str, range(1000))])
    train = load_images("imagenet", "train", tmp_path)
    assert train.images([0]).min() == 1
    generator = torch.Generator().manual_seed(0)
    views = train.training_images([0] * 8, generator)
    assert views.shape == (8, 3, 224, 224)
    assert views.amin() == 0
    entropy = torch.full((8, 1, 224, 224), 0.5)
    both = train.training_images([0] * 8, generator, entropy)
    assert both[:, :3].min() == 1
    torch.testing.assert_close(both[:, 3:], entropy)


def test_unwritable_cache_only_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_folder(tmp_path, {"test/a": 2})
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CONCERT_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        assert len(load_images("mine", "test", tmp_path)) == 2
    assert "CONCERT_CACHE" in caplog.text


def test_mistakes_of_names_and_folders(tmp_path: Path) -> None:
    assert "did you mean 'mnist'" in refused("minst", "test")
    assert "--data.path" in refused("minst", "test")
    assert "did you mean 'test'" in refused("digits", "tset")
    assert "leave the image size out" in refused("digits", "test", size=32)
    assert "image size 0" in refused("mine", "test", tmp_path, size=0)
    assert "is not a folder" in refused("mine", "test", tmp_path / "absent")
    assert "holds no test images" in refused("mine", "test", tmp_path)
    write_folder(tmp_path, {"test/a": 1})
    assert "holds no train images" in refused("mine", "train", tmp_path)


def test_mistakes_in_image_folders(tmp_path: Path) -> None:
    (tmp_path / "bare" / "test").mkdir(parents=True)
    assert "no class folders" in refused("mine", "test", tmp_path / "bare")
    (tmp_path / "empty" / "test" / "a").mkdir(parents=True)
    assert "no images" in refused("mine", "test", tmp_path / "empty")
    write_folder(tmp_path / "extra", {"train/a": 1, "test/a": 1, "test/b": 1})
    assert "class folder 'b'" in refused("mine", "test", tmp_path / "extra")
    write_folder(tmp_path / "alpha", {"test/a": 1}, mode="RGBA")
    assert "pixel mode RGBA" in refused("mine", "test", tmp_path / "alpha")
    for name, content in [("text", b"hello"), ("cut", encoded(random_image(0))[:-60])]:
        (tmp_path / name / "test" / "a").mkdir(parents=True)
        (tmp_path / name / "test" / "a" / "0.png").write_bytes(content)
        message = refused("mine", "test", tmp_path / name)
        assert "0.png" in message
        assert "replace it" in message


def test_mistakes_in_parquet_files(tmp_path: Path) -> None:
    images = [random_image(0), random_image(1)]
    cases = {
        "name the labels' one 'label'": {"label": "kind"},
        "name the images' one 'image'": {"image": "picture"},
        "label -1 of mine is outside 0..9": {"labels": [0, -1], "names": TEN},
    }
    for position, (message, case) in enumerate(cases.items()):
        folder = tmp_path / str(position)
        labels = case.pop("labels", [0, 1])
        write_parquet(folder / "test.parquet", images, labels, **case)
        assert message in refused("mine", "test", folder)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "test.parquet").write_bytes(b"PAR1 not really")
    assert "cannot read" in refused("mine", "test", tmp_path / "broken")
    write_parquet(tmp_path / "none" / "test.parquet", [], [])
    assert "empty" in refused("mine", "test", tmp_path / "none")


def test_labels_must_be_whole(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    cell = [{"bytes": encoded(random_image(0)), "path": None}] * 2
    for position, labels in enumerate([[0.5, 1.0], [None, 1], [None, "a"]]):
        folder = tmp_path / str(position)
        folder.mkdir()
        pyarrow.parquet.write_table(
            pyarrow.table({"image": cell, "label": labels}), folder / "test.parquet"
        )
        assert "an integer or a class name for every image" in refused("mine", "test", folder)


def test_no_network_is_one_line_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    message = refused("mnist", "test")
    assert "--data.path FOLDER" in message
    assert "'digits'" in message


def test_shape_of_known_images_at_a_size() -> None:
    assert KNOWN["mnist"].shape_at(None) == (1, 28, 28)
    assert KNOWN["mnist"].shape_at(32) == (1, 32, 32)
    assert KNOWN["imagenet"].shape_at(64) == (3, 64, 64)


def test_normalisation_constants() -> None:
    assert MEAN_STD["mnist"] is None
    assert MEAN_STD["digits"] is None
    assert MEAN_STD["cifar10"] == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    assert MEAN_STD["imagenet"] == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_shared_test_splits(shared_data: Path) -> None:
    mnist = load_images("mnist", "test", shared_data / "mnist")
    assert (mnist.shape, mnist.num_classes) == ((1, 28, 28), 10)
    # The first labels of the original test file: 7 2 1 0 4 1 4 9 5 9.
    assert mnist.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    cifar = load_images("cifar10", "test", shared_data / "cifar10")
    assert (cifar.shape, cifar.class_names[0]) == ((3, 32, 32), "airplane")
    imagenet = load_images("imagenet", "test", shared_data / "imagenet-sample")
    assert (imagenet.shape, imagenet.num_classes) == ((3, 224, 224), 1000)
    assert imagenet.class_names[int(imagenet.labels[0])] == "tennis ball"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("mnist", 60_000), ("cifar10", 50_000)])
def test_shared_training_splits(shared_data: Path, name: str, count: int) -> None:
    train = load_images(name, "train", shared_data / name)
    assert len(train) == count
    assert train.images([0, count - 1]).std() > 0.1
    assert train.labels.bincount(minlength=10).min() >= 5000
