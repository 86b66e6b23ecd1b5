"""`quotactl init`: the one way in which a ledger comes to be."""

from __future__ import annotations

from typing import Annotated

from quotactl.cli.declared import Argument, Option
from quotactl.cli.invocation import invocation
from quotactl.cli.outcome import conclude


def init(
    path: Annotated[str, Argument(metavar="PATH", help="The file to make.")],
    name: Annotated[
        str | None, Option("--name", metavar="NAME", help="What it is called; else the file.")
    ] = None,
    zone: Annotated[
        str, Option("--zone", metavar="ZONE", help="Whose calendar days count.")
    ] = "UTC",
    group: Annotated[
        str | None, Option("--group", metavar="GROUP", help="Who may use it, too.")
    ] = None,
) -> None:
    """Make a new, empty ledger, readable by its owner alone, or with --group by that group.

    An existing file is never touched. The zone can't change after the first entry. A group
    needs to be able to write the folder, too: SQLite keeps files beside the ledger.

    Examples:
      quotactl init /var/lib/quota/prod.db --name prod --zone Europe/Rome
      quotactl init /var/lib/quota/prod.db --group quota
      quotactl init try.db
    """
    import shlex
    from pathlib import Path

    import quotactl
    from quotactl.engines.opening import ledger_path
    from quotactl.engines.sqlite.backup import shut_to_group
    from quotactl.ledger.views import Outcome

    this = invocation()
    # Before the name, which an empty path has none to give.
    ledger_path(path)
    with (
        quotactl.create(path, name=name, zone=zone, actor=this.actor, group=group) as q,
        q.engine.reading() as b,
    ):
        head = b.head
    item = {"path": str(Path(ledger_path(path)).absolute()), "name": head.name, "zone": head.zone}
    conclude(Outcome(True, f"ledger {head.name} made at {path}, days in {head.zone}", item))
    if group is not None and (shut := shut_to_group(ledger_path(path))):
        this.warn(f"{shut[0]}; {shut[1]}")
    this.say(
        "next:\n"
        f"  export QUOTACTL_DB={shlex.quote(item['path'])}\n"
        "  quotactl policy apply -f policy.toml     # or, step by step:\n"
        "  quotactl resource create image\n"
        "  quotactl tier create free\n"
        "  quotactl limit set free image=3/day"
    )
