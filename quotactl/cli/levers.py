"""Parameters that say which throttle is meant, shared by what puts it on and what foresees it."""

from __future__ import annotations

from typing import Annotated

from quotactl.cli.declared import Option

Name = Annotated[str | None, Option("--name", metavar="NAME", help="A name to lift it by.")]
Deny = Annotated[bool, Option("--deny", help="Nothing at all, grants included.")]
Cap = Annotated[
    str | None, Option("--cap", metavar="N/PERIOD", help="At most so many each: 3/day.")
]
Total = Annotated[
    str | None,
    Option("--total", metavar="N/PERIOD", help="At most so many for all together: 40k/hour."),
]
Scale = Annotated[str | None, Option("--scale", metavar="P%", help="A part of every limit: 25%.")]
Floor = Annotated[str | None, Option("--floor", metavar="N", help="With --scale: not below this.")]
StartsAt = Annotated[
    str | None, Option("--at", metavar="TIME", help="When it begins: 18:00; else now.")
]
Ramp = Annotated[
    str | None,
    Option("--ramp", metavar="P%,…", help="In steps: 10%,25%,50%,100% of its number."),
]
Every = Annotated[
    str | None, Option("--every", metavar="DURATION", help="How long a step lasts: 30m.")
]
FreezeGrants = Annotated[bool, Option("--freeze-grants", help="Grants don't pay meanwhile.")]
IncludeProtected = Annotated[bool, Option("--include-protected", help="Spare nobody.")]
Replace = Annotated[
    bool, Option("--replace", help="In place of one for the same with another value.")
]
Message = Annotated[
    str | None,
    Option("--message", metavar="TEXT", help="What end users are told when it denies them."),
]
AllowImpact = Annotated[
    bool, Option("--allow-impact", help="Also where users of a protected tier are hit.")
]
