"""What runs beside a server: from the counts of batches to tables and shares that it can use in the next one.

Must not know how plans are made, read or judged, what anything costs, or which server it runs beside; it imports numpy
and numba alone, so that a server need not wait for more.
"""
