"""The overview says what a plan promises, what is proven, and what a user should act on."""

import re

import pytest

from pipecut.plan.schema import CertificateRecord, Prediction, Tied
from pipecut.view.overview import overview_of, warnings_of
from pipecut.view.sources import RunReport, Sources
from tests.plans import made_plan, made_stage
from tests.view.made import made_sources


def run_of(seconds: float) -> RunReport:
    return RunReport(predicted_step=15.0, measured_step=seconds, predicted=(), measured=())


def test_an_overview_has_the_prediction_and_the_proof() -> None:
    tied = [Tied(names=["wte", "head"], stages=[0, 1])]
    overview = overview_of(made_sources(tied=tied, notes=["costs: measured"]))
    assert (overview.predicted_step, overview.measured_step, overview.bubble) == (15.0, None, 0.2)
    assert overview.proof.proven and overview.proof.objective == overview.proof.bound == 3.0
    assert overview.tied == ("wte = head on stages 0, 1",)
    assert overview.notes == ("costs: measured",) and overview.warnings == ()


def test_settings_count_each_parameter_once() -> None:
    settings = {setting.name: setting.value for setting in overview_of(made_sources()).settings}
    assert settings["parameters"] == "32 in 2 tensors"
    assert settings["devices"] == "2 x slow-core"
    assert settings["batch"] == "4 samples, 2 per microbatch"
    assert "compiled from" not in settings and "seal" not in settings


def test_a_run_stands_beside_the_prediction() -> None:
    sources = Sources(made_sources().folder, run_of(15.3))
    assert overview_of(sources).measured_step == 15.3 and not overview_of(sources).warnings


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prediction": Prediction(step_seconds=1.0, bubble=0.31)}, "ranks wait 31% of a step"),
        (
            {
                "certificate": CertificateRecord(
                    objective=3.0, bound=2.94, gap=0.02, proven=False, solver="x", seconds=0.0
                )
            },
            "may save up to 2.00%",
        ),
        (
            {"stages": [made_stage(peak_bytes=9000, outside_bytes=600)], "boundaries": []},
            "stage 0 fill up to 96% of their memory",
        ),
    ],
)
def test_what_to_act_on_is_a_warning(fields: dict[str, object], words: str) -> None:
    (warning,) = warnings_of(made_plan(1 if "stages" in fields else 2, **fields), None)
    assert re.search(words, warning)


def test_a_step_unlike_its_prediction_is_a_warning() -> None:
    (warning,) = warnings_of(made_plan(2), run_of(16.5))
    assert "16.5 s, 10.0% longer than predicted" in warning
