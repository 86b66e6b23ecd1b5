"""What the README shows is what the program prints.

Every ```console block is run, in the README's order and in one folder, on a
terminal of 80 columns, and compared line by line. Moments, hashes and paths of
scratch folders differ from run to run; both sides are blurred for these.

Run as a script, it writes what was really printed back into the README:
`python tests/cli/test_readme.py`.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLURRED = (
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z| [A-Z]{2,5}\b)"), "<moment>"),
    (re.compile(r"\b\d{4}-\d\d-\d\d\b"), "<day>"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "<hash>"),
    (re.compile(r'("retry_after_s": |retry_after_s +)\d+'), r"\1<seconds>"),
    (re.compile(r"(/[\w.-]+)+/(ledger\.db|quotactl)\b"), r"<scratch>/\2"),
    (re.compile(r"(reset_at|expires_at|ends_at|audit_hash) .*"), r"\1 <moment>"),
    # Rates depend on the hour of the day, and when something passes on the moment.
    (re.compile(r"^( *\d+ +\d+ +\d+) +\d+ +\d+$", re.MULTILINE), r"\1 <rates>"),
    (re.compile(r"\(in [\dhms]+\)"), "(in <span>)"),
    (re.compile(r"\b\d\d:\d\d(:\d\d)?\b"), "<clock>"),
    (re.compile(r"[─━]{3,}"), "<line>"),
    (re.compile(r" +"), " "),
)


def sessions(text: str) -> list[list[tuple[str, list[str]]]]:
    """The blocks as lists of (command, lines printed)."""
    blocks = []
    for block in BLOCK.findall(text):
        steps: list[tuple[str, list[str]]] = []
        for line in block.splitlines():
            if line.startswith("$ "):
                steps.append((line[2:], []))
            elif steps[-1][0].endswith("\\") or unfinished(steps[-1][0]):
                steps[-1] = (steps[-1][0] + "\n" + line, [])
            else:
                steps[-1][1].append(line)
        blocks.append(steps)
    return blocks


def unfinished(command: str) -> bool:
    """Whether a here-document has begun and not ended."""
    return "<<END" in command and not command.endswith("\nEND")


def on_a_terminal(command: str, folder: Path) -> list[str]:
    """What one shell command prints on a terminal of 80 columns."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 80, 0, 0))
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "TERM": "xterm",
        "NO_COLOR": "1",
        "USER": "ops",
        "SUDO_USER": "ops",
        "QUOTACTL_DB": "ledger.db",
    }
    with subprocess.Popen(
        ["/bin/sh", "-c", command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=terminal,
    ) as process:
        os.close(terminal)
        printed = b""
        while True:
            try:
                part = os.read(controller, 65536)
            except OSError:  # how Linux says that the other side is closed
                break
            if not part:
                break
            printed += part
        process.wait(timeout=60)
    os.close(controller)
    return [line.rstrip() for line in printed.decode().replace("\r\n", "\n").splitlines()]


def blurred(lines: list[str]) -> list[str]:
    text = "\n".join(line.rstrip() for line in lines)
    for pattern, replacement in BLURRED:
        text = pattern.sub(replacement, text)
    return [line for line in text.splitlines() if line.strip()]


def test_the_readme_shows_what_is_really_printed(tmp_path: Path) -> None:
    blocks = sessions(README.read_text(encoding="utf-8"))
    assert sum(len(block) for block in blocks) > 20
    for block in blocks:
        for command, shown in block:
            printed = on_a_terminal(command, tmp_path)
            assert blurred(printed) == blurred(shown), command


@pytest.mark.parametrize("start", ["python3 -m venv .venv && .venv/bin/pip install", "uv "])
def test_the_readme_begins_with_the_commands_that_set_everything_up(start: str) -> None:
    top = README.read_text(encoding="utf-8").split("\n## ", 1)[0]
    assert start in top


def rewrite() -> None:
    """Put into the README what was really printed."""
    text = README.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        for block in BLOCK.findall(text):
            lines = []
            for command, _ in sessions(f"```console\n{block}```\n")[0]:
                lines += [f"$ {command}", *on_a_terminal(command, Path(folder))]
            # Where it happens to be run is nobody's business.
            lines = [
                line.replace(folder, "/srv/quota").replace(
                    str(Path(sys.executable).parent), "/srv/quota/.venv/bin"
                )
                for line in lines
            ]
            text = text.replace(block, "\n".join(lines) + "\n", 1)
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    rewrite()
