"""A browser for the tests that click: the one named by CHROMIUM, one on PATH, else Debian's, unpacked privately.

Debian's headless shell starts through its packages' own C library, as every unpacked program does. It finds its
files and its child processes by the path of what the kernel started, which is then the loader: so the loader
lies beside it, and it is told what to start as a child.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from deploy.local import debian
from deploy.local.process import ServerError, run

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
"""A browser that reaches loopback only. It opens nothing but our own pages, so it needs no sandbox."""

_NAMES = ("chromium", "chromium-headless-shell", "google-chrome")
_WAY_OUT = (
    "Install one (Debian: apt-get install chromium), or name a Chromium or Chrome: CHROMIUM=/path/to/program."
)
_PACKAGES = ["chromium-headless-shell", "fonts-inter", "fonts-dejavu-core"]
# Drivers of graphics cards, and what only a desktop or an installation needs.
_WITHOUT = ("libllvm19", "libz3-4", "mesa-libgallium", "libgl1-mesa-dri", "x11-utils", "xdg-utils", "debconf")
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_PROGRAM = "usr/lib/chromium/chromium-headless-shell.real"
_LAUNCHER = """\
#!/bin/sh
export FONTCONFIG_FILE="{prefix}/fonts.conf"
exec "{home}/loader.so" --library-path "{libraries}:{libraries}/pulseaudio" --argv0 "{prefix}/chromium" \\
    "{program}" --browser-subprocess-path="{prefix}/chromium" --no-zygote --no-sandbox "$@"
"""
_FONTS = """\
<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "urn:fontconfig:fonts.dtd">
<fontconfig>
  <dir>{root}/usr/share/fonts</dir>
  <cachedir>{prefix}/fonts-cache</cachedir>
  <alias><family>sans-serif</family><prefer><family>Inter</family><family>DejaVu Sans</family></prefer></alias>
  <alias><family>system-ui</family><prefer><family>Inter</family><family>DejaVu Sans</family></prefer></alias>
  <alias><family>monospace</family><prefer><family>DejaVu Sans Mono</family></prefer></alias>
</fontconfig>
"""


async def find(
    local: Path, report: Callable[[str], None], *, environment: Mapping[str, str] = os.environ
) -> Path:
    """A browser that starts: CHROMIUM's, else one on PATH, else a private one.

    Errors: ServerError with the way out when there is none.
    """
    named = environment.get("CHROMIUM")
    candidates = [named] if named else list(_NAMES)
    found = next((path for name in candidates if (path := shutil.which(name))), None)
    if named and found is None:
        raise ServerError(f"CHROMIUM names {named}, which is no program. {_WAY_OUT}")
    browser = Path(found) if found else await fetch(local, report)
    try:
        await run([str(browser), "--version"], deadline_s=60)
    except ServerError as error:
        raise ServerError(f"{browser} does not start: {error}\n{_WAY_OUT}") from error
    return browser


async def fetch(local: Path, report: Callable[[str], None]) -> Path:
    """Debian's headless Chromium with fonts of its own, unpacked on first use; the program to start.

    Errors: ServerError with the way out.
    """
    root = await debian.unpacked(
        local, "chromium", _PACKAGES, without=_WITHOUT, way_out=_WAY_OUT, report=report
    )
    prefix, libraries, program = root.parent, root / _LIBRARIES, root / _PROGRAM
    loader = program.with_name("loader.so")
    if not loader.exists():
        shutil.copy(libraries / "ld-linux-x86-64.so.2", loader.with_suffix(f".{os.getpid()}"))
        loader.with_suffix(f".{os.getpid()}").rename(loader)
    _write(prefix / "fonts.conf", _FONTS.format(root=root, prefix=prefix))
    launcher = _LAUNCHER.format(prefix=prefix, home=program.parent, libraries=libraries, program=program)
    return _write(prefix / "chromium", launcher)


def _write(path: Path, content: str) -> Path:
    """The file with this content, executable; never seen half written."""
    if not path.exists() or path.read_text() != content:
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        draft.write_text(content)
        draft.chmod(0o755)
        draft.rename(path)
    return path
