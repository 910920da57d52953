"""What is kept of an audit, and the tables of it: known answers from an audit made by hand."""

import json
import shlex
from types import SimpleNamespace

import pytest
from conftest import finished_run

import run_all
from kr_utils import InputError, audited, belief, profiles, results


def cell(artefact, attack, auc, **more):
    row = {"artefact": artefact, "attack": attack, "auc": auc, "evidence": "leaks", "accuracy": 0.955, "tpr_1": 0.046}
    row |= {"detectable_auc": 0.535, "canary_auc": 0.994, "detectable_tpr_1": 0.031, "tpr_01": None, "gap": 0.02}
    row["aop"] = 0.6
    return (
        row | {f"auc_{end}": None if auc is None else auc + by for end, by in (("low", -0.01), ("high", 0.02))} | more
    )


def an_audit(**more):
    return {
        **{"title": "Digits", "profile": "quick", "dataset": "digits", "seed": 0, "threads": 1, "settings": ""},
        **{"hardware": "CPU, GPU none, torch 2", "fingerprint": "f", "commit": "0123456789abcdef"},
        **{"pipelines": 16, "pool": 600, "canaries": 30, "lambda": 2.0, "doubts": {"audit": []}, "words": "Used."},
        "matrix": [
            cell("images", "nearest", 0.6),
            cell("images", "lira", 0.701, canary_auc=None, tpr_1=None),
            cell("student", "loss", 0.55),
            cell("student", "lira", 0.613),
            cell("student", "lira-likelihood", 0.623),
            cell("student", "quantile", 0.7, evidence="no power"),
            cell("dp-sgd", "loss", 0.52, accuracy=0.808, evidence="no evidence", detectable_auc=None),
            cell("dp-sgd", "lira", None),
            cell("real-plain", "lira", None),
        ],
        "made_on": ["CPU, GPU none, torch 2"],
        "commits": ["0123456789abcdef", "fedcba9876543210+changes"],
        "differences": {
            "student": {
                "auc": -0.091,
                "auc_low": -0.11,
                "auc_high": -0.07,
                "accuracy": 0.0251,
                "accuracy_low": 0.0102,
                "accuracy_high": 0.04,
            }
        },
        "spent": {"0": {"dp-sgd": {"epsilon": 7.996, "delta": 1e-3}}},
        "worst": {"student": {"auc": 0.851, "auc_low": 0.791, "auc_high": 0.901}},
        "volume": [
            {"name": "student", "volume": 35.2, "auc": 0.61, "auc_low": 0.59, "auc_high": 0.63, "accuracy": 0.98},
            {
                "name": "student-soft_fixed",
                "volume": 5.03,
                "auc": 0.6,
                "auc_low": 0.5,
                "auc_high": 0.7,
                "accuracy": 0.9,
            },
            {"name": "volume-5", "volume": 5.0, "auc": 0.6, "auc_low": 0.58, "auc_high": 0.62, "accuracy": 0.98},
            {"name": "volume-1", "volume": 1.0, "auc": 0.566, "auc_low": 0.545, "auc_high": 0.587, "accuracy": 0.971},
        ],
    } | more


def test_a_row_per_artefact_has_its_main_attack_and_the_one_that_found_most():
    rows = audited.table(an_audit()).to_dict("records")
    assert [row["artefact"] for row in rows] == ["DP-SGD, epsilon 8", "GKD Student", "synthetic images"]
    assert rows[1] == {
        "artefact": "GKD Student", "accuracy": "95.5", "members - others": "+2.0", "AOP (λ=2)": "0.600",
        "AUC": "0.613 [0.603, 0.633] (LiRA)", "detectable AUC": "0.535",
        "TPR at 1 % FPR": "4.6", "detectable TPR": "3.1", "TPR at 0.1 % FPR": "not estimable",
        "largest AUC": "0.623 (LiRA offline, likelihood)", "AUC on canaries": "0.994",
        "evidence (any attack)": "leaks",
    }  # fmt: skip
    assert rows[0]["AUC"] == "0.520 [0.510, 0.540] (loss)", "no LiRA was made of it"
    assert (rows[0]["accuracy"], rows[0]["detectable AUC"], rows[0]["evidence (any attack)"]) == (
        "80.8",
        "",
        "no evidence",
    )
    assert (rows[2]["accuracy"], rows[2]["AOP (λ=2)"], rows[2]["AUC on canaries"]) == ("", "", "")
    assert rows[2]["TPR at 1 % FPR"] == "not estimable"


def test_volumes_stand_in_order():
    rows = audited.volumes(an_audit()).to_dict("records")
    assert [row["synthetic images per real one"] for row in rows] == ["1", "5", "35.2 (GKD)"]
    assert (rows[0]["AUC"], rows[0]["accuracy"]) == ("0.566 [0.545, 0.587]", "97.1")
    assert audited.volumes(an_audit(volume=[])).empty


def test_a_failed_control_marks_every_number_and_its_reason_is_told():
    doubted = an_audit(doubts={"audit": ["lira missed the overfitted classifier"]})
    section = results.audit_section([doubted])
    assert "not to be believed: lira missed the overfitted classifier" in section
    for row in audited.table(doubted).to_dict("records"):
        assert all(belief.MARK in row[name] for name in ("AUC", "TPR at 1 % FPR", "largest AUC"))
    assert all(belief.MARK in auc for auc in audited.volumes(doubted).AUC)
    assert belief.MARK not in results.audit_section([an_audit()])


def test_the_tables_name_size_worst_cases_and_a_command_that_the_driver_takes():
    section = results.audit_section([an_audit(settings=" --set shadow.ablation=0 --set shadow.volumes=1,5")])
    assert (
        "**Digits (profile quick, seed 0): 16 pipelines, 600 records, 30 of them canaries; the controls held.**"
        in section
    )
    assert "* AUC on the twentieth of the records that leak most: GKD Student 0.851 [0.791, 0.901]." in section
    luck = results.audit_section(
        [an_audit(worst_by_luck={"student": {"auc": 0.51, "auc_low": 0.45, "auc_high": 0.57}})]
    )
    assert "0.851 [0.791, 0.901] (with memberships that nobody had 0.510 [0.450, 0.570])." in luck
    command = next(part for part in section.split("`") if part.startswith(".venv/bin/python run_all.py"))
    args = run_all.parser().parse_args(shlex.split(command)[2:])
    assert (args.datasets, args.seeds, args.profile, args.audit, args.threads) == ("digits", "0", "quick", 16, 1)
    assert args.set == ["shadow.ablation=0", "shadow.volumes=1,5"]
    assert "commit 0123456789 (pipelines: 0123456789, fedcba9876+changes)\n" in section
    assert (
        "* The Student less real training, on the same records: AUC -0.091 [-0.110, -0.070] (LiRA), "
        "accuracy +2.5 [+1.0, +4.0] points." in section
    )
    assert "commit unknown (pipelines" in results.audit_section([an_audit(commit=None)])
    assert results.audit_section([]) == ""


def test_what_is_kept_is_read_again_and_has_its_origin(tmp_path):
    run = audited_run()
    kept = audited.to_keep("Digits", run)
    assert kept["settings"] == " --set distillation.epochs=7 --set shadow.ablation=0 --set audit.draws=50"
    assert (kept["pipelines"], kept["seed"], kept["fingerprint"]) == (4, 3, "f8")
    assert kept["made_on"] == ["CPU, GPU none, torch 2", "CPU, GPU H100, torch 2"]
    (tmp_path / "audit-digits-3.json").write_text(audited.text(kept))
    (tmp_path / "audit-digits-3.txt").write_text("alt text")
    assert audited.read(tmp_path) == [json.loads(audited.text(kept))]
    assert audited.text(audited.read(tmp_path)[0]) == audited.text(kept)


def audited_run():
    """A finished run with an audit of four pipelines, where the profile has two."""
    run = finished_run()
    run["distillation"].budget = {"epochs": 7}
    metrics = {key: value for key, value in an_audit(pipelines=4).items() if key in audited.KEPT}
    metrics["worst_by_luck"] = {"student": {"auc": 0.51, "auc_low": 0.45, "auc_high": 0.57}}
    metrics["shadow"] = {"pipelines": 4, "ablation": 0}
    metrics["made_on"] = [{"cpu": "CPU", "gpu": gpu, "torch": "2"} for gpu in (None, "H100")]
    manifest = {"hardware": {"cpu": "CPU", "gpu": None, "threads": 1}, "versions": {"torch": "2"}, "seconds": 6000.0}
    manifest |= {"git_commit": "0123456789", "fingerprint": "f8"}
    manifest["parameters"] = {"profile": "smoke", "dataset": "digits", "seed": 3}
    run["audit"] = SimpleNamespace(manifest=manifest, metrics=metrics, budget={"pipelines": 4, "draws": 50})
    return run


def test_an_audit_changes_no_row_of_results_and_seeds_without_one_count_with_it():
    with_, without = finished_run(0) | {"audit": audited_run()["audit"]}, finished_run(1)
    table = results.table_of({("digits", 0): with_, ("digits", 1): without}, "smoke")
    assert set(table.minutes) == {7.0}, "an audit's minutes are not the run's"
    assert table.settings.unique().tolist() == [""]
    assert profiles.budget("audit", "smoke").pipelines != 4


def test_an_audit_says_where_its_pipelines_were_made():
    there = "CPU, GPU H100, torch 2"
    assert audited.machines(an_audit()) == "CPU, GPU none, torch 2"
    assert audited.machines(an_audit(made_on=[there])) == f"{there} (attacks: CPU, GPU none, torch 2)"
    old = {key: value for key, value in an_audit().items() if key != "made_on"}
    assert audited.machines(old) == "CPU, GPU none, torch 2"
    assert there in results.audit_section([an_audit(made_on=[there])])


BROKEN = {
    "machines that are numbers": json.dumps(an_audit(made_on=[1])),
    "no commits": json.dumps(an_audit(commits=None)),
    "no JSON": "{",
    "a list": "[]",
    "without a key": json.dumps({key: value for key, value in an_audit().items() if key != "matrix"}),
    "an AUC in words": json.dumps(an_audit(matrix=[cell("student", "lira", 0.6, auc_low="x")])),
    "an unknown attack": json.dumps(an_audit(matrix=[cell("student", "magic", 0.6)])),
    "a title that is none": json.dumps(an_audit(worst=3)),
    "code in its command": json.dumps(an_audit(settings=" `<script>`")),
    "deep": "[" * 10**5,
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_10_did_not_write_is_refused_in_one_line(tmp_path, name):
    (tmp_path / "audit-digits-0.json").write_text(BROKEN[name])
    with pytest.raises(InputError, match=r"audit-digits-0\.json: not an audit that 10 wrote") as caught:
        audited.read(tmp_path)
    assert "\n" not in str(caught.value)


def test_hostile_words_are_no_markup():
    hostile = an_audit(
        title="a|b <b>",
        worst={"[x](http://y) `c`": {"auc": 0.6, "auc_low": 0.5, "auc_high": 0.7}},
        hardware="<i>",
        commit="<script>",
    )
    section = results.audit_section([hostile])
    for bad in ("<b>", "<i>", "<script>", "[x](http", "`c`", " a|b"):
        assert bad not in section


def test_the_readme_gets_the_audits_below_the_tables(tmp_path):
    (tmp_path / "published/quick").mkdir(parents=True)
    (tmp_path / "published/smoke").mkdir()
    table = results.table_of({("digits", 0): finished_run()}, "quick")
    (tmp_path / "published/quick/results.csv").write_text(results.as_csv(table, "quick"))
    for profile in ("quick", "smoke"):  # smoke means nothing, and is not shown
        kept = audited.text(an_audit(profile=profile))
        (tmp_path / f"published/{profile}/audit-digits-0.json").write_text(kept)
    readme = tmp_path / "README.md"
    readme.write_text("<!-- results -->\n<!-- /results -->\n")
    assert results.main([str(tmp_path)]) == 0
    assert readme.read_text().count("16 pipelines, 600 records") == 1
    assert readme.read_text().count("| GKD Student | 95.5 | +2.0 | 0.613 [0.603, 0.633] (LiRA) |") == 1
    before = readme.read_text()
    (tmp_path / "published/quick/audit-digits-0.json").write_text("{}")
    assert results.main([str(tmp_path)]) == 2
    assert readme.read_text() == before
