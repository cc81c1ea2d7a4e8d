"""The lock: the same on every machine, complete, and silent about where this one gets its packages."""

import re
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.migrations import CHECKOUT

LOCK = (CHECKOUT / "requirements.lock").read_text()
LOCKED = set(re.findall(r"(?m)^([A-Za-z0-9._-]+)==([^\s;]+)", LOCK))


def test_the_lock_names_no_address() -> None:
    assert re.findall(r"(?i)[a-z+]*://\S*|^\s*-.*index.*|find-links|@ ?file", LOCK, re.MULTILINE) == []


def test_every_locked_package_is_pinned_by_hash() -> None:
    stanzas = re.split(r"(?m)^(?=[A-Za-z0-9])", LOCK)[1:]
    assert len(stanzas) == len(LOCKED) > 50
    assert [stanza.splitlines()[0] for stanza in stanzas if "--hash=sha256:" not in stanza] == []


def test_the_lock_satisfies_the_project() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    wanted = [Requirement(line) for line in [*project["dependencies"], *extras]]
    unmet = [
        str(requirement)
        for requirement in wanted
        if not any(
            name == canonicalize_name(requirement.name) and requirement.specifier.contains(version)
            for name, version in LOCKED
        )
    ]
    assert unmet == []
