"""Looking after the streams of a cell: that they are there, led, this cell's own and whole."""
