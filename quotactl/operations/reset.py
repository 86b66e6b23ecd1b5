"""One user's fresh window, through correcting entries."""

from __future__ import annotations

from quotactl.ledger.views import Outcome
from quotactl.operations.acts import Acts
from quotactl.operations.batch import Batch


class Reset(Acts):
    """The act of giving one user fresh windows."""

    def reset_user(
        self,
        user: str,
        *,
        resource: str | None = None,
        reason: str | None = None,
        ticket: str | None = None,
    ) -> Outcome:
        """Let all windows of a user that are open now start again at 0.

        For one resource, or for all that the user has used. What was consumed
        before can no longer be refunded into them.
        """
        with self._act(reason=reason, ticket=ticket, why_needed="a reset") as act:
            row = act.find_user(user)
            resources = (
                [act.resource(resource)]
                if resource is not None
                else list(act.book.policy.resources.values())
            )
            batch = Batch(act.book)
            freed = {}
            for what in resources:
                units = batch.reset(user, what, act.now_ms)
                if units:
                    freed[what.name] = units
            item = {"user": user, "freed": freed}
            if not freed:
                return Outcome(False, f"{user} has used nothing in the open windows", item)
            batch.store(act.book)
            act.record("reset.user", user_id=row["id"], subject=resource, before=freed)
            units_text = ", ".join(f"{n} {name}" for name, n in freed.items())
            return Outcome(True, f"{user} starts afresh: {units_text} taken off", item)
