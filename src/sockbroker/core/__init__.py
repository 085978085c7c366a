"""What the broker knows and decides, as functions from values to values.

A module belongs here if it would run the same on any operating system: it reads no clock, file,
socket or database, and says what is right, never does it. That is what lets its tests be tables.
"""
