import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from modeling_omni_vision.analysis.comparison import Spread, compare, half_width, spread_of_runs
from modeling_omni_vision.analysis.map import digest_of, write_map
from modeling_omni_vision.analysis.study import read_plan, read_runs
from scripts.study import main


ROOT = Path(__file__).parent.parent.parent
OURS = ROOT / "docs" / "map" / "plan.json", ROOT / "docs" / "map" / "runs", ROOT / "docs" / "map.md"
# Accuracies by seed. The base moves up by 0.4 points with the second seed; what is equal moves with it, to within 0.1.
ACCURACIES = {
    "base": (0.850, 0.854),
    "planted": (0.870, 0.8745),
    "equal": (0.8505, 0.8535),
    "harmful": (0.800, 0.8035),
    "same": (0.850, 0.8542),
}


@pytest.fixture
def study(tmp_path):
    """A function that writes the plan and the run files of variants with these accuracies."""

    def write(accuracies=ACCURACIES, pictures=50_000):
        names = [name for name in accuracies if name != "base"]
        variants = [
            {"name": name, "group": "g", "config": {"patch_size": number}} for number, name in enumerate(names)
        ]
        plan = {
            "date": "2026-01-31",
            "question": "Which?",
            "budget": "Two epochs.",
            "seeds": [1, 2],
            "base": {"arguments": ["--flip", "true"], "config": {"patch_size": 99}},
            "variants": variants,
        }
        (tmp_path / "map" / "runs").mkdir(parents=True, exist_ok=True)
        (tmp_path / "map" / "plan.json").write_text(json.dumps(plan))
        read = read_plan(tmp_path / "map" / "plan.json")
        for run in read.runs():
            accuracy = accuracies[run.variant.name][run.seed - 1]
            minutes = 4.0 if run.variant.name == "base" else 6.0
            found = {"failed": accuracy} if isinstance(accuracy, str) else measured(accuracy, minutes, pictures)
            record = {"variant": run.variant.name, "seed": run.seed, "plan": read.identity, "arguments": run.arguments}
            record["date"] = "2026-02-01"
            if accuracy is not None:
                (tmp_path / "map" / "runs" / f"{run.name}.json").write_text(json.dumps({**record, **found}))
        return tmp_path / "map" / "plan.json", tmp_path / "map" / "runs", tmp_path / "map.md"

    return write


def measured(accuracy, minutes, pictures):
    return {
        "accuracy": accuracy,
        "minutes": minutes,
        "epochs": 2.0,
        "parameters": 1234,
        "pictures": {"train": 100, "validation": pictures},
        "test_opened": False,
        "command": "python scripts/train.py",
        "machine": {"cpu": "a processor", "threads": 1},
        "versions": {"torch": "9.9"},
    }


def rows_of(plan_file, folder, *_):
    plan = read_plan(plan_file)
    return {row.variant.name: row for row in compare(plan, read_runs(plan, folder))}


def map_of(paths):
    return read_plan(paths[0]), paths[1]


def change(folder, name, **changed):
    record = json.loads((folder / f"{name}.json").read_text())
    (folder / f"{name}.json").write_text(json.dumps({**record, **changed}))


def test_a_planted_gain_is_better_a_planted_harm_worse_and_equal_ones_no_difference(study):
    rows = rows_of(*study())
    assert {name: row.verdict for name, row in rows.items()} == {
        "base": "",
        "planted": "better",
        "equal": "no difference",
        "harmful": "worse",
        "same": "no difference",
    }
    assert rows["planted"].difference == pytest.approx(0.02025)
    assert rows["planted"].differences == pytest.approx({1: 0.02, 2: 0.0205})
    assert (rows["planted"].time, rows["planted"].parameters) == (1.5, 1234)


def test_the_spread_is_pooled_over_variants_without_what_a_seed_does_to_all_of_them():
    shifted = [
        {"variant": name, "seed": seed, "accuracy": level + 0.1 * seed + sign * noise * (-1) ** seed}
        for name, level, sign in (("a", 0.1, 1), ("b", 0.5, -1))
        for seed in (1, 2)
        for noise in (0.003,)
    ]
    # By hand: the four residuals are all 0.003, one degree of freedom is left of four runs.
    spread = spread_of_runs(shifted)
    assert spread.freedom == 1
    assert spread.deviation == pytest.approx(math.sqrt(4 * 0.003**2 / 1))
    # Two variants and one seed: nothing was repeated.
    assert spread_of_runs(shifted[::2]).freedom == 0
    assert spread_of_runs([]).freedom == 0


def test_the_interval_has_the_spread_of_runs_and_the_sampling_of_pictures():
    # Student's t at 97.5 % of 10 degrees of freedom is 2.228 in every table.
    runs_only = half_width((1.0, 1.0), 2, 100, Spread(0.01, 10))
    assert runs_only == pytest.approx(2.228 * 0.01, rel=1e-3)
    assert half_width((1.0, 1.0), 8, 100, Spread(0.01, 10)) == pytest.approx(runs_only / 2)
    pictures_only = half_width((0.5, 0.8), 2, 1000, Spread(0.0, 10))
    assert pictures_only == pytest.approx(2.228 * math.sqrt(0.25 / 1000 + 0.16 / 1000), rel=1e-3)
    assert half_width((0.5, 0.8), 2, 1000, Spread(0.01, 10)) == pytest.approx(math.hypot(runs_only, pictures_only))


def test_the_same_gain_on_few_pictures_is_no_difference(study):
    assert rows_of(*study(pictures=500))["planted"].verdict == "no difference"


def test_one_degree_of_freedom_is_too_little_for_an_interval():
    assert half_width((0.5, 0.8), 2, 1000, Spread(0.01, 1)) is None
    assert half_width((0.5, 0.8), 2, 1000, Spread(0.01, 2)) is not None


def test_without_a_second_seed_everything_is_open(study):
    paths = study({"base": (0.85, None), "planted": (0.87, None)})
    assert rows_of(*paths)["planted"].verdict == "open"
    write_map(*paths)
    assert "no intervals" in paths[2].read_text()


def test_a_variant_is_compared_by_the_seeds_that_it_shares_with_the_base(study):
    paths = study({**ACCURACIES, "planted": ("no room", 0.8745), "equal": (None, 0.8545)})
    rows = rows_of(*paths)
    assert rows["planted"].differences == pytest.approx({2: 0.0205})
    assert rows["planted"].failures == {1: "no room"}
    ended = [run for run in read_runs(read_plan(paths[0]), paths[1]).values() if "failed" not in run]
    alone = half_width((0.8745, 0.854), 1, 50_000, spread_of_runs(ended))
    assert rows["planted"].half_width == pytest.approx(alone)
    assert rows["equal"].accuracies == {2: 0.8545}


def test_what_one_unsteady_variant_hides_is_told_apart_from_the_verdicts(study):
    steady = {**ACCURACIES, "planted": (0.856, 0.8605)}
    assert rows_of(*study(steady, pictures=5_000_000))["planted"].verdict == "better"
    paths = study({**steady, "wild": (0.7, 0.8)}, pictures=5_000_000)
    assert rows_of(*paths)["planted"].verdict == "no difference"
    write_map(*paths)
    page = " ".join(paths[2].read_text().split())
    assert "changes no verdict: most of this spread is that of one variant, `wild`" in page
    assert "- above the base: planted +0.63 - below the base: harmful -5.02 " in page
    # By hand: the steady ones keep the spread that they have alone.
    alone = spread_of_runs([run for run in read_runs(*map_of(paths)).values() if run["variant"] != "wild"])
    assert f"s = {100 * alone.deviation:.3f} points" in page


def test_where_all_variants_are_equally_unsteady_nothing_is_left_out(study):
    paths = study()
    write_map(*paths)
    assert "changes no verdict" not in paths[2].read_text()


def test_the_page_has_every_variant_its_failures_and_what_is_not_run(study):
    paths = study({**ACCURACIES, "planted": ("ValueError: no room", 0.8745), "equal": (None, 0.8545)})
    write_map(*paths)
    page = paths[2].read_text()
    assert "Of 10 runs planned, 8 are finished, 1 failed and 1 are not run yet" in page
    assert "| g | planted | `patch_size` 0 for 99 | 87.45% | failed, 87.45% | +2.05 ±" in page
    assert "| not run, 85.45% |" in page
    assert "- planted, seed 1, failed: `ValueError: no room`" in page
    assert "none of the runs opened the test split" in page
    assert "[a file](map/plan.json)" in page
    assert "of 4 comparisons, up to about 0.2 would" in page
    change(paths[1], "same-s1", test_opened=True)
    write_map(*paths)
    assert "1 of the runs opened the test split" in paths[2].read_text()


def test_a_page_keeps_what_a_person_wrote_around_the_numbers(study):
    paths = study()
    paths[2].write_text("# Mine\n<!-- begin study -->\nold\n<!-- end study -->\nMy conclusion.\n")
    write_map(*paths)
    page = paths[2].read_text()
    assert page.startswith("# Mine\n")
    assert page.endswith("My conclusion.\n")
    assert "old" not in page


def test_page_and_plot_that_say_something_else_than_the_runs_are_found(study, capsys):
    paths = study()
    page, plot = str(paths[2]), str(paths[2].with_suffix(".png"))
    assert write_map(*paths, check=True) == [page, plot]
    assert not paths[2].exists()
    write_map(*paths)
    assert write_map(*paths, check=True) == []
    with Image.open(plot) as image:
        assert image.format == "PNG"
    # A number on the page that nobody measured; a run that changed after page and plot were made.
    paths[2].write_text(paths[2].read_text().replace("87.00%", "88.00%"))
    assert write_map(*paths, check=True) == [page]
    change(paths[1], "planted-s2", accuracy=0.8744)
    assert write_map(*paths, check=True) == [page, plot]
    words = [word for pair in zip(("--plan", "--output", "--page"), map(str, paths), strict=True) for word in pair]
    with pytest.raises(SystemExit, match="something else"):
        main([*words, "--check", "true"])
    main(words)
    assert capsys.readouterr().out == f"rewritten: {page}, {plot}\n"
    main([*words, "--check", "true"])


def test_equal_runs_give_equal_bytes(study):
    paths, first = study(), []
    for _ in range(2):
        write_map(*paths)
        first.append((paths[2].read_bytes(), paths[2].with_suffix(".png").read_bytes()))
    assert first[0] == first[1]


def test_runs_of_unequal_budget_are_not_compared(study):
    paths = study()
    change(paths[1], "same-s1", epochs=3.0)
    with pytest.raises(ValueError, match="same numbers"):
        write_map(*paths)


def test_a_page_is_not_made_of_stale_runs(study):
    paths = study()
    plan = json.loads(paths[0].read_text())
    plan["base"]["config"]["patch_size"] = 98
    paths[0].write_text(json.dumps(plan))
    with pytest.raises(ValueError, match="stale"):
        write_map(*paths)


def test_the_page_says_when_runs_were_made_under_an_earlier_text_of_the_plan(study):
    paths = study()
    write_map(*paths)
    assert "another text" not in paths[2].read_text()
    plan = json.loads(paths[0].read_text())
    paths[0].write_text(json.dumps({**plan, "question": "Which, and why?"}))
    write_map(*paths)
    assert "10 of them were run while the plan had another text" in paths[2].read_text()


def test_the_page_does_not_call_a_run_planned_that_was_there_before_its_plan(study):
    paths = study()
    write_map(*paths)
    assert "(map/plan.json), before the runs," in paths[2].read_text()
    change(paths[1], "same-s2", date="2026-01-30")
    write_map(*paths)
    assert "(map/plan.json), after these runs: same-s2," in paths[2].read_text()


def test_a_plot_is_another_for_other_differences_but_not_for_the_last_bits_of_them(study):
    plan_file, folder, _ = study()
    plan = read_plan(plan_file)
    rows = compare(plan, read_runs(plan, folder))

    def moved(by):
        return [
            replace(row, differences={seed: found + by for seed, found in row.differences.items()}) for row in rows
        ]

    assert digest_of(moved(1e-13)) == digest_of(rows)
    assert digest_of(moved(1e-5)) != digest_of(rows)


def test_our_map_says_what_its_runs_say():
    assert write_map(*OURS, check=True) == []
