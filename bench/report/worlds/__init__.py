"""The small worlds as one page of figures and tables: `page`, `table`, and what was `played`."""
