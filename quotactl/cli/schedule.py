"""The schedule of `quotactl reset daily`, as cron and systemd read it.

Both run it every hour. It closes what is over and not closed, and else does nothing, so
neither the machine's zone nor a change of clocks can make it miss a day or close one
twice, and what a machine slept through is caught up.
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

from quotactl.errors import InvalidInput

_WHY = """\
# Closes the days of the quota ledger {name} that are over. Hourly, because a run that
# finds nothing to close does nothing: no zone and no change of clocks is to be thought of.
"""


def command(ledger: Path) -> list[str]:
    """The command line to run, with absolute paths."""
    # Not resolved: in a virtual environment the links are what makes it one.
    script = Path(sys.executable).absolute().with_name("quotactl")
    program = [str(script)]
    if not script.is_file():
        program = [str(Path(sys.executable).absolute()), "-m", "quotactl"]
    return [*program, "--db", str(ledger), "reset", "daily", "-q"]


def cron(ledger: Path, name: str) -> str:
    """Two lines of comment and one of crontab."""
    words = command(ledger)
    _refuse_line_breaks(words)
    # An unescaped percent sign is a line's end for cron, in quotes too.
    line = shlex.join(words).replace("%", "\\%")
    return f"{_WHY.format(name=_comment(name))}17 * * * * {line}\n"


def systemd(ledger: Path, name: str) -> str:
    """A service and a timer, one after the other, each under its file's name."""
    import pwd

    words = command(ledger)
    _refuse_line_breaks(words)
    # The prefix keeps `$` what it is; systemd before 244 does not know it, so only then.
    literal = ":" if any("$" in word for word in words) else ""
    line = literal + " ".join(_systemd_word(word) for word in words)
    uid = ledger.stat().st_uid
    try:
        owner = pwd.getpwuid(uid).pw_name
    except KeyError:
        owner = str(uid)
    text = _comment(name).replace("%", "%%")
    return f"""\
# /etc/systemd/system/quotactl-reset.service
{_WHY.format(name=_comment(name))}\
[Unit]
Description=Close the days of the quota ledger {text}

[Service]
Type=oneshot
User={owner}
ExecStart={line}

# /etc/systemd/system/quotactl-reset.timer
# Then: systemctl daemon-reload && systemctl enable --now quotactl-reset.timer
[Unit]
Description=Close the days of the quota ledger {text}, every hour

[Timer]
OnCalendar=*-*-* *:17:00
Persistent=true

[Install]
WantedBy=timers.target
"""


def _systemd_word(word: str) -> str:
    """A word as `ExecStart=` reads it: in double quotes, specifiers doubled."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return word if re.fullmatch(r"[\w/.@:+-]+", word, re.ASCII) else f'"{escaped}"'


def _comment(name: str) -> str:
    return "".join(c if c.isprintable() else " " for c in name)


def _refuse_line_breaks(words: list[str]) -> None:
    for word in words:
        if "\n" in word or "\r" in word:
            raise InvalidInput(f"the path {word!r} has a line break in it", hint="move the file")
