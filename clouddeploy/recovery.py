"""Closes intents that a kill left open although their result is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clouddeploy.journal import Journal
    from clouddeploy.state import State


def settle(journal: Journal, state: State) -> None:
    """Closes each open intent whose result the state has; the kill came between the two writes.

    An intent that stays open is a call that may have happened. Repeating it is safe: same name, same token, and a
    provider's `create` finds what the first call made.
    """
    for intent in journal.open_intents():
        record = state.resources.get(intent.node)
        if intent.operation == "delete" and record is None:
            journal.done("delete", node=intent.node, name=intent.name)
        elif intent.operation != "delete" and record is not None:
            journal.done(intent.operation, node=intent.node, name=intent.name, id=record.ref.id)


def close_all(journal: Journal) -> None:
    """Closes every intent once the clouds have said that nothing of the deployment is left."""
    for intent in journal.open_intents():
        journal.failed(intent.operation, node=intent.node, name=intent.name, error="destroyed")
