"""How a command ends: its report, or an error as one message that ends with what to do; and an exit code."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable

from sweep.commands import DONE, ERROR, RESUMABLE, CommandError, Report
from sweep.driving.launch import NothingKept
from sweep.driving.pool import NoRoom
from sweep.driving.scheduler import RunFailed
from sweep.engine import EngineDead, EngineUnavailable
from sweep.models import ModelError
from sweep.plan import PlanError
from sweep.redact import redact
from sweep.serving import ServingError
from sweep.spec import SpecError
from sweep.store import StoreError
from sweep.submissions import SubmitError

EXPECTED = (
    CommandError,
    NothingKept,
    SpecError,
    StoreError,
    PlanError,
    ModelError,
    RunFailed,
    ServingError,
    EngineUnavailable,
    NoRoom,
    SubmitError,
    FileExistsError,
    FileNotFoundError,
    PermissionError,
)
EXTRAS = {  # what pip is told to install where a folder's packages are missing
    "cluster": ("accelerate", "jaxtyping", "ray", "safetensors", "torch", "transformers", "yaml"),
    "vllm": ("vllm",),
    "analysis": ("altair", "jinja2", "markupsafe", "polars", "scipy", "statsmodels", "vl_convert", "wandb"),
}
AGAIN = "run the same command again to go on from here"


def answered(command: Callable[[], Report], *, as_json: bool) -> int:
    """Run it and print what it says. Raises what nobody expects."""
    try:
        return _printed(command(), as_json)
    except EXPECTED as error:
        return _failed(f"error: {error}", ERROR, as_json)
    except ModuleNotFoundError as error:
        extras = [extra for extra, packages in EXTRAS.items() if (error.name or "").partition(".")[0] in packages]
        if not extras:
            raise
        return _failed(
            f"error: {error.name} is missing: pip install 'introspection-sweep[{extras[0]}]'", ERROR, as_json
        )
    except EngineDead as error:
        return _failed(f"stopped: {error}; {AGAIN}", RESUMABLE, as_json)
    except KeyboardInterrupt:
        print(f"stopped at once; {AGAIN}", file=sys.stderr)
        return RESUMABLE
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


def _printed(report: Report, as_json: bool) -> int:
    if as_json:
        print(json.dumps(report.data), flush=True)
    else:
        print(*report.lines, sep="\n", flush=True)
    return report.code


def _failed(said: str, code: int, as_json: bool) -> int:
    said = redact(said)
    if as_json:
        print(json.dumps({"error": said.removeprefix("error: ")}))
    print(said, file=sys.stderr)
    return code
