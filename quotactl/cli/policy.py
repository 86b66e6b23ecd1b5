"""`quotactl policy`: tiers, resources and limits as one file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from quotactl.cli.declared import Noun, Option
from quotactl.cli.invocation import invocation
from quotactl.cli.options import DryRun, Reason, Ticket
from quotactl.cli.outcome import opened, rehearsed, show

if TYPE_CHECKING:
    from quotactl.operations.apply import Applied
    from quotactl.policy.plan import Change

app = Noun()

File = Annotated[str, Option("--file", "-f", metavar="FILE|-", help="The policy file, TOML.")]


@app.command("export")
def export() -> None:
    """Write the policy in force as a file that `policy apply` takes.

    Examples:
      quotactl policy export > policy.toml
      quotactl policy export --json
    """
    this = invocation()
    with opened() as q:
        text = q.admin.export_policy()
    if this.format in {"json", "jsonl"}:
        import tomllib

        this.emit(tomllib.loads(text))
    else:
        this.write(text)


@app.command("diff")
def diff(
    file: File,
    exit_code: Annotated[
        bool, Option("--exit-code", help="Exit with 8 if there are differences.")
    ] = False,
) -> int:
    """Show what applying a file would change.

    Examples:
      quotactl policy diff -f policy.toml
      quotactl policy diff -f policy.toml --exit-code --quiet || echo drifted
    """
    text = _read(file)
    with opened() as q:
        seen = q.admin.diff_policy(text)
    _show(seen)
    if not seen.changes:
        invocation().say("the policy is as the file says")
    return 8 if exit_code and seen.changes else 0


@app.command("apply")
def apply(
    file: File, dry_run: DryRun = False, reason: Reason = None, ticket: Ticket = None
) -> None:
    """Bring a file into force, in one transaction, and show what changed.

    A file is complete: what it leaves out is removed, after asking. Applying it twice
    is the same as once.

    Examples:
      quotactl policy apply -f policy.toml --dry-run
      quotactl policy apply -f policy.toml --reason 'spring prices' --ticket Q-12
      quotactl policy apply -f policy.toml --yes --quiet     # from a deployment
    """
    from quotactl.operations.apply import Applied

    this = invocation()
    text = _read(file)
    shown = False

    def approve(changes: tuple[Change, ...]) -> None:
        nonlocal shown
        removed = [change.what for change in changes if change.change == "remove"]
        if not removed:
            return
        if this.output == "table" and not this.yes:
            # A person decides by what they see.
            _show(Applied(changes, applied=False))
            shown = True
        this.confirm(f"Remove {', '.join(removed)}?")

    with opened() as q:
        # Whatever would be refused is refused before anybody is asked.
        planned = rehearsed(q).apply_policy(text, reason=reason, ticket=ticket)
        if dry_run or not planned.changes:
            result = Applied(planned.changes, applied=False)
        else:
            result = q.admin.apply_policy(text, approve=approve, reason=reason, ticket=ticket)
        if not shown:
            _show(result)
        count = f"{len(result.changes)} change{'s' if len(result.changes) != 1 else ''}"
        if not result.changes:
            this.say("the policy is as the file says already")
        else:
            this.say(f"dry run: {count} to make" if dry_run else f"{count} made")


def _read(file: str) -> str:
    from quotactl.cli.files import read_text

    return read_text(file, "policy file")


def _show(applied: Applied) -> None:
    this = invocation()
    if this.output in {"json", "jsonl"}:
        this.emit(applied)
    elif applied.changes or this.output != "table":
        show(applied.changes, ["change", "what", "before", "after"])
