"""The record of administrative acts: who, what, when and why, in a chain of hashes.

A row's hash covers the row before it, so that none can be edited, removed or
moved unnoticed. Free texts are covered by a salted digest and lie apart: when
one is removed, so that a person can be forgotten, the chain still holds, and
the digest gives nothing away.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from quotactl.ledger.loaded import Row

if TYPE_CHECKING:
    from quotactl.ledger.engine import Reading, Writing

GENESIS = "0" * 64
_FIELDS = (
    "id",
    "at_ms",
    "actor",
    "action",
    "user_id",
    "subject",
    "before",
    "after",
    "reason_digest",
    "ticket_digest",
)


def record(
    book: Writing,
    *,
    now_ms: int,
    actor: str,
    action: str,
    user_id: int | None = None,
    subject: str | None = None,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    reason: str | None = None,
    ticket: str | None = None,
) -> int:
    """Add one row, in the transaction of the act itself; returns its id.

    `before` and `after` hold no user's name: rows name users by id alone.
    """
    last = book.last_audit()
    audit_id, previous = (1, GENESIS) if last is None else (last[0] + 1, last[1])
    texts = {"reason": reason, "ticket": ticket}
    salts = {field: os.urandom(16).hex() for field, text in texts.items() if text is not None}
    row: Row = {
        "id": audit_id,
        "at_ms": now_ms,
        "actor": actor,
        "action": action,
        "user_id": user_id,
        "subject": subject,
        "before": _json(before),
        "after": _json(after),
        "reason_digest": _digest(salts, "reason", reason),
        "ticket_digest": _digest(salts, "ticket", ticket),
    }
    book.insert("audit", {**row, "hash": row_hash(previous, row)})
    for field, salt in salts.items():
        text = texts[field]
        book.insert(
            "audit_text", {"audit_id": audit_id, "field": field, "salt": salt, "text": text}
        )
    return audit_id


def row_hash(previous: str, row: Mapping[str, Any]) -> str:
    """SHA-256, in hex, over the hash before and the row's fields as canonical JSON."""
    fields = [row[field] for field in _FIELDS]
    content = json.dumps([previous, *fields], ensure_ascii=True, separators=(",", ":"))
    return _sha256(content.encode("ascii"))


def text_digest(salt: str, text: str) -> str:
    """SHA-256, in hex, over a salt and a free text."""
    return _sha256(f"{salt}\n{text}".encode())


def _sha256(content: bytes) -> str:
    # Here, so that whoever only lists and reports need not load OpenSSL.
    import hashlib

    return hashlib.sha256(content).hexdigest()


def broken_links(book: Reading) -> Iterator[str]:
    """Every place where the chain does not hold, as one line each."""
    previous, expected_id = GENESIS, 1
    texts = {(t["audit_id"], t["field"]): t for t in book.rows("audit_text", order="audit_id")}
    for row in book.audit_rows():
        if row["id"] != expected_id:
            yield f"audit: row {expected_id} is missing"
        if row["hash"] != row_hash(previous, row):
            yield f"audit: row {row['id']} does not match its hash"
        for field in ("reason", "ticket"):
            text = texts.get((row["id"], field))
            if text is not None and row[f"{field}_digest"] != text_digest(
                text["salt"], text["text"]
            ):
                yield f"audit: the {field} of row {row['id']} does not match its digest"
        previous, expected_id = row["hash"], row["id"] + 1


def _digest(salts: Mapping[str, str], field: str, text: str | None) -> str | None:
    return None if text is None else text_digest(salts[field], text)


def _json(value: Mapping[str, Any] | None) -> str | None:
    if value is None:
        return None
    return json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
