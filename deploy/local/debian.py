"""Debian packages unpacked into a private directory: no root, nothing installed, no system file touched.

What has no wheel (RabbitMQ, PgBouncer, a browser) comes from Debian's own archive, verified by its keyring. The
packages bring their own C library, so that trixie's programs run on an older system: every program is
replaced by a two-line script which starts it through the private loader. Kept under `.local/`, so that later
starts need no network.
"""

import fcntl
import hashlib
import os
import platform
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from deploy.local.process import ServerError, run

SUITE = "trixie"
_DEFAULT_MIRROR = "http://deb.debian.org/debian"
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_LOADER = f"{_LIBRARIES}/ld-linux-x86-64.so.2"
_UNNEEDED = (
    "./usr/share/doc/*",
    "./usr/share/man/*",
    "./usr/share/locale/*",
    "./usr/lib/*/gconv/*",
    "./usr/lib/systemd/*",
)
_APT_CONF = """\
Dir::State "{apt}/state"; Dir::State::lists "{apt}/lists"; Dir::State::status "{apt}/state/status";
Dir::Cache "{apt}/cache"; Dir::Etc::sourcelist "{apt}/sources.list"; Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferencesparts "/dev/null"; Dir::Etc::preferences "/dev/null";
APT::Sandbox::User ""; Acquire::Languages "none"; Acquire::Retries "3"; Debug::NoLocking "true";
"""


async def unpacked(
    local: Path,
    name: str,
    packages: Sequence[str],
    *,
    way_out: str,
    report: Callable[[str], None],
    without: Collection[str] | None = None,
) -> Path:
    """The root directory of `packages`, unpacked under `local`; downloaded once, offline afterwards.

    With `without`, all they depend on comes along, except the packages that it names. `way_out` ends every
    error: what the user can do instead.
    Errors: ServerError when this machine cannot unpack Debian packages or the archive does not answer.
    """
    if any(character.isspace() for character in str(local.resolve())):
        raise ServerError(f"the path {local.resolve()} has a blank, which {name} does not bear: {way_out}")
    left_out = [] if without is None else [f"-{package}" for package in ("", *sorted(without))]
    key = hashlib.sha256("\n".join([SUITE, *packages, *left_out]).encode()).hexdigest()[:10]
    cache = local / "packages"
    cache.mkdir(parents=True, exist_ok=True)
    prefix = cache.resolve() / f"{name}-{key}"
    with (prefix.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not prefix.exists():
            _require_debian(name, way_out)
            report(f"{name}: downloading Debian {SUITE}'s packages (once)")
            draft = prefix.with_name(f"{prefix.name}.draft")
            shutil.rmtree(draft, ignore_errors=True)
            try:
                await _download_and_unpack(draft, packages, without)
            except ServerError as error:
                raise ServerError(
                    f"{name} could not be set up from Debian's packages: {error}\n{way_out}"
                ) from error
            draft.rename(prefix)
        _relocate(prefix)
    return prefix / "root"


def mirrors(etc_apt: Path) -> list[str]:
    """Debian archive addresses this system uses, best first, Debian's own last.

    Reads both forms, `*.sources` (deb822) and one-line `*.list`, as in sources.list(5).
    """
    found: list[str] = []
    files = sorted(etc_apt.glob("sources.list.d/*.sources")) + sorted(etc_apt.glob("sources.list.d/*.list"))
    for file in [*files, etc_apt / "sources.list"]:
        if file.is_file():
            text = re.sub(r"(?m)^\s*#.*\n?", "", file.read_text())
            found += _deb822_uris(text) if file.suffix == ".sources" else _one_line_uris(text)
    archive = [uri.rstrip("/") for uri in found if re.search(r"/debian/?$", uri)]
    return list(dict.fromkeys([*archive, _DEFAULT_MIRROR]))


def _deb822_uris(text: str) -> Iterator[str]:
    for stanza in re.split(r"\n\s*\n", text):
        fields = {k.lower(): v for k, v in re.findall(r"(?ms)^([A-Za-z-]+):[ \t]*(.*?)(?=^\S|\Z)", stanza)}
        is_enabled = fields.get("enabled", "yes").strip().lower() != "no"
        has_packages = (
            "deb" in fields.get("types", "").split() and "main" in fields.get("components", "").split()
        )
        if is_enabled and has_packages:
            yield from fields.get("uris", "").split()


def _one_line_uris(text: str) -> Iterator[str]:
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[[^\]]*\]\s*)?(\S+)\s+\S+\s+(.*)", line)
        if match and "main" in match[2].split():
            yield match[1]


def _require_debian(name: str, way_out: str) -> None:
    missing = [tool for tool in ("apt-get", "dpkg-deb", "tar") if shutil.which(tool) is None]
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        problem = f"this machine is {platform.system()} {platform.machine()}, not Linux x86_64"
    elif missing:
        problem = f"this machine has no {' or '.join(missing)} (it is not Debian or Ubuntu)"
    elif not _KEYRING.exists():
        problem = f"{_KEYRING} is missing (install the package debian-archive-keyring)"
    else:
        return
    raise ServerError(f"{name} has no private build for this machine: {problem}.\n{way_out}")


async def _download_and_unpack(
    prefix: Path, packages: Sequence[str], without: Collection[str] | None
) -> None:
    apt, root = prefix / "apt", prefix / "root"
    for part in ("lists/partial", "cache/archives/partial", "state", "downloads"):
        (apt / part).mkdir(parents=True)
    root.mkdir()
    (apt / "state" / "status").touch()
    (apt / "apt.conf").write_text(_APT_CONF.format(apt=apt))
    env = {**os.environ, "APT_CONFIG": str(apt / "apt.conf"), "LC_ALL": "C.UTF-8"}
    await _first_that_answers(mirrors(Path("/etc/apt")), apt, env)
    if without is not None:
        packages = [name for name in await _needed_by(packages, env) if name not in without]
    await run(["apt-get", "download", "-qq", *packages], env=env, cwd=apt / "downloads", deadline_s=600)
    for package in sorted((apt / "downloads").glob("*.deb")):
        archive = prefix / "package.tar"
        await run(["sh", "-c", 'dpkg-deb --fsys-tarfile "$1" > "$2"', "sh", str(package), str(archive)])
        excluded = [f"--exclude={pattern}" for pattern in _UNNEEDED]
        await run(["tar", "-x", "-f", str(archive), "-C", str(root), "--no-same-owner", *excluded])
        archive.unlink()
    for link in ("lib", "lib64", "bin", "sbin"):
        if not (root / link).exists():
            (root / link).symlink_to(f"usr/{link}")
    shutil.rmtree(apt)


async def _needed_by(packages: Sequence[str], env: dict[str, str]) -> list[str]:
    """The packages and all they depend on, as apt would install them on an empty system."""
    plan = await run(
        ["apt-get", "install", "--simulate", "-qq", "--no-install-recommends", *packages], env=env
    )
    return re.findall(r"(?m)^Inst (\S+)", plan)


async def _first_that_answers(candidates: Sequence[str], apt: Path, env: dict[str, str]) -> None:
    problems = []
    for mirror in candidates:
        (apt / "sources.list").write_text(f"deb [signed-by={_KEYRING}] {mirror} {SUITE} main\n")
        try:
            # Without this, apt-get update ends with 0 when the archive does not answer.
            await run(
                ["apt-get", "update", "-qq", "-o", "APT::Update::Error-Mode=any"], env=env, deadline_s=300
            )
        except ServerError as error:
            problems.append(f"{mirror}: {error}")
        else:
            return
    raise ServerError("no Debian archive answered:\n" + "\n".join(problems))


def _relocate(prefix: Path) -> None:
    """Make every program start through the private loader at the prefix's present place."""
    marker = prefix / "place"
    if marker.exists() and marker.read_text() == str(prefix):
        return
    root = prefix / "root"
    for path in list(root.rglob("*")):
        real = path if path.suffix == ".real" else path.with_name(f"{path.name}.real")
        if not path.is_symlink() and path.suffix != ".real" and _is_program(path):
            path.rename(real)
        elif path.suffix != ".real":
            continue
        shim = real.with_suffix("") if path.suffix == ".real" else path
        command = f'"{root / _LOADER}" --library-path "{root / _LIBRARIES}" --argv0 "{shim}" "{real}"'
        shim.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        shim.chmod(0o755)
    marker.write_text(str(prefix))


def _is_program(path: Path) -> bool:
    """True for an ELF executable (not a library)."""
    if not path.is_file() or ".so" in path.name or not os.access(path, os.X_OK):
        return False
    with path.open("rb") as content:
        return content.read(4) == b"\x7fELF"
