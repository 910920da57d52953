"""The files of a bundle: images in folders of classes, the same as arrays, the Student in two forms, and checksums.

A bundle is written into a folder beside its place, which is renamed when all of it is there. Nothing in it says on
whose computer, or where, it was made; and no real image is in it.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import re
import shutil
import sys
import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kr_utils import InputError, classifier, data, owned, pictures, releasable, stages
from kr_utils.data import SPLITS, Info
from kr_utils.released import Images

SUMS = "SHA256SUMS"
NPZ = "synthetic.npz"
OPSET = 18  # of ONNX: onnxruntime 1.14 and later read it
SPLIT_WORDS = {"train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation"}
BITWISE = (".png", ".npz")  # packed: a text in them is not to be seen


@contextlib.contextmanager
def writing(place: Path | None) -> Iterator[Path]:
    """A folder to fill, which gets the name `place` when the block ends well, or else leaves no trace.

    place : absolute, new or empty; None: what is written is looked at within the block, and then deleted
    """
    if place is None:
        with tempfile.TemporaryDirectory(prefix="kr-bundle-") as folder:
            yield Path(folder)
        return
    partial = releasable.unfinished(place)
    owned.remove(partial)
    owned.make(partial)
    try:
        yield partial
        try:
            owned.rename(partial, place)
        except OSError as error:
            raise InputError(f"--out {place}: cannot be put there ({error.strerror}); name a new folder") from error
    finally:
        owned.remove(partial)


# ------------------------------------------------------------------ images


def class_folders(names: Sequence[str]) -> list[str]:
    """A folder for each class: its number, so that no two are alike, and of its name what every system allows."""
    # A reader that looks for splits would take a folder "0_test" for one
    plain = [unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode() for name in names]
    slugs = [re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:40] for name in plain]
    slugs = ["" if SPLIT_WORDS & set(slug.lower().split("-")) else slug for slug in slugs]
    width = len(str(len(names) - 1))
    return [f"{k:0{width}}_{slug}".rstrip("_-") for k, slug in enumerate(slugs)]


def image_files(labels: np.ndarray, names: Sequence[str]) -> list[str]:
    """Path of each image within the bundle, in order; labels : [N]."""
    folders, width = class_folders(names), max(5, len(str(len(labels) - 1)))
    return [f"images/{folders[label]}/{i:0{width}}.png" for i, label in enumerate(labels)]


def write_images(folder: Path, made: Images, names: Sequence[str]) -> None:
    """PNG files in class folders with metadata.csv (Hugging Face's ImageFolder), and all of it in `NPZ` too."""
    from PIL import Image

    # One file per image
    files = image_files(made.labels, names)
    for image, name in zip(made.images, files):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(image)).save(path, format="PNG")

    # What is known of each; file_name is the column that ImageFolder looks for
    soft = [f"soft_{k}" for k in range(len(names))]
    text = io.StringIO()
    rows, split = csv.writer(text, lineterminator="\n"), made.split
    rows.writerow(["file_name", "label", "class_name", "split", "seed", "index", *soft])
    for i, name in enumerate(files):
        label = int(made.labels[i])
        about = [name, label, names[label], SPLITS[split[i]], made.seed, int(made.index[i])]
        rows.writerow([*about, *(str(value) for value in made.soft[i])])
    owned.write(folder / "metadata.csv", text.getvalue())


def write_npz(folder: Path, made: Images, info: Info, names: Sequence[str], licence: str) -> None:
    """All images as MedMNIST lays them out, with what its readers pass over: soft labels, index, place in metadata.csv.

    With the description beside it, the folder of the bundle is a data folder of this project, and the images are its
    dataset "synthetic".
    """
    arrays: dict[str, np.ndarray] = {"seed": np.array([made.seed])}
    places = made.split
    for number, split in enumerate(SPLITS):
        own = np.flatnonzero(places == number)
        stacked = np.stack([pixels(image) for image in made.images[own]])
        arrays |= {f"{split}_images": stacked, f"{split}_labels": made.labels[own][:, None]}
        arrays |= {f"{split}_soft": made.soft[own], f"{split}_index": made.index[own], f"{split}_row": own}
    with owned.writing(folder / NPZ) as file:
        np.savez_compressed(file, **arrays)

    mirror = "both" if info.hflip and info.vflip else "left-right" if info.hflip else "none"
    about = {"title": f"{info.title}, synthetic"[:100], "class_names": list(names), "mirror": mirror}
    write_json(folder / "synthetic.json", about | {"licence": licence})


def pixels(image: np.ndarray) -> np.ndarray:
    """[C, H, W] -> [H, W] for one channel, [H, W, 3] for three: as files have it."""
    return image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)


# ------------------------------------------------------------------ the Student


class FromPixels(nn.Module):
    """A classifier of images as they are: uint8 [N, C, H, W] -> logits [N, K]."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(classifier.normalise(images))


def prepared(name: str, root: str | Path = "") -> dict[str, str | int]:
    """How files became the images of a dataset, for predict.py: "fit" and, of 16 bits, how many are used ("bits").

    Only a set that was imported from a folder says so; {} for any other.

    name, root : as for `data.load`
    """
    if data.require_name(name, root).source != "own":
        return {}
    about = json.loads(owned.read_text(data.data_root(root) / f"{name}.json"))
    source = about.get(data.IMPORTED, {}).get("source")

    # Anybody may have edited it
    if not isinstance(source, dict) or source.get("layout") == "npz" or source.get("fit") not in pictures.FITS:
        return {}
    known = type(bits := source.get("bits")) is int and 8 <= bits <= 16
    return {"fit": source["fit"]} | ({"bits": bits} if known else {})


def write_student(
    folder: Path, weights: Path, shape: Sequence[int], names: Sequence[str], how: dict[str, str | int]
) -> None:
    """student.safetensors (the very file of 05), config.json, student.onnx and predict.py.

    weights : of the Student, as `classifier.save` writes them; shape : of an image, (channels, height, width)
    how : as `prepared` gives it
    """
    student = classifier.load(weights)
    shutil.copyfile(weights, folder / "student.safetensors")
    shutil.copyfile(Path(__file__).with_name("predict.py"), folder / "predict.py")
    config = {
        "architecture": "ResNet of 6n + 2 layers with a 3x3 stem (He et al. 2016, CIFAR variant)",
        "network": student.config,
        "input": "uint8 [N, channels, height, width], 0 to 255; student.onnx scales it, student.safetensors expects "
        "x / 127.5 - 1 as float32",
        "input_shape": list(shape),
        "prepared": how or None,
        "output": "logits [N, classes]",
        "class_names": list(names),
    }
    write_json(folder / "config.json", config)
    owned.write(folder / "student.onnx", onnx_of(student, shape))


def onnx_of(student: nn.Module, shape: Sequence[int]) -> bytes:
    """The Student as an ONNX model from "images", uint8 [N, C, H, W], to "logits", float32 [N, K]; N is free.

    torch writes the paths of source files beside each node: they are left out.
    """
    import onnx

    # On the CPU, with tensors laid out as usual
    model = FromPixels(student).cpu().eval()
    example = torch.zeros((2, *shape), dtype=torch.uint8)
    free = {"images": {0: torch.export.Dim("n")}}
    exported = torch.onnx.export(
        model, (example,), input_names=["images"], output_names=["logits"], dynamic_shapes=free, dynamo=True,
        opset_version=OPSET, verbose=False,
    )  # fmt: skip

    # The numbers only
    proto = exported.model_proto
    graphs = [proto.graph, *proto.functions]
    for part in (proto, *graphs, *(node for graph in graphs for node in graph.node)):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        value.ClearField("metadata_props")
        value.ClearField("doc_string")
    onnx.checker.check_model(proto, full_check=True)
    return proto.SerializeToString(deterministic=True)


def onnx_logits(path: Path, images: np.ndarray) -> np.ndarray:
    """Logits [N, K] of a written ONNX file for uint8 images [N, C, H, W]."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"images": np.ascontiguousarray(images)})[0]


# ------------------------------------------------------------------ the whole


def write_json(path: Path, value: dict) -> None:
    """Plain JSON, as people read it."""
    owned.write(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with owned.reading(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files(folder: Path) -> list[str]:
    """Path of every file within a bundle, but for the checksums, in order."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def seal(folder: Path) -> str:
    """Write the SHA-256 of every file as `sha256sum --check` reads it; returns that of the list itself."""
    lines = [f"{digest(folder / name)}  {name}\n" for name in files(folder) if name != SUMS]
    owned.write(folder / SUMS, "".join(lines))
    return digest(folder / SUMS)


def differing(folder: Path) -> list[str]:
    """Files that are not as the checksums say, that are missing, or of which they know nothing."""
    listed = dict(line.split("  ", 1)[::-1] for line in owned.read_text(folder / SUMS).splitlines())
    there = set(files(folder)) - {SUMS}
    changed = [name for name in there & set(listed) if digest(folder / name) != listed[name]]
    return sorted({*changed, *(there ^ set(listed))})


def read_images(folder: Path) -> np.ndarray:
    """The PNG files of a bundle in the order of metadata.csv, uint8 [N, C, H, W]."""
    from PIL import Image

    rows = csv.DictReader(io.StringIO(owned.read_text(folder / "metadata.csv"), newline=""))
    found = np.stack([np.asarray(Image.open(folder / row["file_name"])) for row in rows])
    return found[:, None] if found.ndim == 3 else np.moveaxis(found, -1, 1)


def traces(folder: Path, places: Sequence[Path]) -> list[str]:
    """Files in which a folder of this computer stands as text: one of `places`, of the project, of Python, the home."""
    with contextlib.suppress(RuntimeError):  # nobody knows of a home folder
        places = [*places, Path.home()]
    wanted = [str(place).encode() for place in (*places, stages.ROOT, sys.prefix) if len(str(place)) > 1]
    texts = [name for name in files(folder) if not name.endswith(BITWISE)]
    return [name for name in texts if any(place in (folder / name).read_bytes() for place in wanted)]
