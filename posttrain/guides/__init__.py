"""Figures and numbers of the guides: the pages for those who teach with the book."""
