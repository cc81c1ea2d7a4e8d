"""The first lines a new user meets: what `dev` says on a machine that lacks something."""

import shutil
import subprocess
from pathlib import Path

import pytest

from deploy.migrations import CHECKOUT

TOOLS = ("sh", "dirname", "cat", "cksum", "rm", "awk", "printf")


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A checkout without .venv, and a PATH with the system's basic tools but no Python."""
    for name in ("dev", "requirements.lock", "pyproject.toml"):
        shutil.copy(CHECKOUT / name, tmp_path)
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (tmp_path / "bin" / tool).symlink_to(found)
    return tmp_path


def dev(checkout: Path) -> subprocess.CompletedProcess[str]:
    command = [str(checkout / "bin" / "sh"), str(checkout / "dev"), "env"]
    bare = {"PATH": str(checkout / "bin"), "SYSTEM_PYTHON": ""}
    return subprocess.run(command, env=bare, capture_output=True, text=True, check=False, timeout=30)


def test_a_machine_without_python_is_told_which_one_is_needed(bare: Path) -> None:
    answer = dev(bare)
    assert answer.returncode == 1
    assert "needs Python 3.11, 3.12 or 3.13" in answer.stderr
    assert "docker compose up" in answer.stderr


def test_a_machine_with_another_python_only_is_told_which_one_is_needed(bare: Path) -> None:
    old = bare / "bin" / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")  # what an older Python answers to the question about its version
    old.chmod(0o755)
    answer = dev(bare)
    assert answer.returncode == 1
    assert "needs Python 3.11, 3.12 or 3.13" in answer.stderr


def test_a_python_without_ensurepip_and_pip_is_told_what_to_install(bare: Path) -> None:
    partial = bare / "bin" / "python3"
    partial.write_text('#!/bin/sh\ncase "$2" in *version_info*) exit 0 ;; esac\nexit 1\n')
    partial.chmod(0o755)
    answer = dev(bare)
    assert answer.returncode == 1
    assert "apt-get install python3-venv" in answer.stderr
