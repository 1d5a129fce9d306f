"""Uploads to and downloads from the Hugging Face Hub, by its own library.

A token comes from that library's login (`hf auth login`) or the variable `HF_TOKEN`. Downloads go to
its cache, so a repository is downloaded once.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ablate import __version__
from ablate.base.errors import AblateError, ResultsError, require
from ablate.base.text import one_line
from ablate.hub.repository import PATTERNS, ROW, Files, refuse_other_content, stale_names
from ablate.metrics.downloads import offline as offline_by_variable

_NAME = "ablate-harness"  # what the hub counts downloads by


def upload(repo_id: str, run_id: str, files: Files, *, private: bool, offline: bool) -> str:
    """Write a repository in one commit, and return its address.

    Args:
        repo_id: `user/name`. It is created if it is missing.
        run_id: The run, which the repository may hold already.
        files: Its files.
        private: Whether it is private, if it is created.
        offline: Whether the network is forbidden.

    Raises:
        AblateError: The library is not installed, or the network is forbidden or fails.
        ResultsError: The repository holds other things.
    """
    what = f"push {repo_id}"
    if offline or offline_by_variable():
        raise AblateError(f"{what}: --offline or ABLATE_OFFLINE forbids the network; push to a folder, as ./cats")
    require(what, "huggingface_hub")
    from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi, get_token

    if get_token() is None:
        raise AblateError(f"{what}: no token of the hub on this machine; log in with hf auth login, or set HF_TOKEN")
    api = HfApi(library_name=_NAME, library_version=__version__)
    with _explained(what):
        url = str(api.create_repo(repo_id, private=private, exist_ok=True))
        names = api.list_repo_files(repo_id)
    refuse_other_content(repo_id, names, run_id, lambda: _snapshot(what, repo_id, [ROW], local_files_only=False))
    operations: list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete] = [
        CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
        for name, content in files.items()
    ]
    operations += [CommitOperationDelete(name) for name in stale_names(names, files)]
    with _explained(what), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
        api.create_commit(repo_id, operations, commit_message=f"Run {run_id} by ablate {__version__}")
    return url


def download(what: str, repo_id: str, *, offline: bool) -> Path:
    """Return a folder with the files of a repository, from the library's cache if they are there.

    Args:
        what: Begins the message of an error, as in `pull user/cats`.
        repo_id: `user/name`.
        offline: Whether the network is forbidden. The cache is used then.

    Raises:
        AblateError: The library is not installed, or the network is forbidden or fails.
    """
    require(what, "huggingface_hub")
    return _snapshot(what, repo_id, PATTERNS, local_files_only=offline or offline_by_variable())


def _snapshot(what: str, repo_id: str, patterns: Sequence[str], *, local_files_only: bool) -> Path:
    from huggingface_hub import snapshot_download

    with _explained(what):
        found = snapshot_download(
            repo_id,
            allow_patterns=list(patterns),
            local_files_only=local_files_only,
            library_name=_NAME,
            library_version=__version__,
        )
    return Path(found)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn errors of the library into one line each."""
    from huggingface_hub import errors

    try:
        yield
    except ResultsError:
        raise
    except errors.RepositoryNotFoundError as error:
        raise AblateError(
            f"{what}: no such folder here, and no such repository on the hub, or it is private; check the name, "
            "or log in with hf auth login"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise AblateError(
            f"{what}: no such folder here, it is not in the hub's cache, and the hub cannot be reached "
            "(or --offline or ABLATE_OFFLINE forbids it)"
        ) from error
    except Exception as error:  # of its HTTP library, which is another one in each of its versions
        status = getattr(getattr(error, "response", None), "status_code", None)
        said = one_line(getattr(error, "server_message", None) or error) or type(error).__name__
        if status in (401, 403):
            raise AblateError(f"{what}: the hub refused it ({status}: {said}); log in with hf auth login") from error
        raise AblateError(f"{what}: the hub: {said}; try again later") from error
