"""The systems of four published reports: their settings, their protocols, and each of them run again."""
