"""A generator as one page of figures and one table: `page`, `table`, and the `portrait` that both
read.
"""
