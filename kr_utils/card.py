"""What a bundle says of itself: facts from stored numbers, in words, as a card (Markdown), a page (HTML) and JSON.

One list of blocks is told in each form. The card serves the images and the Student at once: its YAML header has what
Hugging Face reads of a dataset and of a model.
"""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from kr_utils import belief, bundle, licences, metrics, owned, plots, releasable
from kr_utils.data import Dataset
from kr_utils.released import Images

ATTACKS = {"loss": "loss threshold", "confidence": "top confidence", "entropy": "modified entropy per class"}
HANDED_OUT = {"student": "the Student", "images": "the images", "generator": "the Generator's weights"}
NOT_TESTED = (
    "Attackers who train shadow models of the whole pipeline, unless an audit is told above.",
    "Attackers who know some of the training images, or who planted some (canaries).",
    "Images that were drawn from a patient but show him otherwise: the attack on the images compares pixels.",
    "Other images from the same Generator, and what becomes of the Student if it is trained further.",
    "Whether a class, a site or a group of patients is served worse than the others, beyond recall per class.",
    "Any use on patients: nothing here is a diagnostic device.",
)
SIMPLE = (
    "No audit was run on this. The attacks below are simple ones, and their members and non-members are training and "
    "test images, not random halves: an AUC near 0.5 is no evidence that nothing leaks."
)
SIZES = ((1000, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))
CONTEXT = {
    "@language": "en", "@vocab": "https://schema.org/", "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/", "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/", "citeAs": "cr:citeAs", "column": "cr:column",
    "conformsTo": "dct:conformsTo", "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"}, "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract", "field": "cr:field", "fileObject": "cr:fileObject", "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet", "format": "cr:format", "includes": "cr:includes", "isLiveDataset": "cr:isLiveDataset",
    "equivalentProperty": "cr:equivalentProperty",
    "samplingRate": "cr:samplingRate", "jsonPath": "cr:jsonPath", "key": "cr:key", "md5": "cr:md5",
    "parentField": "cr:parentField", "path": "cr:path",
    "recordSet": "cr:recordSet", "references": "cr:references", "regex": "cr:regex", "repeated": "cr:repeated",
    "replace": "cr:replace", "separator": "cr:separator", "source": "cr:source", "subField": "cr:subField",
    "transform": "cr:transform",
}  # fmt: skip


# ------------------------------------------------------------------ facts


def of_student(run: Mapping, accuracies: Mapping) -> dict:
    """How good the Student is: shares with 95 % intervals, from what 01 and 05 stored.

    Parameters
    ----------
    run : stage -> its stored metrics; accuracies : as `intervals.of_accuracies` gives them for this run
    """
    student, teacher = run["distillation"], run["teacher"]
    counts, confusion = teacher["test_counts"], student["cas_confusion"]
    hits = [row[k] for k, row in enumerate(confusion)]
    recall = [hit / n for hit, n in zip(hits, counts)]
    real = accuracies["real"]["accuracy"]
    gap = {name: list(accuracies["gkd"][name]) for name in ("gap", "ensemble_gap")}

    # Each beside what it is to be compared with
    return {
        "accuracy": [student["cas"], student["cas_low"], student["cas_high"]],
        "majority": max(counts) / sum(counts),
        "majority_class": counts.index(max(counts)),
        "real": list(real),
        "ensemble": list(accuracies["ensemble"]["accuracy"]),
        **gap,
        "empty_gap": belief.empty_gap(
            counts, (teacher["test_accuracy"], student["cas"]), (teacher["test_recall"], student["cas_recall"])
        ),
        "recall": [[value, *metrics.wilson(hit, n)] for value, hit, n in zip(recall, hits, counts)],
        "confusion": confusion,
        "test_counts": counts,
        "members": teacher["members"],
    }


def of_run(upstream: Mapping, where: Mapping, options: Mapping) -> dict:
    """Where a bundle comes from: the commands that make it again, and the manifests of the stages that it was made of.

    Parameters
    ----------
    upstream : stage -> finished stage
    where : dataset, profile and seed
    options : of the release itself: images, balance, with_generator, despite_leaks and terms
    """
    made = {stage: done.manifest for stage, done in upstream.items()}
    made_by = releasable.command(releasable.budgets(upstream), where)
    common = ["--profile", where["profile"], "--seeds", str(where["seed"])]
    release = ["python run_all.py --release", where["dataset"], *common, "--images", str(options["images"])]
    release += ["--set release.balance=prior"] * (options["balance"] == "prior")
    release += ["--with-generator"] * options["with_generator"] + ["--despite-leaks"] * options["despite_leaks"]
    release += [f"--terms {json.dumps(options['terms'])}"] * bool(options["terms"]) + ["--out FOLDER"]
    last = made["membership"]
    return {
        **where,
        "commands": [made_by, " ".join(release)],
        "manifests": {stage: manifest["fingerprint"] for stage, manifest in made.items()},
        "checksum": last["ingredients"]["checksum"],
        "commit": last["git_commit"],
        "versions": last["versions"],
        "day": last["started"][:10],  # in UTC: hours would tell where on earth
    }


def facts(
    ds: Dataset, terms: licences.Terms, run: dict, student: dict, images: dict, attacks: dict, audit: Mapping | None
) -> dict:
    """All that a card says, as plain JSON; what goes on top of it is under "first".

    Parameters
    ----------
    terms : `licences.terms`; run : `of_run`; student : `of_student`
    images : count, per_class, balance, seed, knobs, agreement, doubles, generator (whether its weights are there)
    attacks : student (attack -> audit of 06), shift (words), nearest, copies_control and split_control (audits),
        closest (file, distance, training image), smallest (training, test), closer and closer_by_chance
    audit : stored metrics of 08, None where there was none
    """
    counts = {split: len(getattr(ds, split)) for split in ("train", "val", "test")}
    dataset = {"name": ds.name, "title": ds.info.title, "class_names": list(ds.class_names), "counts": counts}
    dataset |= {"shape": list(ds.shape), "licence": asdict(terms) | {"notes": list(terms.notes)}}
    if audit is not None:
        audit = {key: audit[key] for key in ("matrix", "pipelines", "pool", "words") if key in audit}
    found = {"dataset": dataset, "run": run, "student": student, "images": images, "attacks": attacks, "audit": audit}
    found |= {"not_tested": list(NOT_TESTED)}
    return json.loads(json.dumps({"first": warnings(found), **found}))


def warnings(found: Mapping) -> list[str]:
    """What a reader must know before anything else, in words."""
    student, images, attacks, audit = (found[key] for key in ("student", "images", "attacks", "audit"))

    # What the audit found, or that there was none
    lines = [SIMPLE] if audit is None else []
    if leaks := releasable.leaks(audit, images["generator"]):
        lines.append(f"Handed out although an audit found leaks: {'; '.join(leaks)}.")
    elif audit is not None:
        lines.append(f"{silence(audit, images['generator'])} {said(audit)}")
    if images["doubles"]["train"]:
        lines.append(f"{images['doubles']['train']} of the images are training images, pixel by pixel.")
    low = attacks["nearest"]["auc_low"]
    if low > 0.5:
        told = belief.numbers(*(attacks["nearest"][key] for key in ("auc", "auc_low", "auc_high")))
        lines.append(
            f"Training images lie nearer to these images than test images do (AUC {told}): they may give away who was "
            "in the training set."
        )

    if images["agreement"] < 0.5:
        lines.append(
            f"The Teachers see the class that was asked for in only {100 * images['agreement']:.0f} % of the images: "
            "learn from the soft labels, not from the classes."
        )

    # The Generator's weights, and the Student
    if images["generator"]:
        rows = [row for row in releasable.matrix(audit) if row["artefact"] == "generator"]
        word = "; ".join(f"{row['attack']}: {row['evidence']}" for row in rows) or "no attack on them was run"
        lines.append(
            "The Generator's weights are in this bundle. Whoever has them can draw images without end and ask the "
            f"Generator itself about an image. Audit of the weights: {word}."
        )
    if student["empty_gap"]:
        lines.append(f"The gap to real training says nothing: {student['empty_gap']}.")
    elif student["accuracy"][1] <= student["majority"]:
        lines.append("The Student is not shown to be better than always saying the most frequent class.")
    return lines + [sentence(note) for note in found["dataset"]["licence"]["notes"]]


def sentence(note: str) -> str:
    """A note as a sentence of its own."""
    return f"{note[0].upper()}{note[1:]}."


def silence(audit: Mapping, generator: bool) -> str:
    """What it means that an audit found no leak; generator : whether the Generator's weights are handed out."""
    blind = releasable.unjudged(audit, generator)
    seen = [name for name in releasable.handed_out(generator) if name not in blind]
    if not seen:
        return "An audit was run, but it says nothing of what is handed out: it had no power to see a leak there."
    where = " and ".join(HANDED_OUT[name] for name in seen) if blind else "what is handed out"
    found = f"An audit found no leak in {where}; that is not to say that there is none."
    others = " and ".join(HANDED_OUT[name] for name in blind)
    return f"{found} Of {others} it says nothing: it had no power to see a leak there." if blind else found


def said(audit: Mapping) -> str:
    """An audit's own words, as one text."""
    words = audit.get("words", "")
    return words if isinstance(words, str) else " ".join(words)


# ------------------------------------------------------------------ blocks, told in each form


@dataclass(frozen=True)
class Block:
    """A part of a card: "heading", "text", "list" (lines), "table" (rows, the first is its head), "code" or "picture".

    A picture has a name and its alt text, and is shown in HTML only.
    """

    kind: str
    content: object


def percent(value: Sequence[float], sign: str = "") -> str:
    """A share with its interval in percent, "91.2 (88.0 to 93.9)"."""
    return "{} ({} to {})".format(*(f"{100 * each:{sign}.1f}" for each in value))


def blocks(found: Mapping) -> list[Block]:
    """The card, in order."""
    dataset = found["dataset"]
    shape = " x ".join(map(str, dataset["shape"]))
    title = f"{dataset['title']}: synthetic images and a Student"
    about = (
        f"{found['images']['count']} synthetic images ({shape}: channels, height, width) in "
        f"{len(dataset['class_names'])} classes, drawn by a diffusion model that was trained on the "
        f"{dataset['counts']['train']} training images of {dataset['title']}, and a classifier (the Student) that saw "
        "synthetic images only, labelled by classifiers that saw the real ones (Knowledge Recycling; Lomurno and "
        "Matteucci, Pattern Recognition Letters 190, 2025). No real image is in this bundle."
    )

    # What must be known first, then the parts
    return [
        Block("heading", title),
        Block("text", "Read this first:"),
        Block("list", found["first"]),
        Block("text", about),
        *_student(found),
        *_attacked(found),
        *_images(found),
        *_use(found),
    ]


def _student(found: Mapping) -> list[Block]:
    student, names = found["student"], found["dataset"]["class_names"]
    frequent = names[student["majority_class"]]
    gap = f" ({student['empty_gap']})" * bool(student["empty_gap"])
    rows = [
        ("on real test images", "percent, 95 % interval"),
        ("the Student", percent(student["accuracy"])),
        (f"one real classifier (mean of {student['members']})", percent(student["real"])),
        (f"the {student['members']} real classifiers together", percent(student["ensemble"])),
        (f"always saying the most frequent class, {frequent}", f"{100 * student['majority']:.1f}"),
        ("Student minus one real classifier, points", percent(student["gap"], "+") + gap),
        ("Student minus the real ensemble, points", percent(student["ensemble_gap"], "+") + gap),
    ]

    # Class by class
    each = [("class", "recall, percent, 95 % interval", "test images")]
    each += [(n, percent(r), str(c)) for n, r, c in zip(names, student["recall"], student["test_counts"])]

    # What the intervals cover
    noted = (
        "Intervals are over the test images; they leave out the luck of the seed. Everything was chosen on validation "
        "images; the test images were only used to report."
    )
    return [
        Block("heading", "How good the Student is"),
        Block("table", rows),
        Block("table", each),
        Block("text", noted),
    ]


def _row(name: str, row: Mapping) -> tuple[str, ...]:
    def rate(value: float | None) -> str:
        return "not estimable" if value is None else f"{100 * value:.1f} %"

    auc = belief.numbers(row["auc"], row["auc_low"], row["auc_high"])
    rates = (rate(row["tpr_at_1pct_fpr"]), rate(row["blind_at_1pct_fpr"]), rate(row["tpr_at_01pct_fpr"]))
    return (name, auc, *rates, f"{row['members']} / {row['non_members']}")


def _attacked(found: Mapping) -> list[Block]:
    attacks, images = found["attacks"], found["images"]
    rows = [("attack", "AUC [95 %]", "found at 1 % FPR", "blind", "at 0.1 % FPR", "members / non-members")]
    rows += [_row(f"Student: {told}", attacks["student"][name]) for name, told in ATTACKS.items()]
    rows += [_row("these images: nearest image", attacks["nearest"])]
    rows += [_row("control, copies planted among these images", attacks["copies_control"])]
    rows += [_row("control, validation images in their place", attacks["split_control"])]
    how = (
        f"Members are training images, non-members test images that are no copies of them. 0.5 is what chance gives; "
        f'"found" is the share of members that are named when one non-member in a hundred is accused wrongly, '
        f'"blind" what '
        "an attack that sees nothing expects there. The nearest-image attack was made on exactly these "
        f"{images['count']} images, mirror images included where they keep the label; the others on this Student."
    )
    shift = f"Student: {attacks['shift']}."
    parts = [Block("heading", "What was attacked, and how strongly"), Block("table", rows), Block("text", how)]
    parts += [Block("text", shift), *_audited(found["audit"])]

    # The closest pairs: no real image is shown
    near, far = attacks["smallest"]
    closest = [("released image", "grey levels to its nearest training image", "number of that training image")]
    closest += [(row["file"], f"{row['distance']:.2f}", str(row["training"])) for row in attacks["closest"]]
    worst = (
        f"The smallest distance to a training image is {near:.2f} grey levels (root mean square over pixels), to a "
        f"test image {far:.2f}. {attacks['closer']} training images lie nearer to this set than every test image; by "
        f"chance it would be about {attacks['closer_by_chance']:.1f}. The training images themselves are not shown."
    )
    double = images["doubles"]
    twice = (
        f"Pixel by pixel, {double['each other']} images repeat another one of this set, {double['train']} are "
        f"training images, {double['test']} test images."
    )
    parts += [Block("heading", "Closest images"), Block("table", closest), Block("text", worst), Block("text", twice)]
    parts += [Block("picture", ("closest", "The released images of the table above, nearest first"))]
    return [*parts, Block("heading", "What was not tested"), Block("list", found["not_tested"])]


def _audited(audit: Mapping | None) -> list[Block]:
    if audit is None:
        return [Block("text", SIMPLE)]
    rows = [("artefact", "attack", "AUC [95 %]", "evidence")]
    for row in releasable.matrix(audit):
        numbers = [row[key] for key in ("auc", "auc_low", "auc_high")]
        auc = "not made: too few pipelines" if None in numbers else belief.numbers(*numbers)
        rows.append((row["artefact"], row["attack"], auc, row["evidence"]))
    told = f"Audit with {audit.get('pipelines', '?')} random-half pipelines on {audit.get('pool', '?')} records. "
    return [Block("text", told + said(audit)), Block("table", rows)]


def _images(found: Mapping) -> list[Block]:
    images, names = found["images"], found["dataset"]["class_names"]
    knobs = ", ".join(f"{name} {value:g}" for name, value in images["knobs"].items())
    drawn = (
        f"Images of each class: {images['balance']}. They were drawn with a seed of their own, {images['seed']}: "
        "neither the images that the Student saw nor those that chose the settings. With the Generator, image i is "
        f"drawn again to the last bit from its class, this seed and its index in metadata.csv (settings: {knobs}). "
        f"The Teachers agree with the class that was asked for on {100 * images['agreement']:.1f} % of them; soft "
        "labels are the Teachers' mean probabilities, at temperature 1, for the image as it is."
    )

    # Three splits, and what they are not
    split = (
        "The column split, and the arrays of synthetic.npz, cut each class in its order into train, val and test, for "
        "readers that want all three. All are synthetic: accuracy on them says nothing about real images."
    )

    # Class by class
    rows = [("class", "folder", "images"), *zip(names, bundle.class_folders(names), map(str, images["per_class"]))]
    sheet = Block("picture", ("sheet", "The first images of each class, a row for each"))
    return [
        Block("heading", "The images"),
        Block("table", rows),
        sheet,
        Block("text", drawn),
        Block("text", split),
    ]


def _use(found: Mapping) -> list[Block]:
    run, licence = found["run"], found["dataset"]["licence"]

    # What lies there
    listed = [
        ("file", "what it is"),
        ("images, metadata.csv", "PNG files in class folders; class, soft labels, seed and index of each"),
        ("synthetic.npz, synthetic.json", "the same images as MedMNIST lays them out, with their description"),
        ("student.onnx, predict.py", "the Student for onnxruntime: python predict.py FILE ..."),
        ("student.safetensors, config.json", "the Student's weights for PyTorch, and the network's sizes"),
        ("report.html, report.json", "what is told here, as one page and as numbers"),
        ("croissant.json", "the images described for machines (Croissant)"),
        ("SHA256SUMS", "checksums: sha256sum --check SHA256SUMS"),
    ]
    listed += [("generator.safetensors", "the Generator's weights")] * found["images"]["generator"]

    # How it is read, and where it comes from
    load = (
        "from datasets import load_dataset\n"
        'images = load_dataset("imagefolder", data_dir="FOLDER", split="train")  # or: run_all.py --datasets synthetic '
        "--data-root FOLDER"
    )
    stages = [("stage", "manifest"), *run["manifests"].items()]
    commit, torch = run["commit"] or "unknown", run["versions"]["torch"]
    code = f"Commit {commit}; notebook 06 was run on {run['day']} (UTC); PyTorch {torch}. "

    # Its terms: of those that somebody stated the notes say what is known of the images
    origin = "" if licence["stated"] else ", as the images that it was made from"
    inherited = " ".join([f"{licence['text']}{origin}.", *map(sentence, licence["notes"])])
    return [
        Block("heading", "Using it"),
        Block("table", listed),
        Block("code", load),
        Block("heading", "Licence"),
        Block("text", inherited),
        Block("heading", "Where it comes from"),
        Block("code", "\n".join(run["commands"])),
        Block("text", code + f"SHA-256 of the dataset's content: {run['checksum']}."),
        Block("table", stages),
    ]


# ------------------------------------------------------------------ Markdown with its header


def markdown(found: Mapping) -> str:
    """README.md: the header for Hugging Face, then the blocks."""
    parts, first = [f"---\n{header(found)}\n---"], True
    for block in blocks(found):
        content = block.content
        if block.kind == "heading":
            parts.append(f"{'#' if first else '##'} {_escaped(content)}")
            first = False
        elif block.kind == "text":
            parts.append(_escaped(content))
        elif block.kind == "list":
            parts.append("\n".join(f"- {_escaped(line)}" for line in content))
        elif block.kind == "table":
            rows = [f"| {' | '.join(map(_escaped, row))} |" for row in content]
            parts.append("\n".join([rows[0], f"|{' --- |' * len(content[0])}", *rows[1:]]))
        elif block.kind == "code":
            parts.append(f"```\n{content}\n```")
    return "\n\n".join(parts) + "\n"


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is; what somebody called a class begins no formula, link or column."""
    return re.sub(r"([\\`*<>|~$&]|^[#+-]|(?<!\w)_|_(?!\w)|\](?=[(:\[]))", r"\\\1", text)


def header(found: Mapping) -> str:
    """The YAML of a dataset card and of a model card in one, as huggingface_hub writes it."""
    from huggingface_hub import EvalResult, ModelCardData

    dataset, student = found["dataset"], found["student"]
    name = f"knowledge-recycling-{dataset['name']}"
    result = EvalResult(
        task_type="image-classification",
        dataset_type=dataset["name"],
        dataset_name=dataset["title"],
        dataset_split="test",
        metric_type="accuracy",
        metric_value=round(student["accuracy"][0], 4),
    )

    # Terms that the Hub has no name for
    licence = {"license": dataset["licence"]["hub"]}
    if licence["license"] == "other":
        licence |= {"license_name": dataset["licence"]["text"]}

    # Both kinds of card in one
    about = ModelCardData(
        **licence,
        pretty_name=f"{dataset['title']}, synthetic",
        tags=["synthetic", "knowledge-recycling", "image-classification"],
        pipeline_tag="image-classification",
        library_name="onnx",
        task_categories=["image-classification"],
        size_categories=[next(word for most, word in SIZES if found["images"]["count"] < most)],
        source_datasets=["extended"],
        annotations_creators=["machine-generated"],
        model_name=name,
        eval_results=[result],
    )
    return about.to_yaml().strip()


# ------------------------------------------------------------------ one page

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #1a1a1a }}
h1, h2 {{ line-height: 1.2 }} h2 {{ margin-top: 2.5rem }}
.first {{ border-left: .4rem solid #b04a00; background: #fff4ea; padding: .6rem 1.2rem .6rem 2.2rem }}
.wide {{ overflow-x: auto }} table {{ border-collapse: collapse; margin: 1rem 0 }}
th, td {{ border-bottom: 1px solid #ccc; padding: .3rem .8rem .3rem 0; text-align: left; vertical-align: top }}
pre {{ background: #f2f2f2; padding: .8rem; white-space: pre-wrap; overflow-wrap: anywhere }}
img {{ image-rendering: pixelated; max-width: 100%; min-width: min(100%, 30rem) }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def page(found: Mapping, pictures: Mapping[str, bytes]) -> str:
    """report.html: one file that asks for nothing else; pictures : name -> PNG."""
    parts, level = [], 1
    for block in blocks(found):
        content = block.content
        if block.kind == "heading":
            parts.append(f"<h{level}>{html.escape(content)}</h{level}>")
            level = 2
        elif block.kind == "text":
            parts.append(f"<p>{html.escape(content)}</p>")
        elif block.kind == "list":
            mark = ' class="first"' if content == found["first"] else ""
            parts.append(f"<ul{mark}>{''.join(f'<li>{html.escape(line)}</li>' for line in content)}</ul>")
        elif block.kind == "table":
            parts.append(_table(content))
        elif block.kind == "code":
            parts.append(f"<pre>{html.escape(content)}</pre>")

        # A picture is part of the page
        elif block.kind == "picture":
            name, alt = content
            data = base64.b64encode(pictures[name]).decode()
            parts.append(f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">')
    return PAGE.format(title=html.escape(blocks(found)[0].content), body="\n".join(parts))


def _table(rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:])
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def sheet(made: Images, each: int = 12) -> np.ndarray:
    """The first images of each class, a row for each, as one uint8 image [C, H, W]."""
    rows = []
    for k in np.unique(made.labels):
        own = made.images[made.labels == k][:each]
        rows += [own, np.full((each - len(own), *own.shape[1:]), 255, np.uint8)]
    return plots.tile(np.concatenate(rows), each)


def png(image: np.ndarray) -> bytes:
    """A PNG file of one uint8 image [C, H, W], without a word about who made it."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(bundle.pixels(image)).save(out, format="PNG")
    return out.getvalue()


# ------------------------------------------------------------------ for machines


def croissant(found: Mapping, digests: Mapping[str, str]) -> dict:
    """The images in Croissant 1.1 (JSON-LD): metadata.csv column by column, and the PNG files.

    digests : SHA-256 of metadata.csv and of synthetic.npz
    """
    dataset, images = found["dataset"], found["images"]
    texts = {"file_name": "sc:Text", "label": "sc:Integer", "class_name": "sc:Text", "split": "sc:Text"}
    soft = {f"soft_{k}": "sc:Float" for k in range(len(dataset["class_names"]))}
    columns = texts | {"seed": "sc:Integer", "index": "sc:Integer"} | soft

    # A field for each column
    told = {"label": "the class that was asked for, from 0", "index": "with the seed: the image's random numbers"}
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"images/{name}",
            "name": name,
            "description": told.get(name, f"column {name} of metadata.csv"),
            "dataType": kind,
            "source": {"fileObject": {"@id": "metadata.csv"}, "extract": {"column": name}},
        }
        for name, kind in columns.items()
    ]

    # The files that they are in
    kinds = {"metadata.csv": "text/csv", bundle.NPZ: "application/octet-stream"}
    files = [
        {"@type": "cr:FileObject", "@id": name, "name": name, "contentUrl": name, "encodingFormat": kind,
         "sha256": digests[name]} for name, kind in kinds.items()
    ]  # fmt: skip
    pngs = {
        "@type": "cr:FileSet",
        "@id": "png",
        "name": "png",
        "encodingFormat": "image/png",
        "includes": "images/*/*.png",
    }

    # The whole
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": f"knowledge-recycling-{dataset['name']}",
        "description": f"{images['count']} synthetic images of {dataset['title']}. {' '.join(found['first'])}",
        "license": dataset["licence"]["text"],
        "citeAs": "Lomurno and Matteucci, Synthetic image learning, Pattern Recognition Letters 190 (2025) 52-58",
        "version": "1.0.0",
        "datePublished": found["run"]["day"],
        "distribution": [*files, pngs],
        "recordSet": [{"@type": "cr:RecordSet", "@id": "images", "name": "images", "field": fields}],
    }


def write(folder: Path, found: Mapping, pictures: Mapping[str, bytes]) -> None:
    """All forms of the card, beside the files that are described; pictures : name -> PNG, see `blocks`."""
    digests = {name: bundle.digest(folder / name) for name in ("metadata.csv", bundle.NPZ)}
    bundle.write_json(folder / "report.json", dict(found))
    bundle.write_json(folder / "croissant.json", croissant(found, digests))
    owned.write(folder / "README.md", markdown(found))
    owned.write(folder / "report.html", page(found, pictures))
