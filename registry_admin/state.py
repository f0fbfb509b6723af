"""Where the files are that this program makes: the SQLite database and the signing key.

They lie in the state directory. Before 0.3.0 they lay beside the code; there they go on being used. A start that would
make a new file while an earlier one lies in another place is refused: it would begin with an empty database, or with a
key that cannot decrypt what is stored.
"""

from __future__ import annotations

import os
import secrets
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

DATABASE, KEY = "db.sqlite3", "secret_key"


class StateRefused(Exception):
    """The files cannot be used or made; the message says what to do."""


def default_folder(code: Path, *, in_checkout: bool, environment: Mapping[str, str]) -> Path | None:
    """The state directory if no setting names it. None: this user has no home, so one must be named.

    XDG Base Directory Specification: `$XDG_STATE_HOME`, which counts only if it is absolute, or `~/.local/state`.
    """
    if in_checkout:
        return code / "state"
    named = environment.get("XDG_STATE_HOME", "")
    try:
        return Path(named if named.startswith("/") else Path.home() / ".local" / "state") / "registry-admin"
    except RuntimeError:  # no HOME, and a user id without a name
        return None


def locate(
    names: Sequence[str], *, given: Path | None, default: Path | None, former: Sequence[Path]
) -> dict[str, Path]:
    """The path of each file, which may not exist yet. `names`: those that this start needs.

    `given`: the setting STATE_DIR. `former`: folders in which earlier versions kept the files. Raises StateRefused.
    """
    folder = given or default
    if not names:
        return {}
    if folder is None:
        raise StateRefused(
            "STATE_DIR: not set, and this user has no home directory. Set it, for example to /var/lib/registry-admin."
        )
    places = [place for place in (default, *former) if place not in (None, folder)]
    found, left = {}, {}
    for name in names:
        earlier = next((place / name for place in places if place and os.path.exists(place / name)), None)
        found[name] = folder / name
        if earlier is not None and not os.path.exists(found[name]):
            found[name] = left[name] = earlier
    if left and given is not None:
        raise StateRefused(_how_to_move(left, given))
    return found


def _how_to_move(files: Mapping[str, Path], folder: Path) -> str:
    target = shlex.quote(str(folder))
    moves = [
        f"mv {shlex.quote(str(path))}{'*' if name == DATABASE else ''} {target}/"  # with -wal and -shm
        for name, path in files.items()
    ]
    return (
        f"STATE_DIR: {folder} has no {' and no '.join(files)}, and an earlier start used "
        f"{' and '.join(str(path) for path in files.values())}. A new file would hide what is stored. Stop all "
        f"processes, then type: {' && '.join([f'install -d -m 700 {target}', *moves])}\n"
        "To begin with new files instead, move the earlier ones to another folder."
    )


def make_folder(folder: Path) -> None:
    """Make the state directory, for its owner only. Raises StateRefused."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StateRefused(
            f"STATE_DIR: {folder} cannot be made: {error.strerror}. Set STATE_DIR to a folder in which this user can "
            "write, or set DATABASE_URL and SECRET_KEY."
        ) from None


def key_in(path: Path) -> str:
    """The signing key in the file, which is made if it does not exist. Raises StateRefused."""
    try:
        if not os.path.exists(path):  # also if the folder may not be searched; then the draft says so
            # Two processes may start at once: the first process creates the link, the second process reads the file.
            # The link appears only when the file is complete.
            draft = path.with_suffix(f".{os.getpid()}")
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_urlsafe(50))
            try:
                os.link(draft, path)
            except FileExistsError:
                pass
            finally:
                draft.unlink()
        return path.read_text().strip()
    except OSError as error:
        raise StateRefused(
            f"SECRET_KEY: not set, and {path} cannot be read or written: {error.strerror}. Set SECRET_KEY or "
            "SECRET_KEY_FILE."
        ) from None
