"""Requests of routine: decided by what this process knows, and counted in one statement.

These are methods of `SqliteEngine`, and nearly all that a gateway does: a request of routine
takes a plan, a turn in the queue, and one statement that counts nothing unless all is still as
the plan had it. Where it is not, what is known is looked up anew in the same turn; where that
is no matter of routine, the answer is None, and the caller decides in a transaction of `door`.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from quotactl.engines.sqlite.files import identity_of
from quotactl.engines.sqlite.session import may_be_met
from quotactl.ledger.loaded import Known

if TYPE_CHECKING:
    from quotactl.engines.sqlite.door import SqliteEngine
    from quotactl.engines.sqlite.queue import Turnstile
    from quotactl.engines.sqlite.session import Session
    from quotactl.ledger.loaded import Asked, Counted, Counting, Plan, Wanted

DENIED_MAX = 10_000


def stands(
    engine: SqliteEngine, user: str, resource: str, amount: int, now_ms: int, plan: Plan
) -> Counting | None:
    """What `plan` makes of what is known, if nobody has written since."""
    session = engine._session
    if session.shared or plan(session.known, user, resource, amount, None, now_ms) is None:
        return None
    engine._claim()
    try:
        if (
            session is not engine._session
            or session.connection.in_transaction
            or engine._access == "frozen"
            or identity_of(engine._file) != engine._identity
            or session.version() != session.known.version
        ):
            return None
        # Another thread may have written, and known more, since it was asked for.
        return plan(session.known, user, resource, amount, None, now_ms)
    except Exception as failure:
        engine._tell(failure)
        raise
    finally:
        engine._lock.release()


def count(
    engine: SqliteEngine,
    user: str,
    resource: str,
    amount: int,
    key: str | None,
    now_ms: int,
    plan: Plan,
) -> Counted | None:
    """Count what `plan` decides by what is known."""
    session = engine._session
    known = session.known
    ahead: Counting | None = plan(known, user, resource, amount, key, now_ms)
    if ahead is None and not may_be_met(known, user, resource, shared=session.shared):
        return None
    if engine._pid != os.getpid() or not engine._lock.acquire(False):
        engine._claim()
    try:
        if session is not engine._session:
            # Another thread has gone over to another file.
            return None
        wanted = (user, resource, amount, key, now_ms)
        if ahead is None:
            # Before the turn, for which others may wait.
            met = _meet(session, wanted, plan)
            if met is None:
                return None
            known, ahead = met
        queue = engine._queue
        if queue is None:
            if engine._access != "rw":
                return None
            queue = engine._queue = engine._turnstile()
        unsettled = session.unsettled
        try:
            at_once = queue.enter_at_once()
            if at_once:
                counted = _in_turn(engine, session, wanted, plan, known, ahead)
        finally:
            # Also where a signal broke it off before it was known that the turn had come.
            queue.leave()
        if not at_once:
            session.shared = True
            if (user, resource) in engine._denied:
                # Probably so again, which others' writing keeps from being known.
                return None
            counted = _in_line(engine, session, queue, wanted, plan, known, ahead)
        if counted is not None and counted[1] is not None and session.wants_full:
            if counted[3]:
                # Nothing more was taken.
                session.unsettled = unsettled
                engine._settle()
            elif session.wal is not None:
                # It is told when it is on the disk, for which COMMIT did not wait.
                engine._to_disk(session.wal)
        return counted
    except Exception as failure:
        engine._tell(failure)
        raise
    finally:
        engine._lock.release()


def _meet(session: Session, wanted: Wanted, plan: Plan) -> tuple[Known, Counting] | None:
    """Plan for somebody of whom too little is known, outside of a transaction."""
    user, resource, _, _, now_ms = wanted
    if session.connection.in_transaction:
        # A signal broke off the end of the one before.
        session.roll_back()
    known = session.look_up(user, resource, now_ms)
    ahead = None if known is None else plan(known, *wanted)
    return None if known is None or ahead is None else (known, ahead)


def _in_turn(
    engine: SqliteEngine,
    session: Session,
    wanted: Wanted,
    plan: Plan,
    known: Known,
    ahead: Counting,
) -> Counted | None:
    """Count a request; `ahead` is what was planned by what was known of the session's file."""
    if engine._access != "rw" or not engine._is_same():
        return None
    _, _, amount, key, now_ms = wanted
    refusing = ahead[2] is not None
    try:
        _get_ready(engine, session, refusing)
        if not session.shared:
            if refusing:
                counted = session.refuse(known, ahead, amount, now_ms)
            else:
                counted = session.take(known, ahead, amount, key, now_ms)
            if counted is not None:
                return counted
    except BaseException as failure:
        _end_badly(engine, session, failure, committing=True)
        raise
    return _anew(engine, session, wanted, plan, refusing)


def _in_line(
    engine: SqliteEngine,
    session: Session,
    queue: Turnstile,
    wanted: Wanted,
    plan: Plan,
    known: Known,
    ahead: Counting,
) -> Counted | None:
    """The same for one of those who wait for each other: what can be done before the turn or
    after it is not done in it."""
    if engine._access != "rw":
        return None
    _, _, amount, key, now_ms = wanted
    refusing = ahead[2] is not None
    deadline = time.monotonic() + engine._timeout_s
    if session.wal is None and session.wants_full:
        # From now on nobody waits in turn for the disk; as before where that can't be.
        with suppress(OSError):
            engine._wal()
    try:
        _get_ready(engine, session, refusing)
        if not refusing:
            statement = session.to_take_next(known, ahead, amount, key, now_ms)
            try:
                if not queue.run(partial(_execute, engine, session, *statement), deadline):
                    return None
                return session.took_next(ahead)
            except sqlite3.IntegrityError:
                # The key is known, there is no room, or others have changed more than counts.
                if key is not None:
                    before = session.before(known, ahead[0], amount, key)
                    if before is not None:
                        return before
    except BaseException as failure:
        # Also where it was broken off under way: what is known may be counted or not.
        _end_badly(engine, session, failure, committing=True)
        raise
    try:
        return queue.run(partial(_anew, engine, session, wanted, plan, refusing), deadline)
    except BaseException:
        session.known = Known()
        raise


def _get_ready(engine: SqliteEngine, session: Session, refusing: bool) -> None:
    if session.connection.in_transaction:
        # A signal broke off the end of the one before.
        session.roll_back()
    if not session.ready:
        session.get_ready()
    # To take is the rule, and decides how durable it is to be.
    full = session.wants_full and not refusing and session.wal is None
    if full != engine._synced_full:
        engine._sync(full=full)
    if not full and not refusing:
        session.unsettled = True


def _execute(
    engine: SqliteEngine, session: Session, statement: str, values: tuple[object, ...]
) -> bool:
    """Run one statement in turn; False if the file is another one by now."""
    if not engine._is_same():
        return False
    session.execute(statement, values)
    return True


def _anew(
    engine: SqliteEngine, session: Session, wanted: Wanted, plan: Plan, refusing: bool
) -> Counted | None:
    """Look up in turn what is not known any more, and count; None if that is not enough."""
    if not engine._is_same():
        return None
    committing = False
    try:
        session.execute("BEGIN IMMEDIATE")
        counted = session.count_anew(wanted, plan, refusing)
        if counted is None or counted[3]:
            session.execute("ROLLBACK")
            return counted
        committing = True
        session.execute("COMMIT")
        return counted
    except BaseException as failure:
        _end_badly(engine, session, failure, committing=committing)
        raise


def _end_badly(
    engine: SqliteEngine, session: Session, failure: BaseException, *, committing: bool
) -> None:
    """Forget what may not be so, and say so where it is not known whether it was kept."""
    session.known = Known()
    if session.connection.in_transaction:
        session.roll_back()
    known_as = engine._of_commit(failure) if committing else failure
    if known_as is not failure:
        raise known_as from failure


# ---- a guess, on which nothing rests


def expects_denial(engine: SqliteEngine, asked: Asked) -> bool:
    """Whether this user was denied this resource lately: most of them ask again at once."""
    return bool(engine._denied) and asked[:2] in engine._denied


def learn(engine: SqliteEngine, asked: Asked, *, denied: bool) -> None:
    """Remember for that guess how a request was decided."""
    if not denied:
        engine._denied.discard(asked[:2])
        return
    if len(engine._denied) >= DENIED_MAX:
        engine._denied.clear()
    engine._denied.add(asked[:2])
