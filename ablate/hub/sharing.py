"""Runs pushed to and pulled from a repository: a folder, or a model of the Hugging Face Hub."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from ablate.base.errors import AblateError, ResultsError
from ablate.base.text import printable
from ablate.hub import hugging_face
from ablate.hub.repository import check_files, files_of, read_row, to_results, write_folder
from ablate.launch.leases import Leases
from ablate.store import merge as merging

HUB = "hf://"  # prefix of a repository that could be taken for a folder
_REPO_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}", re.ASCII)


@dataclass(frozen=True)
class Pushed:
    """The result of a push.

    Attributes:
        run_id: The run.
        where: The folder, or the repository's address.
        sizes: The size of each file, bytes.
    """

    run_id: str
    where: str
    sizes: dict[str, int]


def push(
    results: Path,
    name: str,
    target: str,
    *,
    licence: str | None = None,
    private: bool = False,
    offline: bool = False,
    dry_run: bool = False,
) -> Pushed:
    """Write a finished run into a repository.

    Args:
        results: The results folder.
        name: The run's name, or the beginning of it.
        target: A folder, as in `./cats`, or a repository of the hub, as in `user/cats`.
        licence: The licence that the card gives, by its name on the hub, as in `mit`.
        private: Whether a repository of the hub that is created now is private.
        offline: Whether the network is forbidden.
        dry_run: Only check the run and say what would be written.

    Raises:
        AblateError: The run, the target or the licence cannot be used, or the hub cannot be reached.
    """
    if licence is not None and not _LICENCE.fullmatch(licence):
        allowed = "a name of the hub's list, as in mit, apache-2.0 or cc-by-4.0"
        raise AblateError(f"--license {printable(licence)}: not the name of a licence; allowed: {allowed}")
    place = _target(target)
    shown = f"./{place.absolute().name}" if isinstance(place, Path) else place
    run_id, files = files_of(results, name, shown, licence)
    sizes = {file: len(what) if isinstance(what, bytes) else what.stat().st_size for file, what in files.items()}
    where = str(place)
    if dry_run:
        return Pushed(run_id, where, sizes)
    if isinstance(place, Path):
        write_folder(place, run_id, files)
    else:
        where = hugging_face.upload(place, run_id, files, private=private, offline=offline)
    return Pushed(run_id, where, sizes)


def pull(source: str, results: Path, *, offline: bool = False, force: bool = False) -> tuple[str, merging.Merged]:
    """Add the run of a repository to a results folder: its rows in all tables, and its files.

    Args:
        source: A folder that `push` wrote, or a repository of the hub.
        results: The results folder; created if it is missing.
        offline: Whether the network is forbidden. A repository in the hub's cache is used then.
        force: Take the repository's rows if the results folder holds others of the run.

    Returns:
        The run's name, and what changed.

    Raises:
        AblateError: The repository cannot be reached or holds no such run, or the results folder
            cannot be written.
    """
    folder = fetch(f"pull {printable(source)}", source, offline=offline)
    row = read_row(folder, printable(source))
    check_files(folder, row)
    with tempfile.TemporaryDirectory() as scratch:
        staged = Path(scratch)
        to_results(folder, row, staged)
        prefer = staged if force else None
        try:
            merged = merging.merge([staged], results, prefer=prefer, refuse_running=Leases(results).refuse_held)
        except merging.UnequalRowsError as error:
            raise ResultsError(
                f"pull {printable(source)}: {results} holds other rows of {row['run_id']}; take the repository's with "
                "--force, or pull into another --results folder"
            ) from error
    return row["run_id"], merged


def fetch(what: str, source: str | PathLike[str], *, offline: bool) -> Path:
    """Return the folder of a repository, after downloading it if it is on the hub.

    Args:
        what: Begins the message of an error, as in `pull user/cats`.
        source: A folder, or the name of a repository of the hub. A path object is a folder.
        offline: Whether the network is forbidden.

    Raises:
        AblateError: There is no such folder or repository.
    """
    if Path(source).is_dir():
        return Path(source)
    if not isinstance(source, str) or _is_path(source):
        raise ResultsError(f"{what}: no such folder; name one that ablate push wrote")
    return hugging_face.download(what, _repo_id(what, source), offline=offline)


def _target(text: str) -> Path | str:
    """Return a folder, or the name of a repository of the hub."""
    if _is_path(text):
        return Path(text)
    what = f"push {printable(text)}"
    repo_id = _repo_id(what, text)
    # Nothing is published by mistake.
    if not text.startswith(HUB) and Path(text).parts[0:1] and Path(Path(text).parts[0]).is_dir():
        raise AblateError(f"{what}: a folder or a repository of the hub? Write ./{text} or {HUB}{text}")
    return repo_id


def _is_path(text: str) -> bool:
    return text.startswith(".") or Path(text).is_absolute()


def _repo_id(what: str, text: str) -> str:
    repo_id = text.removeprefix(HUB)
    if not _REPO_ID.fullmatch(repo_id) or len(repo_id) > 96 or "--" in repo_id or ".." in repo_id:
        raise AblateError(f"{what}: neither a folder nor a repository; allowed: a folder, as ./cats, or user/cats")
    return repo_id
