"""Autograding: from a folder of submissions to marks, feedback pages and a table.

Knows nothing of any topic: exercises are notebooks in nbgrader's format.
"""
