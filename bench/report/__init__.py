"""Tables, figures and the HTML page, all derived from stored records.

``curves``, ``frames`` and ``strength`` turn records into curves and data frames, ``tables`` those
into text tables; ``markdown``, ``html`` and ``figures`` render them; ``write`` and ``export`` put
files into a folder. All but the last two are pure.
"""
