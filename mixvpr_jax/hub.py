"""The Hugging Face Hub: hf://organisation/repository[@revision], read and written."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mixvpr_jax.errors import InputError, extra, text_of
from mixvpr_jax.version import __version__

HUB = "hf://"
FILES = ("config.json", "model.safetensors")
CLIENT = {"library_name": "mixvpr-jax", "library_version": __version__}

logger = logging.getLogger(__name__)


def parse_address(text: str) -> tuple[str, str | None]:
    """The repository and the revision (a branch, a tag, a commit; None: the newest) of an address.

    That is hf://organisation/repository or …@revision.
    """
    found = re.fullmatch(rf"{HUB}([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", text.rstrip("/"))
    if found is None:
        raise InputError(
            f"{text}: expected {HUB}organisation/repository or …@revision{meant(text)}"
        )
    return found[1], found[2]


def meant(text: str) -> str:
    """The address for a page of the hub or a bare organisation/repository, to end an error line."""
    site = r"(?:https?:/+)?(?:huggingface\.co|hf\.co)/"
    found = re.fullmatch(rf"{site}([\w.-]+/[\w.-]+)(?:/.*)?|(\w[\w.-]*/[\w.-]+)", text)
    return f"; on the hub: {HUB}{found[1] or found[2]}" if found else ""


def fetch(text: str) -> Path:
    """The folder of a model's files in the library's cache, brought up to date.

    With HF_HUB_OFFLINE, or where the hub is out of reach (which is logged), it is what an earlier
    call fetched.
    """
    (repository, revision), hub, problem = parse_address(text), _library(text), None
    try:
        hub.HfApi(**CLIENT).model_info(repository, revision=revision)
    except Exception as error:
        problem = error
    try:
        folder = hub.snapshot_download(
            repository, revision=revision, allow_patterns=list(FILES), **CLIENT
        )
    except Exception as error:  # from the hub, httpx or the file system
        raise InputError(
            f"{text}: expected to fetch it from the hub, found: {text_of(error)}"
        ) from error
    if missing := [name for name in FILES if not Path(folder, name).is_file()]:
        raise InputError(
            f"{text}: expected a model of mixvpr-jax, found no {' and no '.join(missing)}; "
            "download a PyTorch checkpoint and convert it with mixvpr convert to-flax"
        )
    if problem is not None and not hub.constants.HF_HUB_OFFLINE:
        logger.warning(
            "%s: the hub was out of reach (%s); taken as it was fetched earlier, commit %s",
            *(text, text_of(problem), Path(folder).name[:7]),
        )
    return Path(folder)


def push(
    files: Mapping[str, Path], address: str, *, overwrite: bool, private: bool, message: str
) -> str:
    """Writes files into a repository in one commit, and returns the commit's address.

    A repository that is not there is made first; an error leaves its files as they were.
    """
    (repository, revision), hub = parse_address(address), _library(address)
    api = hub.HfApi(**CLIENT)
    try:
        api.create_repo(repository, private=private or None, exist_ok=True)
        there = api.model_info(repository, revision=revision)
        if not overwrite:
            _refuse_another_model(hub, address, there, files["config.json"])
        commit = api.create_commit(
            repository,
            [hub.CommitOperationAdd(name, str(path)) for name, path in files.items()],
            commit_message=message,
            revision=revision,
            parent_commit=there.sha,  # whoever pushed meanwhile is not overwritten
        )
    except InputError:
        raise
    except Exception as error:  # from the hub, httpx or the file system
        status = getattr(getattr(error, "response", None), "status_code", None)
        denied = isinstance(error, hub.errors.LocalTokenNotFoundError) or status in (401, 403)
        hint = "; hf auth login with a token that may write there" if denied else ""
        why = f" ({text_of(error.__cause__)})" if type(error) is RuntimeError else ""  # an upload's
        raise InputError(
            f"{address}: expected to write the model in one commit, found: {text_of(error)}{why}"
            f"{hint}"
        ) from error
    return str(commit.commit_url)


def _refuse_another_model(hub: Any, address: str, there: Any, config: Path) -> None:
    names = {file.rfilename for file in there.siblings or ()}
    content = names - {".gitattributes", "README.md"}
    if "config.json" in names:
        found = hub.hf_hub_download(there.id, "config.json", revision=there.sha, **CLIENT)
        if Path(found).read_bytes() == config.read_bytes():
            return
        content = {"another config.json"}
    if content:
        raise InputError(
            f"{address}: expected an empty repository or an earlier version of this model, found "
            f"{', '.join(sorted(content)[:5])}; choose another name, or replace it with --overwrite"
        )


def _library(text: str) -> Any:
    with extra("hub", f"{text}: expected huggingface_hub"):
        import huggingface_hub.errors
    return huggingface_hub
