"""Hand labels: a blind, weighted sample; strict on the way back; and rates corrected with intervals that cover."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from analysis.calibration import DRAWS, Accuracy, Estimate, accuracies, corrected, effective_labels, rogan_gladen
from analysis.commands import calibrate
from analysis.commands import draw as draw_command
from analysis.labels import Draw, LabelError, draw, hand_out, judged, sampled, shares, take_back
from analysis.load import BOTH, RunError, open_run
from analysis.rates import rates
from analysis.sections import KEYS
from tests.synthetic_run import Grid, _unit, write_run
from tests.test_agreement import FOLDER, noisy, second

GRID = Grid(
    protocols=("injected_thought", "yes_bias"), arms=("none", "concept", "random"), layers=(2, 3),
    strengths=(2.0, 4.0), repeats=6, controls=120,
)  # fmt: skip
Truth = Callable[[str, bool | None], str]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "run", GRID)


def verdicts(path: Path, measure: str = "detected") -> dict[str, bool | None]:
    rows = judged(open_run(path), measure).select("trial", f"verdict_{measure}").collect()
    return dict(rows.iter_rows())


def mostly(trial: str, verdict: bool | None) -> str:
    """By hand: a true verdict is right nine times in ten, another one nineteen in twenty."""
    return "yes" if _unit("hand", trial) < (0.9 if verdict else 0.05) else "no"


def read(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8-sig"), newline="")))


def write(file: Path, rows: list[dict[str, str]]) -> Path:
    sheet = io.StringIO(newline="")
    writer = csv.DictWriter(sheet, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    file.write_bytes(sheet.getvalue().encode())
    return file


def fill(file: Path, truth: Truth, known: Mapping[str, bool | None]) -> Path:
    rows = [row | {"label": truth(row["trial"], known[row["trial"]])} for row in read(file)]
    return write(file.with_name(f"filled-{file.name}"), rows)


# -- the sample -------------------------------------------------------------------------------------------------------


def test_shares_are_equal_below_sizes_and_add_up() -> None:
    assert shares(10, [100, 100]).tolist() == [5, 5]
    assert shares(10, [2, 100, 3]).tolist() == [2, 5, 3]
    assert shares(3, [5, 5, 5, 5]).tolist() == [0.75] * 4
    assert shares(9, [2, 3, 4]).tolist() == [2, 3, 4]


@pytest.mark.parametrize("n", [5, 37, 200])
def test_a_draw_has_n_trials_once_each_and_depends_on_the_seed_alone(path: Path, n: int) -> None:
    run = open_run(path)
    drawn = draw(run, "rules", "detected", n, seed=3)
    trials = [pick.trial for pick in drawn.picks]
    assert len(set(trials)) == len(trials) == n
    assert drawn == draw(open_run(path), "rules", "detected", n, seed=3)
    assert drawn.id == draw(open_run(path), "rules", "detected", n, seed=3).id
    assert trials != [pick.trial for pick in draw(run, "rules", "detected", n, seed=4).picks]


def test_a_trial_is_drawn_as_often_as_its_probability_says() -> None:
    """Also where there are fewer trials to draw than strata."""
    rows = pl.DataFrame(
        [
            {"model": "m", "protocol": "p", "arm": arm, "positive": index % size == 0, "dose": dose}
            | {"trial": f"{arm}{dose}{index}", "cluster": str(index)}
            for arm, dose, size, count in (("a", 1.0, 3, 9), ("a", 2.0, 4, 12), ("b", 1.0, 2, 4), ("none", None, 5, 10))
            for index in range(count)
        ]
    )
    for n in (5, 12):
        counts = dict.fromkeys(rows["trial"], 0)
        probability: dict[str, float] = {}
        for seed in range(400):
            strata, picks = sampled(rows, n, seed)
            assert len(picks) == n
            for pick in picks:
                counts[pick.trial] += 1
                probability[pick.trial] = strata[pick.stratum].probability
        assert sum(stratum.size * stratum.probability for stratum in strata) == pytest.approx(n)
        assert set(probability) == set(counts)  # none that can never be drawn
        for trial, count in counts.items():
            assert count / 400 == pytest.approx(probability[trial], abs=4 * np.sqrt(0.25 / 400))


def test_rare_verdicts_are_drawn_as_often_as_the_others(path: Path) -> None:
    run = open_run(path)
    drawn = draw(run, "rules", "detected", 120, seed=0)
    found = pl.DataFrame([vars(drawn.strata[pick.stratum]) for pick in drawn.picks])
    counts = {(arm, yes): count for arm, yes, count in found.group_by("arm", "positive").len().iter_rows()}
    there = judged(run, "detected").filter(arm="random").select(pl.col("verdict_detected").sum()).collect().item()
    assert counts["random", True] == there < 20 < counts["random", False]  # all of them, as there are few
    assert abs(counts["concept", True] - counts["concept", False]) <= 2


def test_a_draw_that_cannot_be_is_refused(path: Path) -> None:
    run = open_run(path)
    with pytest.raises(LabelError, match="no such measure: beauty"):
        draw(run, "rules", "beauty", 5, seed=0)
    with pytest.raises(LabelError, match="give another --n"):
        draw(run, "rules", "detected", 10**6, seed=0)
    with pytest.raises(LabelError, match="give another --n"):
        draw(run, "rules", "detected", 0, seed=0)


# -- the sheet --------------------------------------------------------------------------------------------------------


def test_the_sheet_is_blind(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    run = open_run(path)
    drawn = draw(run, "rules", "detected", 60, seed=1)
    hand_out(run, drawn, file)
    rows = read(file)
    assert list(rows[0]) == ["draw", "trial", "measure", "criterion", "question", "response", "target", "label"]
    assert {row["label"] for row in rows} == {""}
    trials = run.trials.select("trial", "arm", "item", "text", "strength").collect().to_dicts()
    by_trial = {row["trial"]: row for row in trials}
    for row in rows:
        assert row["response"] == by_trial[row["trial"]]["text"]
        assert row["target"] == by_trial[row["trial"]]["item"]
        assert "Trial" in row["question"]
    # neither in the order of strata nor of identities
    places = {pick.trial: number for number, pick in enumerate(drawn.picks)}
    order = [places[row["trial"]] for row in rows]
    assert abs(stats.spearmanr(order, range(60)).statistic) < 0.4
    assert [row["trial"] for row in rows] != sorted(row["trial"] for row in rows)


def test_the_target_is_there_only_where_it_is_needed(path: Path, tmp_path: Path) -> None:
    run = open_run(path)
    hand_out(run, draw(run, "rules", "legible", 20, seed=1), tmp_path / "legible.csv")
    assert {row["target"] for row in read(tmp_path / "legible.csv")} == {""}
    hand_out(run, draw(run, "rules", BOTH, 20, seed=1), tmp_path / "both.csv")
    assert "" not in {row["target"] for row in read(tmp_path / "both.csv")}


def test_a_file_that_is_there_is_never_written_over(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("an afternoon's work")
    with pytest.raises(FileExistsError, match="another name"):
        draw_command(path, "rules", file, 20)
    assert file.read_text() == "an afternoon's work"
    assert [each.name for each in tmp_path.iterdir()] == ["a.csv"]


def test_every_text_of_a_trial_is_shown_and_no_call_without_one() -> None:
    from analysis.labels import _shown

    reply = {"name": "answer", "text": "<think>hm</think>Bread.", "stop": "end", "rendered": "Q?", "prompt_tokens": 1}
    odds = {**reply, "name": "yes_first", "text": "", "stop": "none"}
    line = {**reply, "name": "line", "text": "A line.", "rendered": "Again?"}
    cut = {**reply, "text": "<think>hm", "stop": "length"}
    assert _shown([reply, odds]) == ("Q?", "Bread.")
    assert _shown([reply, line]) == ("[answer]\nQ?\n\n[line]\nAgain?", "[answer]\nBread.\n\n[line]\nA line.")
    assert _shown([cut]) == ("Q?", "[no answer: cut inside its thinking]")
    assert _shown([odds]) == ("", "[no reply]")


def test_a_response_that_a_spreadsheet_would_run_is_text(tmp_path: Path) -> None:
    from analysis.labels import _cell

    assert _cell("=1+1") == "'=1+1"
    assert _cell("- bread") == "'- bread"
    assert _cell("Yes = no") == "Yes = no"
    assert len(_cell("x" * 10**6)) < 32_767


# -- the labels back --------------------------------------------------------------------------------------------------


def sheet(path: Path, folder: Path, n: int = 12) -> Path:
    draw_command(path, "rules", folder / "a.csv", n, measure="detected", seed=9)
    return fill(folder / "a.csv", mostly, verdicts(path))


def test_labels_come_back_as_they_were_given(path: Path, tmp_path: Path) -> None:
    rows = read(sheet(path, tmp_path))
    given = [("Yes", True), (" no ", False), ("UNSURE", None)] * 4
    for row, (text, _) in zip(rows, given, strict=True):
        row["label"] = text
    file = write(tmp_path / "back.csv", rows)
    drawn, labels = take_back(open_run(path), file)
    assert labels == {row["trial"]: label for row, (_, label) in zip(rows, given, strict=True)}
    assert drawn == draw(open_run(path), FOLDER, "detected", 12, seed=9)  # recoverable from run and seed
    kept = list((path / "calibration" / drawn.id).glob("labels-*.csv"))
    assert file.read_bytes() in [each.read_bytes() for each in kept]


def test_every_bad_label_is_named_with_its_line(path: Path, tmp_path: Path) -> None:
    rows = read(sheet(path, tmp_path))
    rows[1]["label"], rows[3]["label"], rows[4]["trial"] = "maybe", "", "f" * 32
    rows[6] = rows[5]
    file = write(tmp_path / "bad.csv", rows)
    lines = file.read_text().split("\n")
    with pytest.raises(LabelError) as caught:
        take_back(open_run(path), file)
    told = str(caught.value).splitlines()
    starts = [number for number, line in enumerate(lines, 1) if line.startswith(rows[0]["draw"])]
    assert told[0] == f"{file}:{starts[1]}: label 'maybe' is none of yes, no, unsure"
    assert told[1] == f"{file}:{starts[3]}: label '' is none of yes, no, unsure"
    assert told[2] == f"{file}:{starts[4]}: trial '{'f' * 32}' was not drawn"
    assert told[3].endswith("is there twice")
    assert sum("has no row" in line for line in told) == 2
    assert "--labels" in told[-1]


def _drop_column(data: bytes) -> bytes:
    return data.replace(b",label\r", b",verdict\r", 1)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (_drop_column, "no column label"),
        (lambda _: b"", "no column draw"),
        (lambda data: data.split(b"\r\n")[0] + b"\r\n", "rows of 0 draws"),
        (lambda data: b"\xff\xfe" + data, "not UTF-8"),
        (lambda data: data + b'"open', "comma-separated"),
    ],
)
def test_a_file_that_is_no_sheet_says_why(
    path: Path, tmp_path: Path, damage: Callable[[bytes], bytes], why: str
) -> None:
    file = sheet(path, tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(LabelError, match=why):
        take_back(open_run(path), file)


def test_labels_of_another_run_grader_or_measure_are_refused(path: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", Grid(protocols=("injected_thought",), arms=("none",)))
    second(other, "judge", noisy)
    file = sheet(path, tmp_path)
    with pytest.raises(LabelError, match="give the run that it was drawn from"):
        calibrate(other, "rules", file)
    rows = [row | {"measure": "identified"} for row in read(file)]
    with pytest.raises(LabelError, match="'detected' was drawn"):
        take_back(open_run(path), write(tmp_path / "measure.csv", rows))
    with pytest.raises(RunError, match="no grades by judge"):
        calibrate(path, "judge", file)
    draw_command(other, "rules", tmp_path / "rules.csv", 5)
    with pytest.raises(LabelError, match=f"give --grader {FOLDER}"):
        calibrate(other, "judge", fill(tmp_path / "rules.csv", mostly, verdicts(other)))


# -- errors of the grader ---------------------------------------------------------------------------------------------


def census(path: Path) -> tuple[Draw, dict[str, bool | None], dict[str, bool | None]]:
    """Every trial drawn and labelled: then nothing is estimated, and every number can be counted."""
    known = verdicts(path)
    drawn = draw(open_run(path), "rules", "detected", len(known), seed=0)
    return drawn, {trial: mostly(trial, verdict) == "yes" for trial, verdict in known.items()}, known


def at(found: list[Accuracy], arm: str | None, dose: float | None = None) -> Accuracy:
    return next(one for one in found if (one.arm, one.dose) == (arm, dose))


def test_a_census_gives_the_counted_sensitivity_and_specificity(path: Path) -> None:
    drawn, truth, known = census(path)
    assert {stratum.probability for stratum in drawn.strata} == {1.0}
    found = accuracies(drawn, truth)
    arms = dict(open_run(path).trials.select("trial", "arm").collect().iter_rows())
    for arm in ("concept", "random", None):
        mine = [(known[trial] is True, truth[trial]) for trial in truth if arm in (None, arms[trial])]
        one = at(found, arm)
        assert one.sensitivity is not None
        assert one.specificity is not None
        assert one.prevalence is not None
        assert one.sensitivity.value == pytest.approx(np.mean([verdict for verdict, yes in mine if yes]))
        assert one.specificity.value == pytest.approx(np.mean([not verdict for verdict, yes in mine if not yes]))
        assert one.prevalence.value == pytest.approx(np.mean([yes for _, yes in mine]))
        assert one.sensitivity.low < one.sensitivity.value < one.sensitivity.high


@pytest.mark.parametrize("n", [90, 300])
def test_an_arms_rate_is_corrected_to_the_share_that_labels_say(path: Path, n: int) -> None:
    """With the arm's own errors, Rogan-Gladen is the same as weighting its labels: two ways to one number."""
    known = verdicts(path)
    drawn = draw(open_run(path), "rules", "detected", n, seed=5)
    found = accuracies(drawn, {pick.trial: mostly(pick.trial, known[pick.trial]) == "yes" for pick in drawn.picks})
    table = rates(judged(open_run(path), "detected"), ["arm"], "verdict_detected")
    one = at(found, "concept")
    assert one.sensitivity is not None
    assert one.specificity is not None
    assert one.prevalence is not None
    rate = table.filter(arm="concept")["rate"].item()
    fixed = rogan_gladen(rate, one.sensitivity.value, one.specificity.value)
    assert fixed == pytest.approx(one.prevalence.value)


def test_a_stratum_counts_by_its_size_not_by_its_labels() -> None:
    """2,000 true verdicts at one strength, of which all are right, and 40 at another, of which none is."""
    keys = {"model": "m", "protocol": "p", "arm": "a"}
    rows = pl.DataFrame(
        [
            keys | {"positive": yes, "dose": dose, "trial": f"{yes}{dose}{index}", "cluster": str(index)}
            for yes, dose, count in ((True, 1.0, 2000), (True, 2.0, 40), (False, 1.0, 500), (False, 2.0, 500))
            for index in range(count)
        ]
    )
    strata, picks = sampled(rows, 120, 0)
    drawn = Draw(grader="g", measure="m", seed=0, strata=strata, picks=picks)
    right = {pick.trial: strata[pick.stratum].positive and strata[pick.stratum].dose == 1 for pick in picks}
    assert sum(right.values()) == 30  # half of the 60 labels of true verdicts
    one = at(accuracies(drawn, right), "a")
    assert one.ppv is not None
    assert one.ppv.value == pytest.approx(2000 / 2040)


def test_strengths_have_errors_of_their_own_from_thirty_labels_on(path: Path) -> None:
    drawn, truth, _ = census(path)
    assert at(accuracies(drawn, truth), "concept", 4.0).complete
    few = draw(open_run(path), "rules", "detected", 90, seed=0)
    one = at(accuracies(few, {pick.trial: truth[pick.trial] for pick in few.picks}), "concept", 4.0)
    assert (one.sensitivity, one.specificity, one.youden) == (None, None, None)
    assert "30 are needed" in str(one.reason)
    assert one.labels < 30


def test_unsure_is_left_out_and_counted(path: Path) -> None:
    drawn, truth, _ = census(path)
    sure = accuracies(drawn, truth)
    unsure = {trial: None if _unit("unsure", trial) < 0.3 else label for trial, label in truth.items()}
    found = at(accuracies(drawn, unsure), "concept")
    assert found.unsure + found.labels == at(sure, "concept").labels
    assert found.unsure > 0
    nobody = at(accuracies(drawn, dict.fromkeys(truth)), "concept")
    assert (nobody.labels, nobody.sensitivity, nobody.prevalence) == (0, None, None)
    assert "no label" in str(nobody.reason)


def test_no_yes_among_labels_is_no_sensitivity_of_one_or_zero(path: Path) -> None:
    drawn, truth, _ = census(path)
    never = at(accuracies(drawn, dict.fromkeys(truth, False)), "concept")
    assert never.sensitivity is None
    assert never.specificity is not None
    assert "no label says yes" in str(never.reason)


def test_a_verdict_that_is_a_coin_corrects_nothing(path: Path) -> None:
    drawn, truth, _ = census(path)
    coin = {trial: _unit("coin", trial) < 0.5 for trial in truth}
    found = accuracies(drawn, coin)
    one = at(found, "concept")
    assert one.youden is not None
    assert one.youden.low <= 0
    frame = judged(open_run(path), "detected").filter(arm="concept", protocol="injected_thought")
    cells = corrected(frame, "verdict_detected", [each for each in found if each.basis == "arm"], 0)
    assert cells["corrected"].null_count() == cells.height > 0
    assert all("distinguishable" in reason for reason in cells["reason"])


def test_misses_that_no_label_found_stay_possible() -> None:
    """50 of 5,000 false verdicts labelled, none a miss: sensitivity is 1 by count, and might well be a half."""
    rows = pl.DataFrame(
        [
            {"model": "m", "protocol": "p", "arm": "a", "dose": None, "positive": index < 60}
            | {"trial": str(index), "cluster": str(index)}
            for index in range(5060)
        ]
    )
    strata, picks = sampled(rows.with_columns(pl.col("dose").cast(pl.Float64)), 100, 0)
    drawn = Draw(grader="g", measure="m", seed=0, strata=strata, picks=picks)
    one = at(accuracies(drawn, {pick.trial: strata[pick.stratum].positive for pick in picks}), "a")
    assert one.sensitivity is not None
    assert one.sensitivity.value == 1
    assert one.sensitivity.low < 0.5


def test_effective_labels_are_labels_where_all_are_alike_and_fewer_where_not() -> None:
    rng = np.random.default_rng(0)
    truth, alone = (rng.random(40) < 0.3).astype(float), np.arange(40).astype(str)
    quantile = (stats.norm.ppf(0.975) / stats.t.ppf(0.975, 39)) ** 2
    assert effective_labels(truth, np.ones(40), alone) == pytest.approx(39 * quantile)  # as in analysis.rates
    assert effective_labels(np.zeros(40), np.ones(40), alone) == pytest.approx(40 * quantile)
    weight = np.repeat([1.0, 9.0], 20)
    assert effective_labels(np.zeros(40), weight, alone) == pytest.approx(quantile * 200**2 / (20 * 82))
    eight = np.repeat(np.arange(8), 5).astype(str)
    few = (stats.norm.ppf(0.975) / stats.t.ppf(0.975, 7)) ** 2
    assert effective_labels(np.zeros(40), np.ones(40), eight) == pytest.approx(few * 40 / (1 + 4 * 0.3))
    assert effective_labels(np.arange(40) < 10.0, np.ones(40), eight) == pytest.approx(few * 7)  # 5 labels are one
    assert effective_labels(truth, np.ones(40), np.repeat("one", 40)) < 1e-6


# -- corrected rates --------------------------------------------------------------------------------------------------


def exact(sensitivity: float, specificity: float) -> Accuracy:
    """A grader whose errors are known without a doubt."""
    samples = np.tile([[sensitivity], [specificity]], DRAWS)
    made = {"sensitivity": sensitivity, "specificity": specificity, "youden": sensitivity + specificity - 1}
    return Accuracy(
        basis="arm", model="m", protocol="p", arm="a", dose=None, trials=100, labels=100, yes=50, unsure=0,
        samples=samples, **{name: Estimate(value=value, low=value, high=value) for name, value in made.items()},
    )  # fmt: skip


def cells(verdict: np.ndarray, cluster: np.ndarray) -> pl.LazyFrame:
    keys = dict.fromkeys(KEYS) | {"model": "m", "protocol": "p", "arm": "a"}
    frame = pl.DataFrame({"verdict": verdict, "cluster": cluster})
    return frame.with_columns(pl.lit(value, pl.String).alias(name) for name, value in keys.items()).lazy()


def test_rogan_gladen_undoes_what_errors_do() -> None:
    for truth in (0.0, 0.2, 1.0):
        seen = truth * 0.8 + (1 - truth) * (1 - 0.9)
        assert rogan_gladen(seen, 0.8, 0.9) == pytest.approx(truth)


def test_a_perfect_grader_is_corrected_to_its_own_rate() -> None:
    rng = np.random.default_rng(2)
    verdict, cluster = rng.random(400) < 0.3, np.repeat(np.arange(40), 10).astype(str)
    row = corrected(cells(verdict, cluster), "verdict", [exact(1, 1)], 0).row(0, named=True)
    assert row["corrected"] == pytest.approx(row["rate"])
    assert (row["corrected_low"], row["corrected_high"]) == pytest.approx((row["low"], row["high"]), abs=0.015)
    assert row["clipped"] is False


def test_a_rate_below_the_false_alarms_is_clipped_and_says_so() -> None:
    row = corrected(cells(np.arange(200) < 4, np.arange(200).astype(str)), "verdict", [exact(0.9, 0.9)], 0).row(
        0, named=True
    )
    assert row["unclipped"] == pytest.approx((0.02 - 0.1) / 0.8)
    assert (row["corrected"], row["clipped"], row["corrected_low"]) == (0.0, True, 0.0)


def test_nothing_graded_or_known_is_none_with_a_reason() -> None:
    clusters = np.arange(20).astype(str)
    empty = corrected(cells(np.full(20, None), clusters), "verdict", [exact(0.9, 0.9)], 0)
    assert (empty["corrected"].item(), empty["reason"].item()) == (None, "nothing was graded")
    lost = corrected(cells(np.arange(20) < 5, clusters), "verdict", [], 0)
    assert lost["corrected"].item() is None
    assert "unknown here" in lost["reason"].item()


@pytest.mark.parametrize(("clusters", "size", "n"), [(40, 15, 160), (3000, 1, 60)])
def test_corrected_intervals_cover_in_a_simulation(clusters: int, size: int, n: int) -> None:
    """Concepts with rates of their own; verdicts that err; labels drawn by verdict. Few labels of many trials leave
    nothing but the labels' uncertainty."""
    sensitivity, specificity, rate = 0.8, 0.93, 0.25
    rng = np.random.default_rng(23)
    cluster = np.repeat(np.arange(clusters), size)
    covered: list[bool] = []
    se_covered: list[bool] = []
    for seed in range(150):
        truth = rng.random(len(cluster)) < rng.beta(rate * 4, (1 - rate) * 4, clusters)[cluster]
        verdict = rng.random(len(cluster)) < np.where(truth, sensitivity, 1 - specificity)
        frame = cells(verdict, cluster.astype(str)).with_row_index("trial").cast({"trial": pl.String}).collect()
        columns = ("model", "protocol", "arm", "trial", "cluster")
        rows = frame.select(*columns, dose=pl.lit(None, pl.Float64), positive="verdict")
        strata, picks = sampled(rows, n, seed)
        drawn = Draw(grader="g", measure="m", seed=seed, strata=strata, picks=picks)
        found = accuracies(drawn, {pick.trial: bool(truth[int(pick.trial)]) for pick in picks})
        row = corrected(frame.lazy(), "verdict", found, seed).row(0, named=True)
        assert row["basis"] == "arm"
        covered.append(row["corrected_low"] <= rate <= row["corrected_high"])
        one = at(found, "a").sensitivity
        assert one is not None
        se_covered.append(one.low <= sensitivity <= one.high)
    assert np.mean(covered) >= 0.92
    assert np.mean(se_covered) >= 0.92


# -- the command ------------------------------------------------------------------------------------------------------


def test_calibrate_reports_arms_cells_and_warnings(path: Path, tmp_path: Path) -> None:
    draw_command(path, "rules", tmp_path / "a.csv", 240, seed=2)

    def truth(trial: str, verdict: bool | None) -> str:
        return "unsure" if _unit("hard", trial) < 0.04 else mostly(trial, verdict)

    report = calibrate(path, "rules", fill(tmp_path / "a.csv", truth, verdicts(path)))
    data = json.loads(json.dumps(report.data, allow_nan=False))
    assert sum(data["labels"].values()) == 240
    assert {one["arm"] for one in data["accuracies"] if one["basis"] == "arm"} == {"none", "concept", "random"}
    table = rates(judged(open_run(path), "detected"), KEYS, "verdict_detected")
    assert len(data["cells"]) == table.height == 1 + 2 * 4
    for cell in data["cells"]:
        assert (cell["corrected"] is None) == (cell["reason"] is not None)
        if cell["corrected"] is not None:
            assert 0 <= cell["corrected_low"] <= cell["corrected"] <= cell["corrected_high"] <= 1
            assert cell["corrected_low"] < cell["corrected_high"]
    assert any("need not be those in another" in warning for warning in data["warnings"])
    assert any("unsure" in warning for warning in data["warnings"])


def test_an_arm_without_its_own_errors_takes_the_pooled_and_says_so(path: Path, tmp_path: Path) -> None:
    """No control is a yes by hand, so the controls say nothing about sensitivity."""
    draw_command(path, "rules", tmp_path / "a.csv", 300, seed=2)
    arms = dict(open_run(path).trials.select("trial", "arm").collect().iter_rows())

    def truth(trial: str, verdict: bool | None) -> str:
        return "no" if arms[trial] == "none" else mostly(trial, verdict)

    report = calibrate(path, "rules", fill(tmp_path / "a.csv", truth, verdicts(path)))
    (control,) = [cell for cell in report.data["cells"] if cell["arm"] == "none"]
    assert control["basis"] == "pooled over arms"
    assert any("(none) are corrected by errors pooled over arms" in warning for warning in report.data["warnings"])
    assert any("none" in line and "pooled over arms" in line for line in report.lines)
    assert {cell["basis"] for cell in report.data["cells"] if cell["arm"] == "concept"} <= {"arm", "arm and strength"}


def test_a_measure_must_be_named_where_none_is_usual(tmp_path: Path) -> None:
    root = write_run(tmp_path / "run", Grid(protocols=("yes_bias",), arms=("none",)))
    with pytest.raises(LabelError, match="--measure: identified, legible, said_yes"):
        draw_command(root, "rules", tmp_path / "a.csv", 5)
