"""From a folder's or a repository's name to local files; `huggingface_hub` does the downloading."""

import os
from collections.abc import Iterable
from pathlib import Path

from . import files

# The keywords that say where and how to look, as `resolve_file` takes them.
ARGUMENTS = (
    "revision", "cache_dir", "token", "local_files_only", "force_download", "subfolder",
)  # fmt: skip


class HubError(OSError, ValueError):
    """A folder, repository or file that is not there or cannot be reached."""


def resolve_file(
    name_or_path: str | os.PathLike[str],
    filename: str,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    subfolder: str = "",
) -> Path | None:
    """Finds one file of a checkpoint, downloading it if it is not in the cache.

    Args:
        name_or_path: a local folder, or a repository of the hub such as "google/rembert".
        filename: the file's name in there.
        revision: branch, tag or commit of a repository; by default its main branch.
        cache_dir: where downloads are kept; by default as `huggingface_hub` has it.
        token: access token; True takes the one that was logged in with, False sends none.
        local_files_only: whether to look in the cache only, as with HF_HUB_OFFLINE=1.
        force_download: whether to download again what is in the cache.
        subfolder: folder inside `name_or_path`.

    Returns:
        The local path, or None where the folder or repository has no such file.

    Raises:
        HubError: no such folder or repository, no access to it, or no connection.
    """
    name = os.fspath(name_or_path)
    _check_inside(filename)
    _check_inside(subfolder)
    folder = Path(name)
    if folder.is_dir():
        files.recover(folder / subfolder)
        path = folder / subfolder / filename
        return path if path.is_file() else None
    _check_is_repository(name)

    import huggingface_hub
    from huggingface_hub import constants, errors

    trouble: BaseException | None = None
    if not (local_files_only or constants.HF_HUB_OFFLINE):
        # One question without retries: a download asks again for half a minute when there is no
        # connection, and that for each file.
        try:
            url = huggingface_hub.hf_hub_url(
                name, filename, subfolder=subfolder or None, revision=revision
            )
            _ask(url, token)
        except errors.EntryNotFoundError:
            return None
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
            raise _explained(error, name, revision) from error
        except _failures() as error:
            trouble = error
    cached_only = local_files_only or constants.HF_HUB_OFFLINE or trouble is not None
    if force_download and cached_only:
        raise _explained(trouble, name, revision) from trouble
    try:
        return Path(
            huggingface_hub.hf_hub_download(
                name,
                filename,
                subfolder=subfolder or None,
                revision=revision,
                cache_dir=_path(cache_dir),
                token=token,
                local_files_only=cached_only,
                force_download=force_download,
            )
        )
    except errors.LocalEntryNotFoundError as error:
        # Without a connection the cache has the word: it may hold the snapshot without the file.
        answered = isinstance(trouble, errors.HfHubHTTPError)
        if not answered and _cached_snapshot(name, revision, cache_dir) is not None:
            return None
        raise _explained(trouble, name, revision) from (trouble or error)
    except errors.EntryNotFoundError:
        return None
    except _failures() as error:
        raise _explained(error, name, revision) from error


def resolve_folder(
    name_or_path: str | os.PathLike[str],
    patterns: Iterable[str] | None = None,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    subfolder: str = "",
) -> Path:
    """Finds the folder of a checkpoint, downloading the files that match, all of one commit.

    Args:
        patterns: names of the files that are wanted, such as "*.json"; by default all.
        name_or_path, revision, cache_dir, token, local_files_only, force_download, subfolder: as
            for `resolve_file`.

    Returns:
        The local folder; files that do not exist are not in it.

    Raises:
        HubError: no such folder or repository, no access to it, or no connection.
    """
    name = os.fspath(name_or_path)
    _check_inside(subfolder)
    folder = Path(name)
    if folder.is_dir():
        folder = folder / subfolder
    else:
        _check_is_repository(name)

        import huggingface_hub

        wanted = list(patterns) if patterns is not None else ["*"]
        try:
            snapshot = huggingface_hub.snapshot_download(
                name,
                allow_patterns=[f"{subfolder}/{pattern}" for pattern in wanted]
                if subfolder
                else wanted,
                revision=revision,
                cache_dir=_path(cache_dir),
                token=token,
                local_files_only=local_files_only,
                force_download=force_download,
            )
        except _failures() as error:
            raise _explained(error, name, revision) from error
        folder = Path(snapshot) / subfolder
    if not folder.is_dir():
        raise HubError(f"{name} has no folder {subfolder!r}")
    files.recover(folder)
    return folder


def _path(path: str | os.PathLike[str] | None) -> Path | None:
    return None if path is None else Path(path)


def _check_inside(name: str) -> None:
    """Refuses a name that leads out of the folder: it may come from a downloaded file."""
    if os.path.isabs(name) or ".." in Path(name).parts:
        raise HubError(f"{name!r} leads out of the checkpoint's folder")


def _check_is_repository(name: str) -> None:
    """Refuses what can only be meant as a local path."""
    if os.path.isfile(name):
        raise HubError(f"{name} is a file, expected a folder or a repository of the hub")
    if os.path.isabs(name) or name.startswith((".", "~")) or "\\" in name or name.count("/") > 1:
        raise HubError(f"{name}: no such folder")


def _ask(url: str, token: str | bool | None) -> None:
    """Raises the hub's error where `url` is not to be had; a redirection is for the download."""
    from huggingface_hub import constants, utils

    response = utils.get_session().head(
        url,
        headers=utils.build_hf_headers(token=token),
        timeout=constants.HF_HUB_ETAG_TIMEOUT,
    )
    if response.status_code >= 400:
        utils.hf_raise_for_status(response)


def _cached_snapshot(
    name: str, revision: str | None, cache_dir: str | os.PathLike[str] | None
) -> str | None:
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return huggingface_hub.snapshot_download(
            name, revision=revision, cache_dir=_path(cache_dir), local_files_only=True
        )
    except errors.LocalEntryNotFoundError:
        return None


def _failures() -> tuple[type[BaseException], ...]:
    """What `huggingface_hub` raises; its own HTTP error derives from its HTTP library's."""
    from huggingface_hub import errors

    http = errors.HfHubHTTPError.__bases__
    return (OSError, errors.HFValidationError, errors.EntryNotFoundError, *http)


def _explained(error: BaseException | None, name: str, revision: str | None) -> HubError:
    """One error that says what failed and what to try; without `error`, nothing was to be asked."""
    from huggingface_hub import constants, errors

    cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else error
    if cause is None or isinstance(cause, errors.OfflineModeIsEnabled):
        reason = (
            "is no folder, and not in the cache as asked for; downloading is off by "
            "local_files_only or HF_HUB_OFFLINE"
        )
    elif isinstance(cause, errors.HFValidationError):
        reason = "is neither a folder nor the name of a repository such as 'google/rembert'"
    elif isinstance(cause, errors.GatedRepoError):
        reason = "is gated: accept its terms on the hub, then log in or pass token="
    elif isinstance(cause, errors.RepositoryNotFoundError):
        reason = "is no folder and no repository you can read: check the name, or pass token="
    elif isinstance(cause, errors.RevisionNotFoundError):
        reason = f"has no revision {revision!r}"
    else:
        reason = (
            f"is no folder, and could not be downloaded from {constants.ENDPOINT}: "
            f"{type(cause).__name__}: {cause}"
        )
    return HubError(f"{name} {reason}")
