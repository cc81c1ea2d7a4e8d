"""Windowed state folded from streams; rebuildable, never the truth about money."""
