"""What recalls keep for the next ones: whole answers, and memories as they were shown."""
