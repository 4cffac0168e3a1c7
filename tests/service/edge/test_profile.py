"""deploy/edge: what its files say, the programs understand."""

import re
import shlex

from typer.testing import CliRunner

from service.cli import app
from service.settings import Settings
from tests.conftest import REPOSITORY

EDGE = REPOSITORY / "deploy" / "edge"


def test_the_settings_of_the_box_are_valid_and_bounded() -> None:
    """Every name exists, the values go together, and vehicles and cache have bounds."""
    lines = re.findall(r"^EMBERWATCH_(\w+)=(.*)$", (EDGE / "edge.env").read_text(), re.MULTILINE)
    settings = Settings(**{name.lower(): value for name, value in lines})
    assert settings.store == "embedded"
    assert settings.durability == "fsync"
    assert 0 < settings.max_vehicles <= (settings.slots or 0)


def test_the_units_start_commands_that_exist() -> None:
    """With options that the command knows."""
    for name in ("emberwatch.service", "emberwatch-forward.service"):
        text = (EDGE / name).read_text().replace("\\\n", " ")
        program, command, *options = shlex.split(re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)[0])
        assert program.endswith("/emberwatch")
        shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
        assert shown.exit_code == 0
        assert all(option in shown.output for option in options if option.startswith("--")), options
