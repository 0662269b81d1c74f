"""What the documents are made from, and held against."""
