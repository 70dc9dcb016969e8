"""Secrets stay where they are, names stay inside, and nothing that a run or a model brings along is executed."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import ray._private.ray_constants as ray_constants
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cluster.connection import connect, disconnect
from sweep.__main__ import main
from sweep.driving.events import EventLog
from sweep.lease import Lease
from sweep.models import ModelRequest, identify
from sweep.redact import redact, redacted
from sweep.spec import ModelTable, SpecError, decode
from sweep.store import Store, open_run
from tests.clusters import listening, processes, until
from tests.test_cli import SPEC, call
from tests.test_structure import FOLDERS, ROOT, sources

SECRETS = {
    "HF_TOKEN": "hf_4kQzPlantedTokenX9",
    "AWS_SECRET_ACCESS_KEY": "wJalr/Planted+Key/Value=",
    "MY_SERVICE_PASSWORD": "correct horse battery",
}
LEAKY = """
import os
from sweep.trial import Message, Outcome, Protocol, Span

async def run(trial, subject):
    if trial.item == "Dust":
        token = os.environ["HF_TOKEN"]
        other = os.environ["AWS_SECRET_ACCESS_KEY"]
        raise RuntimeError(f"401 at https://me:{token}@hub/api?x with {other}, Bearer {token}")
    reply = await subject.say([Message(role="user", text="Well?")], spans=[Span()])
    return Outcome(trial=trial, replies={"answer": reply})

leaky = Protocol(name="mine:leaky", version=1, run=run, stimuli="open_question", measures=("legible",))
"""


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


def leaks(folder: Path) -> list[tuple[str, str]]:
    """Which secrets stand in which files; Parquet is read, for it is compressed."""
    import pyarrow.parquet as pq

    found: list[tuple[str, str]] = []
    for path in (path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        text = str(pq.read_table(path).to_pylist()) if data[:4] == b"PAR1" else data.decode(errors="replace")
        found += [(path.name, name) for name, value in SECRETS.items() if value in text]
    return found


# -- secrets ----------------------------------------------------------------------------------------------------------


def test_no_secret_is_in_a_run_or_in_what_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any, planted: None
) -> None:
    """A protocol that puts them all into its error: the row is there, with their names in place of them."""
    (tmp_path / "leaks.py").write_text(LEAKY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    spec = SPEC.replace('"injected_thought"', '"leaks:leaky"').replace('prompts = ["plain"]', "")
    Path("study.toml").write_text(spec.replace('arms = ["none", "concept", "random"]', 'arms = ["none"]'))
    assert main(["run", "study.toml", "--in-process", "--run", "run"]) == 0
    assert main(["show", "run", "--status", "error"]) == 0
    printed = "".join(capfd.readouterr())
    assert "RuntimeError: 401 at https://[redacted]@hub/api?x with [AWS_SECRET_ACCESS_KEY]" in printed
    assert [name for name, value in SECRETS.items() if value in printed] == []
    assert leaks(tmp_path / "run") == []
    (tmp_path / "run" / "planted.txt").write_text(SECRETS["HF_TOKEN"])
    assert leaks(tmp_path / "run") == [("planted.txt", "HF_TOKEN")]  # the search itself can find


def test_no_secret_is_in_the_facts_of_a_run_or_in_its_events(tmp_path: Path, planted: None) -> None:
    files = open_run(tmp_path / "run", "study", models=[{"path": f"https://u:{SECRETS['HF_TOKEN']}@hub/m"}])
    assert json.loads(files.read("run.json"))["models"] == [{"path": "https://[redacted]@hub/m"}]
    lease = Lease(id=1, stage="trials", group="g", shards=("a-0",), attempts=(0,), driver="d", replica="r")
    log = EventLog(files, "driver")
    log.note("error", lease, f"OSError: {SECRETS['AWS_SECRET_ACCESS_KEY']}")
    log.flush(force=True)
    assert leaks(tmp_path / "run") == []


def test_a_spec_that_holds_a_secret_is_refused_before_it_is_kept(tmp_path: Path, capsys: Any, planted: None) -> None:
    spec = tmp_path / "study.toml"
    for line in (f"# {SECRETS['HF_TOKEN']}", "# https://me:password@host/"):
        spec.write_text(SPEC + line)
        for command in ("plan", "run"):
            code, refused = call(capsys, command, spec, "--run", tmp_path / "run")
            assert (code, "name the variable" in refused["error"]) == (1, True)
            assert SECRETS["HF_TOKEN"] not in refused["error"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("token: hf_4kQzPlantedTokenX9.", "token: [HF_TOKEN]."),
        ("s3://me:pw@bucket/x and http://host:80/a@b", "s3://[redacted]@bucket/x and http://host:80/a@b"),
        ("Authorization: Bearer abcdefghij", "Authorization: Bearer [redacted]"),
        ("key=1, SHORT_KEY=true", "key=1, SHORT_KEY=true"),
        ("/home/me/.ray/token", "/home/me/.ray/token"),
    ],
)
def test_what_a_secret_is(text: str, kept: str) -> None:
    environment = {**SECRETS, "SHORT_KEY": "true", "RAY_AUTH_TOKEN_PATH": "/home/me/.ray/token", "HOME": "/home/me"}
    assert redact(text, environment) == kept


def test_of_two_secrets_the_longer_is_taken_whole() -> None:
    assert redact("abcdefghij", {"A_KEY": "abcdefgh", "B_KEY": "abcdefghij"}) == "[B_KEY]"


@given(text=st.text(), secret=st.text(min_size=8))
def test_redaction_leaves_no_secret_and_nothing_to_redact(text: str, secret: str) -> None:
    environment = {"THE_SECRET": secret}
    once = redact(f"{text}{secret}{text}", environment)
    if secret not in "[THE_SECRET][redacted]":
        assert secret not in redact(once, environment)


def test_structure_is_kept_where_facts_are_redacted(planted: None) -> None:
    facts = {"a": [1, None, True, {"b": f"x{SECRETS['HF_TOKEN']}"}], "c": 1.5}
    assert redacted(facts) == {"a": [1, None, True, {"b": "x[HF_TOKEN]"}], "c": 1.5}


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../out", "/etc/out", "a/b", "..", ".hidden", "a\\u0000b", "x y", "-rf", ""])
def test_a_study_cannot_be_named_out_of_its_directory(tmp_path: Path, capsys: Any, monkeypatch: Any, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("study.toml").write_text(SPEC.replace('name = "study"', f'name = "{name}"'))
    for command in (
        ["run", "study.toml", "--in-process"],
        ["submit", "study.toml", "--to", "slurm"],
        ["plan", "study.toml"],
    ):
        assert main(command) == 1
        assert "is no name" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["study.toml"]


def test_a_concept_is_never_a_path(tmp_path: Path, capsys: Any) -> None:
    """Concepts, prompts and directions name what they like: only digests and numbers become names of files."""
    inside = tmp_path / "in"
    inside.mkdir()
    concepts = ["../../out", "/etc/passwd", "$(touch out)", "CON", "..", "~/x", "é", "a" * 200]
    listed = ", ".join(f'"{concept}"' for concept in concepts)
    spec = inside / "study.toml"
    spec.write_text(SPEC.replace('"lindsey2025:concepts"', f"[{listed}]").replace('"random"', '"wrong_concept"'))
    assert call(capsys, "run", spec, "--in-process", "--run", inside / "run")[0] == 0
    assert call(capsys, "check", inside / "run")[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    names = {path.name for path in (inside / "run").rglob("*")}
    assert [name for name in names if not re.fullmatch(r"[A-Za-z0-9._=+-]+", name)] == []
    assert not [name for name in names if "passwd" in name or "touch" in name]


# -- what is executed -------------------------------------------------------------------------------------------------

UNPICKLED = {"pickle", "dill", "cloudpickle", "shelve", "joblib", "marshal"}
LOADERS = {"torch.load", "np.load", "numpy.load", "pd.read_pickle", "yaml.load", "yaml.unsafe_load", "eval", "exec"}


def trees() -> Iterator[tuple[Path, ast.AST]]:
    for folder in FOLDERS:
        for path in sources(folder):
            yield path, ast.parse(path.read_text())


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def loading(tree: ast.AST) -> list[str]:
    """Calls that would run what a file holds."""
    return [
        name for name, node in calls(tree) if name in LOADERS or any(k.arg == "allow_pickle" for k in node.keywords)
    ]


def trusting(tree: ast.AST) -> list[str]:
    """Calls that would run a model's own code whatever the spec says."""
    keywords = [k for _, node in calls(tree) for k in node.keywords if k.arg == "trust_remote_code"]
    return [ast.unparse(k.value) for k in keywords if isinstance(k.value, ast.Constant) and k.value.value is not False]


def test_nothing_is_unpickled() -> None:
    for path, tree in trees():
        names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        assert not {name.partition(".")[0] for name in names} & UNPICKLED, path
        assert loading(tree) == [], path


def test_a_models_own_code_runs_only_where_the_spec_says_so() -> None:
    for path, tree in trees():
        assert trusting(tree) == [], path
    assert ModelTable(name="m").trust_remote_code is False
    assert decode(SPEC, "spec").models[0].trust_remote_code is False
    request = {"name": "m", "path": "pocket", "revision": None, "dtype": "float32", "quantisation": None}
    assert identify(ModelRequest(**request, trust_remote_code=False)).trust_remote_code is False  # pyright: ignore
    with pytest.raises(SpecError):
        decode(SPEC.replace('["fake:oracle"]', '[{ name = "m", trust_remote_code = "yes" }]'), "spec")


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("torch.load(f)", ["torch.load"]),
        ("np.load(f, allow_pickle=x)", ["np.load"]),
        ("read(f, allow_pickle=True)", ["read"]),
        ("torch.loads(f)", []),
    ],
)
def test_the_search_for_loaders_can_find(code: str, found: list[str]) -> None:
    assert loading(ast.parse(code)) == found
    assert trusting(ast.parse("f(trust_remote_code=True)")) == ["True"]


# -- what listens -----------------------------------------------------------------------------------------------------


def test_every_template_turns_the_token_on_and_binds_no_wider_than_its_cluster() -> None:
    script = (ROOT / "infra/slurm/sweep.sh").read_text()
    assert "RAY_AUTH_MODE=token" in script
    assert "--include-dashboard=false" in script
    assert "umask 077" in script
    *_, ray = yaml.safe_load_all((ROOT / "infra/kuberay/rayjob.yaml").read_text())
    assert ray["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    wide = [path for path in (ROOT / "infra").rglob("*") if path.is_file() and b"0.0.0.0" in path.read_bytes()]
    assert [path.name for path in wide] == ["rayjob.yaml"]  # a pod's own network, where its service finds it
    for path in (path for path in (ROOT / "infra").rglob("*") if path.suffix in (".sh", ".yaml", ".yml")):
        assert "RAY_AUTH_MODE=disabled" not in path.read_text(), path


def test_a_ray_of_our_own_listens_on_the_loopback_only() -> None:
    """Its metrics too, which ask for no token."""
    temporary = connect(None, 1)
    assert temporary is not None
    try:
        logs = temporary / "session_latest" / "logs"
        for name in ("dashboard.log", "monitor.log"):  # what starts last
            until(lambda file=logs / name: file.exists() and "metrics server" in file.read_text(), name)
        until(lambda: ray.get(_double.remote(21)) == 42, "a worker")
        ports = listening(processes(str(temporary)))
        assert len(ports) > 3
        assert {address for address, _ in ports} == {"127.0.0.1"}
    finally:
        disconnect(temporary)
    assert ray_constants.ENABLE_RAY_CLUSTER  # a cluster that is joined next is no loopback


@ray.remote
def _double(number: int) -> int:
    return 2 * number


def test_a_store_refuses_what_leads_out(tmp_path: Path) -> None:
    from sweep.store import StoreError

    store = Store(tmp_path / "run")
    for path in ("../x", "/etc/x", "a//b", "a/../../x", "a\\b", "~x", ".x"):
        with pytest.raises(StoreError, match="not a path inside a run"):
            store.read(path)
