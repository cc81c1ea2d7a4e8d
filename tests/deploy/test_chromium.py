"""The browser that tests click with: whose it is, that the private one draws, and the way out without one."""

from pathlib import Path

import pytest

from deploy.local import chromium
from deploy.local.process import ServerError, run
from deploy.local.stack import LOCAL

PAGE = "data:text/html,<title>drawn</title><p id=a></p><script>a.textContent = 6 * 7</script>"


def browser_at(path: Path) -> Path:
    path.write_text("#!/bin/sh\necho Chromium 1.0\n")
    path.chmod(0o755)
    return path


async def test_the_named_browser_comes_before_one_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, on_path = browser_at(tmp_path / "named"), browser_at(tmp_path / "chromium")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert await chromium.find(tmp_path, print, environment={"CHROMIUM": str(named)}) == named
    assert await chromium.find(tmp_path, print, environment={}) == on_path


async def test_a_named_browser_that_is_missing_or_broken_is_an_error_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"CHROMIUM names /nowhere, .* apt-get install chromium"):
        await chromium.find(tmp_path, print, environment={"CHROMIUM": "/nowhere"})
    with pytest.raises(ServerError, match=r"(?s)false does not start: .* apt-get install chromium"):
        await chromium.find(tmp_path, print, environment={"CHROMIUM": "false"})


async def test_a_machine_without_a_browser_or_debians_tools_is_told_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerError, match=r"(?s)no apt-get .* apt-get install chromium.* CHROMIUM="):
        await chromium.find(tmp_path, print, environment={})


@pytest.mark.timeout(600)  # it may have to be downloaded
async def test_the_unpacked_browser_runs_scripts_and_draws_with_fonts_of_its_own(tmp_path: Path) -> None:
    browser = str(await chromium.fetch(LOCAL, print))
    flags = ["--headless", *chromium.FLAGS, f"--user-data-dir={tmp_path}/profile"]
    assert '<p id="a">42</p>' in await run([browser, *flags, "--dump-dom", PAGE])
    pictures = []
    for word in ("iiii", "WWWW"):
        picture = tmp_path / f"{word}.png"
        await run([browser, *flags, f"--screenshot={picture}", f"data:text/html,{word}"])
        pictures.append(picture.read_bytes())
    assert pictures[0] != pictures[1]
