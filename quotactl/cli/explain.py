"""`quotactl explain`: why a request is decided as it is, now or at a time that is past."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from quotactl.cli.declared import Option
from quotactl.cli.invocation import invocation
from quotactl.cli.options import ResourceName, User
from quotactl.cli.outcome import opened, person_is_watching

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from quotactl.policy.model import Rule
    from quotactl.reports.explain import EnforcementLink, Explanation, ThrottleLink, WindowLink

_COLUMNS = ["step", "what", "value", "why"]


def explain(
    user: User,
    resource: ResourceName,
    amount: Annotated[
        str | None, Option("--amount", metavar="N", help="How many units: 3, 40k; else 1.")
    ] = None,
    at: Annotated[
        str | None,
        Option(
            "--at",
            metavar="TIME",
            help="Else now: 09:00 (the last one), 'yesterday 18:00', 2025-03-28T09:00:00Z.",
        ),
    ] = None,
) -> None:
    """Say why a request is decided as it is, and when it would pass; take nothing.

    Every rule that could have had a say: the tier's limit, overrides, blocks, each throttle
    and why it holds or not, grants, and the windows with what is used. Of a time that is
    past it tells what held then, as far as the entries of then are kept. Exits with 0
    whatever the decision.

    Examples:
      quotactl explain ada image
      quotactl explain ada image --amount 4 --at 'yesterday 18:00'
      quotactl explain ada image --at 2025-03-28T09:00:00Z --json | jq .decision
    """
    from quotactl.policy.notation import parse_amount

    this = invocation()
    units = 1 if amount is None else parse_amount(amount)
    with opened() as q:
        found = q.explain(user=user, resource=resource, amount=units, at=at)
        if found.new_user and person_is_watching():
            then = "was not known then" if found.source == "history" else "is a new user"
            this.say(f"{found.user} {then}")
        if this.output in {"json", "jsonl"}:
            this.emit(found)
            return
        words = _Words(found)
        if this.output != "table":
            rows = [*words.chain(), *words.windows_as_steps(), words.decision_as_step()]
            this.emit(rows, columns=_COLUMNS)
            return
        title = f"{found.user}, {found.amount} {found.resource}, {words.instant(found.at)}"
        this.emit(list(words.chain()), columns=_COLUMNS, title=title)
        gap = "" if this.quiet and this.format is None else "\n"
        this.write(gap)
        columns = ["period", "used", "limit", "remaining", "reset_at", "rule"]
        rows = [words.window(link) for link in found.windows]
        this.emit(rows, columns=columns, title=f"windows, times in {found.zone}")
        if gap:
            from quotactl.render.text import neutralise

            this.write(f"\n{neutralise(words.verdict())}\n")


class _Words:
    """An explanation as a person reads it."""

    def __init__(self, found: Explanation) -> None:
        from quotactl.policy.window import calendar_of

        self.found = found
        self.calendar = calendar_of(found.zone)

    # ---- the chain

    def chain(self) -> Iterator[dict[str, Any]]:
        """Its links, in order, as rows of step, what, value and why."""
        found = self.found
        yield self._tier()
        for one in found.overrides:
            limit = "unlimited" if one.limit is None else str(one.limit)
            value = limit if one.period is None else f"{limit}/{one.period}"
            why = f"{self._until(one.expires_at)}{_said(one)}"
            yield self._row("override", one.id, value, why, self._decides("override", one.id))
        if not found.overrides:
            yield self._row("override")
        for block in found.blocks:
            why = f"{self._until(block.expires_at)}{_said(block)}"
            value = block.resource or "every resource"
            yield self._row("block", block.id, value, why, self._decides("block", block.id))
        if not found.blocks:
            yield self._row("block")
        for throttle in found.throttles:
            yield self._throttle(throttle)
        if not found.throttles:
            yield self._row("throttle")
        yield from self._enforcement()
        if (capacity := found.capacity) is not None:
            value = f"{capacity.limit}/{capacity.period}"
            why = _held(capacity.matched, capacity.why)
            yield self._row("capacity", found.resource, value, why, capacity.decides)
        for grant in found.grants:
            left = "?" if grant.remaining is None else grant.remaining
            why = f"{grant.why}{_said(grant)}"
            yield self._row("grant", grant.id, f"{left} of {grant.amount}", why, grant.decides)
        if not found.grants:
            yield self._row("grant")

    def _tier(self) -> dict[str, Any]:
        found = self.found
        tier = found.tier
        if found.unknown:
            return self._row("tier", tier.name or "not known", None, "; ".join(found.unknown))
        parts = []
        if tier.name is not None:
            own = {True: "the default tier", False: "set for this user", None: ""}
            parts = [own[tier.follows_default]]
        if tier.protected:
            parts.append("protected")
        if found.protected:
            parts.append("the user is protected")
        if tier.limit is not None and not any(one.rule.kind == "tier" for one in found.limits):
            parts.append("replaced by an override")
        name = tier.name or "none"
        why = ", ".join(filter(None, parts))
        decides = found.rule is not None and found.rule.kind == "tier"
        return self._row("tier", name, tier.limit or "not listed", why, decides)

    def _throttle(self, link: ThrottleLink) -> dict[str, Any]:
        value = link.kind if link.value is None else f"{link.kind} {link.value}"
        if link.floor is not None:
            value += f", floor {link.floor}"
        why = _held(link.matched, link.why)
        if link.effect:
            effects = []
            for one in link.effect:
                base = "unlimited" if one.base is None else one.base
                if one.shared:
                    effects.append(f"{one.limit}/{one.period} for all together")
                elif one.base == one.limit:
                    effects.append(f"{one.period} stays {base}")
                else:
                    effects.append(f"{one.period} {base} → {one.limit}")
            why += f": {', '.join(effects)}"
        if link.step is not None:
            why += f" (step {link.step.percent}%)"
        if link.matched and link.freeze_grants:
            why += ", grants frozen"
        return self._row("throttle", _named(link), value, f"{why}{_said(link)}", link.decides)

    def _enforcement(self) -> Iterator[dict[str, Any]]:
        links: tuple[EnforcementLink, ...] = self.found.enforcement
        if not any(link.matched or link.matched is None for link in links):
            yield self._row("enforcement", "on", None, "limits hold")
        for link in links:
            why = f"{_held(link.matched, link.why)}{_said(link)}"
            yield self._row("enforcement", link.id, link.mode, why, link.decides)

    def _row(
        self,
        step: str,
        what: object = "none",
        value: str | None = None,
        why: str | None = None,
        decides: bool = False,
    ) -> dict[str, Any]:
        if decides:
            why = f"decides: {why}" if why else "decides"
        return {"step": step, "what": str(what), "value": value, "why": why or None}

    def _decides(self, kind: str, id_: int) -> bool:
        rule = self.found.rule
        return rule is not None and (rule.kind, rule.id) == (kind, id_)

    # ---- windows

    def window(self, link: WindowLink) -> dict[str, Any]:
        """One window as a row; what is not known is a question mark, not a dash."""
        unlimited = "unlimited" if link.rule is not None else "?"
        local = link.reset_at.astimezone(self.calendar.zone)
        return {
            "period": f"{link.period}, all" if link.shared else link.period,
            "used": "?" if link.used is None else link.used,
            "limit": unlimited if link.limit is None else link.limit,
            "remaining": _remaining(link, unlimited),
            "reset_at": f"{local:%Y-%m-%d %H:%M}",
            "rule": "?" if link.rule is None else _rule(link.rule),
        }

    def windows_as_steps(self) -> Iterator[dict[str, Any]]:
        """The same in the columns of the chain."""
        for link in self.found.windows:
            row = self.window(link)
            value = f"{row['used']} of {row['limit']} used"
            why = f"by {row['rule']}, reset at {self.instant(link.reset_at)}"
            yield self._row("window", row["period"], value, why)

    # ---- what came out

    def decision_as_step(self) -> dict[str, Any]:
        """What was decided, in the columns of the chain."""
        decision = self.found.decision
        if decision is None:
            return self._row("decision", "not known", None, self.verdict())
        what = "allowed" if decision.allowed else "denied"
        return self._row("decision", what, decision.reason, self.verdict())

    def verdict(self) -> str:
        """The decision, the rule that made it, and when the request would pass."""
        found = self.found
        decision = found.decision
        if decision is None:
            causes = list(found.unknown)
            if found.pruned:
                kept = "" if found.kept_from is None else self.instant(found.kept_from)
                causes.append(f"pruned: {found.kept_by} keeps entries from {kept} on")
            return f"what was decided is not known: {'; '.join(causes)}"
        assert found.rule is not None
        text = f"{'allowed' if decision.allowed else 'denied'}: {decision.reason}"
        if decision.would_be is not None:
            text += f", though it would be {decision.would_be}"
        text += f"; decided by {_rule(found.rule)}"
        if decision.allowed:
            return text
        if found.passes_at is None:
            return f"{text}; the same request would never pass as things stand"
        from quotactl.policy.notation import duration_text

        minutes = max(1, -(-int((found.passes_at - found.at).total_seconds()) // 60))
        after = duration_text(minutes * 60_000)
        after = f"in {after}" if found.source == "now" else f"{after} later"
        return f"{text}; the same request would pass at {self.instant(found.passes_at)} ({after})"

    def instant(self, at: datetime) -> str:
        """A moment in the ledger's zone."""
        from quotactl.policy.notation import instant_text
        from quotactl.policy.window import to_ms

        return instant_text(to_ms(at), self.calendar)

    def _until(self, at: datetime | None) -> str:
        return "for good" if at is None else f"until {self.instant(at)}"


def _held(matched: bool | None, why: str) -> str:
    return f"no: {why}" if matched is False else why


def _said(link: Any) -> str:
    """Who did it and why."""
    words = [word for word in (link.reason, link.actor) if word]
    return f" ({', '.join(words)})" if words else ""


def _named(link: ThrottleLink) -> str:
    return f"{link.id} ({link.name})" if link.name else str(link.id)


def _rule(rule: Rule) -> str:
    if rule.kind == "resource":
        return f"capacity of {rule.name}"
    if rule.kind == "tier":
        return f"tier {rule.name}" if rule.name is not None else "no tier"
    return f"{rule.kind} {rule.id} ({rule.name})" if rule.name else f"{rule.kind} {rule.id}"


def _remaining(link: WindowLink, unlimited: str) -> int | str:
    if link.limit is None:
        return unlimited
    return "?" if link.remaining is None else link.remaining
