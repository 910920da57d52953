"""The tables a reader sees: known answers from rows made by hand, and the README against the kept results."""

import subprocess
import types

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kr_utils import InputError, results, stages

ROOT = stages.ROOT


def rows(title="BreastMNIST", gaps=(-0.01, 0.0, 0.03), test_images="10;30", resnet18=0.863, few=(), profile="laptop"):
    """Rows as 08 writes them, a dataset of two classes."""
    out = []
    common = {"profile": profile, "dataset": title.lower(), "title": title, "resnet18": resnet18, "lambda": 2.0}
    common |= {"classes": "malignant;benign", "test_images": test_images, "commit": "0123456789abcdef"}
    common |= {"settings": None, "hardware": "CPU, GPU none, torch 2.15.0", "threads": 2}
    for seed, gap in enumerate(gaps):
        here = common | {"seed": seed, "minutes": 20.0 + seed, "generalisation_gap": 0.1, "aop": 0.7}
        here |= {"fingerprint": f"f{seed}", "mia_fingerprint": f"m{seed}"}
        mia = {"mia_auc": 0.55 + 0.01 * seed, "mia_tpr_at_1pct_fpr": 0.02}
        out.append(here | mia | {"method": "real", "accuracy": 0.8, "gap": 0.0, "recall": "0.5000;0.9000"})
        student = {
            "accuracy": 0.8 + gap,
            "gap": gap,
            "images_auc": 0.5 + 0.01 * seed,
            "images_tpr_at_1pct_fpr": 0.01,
            "images_minus_student": 0.02,
            "images_minus_control": -0.01,
            "released": 500,
            "nearer_than_any_test": 2 + seed,
            "members": 400,
            "non_members": 99,
            "recall": f"{0.4 + 0.1 * seed:.4f};0.8000",
        }
        out.append(here | mia | {"method": "gkd"} | student)
        out.extend(here | {"method": m, "accuracy": 0.7, "gap": -0.1} for m in list(results.METHODS)[1:4])
        if seed in few:
            out.append(here | {"method": "soft_few", "accuracy": 0.75, "gap": -0.05})
    return pd.DataFrame(out)


def test_accuracy_is_the_mean_with_students_t_interval_and_a_paired_test():
    gaps = (-0.01, 0.0, 0.03)
    row = results.accuracy(rows(gaps=gaps)).iloc[0]
    assert row["dataset"] == "BreastMNIST"
    assert row["seeds"] == 3
    assert row["MedMNIST's ResNet-18, real"] == "86.3"
    # mean 2/3 point; standard deviation 2.0817 points; t(0.975, 2) = 4.3027: half width 5.171
    assert row["CAS gap"] == "+0.67 [-4.50, +5.84]"
    assert row["real"] == "80.0 [80.0, 80.0]"
    assert row["paired p"] == f"{stats.ttest_rel([0.8 + g for g in gaps], [0.8] * 3).pvalue:.2f}"
    assert row["minutes per seed"] == "21"


def test_one_seed_has_no_interval_and_no_p_value():
    row = results.accuracy(rows(gaps=(0.01,), resnet18=np.nan)).iloc[0]
    assert row["CAS gap"] == "+1.00"
    assert row["paired p"] == ""
    assert row["MedMNIST's ResNet-18, real"] == ""


@pytest.mark.parametrize("gap", [0.01, 1 / 156, 5 / 400])  # the mean of three of the last two is not exactly the same
def test_equal_gaps_have_no_p_value(gap):
    assert np.isnan(results.paired_p([gap, gap, gap]))


def test_few_step_is_told_with_its_number_of_seeds():
    name = results.METHODS["soft_few"]
    assert results.ablation(rows(few=(0, 2))).iloc[0][name] == "75.0 (2 of 3 seeds)"
    assert results.ablation(rows(few=(0, 1, 2))).iloc[0][name] == "75.0"
    assert results.ablation(rows()).iloc[0][name] == "not kept"


def test_the_attack_on_the_images_has_a_table_of_the_rows_that_have_it():
    row = results.images(rows()).iloc[0]
    # mean 0.51; standard deviation 0.01, t(0.975, 2) = 4.3027: half width 0.0248
    assert row["AUC"] == "0.510 [0.485, 0.535]"
    assert row["synthetic images"] == "500"
    assert row["AUC, images - Student"] == "+0.020 [+0.020, +0.020]"
    assert row["AUC, images - split control"] == "-0.010 [-0.010, -0.010]"
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
    assert uneven["class"].tolist() == ["malignant", "benign"]
    assert uneven["test images"].tolist() == [10, 30]
    assert uneven["real"].tolist() == ["50", "90"]
    assert uneven["Student"].tolist() == ["50", "80"]
    assert results.recalls(rows(test_images="20;29")).empty


def test_what_cannot_be_estimated_is_no_number():
    table = rows()
    table["mia_tpr_at_1pct_fpr"] = np.nan
    assert results.attacks(table).iloc[0]["TPR at 1 % FPR, real"] == "not estimable"


def test_the_overall_gap_is_over_datasets_not_over_seeds():
    table = pd.concat([rows(gaps=(-0.02,)), rows("RetinaMNIST", gaps=(0.0, 0.02, 0.04))])
    # dataset means -2 and +2 points: the mean is 0, not the +1 of all four seeds
    assert results.overall(table).startswith("Mean CAS gap over 2 datasets: +0.00 [")


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
    listed = subprocess.run([*git, "ls-files", "figures/*/results.csv"], capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout: the results that the README was made from are not known")
    for name in listed.stdout.split():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(subprocess.run([*git, "show", f":{name}"], capture_output=True).stdout)
    assert len(listed.stdout.split()) >= 2
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("<!-- results -->") == 1
    assert results.into(text, results.section(results.read(tmp_path / "figures"))) == text


def test_only_the_part_between_the_markers_is_replaced(tmp_path):
    (tmp_path / "figures/laptop").mkdir(parents=True)
    rows().to_csv(tmp_path / "figures/laptop/results.csv", index=False)
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- results -->\nold \\1\n<!-- /results -->\nafter\n")
    results.main(tmp_path)
    text = readme.read_text()
    assert text.startswith("before\n<!-- results -->\nAccuracy on real test images")
    assert text.endswith("<!-- /results -->\nafter\n")
    assert "old" not in text
    assert "| laptop | BreastMNIST | 3 | 86.3 |" in text


def test_rows_of_other_datasets_are_kept_and_those_of_the_same_are_not(tmp_path):
    path, retina = tmp_path / "results.csv", rows("RetinaMNIST", gaps=(0.0, 0.02))
    pd.concat([rows(), retina]).to_csv(path, index=False)
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


def test_seeds_of_older_code_are_left_out():
    """Not the lowest seed decides but the newest run, for each dataset by itself."""

    def run(day, code):
        made = {"started": f"2026-01-0{day}T00:00:00+00:00", "ingredients": {"code": {"classifier": code}}}
        return {stage: types.SimpleNamespace(manifest=made) for stage in ("teacher", "membership")}

    found = {("a", 0): run(1, "old"), ("a", 1): run(3, "new"), ("a", 2): run(2, "new"), ("b", 0): run(1, "old")}
    kept, lines = results.of_one_code(found)
    assert list(kept) == [("a", 1), ("a", 2), ("b", 0)]
    assert lines == ["a, seed 0: left out, for older code made it; run it again"]
    assert results.of_one_code(kept) == (kept, [])


def test_fingerprints_are_texts_even_where_they_look_like_numbers(tmp_path):
    table = rows()
    table["fingerprint"], table["mia_fingerprint"] = "1234567890123456", "123456789e123456"
    table.to_csv(tmp_path / "results.csv", index=False)
    every, _ = results.accumulate(rows("RetinaMNIST"), tmp_path / "results.csv")
    kept = every[every.title == "BreastMNIST"]
    assert set(kept.fingerprint) == {"1234567890123456"}
    assert set(kept.mia_fingerprint) == {"123456789e123456"}


def test_changes_that_were_not_committed_are_told():
    table = rows()
    table["commit"] = "0123456789abcdef0123456789abcdef01234567+changes"
    assert results.provenance(table)[0].endswith("commit 0123456789+changes")


def test_the_attacks_are_compared_on_the_same_images_of_a_seed():
    table = rows()
    table.loc[table.method == "gkd", "mia_auc"] = [0.54, 0.54, 0.54]  # real: 0.55, 0.56, 0.57
    # differences -0.01, -0.02, -0.03: mean -0.02, standard deviation 0.01, half width 4.3027 * 0.01 / sqrt(3)
    assert results.attacks(table).iloc[0]["AUC, Student - real"] == "-0.020 [-0.045, +0.005]"


def test_smoke_is_not_in_the_readme(tmp_path):
    for name in ("smoke", "laptop"):
        (tmp_path / name).mkdir()
        rows(profile=name).to_csv(tmp_path / name / "results.csv", index=False)
    assert set(results.read(tmp_path).profile) == {"laptop"}


@pytest.mark.parametrize(
    "content", [b"", b"dataset,seed\nbreastmnist,0\n", b"\xff\xfe\x00PK", b'a,b\n1,2\n1,2,3,"4\n'], ids=range(4)
)
def test_a_damaged_table_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "results.csv"
    path.write_bytes(content)
    with pytest.raises(InputError) as told:
        results.accumulate(rows(), path)
    assert str(path) in str(told.value)
    assert "move it away" in str(told.value)
    assert "\n" not in str(told.value)
    assert path.read_bytes() == content
