"""How pictures of the dashboards are made: a program is asked for each, and its drawing kept."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from deploy.grafana.dashboards import pictures

#: Draws a picture whose colour is the theme, and writes its arguments beside it.
RENDERER = """
import sys
from pathlib import Path
from PIL import Image
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert Path(given["--dashboard"]).exists()
Image.new("RGB", (4, 3), {"dark": "black", "light": "white"}[given["--theme"]]).save(given["--out"])
Path(__file__).with_suffix(".calls").open("a").write(" ".join(sys.argv[1:]) + "\\n")
sys.exit(3 if given["--prometheus"] == "http://broken" else 0)
"""


@pytest.fixture
def renderer(tmp_path: Path, monkeypatch) -> str:
    monkeypatch.setattr(pictures, "PICTURES", tmp_path / "pictures")
    program = tmp_path / "renderer.py"
    program.write_text(RENDERER, encoding="utf-8")
    return f"{sys.executable} {program}"


def draw(renderer: str, *arguments: str, prometheus: str = "http://127.0.0.1:9090") -> int:
    return pictures.main(["--renderer", renderer, "--prometheus", prometheus, *arguments])


def test_each_picture_is_drawn_and_kept(renderer: str, tmp_path: Path) -> None:
    assert draw(renderer, "overview", "queues", "--from", "now-15m") == 0
    drawn = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert drawn == ["overview-dark.png", "overview-light.png", "queues-dark.png"]
    with Image.open(tmp_path / "pictures" / "overview-light.png") as picture:
        assert picture.mode == "P"
        assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    calls = (tmp_path / "renderer.calls").read_text(encoding="utf-8").splitlines()
    assert all(call.endswith("--width 1920 --from now-15m") for call in calls)


def test_a_program_that_fails_ends_it(renderer: str, tmp_path: Path, capsys) -> None:
    assert draw(renderer, prometheus="http://broken") == 1
    assert list((tmp_path / "pictures").iterdir()) == []
    assert "overview-dark.png was not drawn" in capsys.readouterr().err


def test_what_is_missing_is_said(renderer: str, capsys) -> None:
    assert draw("") == 2
    assert "DASHBOARD_RENDERER" in capsys.readouterr().err
    assert draw(renderer, "weather") == 2
    assert "weather" in capsys.readouterr().err
