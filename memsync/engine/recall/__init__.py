"""Recall: from a question to its answer, in stages that may each fail without failing the
answer.
"""

from memsync.engine.recall.breakers import Breakers
from memsync.engine.recall.differing import Differing
from memsync.engine.recall.embedding import Embedding, Provider
from memsync.engine.recall.explaining import Explanations
from memsync.engine.recall.kept.results import Results
from memsync.engine.recall.kept.shown import Shown
from memsync.engine.recall.pipeline import Following, MeasuredIndex, Recall
from memsync.engine.recall.reasoning import Reasoning
from memsync.engine.recall.reembedding import Reembedding
from memsync.engine.recall.report import said_of
from memsync.engine.recall.uses import Uses

__all__ = [
    "Breakers", "Differing", "Embedding", "Explanations", "Following", "MeasuredIndex", "Provider",
    "Reasoning", "Recall", "Reembedding", "Results", "Shown", "Uses", "said_of",
]  # fmt: skip
