"""Figures, drawn with matplotlib and written as SVG for light and dark pages, or as PNG."""
