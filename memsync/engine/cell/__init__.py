"""Who belongs to the cell, what each member has, and what may be answered as fresh."""
