"""Each synthetic subject gets the verdict that it must get, from a run of its own; and what a verdict does not say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from analysis.detection import Naming, guess_prior, naming
from analysis.findings import JUDGED
from analysis.gather import gather
from analysis.inference import Contrast, Missing, crossing, pairs
from analysis.load import BOTH, VERDICT, Run, open_run
from analysis.report import write_report
from analysis.sections import Declared, sections
from analysis.sequential import Watched, watch_difference
from analysis.verdict import Verdict, verdict
from sweep.__main__ import main
from sweep.fakes.subjects import SUBJECTS
from sweep.words import word_list

WORDS = word_list("pocket:heldout")
SPEC = """
name = "verdicts"
models = [{models}]
concepts = {concepts}
baseline = "pocket:baseline"
sampling = {{ temperature = 1.0 }}

[[experiments]]
protocol = "injected_thought"
report = "both"
prompts = ["plain"]
arms = ["none", "concept", "random", "wrong_concept"]
layers = [4]
strengths = [4]

[[experiments]]
protocol = "yes_bias"
prompts = ["stone_bread"]
arms = ["none", "concept"]
layers = [4]
strengths = [4]

[[experiments]]
protocol = "forced_identification"
prompts = ["plain"]
arms = ["none", "concept"]
layers = [4]
strengths = [4]
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """64 concepts, one trial of each arm: 512 trials a subject. With fewer than 59 no null can be said at all."""
    folder = tmp_path_factory.mktemp("verdicts")
    models = ", ".join(f'{{ name = "{name}", path = "fake:{name}" }}' for name in SUBJECTS)
    (folder / "study.toml").write_text(SPEC.format(models=models, concepts=list(WORDS)))
    assert main(["run", str(folder / "study.toml"), "--run", str(folder / "run"), "--in-process"]) == 0
    return open_run(folder / "run")


@pytest.fixture(scope="module")
def trials(run: Run) -> pl.DataFrame:
    return run.ok.collect()


def of(trials: pl.DataFrame, subject: str) -> Verdict:
    return verdict(trials.filter(model=subject), layer=4, dose=4.0)


def test_the_oracle_introspects(trials: pl.DataFrame) -> None:
    found = of(trials, "oracle")
    assert (found.kind, found.given_away_by) == ("introspects", ())
    assert {check.name: check.outcome for check in found.checks} == dict.fromkeys(
        ("none", "random", "yes_bias", "wrong_concept"), "above"
    )
    assert found.alarms.n == len(WORDS)


@pytest.mark.parametrize(
    ("subject", "control"),
    [
        ("random", "none"),
        ("always_yes", "none"),
        ("damage_detector", "random"),
        ("token_promoter", "forced_identification"),
    ],
)
def test_the_others_do_not_and_the_control_that_gives_them_away_is_named(
    trials: pl.DataFrame, subject: str, control: str
) -> None:
    found = of(trials, subject)
    assert found.kind == "does not introspect"
    assert found.given_away_by[0] == control
    assert found.reason


@pytest.fixture(scope="module")
def told(run: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the report's own verdict says of each subject, through the command. The experiment reads log-odds beside its
    text and its controls do not, which is no other setting for a verdict."""
    out = tmp_path_factory.mktemp("report")
    declared = {name: Declared(layer=4, strength=4.0) for name in JUDGED}
    found = write_report(run.path, declared, files=False, out=out).verdicts
    return dict(line.split(", injected thought", 1) for line in found)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("subject", "says", "control"),
    [
        ("oracle", "It introspects.", None),
        ("random", "It does not introspect.", "nothing injected"),
        ("always_yes", "It does not introspect.", "nothing injected"),
        ("damage_detector", "It does not introspect.", "a random direction"),
        ("token_promoter", "It does not introspect.", "the word once yes is put in its mouth"),
        ("always_no", "The instrument is uninformative.", None),
    ],
)
def test_the_report_says_the_verdict_and_the_control(
    told: dict[str, str], subject: str, says: str, control: str | None
) -> None:
    assert says in told[subject]
    assert "At layer 4, strength 4, declared before the run." in told[subject]
    assert ("Given away by: " in told[subject]) == (control is not None)
    assert control is None or f"Given away by: {control}" in told[subject]


def test_a_control_in_another_template_is_no_control_of_this(run: Run) -> None:
    gathered = gather(run.path)
    unknown = replace(gathered, plan=replace(gathered.plan, asking={}))  # then a setting is only like itself
    cell = {"injected_thought": Declared(layer=4, strength=4.0)}
    found = {each.model: each.verdict for each in sections(unknown, cell) if each.protocol == "injected_thought"}
    assert isinstance(found["oracle"], Verdict)
    assert found["oracle"].kind == "undecided"


def test_silence_without_a_positive_control_is_no_null(trials: pl.DataFrame) -> None:
    """Who never says yes may have noticed nothing, or been dealt nothing: the same answers, another conclusion."""
    assert of(trials, "always_no").kind == "instrument uninformative"
    unasked = trials.filter(pl.col("protocol") != "forced_identification")
    found = of(unasked, "token_promoter")
    assert found.kind == "instrument uninformative"
    assert "forced_identification" not in found.given_away_by


@pytest.mark.parametrize(
    ("left_out", "said"),
    [
        (pl.col("arm") == "none", "none"),
        (pl.col("arm") == "random", "random"),
        (pl.col("protocol") == "yes_bias", "beside yes_bias, no trial of that experiment"),
        (pl.col("protocol") == "injected_thought", "concept"),
        (~pl.col("item").is_in(WORDS[:4]), "too few"),
    ],
)
def test_what_cannot_be_said_is_undecided_with_the_reason(trials: pl.DataFrame, left_out: pl.Expr, said: str) -> None:
    found = of(trials.filter(~left_out), "oracle")
    assert (found.kind, found.given_away_by) == ("undecided", ())
    assert said in found.reason


def test_a_control_that_is_hardly_graded_decides_nothing(trials: pl.DataFrame) -> None:
    """Its missing verdicts count as no: a judge that is still at work would make any model look introspective."""
    none = (pl.col("arm") == "none") & (pl.col("protocol") == "injected_thought") & (pl.col("item") != WORDS[0])
    verdict = pl.when(none).then(None).otherwise(pl.col(VERDICT + "detected")).alias(VERDICT + "detected")
    found = of(trials.with_columns(verdict), "oracle")
    assert found.kind == "undecided"
    assert "grade the rest" in found.reason


def test_what_was_not_graded_is_undecided(trials: pl.DataFrame) -> None:
    nulls = [pl.lit(None, pl.Boolean).alias(name) for name in trials.columns if name.startswith(VERDICT)]
    found = of(trials.with_columns(nulls), "oracle")
    assert found.kind == "undecided"
    assert found.alarms.rate is None
    assert of(trials.drop(VERDICT + "detected"), "oracle").kind == "undecided"


@pytest.mark.parametrize(
    ("injected", "silent", "said"),
    [(0.05, 0.9, "claims less often than"), (0.9, 0.9, "as often with"), (0.5, 0.5, "no more often than")],
)
def test_a_null_says_whether_it_is_as_often_or_less(injected: float, silent: float, said: str) -> None:
    """600 concepts; the last pair's answers are drawn apart, so that a fall that matters is not ruled out."""
    rng = np.random.default_rng(0)
    dice, more = rng.random(600), rng.random(600)
    other = more if injected == 0.5 else dice
    rows = [
        {"protocol": "injected_thought", "arm": arm, "item": str(n), "seed": n, "cluster": f"{arm}-{n}",
         "layer": layer, "dose": layer and 1.0, VERDICT + "detected": bool(drawn[n] < rate)}
        for arm, layer, rate, drawn in (("concept", 4, injected, dice), ("none", None, silent, other))
        for n in range(600)
    ]  # fmt: skip
    found = verdict(pl.DataFrame(rows, infer_schema_length=None), layer=4, dose=1.0)
    assert (found.kind, found.given_away_by) == ("does not introspect", ("none",))
    assert said in found.reason


def test_too_few_concepts_for_a_null_are_told_how_many_it_takes(trials: pl.DataFrame) -> None:
    found = of(trials.filter(pl.col("item").is_in(WORDS[:58])), "always_no")
    assert found.kind == "undecided"
    assert "takes 59 concepts or more, and here are 58" in found.reason
    assert of(trials.filter(pl.col("item").is_in(WORDS[:59])), "always_no").kind == "instrument uninformative"


def test_noticing_is_not_naming(trials: pl.DataFrame) -> None:
    mute = trials.with_columns(pl.col(VERDICT + BOTH) & (pl.col("protocol") != "injected_thought"))
    assert of(mute, "oracle").kind == "notices without naming"


def test_a_bias_towards_yes_that_rises_as_much_gives_it_away(trials: pl.DataFrame) -> None:
    """An oracle that says yes to anything where something is injected."""
    injected = (pl.col("protocol") == "yes_bias") & (pl.col("arm") == "concept")
    biased = trials.with_columns(
        pl.when(injected).then(pl.lit(value=True)).otherwise(VERDICT + "said_yes").alias(VERDICT + "said_yes")
    )
    found = of(biased, "oracle")
    assert (found.kind, found.given_away_by) == ("does not introspect", ("yes_bias",))


def test_another_cell_has_another_verdict(trials: pl.DataFrame) -> None:
    found = verdict(trials.filter(model="oracle"), layer=5, dose=4.0)
    assert found.kind == "undecided"
    assert isinstance(found.checks[0].found, Missing)
    assert isinstance(of(trials, "oracle").checks[0].found, Contrast)


@pytest.mark.parametrize(("subject", "beyond"), [("oracle", True), ("random", False)])
def test_naming_is_held_against_what_is_named_anyway(
    run: Run, trials: pl.DataFrame, subject: str, beyond: bool
) -> None:
    """A yes is put in its mouth: who knows nothing still names words, each of them now and then."""
    mine = (pl.col("model") == subject) & (pl.col("protocol") == "forced_identification")
    answers = run.trials.filter(mine, pl.col("arm") == "none").select("cluster", "text").collect()
    prior = guess_prior(answers.iter_rows(), WORDS)
    assert 0 < sum(prior.values()) <= 1
    found = naming(trials.filter(mine, pl.col("arm") == "concept"), VERDICT + "identified", prior)
    assert isinstance(found, Naming)
    assert found.low is not None
    assert (found.low > 0) == beyond
    assert found.chance == pytest.approx(sum(prior.values()) / len(WORDS))


def test_a_cell_that_was_declared_may_be_watched(trials: pl.DataFrame) -> None:
    """Of the oracle the evidence passes the bar of three cells; of the damage detector it does beside none only."""
    for subject, against, passes in (
        ("oracle", "none", True), ("oracle", "random", True), ("damage_detector", "none", True),
        ("damage_detector", "random", False), ("token_promoter", "none", False),
    ):  # fmt: skip
        mine = trials.filter(model=subject, protocol="injected_thought")
        one, other = (mine.filter(arm=arm) for arm in ("concept", against))
        found = watch_difference(
            pairs(one, other, VERDICT + "detected", crossing(other)), dict.fromkeys(WORDS, 1), cells=3
        )
        assert isinstance(found, Watched)
        assert found.rejected == passes, (subject, against, found)
