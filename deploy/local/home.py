"""Where a server's files live, and as whom it runs.

PostgreSQL refuses to run as root. For an ordinary user everything stays in the checkout's `.local/`. For root
it runs as an unprivileged account, which may not be able to reach the checkout (a 0700 home): its data and
binaries then live in a directory of their own outside, with a random name that `.local/outside` remembers.
"""

import json
import os
import pwd
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from deploy.local.process import Account, ServerError

_ACCOUNTS = ("postgres", "nobody")
_OUTSIDE = (Path("/var/tmp"), Path("/tmp"))  # nosec B108


@dataclass(frozen=True, slots=True)
class Home:
    """A directory for servers' files, and the account they run as (None: our own)."""

    path: Path
    account: Account | None

    def make(self, name: str) -> Path:
        """The subdirectory `name`, made with mode 0700 and owned by the account."""
        path = self.path / name
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.account is not None:
            os.chown(path, self.account.uid, self.account.gid)
        return path


def home(local: Path) -> Home:
    """The home of the checkout whose ignored directory is `local`; made on first use.

    Errors: ServerError when root has no unprivileged account or no directory it could use.
    """
    local.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.geteuid() != 0:
        return Home(local, None)
    account = _unprivileged_account()
    record = local / "outside"
    remembered = _remembered(record, local)
    if remembered is None:
        remembered = _make_outside()
        record.write_text(json.dumps({"directory": str(remembered), "of": str(local.resolve())}))
    return Home(remembered, account)


def forget(local: Path) -> None:
    """Remove the directory outside the checkout, if there is one."""
    record = local / "outside"
    remembered = _remembered(record, local)
    if remembered is not None:
        shutil.rmtree(remembered)
        record.unlink()


def _unprivileged_account() -> Account:
    for name in _ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise ServerError(
        "PostgreSQL cannot run as root and this machine has neither a 'postgres' nor a 'nobody' user: "
        "run ./dev as an ordinary user, or set DATABASE_URL"
    )


def _remembered(record: Path, local: Path) -> Path | None:
    """The recorded directory if it is still ours; a copied checkout must not share the original's."""
    if not record.exists():
        return None
    content = json.loads(record.read_text())
    path = Path(content["directory"])
    if content["of"] != str(local.resolve()) or path.is_symlink() or not path.is_dir():
        return None
    status = path.stat()
    return path if status.st_uid == 0 and not status.st_mode & 0o022 else None


def _make_outside() -> Path:
    for parent in _OUTSIDE:
        if parent.is_dir() and not os.statvfs(parent).f_flag & os.ST_NOEXEC:
            path = Path(tempfile.mkdtemp(prefix="commdesk-", dir=parent))
            path.chmod(0o711)  # passable for the account, listable for root only
            return path
    raise ServerError(
        "PostgreSQL cannot run as root, and neither /var/tmp nor /tmp may hold its programs (missing or "
        "noexec): run ./dev as an ordinary user, or set DATABASE_URL"
    )
