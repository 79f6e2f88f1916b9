"""The systems of four published papers: their settings, their protocols, and each of them run again."""
