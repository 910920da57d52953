#!/usr/bin/env python3
"""What the Student says of images: python predict.py FILE ... prints a line of CSV for each.

Needs onnxruntime, numpy and Pillow, and the files student.onnx and config.json beside this one. No diagnostic device.
"""

import csv
import io
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

HERE = Path(__file__).resolve().parent
WAYS = {"pad": "padded with black", "crop": "cut in the middle and resized", "stretch": "stretched"}
GUESS = " (a guess: config.json does not say how it was done with the training images)"
UNKNOWN = "signed, 32-bit or floating-point pixels, or several channels of 16 bits: save it with 8 bits"


def read(path, shape, prepared):
    """An image file as the Student takes it, uint8 [C, H, W], and in words what was done to it.

    prepared : how the training images were made of files, as config.json says: "fit" and "bits"; {} for not known
    """
    (channels, height, width), said, bits = shape, [], 0
    image = Image.open(io.BytesIO(Path(path).read_bytes()))  # by its name Pillow maps a turned TIFF wrongly
    if unknown(image):
        raise ValueError(UNKNOWN)
    negative = image.format == "TIFF" and image.tag_v2.get(262) == 0
    image = ImageOps.exif_transpose(image)

    # 16 bits: the highest 8 of those that were used in training
    if image.mode.startswith("I"):
        bits = prepared.get("bits") or 16
        said += [f"of 16 bits, all taken to be used{GUESS}"] * ("bits" not in prepared)
        values = np.asarray(image).astype(np.float32)
        values[values == image.info.get("transparency", -1)] = 0
        image = Image.fromarray(values)
    elif image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        clear = image.getchannel("A").getextrema()[0] < 255
        said += ["transparent, laid on black" + GUESS * (not prepared)] * clear
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image).convert("RGB")
    elif image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode == "1" else "RGB")

    # The size, and what is not of its form
    if image.size != (width, height):
        oblong, fit = image.width * height != image.height * width, prepared.get("fit", "stretch")
        way = WAYS[fit] if oblong else "resized"
        said += [f"{image.width} x {image.height}, {way} to {width} x {height}" + GUESS * (oblong and not prepared)]
        image = fitted(image, (width, height), fit, 65535 if bits and negative else 0)
    if bits:
        grey = np.minimum(np.rint(np.asarray(image)).astype(np.int64) >> (bits - 8), 255)
        image = Image.fromarray((255 - grey if negative else grey).astype(np.uint8))
    image = image.convert("L" if channels == 1 else "RGB")
    return np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1), "; ".join(said)


def unknown(image):
    """Whether nobody knows which of a file's numbers are black and white, or Pillow keeps 8 of its 16 bits."""
    if image.format == "TIFF":
        bits, kinds = image.tag_v2.get(258, (1,)), image.tag_v2.get(339, (1,))
        several = max(len(bits), image.tag_v2.get(277, 1)) > 1
        return max(bits) > (8 if several else 16) or max(kinds) > 1
    raw = str(image.tile[0][3]) if image.format == "PNG" and image.tile else ""
    return image.mode == "F" or (";16" in raw and not image.mode.startswith("I"))


def fitted(image, size, fit, black):
    """An image in another size, as the training images were fitted into theirs."""
    (wide, high), inner, box = image.size, size, None
    if fit == "pad":
        inner = tuple(max(1, round(new * old / max(wide, high))) for new, old in zip(size, image.size))
    elif fit == "crop":
        side = min(wide, high)
        box = ((wide - side) / 2, (high - side) / 2, (wide + side) / 2, (high + side) / 2)
    made = image.resize(inner, Image.Resampling.BICUBIC, box=box)
    if image.mode == "F":  # beyond an edge interpolation leaves the image's own range
        made = Image.fromarray(np.asarray(made).clip(*image.getextrema()))
    whole = Image.new(image.mode, size, black)
    whole.paste(made, ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2))
    return whole


def main(files):
    """Print the class and the probability of each class for each file; returns the exit code."""
    about = json.loads((HERE / "config.json").read_text(encoding="utf-8"))
    session = onnxruntime.InferenceSession(str(HERE / "student.onnx"), providers=["CPUExecutionProvider"])
    out, bad = csv.writer(sys.stdout, lineterminator="\n"), 0
    out.writerow(["file", "class", *about["class_names"]])
    for path in files:
        try:
            image, said = read(path, about["input_shape"], about.get("prepared") or {})
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            print(f"error: {path} cannot be read as an image ({str(error).splitlines()[0]})", file=sys.stderr)
            bad += 1
            continue
        if said:
            print(f"note: {path} is {said}", file=sys.stderr)
        (logits,) = session.run(["logits"], {"images": image[None]})
        share = np.exp(logits[0] - logits[0].max())
        share /= share.sum()
        out.writerow([path, about["class_names"][int(share.argmax())], *(f"{value:.6f}" for value in share)])
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) if sys.argv[1:] else __doc__)
