"""Recall: from a question to its answer, in stages that may each fail without failing the
answer.
"""

from memsync.engine.recall.embedding import Embedding
from memsync.engine.recall.pipeline import MeasuredIndex, Recall

__all__ = ["Embedding", "MeasuredIndex", "Recall"]
