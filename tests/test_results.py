"""The tables a reader sees: known answers from rows made by hand, and the README against the kept results."""

import csv
import errno
import functools
import io
import os
import re
import subprocess
import sys
import threading

import numpy as np
import pandas as pd
import pytest
from conftest import ABLATION, LABELS, closed, finished_run, saying

import run_all
from kr_utils import InputError, belief, metrics, owned, results, results_file, stages
from kr_utils.driver import execute

ROOT = stages.ROOT


CONTROLS = ("teacher_argmax", "hard_prior", "no_class", "textures", "real_images")
HALF = 0.01  # of each interval in `rows`


def rows(*title, **more):
    """As `made_rows`, once for the same arguments, for they are asked for often."""
    return made_rows(*title, **more).copy()


@functools.cache
def made_rows(
    title="BreastMNIST", gaps=(-0.01, 0.0, 0.03), test_images="100;300", resnet18=0.863, profile="laptop", **more
):
    """Rows as 10 writes them, a dataset of two classes; the recalls add up to the accuracy.

    more : method -> accuracy of a control Student
    """
    out = []
    common = {"profile": profile, "dataset": title.lower(), "title": title, "resnet18": resnet18, "lambda": 2.0}
    common |= {"classes": "malignant;benign", "test_images": test_images, "commit": "0123456789abcdef"}
    common |= {"settings": None, "hardware": "CPU, GPU none, torch 2.15.0", "threads": 2}
    for seed, gap in enumerate(gaps):
        here = common | {"seed": seed, "minutes": 20.0 + seed, "generalisation_gap": 0.1, "aop": 0.7}
        here |= {"fingerprint": f"f{seed}", "mia_fingerprint": f"m{seed}"}
        mia = {"mia_auc": 0.55 + 0.01 * seed, "mia_tpr_at_1pct_fpr": 0.02, "mia_blind_at_1pct_fpr": 2 / 157}
        mia |= {"mia_val_test_auc": 0.54, "mia_train_val_auc": 0.5}
        rare = 0.4 + 0.1 * seed
        student = {
            "accuracy": 0.8 + gap,
            "images_auc": 0.5 + 0.01 * seed,
            "images_tpr_at_1pct_fpr": 0.01,
            "images_blind_at_1pct_fpr": 0.02,
            "images_minus_student": 0.02,
            "images_minus_control": -0.005,
            "released": 500,
            "nearer_than_any_test": 2 + seed,
            "members": 400,
            "non_members": 99,
            "recall": f"{rare:.4f};{(4 * (0.8 + gap) - rare) / 3:.4f}",
            "agreement": 0.9,
            "few": int(seed > 0),
            "hard_weight": 0.0,
        }
        mine = [
            mia | {"method": "real", "accuracy": 0.8, "recall": "0.5000;0.9000", "classifiers": 3},
            mia | {"method": "gkd"} | student,
            *({"method": m, "accuracy": 0.7, "agreement": 0.75} for m in list(results.METHODS)[2:5]),
            {"method": "ensemble", "accuracy": 0.82, "recall": "0.5500;0.9100", "classifiers": 3},
            *({"method": m, "accuracy": a, "agreement": 0.6} for m, a in more.items()),
        ]
        out += [here | row | gaps_of(row["accuracy"]) for row in mine]
    table = pd.DataFrame(out)
    for key in results_file.TWO_WAY:
        for method in set(table.method):
            bound(table, method, key, HALF)
    return table


def gaps_of(accuracy):
    return {"gap": accuracy - 0.8, "ensemble_gap": accuracy - 0.82}


def bound(table, method, key, half):
    """Put an interval of this half width around a method's mean, where it has one."""
    mean = results.mean_of(table, method, key) if key in table or key[:3] in ("gkd", "min", "mia") else np.nan
    students = method not in results_file.REAL
    if np.isnan(mean) or (key in ("gkd_minus", "minus_hard") and not students):
        return
    if key == "mia_minus_real" and method != "gkd":
        return
    table.loc[table.method == method, [f"{key}_two_low", f"{key}_two_high"]] = mean - half, mean + half


def test_accuracy_is_the_mean_with_the_interval_over_seeds_and_images_and_both_gaps():
    row = results.accuracy(rows(gaps=(-0.01, 0.0, 0.03))).iloc[0]
    assert row["dataset"] == "BreastMNIST (*)", "the budgets were made on it"
    assert row["seeds"] == 3
    assert row["MedMNIST's ResNet-18, real"] == "86.3"
    assert row["real"] == "80.0 [79.0, 81.0]"
    assert row["real ensemble"] == "82.0 [81.0, 83.0]"
    assert row["Student (CAS)"] == "80.7 [79.7, 81.7]"
    assert row["CAS gap"] == "+0.67 [-0.33, +1.67]"
    assert row["gap to the ensemble"] == "-1.33 [-2.33, -0.33]"
    assert row["few-step"] == "2 of 3 seeds"
    assert row["minutes per seed"] == "21"


def test_another_set_carries_no_star_and_what_is_not_published_is_empty():
    row = results.accuracy(rows("PathMNIST", gaps=(0.01,), resnet18=np.nan)).iloc[0]
    assert row["dataset"] == "PathMNIST"
    assert row["CAS gap"] == "+1.00 [+0.00, +2.00]"
    assert row["MedMNIST's ResNet-18, real"] == ""


def test_the_ablation_shows_agreement_and_names_the_controls_that_were_not_run():
    both = pd.concat([rows(textures=0.75), rows("RetinaMNIST")], ignore_index=True)
    first, second = results.ablation(both).to_dict("records")
    assert first["real"] == "80.0"
    assert first["real ensemble"] == "82.0"
    assert first["soft, fixed"] == "70.0 (75)"
    assert first["soft, regenerated (GKD)"] == "80.7 (90)"
    assert first["soft, textures"] == "75.0 (60)"
    assert second["soft, textures"] == "not run"
    assert "soft, no class" not in first, "in no dataset"


def test_what_brings_what_is_told_by_whether_the_interval_excludes_zero():
    a = rows("A", gaps=(0.0, 0.03), textures=0.75, teacher_argmax=0.72, real_images=0.85)
    b = rows("B", gaps=(0.0, 0.03), textures=0.815)  # GKD has 0.815, so that the difference is zero
    first, second = results.brings(pd.concat([a, b], ignore_index=True)).to_dict("records")
    assert first["Generator"] == "+6.5 [+5.5, +7.5]"
    assert second["Generator"] == "+0.0 [-1.0, +1.0]"
    assert first["synthetic, not real"] == "-3.5 [-4.5, -2.5]"
    assert first["relabelling"] == "+2.0 [+1.0, +3.0]"
    assert first["softness"] == "+9.5 [+8.5, +10.5]"
    assert first["regeneration"] == first["Teachers' labels"] == "+11.5 [+10.5, +12.5]"
    assert first["prior"] == second["relabelling"] == "not run"

    told = results.brings_told(pd.concat([a, b], ignore_index=True))
    assert len(told) == 6, "no sentence of what was not run"
    a.loc[(a.method == "gkd") & (a.seed == 1), "hard_weight"] = 0.5
    *same, mixed = results.brings_told(pd.concat([a, b], ignore_index=True))
    assert same == told
    assert "Generator, class and softness, profile laptop, hold a second difference on A (seed 1: 0.5): " in mixed
    assert told[0].startswith("Generator, profile laptop (images of the Generator instead of random textures: soft, ")
    assert told[0].endswith("raises the accuracy on A; cannot be told from zero on B.")
    assert next(line for line in told if line.startswith("synthetic")).endswith(
        "real images): lowers the accuracy on A."
    )
    assert next(line for line in told if line.startswith("regen")).endswith(
        "soft, fixed): raises the accuracy on A, B."
    )


def test_the_attack_on_the_images_has_a_table_of_the_rows_that_have_it():
    row = results.images(rows()).iloc[0]
    assert row["AUC"] == "0.510 [0.500, 0.520]"
    assert row["synthetic images"] == "500"
    assert row["TPR at 1 % FPR"] == "1.00"
    assert row["blind"] == "2.00"
    assert row["AUC, images - Student"] == "+0.020 [+0.010, +0.030]"
    assert row["AUC, images - split control"] == "-0.005 [-0.015, +0.005]"
    # a training image is nearer than all 99 test images with probability 1/100, if nothing is remembered
    assert row["training images nearer than every test image"] == "3.0 of 400 (by chance 4.0)"
    older = rows("RetinaMNIST").drop(columns=[c for c in rows().columns if c.startswith("images_")])
    assert results.images(older).empty
    assert "attacked by distance" not in results.section(older)
    assert results.images(pd.concat([rows(), older])).dataset.tolist() == ["BreastMNIST"]


def test_every_commit_that_made_a_number_is_named():
    made = rows()
    made["mia_commit"] = "fedcba9876543210"
    assert results.provenance(made)[0].endswith("commit 0123456789, fedcba9876")


def test_recall_is_shown_where_classes_are_uneven_only():
    uneven = results.recalls(rows())
    assert uneven["class"].tolist() == ["malignant", "benign", "mean over classes (balanced accuracy)"]
    assert uneven["test images"].tolist() == [100, 300, 400]
    assert uneven["real"].tolist() == ["50", "90", "70.0"]
    assert uneven["Student"].tolist() == ["50", "91", "70.4"]  # of seed 1: (400 * 0.80 - 100 * 0.5) / 300 = 0.9
    assert results.recalls(rows(test_images="200;290")).empty


def test_what_cannot_be_estimated_is_no_number():
    table = rows()
    table["mia_tpr_at_1pct_fpr"] = np.nan
    assert results.attacks(table)["TPR at 1 % FPR"].tolist() == ["not estimable"] * 2


def test_the_overall_gap_is_over_datasets_not_over_seeds():
    table = pd.concat([rows(gaps=(-0.02,)), rows("RetinaMNIST", gaps=(0.0, 0.02, 0.04))])
    # dataset means -2 and +2 points: the mean is 0, not the +1 of all four seeds; t(0.975, 1) = 12.706 times 2 points
    told = results.overall(table)
    assert told.startswith(
        "Mean CAS gap over 2 datasets: +0.00 [-25.41, +25.41] points; to the real ensemble -2.00 [-27"
    )


def test_the_mean_gap_stands_with_and_without_everyday_images():
    both = pd.concat([rows(gaps=(-0.02,)), rows("RetinaMNIST", gaps=(0.02,))])
    clothes = rows("FashionMNIST", gaps=(0.03,))
    told = results.section(pd.concat([both, clothes]))
    assert "Mean CAS gap over 3 datasets: +1.00 [" in told
    without = next(line for line in told.splitlines() if line.startswith("Mean CAS gap over 2 datasets: +0.00 ["))
    assert without.endswith("(profile `laptop`, without FashionMNIST; Student's t over datasets)")
    assert results.section(both).count("Mean CAS gap") == 1
    assert results.section(pd.concat([rows(), clothes])).count("Mean CAS gap") == 1, "one medical set has no mean"


def aimed(table, audits=()):
    """Measured and reached of each aim, by its first words."""
    found = {}
    for row in results.aims(table, audits).itertuples():
        found.setdefault(row.aim, []).append((row.measured, row.reached))
    return {aim: pairs[0] if len(pairs) == 1 else pairs for aim, pairs in found.items()}


def test_an_aim_is_reached_by_its_interval_or_by_its_mean_or_not():
    gap = "gap to one real classifier, mean over medical sets: +0.5 points or more"
    least = "gap to one real classifier on no medical set below -1.0"
    digits = "gap to one real classifier on digits: -0.3 points or more"
    two = pd.concat([rows(gaps=(0.02,)), rows("PathMNIST", gaps=(0.02,))])
    assert aimed(two)[gap] == ("+2.00 [+2.00, +2.00], 2 sets", "yes")
    assert aimed(two)[least] == ("BreastMNIST +2.00 [+1.00, +3.00]; PathMNIST +2.00 [+1.00, +3.00]", "yes")
    apart = aimed(pd.concat([rows(gaps=(0.03,)), rows("PathMNIST", gaps=(-0.005,))]))
    assert apart[gap][1] == apart[least][1] == "by the mean, not by the interval"
    assert aimed(pd.concat([two, rows("BloodMNIST", gaps=(-0.03,))]))[least][1] == "no"
    everyday = aimed(pd.concat([two, rows("FashionMNIST", gaps=(-0.2,)), rows("Digits", gaps=(-0.002,))]))
    assert everyday[gap] == aimed(two)[gap], "clothes and digits are not medical"
    assert everyday[digits] == ("-0.20 [-1.20, +0.80]", "by the mean, not by the interval")
    assert set(aimed(rows("Digits", gaps=(0.0,)))) == {digits}, "of what nothing was measured nothing is said"
    assert aimed(rows(gaps=(0.02,)))[gap][0].endswith(", 1 set")

    # The same set in two profiles is two rows, and neither hides the other
    twice = aimed(pd.concat([rows(gaps=(-0.05,)), rows(gaps=(0.02,), profile="paper")]))
    assert [reached for _, reached in twice[least]] == ["no", "yes"]


def test_the_aims_of_the_generator_and_of_the_baseline():
    every = [rows(name, textures=0.7) for name in ("BreastMNIST", "RetinaMNIST", "PathMNIST", "BloodMNIST")]
    images = "the Generator's images teach more than textures, beyond the interval, on four medical sets"
    assert aimed(pd.concat(every))[images][1] == "yes"
    assert aimed(pd.concat(every[:3]))[images][1] == "on 3 of 3"
    assert aimed(pd.concat([*every[:3], rows("BloodMNIST", textures=0.803)]))[images][1] == "on 3 of 4"
    assert aimed(pd.concat([*every[:3], rows("BloodMNIST")]))[images][1] == "on 3 of 3", "no Student of textures there"
    assert images not in aimed(rows())
    published = "real training reaches MedMNIST's ResNet-18"
    assert aimed(rows())[published] == ("BreastMNIST 80.0 [79.0, 81.0], published 86.3", "no")
    assert aimed(rows(resnet18=0.805))[published][1] == "within the interval"
    assert aimed(rows(resnet18=0.795))[published][1] == "yes"


def test_the_aim_of_an_audit_is_judged_by_the_difference_and_not_without_controls():
    leaks = "in an audit the Student's AUC is below real training's"
    assert leaks not in aimed(rows())

    def judged(student, doubts=(), **more):
        matrix = [{"artefact": who, "attack": "lira", "auc": auc, "auc_low": auc - 0.02, "auc_high": auc + 0.02}
                  for who, auc in (("real", 0.7), ("student", student))]  # fmt: skip
        about = {"title": "BreastMNIST", "seed": 0, "profile": "laptop", "doubts": {"audit": list(doubts)}}
        return aimed(rows(), [about | {"matrix": matrix} | more])[leaks]

    assert judged(0.6) == ("BreastMNIST, seed 0: 0.600 against 0.700", "yes")
    assert judged(0.69)[1] == "by the number, not by the interval"
    assert judged(0.69, differences={"student": {"auc_high": -0.002}})[1] == "yes", "of the same records"
    assert judged(0.71)[1] == "no"
    assert judged(0.6, ["lira missed"]) == ("BreastMNIST, seed 0: 0.600 against 0.700 (!)", "not judged")
    assert leaks not in aimed(rows(), [{"title": "B", "seed": 0, "doubts": {"audit": []}, "matrix": []}])


def test_the_same_dataset_in_two_profiles_stays_two_rows():
    table = pd.concat([rows(), rows(profile="paper", gaps=(0.01, 0.02))])
    assert results.accuracy(table)[["profile", "seeds"]].values.tolist() == [["laptop", 3], ["paper", 2]]


def test_the_command_is_one_that_the_driver_takes():
    import shlex

    import run_all

    table = rows()
    table["settings"] = " --set generator.steps=12"
    line = results.provenance(table)[0]
    command = line.split("`")[1]
    args = run_all.parser().parse_args(shlex.split(command)[2:])
    assert (args.datasets, args.seeds, args.profile, args.threads) == ("breastmnist", "0,1,2", "laptop", 2)
    assert "commit 0123456789" in line


def test_the_readme_shows_the_kept_results(tmp_path):
    """`python -m kr_utils.results` after new results; the README may not say anything else.

    The results are those that git has: whoever ran `make figures` has others in the folder.
    """
    git = ["git", "-C", str(ROOT)]
    names = ("figures/published/*/results.csv", "figures/published/*/audit-*.json")
    listed = subprocess.run([*git, "ls-files", *names], capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout: the results that the README was made from are not known")
    for name in listed.stdout.split():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        content = subprocess.run([*git, "show", f":{name}"], capture_output=True).stdout
        (tmp_path / name).write_bytes(content)
    assert listed.stdout.split()
    text = (ROOT / "figures/README.md").read_text(encoding="utf-8")
    assert text.count("<!-- results -->") == 1
    assert results.into(text, results.all_tables(tmp_path / "figures/published")[1]) == text


def test_only_the_part_between_the_markers_is_replaced(tmp_path):
    (tmp_path / "published/laptop").mkdir(parents=True)
    (tmp_path / "published/laptop/results.csv").write_text(results.as_csv(rows(), "laptop"))
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- results -->\nformer \\1\n<!-- /results -->\nafter\n")
    assert results.main([str(tmp_path)]) == 0
    text = readme.read_text()
    assert text.startswith("before\n<!-- results -->\nAccuracy on real test images")
    assert text.endswith("<!-- /results -->\nafter\n")
    assert "former" not in text
    assert "| laptop | BreastMNIST (\\*) | 3 | 86.3 |" in text


def test_rows_of_other_datasets_are_kept_and_those_of_the_same_are_not(tmp_path):
    path, retina = tmp_path / "results.csv", rows("RetinaMNIST", gaps=(0.0, 0.02))
    path.write_text(results.as_csv(pd.concat([rows(), retina]), "laptop"))
    here = rows(gaps=(0.01,))
    every, lines = results.accumulate(here, path)
    assert results.accuracy(every).equals(results.accuracy(pd.concat([here, retina], ignore_index=True)))
    assert lines == [
        "breastmnist: seeds 1, 2 of the earlier results.csv are left out, for no such run is here",
        "retinamnist: 2 seeds kept of the earlier results.csv (commit 0123456789)",
    ]
    again, none = results.accumulate(pd.concat([here, retina]), path)
    assert results.section(again) == results.section(every)
    assert len(none) == 1, "only the lost seeds"
    alone, nothing = results.accumulate(here, tmp_path / "absent.csv")
    assert results.section(alone) == results.section(here)
    assert nothing == []


def test_fingerprints_are_texts_even_where_they_look_like_numbers(tmp_path):
    table = rows()
    table["fingerprint"], table["mia_fingerprint"] = "1234567890123456", "123456789e123456"
    (tmp_path / "results.csv").write_text(results.as_csv(table, "laptop"))
    every, _ = results.accumulate(rows("RetinaMNIST"), tmp_path / "results.csv")
    kept = every[every.title == "BreastMNIST"]
    assert set(kept.fingerprint) == {"1234567890123456"}
    assert set(kept.mia_fingerprint) == {"123456789e123456"}


def test_changes_that_were_not_committed_are_told():
    table = rows()
    table["commit"] = "0123456789abcdef0123456789abcdef01234567+changes"
    assert results.provenance(table)[0].endswith("commit 0123456789+changes")


def test_settings_are_told_by_what_differs_and_is_in_use():
    usual = {"guidance": 1.0, "steps": 8.0, "churn": 0.0, "threshold": 0.0, "few": 0.0}
    usual |= {"temperature": 4.0, "hard_weight": 0.0}
    changed = [
        {"guidance": 2.5},
        {"threshold": 0.5},
        {"few": 1.0, "steps": 1.0},
        {"few": 1.0, "steps": 2.0},
        {"hard_weight": 0.5, "churn": 2.0},
    ]
    assert results.settings_told([usual, *(usual | change for change in changed)]) == [
        "guidance 1, 8 steps",
        "guidance 2.5, 8 steps",
        "guidance 1, 8 steps, filter 0.5",
        "guidance 1, 1 step of the few-step Generator",
        "guidance 1, 2 steps of the few-step Generator",
        "guidance 1, 8 steps, churn 2, asked label 0.5",
    ]
    told = results.settings_told([usual, usual | {"temperature": 1.0}])
    assert told == ["guidance 1, 8 steps, temperature 4", "guidance 1, 8 steps, temperature 1"]


def test_the_three_aucs_of_an_attack_stand_beside_each_other_and_are_told_in_words():
    table = rows()
    table.loc[table.method == "gkd", "mia_auc"] = [0.54, 0.54, 0.54]  # real: 0.55, 0.56, 0.57
    for key in ("mia_auc", "mia_minus_real"):
        bound(table, "gkd", key, 0.005)
    bound(table, "gkd", "mia_val_test_auc", 0.05)
    real, student = results.attacks(table).to_dict("records")
    assert (real["attacked"], student["attacked"]) == ("one real classifier", "GKD Student")
    assert real["AUC, train-test"] == "0.560 [0.550, 0.570]"
    assert real["AUC, validation-test"] == "0.540 [0.530, 0.550]"
    assert real["AUC, train-validation"] == "0.500 [0.490, 0.510]"
    assert (real["TPR at 1 % FPR"], real["blind"]) == ("2.00", "1.27"), "two of 157"
    assert real["AUC, Student - real"] == ""
    assert student["AUC, Student - real"] == "-0.020 [-0.025, -0.015]"
    first, second = results.shift_told(table)
    assert first.startswith("BreastMNIST (profile laptop), one real classifier: validation images look like members")
    assert "(AUC 0.540 [0.530, 0.550])" in first
    assert second.startswith("BreastMNIST (profile laptop), GKD Student: validation and test images, neither in")
    assert all(line.endswith("a leak is claimed from random halves only.") for line in (first, second))


def test_smoke_is_not_in_the_readme(tmp_path):
    for name in ("smoke", "laptop"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.csv").write_text(results.as_csv(rows(profile=name), name))
    assert set(results.read(tmp_path).profile) == {"laptop"}


# ------------------------------------------------------------------ a broken results.csv


def cells(change):
    """A fault in the rows, given as dicts of texts."""

    def broken(text):
        lines = list(csv.DictReader(io.StringIO(text)))
        lines = change(lines) or lines
        out = io.StringIO()
        writer = csv.DictWriter(out, list(dict.fromkeys(name for line in lines for name in line)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        return out.getvalue()

    return broken


def put(column, value, line=1):  # line 0 is seed 0's real training, 1 its Student, 5 the real ensemble
    return cells(lambda lines: lines[line].update({column: value}))


def everywhere(column, value):
    return cells(lambda lines: [line | {column: value} for line in lines])


def without(column):
    return cells(lambda lines: [{k: v for k, v in line.items() if k != column} for line in lines])


BROKEN = {
    "nothing in it": lambda text: "",
    "one byte": lambda text: "\0",
    "only a header": lambda text: text.splitlines()[0] + "\n",
    "only the first half of a line": lambda text: text[: len(text) // 2],
    "no text": lambda text: b"\xff\xfe\x00PK",
    "UTF-16": lambda text: text.encode("utf-16"),
    "latin-1": lambda text: text.replace("BreastMNIST", "Br\u00fcste").encode("latin-1"),
    "a picture": lambda text: b"\x89PNG\r\n\x1a\n" + bytes(200),
    "a page of HTML": lambda text: "<!DOCTYPE html><html><body>Sign in</body></html>",
    "semicolons between": lambda text: text.replace(";", "/").replace(",", ";"),
    "another table": lambda text: "dataset,seed\nbreastmnist,0\n",
    "a value too many": lambda text: text.rstrip("\n") + ",3\n",
    "a value too few": lambda text: text.rstrip("\n").rpartition(",")[0] + "\n",
    "an open quote": lambda text: text + '"',
    "a quote within": lambda text: text.replace(",real,", ',"re"al,'),
    "a conflict of git": lambda text: "<<<<<<< HEAD\n" + text,
    "a column twice": lambda text: re.sub(r"^(.*)$", r"\1,gap", text, flags=re.M),
    "no method": without("method"),
    "no accuracy": without("accuracy"),
    "no fingerprint": without("fingerprint"),
    "no classes": without("classes"),
    "all rows twice": cells(lambda lines: lines + lines),
    "one row twice": cells(lambda lines: [*lines, lines[3]]),
    "a seed twice, written in two ways": cells(lambda lines: [*lines, *(line | {"seed": "00"} for line in lines[:6])]),
    "no real training": cells(lambda lines: lines[1:]),
    "no Student": cells(lambda lines: [line for line in lines if line["method"] != "gkd"]),
    "no real ensemble": cells(lambda lines: [line for line in lines if line["method"] != "ensemble"]),
    "a Student of one seed only": cells(lambda lines: lines[:-2] + lines[-1:]),
    "an unknown method": put("method", "magic", 2),
    "a method in capitals": put("method", "GKD"),
    "another profile": everywhere("profile", "paper"),
    "two profiles": put("profile", "quick"),
    "an accuracy of 9.9": put("accuracy", "9.9"),
    "an accuracy in percent": put("accuracy", "79"),
    "a negative accuracy": put("accuracy", "-0.79"),
    "an infinite accuracy": put("accuracy", "inf"),
    "no number for accuracy": put("accuracy", "nan"),
    "an empty accuracy": put("accuracy", ""),
    "words for accuracy": put("accuracy", "very good"),
    "a comma for a point": put("accuracy", "0,79"),
    "an underline in a number": put("accuracy", "0.7_9"),
    "digits of another script": put("accuracy", "\u0660.\u0667\u0669"),
    "a blank beside a number": put("accuracy", " 0.79"),
    "hexadecimal": put("seed", "0x1"),
    "an accuracy that no count of images gives": put("accuracy", "0.7901"),
    "an accuracy that the recalls do not give": cells(lambda lines: lines[1].update(accuracy="0.81", gap="0.01")),
    "a gap that is not CAS minus real": put("gap", "0.05"),
    "a gap of the ablation": put("gap", "0.1", 2),
    "real training with a gap": put("gap", "0.01", 0),
    "a gap that is not to the ensemble": put("ensemble_gap", "0.01"),
    "an ensemble with a gap to itself": put("ensemble_gap", "0.01", 5),
    "real training of no classifier": put("classifiers", "0", 0),
    "real training of an unknown number of classifiers": put("classifiers", "", 0),
    "an agreement above one": put("agreement", "90"),
    "a bound of one seed only": put("accuracy_two_low", "0.1"),
    "no bound of a gap": everywhere("gap_two_low", ""),
    "no column of a bound": without("mia_train_val_auc_two_high"),
    "bounds upside down": everywhere("mia_val_test_auc_two_low", "0.99"),
    "no AUC between outsiders": put("mia_val_test_auc", "", 0),
    "a gap of two": put("gap", "2"),
    "an interval upside down": cells(lambda lines: [line | {"gap_low": "0.2", "gap_high": "0.1"} for line in lines]),
    "a seed below zero": put("seed", "-1"),
    "half a seed": put("seed", "0.5"),
    "a seed that no run takes": put("seed", "9999999999"),
    "an AUC above one": put("mia_auc", "1.2"),
    "no AUC": put("mia_auc", ""),
    "a rate above one": put("mia_tpr_at_1pct_fpr", "3"),
    "images' AUC above one": put("images_auc", "54"),
    **{f"images' AUC with an empty {name}": put(name, "") for name in results_file.IMAGES},
    **{
        f"images' AUC without a column {name}": without(name)
        for name in (*results_file.IMAGES, *results_file.IMAGES_RATES)
    },
    **{
        f"a column {name!r}": everywhere(name, "1") for name in ("", "a b", "a\nb", "\x1b[2J", "=A1", "caf\u00e9", "_a")
    },
    "a lambda below zero": everywhere("lambda", "-2"),
    "endless minutes": put("minutes", "1e999"),
    "no minutes": put("minutes", ""),
    "recalls of three classes": put("recall", "0.4;0.92;1"),
    "a recall above one": put("recall", "0.4;9.2"),
    "no recall": put("recall", ""),
    "classes of another number": everywhere("classes", "malignant"),
    "test images of no class": everywhere("test_images", "0;0"),
    "test images below zero": everywhere("test_images", "-100;300"),
    "test images of one row": put("test_images", "200;200"),
    "titles that differ": put("title", "RetinaMNIST"),
    "budgets that differ": put("settings", " --set teacher.epochs=3"),
    "a command in the settings": everywhere("settings", " --set a.b=1`; rm -rf ~; `"),
    "a formula as title": everywhere("title", "=HYPERLINK(0)"),
    "a formula as class": everywhere("classes", "@SUM(A1);b"),
    "a formula as hardware": put("hardware", "+1+cmd|' /C calc'!A0"),
    "a formula in a column of its own": everywhere("note", "-1+2"),
    "a line break in a title": everywhere("title", "Breast\nMNIST"),
    "an escape sequence in a title": everywhere("title", "Breast\x1b[2JMNIST"),
    "text that runs backwards": everywhere("title", "Breast\u202eTSINM"),
    "a path as dataset": everywhere("dataset", "../../etc"),
    "markup as dataset": everywhere("dataset", "<b>"),
    "no dataset": everywhere("dataset", ""),
    "no commit but words": put("commit", "HEAD"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_table_is_refused_in_one_line_that_names_the_file(tmp_path, name):
    path = tmp_path / "results.csv"
    content = BROKEN[name](results.as_csv(rows(), "laptop"))
    content = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(content)
    with pytest.raises(InputError) as told:
        results_file.load(path, "laptop")
    assert str(told.value).startswith(f"{path}: not a table of results (")
    assert str(told.value).endswith("; move it away, and 10 writes a new one from the runs that are here")
    assert str(told.value).isprintable(), "one line, and nothing of what the file says to a terminal"
    assert len(str(told.value)) < 400
    with pytest.raises(InputError):
        results.accumulate(rows("RetinaMNIST"), path)
    assert path.read_bytes() == content, "it is the user's"


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "link.csv").symlink_to(tmp_path / "gone")
    for path in tmp_path.iterdir():
        with pytest.raises(InputError, match="move it away"):
            results_file.load(path, "laptop")
    assert results_file.load(tmp_path / "absent.csv", "laptop") is None


def test_a_broken_table_stops_the_driver_before_anything_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(execute, "execute", lambda *args, **kwargs: pytest.fail("a stage was started"))
    path = tmp_path / "figures/smoke/results.csv"
    path.parent.mkdir(parents=True)
    path.write_text(BROKEN["an accuracy of 9.9"](results.as_csv(rows(profile="smoke"), "smoke")))
    for options in ([], ["--dry-run"]):
        assert run_all.main(["--profile", "smoke", *options]) == 2
        out, err = capsys.readouterr()
        assert err == (
            f"error: {path}: not a table of results (line 3: accuracy is '9.9', not a share from 0 to 1); "
            "move it away, and 10 writes a new one from the runs that are here\n"
        )
        assert out == ""
    assert run_all.main(["--profile", "smoke", "--until", "start", "--dry-run"]) == 0, "10 will not read it"


def test_the_kept_tables_and_those_of_spreadsheets_and_older_versions_are_read(tmp_path):
    for path in (ROOT / "figures/published").glob("*/results.csv"):
        assert results_file.load(path, path.parent.name) == path.read_text(encoding="utf-8")
    text, path = results.as_csv(rows(), "laptop"), tmp_path / "results.csv"
    older = without("images_auc")(without("mia_fingerprint_")(text))
    for content in (text.encode("utf-8-sig"), text.replace("\n", "\r\n").encode(), older.encode()):
        path.write_bytes(content)
        every, _ = results.accumulate(rows("RetinaMNIST"), path)
        assert results.accuracy(every).equals(results.accuracy(pd.concat([rows(), rows("RetinaMNIST")])))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("ensemble_gap"), "of an older form: no column ensemble_gap"),
        (
            put("method", "soft_few", 2),
            "of an older form: line 4 (breastmnist, seed 0, soft_few) has the method soft_few",
        ),
    ],
)
def test_a_table_of_the_form_before_is_told_as_such_and_what_to_do(tmp_path, change, words):
    (tmp_path / "results.csv").write_text(change(results.as_csv(rows(), "laptop")))
    with pytest.raises(InputError) as told:
        results_file.load(tmp_path / "results.csv", "laptop")
    assert f"results.csv: not a table of results ({words}" in str(told.value)
    assert str(told.value).endswith("; move it away, and 10 writes a new one from the runs that are here")
    assert "\n" not in str(told.value)


def test_a_rate_that_few_non_members_leave_empty_is_not_estimable(tmp_path):
    text = everywhere("images_tpr_at_1pct_fpr", "")(results.as_csv(rows(), "laptop"))
    results_file.check(text, "here", "laptop")
    assert results.images(results.parsed(text)).iloc[0]["TPR at 1 % FPR"] == "not estimable"


def test_texts_of_a_table_stay_texts(tmp_path):
    table = rows()
    table["title"], table["classes"] = "NA", "1e5;null"
    (tmp_path / "results.csv").write_text(results.as_csv(table, "laptop"))
    every, _ = results.accumulate(rows("RetinaMNIST"), tmp_path / "results.csv")
    assert results.accuracy(every).dataset.tolist() == ["NA (*)", "RetinaMNIST (*)"]
    assert results.recalls(every)["class"].tolist()[:2] == ["1e5", "null"]


def test_what_is_written_of_hostile_texts_is_no_markup_and_no_formula():
    from nbconvert.filters.markdown_mistune import markdown2html_mistune

    hostile = "<script>x</script>|`a`[b](http://c)![d](e)[f][g]*h*$i$&lt;www.j.com k@l.com"
    table = rows()
    table["title"], table["hardware"], table["classes"] = hostile, hostile, f"{hostile};@b"
    table["mia_controls"] = hostile
    text = results.section(table)
    page = markdown2html_mistune(text)
    assert not re.search(r"<(script|a|img|em)\b", page)
    assert page.count("&lt;script&gt;") >= 6
    for line in re.findall("<tr>(.*?)</tr>", results_table(page, "profile"), re.S):
        assert len(re.findall("<t[hd]", line)) in (11, 8, 10, 9, 6), "a cell ends where it ends"
    assert results.plain_text("=1+1") == "'=1+1"
    assert results.plain_text("a\nb\x1b\u202ec") == "a b  c"
    assert results.plain_text("normal, benign") == "normal, benign"


def results_table(page, word):
    return "".join(table for table in re.findall("<table>.*?</table>", page, re.S) if word in table)


# ------------------------------------------------------------------ the command


def test_the_command_explains_itself():
    call = [sys.executable, "-m", "kr_utils.results", "--help"]
    out = subprocess.run(call, capture_output=True, text=True, cwd=ROOT)
    assert out.returncode == 0, out.stderr
    assert out.stdout.startswith("usage: python -m kr_utils.results [-h] [folder]")
    assert "README.md" in out.stdout


GOOD = "<!-- results -->\n<!-- /results -->\n"


@pytest.mark.parametrize(
    ("readme", "table", "words"),
    [
        (None, "good", "README.md: No such file or directory; name the folder"),
        (GOOD, None, "no table of results in any profile's folder"),
        ("# Title\n", "good", "README.md: it needs one line '<!-- results -->'"),
        ("<!-- results -->\n", "good", "README.md: it needs one line"),
        ("<!-- /results -->\n<!-- results -->\n", "good", "README.md: it needs one line"),
        (GOOD + GOOD, "good", "README.md: it needs one line"),
        (b"\xff\xfe", "good", "README.md: not a text in UTF-8"),
        (GOOD, "bad", "laptop/results.csv: not a table of results"),
    ],
)
def test_the_command_refuses_in_one_line_and_changes_nothing(tmp_path, capsys, readme, table, words):
    path = tmp_path / "README.md"
    if readme is not None:
        path.write_bytes(readme if isinstance(readme, bytes) else readme.encode())
    if table is not None:
        (tmp_path / "published/laptop").mkdir(parents=True)
        text = results.as_csv(rows(), "laptop")
        (tmp_path / "published/laptop/results.csv").write_text(text if table == "good" else text[:500])
    before = path.read_bytes() if path.exists() else None
    assert results.main([str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert words in err
    assert err.count("\n") == 1
    assert (path.read_bytes() if path.exists() else None) == before


def ready(folder):
    """A folder with a README and a table; returns the README."""
    (folder / "published/laptop").mkdir(parents=True)
    (folder / "published/laptop/results.csv").write_text(results.as_csv(rows(), "laptop"))
    (folder / "README.md").write_text(GOOD)
    return folder / "README.md"


def a_link(readme, monkeypatch):
    readme.rename(readme.with_name("other"))
    readme.symlink_to("other")


def a_pipe(readme, monkeypatch):
    readme.unlink()
    os.mkfifo(readme)
    # Whoever reads it gets an end, and would wait for ever without this.
    threading.Thread(target=lambda: readme.open("wb").close(), daemon=True).start()


def a_full_disk(readme, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(owned.os, "fsync", full)


def a_closed_folder(readme, monkeypatch):
    closed(readme.parent / "published", monkeypatch)


PLACES = {
    a_link: "README.md: a link; nothing is written through links",
    a_pipe: "README.md: not an ordinary file; name the folder",
    a_full_disk: "README.md: cannot be written (No space left on device); it is as it was",
    a_closed_folder: "you may not look into this folder; get permission",
}


@pytest.mark.parametrize("place", PLACES)
def test_a_readme_that_cannot_be_replaced_stays_whole(tmp_path, capsys, monkeypatch, place):
    readme = ready(tmp_path)
    place(readme, monkeypatch)
    assert results.main([str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert PLACES[place] in err
    left = readme.with_name("other") if place is a_link else readme
    assert place is a_pipe or left.read_text() == GOOD
    assert not list(tmp_path.glob(".*")), "nothing is left beside it"


def test_a_folder_with_a_line_break_in_its_name_is_refused_in_one_line(tmp_path, capsys):
    ready(tmp_path / "a\nb")
    assert results.main([str(tmp_path / "a\nb")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_table_in_a_folder_that_may_not_be_entered_is_not_taken_for_none(tmp_path, monkeypatch):
    def refuse(path, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(results_file.os, "lstat", refuse)
    with pytest.raises(InputError, match="cannot be read, Permission denied"):
        results_file.load(tmp_path / "results.csv", "laptop")


# ------------------------------------------------------------------ the rows of a run


def test_a_run_gives_a_row_per_method_with_its_origin():
    run = finished_run()
    run["distillation"].budget = {"epochs": 7, "period": 10**6}
    table = results.table_of({("digits", 0): run}, "smoke")
    assert table.method.tolist() == [
        *("real", "ensemble", "gkd", "hard_fixed", "soft_fixed", "hard_regenerated", "textures"),
    ]
    assert table.accuracy.tolist() == [0.8, 0.825, 0.75, 0.65, 0.725, 0.725, 0.675]
    assert table.gap.round(9).tolist() == [0, 0.025, -0.05, -0.15, -0.075, -0.075, -0.125]
    assert table.ensemble_gap.round(9).tolist() == [-0.025, 0, -0.075, -0.175, -0.1, -0.1, -0.15]
    assert table.fingerprint.tolist() == ["teacher0"] * 2 + ["distillation0"] * 5
    assert table.mia_fingerprint.dropna().tolist() == ["membership0"] * 2
    assert table.mia_controls.dropna().tolist() == ["held", "held"]
    assert table.images_controls.dropna().tolist() == ["held"]
    assert set(table.test_images) == {"10;30"}
    assert set(table.classes) == {"a,b;=c"}
    assert set(table.minutes) == {7.0}
    assert set(table.settings) == {" --set distillation.epochs=7 --set distillation.period=1000000"}
    assert table.classifiers.tolist()[:2] == [2, 2]
    assert table.agreement.isna().tolist() == [True, True] + [False] * 5
    gkd = table.iloc[2]
    assert (gkd.few, gkd.temperature, gkd.hard_weight, gkd.teacher_agreement) == (1, 2.0, 0.5, 0.6)

    # The text is a table of results, and its rows are what it was made of, to ten digits
    again = results.parsed(results.as_csv(table, "smoke"))
    assert results.as_csv(again, "smoke") == results.as_csv(table, "smoke")
    assert results.accuracy(again).iloc[0]["CAS gap"].startswith("-5.00 [")


def test_rows_carry_the_interval_over_all_seeds_of_their_dataset():
    weaker = {**ABLATION, "soft_regenerated": (4, 24)}
    found = {("digits", 0): finished_run(0), ("digits", 1): finished_run(1, weaker), ("mnist", 0): finished_run(2)}
    table = results.table_of(found, "smoke")
    own, alone = (table[(table.dataset == name) & (table.method == "gkd")] for name in ("digits", "mnist"))
    # gap of seed 0 in images: 1 more and 3 fewer than half of the real ones; of seed 1 one fewer and 3 fewer
    hits = np.stack([saying(6, 24).argmax(1) == LABELS, saying(4, 24).argmax(1) == LABELS]).astype(float)
    real = np.mean([saying(4, 27).argmax(1) == LABELS, saying(6, 27).argmax(1) == LABELS], axis=0)
    together = saying(6, 27).argmax(1) == LABELS
    for key, values in (("accuracy", hits), ("gap", hits - real), ("ensemble_gap", hits - together)):
        _, low, high = metrics.two_way(values)
        assert own[f"{key}_two_low"].tolist() == [low] * 2, key
        assert own[f"{key}_two_high"].tolist() == [high] * 2, key
    assert results.interval(table[table.dataset == "digits"], "gkd", "gap")[0] == pytest.approx(-0.075)
    assert alone["gap_two_low"].item() != own["gap_two_low"].iloc[0]
    textures = results.contrasts(table[table.dataset == "digits"])["Generator"]
    less = saying(0, 27).argmax(1) == LABELS
    assert textures == pytest.approx(metrics.two_way(hits - less))
    assert np.isnan(results.contrasts(table)["softness"][0]), "teacher_argmax was not run"

    stored = [found["digits", k]["membership"].npz("scores.npz") for k in (0, 1)]
    pairs = {who: [np.stack([s[f"{who}_loss_{side}"] for s in stored]) for side in ("in", "out", "val")]
             for who in ("real", "student")}  # fmt: skip
    a, b, v = pairs["student"]
    known = {
        "mia_auc": metrics.two_way_auc((a, b)),
        "mia_val_test_auc": metrics.two_way_auc((v, b)),
        "mia_train_val_auc": metrics.two_way_auc((a, v)),
        "mia_minus_real": metrics.two_way_auc((a, b), tuple(pairs["real"][:2])),
    }
    for key, value in known.items():
        assert results.interval(table[table.dataset == "digits"], "gkd", key) == pytest.approx(value, abs=1e-9), key


def test_numbers_that_their_single_images_do_not_give_are_refused():
    run = finished_run()
    run["distillation"].npz("logits.npz")["test_textures"][0] = [0, 9]  # was wrong about it, as about all of class 0
    results.table_of({("digits", 0): run}, "smoke")
    run["distillation"].npz("logits.npz")["test_textures"][0] = [9, 0]
    with pytest.raises(InputError, match=r"digits, textures: accuracy is 0\.675000, but 0\.700000 by what is stored"):
        results.table_of({("digits", 0): run}, "smoke")


def test_seeds_with_other_students_do_not_count_together():
    fewer = {name: right for name, right in ABLATION.items() if name != "textures"}
    with pytest.raises(InputError, match="the seeds of digits were run with different budgets"):
        results.table_of({("digits", 0): finished_run(0), ("digits", 1): finished_run(1, fewer)}, "smoke")


@pytest.mark.parametrize(
    ("stage", "fault", "words"),
    [
        ("teacher", {"test_accuracy": 0.775}, "digits, seed 3, real: a mean accuracy of 0.7750 is not that of its 2"),
        ("teacher", {"members": 3}, "digits, seed 3, real: a mean accuracy of 0.8000 is not that of its 3"),
        ("teacher", {"ensemble_test_accuracy": 0.8}, "digits, seed 3, ensemble: 05 compared with a real accuracy of"),
        ("teacher", {"test_counts": [11, 29]}, "digits, seed 3, real: 01 and 05 saw other test images"),
        ("teacher", {"test_confusion": [[5, 5], [2, 28]]}, "digits, seed 3, real: accuracy 0.8000 is not that of its"),
        ("distillation", {"real_test_accuracy": 0.805}, "digits, seed 3, real: 05 compared with a real accuracy of"),
        ("distillation", {"cas_gap": -0.005}, "digits, seed 3, gkd: the gap is -0.0050, but CAS less real accuracy is"),
        (
            "distillation",
            {"ensemble_gap": -0.005},
            "digits, seed 3, gkd: the ensemble_gap is -0.0050, but CAS less the real ensemble's accuracy is -0.0750",
        ),
        (
            "distillation",
            {"cas": 0.7, "cas_gap": -0.1, "ensemble_gap": -0.125},
            "digits, seed 3, gkd: CAS and gaps are not those of",
        ),
        ("distillation", {"cas_confusion": [[6, 5], [6, 23]]}, "digits, seed 3, gkd: 01 and 05 saw other test images"),
        ("distillation", {"cas_confusion": [[6, 4], [5, 25]]}, "digits, seed 3, gkd: accuracy 0.7500 is not that of"),
        ("membership", {"images": {"members": 99, "non_members": 40}}, "digits, seed 3, gkd: 06 attacked"),
    ],
)
def test_a_run_whose_numbers_do_not_belong_together_is_refused(stage, fault, words):
    run = finished_run()
    run[stage].metrics.update(fault)
    with pytest.raises(InputError) as told:
        results.table_of({("digits", 3): run}, "smoke")
    assert str(told.value).startswith(words)
    assert "--datasets digits --seeds 3 --force" in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("key", ["gap", "ensemble_gap"])
def test_a_gap_of_the_ablation_is_checked_too(key):
    run = finished_run()
    run["distillation"].metrics["ablation"]["soft_fixed"][key] += 2e-9
    with pytest.raises(InputError, match=f"digits, seed 3, soft_fixed: the {key} is"):
        results.table_of({("digits", 3): run}, "smoke")


def test_the_arithmetic_of_kept_rows_is_checked_with_the_new_ones():
    table = pd.concat([rows(), rows("RetinaMNIST", gaps=(0.0, 0.02))], ignore_index=True)
    assert results.as_csv(table, "laptop").count("\n") == 1 + 30
    table.loc[(table.title == "RetinaMNIST") & (table.seed == 1) & (table.method == "soft_fixed"), "gap"] = 0.0
    with pytest.raises(InputError, match=r"retinamnist, seed 1, soft_fixed: gap \+0\.0000, but accuracy less that of"):
        results.as_csv(table, "laptop")


# ------------------------------------------------------------------ what is not to be believed


def test_attacks_that_are_not_to_be_believed_carry_the_mark_and_the_reason_everywhere():
    table = pd.concat([rows(), rows("RetinaMNIST")], ignore_index=True)
    table["mia_controls"] = table["images_controls"] = belief.HELD
    plain = results.section(table)
    assert belief.MARK not in plain
    assert plain == results.section(table.drop(columns=["mia_controls", "images_controls"])), "unknown, as before"

    table.loc[(table.title == "BreastMNIST") & (table.seed == 1), "mia_controls"] = "a control was not caught"
    *doubtful, sound, _ = results.attacks(table).to_dict("records")
    for row in doubtful:
        for name, text in row.items():
            told = name.startswith(("AUC", "TPR", "AOP")) and text != ""
            assert text.endswith(" (!)") == told, name
            assert not sound[name].endswith("(!)")
    assert results.doubted(table, "mia") == [
        "(!) not to be believed: BreastMNIST (profile laptop), seed 1: a control was not caught"
    ]
    assert belief.MARK not in results.markdown(results.images(table))
    assert results.accuracy(table).equals(results.accuracy(rows_of_both := table.drop(columns="mia_controls")))
    assert results.ablation(table).equals(results.ablation(rows_of_both)), "accuracies stay"

    table.loc[(table.title == "RetinaMNIST") & (table.seed == 0), "images_controls"] = "planted copies were not found"
    released = results.images(table).to_dict("records")[1]
    assert all(released[name].endswith(" (!)") for name in list(released)[3:])
    text = results.section(table)
    assert "seed 0: planted copies were not found" in text
    assert "seed 1: a control was not caught" in text
    again = results.parsed(results.as_csv(table, "laptop"))
    assert results.section(again) == text, "results.csv keeps it"


def test_a_gap_of_two_classifiers_that_learned_nothing_is_named():
    column = "CAS gap"
    one_class = rows(gaps=(0.0,))
    one_class["accuracy"], one_class["recall"] = 0.75, "0.0000;1.0000"
    one_class["gap"] = 0.0
    assert results.accuracy(one_class).iloc[0][column] == "+0.00 [-1.00, +1.00] (both know one class only)"
    who = ", ".join(
        f"{results.METHODS[m]} says one class only"
        for m in one_class.method.unique()
        if m in results.results_file.LEARNED
    )
    assert results.unlearned(one_class) == f" BreastMNIST, seed 0: {who}."
    assert results.unlearned(rows()) == "", "the alt text of figures that need no such word"
    weak = rows(gaps=(-0.05, 0.0))
    weak["accuracy"] = weak.accuracy - 0.05  # 0.75 and 0.70, then 0.75 twice; 0.75 is the share of the larger class
    words = "neither beats always saying the most frequent class"
    assert results.accuracy(weak).iloc[0][column].endswith(f"] ({words})")
    weak.loc[weak.seed == 0, "accuracy"] = 0.8
    assert results.accuracy(weak).iloc[0][column].endswith(f"] ({words}: 1 of 2 seeds)")
    both = pd.concat([weak, rows("RetinaMNIST")])
    assert results.overall(both).endswith(". It counts gaps that say nothing: BreastMNIST.")
    assert results.overall(rows()) == "Mean CAS gap over 1 dataset: +0.67 points; to the real ensemble -1.33."
