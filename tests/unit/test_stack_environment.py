"""How `.env` is made and read."""

from pathlib import Path

import pytest

from deploy.stack import environment
from deploy.stack.errors import StackError

EXAMPLE = """\
# A port.
WEB_PORT=8000
# generate: local:{secret}
API_TOKENS=
# generate: {secret}
REDIS_PASSWORD=
# generate: {secret}
FIXED=already
EMPTY=
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / ".env.example").write_text(EXAMPLE, encoding="utf-8")
    return tmp_path


def test_creates_a_private_file_with_fresh_secrets(root: Path) -> None:
    assert environment.prepare(root) == ["API_TOKENS", "REDIS_PASSWORD"]

    values = environment.load(root, {})
    assert (root / ".env").stat().st_mode & 0o777 == 0o600
    assert values["API_TOKENS"].startswith("local:")
    assert len(values["REDIS_PASSWORD"]) >= 32
    assert values["REDIS_PASSWORD"] not in values["API_TOKENS"]
    assert values["FIXED"] == "already"
    assert values["EMPTY"] == ""


def test_fills_in_only_what_is_missing_or_empty(root: Path) -> None:
    (root / ".env").write_text("REDIS_PASSWORD=\nWEB_PORT=9000\n# mine", encoding="utf-8")

    assert environment.prepare(root) == ["API_TOKENS", "REDIS_PASSWORD"]

    text = (root / ".env").read_text(encoding="utf-8")
    assert "WEB_PORT=9000\n# mine\nAPI_TOKENS=local:" in text
    assert text.count("REDIS_PASSWORD=") == 1


def test_leaves_a_complete_file_alone(root: Path) -> None:
    environment.prepare(root)
    before = (root / ".env").read_text(encoding="utf-8")

    assert environment.prepare(root) == []
    assert (root / ".env").read_text(encoding="utf-8") == before


def test_the_process_environment_wins_and_the_example_gives_defaults(root: Path) -> None:
    (root / ".env").write_text("FIXED=file\n", encoding="utf-8")

    values = environment.load(root, {"FIXED": "process"})

    assert values["FIXED"] == "process"
    assert values["WEB_PORT"] == "8000"


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("NAME=plain", "plain"),
        ("NAME='single quotes'", "single quotes"),
        ('NAME="a # is kept"', "a # is kept"),
        ("NAME=value # comment", "value"),
        ("NAME=pass#word=xy", "pass#word=xy"),
        ("export NAME=exported", "exported"),
        ("NAME=", ""),
    ],
)
def test_reads_values(line: str, value: str) -> None:
    assert environment.parse(line) == {"NAME": value}


def test_names_the_line_that_is_not_an_assignment() -> None:
    with pytest.raises(StackError, match=r"\.env line 2: expected NAME=value, found 'oops'"):
        environment.parse("A=1\noops\n")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("API_TOKENS=local:abc$HOME", "single quotes"),
        ('API_TOKENS="local:abc$HOME"', "single quotes"),
        ("POSTGRES_PASSWORD=p@ss/word", "part of an address"),
        ("REDIS_PASSWORD='a b'", "part of an address"),
    ],
)
def test_refuses_values_that_would_not_be_the_same_everywhere(line: str, reason: str) -> None:
    with pytest.raises(StackError, match=rf"^\.env line 2: .*{reason}"):
        environment.parse(f"# above\n{line}\n")
    assert environment.parse("API_TOKENS='local:abc$HOME'")["API_TOKENS"] == "local:abc$HOME"


def test_says_where_to_run_when_the_example_is_missing(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="run this from the root of the repository"):
        environment.prepare(tmp_path)
