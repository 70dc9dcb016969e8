"""A run in a bucket: one PUT is a whole object, and a conditional PUT an exclusive create. Credentials are found in the
environment or the machine's role by the client library, which also retries 5xx, dropped connections and lost replies.
"""

from __future__ import annotations

import contextlib
import random
import re
import time
from collections.abc import Generator, Iterator
from datetime import timedelta

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotSupportedError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import from_url

from sweep.place import Missing, Remote, StoreError

PAUSES = (0.05, 0.2, 0.8, 3.2, 6.4)  # seconds between tries of a create that met a temporary conflict
PATIENCE = timedelta(minutes=3)  # of all tries of one request: a store that is away for longer ends the run, resumable
NO_CREDENTIALS = ("169.254.169.254", "Account must be specified")  # asks the machine's role, and there is none
SETTINGS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (a profile is not read)",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
REFUSED = (PermissionDeniedError, UnauthenticatedError, PermissionError)


class Objects:
    """sweep.store.Backend on S3, GCS or Azure."""

    def __init__(self, root: Remote) -> None:
        self.root = root
        with self._explained("run.json"):
            # No client_options: they would replace those that the environment sets, such as AWS_ALLOW_HTTP or a proxy.
            self._client = from_url(root.url, retry_config={"retry_timeout": PATIENCE})

    def read(self, path: str) -> bytes:
        with self._explained(path):
            return bytes(obstore.get(self._client, path).bytes())

    def exists(self, path: str) -> bool:
        with self._explained(path):
            try:
                obstore.head(self._client, path)
            except FileNotFoundError:
                return False
            return True

    def write(self, path: str, data: bytes) -> None:
        with self._explained(path):
            obstore.put(self._client, path, data)

    def create(self, path: str, data: bytes) -> bool:
        """A refusal may be somebody's object, our own where the reply was lost, or a conflict that passes: look."""
        for pause in PAUSES:
            with self._explained(path):
                try:
                    obstore.put(self._client, path, data, mode="create")
                    return True
                except AlreadyExistsError:
                    with contextlib.suppress(FileNotFoundError):
                        return bytes(obstore.get(self._client, path).bytes()) == data
            time.sleep(pause * random.uniform(0.5, 1.5))
        raise StoreError(f"{self.root} refuses to create {path}, and has none: see `sweep doctor --run {self.root}`")

    def list(self, prefix: str) -> Iterator[str]:
        with self._explained(prefix):
            for each in self._metas(prefix):
                yield each["path"]

    def times(self, prefix: str) -> dict[str, float]:
        with self._explained(prefix):
            return {each["path"]: each["last_modified"].timestamp() for each in self._metas(prefix)}

    def delete(self, path: str) -> None:
        with self._explained(path), contextlib.suppress(FileNotFoundError):
            obstore.delete(self._client, path)

    def claim(self) -> set[str]:
        with self._explained("run.json"):
            found = obstore.list_with_delimiter(self._client)
            return {*found["common_prefixes"], *(each["path"] for each in found["objects"])}

    def _metas(self, prefix: str) -> Iterator[obstore.ObjectMeta]:
        return (meta for page in obstore.list(self._client, prefix) for meta in page)

    @contextlib.contextmanager
    def _explained(self, path: str) -> Generator[None]:
        try:
            yield
        except (BaseError, OSError) as error:
            raise _explain(error, path, self.root) from error


def _explain(error: Exception, path: str, root: Remote) -> StoreError:
    if "NoSuchBucket" in str(error):
        return StoreError(f"there is no bucket for {root}: make it, or choose another place with --run")
    if isinstance(error, FileNotFoundError):
        hint = f"restore it from a copy, or see `sweep check {root}` for what is lost"
        return Missing(f"{path} is missing from {root}: {hint}", path)
    if isinstance(error, REFUSED):
        needs = "Get, Put, List and Delete, by credentials in the environment or the machine's role"
        return StoreError(f"no permission for {path} in {root} ({_plain(error)}): allow {needs}")
    if any(sign in str(error) for sign in NO_CREDENTIALS):
        ways = f"set {SETTINGS[root.url.partition('://')[0]]}, or run where the machine's role has them"
        return StoreError(f"no credentials for {root}: {ways}")
    if isinstance(error, NotSupportedError):
        return StoreError(f"{root} cannot do what runs need ({_plain(error)}): choose another store")
    if "builder error" in str(error):
        return StoreError(f"{root}: the endpoint cannot be used; one that is http:// needs AWS_ALLOW_HTTP=true")
    hint = f"see `sweep doctor --run {root}`, then run the same command again: it goes on from here"
    return StoreError(f"{path} in {root}: {_plain(error)}; {hint}")


def _plain(error: Exception) -> str:
    """One line without what a server repeats of the request, among it the key's id."""
    text = str(error)
    code = re.search(r"<Code>(\w+)</Code>", text)
    head = text.splitlines()[0].partition("<")[0].strip(" :-")
    return f"{head[:300]} {code[1]}" if code else head[:300]
