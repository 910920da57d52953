#!/usr/bin/env python3
"""What the Student says of images: python predict.py FILE ... prints a line of CSV for each.

Needs onnxruntime, numpy and Pillow, and the files student.onnx and config.json beside this one. No diagnostic device.
"""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

HERE = Path(__file__).resolve().parent


def read(path, channels, height, width):
    """An image file as the Student takes it: uint8 [C, H, W]; another size is resized, and said."""
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode.startswith("I"):  # 16 bits: Pillow would cut them off
        image = Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) // 257).astype(np.uint8))
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        print(f"note: {path} is {image.size[0]} x {image.size[1]}, resized to {width} x {height}", file=sys.stderr)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1)


def main(files):
    """Print the class and the probability of each class for each file; returns the exit code."""
    about = json.loads((HERE / "config.json").read_text(encoding="utf-8"))
    session = onnxruntime.InferenceSession(str(HERE / "student.onnx"), providers=["CPUExecutionProvider"])
    out, bad = csv.writer(sys.stdout, lineterminator="\n"), 0
    out.writerow(["file", "class", *about["class_names"]])
    for path in files:
        try:
            image = read(path, *about["input_shape"])
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            print(f"error: {path} cannot be read as an image ({str(error).splitlines()[0]})", file=sys.stderr)
            bad += 1
            continue
        (logits,) = session.run(["logits"], {"images": image[None]})
        share = np.exp(logits[0] - logits[0].max())
        share /= share.sum()
        out.writerow([path, about["class_names"][int(share.argmax())], *(f"{value:.6f}" for value in share)])
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) if sys.argv[1:] else __doc__)
