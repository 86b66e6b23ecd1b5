"""Parameters that say which throttle is meant, shared by what puts it on and what foresees it."""

from __future__ import annotations

from typing import Annotated

import typer

Name = Annotated[str | None, typer.Option("--name", metavar="NAME", help="A name to lift it by.")]
Deny = Annotated[bool, typer.Option("--deny", help="Nothing at all, grants included.")]
Cap = Annotated[
    str | None, typer.Option("--cap", metavar="N/PERIOD", help="At most so many each: 3/day.")
]
Total = Annotated[
    str | None,
    typer.Option("--total", metavar="N/PERIOD", help="At most so many for all together: 40k/hour."),
]
Scale = Annotated[
    str | None, typer.Option("--scale", metavar="P%", help="A part of every limit: 25%.")
]
Floor = Annotated[
    str | None, typer.Option("--floor", metavar="N", help="With --scale: not below this.")
]
StartsAt = Annotated[
    str | None, typer.Option("--at", metavar="TIME", help="When it begins: 18:00; else now.")
]
Ramp = Annotated[
    str | None,
    typer.Option("--ramp", metavar="P%,…", help="In steps: 10%,25%,50%,100% of its number."),
]
Every = Annotated[
    str | None, typer.Option("--every", metavar="DURATION", help="How long a step lasts: 30m.")
]
FreezeGrants = Annotated[bool, typer.Option("--freeze-grants", help="Grants don't pay meanwhile.")]
IncludeProtected = Annotated[bool, typer.Option("--include-protected", help="Spare nobody.")]
Replace = Annotated[
    bool, typer.Option("--replace", help="In place of one for the same with another value.")
]
Message = Annotated[
    str | None,
    typer.Option("--message", metavar="TEXT", help="What end users are told when it denies them."),
]
AllowImpact = Annotated[
    bool, typer.Option("--allow-impact", help="Also where users of a protected tier are hit.")
]
