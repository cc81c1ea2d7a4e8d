"""Debian's packages without installing them: where from, once, and a clear sentence where it cannot be."""

import platform
from pathlib import Path

import pytest

from deploy.local import debian, rabbitmq
from deploy.local.process import ServerError
from deploy.local.stack import LOCAL

DEB822 = """\
# A mirror in the same city.
Types: deb
URIs: http://mirror.example/debian/
Suites: bookworm bookworm-updates
Components: main contrib

Types: deb
URIs: http://security.example/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: sid
Components: main
"""
ONE_LINE = """\
deb [arch=amd64 signed-by=/usr/share/keyrings/x.gpg] https://vendor.example/apt stable main
deb-src http://sources.example/debian bookworm main
deb https://classic.example/debian bookworm main non-free-firmware # ours
#deb http://commented.example/debian bookworm main
"""


def test_the_archive_of_a_deb822_system_is_found(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / "debian.sources").write_text(DEB822)
    assert debian.mirrors(tmp_path) == ["http://mirror.example/debian", "http://deb.debian.org/debian"]


def test_the_archive_of_a_classic_system_is_found_among_vendors(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text(ONE_LINE)
    assert debian.mirrors(tmp_path) == ["https://classic.example/debian", "http://deb.debian.org/debian"]


def test_a_system_without_sources_uses_debians_own_archive(tmp_path: Path) -> None:
    assert debian.mirrors(tmp_path) == ["http://deb.debian.org/debian"]


async def test_another_machine_is_told_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(ServerError, match=r"Linux aarch64, not Linux x86_64\.\nSet STREAM_URL .* --docker"):
        await rabbitmq.fetch(tmp_path, print)


async def test_another_distribution_is_told_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerError, match=r"no apt-get or dpkg-deb or tar .*\.\nSet STREAM_URL .* --docker"):
        await rabbitmq.fetch(tmp_path, print)


async def test_unpacked_packages_need_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await rabbitmq.fetch(LOCAL, print)
    monkeypatch.setenv("PATH", str(tmp_path))
    reports: list[str] = []
    assert await rabbitmq.fetch(LOCAL, reports.append) == first
    assert reports == []
