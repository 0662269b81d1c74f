"""What a question finds among the memories of a scope, and in what order: pure functions.

Must not read a clock: "now" comes with the question.
"""
