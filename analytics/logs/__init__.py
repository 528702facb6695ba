"""What a log says: normalised, compared with the last passing one, and cut down to the lines that matter.

Everything here is pure and works on the log as a stream, in memory that does not grow with it. analyse.py joins the
parts: a log reader feeds it bytes and gets what Evidence holds.
"""
