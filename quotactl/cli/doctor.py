"""`quotactl doctor`: whether all is well."""

from __future__ import annotations

from quotactl.cli.invocation import invocation


def doctor() -> int:
    """Check the ledger, its file and its host. Changes nothing; exits with 8 if something is bad.

    Looks at access, the file system, room, SQLite's version, damage, the sums and the audit's
    chain (as `db verify`), days that wait to be closed, clocks, and who is notified. A note
    is worth knowing and no failure. On a large ledger it takes as long as `db verify`.

    Examples:
      quotactl doctor
      quotactl doctor -q || mail -s 'quota ledger' ops@example.com </dev/null
      quotactl doctor --json | jq '.findings[] | select(.ok | not)'
    """
    from quotactl.cli.outcome import show
    from quotactl.operations.acts import system_clock
    from quotactl.policy.window import to_ms
    from quotactl.reports.doctor import diagnose

    this = invocation()
    found = diagnose(this.db, to_ms(system_clock()))
    if this.output in {"json", "jsonl"}:
        this.emit(found)
    else:
        rows = [
            {**f.to_dict(), "result": "ok" if f.severity == "fine" else f.severity}
            for f in found.findings
        ]
        show(rows, ["check", "result", "detail", "hint"])
    bad = [finding.check for finding in found.findings if not finding.ok]
    this.say(f"bad: {', '.join(bad)}" if bad else "all is well")
    return 8 if bad else 0
