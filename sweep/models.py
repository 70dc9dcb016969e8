"""What a model is, without loading it: its identity, its depth and its size, read from files."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from sweep.trial import EngineKind, Model

SHIPPED = ("pocket", "sham", "scholar", "hearsay")
FAKE_LAYERS = 8
MOMENTS = 2.0  # seconds for an answer that is nice to have
_LAYER_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_SIDE_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
_CHUNK = 1 << 16
_CHUNKS = 64  # sampled from each weight file: training moves every tensor, and hashing 140 GB takes minutes


class ModelError(ValueError):
    """A model that cannot be identified; the message says what to do, and `key` where in the model's table."""

    def __init__(self, message: str, key: str = "path") -> None:
        super().__init__(message)
        self.key = key


@dataclass(frozen=True, kw_only=True)
class ModelRequest:
    """A model as a spec asks for it."""

    name: str
    path: str
    revision: str | None
    dtype: str
    quantisation: str | None
    trust_remote_code: bool
    engine: Literal["transformers", "vllm"] | None = None  # None: transformers, or a fake path's own


def _who(path: str) -> str:
    """A fake's path without how slow it is."""
    name, _, query = path.partition("?")
    kept = [each for each in query.split("&") if each and not each.startswith("delay=")]
    return "?".join([name, "&".join(kept)]) if kept else name


def identify(request: ModelRequest) -> Model:
    """Resolve a request to an identity. Raises ModelError with the next step."""
    if request.path.startswith("fake:"):
        if request.engine is not None:
            raise ModelError(f"{request.path!r} brings its own engine; leave out engine = {request.engine!r}", "engine")
        digest = hashlib.blake2b(_who(request.path).encode(), digest_size=16).hexdigest()
        return _model(request, digest, FAKE_LAYERS, engine="fake")
    folder = locate(request.path, request.revision)
    commit = folder.name if folder.parent.name == "snapshots" and len(folder.name) == 40 else None
    digest = at_commit(request.path, commit) if commit else _digest(folder)
    return _model(replace(request, revision=commit), digest, layer_count(folder), request.engine or "transformers")


def at_commit(repository: str, commit: str) -> str:
    """The digest of a repository's model."""
    return f"{repository}@{commit}"


def _model(request: ModelRequest, digest: str, layers: int, engine: EngineKind) -> Model:
    return Model(
        name=request.name,
        path=request.path,
        revision=request.revision,
        digest=digest,
        engine=engine,
        dtype=request.dtype,  # pyright: ignore[reportArgumentType]
        quantisation=request.quantisation,
        trust_remote_code=request.trust_remote_code,
        layers=layers,
    )


def load_path(path: str) -> str:
    """What transformers is to load: a shipped model's folder, else the path as it is. A run may go on elsewhere, so
    a plan holds the name."""
    return str(files("cluster.pocket") / "weights" / path) if path in SHIPPED else path


def locate(path: str, revision: str | None = None) -> Path:
    """The folder that holds a model: shipped with the project, local, or a downloaded snapshot of a repository."""
    folder = Path(load_path(path)).expanduser()
    if folder.is_dir():
        return folder
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        shipped = ", ".join(SHIPPED)
        raise ModelError(
            f"no model folder at {path!r}; give a folder, a repository id (owner/name) or one of: {shipped}"
        )
    return _snapshot(path, revision)


def _snapshot(repository: str, revision: str | None) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
    except ImportError as error:
        hint = "pip install 'introspection-sweep[cluster]'"
        raise ModelError(f"{repository!r} is a repository id, which needs huggingface_hub: {hint}") from error
    patterns = ["*.json", "*.safetensors.index.json", "*.jinja"]
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        name = type(error).__name__
        raise ModelError(f"cannot reach {repository!r} ({name}); download it and give its folder as `path`") from error


def newest_commit(repository: str) -> str | None:
    """What a repository's main branch is at now; None where the hub does not say so within moments."""
    import httpx  # a quarter of a second

    try:
        from huggingface_hub import constants
        from huggingface_hub.utils import build_hf_headers
    except ImportError:
        return None
    if constants.HF_HUB_OFFLINE:
        return None
    try:
        url = f"{constants.ENDPOINT}/api/models/{repository}"
        answer = httpx.get(url, headers=build_hf_headers(), timeout=MOMENTS, follow_redirects=True)
        return answer.raise_for_status().json()["sha"]
    except (httpx.HTTPError, ValueError, KeyError):
        return None


def layer_count(folder: Path) -> int:
    """Number of decoder blocks, from config.json (of the text part where there are several)."""
    config = _config(folder)
    for part in (config, config.get("text_config"), config.get("language_config")):
        for key in _LAYER_KEYS:
            if isinstance(part, dict) and isinstance(part.get(key), int):
                return part[key]
    raise ModelError(
        f"{folder / 'config.json'} does not say how many layers there are; looked for {', '.join(_LAYER_KEYS)}"
    )


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        raise ModelError(f"{folder} holds no config.json; is it a model folder in transformers' format?")
    return json.loads(file.read_text())


def _digest(folder: Path) -> str:
    """Of a local folder's files; a snapshot's name is its commit, which says as much."""
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ModelError(f"{folder} holds no .safetensors; weights are loaded from safetensors only")
    state = hashlib.blake2b(digest_size=16)
    for name in _SIDE_FILES:
        if (folder / name).is_file():
            state.update(name.encode() + b"\0" + (folder / name).read_bytes())
    for file in weights:
        state.update(file.name.encode())
        for chunk in _sampled(file):
            state.update(chunk)
    return state.hexdigest()


def _sampled(file: Path) -> Iterator[bytes]:
    size = file.stat().st_size
    yield str(size).encode()
    step = max(_CHUNK, size // _CHUNKS)
    with file.open("rb") as stream:
        for offset in range(0, size, step):
            stream.seek(offset)
            yield stream.read(_CHUNK)


def parameters(model: Model) -> int | None:
    """Number of parameters, from the headers of the weight files; None where they are not on this machine."""
    if model.engine == "fake":
        return None
    try:
        weights = sorted(locate(model.path, model.revision).glob("*.safetensors"))
    except ModelError:
        return None
    return sum(map(_tensor_sizes, weights)) or None


def _tensor_sizes(file: Path) -> int:
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
