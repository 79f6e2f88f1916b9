"""Tables, for a page, for a terminal and as CSV."""
