"""The loaded scopes, searched in memory: FAISS for vectors, postings for words, columns for the
rest.
"""

from memsync.adapters.hot_index.index import FaissHotIndex

__all__ = ["FaissHotIndex"]
