"""What a question is after, told from its words alone: how recent, and of what kind. Pure."""

from __future__ import annotations

import re

from memsync.core.recall.lexical import fold, is_telling

# "strong": the state of things now; "some": the last days or weeks; otherwise "none".
_STRONG = re.compile(
    r"\b(latest|newest|most recent|just now|right now|now|today|tonight|currently|current"
    r"|this (morning|afternoon|evening)|yesterday|last night|at the moment|as of)\b"
)
_SOME = re.compile(
    r"\b(recent|recently|lately|these days|nowadays|so far|(this|last|past) (week|weekend|few days)"
    r"|still|anymore)\b"
)
_KINDS = (
    ("temporal", re.compile(r"\b(when|what (time|day|date|month|year)|how (long|often)|since)\b")),
    ("count", re.compile(r"\bhow (many|much)\b")),
    ("person", re.compile(r"\b(who|whom|whose)\b")),
    ("place", re.compile(r"\bwhere\b")),
    ("reason", re.compile(r"\b(why|how come)\b")),
    ("preference", re.compile(r"\b(prefer|prefers|preferred|favou?rite|likes?|loves?|enjoys?)\b")),
)
_ASSISTANT = re.compile(r"\b(assistant|you|your)\b")
# Not any "when": "What did she say when I was ill?" asks for something else.
_AUXILIARY = "do|does|did|is|are|was|were|will|would|has|have|had|can|could|should|shall|may|might"
_WHEN = re.compile(
    rf"(^\W*(since|until|by) when\b|\bwhen ({_AUXILIARY})\b|^\W*when\W*$|\bwhen's\b"
    r"|\b(tell|remember|know|sure|ask|asked) (me |her |him |us |them )?when\b"
    r"|\b(what (time|day|date|week|month|year)|how long ago)\b)"
)


def asks_when(question: str) -> bool:
    """Whether the answer is a moment."""
    return bool(_WHEN.search(fold(question)))


def asks_assistant(question: str) -> bool:
    """Whether it is after what the assistant said."""
    return bool(_ASSISTANT.search(fold(question)))


def recency_intent(question: str) -> str:
    """`strong`, `some` or `none`: how much the question asks for what is recent."""
    folded = fold(question)
    if _STRONG.search(folded):
        return "strong"
    return "some" if _SOME.search(folded) else "none"


def query_intent(question: str) -> str:
    """One of browse (nothing telling in it), recent, temporal, count, person, place, reason,
    preference, factual."""
    if not is_telling(question):
        return "browse"
    folded = fold(question)
    if _STRONG.search(folded):
        return "recent"
    return next((name for name, pattern in _KINDS if pattern.search(folded)), "factual")
