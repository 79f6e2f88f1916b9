"""Results as people read them: figures, tables and one self-contained page."""
