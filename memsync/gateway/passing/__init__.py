"""Passing requests on to the peers of a cell: what a gateway does behind the HTTP app."""
